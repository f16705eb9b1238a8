//! What becomes of Docker's containers in a network of maclane, and of maclane under them.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path, thread, time::Duration};

use serde_json::json;
use tests::{
    container::Container,
    daemon::{Daemon, Setup},
    eventually,
    mac::Mac,
    plugin::{Plugin, assert_all_reach},
    topology::{Host, Lan, PARENT},
    traffic::{Ping, assert_reaches, ping},
};

/// The LAN of every host.
const SUBNET: &str = "192.168.50.0/24";

const SOON: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(10);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// Waits until the host reaches a container, and panics unless they reach each other then.
#[track_caller]
fn works(host: &Host, container: &Container, network: &str) {
    let ip = container.ip(network);
    eventually("the host reaches it", SOON, || ping(&host.ns, ip, 1, OFTEN).is_clean());
    assert_all_reach(&[(&host.ns, host.ip.into()), (&container.ns(), ip.into())]);
}

#[test]
fn fifty_containers_at_once() {
    const CONTAINERS: usize = 50;
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let before = plugin.before();
    plugin.network_on("many", SUBNET, "--gateway 192.168.50.1 --ip-range 192.168.50.128/25");
    let with_network = plugin.footprint();
    let names: Vec<_> = (0..CONTAINERS).map(|n| format!("c{n}")).collect();
    plugin.containers(&names, "many");
    let members = plugin.members("many");
    assert_eq!(members.len(), CONTAINERS);
    let ips: BTreeSet<Ipv4Addr> = members.values().map(|(ip, _)| *ip).collect();
    let macs: BTreeSet<String> = members.values().map(|(_, mac)| mac.to_string()).collect();
    assert_eq!((ips.len(), macs.len()), (CONTAINERS, CONTAINERS), "{members:?}");
    assert_eq!(plugin.children().len(), CONTAINERS);
    for ip in ips {
        assert_reaches(&lan.hosts[0].ns, ip);
    }
    // At once again, each by itself.
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| plugin.docker().run(&["rm", "--force", name]));
        }
    });
    plugin.returns_to(&with_network);
    plugin.docker().run(&["network", "rm", "many"]);
    plugin.returns_to(&before);
}

/// What a container is known by.
fn identity(container: &Container, network: &str) -> (Ipv4Addr, Mac) {
    (container.ip(network), container.mac(network))
}

#[test]
fn a_container_comes_back_with_its_address_and_mac() {
    let lan = Lan::new(1);
    let (host, plugin) = (&lan.hosts[0], Plugin::start(&lan.hosts[0]));
    let before = plugin.before();
    for ipam in ["default", "maclane"] {
        let more = format!("--gateway 192.168.50.1 --ipam-driver {ipam}");
        plugin.network_on("lan", SUBNET, &more);
        let with_network = plugin.footprint();
        let web = plugin.container("web", "lan", "--ip 192.168.50.101");
        let had = identity(&web, "lan");
        works(host, &web, "lan");
        let running = plugin.footprint();

        web.docker(&["pause"]);
        assert!(ping(&host.ns, had.0, 1, OFTEN).is_clean(), "the kernel answers for it");
        web.docker(&["unpause"]);
        plugin.returns_to(&running);
        for how in [&["restart"][..], &["kill", "start"], &["stop", "start"]] {
            for verb in how {
                web.docker(&[verb]);
                if matches!(*verb, "kill" | "stop") {
                    plugin.has_as_many_as(&with_network);
                }
            }
            assert_eq!(identity(&web, "lan"), had, "{ipam} after {how:?}");
            works(host, &web, "lan");
            plugin.has_as_many_as(&running);
        }
        web.docker(&["rm", "--force"]);
        plugin.returns_to(&with_network);
        plugin.docker().run(&["network", "rm", "lan"]);
        plugin.returns_to(&before);
    }
}

#[test]
fn restart_keeps_the_address_that_maclane_has_chosen() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    plugin.network_on("lan", SUBNET, "--gateway 192.168.50.1 --ipam-driver maclane");
    // At once, before addresses were found ahead.
    let one = plugin.container("one", "lan", "");
    let restart = |container: &Container| {
        let had = identity(container, "lan");
        container.docker(&["restart"]);
        assert_eq!(identity(container, "lan"), had, "{}", container.name());
        works(&lan.hosts[0], container, "lan");
    };
    restart(&one);
    let [two, three] = ["two", "three"].map(|name| plugin.container(name, "lan", ""));
    // Beside a lower address that nobody has any more.
    one.docker(&["rm", "--force"]);
    restart(&two);
    restart(&three);
    restart(&two);
}

#[test]
fn a_container_is_disconnected_and_connected_while_it_runs() {
    let lan = Lan::new(1);
    let (host, plugin) = (&lan.hosts[0], Plugin::start(&lan.hosts[0]));
    let (docker, before) = (plugin.docker(), plugin.before());
    plugin.network_on("one", SUBNET, "--gateway 192.168.50.1");
    plugin.network_on("two", "10.2.0.0/24", "-o kind=veth");
    let with_networks = plugin.footprint();
    let web = plugin.container("web", "one", "--ip 192.168.50.101");
    let had = identity(&web, "one");
    let running = plugin.footprint();
    for _ in 0..2 {
        docker.run(&["network", "disconnect", "one", "web"]);
        plugin.returns_to(&with_networks);
        assert!(!web.ns().has("eth0"));
        docker.run(&["network", "connect", "--ip", "192.168.50.101", "one", "web"]);
        assert_eq!(identity(&web, "one"), had);
        works(host, &web, "one");
        plugin.has_as_many_as(&running);
    }
    // In both.
    docker.run(&["network", "connect", "two", "web"]);
    let other = plugin.container("other", "two", "");
    assert_all_reach(&[(&web.ns(), web.ip("two").into()), (&other.ns(), other.ip("two").into())]);
    works(host, &web, "one");
    for network in ["one", "two"] {
        let refused = docker.fail(&["network", "rm", network]);
        assert!(refused.contains("active endpoints"), "{refused}");
    }
    works(host, &web, "one");
    other.docker(&["rm", "--force"]);
    docker.run(&["network", "disconnect", "--force", "two", "web"]);
    plugin.has_as_many_as(&running);
    // `two` has nobody any more, and goes; `one` stays.
    docker.run(&["network", "prune", "--force"]);
    let networks =
        docker.run(&["network", "ls", "--filter", "driver=maclane", "--format", "{{.Name}}"]);
    assert_eq!(networks, "one");
    works(host, &web, "one");
    web.docker(&["stop"]);
    docker.run(&["container", "prune", "--force"]);
    docker.run(&["network", "prune", "--force"]);
    plugin.returns_to(&before);
}

#[test]
fn containers_go_on_while_maclane_is_started_again() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let mut plugin = Plugin::start(host);
    let before = plugin.before();
    for kind in ["macvlan", "veth"] {
        plugin.network_on("lan", SUBNET, &format!("--gateway 192.168.50.1 -o kind={kind}"));
        let with_network = plugin.footprint();
        let [web, db] = [("web", 101), ("db", 102)]
            .map(|(name, last)| plugin.container(name, "lan", &format!("--ip {}", v4(last))));
        works(host, &web, "lan");
        let (running, children) = (plugin.footprint(), json!(plugin.children()));
        for is_killed in [false, true] {
            let inside = web.ns();
            let pings = [
                Ping::start(&host.ns, v4(101), OFTEN),
                Ping::start(&inside, v4(102), OFTEN),
                Ping::start(&inside, v4(1), OFTEN),
            ];
            if is_killed {
                plugin.daemon.kill9();
            } else {
                plugin.daemon.stop();
            }
            assert_reaches(&inside, v4(102));
            plugin.daemon.launch();
            for ping in pings {
                let result = ping.stop();
                assert!(result.is_clean(), "{kind}, killed: {is_killed}: {result:?}");
            }
            eventually("the children are known again", SOON, || {
                json!(plugin.children()) == children
            });
            plugin.returns_to(&running);
            // Docker finds it there again, for what it already has and for what comes.
            let late = plugin.container("late", "lan", "--ip 192.168.50.103");
            works(host, &late, "lan");
            late.docker(&["rm", "--force"]);
            plugin.returns_to(&running);
        }
        // One that is killed while maclane is down has left nothing when maclane is there again.
        plugin.daemon.kill9();
        let mut killing = plugin.docker().begin(&["kill", db.name()]);
        thread::sleep(Duration::from_millis(500));
        plugin.daemon.launch();
        assert!(killing.wait(SOON).is_some_and(|status| status.success()));
        eventually("it has left", SOON, || plugin.children().len() == 1);
        plugin.docker().run(&["rm", "--force", "web", "db"]);
        plugin.returns_to(&with_network);
        plugin.docker().run(&["network", "rm", "lan"]);
        plugin.returns_to(&before);
    }
}

#[test]
fn unknown_options_are_refused_with_what_was_meant() {
    let lan = Lan::new(1);
    let plugin = Plugin::start(&lan.hosts[0]);
    let (docker, before) = (plugin.docker(), plugin.before());
    let create = ["network", "create", "--driver", "maclane", "--subnet", SUBNET];
    let networks = docker.run(&["network", "ls", "--quiet"]);
    for (more, words) in [
        (&["-o", "parrent=eth0"][..], "did you mean \"parent\"?"),
        (&["-o", "parent=eth0", "-o", "vlans=50"], "did you mean \"vlan\"?"),
        (&["-o", "parent=eth0", "-o", "macvlan-mode=vepa"], "did you mean \"macvlan_mode\"?"),
        (&["-o", "parent=eth0", "-o", "macvlan_mode=fast"], "bridge, vepa, private or passthru"),
        (&["-o", "parent=eth0", "-o", "vlan=4095"], "not a VLAN ID"),
        (&["-o", "parent=eth7"], "eth7"),
        (&["-o", "parent=lo"], "loopback"),
        (&["-o", "parent=eth0", "--ipam-driver", "maclane", "--ipam-opt", "speed=1"], "speed"),
    ] {
        let refused = docker.fail(&[&create[..], more, &["wrong"]].concat());
        assert!(refused.contains(words), "{more:?}: {refused}");
        assert_eq!(docker.run(&["network", "ls", "--quiet"]), networks, "{more:?}");
        plugin.returns_to(&before);
    }
    plugin.network_on("lan", SUBNET, "--gateway 192.168.50.1");
    let with_network = plugin.footprint();
    docker.run(&["create", "--name", "web", "--network", "none", "busybox"]);
    docker.run(&["network", "disconnect", "none", "web"]);
    docker.run(&["network", "connect", "--driver-opt", "vlann=10", "lan", "web"]);
    let refused = docker.fail(&["start", "web"]);
    assert!(
        refused.contains("did you mean \"vlan\"?") || refused.contains("\"vlan\""),
        "{refused}"
    );
    docker.run(&["rm", "web"]);
    plugin.returns_to(&with_network);
    docker.run(&["network", "rm", "lan"]);
    plugin.returns_to(&before);
}

#[test]
fn the_configuration_file_makes_it_a_plugin_and_there_is_one_of_it() {
    let lan = Lan::new(1);
    let mut plugin = Plugin::start_with(&lan.hosts[0], &[]);
    let socket = plugin.docker().room().outside(Path::new("/run/docker/plugins/maclane.sock"));
    assert!(!socket.exists());
    plugin.daemon.configure("docker = true\n");
    plugin.daemon.restart();
    plugin.network_on("lan", SUBNET, "--gateway 192.168.50.1");
    let web = plugin.container("web", "lan", "");
    works(&lan.hosts[0], &web, "lan");
    // A second one on the socket is refused, and the first one does not mind.
    let room = Some(plugin.docker().room().clone());
    let setup = || Setup { room: room.clone(), arguments: &["--docker"], ..Setup::default() };
    let mut second = Daemon::prepare(&lan.hosts[0].ns, setup());
    second.begin();
    assert!(second.wait_for_end(SOON), "it runs");
    let refused = second.log();
    assert!(refused.contains("/run/docker/plugins/maclane.sock"), "{refused}");
    assert!(refused.contains("--docker-socket"), "{refused}");
    web.docker(&["restart"]);
    works(&lan.hosts[0], &web, "lan");
    assert_eq!(plugin.daemon.json(&["parent", "ls"])[0]["iface"], PARENT);
}
