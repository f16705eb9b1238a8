//! Two that want the same address: who gets it, who is told, and what is said to a stranger.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

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

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn an_address_that_somebody_on_the_lan_has_is_not_given_out() {
    let lan = Lan::with(Options { ipv6: true, ..Options::default() });
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for address in ["10.7.0.1/24", "10.7.0.2/24"] {
        lan.router.ns.address(PARENT, address);
    }
    lan.router.ns.ip("address add fd00:7::1/64 dev eth0 nodad");
    daemon.network_with("lan", "--subnet 10.7.0.0/24 --subnet fd00:7::/64 --gateway none");
    let (ns, got) = lan.add(&daemon, "one", "lan");
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
    daemon.network_with("lan", "--subnet 10.7.0.0/16 --gateway none --probe-interval 100");
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
    let mut times = Vec::new();
    for kind in ["macvlan", "veth"] {
        for (name, vlan) in [("ten", 10), ("twenty", 20)] {
            let subnet = format!("10.{vlan}.0.0/24");
            let more = format!("--vlan {vlan} --kind {kind} --subnet {subnet} --gateway none");
            daemons[0].network_with(name, &more);
            daemons[1].network_with(name, &format!("{more} --no-probe"));
        }
        // Host 1 does not ask, and has the first address in VLAN 10.
        let stranger = lan.namespace();
        daemons[1].child_with("stranger", "ten", &stranger, &["--ip", "10.10.0.1"]);
        let began = Instant::now();
        let (_one, got) = lan.add(&daemons[0], "one", "ten");
        assert_eq!(got, ["10.10.0.2"], "{kind}");
        times.push(began.elapsed());
        let (_two, got) = lan.add(&daemons[0], "two", "twenty");
        assert_eq!(got, ["10.20.0.1"], "{kind}: the other VLAN has nothing to do with it");
        for daemon in &daemons {
            for name in ["one", "two", "stranger"] {
                daemon.cli(&["child", "rm", name]);
            }
            daemon.run(&["network", "rm", "ten"]);
            daemon.run(&["network", "rm", "twenty"]);
        }
    }
    // Neither takes longer than the other but for what else this machine does.
    assert!(times.iter().any(|time| *time < patience(Duration::from_secs(2))), "{times:?}");
}

#[test]
fn an_address_is_answered_for_from_the_moment_at_which_it_was_found_free() {
    const CHILDREN: usize = 40;
    const INTERVAL: Duration = Duration::from_millis(250);
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network_with("lan", "--subnet 10.7.0.0/24 --gateway none");
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
                    // It may be the first one for an address that it had left to us before.
                    heard.insert(target, Instant::now());
                    asked.remove(&target);
                } else if frame.payload[7] == 2 {
                    told.insert(sender);
                }
            }
            for (target, since) in &heard {
                if since.elapsed() > INTERVAL + margin && asked.insert(*target) {
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
        daemon.network_with(
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

#[test]
fn a_stranger_who_takes_the_address_of_a_child_is_named_and_told() {
    let lan = Lan::with(Options { ipv6: true, ..Options::default() });
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let (router, stranger) = (Tap::open(&lan.router.ns, PARENT), lan.router.mac);
    for (name, vlan, kind) in [("a", 0, "macvlan"), ("b", 0, "veth"), ("c", 10, "macvlan")] {
        let (v4, v6) = (format!("10.{vlan}.0.9"), format!("fd00:7{vlan}::9"));
        daemon.network_with(name, &format!("--vlan {vlan} --kind {kind}"));
        let ns = lan.namespace();
        let (with4, with6) = (format!("{v4}/24"), format!("{v6}/64"));
        let mac = daemon.child_with(name, name, &ns, &["--ip", &with4, "--ip", &with6]);
        let claims = |ip: &str| {
            let network = daemon.json(&["network", "inspect", name]);
            let leases = network["leases"].as_array().expect("a list").clone();
            let lease = leases.into_iter().find(|l| l["ip"] == ip).expect("the child's");
            (lease["claims"].as_u64().expect("a number"), lease["claimed_by"].clone())
        };
        // What the child itself says, and what is said in another VLAN, is no claim.
        let _ = router.collect(Duration::from_millis(200));
        let v4_address: Ipv4Addr = v4.parse().expect("an address");
        let claim = Frame::arp_request(stranger, v4_address, v4_address, "");
        router.send(&claim.clone().vlan(77));
        let _ = router.collect(Duration::from_millis(200));
        assert_eq!((claims(&v4).0, claims(&v6).0), (0, 0), "{name}");

        let in_vlan = |frame: Frame| if vlan == 0 { frame } else { frame.vlan(vlan) };
        router.send(&in_vlan(claim));
        let defends = |frame: &Frame| {
            frame.source == mac
                && frame.vlan_id() == vlan
                && frame.ethertype == ARP
                && frame.payload[14..18] == v4_address.octets()
                && frame.payload[24..28] == v4_address.octets()
        };
        assert!(router.find(SOON, defends).is_some(), "{name}: its address is announced again");
        let defended = Instant::now();
        eventually("the claim is counted", SOON, || claims(&v4).0 == 1);
        assert_eq!(claims(&v4).1, stranger.to_string().as_str(), "{name}");

        let v6_address: std::net::Ipv6Addr = v6.parse().expect("an address");
        router.send(&in_vlan(Frame::neighbour_advertisement(stranger, v6_address)));
        eventually("the claim is counted", SOON, || claims(&v6).0 == 1);
        // Again, and again: counted, and answered once in ten seconds.
        let _ = router.collect(Duration::from_millis(200));
        for _ in 0..3 {
            router.send(&in_vlan(Frame::arp_request(stranger, v4_address, v4_address, "")));
            std::thread::sleep(patience(Duration::from_millis(50)));
        }
        eventually("all are counted", SOON, || claims(&v4).0 == 4);
        let again = router.find(Duration::from_millis(300), defends).is_some();
        assert!(!again || defended.elapsed() > Duration::from_secs(9), "{name}");
        let log = daemon.log();
        assert!(
            log.contains("somebody else on the LAN says to have the address of a child"),
            "{log}"
        );
        daemon.run(&["child", "rm", name]);
    }
}
