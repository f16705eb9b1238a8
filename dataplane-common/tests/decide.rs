//! The decision, case by case: the rules of the design as the tables of `fixtures`.

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

use dataplane_common::{
    DropReason, Frame, Tables, Verdict, decide, ingress_port,
    sender::{Provenance, Sender},
};
use fixtures::{
    Table, WIRE, bytes,
    lan::{Probe, tables},
};

/// Decides every case of a table.
fn check(table: &Table) {
    let tables = Probe::new(tables(&table.topology), table.strict);
    for (name, frame, from, want) in &table.cases {
        let got = verdict(frame, *from, &tables);
        assert_eq!(got, *want, "{name}: {frame:02x?} from port {from}");
    }
}

/// What becomes of a frame; one from the wire has to be that first.
fn verdict(frame: &Frame, from: u16, tables: &impl Tables) -> Verdict {
    if from != WIRE {
        return decide(frame, from, tables);
    }
    match ingress_port(frame, &Provenance::KERNEL, tables).sender() {
        Ok(Sender::Port(from)) => decide(frame, from, tables),
        Ok(other) => panic!("without a socket it is {other:?}"),
        Err(reason) => Verdict::Drop(reason),
    }
}

#[test]
fn each_reason_to_drop_a_frame_has_a_case() {
    let verdicts = fixtures::all().into_iter().flat_map(|table| table.cases).map(|case| case.3);
    let mut seen: HashSet<DropReason> = verdicts.filter_map(reason).collect();
    seen.extend(fixtures::identity::cases().into_iter().filter_map(|case| case.want.err()));
    seen.extend(fixtures::identity::arrivals().into_iter().filter_map(|case| case.want.err()));
    seen.extend(
        fixtures::identity::runts().into_iter().filter_map(|(_, _, verdict)| reason(verdict)),
    );
    // Only the kernel side can be refused something, and counts what is too much.
    seen.extend([DropReason::Refused, DropReason::Storm]);
    // `tests/security.rs`.
    seen.extend([DropReason::SourceIp, DropReason::NeighbourClaim, DropReason::DhcpServer]);
    seen.extend([DropReason::Router, DropReason::HiddenHeader, DropReason::AddressLimit]);
    seen.extend([DropReason::MulticastRouter]);
    // `neighbour.rs`.
    seen.extend([DropReason::Stranger, DropReason::Pinned]);
    // What `Sender::Bypass` and `Sender::Foreign` lead to (`tests/tests/security/bypass.rs`).
    seen.extend([DropReason::GuardBypass]);
    let missing: Vec<_> = DropReason::ALL.iter().filter(|r| !seen.contains(r)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

fn reason(verdict: Verdict) -> Option<DropReason> {
    match verdict {
        Verdict::Drop(reason) => Some(reason),
        Verdict::Pass | Verdict::Deliver(_) | Verdict::Flood(_) => None,
    }
}

#[test]
fn the_head_of_a_frame_is_all_that_counts() {
    let tables = Probe::new(tables(&bytes::topology()), false);
    for bytes::Case { name, bytes, from, want } in bytes::all() {
        let got = match bytes::read(&bytes) {
            Some(frame) => verdict(&frame, from, &tables),
            None => dataplane_common::decide::runt(from),
        };
        assert_eq!(got, want, "{name}: {} bytes from port {from}", bytes.len());
    }
}
