//! What a child could try: frames of IPv6.

use std::net::Ipv6Addr;

use tests::{
    forge::{
        ALL_NODES, DESTINATION, FIRST, FRAGMENT, HOP_BY_HOP, ICMPV6, NO_OPTIONS, UDP, V6,
        advertisement, inverse, redirect, router, router_solicitation, solicitation, udp,
    },
    frames::Frame,
    mac::Mac,
};

use crate::{
    attacks::{Attack, Key, attack},
    site::{STRANGER6, Site},
};

/// Every attack with IPv6.
pub(crate) fn all(site: &Site) -> [Vec<Attack>; 6] {
    [addresses(site), discovery(site), notices(site), routers(site), hidden(site), dhcp(site)]
}

/// The address of somebody else.
fn addresses(site: &Site) -> Vec<Attack> {
    let (host, gateway) = (&site.lan.hosts[0], &site.lan.router);
    let evil = site.evil.mac;
    let spoof = |name, from: Ipv6Addr, (to, mac): (Ipv6Addr, Mac)| {
        let frame = V6::new(from, to, UDP, udp(5000, 5001)).frame(evil, mac);
        attack(name, frame, "source_ip", Key::Word("ip"))
    };
    let to_router = (gateway.ip6, gateway.mac);
    // An echo request to everybody: the answers go to the sibling.
    let smurf = V6::icmp(site.victim.ip6, ALL_NODES, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    vec![
        spoof("a sibling's IPv6 address", site.sibling.ip6, to_router),
        spoof("a sibling's link-local address", site.victim.link_local(), to_router),
        spoof("the host's IPv6 address", host.ip6, to_router),
        spoof("the gateway's IPv6 address", gateway.ip6, (host.ip6, host.mac)),
        spoof("the gateway's, to a sibling", gateway.ip6, (site.victim.ip6, site.victim.mac)),
        spoof("a stranger's IPv6 address", STRANGER6, to_router),
        spoof("no IPv6 address", Ipv6Addr::UNSPECIFIED, to_router),
        attack("an echo in a sibling's name", smurf.multicast(evil), "source_ip", Key::Word("ip")),
    ]
}

/// Neighbour discovery that makes others send to the wrong station.
fn discovery(site: &Site) -> Vec<Attack> {
    let (evil, victim) = (&site.evil, &site.victim);
    let (host, gateway) = (&site.lan.hosts[0], &site.lan.router);
    let claim = |name, frame| attack(name, frame, "neighbour_claim", Key::Word("ip"));
    let mac = |name, frame| attack(name, frame, "neighbour_claim", Key::Word("mac"));
    let tell =
        |to, to_mac| advertisement(evil.ip6, to, gateway.ip6, evil.mac).frame(evil.mac, to_mac);
    let behind = advertisement(evil.ip6, ALL_NODES, gateway.ip6, evil.mac);
    vec![
        claim(
            "everybody is told of another IPv6 gateway",
            advertisement(gateway.ip6, ALL_NODES, gateway.ip6, evil.mac).multicast(evil.mac),
        ),
        claim(
            "everybody is told so, by an own address",
            advertisement(evil.ip6, ALL_NODES, gateway.ip6, evil.mac).multicast(evil.mac),
        ),
        claim("a sibling is told of another IPv6 gateway", tell(victim.ip6, victim.mac)),
        claim("the host is told of another IPv6 gateway", tell(host.ip6, host.mac)),
        claim(
            "a question in the IPv6 gateway's name",
            solicitation(gateway.ip6, victim.ip6, Some(evil.mac)).multicast(evil.mac),
        ),
        claim(
            "a question in a sibling's name",
            solicitation(victim.ip6, gateway.ip6, None).frame(evil.mac, gateway.mac),
        ),
        mac(
            "a question with another's MAC",
            solicitation(evil.ip6, victim.ip6, Some(gateway.mac)).multicast(evil.mac),
        ),
        mac(
            "its own IPv6 address at another's MAC",
            advertisement(evil.ip6, ALL_NODES, evil.ip6, gateway.mac).multicast(evil.mac),
        ),
        attack(
            "an advertisement behind options",
            behind.clone().with(DESTINATION, &NO_OPTIONS).multicast(evil.mac),
            "hidden_header",
            Key::Everything,
        ),
        attack(
            "an advertisement in a fragment",
            behind.with(FRAGMENT, &FIRST).multicast(evil.mac),
            "hidden_header",
            Key::Everything,
        ),
    ]
}

/// Messages that are about something else, and say who has an address all the same: a router takes the sender of a
/// solicitation into its table (`net/ipv6/ndisc.c`, `ndisc_recv_rs`).
fn notices(site: &Site) -> Vec<Attack> {
    let (evil, victim, gateway) = (&site.evil, &site.victim, &site.lan.router);
    let from = evil.link_local();
    let claim = |name, frame, key| attack(name, frame, "neighbour_claim", key);
    let mac = |name, frame| claim(name, frame, Key::Word("mac"));
    let asks = |from, mac| router_solicitation(from, mac);
    let unknown = std::net::Ipv6Addr::UNSPECIFIED;
    let two = {
        let mut packet = asks(from, evil.mac);
        packet.body.extend([1, 1].iter().chain(&victim.mac.0));
        V6::icmp(packet.from, packet.to, packet.body)
    };
    let answer = {
        let mut packet = inverse(from, evil.mac, victim.mac);
        packet.body[0] = 142;
        V6::icmp(packet.from, packet.to, packet.body)
    };
    vec![
        mac("a router is asked with a sibling's MAC", asks(from, victim.mac).multicast(evil.mac)),
        mac(
            "a router is asked with a sibling's MAC, alone",
            asks(evil.ip6, victim.mac).frame(evil.mac, gateway.mac),
        ),
        mac(
            "a router is asked with a sibling's MAC, behind a tag",
            asks(from, victim.mac).multicast(evil.mac).vlan(0),
        ),
        mac(
            "a router is asked with a sibling's MAC, without an address",
            asks(unknown, victim.mac).multicast(evil.mac),
        ),
        mac("a router is asked with two MACs", two.multicast(evil.mac)),
        attack(
            "a router is asked in a sibling's name",
            asks(victim.link_local(), evil.mac).multicast(evil.mac),
            "source_ip",
            Key::Word("ip"),
        ),
        attack(
            "a router is asked with a sibling's MAC, behind options",
            asks(from, victim.mac).with(DESTINATION, &NO_OPTIONS).multicast(evil.mac),
            "hidden_header",
            Key::Everything,
        ),
        attack(
            "a router is asked with a sibling's MAC, in a fragment",
            asks(from, victim.mac).with(FRAGMENT, &FIRST).multicast(evil.mac),
            "hidden_header",
            Key::Everything,
        ),
        claim(
            "inverse discovery",
            inverse(from, evil.mac, victim.mac).multicast(evil.mac),
            Key::Everything,
        ),
        claim(
            "inverse discovery behind options",
            inverse(from, evil.mac, victim.mac).with(DESTINATION, &NO_OPTIONS).multicast(evil.mac),
            Key::Everything,
        ),
        claim("its answer", answer.multicast(evil.mac), Key::Everything),
    ]
}

/// Router advertisements, as RFC 7113 lists the ways to hide them, and redirects.
fn routers(site: &Site) -> Vec<Attack> {
    let evil = &site.evil;
    let from = evil.link_local();
    let is_router =
        |name, packet: V6| attack(name, packet.multicast(evil.mac), "router", Key::Word("router"));
    let to_victim = redirect(from, site.victim.ip6, from, site.sibling.ip6);
    let to_victim = to_victim.frame(evil.mac, site.victim.mac);
    vec![
        is_router("a router", router(from)),
        attack(
            "a router, for one sibling",
            router(from).frame(evil.mac, site.victim.mac),
            "router",
            Key::Word("router"),
        ),
        is_router("a router behind hop-by-hop options", router(from).with(HOP_BY_HOP, &NO_OPTIONS)),
        is_router(
            "a router behind destination options",
            router(from).with(DESTINATION, &NO_OPTIONS),
        ),
        is_router(
            "a router behind two headers",
            router(from).with(HOP_BY_HOP, &NO_OPTIONS).with(DESTINATION, &NO_OPTIONS),
        ),
        is_router("a router in a first fragment", router(from).with(FRAGMENT, &FIRST)),
        is_router(
            "a router behind options in a first fragment",
            router(from).with(FRAGMENT, &FIRST).with(DESTINATION, &NO_OPTIONS),
        ),
        is_router("a router that is one fragment", router(from).with(FRAGMENT, &[0; 7])),
        attack(
            "a router behind a tag without a VLAN",
            router(from).multicast(evil.mac).vlan(0),
            "router",
            Key::Word("router"),
        ),
        attack("a redirect", to_victim, "router", Key::Word("router")),
    ]
}

/// Packets whose upper header nobody can see. What a second fragment carries is nothing without the
/// first, and the first is here.
fn hidden(site: &Site) -> Vec<Attack> {
    let evil = &site.evil;
    let from = evil.link_local();
    let hides = |name, frame: Frame| attack(name, frame, "hidden_header", Key::Everything);
    // Options with room for a token, then a first fragment that ends inside of its destination options,
    // which say to be two units long.
    let room = [&[3, 1, 28][..], &[0; 28]].concat();
    let cut = V6::new(from, ALL_NODES, ICMPV6, Vec::new())
        .with(DESTINATION, &room)
        .with(FRAGMENT, &FIRST)
        .with(DESTINATION, &[1, 1, 12, 0, 0, 0, 0]);
    let mut long = router(from);
    for _ in 0..9 {
        long = long.with(DESTINATION, &NO_OPTIONS);
    }
    // What stands behind the packet is no part of it, though it looks like a harmless echo request.
    let mut lie = cut.multicast(evil.mac);
    lie.payload.extend([0; 8]);
    lie.payload.extend([128, 0, 0, 0, 0, 1, 0, 1]);
    vec![
        hides("a first fragment without its upper header", cut.multicast(evil.mac)).room(44),
        hides("a first fragment, and a lie behind its end", lie).room(44),
        hides("a chain too long", long.multicast(evil.mac)),
    ]
}

/// A `DHCPv6` server.
fn dhcp(site: &Site) -> Vec<Attack> {
    let evil = &site.evil;
    let says = |from, to, kind| {
        let body = [udp(from, to), vec![kind, 0, 0, 1]].concat();
        V6::new(evil.link_local(), site.victim.ip6, UDP, body)
    };
    // An advertisement, and what a server tells a relay (RFC 8415, section 7.3).
    let (answer, other) = (says(547, 546, 2), says(1547, 546, 2));
    let to_relay = says(1547, 547, 13);
    let server = |name, packet: V6| {
        let frame = packet.frame(evil.mac, site.victim.mac);
        attack(name, frame, "dhcp_server", Key::Word("dhcp-server"))
    };
    let cut = V6::new(evil.link_local(), site.victim.ip6, UDP, udp(1547, 547));
    let cut = cut.with(FRAGMENT, &FIRST).frame(evil.mac, site.victim.mac);
    vec![
        server("a DHCPv6 server", answer.clone()),
        server("a DHCPv6 server behind options", answer.clone().with(DESTINATION, &NO_OPTIONS)),
        server(
            "a DHCPv6 server behind two headers",
            answer.clone().with(HOP_BY_HOP, &NO_OPTIONS).with(DESTINATION, &NO_OPTIONS),
        ),
        server("a DHCPv6 server in a first fragment", answer.with(FRAGMENT, &FIRST)),
        server("a DHCPv6 server at another port", other.clone()),
        server(
            "a DHCPv6 server at another port, behind options",
            other.clone().with(DESTINATION, &NO_OPTIONS),
        ),
        server(
            "a DHCPv6 server at another port, in a first fragment",
            other.with(FRAGMENT, &FIRST),
        ),
        server("a DHCPv6 server that tells a relay", to_relay),
        attack(
            "a DHCPv6 server that tells a relay, in fragments",
            cut,
            "hidden_header",
            Key::Word("dhcp-server"),
        ),
    ]
}
