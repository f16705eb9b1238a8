//! Who sent a frame that is about to leave through the parent, and frames too short to say.

use dataplane_common::{
    decide::runt,
    frame::Tag,
    mark::NO_STAMP,
    sender::{Provenance, Sender, egress_port, ingress_port},
};
use fixtures::{
    identity::{Arrival, Case, arrivals, cases, runts},
    lan::{BROADCAST, STRANGER, frame, tables},
};

#[test]
fn a_sender_is_known_by_proof_and_else_by_its_mac() {
    for Case { name, topology, src, provenance, want } in cases() {
        for dst in [STRANGER, BROADCAST] {
            for tag in [Tag::NONE, Tag::one(10), Tag::stacked(10)] {
                // The host may bridge to a sub-interface.
                let is_bridged = provenance.came_in != 0 && want == Ok(Sender::Foreign);
                let want = if is_bridged && tag != Tag::NONE { Ok(Sender::Unknown) } else { want };
                let got = egress_port(&frame(dst, src, tag), &provenance, &tables(&topology));
                assert_eq!(got.sender(), want, "{name}");
            }
        }
    }
}

#[test]
fn a_frame_of_a_sibling_is_told_from_one_of_the_wire() {
    for Arrival { name, topology, src, dst, stamp, socket, want } in arrivals() {
        let provenance = Provenance {
            mark: None,
            stamp: stamp.unwrap_or(NO_STAMP),
            socket,
            came_in: topology.parent,
        };
        let got = ingress_port(&frame(dst, src, Tag::NONE), &provenance, &tables(&topology));
        assert_eq!(got.sender(), want, "{name}");
    }
}

#[test]
fn a_runt_is_the_kernels_business_unless_a_child_sent_it() {
    for (name, from, want) in runts() {
        assert_eq!(runt(from), want, "{name}");
    }
}
