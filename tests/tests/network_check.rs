//! `maclane network check`: what does not agree is found and named, and nothing else.

use serde_json::Value;
use tests::{
    daemon::Daemon,
    frames::Frame,
    netns::Netns,
    tap::Tap,
    topology::{Lan, PARENT},
};

/// What is found of a network, and that the exit status says so.
#[track_caller]
fn check(daemon: &Daemon, network: &str) -> Vec<String> {
    let output = daemon.cli(&["-o", "json", "network", "check", network]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = found.as_array().expect("a list");
    assert_eq!(output.status.success(), found.is_empty(), "{found:?}");
    found.iter().map(|f| f["finding"].as_str().expect("a text").to_owned()).collect()
}

/// One finding, in which each of these words is.
#[track_caller]
fn only(found: &[String], words: &[&str]) {
    let [one] = found else { panic!("not one finding: {found:#?}") };
    for word in words {
        assert!(one.contains(word), "no {word:?} in {one:?}");
    }
}

#[test]
fn a_network_check_finds_what_does_not_agree_and_nothing_else() {
    let lan = Lan::new(1);
    let (host, daemon) = (&lan.hosts[0].ns, Daemon::start(&lan.hosts[0].ns));
    lan.router.ns.address(PARENT, "10.7.0.1/24");
    daemon.network_with("lan", "--subnet 10.7.0.0/24");
    daemon.network_with("vms", "--subnet 10.8.0.0/24 --kind veth --gateway none");
    let (a, _) = lan.add(&daemon, "a", "lan");
    let (_b, _) = lan.add(&daemon, "b", "lan");
    let (vm, _) = lan.add(&daemon, "vm", "vms");
    assert_eq!(check(&daemon, "lan"), [""; 0]);
    assert_eq!(check(&daemon, "vms"), [""; 0]);

    // A gateway that does not answer.
    lan.router.ns.ip("link set eth0 down");
    only(&check(&daemon, "lan"), &["the gateway 10.7.0.1 does not answer"]);
    assert_eq!(check(&daemon, "vms"), [""; 0]);
    lan.router.ns.ip("link set eth0 up");
    assert_eq!(check(&daemon, "lan"), [""; 0]);

    // A lease whose address somebody took off the link, and an address that nobody gave.
    a.ip("address add 10.7.0.77/24 dev eth0");
    only(&check(&daemon, "lan"), &["child a", "10.7.0.77 without a lease"]);
    a.ip("address del 10.7.0.2/24 dev eth0");
    let found = check(&daemon, "lan");
    assert!(found.iter().any(|text| text.contains("child a has a lease of 10.7.0.2")), "{found:?}");
    a.ip("address flush dev eth0");
    a.ip("address add 10.7.0.2/24 dev eth0");
    assert_eq!(check(&daemon, "lan"), [""; 0]);

    // A macvlan child that somebody else made.
    let foreign = Netns::without_ipv6();
    host.run(&["ip", "link", "add", "mv", "link", PARENT, "type", "macvlan", "mode", "bridge"]);
    host.run(&["ip", "link", "set", "mv", "netns", foreign.name()]);
    foreign.ip("address add 10.7.0.55/24 dev mv");
    foreign.ip("link set mv up");
    tests::eventually("it is adopted", std::time::Duration::from_secs(10), || {
        daemon.json(&["child", "ls"]).to_string().contains("\"mv\"")
    });
    only(&check(&daemon, "lan"), &["mv in", "10.7.0.55/24 without a lease"]);
    foreign.ip("link del mv");

    // The host routes a subnet elsewhere.
    host.run(&["ip", "link", "add", "elsewhere", "type", "veth", "peer", "name", "peer"]);
    host.ip("link set elsewhere up");
    host.ip("link set peer up");
    host.ip("route add 10.8.0.0/25 dev elsewhere");
    only(
        &check(&daemon, "vms"),
        &["routes 10.8.0.0/25 through elsewhere", "10.8.0.0/24", "ip route"],
    );
    host.ip("route del 10.8.0.0/25 dev elsewhere");

    // A stranger who has the address of a child.
    let stranger = Tap::open(&lan.router.ns, PARENT);
    let taken = std::net::Ipv4Addr::new(10, 8, 0, 1);
    stranger.send(&Frame::arp_request(lan.router.mac, taken, taken, ""));
    tests::eventually("it is found", std::time::Duration::from_secs(10), || {
        !check(&daemon, "vms").is_empty()
    });
    let mac = lan.router.mac.to_string();
    only(&check(&daemon, "vms"), &[&mac, "10.8.0.1", "child vm"]);

    // A child whose namespace is gone.
    drop(vm);
    tests::eventually("the link is gone", std::time::Duration::from_secs(10), || {
        daemon.inspect("vm")["state"] != "up"
    });
    let found = check(&daemon, "vms");
    assert!(found.iter().any(|t| t.contains("child vm has 10.8.0.1 and no link")), "{found:?}");
    let all = daemon.cli(&["network", "check"]);
    let printed = String::from_utf8_lossy(&all.stdout).into_owned();
    assert!(printed.contains("NETWORK") && printed.contains("child vm"), "{printed}");
}
