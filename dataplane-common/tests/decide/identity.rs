//! Who sent a frame that is about to leave through the parent, and frames too short to say.

use dataplane_common::{
    decide::runt,
    frame::Tag,
    mark::NO_STAMP,
    sender::{Provenance, Sender, Socket, egress_port, ingress_port},
};
use fixtures::{
    identity::{Arrival, Case, arrivals, cases, runts, spaced},
    lan::{BROADCAST, HOST_10, STRANGER, frame, tables},
};

#[test]
fn a_sender_is_known_by_proof_and_else_by_its_mac() {
    for Case { name, topology, src, provenance, want } in cases() {
        for dst in [STRANGER, BROADCAST] {
            for tag in [Tag::NONE, Tag::one(10), Tag::stacked(10)] {
                let got = egress_port(&frame(dst, src, tag), &provenance, &tables(&topology));
                assert_eq!(got.sender(), want, "{name}");
            }
        }
    }
}

/// Behind a sub-interface of the host there may be other stations: containers of a macvlan on it, ports of a
/// bridge.
#[test]
fn what_is_behind_a_sub_interface_is_the_hosts() {
    let mut topology = spaced();
    topology.host_vlans.insert(10, HOST_10);
    let tables = tables(&topology);
    let of = |socket, came_in| Provenance { socket, came_in, ..Provenance::KERNEL };
    for provenance in [of(Socket::FOREIGN, 0), of(Socket::NONE, 0), of(Socket::FOREIGN, 70)] {
        for (tag, want) in [
            (Tag::one(10), Sender::Unknown),
            (Tag::one(20), Sender::Foreign),
            (Tag::NONE, Sender::Foreign),
        ] {
            let got = egress_port(&frame(BROADCAST, STRANGER, tag), &provenance, &tables);
            assert_eq!(got.sender(), Ok(want), "{provenance:?} {tag:?}");
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
