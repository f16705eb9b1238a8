//! Subnets, pools and leases: which addresses children get, and when somebody else gets them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    daemon::Daemon,
    eventually,
    length::{CHURN_SECONDS, CHURN_WORKERS},
    netns::Netns,
    topology::{Lan, Options, PARENT},
    traffic::{assert_does_not_reach, assert_reaches},
};

const SOON: Duration = Duration::from_secs(10);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_network_as_dockers_macvlan_tutorial_has_it() {
    let lan = Lan::new(1);
    let (host, daemon) = (&lan.hosts[0].ns, Daemon::start(&lan.hosts[0].ns));
    daemon.network_with(
        "macnet32",
        "--subnet 192.168.32.0/24 --ip-range 192.168.32.128/25 --gateway 192.168.32.254 \
         --aux-address my-router=192.168.32.129",
    );
    lan.router.ns.address(PARENT, "192.168.32.254/24");
    host.address(PARENT, "192.168.32.10/24");
    let (first, got) = lan.add(&daemon, "first", "macnet32");
    assert_eq!(got, ["192.168.32.128"]);
    // .129 is kept back.
    let (_second, got) = lan.add(&daemon, "second", "macnet32");
    assert_eq!(got, ["192.168.32.130"]);
    assert_reaches(host, ip("192.168.32.128"));
    assert_reaches(&first, ip("192.168.32.130"));
    // The gateway, and what is behind it.
    assert_reaches(&first, ip("192.168.32.254"));
    assert_reaches(&first, ip("192.168.50.1"));
    let route = first.run(&["ip", "route", "show", "default"]);
    assert!(route.contains("via 192.168.32.254"), "{route}");
    // One that is asked for may be anywhere in the subnet, with its prefix length or without.
    let third = lan.namespace();
    daemon.child_with("third", "macnet32", &third, &["--ip", "192.168.32.9"]);
    assert_reaches(&third, ip("192.168.32.128"));
    assert_eq!(daemon.inspect("third")["ip"][0], "192.168.32.9/24");
    let network = daemon.json(&["network", "inspect", "macnet32"]);
    let pool = &network["pools"][0];
    assert_eq!(pool["gateway"], "192.168.32.254", "{network}");
    assert_eq!((&pool["size"], &pool["leased"]), (&"127".into(), &3.into()), "{network}");
    assert_eq!(network["leases"][0]["ip"], "192.168.32.9", "{network}");
    assert_eq!(network["leases"][0]["child"], "third", "{network}");
}

#[test]
fn two_families_and_several_subnets() {
    let lan = Lan::with(Options { ipv6: true, ..Options::default() });
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for address in ["10.60.0.1/24", "10.61.0.1/24"] {
        lan.router.ns.address(PARENT, address);
    }
    lan.router.ns.ip("address add fd00:60::1/64 dev eth0 nodad");
    daemon
        .network_with("both", "--subnet 10.60.0.0/24 --subnet fd00:60::/64 --subnet 10.61.0.0/24");
    let (one, got) = lan.add(&daemon, "one", "both");
    assert_eq!(got, ["10.60.0.2", "fd00:60::2"]);
    for gateway in ["10.60.0.1", "fd00:60::1", "192.168.50.1"] {
        assert_reaches(&one, ip(gateway));
    }
    let two = lan.namespace();
    daemon.child_with("two", "both", &two, &["--ip", "10.61.0.7", "--ip", "fd00:60::7"]);
    assert_eq!(daemon.addresses("two"), ["10.61.0.7", "fd00:60::7"]);
    assert_reaches(&two, ip("10.61.0.1"));
    assert_reaches(&two, ip("fd00:60::2"));
    // Routed by the router, which has both subnets.
    lan.router.ns.sysctl("net/ipv4/ip_forward", "1");
    assert_reaches(&two, ip("10.60.0.2"));
    // Its own default route goes before that through the gateway.
    let three = lan.namespace();
    daemon.child_with("three", "both", &three, &["--route", "default=10.60.0.2"]);
    let route = three.run(&["ip", "route", "show", "default"]);
    assert!(route.contains("via 10.60.0.2") && !route.contains("10.60.0.1 "), "{route}");
}

#[test]
fn without_a_gateway_there_is_no_default_route() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network_with(
        "island",
        "--subnet 192.168.50.0/24 --gateway none --ip-range 192.168.50.64/26",
    );
    let (child, got) = lan.add(&daemon, "one", "island");
    assert_eq!(got, ["192.168.50.64"]);
    assert_eq!(child.run(&["ip", "route", "show", "default"]), "");
    assert_reaches(&child, lan.router.ip);
    assert_reaches(&lan.hosts[0].ns, ip("192.168.50.64"));
}

#[test]
fn an_address_that_is_given_back_is_not_given_out_at_once() {
    let lan = Lan::new(1);
    let mut daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network_with("lan", "--subnet 10.7.0.0/24 --quarantine 600");
    daemon.network_with("small", "--subnet 10.8.0.0/30 --quarantine 600 --vlan 8");
    daemon.network_with("short", "--subnet 10.9.0.0/24 --quarantine 2 --vlan 9");
    let (_ns, got) = lan.add(&daemon, "a", "lan");
    assert_eq!(got, ["10.7.0.2"]);
    daemon.run(&["child", "rm", "a"]);
    let (_ns, got) = lan.add(&daemon, "b", "lan");
    assert_eq!(got, ["10.7.0.3"]);
    // A daemon that is killed and started again still knows.
    daemon.run(&["child", "rm", "b"]);
    daemon.kill9();
    daemon.launch();
    let (ns, got) = lan.add(&daemon, "c", "lan");
    assert_eq!(got, ["10.7.0.4"]);
    let network = daemon.json(&["network", "inspect", "lan"]);
    let quarantined = network["quarantined"].as_array().expect("a list");
    assert_eq!(quarantined.len(), 2, "{network}");
    // Whoever asks for it by name gets it.
    daemon.child_with("d", "lan", &lan.namespace(), &["--ip", "10.7.0.2"]);
    drop(ns);
    // Where nothing else is left, it is given out.
    let (_ns, got) = lan.add(&daemon, "s", "small");
    assert_eq!(got, ["10.8.0.2"]);
    daemon.run(&["child", "rm", "s"]);
    let (_ns, got) = lan.add(&daemon, "t", "small");
    assert_eq!(got, ["10.8.0.2"]);
    let (code, message) =
        daemon.fail(&["child", "add", "u", "--network", "small", "--netns", lan.wire.name()]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("no IPv4 address left"), "{message}");
    // And when its time is over.
    let (_ns, got) = lan.add(&daemon, "x", "short");
    assert_eq!(got, ["10.9.0.2"]);
    daemon.run(&["child", "rm", "x"]);
    let released = Instant::now();
    eventually("the quarantine ends", SOON, || {
        let network = daemon.json(&["network", "inspect", "short"]);
        network["quarantined"] == Value::Array(Vec::new())
    });
    assert!(released.elapsed() > Duration::from_millis(900));
    let (_ns, got) = lan.add(&daemon, "y", "short");
    assert_eq!(got, ["10.9.0.2"]);
}

#[test]
fn children_come_and_go_at_once_and_no_address_is_given_twice() {
    const LASTING: usize = 5;
    let workers = CHURN_WORKERS.get() as usize;
    let lan = Lan::new(1);
    let mut daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network_with("lan", "--subnet 10.7.0.0/16 --quarantine 0");
    let spaces: Vec<Netns> = (0..workers).map(|_| lan.namespace()).collect();
    let until = Instant::now() + Duration::from_secs(CHURN_SECONDS.get().into());
    std::thread::scope(|scope| {
        for (worker, ns) in spaces.iter().enumerate() {
            let daemon = &daemon;
            scope.spawn(move || {
                let mut rounds = 0;
                while Instant::now() < until {
                    let (brief, lasting) = (format!("b{worker}"), format!("k{worker}-{rounds}"));
                    daemon.child_with(&brief, "lan", ns, &["--ifname", "brief"]);
                    if rounds < LASTING {
                        let ifname = format!("k{rounds}");
                        daemon.child_with(&lasting, "lan", ns, &["--ifname", &ifname]);
                    }
                    daemon.run(&["child", "rm", &brief]);
                    rounds += 1;
                }
                assert!(rounds > 1, "worker {worker} did next to nothing");
            });
        }
    });
    let before = daemon.json(&["child", "ls"]);
    agree(&daemon, &spaces, workers);
    // What the store holds is the same.
    daemon.kill9();
    daemon.launch();
    assert_eq!(daemon.json(&["child", "ls"]), before);
    agree(&daemon, &spaces, workers);
}

/// Children, leases, links and the forwarding table agree, and the lowest addresses are in use: no
/// more than `spare` of them are not.
#[track_caller]
fn agree(daemon: &Daemon, spaces: &[Netns], spare: usize) {
    let children = daemon.json(&["child", "ls"]);
    let children = children.as_array().expect("a list");
    let network = daemon.json(&["network", "inspect", "lan"]);
    let leases: BTreeSet<String> = network["leases"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|lease| lease["ip"].as_str().expect("an address").to_owned())
        .collect();
    assert_eq!(leases.len(), children.len(), "each child has one of its own: {network}");
    // Links, leases and the forwarding table agree.
    let mut on_links = BTreeSet::new();
    for ns in spaces {
        let list: Value =
            serde_json::from_str(&ns.run(&["ip", "-j", "-4", "address"])).expect("ip speaks JSON");
        for link in list.as_array().expect("a list").iter().filter(|l| l["ifname"] != "lo") {
            let local = link["addr_info"][0]["local"].as_str().expect("an address");
            assert!(on_links.insert(local.to_owned()), "{local} is there twice");
        }
    }
    assert_eq!(on_links, leases);
    let macs = |list: &Value, of: &str| -> BTreeSet<String> {
        let list = list.as_array().expect("a list").iter().filter(|entry| entry["kind"] == of);
        list.map(|entry| entry["mac"].as_str().expect("a MAC").to_owned()).collect()
    };
    let (children, fdb) = (daemon.json(&["child", "ls"]), daemon.json(&["fdb", "ls"]));
    assert_eq!(macs(&fdb, "macvlan"), macs(&children, "macvlan"));
    let highest = leases.iter().map(|ip| ip.parse::<Ipv4Addr>().expect("IPv4")).max();
    let room = u32::from(Ipv4Addr::new(10, 7, 0, 2)) as usize + leases.len() + spare;
    assert!(u32::from(highest.expect("one")) as usize <= room, "{highest:?} of {}", leases.len());
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network_with("lan", "--subnet 192.168.50.0/24 --aux-address nas=192.168.50.9");
    let ns = lan.namespace();
    daemon.child_with("web", "lan", &ns, &["--ip", "192.168.50.101"]);
    let before = (daemon.json(&["network", "ls"]), daemon.json(&["child", "ls"]));
    for (arguments, words) in [
        ("--subnet 192.168.50.128/25", "overlaps with 192.168.50.0/24 of network lan"),
        ("--subnet 10.0.0.0/8 --subnet 10.1.0.0/16", "overlap"),
        ("--subnet 10.0.0.9/24", "write 10.0.0.0/24"),
        ("--subnet 10.0.0.0", "not a subnet"),
        ("--subnet 10.0.0.0/24 --gateway 10.0.1.1", "in no --subnet"),
        ("--subnet 10.0.0.0/24 --gateway fd00::1", "in no --subnet"),
        ("--subnet 10.0.0.0/24 --gateway 10.0.0.255", "broadcast"),
        ("--subnet 10.0.0.0/24 --gateway 10.0.0.1 --gateway 10.0.0.2", "leave one of them out"),
        ("--subnet 10.0.0.0/24 --ip-range 10.0.1.0/25", "in no --subnet"),
        ("--subnet 10.0.0.0/24 --ip-range 10.0.0.0/16", "not inside of 10.0.0.0/24"),
        ("--subnet 10.0.0.0/24 --aux-address x=10.0.1.9", "in no subnet"),
        ("--subnet 10.0.0.0/24 --aux-address 10.0.0.9", "NAME=IP"),
        ("--gateway 10.0.0.1", "in no --subnet"),
    ] {
        let mut words_of = vec!["network", "create", "new", "--parent", PARENT];
        words_of.extend(arguments.split(' '));
        let (code, message) = daemon.fail(&words_of);
        assert!(matches!(code, 1 | 2), "{arguments}: {code}: {message}");
        assert!(message.contains(words), "{arguments}: {message}");
    }
    for (asked, words) in [
        ("192.168.50.101", "already used by child \"web\" (network lan)"),
        ("192.168.50.1", "the gateway"),
        ("192.168.50.9", "\"nas\""),
        ("192.168.50.0", "the address of 192.168.50.0/24 itself"),
        ("192.168.50.255", "broadcast"),
        ("192.168.51.7", "is not in 192.168.50.0/24"),
        ("192.168.50.7/16", "192.168.50.7/24"),
        ("fd00::7", "write it, as in fd00::7/64"),
    ] {
        let base = ["child", "add", "new", "--network", "lan", "--netns", ns.name()];
        let (_, message) = daemon.fail(&[&base[..], &["--ifname", "x", "--ip", asked]].concat());
        assert!(message.contains(words), "{asked}: {message}");
    }
    assert_eq!((daemon.json(&["network", "ls"]), daemon.json(&["child", "ls"])), before);
    // The same subnet in another VLAN is another network's.
    daemon.network_with("other", "--vlan 9 --subnet 192.168.50.0/24");
}

#[test]
fn the_addresses_of_the_host_are_not_given_out() {
    let lan = Lan::new(1);
    let (host, daemon) = (&lan.hosts[0].ns, Daemon::start(&lan.hosts[0].ns));
    for (kind, net) in [("macvlan", "10.7.0"), ("veth", "10.8.0")] {
        for last in [1, 3] {
            host.address(PARENT, &format!("{net}.{last}/24"));
        }
        daemon.network_with(kind, &format!("--kind {kind} --subnet {net}.0/24 --gateway none"));
        for last in [2, 4] {
            let (ns, got) = lan.add(&daemon, &format!("{kind}{last}"), kind);
            assert_eq!(got, [format!("{net}.{last}")]);
            assert_reaches(&ns, ip(&format!("{net}.1")));
        }
        let (ns, taken) = (lan.namespace(), format!("{net}.3"));
        let base = ["child", "add", "more", "--network", kind, "--netns", ns.name()];
        let (code, message) = daemon.fail(&[&base[..], &["--ip", &taken]].concat());
        assert_eq!(code, 1, "{message}");
        let words = format!("{taken} is already used by the host itself");
        assert!(message.contains(&words) && !ns.has("eth0"), "{message}");
    }
}

#[test]
fn a_subnet_that_the_host_routes_elsewhere_is_refused() {
    let lan = Lan::new(1);
    let (host, daemon) = (&lan.hosts[0].ns, Daemon::start(&lan.hosts[0].ns));
    host.run(&["ip", "link", "add", "elsewhere", "type", "veth", "peer", "name", "peer"]);
    host.ip("link set elsewhere up");
    host.ip("link set peer up");
    host.ip("route add 10.0.0.0/8 dev elsewhere");
    let base = ["network", "create", "lan", "--parent", PARENT, "--subnet", "10.7.0.0/24"];
    let refused = |routed: &str| {
        let (code, message) = daemon.fail(&base);
        assert_eq!(code, 1, "{message}");
        let words = format!("the host routes {routed} through elsewhere");
        assert!(message.contains(&words) && message.contains("ip route add"), "{message}");
        assert_eq!(daemon.json(&["network", "ls"]).as_array().map(Vec::len), Some(0));
        assert_eq!(daemon.json(&["parent", "ls"]).as_array().map(Vec::len), Some(0), "{message}");
    };
    refused("10.0.0.0/8");
    // The way out that the message names.
    host.ip("route add 10.7.0.0/24 dev eth0");
    host.ip("route add 10.7.0.128/25 dev elsewhere");
    refused("10.7.0.128/25");
    host.ip("route del 10.7.0.128/25 dev elsewhere");
    daemon.run(&base);
    // A shim on the parent leads to the same wire; the default route says nothing.
    host.run(&["ip", "link", "add", "shim", "link", PARENT, "type", "macvlan", "mode", "bridge"]);
    host.ip("link set shim up");
    host.ip("route add 10.9.0.0/24 dev shim");
    host.ip("route add default dev elsewhere");
    daemon.network_with("shimmed", "--subnet 10.9.0.0/24");
    daemon.network_with("far", "--subnet 172.31.0.0/24");
}

#[test]
fn two_hosts_share_a_network_with_the_range_split() {
    let lan = Lan::new(2);
    let daemons: Vec<Daemon> = lan.hosts.iter().map(|host| Daemon::start(&host.ns)).collect();
    let mut children = Vec::new();
    for (daemon, range) in daemons.iter().zip(["192.168.50.64/26", "192.168.50.128/26"]) {
        let more = format!("--subnet 192.168.50.0/24 --gateway 192.168.50.1 --ip-range {range}");
        daemon.network_with("lan", &more);
        for name in ["one", "two"] {
            children.push(lan.add(daemon, name, "lan"));
        }
    }
    let got: Vec<&str> = children.iter().map(|(_, got)| got[0].as_str()).collect();
    assert_eq!(got, ["192.168.50.64", "192.168.50.65", "192.168.50.128", "192.168.50.129"]);
    for (ns, own) in &children {
        for other in got.iter().filter(|ip| **ip != own[0]) {
            assert_reaches(ns, ip(other));
        }
        assert_reaches(ns, lan.router.ip);
    }
}

#[test]
fn a_trunk_carries_two_vlans_with_their_subnets_between_two_hosts() {
    let lan = Lan::new(2);
    let daemons: Vec<Daemon> = lan.hosts.iter().map(|host| Daemon::start(&host.ns)).collect();
    let mut children = Vec::new();
    for (number, daemon) in daemons.iter().enumerate() {
        let kind = ["macvlan", "veth"][number];
        for vlan in [50, 60] {
            let range = 64 * (number + 1);
            let more = format!(
                "--vlan {vlan} --kind {kind} --subnet 10.{vlan}.0.0/24 --ip-range 10.{vlan}.0.{range}/26 --gateway none"
            );
            daemon.network_with(&format!("vlan{vlan}"), &more);
            let (ns, got) = lan.add(daemon, &format!("child{vlan}"), &format!("vlan{vlan}"));
            assert_eq!(got, [format!("10.{vlan}.0.{range}")]);
            children.push(ns);
        }
    }
    let [a50, a60, b50, b60] = &children[..] else { panic!("four children") };
    assert_reaches(a50, ip("10.50.0.128"));
    assert_reaches(b50, ip("10.50.0.64"));
    assert_reaches(a60, ip("10.60.0.128"));
    assert_reaches(b60, ip("10.60.0.64"));
    // With a way to the other subnet on the link, the VLAN is what keeps them apart.
    for (ns, other) in [(a50, "10.60.0"), (b60, "10.50.0")] {
        ns.ip(&format!("route add {other}.0/24 dev eth0"));
        for last in [64, 128] {
            assert_does_not_reach(ns, ip(&format!("{other}.{last}")));
        }
    }
}

#[test]
fn what_does_not_exist_is_said_so() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for words in [
        &["child", "rm", "nobody"][..],
        &["child", "inspect", "nobody"],
        &["network", "inspect", "nowhere"],
        &["network", "check", "nowhere"],
        &["network", "rm", "nowhere"],
    ] {
        let (code, message) = daemon.fail(words);
        assert_eq!(code, 3, "{words:?}: {message}");
        let [.., name] = words else { unreachable!("not empty") };
        assert!(message.contains(name) && message.contains("ls`"), "{words:?}: {message}");
    }
}
