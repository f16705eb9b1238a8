//! The tables that a topology makes.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::{
    abi::{
        Addresses, AllowedKey, Bucket, FdbKey, GroupKey, Ip, Kind, Neighbour, NeighbourKey,
        PORT_HOST, PORT_WIRE, Policy, PortRef, Tables, VLAN_ANY, address, bucket, check_flag,
        local_flag, port_flag, vlan_flag,
    },
    frame::Mac,
    topology::{Child, Membership, Rights, TableSet, Topology},
};
use fixtures::lan::{
    HOST, HOST_10, STRANGER, VRRP, adopted, child, guarded, internal, lan, mac, macvlan, passthru,
    private, tables, topology, trunk, untagged, veth, veths, virtual_router,
};

/// The topologies of the cases.
fn all() -> Vec<Topology> {
    vec![
        lan(),
        untagged(),
        adopted(),
        veths(),
        private(),
        internal(),
        passthru(),
        guarded(),
        virtual_router(),
        topology(&[], vec![]),
    ]
}

/// Slot → port of a group.
fn slots(tables: &TableSet, vlan: u16) -> BTreeMap<u16, u16> {
    let of_vlan = tables.groups.iter().filter(|(key, _)| key.vlan == vlan);
    of_vlan.map(|(key, member)| (key.slot, member.port)).collect()
}

fn access(ports: &[u8]) -> Topology {
    topology(&[], ports.iter().map(|port| veth(*port, Membership::Access(0))).collect())
}

/// What happens, the ports that are there then, and their slots.
type Step = (&'static str, &'static [u8], &'static [(u16, u16)]);

#[test]
fn a_member_keeps_its_slot_when_others_come_and_go() {
    let steps: [Step; 5] = [
        ("the first ones", &[3, 4, 5], &[(0, 3), (1, 4), (2, 5)]),
        ("one comes, with a lower port", &[2, 3, 4, 5], &[(0, 3), (1, 4), (2, 5), (3, 2)]),
        ("two go", &[2, 5], &[(2, 5), (3, 2)]),
        ("two come, into the lowest free slots", &[2, 5, 8, 9], &[(0, 8), (1, 9), (2, 5), (3, 2)]),
        ("the highest goes", &[5, 8, 9], &[(0, 8), (1, 9), (2, 5)]),
    ];
    let mut before = BTreeMap::new();
    for (name, ports, want) in steps {
        let tables = access(ports).tables(&before);
        assert_eq!(slots(&tables, 0), want.iter().copied().collect(), "{name}");
        let highest = want.last().map_or(0, |(slot, _)| slot + 1);
        assert_eq!(tables.vlan(0).slots, highest, "{name}");
        before = tables.groups;
    }
}

#[test]
fn a_slot_belongs_to_one_vlan() {
    let before = BTreeMap::from([
        (GroupKey { vlan: 10, slot: 5 }, PortRef { port: 2, pad: 0 }),
        (GroupKey { vlan: 20, slot: 7 }, PortRef { port: 2, pad: 0 }),
    ]);
    let moved = topology(&[], vec![veth(2, Membership::Access(20))]);
    let tables = moved.tables(&before);
    assert_eq!(slots(&tables, 10), BTreeMap::new());
    assert_eq!(slots(&tables, 20), BTreeMap::from([(7, 2)]));
    assert_eq!(tables.vlan(10).slots, 0);
    assert_eq!(tables.vlan(20).slots, 8);
}

#[test]
fn tables_made_again_are_the_same() {
    for topology in all() {
        let first = tables(&topology);
        assert_eq!(topology.tables(&first.groups), first);
    }
}

#[test]
fn a_group_holds_each_member_once_and_no_other() {
    let members: &[(u16, &[u16])] = &[
        (0, &[2, 3, 6, 8]),
        (10, &[4, 5, 6, 8]),
        (20, &[8]),
        (30, &[6, 7, 8]),
        (40, &[7, 8]),
        (VLAN_ANY, &[8]),
    ];
    let tables = tables(&lan());
    for (vlan, want) in members {
        let got: Vec<u16> = slots(&tables, *vlan).into_values().collect();
        assert_eq!(got, *want, "VLAN {vlan}");
    }
    let defined: BTreeSet<u16> = tables.vlans.keys().copied().collect();
    assert_eq!(defined, members.iter().map(|(vlan, _)| *vlan).collect());
    assert_eq!(tables.vlan(10).veth, 3);
    assert_eq!(tables.vlan(40).veth, 1);
}

/// The kernel gives a tagged frame to the host's sub-interface, and never to macvlan.
#[test]
fn a_macvlan_trunk_is_no_member_of_a_vlan_that_the_host_takes() {
    let shadowed = topology(
        &[(10, HOST)],
        vec![
            macvlan(2, trunk(&[10, 20])),
            macvlan(3, Membership::All),
            macvlan(4, Membership::Access(10)),
            veth(5, trunk(&[10])),
        ],
    );
    let tables = tables(&shadowed);
    assert_eq!(slots(&tables, 10), BTreeMap::from([(0, 4), (1, 5)]));
    assert_eq!(slots(&tables, 20), BTreeMap::from([(0, 2), (1, 3)]));
    assert_eq!(slots(&tables, VLAN_ANY), BTreeMap::from([(0, 3)]));
}

#[test]
fn flags_of_a_vlan_say_who_can_be_left_to_the_kernel() {
    use vlan_flag::{DEFINED, HOST as MEMBER, KERNEL_FROM_CHILD, KERNEL_FROM_WIRE, NO_MACVLAN};
    let kernel = KERNEL_FROM_WIRE | KERNEL_FROM_CHILD;
    let none = KERNEL_FROM_WIRE | NO_MACVLAN;
    let trunks =
        || topology(&[(20, HOST)], vec![macvlan(2, trunk(&[10, 20])), macvlan(3, trunk(&[10]))]);
    let tagged = || topology(&[], vec![macvlan(2, Membership::Access(10))]);
    let mixed =
        || topology(&[], vec![macvlan(2, Membership::All), macvlan(3, Membership::Access(0))]);
    let cases: &[(&str, Topology, u16, u16)] = &[
        ("no child", topology(&[], vec![]), 0, MEMBER | none),
        ("no macvlan", veths(), 0, MEMBER | none),
        ("no macvlan, in a VLAN", veths(), 10, none),
        ("no macvlan, elsewhere", veths(), VLAN_ANY, none),
        ("all macvlan untagged", untagged(), 0, MEMBER | kernel),
        ("all macvlan untagged, elsewhere", untagged(), VLAN_ANY, 0),
        ("all macvlan in all VLANs", adopted(), 0, MEMBER | kernel),
        ("all macvlan in all VLANs, elsewhere", adopted(), VLAN_ANY, KERNEL_FROM_WIRE),
        ("macvlan in several VLANs", lan(), 0, MEMBER),
        ("macvlan in several VLANs, one of them", lan(), 10, MEMBER),
        ("macvlan in several VLANs, the host alone", lan(), 20, MEMBER),
        ("macvlan in several VLANs, without the host", lan(), 30, 0),
        ("an access port wants its tag off", tagged(), 10, 0),
        ("an access port of another VLAN", tagged(), 0, MEMBER),
        ("trunks want their tags", trunks(), 10, KERNEL_FROM_WIRE),
        ("what the host takes no macvlan gets", trunks(), 20, MEMBER),
        ("one of all and one untagged", mixed(), 0, MEMBER | kernel),
        ("one of all and one untagged, elsewhere", mixed(), VLAN_ANY, 0),
        ("private children", private(), 0, MEMBER | KERNEL_FROM_WIRE),
        ("passthru has the host's place", passthru(), 0, KERNEL_FROM_WIRE),
        ("but not a sub-interface's", passthru(), 10, MEMBER),
        ("passthru, elsewhere", passthru(), VLAN_ANY, KERNEL_FROM_WIRE),
    ];
    let of_floods = DEFINED | MEMBER | kernel | NO_MACVLAN;
    for (name, topology, vlan, want) in cases {
        assert_eq!(tables(topology).vlan(*vlan).flags & of_floods, DEFINED | want, "{name}");
    }
}

#[test]
fn a_vlan_in_which_an_address_is_pinned_has_a_flag() {
    let pinned = BTreeMap::from([((10, V4), STRANGER)]);
    let site = Topology { pinned, ..veths() };
    let flag = |vlan| tables(&site).vlan(vlan).flags & vlan_flag::PINNED != 0;
    assert!(flag(10) && !flag(0), "VLAN 10 alone");
    assert!(flag(VLAN_ANY), "a trunk of every VLAN is in it, too");
}

/// A child in VLAN 0 with these checks and addresses.
fn with_rights(port: u8, checks: u16, addresses: &[Ip]) -> Child {
    let policy = Policy { checks, ..Policy::default() };
    let rights = Rights { addresses: addresses.to_vec(), policy, ..Rights::default() };
    Child { rights, ..veth(port, Membership::Access(0)) }
}

const V4: Ip = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 50, 9];
const V6: Ip = [0xfd, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const BOUND: u16 = check_flag::ADDRESS | check_flag::ENFORCE;

#[test]
fn a_vlan_is_open_while_a_member_may_have_addresses_that_are_not_known() {
    use vlan_flag::{ARP_FLOOD, OPEN4, OPEN6};
    let free = || with_rights(2, 0, &[]);
    let addressed = || with_rights(2, 0, &[V4, V6]);
    let hidden = || {
        let child = with_rights(2, BOUND, &[V4]);
        Child { rights: Rights { hidden: true, ..child.rights }, ..child }
    };
    let trunk = || Child { membership: trunk(&[0]), ..addressed() };
    let cases: &[(&str, Vec<Child>, u16)] = &[
        ("nobody", vec![], 0),
        ("a child that nobody gave addresses", vec![free()], OPEN4 | OPEN6),
        ("one with addresses, which may take others of IPv6", vec![addressed()], OPEN6),
        ("one that is kept to its addresses", vec![with_rights(2, BOUND, &[V4])], 0),
        ("one that is only watched", vec![with_rights(2, check_flag::ADDRESS, &[V4])], OPEN6),
        ("one whose addresses are nobody's business", vec![hidden()], OPEN4 | OPEN6),
        ("a trunk", vec![trunk()], OPEN4 | OPEN6),
        (
            "one that wants every question",
            vec![with_rights(2, BOUND | check_flag::ARP_FLOOD, &[V4])],
            ARP_FLOOD,
        ),
        (
            "two of them",
            vec![with_rights(2, BOUND, &[V4]), with_rights(3, 0, &[V6])],
            OPEN4 | OPEN6,
        ),
    ];
    for (name, children, want) in cases {
        let tables = tables(&topology(&[], children.clone()));
        for vlan in [0, VLAN_ANY] {
            let flags = tables.vlan(vlan).flags & (ARP_FLOOD | OPEN4 | OPEN6);
            assert_eq!(flags, *want, "{name}, in VLAN {vlan}");
        }
    }
}

#[test]
fn there_may_be_stations_behind_the_host_where_it_has_a_sub_interface_or_a_bridge() {
    let beyond = |site: &Topology, vlan| tables(site).vlan(vlan).flags & vlan_flag::BEYOND != 0;
    let plain = topology(&[(10, HOST)], vec![veth(2, Membership::Access(20))]);
    let bridged = Topology { host_macs: [STRANGER].into(), ..plain.clone() };
    let at = |site: &Topology| [0, 10, 20, VLAN_ANY].map(|vlan| beyond(site, vlan));
    assert_eq!(at(&plain), [false, true, false, false]);
    assert_eq!(at(&bridged), [true, true, false, false]);
}

#[test]
fn addresses_are_the_childs_the_hosts_or_pinned_in_this_order() {
    let mut site = topology(&[], vec![with_rights(2, BOUND, &[V4, V6])]);
    site.host_addresses = [((0, V4), HOST), ((10, V4), HOST)].into();
    site.pinned = [((10, V4), STRANGER), ((20, V6), STRANGER)].into();
    let tables = tables(&site);
    let owner = |ip, vlan| tables.neighbour(&NeighbourKey::new(address(ip), vlan)).unwrap();
    let is = |port, mac| Neighbour { port, mac };
    assert_eq!(owner(V4, 0), is(2, mac(2)));
    assert_eq!(owner(V6, 0), is(2, mac(2)));
    assert_eq!(owner(V4, 10), is(PORT_HOST, HOST));
    assert_eq!(owner(V6, 20), is(PORT_WIRE, STRANGER));
    let policy = tables.policy(2);
    assert_eq!((policy.ip4, policy.ip6), ([192, 168, 50, 9], V6));
}

#[test]
fn addresses_that_nobody_else_may_know_are_allowed_at_their_port_alone() {
    let prefix = [0xfd, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut child = with_rights(2, BOUND, &[V4, V6]);
    (child.rights.hidden, child.rights.allowed) = (true, vec![(prefix, 64)]);
    let tables = tables(&topology(&[], vec![child, with_rights(3, BOUND, &[])]));
    assert!(tables.neighbours.is_empty());
    let mut inside = prefix;
    inside[15] = 1;
    for (ip, port, want) in
        [(V4, 2, true), (V6, 2, true), (inside, 2, true), (V4, 3, false), (inside, 3, false)]
    {
        assert_eq!(tables.allowed(AllowedKey::new(port, address(ip))), want, "{ip:?} at {port}");
    }
}

#[test]
fn a_vlan_that_nobody_names_is_not_defined() {
    for topology in all() {
        assert_eq!(tables(&topology).vlan(99).flags, 0);
    }
}

#[test]
fn every_mac_is_found_by_its_bucket_and_in_its_vlans() {
    for topology in all() {
        let tables = tables(&topology);
        let macs: BTreeSet<Mac> = tables.fdb.keys().map(|key| key.mac).collect();
        for mac in &macs {
            assert!(tables.may_be_ours(*mac), "{mac:02x?}");
            assert!(tables.fdb(*mac, VLAN_ANY).is_some(), "{mac:02x?} has no owner");
        }
        for child in &topology.children {
            assert!(macs.contains(&child.mac));
        }
        assert!(macs.contains(&topology.mac));
        let counted: u32 = tables.sources.values().map(|b| b.macs).sum();
        assert_eq!(usize::try_from(counted).unwrap(), macs.len(), "a MAC counts once");
    }
}

#[test]
fn two_macs_of_one_bucket_are_counted_both() {
    let other = (0..=u32::MAX)
        .map(u32::to_be_bytes)
        .map(|[a, b, c, d]| [2, 1, a, b, c, d])
        .find(|mac| bucket(*mac) == bucket(HOST))
        .unwrap();
    let mut twin = macvlan(2, Membership::Access(0));
    twin.mac = other;
    let tables = tables(&topology(&[], vec![twin]));
    assert_eq!(tables.sources[&bucket(HOST)].macs, 2);
    for mac in [HOST, other] {
        assert_eq!(tables.fdb(mac, 0), tables.fdb.get(&FdbKey { mac, vlan: 0 }).copied());
        assert_eq!(tables.fdb(mac, 7), None);
    }
}

#[test]
fn a_bucket_never_says_anything_else_than_the_fdb() {
    for topology in all() {
        let tables = tables(&topology);
        for key in tables.fdb.keys() {
            for vlan in [0, 10, 20, key.vlan, VLAN_ANY] {
                let key = FdbKey { vlan, ..*key };
                let said = tables.sources[&bucket(key.mac)].answer(key);
                let truth = tables.fdb.get(&key).copied();
                assert!(said.is_none_or(|said| said == truth), "{key:?}: {said:?}");
            }
        }
    }
}

#[test]
fn a_bucket_without_an_entry_leaves_every_key_to_the_fdb() {
    let key = FdbKey { mac: HOST, vlan: 0 };
    assert_eq!(Bucket::without_entry(1).answer(key), None);
    assert_eq!(Bucket::without_entry(0).answer(key), Some(None), "nobody has a MAC of this bucket");
}

#[test]
fn the_fdb_has_an_entry_for_each_vlan_of_a_mac() {
    let tables = tables(&lan());
    let port = |mac, vlan| tables.fdb(mac, vlan).map(|entry| entry.port);
    let cases = [
        ("the host", HOST, 0, Some(PORT_HOST)),
        ("the host, in a VLAN of its MAC", HOST, 20, Some(PORT_HOST)),
        ("the host, in a VLAN of another", HOST, 10, None),
        ("a sub-interface", HOST_10, 10, Some(PORT_HOST)),
        ("a sub-interface, untagged", HOST_10, 0, None),
        ("access", mac(4), 10, Some(4)),
        ("access, another VLAN", mac(4), 0, None),
        ("trunk", mac(7), 40, Some(7)),
        ("trunk, untagged", mac(7), 0, None),
        ("all, untagged", mac(8), 0, Some(8)),
        ("all, by its owner", mac(8), 99, None),
        ("whose is it", mac(7), VLAN_ANY, Some(7)),
    ];
    for (name, mac, vlan, want) in cases {
        assert_eq!(port(mac, vlan), want, "{name}");
    }
}

#[test]
fn a_passthru_child_takes_the_parents_mac_and_no_sub_interface() {
    let mut shared = passthru();
    shared.host_vlans = BTreeMap::from([(10, HOST)]);
    let tables = tables(&shared);
    let port = |vlan| tables.fdb[&FdbKey { mac: HOST, vlan }].port;
    assert_eq!((port(0), port(10), port(VLAN_ANY)), (2, PORT_HOST, 2));
    assert_eq!(tables.ports[&PORT_HOST].mac, HOST);
}

#[test]
fn stations_behind_a_sub_interface_are_where_the_host_is() {
    let mut shared = topology(&[(10, HOST_10)], vec![macvlan(2, Membership::Access(10))]);
    shared.beyond = BTreeSet::from([(10, mac(9))]);
    let tables = tables(&shared);
    let port = |mac, vlan| tables.fdb.get(&FdbKey { mac, vlan }).map(|entry| entry.port);
    assert_eq!(port(mac(9), 10), Some(PORT_HOST));
    assert_eq!(port(mac(9), VLAN_ANY), Some(PORT_HOST));
    assert_eq!(port(mac(9), 0), None);
    assert_eq!(port(mac(2), 10), Some(2));
}

#[test]
fn a_port_says_what_stands_there() {
    let flags = port_flag::GUARDED | port_flag::BRIDGE;
    let mut children = vec![
        child(2, Kind::Macvlan, Membership::Access(10), flags),
        veth(3, trunk(&[10])),
        veth(4, Membership::All),
    ];
    children[0].mac = VRRP;
    children[1].local = local_flag::PEER;
    children[1].takes_xdp = true;
    let tables = tables(&topology(&[], children));
    let port = |port: u16| {
        let p = tables.ports[&port];
        assert_eq!(p.local, if port == 3 { local_flag::PEER } else { 0 });
        (Kind::from_raw(p.kind), p.ifindex, p.mac, p.vlan, p.flags)
    };
    let trunk = port_flag::TRUNK;
    assert_eq!(port(PORT_WIRE), (Kind::Wire, 50, [0; 6], 0, trunk));
    assert_eq!(port(PORT_HOST), (Kind::Host, 50, HOST, 0, trunk));
    assert_eq!(port(2), (Kind::Macvlan, 0, VRRP, 10, flags | port_flag::SHARED_MAC));
    assert_eq!(port(3), (Kind::Veth, 103, mac(3), 0, trunk));
    assert_eq!(port(4), (Kind::Veth, 104, mac(4), 0, trunk | port_flag::ALL_VLANS));
    let ends: Vec<_> = tables.host_ends.iter().map(|(end, port)| (*end, port.port)).collect();
    assert_eq!(ends, [(103, 3), (104, 4)]);
    assert_eq!(tables.tx, BTreeMap::from([(3, 103)]), "the one that takes frames from XDP");
}

#[test]
fn the_macs_of_virtual_routers_are_shared_and_no_others() {
    let cases = [
        ("IPv4", [0, 0, 0x5e, 0, 1, 0], port_flag::SHARED_MAC),
        ("IPv6", [0, 0, 0x5e, 0, 2, 0xff], port_flag::SHARED_MAC),
        ("the block before", [0, 0, 0x5e, 0, 0, 7], 0),
        ("the block behind", [0, 0, 0x5e, 0, 3, 7], 0),
        ("another vendor's", [2, 0, 0x5e, 0, 1, 7], 0),
    ];
    for (name, mac, want) in cases {
        let mut router = veth(2, Membership::Access(0));
        router.mac = mac;
        let tables = tables(&topology(&[], vec![router]));
        assert_eq!(tables.ports[&2].flags, want, "{name}");
        assert_eq!(tables.fdb[&FdbKey { mac, vlan: VLAN_ANY }].flags, want, "{name}");
    }
}
