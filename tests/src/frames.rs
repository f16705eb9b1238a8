//! Ethernet frames: made for a test, and read back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use crate::{mac::Mac, unique};

/// The `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// The `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;
/// The `EtherType` of ARP.
pub const ARP: u16 = 0x0806;
/// The `EtherType` of RARP.
pub const RARP: u16 = 0x8035;
/// The `EtherType` of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// The `EtherType` of an 802.1ad tag, the outer one of two.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// An `EtherType` for experiments: no stack answers it.
pub const EXPERIMENT: u16 = 0x88b5;

/// An Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// To whom it goes.
    pub destination: Mac,
    /// From whom it comes.
    pub source: Mac,
    /// Its tags from the outside in, each an `EtherType` and the tag's sixteen bits.
    pub tags: Vec<(u16, u16)>,
    /// What is in it.
    pub ethertype: u16,
    /// What follows.
    pub payload: Vec<u8>,
}

/// A text that no other frame on this machine carries.
#[must_use]
pub fn token() -> String {
    // The end marks it, so that token 1 is not found in token 10.
    unique("token-") + ";"
}

impl Frame {
    /// A frame for experiments that carries a token.
    #[must_use]
    pub fn new(source: Mac, destination: Mac, token: &str) -> Self {
        Self {
            destination,
            source,
            tags: Vec::new(),
            ethertype: EXPERIMENT,
            payload: token.as_bytes().to_vec(),
        }
    }

    /// "Who has `target`? Tell `sender`." A trailer carries the token.
    #[must_use]
    pub fn arp_request(source: Mac, sender: Ipv4Addr, target: Ipv4Addr, token: &str) -> Self {
        let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
        payload.extend(source.0);
        payload.extend(sender.octets());
        payload.extend([0; 6]);
        payload.extend(target.octets());
        payload.extend(token.bytes());
        Self { ethertype: ARP, payload, ..Self::new(source, Mac::BROADCAST, "") }
    }

    /// A UDP datagram in IPv4, which a socket accepts.
    #[must_use]
    pub fn udp(
        (source, from): (Mac, SocketAddrV4),
        (destination, to): (Mac, SocketAddrV4),
        data: &str,
    ) -> Self {
        let udp_length = u16::try_from(8 + data.len()).expect("a test's data fits a datagram");
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_length).to_be_bytes());
        // No identification, not to be fragmented, 64 hops, UDP, checksum to come.
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(from.ip().octets());
        ip.extend(to.ip().octets());
        let checksum = internet_checksum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());

        let mut payload = ip;
        payload.extend(from.port().to_be_bytes());
        payload.extend(to.port().to_be_bytes());
        payload.extend(udp_length.to_be_bytes());
        // Zero says that there is no checksum.
        payload.extend([0, 0]);
        payload.extend(data.bytes());
        Self { ethertype: IPV4, payload, ..Self::new(source, destination, "") }
    }

    /// "I have `ip`", to all nodes (RFC 4861, section 4.4).
    #[must_use]
    pub fn neighbour_advertisement(source: Mac, ip: Ipv6Addr) -> Self {
        let body = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &ip.octets()[..], &[2, 1], &source.0].concat();
        Self::to_all_nodes(source, ip, body)
    }

    /// A router, and a prefix of 64 bits of which hosts make addresses (RFC 4861, section 4.2).
    #[must_use]
    pub fn router_advertisement(source: Mac, router: Ipv6Addr, prefix: Ipv6Addr) -> Self {
        // No hop limit, no flags, a router for half an hour.
        let head = [134, 0, 0, 0, 0, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        // On the link and for addresses, for an hour.
        let option = [3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0];
        Self::to_all_nodes(source, router, [&head, &option, &prefix.octets()[..]].concat())
    }

    /// An `ICMPv6` message from the link itself; its checksum is filled in.
    fn to_all_nodes(source: Mac, from: Ipv6Addr, mut body: Vec<u8>) -> Self {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let length = u16::try_from(body.len()).expect("a test's message fits a packet");
        let addresses = [from.octets(), all_nodes.octets()].concat();
        let pseudo = [&addresses[..], &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 58], &body];
        let checksum = internet_checksum(&pseudo.concat());
        body[2..4].copy_from_slice(&checksum.to_be_bytes());
        let head = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[58, 255]].concat();
        let payload = [head, addresses, body].concat();
        let to = Mac([0x33, 0x33, 0, 0, 0, 1]);
        Self { ethertype: IPV6, payload, ..Self::new(source, to, "") }
    }

    /// The same frame in a VLAN: with one more 802.1Q tag, outside of those that it has.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(VLAN, id)
    }

    /// The same frame with one more tag, outside of those that it has.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, control: u16) -> Self {
        self.tags.insert(0, (ethertype, control));
        self
    }

    /// The same frame with a trailer behind its payload: nobody but a tap looks at it.
    #[must_use]
    pub fn trailer(mut self, token: &str) -> Self {
        // Behind what Ethernet pads, which is not part of a packet either.
        self.payload.resize(self.payload.len().max(46), 0);
        self.payload.extend(token.bytes());
        self
    }

    /// The VLAN of its outer tag; 0 if it has none.
    #[must_use]
    pub fn vlan_id(&self) -> u16 {
        self.tags.first().map_or(0, |(_, control)| control & 0xfff)
    }

    /// Whether its payload has that text in it.
    #[must_use]
    pub fn carries(&self, token: &str) -> bool {
        self.payload.windows(token.len()).any(|window| window == token.as_bytes())
    }

    /// The frame as it is on the wire, padded to the least length of Ethernet.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [self.destination.0, self.source.0].concat();
        for (ethertype, control) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(control.to_be_bytes());
        }
        bytes.extend(self.ethertype.to_be_bytes());
        bytes.extend(&self.payload);
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }

    /// Reads a frame; `None` if it ends too early.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (destination, rest) = bytes.split_first_chunk::<6>()?;
        let (source, mut rest) = rest.split_first_chunk::<6>()?;
        let mut tags = Vec::new();
        loop {
            let ethertype;
            (ethertype, rest) = read_u16(rest)?;
            if !matches!(ethertype, VLAN | SERVICE_VLAN) {
                return Some(Self {
                    destination: Mac(*destination),
                    source: Mac(*source),
                    tags,
                    ethertype,
                    payload: rest.to_vec(),
                });
            }
            let control;
            (control, rest) = read_u16(rest)?;
            tags.push((ethertype, control));
        }
    }
}

fn read_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// The one's complement sum of RFC 1071, over an even number of bytes.
#[must_use]
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the carries are folded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_as_they_were_made() {
        let (a, b) = (Mac::local(1), Mac::local(2));
        let cases = [
            Frame::new(a, b, &"x".repeat(60)),
            Frame::new(a, b, &"x".repeat(60)).vlan(10),
            Frame::new(a, b, &"x".repeat(60)).vlan(10).tag(SERVICE_VLAN, 20),
        ];
        for frame in cases {
            assert_eq!(Frame::parse(&frame.to_bytes()), Some(frame));
        }
    }

    #[test]
    fn checksum_is_that_of_rfc_1071() {
        assert_eq!(internet_checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
