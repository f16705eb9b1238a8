//! Frames about who has an address: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861), and
//! whom they are for.
#![allow(clippy::many_single_char_names, reason = "the bytes of addresses")]

use crate::{
    abi::{
        Address, Addresses, AllowedKey, Ip, Learned, Neighbour, NeighbourKey, PORT_FIRST_CHILD,
        PORT_HOST, PORT_WIRE, Policy, Tables, address, check_flag, vlan_flag,
    },
    decide::Audience,
    frame::Mac,
    packet::{Bytes, ETH_P_ARP, ETH_P_IPV6, ICMPV6, IPV6_HLEN},
    verdict::DropReason,
};

/// No address: `::`.
pub const UNSPECIFIED: Address = 0;

/// How long somebody who has asked whether an address is free has to wait for an answer before it is
/// believed to be his (RFC 6620, section 5, `TENT_LT`), in nanoseconds.
pub const TENTATIVE_NS: u64 = 500_000_000;

/// After how long without a sign of life an address may be somebody else's, in nanoseconds.
pub const STALE_NS: u64 = 600_000_000_000;

/// The hardware, the protocol and the lengths of their addresses: Ethernet and IPv4.
const ETHERNET_IPV4: u64 = 0x0001_0800_0604;

/// The lengths of their addresses alone.
const LENGTHS: u64 = 0x0604;

/// The operation of a request (RFC 826).
const REQUEST: u16 = 1;

/// The hop limit of a message from the link itself (RFC 4861, section 7.1.1): stations believe no other.
pub(crate) const FROM_LINK: u8 = 255;

/// A router solicitation, with code 0 (RFC 4861, section 4.1).
const ROUTER_SOLICITATION: u16 = 0x8500;

/// A router advertisement, with code 0 (RFC 4861, section 4.2).
const ROUTER_ADVERTISEMENT: u16 = 0x8600;

/// A neighbour solicitation, with code 0 (RFC 4861, section 4.3).
const SOLICITATION: u16 = 0x8700;

/// A neighbour advertisement, with code 0 (RFC 4861, section 4.4).
const ADVERTISEMENT: u16 = 0x8800;

/// A redirect, with code 0 (RFC 4861, section 4.5).
const REDIRECT: u16 = 0x8900;

/// What a message about an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who has the target?
    Question,
    /// Does somebody have the target, which the sender would like to have (RFC 5227, section 2.1.1; RFC
    /// 4862, section 5.4)?
    Probe,
    /// The sender has the target: a reply, an announcement, an advertisement.
    Claim,
    /// The sender may name its MAC beside something else: a router solicitation or advertisement.
    Notice,
    /// Another station has the target, and its MAC may be named: a redirect.
    Redirect,
}

impl Kind {
    /// True for a message that wants an answer of the target's owner.
    #[must_use]
    #[inline(always)]
    pub const fn asks(self) -> bool {
        matches!(self, Self::Question | Self::Probe)
    }
}

/// A message about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The address that it is about.
    pub target: Address,
    /// The address that its sender says to have; [`UNSPECIFIED`] for a probe.
    pub sender: Address,
}

/// The fields of a packet of ARP or RARP whose addresses are as long as those of Ethernet and IPv4. MACs are
/// [`word`]s: arrays would lie on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    header: u64,
    /// The operation.
    pub operation: u16,
    /// The sender's MAC.
    pub mac: u64,
    /// The sender's address.
    pub sender: u32,
    /// The target's MAC.
    pub target_mac: u64,
    /// The target's address.
    pub target: u32,
}

impl Arp {
    /// Reads a packet. Hardware and protocol are not looked at: stations take others than Ethernet, too
    /// (`net/ipv4/arp.c`, `arp_process`: `ARPHRD_IEEE802`).
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    pub fn read(bytes: &impl Bytes, offset: u32) -> Option<Self> {
        // All of it at once: each part would be one more way for the verifier to follow.
        let packet: [u8; 28] = bytes.load(offset)?;
        let (eights, rest) = packet.as_chunks::<8>();
        let [first, second, third] = [eights[0], eights[1], eights[2]].map(u64::from_be_bytes);
        let header = first >> 16;
        if header & 0xffff != LENGTHS {
            return None;
        }
        Some(Self {
            header,
            operation: first as u16,
            mac: second >> 16,
            sender: (second as u32) << 16 | (third >> 48) as u32,
            target_mac: third & 0xffff_ffff_ffff,
            target: u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]),
        })
    }

    /// True for hardware Ethernet and protocol IPv4, which all stacks write.
    #[must_use]
    #[inline(always)]
    pub const fn is_ethernet(&self) -> bool {
        self.header == ETHERNET_IPV4
    }

    /// True for ARP that claims its sender's address, or asks for one in its name: all but a probe.
    #[must_use]
    #[inline(always)]
    pub const fn has_sender(&self) -> bool {
        self.operation != REQUEST || self.sender != 0 || self.target == 0
    }

    /// The sender's address.
    #[must_use]
    #[inline(always)]
    pub const fn sender(&self) -> Address {
        mapped_address(self.sender.to_be_bytes())
    }

    /// What it means as ARP.
    #[must_use]
    #[inline(always)]
    pub const fn message(&self) -> Message {
        let (own, other) = (self.sender(), mapped_address(self.target.to_be_bytes()));
        let (kind, target, sender) = if self.operation != REQUEST || self.sender == self.target {
            (Kind::Claim, own, own)
        } else if self.sender == 0 {
            (Kind::Probe, other, UNSPECIFIED)
        } else {
            (Kind::Question, other, own)
        };
        Message { kind, target, sender }
    }
}

/// An IPv4 address as the tables have it (RFC 4291, section 2.5.5.2).
#[must_use]
#[inline(always)]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> Ip {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The same as one number.
#[must_use]
#[inline(always)]
pub const fn mapped_address(ip: [u8; 4]) -> Address {
    let low = u64::from_ne_bytes([0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3]]);
    join(0, low)
}

/// An address of its first and its last eight bytes, each as it lies in memory.
#[must_use]
#[inline(always)]
pub const fn join(first: u64, last: u64) -> Address {
    if cfg!(target_endian = "little") {
        (last as u128) << 64 | first as u128
    } else {
        (first as u128) << 64 | last as u128
    }
}

/// Undoes [`join`].
#[must_use]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "each half is cut out")]
pub const fn halves(ip: Address) -> (u64, u64) {
    let (low, high) = (ip as u64, (ip >> 64) as u64);
    if cfg!(target_endian = "little") { (low, high) } else { (high, low) }
}

/// True for an IPv4 address as the tables have it.
#[must_use]
#[inline(always)]
pub const fn is_mapped(ip: Address) -> bool {
    let (first, last) = halves(ip);
    first == 0 && u64::from_be(last) >> 32 == 0xffff
}

/// The message that a frame carries, if its payload, which begins at `offset`, is one that stands where it
/// is expected.
#[inline(always)]
pub fn message(bytes: &impl Bytes, ethertype: u16, offset: u32) -> Option<Message> {
    match ethertype {
        ETH_P_ARP => Arp::read(bytes, offset).map(|arp| arp.message()),
        ETH_P_IPV6 => plain_discovery(bytes, offset),
        _ => None,
    }
}

/// Reads a message of neighbour discovery that stands right behind the IPv6 header.
#[inline(always)]
pub(crate) fn plain_discovery(bytes: &impl Bytes, offset: u32) -> Option<Message> {
    let [next, hops]: [u8; 2] = bytes.load(offset + 6)?;
    if next == ICMPV6 && hops == FROM_LINK {
        discovery(bytes, offset, offset + IPV6_HLEN)
    } else {
        None
    }
}

/// Reads a message of neighbour discovery that begins at `at`, in the IPv6 packet that begins at `offset`.
#[inline(always)]
pub(crate) fn discovery(bytes: &impl Bytes, offset: u32, at: u32) -> Option<Message> {
    let kind = u16::from_be_bytes(bytes.load(at)?);
    let source = address(bytes.load(offset + 8)?);
    let message = |kind, target, sender| Some(Message { kind, target, sender });
    if matches!(kind, ROUTER_SOLICITATION | ROUTER_ADVERTISEMENT) {
        return message(Kind::Notice, source, source);
    }
    if !matches!(kind, SOLICITATION | ADVERTISEMENT | REDIRECT) {
        return None;
    }
    let target = address(bytes.load(at + 8)?);
    match kind {
        SOLICITATION if source == UNSPECIFIED => message(Kind::Probe, target, UNSPECIFIED),
        SOLICITATION => message(Kind::Question, target, source),
        ADVERTISEMENT => message(Kind::Claim, target, target),
        _ => message(Kind::Redirect, target, source),
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whom its destination says, some of them left out.
    Audience(Audience),
    /// The child that has the address, alone.
    Child(Neighbour),
    /// Nobody.
    Nobody(DropReason),
}

impl Asked {
    const AUDIENCE: u64 = 1 << 15;
    const NOBODY: u64 = 1 << 14;

    /// One word: functions of a program that the verifier looks at by themselves return numbers only.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        match self {
            Self::Audience(audience) => Self::AUDIENCE | audience as u64,
            Self::Nobody(reason) => Self::NOBODY | reason as u64,
            Self::Child(Neighbour { port, mac: [a, b, c, d, e, f] }) => {
                u64::from_le_bytes([0, 0, a, b, c, d, e, f]) | port as u64
            }
        }
    }

    /// What a word says that [`Self::pack`] gave.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the lowest byte")]
    pub const fn unpack(word: u64) -> Self {
        if word & Self::AUDIENCE != 0 {
            return Self::Audience(Audience::from_raw(word as u8));
        }
        if word & Self::NOBODY != 0 {
            return Self::Nobody(DropReason::from_raw(word as u8));
        }
        let [low, high, a, b, c, d, e, f] = word.to_le_bytes();
        Self::Child(Neighbour { port: u16::from_le_bytes([low, high]), mac: [a, b, c, d, e, f] })
    }
}

/// The station that has an address, as far as that is known: somebody configured it, or the child was
/// seen to have it.
#[inline(always)]
pub fn owner(key: &NeighbourKey, now: u64, tables: &impl Addresses) -> Option<Neighbour> {
    if let Some(known) = tables.neighbour(key) {
        return Some(known);
    }
    let learned = tables.learned(key)?;
    if is_stale(&learned, now, tables) {
        return None;
    }
    Some(Neighbour { port: learned.port, mac: learned.mac })
}

/// True for an address that may be somebody else's by now. One that is bound to its child is not.
#[inline(always)]
fn is_stale(learned: &Learned, now: u64, tables: &impl Addresses) -> bool {
    now.saturating_sub(learned.seen) > STALE_NS
        && tables.policy(learned.port).checks & check_flag::ADDRESS == 0
}

/// Whom a message from port `from` is for.
///
/// A question goes to the one station that can answer it. A probe for an address that nobody is known
/// to have, and whatever claims one, goes to everybody: somebody may want the same address at this
/// moment, and everybody may know an old MAC.
#[inline(always)]
pub fn asked(
    message: &Message,
    from: u16,
    vlan: u16,
    now: u64,
    tables: &(impl Addresses + Tables),
    strangers: &impl Strangers,
) -> Asked {
    let everybody = Asked::Audience(Audience::Everybody);
    if !message.kind.asks() {
        return everybody;
    }
    let key = NeighbourKey::new(message.target, vlan);
    let Some(owner) = owner(&key, now, tables) else {
        if message.kind as u8 == Kind::Probe as u8 {
            return everybody;
        }
        return stranger(message, from, vlan, tables, strangers);
    };
    if owner.port == from && from != PORT_WIRE {
        // It asks for its own: a probe of what it has already, which others have to hear.
        return everybody;
    }
    match owner.port {
        PORT_HOST => Asked::Audience(Audience::Host),
        PORT_WIRE if from == PORT_WIRE => Asked::Audience(Audience::Host),
        PORT_WIRE => Asked::Audience(Audience::Wire),
        child if tables.policy(child).checks & check_flag::ARP_FLOOD != 0 => everybody,
        _ => Asked::Child(owner),
    }
}

/// Counts a port's questions for addresses that nobody is known to have.
pub trait Strangers {
    /// True if one more may go to children.
    fn may_reach_children(&self) -> bool;

    /// True if one more may go to the host, of those that the wire asks.
    fn may_reach_host(&self) -> bool;
}

/// Whom a question for an address is for that nobody is known to have. The host, whose addresses on the
/// parent are known, hears those of the wire in vain, unless there are stations behind it: no more than
/// there may be broadcasts.
#[inline(always)]
fn stranger(
    message: &Message,
    from: u16,
    vlan: u16,
    tables: &impl Tables,
    strangers: &impl Strangers,
) -> Asked {
    let open = if is_mapped(message.target) { vlan_flag::OPEN4 } else { vlan_flag::OPEN6 };
    let (_, group) = crate::decide::group_of(vlan, tables);
    if group.flags & vlan_flag::ARP_FLOOD != 0
        || group.flags & open != 0 && strangers.may_reach_children()
    {
        return Asked::Audience(Audience::Everybody);
    }
    if from != PORT_WIRE || group.flags & vlan_flag::BEYOND != 0 {
        return Asked::Audience(Audience::HostAndWire);
    }
    if tables.drop_unknown() {
        return Asked::Nobody(DropReason::Stranger);
    }
    if !strangers.may_reach_host() {
        return Asked::Nobody(DropReason::Storm);
    }
    Asked::Audience(Audience::HostAndWire)
}

/// True for a message that claims an address for `named`, where that is pinned to another station of the wire.
/// `src` is the frame's source, as `named` a [`word`], `from` its port, `owner` who has the address.
#[must_use]
#[inline(always)]
pub const fn is_forged(src: u64, named: u64, from: u16, owner: Option<Neighbour>) -> bool {
    match owner {
        Some(Neighbour { port: PORT_WIRE, mac }) => {
            let mac = word(mac);
            from != PORT_WIRE || mac != src || mac != named
        }
        Some(_) | None => false,
    }
}

/// A MAC as a word, which is compared faster than its bytes.
#[must_use]
#[inline(always)]
pub const fn word([a, b, c, d, e, f]: Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Whether a child may use an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// It is its own, as somebody has configured.
    Own,
    /// It is not.
    None,
    /// Nobody has it: it is the child's own once it has asked whether that is so.
    Free,
    /// It may use it beside those, and it is remembered that it does.
    Granted,
}

/// The right of the child with this port and MAC to an address. What is in the tables is decisive; an
/// address that nobody has may become the child's own.
#[inline(always)]
pub fn right(
    key: &NeighbourKey,
    child: Neighbour,
    now: u64,
    policy: &Policy,
    tables: &impl Addresses,
) -> Right {
    let ip = address(key.ip);
    if is_first(ip, policy) {
        return Right::Own;
    }
    if let Some(known) = tables.neighbour(key) {
        return if known.port == child.port { Right::Own } else { Right::None };
    }
    let mut taken = false;
    if let Some(learned) = tables.learned(key) {
        if learned.port == child.port && word(learned.mac) == word(child.mac) {
            if is_mapped(ip) || now.saturating_sub(learned.since) >= TENTATIVE_NS {
                return Right::Granted;
            }
        } else {
            taken = !is_stale(&learned, now, tables);
        }
    }
    if is_link_local_of(ip, child.mac) || tables.allowed(AllowedKey::new(child.port, ip)) {
        return Right::Granted;
    }
    let may = if is_mapped(ip) { check_flag::LEARN4 } else { check_flag::LEARN6 };
    if !taken && policy.checks & may != 0 { Right::Free } else { Right::None }
}

/// True for the first address of a family that a port has.
#[inline(always)]
const fn is_first(ip: Address, policy: &Policy) -> bool {
    if is_mapped(ip) {
        u32::from_ne_bytes(policy.ip4) != 0 && ip == mapped_address(policy.ip4)
    } else {
        ip != UNSPECIFIED && ip == address(policy.ip6)
    }
}

/// True for the link-local address that follows from a MAC (RFC 4291, appendix A).
#[inline(always)]
const fn is_link_local_of(ip: Address, [a, b, c, d, e, f]: Mac) -> bool {
    let own = u64::from_ne_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    ip == join(u64::from_ne_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0]), own)
}

/// True for a port of a child.
#[must_use]
#[inline(always)]
pub const fn is_child(port: u16) -> bool {
    port >= PORT_FIRST_CHILD
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        abi::{Bucket, FdbValue, Port, Vlan},
        packet::ETH_P_IPV4,
    };

    const MAC: Mac = [2, 0, 0, 0, 0, 9];
    const OTHER: Mac = [2, 0, 0, 0, 0, 8];
    const SENDER: [u8; 4] = [192, 168, 50, 9];
    const TARGET: [u8; 4] = [192, 168, 50, 1];
    const VLAN: u16 = 50;
    const NOW: u64 = 2 * STALE_NS;

    fn arp_packet(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
        arp.extend(MAC.iter().chain(&sender).chain(&[0; 6]).chain(&target));
        arp
    }

    #[test]
    fn arp_is_read_as_what_it_means() {
        let read = |packet: &[u8]| message(&packet, ETH_P_ARP, 0);
        let want = |kind, sender, target| Some(Message { kind, target, sender });
        let (own, other) = (mapped_address(SENDER), mapped_address(TARGET));
        let cases = [
            ("a question", arp_packet(1, SENDER, TARGET), want(Kind::Question, own, other)),
            ("a probe", arp_packet(1, [0; 4], TARGET), want(Kind::Probe, UNSPECIFIED, other)),
            ("an announcement", arp_packet(1, SENDER, SENDER), want(Kind::Claim, own, own)),
            ("a reply", arp_packet(2, SENDER, TARGET), want(Kind::Claim, own, own)),
        ];
        for (name, packet, want) in cases {
            assert_eq!(read(&packet), want, "{name}");
        }
        for byte in 0..6 {
            let mut packet = arp_packet(1, SENDER, TARGET);
            packet[byte] ^= 1;
            // Stations take other hardware, too, but no addresses of other lengths.
            let want = if byte < 4 { want(Kind::Question, own, other) } else { None };
            assert_eq!(read(&packet), want, "not Ethernet and IPv4, byte {byte}");
            let arp = Arp::read(&packet.as_slice(), 0);
            assert!(!arp.is_some_and(|arp| arp.is_ethernet()), "byte {byte}");
        }
        assert_eq!(read(&arp_packet(1, SENDER, TARGET)[..27]), None, "cut off");
        assert_eq!(message(&&arp_packet(1, SENDER, TARGET)[..], ETH_P_IPV4, 0), None);
    }

    const SOURCE6: Ip = [0xfd, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    const TARGET6: Ip = [0xfd, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn discovery_packet(kind: u8, source: Ip) -> Vec<u8> {
        let mut packet = vec![0; 64];
        (packet[6], packet[7], packet[40]) = (58, 255, kind);
        packet[8..24].copy_from_slice(&source);
        packet[48..].copy_from_slice(&TARGET6);
        packet
    }

    #[test]
    fn neighbour_discovery_is_read_as_what_it_means() {
        let read = |packet: &[u8]| message(&packet, ETH_P_IPV6, 0);
        let (source, target) = (address(SOURCE6), address(TARGET6));
        let want = |kind, sender| Some(Message { kind, target, sender });
        let notice = |from| {
            let from = address(from);
            Some(Message { kind: Kind::Notice, target: from, sender: from })
        };
        let cases = [
            ("a question", discovery_packet(135, SOURCE6), want(Kind::Question, source)),
            ("a probe", discovery_packet(135, [0; 16]), want(Kind::Probe, UNSPECIFIED)),
            ("an advertisement", discovery_packet(136, SOURCE6), want(Kind::Claim, target)),
            ("a router's", discovery_packet(134, SOURCE6), notice(SOURCE6)),
            ("one that looks for routers", discovery_packet(133, SOURCE6), notice(SOURCE6)),
            ("one without an address that does", discovery_packet(133, [0; 16]), notice([0; 16])),
            ("a redirect", discovery_packet(137, SOURCE6), want(Kind::Redirect, source)),
            ("a ping", discovery_packet(128, SOURCE6), None),
        ];
        for (name, packet, want) in cases {
            assert_eq!(read(&packet), want, "{name}");
        }
        for (byte, value, why) in [(6, 17, "UDP"), (7, 64, "from afar"), (41, 1, "its code")] {
            let mut packet = discovery_packet(136, SOURCE6);
            packet[byte] = value;
            assert_eq!(read(&packet), None, "{why}");
        }
        let short = &discovery_packet(133, SOURCE6)[..48];
        assert_eq!(read(short), notice(SOURCE6), "a router solicitation without options");
        assert_eq!(read(&discovery_packet(136, SOURCE6)[..48]), None, "cut off");
    }

    /// A LAN in [`VLAN`]: child 2 has [`SENDER`], child 3 has been seen with another address, the host has
    /// one, and one is pinned to a station on the wire.
    #[derive(Default)]
    struct Lan {
        neighbours: BTreeMap<Ip, Neighbour>,
        learned: BTreeMap<Ip, Learned>,
        policies: BTreeMap<u16, Policy>,
        flags: u16,
        drop_unknown: bool,
    }

    const LEARNED: [u8; 4] = [192, 168, 50, 30];
    const OF_HOST: [u8; 4] = [192, 168, 50, 2];
    const PINNED: [u8; 4] = [192, 168, 50, 3];

    fn lan() -> Lan {
        let neighbours =
            [(SENDER, 2, MAC), (OF_HOST, PORT_HOST, OTHER), (PINNED, PORT_WIRE, OTHER)];
        let learned = Learned { seen: NOW, since: 0, port: 3, mac: OTHER };
        Lan {
            neighbours: neighbours
                .map(|(ip, port, mac)| (mapped(ip), Neighbour { port, mac }))
                .into(),
            learned: [(mapped(LEARNED), learned)].into(),
            ..Lan::default()
        }
    }

    impl Addresses for Lan {
        fn neighbour(&self, key: &NeighbourKey) -> Option<Neighbour> {
            self.neighbours.get(&key.ip).filter(|_| key.vlan == VLAN).copied()
        }

        fn learned(&self, key: &NeighbourKey) -> Option<Learned> {
            self.learned.get(&key.ip).filter(|_| key.vlan == VLAN).copied()
        }

        fn allowed(&self, key: AllowedKey) -> bool {
            key == AllowedKey::new(2, mapped_address([192, 168, 50, 77]))
        }

        fn policy(&self, port: u16) -> Policy {
            self.policies.get(&port).copied().unwrap_or_default()
        }
    }

    impl Tables for Lan {
        fn fdb(&self, _: Mac, _: u16) -> Option<FdbValue> {
            None
        }

        fn port(&self, _: u16) -> Option<Port> {
            None
        }

        fn vlan(&self, _: u16) -> Vlan {
            Vlan { flags: vlan_flag::DEFINED | self.flags, ..Vlan::default() }
        }

        fn may_be_ours(&self, _: Mac) -> bool {
            Bucket::without_entry(0).macs != 0
        }

        fn drop_unknown(&self) -> bool {
            self.drop_unknown
        }

        fn netns(&self, _port: u16) -> u16 {
            0
        }

        fn is_closed(&self) -> bool {
            false
        }

        fn has_filters(&self) -> bool {
            false
        }
    }

    fn question(target: [u8; 4]) -> Message {
        let sender = mapped_address([192, 168, 50, 200]);
        Message { kind: Kind::Question, target: mapped_address(target), sender }
    }

    /// Whether there is room for one more question.
    struct Room {
        children: bool,
        host: bool,
    }

    impl Strangers for Room {
        fn may_reach_children(&self) -> bool {
            self.children
        }

        fn may_reach_host(&self) -> bool {
            self.host
        }
    }

    fn ask(message: &Message, from: u16, lan: &Lan) -> Asked {
        asked(message, from, VLAN, NOW, lan, &Room { children: true, host: true })
    }

    #[test]
    fn a_question_goes_to_who_can_answer_it() {
        let child = |port, mac| Asked::Child(Neighbour { port, mac });
        let for_ = Asked::Audience;
        let probe = |target| Message { kind: Kind::Probe, sender: UNSPECIFIED, ..question(target) };
        let claim = |target| Message { kind: Kind::Claim, ..question(target) };
        let notice = |target| Message { kind: Kind::Notice, ..question(target) };
        let redirect = |target| Message { kind: Kind::Redirect, ..question(target) };
        let cases = [
            ("a child, from the wire", question(SENDER), PORT_WIRE, child(2, MAC)),
            ("a child, from another", question(SENDER), 3, child(2, MAC)),
            ("a child, from the host", question(SENDER), PORT_HOST, child(2, MAC)),
            ("a learned one", question(LEARNED), PORT_WIRE, child(3, OTHER)),
            ("the host, from the wire", question(OF_HOST), PORT_WIRE, for_(Audience::Host)),
            ("the host, from a child", question(OF_HOST), 2, for_(Audience::Host)),
            ("a pinned station, from a child", question(PINNED), 2, for_(Audience::Wire)),
            ("a pinned station, from the wire", question(PINNED), PORT_WIRE, for_(Audience::Host)),
            ("a stranger, from the wire", question(TARGET), PORT_WIRE, for_(Audience::HostAndWire)),
            ("a stranger, from a child", question(TARGET), 2, for_(Audience::HostAndWire)),
            ("its own", question(SENDER), 2, for_(Audience::Everybody)),
            ("a probe for a child's", probe(SENDER), PORT_WIRE, child(2, MAC)),
            ("a probe for nobody's", probe(TARGET), PORT_WIRE, for_(Audience::Everybody)),
            ("an announcement", claim(SENDER), PORT_WIRE, for_(Audience::Everybody)),
            ("a router's", notice(SENDER), PORT_WIRE, for_(Audience::Everybody)),
            ("a redirect", redirect(SENDER), PORT_WIRE, for_(Audience::Everybody)),
        ];
        for (name, message, from, want) in cases {
            assert_eq!(ask(&message, from, &lan()), want, "{name}");
            assert_eq!(Asked::unpack(want.pack()), want, "{name}");
        }
    }

    #[test]
    fn a_question_for_a_stranger_reaches_children_only_where_that_can_help() {
        let everybody = Asked::Audience(Audience::Everybody);
        let nobody_here = Asked::Audience(Audience::HostAndWire);
        let with = |flags, drop_unknown| Lan { flags, drop_unknown, ..lan() };
        let dropped = Asked::Nobody;
        let (open4, open6) = (vlan_flag::OPEN4, vlan_flag::OPEN6);
        let (known, some_not) = (with(0, false), with(open4, false));
        let (unknown, beyond) = (with(0, true), with(vlan_flag::BEYOND, true));
        // Room at the children, and at the host.
        let cases = [
            ("all addresses are known", &known, (true, true), nobody_here),
            ("all are, and it asks much", &known, (false, true), nobody_here),
            ("all are, and it asks too much", &known, (true, false), dropped(DropReason::Storm)),
            ("some are not", &some_not, (true, false), everybody),
            ("some are not, and it asks much", &some_not, (false, true), nobody_here),
            (
                "some are not, and it asks too much",
                &some_not,
                (false, false),
                dropped(DropReason::Storm),
            ),
            ("some of the other family are not", &with(open6, false), (true, true), nobody_here),
            ("it is wanted so", &with(vlan_flag::ARP_FLOOD, false), (false, false), everybody),
            ("it is for nobody here", &unknown, (true, true), dropped(DropReason::Stranger)),
            ("a storm is for nobody here", &unknown, (false, false), dropped(DropReason::Stranger)),
            ("somebody is behind the host", &beyond, (false, false), nobody_here),
        ];
        for (name, lan, (children, host), want) in cases {
            let room = Room { children, host };
            let got = asked(&question(TARGET), PORT_WIRE, VLAN, NOW, lan, &room);
            assert_eq!(got, want, "{name}");
            assert_eq!(Asked::unpack(got.pack()), got, "{name}");
        }
        let none = Room { children: false, host: false };
        let got = asked(&question(TARGET), 2, VLAN, NOW, &with(0, true), &none);
        assert_eq!(got, nobody_here, "a child asks the wire");
    }

    /// Nobody is to be asked.
    struct Unasked;

    impl Strangers for Unasked {
        fn may_reach_children(&self) -> bool {
            panic!("counted for children")
        }

        fn may_reach_host(&self) -> bool {
            panic!("counted for the host")
        }
    }

    #[test]
    fn questions_that_cannot_reach_somebody_are_not_counted_for_him() {
        let with = |flags, drop_unknown| Lan { flags, drop_unknown, ..lan() };
        let ask = |from, lan: &Lan| asked(&question(TARGET), from, VLAN, NOW, lan, &Unasked);
        let everybody = Asked::Audience(Audience::Everybody);
        let nobody_here = Asked::Audience(Audience::HostAndWire);
        // Not for children where all IPv4 addresses are known.
        let dropped = ask(PORT_WIRE, &with(vlan_flag::OPEN6, true));
        assert_eq!(dropped, Asked::Nobody(DropReason::Stranger));
        assert_eq!(ask(PORT_WIRE, &with(vlan_flag::ARP_FLOOD, false)), everybody);
        assert_eq!(ask(2, &with(vlan_flag::OPEN6, false)), nobody_here);
    }

    #[test]
    fn who_wants_every_question_gets_it() {
        let policy = Policy { checks: check_flag::ARP_FLOOD, ..Policy::default() };
        let lan = Lan { policies: [(2, policy)].into(), ..lan() };
        let everybody = Asked::Audience(Audience::Everybody);
        assert_eq!(ask(&question(SENDER), PORT_WIRE, &lan), everybody);
    }

    #[test]
    fn an_address_that_was_not_seen_for_long_is_nobodys_unless_it_is_bound() {
        let key = NeighbourKey::new(mapped_address(LEARNED), VLAN);
        let later = NOW + STALE_NS + 1;
        assert!(owner(&key, NOW + STALE_NS, &lan()).is_some());
        assert_eq!(owner(&key, later, &lan()), None);
        let policy = Policy { checks: check_flag::ADDRESS, ..Policy::default() };
        let bound = Lan { policies: [(3, policy)].into(), ..lan() };
        assert!(owner(&key, later, &bound).is_some());
    }

    #[test]
    fn whoever_says_to_be_a_pinned_station_and_is_not_lies() {
        let pinned = Some(Neighbour { port: PORT_WIRE, mac: OTHER });
        let cases = [
            ("itself", (OTHER, OTHER), PORT_WIRE, pinned, false),
            ("another", (MAC, MAC), PORT_WIRE, pinned, true),
            ("another, in its frame", (OTHER, MAC), PORT_WIRE, pinned, true),
            ("another, with its MAC", (MAC, OTHER), PORT_WIRE, pinned, true),
            ("a child, with its MAC", (OTHER, OTHER), 2, pinned, true),
            ("one that is not pinned", (MAC, MAC), PORT_WIRE, None, false),
        ];
        for (name, (src, named), from, owner, want) in cases {
            assert_eq!(is_forged(word(src), word(named), from, owner), want, "{name}");
        }
    }

    #[test]
    fn the_right_to_an_address() {
        let learns =
            Policy { checks: check_flag::LEARN4 | check_flag::LEARN6, ..Policy::default() };
        let first = Policy { ip4: TARGET, ip6: SOURCE6, ..Policy::default() };
        let none = Policy::default();
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 9];
        let v4 = |ip| mapped(ip);
        let cases = [
            ("its own", v4(SENDER), none, Right::Own),
            ("its first IPv4 address", v4(TARGET), first, Right::Own),
            ("its first IPv6 address", SOURCE6, first, Right::Own),
            ("none", [0; 16], first, Right::None),
            ("the host's", v4(OF_HOST), learns, Right::None),
            ("a pinned one", v4(PINNED), learns, Right::None),
            ("one that another child was seen with", v4(LEARNED), learns, Right::None),
            ("one that it may use", v4([192, 168, 50, 77]), none, Right::Granted),
            ("the link-local one of its MAC", link_local, none, Right::Granted),
            ("one that nobody has", v4(TARGET), learns, Right::Free),
            ("one that nobody has, of IPv6", TARGET6, learns, Right::Free),
            ("one that nobody has, where nothing is learned", v4(TARGET), none, Right::None),
        ];
        let child = Neighbour { port: 2, mac: MAC };
        for (name, ip, policy, want) in cases {
            let key = NeighbourKey::new(address(ip), VLAN);
            assert_eq!(right(&key, child, NOW, &policy, &lan()), want, "{name}");
        }
    }

    #[test]
    fn an_ipv6_address_is_believed_after_others_had_time_to_object() {
        let entry = Learned { seen: NOW, since: NOW, port: 2, mac: MAC };
        let lan = Lan { learned: [(TARGET6, entry), (mapped(TARGET), entry)].into(), ..lan() };
        let child = Neighbour { port: 2, mac: MAC };
        let right_at = |ip, now| {
            let key = NeighbourKey::new(address(ip), VLAN);
            right(&key, child, now, &Policy::default(), &lan)
        };
        assert_eq!(right_at(TARGET6, NOW + TENTATIVE_NS - 1), Right::None);
        assert_eq!(right_at(TARGET6, NOW + TENTATIVE_NS), Right::Granted);
        assert_eq!(right_at(mapped(TARGET), NOW), Right::Granted, "ARP knows no such time");
    }

    #[test]
    fn an_address_that_a_child_may_use_anyway_is_its_own_at_once() {
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 9];
        let entry = Learned { seen: NOW, since: NOW, port: 2, mac: MAC };
        let lan = Lan { learned: [(link_local, entry)].into(), ..lan() };
        let key = NeighbourKey::new(address(link_local), VLAN);
        let child = Neighbour { port: 2, mac: MAC };
        assert_eq!(right(&key, child, NOW, &Policy::default(), &lan), Right::Granted);
    }
}
