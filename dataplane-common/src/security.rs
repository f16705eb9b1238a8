//! Port security: what a child may send.
//!
//! What cannot be read is not let through, where the port is not trusted for it: a header that is cut
//! off, or fragmented away, may be any (RFC 7113, section 3).
#![allow(clippy::many_single_char_names, reason = "the bytes of addresses")]

use crate::{
    abi::{Address, address, check_flag},
    dhcp,
    frame::Mac,
    llc::{Carries, is_old_tag},
    neighbour::{
        self, Arp, FROM_LINK, Kind, Message, Right, UNSPECIFIED, halves, mapped_address, word,
    },
    packet::{
        Bytes, ETH_P_ARP, ETH_P_IPV4, ETH_P_IPV6, ETH_P_LONG_LLC, ETH_P_RARP, Header, ICMPV6,
        IPV6_HLEN, Payload, UDP, Upper,
    },
    verdict::DropReason,
};

/// What `DHCPv4` (RFC 2131) says who is who by.
const DHCP4: Dhcp =
    Dhcp { server: dhcp::SERVER_PORT, client: dhcp::CLIENT_PORT, to_relay: dhcp::BOOTREPLY };

/// What `DHCPv6` says who is who by: the ports at which servers, relays and clients listen (RFC 8415, section
/// 7.2), and a relay-reply (section 7.3).
const DHCP6: Dhcp = Dhcp { server: 547, client: 546, to_relay: 13 };

/// A router solicitation (RFC 4861, section 4.1).
pub(crate) const ROUTER_SOLICITATION: u8 = 133;

/// A router advertisement (RFC 4861, section 4.2).
const ROUTER_ADVERTISEMENT: u8 = 134;

/// A neighbour solicitation (RFC 4861, section 4.3).
const SOLICITATION: u8 = 135;

/// A neighbour advertisement (RFC 4861, section 4.4).
pub(crate) const ADVERTISEMENT: u8 = 136;

/// A redirect (RFC 4861, section 4.5).
pub(crate) const REDIRECT: u8 = 137;

/// The solicitation and the advertisement of inverse discovery, which name addresses of a MAC (RFC 3122).
const INVERSE_SOLICITATION: u8 = 141;
const INVERSE_ADVERTISEMENT: u8 = 142;

/// The query of a multicast router (RFC 3810, section 5.1).
const MLD_QUERY: u8 = 130;

/// The advertisement and the farewell of a multicast router (RFC 4286, section 3).
const MULTICAST_ROUTER: u8 = 151;
const NO_MULTICAST_ROUTER: u8 = 153;

/// The option with the source's MAC (RFC 4861, section 4.6.1).
const SOURCE_MAC: u8 = 1;

/// How many options of a message of neighbour discovery are looked at: one of a host has one, or a nonce beside
/// it (RFC 7527), an advertisement of a router a dozen: prefixes, routes, servers of names.
const OPTIONS: u32 = 16;

/// Whether a child may use an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    /// It may.
    Fine = 0,
    /// It may not.
    Foreign = 1,
    /// It could, if it did not have as many already as it may have.
    Full = 2,
}

impl Use {
    /// The use with this number; [`Self::Full`] for a number that none has.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Fine,
            1 => Self::Foreign,
            _ => Self::Full,
        }
    }
}

/// Who keeps account of the addresses that a child has.
pub trait Account {
    /// Whether the child may use an address, or, if it `asks`, may have asked for it. What it may use
    /// from now on is remembered.
    fn uses(&self, ip: Address, asks: bool) -> Use;
}

/// What is to be done about an address that a child uses, or asks for: whether it may, and whether to
/// remember that it does.
#[must_use]
#[inline(always)]
pub const fn settle(right: Right, asks: bool, checked: bool) -> (Use, bool) {
    match right {
        Right::Own => (Use::Fine, false),
        Right::Granted => (Use::Fine, true),
        Right::Free if asks || !checked => (Use::Fine, true),
        // A question about somebody else's address claims nothing.
        Right::None if asks || !checked => (Use::Fine, false),
        Right::Free | Right::None => (Use::Foreign, false),
    }
}

/// By what the messages of servers are told from those of clients.
#[derive(Clone, Copy, Debug)]
struct Dhcp {
    /// Where servers and relays listen.
    server: u16,
    /// Where clients listen.
    client: u16,
    /// The first byte of what a server tells a relay.
    to_relay: u8,
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Its MAC.
    pub mac: Mac,
    /// The [`check_flag`]s of its port.
    pub checks: u16,
}

impl Sender {
    #[inline(always)]
    const fn looks_for(self, flag: u16) -> bool {
        self.checks & flag != 0
    }

    /// Looks at a frame; returns why it may not be sent.
    #[inline(always)]
    pub fn inspect(
        self,
        bytes: &impl Bytes,
        payload: Payload,
        account: &impl Account,
    ) -> Option<DropReason> {
        match payload.ethertype {
            ETH_P_ARP | ETH_P_RARP => self.arp(bytes, payload, account),
            ETH_P_IPV4 => self.ipv4(bytes, payload.offset, account),
            ETH_P_IPV6 => self.ipv6(bytes, payload.offset, account),
            _ => self.other(bytes, payload),
        }
    }

    /// What follows from the use of an address.
    #[inline(always)]
    fn judge(use_: Use, otherwise: DropReason) -> Option<DropReason> {
        match use_ {
            Use::Fine => None,
            Use::Foreign => Some(otherwise),
            Use::Full => Some(DropReason::AddressLimit),
        }
    }

    /// Looks at a packet of ARP, or of RARP: a station that asks for its own address (RFC 903), as a hypervisor
    /// does to show where a machine is now, and a server that gives one out.
    #[inline(always)]
    pub fn arp(
        self,
        bytes: &impl Bytes,
        Payload { ethertype, offset }: Payload,
        account: &impl Account,
    ) -> Option<DropReason> {
        let checked = self.looks_for(check_flag::ADDRESS | check_flag::MAC);
        let claim = Some(DropReason::NeighbourClaim);
        let Some(arp) = Arp::read(bytes, offset) else { return if checked { claim } else { None } };
        let reverse = ethertype == ETH_P_RARP;
        let answers = reverse && arp.operation != RARP_REQUEST;
        if answers && self.looks_for(check_flag::DHCP_SERVER) {
            return Some(DropReason::DhcpServer);
        }
        if checked && !arp.is_ethernet() {
            return claim;
        }
        let own = word(self.mac);
        let names_other = arp.mac != own || reverse && !answers && arp.target_mac != own;
        if names_other && self.looks_for(check_flag::MAC) {
            return claim;
        }
        if reverse {
            if arp.sender == 0 {
                return None;
            }
            return Self::judge(account.uses(arp.sender(), false), DropReason::NeighbourClaim);
        }
        Self::says(&arp.message(), account)
    }

    /// A message about an address, whose MACs are right.
    #[inline(always)]
    fn says(message: &Message, account: &impl Account) -> Option<DropReason> {
        let asks = message.kind as u8 == Kind::Probe as u8;
        let ip = if asks { message.target } else { message.sender };
        Self::judge(account.uses(ip, asks), DropReason::NeighbourClaim)
    }

    /// Looks at a frame that is neither ARP nor IP.
    #[inline(always)]
    pub fn other(self, bytes: &impl Bytes, payload: Payload) -> Option<DropReason> {
        if self.looks_for(check_flag::SWITCHING) && bytes.load(0).is_some_and(is_of_switches) {
            return Some(DropReason::Reserved);
        }
        let Payload { ethertype, offset } = payload;
        if is_old_tag(ethertype) {
            return self.hidden(GUARDED);
        }
        if !payload.is_llc() && ethertype != ETH_P_LONG_LLC {
            return None;
        }
        match bytes.carries(offset) {
            Carries::Wrapped => self.hidden(GUARDED),
            Carries::Switching if self.looks_for(check_flag::SWITCHING) => {
                Some(DropReason::Reserved)
            }
            Carries::Switching | Carries::Other => None,
        }
    }

    /// A frame of which cannot be seen what one of these looks for.
    #[inline(always)]
    const fn hidden(self, looked_for: u16) -> Option<DropReason> {
        if self.checks & looked_for != 0 { Some(DropReason::HiddenHeader) } else { None }
    }

    /// Looks at an IPv4 packet.
    #[inline(always)]
    pub fn ipv4(
        self,
        bytes: &impl Bytes,
        offset: u32,
        account: &impl Account,
    ) -> Option<DropReason> {
        let Some(header) = bytes.load::<20>(offset) else {
            return self.hidden(GUARDED4);
        };
        let source = [header[12], header[13], header[14], header[15]];
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let protocol = header[9];
        let mut from_client = false;
        if fragment & FRAGMENT_OFFSET == 0 && matches!(protocol, UDP | IGMP | ICMP) {
            let at = offset + (u32::from(header[0]) & 0xf) * 4;
            let end = offset + u32::from(u16::from_be_bytes([header[2], header[3]]));
            // What stands behind the end of a fragment is not what will be put together.
            let head = if at + UPPER_HLEN <= end { bytes.load::<4>(at) } else { None };
            let Some(head) = head else { return self.hidden(GUARDED4) };
            let fragmented = fragment & MORE_FRAGMENTS != 0;
            let found = match protocol {
                UDP => self.dhcp(DHCP4, bytes, head, (at, end), fragmented),
                IGMP if self.looks_for(check_flag::MULTICAST_ROUTER) => igmp(head[0]),
                ICMP if head[0] == IRDP && self.looks_for(check_flag::ROUTER) => {
                    Some(DropReason::Router)
                }
                _ => None,
            };
            if found.is_some() {
                return found;
            }
            from_client =
                protocol == UDP && u16::from_be_bytes([head[2], head[3]]) == dhcp::SERVER_PORT;
        }
        if protocol == PIM && self.looks_for(check_flag::MULTICAST_ROUTER) {
            return Some(DropReason::MulticastRouter);
        }
        // Only who asks for an address may have none (RFC 1122, section 3.2.1.3).
        if u32::from_ne_bytes(source) == 0 && (from_client || protocol == IGMP) {
            return None;
        }
        Self::judge(account.uses(mapped_address(source), false), DropReason::SourceIp)
    }

    /// Looks at a UDP datagram whose ports are in `head`, and which stands from `at` to `end`, or is continued
    /// in another fragment.
    #[inline(always)]
    fn dhcp(
        self,
        Dhcp { server, client, to_relay }: Dhcp,
        bytes: &impl Bytes,
        [a, b, c, d]: [u8; 4],
        (at, end): (u32, u32),
        fragmented: bool,
    ) -> Option<DropReason> {
        if !self.looks_for(check_flag::DHCP_SERVER) {
            return None;
        }
        let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        // A client does not look at the port that an answer comes from.
        if from == server || to == client {
            return Some(DropReason::DhcpServer);
        }
        if to != server {
            return None;
        }
        // A relay hands on to a client what a server tells it.
        let kind = if at + UDP_HLEN < end { bytes.load::<1>(at + UDP_HLEN) } else { None };
        match kind {
            Some([kind]) if kind == to_relay => Some(DropReason::DhcpServer),
            None if fragmented => Some(DropReason::HiddenHeader),
            Some(_) | None => None,
        }
    }

    /// Looks at an IPv6 packet.
    #[inline(always)]
    pub fn ipv6(
        self,
        bytes: &impl Bytes,
        start: u32,
        account: &impl Account,
    ) -> Option<DropReason> {
        let Some([high, low, next, hops]) = bytes.load::<4>(start + 4) else {
            return self.hidden(GUARDED);
        };
        let end = start + IPV6_HLEN + u32::from(u16::from_be_bytes([high, low]));
        let Some(source) = bytes.load::<16>(start + 8).map(address) else {
            return self.hidden(GUARDED);
        };
        let (protocol, at, fragmented) = match bytes.upper(start, next) {
            // What a first fragment has behind its end is not what will be put together (RFC 7112).
            Upper::At(Header { offset, fragmented: true, .. })
                if offset + UPPER_HLEN > end && self.checks & GUARDED != 0 =>
            {
                return Some(DropReason::HiddenHeader);
            }
            Upper::At(Header { protocol, offset, fragmented }) => (protocol, offset, fragmented),
            Upper::Hidden if self.checks & GUARDED != 0 => {
                return Some(DropReason::HiddenHeader);
            }
            Upper::Elsewhere | Upper::Hidden => (0, 0, true),
        };
        let plain = at == start + IPV6_HLEN && !fragmented;
        if protocol == UDP && self.looks_for(check_flag::DHCP_SERVER) {
            let Some(ports) = bytes.load::<4>(at) else { return Some(DropReason::HiddenHeader) };
            if let Some(reason) = self.dhcp(DHCP6, bytes, ports, (at, end), fragmented) {
                return Some(reason);
            }
        }
        if let Some(reason) = self.upper(bytes, protocol, at, plain) {
            return Some(reason);
        }
        if protocol == ICMPV6
            && hops == FROM_LINK
            && !fragmented
            && let Some(message) = neighbour::discovery(bytes, start, at)
        {
            // A redirect would name the MAC of another station.
            let is_redirect = message.kind as u8 == Kind::Redirect as u8;
            let (looked_for, mac) = if is_redirect {
                (check_flag::ADDRESS | check_flag::MAC, [0; 6])
            } else {
                (check_flag::MAC, self.mac)
            };
            if self.looks_for(looked_for) && !bytes.names(at, end, mac) {
                return Some(DropReason::NeighbourClaim);
            }
            if message.kind.asks() || message.kind as u8 == Kind::Claim as u8 {
                return self.resolves(bytes, start, &message, source, account);
            }
        }
        if source == UNSPECIFIED && protocol == ICMPV6 {
            // Reports of groups, before there is an address (RFC 3590); router solicitations.
            return None;
        }
        Self::judge(account.uses(source, false), DropReason::SourceIp)
    }

    /// Looks at a solicitation or an advertisement of the packet that begins at `start`, whose MACs are right.
    #[inline(always)]
    fn resolves(
        self,
        bytes: &impl Bytes,
        start: u32,
        message: &Message,
        source: Address,
        account: &impl Account,
    ) -> Option<DropReason> {
        if self.looks_for(check_flag::ADDRESS) {
            let is_probe = message.kind as u8 == Kind::Probe as u8;
            // An advertisement for one address may come from another of the same child.
            if !is_probe
                && message.sender != source
                && account.uses(source, false) as u8 != Use::Fine as u8
            {
                return Some(DropReason::SourceIp);
            }
            // The owner of the address could not object to what it does not hear.
            if is_probe && !bytes.is_heard(start, message.target) {
                return Some(DropReason::NeighbourClaim);
            }
        }
        Self::says(message, account)
    }

    /// What the upper header says, beside addresses. It is `plain` if it stands right behind the
    /// IPv6 header.
    #[inline(always)]
    fn upper(self, bytes: &impl Bytes, protocol: u8, at: u32, plain: bool) -> Option<DropReason> {
        if protocol == PIM && self.looks_for(check_flag::MULTICAST_ROUTER) {
            return Some(DropReason::MulticastRouter);
        }
        if protocol != ICMPV6 || self.checks & GUARDED == 0 {
            return None;
        }
        let Some([kind]) = bytes.load::<1>(at) else { return Some(DropReason::HiddenHeader) };
        let claims = self.looks_for(check_flag::ADDRESS | check_flag::MAC);
        match kind {
            ROUTER_ADVERTISEMENT | REDIRECT if self.looks_for(check_flag::ROUTER) => {
                Some(DropReason::Router)
            }
            MLD_QUERY | MULTICAST_ROUTER | NO_MULTICAST_ROUTER
                if self.looks_for(check_flag::MULTICAST_ROUTER) =>
            {
                Some(DropReason::MulticastRouter)
            }
            // No host on Ethernet sends them.
            INVERSE_SOLICITATION | INVERSE_ADVERTISEMENT if claims => {
                Some(DropReason::NeighbourClaim)
            }
            // Stations do not take them in fragments (RFC 6980, section 5), and nothing stands before them.
            ROUTER_SOLICITATION | SOLICITATION | ADVERTISEMENT if !plain && claims => {
                Some(DropReason::HiddenHeader)
            }
            _ => None,
        }
    }
}

/// Of each message of neighbour discovery, from a router solicitation to a redirect, a digit from the right: the
/// option in which it names a MAC (RFC 4861, section 4.6.1: that of its source, or of its target), and how many
/// times eight bytes stand before its options (sections 4.1 to 4.5).
const MACS: u32 = 0x22111;
const HEADS: u32 = 0x53321;

/// True unless the message of neighbour discovery that stands from `at` to `end` names another MAC for its
/// sender, or its target, in an option, or has options that cannot be read to their end: too many, or of the
/// wrong length.
#[inline(always)]
pub fn names(bytes: &(impl Bytes + ?Sized), at: u32, end: u32, mac: Mac) -> bool {
    let Some([kind]) = bytes.load::<1>(at) else { return false };
    if !matches!(kind, ROUTER_SOLICITATION..=REDIRECT) {
        return true;
    }
    // Computed and not chosen: each choice would be one more way for the verifier to follow.
    let place = u32::from(kind - ROUTER_SOLICITATION);
    let wanted = u64::from(MACS >> (place * 4) & 0xf) << 56 | word(mac);
    let mut option = at + (HEADS >> (place * 4) & 0xf) * 8;
    for _ in 0..OPTIONS {
        if option >= end {
            break;
        }
        let Some(bytes) = bytes.load::<8>(option).map(u64::from_be_bytes) else { return false };
        let len = bytes >> 48 & 0xff;
        // Less than this, but not zero: of the wanted kind, and another MAC. In one comparison, for the verifier.
        let differs = (bytes ^ wanted) & !(0xff << 48);
        // Of several, stations take the first or the last.
        if len == 0 || differs.wrapping_sub(1) < (1 << 48) - 1 {
            return false;
        }
        option += len as u32 * 8;
    }
    option == end
}

/// Why a child may not send an IGMP message of this type: it is one of a multicast router.
#[inline(always)]
const fn igmp(kind: u8) -> Option<DropReason> {
    match kind {
        // Queries (RFC 3376, section 4.1), DVMRP, PIM version 1, the advertisement and the farewell of RFC 4286
        // (section 3), RGMP (RFC 3488).
        0x11 | 0x13 | 0x14 | 0x30 | 0x32 | 0xfc..=0xff => Some(DropReason::MulticastRouter),
        _ => None,
    }
}

/// True for a group in which switches talk to each other, and which bridges forward all the same: those of
/// GVRP, MVRP and their kin (IEEE 802.1Q-2018, table 10-1) and of connectivity fault management (clause 20), and
/// those of Cisco's CDP, VTP, DTP, UDLD, `PAgP`, ISL and per-VLAN spanning trees.
#[must_use]
#[inline(always)]
pub const fn is_of_switches(mac: Mac) -> bool {
    let mac = word(mac);
    // 01:80:c2:00:00:20 to 3f, and all of 01:00:0c.
    mac & !0x1f == 0x0180_c200_0020 || mac >> 24 == 0x01_000c
}

/// True for a probe, in the packet that begins at `start`, that whoever has its target hears and takes
/// for one (RFC 4861, section 7.1.1).
#[inline(always)]
pub fn is_heard(bytes: &(impl Bytes + ?Sized), start: u32, target: Address) -> bool {
    let [.., x, y, z] = halves(target).1.to_ne_bytes();
    let to = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z];
    if bytes.load::<6>(0).map(word) != Some(word([0x33, 0x33, 0xff, x, y, z]))
        || bytes.load::<16>(start + 24).map(address) != Some(address(to))
        || bytes.load::<1>(start).is_none_or(|[version]| version >> 4 != 6)
    {
        return false;
    }
    let Some(length) = bytes.load::<2>(start + 4).map(u16::from_be_bytes) else { return false };
    let names_mac = || bytes.load::<1>(start + IPV6_HLEN + 24) == Some([SOURCE_MAC]);
    match length {
        PROBE_LEN => {}
        // No address may not have a MAC.
        PROBE_WITH_NONCE_LEN if !names_mac() => {}
        _ => return false,
    }
    // The pseudo-header (RFC 8200, section 8.1) is the two addresses, the length and the protocol. The sum does not
    // depend on the order of bytes, nor on how many are added at once (RFC 1071, section 2).
    let eights = (32 + u32::from(length)) / 8;
    let mut sum = u64::from(length.to_be()) + u64::from(u16::from(ICMPV6).to_be());
    for eight in 0..(32 + u32::from(PROBE_WITH_NONCE_LEN)) / 8 {
        if eight < eights {
            let Some(bytes) = bytes.load::<8>(start + 8 + eight * 8) else { return false };
            let word = u64::from_ne_bytes(bytes);
            sum += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    for _ in 0..3 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

/// Bytes of a solicitation without options.
const PROBE_LEN: u16 = 24;

/// Bytes of one with a nonce (RFC 7527).
const PROBE_WITH_NONCE_LEN: u16 = 32;

/// How much of the upper header has to be in a first fragment: the type, or the ports.
const UPPER_HLEN: u32 = 4;

/// Bytes of a UDP header (RFC 768).
const UDP_HLEN: u32 = 8;

/// The place of a fragment (RFC 791, section 3.1).
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// More fragments follow (RFC 791, section 3.1).
const MORE_FRAGMENTS: u16 = 0x2000;

/// `IPPROTO_ICMP`.
const ICMP: u8 = 1;

/// `IPPROTO_IGMP`.
const IGMP: u8 = 2;

/// `IPPROTO_PIM`.
const PIM: u8 = 103;

/// The ICMP message by which a router makes itself known (RFC 1256, section 3).
const IRDP: u8 = 9;

/// The operation of a request of RARP (RFC 903).
const RARP_REQUEST: u16 = 3;

/// What needs to see the upper header of an IPv4 packet.
const GUARDED4: u16 = check_flag::ADDRESS
    | check_flag::DHCP_SERVER
    | check_flag::ROUTER
    | check_flag::MULTICAST_ROUTER;

/// What needs to see the upper header of an IPv6 packet, or what a frame wraps.
const GUARDED: u16 = GUARDED4 | check_flag::MAC;
