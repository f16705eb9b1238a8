//! The decision, case by case: the rules of the design as tables.
//!
//! A case says what a port sends on a topology (drawn in [`common`]), and the verdict.

mod common;
#[path = "decide/copies.rs"]
mod copies;
#[path = "decide/cost.rs"]
mod cost;
#[path = "decide/floods.rs"]
mod floods;
#[path = "decide/identity.rs"]
mod identity;
#[path = "decide/unicast.rs"]
mod unicast;

use std::collections::HashSet;

use common::{Probe, tables};
use dataplane_common::{
    DropReason, Frame, Tables, Verdict,
    abi::Kind,
    decide,
    frame::Tag,
    ingress_port,
    topology::Topology,
    verdict::{Delivery, Flood, IngressCopy},
};

const WIRE: u16 = dataplane_common::abi::PORT_WIRE;
const THE_HOST: u16 = dataplane_common::abi::PORT_HOST;

const fn macvlan(port: u16, tag: Tag) -> Verdict {
    Verdict::Deliver(Delivery { port, kind: Kind::Macvlan, tag })
}

const fn veth(port: u16, tag: Tag) -> Verdict {
    Verdict::Deliver(Delivery { port, kind: Kind::Veth, tag })
}

const fn host(tag: Tag) -> Verdict {
    Verdict::Deliver(Delivery { port: THE_HOST, kind: Kind::Host, tag })
}

const fn wire(tag: Tag) -> Verdict {
    Verdict::Deliver(Delivery { port: WIRE, kind: Kind::Wire, tag })
}

/// A flood of an untagged frame, in a VLAN with a group of its own, to the members and the wire.
const fn flood(from: u16, vlan: u16, slots: u16) -> Flood {
    Flood {
        from,
        from_flags: 0,
        tag: Tag::NONE,
        vlan,
        group: vlan,
        slots,
        veth_only: false,
        ingress: IngressCopy::None,
        wire: true,
    }
}

/// What it is about, the frame, the port that sends it, and the verdict.
type Case = (&'static str, Frame, u16, Verdict);

/// Cases on one topology.
struct Table {
    topology: Topology,
    /// The parent has `--unknown drop`.
    strict: bool,
    cases: Vec<Case>,
}

impl Table {
    fn new(topology: Topology, cases: Vec<Case>) -> Self {
        Self { topology, strict: false, cases }
    }

    fn check(&self) {
        let tables = Probe::new(tables(&self.topology), self.strict);
        for (name, frame, from, want) in &self.cases {
            let got = verdict(frame, *from, &tables);
            assert_eq!(got, *want, "{name}: {frame:02x?} from port {from}");
        }
    }
}

/// What becomes of a frame; one from the wire has to be that first.
fn verdict(frame: &Frame, from: u16, tables: &impl Tables) -> Verdict {
    if from != WIRE {
        return decide(frame, from, tables);
    }
    match ingress_port(frame, None, None, tables) {
        Ok(from) => decide(frame, from, tables),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Every table of this file's modules.
fn all_tables() -> Vec<Table> {
    let mut all = unicast::all();
    all.extend(floods::all());
    all
}

#[test]
fn each_reason_to_drop_a_frame_has_a_case() {
    let verdicts = all_tables().into_iter().flat_map(|table| table.cases).map(|case| case.3);
    let mut seen: HashSet<DropReason> = verdicts.filter_map(reason).collect();
    seen.extend(identity::cases().into_iter().filter_map(|case| case.want.err()));
    seen.extend(identity::arrivals().into_iter().filter_map(|case| case.want.err()));
    seen.extend(identity::runts().into_iter().filter_map(|(_, _, verdict)| reason(verdict)));
    // Only the kernel side can be refused something.
    seen.insert(DropReason::Refused);
    let missing: Vec<_> = DropReason::ALL.iter().filter(|r| !seen.contains(r)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

fn reason(verdict: Verdict) -> Option<DropReason> {
    match verdict {
        Verdict::Drop(reason) => Some(reason),
        Verdict::Pass | Verdict::Deliver(_) | Verdict::Flood(_) => None,
    }
}
