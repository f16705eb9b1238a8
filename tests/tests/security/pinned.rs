//! A gateway whose addresses are pinned: nobody on the wire can say to be it.

use std::time::Duration;

use tests::{
    forge::{ALL_NODES, Arp, V6, advertisement, solicitation},
    frames::{Frame, token},
    mac::Mac,
    tap::Tap,
    topology::PARENT,
};

use crate::site::{A_WHILE, Attacker, Site, counts};

/// The MAC of a thief on the wire.
const THIEF: Mac = Mac([2, 0, 0, 0, 0x66, 0x66]);

/// Frames of the wire that say who the gateway is: what they are, and whether that is true.
fn claims(site: &Site) -> Vec<(&'static str, Frame, bool)> {
    let (gateway, victim) = (&site.lan.router, &site.victim);
    let to_victim = (victim.mac, victim.ip);
    let arp = |mac| (mac, gateway.ip);
    let all = |mac| advertisement(gateway.ip6, ALL_NODES, gateway.ip6, mac);
    let one = |mac| advertisement(gateway.ip6, victim.ip6, gateway.ip6, mac);
    let asks = |mac| solicitation(gateway.ip6, victim.ip6, Some(mac));
    let many = |mac| {
        let mut packet = all(gateway.mac);
        let option = packet.body.split_off(24);
        for _ in 0..5 {
            packet.body.extend([14, 1, 0, 0, 0, 0, 0, 0]);
        }
        packet.body.extend([&option[..2], &Mac(mac).0].concat());
        V6::icmp(packet.from, packet.to, packet.body)
    };
    vec![
        ("a thief announces it", Arp::announcement(arp(THIEF)).broadcast(THIEF), false),
        ("a thief replies", Arp::reply(arp(THIEF), to_victim).to(THIEF, victim.mac), false),
        (
            "a thief replies with the gateway's frame",
            Arp::reply(arp(THIEF), to_victim).to(gateway.mac, victim.mac),
            false,
        ),
        (
            "a thief replies with the gateway's MAC in his frame",
            Arp::reply(arp(gateway.mac), to_victim).to(THIEF, victim.mac),
            false,
        ),
        ("a thief asks in its name", Arp::request(arp(THIEF), victim.ip).broadcast(THIEF), false),
        ("a thief advertises it", all(THIEF).multicast(THIEF), false),
        ("a thief advertises it to one", one(THIEF).frame(THIEF, victim.mac), false),
        ("a thief advertises it in its frame", all(THIEF).multicast(gateway.mac), false),
        (
            "a thief advertises it to one in its frame",
            one(THIEF).frame(gateway.mac, victim.mac),
            false,
        ),
        ("a thief asks in its IPv6 name", asks(THIEF).multicast(THIEF), false),
        ("a thief asks in its IPv6 name and frame", asks(THIEF).multicast(gateway.mac), false),
        ("a thief hides his MAC behind options", many(THIEF.0).multicast(gateway.mac), false),
        ("it announces itself", Arp::announcement(arp(gateway.mac)).broadcast(gateway.mac), true),
        ("it replies", Arp::reply(arp(gateway.mac), to_victim).to(gateway.mac, victim.mac), true),
        ("it advertises itself", all(gateway.mac).multicast(gateway.mac), true),
        ("it advertises to one", one(gateway.mac).frame(gateway.mac, victim.mac), true),
        ("it asks", Arp::request(arp(gateway.mac), victim.ip).broadcast(gateway.mac), true),
        ("it asks in IPv6", asks(gateway.mac).multicast(gateway.mac), true),
    ]
}

/// Sends each claim from the wire; returns what the victim did not hear although it is true, or heard
/// although it is not, and how many were not true.
#[track_caller]
fn wrong(site: &Site) -> (Vec<&'static str>, u64) {
    let router = Tap::open(&site.lan.router.ns, PARENT);
    let claims = claims(site);
    let forged = claims.iter().filter(|claim| !claim.2).count();
    let sent: Vec<_> = claims
        .into_iter()
        .map(|(name, frame, genuine)| {
            let token = token();
            router.send(&frame.trailer(&token));
            (name, token, genuine)
        })
        .collect();
    let victim = site.victim.tap.collect(A_WHILE);
    let sibling = site.sibling.tap.collect(Duration::ZERO);
    let of = |frames: &[Frame], token: &str| frames.iter().any(|frame| frame.carries(token));
    let wrong = sent.iter().filter(|(_, token, genuine)| {
        of(&victim, token) != *genuine || of(&sibling, token) && !genuine
    });
    (wrong.map(|sent| sent.0).collect(), u64::try_from(forged).expect("a count"))
}

fn pinned(parent: &[&str], attacker: Attacker) {
    let site = Site::new(attacker);
    if !parent.is_empty() {
        site.daemon.run(&[&["parent", "add", PARENT], parent].concat());
    }
    let (believed, forged) = wrong(&site);
    assert_eq!(u64::try_from(believed.len()).expect("a count"), forged, "unpinned: {believed:?}");
    let mac = site.lan.router.mac.to_string();
    for ip in [site.lan.router.ip.to_string(), site.lan.router.ip6.to_string()] {
        for network in ["lan", "lanv"] {
            site.daemon.run(&["binding", "add", &ip, &mac, "--network", network]);
        }
    }
    let before = counts(&site.daemon, "wire");
    let (wrong, forged) = wrong(&site);
    assert_eq!(wrong, [""; 0], "{attacker:?} {parent:?}");
    let of = |counts: &crate::site::Counts| counts.get("pinned").map_or(0, |count| count.0);
    let counted = of(&counts(&site.daemon, "wire")) - of(&before);
    assert_eq!(counted, forged, "{attacker:?} {parent:?}: counted as pinned, of the wire");
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
