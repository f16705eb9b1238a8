//! What a network card does that a veth does not: it filters VLANs.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    card::pairs,
    daemon::{Daemon, Setup},
    eventually,
    failpoints::Failpoints,
    netns::Netns,
    tcp,
    topology::{Lan, PARENT},
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(10);

/// The address of the router in VLAN 10.
const ROUTER: [u8; 4] = [10, 10, 10, 1];

/// What `ethtool -k` prints of an offload of a card.
fn offload(host: &Netns, name: &str) -> String {
    let all = host.run(&["ethtool", "-k", PARENT]);
    all.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

/// The card's filter of VLANs, and whether it is promiscuous.
fn filter(host: &Netns) -> (String, bool) {
    let flags = host.link(PARENT)["flags"].to_string();
    (offload(host, "rx-vlan-filter"), flags.contains("PROMISC"))
}

/// Whether the parent was promiscuous before, if maclane has changed that.
fn promiscuous_before(daemon: &Daemon) -> Value {
    daemon.json(&["parent", "show", PARENT])["changed"]["promiscuous"].clone()
}

/// Children of both kinds, untagged and in VLAN 10, each with its network, the router's address for it, and its own.
struct Children(Vec<(&'static str, Netns, [u8; 4], [u8; 4])>);

impl Children {
    const ALL: [(&str, &str, u16, u8); 4] = [
        ("m", "macvlan", 0, 101),
        ("v", "veth", 0, 102),
        ("m10", "macvlan", 10, 2),
        ("v10", "veth", 10, 3),
    ];

    fn new(lan: &Lan, daemon: &Daemon) -> Self {
        let router = &lan.router.ns;
        router.ip(&format!("link add link {PARENT} name v10 type vlan id 10"));
        router.address("v10", "10.10.10.1/24");
        router.up("v10");
        let mut children = Self(Vec::new());
        for (name, kind, vlan, last) in Self::ALL {
            let ns = lan.namespace();
            let (to, own) = match vlan {
                0 => (lan.router.ip.octets(), [192, 168, 50, last]),
                _ => (ROUTER, [10, 10, 10, last]),
            };
            daemon.network(name, vlan, kind);
            let [a, b, c, d] = own;
            daemon.child(name, name, &ns, &format!("{a}.{b}.{c}.{d}/24"));
            children.0.push((name, ns, to, own));
        }
        children
    }

    #[track_caller]
    fn assert_work(&self, lan: &Lan, what: &str) {
        for (name, ns, router, own) in &self.0 {
            eprintln!("{what}: {name}");
            eventually(&format!("{what}: {name} reaches the router"), SOON, || {
                ping(ns, *router, 1, Duration::from_millis(100)).is_clean()
            });
            assert_reaches(&lan.router.ns, *own);
            tcp::echo(&lan.router.ns, ns, *router, 256 << 10);
        }
    }
}

/// Children are in their VLAN whatever the card filters, the host has no sub-interface, and what was changed for it is as
/// before when the last VLAN is gone.
#[test]
fn a_vlan_passes_the_filter_of_a_card() {
    for pair in pairs() {
        eprintln!("{}", pair.driver);
        let lan = pair.lan();
        let host = &lan.hosts[0].ns;
        let (before, tags_before) = (filter(host), offload(host, "rx-vlan-offload"));
        assert!(before.0.contains("on") && !before.1, "{before:?}");
        let points = Failpoints::new();
        points.refuse(&["promiscuous"]);
        let environment = Some(points.variable());
        let mut daemon = Daemon::start_as(host, Setup { environment, ..Setup::default() });
        let children = Children::new(&lan, &daemon);
        // With the defence off: vmxnet3, as QEMU emulates it, lets VLANs in that it should not.
        assert!(daemon.problems().contains("VLAN 10"), "{}", daemon.problems());
        if pair.driver == "virtio_net" {
            for (name, ns, router, _) in &children.0 {
                if name.contains("10") {
                    assert_does_not_reach(ns, *router);
                }
            }
        }
        points.refuse(&[]);
        daemon.restart();
        children.assert_work(&lan, "first");
        assert!(!daemon.problems().contains("VLAN"), "{}", daemon.problems());
        assert_eq!(promiscuous_before(&daemon), "off", "{}", pair.driver);
        // It is set again.
        host.ip(&format!("link set {PARENT} promisc off"));
        eventually("the parent is promiscuous again", SOON, || filter(host).1);
        daemon.kill9();
        children.assert_work(&lan, "without a daemon");
        daemon.launch();
        children.assert_work(&lan, "after the kill");
        for (name, _, _, _) in children.0.iter().filter(|(name, ..)| name.contains("10")) {
            daemon.run(&["child", "rm", name]);
            daemon.run(&["network", "rm", name]);
        }
        eventually("the filter is as before", SOON, || filter(host) == before);
        assert_eq!(promiscuous_before(&daemon), Value::Null);
        daemon.network("later", 20, "macvlan");
        eventually("the parent is promiscuous", SOON, || filter(host).1);
        daemon.run(&["parent", "rm", PARENT, "--force"]);
        assert_eq!(filter(host), before, "{} after parent rm", pair.driver);
        assert_eq!(offload(host, "rx-vlan-offload"), tags_before, "{}", pair.driver);
    }
}

/// A daemon that is killed while it opens or restores the filter leaves nothing behind after the next.
#[test]
fn a_filter_is_restored_whenever_it_dies() {
    let Some(pair) = pairs().into_iter().next() else { return };
    let lan = pair.lan();
    let host = &lan.hosts[0].ns;
    let before = filter(host);
    let points = Failpoints::new();
    let environment = Some(points.variable());
    let mut daemon = Daemon::start_as(host, Setup { environment, ..Setup::default() });
    daemon.run(&["parent", "add", PARENT]);
    let create = ["network", "create", "n", "--parent", PARENT, "--vlan", "10"];
    for (point, operation) in [
        ("vlan_filter.promiscuous", &create[..]),
        ("vlan_filter.restored", &["network", "rm", "n"]),
    ] {
        points.wait_for_quiet();
        points.kill_at(&(point.to_owned(), 1));
        let _ = daemon.cli(operation);
        assert!(daemon.wait_for_end(SOON), "it does not die at {point}");
        points.clear();
        daemon.launch();
        let wanted = daemon.json(&["network", "ls"]) != json!([]);
        eventually(&format!("killed at {point}"), SOON, || {
            filter(host).1 == wanted && (promiscuous_before(&daemon) != Value::Null) == wanted
        });
    }
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    assert_eq!(filter(host), before);
}
