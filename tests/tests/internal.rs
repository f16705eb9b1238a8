//! What reaches the children of a network, and what they do about it: internal networks, routes, and
//! routers of the LAN.

use std::{net::Ipv6Addr, time::Duration};

use tests::{
    daemon::Daemon,
    eventually,
    frames::{Frame, token},
    kernel::has_tcx,
    mac::Mac,
    netns::Netns,
    tap::Tap,
    topology::{Lan, Options, PARENT},
    traffic::{assert_does_not_reach, assert_reaches},
};

const SOON: Duration = Duration::from_secs(10);

fn broadcast(source: Mac, token: &str) -> Frame {
    Frame::new(source, Mac::BROADCAST, token)
}

#[test]
fn nothing_goes_between_the_wire_and_an_internal_network() {
    for (kind, vlan) in [("macvlan", 0), ("macvlan", 10), ("veth", 0), ("veth", 10)] {
        let lan = Lan::new(2);
        let (host, daemon) = (&lan.hosts[0].ns, Daemon::start(&lan.hosts[0].ns));
        let more = format!("--vlan {vlan} --kind {kind} --subnet 10.7.0.0/24 --internal");
        daemon.network_with("inner", &more);
        let ((a, got), (b, _)) = (lan.add(&daemon, "a", "inner"), lan.add(&daemon, "b", "inner"));
        let what = format!("{kind} in VLAN {vlan}");
        assert_eq!(got, ["10.7.0.2"], "{what}: the gateway's address is kept back");
        assert_eq!(a.run(&["ip", "route", "show", "default"]), "", "{what}: no default route");
        assert_reaches(&a, [10, 7, 0, 3]);
        // A network of the same VLAN that is not internal: its children are on this host, too.
        daemon.network_with("outer", &format!("--vlan {vlan} --kind {kind}"));
        let outer = lan.namespace();
        daemon.child("outer", "outer", &outer, "10.7.0.50/24");
        assert_reaches(&outer, [10, 7, 0, 3]);
        if vlan == 0 {
            host.address(PARENT, "10.7.0.60/24");
            assert_reaches(&a, [10, 7, 0, 60]);
            assert_reaches(host, [10, 7, 0, 3]);
        }

        // Somebody else on the wire, in the same VLAN: each hears nothing of the other.
        let peer = Daemon::start(&lan.hosts[1].ns);
        peer.network_with("lan", &format!("--vlan {vlan}"));
        let stranger = lan.namespace();
        let stranger_mac = peer.child("stranger", "lan", &stranger, "10.7.0.99/24");
        assert_does_not_reach(&a, [10, 7, 0, 99]);
        assert_does_not_reach(&stranger, [10, 7, 0, 2]);
        assert_reaches(&outer, [10, 7, 0, 99]);
        let (wire, inside) = (Tap::open(&lan.router.ns, PARENT), Tap::open(&a, "eth0"));
        let (inner_mac, in_vlan) =
            (a.mac("eth0"), |frame: Frame| if vlan == 0 { frame } else { frame.vlan(vlan) });
        let tokens = [token(), token(), token(), token()];
        inside.send(&broadcast(inner_mac, &tokens[0]));
        inside.send(&Frame::new(inner_mac, stranger_mac, &tokens[1]));
        wire.send(&in_vlan(broadcast(lan.router.mac, &tokens[2])));
        wire.send(&in_vlan(Frame::new(lan.router.mac, inner_mac, &tokens[3])));
        let wait = Duration::from_millis(300);
        let out = wire.collect(wait);
        let leaked = out.iter().filter(|f| tokens.iter().any(|t| f.carries(t))).count();
        assert_eq!(leaked, 0, "{what}: to the wire {out:?}");
        let heard = inside.collect(wait);
        let leaked = heard.iter().filter(|f| tokens.iter().any(|t| f.carries(t))).count();
        assert_eq!(leaked, 0, "{what}: from the wire {heard:?}");
        assert!(daemon.drops("internal") >= 2, "{what}");
        // The broadcast of a child reaches its sibling all the same.
        let sibling = Tap::open(&b, "eth0");
        let told = token();
        inside.send(&broadcast(inner_mac, &told));
        assert_eq!(sibling.with_token(&told, wait).len(), 1, "{what}");
    }
}

#[test]
fn an_internal_network_has_its_addresses_for_itself() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    // Somebody on the wire has it, too, and says so.
    lan.router.ns.address(PARENT, "10.7.0.2/24");
    daemon.network_with("inner", "--subnet 10.7.0.0/24 --internal");
    let (_a, got) = lan.add(&daemon, "a", "inner");
    assert_eq!(got, ["10.7.0.2"]);
    let wire = Tap::open(&lan.router.ns, PARENT);
    let ip = std::net::Ipv4Addr::new(10, 7, 0, 2);
    wire.send(&Frame::arp_request(lan.router.mac, ip, ip, ""));
    let heard = wire.collect(Duration::from_secs(2));
    assert!(heard.iter().all(|frame| frame.source != lan.hosts[0].mac), "{heard:?}");
    assert_eq!(daemon.json(&["network", "inspect", "inner"])["leases"][0]["claims"], 0);
    let check = daemon.cli(&["network", "check", "inner"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn an_internal_network_cannot_be_passthru_nor_have_trunks() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let create = ["network", "create", "inner", "--parent", PARENT, "--internal"];
    for (more, word) in [(["--mode", "passthru"], "passthru"), (["--slaac", "on"], "slaac")] {
        let (code, message) = daemon.fail(&[&create[..], &more].concat());
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(word), "{message}");
    }
    daemon.run(&create);
    let ns = lan.namespace();
    let base = ["child", "add", "a", "--network", "inner", "--netns", ns.name()];
    let (code, message) = daemon.fail(&[&base[..], &["--trunk", "10"]].concat());
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("internal"), "{message}");
    assert!(!ns.has("eth0"));
}

#[test]
fn a_network_has_routes_for_its_children() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network_with(
        "lan",
        "--subnet 10.7.0.0/24 --subnet 10.8.0.0/24 --gateway none \
         --route 10.8.0.0/24 --route 172.20.0.0/16=10.7.0.77",
    );
    let (a, _) = lan.add(&daemon, "a", "lan");
    let (b, c) = (lan.namespace(), lan.namespace());
    // On the link: the other subnet needs no router.
    let back = ["--ip", "10.8.0.5", "--route", "10.7.0.0/24"];
    daemon.child_with("b", "lan", &b, &back);
    assert_reaches(&a, [10, 8, 0, 5]);
    let routes = a.run(&["ip", "route"]);
    assert!(routes.contains("172.20.0.0/16 via 10.7.0.77"), "{routes}");
    // What a child asks for itself comes first.
    daemon.child_with("c", "lan", &c, &["--route", "172.20.0.0/16=10.7.0.78"]);
    let routes = c.run(&["ip", "route"]);
    assert!(routes.contains("172.20.0.0/16 via 10.7.0.78") && !routes.contains(".77"), "{routes}");
}

/// The addresses of a child's link, of scope global.
fn global(ns: &Netns) -> String {
    ns.run(&["ip", "-6", "address", "show", "dev", "eth0", "scope", "global"])
}

#[test]
fn a_child_listens_to_the_routers_of_the_lan_as_its_network_says() {
    let lan = Lan::with(Options { ipv6: true, ..Options::default() });
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let router = Tap::open(&lan.router.ns, PARENT);
    let prefix: Ipv6Addr = "fd00:77::".parse().expect("an address");
    let gateway: Ipv6Addr = "fe80::1".parse().expect("an address");
    let advertise = || router.send(&Frame::router_advertisement(lan.router.mac, gateway, prefix));

    daemon.network_with("on", "--slaac on");
    daemon.network_with("off", "--slaac off");
    daemon.network_with("both", "--subnet fd00:78::/64 --slaac on");
    daemon.network_with("given", "--subnet fd00:79::/64");
    daemon.network_with("four", "--subnet 10.79.0.0/24");
    let (on, _) = lan.add(&daemon, "on", "on");
    let (off, _) = lan.add(&daemon, "off", "off");
    let (both, _) = lan.add(&daemon, "both", "both");
    let (given, got) = lan.add(&daemon, "given", "given");
    let (four, _) = lan.add(&daemon, "four", "four");
    assert_eq!(got, ["fd00:79::2"]);
    for ns in [&on, &both] {
        eventually("an address of the router's prefix", SOON, || {
            advertise();
            global(ns).contains("fd00:77::")
        });
        let default = ns.run(&["ip", "-6", "route", "show", "default"]);
        assert!(default.contains("via fe80::1"), "{default}");
    }
    assert!(global(&both).contains("fd00:78::2/64"), "{}", global(&both));
    // The others heard the same.
    assert!(!global(&given).contains("fd00:77::"), "{}", global(&given));
    assert!(!given.run(&["ip", "-6", "route", "show", "default"]).contains("fe80::1"));
    for ns in [&off, &four] {
        let addresses = ns.run(&["ip", "-6", "address", "show", "dev", "eth0"]);
        assert_eq!(addresses, "", "not even one of the link");
    }
    assert!(!has_tcx() || daemon.problems() == "[]", "{}", daemon.problems());
}
