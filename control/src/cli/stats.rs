//! `maclane stats`: counters once, or rates every second.

use std::{collections::HashMap, fmt::Write, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    args::StatsArgs,
    output::{Output, understand},
    table::{columns, printable},
};
use crate::{
    api::client::{Client, quote},
    model::{DropStats, PortStats, StatsView},
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
        let shown = rates(before, &views, now - then);
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
    let ports = |port: &PortStats| counters(port).map(|n| n.to_string());
    let header = ["RX_PACKETS", "RX_BYTES", "TX_PACKETS", "TX_BYTES"];
    let blocks = views.iter().map(|view| {
        let drops = view.drops.iter().filter(|drop| drop.packets > 0);
        let drops = drops.map(|d| vec![d.reason.clone(), d.packets.to_string(), d.meaning.clone()]);
        block(view, header, ports, columns(&["REASON", "PACKETS", "MEANING"], drops, &[1]))
    });
    blocks.collect::<Vec<_>>().join("\n")
}

/// How fast counters went from `before` to `now`, in `time`.
fn rates(before: &[StatsView], now: &[StatsView], time: Duration) -> String {
    let per_second = |old: u64, new: u64| {
        // A parent that was added again counts from 0.
        let grown = u128::from(new.saturating_sub(old));
        (grown * 1_000_000 / time.as_micros().max(1)).to_string()
    };
    let header = ["RX_PACKETS/S", "RX_BYTES/S", "TX_PACKETS/S", "TX_BYTES/S"];
    let blocks = now.iter().map(|view| {
        let old = before.iter().find(|old| old.parent == view.parent);
        let old_ports: HashMap<_, _> =
            old.iter().flat_map(|old| &old.ports).map(|p| ((p.port, &p.name), p)).collect();
        let old_drops: HashMap<_, _> =
            old.iter().flat_map(|old| &old.drops).map(|d| (&d.reason, d.packets)).collect();
        let ports = |port: &PortStats| {
            // A port that is new has no rate yet.
            let new = counters(port);
            let old = old_ports.get(&(port.port, &port.name)).map_or(new, |old| counters(old));
            std::array::from_fn(|at| per_second(old[at], new[at]))
        };
        let drops = view.drops.iter().filter(|drop| drop.packets > 0).map(|drop| {
            let DropStats { reason, meaning, packets, .. } = drop;
            let old = old_drops.get(reason).copied().unwrap_or(*packets);
            vec![reason.clone(), per_second(old, *packets), packets.to_string(), meaning.clone()]
        });
        let drops = columns(&["REASON", "PACKETS/S", "PACKETS", "MEANING"], drops, &[1, 2]);
        block(view, header, ports, drops)
    });
    blocks.collect::<Vec<_>>().join("\n")
}

fn counters(port: &PortStats) -> [u64; 4] {
    [port.rx_packets, port.rx_bytes, port.tx_packets, port.tx_bytes]
}

/// One parent: its name, its ports, and its drops, which are a header only if there are none.
fn block(
    view: &StatsView,
    header: [&str; 4],
    numbers: impl Fn(&PortStats) -> [String; 4],
    drops: String,
) -> String {
    let [a, b, c, d] = header;
    let ports = view.ports.iter().map(|port| {
        let mut cells = vec![port.name.clone(), port.kind.clone()];
        cells.extend(numbers(port));
        cells
    });
    let ports = columns(&["NAME", "KIND", a, b, c, d], ports, &[2, 3, 4, 5]);
    let drops = if drops.lines().count() > 1 { drops } else { "no drops\n".into() };
    let mut text = String::new();
    let _ = write!(text, "parent {}\n{ports}\n{drops}", printable(&view.parent));
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
        let text = rates(&view(10, 3), &view(30, 5), Duration::from_secs(2));
        assert!(text.contains("wire   wire             10         1000"), "{text}");
        assert!(text.contains("loop             1         5   our own"), "{text}");
        let restarted = rates(&view(10, 3), &view(0, 0), PERIOD);
        assert!(restarted.contains("wire   wire              0            0"), "{restarted}");
    }
}
