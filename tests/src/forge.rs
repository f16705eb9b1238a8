//! Frames with every field as a test wants it: what an honest stack sends, and what it never would.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    frames::{ARP, Frame, IPV4, IPV6, RARP, internet_checksum},
    mac::Mac,
};

/// The protocol ICMP.
pub const ICMP: u8 = 1;
/// The protocol IGMP.
pub const IGMP: u8 = 2;
/// The protocol UDP.
pub const UDP: u8 = 17;
/// The protocol PIM.
pub const PIM: u8 = 103;
/// The protocol `ICMPv6`.
pub const ICMPV6: u8 = 58;
/// IPv6's hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// IPv6's fragment header.
pub const FRAGMENT: u8 = 44;
/// IPv6's destination options.
pub const DESTINATION: u8 = 60;

/// The body of a header with options that mean nothing, less its first byte.
pub const NO_OPTIONS: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
/// The body of a first fragment's header, less its first byte: more follows.
pub const FIRST: [u8; 7] = [0, 0, 1, 0, 0, 0, 7];
/// The body of the header of a fragment that begins at byte 8, and is the last.
pub const SECOND: [u8; 7] = [0, 0, 8, 0, 0, 0, 7];

/// The body of hop-by-hop options that tell routers to look at the packet (RFC 2711), less its first byte.
pub const ROUTER_ALERT: [u8; 7] = [0, 5, 2, 0, 0, 1, 0];

/// All nodes of a link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers of a link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The option of a solicitation or a router advertisement with its sender's MAC.
pub const SOURCE_MAC: u8 = 1;
/// The option of an advertisement with its target's MAC.
pub const TARGET_MAC: u8 = 2;

/// Hardware of ARP: Ethernet.
pub const ETHERNET: u16 = 1;
/// Hardware of ARP: IEEE 802, which Linux takes on Ethernet, too (`net/ipv4/arp.c`, `arp_process`).
pub const IEEE_802: u16 = 6;

/// An ARP packet for IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// The hardware.
    pub hardware: u16,
    /// 1 for a request, 2 for a reply; of RARP 3 and 4.
    pub operation: u16,
    /// Who sends it, as it says.
    pub sender: (Mac, Ipv4Addr),
    /// Whom it is about, or for.
    pub target: (Mac, Ipv4Addr),
}

impl Arp {
    /// "Who has `ip`?"
    #[must_use]
    pub fn request(sender: (Mac, Ipv4Addr), ip: Ipv4Addr) -> Self {
        Self { hardware: ETHERNET, operation: 1, sender, target: (Mac([0; 6]), ip) }
    }

    /// "I have it", to somebody.
    #[must_use]
    pub fn reply(sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Self {
        Self { hardware: ETHERNET, operation: 2, sender, target }
    }

    /// "Everybody: I have it now" (RFC 5227, section 3).
    #[must_use]
    pub fn announcement(sender: (Mac, Ipv4Addr)) -> Self {
        Self::request(sender, sender.1)
    }

    /// The same for other hardware.
    #[must_use]
    pub fn of(self, hardware: u16) -> Self {
        Self { hardware, ..self }
    }

    /// As a frame to all stations.
    #[must_use]
    pub fn broadcast(self, source: Mac) -> Frame {
        self.to(source, Mac::BROADCAST)
    }

    /// As a frame of RARP (RFC 903).
    #[must_use]
    pub fn reverse(self, source: Mac, destination: Mac) -> Frame {
        Frame { ethertype: RARP, ..self.to(source, destination) }
    }

    /// As a frame.
    #[must_use]
    pub fn to(self, source: Mac, destination: Mac) -> Frame {
        let [high, low] = self.hardware.to_be_bytes();
        let mut payload = vec![high, low, 8, 0, 6, 4];
        payload.extend(self.operation.to_be_bytes());
        for (mac, ip) in [self.sender, self.target] {
            payload.extend(mac.0);
            payload.extend(ip.octets());
        }
        Frame { ethertype: ARP, payload, ..Frame::new(source, destination, "") }
    }
}

/// The head of a UDP datagram, whose length and checksum are those of no data.
#[must_use]
pub fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

/// An IPv4 packet.
#[derive(Clone, Debug)]
pub struct V4 {
    /// Its source.
    pub from: Ipv4Addr,
    /// Its destination.
    pub to: Ipv4Addr,
    /// How many words of options it has, which mean nothing.
    pub options: u8,
    /// The field with the flags and the place of a fragment.
    pub fragment: u16,
    /// What it carries.
    pub protocol: u8,
    /// The bytes of that.
    pub body: Vec<u8>,
}

impl V4 {
    /// A packet that is no fragment, without options.
    #[must_use]
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, body: Vec<u8>) -> Self {
        Self { from, to, options: 0, fragment: 0, protocol, body }
    }

    /// As a frame.
    #[must_use]
    pub fn frame(&self, source: Mac, destination: Mac) -> Frame {
        let head = 20 + 4 * usize::from(self.options);
        let length = u16::try_from(head + self.body.len()).expect("a test's packet is small");
        let mut ip = vec![0x45 + self.options, 0];
        ip.extend(length.to_be_bytes());
        ip.extend([0, 7]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0]);
        ip.extend(self.from.octets());
        ip.extend(self.to.octets());
        // "No operation" (RFC 791, section 3.1).
        ip.resize(head, 1);
        let checksum = internet_checksum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip.extend(&self.body);
        Frame { ethertype: IPV4, payload: ip, ..Frame::new(source, destination, "") }
    }

    /// As a frame to the group that it is for (RFC 1112, section 6.4).
    #[must_use]
    pub fn multicast(&self, source: Mac) -> Frame {
        let [_, b, c, d] = self.to.octets();
        self.frame(source, Mac([0x01, 0, 0x5e, b & 0x7f, c, d]))
    }
}

/// An IPv6 packet.
#[derive(Clone, Debug)]
pub struct V6 {
    /// Its source.
    pub from: Ipv6Addr,
    /// Its destination.
    pub to: Ipv6Addr,
    /// Its extension headers, each with its number and the bytes behind its first.
    pub headers: Vec<(u8, Vec<u8>)>,
    /// What follows them.
    pub protocol: u8,
    /// The bytes of that.
    pub body: Vec<u8>,
}

impl V6 {
    /// A packet without extension headers.
    #[must_use]
    pub fn new(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, body: Vec<u8>) -> Self {
        Self { from, to, headers: Vec::new(), protocol, body }
    }

    /// An `ICMPv6` message, whose checksum is filled in.
    #[must_use]
    pub fn icmp(from: Ipv6Addr, to: Ipv6Addr, body: Vec<u8>) -> Self {
        Self::summed(from, to, (ICMPV6, 2), body)
    }

    /// A UDP datagram between two ports, whose checksum is filled in.
    #[must_use]
    pub fn udp(from: Ipv6Addr, to: Ipv6Addr, (source, port): (u16, u16), data: &[u8]) -> Self {
        let mut body = udp(source, port);
        body.extend(data);
        let length = u16::try_from(body.len()).expect("a test's datagram is small");
        body[4..6].copy_from_slice(&length.to_be_bytes());
        Self::summed(from, to, (UDP, 6), body)
    }

    /// A packet with a checksum at a place in its body, where zero is now.
    fn summed(
        from: Ipv6Addr,
        to: Ipv6Addr,
        (protocol, at): (u8, usize),
        mut body: Vec<u8>,
    ) -> Self {
        let length = u32::try_from(body.len()).expect("a test's packet is small");
        let (from_ip, to_ip, length) = (from.octets(), to.octets(), length.to_be_bytes());
        let pseudo = [&from_ip[..], &to_ip, &length, &[0, 0, 0, protocol]];
        body[at..at + 2].fill(0);
        let mut summed = [&pseudo.concat()[..], &body].concat();
        // A byte more where their number is odd (RFC 1071, section 1).
        summed.resize(summed.len().next_multiple_of(2), 0);
        let checksum = internet_checksum(&summed);
        body[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        Self::new(from, to, protocol, body)
    }

    /// The same with one more extension header, behind those that it has.
    #[must_use]
    pub fn with(mut self, header: u8, rest: &[u8]) -> Self {
        self.headers.push((header, rest.to_vec()));
        self
    }

    /// As a frame to a station.
    #[must_use]
    pub fn frame(&self, source: Mac, destination: Mac) -> Frame {
        let mut rest = Vec::new();
        let next = |place: usize| self.headers.get(place).map_or(self.protocol, |header| header.0);
        for (place, (_, bytes)) in self.headers.iter().enumerate() {
            rest.push(next(place + 1));
            rest.extend(bytes);
        }
        rest.extend(&self.body);
        let length = u16::try_from(rest.len()).expect("a test's packet is small");
        let [high, low] = length.to_be_bytes();
        let mut payload = vec![0x60, 0, 0, 0, high, low, next(0), 255];
        payload.extend(self.from.octets());
        payload.extend(self.to.octets());
        payload.extend(rest);
        Frame { ethertype: IPV6, payload, ..Frame::new(source, destination, "") }
    }

    /// As a frame to the group that it is for (RFC 2464, section 7).
    #[must_use]
    pub fn multicast(&self, source: Mac) -> Frame {
        let [.., a, b, c, d] = self.to.octets();
        self.frame(source, Mac([0x33, 0x33, a, b, c, d]))
    }
}

/// The group of the stations whose addresses end like this one (RFC 4291, section 2.7.1).
#[must_use]
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = ip.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

/// A neighbour solicitation (RFC 4861, section 4.3), with the MAC of its sender in an option.
#[must_use]
pub fn solicitation(from: Ipv6Addr, target: Ipv6Addr, mac: Option<Mac>) -> V6 {
    let body = neighbour(135, 0, target, mac.map(|mac| (SOURCE_MAC, mac)));
    V6::icmp(from, solicited_node(target), body)
}

/// A neighbour advertisement (RFC 4861, section 4.4): "`target` has `mac`, forget whom you knew".
#[must_use]
pub fn advertisement(from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> V6 {
    V6::icmp(from, to, neighbour(136, 0x20, target, Some((TARGET_MAC, mac))))
}

fn neighbour(kind: u8, flags: u8, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    body.extend(target.octets());
    if let Some((option, mac)) = option {
        body.extend([option, 1]);
        body.extend(mac.0);
    }
    body
}

/// A router solicitation (RFC 4861, section 4.1), with the MAC of its sender in an option.
#[must_use]
pub fn router_solicitation(from: Ipv6Addr, mac: Mac) -> V6 {
    let body = [&[133, 0, 0, 0, 0, 0, 0, 0, SOURCE_MAC, 1][..], &mac.0].concat();
    V6::icmp(from, ALL_ROUTERS, body)
}

/// A router advertisement (RFC 4861, section 4.2): a default router for half an hour.
#[must_use]
pub fn router(from: Ipv6Addr) -> V6 {
    V6::icmp(from, ALL_NODES, vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// A router advertisement that makes nothing of its sender, with its MAC in an option.
#[must_use]
pub fn router_at(from: Ipv6Addr, mac: Mac) -> V6 {
    let head = [134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, SOURCE_MAC, 1];
    V6::icmp(from, ALL_NODES, [&head[..], &mac.0].concat())
}

/// A solicitation of inverse discovery (RFC 3122, section 4.1), with the MACs of its sender and its target.
#[must_use]
pub fn inverse(from: Ipv6Addr, mac: Mac, target: Mac) -> V6 {
    let [own, other] = [(SOURCE_MAC, mac), (TARGET_MAC, target)]
        .map(|(option, mac)| [&[option, 1][..], &mac.0].concat());
    V6::icmp(from, ALL_NODES, [&[141, 0, 0, 0, 0, 0, 0, 0][..], &own, &other].concat())
}

/// A redirect (RFC 4861, section 4.5): "`to` reaches `destination` by `target`".
#[must_use]
pub fn redirect(from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, destination: Ipv6Addr) -> V6 {
    let body = [&[137, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], &destination.octets()].concat();
    V6::icmp(from, to, body)
}

/// The same, with the MAC of `target` in an option.
#[must_use]
pub fn redirect_at(
    from: Ipv6Addr,
    to: Ipv6Addr,
    (target, mac): (Ipv6Addr, Mac),
    destination: Ipv6Addr,
) -> V6 {
    let mut body = redirect(from, to, target, destination).body;
    body.extend([TARGET_MAC, 1].iter().chain(&mac.0));
    V6::icmp(from, to, body)
}

/// A general query of IGMP (RFC 2236, section 2): "who is in which group?"
#[must_use]
pub fn igmp_query(from: Ipv4Addr) -> V4 {
    igmp(from, Ipv4Addr::new(224, 0, 0, 1), &[0x11, 100, 0, 0, 0, 0, 0, 0])
}

/// A message of IGMP, whose checksum is filled in.
#[must_use]
pub fn igmp(from: Ipv4Addr, to: Ipv4Addr, body: &[u8]) -> V4 {
    let mut body = body.to_vec();
    let checksum = internet_checksum(&body);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    V4 { options: 1, ..V4::new(from, to, IGMP, body) }
}

/// A general query of MLD (RFC 2710, section 3): "who is in which group?"
#[must_use]
pub fn mld_query(from: Ipv6Addr) -> V6 {
    let mut body = vec![130, 0, 0, 0, 0x27, 0x10, 0, 0];
    body.resize(24, 0);
    V6::icmp(from, ALL_NODES, body).with(HOP_BY_HOP, &ROUTER_ALERT)
}

/// The same frame with a length, LLC and SNAP instead of its `EtherType` (RFC 1042).
#[must_use]
pub fn snap(frame: Frame) -> Frame {
    let payload =
        [&[0xaa, 0xaa, 3, 0, 0, 0], &frame.ethertype.to_be_bytes()[..], &frame.payload].concat();
    let length = u16::try_from(payload.len()).expect("a test's frame is small");
    Frame { ethertype: length, payload, ..frame }
}

/// A protocol of an organisation in SNAP, which says nothing.
#[must_use]
pub fn proprietary(source: Mac, destination: Mac, organisation: [u8; 3], protocol: u16) -> Frame {
    let mut payload = [&[0xaa, 0xaa, 3][..], &organisation, &protocol.to_be_bytes()].concat();
    payload.resize(40, 0);
    Frame { ethertype: 40, payload, ..Frame::new(source, destination, "") }
}

/// What STP says (IEEE 802.1D-2004, clause 9.3.1): "I am the root."
#[must_use]
pub fn bpdu(source: Mac) -> Frame {
    // A length instead of a type, and the address of the protocol twice.
    let mut payload = vec![0x42, 0x42, 3];
    payload.resize(38, 0);
    let to = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
    Frame { ethertype: 38, payload, ..Frame::new(source, to, "") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_a_packet_name_the_next() {
        let from = "fe80::1".parse().expect("an address");
        let packet = router(from).with(HOP_BY_HOP, &NO_OPTIONS).with(DESTINATION, &NO_OPTIONS);
        let frame = packet.multicast(Mac::local(1));
        assert_eq!(frame.destination, Mac([0x33, 0x33, 0, 0, 0, 1]));
        let bytes = frame.payload;
        assert_eq!([bytes[6], bytes[40], bytes[48], bytes[56]], [0, 60, 58, 134]);
        assert_eq!(usize::from(bytes[5]), bytes.len() - 40);
    }

    #[test]
    fn a_message_of_icmpv6_has_its_checksum() {
        let mac = Mac::local(1);
        let from = "fd00::1".parse().expect("an address");
        let known = Frame::neighbour_advertisement(mac, from);
        assert_eq!(advertisement(from, ALL_NODES, from, mac).multicast(mac), known);
    }

    #[test]
    fn a_packet_of_ipv4_has_its_length_and_checksum() {
        let v4 = V4 {
            options: 2,
            ..V4::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), UDP, udp(1, 2))
        };
        let bytes = v4.frame(Mac::local(1), Mac::local(2)).payload;
        assert_eq!((bytes[0], bytes[3], bytes.len()), (0x47, 36, 36));
        assert_eq!(internet_checksum(&bytes[..28]), 0);
    }
}
