//! A gateway whose addresses are pinned: no other station can claim them, in any of the forms in which a station
//! learns who has an address.

use std::{net::Ipv6Addr, thread, time::Duration};

use tests::{
    eventually,
    forge::{
        ALL_NODES, Arp, DESTINATION, FIRST, FRAGMENT, IEEE_802, NO_OPTIONS, V6, advertisement,
        redirect_at, router_at, router_solicitation, snap, solicitation,
    },
    frames::{Frame, token},
    mac::Mac,
    netns::Netns,
    patience,
    tap::Tap,
    topology::PARENT,
};

use crate::site::{A_WHILE, Attacker, Site, settle};

/// The MAC of a thief on the wire.
const THIEF: Mac = Mac([2, 0, 0, 0, 0x66, 0x66]);

/// The gateway's link-local address, which routers speak from, and that of another router.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const OTHER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// The MAC of all nodes: what is for routers alone does not reach a child that is none.
const NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// A station that is reached by routers.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// A frame that says who has an address of the gateway.
struct Claim {
    name: &'static str,
    frame: Frame,
    /// Why it is refused; `None` if it is true.
    refused: Option<&'static str>,
}

fn genuine(name: &'static str, frame: Frame) -> Claim {
    Claim { name, frame, refused: None }
}

fn forged(name: &'static str, frame: Frame) -> Claim {
    Claim { name, frame, refused: Some("pinned") }
}

/// One that no honest station sends.
fn hidden(name: &'static str, frame: Frame) -> Claim {
    Claim { name, frame, refused: Some("hidden_header") }
}

/// A message with more options behind it.
fn with_options(mut packet: V6, options: &[u8]) -> V6 {
    packet.body.extend(options);
    V6::icmp(packet.from, packet.to, packet.body)
}

/// Claims in ARP.
fn arp(site: &Site) -> Vec<Claim> {
    let (gateway, victim) = (&site.lan.router, &site.victim);
    let to_victim = (victim.mac, victim.ip);
    let is = |mac| (mac, gateway.ip);
    let announces = |mac| Arp::announcement(is(mac));
    let replies = |mac| Arp::reply(is(mac), to_victim);
    let asks = |mac| Arp::request(is(mac), victim.ip);
    vec![
        forged("a thief announces it", announces(THIEF).broadcast(THIEF)),
        forged("a thief replies", replies(THIEF).to(THIEF, victim.mac)),
        forged("a thief replies in its frame", replies(THIEF).to(gateway.mac, victim.mac)),
        forged("a thief replies with its MAC", replies(gateway.mac).to(THIEF, victim.mac)),
        forged("a thief asks in its name", asks(THIEF).broadcast(THIEF)),
        forged("a thief announces it, IEEE 802", announces(THIEF).of(IEEE_802).broadcast(THIEF)),
        forged("a thief replies, IEEE 802", replies(THIEF).of(IEEE_802).to(THIEF, victim.mac)),
        forged("a thief asks, IEEE 802", asks(THIEF).of(IEEE_802).broadcast(THIEF)),
        forged("a thief replies, of no hardware", replies(THIEF).of(77).to(THIEF, victim.mac)),
        hidden("a thief replies in SNAP", snap(replies(THIEF).to(THIEF, victim.mac))),
        genuine("it announces itself", announces(gateway.mac).broadcast(gateway.mac)),
        genuine("it replies", replies(gateway.mac).to(gateway.mac, victim.mac)),
        genuine(
            "it replies, IEEE 802",
            replies(gateway.mac).of(IEEE_802).to(gateway.mac, victim.mac),
        ),
        genuine("it asks", asks(gateway.mac).broadcast(gateway.mac)),
    ]
}

/// Claims in neighbour discovery.
fn discovery(site: &Site) -> Vec<Claim> {
    let (gateway, victim) = (&site.lan.router, &site.victim);
    let own = gateway.mac;
    let all = |mac| advertisement(gateway.ip6, ALL_NODES, gateway.ip6, mac);
    let one = |mac| advertisement(gateway.ip6, victim.ip6, gateway.ip6, mac);
    let by_other = |mac| advertisement(OTHER, ALL_NODES, gateway.ip6, mac);
    let asks = |mac| solicitation(gateway.ip6, victim.ip6, Some(mac));
    let behind = |packet: V6| packet.with(DESTINATION, &NO_OPTIONS);
    let named = |mac: Mac| [&[2, 1][..], &mac.0].concat();
    let many = |mac| {
        let mut packet = all(own);
        packet.body.truncate(24);
        let nonces = [14, 1, 0, 0, 0, 0, 0, 0].repeat(5);
        with_options(packet, &[nonces, named(mac)].concat())
    };
    let two = |mac| with_options(all(own), &named(mac));
    let mut long = all(THIEF);
    for _ in 0..9 {
        long = behind(long);
    }
    vec![
        forged("a thief advertises it", all(THIEF).multicast(THIEF)),
        forged("a thief advertises it to one", one(THIEF).frame(THIEF, victim.mac)),
        forged("a thief advertises it by another address", by_other(THIEF).multicast(THIEF)),
        forged("a thief advertises it in its frame", all(THIEF).multicast(own)),
        forged("a thief advertises it to one in its frame", one(THIEF).frame(own, victim.mac)),
        forged("a thief advertises it behind options", behind(all(THIEF)).multicast(THIEF)),
        forged(
            "a thief advertises it behind options, to one",
            behind(one(THIEF)).frame(THIEF, victim.mac),
        ),
        forged(
            "a thief advertises it behind options, in its frame",
            behind(all(THIEF)).multicast(own),
        ),
        forged("a thief asks in its IPv6 name", asks(THIEF).multicast(THIEF)),
        forged("a thief asks in its IPv6 name and frame", asks(THIEF).multicast(own)),
        forged("a thief asks in its name, behind options", behind(asks(THIEF)).multicast(THIEF)),
        forged("a thief hides a MAC behind options of the message", many(THIEF).multicast(own)),
        forged("a thief names two MACs", two(THIEF).multicast(own)),
        hidden(
            "a thief advertises it in a fragment",
            all(THIEF).with(FRAGMENT, &FIRST).multicast(THIEF),
        ),
        hidden("a thief advertises it behind nine headers", long.multicast(THIEF)),
        hidden("a thief advertises it in SNAP", snap(one(THIEF).frame(THIEF, victim.mac))),
        genuine("it advertises itself", all(own).multicast(own)),
        genuine("it advertises itself behind options", behind(all(own)).multicast(own)),
        genuine("it advertises to one", one(own).frame(own, victim.mac)),
        genuine("it names its MAC twice", two(own).multicast(own)),
        genuine("it asks in IPv6", asks(own).multicast(own)),
    ]
}

/// Claims in messages that are about something else.
fn notices(site: &Site) -> Vec<Claim> {
    let (gateway, victim) = (&site.lan.router, &site.victim);
    let own = gateway.mac;
    let routes = |mac| router_at(LINK_LOCAL, mac);
    let looks = |mac| router_solicitation(LINK_LOCAL, mac);
    let redirects = |from, mac| redirect_at(from, victim.ip6, (LINK_LOCAL, mac), FAR);
    let behind = |packet: V6| packet.with(DESTINATION, &NO_OPTIONS);
    let full = |mac| with_options(routes(mac), &[3, 1, 0, 0, 0, 0, 0, 0].repeat(14));
    vec![
        forged("a thief routes in its name", routes(THIEF).multicast(THIEF)),
        forged("a thief routes in its name and frame", routes(THIEF).multicast(own)),
        forged("a thief routes in its name to one", routes(THIEF).frame(THIEF, victim.mac)),
        forged("a thief routes in its name behind options", behind(routes(THIEF)).multicast(THIEF)),
        forged("a thief looks for routers in its name", looks(THIEF).frame(THIEF, NODES)),
        forged("a thief looks for routers to one", looks(THIEF).frame(THIEF, victim.mac)),
        forged(
            "a thief looks for routers behind options",
            behind(looks(THIEF)).frame(THIEF, victim.mac),
        ),
        forged("a thief redirects to it", redirects(OTHER, THIEF).frame(THIEF, victim.mac)),
        forged(
            "a thief redirects behind options",
            behind(redirects(OTHER, THIEF)).frame(THIEF, victim.mac),
        ),
        forged(
            "a thief redirects in its name",
            redirects(LINK_LOCAL, own).frame(THIEF, victim.mac),
        ),
        genuine("it routes", routes(own).multicast(own)),
        genuine("it routes, and says much", full(own).multicast(own)),
        genuine("it looks for routers", looks(own).frame(own, NODES)),
        genuine("it redirects", redirects(LINK_LOCAL, own).frame(own, victim.mac)),
        genuine("another redirects to it", redirects(OTHER, own).frame(THIEF, victim.mac)),
    ]
}

fn claims(site: &Site) -> Vec<Claim> {
    [arp(site), discovery(site), notices(site)].into_iter().flatten().collect()
}

/// Sends each claim from the wire; returns what the victim did not hear although it is true, or heard although it
/// is not.
#[track_caller]
fn wrong(site: &Site, claims: Vec<Claim>) -> Vec<&'static str> {
    let router = Tap::open(&site.lan.router.ns, PARENT);
    let sent: Vec<_> = claims
        .into_iter()
        .map(|claim| {
            let token = token();
            router.send(&claim.frame.trailer(&token));
            (claim.name, token, claim.refused.is_none())
        })
        .collect();
    let victim = site.victim.tap.collect(A_WHILE);
    let sibling = site.sibling.tap.collect(Duration::ZERO);
    let of = |frames: &[Frame], token: &str| frames.iter().any(|frame| frame.carries(token));
    let wrong = sent.iter().filter(|(_, token, genuine)| {
        of(&victim, token) != *genuine || of(&sibling, token) && !genuine
    });
    wrong.map(|sent| sent.0).collect()
}

/// Pins the gateway's addresses.
#[track_caller]
fn pin(site: &Site) {
    let (router, link_local) = (&site.lan.router, LINK_LOCAL.to_string());
    let mac = router.mac.to_string();
    for ip in [router.ip.to_string(), router.ip6.to_string(), link_local] {
        for network in ["lan", "lanv"] {
            site.daemon.run(&["binding", "add", &ip, &mac, "--network", network]);
        }
    }
}

fn pinned(parent: &[&str], attacker: Attacker) {
    let site = Site::new(attacker);
    if !parent.is_empty() {
        // Otherwise XDP leaves frames without a tag to TC.
        let host = &site.lan.hosts[0];
        for (ns, ifname) in [(&host.ns, PARENT), (&site.lan.wire, host.port.as_str())] {
            ns.run(&["ethtool", "-K", ifname, "txvlan", "off", "rxvlan", "off"]);
        }
        site.daemon.run(&[&["parent", "add", PARENT], parent].concat());
    }
    let is_forged = |claim: &Claim| claim.refused.is_some();
    let forged: Vec<_> = claims(&site).iter().filter(|c| is_forged(c)).map(|c| c.name).collect();
    assert_eq!(wrong(&site, claims(&site)), forged, "unpinned, each arrives");
    pin(&site);
    let reasons = ["pinned", "hidden_header"];
    let before = reasons.map(|reason| site.daemon.drops(reason));
    assert_eq!(wrong(&site, claims(&site)), [""; 0], "{attacker:?} {parent:?}");
    for (reason, before) in reasons.into_iter().zip(before) {
        let expected = claims(&site).iter().filter(|claim| claim.refused == Some(reason)).count();
        let counted = site.daemon.drops(reason) - before;
        assert_eq!(counted, u64::try_from(expected).expect("a count"), "{attacker:?}: {reason}");
    }
}

#[test]
fn nobody_on_the_wire_can_say_to_be_a_pinned_gateway() {
    pinned(&[], Attacker::Vepa);
    pinned(&[], Attacker::Veth);
}

#[test]
fn nobody_can_say_so_past_generic_xdp() {
    pinned(&["--xdp", "generic"], Attacker::Veth);
}

/// Native XDP delivers to veth children before TC sees a frame: it leaves to TC what may claim an address.
#[test]
fn no_claim_of_a_pinned_address_passes_native_xdp() {
    pinned(&["--xdp", "native"], Attacker::Veth);
}

/// A child whose security is off cannot claim it either, also where the kernel gives its frames to siblings before
/// the parent sees them.
#[test]
fn no_sibling_claims_the_address_of_a_pinned_gateway() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        site.set("--security off --trust mac");
        pin(&site);
        let sent: Vec<_> = claims(&site)
            .into_iter()
            .map(|claim| {
                let token = token();
                site.evil.tap.send(&claim.frame.trailer(&token));
                (claim.name, token)
            })
            .collect();
        // One that redirects to the gateway says where it is: any station may.
        let allowed = ["another redirects to it"];
        for (who, frames) in site.heard() {
            let of = |token: &str| frames.iter().any(|frame| frame.carries(token));
            let heard: Vec<_> = sent.iter().filter(|sent| of(&sent.1)).map(|sent| sent.0).collect();
            let wrong: Vec<_> = heard.iter().filter(|name| !allowed.contains(name)).collect();
            assert!(wrong.is_empty(), "{attacker:?}: {who} has heard {wrong:?}");
        }
    }
}

/// What a station has to be like to take a claim.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Host,
    Router,
}

/// The forms in which Linux takes an address, each of which makes the thief its owner, and the address.
fn taken(site: &Site) -> Vec<(&'static str, Frame, String, As)> {
    let (gateway, victim) = (&site.lan.router, &site.victim);
    let (ip, ip6) = (gateway.ip.to_string(), gateway.ip6.to_string());
    let link_local = LINK_LOCAL.to_string();
    let reply = || Arp::reply((THIEF, gateway.ip), (victim.mac, victim.ip));
    let ask = || Arp::request((THIEF, gateway.ip), victim.ip);
    let advertise = || advertisement(OTHER, victim.ip6, gateway.ip6, THIEF);
    let behind = |packet: V6| packet.with(DESTINATION, &NO_OPTIONS);
    let solicit = || solicitation(gateway.ip6, victim.ip6, Some(THIEF));
    let to = |packet: V6| packet.frame(THIEF, victim.mac);
    let mut long = advertise();
    for _ in 0..9 {
        long = behind(long);
    }
    let redirect = redirect_at(OTHER, victim.ip6, (LINK_LOCAL, THIEF), FAR);
    vec![
        ("a reply", reply().to(THIEF, victim.mac), ip.clone(), As::Host),
        ("a reply, IEEE 802", reply().of(IEEE_802).to(THIEF, victim.mac), ip.clone(), As::Host),
        ("a question", ask().broadcast(THIEF), ip.clone(), As::Host),
        ("a question, IEEE 802", ask().of(IEEE_802).broadcast(THIEF), ip, As::Host),
        ("an advertisement", to(advertise()), ip6.clone(), As::Host),
        ("an advertisement behind options", to(behind(advertise())), ip6.clone(), As::Host),
        ("an advertisement behind nine headers", to(long), ip6.clone(), As::Host),
        ("a solicitation", solicit().multicast(THIEF), ip6.clone(), As::Host),
        ("a solicitation behind options", behind(solicit()).multicast(THIEF), ip6, As::Host),
        (
            "a router's advertisement",
            to(router_at(LINK_LOCAL, THIEF)),
            link_local.clone(),
            As::Host,
        ),
        ("a redirect", to(redirect), link_local.clone(), As::Host),
        (
            "a router's solicitation",
            to(router_solicitation(LINK_LOCAL, THIEF)),
            link_local,
            As::Router,
        ),
    ]
}

/// Where a station believes an address to be.
fn believes(ns: &Netns, ip: &str) -> String {
    ns.ip(&format!("neigh show {ip} dev eth0"))
}

/// Sends a claim to a victim that knows the gateway, from the wire.
fn send_claim(site: &Site, wire: &Tap, (frame, ip, kind): (&Frame, &str, As)) {
    let (ns, gateway) = (&site.victim.ns, &site.lan.router);
    ns.sysctl("net/ipv6/conf/eth0/forwarding", if kind == As::Router { "1" } else { "0" });
    ns.ip(&format!("neigh replace {ip} lladdr {} nud stale dev eth0", gateway.mac));
    // Linux takes the first of two ARP replies that come in one tick.
    thread::sleep(patience(Duration::from_millis(20)));
    wire.send(frame);
}

/// Each form in which Linux takes an address from a message moves that of the gateway in a victim's table, and
/// none does where it is pinned.
#[test]
fn a_pinned_gateway_stays_in_the_tables_of_linux() {
    for attacker in [Attacker::Vepa, Attacker::Veth] {
        let site = Site::new(attacker);
        let ns = &site.victim.ns;
        settle(ns);
        // What was learned can be changed at once.
        ns.sysctl("net/ipv4/neigh/eth0/locktime", "0");
        ns.sysctl("net/ipv6/conf/eth0/accept_redirects", "1");
        ns.ip(&format!("-6 route replace {FAR}/128 via {OTHER} dev eth0"));
        let wire = Tap::open(&site.lan.router.ns, PARENT);
        let thief = THIEF.to_string();
        for (name, frame, ip, kind) in taken(&site) {
            let what = format!("{attacker:?}: unpinned, {name} moves {ip}");
            let mut turn = 0;
            eventually(&what, Duration::from_secs(5), || {
                if turn % 20 == 0 {
                    send_claim(&site, &wire, (&frame, &ip, kind));
                }
                turn += 1;
                believes(ns, &ip).contains(&thief)
            });
        }
        pin(&site);
        for (name, frame, ip, kind) in taken(&site) {
            send_claim(&site, &wire, (&frame, &ip, kind));
            thread::sleep(patience(Duration::from_millis(100)));
            let found = believes(ns, &ip);
            assert!(!found.contains(&thief), "{attacker:?}: pinned, {name} moves {ip}: {found}");
            assert!(
                found.contains(&site.lan.router.mac.to_string()),
                "{attacker:?}, {name}: {found}"
            );
        }
    }
}
