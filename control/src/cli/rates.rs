//! How fast counters grow, from two looks at them.

use std::{collections::HashMap, time::Duration};

use crate::model::{DropStats, PortStats, StatsView};

/// Frames and bytes that came in, frames and bytes that went out.
pub(super) type Four = [u64; 4];

/// What the counters of a parent have grown by, each second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParentRates {
    /// The parent.
    pub(super) parent: String,
    /// Its ports, in order.
    pub(super) ports: Vec<PortRates>,
    /// The reasons of drops that ever happened.
    pub(super) drops: Vec<DropRates>,
}

/// The same of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortRates {
    /// The port.
    pub(super) port: u16,
    /// `wire`, `host`, or the child's name.
    pub(super) name: String,
    /// `wire`, `host`, `macvlan` or `veth`.
    pub(super) kind: String,
    /// Each second.
    pub(super) per_second: Four,
}

/// The same of one reason of drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DropRates {
    /// Its name.
    pub(super) reason: String,
    /// What it means.
    pub(super) meaning: String,
    /// Frames since the parent is there.
    pub(super) packets: u64,
    /// Frames each second.
    pub(super) per_second: u64,
}

/// How fast counters went from `before` to `now`, in `time`. A port that is new has no rate yet.
pub(super) fn rates(before: &[StatsView], now: &[StatsView], time: Duration) -> Vec<ParentRates> {
    let of_parent = |view: &StatsView| {
        let old = before.iter().find(|old| old.parent == view.parent);
        ParentRates {
            parent: view.parent.clone(),
            ports: ports(old.map_or(&[], |old| &old.ports), &view.ports, time),
            drops: drops(old.map_or(&[], |old| &old.drops), &view.drops, time),
        }
    };
    now.iter().map(of_parent).collect()
}

fn ports(before: &[PortStats], now: &[PortStats], time: Duration) -> Vec<PortRates> {
    let old: HashMap<_, _> = before.iter().map(|port| ((port.port, &port.name), port)).collect();
    let of_port = |port: &PortStats| {
        let new = counters(port);
        let old = old.get(&(port.port, &port.name)).map_or(new, |old| counters(old));
        PortRates {
            port: port.port,
            name: port.name.clone(),
            kind: port.kind.clone(),
            per_second: std::array::from_fn(|at| per_second(old[at], new[at], time)),
        }
    };
    now.iter().map(of_port).collect()
}

fn drops(before: &[DropStats], now: &[DropStats], time: Duration) -> Vec<DropRates> {
    let old: HashMap<_, _> = before.iter().map(|drops| (&drops.reason, drops.packets)).collect();
    let of_reason = |drops: &DropStats| {
        let DropStats { reason, meaning, packets, .. } = drops;
        let old = old.get(reason).copied().unwrap_or(*packets);
        DropRates {
            reason: reason.clone(),
            meaning: meaning.clone(),
            packets: *packets,
            per_second: per_second(old, *packets, time),
        }
    };
    now.iter().filter(|drops| drops.packets > 0).map(of_reason).collect()
}

/// The counters of a port.
pub(super) fn counters(port: &PortStats) -> Four {
    [port.rx_packets, port.rx_bytes, port.tx_packets, port.tx_bytes]
}

fn per_second(old: u64, new: u64, time: Duration) -> u64 {
    // A parent that was added again counts from 0.
    let grown = u128::from(new.saturating_sub(old));
    u64::try_from(grown * 1_000_000 / time.as_micros().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(port: &str, rx_packets: u64, dropped: u64) -> Vec<StatsView> {
        serde_json::from_value(serde_json::json!([{
            "parent": "eth0",
            "ports": [{
                "port": 2, "name": port, "kind": "veth", "rx_packets": rx_packets,
                "rx_bytes": rx_packets * 100, "tx_packets": 0, "tx_bytes": 0,
            }],
            "drops": [{ "reason": "runt", "meaning": "", "packets": dropped, "bytes": 0 }],
        }]))
        .unwrap()
    }

    #[test]
    fn what_is_new_or_begins_again_has_no_rate() {
        for (before, now, seconds, port, drops) in [
            (view("web", 10, 3), view("web", 30, 5), 2, 10, vec![1]),
            (view("web", 10, 3), view("db", 30, 3), 2, 0, vec![0]),
            (view("web", 10, 3), view("web", 0, 0), 1, 0, vec![]),
            (Vec::new(), view("web", 30, 5), 1, 0, vec![0]),
        ] {
            let rates = rates(&before, &now, Duration::from_secs(seconds));
            assert_eq!(rates[0].ports[0].per_second, [port, port * 100, 0, 0], "{before:?}");
            let per_second: Vec<_> = rates[0].drops.iter().map(|it| it.per_second).collect();
            assert_eq!(per_second, drops, "{before:?}");
        }
    }
}
