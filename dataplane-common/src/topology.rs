//! The tables that a parent and its children make: a pure function from what is there to what the
//! maps hold. The daemon writes the result into the kernel; tests decide on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    abi::{
        Addresses, AllowedKey, Bucket, FdbKey, FdbValue, GroupKey, Ip, Kind, Learned, Neighbour,
        NeighbourKey, Netns, PORT_HOST, PORT_WIRE, Policy, Port, PortRef, Tables, VLAN_ANY, Vlan,
        address, bucket, check_flag, local_flag, netns_flag, port_flag, vlan_flag,
    },
    frame::Mac,
    neighbour::is_mapped,
};

/// Which VLANs a child is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// One, which it sees untagged.
    Access(u16),
    /// These, which it sees tagged; 0 among them means untagged frames.
    Trunk(BTreeSet<u16>),
    /// Every one, tagged, and untagged frames: what a macvlan link is without maclane.
    All,
}

impl Membership {
    fn contains(&self, vlan: u16) -> bool {
        match self {
            Self::Access(own) => *own == vlan,
            Self::Trunk(list) => list.contains(&vlan),
            Self::All => true,
        }
    }
}

/// A child, as far as the tables care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its port.
    pub port: u16,
    /// Its MAC.
    pub mac: Mac,
    /// [`Kind::Macvlan`] or [`Kind::Veth`].
    pub kind: Kind,
    /// Its VLANs.
    pub membership: Membership,
    /// For a veth child the index of its host end, else 0.
    pub host_end: u32,
    /// The [`port_flag`]s that do not follow from the rest: `ISOLATED`, `BRIDGE`, `GUARDED`,
    /// `INTERNAL`.
    pub flags: u8,
    /// Its [`local_flag`]s.
    pub local: u8,
    /// The cookie of its network namespace (`SO_NETNS_COOKIE`); 0 if it is not known.
    pub netns: u64,
    /// The filters of its owner run behind its guard.
    pub has_filters: bool,
    /// A veth child that takes frames from XDP.
    pub takes_xdp: bool,
    /// What it may do.
    pub rights: Rights,
}

/// What a child may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Its addresses, in the VLAN that it is in; those of a trunk are nobody's business.
    pub addresses: Vec<Ip>,
    /// What its frames are looked at for, and its limits; the addresses in it are filled in.
    pub policy: Policy,
    /// Prefixes that it may use beside its own addresses, with their lengths in bits of an [`Ip`].
    pub allowed: Vec<(Ip, u8)>,
    /// Nobody on the LAN has any business with its addresses: those of an internal network.
    pub hidden: bool,
}

/// A parent and what sits on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The parent's index.
    pub parent: u32,
    /// The parent's MAC.
    pub mac: Mac,
    /// The host's 802.1Q sub-interfaces on the parent, with their MACs.
    pub host_vlans: BTreeMap<u16, Mac>,
    /// Other MACs of the host: that of a bridge which the parent is a port of.
    pub host_macs: BTreeSet<Mac>,
    /// Stations behind the host's sub-interfaces, each with its VLAN: children of a parent that is
    /// one of them. Frames for them go where the host's go.
    pub beyond: BTreeSet<(u16, Mac)>,
    /// The children.
    pub children: Vec<Child>,
    /// Addresses of the host, each with its VLAN and the MAC that it has there.
    pub host_addresses: BTreeMap<(u16, Ip), Mac>,
    /// Addresses of stations on the wire that somebody has pinned to a MAC, each with its VLAN.
    pub pinned: BTreeMap<(u16, Ip), Mac>,
    /// What is limited of what comes in from the wire.
    pub wire: Policy,
    /// The cookie of the host's network namespace; 0 if it is not known.
    pub netns: u64,
    /// The kernel tells programs the namespace of a frame's socket.
    pub sees_netns: bool,
}

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSet {
    /// `maclane_ports`.
    pub ports: BTreeMap<u16, Port>,
    /// `maclane_fdb`.
    pub fdb: BTreeMap<FdbKey, FdbValue>,
    /// `maclane_vlans`; what is not here is all zero.
    pub vlans: BTreeMap<u16, Vlan>,
    /// `maclane_groups`.
    pub groups: BTreeMap<GroupKey, PortRef>,
    /// `maclane_sources`; what is not here has no MACs.
    pub sources: BTreeMap<u32, Bucket>,
    /// `maclane_neigh`.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// `maclane_allowed`: the key and how many bits of it count.
    pub allowed: BTreeSet<(AllowedKey, u32)>,
    /// `maclane_policy`; what is not here is all zero.
    pub policies: BTreeMap<u16, Policy>,
    /// `maclane_hostend`.
    pub host_ends: BTreeMap<u32, PortRef>,
    /// `maclane_netns`.
    pub netns: BTreeMap<u64, Netns>,
    /// `maclane_tx`: port → index of the device.
    pub tx: BTreeMap<u16, u32>,
}

impl TableSet {
    /// The buckets, from the FDB. Of several MACs in one bucket the lowest has its entry there, and
    /// of several entries that of the lowest VLAN.
    fn fill_sources(&mut self) {
        let mut last = None;
        for (key, entry) in &self.fdb {
            let empty = Bucket { key: *key, entry: *entry, macs: 0 };
            let bucket = self.sources.entry(bucket(key.mac)).or_insert(empty);
            if last != Some(key.mac) {
                bucket.macs += 1;
            }
            last = Some(key.mac);
        }
    }
}

impl Tables for TableSet {
    fn fdb(&self, mac: Mac, vlan: u16) -> Option<FdbValue> {
        let key = FdbKey { mac, vlan };
        let bucket = self.sources.get(&bucket(mac))?;
        bucket.answer(key).unwrap_or_else(|| self.fdb.get(&key).copied())
    }

    fn port(&self, port: u16) -> Option<Port> {
        self.ports.get(&port).copied()
    }

    fn vlan(&self, vlan: u16) -> Vlan {
        self.vlans.get(&vlan).copied().unwrap_or_default()
    }

    fn may_be_ours(&self, mac: Mac) -> bool {
        self.sources.get(&bucket(mac)).is_some_and(|b| b.macs != 0)
    }

    fn drop_unknown(&self) -> bool {
        false
    }

    fn netns(&self, port: u16) -> u16 {
        self.policy(port).netns
    }

    fn is_closed(&self) -> bool {
        self.policy(PORT_HOST).checks & check_flag::CLOSED != 0
    }

    fn has_filters(&self) -> bool {
        self.policy(PORT_HOST).checks & check_flag::FILTERS != 0
    }
}

/// What somebody has configured. What children have been seen to take is not in a table set.
impl Addresses for TableSet {
    fn neighbour(&self, key: &NeighbourKey) -> Option<Neighbour> {
        self.neighbours.get(key).copied()
    }

    fn learned(&self, _key: &NeighbourKey) -> Option<Learned> {
        None
    }

    fn allowed(&self, key: AllowedKey) -> bool {
        self.allowed.iter().any(|(allowed, bits)| {
            let rest = 128 - (bits - AllowedKey::PORT_BITS);
            let prefix = |ip: Ip| u128::from_be_bytes(ip).checked_shr(rest).unwrap_or(0);
            allowed.port == key.port && prefix(allowed.ip) == prefix(key.ip)
        })
    }

    fn policy(&self, port: u16) -> Policy {
        self.policies.get(&port).copied().unwrap_or_default()
    }
}

/// True for a MAC that several hosts of a LAN may use at a time: a virtual router's
/// (RFC 9568, section 7.3).
fn is_shared(mac: Mac) -> bool {
    matches!(mac, [0x00, 0x00, 0x5e, 0x00, 0x01 | 0x02, _])
}

impl Child {
    fn is_macvlan(&self) -> bool {
        self.kind == Kind::Macvlan
    }

    /// True if it may have addresses of a family that are not known, or that nobody else may know.
    fn is_open(&self, ipv4: bool) -> bool {
        if self.rights.hidden {
            return true;
        }
        let checked = check_flag::ADDRESS | check_flag::ENFORCE;
        let known = |ip: &Ip| ipv4 && is_mapped(address(*ip));
        self.rights.policy.checks & checked != checked
            && !(matches!(self.membership, Membership::Access(_))
                && self.rights.addresses.iter().any(known))
    }

    /// Its entry in `maclane_policy`.
    fn policy_entry(&self) -> Policy {
        let mut policy = self.rights.policy;
        for ip in self.rights.addresses.iter().rev() {
            match ip {
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4 @ ..] => policy.ip4 = *v4,
                ip => policy.ip6 = *ip,
            }
        }
        policy
    }

    /// The options that sockets of its namespace may not set.
    fn netns_flags(&self) -> u16 {
        let enforced = self.rights.policy.checks & (check_flag::ENFORCE | check_flag::RAW_SOCKET);
        match (enforced == check_flag::ENFORCE, self.is_macvlan()) {
            (false, _) => 0,
            (true, false) => netns_flag::CHECKSUM,
            (true, true) => netns_flag::CHECKSUM | netns_flag::BYPASS,
        }
    }

    /// All its port flags.
    fn port_flags(&self) -> u8 {
        let mut flags = self.flags;
        if !matches!(self.membership, Membership::Access(_)) {
            flags |= port_flag::TRUNK;
        }
        if self.membership == Membership::All {
            flags |= port_flag::ALL_VLANS;
        }
        if is_shared(self.mac) {
            flags |= port_flag::SHARED_MAC;
        }
        flags
    }

    fn port_entry(&self) -> Port {
        Port {
            ifindex: self.host_end,
            mac: self.mac,
            vlan: if let Membership::Access(vlan) = self.membership { vlan } else { 0 },
            kind: self.kind as u8,
            flags: self.port_flags(),
            local: self.local,
            pad: 0,
        }
    }

    /// The VLANs that it has FDB entries in, beside [`VLAN_ANY`].
    fn fdb_vlans(&self) -> BTreeSet<u16> {
        match &self.membership {
            Membership::Access(vlan) => BTreeSet::from([*vlan]),
            Membership::Trunk(list) => list.clone(),
            Membership::All => BTreeSet::from([0]),
        }
    }
}

impl Topology {
    /// The tables. A member keeps the slot of its group that it has in `before`, so that no flood
    /// in progress misses it or serves it twice.
    #[must_use]
    pub fn tables(&self, before: &BTreeMap<GroupKey, PortRef>) -> TableSet {
        let mut tables = TableSet::default();
        self.fill_ports(&mut tables);
        self.fill_netns(&mut tables);
        self.fill_rights(&mut tables);
        self.fill_fdb(&mut tables);
        self.fill_groups(&mut tables, before);
        tables.fill_sources();
        tables
    }

    fn fill_ports(&self, tables: &mut TableSet) {
        let own = |kind: Kind, mac| Port {
            ifindex: self.parent,
            mac,
            vlan: 0,
            kind: kind as u8,
            flags: port_flag::TRUNK,
            local: 0,
            pad: 0,
        };
        tables.ports.insert(PORT_WIRE, own(Kind::Wire, [0; 6]));
        tables.ports.insert(PORT_HOST, own(Kind::Host, self.mac));
        for child in &self.children {
            tables.ports.insert(child.port, child.port_entry());
            if child.kind == Kind::Veth {
                tables.host_ends.insert(child.host_end, PortRef { port: child.port, pad: 0 });
            }
            if child.takes_xdp {
                tables.tx.insert(child.port, child.host_end);
            }
        }
    }

    /// The namespaces: each with its lowest port, the host's being that of the host.
    fn fill_netns(&self, tables: &mut TableSet) {
        let host = [(self.netns, PORT_HOST, 0)];
        let of_child = |child: &Child| (child.netns, child.port, child.netns_flags());
        let all = host.into_iter().chain(self.children.iter().map(of_child));
        for (netns, port, flags) in all.filter(|(netns, ..)| *netns != 0) {
            let entry = tables.netns.entry(netns).or_insert(Netns { port, flags });
            entry.port = entry.port.min(port);
            // The strictest child counts, but in the host's namespace none.
            entry.flags |= if entry.port == PORT_HOST { 0 } else { flags };
        }
    }

    /// The host's entry in `maclane_policy`.
    fn host_policy(&self) -> Policy {
        let enforced = |c: &Child| c.rights.policy.checks & check_flag::ENFORCE != 0;
        // Around a guard can only be what macvlan hands down; where there are no macvlan children, ipvlan
        // links may be (`drivers/net/ipvlan/ipvlan_main.c`: a device carries one of the two).
        let closed = self.sees_netns
            && self.children.iter().any(enforced)
            && self.children.iter().any(Child::is_macvlan);
        let filters = self.children.iter().any(|child| child.has_filters);
        let flag = |is, flag| if is { flag } else { 0 };
        let checks = flag(closed, check_flag::CLOSED) | flag(filters, check_flag::FILTERS);
        Policy { checks, ..Policy::default() }
    }

    /// Who has which address, and what is allowed where. A child's address is the child's, whoever
    /// else has it.
    fn fill_rights(&self, tables: &mut TableSet) {
        let mut insert = |vlan, ip: &Ip, port, mac| {
            let key = NeighbourKey { ip: *ip, vlan, pad: 0 };
            tables.neighbours.insert(key, Neighbour { port, mac });
        };
        for ((vlan, ip), mac) in &self.pinned {
            insert(*vlan, ip, PORT_WIRE, *mac);
        }
        for ((vlan, ip), mac) in &self.host_addresses {
            insert(*vlan, ip, PORT_HOST, *mac);
        }
        for child in self.children.iter().filter(|child| !child.rights.hidden) {
            if let Membership::Access(vlan) = child.membership {
                for ip in &child.rights.addresses {
                    insert(vlan, ip, child.port, child.mac);
                }
            }
        }
        let netns = |child: &Child| tables.netns.get(&child.netns).map_or(0, |lowest| lowest.port);
        let entry = |child: &Child| Policy { netns: netns(child), ..child.policy_entry() };
        let own: Vec<_> = self.children.iter().map(|child| (child.port, entry(child))).collect();
        let others = [(PORT_WIRE, self.wire), (PORT_HOST, self.host_policy())];
        let policies = own.into_iter().chain(others);
        tables.policies.extend(policies.filter(|(_, policy)| *policy != Policy::default()));
        for child in &self.children {
            let key = |(ip, bits): (Ip, u8)| {
                (AllowedKey::new(child.port, address(ip)), AllowedKey::PORT_BITS + u32::from(bits))
            };
            tables.allowed.extend(child.rights.allowed.iter().copied().map(key));
            // Who has them in which VLAN is not known, or nobody's business.
            if child.rights.hidden || !matches!(child.membership, Membership::Access(_)) {
                let whole = child.rights.addresses.iter().map(|ip| (*ip, 128));
                tables.allowed.extend(whole.map(key));
            }
        }
    }

    fn fill_fdb(&self, tables: &mut TableSet) {
        let host = FdbValue { port: PORT_HOST, kind: Kind::Host as u8, flags: port_flag::TRUNK };
        let untagged = self.host_macs.iter().chain([&self.mac]).map(|mac| (*mac, 0));
        let tagged = self.host_vlans.iter().map(|(vlan, mac)| (*mac, *vlan));
        let beyond = self.beyond.iter().map(|(vlan, mac)| (*mac, *vlan));
        for (mac, vlan) in untagged.chain(tagged).chain(beyond) {
            tables.fdb.insert(FdbKey { mac, vlan }, host);
            tables.fdb.insert(FdbKey { mac, vlan: VLAN_ANY }, host);
        }
        // After the host, because a passthru child has the parent's MAC and gets its frames.
        for child in &self.children {
            let flags = child.port_flags();
            let value = FdbValue { port: child.port, kind: child.kind as u8, flags };
            for vlan in child.fdb_vlans().into_iter().chain([VLAN_ANY]) {
                tables.fdb.insert(FdbKey { mac: child.mac, vlan }, value);
            }
        }
    }

    fn fill_groups(&self, tables: &mut TableSet, before: &BTreeMap<GroupKey, PortRef>) {
        let mut defined: BTreeSet<u16> = self.host_vlans.keys().copied().collect();
        defined.extend(self.children.iter().flat_map(Child::fdb_vlans));
        defined.insert(0);
        for vlan in defined.into_iter().chain([VLAN_ANY]) {
            let members: Vec<&Child> = self.members(vlan).collect();
            let slots = place(vlan, &members, before, &mut tables.groups);
            let veth = members.iter().filter(|c| c.kind == Kind::Veth).count();
            let veth = u16::try_from(veth).unwrap_or(u16::MAX);
            let flags = self.vlan_flags(vlan);
            tables.vlans.insert(vlan, Vlan { slots, veth, flags, pad: 0 });
        }
    }

    /// The members of a VLAN that the dataplane can reach. The kernel gives a tagged frame in the
    /// parent's ingress to the host's sub-interface, if there is one, and never to macvlan.
    fn members(&self, vlan: u16) -> impl Iterator<Item = &Child> {
        let to_host = self.host_vlans.contains_key(&vlan);
        self.children.iter().filter(move |child| match &child.membership {
            Membership::Access(_) => child.membership.contains(vlan),
            Membership::Trunk(_) | Membership::All => {
                child.membership.contains(vlan) && !(to_host && child.is_macvlan())
            }
        })
    }

    fn vlan_flags(&self, vlan: u16) -> u16 {
        let macvlan_children = || self.children.iter().filter(|c| c.is_macvlan());
        let none = macvlan_children().next().is_none();
        let in_kernels_form = |c: &Child| {
            c.membership.contains(vlan)
                && c.flags & port_flag::INTERNAL == 0
                && (vlan == 0 || !matches!(c.membership, Membership::Access(_)))
        };
        let from_wire =
            none || !self.host_vlans.contains_key(&vlan) && macvlan_children().all(in_kernels_form);
        // The kernel's flood knows nothing of private veth children, and puts a private macvlan
        // child's frame back where it came from.
        let apart =
            |c: &Child| c.flags & port_flag::ISOLATED != 0 || c.local & local_flag::ANY_SOURCE != 0;
        let from_child = vlan == 0 && from_wire && !self.children.iter().any(apart);
        // A passthru macvlan child takes every unicast frame that the parent's own stack would get
        // (`drivers/net/macvlan.c`, `macvlan_handle_frame`): no copy reaches the host alone.
        let untagged_host = !macvlan_children().any(|c| c.local & local_flag::ANY_SOURCE != 0);
        let member = |is: &dyn Fn(&Child) -> bool| {
            self.children.iter().any(|c| (vlan == VLAN_ANY || c.membership.contains(vlan)) && is(c))
        };
        // A bridge of the host's, or another parent.
        let beyond = self.host_vlans.contains_key(&vlan) || vlan == 0 && !self.host_macs.is_empty();
        let pinned = self.pinned.keys().any(|(other, _)| vlan == VLAN_ANY || *other == vlan);
        [
            (vlan_flag::DEFINED, true),
            (vlan_flag::KERNEL_FROM_WIRE, from_wire),
            (vlan_flag::KERNEL_FROM_CHILD, from_child && !none),
            (vlan_flag::HOST, self.host_vlans.contains_key(&vlan) || vlan == 0 && untagged_host),
            (vlan_flag::NO_MACVLAN, none),
            (
                vlan_flag::ARP_FLOOD,
                member(&|c| c.rights.policy.checks & check_flag::ARP_FLOOD != 0),
            ),
            (vlan_flag::OPEN4, member(&|c| c.is_open(true))),
            (vlan_flag::OPEN6, member(&|c| c.is_open(false))),
            (vlan_flag::BEYOND, beyond),
            (vlan_flag::PINNED, pinned),
        ]
        .into_iter()
        .filter(|(_, set)| *set)
        .fold(0, |flags, (flag, _)| flags | flag)
    }
}

/// Puts members into the slots of a group; returns one more than the highest slot in use.
fn place(
    vlan: u16,
    members: &[&Child],
    before: &BTreeMap<GroupKey, PortRef>,
    groups: &mut BTreeMap<GroupKey, PortRef>,
) -> u16 {
    let range = GroupKey { vlan, slot: 0 }..=GroupKey { vlan, slot: u16::MAX };
    let mut unplaced: BTreeSet<u16> = members.iter().map(|child| child.port).collect();
    for (key, member) in before.range(range) {
        if unplaced.remove(&member.port) {
            groups.insert(*key, *member);
        }
    }
    let mut slot = 0;
    for port in unplaced {
        while groups.contains_key(&GroupKey { vlan, slot }) {
            slot += 1;
        }
        groups.insert(GroupKey { vlan, slot }, PortRef { port, pad: 0 });
    }
    let range = GroupKey { vlan, slot: 0 }..=GroupKey { vlan, slot: u16::MAX };
    groups.range(range).next_back().map_or(0, |(key, _)| key.slot + 1)
}
