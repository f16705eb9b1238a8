//! `maclane stats`: counters once, or rates every second.

use std::{fmt::Write, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    args::StatsArgs,
    output::{Output, understand},
    rates::{DropRates, Four, ParentRates, counters, rates},
    table::{columns, printable},
};
use crate::{
    api::client::{Client, quote},
    model::StatsView,
};

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(1);

const CLEAR: &str = "\x1b[2J";
const HOME: &str = "\x1b[H";
const CLEAR_LINE_END: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows counters, once or until Ctrl-C.
pub(super) async fn run(client: &Client, output: Output, args: StatsArgs) -> anyhow::Result<()> {
    let path = match args.parent {
        Some(parent) => format!("/v1/stats?parent={}", quote(&parent)),
        None => "/v1/stats".into(),
    };
    if !args.watch {
        return output
            .answer(client.get(&path).await?, |value| Ok(totals(&understand::<Vec<_>>(value)?)));
    }
    tokio::select! {
        ended = watch(client, output, &path) => ended,
        _ = tokio::signal::ctrl_c() => {
            if output.is_terminal() {
                output.text("\n")?;
            }
            Ok(())
        }
    }
}

async fn watch(client: &Client, output: Output, path: &str) -> anyhow::Result<()> {
    let in_place = output.is_terminal() && !output.is_json();
    if in_place {
        output.text(CLEAR)?;
    }
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<(Instant, Vec<StatsView>)> = None;
    loop {
        ticks.tick().await;
        let value: Value = client.get(path).await?;
        if output.is_json() {
            output.text(&format!("{value}\n"))?;
            continue;
        }
        let now = Instant::now();
        let views: Vec<StatsView> = understand(value)?;
        // The first look is measured against itself: all rates are 0.
        let (then, before) = last.as_ref().map_or((now, &views), |(then, before)| (*then, before));
        let shown = per_second(&rates(before, &views, now - then));
        if in_place {
            output.text(&screen(&shown))?;
        } else if last.is_some() {
            output.text(&format!("{shown}\n"))?;
        }
        last = Some((now, views));
    }
}

/// `text` over what the terminal shows, as far as it has room.
fn screen(text: &str) -> String {
    let (width, height) = terminal_size::terminal_size()
        .map_or((80, 24), |(width, height)| (usize::from(width.0), usize::from(height.0)));
    let room = height.saturating_sub(2);
    let mut lines: Vec<_> = text.lines().collect();
    let more = format!("… {} more lines", lines.len().saturating_sub(room));
    if lines.len() > room {
        lines.truncate(room);
        lines.push(&more);
    }
    let mut out = String::from(HOME);
    for line in lines {
        out.extend(line.chars().take(width));
        out += CLEAR_LINE_END;
        out += "\n";
    }
    out + CLEAR_BELOW
}

/// Counters as they are.
fn totals(views: &[StatsView]) -> String {
    let header = ["RX_PACKETS", "RX_BYTES", "TX_PACKETS", "TX_BYTES"];
    let blocks = views.iter().map(|view| {
        let drops = view.drops.iter().filter(|drop| drop.packets > 0);
        let drops = drops.map(|d| vec![d.reason.clone(), d.packets.to_string(), d.meaning.clone()]);
        let ports = view.ports.iter().map(|port| (&port.name, &port.kind, counters(port)));
        let drops = columns(&["REASON", "PACKETS", "MEANING"], drops, &[1]);
        block(&view.parent, header, ports, drops)
    });
    blocks.collect::<Vec<_>>().join("\n")
}

/// How fast counters grow.
fn per_second(rates: &[ParentRates]) -> String {
    let header = ["RX_PACKETS/S", "RX_BYTES/S", "TX_PACKETS/S", "TX_BYTES/S"];
    let blocks = rates.iter().map(|it| {
        let ports = it.ports.iter().map(|port| (&port.name, &port.kind, port.per_second));
        let drops = it.drops.iter().map(|drops| {
            let DropRates { reason, meaning, packets, per_second } = drops;
            vec![reason.clone(), per_second.to_string(), packets.to_string(), meaning.clone()]
        });
        let drops = columns(&["REASON", "PACKETS/S", "PACKETS", "MEANING"], drops, &[1, 2]);
        block(&it.parent, header, ports, drops)
    });
    blocks.collect::<Vec<_>>().join("\n")
}

/// One parent: its name, its ports, and its drops, which are a header only if there are none.
fn block<'a>(
    parent: &str,
    header: [&str; 4],
    ports: impl Iterator<Item = (&'a String, &'a String, Four)>,
    drops: String,
) -> String {
    let [a, b, c, d] = header;
    let ports = ports.map(|(name, kind, numbers)| {
        let mut cells = vec![name.clone(), kind.clone()];
        cells.extend(numbers.map(|number| number.to_string()));
        cells
    });
    let ports = columns(&["NAME", "KIND", a, b, c, d], ports, &[2, 3, 4, 5]);
    let drops = if drops.lines().count() > 1 { drops } else { "no drops\n".into() };
    let mut text = String::new();
    let _ = write!(text, "parent {}\n{ports}\n{drops}", printable(parent));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(rx_packets: u64, dropped: u64) -> Vec<StatsView> {
        serde_json::from_value(serde_json::json!([{
            "parent": "eth0",
            "ports": [{
                "port": 0, "name": "wire", "kind": "wire", "rx_packets": rx_packets,
                "rx_bytes": rx_packets * 100, "tx_packets": 0, "tx_bytes": 0,
            }],
            "drops": [
                { "reason": "loop", "meaning": "our own", "packets": dropped, "bytes": 0 },
                { "reason": "runt", "meaning": "too short", "packets": 0, "bytes": 0 },
            ],
        }]))
        .unwrap()
    }

    #[test]
    fn totals_show_only_reasons_that_happened() {
        let text = "\
parent eth0
NAME   KIND   RX_PACKETS   RX_BYTES   TX_PACKETS   TX_BYTES
wire   wire           10       1000            0          0

REASON   PACKETS   MEANING
loop           3   our own
";
        assert_eq!(totals(&view(10, 3)), text);
        assert!(totals(&view(10, 0)).ends_with("\n\nno drops\n"));
    }

    #[test]
    fn rates_are_per_second_of_the_time_that_passed() {
        let text = |before: (u64, u64), now: (u64, u64), seconds| {
            let (before, now) = (view(before.0, before.1), view(now.0, now.1));
            per_second(&rates(&before, &now, Duration::from_secs(seconds)))
        };
        let restarted = text((10, 3), (0, 0), 1);
        let text = text((10, 3), (30, 5), 2);
        assert!(text.contains("wire   wire             10         1000"), "{text}");
        assert!(text.contains("loop             1         5   our own"), "{text}");
        assert!(restarted.contains("wire   wire              0            0"), "{restarted}");
    }
}
