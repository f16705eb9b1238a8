//! What each member gets of a flood.

use dataplane_common::{
    abi::{Kind, Port, port_flag},
    decide::copy_for,
    topology::Membership,
    verdict::{Copy, Delivery, Flood, Retag},
};

use crate::{
    KEEP, POP, THE_HOST, WIRE,
    common::{self, topology, trunk},
    flood, push,
};

/// What it is about, the port that floods, the tag of its frame, a port, and what that gets.
type Case = (&'static str, u16, Option<u16>, u16, Option<Copy>);

#[test]
fn a_member_gets_its_copy_and_not_the_senders() {
    let lan = topology(
        &[],
        vec![
            common::macvlan(2, Membership::Access(10)),
            common::veth(3, Membership::Access(10)),
            common::veth(4, trunk(&[10, 20])),
            common::child(5, Kind::Macvlan, Membership::Access(10), port_flag::BRIDGE),
            common::child(6, Kind::Macvlan, Membership::Access(10), port_flag::ISOLATED),
            common::child(7, Kind::Veth, Membership::Access(10), port_flag::ISOLATED),
            common::child(8, Kind::Macvlan, Membership::All, 0),
            common::child(9, Kind::Macvlan, Membership::Access(10), port_flag::BRIDGE),
        ],
    );
    let tables = common::tables(&lan);
    let flags_of = |port: u16| tables.ports.get(&port).map_or(0, |p| p.flags);
    let copy = |port, kind, retag: Retag| {
        Some(Copy { to: Delivery { port, kind, retag }, unicast: kind == Kind::Macvlan })
    };
    let (macvlan, veth) = (Kind::Macvlan, Kind::Veth);
    let cases: &[Case] = &[
        ("macvlan, its own MAC", WIRE, Some(10), 2, copy(2, macvlan, POP)),
        ("veth, the group's MAC", WIRE, Some(10), 3, copy(3, veth, POP)),
        ("a trunk keeps tag and priority", WIRE, Some(0xa00a), 4, copy(4, veth, KEEP)),
        ("a trunk gets a tag", 3, None, 4, copy(4, veth, push(10))),
        ("so does one of all", 3, None, 8, copy(8, macvlan, push(10))),
        ("untagged stays so", 3, None, 2, copy(2, macvlan, KEEP)),
        ("the sender", 3, None, 3, None),
        ("a sibling that the kernel served", 5, None, 9, None),
        ("one in VEPA mode that it did not", 5, None, 2, copy(2, macvlan, KEEP)),
        ("bridge mode, from veth", 3, None, 5, copy(5, macvlan, KEEP)),
        ("private, from the wire", WIRE, Some(10), 6, copy(6, macvlan, POP)),
        ("private, from the host", THE_HOST, Some(10), 7, copy(7, veth, POP)),
        ("private, from a child", 3, None, 6, None),
        ("a child, from private", 7, None, 3, None),
        ("private, from private", 6, None, 7, None),
        ("the wire stands in no slot", 3, None, WIRE, None),
        ("nor does the host", 3, None, THE_HOST, None),
    ];
    for (name, from, have, to, want) in cases {
        let from_flags = if *from < 2 { 0 } else { flags_of(*from) };
        let plan = Flood { from_flags, ..flood(*from, 10, 8) };
        let member: &Port = &tables.ports[to];
        assert_eq!(copy_for(&plan, *have, *to, member), *want, "{name}");
        let rest = Flood { veth_only: true, ..plan };
        let want = want.filter(|copy| copy.to.kind == veth);
        assert_eq!(copy_for(&rest, *have, *to, member), want, "{name}, the kernel serves macvlan");
    }
}
