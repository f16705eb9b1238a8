//! Topologies, and short names for what the cases say.
#![allow(dead_code, reason = "each test uses its part")]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use dataplane_common::{
    Frame,
    abi::{FdbValue, Kind, Port, Tables, Vlan, port_flag},
    frame::{Mac, Tag},
    topology::{Child, Membership, TableSet, Topology},
};

/// The parent's MAC.
pub(crate) const HOST: Mac = mac(1);
/// The MAC that `eth0.10` has of its own.
pub(crate) const HOST_10: Mac = mac(0xa0);
/// Somebody behind the wire.
pub(crate) const STRANGER: Mac = mac(0xee);
/// Somebody else there.
pub(crate) const NOBODY: Mac = mac(0xef);
/// Everybody.
pub(crate) const BROADCAST: Mac = [0xff; 6];
/// A group of IPv4.
pub(crate) const GROUP: Mac = [0x01, 0, 0x5e, 0, 0, 0xfb];
/// LLDP's: one of those that no bridge forwards.
pub(crate) const LLDP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
/// A virtual router's.
pub(crate) const VRRP: Mac = [0, 0, 0x5e, 0, 1, 7];

/// The MAC of the child at port `n`.
pub(crate) const fn mac(n: u8) -> Mac {
    [2, 0, 0, 0, 0, n]
}

pub(crate) const fn frame(dst: Mac, src: Mac, tag: Tag) -> Frame {
    Frame { dst, src, tag }
}

pub(crate) fn trunk(vlans: &[u16]) -> Membership {
    Membership::Trunk(vlans.iter().copied().collect())
}

/// A child with [`mac`] of its port; a macvlan child is in VEPA mode.
pub(crate) fn child(port: u8, kind: Kind, membership: Membership, flags: u8) -> Child {
    let host_end = if kind == Kind::Veth { 100 + u32::from(port) } else { 0 };
    Child { port: port.into(), mac: mac(port), kind, membership, host_end, flags, takes_xdp: false }
}

pub(crate) fn macvlan(port: u8, membership: Membership) -> Child {
    child(port, Kind::Macvlan, membership, 0)
}

pub(crate) fn veth(port: u8, membership: Membership) -> Child {
    child(port, Kind::Veth, membership, 0)
}

pub(crate) fn topology(host_vlans: &[(u16, Mac)], children: Vec<Child>) -> Topology {
    Topology {
        parent: 50,
        mac: HOST,
        host_vlans: host_vlans.iter().copied().collect(),
        host_macs: BTreeSet::new(),
        children,
    }
}

/// ```text
///  wire ── eth0 ─ host: untagged, eth0.10 with a MAC of its own, eth0.20 with the parent's
///            ├─ 2 macvlan  access 0
///            ├─ 3 veth     access 0
///            ├─ 4 macvlan  access 10
///            ├─ 5 veth     access 10
///            ├─ 6 veth     trunk 0, 10, 30
///            ├─ 7 macvlan  trunk 30, 40
///            └─ 8 veth     all
/// ```
pub(crate) fn lan() -> Topology {
    topology(
        &[(10, HOST_10), (20, HOST)],
        vec![
            macvlan(2, Membership::Access(0)),
            veth(3, Membership::Access(0)),
            macvlan(4, Membership::Access(10)),
            veth(5, Membership::Access(10)),
            veth(6, trunk(&[0, 10, 30])),
            macvlan(7, trunk(&[30, 40])),
            veth(8, Membership::All),
        ],
    )
}

/// ```text
///  wire ── eth0 ─ host, untagged
///            ├─ 2, 3 macvlan  access 0, VEPA
///            └─ 4    veth     access 0
/// ```
pub(crate) fn untagged() -> Topology {
    let access = || Membership::Access(0);
    topology(&[], vec![macvlan(2, access()), macvlan(3, access()), veth(4, access())])
}

/// ```text
///  wire ── eth0 ─ host, untagged
///            ├─ 2, 3 macvlan  all, bridge mode: somebody else made them
///            └─ 4    macvlan  all, VEPA
/// ```
pub(crate) fn adopted() -> Topology {
    let bridge = |port| child(port, Kind::Macvlan, Membership::All, port_flag::BRIDGE);
    topology(&[], vec![bridge(2), bridge(3), macvlan(4, Membership::All)])
}

/// ```text
///  wire ── eth0 ─ host, untagged; eth0 may be a port of a bridge
///            ├─ 2 veth  access 0
///            └─ 3 veth  access 10
/// ```
pub(crate) fn veths() -> Topology {
    topology(&[], vec![veth(2, Membership::Access(0)), veth(3, Membership::Access(10))])
}

/// ```text
///  wire ── eth0 ─ host, untagged
///            ├─ 2 macvlan  access 0, private
///            ├─ 3 macvlan  access 0
///            ├─ 4 veth     access 0, private
///            └─ 5 veth     access 0
/// ```
pub(crate) fn private() -> Topology {
    let isolated = |port, kind| child(port, kind, Membership::Access(0), port_flag::ISOLATED);
    topology(
        &[],
        vec![
            isolated(2, Kind::Macvlan),
            macvlan(3, Membership::Access(0)),
            isolated(4, Kind::Veth),
            veth(5, Membership::Access(0)),
        ],
    )
}

/// ```text
///  wire ── eth0 ─ host: eth0.10 with a MAC of its own
///            ├─ 2 macvlan  all, passthru: it has the parent's MAC
///            └─ 3 veth     access 0
/// ```
pub(crate) fn passthru() -> Topology {
    let flags = port_flag::ANY_SOURCE | port_flag::GUARDED;
    let mut all = child(2, Kind::Macvlan, Membership::All, flags);
    all.mac = HOST;
    topology(&[(10, HOST_10)], vec![all, veth(3, Membership::Access(0))])
}

/// ```text
///  wire ── eth0 ─ host, untagged
///            ├─ 2 macvlan  access 0, with a guard
///            ├─ 3 macvlan  access 0
///            └─ 4 veth     access 0
/// ```
pub(crate) fn guarded() -> Topology {
    let mut guarded = untagged();
    guarded.children[0].flags = port_flag::GUARDED;
    guarded
}

/// ```text
///  wire ── eth0 ─ host, untagged
///            ├─ 2 macvlan  access 0, with a virtual router's MAC
///            └─ 3 macvlan  access 0
/// ```
pub(crate) fn virtual_router() -> Topology {
    let mut router = macvlan(2, Membership::Access(0));
    router.mac = VRRP;
    topology(&[], vec![router, macvlan(3, Membership::Access(0))])
}

pub(crate) fn tables(topology: &Topology) -> TableSet {
    topology.tables(&BTreeMap::new())
}

/// Tables that count lookups in the FDB, of a parent with or without `--unknown drop`.
pub(crate) struct Probe {
    pub(crate) tables: TableSet,
    pub(crate) lookups: Cell<u32>,
    pub(crate) drop_unknown: bool,
}

impl Probe {
    pub(crate) fn new(tables: TableSet, drop_unknown: bool) -> Self {
        Self { tables, lookups: Cell::new(0), drop_unknown }
    }
}

impl Tables for Probe {
    fn fdb(&self, mac: Mac, vlan: u16) -> Option<FdbValue> {
        self.lookups.set(self.lookups.get() + 1);
        self.tables.fdb(mac, vlan)
    }

    fn port(&self, port: u16) -> Option<Port> {
        self.tables.port(port)
    }

    fn vlan(&self, vlan: u16) -> Vlan {
        self.tables.vlan(vlan)
    }

    fn may_be_ours(&self, mac: Mac) -> bool {
        self.tables.may_be_ours(mac)
    }

    fn drop_unknown(&self) -> bool {
        self.drop_unknown
    }
}
