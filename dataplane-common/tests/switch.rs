//! The dataplane as a whole is a VLAN switch: whatever the parent and the frame are, each port that
//! must receive the frame receives it exactly once, in its form, and no other port gets anything.
//!
//! [`model`] says what must happen, [`machine`] carries verdicts out as the programs in the kernel
//! do, and [`cases`] makes parents and frames. `PROPTEST_CASES` sets how many.

#[path = "switch/cases.rs"]
mod cases;
#[path = "switch/machine.rs"]
mod machine;
#[path = "switch/model.rs"]
mod model;

use std::collections::BTreeMap;

use dataplane_common::{
    abi::PORT_HOST,
    frame::{Mac, VID_MASK},
};
use proptest::{prelude::*, test_runner::TestRunner};

use cases::Case;
use machine::{Machine, Received};

/// Cases in an everyday run: a few seconds.
const CASES: u32 = 8192;

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    // What a run finds becomes a case with a name in `decide.rs`, not a file of seeds.
    ProptestConfig {
        cases: if asked { default.cases } else { CASES },
        failure_persistence: None,
        ..default
    }
}

/// The tag of a received frame; VLAN ID 0 is untagged.
fn tag(received: &Received) -> Option<u16> {
    let tag = received.frame.tag;
    (!tag.is_stacked() && tag.tci() & VID_MASK != 0).then(|| tag.tci())
}

/// The destination that a copy of a multicast frame may carry instead of the group's.
fn own_mac(case: &Case, port: u16) -> Option<Mac> {
    if port == PORT_HOST {
        return Some(case.lan.mac);
    }
    case.lan.child(port).filter(|c| c.is_macvlan).map(|c| c.mac)
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let Some(expected) = case.lan.expected(&case.frame, case.from) else { return Ok(()) };
    let tables = case.lan.topology().tables(&BTreeMap::new());
    let mut machine =
        Machine { lan: &case.lan, tables: &tables, turn: case.turn, received: vec![] };
    machine.send(&case.frame, case.from);
    let mut seen = BTreeMap::new();
    for received in &machine.received {
        let port = received.port;
        if expected.unspecified.contains(&port) {
            continue;
        }
        prop_assert!(
            seen.insert(port, tag(received)).is_none(),
            "port {port} received it twice: {:?}",
            machine.received
        );
        prop_assert_eq!(received.frame.tag.is_stacked(), case.frame.tag.is_stacked());
        prop_assert_eq!(received.frame.src, case.frame.src);
        prop_assert!(
            received.frame.dst == case.frame.dst
                || case.frame.is_multicast() && own_mac(case, port) == Some(received.frame.dst),
            "port {} received it with another destination: {:?}",
            port,
            received
        );
    }
    prop_assert_eq!(&seen, &expected.receivers, "ports and tags, received and expected");
    Ok(())
}

#[test]
fn every_port_that_must_receive_a_frame_receives_it_exactly_once() {
    let result = TestRunner::new(config()).run(&cases::case(), |case| check(&case));
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
