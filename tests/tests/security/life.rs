//! Life goes on: whoever does nothing wrong notices nothing of port security.

use std::{net::IpAddr, thread, time::Duration};

use tests::{
    eventually, forge,
    forge::{
        ALL_NODES, Arp, DESTINATION, NO_OPTIONS, V6, advertisement, redirect as redirect_of,
        redirect_at, router_at,
    },
    frames::token,
    netns::Netns,
    patience, tcp,
    topology::PARENT,
    traffic::{assert_reaches, ping},
};

use crate::site::{Attacker, EVIL, Site, Station, addresses, counts, settle};

/// Whoever is not held back has nothing counted.
#[track_caller]
fn assert_nothing_counted(site: &Site, what: &str) {
    for port in [EVIL, "victim", "sibling", "far", "host"] {
        let counted = counts(&site.daemon, port);
        assert!(counted.is_empty(), "{what}: {port}: {counted:?}");
    }
}

/// Everybody on the LAN, with an interface and the addresses.
fn everybody(site: &Site) -> [(&Netns, [IpAddr; 2]); 5] {
    let of = |child: &Station| [child.ip.into(), child.ip6.into()];
    let (host, router) = (&site.lan.hosts[0], &site.lan.router);
    [
        (&site.evil.ns, of(&site.evil)),
        (&site.victim.ns, of(&site.victim)),
        (&site.sibling.ns, of(&site.sibling)),
        (&host.ns, [host.ip.into(), host.ip6.into()]),
        (&router.ns, [router.ip.into(), router.ip6.into()]),
    ]
}

#[test]
fn whoever_does_nothing_wrong_reaches_everybody() {
    for &attacker in Attacker::each() {
        let site = Site::new(attacker);
        for child in [&site.evil, &site.victim, &site.sibling] {
            settle(&child.ns);
        }
        let everybody = everybody(&site);
        for (place, (from, _)) in everybody.iter().enumerate() {
            for (other, (server, to)) in everybody.iter().enumerate() {
                if place == other {
                    continue;
                }
                for ip in to {
                    assert_reaches(from, *ip);
                    tcp::echo(server, from, *ip, 1 << 18);
                }
            }
        }
        for (from, to) in [(&site.victim, &site.sibling), (&site.sibling, &site.evil)] {
            link_local(&from.ns, "eth0", to);
        }
        link_local(&site.lan.router.ns, PARENT, &site.victim);
        link_local(&site.lan.hosts[0].ns, PARENT, &site.sibling);
        assert_nothing_counted(&site, &format!("{attacker:?}"));
    }
}

/// A ping of a child's link-local address.
#[track_caller]
fn link_local(from: &Netns, ifname: &str, to: &Station) {
    let target = format!("{}%{ifname}", to.link_local());
    let output = from.exec(&["ping", "-n", "-c", "2", "-i", "0.05", "-W", "2", &target]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(" 2 received"), "{}: {target}: {text}", from.name());
}

#[test]
fn an_ipv6_address_that_a_child_has_asked_for_is_its_own() {
    for &attacker in Attacker::each() {
        let site = Site::new(attacker);
        let own = "fd00:50::abcd".parse::<std::net::Ipv6Addr>().expect("an address");
        // Its kernel asks for it first (RFC 4862), and not everybody hears that.
        site.victim.ns.ip(&format!("address add {own}/64 dev eth0"));
        settle(&site.victim.ns);
        for from in [&site.lan.router.ns, &site.lan.hosts[0].ns, &site.sibling.ns, &site.evil.ns] {
            assert_reaches(from, own);
        }
        tcp::echo(&site.victim.ns, &site.lan.router.ns, own, 1 << 18);
        assert_nothing_counted(&site, &format!("{attacker:?}"));
    }
}

#[test]
fn an_address_that_two_children_share_moves_between_them_at_once() {
    for &attacker in Attacker::each() {
        let site = Site::new(attacker);
        let (ip, ip6) = addresses(200);
        for name in [EVIL, "sibling"] {
            let (ip, ip6) = (ip.to_string(), ip6.to_string());
            let allow = ["child", "set", name, "--allow-ip", &ip, "--allow-ip", &ip6];
            site.daemon.run(&allow);
        }
        let router = &site.lan.router.ns;
        for (from, to) in [(&site.sibling, &site.evil), (&site.evil, &site.sibling)].repeat(2) {
            for cidr in [format!("{ip}/24"), format!("{ip6}/64")] {
                from.ns.exec(&["ip", "address", "del", &cidr, "dev", "eth0"]);
                to.ns.address("eth0", &cidr);
            }
            take(to, ip, ip6);
            for ip in [IpAddr::from(ip), ip6.into()] {
                let from = [router, &site.lan.hosts[0].ns, &site.victim.ns];
                for from in from {
                    let what =
                        format!("{attacker:?}: {} reaches {ip} at its new place", from.name());
                    eventually(&what, Duration::from_secs(3), || {
                        ping(from, ip, 1, Duration::from_millis(10)).is_clean()
                    });
                    assert_eq!(mac_of(from, ip), Some(to.mac.to_string()), "{what}");
                }
            }
        }
        assert_nothing_counted(&site, &format!("{attacker:?}"));
    }
}

/// Says to have a shared address, as VRRP does (RFC 9568, section 8.1.2).
#[track_caller]
fn take(child: &Station, ip: std::net::Ipv4Addr, ip6: std::net::Ipv6Addr) {
    for _ in 0..3 {
        child.tap.send(&Arp::announcement((child.mac, ip)).broadcast(child.mac));
        let advertisement = advertisement(ip6, ALL_NODES, ip6, child.mac);
        child.tap.send(&advertisement.multicast(child.mac));
        thread::sleep(patience(Duration::from_millis(20)));
    }
}

/// Where somebody believes an address to be.
#[track_caller]
fn mac_of(ns: &Netns, ip: IpAddr) -> Option<String> {
    let text = ns.ip(&format!("neigh show {ip}"));
    let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
    words.nth(1).map(String::from)
}

/// A child that is trusted to be a router advertises its own MAC, and redirects without one: it claims nothing.
#[test]
fn a_trusted_router_claims_no_mac_of_another() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        site.set("--trust router");
        let (evil, victim, gateway) = (&site.evil, &site.victim, &site.lan.router);
        let from = evil.link_local();
        let routes = |mac| router_at(from, mac);
        let behind = |packet: V6| packet.with(DESTINATION, &NO_OPTIONS);
        let to_victim = |packet: V6| packet.frame(evil.mac, victim.mac);
        let redirect = |named| to_victim(redirect_at(from, victim.ip6, named, gateway.ip6));
        let honest = redirect_of(from, victim.ip6, gateway.ip6, gateway.ip6);
        let cases = [
            ("its own", routes(evil.mac).multicast(evil.mac), ""),
            ("its own, behind options", behind(routes(evil.mac)).multicast(evil.mac), ""),
            ("none", to_victim(honest), ""),
            ("the gateway's", routes(gateway.mac).multicast(evil.mac), "neighbour_claim"),
            (
                "the gateway's, behind options",
                behind(routes(gateway.mac)).multicast(evil.mac),
                "neighbour_claim",
            ),
            (
                "the gateway's, in its name",
                router_at(gateway.ip6, evil.mac).multicast(evil.mac),
                "source_ip",
            ),
            ("its own, for the gateway", redirect((gateway.ip6, evil.mac)), "neighbour_claim"),
            ("a sibling's", redirect((victim.ip6, site.sibling.mac)), "neighbour_claim"),
        ];
        for (name, frame, reason) in cases {
            let (before, token) = (site.counts(), token());
            let _earlier = site.heard();
            evil.send(&frame, &token);
            let heard = site.heard();
            let is_heard = heard.iter().any(|h| h.1.iter().any(|frame| frame.carries(&token)));
            assert_eq!(is_heard, reason.is_empty(), "{attacker:?}: it names {name}");
            let expected: &[_] = if reason.is_empty() { &[] } else { &[(reason, (1, 0))] };
            site.counted(&format!("{attacker:?}: it names {name}"), &before, expected);
        }
    }
}

#[test]
fn an_ipv6_address_of_another_station_cannot_be_had_by_asking() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let gateway = site.lan.router.ip6;
        let probe = forge::solicitation(std::net::Ipv6Addr::UNSPECIFIED, gateway, None);
        let mut unheard = probe.clone();
        unheard.body[2] ^= 1;
        let mut elsewhere = probe.clone();
        elsewhere.to = forge::solicited_node("fd00:50::beef".parse().expect("an address"));
        let nobody = tests::mac::Mac::local(7);
        let heard = probe.multicast(site.evil.mac);
        // What is counted of each, beside the claim that comes after it.
        let probes = [
            ("everybody hears it", heard.clone(), ""),
            ("nobody gets it", probe.frame(site.evil.mac, nobody), "neighbour_claim"),
            ("its checksum is wrong", unheard.multicast(site.evil.mac), "neighbour_claim"),
            ("it is for another group", elsewhere.multicast(site.evil.mac), "neighbour_claim"),
            (
                "it is for another group, in the right frame",
                elsewhere.frame(site.evil.mac, heard.destination),
                "neighbour_claim",
            ),
            ("it is in another VLAN", heard.clone().vlan(20), "vlan_not_allowed"),
            ("it has two tags", heard.clone().vlan(0).vlan(0), "stacked_tags"),
            ("it is another's", probe.multicast(nobody), "source_mac"),
        ];
        for (name, frame, reason) in probes {
            let before = site.counts();
            site.evil.tap.send(&frame);
            thread::sleep(patience(Duration::from_millis(700)));
            let claim = advertisement(gateway, ALL_NODES, gateway, site.evil.mac);
            site.evil.tap.send(&claim.multicast(site.evil.mac));
            let what = format!("{attacker:?}: {name}");
            let both = [("neighbour_claim", (1, 0)), (reason, (1, 0))];
            let expected: &[_] = match reason {
                "" => &both[..1],
                "neighbour_claim" => &[("neighbour_claim", (2, 0))],
                _ => &both,
            };
            site.counted(&what, &before, expected);
        }
    }
}
