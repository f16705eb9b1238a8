//! What a child could try below IP: frames with LLC instead of an `EtherType`, RARP, what switches tell each other,
//! and what multicast routers say.

use std::net::Ipv4Addr;

use tests::{
    forge::{
        Arp, PIM, UDP, V4, V6, advertisement, bpdu, igmp, igmp_query, mld_query, proprietary,
        router, snap, udp,
    },
    frames::{Frame, VLAN},
    mac::Mac,
};

use crate::{
    attacks::{Attack, Key, attack},
    site::Site,
};

/// Every attack below IP.
pub(crate) fn all(site: &Site) -> [Vec<Attack>; 4] {
    [wrapped(site), rarp(site), switches(site), queriers(site)]
}

/// ARP and IP inside of LLC and SNAP, which some stacks and every access point take out (VU#855201).
fn wrapped(site: &Site) -> Vec<Attack> {
    let (evil, victim, gateway) = (&site.evil, &site.victim, &site.lan.router);
    let poison =
        || Arp::reply((evil.mac, gateway.ip), (victim.mac, victim.ip)).to(evil.mac, victim.mac);
    let spoof = V4::new(victim.ip, gateway.ip, UDP, udp(5000, 5001)).frame(evil.mac, gateway.mac);
    let offer = V4::new(evil.ip, Ipv4Addr::BROADCAST, UDP, udp(67, 68));
    let advertised = advertisement(evil.ip6, victim.ip6, gateway.ip6, evil.mac);
    let router = || router(evil.link_local()).multicast(evil.mac);
    let hides = |name, frame: Frame| attack(name, frame, "hidden_header", Key::Everything);
    let of = |at: usize, byte| {
        let mut frame = snap(poison());
        frame.payload[at] = byte;
        frame
    };
    vec![
        hides("ARP in SNAP", snap(poison())),
        hides("ARP in SNAP behind a tag", snap(poison()).vlan(0)),
        hides("ARP in SNAP through a bridge", of(5, 0xf8)),
        hides("ARP in SNAP with the poll bit", of(2, 0x13)),
        hides("ARP in SNAP to a group of access points", of(0, 0xab)),
        hides("ARP in SNAP whose length is none", Frame { ethertype: 0x05ff, ..snap(poison()) }),
        hides("ARP in SNAP of no length", Frame { ethertype: 0, ..snap(poison()) }),
        hides(
            "ARP in SNAP that is too long for a length",
            Frame { ethertype: 0x8870, ..snap(poison()) },
        ),
        hides("IPv4 in SNAP", snap(spoof.clone())),
        hides("IPv4 in LLC", llc(0x06, spoof)),
        hides("a DHCP server in SNAP", snap(offer.frame(evil.mac, Mac::BROADCAST))),
        hides("an advertisement in SNAP", snap(advertised.frame(evil.mac, victim.mac))),
        hides("a router in SNAP", snap(router())),
        hides("a router in SNAP behind a tag", snap(router()).vlan(0)),
        hides("a tag in SNAP", snap(in_tag(VLAN, router()))),
        hides("an old service tag", in_tag(0x9100, router())),
    ]
}

/// A frame whose tag is part of its payload.
fn in_tag(ethertype: u16, frame: Frame) -> Frame {
    let payload = [&[0, 20], &frame.ethertype.to_be_bytes()[..], &frame.payload].concat();
    Frame { ethertype, payload, ..frame }
}

/// A frame whose payload stands right behind LLC.
fn llc(access_point: u8, frame: Frame) -> Frame {
    let payload = [&[access_point, access_point, 3], &frame.payload[..]].concat();
    let length = u16::try_from(payload.len()).expect("a small frame");
    Frame { ethertype: length, payload, ..frame }
}

/// RARP in the name of another, and a server of RARP.
fn rarp(site: &Site) -> Vec<Attack> {
    let (evil, victim) = (&site.evil, &site.victim);
    let none = Ipv4Addr::UNSPECIFIED;
    let asks = |sender, target| {
        let arp = Arp { operation: 3, ..Arp::reply(sender, (target, none)) };
        arp.reverse(evil.mac, Mac::BROADCAST)
    };
    let claim = |name, frame, word| attack(name, frame, "neighbour_claim", Key::Word(word));
    let answer = Arp { operation: 4, ..Arp::reply((evil.mac, evil.ip), (victim.mac, victim.ip)) };
    vec![
        claim("a sibling's MAC is shown in RARP", asks((victim.mac, none), victim.mac), "mac"),
        claim(
            "a sibling's address is asked for in RARP",
            asks((evil.mac, none), victim.mac),
            "mac",
        ),
        claim("RARP in a sibling's name", asks((evil.mac, victim.ip), evil.mac), "ip"),
        attack(
            "a RARP server",
            answer.reverse(evil.mac, victim.mac),
            "dhcp_server",
            Key::Word("dhcp-server"),
        ),
    ]
}

/// What switches tell each other, in groups that bridges forward.
fn switches(site: &Site) -> Vec<Attack> {
    const CISCO: [u8; 3] = [0, 0, 0x0c];
    let evil = site.evil.mac;
    let of_cisco = Mac([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc]);
    let group = |last| Mac([0x01, 0x80, 0xc2, 0, 0, last]);
    let says = |name, frame| attack(name, frame, "reserved_multicast", Key::Word("bpdu"));
    let of = |name, to, organisation, protocol| {
        says(name, proprietary(evil, to, organisation, protocol))
    };
    let typed = |to, ethertype| Frame { ethertype, ..Frame::new(evil, to, "") };
    let gvrp = Frame { destination: group(0x21), ..bpdu(evil) };
    vec![
        of("CDP", of_cisco, CISCO, 0x2000),
        says("CDP behind a tag", proprietary(evil, of_cisco, CISCO, 0x2000).vlan(0)),
        of("CDP to a sibling", site.victim.mac, CISCO, 0x2000),
        of("VTP", of_cisco, CISCO, 0x2003),
        of("DTP", of_cisco, CISCO, 0x2004),
        of("UDLD", of_cisco, CISCO, 0x0111),
        of("PAgP", of_cisco, CISCO, 0x0104),
        of("a spanning tree of a VLAN", Mac([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd]), CISCO, 0x010b),
        of("CGMP", Mac([0x01, 0, 0x0c, 0xdd, 0xdd, 0xdd]), CISCO, 0x2001),
        of("EDP", Mac([0, 0xe0, 0x2b, 0, 0, 0]), [0, 0xe0, 0x2b], 0x00bb),
        of("FDP", Mac([0x01, 0xe0, 0x52, 0xcc, 0xcc, 0xcc]), [0, 0xe0, 0x52], 0x2000),
        of("SONMP", Mac([0x01, 0, 0x81, 0, 0x01, 0]), [0, 0, 0x81], 0x01a2),
        says("GVRP", gvrp),
        says("MVRP", typed(group(0x21), 0x88f5)),
        says("MMRP", typed(group(0x20), 0x88f6)),
        says("connectivity fault management", typed(group(0x30), 0x8902)),
    ]
}

/// A child that is the querier of IGMP or MLD, or another multicast router, gets what switches that listen give to
/// those: all of it.
fn queriers(site: &Site) -> Vec<Attack> {
    let evil = &site.evil;
    let from = evil.link_local();
    let is_router =
        |name, frame| attack(name, frame, "multicast_router_guard", Key::Word("multicast-router"));
    let none = Ipv4Addr::UNSPECIFIED;
    let group = |last| Ipv4Addr::new(224, 0, 0, last);
    let hello = vec![0x20, 0, 0, 0, 0, 1, 0, 2, 0, 105, 0, 0];
    let first = V4 { fragment: 0x2000, ..igmp_query(evil.ip) };
    let pim6 = V6::new(from, "ff02::d".parse().expect("an address"), PIM, hello.clone());
    let all_snoopers = "ff02::6a".parse().expect("an address");
    let advertised = V6::icmp(from, all_snoopers, vec![151, 20, 0, 0, 0, 125, 0, 2]);
    vec![
        is_router("an IGMP querier", igmp_query(evil.ip).multicast(evil.mac)),
        is_router("an IGMP querier without an address", igmp_query(none).multicast(evil.mac)),
        is_router(
            "an IGMP querier, to a sibling",
            igmp_query(evil.ip).frame(evil.mac, site.victim.mac),
        ),
        is_router("an IGMP querier behind a tag", igmp_query(evil.ip).multicast(evil.mac).vlan(0)),
        is_router("an IGMP querier in a first fragment", first.multicast(evil.mac)),
        is_router(
            "a multicast router",
            igmp(evil.ip, group(106), &[0x30, 20, 0, 0, 0, 125, 0, 2]).multicast(evil.mac),
        ),
        is_router(
            "DVMRP",
            igmp(evil.ip, group(4), &[0x13, 1, 0, 0, 0, 0, 3, 0xff]).multicast(evil.mac),
        ),
        is_router("PIM", V4::new(evil.ip, group(13), PIM, hello).multicast(evil.mac)),
        is_router("an MLD querier", mld_query(from).multicast(evil.mac)),
        is_router("an MLD querier, to a sibling", mld_query(from).frame(evil.mac, site.victim.mac)),
        is_router("an IPv6 multicast router", advertised.multicast(evil.mac)),
        is_router("PIM in IPv6", pim6.multicast(evil.mac)),
    ]
}
