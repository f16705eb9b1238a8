//! Subnets, pools and leases: which addresses children get, and when somebody else gets them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    daemon::Daemon,
    eventually,
    frames::{ARP, Frame},
    netns::Netns,
    patience, slowness,
    tap::Tap,
    topology::{Lan, Options, PARENT},
    traffic::assert_reaches,
};

const SOON: Duration = Duration::from_secs(10);

/// `maclane network create NAME --parent eth0 MORE`.
#[track_caller]
fn create(daemon: &Daemon, name: &str, more: &str) {
    let mut words = vec!["network", "create", name, "--parent", PARENT];
    words.extend(more.split_whitespace());
    daemon.run(&words);
}

/// The addresses of a child, without their prefix lengths.
#[track_caller]
fn addresses(daemon: &Daemon, child: &str) -> Vec<String> {
    let list = daemon.inspect(child)["ip"].as_array().expect("a list").clone();
    let ip = |address: &Value| address.as_str()?.split('/').next().map(String::from);
    list.iter().filter_map(ip).collect()
}

/// Makes a child of a network in a namespace of its own, and says what addresses it got.
#[track_caller]
fn add(lan: &Lan, daemon: &Daemon, name: &str, network: &str) -> (Netns, Vec<String>) {
    let ns = lan.namespace();
    daemon.child_with(name, network, &ns, &[]);
    let got = addresses(daemon, name);
    (ns, got)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_network_as_dockers_macvlan_tutorial_has_it() {
    let lan = Lan::new(1);
    let (host, daemon) = (&lan.hosts[0].ns, Daemon::start(&lan.hosts[0].ns));
    create(
        &daemon,
        "macnet32",
        "--subnet 192.168.32.0/24 --ip-range 192.168.32.128/25 --gateway 192.168.32.254 \
         --aux-address my-router=192.168.32.129",
    );
    lan.router.ns.address(PARENT, "192.168.32.254/24");
    host.address(PARENT, "192.168.32.10/24");
    let (first, got) = add(&lan, &daemon, "first", "macnet32");
    assert_eq!(got, ["192.168.32.128"]);
    // .129 is kept back.
    let (_second, got) = add(&lan, &daemon, "second", "macnet32");
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
    create(&daemon, "both", "--subnet 10.60.0.0/24 --subnet fd00:60::/64 --subnet 10.61.0.0/24");
    let (one, got) = add(&lan, &daemon, "one", "both");
    assert_eq!(got, ["10.60.0.2", "fd00:60::2"]);
    for gateway in ["10.60.0.1", "fd00:60::1", "192.168.50.1"] {
        assert_reaches(&one, ip(gateway));
    }
    let two = lan.namespace();
    daemon.child_with("two", "both", &two, &["--ip", "10.61.0.7", "--ip", "fd00:60::7"]);
    assert_eq!(addresses(&daemon, "two"), ["10.61.0.7", "fd00:60::7"]);
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
    create(
        &daemon,
        "island",
        "--subnet 192.168.50.0/24 --gateway none --ip-range 192.168.50.64/26",
    );
    let (child, got) = add(&lan, &daemon, "one", "island");
    assert_eq!(got, ["192.168.50.64"]);
    assert_eq!(child.run(&["ip", "route", "show", "default"]), "");
    assert_reaches(&child, lan.router.ip);
    assert_reaches(&lan.hosts[0].ns, ip("192.168.50.64"));
}

#[test]
fn an_address_that_is_given_back_is_not_given_out_at_once() {
    let lan = Lan::new(1);
    let mut daemon = Daemon::start(&lan.hosts[0].ns);
    create(&daemon, "lan", "--subnet 10.7.0.0/24 --quarantine 600");
    create(&daemon, "small", "--subnet 10.8.0.0/30 --quarantine 600 --vlan 8");
    create(&daemon, "short", "--subnet 10.9.0.0/24 --quarantine 2 --vlan 9");
    let (_ns, got) = add(&lan, &daemon, "a", "lan");
    assert_eq!(got, ["10.7.0.2"]);
    daemon.run(&["child", "rm", "a"]);
    let (_ns, got) = add(&lan, &daemon, "b", "lan");
    assert_eq!(got, ["10.7.0.3"]);
    // A daemon that is killed and started again still knows.
    daemon.run(&["child", "rm", "b"]);
    daemon.kill9();
    daemon.launch();
    let (ns, got) = add(&lan, &daemon, "c", "lan");
    assert_eq!(got, ["10.7.0.4"]);
    let network = daemon.json(&["network", "inspect", "lan"]);
    let quarantined = network["quarantined"].as_array().expect("a list");
    assert_eq!(quarantined.len(), 2, "{network}");
    // Whoever asks for it by name gets it.
    daemon.child_with("d", "lan", &lan.namespace(), &["--ip", "10.7.0.2"]);
    drop(ns);
    // Where nothing else is left, it is given out.
    let (_ns, got) = add(&lan, &daemon, "s", "small");
    assert_eq!(got, ["10.8.0.2"]);
    daemon.run(&["child", "rm", "s"]);
    let (_ns, got) = add(&lan, &daemon, "t", "small");
    assert_eq!(got, ["10.8.0.2"]);
    let (code, message) =
        daemon.fail(&["child", "add", "u", "--network", "small", "--netns", lan.wire.name()]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("no IPv4 address left"), "{message}");
    // And when its time is over.
    let (_ns, got) = add(&lan, &daemon, "x", "short");
    assert_eq!(got, ["10.9.0.2"]);
    daemon.run(&["child", "rm", "x"]);
    let released = Instant::now();
    eventually("the quarantine ends", SOON, || {
        let network = daemon.json(&["network", "inspect", "short"]);
        network["quarantined"] == Value::Array(Vec::new())
    });
    assert!(released.elapsed() > Duration::from_millis(900));
    let (_ns, got) = add(&lan, &daemon, "y", "short");
    assert_eq!(got, ["10.9.0.2"]);
}

#[test]
fn children_come_and_go_at_once_and_no_address_is_given_twice() {
    // One that is slow gets to the end of as many in a minute, too.
    let (workers, seconds) = if slowness() == 1 { (100, 60) } else { (8, 30) };
    const LASTING: usize = 5;
    let lan = Lan::new(1);
    let mut daemon = Daemon::start(&lan.hosts[0].ns);
    create(&daemon, "lan", "--subnet 10.7.0.0/16 --quarantine 0");
    let spaces: Vec<Netns> = (0..workers).map(|_| lan.namespace()).collect();
    let until = Instant::now() + Duration::from_secs(seconds);
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
    create(&daemon, "lan", "--subnet 192.168.50.0/24 --aux-address nas=192.168.50.9");
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
    create(&daemon, "other", "--vlan 9 --subnet 192.168.50.0/24");
}

#[test]
fn an_address_that_somebody_on_the_lan_has_is_not_given_out() {
    let lan = Lan::with(Options { ipv6: true, ..Options::default() });
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for address in ["10.7.0.1/24", "10.7.0.2/24"] {
        lan.router.ns.address(PARENT, address);
    }
    lan.router.ns.ip("address add fd00:7::1/64 dev eth0 nodad");
    create(&daemon, "lan", "--subnet 10.7.0.0/24 --subnet fd00:7::/64 --gateway none");
    let (ns, got) = add(&lan, &daemon, "one", "lan");
    assert_eq!(got, ["10.7.0.3", "fd00:7::2"]);
    assert_reaches(&ns, ip("10.7.0.1"));
    assert_reaches(&ns, ip("fd00:7::1"));
    let network = daemon.json(&["network", "inspect", "lan"]);
    let conflicts = network["conflicts"].as_array().expect("a list");
    assert_eq!(conflicts.len(), 3, "{network}");
    let router = lan.router.mac.to_string();
    assert!(conflicts.iter().all(|conflict| conflict["mac"] == router.as_str()), "{network}");
    // Asked for by name: who has it is in the error, and nothing is left of the attempt.
    let netns = lan.namespace();
    for asked in ["10.7.0.2", "fd00:7::1"] {
        let base = ["child", "add", "two", "--network", "lan", "--netns", netns.name()];
        let (code, message) = daemon.fail(&[&base[..], &["--ip", asked]].concat());
        assert_eq!(code, 1, "{message}");
        assert!(
            message.contains(&format!("{asked} is already used on the LAN by {router}")),
            "{message}"
        );
    }
    assert!(!netns.has("eth0"));
    // Whoever does not ask is not told.
    daemon.child_with("two", "lan", &netns, &["--ip", "10.7.0.2", "--no-probe"]);
}

#[test]
fn a_machine_that_answers_for_every_address_is_named() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    create(&daemon, "lan", "--subnet 10.7.0.0/16 --gateway none --probe-interval 100");
    let (router, own) = (Tap::open(&lan.router.ns, PARENT), lan.router.mac);
    let goes_on = AtomicBool::new(true);
    let answer = || {
        while goes_on.load(Ordering::Relaxed) {
            let Some(frame) = router.next(Instant::now() + Duration::from_millis(20)) else {
                continue;
            };
            if frame.ethertype == ARP && frame.payload[7] == 1 {
                let (asker, target) = (&frame.payload[8..18], &frame.payload[24..28]);
                let payload = [&[0, 1, 8, 0, 6, 4, 0, 2], &own.0[..], target, asker].concat();
                router.send(&Frame { destination: frame.source, source: own, payload, ..frame });
            }
        }
    };
    let ns = lan.namespace();
    let base = ["child", "add", "one", "--network", "lan", "--netns", ns.name()];
    let (code, message) = std::thread::scope(|scope| {
        scope.spawn(answer);
        let failed = daemon.fail(&base);
        goes_on.store(false, Ordering::Relaxed);
        failed
    });
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("64 addresses in a row are used by others"), "{message}");
    assert!(message.contains(&lan.router.mac.to_string()), "{message}");
    assert!(message.contains("proxy ARP") && !ns.has("eth0"), "{message}");
    daemon.run(&[&base[..], &["--no-probe"]].concat());
}

#[test]
fn an_address_is_asked_for_in_its_own_vlan_and_in_less_than_a_second() {
    let lan = Lan::new(2);
    let daemons: Vec<Daemon> = lan.hosts.iter().map(|host| Daemon::start(&host.ns)).collect();
    for kind in ["macvlan", "veth"] {
        for (name, vlan) in [("ten", 10), ("twenty", 20)] {
            let subnet = format!("10.{vlan}.0.0/24");
            let more = format!("--vlan {vlan} --kind {kind} --subnet {subnet} --gateway none");
            create(&daemons[0], name, &more);
            create(&daemons[1], name, &format!("{more} --no-probe"));
        }
        // Host 1 does not ask, and has the first address in VLAN 10.
        let stranger = lan.namespace();
        daemons[1].child_with("stranger", "ten", &stranger, &["--ip", "10.10.0.1"]);
        let began = Instant::now();
        let (_one, got) = add(&lan, &daemons[0], "one", "ten");
        assert_eq!(got, ["10.10.0.2"], "{kind}");
        assert!(began.elapsed() < patience(Duration::from_secs(2)), "{:?}", began.elapsed());
        let (_two, got) = add(&lan, &daemons[0], "two", "twenty");
        assert_eq!(got, ["10.20.0.1"], "{kind}: the other VLAN has nothing to do with it");
        for daemon in &daemons {
            for name in ["one", "two", "stranger"] {
                daemon.cli(&["child", "rm", name]);
            }
            daemon.run(&["network", "rm", "ten"]);
            daemon.run(&["network", "rm", "twenty"]);
        }
    }
}

#[test]
fn an_address_is_answered_for_from_the_moment_at_which_it_was_found_free() {
    const CHILDREN: usize = 40;
    const INTERVAL: Duration = Duration::from_millis(250);
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    create(&daemon, "lan", "--subnet 10.7.0.0/24 --gateway none");
    let (host, own) = (lan.hosts[0].mac, lan.router.mac);
    let tap = Tap::open(&lan.router.ns, PARENT);
    let address = |bytes: &[u8]| Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]);
    let spaces: Vec<Netns> = (0..CHILDREN).map(|_| lan.namespace()).collect();
    let (daemon, margin) = (&daemon, patience(Duration::from_millis(20)));
    // Their links are made one after the other: the last ones have none for some time.
    let (mut heard, mut asked, mut told) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    std::thread::scope(|scope| {
        let adding: Vec<_> = (spaces.iter().enumerate())
            .map(|(number, ns)| {
                scope.spawn(move || daemon.child_with(&format!("c{number}"), "lan", ns, &[]))
            })
            .collect();
        let mut until = None;
        while until.is_none_or(|until| Instant::now() < until) {
            if until.is_none() && adding.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                until = Some(Instant::now() + patience(Duration::from_secs(1)));
            }
            if let Some(frame) = tap.next(Instant::now() + Duration::from_millis(5))
                && frame.ethertype == ARP
            {
                let sender = address(&frame.payload[14..18]);
                let target = address(&frame.payload[24..28]);
                if frame.source == host && sender.is_unspecified() {
                    heard.entry(target).or_insert_with(Instant::now);
                } else if frame.payload[7] == 2 {
                    told.insert(sender);
                }
            }
            for (target, since) in &heard {
                if since.elapsed() > 3 * INTERVAL + margin && asked.insert(*target) {
                    tap.send(&Frame::arp_request(own, Ipv4Addr::UNSPECIFIED, *target, ""));
                }
            }
        }
    });
    let network = daemon.json(&["network", "inspect", "lan"]);
    let given = network["leases"].as_array().expect("a list").iter();
    let leased: BTreeSet<Ipv4Addr> =
        given.filter_map(|lease| lease["ip"].as_str()?.parse().ok()).collect();
    // What the daemon asked for at the same moment it left to us.
    assert_eq!(leased.len(), CHILDREN);
    let asked: BTreeSet<_> = asked.intersection(&leased).collect();
    assert!(!asked.is_empty(), "{network}");
    let silent: Vec<_> = asked.into_iter().filter(|ip| !told.contains(*ip)).collect();
    assert!(silent.is_empty(), "nobody answers for {silent:?}");
}

#[test]
fn two_hosts_with_the_same_range_give_no_address_twice() {
    const WORKERS: usize = 10;
    let each = if slowness() == 1 { 20 } else { 3 };
    let lan = Lan::new(2);
    let daemons: Vec<Daemon> = lan.hosts.iter().map(|host| Daemon::start(&host.ns)).collect();
    for daemon in &daemons {
        let interval = 250 * slowness();
        create(
            daemon,
            "lan",
            &format!("--subnet 10.7.0.0/23 --gateway none --probe-interval {interval}"),
        );
    }
    let spaces: Vec<Vec<Netns>> =
        daemons.iter().map(|_| (0..WORKERS).map(|_| lan.namespace()).collect()).collect();
    std::thread::scope(|scope| {
        for (daemon, spaces) in daemons.iter().zip(&spaces) {
            for (worker, ns) in spaces.iter().enumerate() {
                scope.spawn(move || {
                    for number in 0..each {
                        let ifname = format!("e{number}");
                        let name = format!("c{worker}-{number}");
                        daemon.child_with(&name, "lan", ns, &["--ifname", &ifname]);
                    }
                });
            }
        }
    });
    let mut seen = BTreeSet::new();
    for daemon in &daemons {
        let network = daemon.json(&["network", "inspect", "lan"]);
        for lease in network["leases"].as_array().expect("a list") {
            let ip = lease["ip"].as_str().expect("an address").to_owned();
            assert!(seen.insert(ip.clone()), "{ip} was given out twice");
        }
    }
    assert_eq!(seen.len(), 2 * WORKERS * each);
}
