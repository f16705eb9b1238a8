//! What each member gets of a flood.

use dataplane_common::{
    abi::{Kind, Port, port_flag},
    decide::copy_for,
    frame::Tag,
    topology::Membership,
    verdict::{Copy, Delivery, Flood},
};

use fixtures::{
    THE_HOST, WIRE, flood,
    lan::{self, topology, trunk},
};

const NONE: Tag = Tag::NONE;

/// What it is about, the port that floods, the tag of its frame, a port, and what that gets.
type Case = (&'static str, u16, Tag, u16, Option<Copy>);

#[test]
fn a_member_gets_its_copy_and_not_the_senders() {
    let lan = topology(
        &[],
        vec![
            lan::macvlan(2, Membership::Access(10)),
            lan::veth(3, Membership::Access(10)),
            lan::veth(4, trunk(&[10, 20])),
            lan::child(5, Kind::Macvlan, Membership::Access(10), port_flag::BRIDGE),
            lan::child(6, Kind::Macvlan, Membership::Access(10), port_flag::ISOLATED),
            lan::child(7, Kind::Veth, Membership::Access(10), port_flag::ISOLATED),
            lan::child(8, Kind::Macvlan, Membership::All, 0),
            lan::child(9, Kind::Macvlan, Membership::Access(10), port_flag::BRIDGE),
        ],
    );
    let tables = lan::tables(&lan);
    let flags_of = |port: u16| tables.ports.get(&port).map_or(0, |p| p.flags);
    let copy = |port, kind, tag| {
        Some(Copy { to: Delivery { port, kind, tag }, unicast: kind == Kind::Macvlan })
    };
    let (macvlan, veth) = (Kind::Macvlan, Kind::Veth);
    let cases: &[Case] = &[
        ("macvlan, its own MAC", WIRE, Tag::one(10), 2, copy(2, macvlan, NONE)),
        ("veth, the group's MAC", WIRE, Tag::one(10), 3, copy(3, veth, NONE)),
        (
            "a trunk keeps tag and priority",
            WIRE,
            Tag::one(0xa00a),
            4,
            copy(4, veth, Tag::one(0xa00a)),
        ),
        ("a trunk gets a tag", 3, NONE, 4, copy(4, veth, Tag::one(10))),
        ("so does one of all", 3, NONE, 8, copy(8, macvlan, Tag::one(10))),
        ("untagged stays so", 3, NONE, 2, copy(2, macvlan, NONE)),
        ("the sender", 3, NONE, 3, None),
        ("a sibling that the kernel served", 5, NONE, 9, None),
        ("one in VEPA mode that it did not", 5, NONE, 2, copy(2, macvlan, NONE)),
        ("bridge mode, from veth", 3, NONE, 5, copy(5, macvlan, NONE)),
        ("private, from the wire", WIRE, Tag::one(10), 6, copy(6, macvlan, NONE)),
        ("private, from the host", THE_HOST, Tag::one(10), 7, copy(7, veth, NONE)),
        ("private, from a child", 3, NONE, 6, None),
        ("a child, from private", 7, NONE, 3, None),
        ("private, from private", 6, NONE, 7, None),
        ("the wire stands in no slot", 3, NONE, WIRE, None),
        ("nor does the host", 3, NONE, THE_HOST, None),
    ];
    for (name, from, tag, to, want) in cases {
        let from_flags = if *from < 2 { 0 } else { flags_of(*from) };
        let plan = Flood { from_flags, tag: *tag, ..flood(*from, 10, 8) };
        let member: &Port = &tables.ports[to];
        assert_eq!(copy_for(&plan, *to, member), *want, "{name}");
        let rest = Flood { veth_only: true, ..plan };
        let want = want.filter(|copy| copy.to.kind == veth);
        assert_eq!(copy_for(&rest, *to, member), want, "{name}, the kernel serves macvlan");
    }
}
