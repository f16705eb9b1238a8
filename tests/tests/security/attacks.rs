//! What a child could try: frames of Ethernet, VLANs, ARP and IPv4. Those of IPv6 are next door.

use std::net::Ipv4Addr;

use tests::{
    forge::{Arp, ICMP, IEEE_802, UDP, V4, bpdu, udp},
    frames::{Frame, SERVICE_VLAN, VLAN},
    mac::Mac,
};

use crate::{
    attacks_headers, attacks_l2, attacks_v6,
    site::{STRANGER, Site},
};

/// What lets a frame pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// That word of trust, or security that does not enforce.
    Word(&'static str),
    /// All words of trust, or security that does not enforce: nobody knows what it hides.
    Everything,
    /// That word of trust alone: it has nothing to do with addresses.
    Alone(&'static str),
    /// Nothing. The host may send it.
    Nothing,
}

/// A frame that a child has no right to send.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) frame: Frame,
    /// Why it is dropped.
    pub(crate) reason: &'static str,
    pub(crate) key: Key,
    /// Where in its payload there is room for what a tap knows it by, if not behind it.
    pub(crate) room: Option<usize>,
}

impl Attack {
    /// The frame with a token.
    pub(crate) fn with(&self, token: &str) -> Frame {
        let mut frame = self.frame.clone();
        let Some(room) = self.room else { return frame.trailer(token) };
        frame.payload[room..room + token.len()].copy_from_slice(token.as_bytes());
        frame
    }

    /// The same with room for a token in its payload.
    pub(crate) fn room(self, at: usize) -> Self {
        Self { room: Some(at), ..self }
    }
}

pub(crate) fn attack(name: &'static str, frame: Frame, reason: &'static str, key: Key) -> Attack {
    Attack { name, frame, reason, key, room: None }
}

/// Every attack.
pub(crate) fn all(site: &Site) -> Vec<Attack> {
    [macs(site), vlans(site), arp(site), ipv4(site), dhcp(site)]
        .into_iter()
        .chain(attacks_v6::all(site))
        .chain(attacks_l2::all(site))
        .chain([attacks_headers::all(site)])
        .flatten()
        .collect()
}

/// Frames with the MAC of somebody else.
fn macs(site: &Site) -> Vec<Attack> {
    let (host, router) = (site.lan.hosts[0].mac, site.lan.router.mac);
    let key = Key::Alone("mac");
    let from = |source, destination| Frame::new(source, destination, "");
    vec![
        attack("a sibling's MAC", from(site.sibling.mac, router), "source_mac", key),
        attack(
            "a sibling's MAC, to all",
            from(site.sibling.mac, Mac::BROADCAST),
            "source_mac",
            key,
        ),
        attack(
            "a sibling's MAC, to another",
            from(site.sibling.mac, site.victim.mac),
            "source_mac",
            key,
        ),
        attack("the host's MAC", from(host, router), "source_mac", key),
        attack("the gateway's MAC", from(router, Mac::BROADCAST), "source_mac", key),
        attack("the gateway's MAC, to a sibling", from(router, site.victim.mac), "source_mac", key),
        attack("everybody's MAC", from(Mac::BROADCAST, router), "source_mac", key),
        attack("nobody's MAC", from(Mac::local(77), Mac::BROADCAST), "source_mac", key),
        attack("a bridge's frame", bpdu(site.evil.mac), "reserved_multicast", Key::Alone("bpdu")),
    ]
}

/// Ways into another VLAN.
fn vlans(site: &Site) -> Vec<Attack> {
    let plain = || Frame::new(site.evil.mac, Mac::BROADCAST, "");
    let spoofed = V4::new(site.victim.ip, site.lan.router.ip, UDP, udp(5000, 5001));
    let spoofed = spoofed.frame(site.evil.mac, site.lan.router.mac);
    let never = |name, frame, reason| attack(name, frame, reason, Key::Nothing);
    vec![
        never("another VLAN's tag", plain().vlan(20), "vlan_not_allowed"),
        never(
            "a tag to a member",
            Frame { destination: site.far.mac, ..plain() }.vlan(20),
            "vlan_not_allowed",
        ),
        never("two tags", plain().vlan(20).vlan(1), "stacked_tags"),
        never("two tags, the first without a VLAN", plain().vlan(20).vlan(0), "stacked_tags"),
        never("a service tag", plain().tag(SERVICE_VLAN, 20), "stacked_tags"),
        never("a service tag and another", plain().vlan(20).tag(SERVICE_VLAN, 10), "stacked_tags"),
        never("three tags", plain().vlan(20).vlan(10).vlan(0), "stacked_tags"),
        never("the VLAN that is none", plain().vlan(4095), "stacked_tags"),
        attack(
            "another's address behind a tag without a VLAN",
            spoofed.tag(VLAN, 5 << 13),
            "source_ip",
            Key::Word("ip"),
        ),
    ]
}

/// ARP that makes others send to the wrong station.
fn arp(site: &Site) -> Vec<Attack> {
    let (evil, victim, sibling) = (&site.evil, &site.victim, &site.sibling);
    let (host, router) = (&site.lan.hosts[0], &site.lan.router);
    let as_router = (evil.mac, router.ip);
    let reply = |claim, mac, ip| Arp::reply(claim, (mac, ip)).to(evil.mac, mac);
    let claim = |name, frame| attack(name, frame, "neighbour_claim", Key::Word("ip"));
    let mac = |name, frame| attack(name, frame, "neighbour_claim", Key::Word("mac"));
    vec![
        claim("the host is told of another gateway", reply(as_router, host.mac, host.ip)),
        claim("a sibling is told so", reply(as_router, victim.mac, victim.ip)),
        claim("the other is told so", reply(as_router, sibling.mac, sibling.ip)),
        claim(
            "the gateway is told of another host",
            reply((evil.mac, host.ip), router.mac, router.ip),
        ),
        claim(
            "the gateway is told of another sibling",
            reply((evil.mac, victim.ip), router.mac, router.ip),
        ),
        claim(
            "everybody is told of another gateway",
            Arp::announcement(as_router).broadcast(evil.mac),
        ),
        claim(
            "everybody is told, by a reply",
            Arp::reply(as_router, (Mac::BROADCAST, router.ip)).broadcast(evil.mac),
        ),
        claim(
            "a question in the gateway's name",
            Arp::request(as_router, victim.ip).broadcast(evil.mac),
        ),
        claim(
            "an address that nobody has",
            Arp::announcement((evil.mac, STRANGER)).broadcast(evil.mac),
        ),
        mac(
            "its own address at a sibling's MAC",
            Arp::announcement((victim.mac, evil.ip)).broadcast(evil.mac),
        ),
        mac(
            "its own address at everybody's MAC",
            reply((Mac::BROADCAST, evil.ip), host.mac, host.ip),
        ),
        mac(
            "a question with the gateway's MAC",
            Arp::request((router.mac, evil.ip), victim.ip).broadcast(evil.mac),
        ),
        attack(
            "a sibling is told of another gateway, in ARP of other hardware",
            reply_of(IEEE_802, as_router, (victim.mac, victim.ip), evil.mac),
            "neighbour_claim",
            Key::Everything,
        ),
    ]
}

/// A reply in ARP of some hardware.
fn reply_of(hardware: u16, claim: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), source: Mac) -> Frame {
    Arp::reply(claim, to).of(hardware).to(source, to.0)
}

/// IPv4 with the address of somebody else.
fn ipv4(site: &Site) -> Vec<Attack> {
    let evil = &site.evil;
    let (host, router) = (&site.lan.hosts[0], &site.lan.router);
    let spoof = |name, from: Ipv4Addr, (to, mac): (Ipv4Addr, Mac), protocol| {
        let frame = V4::new(from, to, protocol, udp(5000, 5001)).frame(evil.mac, mac);
        attack(name, frame, "source_ip", Key::Word("ip"))
    };
    let to_router = (router.ip, router.mac);
    let cut = V4 { fragment: 0x2000, ..V4::new(evil.ip, router.ip, UDP, Vec::new()) };
    // Nothing is behind it, so that its options are where a token can be.
    let cut = V4 { options: 10, ..cut }.frame(evil.mac, router.mac);
    // ICMP: a redirect for hosts, code 1 (RFC 792).
    let redirect = [&[5, 1, 0, 0][..], &evil.ip.octets(), &[0x45; 28]].concat();
    let redirect = V4::new(router.ip, host.ip, ICMP, redirect).frame(evil.mac, host.mac);
    // One router for half an hour: the child (RFC 1256, section 3).
    let irdp = [&[9, 0, 0, 0, 1, 2, 7, 8][..], &evil.ip.octets(), &[0; 4]].concat();
    let irdp = V4::new(evil.ip, Ipv4Addr::new(224, 0, 0, 1), ICMP, irdp);
    vec![
        spoof("a sibling's address", site.sibling.ip, to_router, UDP),
        spoof("a sibling's address, in TCP", site.victim.ip, to_router, 6),
        spoof("the host's address", host.ip, to_router, UDP),
        spoof("the gateway's address", router.ip, (host.ip, host.mac), UDP),
        spoof(
            "the gateway's address, to a sibling",
            router.ip,
            (site.victim.ip, site.victim.mac),
            UDP,
        ),
        spoof("a stranger's address", STRANGER, to_router, UDP),
        spoof("no address", Ipv4Addr::UNSPECIFIED, to_router, 6),
        spoof("everybody's address", Ipv4Addr::BROADCAST, to_router, UDP),
        spoof(
            "the gateway's address, to all",
            router.ip,
            (Ipv4Addr::BROADCAST, Mac::BROADCAST),
            UDP,
        ),
        attack("a redirect in the gateway's name", redirect, "source_ip", Key::Word("ip")),
        attack("a router in ICMP", irdp.multicast(evil.mac), "router", Key::Word("router")),
        attack("a first fragment without its ports", cut, "hidden_header", Key::Everything)
            .room(20),
    ]
}

/// A DHCP server.
fn dhcp(site: &Site) -> Vec<Attack> {
    let packet = |ports, rest: &[u8], to: Ipv4Addr| {
        let body = [ports, rest.to_vec()].concat();
        V4::new(site.evil.ip, to, UDP, body)
    };
    // A server's message has operation 2 (RFC 2131, section 2).
    let says = |from, to, ip| packet(udp(from, to), &[2, 1, 6, 0], ip);
    let frame = |packet: V4, mac| packet.frame(site.evil.mac, mac);
    let all = Ipv4Addr::BROADCAST;
    let to_all = |packet| frame(packet, Mac::BROADCAST);
    let first = |packet| V4 { fragment: 0x2000, ..packet };
    let router = &site.lan.router;
    let server = |name, frame| attack(name, frame, "dhcp_server", Key::Word("dhcp-server"));
    let usual = || says(67, 68, all);
    // A client takes an answer from any port.
    let other = || says(1067, 68, all);
    vec![
        server("a DHCP server", to_all(usual())),
        server("a DHCP server, to a sibling", frame(says(67, 68, site.victim.ip), site.victim.mac)),
        server("a DHCP server behind options", to_all(V4 { options: 2, ..usual() })),
        server("a DHCP server in a first fragment", to_all(first(usual()))),
        server("a DHCP server behind a tag", to_all(usual()).vlan(0)),
        server("a DHCP server at another port", to_all(other())),
        server(
            "a DHCP server at another port, to a sibling",
            frame(says(1067, 68, site.victim.ip), site.victim.mac),
        ),
        server(
            "a DHCP server at another port, behind options",
            to_all(V4 { options: 2, ..other() }),
        ),
        server("a DHCP server at another port, in a first fragment", to_all(first(other()))),
        server("a DHCP server at another port, behind a tag", to_all(other()).vlan(0)),
        server("a DHCP server that tells a relay", frame(says(1067, 67, router.ip), router.mac)),
        server("a DHCP relay", frame(packet(udp(67, 67), &[1, 1, 6, 0], router.ip), router.mac)),
        attack(
            "a DHCP server that tells a relay, in fragments",
            frame(first(packet(udp(1067, 67), &[], router.ip)), router.mac),
            "hidden_header",
            Key::Word("dhcp-server"),
        ),
    ]
}
