//! A child cannot be another, whatever it does to its own frames and its own links.

use std::time::Duration;

use dataplane_common::Mark;
use tests::{
    eventually,
    forge::{UDP, V4, udp},
    frames::{Frame, token},
    kernel,
    mac::Mac,
    tap::Tap,
    topology::PARENT,
};

use crate::site::{Attacker, EVIL, STRANGER, Site, counts, settle};

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
        let below = Tap::open(&site.evil.ns, "eth0.20");
        below.send(&Frame::new(site.evil.mac, Mac::BROADCAST, &token));
        site.counted(&format!("{attacker:?}"), &before, &[("vlan_not_allowed", (1, 0))]);
        for (who, heard) in site.heard() {
            assert!(!heard.iter().any(|f| f.carries(&token)), "{attacker:?}: {who} hears it");
        }
    }
}

/// The kernel puts it on the parent (`drivers/net/macvlan.c`, `macvlan_common_newlink`), beside the child.
#[test]
fn a_macvlan_that_a_child_makes_on_its_own_is_held_to_the_childs_rules() {
    for &attacker in Attacker::all().iter().filter(|&&attacker| attacker != Attacker::Veth) {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        site.set(&format!("--allow-ip {STRANGER}"));
        for mode in ["vepa", "bridge"] {
            site.evil.ns.ip(&format!("link add link eth0 name {mode} type macvlan mode {mode}"));
            site.evil.ns.ip(&format!("link set {mode} addrgenmode none"));
            site.evil.ns.up(mode);
            let own = Inner { tap: Tap::open(&site.evil.ns, mode), mac: site.evil.ns.mac(mode) };
            let name = format!("{PARENT}/{}", own.mac);
            eventually("it has the rules of the child", Duration::from_secs(10), || {
                let list = site.daemon.json(&["child", "ls"]);
                let children = list.as_array().expect("a list");
                let own = children.iter().find(|child| child["name"] == *name);
                own.is_some_and(|own| own["inside"] == EVIL && own["security"] == "enforce")
            });
            for (reason, frame) in own.forgeries(&site) {
                let what = format!("{attacker:?} with a link in mode {mode}: {reason}, {frame:?}");
                assert!(hearers(&site, &own.tap, &frame).is_empty(), "{what} arrives");
                eventually(&format!("{what} is counted"), Duration::from_secs(5), || {
                    counts(&site.daemon, &name).contains_key(reason)
                });
            }
            // What its child is allowed, it is, too.
            let honest = V4::new(STRANGER, site.lan.router.ip, UDP, udp(5000, 5001));
            let honest = honest.frame(own.mac, site.lan.router.mac);
            assert_eq!(hearers(&site, &own.tap, &honest), ["the wire"], "{attacker:?}, {mode}");
            // Where nothing is looked at, what it says of its address is heard.
            site.set("--security off");
            let (_, lie) = &own.forgeries(&site)[0];
            assert_eq!(hearers(&site, &own.tap, lie), ["the wire"], "{attacker:?}, {mode}");
            site.set("--security enforce");
            site.evil.ns.delete(mode);
        }
    }
}

/// A macvlan that a child has made.
struct Inner {
    tap: Tap,
    mac: Mac,
}

impl Inner {
    /// Frames that neither it nor its child may send, and as what they are counted.
    fn forgeries(&self, site: &Site) -> Vec<(&'static str, Frame)> {
        let gateway = site.lan.router.mac;
        let lie = V4::new(site.victim.ip, site.lan.router.ip, UDP, udp(5000, 5001));
        let server = V4::new(STRANGER, site.lan.router.ip, UDP, udp(67, 68));
        let broadcast = Frame::new(self.mac, Mac::BROADCAST, "");
        vec![
            ("source_ip", lie.frame(self.mac, gateway)),
            ("source_ip", lie.frame(self.mac, site.victim.mac)),
            ("source_mac", lie.frame(site.victim.mac, gateway)),
            ("dhcp_server", server.frame(self.mac, gateway)),
            ("vlan_not_allowed", broadcast.clone().vlan(20)),
            ("stacked_tags", broadcast.vlan(20).vlan(0)),
        ]
    }
}

/// Who hears a frame that is sent through a tap.
fn hearers(site: &Site, tap: &Tap, frame: &Frame) -> Vec<&'static str> {
    let token = token();
    tap.send(&frame.clone().trailer(&token));
    let carries = |heard: &[Frame]| heard.iter().any(|frame| frame.carries(&token));
    let heard = site.heard();
    heard.iter().filter(|(_, heard)| carries(heard)).map(|(who, _)| *who).collect()
}

#[test]
fn without_guards_a_macvlan_child_can_be_its_sibling_and_lie_to_those_in_bridge_mode() {
    let has_guards = kernel::has_tcx();
    let heard_without = |who: &'static str| if has_guards { vec![] } else { vec![who] };

    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let identity = if has_guards { "guard" } else { "mac" };
    assert_eq!(site.daemon.inspect(EVIL)["identity"], identity);
    let forged = Frame::new(site.victim.mac, site.lan.router.mac, "");
    assert_eq!(hearers(&site, &site.evil.tap, &forged), heard_without("the wire"));

    let site = Site::new(Attacker::Bridge);
    settle(&site.evil.ns);
    let gateway = site.lan.router.ip;
    let lie = Frame::arp_request(site.evil.mac, gateway, gateway, "");
    assert_eq!(hearers(&site, &site.evil.tap, &lie), heard_without("victim"));
}
