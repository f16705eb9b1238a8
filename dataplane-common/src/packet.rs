//! What is inside a frame: where its payload begins, and how IPv6's chain of headers ends.

use crate::{
    abi::Address,
    frame::{ETH_HLEN, Head, Mac, VLAN_HLEN, is_tag},
    llc::{Carries, carries},
    security::{is_heard, names},
};

/// `ETH_P_IP` (`include/uapi/linux/if_ether.h`).
pub const ETH_P_IPV4: u16 = 0x0800;

/// `ETH_P_ARP` (`include/uapi/linux/if_ether.h`).
pub const ETH_P_ARP: u16 = 0x0806;

/// `ETH_P_IPV6` (`include/uapi/linux/if_ether.h`).
pub const ETH_P_IPV6: u16 = 0x86dd;

/// `ETH_P_RARP` (`include/uapi/linux/if_ether.h`).
pub const ETH_P_RARP: u16 = 0x8035;

/// `ETH_P_802_3_MIN` (`include/uapi/linux/if_ether.h`): what is less is no `EtherType` but a length, of a
/// frame that begins with an LLC header (IEEE 802.3-2018, clause 3.2.6).
pub const ETH_P_802_3_MIN: u16 = 0x0600;

/// The `EtherType` in front of an LLC header where the frame is too long for a length (draft-ietf-isis-ext-eth,
/// section 4).
pub const ETH_P_LONG_LLC: u16 = 0x8870;

/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// `IPPROTO_ICMPV6`.
pub const ICMPV6: u8 = 58;

/// Bytes of an IPv6 header (RFC 8200, section 3).
pub const IPV6_HLEN: u32 = 40;

/// The bytes of a frame, wherever the kernel keeps them.
pub trait Bytes {
    /// As many bytes as asked for, from an offset on; `None` if the frame is too short.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// [`step`], from a packed [`Step::Next`] to what follows: there are those for whom it is a function of its own.
    #[inline(always)]
    fn step(&self, at: u64) -> u64 {
        step_packed(self, at)
    }

    /// [`upper()`], likewise.
    #[inline(always)]
    fn upper(&self, offset: u32, first: u8) -> Upper {
        upper(self, offset, first)
    }

    /// [`is_heard`], likewise.
    #[inline(always)]
    fn is_heard(&self, start: u32, target: Address) -> bool {
        is_heard(self, start, target)
    }

    /// [`carries`], likewise.
    #[inline(always)]
    fn carries(&self, offset: u32) -> Carries {
        carries(self, offset)
    }

    /// [`names`], likewise.
    #[inline(always)]
    fn names(&self, at: u32, end: u32, mac: Mac) -> bool {
        names(self, at, end, mac)
    }
}

impl Bytes for &[u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk().copied()
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its `EtherType`, host byte order.
    pub ethertype: u16,
    /// Where it begins.
    pub offset: u32,
}

impl Payload {
    /// The payload of a frame that has at most one tag in its bytes.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "14 or 18")]
    pub const fn of(head: &Head) -> Self {
        let (outer, inner) = (u16::from_be(head[6]), u16::from_be(head[8]));
        if is_tag(outer) {
            Self { ethertype: inner, offset: (ETH_HLEN + VLAN_HLEN) as u32 }
        } else {
            Self { ethertype: outer, offset: ETH_HLEN as u32 }
        }
    }

    /// True for one that follows the addresses: there is no tag in the frame's bytes.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "14")]
    pub const fn is_first(self) -> bool {
        self.offset == ETH_HLEN as u32
    }

    /// True for one that begins with an LLC header, as a length in place of an `EtherType` says.
    #[must_use]
    #[inline(always)]
    pub const fn is_llc(self) -> bool {
        self.ethertype < ETH_P_802_3_MIN
    }
}

/// The protocols behind which [`step`] goes on, and [`ICMPV6`], each as a bit by its lowest six bits.
const MAY_BE_ICMPV6: u64 =
    1 << 0 | 1 << 43 | 1 << 44 | 1 << 51 | 1 << 58 | 1 << 60 | 1 << (135 - 128) | 3 << (139 - 128);

/// True for what an IPv6 header announces where an `ICMPv6` message may follow: that itself, or a header that
/// [`step`] goes past. True for some others, too, that are rare; false for TCP, UDP and the usual tunnels.
#[must_use]
#[inline(always)]
pub const fn may_be_icmpv6(first: u8) -> bool {
    MAY_BE_ICMPV6 >> (first & 0x3f) & 1 != 0
}

/// How many extension headers are looked at. Hosts send one or two; a chain that goes on is there to
/// hide something (RFC 7113, section 2).
const CHAIN: u32 = 8;

/// Where IPv6's chain of headers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// At this header.
    At(Header),
    /// It is in the first fragment, and this is another: nothing to be seen here, and nothing to be
    /// put together without the first.
    Elsewhere,
    /// It cannot be seen: the frame ends before it (RFC 7112 forbids that), or the chain is too long.
    Hidden,
}

impl Upper {
    /// One word: functions of a program that the verifier looks at by themselves return numbers only.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        match self {
            Self::At(header) => Step::Next(header).pack(),
            Self::Elsewhere => Step::Elsewhere.pack(),
            Self::Hidden => Step::Hidden.pack(),
        }
    }

    /// What a word says that [`Self::pack`] gave.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        match Step::unpack(word) {
            Step::Next(header) => Self::At(header),
            Step::Elsewhere => Self::Elsewhere,
            Step::End | Step::Hidden => Self::Hidden,
        }
    }
}

/// A place in the chain of headers: what comes next, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its protocol.
    pub protocol: u8,
    /// Where it begins.
    pub offset: u32,
    /// A fragment header came before it.
    pub fragmented: bool,
}

/// What follows a header of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another header.
    Next(Header),
    /// Nothing: this one does not belong to the chain any more.
    End,
    /// What is in another fragment.
    Elsewhere,
    /// What cannot be seen.
    Hidden,
}

impl Step {
    const NEXT: u64 = 1 << 63;

    /// One word: functions of a program that the verifier looks at by themselves return numbers only.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        match self {
            Self::Next(Header { protocol, offset, fragmented }) => {
                Self::NEXT | offset as u64 | (protocol as u64) << 32 | (fragmented as u64) << 40
            }
            Self::End => 0,
            Self::Elsewhere => 1,
            Self::Hidden => 2,
        }
    }

    /// What a word says that [`Self::pack`] gave.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    pub const fn unpack(word: u64) -> Self {
        if word & Self::NEXT != 0 {
            return Self::Next(Header {
                protocol: (word >> 32) as u8,
                offset: word as u32,
                fragmented: word >> 40 & 1 != 0,
            });
        }
        match word {
            0 => Self::End,
            1 => Self::Elsewhere,
            _ => Self::Hidden,
        }
    }
}

/// Takes one step along the chain (RFC 8200, section 4).
#[inline(always)]
pub fn step(bytes: &(impl Bytes + ?Sized), header: Header) -> Step {
    let (units, base) = match header.protocol {
        // Hop-by-hop, routing, destination, mobility, HIP, shim6: in units of eight bytes.
        0 | 43 | 60 | 135 | 139 | 140 => (8, 1),
        // Authentication: in units of four, the first two not counted (RFC 4302, section 2.2).
        51 => (4, 2),
        // A fragment's: eight bytes.
        44 => (0, 0),
        _ => return Step::End,
    };
    let Some([protocol, len, high, low]) = bytes.load::<4>(header.offset) else {
        return Step::Hidden;
    };
    let is_fragment = units == 0;
    if is_fragment && u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
        return Step::Elsewhere;
    }
    let size = if is_fragment { 8 } else { (u32::from(len) + base) * units };
    let fragmented = header.fragmented || is_fragment;
    Step::Next(Header { protocol, offset: header.offset + size, fragmented })
}

/// The same with packed [`Step`]s; what is no header stays as it is.
#[inline(always)]
pub fn step_packed(bytes: &(impl Bytes + ?Sized), at: u64) -> u64 {
    match Step::unpack(at) {
        Step::Next(header) => step(bytes, header).pack(),
        Step::End | Step::Elsewhere | Step::Hidden => at,
    }
}

/// Walks the chain of headers of the IPv6 packet that begins at `offset` to its end (RFC 7113, section
/// 3).
#[inline(always)]
pub fn upper(bytes: &(impl Bytes + ?Sized), offset: u32, first: u8) -> Upper {
    let first = Header { protocol: first, offset: offset + IPV6_HLEN, fragmented: false };
    // Packed: taken apart and put together again each would be more ways for the verifier to follow.
    let mut at = Step::Next(first).pack();
    for _ in 0..CHAIN {
        let next = bytes.step(at);
        if next & Step::NEXT == 0 {
            let end = if next == Step::End.pack() { at } else { next };
            return Upper::unpack(end);
        }
        at = next;
    }
    Upper::Hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of extension headers, each with its protocol and its bytes, and what comes behind.
    fn chain(headers: &[(u8, &[u8])], last: u8) -> (u8, Vec<u8>) {
        let mut bytes = vec![0; 40];
        for (place, (_, body)) in headers.iter().enumerate() {
            let next = headers.get(place + 1).map_or(last, |header| header.0);
            bytes.push(next);
            bytes.extend_from_slice(body);
        }
        (headers.first().map_or(last, |header| header.0), bytes)
    }

    /// A chain of headers, and where it ends.
    type Case<'a> = (&'a str, &'a [(u8, &'a [u8])], Upper);

    #[test]
    fn the_chain_is_walked_to_its_end() {
        const OPTIONS: &[u8] = &[0, 0, 0, 0, 0, 0, 0];
        const LONG: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        const AUTHENTICATION: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        const FIRST: &[u8] = &[0, 0, 1, 0, 0, 0, 7];
        const SECOND: &[u8] = &[0, 0, 9, 0, 0, 0, 7];
        let at = |offset, fragmented| Upper::At(Header { protocol: ICMPV6, offset, fragmented });
        let cases: &[Case<'_>] = &[
            ("nothing before it", &[], at(40, false)),
            ("hop-by-hop", &[(0, OPTIONS)], at(48, false)),
            ("hop-by-hop of two units", &[(0, LONG)], at(56, false)),
            ("destination and routing", &[(60, OPTIONS), (43, OPTIONS)], at(56, false)),
            ("authentication", &[(51, AUTHENTICATION)], at(52, false)),
            ("the first fragment", &[(44, FIRST)], at(48, true)),
            ("the first fragment, then more", &[(44, FIRST), (60, OPTIONS)], at(56, true)),
            ("another fragment", &[(44, SECOND)], Upper::Elsewhere),
            ("a fragment behind options", &[(60, OPTIONS), (44, SECOND)], Upper::Elsewhere),
            ("seven headers", &[(60, OPTIONS); 7], at(96, false)),
            ("eight", &[(60, OPTIONS); 8], Upper::Hidden),
        ];
        for (name, headers, want) in cases {
            let (first, bytes) = chain(headers, ICMPV6);
            assert_eq!(upper(&bytes.as_slice(), 0, first), *want, "{name}");
        }
        let (first, bytes) = chain(&[(60, OPTIONS), (60, OPTIONS)], ICMPV6);
        assert_eq!(upper(&&bytes[..48], 0, first), Upper::Hidden, "it is cut off");
    }

    #[test]
    fn steps_survive_packing() {
        let next = Step::Next(Header { protocol: 255, offset: u32::MAX, fragmented: true });
        for step in [next, Step::End, Step::Elsewhere, Step::Hidden] {
            assert_eq!(Step::unpack(step.pack()), step);
        }
        let at = Upper::At(Header { protocol: 58, offset: 70_000, fragmented: true });
        for upper in [at, Upper::Elsewhere, Upper::Hidden] {
            assert_eq!(Upper::unpack(upper.pack()), upper);
        }
    }

    #[test]
    fn what_may_end_in_icmpv6_is_what_is_gone_past() {
        for protocol in 0..=u8::MAX {
            let header = Header { protocol, offset: 0, fragmented: false };
            if protocol == ICMPV6 || step(&[0_u8; 64].as_slice(), header) != Step::End {
                assert!(may_be_icmpv6(protocol), "{protocol}");
            }
        }
        // TCP, UDP, DCCP, SCTP, UDP-Lite; IPv4, IPv6, GRE, ESP; OSPF, PIM, VRRP; nothing.
        for protocol in [6, 17, 33, 132, 136, 4, 41, 47, 50, 89, 103, 112, 59] {
            assert!(!may_be_icmpv6(protocol), "{protocol}");
        }
    }

    #[test]
    fn the_payload_is_behind_a_tag_in_the_bytes() {
        let head = |bytes: &[u8; 6]| {
            let mut frame = [0xff; 18];
            frame[12..].copy_from_slice(bytes);
            Payload::of(&crate::frame::head_of(&frame).unwrap())
        };
        let payload = |ethertype, offset| Payload { ethertype, offset };
        assert_eq!(head(&[8, 6, 0, 1, 8, 0]), payload(ETH_P_ARP, 14));
        assert_eq!(head(&[0x81, 0, 0, 10, 0x86, 0xdd]), payload(ETH_P_IPV6, 18));
        assert_eq!(head(&[0x81, 0, 0xe0, 0, 8, 0]), payload(ETH_P_IPV4, 18));
        for (ethertype, want) in [(0, true), (0x5ff, true), (0x600, false), (ETH_P_IPV4, false)] {
            assert_eq!(payload(ethertype, 14).is_llc(), want, "{ethertype:04x}");
        }
    }
}
