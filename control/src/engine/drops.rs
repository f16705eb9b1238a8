//! Which frames were dropped, of whom, and why.

use std::{collections::BTreeMap, time::Duration};

use dataplane_common::{
    DropReason,
    abi::{Offence, Offended, PORT_FIRST_CHILD, PORT_WIRE, event_kind},
};

use super::state::State;
use crate::{
    clock,
    error::Result,
    events::{Event, EventKind},
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

/// What has happened, in words.
fn words(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Storm => "sends more than its limits allow",
        DropReason::SourceMac => "sends with a source MAC that is not its own",
        DropReason::SourceIp => "sends with a source address that is not its own",
        DropReason::NeighbourClaim => "claims an address or a MAC that is not its own",
        DropReason::Pinned => "claims an address that is pinned to another station",
        DropReason::DhcpServer => "says to be a DHCP server",
        DropReason::Router => "says to be a router",
        DropReason::MulticastRouter => "says to be a multicast router",
        DropReason::HiddenHeader => "hides what it sends",
        DropReason::AddressLimit => "takes more addresses than it may have",
        DropReason::GuardBypass => "bypasses the guard on its link",
        DropReason::VlanNotAllowed => "sends in a VLAN that it is not in",
        DropReason::Stacked => "sends stacked tags",
        DropReason::SourceIsOurs => "sends with a source MAC that is one of ours",
        other => other.meaning(),
    }
}

impl State {
    /// Tells who has sent what he may not since this was done last.
    pub(crate) fn tell_offences(&self, iface: &str) {
        let heard = self.parents.get(iface).and_then(|parent| parent.heard.lock().ok());
        let offences = heard.map(|mut heard| std::mem::take(&mut heard.offences));
        for Offended { event, port, reason } in offences.unwrap_or_default() {
            let Some(reason) = DropReason::ALL.get(usize::from(reason)) else { continue };
            let storm = event.kind == event_kind::STORM;
            let kind = if storm { EventKind::Storm } else { EventKind::Spoof };
            let name = self.port_name(iface, port);
            let network = self.child(&name).ok().map(|c| c.record.value.spec.network.clone());
            let message = format!("{name} {} ({})", words(*reason), reason.name());
            self.note(Event {
                child: (port >= PORT_FIRST_CHILD).then_some(name),
                network,
                port: Some(port),
                vlan: Some(event.vlan),
                mac: Some(Mac(event.mac)),
                ..Event::new(kind, iface, message)
            });
        }
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
