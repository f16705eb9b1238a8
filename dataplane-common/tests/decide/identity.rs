//! Who sent a frame that is about to leave through the parent, and frames too short to say.

use dataplane_common::{
    DropReason::{self, Runt, SourceIsOurs, SourceMac},
    Mark, Verdict,
    abi::{Kind, port_flag},
    decide::{Sender, egress_port, ingress_port, runt},
    frame::{Mac, Tag},
    topology::{Membership, Topology},
};

use crate::{
    THE_HOST, WIRE,
    common::{
        BROADCAST, HOST, HOST_10, STRANGER, VRRP, child, frame, guarded, lan, mac, passthru,
        tables, topology, untagged,
    },
};

/// A frame with this source and mark, which came in through this interface.
pub(crate) struct Case {
    name: &'static str,
    topology: Topology,
    src: Mac,
    mark: Option<Mark>,
    came_in: u32,
    pub(crate) want: Result<Sender, DropReason>,
}

fn case(
    name: &'static str,
    topology: fn() -> Topology,
    (src, mark, came_in): (Mac, Option<Mark>, u32),
    want: Result<Sender, DropReason>,
) -> Case {
    Case { name, topology: topology(), src, mark, came_in, want }
}

/// In [`guarded`] port 2 has a guard, 3 has none, and 4 is a veth child with host end 104.
pub(crate) fn cases() -> Vec<Case> {
    let port = |port| Ok(Sender::Port(port));
    let from = |port| Some(Mark::From(port));
    let transit = |port| Some(Mark::Transit(port));
    vec![
        case("the host", guarded, (HOST, None, 0), port(THE_HOST)),
        case("its sub-interface", lan, (HOST_10, None, 0), port(THE_HOST)),
        case("a sub-interface with the parent's MAC", lan, (HOST, None, 0), port(THE_HOST)),
        case("a child, by its MAC", untagged, (mac(2), None, 0), port(2)),
        case("a child without a guard beside one with", guarded, (mac(3), None, 0), port(3)),
        case("a child, by its guard", guarded, (mac(2), from(2), 0), port(2)),
        case("the guard is believed, not the MAC", guarded, (mac(3), from(2), 0), port(2)),
        case("passthru, by its guard", passthru, (HOST, from(2), 0), port(2)),
        case("passthru, another source", passthru, (STRANGER, from(2), 0), port(2)),
        case("no guard, no belief", guarded, (mac(3), from(4), 0), port(3)),
        case(
            "a forged mark for a port without a guard",
            guarded,
            (HOST, from(3), 0),
            port(THE_HOST),
        ),
        case("a mark for no port", guarded, (mac(3), from(99), 0), port(3)),
        case("guarded, but no mark", guarded, (mac(2), None, 0), Err(SourceMac)),
        case("guarded, but another's mark", guarded, (mac(2), from(3), 0), Err(SourceMac)),
        case(
            "guarded, but a hairpin mark",
            guarded,
            (mac(2), Some(Mark::Hairpin), 0),
            Err(SourceMac),
        ),
        case(
            "a veth child's MAC, not from its host end",
            guarded,
            (mac(4), None, 0),
            Err(SourceMac),
        ),
        case("from its host end", guarded, (mac(4), transit(4), 104), Ok(Sender::Transit)),
        case("transit of another host end", guarded, (mac(4), transit(4), 105), Err(SourceMac)),
        case("transit of nothing", guarded, (mac(3), transit(4), 0), port(3)),
        case("transit of a macvlan child", guarded, (mac(3), transit(3), 0), port(3)),
        case("transit of the wire's interface", guarded, (mac(3), transit(WIRE), 50), port(3)),
        case(
            "a hairpin mark means nothing",
            guarded,
            (HOST, Some(Mark::Hairpin), 0),
            port(THE_HOST),
        ),
        case(
            "nor does a flood's",
            guarded,
            (mac(3), Some(Mark::Flood { port: 2, slot: 1 }), 0),
            port(3),
        ),
        case("nobody known", guarded, (STRANGER, None, 0), Ok(Sender::Unknown)),
        case(
            "nobody known, a mark of no guard",
            guarded,
            (STRANGER, from(3), 0),
            Ok(Sender::Unknown),
        ),
    ]
}

/// A frame in the parent's ingress that no program of ours has put there.
pub(crate) struct Arrival {
    name: &'static str,
    topology: Topology,
    src: Mac,
    dst: Mac,
    mark: Option<Mark>,
    stamp: Option<u16>,
    pub(crate) want: Result<u16, DropReason>,
}

/// In [`bridged`] ports 2, 3 and 4 are in bridge mode, 2 and 3 with a guard, and 5 is not.
pub(crate) fn arrivals() -> Vec<Arrival> {
    let ours = Err(SourceIsOurs);
    let arrival = |name, (src, dst), mark, stamp, want| Arrival {
        name,
        topology: bridged(),
        src,
        dst,
        mark,
        stamp,
        want,
    };
    let from = |port| Some(Mark::From(port));
    let mut all = vec![
        arrival("the wire", (STRANGER, mac(2)), None, None, Ok(WIRE)),
        arrival("the wire, to everybody", (STRANGER, BROADCAST), None, None, Ok(WIRE)),
        arrival(
            "a stale stamp on a frame from the wire",
            (STRANGER, mac(2)),
            None,
            Some(3),
            Ok(WIRE),
        ),
        arrival("the host's source", (HOST, mac(2)), None, None, ours),
        arrival("a sibling, stamped", (mac(2), mac(3)), None, Some(2), Ok(2)),
        arrival("a sibling in the same namespace, marked", (mac(2), mac(3)), from(2), None, Ok(2)),
        arrival("a guarded child's source, unstamped", (mac(2), mac(3)), None, None, ours),
        arrival("another's stamp", (mac(2), mac(3)), None, Some(3), ours),
        arrival("another's mark", (mac(2), mac(3)), from(3), None, ours),
        arrival(
            "a loop that brings a stamped frame back",
            (mac(2), BROADCAST),
            None,
            Some(2),
            ours,
        ),
        arrival("a sibling without a guard", (mac(4), mac(2)), None, None, Ok(4)),
        arrival("not to one in VEPA mode", (mac(4), mac(5)), None, None, ours),
        arrival("not to the host", (mac(4), HOST), None, None, ours),
        arrival("not to everybody", (mac(4), BROADCAST), None, None, ours),
        arrival("a source in VEPA mode", (mac(5), mac(2)), None, None, ours),
    ];
    let mut routers = bridged();
    routers.children[0].mac = VRRP;
    let router = |name, (src, dst), stamp, want| Arrival {
        name,
        topology: routers.clone(),
        src,
        dst,
        mark: None,
        stamp,
        want,
    };
    all.extend([
        router("a virtual router elsewhere", (VRRP, BROADCAST), None, Ok(WIRE)),
        router("a virtual router elsewhere, to a child", (VRRP, mac(3)), None, Ok(WIRE)),
        router("the virtual router here, to its sibling", (VRRP, mac(3)), Some(2), Ok(2)),
        router("its stamp on a frame for everybody", (VRRP, BROADCAST), Some(2), Ok(WIRE)),
    ]);
    all
}

/// ```text
///  wire ── eth0 ─ host, untagged
///            ├─ 2, 3 macvlan  access 0, bridge mode, with a guard
///            ├─ 4    macvlan  access 0, bridge mode
///            └─ 5    macvlan  access 0, VEPA
/// ```
fn bridged() -> Topology {
    let access = |port, flags| child(port, Kind::Macvlan, Membership::Access(0), flags);
    let guarded = port_flag::BRIDGE | port_flag::GUARDED;
    let children =
        vec![access(2, guarded), access(3, guarded), access(4, port_flag::BRIDGE), access(5, 0)];
    topology(&[], children)
}

pub(crate) fn runts() -> Vec<(&'static str, u16, Verdict)> {
    vec![
        ("the wire's", WIRE, Verdict::Pass),
        ("the host's", THE_HOST, Verdict::Pass),
        ("a child's", 2, Verdict::Drop(Runt)),
    ]
}

#[test]
fn a_sender_is_known_by_proof_and_else_by_its_mac() {
    for Case { name, topology, src, mark, came_in, want } in cases() {
        for dst in [STRANGER, BROADCAST] {
            for tag in [Tag::NONE, Tag::one(10), Tag::stacked(10)] {
                let got = egress_port(&frame(dst, src, tag), mark, came_in, &tables(&topology));
                assert_eq!(got, want, "{name}");
            }
        }
    }
}

#[test]
fn a_frame_of_a_sibling_is_told_from_one_of_the_wire() {
    for Arrival { name, topology, src, dst, mark, stamp, want } in arrivals() {
        let got = ingress_port(&frame(dst, src, Tag::NONE), mark, stamp, &tables(&topology));
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn a_runt_is_the_kernels_business_unless_a_child_sent_it() {
    for (name, from, want) in runts() {
        assert_eq!(runt(from), want, "{name}");
    }
}
