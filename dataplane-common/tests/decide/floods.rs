//! Frames for everybody, and those that are forwarded to nobody.

use dataplane_common::{
    DropReason::{NoMember, Reserved, SourceIsOurs, Stacked},
    Verdict::{self, Drop, Pass},
    abi::{VLAN_ANY, port_flag},
    frame::Tag,
    verdict::{Flood, IngressCopy},
};

use crate::{
    THE_HOST, Table, WIRE,
    common::{
        BROADCAST, GROUP, HOST, LLDP, STRANGER, VRRP, adopted, frame, lan, mac, passthru, private,
        untagged, veths, virtual_router,
    },
    flood, wire,
};

const NONE: Tag = Tag::NONE;

const fn vlan(tci: u16) -> Tag {
    Tag::one(tci)
}

const fn plan(plan: Flood) -> Verdict {
    Verdict::Flood(plan)
}

/// Of a frame with one tag.
const fn tagged(tci: u16, plan: Flood) -> Flood {
    Flood { tag: Tag::one(tci), ..plan }
}

/// From the wire nothing goes back to it.
const fn wires(vlan: u16, slots: u16) -> Flood {
    Flood { wire: false, ..flood(WIRE, vlan, slots) }
}

/// With a copy for the host alone, in VLAN 0.
const fn to_host(plan: Flood) -> Flood {
    Flood { ingress: IngressCopy::ToHost, ..plan }
}

/// With a copy as it is.
const fn as_is(plan: Flood) -> Flood {
    Flood { ingress: IngressCopy::AsIs, ..plan }
}

/// With a copy as it is, which serves the macvlan members.
const fn kernel(plan: Flood) -> Flood {
    Flood { veth_only: true, ..as_is(plan) }
}

/// By a child with these flags.
const fn by(from_flags: u8, plan: Flood) -> Flood {
    Flood { from_flags, ..plan }
}

/// In a VLAN without a group of its own.
const fn any(plan: Flood) -> Flood {
    Flood { group: VLAN_ANY, ..plan }
}

const ALL: u8 = port_flag::TRUNK | port_flag::ALL_VLANS;
const PASSTHRU: u8 = ALL | port_flag::ANY_SOURCE | port_flag::GUARDED;

pub(crate) fn all() -> Vec<Table> {
    let mut all = wire_floods();
    all.extend(host_floods());
    all.extend(child_floods());
    all.extend(floods_apart());
    all.extend(never_forwarded());
    all
}

fn wire_floods() -> Vec<Table> {
    let to_all = |tag| frame(BROADCAST, STRANGER, tag);
    let group = |tag| frame(GROUP, STRANGER, tag);
    let several = vec![
        ("untagged", to_all(NONE), WIRE, plan(to_host(wires(0, 4)))),
        (
            "VID 0 is untagged",
            group(vlan(0xa000)),
            WIRE,
            plan(tagged(0xa000, to_host(wires(0, 4)))),
        ),
        (
            "with a sub-interface",
            to_all(vlan(0xa00a)),
            WIRE,
            plan(tagged(0xa00a, as_is(wires(10, 4)))),
        ),
        ("children only", group(vlan(30)), WIRE, plan(tagged(30, wires(30, 3)))),
        (
            "only a trunk of all is in it",
            to_all(vlan(99)),
            WIRE,
            plan(tagged(99, any(wires(99, 1)))),
        ),
        ("with our source", frame(BROADCAST, mac(2), NONE), WIRE, Drop(SourceIsOurs)),
    ];
    let one = vec![
        ("right, but for veth", to_all(NONE), WIRE, plan(kernel(wires(0, 3)))),
        ("nobody is in it", to_all(vlan(10)), WIRE, Drop(NoMember)),
    ];
    let in_all =
        vec![("right", to_all(NONE), WIRE, Pass), ("in any VLAN", to_all(vlan(99)), WIRE, Pass)];
    let no_macvlan = vec![
        ("the kernel gives it to the host", to_all(NONE), WIRE, plan(kernel(wires(0, 1)))),
        ("nobody is in it", to_all(vlan(99)), WIRE, Pass),
    ];
    let both = ("the kernel serves host and child", to_all(NONE), WIRE, plan(kernel(wires(0, 2))));
    let left_out = frame(GROUP, VRRP, NONE);
    let router = vec![
        ("right", to_all(NONE), WIRE, Pass),
        ("it leaves out who has the source", left_out, WIRE, plan(to_host(wires(0, 2)))),
    ];
    vec![
        Table::new(lan(), several),
        Table::new(untagged(), one),
        Table::new(adopted(), in_all),
        Table::new(veths(), no_macvlan),
        Table::new(passthru(), vec![both]),
        Table::new(virtual_router(), router),
    ]
}

fn host_floods() -> Vec<Table> {
    let to_all = |tag| frame(BROADCAST, HOST, tag);
    let several = vec![
        ("untagged", to_all(NONE), THE_HOST, plan(flood(THE_HOST, 0, 4))),
        ("VID 0", to_all(vlan(0xa000)), THE_HOST, plan(tagged(0xa000, flood(THE_HOST, 0, 4)))),
        ("a sub-interface's", to_all(vlan(10)), THE_HOST, plan(tagged(10, flood(THE_HOST, 10, 4)))),
    ];
    let one = vec![
        ("not by the kernel, to the host", to_all(NONE), THE_HOST, plan(flood(THE_HOST, 0, 3))),
        ("a VLAN without a child", to_all(vlan(0x600a)), THE_HOST, wire(vlan(0x600a))),
    ];
    vec![Table::new(lan(), several), Table::new(untagged(), one)]
}

/// Where children are in different VLANs, and where the kernel's flood is right.
fn child_floods() -> Vec<Table> {
    let to_all = |n, tag| frame(BROADCAST, mac(n), tag);
    let several = vec![
        ("untagged", to_all(2, NONE), 2, plan(to_host(flood(2, 0, 4)))),
        ("with a sub-interface", to_all(4, NONE), 4, plan(as_is(flood(4, 10, 4)))),
        (
            "children only",
            to_all(6, vlan(0xa01e)),
            6,
            plan(tagged(0xa01e, by(port_flag::TRUNK, flood(6, 30, 3)))),
        ),
        (
            "only a trunk of all is in it",
            to_all(8, vlan(99)),
            8,
            plan(tagged(99, any(by(ALL, flood(8, 99, 1))))),
        ),
    ];
    let one = vec![
        ("the kernel serves macvlan and host", to_all(2, NONE), 2, plan(kernel(flood(2, 0, 3)))),
        ("so it does for veth", to_all(4, NONE), 4, plan(kernel(flood(4, 0, 3)))),
    ];
    let bridge = ALL | port_flag::BRIDGE;
    let served =
        ("the kernel serves all", to_all(2, NONE), 2, plan(kernel(by(bridge, flood(2, 0, 0)))));
    let no_macvlan = ("no macvlan to keep out", to_all(2, NONE), 2, plan(as_is(flood(2, 0, 1))));
    vec![
        Table::new(lan(), several),
        Table::new(untagged(), one),
        Table::new(adopted(), vec![served]),
        Table::new(veths(), vec![no_macvlan]),
    ]
}

/// Where the kernel's flood is wrong in one VLAN, too.
fn floods_apart() -> Vec<Table> {
    let to_all = |n| frame(BROADCAST, mac(n), NONE);
    let isolated = by(port_flag::ISOLATED, flood(2, 0, 4));
    let private_children = vec![
        ("the kernel would give it back", to_all(2), 2, plan(to_host(isolated))),
        ("the kernel would serve a private child", to_all(5), 5, plan(to_host(flood(5, 0, 4)))),
    ];
    let own = |tag| frame(BROADCAST, HOST, tag);
    let beside = tagged(10, as_is(by(PASSTHRU, flood(2, 10, 0))));
    let passthru_child = vec![
        ("the host's copy would come back", own(NONE), 2, plan(by(PASSTHRU, flood(2, 0, 2)))),
        ("the host's copy would be a second one", to_all(3), 3, plan(flood(3, 0, 2))),
        ("a sub-interface is beside it", own(vlan(10)), 2, plan(beside)),
    ];
    vec![Table::new(private(), private_children), Table::new(passthru(), passthru_child)]
}

fn never_forwarded() -> Vec<Table> {
    let last = [1, 0x80, 0xc2, 0, 0, 0x0f];
    let beyond = frame([1, 0x80, 0xc2, 0, 0, 0x10], HOST, NONE);
    let lldp = |tag| frame(LLDP, STRANGER, tag);
    let two = |src, outer| frame(BROADCAST, src, Tag::stacked(outer));
    let several = vec![
        ("reserved from macvlan", frame(LLDP, mac(2), NONE), 2, Drop(Reserved)),
        ("reserved from veth", frame(last, mac(6), vlan(10)), 6, Drop(Reserved)),
        ("reserved from the host", frame(LLDP, HOST, NONE), THE_HOST, wire(NONE)),
        ("from the wire: the host alone", lldp(NONE), WIRE, plan(to_host(wires(0, 0)))),
        ("the sub-interface alone", lldp(vlan(10)), WIRE, plan(tagged(10, as_is(wires(10, 0))))),
        ("in a VLAN without one", lldp(vlan(30)), WIRE, Drop(NoMember)),
        ("the next address is a group", beyond, THE_HOST, plan(flood(THE_HOST, 0, 4))),
        ("two tags, which the kernel would flood", two(STRANGER, 30), WIRE, Drop(Stacked)),
        ("two tags, for a sub-interface", two(STRANGER, 10), WIRE, Pass),
        ("two tags from the host", two(HOST, 30), THE_HOST, wire(Tag::stacked(30))),
        ("two tags from a child", two(mac(8), 30), 8, Drop(Stacked)),
    ];
    let one =
        ("the kernel's flood is right otherwise", lldp(NONE), WIRE, plan(to_host(wires(0, 0))));
    let no_macvlan = vec![
        ("from the wire without macvlan", lldp(NONE), WIRE, Pass),
        ("two tags without macvlan", two(STRANGER, 30), WIRE, Pass),
    ];
    let no_copy = ("no copy reaches the host alone", lldp(NONE), WIRE, Drop(NoMember));
    vec![
        Table::new(lan(), several),
        Table::new(untagged(), vec![one]),
        Table::new(veths(), no_macvlan),
        Table::new(passthru(), vec![no_copy]),
    ]
}

#[test]
fn a_broadcast_from_the_wire_is_left_to_the_kernel_where_its_flood_is_right() {
    wire_floods().iter().for_each(Table::check);
}

#[test]
fn the_hosts_broadcast_reaches_children_and_wire_and_not_the_host() {
    host_floods().iter().for_each(Table::check);
}

#[test]
fn a_childs_broadcast_reaches_the_others_the_host_and_the_wire() {
    child_floods().iter().for_each(Table::check);
    floods_apart().iter().for_each(Table::check);
}

#[test]
fn reserved_groups_and_two_tags_are_never_forwarded() {
    never_forwarded().iter().for_each(Table::check);
}
