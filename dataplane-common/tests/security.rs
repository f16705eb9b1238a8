//! Port security, case by case: frames of a child, and why they may not be sent.

use std::{cell::RefCell, collections::HashSet, net::Ipv6Addr};

use dataplane_common::{
    DropReason,
    abi::{Address, address, check_flag},
    frame::{Mac, head_of},
    neighbour::{Right, mapped_address},
    packet::Payload,
    security::{Account, Sender, Use, settle},
};

const MAC: Mac = [2, 0, 0, 0, 0, 9];
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 8];
const OWN: [u8; 4] = [192, 168, 50, 9];
const OTHER: [u8; 4] = [192, 168, 50, 8];
const ALL: u16 = check_flag::ADDRESS
    | check_flag::MAC
    | check_flag::DHCP_SERVER
    | check_flag::ROUTER
    | check_flag::MULTICAST_ROUTER
    | check_flag::SWITCHING;

fn own6() -> [u8; 16] {
    "fd00:50::9".parse::<Ipv6Addr>().unwrap().octets()
}

fn other6() -> [u8; 16] {
    "fd00:50::8".parse::<Ipv6Addr>().unwrap().octets()
}

/// A child with [`OWN`] and [`own6`], which may have no other if that is checked, or is full.
struct Book {
    full: bool,
    checked: bool,
    asked: RefCell<Vec<(Address, bool)>>,
}

impl Account for Book {
    fn uses(&self, ip: Address, asks: bool) -> Use {
        self.asked.borrow_mut().push((ip, asks));
        if self.full {
            return Use::Full;
        }
        let own = ip == mapped_address(OWN) || ip == address(own6());
        settle(if own { Right::Own } else { Right::None }, asks, self.checked).0
    }
}

/// Looks at a frame of the child.
fn inspect(frame: &[u8], checks: u16) -> Option<DropReason> {
    let checked = checks & check_flag::ADDRESS != 0;
    let book = Book { full: false, checked, asked: RefCell::default() };
    let head = head_of(frame).expect("a frame with a head");
    Sender { mac: MAC, checks }.inspect(&frame, Payload::of(&head), &book)
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [[0xff; 6], MAC].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The same behind a tag of VLAN 0.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0xe0, 0], &frame[12..]].concat()
}

fn arp(operation: u8, mac: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
    arp.extend(mac.iter().chain(&sender).chain(&[0; 6]).chain(&target));
    ethernet(0x0806, &arp)
}

/// An IPv4 packet; `fragment` is the field with the flags and the offset.
fn ipv4(source: [u8; 4], options: usize, fragment: u16, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20 + 4 * options];
    packet[0] = 0x45 + u8::try_from(options).unwrap();
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&[255; 4]);
    packet.extend(body);
    let length = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    ethernet(0x0800, &packet)
}

/// A UDP datagram that begins with a byte.
fn datagram(from: u16, to: u16, first: u8) -> Vec<u8> {
    [&udp(from, to)[..], &[first, 1, 6, 0]].concat()
}

/// A packet of RARP, with the MACs of its sender and its target.
fn rarp(operation: u8, mac: Mac, sender: [u8; 4], target: Mac) -> Vec<u8> {
    let mut rarp = vec![0, 1, 8, 0, 6, 4, 0, operation];
    rarp.extend(mac.iter().chain(&sender).chain(&target).chain(&[0; 4]));
    ethernet(0x8035, &rarp)
}

/// A frame with a length, LLC and SNAP instead of its type.
fn snap(frame: &[u8]) -> Vec<u8> {
    let header = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &frame[12..]].concat();
    ethernet(u16::try_from(header.len()).unwrap(), &header)
}

/// A frame to another station or group.
fn to(destination: Mac, frame: &[u8]) -> Vec<u8> {
    [&destination, &frame[6..]].concat()
}

/// What Cisco's switches say in SNAP.
fn cisco(protocol: u16) -> Vec<u8> {
    let mut body = vec![0xaa, 0xaa, 3, 0, 0, 0x0c];
    body.extend(protocol.to_be_bytes());
    body.resize(46, 0);
    ethernet(46, &body)
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

/// An IPv6 packet with extension headers, each with its protocol and the seven bytes behind its first.
fn ipv6(source: [u8; 16], headers: &[(u8, [u8; 7])], last: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, headers.first().map_or(last, |h| h.0), 255];
    packet.extend(source.iter().chain(&[0xff, 2]).chain(&[0; 13]).chain(&[1]));
    for (place, (_, rest)) in headers.iter().enumerate() {
        packet.push(headers.get(place + 1).map_or(last, |h| h.0));
        packet.extend(rest);
    }
    packet.extend(body);
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    ethernet(0x86dd, &packet)
}

/// A frame with something behind the packet in it.
fn behind(frame: &[u8], trailer: &[u8]) -> Vec<u8> {
    [frame, trailer].concat()
}

/// A neighbour message about an address, with an option that carries a MAC.
fn neighbour(kind: u8, target: [u8; 16], option: u8, mac: Mac) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
    body.extend(target.iter().chain(&[option, 1]).chain(&mac));
    body
}

/// Who has [`other6`]? As those hear it who may have it, but for a change.
fn probe(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    probe_of(&neighbour(135, other6(), 14, MAC)[..24], change)
}

/// The same with an option, and the right checksum.
fn probe_with(option: u8) -> Vec<u8> {
    probe_of(&neighbour(135, other6(), option, MAC), |_| {})
}

fn probe_of(body: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = ipv6([0; 16], &[], ICMPV6, body);
    let [.., x, y, z] = other6();
    frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, x, y, z]);
    frame[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
    let words = frame[22..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>() + u32::try_from(body.len()).unwrap() + u32::from(ICMPV6);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[56..58].copy_from_slice(&(!sum).to_be_bytes());
    change(&mut frame);
    frame
}

/// An advertisement of the child's own address at another's MAC, behind four nonces (RFC 3971).
fn many_options() -> Vec<u8> {
    let mut body = neighbour(136, own6(), 14, MAC);
    for _ in 0..3 {
        body.extend([14, 1, 0, 0, 0, 0, 0, 0]);
    }
    body.extend([2, 1]);
    body.extend(OTHER_MAC);
    body
}

const OPTIONS: [u8; 7] = [0; 7];
const FIRST: [u8; 7] = [0, 0, 1, 0, 0, 0, 7];
const SECOND: [u8; 7] = [0, 0, 9, 0, 0, 0, 7];
const ICMPV6: u8 = 58;
const UDP: u8 = 17;
const TCP: u8 = 6;
const IGMP: u8 = 2;
const PIM: u8 = 103;

/// A router solicitation (RFC 4861, section 4.1), with an option that carries a MAC.
fn looks_for_routers(option: u8, mac: Mac) -> Vec<u8> {
    let mut body = vec![133, 0, 0, 0, 0, 0, 0, 0, option, 1];
    body.extend(mac);
    body
}

/// A router's advertisement, with its MAC.
fn advertises(mac: Mac) -> Vec<u8> {
    let mut body =
        vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 0, 0, 0, 0, 5, 220, 1, 1];
    body.extend(mac);
    body
}

/// A redirect to [`OTHER`]'s address, with a MAC.
fn redirects(mac: Option<Mac>) -> Vec<u8> {
    let mut body = vec![137, 0, 0, 0, 0, 0, 0, 0];
    body.extend(other6().iter().chain(&other6()));
    if let Some(mac) = mac {
        body.extend([2, 1].iter().chain(&mac));
    }
    // The packet that it is about (RFC 4861, section 4.6.3).
    body.extend([4, 2, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 0, 59, 64]);
    body
}

type Case = (&'static str, Vec<u8>, Option<DropReason>);

fn of_ipv4() -> Vec<Case> {
    use DropReason::{DhcpServer, HiddenHeader, MulticastRouter, NeighbourClaim, Router, SourceIp};
    let mut token_ring = arp(1, MAC, OWN, OTHER);
    token_ring[15] = 6;
    vec![
        ("a question in ARP", arp(1, MAC, OWN, OTHER), None),
        ("ARP for other hardware", token_ring, Some(NeighbourClaim)),
        ("a probe for another's address", arp(1, MAC, [0; 4], OTHER), None),
        ("a reply for another", arp(2, MAC, OTHER, OWN), Some(NeighbourClaim)),
        ("a question in another's name", arp(1, MAC, OTHER, OWN), Some(NeighbourClaim)),
        ("an announcement of another's", arp(1, MAC, OTHER, OTHER), Some(NeighbourClaim)),
        ("another's MAC in ARP", arp(2, OTHER_MAC, OWN, OTHER), Some(NeighbourClaim)),
        ("ARP of another kind", ethernet(0x0806, &[0; 28]), Some(NeighbourClaim)),
        ("ARP that is cut off", ethernet(0x0806, &[0, 1, 8, 0]), Some(NeighbourClaim)),
        ("TCP", ipv4(OWN, 0, 0, TCP, &udp(1, 2)), None),
        ("TCP with another's address", ipv4(OTHER, 0, 0, TCP, &udp(1, 2)), Some(SourceIp)),
        ("no address", ipv4([0; 4], 0, 0, TCP, &udp(1, 2)), Some(SourceIp)),
        ("no address, and asking for one", ipv4([0; 4], 0, 0, UDP, &datagram(68, 67, 1)), None),
        ("no address, and joining a group", ipv4([0; 4], 0, 0, IGMP, &[0x22, 0, 0, 0]), None),
        ("a DHCP server", ipv4(OWN, 0, 0, UDP, &udp(67, 68)), Some(DhcpServer)),
        ("one behind options", ipv4(OWN, 2, 0, UDP, &udp(67, 68)), Some(DhcpServer)),
        ("one in a first fragment", ipv4(OWN, 0, 0x2000, UDP, &udp(67, 68)), Some(DhcpServer)),
        ("one from another port", ipv4(OWN, 0, 0, UDP, &datagram(1067, 68, 2)), Some(DhcpServer)),
        ("one that tells a relay", ipv4(OWN, 0, 0, UDP, &datagram(1067, 67, 2)), Some(DhcpServer)),
        (
            "one that tells a relay, in fragments",
            ipv4(OWN, 0, 0x2000, UDP, &udp(1067, 67)),
            Some(HiddenHeader),
        ),
        (
            "one in fragments, with a lie behind its end",
            behind(&ipv4(OWN, 0, 0x2000, UDP, &udp(1067, 67)), &[1]),
            Some(HiddenHeader),
        ),
        ("a relay", ipv4(OWN, 0, 0, UDP, &datagram(67, 67, 1)), Some(DhcpServer)),
        ("a client that renews", ipv4(OWN, 0, 0, UDP, &datagram(68, 67, 1)), None),
        ("a client at another port", ipv4(OWN, 0, 0, UDP, &datagram(1068, 67, 1)), None),
        ("nothing, for a server", ipv4(OWN, 0, 0, UDP, &udp(5000, 67)), None),
        ("the rest of a fragment", ipv4(OWN, 0, 0x0010, UDP, &[0, 67, 0, 68]), None),
        ("UDP without its ports", ipv4(OWN, 0, 0x2000, UDP, &[0]), Some(HiddenHeader)),
        (
            "UDP with its ports behind its end",
            behind(&ipv4(OWN, 0, 0x2000, UDP, &[]), &udp(1, 2)),
            Some(HiddenHeader),
        ),
        ("an IGMP query", ipv4(OWN, 0, 0, IGMP, &[0x11, 0, 0, 0]), Some(MulticastRouter)),
        (
            "an IGMP query without an address",
            ipv4([0; 4], 6, 0, IGMP, &[0x11, 0, 0, 0]),
            Some(MulticastRouter),
        ),
        ("DVMRP", ipv4(OWN, 0, 0, IGMP, &[0x13, 1, 0, 0]), Some(MulticastRouter)),
        ("a multicast router", ipv4(OWN, 0, 0, IGMP, &[0x30, 20, 0, 0]), Some(MulticastRouter)),
        ("one is looked for", ipv4(OWN, 0, 0, IGMP, &[0x31, 0, 0, 0]), None),
        ("a report of a group", ipv4(OWN, 6, 0, IGMP, &[0x22, 0, 0, 0]), None),
        ("PIM", ipv4(OWN, 0, 0, PIM, &[0x20, 0, 0, 0]), Some(MulticastRouter)),
        ("IGMP without its type", ipv4(OWN, 0, 0x2000, IGMP, &[]), Some(HiddenHeader)),
        ("a router in ICMP", ipv4(OWN, 0, 0, 1, &[9, 0, 0, 0]), Some(Router)),
        ("a ping", ipv4(OWN, 0, 0, 1, &[8, 0, 0, 0]), None),
        ("IPv4 that is cut off", ethernet(0x0800, &[0x45; 10]), Some(HiddenHeader)),
        ("something else", ethernet(0x88b5, &[0; 46]), None),
    ]
}

/// What is neither ARP nor IP, but may lead to it.
fn of_others() -> Vec<Case> {
    use DropReason::{DhcpServer, HiddenHeader, NeighbourClaim, Reserved};
    let question = arp(1, MAC, OWN, OTHER);
    let mut long = snap(&question);
    long[12..14].copy_from_slice(&0x8870_u16.to_be_bytes());
    let mut lies = snap(&question);
    lies[12..14].copy_from_slice(&0x05ff_u16.to_be_bytes());
    let group = |last| [1, 0x80, 0xc2, 0, 0, last];
    vec![
        ("its own MAC is shown", rarp(3, MAC, [0; 4], MAC), None),
        ("its own address is asked for", rarp(3, MAC, OWN, MAC), None),
        ("another's address is asked for", rarp(3, MAC, OWN, OTHER_MAC), Some(NeighbourClaim)),
        ("RARP with another's MAC", rarp(3, OTHER_MAC, [0; 4], OTHER_MAC), Some(NeighbourClaim)),
        ("RARP with another's address", rarp(3, MAC, OTHER, MAC), Some(NeighbourClaim)),
        ("a RARP server", rarp(4, MAC, OWN, OTHER_MAC), Some(DhcpServer)),
        ("RARP of another kind", ethernet(0x8035, &[0; 28]), Some(NeighbourClaim)),
        ("RARP that is cut off", ethernet(0x8035, &[0, 1, 8, 0]), Some(NeighbourClaim)),
        ("ARP in SNAP", snap(&question), Some(HiddenHeader)),
        ("IPv4 in SNAP", snap(&ipv4(OWN, 0, 0, TCP, &udp(1, 2))), Some(HiddenHeader)),
        ("IPv6 in SNAP", snap(&ipv6(own6(), &[], TCP, &udp(1, 2))), Some(HiddenHeader)),
        ("a tag in SNAP", snap(&tagged(&question)), Some(HiddenHeader)),
        ("ARP in SNAP that is too long", long, Some(HiddenHeader)),
        ("ARP in SNAP whose length is none", lies, Some(HiddenHeader)),
        ("an old tag", ethernet(0x9100, &[0; 46]), Some(HiddenHeader)),
        ("IPX", ethernet(46, &[0xe0; 46]), None),
        ("CDP", to([1, 0, 0x0c, 0xcc, 0xcc, 0xcc], &cisco(0x2000)), Some(Reserved)),
        ("CDP to one station", to(OTHER_MAC, &cisco(0x2000)), Some(Reserved)),
        ("a frame of ISL", to([1, 0, 0x0c, 0, 0, 0], &ethernet(46, &[0xe0; 46])), Some(Reserved)),
        ("GVRP", to(group(0x21), &ethernet(46, &[0x42; 46])), Some(Reserved)),
        ("MVRP", to(group(0x21), &ethernet(0x88f5, &[0; 46])), Some(Reserved)),
        ("fault management", to(group(0x35), &ethernet(0x8902, &[0; 46])), Some(Reserved)),
        ("another group", to(group(0x40), &ethernet(0x88b5, &[0; 46])), None),
    ]
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn of_ipv6() -> Vec<Case> {
    use DropReason::{DhcpServer, HiddenHeader, MulticastRouter, NeighbourClaim, Router, SourceIp};
    let advertise = |target, mac| neighbour(136, target, 2, mac);
    let solicit = |mac| neighbour(135, other6(), 1, mac);
    let router = [134, 0, 0, 0, 64, 0, 7, 8];
    let none = [0; 16];
    vec![
        ("TCP", ipv6(own6(), &[], TCP, &udp(1, 2)), None),
        ("TCP with another's address", ipv6(other6(), &[], TCP, &udp(1, 2)), Some(SourceIp)),
        ("no address", ipv6(none, &[], TCP, &udp(1, 2)), Some(SourceIp)),
        ("joining a group, without an address", ipv6(none, &[(0, OPTIONS)], ICMPV6, &[143]), None),
        ("looking for routers", ipv6(own6(), &[], ICMPV6, &looks_for_routers(1, MAC)), None),
        ("so, without options", ipv6(own6(), &[], ICMPV6, &looks_for_routers(1, MAC)[..8]), None),
        ("so, without an address", ipv6(none, &[], ICMPV6, &looks_for_routers(1, MAC)), None),
        (
            "so, with another's MAC",
            ipv6(own6(), &[], ICMPV6, &looks_for_routers(1, OTHER_MAC)),
            Some(NeighbourClaim),
        ),
        (
            "so, with another's address",
            ipv6(other6(), &[], ICMPV6, &looks_for_routers(1, MAC)),
            Some(SourceIp),
        ),
        (
            "so, behind options",
            ipv6(own6(), &[(60, OPTIONS)], ICMPV6, &looks_for_routers(1, OTHER_MAC)),
            Some(HiddenHeader),
        ),
        (
            "so, with two MACs",
            ipv6(
                own6(),
                &[],
                ICMPV6,
                &[looks_for_routers(1, MAC), looks_for_routers(1, OTHER_MAC)[8..].into()].concat(),
            ),
            Some(NeighbourClaim),
        ),
        (
            "so, with an option of no length",
            ipv6(own6(), &[], ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0]),
            Some(NeighbourClaim),
        ),
        (
            "so, with an option that is cut off",
            ipv6(own6(), &[], ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0, 14, 2, 0, 0, 0, 0, 0, 0]),
            Some(NeighbourClaim),
        ),
        (
            "so, and something behind its end",
            behind(
                &ipv6(own6(), &[], ICMPV6, &looks_for_routers(1, MAC)),
                &looks_for_routers(1, OTHER_MAC)[8..],
            ),
            None,
        ),
        (
            "inverse discovery",
            ipv6(own6(), &[], ICMPV6, &[141, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9]),
            Some(NeighbourClaim),
        ),
        (
            "its answer, behind options",
            ipv6(own6(), &[(60, OPTIONS)], ICMPV6, &[142, 0, 0, 0, 0, 0, 0, 0]),
            Some(NeighbourClaim),
        ),
        (
            "an MLD query",
            ipv6(own6(), &[(0, OPTIONS)], ICMPV6, &[130, 0, 0, 0]),
            Some(MulticastRouter),
        ),
        ("a multicast router", ipv6(own6(), &[], ICMPV6, &[151, 0, 0, 0]), Some(MulticastRouter)),
        ("one that goes", ipv6(own6(), &[], ICMPV6, &[153, 0, 0, 0]), Some(MulticastRouter)),
        ("one is looked for", ipv6(own6(), &[], ICMPV6, &[152, 0, 0, 0]), None),
        ("PIM", ipv6(own6(), &[], PIM, &[0x20, 0, 0, 0]), Some(MulticastRouter)),
        ("a question", ipv6(own6(), &[], ICMPV6, &solicit(MAC)), None),
        (
            "a question with another's MAC",
            ipv6(own6(), &[], ICMPV6, &solicit(OTHER_MAC)),
            Some(NeighbourClaim),
        ),
        (
            "a question in another's name",
            ipv6(other6(), &[], ICMPV6, &solicit(MAC)),
            Some(NeighbourClaim),
        ),
        ("a probe", probe(|_| {}), None),
        ("a probe that names a MAC", probe_with(1), Some(NeighbourClaim)),
        ("a probe with a nonce", probe_with(14), None),
        ("a probe to nobody", probe(|frame| frame[0] = 2), Some(NeighbourClaim)),
        ("a probe to others", probe(|frame| frame[5] ^= 1), Some(NeighbourClaim)),
        ("a probe to another group", probe(|frame| frame[53] ^= 1), Some(NeighbourClaim)),
        ("a probe with a wrong checksum", probe(|frame| frame[56] ^= 1), Some(NeighbourClaim)),
        ("a probe that is cut off", probe(|frame| frame[19] -= 8), Some(NeighbourClaim)),
        ("an advertisement", ipv6(own6(), &[], ICMPV6, &advertise(own6(), MAC)), None),
        (
            "one for another",
            ipv6(own6(), &[], ICMPV6, &advertise(other6(), MAC)),
            Some(NeighbourClaim),
        ),
        ("one from another", ipv6(other6(), &[], ICMPV6, &advertise(own6(), MAC)), Some(SourceIp)),
        (
            "one with another's MAC",
            ipv6(own6(), &[], ICMPV6, &advertise(own6(), OTHER_MAC)),
            Some(NeighbourClaim),
        ),
        (
            "one with another's MAC behind more options than anybody needs",
            ipv6(own6(), &[], ICMPV6, &many_options()),
            Some(NeighbourClaim),
        ),
        (
            "one behind options",
            ipv6(own6(), &[(60, OPTIONS)], ICMPV6, &advertise(other6(), MAC)),
            Some(HiddenHeader),
        ),
        (
            "one in fragments",
            ipv6(own6(), &[(44, FIRST)], ICMPV6, &advertise(own6(), MAC)),
            Some(HiddenHeader),
        ),
        ("a router", ipv6(own6(), &[], ICMPV6, &router), Some(Router)),
        ("a redirect", ipv6(own6(), &[], ICMPV6, &[137, 0, 0, 0]), Some(Router)),
        (
            "a router behind hop-by-hop options",
            ipv6(own6(), &[(0, OPTIONS)], ICMPV6, &router),
            Some(Router),
        ),
        (
            "a router behind two headers",
            ipv6(own6(), &[(60, OPTIONS), (43, OPTIONS)], ICMPV6, &router),
            Some(Router),
        ),
        (
            "a router in a first fragment",
            ipv6(own6(), &[(44, FIRST)], ICMPV6, &router),
            Some(Router),
        ),
        (
            "a router behind a fragment's options",
            ipv6(own6(), &[(44, FIRST), (60, OPTIONS)], ICMPV6, &router),
            Some(Router),
        ),
        ("the rest of a fragment", ipv6(own6(), &[(44, SECOND)], ICMPV6, &router), None),
        (
            "a fragment without the header",
            ipv6(own6(), &[(44, FIRST), (60, [1, 0, 0, 0, 0, 0, 0])], ICMPV6, &[]),
            Some(HiddenHeader),
        ),
        (
            "one with a lie behind its end",
            behind(
                &ipv6(own6(), &[(44, FIRST), (60, [1, 0, 0, 0, 0, 0, 0])], ICMPV6, &[]),
                &[0, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0],
            ),
            Some(HiddenHeader),
        ),
        (
            "a chain too long",
            ipv6(own6(), &[(60, OPTIONS); 9], ICMPV6, &router),
            Some(HiddenHeader),
        ),
        ("a DHCP server", ipv6(own6(), &[], UDP, &udp(547, 546)), Some(DhcpServer)),
        (
            "one behind options",
            ipv6(own6(), &[(60, OPTIONS)], UDP, &udp(547, 546)),
            Some(DhcpServer),
        ),
        (
            "one from another port",
            ipv6(own6(), &[], UDP, &datagram(1547, 546, 2)),
            Some(DhcpServer),
        ),
        ("one that tells a relay", ipv6(own6(), &[], UDP, &datagram(1, 547, 13)), Some(DhcpServer)),
        (
            "one that tells a relay, in fragments",
            ipv6(own6(), &[(44, FIRST)], UDP, &udp(1, 547)),
            Some(HiddenHeader),
        ),
        ("a DHCP client", ipv6(own6(), &[], UDP, &datagram(546, 547, 1)), None),
        ("nothing, for a server", ipv6(own6(), &[], UDP, &udp(546, 547)), None),
        ("UDP without its ports", ipv6(own6(), &[], UDP, &[0]), Some(HiddenHeader)),
        ("a ping", ipv6(own6(), &[], ICMPV6, &[128, 0, 0, 0]), None),
        ("a header that is cut off", ethernet(0x86dd, &[0x60; 10]), Some(HiddenHeader)),
    ]
}

#[test]
fn what_a_child_may_not_send_is_found() {
    for (name, frame, want) in all() {
        assert_eq!(inspect(&frame, ALL), want, "{name}");
        assert_eq!(inspect(&tagged(&frame), ALL), want, "{name}, behind a tag");
    }
}

/// Every case.
fn all() -> impl Iterator<Item = Case> {
    of_ipv4().into_iter().chain(of_ipv6()).chain(of_others())
}

#[test]
fn a_trusted_router_names_no_mac_but_its_own() {
    use DropReason::{NeighbourClaim, SourceIp};
    let checks = ALL & !check_flag::ROUTER;
    let sent =
        |source, headers: &[_], body: &[u8]| inspect(&ipv6(source, headers, ICMPV6, body), checks);
    let claim = Some(NeighbourClaim);
    let cases = [
        ("it advertises itself", sent(own6(), &[], &advertises(MAC)), None),
        ("with another's MAC", sent(own6(), &[], &advertises(OTHER_MAC)), claim),
        ("with another's address", sent(other6(), &[], &advertises(MAC)), Some(SourceIp)),
        ("so, behind options", sent(own6(), &[(60, OPTIONS)], &advertises(OTHER_MAC)), claim),
        ("behind options", sent(own6(), &[(60, OPTIONS)], &advertises(MAC)), None),
        ("it redirects", sent(own6(), &[], &redirects(None)), None),
        ("with the MAC of another", sent(own6(), &[], &redirects(Some(OTHER_MAC))), claim),
        ("with its own MAC for another", sent(own6(), &[], &redirects(Some(MAC))), claim),
    ];
    for (name, found, want) in cases {
        assert_eq!(found, want, "{name}");
    }
    let many: Vec<u8> = [&advertises(MAC)[..], &[3, 1, 0, 0, 0, 0, 0, 0].repeat(40)].concat();
    assert_eq!(sent(own6(), &[], &many), claim, "more options than can be looked at");
    let trusted = check_flag::DHCP_SERVER | check_flag::MULTICAST_ROUTER;
    let redirect = ipv6(own6(), &[], ICMPV6, &redirects(Some(OTHER_MAC)));
    assert_eq!(inspect(&redirect, trusted), None, "trusted with MACs and addresses");
}

#[test]
fn what_nobody_looks_for_passes() {
    let reasons = [
        (
            check_flag::ADDRESS | check_flag::MAC,
            &[DropReason::SourceIp, DropReason::NeighbourClaim][..],
        ),
        (check_flag::DHCP_SERVER, &[DropReason::DhcpServer]),
        (check_flag::ROUTER, &[DropReason::Router]),
        (check_flag::MULTICAST_ROUTER, &[DropReason::MulticastRouter]),
        (check_flag::SWITCHING, &[DropReason::Reserved]),
        (ALL, &[DropReason::HiddenHeader]),
    ];
    for (name, frame, want) in all() {
        let Some(want) = want else { continue };
        let flag =
            reasons.iter().find(|(_, of)| of.contains(&want)).expect("a reason with a flag").0;
        // A child's own address is looked for in what is let through otherwise.
        assert_ne!(inspect(&frame, ALL & !flag), Some(want), "{name}");
    }
}

#[test]
fn each_reason_of_port_security_has_a_case() {
    let seen: HashSet<_> = all().filter_map(|(_, _, want)| want).collect();
    for reason in [
        DropReason::SourceIp,
        DropReason::NeighbourClaim,
        DropReason::DhcpServer,
        DropReason::Router,
        DropReason::HiddenHeader,
        DropReason::MulticastRouter,
        DropReason::Reserved,
    ] {
        assert!(seen.contains(&reason), "{reason:?}");
    }
}

#[test]
fn a_child_with_as_many_addresses_as_it_may_have_gets_no_more() {
    let book = Book { full: true, checked: true, asked: RefCell::default() };
    let frame = probe(|_| {});
    let payload = Payload::of(&head_of(&frame).unwrap());
    let found = Sender { mac: MAC, checks: ALL }.inspect(&frame.as_slice(), payload, &book);
    assert_eq!(found, Some(DropReason::AddressLimit));
    assert_eq!(book.asked.into_inner(), [(address(other6()), true)], "it asks for that address");
}
