//! What may be heard of an address that is pinned to a station of the wire: each form in which a station learns
//! who has an address, by the station itself, and by another.

use std::{collections::BTreeMap, net::Ipv6Addr};

use dataplane_common::{
    DropReason,
    abi::{Ip, PORT_HOST, PORT_WIRE},
    frame::{Mac, head_of},
    neighbour::{UNSPECIFIED, mapped},
    packet::Payload,
    pinned::{Heard, Origin, hear},
    topology::{Membership, TableSet, Topology},
};
use fixtures::lan::{STRANGER, mac, topology, veth};

/// The gateway's MAC, and a thief's.
const GATEWAY: Mac = [2, 0, 0, 0, 0x53, 1];
const THIEF: Mac = STRANGER;

/// The gateway's addresses, and that of a child.
const IP: [u8; 4] = [192, 168, 50, 1];
const CHILD: [u8; 4] = [192, 168, 50, 9];

fn ip6(text: &str) -> Ip {
    text.parse::<Ipv6Addr>().expect("an address").octets()
}

fn gateway() -> Ip {
    ip6("fe80::1")
}

/// A host with a child at port 2, and the gateway pinned in VLAN 0.
fn site() -> Topology {
    let mut child = veth(2, Membership::Access(0));
    child.rights.addresses = vec![mapped(CHILD)];
    let pinned = BTreeMap::from([((0, mapped(IP)), GATEWAY), ((0, gateway()), GATEWAY)]);
    Topology { pinned, ..topology(&[], vec![child]) }
}

fn tables() -> TableSet {
    site().tables(&BTreeMap::new())
}

fn heard(frame: &[u8], from: u16, tables: &TableSet) -> Heard {
    let src = *frame[6..].first_chunk().expect("a frame with a source");
    let payload = Payload::of(&head_of(frame).expect("a frame with a head"));
    hear(&frame, payload, Origin { src, port: from, vlan: 0 }, tables)
}

fn frame(src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [[0xff; 6], src].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// ARP of a station, with the MAC that it names, for hardware of a type.
fn arp(hardware: u8, operation: u8, (src, named): (Mac, Mac), target: [u8; 4]) -> Vec<u8> {
    let mut arp = vec![0, hardware, 8, 0, 6, 4, 0, operation];
    arp.extend(named.iter().chain(&IP).chain(&[0; 6]).chain(&target));
    frame(src, 0x0806, &arp)
}

/// An IPv6 packet with extension headers, each with its protocol and what is behind its first byte.
fn ipv6(src: Mac, source: Ip, headers: &[(u8, [u8; 7])], body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, headers.first().map_or(58, |h| h.0), 255];
    packet.extend(source.iter().chain(&[0xff, 2]).chain(&[0; 13]).chain(&[1]));
    for (place, (_, rest)) in headers.iter().enumerate() {
        packet.push(headers.get(place + 1).map_or(58, |h| h.0));
        packet.extend(rest);
    }
    packet.extend(body);
    let length = u16::try_from(packet.len() - 40).expect("a small packet");
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    frame(src, 0x86dd, &packet)
}

/// A message: its type, how many bytes stand before its options, the address behind its first eight if it has
/// one, and an option with a MAC.
fn message(kind: u8, head: usize, target: Option<Ip>, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(target.into_iter().flatten());
    body.resize(head, 0);
    if let Some((option, mac)) = option {
        body.extend([option, 1]);
        body.extend(mac);
    }
    body
}

/// Each message from which a station learns who has an address, by the gateway or about it, with the MAC that it
/// names; whether the address is that of its sender.
fn messages(named: Option<Mac>) -> [(&'static str, Vec<u8>, bool); 5] {
    let (source, target) = (named.map(|mac| (1, mac)), named.map(|mac| (2, mac)));
    let other = Some(ip6("fe80::9"));
    [
        ("a router solicitation", message(133, 8, None, source), true),
        ("a router advertisement", message(134, 16, None, source), true),
        ("a neighbour solicitation", message(135, 24, other, source), true),
        ("a neighbour advertisement", message(136, 24, Some(gateway()), target), false),
        ("a redirect", message(137, 40, Some(gateway()), target), false),
    ]
}

const DESTINATION: (u8, [u8; 7]) = (60, [0, 1, 4, 0, 0, 0, 0]);
const FIRST: (u8, [u8; 7]) = (44, [0, 0, 1, 0, 0, 0, 7]);

/// Each form of ARP, from a station and with a MAC that it names.
fn each_arp(who: (Mac, Mac)) -> Vec<(String, Vec<u8>)> {
    let forms = [
        ("asks", 1, CHILD),
        ("announces", 1, IP),
        ("replies", 2, CHILD),
        ("asks inversely", 8, CHILD),
    ];
    let hardware = [("Ethernet", 1), ("IEEE 802", 6), ("what is none", 77)];
    let each = forms.iter().flat_map(|form| hardware.iter().map(move |hardware| (form, hardware)));
    each.map(|((form, operation, target), (of, hardware))| {
        (format!("{form}, for {of}"), arp(*hardware, *operation, who, *target))
    })
    .collect()
}

#[test]
fn arp_of_any_hardware_claims_an_address() {
    let tables = tables();
    let refused = |frame: &[u8], from| heard(frame, from, &tables).refused;
    for (name, frame) in each_arp((GATEWAY, GATEWAY)) {
        assert_eq!(refused(&frame, PORT_WIRE), None, "the gateway {name}");
        for port in [PORT_HOST, 2] {
            assert_eq!(refused(&frame, port), Some(DropReason::Pinned), "port {port} {name}");
        }
    }
    for who in [(THIEF, THIEF), (GATEWAY, THIEF), (THIEF, GATEWAY)] {
        for (name, frame) in each_arp(who) {
            assert_eq!(refused(&frame, PORT_WIRE), Some(DropReason::Pinned), "{who:02x?} {name}");
        }
    }
    // Stations do not take it for ARP.
    let mut short = arp(1, 2, (THIEF, THIEF), CHILD);
    short[18] = 8;
    assert_eq!(refused(&short, PORT_WIRE), None, "longer MACs");
}

#[test]
fn each_message_of_ipv6_claims_an_address() {
    let tables = tables();
    let refused = |frame: &[u8]| heard(frame, PORT_WIRE, &tables).refused;
    let pinned = Some(DropReason::Pinned);
    for headers in [&[][..], &[DESTINATION], &[DESTINATION, (43, [0; 7]), (0, [0; 7])]] {
        let of = |src, source, body: &[u8]| refused(&ipv6(src, source, headers, body));
        for (name, body, _) in messages(Some(GATEWAY)) {
            let what = format!("{name} behind {} headers", headers.len());
            assert_eq!(of(GATEWAY, gateway(), &body), None, "the gateway's own: {what}");
        }
        for (name, body, is_of_sender) in messages(Some(THIEF)) {
            let what = format!("{name} behind {} headers", headers.len());
            assert_eq!(of(THIEF, gateway(), &body), pinned, "in its name: {what}");
            assert_eq!(of(GATEWAY, gateway(), &body), pinned, "in its frame: {what}");
            let want = if is_of_sender { None } else { pinned };
            assert_eq!(of(THIEF, ip6("fe80::66"), &body), want, "by another address: {what}");
        }
        for (name, body, is_of_sender) in messages(None) {
            let what = format!("{name} behind {} headers", headers.len());
            assert_eq!(of(GATEWAY, gateway(), &body), None, "the gateway's, without a MAC: {what}");
            if is_of_sender {
                assert_eq!(of(THIEF, gateway(), &body), pinned, "without a MAC: {what}");
            }
        }
    }
}

#[test]
fn a_router_may_redirect_to_a_pinned_station() {
    let tables = tables();
    let redirect = |named| {
        let body = message(137, 40, Some(gateway()), Some((2, named)));
        ipv6(mac(7), ip6("fe80::7"), &[], &body)
    };
    for port in [PORT_WIRE, PORT_HOST, 2] {
        assert_eq!(heard(&redirect(GATEWAY), port, &tables).refused, None, "port {port}");
        let refused = heard(&redirect(mac(7)), port, &tables).refused;
        assert_eq!(refused, Some(DropReason::Pinned), "port {port}");
    }
}

#[test]
fn options_are_read_to_their_end() {
    let tables = tables();
    let advertises = |options: &[u8]| {
        let body = [&message(136, 24, Some(gateway()), None)[..], options].concat();
        ipv6(GATEWAY, gateway(), &[], &body)
    };
    let named = |mac: Mac| [&[2, 1][..], &mac].concat();
    let nonce = [14, 1, 0, 0, 0, 0, 0, 0];
    let cases = [
        ("its own", named(GATEWAY), true),
        ("its own, behind many", [&nonce.repeat(14)[..], &named(GATEWAY)].concat(), true),
        ("another's", named(THIEF), false),
        ("its own and another's", [named(GATEWAY), named(THIEF)].concat(), false),
        ("another's and its own", [named(THIEF), named(GATEWAY)].concat(), false),
        ("another's, behind many", [&nonce.repeat(14)[..], &named(THIEF)].concat(), false),
        ("more than can be read", nonce.repeat(60), false),
        ("one of no length", [&[14, 0, 0, 0, 0, 0, 0, 0], &named(THIEF)[..]].concat(), false),
        ("one that is cut off", vec![14, 2, 0, 0, 0, 0, 0, 0], false),
    ];
    for (name, options, fine) in cases {
        let found = heard(&advertises(&options), PORT_WIRE, &tables).refused;
        assert_eq!(found.is_none(), fine, "{name}: {found:?}");
    }
    // What stands behind the packet is not part of it.
    let trailer = [advertises(&named(GATEWAY)), named(THIEF)].concat();
    assert_eq!(heard(&trailer, PORT_WIRE, &tables).refused, None, "behind the end");
}

#[test]
fn what_cannot_be_read_is_not_heard_beside_pins() {
    let (tables, unpinned) = (tables(), topology(&[], vec![veth(2, Membership::Access(0))]));
    let unpinned = unpinned.tables(&BTreeMap::new());
    let advertisement = message(136, 24, Some(gateway()), Some((2, THIEF)));
    let behind = |headers: &[_]| ipv6(THIEF, ip6("fe80::66"), headers, &advertisement);
    // Two units of options, of which the fragment has one, and behind its end what looks harmless.
    let mut lie = ipv6(THIEF, gateway(), &[FIRST, (60, [1, 0, 0, 0, 0, 0, 0])], &[]);
    lie.extend([17, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0]);
    let cases = [
        ("in a first fragment", behind(&[FIRST])),
        ("behind more headers than can be read", behind(&[DESTINATION; 9])),
        ("in the next fragment", ipv6(THIEF, gateway(), &[FIRST, DESTINATION], &[])),
        ("in the next fragment, and a lie behind the end", lie),
        (
            "in SNAP",
            frame(
                THIEF,
                36,
                &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 6][..], &arp(1, 2, (THIEF, THIEF), CHILD)[14..]]
                    .concat(),
            ),
        ),
    ];
    for (name, frame) in cases {
        let refused = heard(&frame, PORT_WIRE, &tables).refused;
        assert_eq!(refused, Some(DropReason::HiddenHeader), "{name}");
        assert_eq!(
            heard(&frame, PORT_WIRE, &unpinned).refused,
            None,
            "{name}, with nothing pinned"
        );
    }
    let other = |headers: &[_], body: &[u8]| ipv6(THIEF, ip6("fd00::66"), headers, body);
    let mut from_afar = behind(&[DESTINATION; 9]);
    from_afar[21] = 64;
    let cases = [
        ("a ping in fragments", other(&[FIRST], &[128, 0, 0, 0, 0, 0, 0, 0])),
        ("another fragment", other(&[(44, [0, 0, 9, 0, 0, 0, 7])], &[136, 0])),
        ("a report of groups", other(&[(0, [0; 7])], &[143, 0, 0, 0])),
        ("from afar", from_afar),
        ("IPX", frame(THIEF, 36, &[0xe0; 46])),
    ];
    for (name, frame) in cases {
        assert_eq!(heard(&frame, PORT_WIRE, &tables).refused, None, "{name}");
    }
}

#[test]
fn a_claim_of_an_address_is_heard() {
    let tables = tables();
    let of = |frame: &[u8]| heard(frame, PORT_WIRE, &tables).sender;
    let thief = ip6("fd00::66");
    for (name, body, _) in messages(Some(THIEF)).into_iter().filter(|(_, _, of_sender)| *of_sender)
    {
        assert_eq!(of(&ipv6(THIEF, thief, &[], &body)).to_ne_bytes(), thief, "{name}");
    }
    let mut question = arp(1, 1, (THIEF, THIEF), IP);
    question[28..32].copy_from_slice(&CHILD);
    let heard = heard(&question, PORT_WIRE, &tables);
    assert_eq!(heard.sender.to_ne_bytes(), mapped(CHILD));
    assert_eq!(heard.owner.map(|owner| owner.port), Some(2), "a child's address");
    question[28..32].fill(0);
    assert_eq!(of(&question), UNSPECIFIED, "a probe claims nothing");
}
