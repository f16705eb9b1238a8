//! Which frames were dropped, of whom, and why.

use std::{collections::BTreeMap, time::Duration};

use dataplane_common::{
    DropReason,
    abi::{Offence, PORT_WIRE},
};

use super::state::State;
use crate::{
    clock,
    error::Result,
    model::{DropView, LastDrop, Mac},
};

/// True for a reason that only frames from the wire are dropped for.
const fn is_of_wire(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::OtherVlan
            | DropReason::Unknown
            | DropReason::SourceIsOurs
            | DropReason::NoMember
            | DropReason::Stranger
    )
}

/// Of the frames that were dropped for a reason, those that no port is known of.
struct Rest {
    packets: u64,
    last: Option<LastDrop>,
}

impl State {
    /// What was dropped at a parent, most of it first: each reason that has happened, by port.
    pub(crate) fn drop_views(&self, iface: &str) -> Result<Vec<DropView>> {
        let Some(plane) = &self.parent(iface)?.plane else { return Ok(Vec::new()) };
        let (totals, now) = (plane.counters()?.drops, clock::since_boot()?);
        let mut rest: BTreeMap<usize, Rest> = totals
            .iter()
            .map(|drops| Rest { packets: drops.packets, last: None })
            .enumerate()
            .collect();
        let mut views = Vec::new();
        let view = |port, reason: DropReason, dropped, logged, last| DropView {
            parent: iface.into(),
            port,
            reason: reason.name().into(),
            meaning: reason.meaning().into(),
            dropped,
            logged,
            last,
        };
        for (key, offence) in plane.offences()? {
            let number = usize::from(key.reason);
            let Some(reason) = DropReason::ALL.get(number) else { continue };
            let last = Some(last(&offence, now));
            let left = rest.get_mut(&number);
            if key.port == PORT_WIRE {
                // Only some of those were looked at.
                if let Some(left) = left {
                    left.last = last;
                }
                continue;
            }
            if let Some(left) = left {
                left.packets = left.packets.saturating_sub(offence.dropped);
            }
            let port = Some(self.port_name(iface, key.port));
            views.push(view(port, *reason, offence.dropped, offence.logged, last));
        }
        for (number, Rest { packets, last }) in rest {
            let Some(reason) = DropReason::ALL.get(number).filter(|_| packets > 0) else {
                continue;
            };
            let from_wire = last.is_some() || is_of_wire(*reason);
            let port = from_wire.then(|| self.port_name(iface, PORT_WIRE));
            views.push(view(port, *reason, packets, 0, last));
        }
        views.sort_by_key(|view| std::cmp::Reverse(view.dropped + view.logged));
        Ok(views)
    }
}

fn last(offence: &Offence, now: Duration) -> LastDrop {
    LastDrop {
        seconds_ago: now.saturating_sub(Duration::from_nanos(offence.last)).as_secs(),
        source: Mac(offence.src),
        destination: Mac(offence.dst),
        vlan: offence.vlan,
        ethertype: format!("{:04x}", offence.ethertype),
    }
}
