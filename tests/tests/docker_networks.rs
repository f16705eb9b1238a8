//! The networks of Docker's documentation of its macvlan driver, with `-d maclane`; and those that
//! only maclane has.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde_json::json;
use tests::{
    container::Container,
    daemon::Daemon,
    netns::Netns,
    plugin::{Plugin, assert_all_reach, wait_for_dad},
    tap::Tap,
    tcp,
    topology::{Host, Lan, Options, PARENT},
    traffic::{assert_does_not_reach, assert_reaches},
};

/// The LAN of every host.
const SUBNET: &str = "192.168.50.0/24";

const A_WHILE: Duration = Duration::from_millis(300);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// Panics unless containers of a network, the host and the router all reach each other, by IPv4
/// addresses of a /24.
#[track_caller]
fn assert_all_of(network: &str, containers: &[&Container], others: &[(&Netns, Ipv4Addr)]) {
    let inside: Vec<Netns> = containers.iter().map(|container| container.ns()).collect();
    let ips = containers.iter().map(|container| container.ip(network));
    let inside = inside.iter().zip(ips);
    let others = others.iter().map(|(ns, ip)| (*ns, *ip));
    let all: Vec<(&Netns, IpAddr)> = inside.chain(others).map(|(ns, ip)| (ns, ip.into())).collect();
    assert_all_reach(&all);
}

fn of(host: &Host) -> (&Netns, Ipv4Addr) {
    (&host.ns, host.ip)
}

#[test]
fn bridge_mode_on_a_parent() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    plugin.network_on("pub_net", SUBNET, "--gateway 192.168.50.1");
    let one = plugin.container("one", "pub_net", "");
    let two = plugin.container("two", "pub_net", &format!("--ip {}", v4(102)));
    assert_eq!((one.ip("pub_net"), two.ip("pub_net")), (v4(2), v4(102)));
    let table = one.exec(&["ip", "route"]);
    assert!(table.contains("default via 192.168.50.1 dev eth0"), "{table}");
    assert_all_of("pub_net", &[&one, &two], &[of(&lan.hosts[0]), of(&lan.router)]);
    // By the programs in the container, too.
    assert!(one.pings(lan.hosts[0].ip) && one.pings(v4(102)) && two.pings(v4(1)));
    // A second network on the same parent, of another subnet and with the mode spelt out.
    for (host, last) in [(&lan.hosts[0], 10), (&lan.router, 1)] {
        host.ns.address(PARENT, &format!("172.16.86.{last}/24"));
    }
    plugin.network_on("second", "172.16.86.0/24", "--gateway 172.16.86.1 -o macvlan_mode=bridge");
    let three = plugin.container("three", "second", "");
    let [host, router] = [10, 1].map(|last| Ipv4Addr::new(172, 16, 86, last));
    assert_all_of("second", &[&three], &[(&lan.hosts[0].ns, host), (&lan.router.ns, router)]);
    for container in [one, two, three] {
        container.docker(&["rm", "--force"]);
    }
    plugin.docker().run(&["network", "rm", "pub_net", "second"]);
    plugin.returns_to(&before);
}

#[test]
fn addresses_come_from_the_ip_range_and_not_from_the_aux_addresses() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    lan.hosts[0].ns.address(PARENT, "192.168.32.129/24");
    lan.router.ns.address(PARENT, "192.168.32.254/24");
    let before = plugin.before();
    let range = "--ip-range 192.168.32.128/25 --gateway 192.168.32.254 \
                 --aux-address exclude_host=192.168.32.129";
    for ipam in ["default", "maclane"] {
        plugin.network_on("pub_net", "192.168.32.0/24", &format!("--ipam-driver {ipam} {range}"));
        let [one, two] = ["one", "two"].map(|name| plugin.container(name, "pub_net", ""));
        let got = [&one, &two].map(|container| container.ip("pub_net").octets()[3]);
        assert!(
            got.iter().all(|last| (128..254).contains(last) && *last != 129) && got[0] != got[1],
            "{ipam}: {got:?}",
        );
        let outside = plugin.container("outside", "pub_net", "--ip 192.168.32.9");
        let [host, router] = [129, 254].map(|last| Ipv4Addr::new(192, 168, 32, last));
        assert_all_of(
            "pub_net",
            &[&one, &two, &outside],
            &[(&lan.hosts[0].ns, host), (&lan.router.ns, router)],
        );
        let taken =
            ["run", "--rm", "--network", "pub_net", "--ip", "192.168.32.129", "busybox", "true"];
        let refused = plugin.docker().fail(&taken);
        assert!(refused.contains("ddress"), "{ipam}: {refused}");
        // Nobody who has not asked for it gets an address outside of the range, also not a free one.
        outside.docker(&["rm", "--force"]);
        let three = plugin.container("three", "pub_net", "");
        let last = three.ip("pub_net").octets()[3];
        assert!((128..254).contains(&last), "{ipam}: {last}");
        for container in [one, two, three] {
            container.docker(&["rm", "--force"]);
        }
        plugin.docker().run(&["network", "rm", "pub_net"]);
    }
    plugin.returns_to(&before);
}

#[test]
fn a_vlan_of_a_parent_without_a_sub_interface() {
    let lan = Lan::new(2);
    let plugin = Plugin::start(&lan.hosts[0]);
    plugin.network_on("vlan50", "192.168.150.0/24", "--gateway 192.168.150.1 -o vlan=50");
    let [one, two] = ["one", "two"].map(|name| plugin.container(name, "vlan50", ""));
    // The gateway is in the VLAN, on another machine.
    let peer = Daemon::start(&lan.hosts[1].ns);
    peer.network("vlan50", 50, "macvlan");
    let gateway = lan.namespace();
    peer.child("gateway", "vlan50", &gateway, "192.168.150.1/24");
    assert_all_of("vlan50", &[&one, &two], &[(&gateway, [192, 168, 150, 1].into())]);
    // Who has the same subnet without the tag is elsewhere.
    for host in [&lan.hosts[0], &lan.router] {
        host.ns.address(PARENT, "192.168.150.99/24");
        assert_does_not_reach(&host.ns, one.ip("vlan50"));
    }
    assert_does_not_reach(&one.ns(), [192, 168, 150, 99]);
}

#[test]
fn several_subnets_in_one_network() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    for (host, last) in [(&lan.hosts[0], 10), (&lan.router, 1)] {
        host.ns.address(PARENT, &format!("192.168.116.{last}/24"));
    }
    plugin.network_on(
        "both",
        SUBNET,
        "--subnet 192.168.116.0/24 --gateway 192.168.50.1 --gateway 192.168.116.1",
    );
    let one = plugin.container("one", "both", "--ip 192.168.50.101");
    let two = plugin.container("two", "both", "--ip 192.168.50.102");
    let three = plugin.container("three", "both", "--ip 192.168.116.101");
    let four = plugin.container("four", "both", "--ip 192.168.116.102");
    assert_all_of("both", &[&one, &two], &[of(&lan.hosts[0]), of(&lan.router)]);
    let [host, router] = [10, 1].map(|last| Ipv4Addr::new(192, 168, 116, last));
    assert_all_of("both", &[&three, &four], &[(&lan.hosts[0].ns, host), (&lan.router.ns, router)]);
    let table = four.exec(&["ip", "route"]);
    assert!(table.contains("default via 192.168.116.1 dev eth0"), "{table}");
    // From subnet to subnet the gateway routes, as it does for everybody.
    assert_does_not_reach(&one.ns(), [192, 168, 116, 101]);
    lan.router.ns.sysctl("net/ipv4/ip_forward", "1");
    assert_reaches(&one.ns(), [192, 168, 116, 101]);
}

#[test]
fn a_dual_stack_network() {
    let lan = Lan::with(Options { ipv6: true, ..Options::default() });
    let (host, router) = (&lan.hosts[0], &lan.router);
    let plugin = Plugin::start(host);
    for ipam in ["default", "maclane"] {
        let more = format!(
            "--gateway 192.168.50.1 --ipv6 --subnet fd00:50::/64 --gateway fd00:50::1 \
             --ipam-driver {ipam}"
        );
        plugin.network_on("dual", SUBNET, &more);
        let one = plugin.container("one", "dual", "");
        let two = plugin.container("two", "dual", "--ip 192.168.50.102 --ip6 fd00:50::102");
        let inside = [one.ns(), two.ns()];
        inside.iter().for_each(wait_for_dad);
        let by_ipv4 = [one.ip("dual"), two.ip("dual"), host.ip, router.ip].map(IpAddr::from);
        let by_ipv6 = [one.ip6("dual"), two.ip6("dual"), host.ip6, router.ip6].map(IpAddr::from);
        assert_eq!(by_ipv6[1], "fd00:50::102".parse::<IpAddr>().expect("an address"));
        for ips in [by_ipv4, by_ipv6] {
            let everybody = [&inside[0], &inside[1], &host.ns, &router.ns];
            let members: Vec<_> = everybody.into_iter().zip(ips).collect();
            assert_all_reach(&members);
        }
        let default = one.exec(&["ip", "-6", "route"]);
        assert!(default.contains("default via fd00:50::1 dev eth0"), "{default}");
        for container in [one, two] {
            container.docker(&["rm", "--force"]);
        }
        plugin.docker().run(&["network", "rm", "dual"]);
    }
}

/// What two containers have to say to each other, and to everybody, reaches no wire.
#[track_caller]
fn assert_stays_inside(lan: &Lan, plugin: &Plugin<'_>, network: &str) {
    let wire = Tap::open(&lan.router.ns, PARENT);
    let [one, two] = ["one", "two"].map(|name| plugin.container(name, network, ""));
    let (ip, ns) = (two.ip(network), [one.ns(), two.ns()]);
    assert_reaches(&ns[0], ip);
    tcp::echo(&ns[1], &ns[0], ip, 100_000);
    let routes = one.exec(&["ip", "route"]);
    assert!(!routes.contains("default"), "{routes}");
    // Nobody answers, and nobody else hears the question.
    let nobody = Ipv4Addr::from(u32::from(ip) + 50);
    assert_does_not_reach(&ns[0], nobody);
    let heard = wire.collect(A_WHILE);
    let macs = [one.mac(network), two.mac(network)];
    let leaked: Vec<_> = heard.iter().filter(|frame| macs.contains(&frame.source)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    // Nor does anything come in.
    lan.router.ns.address(PARENT, &format!("{nobody}/24"));
    assert_does_not_reach(&lan.router.ns, ip);
    assert_does_not_reach(&ns[0], nobody);
    for container in [one, two] {
        container.docker(&["rm", "--force"]);
    }
}

#[test]
fn an_internal_network_stays_on_the_host() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    plugin.network_on("inner", "192.168.60.0/24", "--internal");
    assert_stays_inside(&lan, &plugin, "inner");
    plugin.docker().run(&["network", "rm", "inner"]);
    plugin.returns_to(&before);
}

#[test]
fn a_network_without_a_parent_is_for_its_containers_alone() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    plugin.network("isolated1", "--subnet 192.168.40.0/24");
    assert_stays_inside(&lan, &plugin, "isolated1");
    // Another one is another world, and one with both leads from here to there by itself only.
    plugin.network("isolated2", "");
    assert_stays_inside(&lan, &plugin, "isolated2");
    let one = plugin.container("one", "isolated1", "--ip 192.168.40.9");
    let two = plugin.container("two", "isolated2", "");
    two.ns().ip("address add 192.168.40.77/24 dev eth0");
    assert_does_not_reach(&two.ns(), [192, 168, 40, 9]);
    one.docker(&["rm", "--force"]);
    two.docker(&["rm", "--force"]);
    plugin.docker().run(&["network", "rm", "isolated1", "isolated2"]);
    plugin.returns_to(&before);
}

#[test]
fn containers_on_veth_pairs() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    plugin.network_on("pairs", SUBNET, "--gateway 192.168.50.1 -o kind=veth");
    let [one, two] = ["one", "two"].map(|name| plugin.container(name, "pairs", ""));
    assert_all_of("pairs", &[&one, &two], &[of(&lan.hosts[0]), of(&lan.router)]);
    assert_eq!(one.ns().link("eth0")["linkinfo"]["info_kind"], "veth");
    let again = one.mac("pairs");
    one.docker(&["restart"]);
    assert_eq!(one.mac("pairs"), again);
    assert_all_of("pairs", &[&one, &two], &[of(&lan.hosts[0]), of(&lan.router)]);
    one.docker(&["rm", "--force"]);
    two.docker(&["rm", "--force"]);
    plugin.docker().run(&["network", "rm", "pairs"]);
    plugin.returns_to(&before);
}

/// The macvlan mode of a container's link.
fn mode_of(container: &Container) -> serde_json::Value {
    container.ns().link("eth0")["linkinfo"]["info_data"]["mode"].clone()
}

#[test]
fn macvlan_modes_mean_what_they_mean_in_docker() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let (host, router) = (&lan.hosts[0], &lan.router);
    // In what Docker calls bridge mode maclane switches between enforced children, not the kernel.
    for (mode, link, reach_each_other) in
        [("bridge", "vepa", true), ("vepa", "vepa", true), ("private", "private", false)]
    {
        let net = format!("{mode}_net");
        plugin.network_on(&net, SUBNET, &format!("--gateway 192.168.50.1 -o macvlan_mode={mode}"));
        let [one, two] = ["one", "two"].map(|name| plugin.container(name, &net, ""));
        for container in [&one, &two] {
            assert_eq!(mode_of(container), json!(link));
            assert_all_of(&net, &[container], &[of(host), of(router)]);
        }
        if reach_each_other {
            assert_all_of(&net, &[&one, &two], &[]);
        } else {
            assert_does_not_reach(&one.ns(), two.ip(&net));
            assert_does_not_reach(&two.ns(), one.ip(&net));
        }
        one.docker(&["rm", "--force"]);
        two.docker(&["rm", "--force"]);
        plugin.docker().run(&["network", "rm", &net]);
    }
    let mac = host.ns.mac(PARENT);
    plugin.network_on("all", SUBNET, "--gateway 192.168.50.1 -o macvlan_mode=passthru");
    let one = plugin.container("one", "all", "");
    assert_eq!(mode_of(&one), json!("passthru"));
    assert_eq!(one.ns().mac("eth0"), mac, "it has the parent's address");
    assert_all_of("all", &[&one], &[of(router)]);
    let second = ["run", "--rm", "--network", "all", "busybox", "true"];
    let refused = plugin.docker().fail(&second);
    assert!(refused.contains("passthru"), "{refused}");
    one.docker(&["rm", "--force"]);
    plugin.docker().run(&["network", "rm", "all"]);
    assert_eq!(host.ns.mac(PARENT), mac);
    assert_reaches(&host.ns, router.ip);
}

/// A container that is in the network `trunk` alone: `docker network connect MORE`.
#[track_caller]
fn connected(plugin: &Plugin, name: &str, more: &[&str]) -> Container {
    let container = plugin.container(name, "none", "");
    // A container has to leave `none` before it joins anything else.
    plugin.docker().run(&["network", "disconnect", "none", name]);
    plugin.docker().run(&[&["network", "connect"], more, &["trunk", name]].concat());
    container
}

#[test]
fn addresses_of_a_trunk_are_asked_for_where_they_are_used_and_given_once() {
    let lan = Lan::new(1);
    let mut plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    plugin.network_on(
        "trunk",
        "10.9.0.0/16",
        "--ipam-driver maclane --gateway 10.9.0.1 -o vlan=10,20",
    );
    // Who has it untagged is on another LAN.
    lan.router.ns.address(PARENT, "10.9.0.2/16");
    let ten = ["--driver-opt", "vlan=10"];
    let one = connected(&plugin, "one", &ten);
    assert_eq!(one.ip("trunk"), Ipv4Addr::new(10, 9, 0, 2));
    plugin.daemon.restart();
    let two = connected(&plugin, "two", &ten);
    let three = connected(&plugin, "three", &["--driver-opt", "vlan=20"]);
    let all = [&one, &two, &three].map(|container| container.ip("trunk"));
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2], "{all:?}");
    assert_reaches(&one.ns(), all[1]);
    assert_does_not_reach(&one.ns(), all[2]);
    plugin.docker().run(&["rm", "--force", "one", "two", "three"]);
    plugin.docker().run(&["network", "rm", "trunk"]);
    plugin.returns_to(&before);
}

#[test]
fn endpoints_of_a_trunk_choose_their_vlan() {
    let lan = Lan::new(2);
    let plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    plugin.network_on("trunk", "10.9.0.0/16", "-o vlan=10,20");
    let [ten, twenty, both] = [
        ("ten", "--ip 10.9.0.10", Some("vlan=10")),
        ("twenty", "--ip 10.9.0.20", Some("vlan=20")),
        ("both", "--ip 10.9.0.30", None),
    ]
    .map(|(name, ip, vlan)| {
        let mut more: Vec<_> = ip.split(' ').collect();
        more.extend(vlan.into_iter().flat_map(|vlan| ["--driver-opt", vlan]));
        connected(&plugin, name, &more)
    });
    let peer = Daemon::start(&lan.hosts[1].ns);
    let [in10, in20] = [10, 20].map(|vlan| {
        let (name, ns) = (format!("v{vlan}"), lan.namespace());
        peer.network(&name, vlan, "macvlan");
        peer.child(&name, &name, &ns, &format!("10.9.1.{vlan}/16"));
        ns
    });
    let at = |third, last| Ipv4Addr::new(10, 9, third, last);
    assert_all_of("trunk", &[&ten], &[(&in10, at(1, 10))]);
    assert_all_of("trunk", &[&twenty], &[(&in20, at(1, 20))]);
    assert_does_not_reach(&ten.ns(), at(0, 20));
    assert_does_not_reach(&ten.ns(), at(1, 20));
    assert_does_not_reach(&in10, at(0, 20));
    // One that chooses none has them all, with their tags.
    let (trunk, wire) = (Tap::open(&both.ns(), "eth0"), Tap::open(&in10, "eth0"));
    for (vlan, is_heard) in [(10, 1), (20, 0), (30, 0)] {
        let token = tests::frames::token();
        let mac = both.mac("trunk");
        trunk.send(&tests::frames::Frame::new(mac, tests::mac::Mac::BROADCAST, &token).vlan(vlan));
        assert_eq!(wire.with_token(&token, A_WHILE).len(), is_heard, "VLAN {vlan}");
    }
    let wrong = ["network", "connect", "--driver-opt", "vlan=30", "trunk", "other"];
    plugin.container("other", "none", "");
    plugin.docker().run(&["network", "disconnect", "none", "other"]);
    let refused = plugin.docker().fail(&wrong);
    assert!(refused.contains("trunk of the VLANs 10,20"), "{refused}");
    plugin.docker().run(&["rm", "--force", "ten", "twenty", "both", "other"]);
    plugin.docker().run(&["network", "rm", "trunk"]);
    plugin.returns_to(&before);
}
