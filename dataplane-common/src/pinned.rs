//! Addresses that are pinned to a station of the wire (`maclane binding`), and what may be heard of them.
//!
//! A station writes down who has an address on these messages, and on no others: ARP of any hardware type that
//! it takes for Ethernet (`net/ipv4/arp.c`, `arp_process`); solicitations of neighbours and of routers and
//! advertisements of routers, for their source; advertisements of neighbours and redirects, for their target
//! (`net/ipv6/ndisc.c`, `ndisc_recv_ns`, `ndisc_recv_rs`, `ndisc_router_discovery`, `ndisc_recv_na`;
//! `net/ipv6/route.c`, `rt6_do_redirect`). Those of IPv6 may stand behind extension headers.

use crate::{
    abi::{Address, Addresses, Neighbour, NeighbourKey, PORT_WIRE, Tables, address, vlan_flag},
    decide::group_of,
    frame::Mac,
    llc::Carries,
    neighbour::{Arp, FROM_LINK, UNSPECIFIED, is_forged, word},
    packet::{Bytes, ETH_P_ARP, ETH_P_IPV6, Header, ICMPV6, IPV6_HLEN, Payload, Upper},
    security::{ADVERTISEMENT, REDIRECT, ROUTER_SOLICITATION},
    verdict::DropReason,
};

/// What a frame says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Why it must not be heard.
    pub refused: Option<DropReason>,
    /// The address that its sender claims; [`UNSPECIFIED`] if it claims none.
    pub sender: Address,
    /// Who is known to have that address.
    pub owner: Option<Neighbour>,
}

impl Heard {
    const NOTHING: Self = Self { refused: None, sender: UNSPECIFIED, owner: None };

    #[inline(always)]
    const fn refused(reason: DropReason) -> Self {
        Self { refused: Some(reason), ..Self::NOTHING }
    }

    /// A frame that cannot be read, as some stations may. Nothing honest comes like that.
    #[inline(always)]
    fn unreadable(vlan: u16, tables: &impl Tables) -> Self {
        let (_, group) = group_of(vlan, tables);
        if group.flags & vlan_flag::PINNED == 0 {
            return Self::NOTHING;
        }
        Self::refused(DropReason::HiddenHeader)
    }
}

/// Where a frame came from: its source, its port and its VLAN.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Its source.
    pub src: Mac,
    /// The port that it came in at.
    pub port: u16,
    /// Its VLAN.
    pub vlan: u16,
}

/// What a frame says about an address.
#[inline(always)]
pub fn hear(
    bytes: &impl Bytes,
    payload: Payload,
    origin: Origin,
    tables: &(impl Addresses + Tables),
) -> Heard {
    match payload.ethertype {
        ETH_P_ARP => hear_arp(bytes, payload.offset, origin, tables),
        ETH_P_IPV6 => hear_discovery(bytes, payload.offset, origin, tables),
        _ => hear_wrapped(bytes, payload, origin, tables),
    }
}

/// What a packet of ARP says.
#[inline(always)]
pub fn hear_arp(bytes: &impl Bytes, start: u32, origin: Origin, tables: &impl Addresses) -> Heard {
    let Some(arp) = Arp::read(bytes, start) else { return Heard::NOTHING };
    if !arp.has_sender() {
        return Heard::NOTHING;
    }
    let sender = arp.sender();
    let owner = owner_of(sender, origin.vlan, tables);
    if is_forged(word(origin.src), arp.mac, origin.port, Neighbour::from_raw(owner)) {
        return Heard::refused(DropReason::Pinned);
    }
    Heard { refused: None, sender, owner: Neighbour::from_raw(owner) }
}

/// What an IPv6 packet says that may be a message of neighbour discovery.
#[inline(always)]
pub fn hear_discovery(
    bytes: &impl Bytes,
    start: u32,
    origin: Origin,
    tables: &(impl Addresses + Tables),
) -> Heard {
    let Some([high, low, next, hops]) = bytes.load::<4>(start + 4) else { return Heard::NOTHING };
    if hops != FROM_LINK {
        return Heard::NOTHING;
    }
    let end = start + IPV6_HLEN + u32::from(u16::from_be_bytes([high, low]));
    let (at, fragmented) = match bytes.upper(start, next) {
        // The rest of the headers of a fragment may be in another.
        Upper::At(Header { offset, fragmented, protocol })
            if protocol == ICMPV6 || fragmented && offset >= end =>
        {
            (offset, fragmented)
        }
        Upper::At(_) | Upper::Elsewhere => return Heard::NOTHING,
        Upper::Hidden => (end, true),
    };
    let kind = if at < end { bytes.load::<2>(at) } else { None };
    // Stations leave other codes alone (RFC 4861, section 6.1 to 8.1).
    let kind = match kind {
        Some([kind @ ROUTER_SOLICITATION..=REDIRECT, 0]) => kind,
        None if fragmented => 0,
        Some(_) | None => return Heard::NOTHING,
    };
    // They have to leave fragments alone, too (RFC 6980, section 5); not all do.
    if fragmented {
        return Heard::unreadable(origin.vlan, tables);
    }
    let is = |wanted: u8| kind == wanted;
    let place = if is(ADVERTISEMENT) { at + 8 } else { start + 8 };
    let Some(sender) = bytes.load::<16>(place).map(address) else { return Heard::NOTHING };
    if sender == UNSPECIFIED {
        return Heard::NOTHING;
    }
    let (owner, src) = (owner_of(sender, origin.vlan, tables), word(origin.src));
    if is_forged(src, src, origin.port, Neighbour::from_raw(owner)) {
        return Heard::refused(DropReason::Pinned);
    }
    // A router may send others to a pinned station, but to its MAC only.
    let named = if is(REDIRECT) {
        let Some(target) = bytes.load::<16>(at + 8).map(address) else { return Heard::NOTHING };
        owner_of(target, origin.vlan, tables)
    } else {
        owner
    };
    match Neighbour::from_raw(named) {
        Some(Neighbour { port: PORT_WIRE, mac }) if !bytes.names(at, end, mac) => {
            Heard::refused(DropReason::Pinned)
        }
        Some(_) | None => Heard { refused: None, sender, owner: Neighbour::from_raw(owner) },
    }
}

/// The station that has an address, as [`Neighbour::to_raw`] has it.
#[inline(always)]
fn owner_of(ip: Address, vlan: u16, tables: &impl Addresses) -> u64 {
    Neighbour::to_raw(tables.neighbour(&NeighbourKey::new(ip, vlan)))
}

/// What a frame says that wraps ARP or IP.
#[inline(always)]
pub fn hear_wrapped(
    bytes: &impl Bytes,
    payload: Payload,
    origin: Origin,
    tables: &impl Tables,
) -> Heard {
    if payload.is_llc() && bytes.carries(payload.offset) as u8 == Carries::Wrapped as u8 {
        return Heard::unreadable(origin.vlan, tables);
    }
    Heard::NOTHING
}
