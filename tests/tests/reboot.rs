//! After a reboot children are what they were, and what never comes back is given back.

use std::{
    fs,
    net::IpAddr,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tests::{
    daemon::Daemon,
    eventually,
    netns::Netns,
    patience,
    topology::{Lan, Options, PARENT},
    traffic::{assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(15);
const OFTEN: Duration = Duration::from_millis(10);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What has to be the same after a reboot.
fn identities(daemon: &Daemon) -> Vec<Value> {
    let children = daemon.json(&["child", "ls"]);
    let keep = ["name", "network", "mac", "ip", "netns", "ifname", "port", "mtu", "kind"];
    let identity = |child: &Value| keep.iter().map(|key| child[key].clone()).collect();
    children.as_array().expect("a list").iter().map(identity).collect()
}

/// The default routes of a namespace.
fn routes(ns: &Netns) -> [String; 2] {
    ["-4", "-6"].map(|family| ns.ip(&format!("{family} route show default")).trim().to_owned())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// As many seconds as these are on this machine, as an argument.
fn seconds(seconds: u64) -> String {
    patience(Duration::from_secs(seconds)).as_secs().to_string()
}

/// `maclane network create NAME --parent eth0 MORE`.
#[track_caller]
fn create(daemon: &Daemon, name: &str, more: &str) {
    let mut words = vec!["network", "create", name, "--parent", PARENT];
    words.extend(more.split_whitespace());
    daemon.run(&words);
}

/// Nobody has an interface, a program or a namespace any more; on the disk is what was there.
#[track_caller]
fn lose_everything(daemon: &mut Daemon, host: &Netns, children: &[Netns]) {
    daemon.kill9();
    children.iter().for_each(Netns::delete_all);
    host.delete(PARENT);
    eventually("the links have gone with their namespaces", SOON, || {
        !host.ip("-br link").contains("ml-")
    });
    fs::remove_dir_all(daemon.bpffs().join("maclane")).expect("there are pins");
    fs::remove_dir_all(daemon.runtime_dir()).expect("there is a socket");
}

/// The parent's NIC again: its name, MAC and addresses, and another index.
#[track_caller]
fn bring_parent_back(lan: &Lan, before: u32) {
    let host = &lan.hosts[0];
    host.ns.veth("spare0", &lan.wire, "spare1");
    host.ns.veth(PARENT, &lan.wire, "again");
    host.ns.set_mac(PARENT, host.mac);
    lan.wire.enslave("again", "wire");
    host.ns.address(PARENT, &format!("{}/24", host.ip));
    host.ns.address(PARENT, &format!("{}/64", host.ip6));
    assert_ne!(host.ns.ifindex(PARENT), before);
}

#[test]
fn after_a_reboot_children_have_their_addresses_macs_and_routes() {
    let lan = Lan::with(Options { hosts: 2, ipv6: true, ..Options::default() });
    let host = &lan.hosts[0].ns;
    // In VLAN 10, the other host has the gateway.
    let other = Daemon::start(&lan.hosts[1].ns);
    create(&other, "ten", "--vlan 10");
    let gateway = lan.namespace();
    other.child_with("gw", "ten", &gateway, &["--ip", "10.10.0.1/24", "--ip", "fd00:10::1/64"]);
    let mut daemon = Daemon::start(host);
    create(&daemon, "ten", "--vlan 10 --subnet 10.10.0.0/24 --subnet fd00:10::/64");
    let range = "--ip-range 192.168.50.128/25 --ip-range fd00:50::8000/113";
    let subnets = "--subnet 192.168.50.0/24 --subnet fd00:50::/64";
    create(&daemon, "plain", &format!("--kind veth {subnets} {range}"));
    let children: Vec<Netns> = (0..4).map(|_| lan.namespace()).collect();
    for ((ns, name), network) in
        children.iter().zip(["a", "b", "c", "d"]).zip(["ten", "ten", "plain", "plain"])
    {
        daemon.child_with(name, network, ns, &[]);
    }
    let works = || {
        let [a, b, c, d] = &children[..] else { panic!("four") };
        for to in ["10.10.0.1", "fd00:10::1", "10.10.0.3", "fd00:10::3"] {
            assert_reaches(a, ip(to));
        }
        for (from, to) in [(&gateway, "10.10.0.3"), (b, "10.10.0.2"), (host, "192.168.50.128")] {
            assert_reaches(from, ip(to));
        }
        for to in ["192.168.50.1", "fd00:50::1", "192.168.50.10", "fd00:50::10", "fd00:50::8001"] {
            assert_reaches(c, ip(to));
        }
        assert_reaches(&lan.router.ns, lan.hosts[0].ip);
        assert_reaches(d, lan.hosts[0].ip6);
    };
    works();
    let before = (identities(&daemon), children.iter().map(routes).collect::<Vec<_>>());
    assert!(before.1.iter().flatten().all(|route| route.contains("default via")), "{before:?}");
    let ifindex = host.ifindex(PARENT);

    lose_everything(&mut daemon, host, &children);
    daemon.launch();
    assert_eq!(daemon.json(&["parent", "show", PARENT])["state"], "missing");
    for name in ["a", "b", "c", "d"] {
        let child = daemon.inspect(name);
        assert_eq!(child["state"], "no namespace", "{child}");
        let until = child["lease_until"].as_u64().expect("a time");
        assert!(until > now() + 3000 && until <= now() + 3600, "{child}");
    }
    bring_parent_back(&lan, ifindex);
    eventually("the parent is served", SOON, || {
        daemon.json(&["parent", "show", PARENT])["state"] == "up" && daemon.problems() == "[]"
    });
    children.iter().for_each(Netns::make_again);
    eventually("the children are up", SOON, || {
        ["a", "b", "c", "d"].iter().all(|name| daemon.inspect(name)["state"] == "up")
    });
    assert_eq!((identities(&daemon), children.iter().map(routes).collect()), before);
    assert_eq!(daemon.inspect("a")["lease_until"], Value::Null);
    works();
}

#[test]
fn a_child_whose_namespace_stays_away_gives_its_addresses_back() {
    let lan = Lan::new(1);
    let daemon = Daemon::start_with(&lan.hosts[0].ns, &["--lease-grace", &seconds(4)]);
    create(&daemon, "lan", "--subnet 10.7.0.0/24 --gateway none --quarantine 600");
    create(&daemon, "vms", "--kind veth --subnet 10.8.0.0/24 --gateway none --quarantine 600");
    let (stays, goes, veth) = (lan.namespace(), lan.namespace(), lan.namespace());
    daemon.child_with("stays", "lan", &stays, &[]);
    daemon.child_with("goes", "lan", &goes, &[]);
    daemon.child_with("veth", "vms", &veth, &[]);
    goes.delete_all();
    veth.delete_all();
    let began = now();
    eventually("it is shown", SOON, || {
        ["goes", "veth"].iter().all(|name| daemon.inspect(name)["state"] == "no namespace")
    });
    let until = daemon.inspect("goes")["lease_until"].as_u64().expect("a time");
    assert!(until >= now(), "{until}");
    eventually("they are removed", SOON, || {
        let children = daemon.json(&["child", "ls"]);
        children.as_array().expect("a list").len() == 1
    });
    assert!(now() + 1 >= began + patience(Duration::from_secs(4)).as_secs(), "too early");
    for (network, ip) in [("lan", "10.7.0.2"), ("vms", "10.8.0.1")] {
        let network = daemon.json(&["network", "inspect", network]);
        assert_eq!(network["quarantined"][0]["ip"], ip, "{network}");
    }
    let log = daemon.log();
    assert_eq!(log.matches("its namespace has been gone for").count(), 2, "{log}");
    assert_eq!(daemon.inspect("stays")["state"], "up");
    assert_eq!(daemon.problems(), "[]");
    // Whoever comes under its name is somebody else.
    goes.make_again();
    veth.make_again();
    daemon.child_with("goes", "lan", &goes, &[]);
    assert_eq!(daemon.inspect("goes")["ip"], json!(["10.7.0.3/24"]));
    assert_reaches(&goes, ip("10.7.0.1"));
}

#[test]
fn time_without_the_daemon_or_without_the_parent_ends_no_lease() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let mut daemon = Daemon::start_with(&host.ns, &["--lease-grace", &seconds(5)]);
    create(&daemon, "lan", "--subnet 192.168.50.0/24 --gateway none --ip-range 192.168.50.64/26");
    let child = lan.namespace();
    daemon.child_with("c", "lan", &child, &[]);
    let before = identities(&daemon);
    let works = |daemon: &Daemon| {
        eventually("the child is up", SOON, || daemon.inspect("c")["state"] == "up");
        assert_eq!(identities(daemon), before);
        eventually("it is reached", SOON, || {
            ping(&host.ns, ip("192.168.50.64"), 1, OFTEN).is_clean()
        });
    };
    let longer = || thread::sleep(patience(Duration::from_secs(6)));
    daemon.kill9();
    child.delete_all();
    longer();
    daemon.launch();
    assert_eq!(daemon.inspect("c")["state"], "no namespace");
    child.make_again();
    works(&daemon);
    host.ns.delete(PARENT);
    eventually("it is shown", SOON, || daemon.inspect("c")["state"] == "gone");
    longer();
    assert_eq!(daemon.inspect("c")["lease_until"], Value::Null);
    host.ns.veth(PARENT, &lan.wire, "again");
    lan.wire.enslave("again", "wire");
    host.ns.address(PARENT, "192.168.50.10/24");
    works(&daemon);
}

#[test]
fn a_restart_goes_on_counting() {
    let lan = Lan::new(1);
    let mut daemon = Daemon::start_with(&lan.hosts[0].ns, &["--lease-grace", &seconds(8)]);
    create(&daemon, "lan", "");
    let child = lan.namespace();
    daemon.child("c", "lan", &child, "192.168.50.101/24");
    child.delete_all();
    let restarts = (0..20).find(|_| {
        thread::sleep(patience(Duration::from_secs(3)));
        daemon.kill9();
        daemon.launch();
        daemon.json(&["child", "ls"]) == json!([])
    });
    child.make_again();
    // Without what was saved, eight seconds would never be over.
    assert!(restarts.is_some(), "the lease has not ended in 20 lives of 3 s each");
}

#[test]
fn a_network_on_an_interface_that_was_never_there_is_refused() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for words in [&["parent", "add", "late0"][..], &["network", "create", "n", "--parent", "late0"]]
    {
        let (code, message) = daemon.fail(words);
        assert_eq!(code, 3, "{message}");
        assert!(
            message.contains("no interface \"late0\"") && message.contains("ip link"),
            "{message}"
        );
    }
    assert_eq!(daemon.json(&["parent", "ls"]), json!([]));
    assert_eq!(daemon.json(&["network", "ls"]), json!([]));
}
