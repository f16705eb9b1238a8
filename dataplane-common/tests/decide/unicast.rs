//! Frames for one port, and those for nobody.

use dataplane_common::{
    DropReason::{
        Isolated, NoPort, OtherVlan, SamePort, SourceIsOurs, SourceMac, Stacked, Unknown,
        VlanNotAllowed,
    },
    Verdict::{Drop, Pass},
    frame::Tag,
    topology::Membership,
};

use crate::{
    THE_HOST, Table, WIRE,
    common::{
        HOST, HOST_10, NOBODY, STRANGER, VRRP, adopted, frame, lan, mac, passthru, private,
        topology, trunk, veths, virtual_router,
    },
    host, macvlan, veth, wire,
};

const NONE: Tag = Tag::NONE;

const fn vlan(tci: u16) -> Tag {
    Tag::one(tci)
}

pub(crate) fn all() -> Vec<Table> {
    let mut all = vec![
        from_wire(),
        from_wire_beside_the_rules(),
        unknown_is_dropped(),
        from_host(),
        from_access(),
        from_trunk(),
        not_allowed(),
        isolation(),
        siblings(),
        passthru_child(),
        stacked(),
    ];
    all.extend(loops());
    all
}

fn from_wire() -> Table {
    let to = |dst, tag| frame(dst, STRANGER, tag);
    Table::new(
        lan(),
        vec![
            ("to macvlan, untagged", to(mac(2), NONE), WIRE, macvlan(2, NONE)),
            ("to veth, untagged", to(mac(3), NONE), WIRE, veth(3, NONE)),
            ("VID 0 is untagged: macvlan", to(mac(2), vlan(0xa000)), WIRE, macvlan(2, NONE)),
            ("VID 0 is untagged: veth", to(mac(3), vlan(0xa000)), WIRE, veth(3, NONE)),
            ("VID 0 is untagged: trunk", to(mac(6), vlan(0xa000)), WIRE, veth(6, vlan(0xa000))),
            ("to macvlan of a VLAN", to(mac(4), vlan(10)), WIRE, macvlan(4, NONE)),
            ("to veth of a VLAN, with priority", to(mac(5), vlan(0xa00a)), WIRE, veth(5, NONE)),
            ("to a macvlan trunk", to(mac(7), vlan(0xa01e)), WIRE, macvlan(7, vlan(0xa01e))),
            ("to a veth trunk", to(mac(6), vlan(30)), WIRE, veth(6, vlan(30))),
            ("to a trunk, its untagged VLAN", to(mac(6), NONE), WIRE, veth(6, NONE)),
            ("to a trunk of all, untagged", to(mac(8), NONE), WIRE, veth(8, NONE)),
            ("to a trunk of all, any VLAN", to(mac(8), vlan(99)), WIRE, veth(8, vlan(99))),
            ("to the host", to(HOST, NONE), WIRE, Pass),
            ("to its sub-interface", to(HOST_10, vlan(10)), WIRE, Pass),
            ("to one with the parent's MAC", to(HOST, vlan(0x6014)), WIRE, Pass),
            ("the host's MAC in another VLAN is its own to judge", to(HOST, vlan(99)), WIRE, Pass),
            ("a child of VLAN 10, untagged", to(mac(4), NONE), WIRE, Drop(OtherVlan)),
            ("a child of VLAN 0, in VLAN 10", to(mac(3), vlan(10)), WIRE, Drop(OtherVlan)),
            ("a trunk, in a VLAN not in its list", to(mac(7), vlan(10)), WIRE, Drop(OtherVlan)),
            ("a trunk without VLAN 0, untagged", to(mac(7), NONE), WIRE, Drop(OtherVlan)),
            ("nobody known", to(NOBODY, NONE), WIRE, Pass),
            ("nobody known, in a VLAN", to(NOBODY, vlan(10)), WIRE, Pass),
        ],
    )
}

fn from_wire_beside_the_rules() -> Table {
    let mut bridged = veths();
    bridged.host_macs.insert(mac(0xbb));
    Table::new(
        bridged,
        vec![
            ("to the bridge that has the parent", frame(mac(0xbb), STRANGER, NONE), WIRE, Pass),
            ("its source is ours", frame(NOBODY, mac(0xbb), NONE), WIRE, Drop(SourceIsOurs)),
        ],
    )
}

fn unknown_is_dropped() -> Table {
    let to = |dst, tag| frame(dst, STRANGER, tag);
    let cases = vec![
        ("nobody known", to(NOBODY, NONE), WIRE, Drop(Unknown)),
        ("nobody known, in a VLAN", to(NOBODY, vlan(99)), WIRE, Drop(Unknown)),
        ("another VLAN's", to(mac(4), NONE), WIRE, Drop(OtherVlan)),
        ("the host", to(HOST, NONE), WIRE, Pass),
        ("a child", to(mac(2), NONE), WIRE, macvlan(2, NONE)),
        ("from the host: to the wire", frame(NOBODY, HOST, NONE), THE_HOST, wire(NONE)),
        ("from a child: to the wire", frame(NOBODY, mac(2), NONE), 2, wire(NONE)),
    ];
    Table { topology: lan(), strict: true, cases }
}

fn from_host() -> Table {
    let to = |dst, tag| frame(dst, HOST, tag);
    Table::new(
        lan(),
        vec![
            ("to macvlan", to(mac(2), NONE), THE_HOST, macvlan(2, NONE)),
            ("to veth", to(mac(3), NONE), THE_HOST, veth(3, NONE)),
            ("VID 0 to macvlan", to(mac(2), vlan(0xe000)), THE_HOST, macvlan(2, NONE)),
            ("sub-interface to macvlan", to(mac(4), vlan(10)), THE_HOST, macvlan(4, NONE)),
            ("sub-interface to veth", to(mac(5), vlan(0x600a)), THE_HOST, veth(5, NONE)),
            ("sub-interface to trunk", to(mac(6), vlan(0x600a)), THE_HOST, veth(6, vlan(0x600a))),
            ("sub-interface to a trunk of all", to(mac(8), vlan(20)), THE_HOST, veth(8, vlan(20))),
            ("to a child of another VLAN", to(mac(4), NONE), THE_HOST, wire(NONE)),
            ("from another VLAN to a child", to(mac(2), vlan(10)), THE_HOST, wire(vlan(10))),
            ("to nobody known", to(NOBODY, NONE), THE_HOST, wire(NONE)),
            ("to nobody known, in a VLAN", to(NOBODY, vlan(0xa00a)), THE_HOST, wire(vlan(0xa00a))),
            ("to itself", to(HOST, NONE), THE_HOST, wire(NONE)),
        ],
    )
}

fn from_access() -> Table {
    let from = |n, dst, tag| frame(dst, mac(n), tag);
    Table::new(
        lan(),
        vec![
            ("macvlan to veth", from(2, mac(3), NONE), 2, veth(3, NONE)),
            ("veth to macvlan", from(3, mac(2), NONE), 3, macvlan(2, NONE)),
            ("macvlan to the host", from(2, HOST, NONE), 2, host(NONE)),
            ("veth to the host", from(3, HOST, NONE), 3, host(NONE)),
            ("to a trunk, untagged VLAN", from(2, mac(6), NONE), 2, veth(6, NONE)),
            ("in a VLAN", from(4, mac(5), NONE), 4, veth(5, NONE)),
            ("in a VLAN, to the host's sub-interface", from(4, HOST_10, NONE), 4, host(vlan(10))),
            ("in a VLAN, to a trunk", from(5, mac(6), NONE), 5, veth(6, vlan(10))),
            ("in a VLAN, to a trunk of all", from(5, mac(8), NONE), 5, veth(8, vlan(10))),
            (
                "its priority goes into the tag",
                from(5, mac(6), vlan(0xa000)),
                5,
                veth(6, vlan(0xa00a)),
            ),
            ("its priority, to the wire", from(5, NOBODY, vlan(0xa000)), 5, wire(vlan(0xa00a))),
            ("its priority, to an access port", from(4, mac(5), vlan(0xa000)), 4, veth(5, NONE)),
            ("nobody known", from(2, NOBODY, NONE), 2, wire(NONE)),
            ("nobody known, in a VLAN", from(4, NOBODY, NONE), 4, wire(vlan(10))),
            ("another VLAN's MAC is unknown", from(2, mac(4), NONE), 2, wire(NONE)),
            ("so is the host's", from(4, HOST, NONE), 4, wire(vlan(10))),
            ("to itself", from(3, mac(3), NONE), 3, Drop(SamePort)),
        ],
    )
}

fn from_trunk() -> Table {
    let from = |n, dst, tag| frame(dst, mac(n), tag);
    Table::new(
        lan(),
        vec![
            ("to an access port", from(6, mac(4), vlan(0xa00a)), 6, macvlan(4, NONE)),
            ("to a trunk", from(6, mac(7), vlan(0xa01e)), 6, macvlan(7, vlan(0xa01e))),
            ("untagged VLAN to an access port", from(6, mac(2), NONE), 6, macvlan(2, NONE)),
            ("VID 0 to an access port", from(6, mac(2), vlan(0x2000)), 6, macvlan(2, NONE)),
            ("to the host", from(6, HOST, NONE), 6, host(NONE)),
            ("to the host's sub-interface", from(6, HOST_10, vlan(0xa00a)), 6, host(vlan(0xa00a))),
            ("to the wire", from(7, NOBODY, vlan(0xa028)), 7, wire(vlan(0xa028))),
            ("of all, to the wire", from(8, NOBODY, vlan(0x6063)), 8, wire(vlan(0x6063))),
            ("of all, untagged, to the wire", from(8, NOBODY, NONE), 8, wire(NONE)),
            ("of all, to a trunk", from(8, mac(7), vlan(40)), 8, macvlan(7, vlan(40))),
        ],
    )
}

fn not_allowed() -> Table {
    let from = |n, tag| frame(NOBODY, mac(n), tag);
    Table::new(
        lan(),
        vec![
            ("a tag from an access port", from(2, vlan(10)), 2, Drop(VlanNotAllowed)),
            ("the port's own VLAN as a tag", from(4, vlan(10)), 4, Drop(VlanNotAllowed)),
            ("a VLAN not in the list", from(6, vlan(40)), 6, Drop(VlanNotAllowed)),
            ("untagged, VLAN 0 not in the list", from(7, NONE), 7, Drop(VlanNotAllowed)),
            ("VID 0, VLAN 0 not in the list", from(7, vlan(0xe000)), 7, Drop(VlanNotAllowed)),
            ("a stranger's source", frame(NOBODY, STRANGER, NONE), 3, Drop(SourceMac)),
            ("a sibling's source", frame(NOBODY, mac(2), NONE), 3, Drop(SourceMac)),
            ("the host's source", frame(NOBODY, HOST, NONE), 3, Drop(SourceMac)),
            ("no such port", frame(NOBODY, mac(9), NONE), 9, Drop(NoPort)),
        ],
    )
}

fn isolation() -> Table {
    let from = |n, dst| frame(dst, mac(n), NONE);
    Table::new(
        private(),
        vec![
            ("private to a child", from(2, mac(3)), 2, Drop(Isolated)),
            ("a child to private", from(3, mac(2)), 3, Drop(Isolated)),
            ("private to private", from(2, mac(4)), 2, Drop(Isolated)),
            ("private veth to a child", from(4, mac(5)), 4, Drop(Isolated)),
            ("a child to private veth", from(3, mac(4)), 3, Drop(Isolated)),
            ("private to the host", from(2, HOST), 2, host(NONE)),
            ("private veth to the host", from(4, HOST), 4, host(NONE)),
            ("private to the wire", from(4, NOBODY), 4, wire(NONE)),
            ("the host to private", frame(mac(2), HOST, NONE), THE_HOST, macvlan(2, NONE)),
            ("the wire to private", frame(mac(4), STRANGER, NONE), WIRE, veth(4, NONE)),
            ("the others among themselves", from(3, mac(5)), 3, veth(5, NONE)),
        ],
    )
}

fn siblings() -> Table {
    Table::new(
        adopted(),
        vec![
            ("to one in VEPA mode", frame(mac(4), mac(2), NONE), 2, macvlan(4, NONE)),
            ("its tag stays", frame(mac(2), mac(4), vlan(0xa063)), 4, macvlan(2, vlan(0xa063))),
            ("to the host", frame(HOST, mac(2), NONE), 2, host(NONE)),
            (
                "from the host in any VLAN",
                frame(mac(2), HOST, vlan(99)),
                THE_HOST,
                macvlan(2, vlan(99)),
            ),
            (
                "from the wire in any VLAN",
                frame(mac(3), STRANGER, vlan(99)),
                WIRE,
                macvlan(3, vlan(99)),
            ),
        ],
    )
}

fn passthru_child() -> Table {
    Table::new(
        passthru(),
        vec![
            ("has the parent's MAC", frame(HOST, STRANGER, NONE), WIRE, macvlan(2, NONE)),
            ("in any VLAN", frame(HOST, STRANGER, vlan(99)), WIRE, macvlan(2, vlan(99))),
            ("not the sub-interface's", frame(HOST_10, STRANGER, vlan(10)), WIRE, Pass),
            ("sends with any source", frame(mac(3), NOBODY, NONE), 2, veth(3, NONE)),
            ("to the wire, too", frame(STRANGER, NOBODY, vlan(99)), 2, wire(vlan(99))),
            ("gets what is for it", frame(HOST, mac(3), NONE), 3, macvlan(2, NONE)),
        ],
    )
}

fn stacked() -> Table {
    let two = Tag::stacked;
    let to = |dst, tag| frame(dst, STRANGER, tag);
    Table::new(
        lan(),
        vec![
            ("to the host", to(HOST, two(10)), WIRE, Pass),
            ("to nobody known", to(NOBODY, two(10)), WIRE, Pass),
            ("to macvlan", to(mac(4), two(10)), WIRE, Drop(Stacked)),
            ("to veth", to(mac(5), two(10)), WIRE, Drop(Stacked)),
            ("to a trunk of all", to(mac(8), two(10)), WIRE, Drop(Stacked)),
            ("from the host", frame(mac(8), HOST, two(10)), THE_HOST, wire(two(10))),
            ("from a child", frame(NOBODY, mac(8), two(10)), 8, Drop(Stacked)),
            ("from a child to the host", frame(HOST, mac(8), two(20)), 8, Drop(Stacked)),
            ("with our source", frame(HOST, mac(2), two(10)), WIRE, Drop(SourceIsOurs)),
        ],
    )
}

fn loops() -> Vec<Table> {
    let from = |src, dst| frame(dst, src, NONE);
    vec![
        Table::new(
            lan(),
            vec![
                ("a child's source", from(mac(2), HOST), WIRE, Drop(SourceIsOurs)),
                ("one of another VLAN", from(mac(4), mac(2)), WIRE, Drop(SourceIsOurs)),
                ("a veth child's", from(mac(3), NOBODY), WIRE, Drop(SourceIsOurs)),
                ("the host's", from(HOST, mac(2)), WIRE, Drop(SourceIsOurs)),
                ("its sub-interface's", from(HOST_10, mac(2)), WIRE, Drop(SourceIsOurs)),
            ],
        ),
        Table::new(
            virtual_router(),
            vec![
                ("another router of the LAN", from(VRRP, mac(3)), WIRE, macvlan(3, NONE)),
                ("to the host", from(VRRP, HOST), WIRE, Pass),
                ("the router's own", from(VRRP, NOBODY), 2, wire(NONE)),
                ("to the router", from(STRANGER, VRRP), WIRE, macvlan(2, NONE)),
            ],
        ),
    ]
}

#[test]
fn a_frame_from_the_wire_reaches_its_port_in_its_vlan_only() {
    from_wire().check();
    from_wire_beside_the_rules().check();
}

#[test]
fn frames_for_nobody_are_dropped_where_that_is_asked_for() {
    unknown_is_dropped().check();
}

#[test]
fn the_host_reaches_children_of_its_vlans_and_the_wire() {
    from_host().check();
}

#[test]
fn an_access_port_sends_and_receives_untagged() {
    from_access().check();
}

#[test]
fn a_trunk_port_sends_and_receives_tagged() {
    from_trunk().check();
}

#[test]
fn a_child_sends_as_itself_and_in_its_vlans_only() {
    not_allowed().check();
}

#[test]
fn a_private_child_reaches_the_host_and_the_wire_and_no_child() {
    isolation().check();
}

#[test]
fn adopted_children_reach_each_other_and_the_host_in_any_vlan() {
    siblings().check();
}

#[test]
fn a_passthru_child_has_the_parents_mac_and_sends_with_any() {
    passthru_child().check();
}

#[test]
fn a_vlan_id_has_all_its_bits_and_the_other_bits_of_a_tag_are_kept() {
    let last = crate::common::veth(2, Membership::Access(4094));
    let cases = vec![
        ("the last VLAN", frame(mac(2), STRANGER, vlan(0xfffe)), WIRE, veth(2, NONE)),
        ("its lower bits alone", frame(mac(2), STRANGER, vlan(0x7fe)), WIRE, Drop(OtherVlan)),
        ("drop eligible", frame(NOBODY, mac(2), vlan(0x1000)), 2, wire(vlan(0x1ffe))),
        ("with priority, too", frame(NOBODY, mac(2), vlan(0xf000)), 2, wire(vlan(0xfffe))),
    ];
    Table::new(topology(&[], vec![last]), cases).check();
}

#[test]
fn a_child_with_any_source_stays_in_its_vlans() {
    use dataplane_common::abi::{Kind, port_flag::ANY_SOURCE};
    let any = crate::common::child(2, Kind::Veth, trunk(&[10]), ANY_SOURCE);
    let sends = |tag| frame(NOBODY, STRANGER, tag);
    Table::new(
        topology(&[], vec![any]),
        vec![
            ("in its list", sends(vlan(10)), 2, wire(vlan(10))),
            ("not in its list", sends(vlan(20)), 2, Drop(VlanNotAllowed)),
            ("untagged", sends(NONE), 2, Drop(VlanNotAllowed)),
        ],
    )
    .check();
}

#[test]
fn a_trunk_stays_in_its_vlans_though_another_child_has_its_mac_there() {
    let router = |port, vlan| {
        let mut router = crate::common::veth(port, trunk(&[vlan]));
        router.mac = VRRP;
        router
    };
    let sends = |vid| frame(NOBODY, VRRP, vlan(vid));
    let cases = vec![
        ("its own VLAN", sends(10), 2, wire(vlan(10))),
        ("the other's VLAN", sends(20), 2, Drop(VlanNotAllowed)),
        ("the other, its own VLAN", sends(20), 3, wire(vlan(20))),
    ];
    Table::new(topology(&[], vec![router(2, 10), router(3, 20)]), cases).check();
}

#[test]
fn two_tags_reach_the_host_only() {
    stacked().check();
}

#[test]
fn a_source_of_ours_does_not_come_from_the_wire_but_for_a_virtual_router() {
    loops().iter().for_each(Table::check);
}
