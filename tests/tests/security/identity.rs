//! A child cannot be another, whatever it does to its own frames and its own links.

use dataplane_common::Mark;
use tests::{
    forge::{UDP, V4, udp},
    frames::{Frame, token},
    kernel,
    mac::Mac,
};

use crate::site::{Attacker, Site, counts, settle};

/// Sends frames that are forged in each way, and sees that none arrives and that all are the attacker's.
#[track_caller]
fn forge(site: &Site, what: &str) {
    let (evil, victim) = (&site.evil, &site.victim);
    let ip = V4::new(victim.ip, site.lan.router.ip, UDP, udp(5000, 5001));
    let frames = [
        ("source_mac", Frame::new(victim.mac, site.lan.router.mac, "")),
        ("source_mac", Frame::new(victim.mac, site.sibling.mac, "")),
        ("source_mac", Frame::new(victim.mac, Mac::BROADCAST, "")),
        ("source_mac", ip.frame(victim.mac, site.lan.router.mac)),
        ("source_ip", ip.frame(evil.mac, site.lan.router.mac)),
    ];
    for (reason, frame) in frames {
        let (token, before) = (token(), site.counts());
        evil.send(&frame, &token);
        site.counted(&format!("{what}: {frame:?}"), &before, &[(reason, (1, 0))]);
        for (who, heard) in site.heard() {
            assert!(!heard.iter().any(|f| f.carries(&token)), "{what}: {who} hears {frame:?}");
        }
    }
    for other in ["victim", "sibling", "host"] {
        let counted = counts(&site.daemon, other);
        assert!(!counted.contains_key("source_mac"), "{what}: {other} is blamed: {counted:?}");
    }
}

#[test]
fn no_mark_makes_a_child_its_sibling() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let port = |name| {
            let number = site.daemon.inspect(name)["port"].as_u64();
            u16::try_from(number.expect("a port")).expect("a small number")
        };
        let victim = port("victim");
        let marks = [
            Mark::From(victim),
            Mark::From(1),
            Mark::Hairpin,
            Mark::Transit(victim),
            Mark::Flood { port: victim, slot: 0 },
        ];
        for mark in marks {
            site.evil.tap.mark(mark.encode());
            forge(&site, &format!("{attacker:?}, {mark:?}"));
        }
    }
}

#[test]
fn no_name_of_a_protocol_hides_what_a_child_sends() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let spoofed = V4::new(site.victim.ip, site.lan.router.ip, UDP, udp(5000, 5001));
        let spoofed = spoofed.frame(site.evil.mac, site.lan.router.mac);
        let broadcast = Frame::new(site.evil.mac, Mac::BROADCAST, "");
        let cases = [
            ("source_ip", spoofed.clone(), tests::frames::ARP),
            ("source_ip", spoofed.vlan(0), tests::frames::EXPERIMENT),
            ("vlan_not_allowed", broadcast.clone().vlan(20), tests::frames::IPV4),
            ("stacked_tags", broadcast.vlan(20).vlan(0), tests::frames::IPV4),
        ];
        for (reason, frame, protocol) in cases {
            let (token, before) = (token(), site.counts());
            site.evil.tap.send_disguised(&frame.clone().trailer(&token), protocol);
            let what = format!("{attacker:?}: {frame:?} as {protocol:04x}");
            site.counted(&what, &before, &[(reason, (1, 0))]);
            for (who, heard) in site.heard() {
                assert!(!heard.iter().any(|f| f.carries(&token)), "{what}: {who} hears it");
            }
        }
    }
}

#[test]
fn a_vlan_interface_of_a_childs_own_leads_nowhere() {
    if kernel::lacks("vlan") {
        return;
    }
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        site.evil.ns.ip("link add link eth0 name eth0.20 type vlan id 20");
        site.evil.ns.ip("link set eth0.20 addrgenmode none");
        site.evil.ns.up("eth0.20");
        let (token, before) = (token(), site.counts());
        let below = tests::tap::Tap::open(&site.evil.ns, "eth0.20");
        below.send(&Frame::new(site.evil.mac, Mac::BROADCAST, &token));
        site.counted(&format!("{attacker:?}"), &before, &[("vlan_not_allowed", (1, 0))]);
        for (who, heard) in site.heard() {
            assert!(!heard.iter().any(|f| f.carries(&token)), "{attacker:?}: {who} hears it");
        }
    }
}
