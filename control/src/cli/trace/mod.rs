//! `maclane trace`: frames as they pass, with the way that each took.

mod frame;
mod pcap;

use std::path::Path;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use self::pcap::Pcap;
use super::{
    args::TraceArgs,
    output::{Output, understand},
    table,
};
use crate::{
    api::client::{Client, quote},
    error::{Error, ErrorKind},
    model::{TraceSpec, TraceView},
};

/// How wide the columns are while nobody knows what comes: time, VLAN, source, destination, frame.
const WIDTHS: [usize; 5] = [15, 4, 17, 17, 52];

const HEADER: [&str; 6] = ["TIME", "VLAN", "SOURCE", "DESTINATION", "FRAME", "PATH"];

/// Between two places of a path.
const ARROW: &str = " → ";

/// A line of the stream.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Missed { missed: u64 },
    Frame(Box<TraceView>),
}

/// Where frames go.
struct Sink {
    output: Output,
    pcap: Option<Pcap>,
    /// Lines are written, too.
    shows: bool,
    frames: u64,
    missed: u64,
}

/// Shows frames until Ctrl-C, or until there were as many as were asked for.
pub(super) async fn run(client: &Client, output: Output, args: TraceArgs) -> anyhow::Result<()> {
    let to_stdout = args.pcap.as_deref() == Some(Path::new("-"));
    // Before anything is asked for: what cannot be written needs no frames.
    let pcap = args.pcap.as_deref().map(Pcap::create).transpose()?;
    let mut sink = Sink { output, pcap, shows: !to_stdout, frames: 0, missed: 0 };
    let ended = tokio::select! {
        ended = follow(client, &mut sink, &args) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    sink.end();
    ended
}

async fn follow(client: &Client, sink: &mut Sink, args: &TraceArgs) -> anyhow::Result<()> {
    let mut lines = client.lines(&path(&args.spec())).await?;
    sink.begin()?;
    while let Some(line) = lines.next().await {
        match understand(serde_json::from_str(&line)?)? {
            Line::Frame(frame) => sink.take(&frame, &line)?,
            Line::Missed { missed } => sink.miss(missed),
        }
        if args.count.is_some_and(|count| sink.frames >= count) {
            return Ok(());
        }
    }
    let ended =
        "the maclane daemon has stopped, and tells no more frames; trace again when it runs";
    Err(Error::new(ErrorKind::NoDaemon, ended).into())
}

/// Where a trace is asked for.
fn path(spec: &TraceSpec) -> String {
    let number = |value: Option<u16>| value.map(|value| value.to_string());
    let parameters = [
        ("parent", spec.parent.clone()),
        ("child", spec.child.clone()),
        ("mac", spec.mac.map(|mac| mac.to_string())),
        ("vlan", number(spec.vlan)),
        ("reason", spec.reason.clone()),
        ("drops", spec.drops.then(|| "true".into())),
        ("snaplen", number(spec.snaplen)),
    ];
    let mut path = String::from("/v1/trace?");
    for (name, value) in parameters {
        if let Some(value) = value {
            path = path + name + "=" + &quote(&value) + "&";
        }
    }
    path.pop();
    path
}

impl Sink {
    fn begin(&self) -> anyhow::Result<()> {
        if self.shows && !self.output.is_json() {
            self.output.text(&in_columns(HEADER.map(String::from)))?;
        }
        Ok(())
    }

    fn take(&mut self, view: &TraceView, line: &str) -> anyhow::Result<()> {
        self.frames += 1;
        let bytes = STANDARD.decode(&view.frame).context("cannot understand a frame's bytes")?;
        if let Some(pcap) = &mut self.pcap {
            pcap.write(view, &bytes)?;
        }
        if !self.shows {
            return Ok(());
        }
        if self.output.is_json() {
            return self.output.text(&(line.to_owned() + "\n"));
        }
        self.output.text(&in_columns(cells(view, &bytes)))
    }

    fn miss(&mut self, missed: u64) {
        self.missed += missed;
        if self.missed == missed {
            self.output.note("frames come too fast for all to be shown; narrow the filter");
        }
    }

    fn end(&self) {
        let missed = match self.missed {
            0 => String::new(),
            missed => format!(", {missed} more were not shown"),
        };
        self.output.note(&format!("{} frames{missed}", self.frames));
    }
}

fn cells(view: &TraceView, bytes: &[u8]) -> [String; 6] {
    // Of a time like 2026-11-25T04:32:34.082123456Z what changes.
    let time = view.time.get(11..26).unwrap_or(&view.time);
    [
        time.into(),
        view.vlan.to_string(),
        view.source.to_string(),
        view.destination.to_string(),
        format!("{}, {} B", frame::summary(bytes), view.length),
        view.path.join(ARROW),
    ]
}

/// One line of a table that goes on.
fn in_columns(cells: [String; 6]) -> String {
    table::line(cells, &WIDTHS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fate, Mac};

    #[test]
    fn what_is_typed_is_asked_for() {
        let spec = TraceSpec {
            parent: Some("eth0".into()),
            child: Some("eth0/02:42:c0:a8:32:32".into()),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            vlan: Some(0),
            reason: None,
            drops: true,
            snaplen: Some(64),
        };
        let want = "/v1/trace?parent=eth0&child=eth0%2F02:42:c0:a8:32:32&mac=02:00:00:00:00:01&vlan=0&drops=true&snaplen=64";
        assert_eq!(path(&spec).replace("%3A", ":"), want);
        assert_eq!(path(&TraceSpec::default()), "/v1/trace");
    }

    #[test]
    fn a_line_has_the_columns_of_the_header() {
        let view = TraceView {
            time: "2026-11-25T04:32:34.082123456Z".into(),
            parent: "eth0".into(),
            from: "web".into(),
            vlan: 10,
            source: Mac([2, 0, 0, 0, 0, 1]),
            destination: Mac([2, 0, 0, 0, 0, 2]),
            length: 60,
            verdict: Fate::Deliver,
            to: vec!["db".into()],
            copies: 1,
            reason: None,
            path: ["web", "egress", "hairpin", "d\u{1b}b"].map(String::from).to_vec(),
            frame: String::new(),
        };
        let line = in_columns(cells(&view, &[]));
        let header = in_columns(HEADER.map(String::from));
        assert!(
            line.starts_with("04:32:34.082123   10     02:00:00:00:00:01   02:00:00"),
            "{line}"
        );
        let at = |text: &str, word: &str| text[..text.find(word).unwrap()].chars().count();
        assert_eq!(at(&header, "PATH"), at(&line, "web → egress → hairpin → d\\u{1b}b"));
    }
}
