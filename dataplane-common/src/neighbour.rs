//! Frames about who has an address: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861), and
//! whom they are for.

use crate::{
    abi::{
        Address, Addresses, AllowedKey, Ip, Neighbour, NeighbourKey, PORT_FIRST_CHILD, PORT_HOST,
        PORT_WIRE, Policy, Tables, address, check_flag, vlan_flag,
    },
    decide::Audience,
    frame::Mac,
    packet::{Bytes, ETH_P_ARP, ETH_P_IPV6, IPV6_HLEN},
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

/// The operation of a request (RFC 826).
const REQUEST: u16 = 1;

/// Next header 58, from the link itself (RFC 4861, section 7.1.1).
const ICMPV6_FROM_LINK: u16 = 0x3aff;

/// A neighbour solicitation, with code 0 (RFC 4861, section 4.3).
const SOLICITATION: u16 = 0x8700;

/// A neighbour advertisement, with code 0 (RFC 4861, section 4.4).
const ADVERTISEMENT: u16 = 0x8800;

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
    /// The MAC that the sender says to have; that of a solicitation or an advertisement may be in an
    /// option, and is zero here.
    pub mac: Mac,
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

/// The message that a frame carries, if its payload, which begins at `offset`, is one.
#[inline(always)]
pub fn message(bytes: &impl Bytes, ethertype: u16, offset: u32) -> Option<Message> {
    match ethertype {
        ETH_P_ARP => arp(bytes, offset),
        ETH_P_IPV6 => discovery(bytes, offset),
        _ => None,
    }
}

/// Reads an ARP packet for IPv4 over Ethernet.
#[inline(always)]
pub(crate) fn arp(bytes: &impl Bytes, offset: u32) -> Option<Message> {
    let [h, t, p, r, hl, pl, high, low]: [u8; 8] = bytes.load(offset)?;
    if u64::from_be_bytes([0, 0, h, t, p, r, hl, pl]) != ETHERNET_IPV4 {
        return None;
    }
    let target: [u8; 4] = bytes.load(offset + 24)?;
    let request = u16::from_be_bytes([high, low]) == REQUEST;
    let sender: [u8; 4] = bytes.load(offset + 14)?;
    let mac: Mac = bytes.load(offset + 8)?;
    let (own, other) = (mapped_address(sender), mapped_address(target));
    let message = |kind, sender, target| Some(Message { kind, target, sender, mac });
    if !request || own == other {
        message(Kind::Claim, own, own)
    } else if u32::from_ne_bytes(sender) == 0 {
        message(Kind::Probe, UNSPECIFIED, other)
    } else {
        message(Kind::Question, own, other)
    }
}

/// Reads a neighbour solicitation or advertisement that stands right behind the IPv6 header.
#[inline(always)]
pub(crate) fn discovery(bytes: &impl Bytes, offset: u32) -> Option<Message> {
    let [next, hops]: [u8; 2] = bytes.load(offset + 6)?;
    if u16::from_be_bytes([next, hops]) != ICMPV6_FROM_LINK {
        return None;
    }
    let kind: [u8; 2] = bytes.load(offset + IPV6_HLEN)?;
    let target = address(bytes.load(offset + IPV6_HLEN + 8)?);
    let source = address(bytes.load(offset + 8)?);
    let mac = [0; 6];
    match u16::from_be_bytes(kind) {
        SOLICITATION if source == UNSPECIFIED => {
            Some(Message { kind: Kind::Probe, target, sender: UNSPECIFIED, mac })
        }
        SOLICITATION => Some(Message { kind: Kind::Question, target, sender: source, mac }),
        ADVERTISEMENT => Some(Message { kind: Kind::Claim, target, sender: target, mac }),
        _ => None,
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
    if now.saturating_sub(learned.seen) > STALE_NS {
        return None;
    }
    Some(Neighbour { port: learned.port, mac: learned.mac })
}

/// Whom a message from port `from` is for.
///
/// A question goes to the one station that can answer it. A probe for an address that nobody is known
/// to have, and whatever claims one, goes to everybody: somebody may want the same address at this
/// moment, and everybody may know an old MAC. `strangers` says whether a question for an address
/// that nobody is known to have may go to everybody where that could help.
#[inline(always)]
pub fn asked(
    message: &Message,
    from: u16,
    vlan: u16,
    now: u64,
    tables: &(impl Addresses + Tables),
    strangers: impl FnOnce() -> bool,
) -> Asked {
    let everybody = Asked::Audience(Audience::Everybody);
    match message.kind {
        Kind::Claim => return everybody,
        Kind::Question | Kind::Probe => {}
    }
    let key = NeighbourKey::new(message.target, vlan);
    let Some(owner) = owner(&key, now, tables) else {
        if message.kind as u8 == Kind::Probe as u8 {
            return everybody;
        }
        return stranger(message, from, vlan, tables, strangers);
    };
    if owner.port == from {
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

/// Whom a question for an address is for that nobody is known to have.
#[inline(always)]
fn stranger(
    message: &Message,
    from: u16,
    vlan: u16,
    tables: &impl Tables,
    strangers: impl FnOnce() -> bool,
) -> Asked {
    let open = if is_mapped(message.target) { vlan_flag::OPEN4 } else { vlan_flag::OPEN6 };
    let (_, group) = crate::decide::group_of(vlan, tables);
    if group.flags & vlan_flag::ARP_FLOOD != 0 || group.flags & open != 0 && strangers() {
        return Asked::Audience(Audience::Everybody);
    }
    if from == PORT_WIRE && tables.drop_unknown() {
        return Asked::Nobody(DropReason::Stranger);
    }
    Asked::Audience(Audience::HostAndWire)
}

/// True for a message whose sender says to have an address that somebody has pinned to another
/// station of the wire. `src` is the frame's source, `owner` who has the address that the sender says to
/// have.
#[must_use]
#[inline(always)]
pub const fn is_forged(message: &Message, src: Mac, from: u16, owner: Option<Neighbour>) -> bool {
    match owner {
        Some(pinned) if pinned.port == PORT_WIRE => {
            let said = if word(message.mac) == 0 { src } else { message.mac };
            from != PORT_WIRE || word(pinned.mac) != word(src) || word(pinned.mac) != word(said)
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
            let ripe = is_mapped(ip) || now.saturating_sub(learned.since) >= TENTATIVE_NS;
            return if ripe { Right::Granted } else { Right::None };
        }
        taken = now.saturating_sub(learned.seen) <= STALE_NS;
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
