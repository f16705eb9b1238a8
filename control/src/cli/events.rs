//! `maclane events`: what has happened, and what happens.

use serde::Deserialize;
use serde_json::Value;

use super::{
    args::EventsArgs,
    output::{Output, understand},
    table::{self, Row},
};
use crate::{
    api::client::{Client, quote},
    error::{Error, ErrorKind},
    events::{Event, EventKind},
};

/// How wide the columns are while nobody knows what comes: time, kind, parent, child.
const WIDTHS: [usize; 4] = [24, 16, 15, 22];

impl Row for Event {
    const HEADER: &'static [&'static str] = &["TIME", "KIND", "PARENT", "CHILD", "MESSAGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.time.clone(),
            self.kind.to_string(),
            self.parent.clone(),
            self.child.clone().unwrap_or_else(|| "-".into()),
            message(self),
        ]
    }
}

/// What has happened, with all that is known of it.
fn message(event: &Event) -> String {
    let number = |name: &str, value: Option<u64>| value.map(|value| format!("{name} {value}"));
    let details = [
        event.ip.map(|ip| format!("address {ip}")),
        event.mac.map(|mac| format!("MAC {mac}")),
        number("port", event.port.map(u64::from)),
        number("VLAN", event.vlan.map(u64::from)),
        event.network.as_ref().map(|network| format!("network {network}")),
        event.count.map(|count| format!("{count} times")),
    ];
    let details: Vec<String> = details.into_iter().flatten().collect();
    if details.is_empty() {
        return event.message.clone();
    }
    format!("{} ({})", event.message, details.join(", "))
}

/// A line of the stream.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Missed { missed: u64 },
    Event(Box<Event>),
}

/// Shows events, once or until Ctrl-C.
pub(super) async fn run(client: &Client, output: Output, args: EventsArgs) -> anyhow::Result<()> {
    if args.follow {
        // The kept ones first.
        let path = path("/v1/events/stream", &args, "since=0");
        return tokio::select! {
            ended = follow(client, output, &path) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let answer = client.get(&path("/v1/events", &args, "since=0")).await?;
    if output.is_json() {
        let Value::Array(events) = answer else { return output.json(&answer) };
        let lines = events.iter().fold(String::new(), |all, event| all + &event.to_string() + "\n");
        return output.text(&lines);
    }
    output.rows::<Event>(answer)
}

fn path(base: &str, args: &EventsArgs, first: &str) -> String {
    let mut path = format!("{base}?{first}");
    if let Some(parent) = &args.parent {
        path = path + "&parent=" + &quote(parent);
    }
    if !args.kind.is_empty() {
        let kinds: Vec<_> = args.kind.iter().copied().map(EventKind::name).collect();
        path = path + "&kind=" + &kinds.join(",");
    }
    path
}

async fn follow(client: &Client, output: Output, path: &str) -> anyhow::Result<()> {
    let mut lines = client.lines(path).await?;
    if !output.is_json() {
        output.text(&in_columns(Event::HEADER.iter().map(ToString::to_string)))?;
    }
    while let Some(line) = lines.next().await {
        if output.is_json() {
            output.text(&(line + "\n"))?;
            continue;
        }
        match understand(serde_json::from_str(&line)?)? {
            Line::Event(event) => output.text(&in_columns(event.cells()))?,
            Line::Missed { missed } => {
                output.note(&format!("{missed} events were missed: they came too fast"));
            }
        }
    }
    let ended =
        "the maclane daemon has stopped, and tells no more events; follow again when it runs";
    Err(Error::new(ErrorKind::NoDaemon, ended).into())
}

/// One line of a table that goes on.
fn in_columns(cells: impl IntoIterator<Item = String>) -> String {
    table::line(cells, &WIDTHS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_columns_of_the_table() {
        let event = Event {
            time: "2026-11-25T02:41:13.123Z".into(),
            child: Some("web\u{1b}".into()),
            vlan: Some(0),
            count: Some(3),
            ..Event::new(EventKind::PortUp, "eth0", "it is up")
        };
        assert_eq!(event.cells().len(), Event::HEADER.len());
        let line = in_columns(event.cells());
        let header = in_columns(Event::HEADER.iter().map(ToString::to_string));
        let at = header.find("MESSAGE").unwrap();
        assert_eq!(&line[at..], "it is up (VLAN 0, 3 times)\n");
        assert!(line.contains("web\\u{1b}"), "{line}");
    }

    #[test]
    fn what_is_typed_is_asked_for() {
        let args = EventsArgs {
            follow: false,
            parent: Some("eth0.50".into()),
            kind: vec![EventKind::Spoof, EventKind::Storm],
        };
        let path = path("/v1/events", &args, "since=0");
        assert_eq!(path, "/v1/events?since=0&parent=eth0.50&kind=spoof,storm");
    }
}
