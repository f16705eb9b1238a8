//! Dockers on several hosts of one LAN, and those on the LAN that know nothing of Docker.

use std::{collections::BTreeSet, net::Ipv4Addr};

use serde_json::json;
use tests::{
    plugin::{Plugin, assert_all_reach},
    topology::{Lan, PARENT},
    traffic::{assert_does_not_reach, assert_reaches},
};

/// The LAN of every host.
const SUBNET: &str = "192.168.50.0/24";

#[test]
fn containers_of_two_hosts_talk_in_the_same_vlan_only() {
    let lan = Lan::new(2);
    let plugins = [Plugin::start(&lan.hosts[0]), Plugin::start(&lan.hosts[1])];
    for (plugin, range) in plugins.iter().zip(["64/26", "128/26"]) {
        let more = format!("--gateway 192.168.50.1 --ip-range 192.168.50.{range}");
        plugin.network_on("mac_net1", SUBNET, &more);
        for vlan in [10, 20] {
            let subnet = format!("10.{vlan}.0.0/24");
            let more = format!("--ip-range 10.{vlan}.0.{range} -o vlan={vlan}");
            plugin.network_on(&format!("mac_net{vlan}"), &subnet, &more);
        }
    }
    let in_network = |name: &str| {
        let start = |plugin: &Plugin<'_>| {
            plugin.container(&format!("in{name}"), &format!("mac_net{name}"), "")
        };
        plugins.each_ref().map(start)
    };
    let [in1, in10, in20] = ["1", "10", "20"].map(in_network);
    for (containers, network) in [(&in1, "mac_net1"), (&in10, "mac_net10"), (&in20, "mac_net20")] {
        let [here, there] = containers;
        assert_ne!(here.ip(network), there.ip(network));
        assert_all_reach(&[
            (&here.ns(), here.ip(network).into()),
            (&there.ns(), there.ip(network).into()),
        ]);
    }
    // Both hosts and the router are in the LAN of the first.
    for host in [&lan.hosts[0], &lan.hosts[1], &lan.router] {
        for container in &in1 {
            assert_reaches(&host.ns, container.ip("mac_net1"));
            assert_reaches(&container.ns(), host.ip);
        }
    }
    // With an address of the other VLAN's subnet it is not in that VLAN.
    let alias = Ipv4Addr::new(10, 10, 0, 200);
    for container in &in20 {
        container.ns().address("eth0", &format!("{alias}/24"));
        for other in &in10 {
            assert_does_not_reach(&other.ns(), alias);
            assert_does_not_reach(&container.ns(), other.ip("mac_net10"));
        }
        container.ns().ip(&format!("address delete {alias}/24 dev eth0"));
    }
}

#[test]
fn two_hosts_give_out_one_range_without_an_address_twice() {
    const EACH: usize = 12;
    let lan = Lan::new(2);
    let plugins = [Plugin::start(&lan.hosts[0]), Plugin::start(&lan.hosts[1])];
    for plugin in &plugins {
        let more = "--ipam-driver maclane --gateway 192.168.50.1 --ip-range 192.168.50.128/26";
        plugin.network_on("shared", SUBNET, more);
    }
    let names: Vec<_> = (0..EACH).map(|n| format!("c{n}")).collect();
    std::thread::scope(|scope| {
        for plugin in &plugins {
            scope.spawn(|| plugin.containers(&names, "shared"));
        }
    });
    let members = plugins.each_ref().map(|plugin| plugin.members("shared"));
    let all = || members.iter().flat_map(|of_host| of_host.values());
    assert_eq!(all().count(), 2 * EACH, "{members:?}");
    let ips: BTreeSet<Ipv4Addr> = all().map(|(ip, _)| *ip).collect();
    let macs: BTreeSet<_> = all().map(|(_, mac)| mac.to_string()).collect();
    assert_eq!((ips.len(), macs.len()), (2 * EACH, 2 * EACH), "{members:?}");
    assert!(ips.iter().all(|ip| (128..192).contains(&ip.octets()[3])), "{ips:?}");
    for ip in ips {
        assert_reaches(&lan.router.ns, ip);
    }
}

#[test]
fn an_address_that_a_stranger_has_is_refused_with_its_mac() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    lan.router.ns.address(PARENT, "192.168.50.77/24");
    for ipam in ["default", "maclane"] {
        let more = format!("--ipam-driver {ipam} --gateway 192.168.50.1");
        plugin.network_on("pub_net", SUBNET, &more);
        let words = [
            "run",
            "--name",
            "late",
            "--network",
            "pub_net",
            "--ip",
            "192.168.50.77",
            "busybox",
            "true",
        ];
        let refused = plugin.docker().fail(&words);
        let mac = lan.router.mac.to_string();
        assert!(refused.contains(&mac) && refused.contains("192.168.50.77"), "{ipam}: {refused}");
        assert_eq!(json!(plugin.children()), json!([]), "{ipam}");
        // Nor does it get the address after a while; another one it does.
        let refused = plugin.docker().fail(&["start", "late"]);
        assert!(refused.contains(&mac), "{ipam}: {refused}");
        plugin.docker().run(&["rm", "late"]);
        let other = plugin.container("other", "pub_net", "--ip 192.168.50.78");
        assert_reaches(&lan.router.ns, other.ip("pub_net"));
        other.docker(&["rm", "--force"]);
        plugin.docker().run(&["network", "rm", "pub_net"]);
    }
    plugin.returns_to(&before);
}
