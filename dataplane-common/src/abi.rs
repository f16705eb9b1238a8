//! Keys and values of the maps, as the kernel and the daemon share them.
//!
//! Integers are in host byte order; MACs are in transmission order. No type has implicit padding,
//! a generic or a data-carrying enum, so that its BTF prints as a table. Changing any of them is a
//! new [`VERSION`], which is part of the path where the maps are pinned.

use crate::frame::Mac;

/// The version of everything in this module.
pub const VERSION: u32 = 5;

/// The port of the wire: whatever is behind the parent.
pub const PORT_WIRE: u16 = 0;

/// The port of the host: the parent's own stack, and its 802.1Q sub-interfaces.
pub const PORT_HOST: u16 = 1;

/// The first port of a child.
pub const PORT_FIRST_CHILD: u16 = 2;

/// No port: of a frame of which nobody knows who sent it.
pub const NO_PORT: u16 = u16::MAX;

/// Children per parent.
pub const CHILDREN: u32 = 1024;

/// Entries of the tables that are indexed by port.
pub const PORTS: u32 = CHILDREN + PORT_FIRST_CHILD as u32;

/// Entries of `maclane_fdb`.
pub const FDB_ENTRIES: u32 = 65_536;

/// Slots of a group: one for each child.
pub const GROUP_SLOTS: u32 = CHILDREN;

/// Memberships of all groups together.
pub const GROUP_ENTRIES: u32 = 65_536;

/// Entries of `maclane_vlans`: one for each VLAN ID.
pub const VLANS: u32 = 4096;

/// The VLAN of an FDB entry that says who owns a MAC in any VLAN, and of the group that serves
/// the VLANs without one of their own. It is the ID that IEEE 802.1Q reserves (table 9-2).
pub const VLAN_ANY: u16 = 4095;

/// Buckets of `maclane_sources`. A power of two.
pub const SOURCES: u32 = 16_384;

/// Entries of `maclane_neigh`: addresses of children.
pub const NEIGHBOURS: u32 = 65_536;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`, in transmission order.
pub type Ip = [u8; 16];

/// An [`Ip`] as one number, the bytes in the same places: it fits into registers, and comparing it calls
/// no function.
pub type Address = u128;

/// An [`Ip`] as one number.
#[must_use]
#[inline(always)]
pub const fn address(ip: Ip) -> Address {
    Address::from_ne_bytes(ip)
}

/// Entries of `maclane_learned`: addresses that children have been seen to take.
pub const LEARNED: u32 = 16_384;

/// Entries of `maclane_allowed`: addresses and prefixes that children may use beside their own.
pub const ALLOWED: u32 = 16_384;

/// Entries of `maclane_netns`: one for the namespace of each child, and the host's.
pub const NETNS: u32 = 2 * CHILDREN;

/// Entries of `maclane_offend`: pairs of a port and a reason.
pub const OFFENCES: u32 = 8_192;

/// Bytes of the `maclane_events` ring buffer.
pub const EVENTS_BYTES: u32 = 1 << 16;

/// Names of the maps: at most 15 characters, the kernel's limit (`BPF_OBJ_NAME_LEN`).
pub mod map {
    /// (VLAN, MAC) → port.
    pub const FDB: &str = "maclane_fdb";
    /// Port → what stands there.
    pub const PORTS: &str = "maclane_ports";
    /// Index of a veth child's host end → port.
    pub const HOST_ENDS: &str = "maclane_hostend";
    /// Cookie of a network namespace → a port in it.
    pub const NETNS: &str = "maclane_netns";
    /// Port → device, for redirects in XDP.
    pub const TX: &str = "maclane_tx";
    /// VLAN → how to flood it.
    pub const VLANS: &str = "maclane_vlans";
    /// (VLAN, slot) → member.
    pub const GROUPS: &str = "maclane_groups";
    /// Bucket → how many of our MACs fall into it, and the FDB entry of one.
    pub const SOURCES: &str = "maclane_sources";
    /// (VLAN, IP address) → the child that has it.
    pub const NEIGHBOURS: &str = "maclane_neigh";
    /// (VLAN, IP address) → the child that has been seen to take it.
    pub const LEARNED: &str = "maclane_learned";
    /// (port, prefix) → may be used there.
    pub const ALLOWED: &str = "maclane_allowed";
    /// Port → what is allowed there.
    pub const POLICY: &str = "maclane_policy";
    /// Port → how much of what is limited has come in lately.
    pub const USAGE: &str = "maclane_usage";
    /// (port, drop reason) → how often, and the last frame, per CPU.
    pub const OFFENCES: &str = "maclane_offend";
    /// Port → counters, per CPU.
    pub const STATS: &str = "maclane_stats";
    /// Drop reason → counters, per CPU.
    pub const DROPS: &str = "maclane_drops";
    /// Events for the daemon.
    pub const EVENTS: &str = "maclane_events";
    /// Kind of event → when the last one was sent, per CPU.
    pub const EVENT_GATE: &str = "maclane_gate";

    /// Where the guards of macvlan children lead: one program.
    pub const GUARDS: &str = "maclane_guards";
    /// Where the ingress leads with frames between children in bridge mode: one program.
    pub const SIBLINGS: &str = "maclane_sibling";
    /// Single frames, for whoever traces them ([`crate::trace`]).
    pub const TRACE: &str = "maclane_trace";
    /// Which frames those are.
    pub const TRACER: &str = "maclane_tracer";
    /// Where a program puts together what it tells of one, per CPU.
    pub const SNAP: &str = "maclane_snap";

    /// All of them.
    pub const ALL: &[&str] = &[
        FDB, PORTS, HOST_ENDS, NETNS, TX, VLANS, GROUPS, SOURCES, NEIGHBOURS, LEARNED, ALLOWED,
        POLICY, USAGE, OFFENCES, STATS, DROPS, EVENTS, EVENT_GATE, GUARDS, SIBLINGS, TRACE, TRACER,
        SNAP,
    ];
}

/// What stands at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: the value of an empty entry.
    None = 0,
    /// The wire.
    Wire = 1,
    /// The host.
    Host = 2,
    /// A macvlan child: frames reach it through the parent's ingress.
    Macvlan = 3,
    /// A veth child: frames reach it through its host end.
    Veth = 4,
}

impl Kind {
    /// The kind with this number; [`Kind::None`] for a number that no kind has.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Wire,
            2 => Self::Host,
            3 => Self::Macvlan,
            4 => Self::Veth,
            _ => Self::None,
        }
    }
}

/// Flags of a port that say what may be sent to it: in `maclane_ports`, and in `maclane_fdb`.
pub mod port_flag {
    /// It sees VLANs tagged: the wire, the host, a trunk child.
    pub const TRUNK: u8 = 1;
    /// A trunk of every VLAN.
    pub const ALL_VLANS: u8 = 1 << 1;
    /// A private child: no frame between it and any other child.
    pub const ISOLATED: u8 = 1 << 2;
    /// A macvlan child in bridge mode: the kernel serves its bridge siblings by itself.
    pub const BRIDGE: u8 = 1 << 3;
    /// `maclane_guard` is on the child: a frame of its own carries its mark.
    pub const GUARDED: u8 = 1 << 4;
    /// A child of an internal network: no frame between it and the wire.
    pub const INTERNAL: u8 = 1 << 5;
    /// The MAC may be in use on the wire too (a VRRP router, RFC 9568 section 7.3).
    pub const SHARED_MAC: u8 = 1 << 7;
}

/// Flags of a port that matter at the port itself, in `maclane_ports`.
pub mod local_flag {
    /// It may send with any source MAC (a passthru child).
    pub const ANY_SOURCE: u8 = 1;
    /// A veth child in another namespace than the parent: `bpf_redirect_peer` reaches it.
    pub const PEER: u8 = 1 << 1;
    /// It may send with any source MAC, beside its own.
    pub const ANY_MAC: u8 = 1 << 2;
    /// What it sends to link-local groups (STP and its like) goes to the wire.
    pub const RESERVED: u8 = 1 << 3;
}

/// Key of `maclane_fdb`. Eight bytes: the key size that the kernel's hash is fastest with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FdbKey {
    /// Destination MAC.
    pub mac: Mac,
    /// VLAN ID; 0 is untagged, [`VLAN_ANY`] says who owns the MAC.
    pub vlan: u16,
}

impl FdbKey {
    /// The key as one word, which is compared faster than its parts.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u64 {
        let (mac, vlan) = (self.mac, self.vlan.to_le_bytes());
        u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], vlan[0], vlan[1]])
    }

    /// The key in a word that [`Self::word`] gave.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let b = word.to_le_bytes();
        Self { mac: [b[0], b[1], b[2], b[3], b[4], b[5]], vlan: u16::from_le_bytes([b[6], b[7]]) }
    }
}

/// Value of `maclane_fdb`. No entry is all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FdbValue {
    /// The port.
    pub port: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// [`port_flag`]s.
    pub flags: u8,
}

impl FdbValue {
    /// [`Self::to_raw`] of no entry.
    pub const NOTHING: u32 = 0;

    /// The entry as one word.
    #[must_use]
    #[inline(always)]
    pub const fn to_raw(self) -> u32 {
        let [low, high] = self.port.to_le_bytes();
        u32::from_le_bytes([low, high, self.kind, self.flags])
    }

    /// The entry in a word that [`Self::to_raw`] gave, if it is one.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        let [low, high, kind, flags] = raw.to_le_bytes();
        if raw == Self::NOTHING {
            return None;
        }
        Some(Self { port: u16::from_le_bytes([low, high]), kind, flags })
    }
}

/// Value of `maclane_ports`. The default, all zeros, is the entry of a port that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Port {
    /// For the wire and the host the parent, for a veth child its host end; 0 for macvlan, whose
    /// index means nothing outside its own namespace.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: Mac,
    /// The VLAN that it sees untagged.
    pub vlan: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// [`port_flag`]s.
    pub flags: u8,
    /// [`local_flag`]s.
    pub local: u8,
    /// Zero.
    pub pad: u8,
}

/// Value of `maclane_hostend` and `maclane_groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortRef {
    /// The port.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Flags of a network namespace in `maclane_netns`: the options that its sockets may not set.
pub mod netns_flag {
    /// Those by which a frame bypasses the guard of a macvlan child.
    pub const BYPASS: u16 = 1;
    /// Those by which the sender chooses the place of a pending checksum.
    pub const CHECKSUM: u16 = 1 << 1;
}

/// Value of `maclane_netns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Netns {
    /// The lowest port in the namespace.
    pub port: u16,
    /// [`netns_flag`]s.
    pub flags: u16,
}

/// Key of `maclane_groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct GroupKey {
    /// VLAN ID, or [`VLAN_ANY`].
    pub vlan: u16,
    /// The member's slot. A member keeps its slot; a slot may be empty.
    pub slot: u16,
}

/// Flags of a VLAN in `maclane_vlans`.
pub mod vlan_flag {
    /// The VLAN has a group of its own. Otherwise that of [`super::VLAN_ANY`] serves it.
    pub const DEFINED: u16 = 1;
    /// The kernel's own flood of a frame from the wire reaches exactly the macvlan members.
    pub const KERNEL_FROM_WIRE: u16 = 1 << 1;
    /// So does its flood of a child's frame that is put back into the parent's ingress.
    pub const KERNEL_FROM_CHILD: u16 = 1 << 2;
    /// The host is a member, and a copy can reach it alone: in VLAN 0 not past a passthru macvlan
    /// child, which has its place.
    pub const HOST: u16 = 1 << 3;
    /// No macvlan child sits on the parent: what the kernel gets reaches the host alone.
    pub const NO_MACVLAN: u16 = 1 << 4;
    /// A question for an address that nobody is known to have goes to everybody.
    pub const ARP_FLOOD: u16 = 1 << 5;
    /// A member may have IPv4 addresses that are not known: such a question goes to everybody, up to
    /// a rate.
    pub const OPEN4: u16 = 1 << 6;
    /// The same for IPv6.
    pub const OPEN6: u16 = 1 << 7;
    /// Behind the host may be stations whose addresses are not known: it hears every question of the wire.
    pub const BEYOND: u16 = 1 << 8;
    /// An address in it is pinned to a station of the wire.
    pub const PINNED: u16 = 1 << 9;
}

/// Value of `maclane_vlans`: how to flood a VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vlan {
    /// One more than the highest slot in use.
    pub slots: u16,
    /// How many members are veth children.
    pub veth: u16,
    /// [`vlan_flag`]s.
    pub flags: u16,
    /// Zero.
    pub pad: u16,
}

/// Value of `maclane_sources`: what is known of the MACs that fall into one bucket. It answers for
/// most frames, and costs a fraction of what the FDB's hash does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// The key of one FDB entry, or [`Bucket::NO_KEY`].
    pub key: FdbKey,
    /// That entry.
    pub entry: FdbValue,
    /// How many of our MACs fall into it.
    pub macs: u32,
}

impl Bucket {
    /// The key of no frame: nobody has a group address.
    pub const NO_KEY: FdbKey = FdbKey { mac: [0xff; 6], vlan: 0xffff };

    /// A bucket without an entry.
    #[must_use]
    pub const fn without_entry(macs: u32) -> Self {
        let entry = FdbValue { port: 0, kind: Kind::None as u8, flags: 0 };
        Self { key: Self::NO_KEY, entry, macs }
    }

    /// What the FDB says of a key whose MAC falls into this bucket; `None` if it has to be asked.
    #[must_use]
    #[inline(always)]
    pub fn answer(&self, key: FdbKey) -> Option<Option<FdbValue>> {
        if self.macs == 0 {
            Some(None)
        } else if self.key.word() == key.word() && self.entry.kind != Kind::None as u8 {
            // The kernel copies a value word by word: one that is being written may have its key
            // already, and not yet its entry.
            Some(Some(self.entry))
        } else {
            None
        }
    }
}

/// Key of `maclane_neigh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct NeighbourKey {
    /// The address.
    pub ip: Ip,
    /// The VLAN; 0 is untagged.
    pub vlan: u16,
    /// Zero.
    pub pad: u16,
}

impl NeighbourKey {
    /// The key of an address in a VLAN.
    #[must_use]
    #[inline(always)]
    pub const fn new(ip: Address, vlan: u16) -> Self {
        Self { ip: ip.to_ne_bytes(), vlan, pad: 0 }
    }
}

/// Value of `maclane_neigh`: who has an address. A child, the host, or, where somebody has pinned
/// it, a station on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Neighbour {
    /// Its port.
    pub port: u16,
    /// Its MAC.
    pub mac: Mac,
}

impl Neighbour {
    /// [`Self::to_raw`] of no station: no port has this number.
    const NONE: u64 = u64::MAX;

    /// A station, or none, as one word: the verifier does not accept reads of the gaps that an option has.
    #[must_use]
    #[inline(always)]
    pub const fn to_raw(station: Option<Self>) -> u64 {
        match station {
            Some(Self { port, mac: m }) => {
                u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]]) | (port as u64) << 48
            }
            None => Self::NONE,
        }
    }

    /// The station in a word that [`Self::to_raw`] gave, if there is one.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw == Self::NONE {
            return None;
        }
        let [high, low, mac @ ..] = raw.to_be_bytes();
        Some(Self { port: u16::from_be_bytes([high, low]), mac })
    }
}

/// Value of `maclane_learned`: which child has been seen to take an address. The programs write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Learned {
    /// When it was seen last, in nanoseconds since boot.
    pub seen: u64,
    /// When it was seen first, in nanoseconds since boot.
    pub since: u64,
    /// The child's port.
    pub port: u16,
    /// Its MAC.
    pub mac: Mac,
}

/// Key of `maclane_allowed`, as a longest-prefix match has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct AllowedKey {
    /// The port, most significant byte first.
    pub port: [u8; 2],
    /// An address of the prefix.
    pub ip: Ip,
}

impl AllowedKey {
    /// The key of a port and an address.
    #[must_use]
    #[inline(always)]
    pub const fn new(port: u16, ip: Address) -> Self {
        Self { port: port.to_be_bytes(), ip: ip.to_ne_bytes() }
    }

    /// Bits in front of the address.
    pub const PORT_BITS: u32 = 16;

    /// All bits.
    pub const BITS: u32 = Self::PORT_BITS + 128;
}

/// What a port's frames are looked at for, in `maclane_policy`.
pub mod check_flag {
    /// Their source addresses, and who they say to be in ARP and neighbour discovery.
    pub const ADDRESS: u16 = 1;
    /// What servers of DHCP and RARP say.
    pub const DHCP_SERVER: u16 = 1 << 1;
    /// Router advertisements and redirects.
    pub const ROUTER: u16 = 1 << 2;
    /// What fails is dropped, and not only counted.
    pub const ENFORCE: u16 = 1 << 3;
    /// The MACs that they say to have in ARP and neighbour discovery.
    pub const MAC: u16 = 1 << 4;
    /// Questions for its addresses go to everybody.
    pub const ARP_FLOOD: u16 = 1 << 5;
    /// Questions for its addresses are answered for it.
    pub const ARP_SUPPRESS: u16 = 1 << 6;
    /// An address that nobody has is its own once it has asked whether somebody has it (RFC 6620).
    pub const LEARN6: u16 = 1 << 7;
    /// Any IPv4 address that it is seen with is its own.
    pub const LEARN4: u16 = 1 << 8;
    /// Frames of its namespace's sockets may bypass its guard.
    pub const RAW_SOCKET: u16 = 1 << 9;
    /// Of the host: the parent is closed to sockets of unknown namespaces.
    pub const CLOSED: u16 = 1 << 10;
    /// Of the host: a child's owner may have filters behind its guard.
    pub const FILTERS: u16 = 1 << 11;
    /// What multicast routers say: queries of IGMP and MLD, PIM.
    pub const MULTICAST_ROUTER: u16 = 1 << 12;
    /// What switches tell each other in groups that bridges forward: CDP and its kin, GVRP, MVRP.
    pub const SWITCHING: u16 = 1 << 13;
}

/// What of a port is limited in frames per second: the place in [`Policy::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// Broadcasts.
    Broadcast = 0,
    /// Multicasts.
    Multicast = 1,
    /// From the wire for nobody here. Of the host: questions of the wire for addresses that nobody is
    /// known to have, as many as there may be broadcasts.
    Unknown = 2,
    /// Questions for addresses that nobody is known to have, where they may have to reach a child.
    Stranger = 3,
}

/// How many [`Limit`]s there are.
pub const LIMITS: usize = 4;

/// Added to a [`Limit`]: the window of what a guard has seen.
pub const EARLY: u32 = 4;

/// Windows of a port. A power of two, so that a mask keeps an index inside.
pub const WINDOWS: usize = 8;

/// Questions for strangers that reach children whose addresses are not known, in a second, of each
/// port that asks.
pub const STRANGERS: u32 = 100;

/// Value of `maclane_policy`: what is allowed at a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// [`check_flag`]s.
    pub checks: u16,
    /// How many addresses it may take by itself.
    pub max_addresses: u16,
    /// Frames per second, by [`Limit`]; 0 is no limit.
    pub limits: [u32; LIMITS],
    /// Its first IPv4 address, or zero.
    pub ip4: [u8; 4],
    /// Its first IPv6 address, or zero.
    pub ip6: Ip,
    /// The lowest port in its network namespace; 0 if the namespace is not known.
    pub netns: u16,
    /// Zero.
    pub pad: u16,
}

/// Value of `maclane_usage`: what a port has used of its limits. The programs write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Usage {
    /// By [`Limit`]; from [`EARLY`] on what the guard of a macvlan child in bridge mode has seen, by
    /// [`Limit::Broadcast`] and [`Limit::Multicast`].
    pub windows: [Window; WINDOWS],
    /// Addresses that it has taken by itself.
    pub addresses: u32,
}

/// Frames in a window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// The number of the window since boot.
    pub number: u32,
    /// Frames in it.
    pub frames: u32,
}

/// A window is this many nanoseconds long, as a power of two: an eighth of a second, roughly.
pub const WINDOW_SHIFT: u32 = 27;

/// The frames that a rate per second allows in one window; at least one.
#[must_use]
#[inline(always)]
pub const fn frames_in_window(rate: u32) -> u32 {
    // 2^27 ns are 0.134 s, 137/1024.
    let frames = (rate as u64 * 137) >> 10;
    #[allow(clippy::cast_possible_truncation, reason = "fewer than the rate")]
    if frames == 0 { 1 } else { frames as u32 }
}

/// Key of `maclane_offend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct OffenceKey {
    /// The port that the frames came from.
    pub port: u16,
    /// The [`crate::DropReason`].
    pub reason: u16,
}

/// Value of `maclane_offend`: frames of a port that were dropped for a reason, or would have been. Of
/// those from the wire only some are looked at; `maclane_drops` counts all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offence {
    /// Frames that were dropped.
    pub dropped: u64,
    /// Frames that were let through, because the port's security only counts.
    pub logged: u64,
    /// When the last one was seen, in nanoseconds since boot.
    pub last: u64,
    /// Its destination.
    pub dst: Mac,
    /// Its source.
    pub src: Mac,
    /// Its VLAN.
    pub vlan: u16,
    /// Its `EtherType`, host byte order.
    pub ethertype: u16,
    /// Zero.
    pub pad: u32,
}

/// The bucket of a MAC in `maclane_sources`.
#[must_use]
#[inline(always)]
pub const fn bucket(mac: Mac) -> u32 {
    let low = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
    let high = u32::from_be_bytes([0, 0, mac[0], mac[1]]);
    // Fibonacci hashing: neighbouring MACs, which is what children have, spread evenly.
    (low ^ high).wrapping_mul(0x9e37_79b9) >> (32 - SOURCES.trailing_zeros())
}

/// Value of `maclane_stats`. Segments of an offloaded frame are counted one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stats {
    /// Frames that came in from the port.
    pub rx_packets: u64,
    /// Bytes that came in from the port.
    pub rx_bytes: u64,
    /// Frames that went out to the port.
    pub tx_packets: u64,
    /// Bytes that went out to the port.
    pub tx_bytes: u64,
}

/// Value of `maclane_drops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Drops {
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Value of `maclane_gate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Gate {
    /// When the last event was sent, in nanoseconds since boot.
    pub last: u64,
}

/// The settings of a parent's programs: frozen when they are loaded, so that the verifier removes
/// what is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// The cookie of the host's network namespace: with it the frames of most sockets need no
    /// look-up. 0 if it is not known.
    pub host: u64,
    /// 1: drop frames from the wire for nobody here.
    pub drop_unknown: u8,
    /// 1: XDP may drop. 0 in generic mode, where XDP meets hairpinned frames again and cannot see
    /// their mark: there TC drops.
    pub xdp_may_drop: u8,
    /// 1: XDP sees every VLAN tag in the frame. 0 where an offload may have moved it to metadata:
    /// there a frame without a tag is left to TC.
    pub xdp_sees_tags: u8,
    /// 1: XDP runs in generic mode, and TC may meet frames without their MAC header.
    pub xdp_generic: u8,
    /// 1: frames are traced.
    pub trace: u8,
    /// 1: the kernel has `bpf_get_netns_cookie` for TC.
    pub netns: u8,
    /// 1: guards may stamp frames, as the kernel has TCX. 0 leaves the verifier without what follows
    /// from a stamp.
    pub guards: u8,
    /// Zero.
    pub pad: u8,
}

/// Where the kernel keeps what it knows of a pending checksum (`CHECKSUM_PARTIAL`), in
/// `struct sk_buff` (`include/linux/skbuff.h`): offsets in bytes, which differ between kernels. Frozen
/// when the programs are loaded. All zero where they are not known: no checksum is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SkbLayout {
    /// The byte with `ip_summed`, whose two bits stand at `shift`.
    pub ip_summed: u16,
    /// `csum_start` and, behind it, `csum_offset`: two `u16`.
    pub csum_start: u16,
    /// [`Self::PLACE`] bytes that end with `head` and `data`, two pointers.
    pub place: u16,
    /// Where `transport_header`, a `u16`, is in them.
    pub transport_header: u8,
    /// How far left of the lowest bit `ip_summed` stands.
    pub shift: u8,
}

impl SkbLayout {
    /// Bytes that are read at once, of [`Self::place`].
    pub const PLACE: usize = 40;

    /// Where `head` is in them.
    pub const HEAD: usize = Self::PLACE - 16;
}

/// The kinds of event in `maclane_events`.
pub mod event_kind {
    /// A frame left through the parent with a source MAC that the FDB does not know: somebody
    /// made a child.
    pub const NEW_SOURCE: u32 = 1;
    /// A frame from the wire says that its sender has an address which a child has.
    pub const CLAIM: u32 = 2;
    /// A child has sent what it may not.
    pub const OFFENCE: u32 = 3;
    /// More came in at a port than its limits allow.
    pub const STORM: u32 = 4;

    /// None: the gate in front of noting one of many dropped frames from the wire.
    pub const SAMPLE: u32 = 5;

    /// One more than the highest: the entries of `maclane_gate`.
    pub const END: u32 = 6;
}

/// An event in `maclane_events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// An [`event_kind`].
    pub kind: u32,
    /// The VLAN of the frame.
    pub vlan: u16,
    /// The source MAC of the frame.
    pub mac: Mac,
}

/// An event of the kind [`event_kind::CLAIM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Claim {
    /// What every event says.
    pub event: Event,
    /// The address that is claimed.
    pub ip: Ip,
}

/// An event of the kinds [`event_kind::OFFENCE`] and [`event_kind::STORM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offended {
    /// What every event says.
    pub event: Event,
    /// The port that the frame came from.
    pub port: u16,
    /// The [`crate::DropReason`].
    pub reason: u16,
}

// The sizes that the maps are created with. A change here is a new `VERSION`.
const _: () = {
    assert!(size_of::<FdbKey>() == 8);
    assert!(size_of::<FdbValue>() == 4);
    assert!(size_of::<Port>() == 16);
    assert!(size_of::<PortRef>() == 4);
    assert!(size_of::<Netns>() == 4);
    assert!(size_of::<GroupKey>() == 4);
    assert!(size_of::<Vlan>() == 8);
    assert!(size_of::<Bucket>() == 16);
    assert!(size_of::<Stats>() == 32);
    assert!(size_of::<Drops>() == 16);
    assert!(size_of::<Gate>() == 8);
    assert!(size_of::<Event>() == 12);
    assert!(size_of::<Claim>() == 28);
    assert!(size_of::<NeighbourKey>() == 20);
    assert!(size_of::<Neighbour>() == 8);
    assert!(size_of::<Learned>() == 24);
    assert!(size_of::<AllowedKey>() == 18);
    assert!(size_of::<Policy>() == 44);
    assert!(size_of::<Usage>() == 68);
    assert!(size_of::<OffenceKey>() == 4);
    assert!(size_of::<Offence>() == 48);
    assert!(size_of::<Offended>() == 16);
    assert!(size_of::<Settings>() == 16);
    assert!(size_of::<SkbLayout>() == 8);
    assert!(SOURCES.is_power_of_two() && WINDOWS.is_power_of_two());
    assert!(EARLY as usize >= LIMITS && EARLY as usize + 2 <= WINDOWS);
};

/// aya copies these types to and from the kernel as bytes.
#[cfg(feature = "user")]
mod pod {
    use super::{
        AllowedKey, Bucket, Claim, Drops, Event, FdbKey, FdbValue, Gate, GroupKey, Learned,
        Neighbour, NeighbourKey, Netns, Offence, OffenceKey, Offended, Policy, Port, PortRef,
        Settings, SkbLayout, Stats, Usage, Vlan,
    };
    use crate::trace::{Traced, Tracer};

    macro_rules! pod {
        ($($name:ident),+) => {
            $(
                // SAFETY: `repr(C)`, without padding, and any bytes are a value of it.
                unsafe impl aya::Pod for $name {}
            )+
        };
    }

    pod!(
        AllowedKey,
        Bucket,
        Claim,
        Drops,
        Event,
        FdbKey,
        FdbValue,
        Gate,
        GroupKey,
        Learned,
        Neighbour,
        NeighbourKey,
        Netns,
        Offence,
        OffenceKey,
        Offended,
        Policy,
        Port,
        PortRef,
        Settings,
        SkbLayout,
        Stats,
        Traced,
        Tracer,
        Usage,
        Vlan
    );
}

/// The tables that a decision is taken from: BPF maps in the kernel, `HashMap`s in a test.
pub trait Tables {
    /// The entry of a MAC in a VLAN.
    fn fdb(&self, mac: Mac, vlan: u16) -> Option<FdbValue>;
    /// What stands at a port.
    fn port(&self, port: u16) -> Option<Port>;
    /// How to flood a VLAN, by its ID or [`VLAN_ANY`].
    fn vlan(&self, vlan: u16) -> Vlan;
    /// False only if no port has this MAC; cheaper than [`Tables::fdb`].
    fn may_be_ours(&self, mac: Mac) -> bool;
    /// Frames from the wire for nobody here are dropped.
    fn drop_unknown(&self) -> bool;
    /// The lowest port in the network namespace of a port; 0 if the namespace is not known.
    fn netns(&self, port: u16) -> u16;
    /// The parent is closed to sockets of unknown namespaces.
    fn is_closed(&self) -> bool;
    /// A child's owner may have filters behind its guard.
    fn has_filters(&self) -> bool;
}

/// The tables that say who has an address, and what is allowed where.
pub trait Addresses {
    /// Who has an address, as somebody has configured it.
    fn neighbour(&self, key: &NeighbourKey) -> Option<Neighbour>;
    /// Which child has been seen to take an address.
    fn learned(&self, key: &NeighbourKey) -> Option<Learned>;
    /// True for an address that may be used at a port beside its own.
    fn allowed(&self, key: AllowedKey) -> bool;
    /// What is allowed at a port.
    fn policy(&self, port: u16) -> Policy;
}
