//! Next to the kernel's own VLANs, bonds, bridges and netkit: what needs a kernel that has them
//! says so where it has not.

use std::{net::Ipv4Addr, time::Duration};

use tests::{
    daemon::Daemon,
    eventually, kernel,
    netns::Netns,
    tcp,
    topology::{Host, Lan, PARENT},
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(5);

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 50, last)
}

/// An address of the LAN in VLAN 10 or 50, beside that of the untagged one.
fn in_vlan(vlan: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, vlan, last)
}

/// Gives a host a sub-interface of its parent, as the kernel has them.
fn sub_interface(host: &Host, vlan: u8, last: u8) -> String {
    let name = format!("{PARENT}.{vlan}");
    host.ns.ip(&format!("link add link {PARENT} name {name} type vlan id {vlan}"));
    host.ns.up(&name);
    host.ns.address(&name, &format!("{}/24", in_vlan(vlan, last)));
    name
}

/// Makes a network of each kind on a parent, and a child in each: .101 is macvlan, .102 veth.
fn children(daemon: &Daemon, lan: &Lan, parent: &str, vlan: u16, subnet: u8) -> [Netns; 2] {
    [("macvlan", 101), ("veth", 102)].map(|(kind, last)| {
        let (name, vlan, ns) = (format!("{kind}{subnet}"), vlan.to_string(), lan.namespace());
        daemon.run(&[
            "network", "create", &name, "--parent", parent, "--vlan", &vlan, "--kind", kind,
        ]);
        daemon.child(
            &format!("c{subnet}-{last}"),
            &name,
            &ns,
            &format!("{}/24", in_vlan(subnet, last)),
        );
        ns
    })
}

/// Panics unless the host, both children and a neighbour on the wire reach each other.
#[track_caller]
fn assert_all_reach(children: &[Netns; 2], host: (&Netns, Ipv4Addr), wire: (&Netns, Ipv4Addr)) {
    let [_, _, subnet, _] = host.1.octets();
    let [first, second] = [101, 102].map(|last| in_vlan(subnet, last));
    for (from, to) in [
        (host.0, first),
        (host.0, second),
        (host.0, wire.1),
        (wire.0, first),
        (wire.0, second),
        (&children[0], second),
        (&children[1], first),
        (&children[0], host.1),
        (&children[1], host.1),
        (&children[0], wire.1),
        (&children[1], wire.1),
    ] {
        assert_reaches(from, to);
    }
    tcp::echo(&children[0], host.0, first, 1_000_000);
    tcp::echo(&children[1], wire.0, second, 1_000_000);
}

#[test]
fn children_sit_on_a_vlan_sub_interface() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let parent = sub_interface(host, 50, 10);
    lan.router.ns.ip("address flush dev eth0");
    sub_interface(&lan.router, 50, 1);
    // Untagged it is somebody else.
    lan.router.ns.address(PARENT, "192.168.60.1/24");
    let mut daemon = Daemon::start(&host.ns);
    host.ns.ip("address flush dev eth0");
    host.ns.address(PARENT, "192.168.60.10/24");
    let children = children(&daemon, &lan, &parent, 0, 50);
    let (own, wire) = ((&host.ns, in_vlan(50, 10)), (&lan.router.ns, in_vlan(50, 1)));
    assert_all_reach(&children, own, wire);
    assert_reaches(&host.ns, Ipv4Addr::new(192, 168, 60, 1));
    daemon.kill9();
    assert_all_reach(&children, own, wire);
    daemon.launch();
    assert_all_reach(&children, own, wire);
    daemon.run(&["parent", "rm", &parent, "--force"]);
    assert_reaches(&host.ns, in_vlan(50, 1));
}

#[test]
fn a_vlan_is_the_same_for_maclane_and_for_sub_interfaces_of_the_kernel() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(2);
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    let ten = children(&daemon, &lan, PARENT, 10, 10);
    let untagged = children(&daemon, &lan, PARENT, 0, 50);
    sub_interface(host, 10, 10);
    sub_interface(&lan.router, 10, 1);
    eventually("the host is a member of VLAN 10", SOON, || {
        ping(&host.ns, in_vlan(10, 101), 1, Duration::from_millis(10)).is_clean()
    });
    assert_all_reach(&ten, (&host.ns, in_vlan(10, 10)), (&lan.router.ns, in_vlan(10, 1)));
    assert_all_reach(&untagged, (&host.ns, v4(10)), (&lan.router.ns, v4(1)));
    // In the other VLAN the same addresses are nobody's: Linux would answer for them on any
    // interface.
    for ns in [&lan.router.ns, &host.ns] {
        ns.sysctl("net/ipv4/conf/all/arp_ignore", "1");
    }
    for child in &ten {
        child.ip("route add 192.168.50.0/24 dev eth0");
        assert_does_not_reach(child, v4(1));
        assert_does_not_reach(child, v4(101));
    }
    // The other host takes maclane, too, and the VLAN reaches across.
    let other = Daemon::start(&lan.hosts[1].ns);
    other.network("ten", 10, "macvlan");
    let far = lan.namespace();
    other.child("far", "ten", &far, "192.168.10.111/24");
    assert_reaches(&far, in_vlan(10, 101));
    assert_reaches(&far, in_vlan(10, 102));
    assert_reaches(&far, in_vlan(10, 10));
    host.ns.delete(&format!("{PARENT}.10"));
    eventually("the host has left VLAN 10", SOON, || {
        !ping(&ten[0], in_vlan(10, 10), 1, Duration::from_millis(10)).is_clean()
    });
    assert_reaches(&ten[0], in_vlan(10, 102));
    assert_reaches(&far, in_vlan(10, 101));
}

#[test]
fn a_bridge_that_filters_vlans_is_a_switch_on_the_wire() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    // The host is on a trunk, the router on an access port of VLAN 10.
    lan.wire.ip("link set wire type bridge vlan_filtering 1");
    let vlan = |words: &str| {
        let words: Vec<_> = ["bridge", "vlan"].into_iter().chain(words.split(' ')).collect();
        lan.wire.run(&words);
    };
    vlan(&format!("add dev {} vid 10", host.port));
    vlan(&format!("add dev {} vid 20", host.port));
    vlan(&format!("del dev {} vid 1", lan.router.port));
    vlan(&format!("add dev {} vid 10 pvid untagged", lan.router.port));
    let ten = children(&daemon, &lan, PARENT, 10, 50);
    for child in &ten {
        assert_reaches(child, v4(1));
        tcp::echo(&lan.router.ns, child, v4(1), 1_000_000);
    }
    assert_does_not_reach(&host.ns, v4(1));
    let ns = lan.namespace();
    daemon.network("twenty", 20, "macvlan");
    daemon.child("t", "twenty", &ns, "192.168.50.120/24");
    assert_does_not_reach(&ns, v4(1));
    vlan(&format!("del dev {} vid 10", host.port));
    assert_does_not_reach(&ten[0], v4(1));
    assert_reaches(&ten[0], v4(102));
}

#[test]
fn children_sit_on_a_bond_and_survive_its_failover() {
    if kernel::lacks("bond") {
        return;
    }
    let lan = Lan::new(1);
    let ns = lan.namespace();
    ns.ip("link add bond0 type bond mode active-backup miimon 20");
    for (slave, port) in [("s0", "b0"), ("s1", "b1")] {
        ns.veth(slave, &lan.wire, port);
        lan.wire.enslave(port, "wire");
        ns.down(slave);
        ns.enslave(slave, "bond0");
    }
    ns.up("bond0");
    ns.address("bond0", "192.168.50.20/24");
    eventually("the bond has a carrier", SOON, || {
        ping(&ns, lan.router.ip, 1, Duration::from_millis(10)).is_clean()
    });
    let daemon = Daemon::start(&ns);
    let children = children(&daemon, &lan, "bond0", 0, 50);
    let (own, wire) = ((&ns, v4(20)), (&lan.router.ns, v4(1)));
    assert_all_reach(&children, own, wire);
    ns.down("s0");
    for child in &children {
        eventually("the child is back on the wire", SOON, || {
            ping(child, lan.router.ip, 1, Duration::from_millis(10)).is_clean()
        });
    }
    assert_all_reach(&children, own, wire);
}

#[test]
fn a_parent_in_a_bridge_that_filters_vlans_serves_veth_children_beside_it() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    sub_interface(&lan.router, 10, 1);
    host.ns.ip("address flush dev eth0");
    host.ns.bridge("br0");
    host.ns.ip("link set br0 type bridge vlan_filtering 1");
    host.ns.enslave(PARENT, "br0");
    host.ns.run(&["bridge", "vlan", "add", "dev", PARENT, "vid", "10"]);
    host.ns.address("br0", "192.168.50.10/24");
    // A guest of the bridge, on an access port of VLAN 10.
    let guest = lan.namespace();
    guest.veth("eth0", &host.ns, "guest");
    host.ns.enslave("guest", "br0");
    host.ns.run(&["bridge", "vlan", "del", "dev", "guest", "vid", "1"]);
    host.ns.run(&["bridge", "vlan", "add", "dev", "guest", "vid", "10", "pvid", "untagged"]);
    guest.address("eth0", "192.168.10.30/24");
    assert_reaches(&guest, in_vlan(10, 1));
    let daemon = Daemon::start(&host.ns);
    for (vlan, name) in [(0, "plain"), (10, "ten")] {
        daemon.network(name, vlan, "veth");
    }
    let (plain, ten) = (lan.namespace(), lan.namespace());
    daemon.child("p", "plain", &plain, "192.168.50.101/24");
    daemon.child("t", "ten", &ten, "192.168.10.101/24");
    assert_reaches(&guest, in_vlan(10, 1));
    assert_reaches(&host.ns, v4(1));
    assert_reaches(&plain, v4(1));
    assert_reaches(&plain, v4(10));
    assert_reaches(&ten, in_vlan(10, 1));
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    assert_reaches(&guest, in_vlan(10, 1));
    assert_reaches(&host.ns, v4(1));
}

#[test]
fn netkit_devices_go_on_beside_maclane() {
    if kernel::lacks("netkit") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let pod = lan.namespace();
    // The kernel calls its peer nk0.
    host.ns.ip("link add kit type netkit");
    let peer = host.ns.link("kit")["link"].as_str().expect("its peer").to_owned();
    host.ns.ip(&format!("link set {peer} netns {} name eth0", pod.name()));
    host.ns.up("kit");
    pod.up("eth0");
    host.ns.ip("address add 10.9.0.1/32 dev kit");
    host.ns.ip("route add 10.9.0.2/32 dev kit");
    pod.ip("address add 10.9.0.2/32 dev eth0");
    pod.ip("route add 10.9.0.1/32 dev eth0");
    pod.ip("route add default via 10.9.0.1 dev eth0 onlink");
    host.ns.sysctl("net/ipv4/ip_forward", "1");
    let (pod_ip, gateway) = (Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 1));
    assert_reaches(&host.ns, pod_ip);
    let daemon = Daemon::start(&host.ns);
    let children = children(&daemon, &lan, PARENT, 0, 50);
    assert_reaches(&host.ns, pod_ip);
    assert_reaches(&pod, gateway);
    // Routed by the host between the pod and the children.
    for (child, last) in children.iter().zip([101, 102]) {
        child.ip(&format!("route add 10.9.0.0/24 via {}", host.ip));
        assert_reaches(&pod, v4(last));
        assert_reaches(child, pod_ip);
    }
    let list = daemon.json(&["child", "ls"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "netkit is not taken for a child: {list}");
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    assert_reaches(&host.ns, pod_ip);
}
