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
    traffic::ping,
};

use crate::site::{A_WHILE, Attacker, EVIL, STRANGER, Site, counts, settle};

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
        let marks = [Mark::Hairpin, Mark::Transit(victim), Mark::Flood { port: victim, slot: 0 }];
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
                assert!(site.hearers(&own.tap, &frame).is_empty(), "{what} arrives");
                eventually(&format!("{what} is counted"), Duration::from_secs(5), || {
                    counts(&site.daemon, &name).contains_key(reason)
                });
            }
            // What its child is allowed, it is, too.
            let honest = V4::new(STRANGER, site.lan.router.ip, UDP, udp(5000, 5001));
            let honest = honest.frame(own.mac, site.lan.router.mac);
            assert_eq!(site.hearers(&own.tap, &honest), ["the wire"], "{attacker:?}, {mode}");
            // Where nothing is looked at, what it says of its address is heard.
            site.set("--security off");
            let (_, lie) = &own.forgeries(&site)[0];
            assert_eq!(site.hearers(&own.tap, lie), ["the wire"], "{attacker:?}, {mode}");
            site.set("--security enforce");
            site.evil.ns.delete(mode);
        }
    }
}

/// A child that gives itself the gateway's MAC keeps its own for maclane: no station loses the gateway,
/// and the child hears nothing that is for it. In bridge mode the kernel gives it its siblings' frames
/// for the gateway, which the parent's ingress sends on.
#[test]
fn the_gateways_mac_is_of_no_use_to_a_child() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (gateway, host) = (&site.lan.router, &site.lan.hosts[0]);
        let reach = |what: &str| {
            for ns in [&site.victim.ns, &site.sibling.ns, &host.ns] {
                let result = ping(ns, gateway.ip, 3, Duration::from_millis(20));
                assert!(result.is_clean(), "{attacker:?}, {what}: {}: {result:?}", ns.name());
            }
        };
        reach("before");
        site.evil.ns.set_mac("eth0", gateway.mac);
        eventually("it is noticed", Duration::from_secs(10), || {
            site.daemon.problems().contains(&gateway.mac.to_string())
        });
        assert_eq!(site.daemon.inspect(EVIL)["mac"], site.evil.mac.to_string());
        let _ = site.evil.tap.collect(Duration::ZERO);
        reach("with the gateway's MAC in a child");
        let heard = site.evil.tap.collect(A_WHILE);
        let stolen: Vec<_> = heard.iter().filter(|f| f.destination == gateway.mac).collect();
        assert!(stolen.is_empty(), "{attacker:?}: it hears {stolen:?}");
        // Its kernel sends with that MAC, too.
        let dropped = || site.counts().get("source_mac").map_or(0, |count| count.0);
        let before = dropped();
        let forged = Frame::new(gateway.mac, host.mac, "");
        assert!(!site.hearers(&site.evil.tap, &forged).contains(&"victim"));
        eventually("it is counted", A_WHILE, || dropped() > before);

        // Without security it has the MAC, and with it what is for the gateway, unless it is pinned.
        site.set("--security off");
        eventually("it has the MAC", Duration::from_secs(10), || {
            site.daemon.inspect(EVIL)["mac"] == gateway.mac.to_string()
        });
        let lost = ping(&host.ns, gateway.ip, 3, Duration::from_millis(20));
        assert_eq!(lost.received, 0, "{attacker:?}: without security");
        site.evil.ns.set_mac("eth0", site.evil.mac);
        eventually("it has its own MAC again", Duration::from_secs(10), || {
            site.daemon.inspect(EVIL)["mac"] == site.evil.mac.to_string()
        });
        let (ip, mac) = (gateway.ip.to_string(), gateway.mac.to_string());
        site.daemon.run(&["binding", "add", &ip, &mac, "--network", "lan"]);
        site.evil.ns.set_mac("eth0", gateway.mac);
        eventually("it is noticed again", Duration::from_secs(10), || {
            site.daemon.problems().contains(&format!("{ip} is pinned to"))
        });
        reach("pinned, without security");
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

#[test]
fn without_guards_a_macvlan_child_can_be_its_sibling_and_lie_to_those_in_bridge_mode() {
    let has_guards = kernel::has_tcx();
    let heard_without = |who: &'static str| if has_guards { vec![] } else { vec![who] };

    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    assert_eq!(site.daemon.inspect(EVIL)["identity"], kernel::identity());
    let forged = Frame::new(site.victim.mac, site.lan.router.mac, "");
    assert_eq!(site.hearers(&site.evil.tap, &forged), heard_without("the wire"));

    let site = Site::new(Attacker::Bridge);
    settle(&site.evil.ns);
    let gateway = site.lan.router.ip;
    let lie = Frame::arp_request(site.evil.mac, gateway, gateway, "");
    assert_eq!(site.hearers(&site.evil.tap, &lie), heard_without("victim"));
}
