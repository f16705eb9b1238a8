//! Port security: what a child may send.
//!
//! What cannot be read is not let through, where the port is not trusted for it: a header that is cut
//! off, or fragmented away, may be any (RFC 7113, section 3).

use crate::{
    abi::{Address, address, check_flag},
    dhcp,
    frame::Mac,
    neighbour::{self, Kind, Message, Right, UNSPECIFIED, halves, mapped_address, word},
    packet::{
        Bytes, ETH_P_ARP, ETH_P_IPV4, ETH_P_IPV6, Header, ICMPV6, IPV6_HLEN, Payload, UDP, Upper,
        upper,
    },
    verdict::DropReason,
};

/// The port of a DHCPv6 server or relay (RFC 8415, section 7.2).
const DHCP6_SERVER: u16 = 547;

/// A router advertisement (RFC 4861, section 4.2).
const ROUTER_ADVERTISEMENT: u8 = 134;

/// A neighbour solicitation (RFC 4861, section 4.3).
const SOLICITATION: u8 = 135;

/// A neighbour advertisement (RFC 4861, section 4.4).
const ADVERTISEMENT: u8 = 136;

/// A redirect (RFC 4861, section 4.5).
const REDIRECT: u8 = 137;

/// The option with the source's MAC (RFC 4861, section 4.6.1).
const SOURCE_MAC: u8 = 1;

/// The option with the target's MAC (RFC 4861, section 4.6.1).
const TARGET_MAC: u8 = 2;

/// How many options of a neighbour message are looked at: it has one, or a nonce beside it (RFC
/// 7527).
const OPTIONS: u32 = 4;

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
            ETH_P_ARP => self.arp(bytes, payload.offset, account),
            ETH_P_IPV4 => self.ipv4(bytes, payload.offset, account),
            ETH_P_IPV6 => self.ipv6(bytes, payload.offset, account),
            _ => None,
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

    /// Looks at an ARP packet.
    #[inline(always)]
    pub fn arp(
        self,
        bytes: &impl Bytes,
        offset: u32,
        account: &impl Account,
    ) -> Option<DropReason> {
        let Some(message) = neighbour::arp(bytes, offset) else {
            let checked = check_flag::ADDRESS | check_flag::MAC;
            return if self.checks & checked != 0 {
                Some(DropReason::NeighbourClaim)
            } else {
                None
            };
        };
        if self.looks_for(check_flag::MAC) && word(message.mac) != word(self.mac) {
            return Some(DropReason::NeighbourClaim);
        }
        self.says(&message, account)
    }

    /// A message about an address, whose MACs are right.
    #[inline(always)]
    fn says(self, message: &Message, account: &impl Account) -> Option<DropReason> {
        let asks = message.kind as u8 == Kind::Probe as u8;
        let ip = if asks { message.target } else { message.sender };
        Self::judge(account.uses(ip, asks), DropReason::NeighbourClaim)
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
        let first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
        let mut from_client = false;
        if header[9] == UDP && first {
            let at = offset + (u32::from(header[0]) & 0xf) * 4;
            let Some([a, b, c, d]) = bytes.load::<4>(at) else {
                return self.hidden(GUARDED4);
            };
            let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            if from == dhcp::SERVER_PORT && self.looks_for(check_flag::DHCP_SERVER) {
                return Some(DropReason::DhcpServer);
            }
            from_client = to == dhcp::SERVER_PORT;
        }
        // Only who asks for an address may have none (RFC 1122, section 3.2.1.3).
        if u32::from_ne_bytes(source) == 0 && (from_client || header[9] == IGMP) {
            return None;
        }
        Self::judge(account.uses(mapped_address(source), false), DropReason::SourceIp)
    }

    /// Looks at an IPv6 packet.
    #[inline(always)]
    pub fn ipv6(
        self,
        bytes: &impl Bytes,
        start: u32,
        account: &impl Account,
    ) -> Option<DropReason> {
        let Some([high, low, next]) = bytes.load::<3>(start + 4) else {
            return self.hidden(GUARDED);
        };
        let end = start + IPV6_HLEN + u32::from(u16::from_be_bytes([high, low]));
        let Some(source) = bytes.load::<16>(start + 8).map(address) else {
            return self.hidden(GUARDED);
        };
        let (protocol, at, fragmented) = match upper(bytes, start, next) {
            // What a first fragment has behind its end is not what will be put together (RFC 7112).
            Upper::At(Header { offset, fragmented: true, .. })
                if offset + UPPER_HLEN > end && self.checks & GUARDED != 0 =>
            {
                return Some(DropReason::HiddenHeader);
            }
            Upper::At(Header { protocol, offset, fragmented }) => (protocol, offset, fragmented),
            Upper::Elsewhere => (0, 0, true),
            Upper::Hidden if self.checks & GUARDED != 0 => {
                return Some(DropReason::HiddenHeader);
            }
            Upper::Hidden => (0, 0, true),
        };
        let plain = at == start + IPV6_HLEN && !fragmented;
        if let Some(reason) = self.upper(bytes, protocol, at, plain) {
            return Some(reason);
        }
        if plain
            && protocol == ICMPV6
            && let Some(message) = neighbour::discovery(bytes, start)
        {
            if self.looks_for(check_flag::MAC) && !names(bytes, at, message.kind, self.mac) {
                return Some(DropReason::NeighbourClaim);
            }
            if self.looks_for(check_flag::ADDRESS) && message.sender != source {
                // An advertisement for one address may come from another of the same child.
                if message.kind as u8 != Kind::Probe as u8
                    && account.uses(source, false) as u8 != Use::Fine as u8
                {
                    return Some(DropReason::SourceIp);
                }
            }
            // Whoever has the address could not object to what it does not hear.
            if self.looks_for(check_flag::ADDRESS)
                && message.kind as u8 == Kind::Probe as u8
                && !bytes.is_heard(start, message.target)
            {
                return Some(DropReason::NeighbourClaim);
            }
            return self.says(&message, account);
        }
        if source == UNSPECIFIED && protocol == ICMPV6 {
            // Reports of groups, before there is an address (RFC 3590); router solicitations.
            return None;
        }
        Self::judge(account.uses(source, false), DropReason::SourceIp)
    }

    /// What the upper header says, beside addresses. It is `plain` if it stands right behind the
    /// IPv6 header.
    #[inline(always)]
    fn upper(self, bytes: &impl Bytes, protocol: u8, at: u32, plain: bool) -> Option<DropReason> {
        if protocol == UDP && self.looks_for(check_flag::DHCP_SERVER) {
            let Some(from) = bytes.load::<2>(at) else { return Some(DropReason::HiddenHeader) };
            let is_server = u16::from_be_bytes(from) == DHCP6_SERVER;
            return if is_server { Some(DropReason::DhcpServer) } else { None };
        }
        if protocol != ICMPV6 || self.checks & GUARDED == 0 {
            return None;
        }
        let Some([kind]) = bytes.load::<1>(at) else { return Some(DropReason::HiddenHeader) };
        match kind {
            ROUTER_ADVERTISEMENT | REDIRECT if self.looks_for(check_flag::ROUTER) => {
                Some(DropReason::Router)
            }
            // Nobody fragments them (RFC 6980, section 5), or puts anything before them.
            SOLICITATION | ADVERTISEMENT
                if !plain && self.looks_for(check_flag::ADDRESS | check_flag::MAC) =>
            {
                Some(DropReason::HiddenHeader)
            }
            _ => None,
        }
    }
}

/// True unless a neighbour message, which begins at `at`, names another MAC as its sender's in an option.
/// One with more options than anybody needs may.
#[inline(always)]
pub fn names(bytes: &impl Bytes, at: u32, kind: Kind, mac: Mac) -> bool {
    let wanted = if kind as u8 == Kind::Claim as u8 { TARGET_MAC } else { SOURCE_MAC };
    let mut option = at + 24;
    for _ in 0..OPTIONS {
        let Some([kind, len, a, b, c, d, e, f]) = bytes.load::<8>(option) else { return true };
        if kind == wanted {
            return word([a, b, c, d, e, f]) == word(mac);
        }
        if len == 0 {
            return true;
        }
        option += u32::from(len) * 8;
    }
    bytes.load::<8>(option).is_none()
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
    // The pseudo-header (RFC 8200, section 8.1) is the two addresses, the length and the protocol.
    let words = (32 + length) / 2;
    let mut sum = u32::from(length) + ICMPV6 as u32;
    for at in 0..(32 + PROBE_WITH_NONCE_LEN) / 2 {
        if at < words {
            let Some(pair) = bytes.load::<2>(start + 8 + u32::from(at) * 2) else { return false };
            sum += u32::from(u16::from_be_bytes(pair));
        }
    }
    sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Bytes of a solicitation without options.
const PROBE_LEN: u16 = 24;

/// Bytes of one with a nonce (RFC 7527).
const PROBE_WITH_NONCE_LEN: u16 = 32;

/// How much of the upper header has to be in a first fragment: the type, or the ports.
const UPPER_HLEN: u32 = 4;

/// `IPPROTO_IGMP`.
const IGMP: u8 = 2;

/// What needs to see the upper header of an IPv4 packet.
const GUARDED4: u16 = check_flag::ADDRESS | check_flag::DHCP_SERVER;

/// What needs to see the upper header of an IPv6 packet.
const GUARDED: u16 =
    check_flag::ADDRESS | check_flag::MAC | check_flag::DHCP_SERVER | check_flag::ROUTER;
