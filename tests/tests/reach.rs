//! Who reaches whom in one VLAN: the host, children of both kinds, and the wire.

use std::time::Duration;

use tests::{
    daemon::Daemon,
    eventually, kernel,
    netns::Netns,
    tcp,
    topology::{Lan, Options, PARENT},
    traffic::{Ping, assert_does_not_reach, assert_reaches},
};

const SOON: Duration = Duration::from_secs(5);

fn with_ipv6() -> Lan {
    Lan::with(Options { ipv6: true, ..Options::default() })
}

/// A macvlan child that somebody else made, with the last number of its addresses.
fn theirs(lan: &Lan, mode: &str, last: u8) -> Netns {
    let ns = lan.namespace();
    lan.hosts[0].ns.macvlan(PARENT, mode, &ns, "eth0");
    ns.address("eth0", &format!("192.168.50.{last}/24"));
    ns.address("eth0", &format!("fd00:50::{last}/64"));
    ns
}

fn v4(last: u8) -> std::net::Ipv4Addr {
    [192, 168, 50, last].into()
}

fn v6(last: u8) -> std::net::Ipv6Addr {
    format!("fd00:50::{last}").parse().expect("an address")
}

fn existing_children_get_the_host(mode: &str) {
    let lan = with_ipv6();
    let host = &lan.hosts[0];
    let child = theirs(&lan, mode, 101);
    let sibling = theirs(&lan, mode, 102);
    let daemon = Daemon::start(&host.ns);
    assert_does_not_reach(&host.ns, v4(101));
    let wire = Ping::start(&child, lan.router.ip, Duration::from_millis(2));

    daemon.run(&["parent", "add", PARENT]);
    // It has just asked in vain, and asks again three seconds later only (`mcast_solicit`).
    host.ns.ip("neigh flush all");
    assert_reaches(&host.ns, v4(101));
    assert_reaches(&child, host.ip);
    // Neighbour discovery on both sides.
    assert_reaches(&host.ns, v6(101));
    assert_reaches(&child, host.ip6);
    assert_reaches(&child, v4(102));
    assert_reaches(&sibling, v6(101));
    assert_reaches(&lan.router.ns, v4(101));
    assert_reaches(&lan.router.ns, v6(102));
    tcp::echo(&child, &host.ns, v4(101), 4 << 20);
    tcp::echo(&host.ns, &child, host.ip, 4 << 20);
    tcp::echo(&child, &sibling, v4(101), 4 << 20);
    let adopted = daemon.json(&["child", "ls"]);
    assert_eq!(adopted.as_array().map(Vec::len), Some(2), "{adopted}");
    assert_eq!(adopted[0]["origin"], "adopted");
    assert_eq!(adopted[0]["mode"], mode);

    daemon.run(&["parent", "rm", PARENT]);
    assert_does_not_reach(&host.ns, v4(101));
    assert_does_not_reach(&child, host.ip);
    assert!(!daemon.bpffs().join("maclane").exists(), "no pin is left");
    let wire = wire.stop();
    // Without TCX the kernel stops the parent while its clsact qdisc comes and goes
    // (`net/sched/sch_api.c`, `qdisc_graft`, until Linux 6.4).
    let stopped = if kernel::has_tcx() { 0 } else { 50 };
    assert!(
        wire.sent > 0 && wire.lost() <= stopped && wire.duplicates == 0,
        "the child never lost the wire: {wire:?}"
    );
}

#[test]
fn parent_add_gives_existing_bridge_children_the_host_and_parent_rm_takes_it_away() {
    existing_children_get_the_host("bridge");
}

#[test]
fn parent_add_gives_existing_vepa_children_the_host_and_parent_rm_takes_it_away() {
    existing_children_get_the_host("vepa");
}

#[test]
fn a_child_that_somebody_makes_later_is_adopted_and_one_that_goes_is_released() {
    let lan = with_ipv6();
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    daemon.run(&["parent", "add", PARENT]);
    let child = theirs(&lan, "bridge", 101);
    eventually("the child is adopted", SOON, || {
        daemon.json(&["child", "ls"]).as_array().is_some_and(|list| list.len() == 1)
    });
    assert_reaches(&host.ns, v4(101));
    assert_reaches(&child, host.ip);
    child.delete("eth0");
    eventually("the child is released", SOON, || {
        daemon.json(&["child", "ls"]).as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn everybody_in_a_vlan_reaches_everybody() {
    let lan = with_ipv6();
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    daemon.network("lan", 0, "macvlan");
    daemon.network("lanv", 0, "veth");
    let mut all = Vec::new();
    for (last, network) in [(101, "lan"), (102, "lan"), (103, "lanv"), (104, "lanv")] {
        let ns = lan.namespace();
        let (ip, ip6) = (format!("192.168.50.{last}/24"), format!("fd00:50::{last}/64"));
        daemon.child_with(&format!("c{last}"), network, &ns, &["--ip", &ip, "--ip", &ip6]);
        all.push((ns, last));
    }
    all.push((theirs(&lan, "bridge", 105), 105));
    eventually("the fifth child is adopted", SOON, || {
        daemon.json(&["child", "ls"]).as_array().is_some_and(|list| list.len() == 5)
    });
    for (from, number) in &all {
        for (_, to) in all.iter().filter(|(_, to)| to != number) {
            assert_reaches(from, v4(*to));
            assert_reaches(from, v6(*to));
        }
        for end in [&host.ns, &lan.router.ns] {
            assert_reaches(end, v4(*number));
            assert_reaches(end, v6(*number));
        }
        assert_reaches(from, host.ip);
        assert_reaches(from, host.ip6);
        assert_reaches(from, lan.router.ip);
        assert_reaches(from, lan.router.ip6);
    }
    let ns = |i: usize| &all[i].0;
    tcp::echo(ns(0), ns(2), v4(101), 4 << 20);
    tcp::echo(ns(2), ns(3), v4(103), 4 << 20);
    tcp::echo(ns(3), &host.ns, v4(104), 4 << 20);
    tcp::echo(&lan.router.ns, ns(2), lan.router.ip, 4 << 20);
    tcp::echo(ns(1), &lan.router.ns, v4(102), 4 << 20);
}

#[test]
fn private_children_reach_the_host_and_the_wire_but_not_each_other() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    daemon.run(&["network", "create", "alone", "--parent", PARENT, "--mode", "private"]);
    let (a, b) = (lan.namespace(), lan.namespace());
    daemon.child("a", "alone", &a, "192.168.50.101/24");
    daemon.child("b", "alone", &b, "192.168.50.102/24");
    assert_reaches(&a, host.ip);
    assert_reaches(&host.ns, v4(102));
    assert_reaches(&b, lan.router.ip);
    assert_does_not_reach(&a, v4(102));
}

#[test]
fn a_passthru_child_takes_the_parent() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    daemon.run(&["network", "create", "all", "--parent", PARENT, "--mode", "passthru"]);
    let ns = lan.namespace();
    let mac = daemon.child("it", "all", &ns, "192.168.50.101/24");
    assert_eq!(mac, host.mac, "it has the parent's MAC");
    assert_reaches(&ns, lan.router.ip);
    assert_reaches(&lan.router.ns, v4(101));
}

#[test]
fn child_add_sets_name_mac_mtu_addresses_and_routes() {
    let lan = with_ipv6();
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    for kind in ["macvlan", "veth"] {
        let name = format!("n-{kind}");
        daemon.run(&[
            "network", "create", &name, "--parent", PARENT, "--kind", kind, "--mtu", "1400",
        ]);
        let ns = lan.namespace();
        let last = if kind == "veth" { 7 } else { 6 };
        let (mac, ip, ip6) = (
            format!("02:00:5e:00:53:0{last}"),
            format!("192.168.50.{last}/24"),
            format!("fd00:50::{last}/64"),
        );
        let more = [
            "--ifname",
            "lan0",
            "--mac",
            &mac,
            "--ip",
            &ip,
            "--ip",
            &ip6,
            "--route",
            "default=192.168.50.1",
            "--route",
            "default=fd00:50::1",
            "--route",
            "10.9.0.0/16=192.168.50.1",
        ];
        daemon.child_with(kind, &name, &ns, &more);
        let link = ns.link("lan0");
        assert_eq!(link["address"], mac.as_str());
        assert_eq!(link["mtu"], 1400);
        assert!(link["flags"].to_string().contains("\"UP\""), "{link}");
        let addresses = ns.run(&["ip", "-br", "addr", "show", "lan0"]);
        assert!(addresses.contains(&ip) && addresses.contains(&ip6), "{addresses}");
        let routes = ns.run(&["ip", "route"]) + &ns.run(&["ip", "-6", "route"]);
        for route in
            ["default via 192.168.50.1", "default via fd00:50::1", "10.9.0.0/16 via 192.168.50.1"]
        {
            assert!(routes.contains(route), "{route} is not in {routes}");
        }
        daemon.run(&["child", "rm", kind]);
        assert!(!ns.has("lan0"), "child rm removes the link");
    }
}

#[test]
fn child_add_announces_the_addresses() {
    let lan = with_ipv6();
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("lan", 0, "macvlan");
    let tap = tests::tap::Tap::open(&lan.router.ns, PARENT);
    let ns = lan.namespace();
    let mac = daemon.child_with(
        "web",
        "lan",
        &ns,
        &["--ip", "192.168.50.101/24", "--ip", "fd00:50::101/64"],
    );
    let seen = tap.collect(Duration::from_millis(300));
    let ours: Vec<_> = seen.iter().filter(|frame| frame.source == mac).collect();
    let arp = |f: &&&tests::frames::Frame| {
        f.ethertype == tests::frames::ARP && f.payload[24..28] == [192, 168, 50, 101]
    };
    assert!(ours.iter().any(|f| arp(&f)), "no gratuitous ARP: {ours:?}");
    // Type 136 behind the IPv6 header of 40 bytes.
    let advertises = ours.iter().any(|f| f.ethertype == 0x86dd && f.payload.get(40) == Some(&136));
    assert!(advertises, "no neighbour advertisement: {ours:?}");
}
