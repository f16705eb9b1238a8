//! What a daemon's life may bring: being killed, and links and namespaces that come and go.

use std::{net::Ipv4Addr, thread, time::Duration};

use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;
use tests::{
    daemon::Daemon,
    eventually, kernel,
    mac::Mac,
    netns::Netns,
    patience,
    tap::Tap,
    tcp::Stream,
    topology::{Lan, Options, PARENT},
    traffic::{Ping, assert_does_not_reach, assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_millis(2);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// A host with a macvlan child (.101), a veth child (.102) and an adopted one (.103).
struct Site {
    macvlan: Netns,
    veth: Netns,
    adopted: Netns,
    daemon: Daemon,
    lan: Lan,
}

impl Site {
    fn new() -> Self {
        let lan = Lan::new(1);
        let daemon = Daemon::start(&lan.hosts[0].ns);
        let (macvlan, veth, adopted) = (lan.namespace(), lan.namespace(), lan.namespace());
        daemon.network("lan", 0, "macvlan");
        daemon.network("lanv", 0, "veth");
        daemon.child("m", "lan", &macvlan, "192.168.50.101/24");
        daemon.child("v", "lanv", &veth, "192.168.50.102/24");
        lan.hosts[0].ns.macvlan(PARENT, "bridge", &adopted, "eth0");
        adopted.address("eth0", "192.168.50.103/24");
        let site = Self { macvlan, veth, adopted, daemon, lan };
        eventually("the third child is adopted", SOON, || site.children().len() == 3);
        site
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    fn children(&self) -> Vec<Value> {
        self.daemon.json(&["child", "ls"]).as_array().cloned().unwrap_or_default()
    }

    #[track_caller]
    fn assert_all_reach(&self) {
        for last in [101, 102, 103] {
            assert_reaches(self.host(), v4(last));
        }
        for child in [&self.macvlan, &self.veth, &self.adopted] {
            assert_reaches(child, self.lan.router.ip);
            assert_reaches(child, self.lan.hosts[0].ip);
        }
        assert_reaches(&self.macvlan, v4(102));
        assert_reaches(&self.adopted, v4(101));
        assert_reaches(&self.veth, v4(103));
    }

    /// Programs of TC on the parent, as the kernel lists them.
    fn programs_on_parent(&self) -> usize {
        if !kernel::has_tcx() {
            let filters = |hook| self.host().run(&["tc", "filter", "show", "dev", PARENT, hook]);
            return ["ingress", "egress"]
                .map(|hook| filters(hook).matches("handle 0x1").count())
                .iter()
                .sum();
        }
        let count = |hook| SchedClassifier::query_tcx(PARENT, hook).expect("a query").1.len();
        self.host().enter(|| count(TcAttachType::Ingress) + count(TcAttachType::Egress))
    }

    fn rx_of(&self, name: &str) -> u64 {
        let stats = self.daemon.json(&["stats"]);
        let ports = stats[0]["ports"].as_array().cloned().unwrap_or_default();
        let port = ports.iter().find(|port| port["name"] == name).expect("a port of this name");
        port["rx_packets"].as_u64().expect("a number")
    }

    #[track_caller]
    fn state_of(&self, name: &str) -> Value {
        self.daemon.inspect(name)["state"].clone()
    }
}

#[test]
fn killed_under_load_it_loses_no_frame_and_finds_everything_as_it_was() {
    let mut site = Site::new();
    site.assert_all_reach();
    let before = site.children();
    let rx = site.rx_of("m");
    assert_eq!(site.programs_on_parent(), 2);
    let pings = [
        Ping::start(site.host(), v4(101), OFTEN),
        Ping::start(site.host(), v4(102), OFTEN),
        Ping::start(&site.adopted, v4(101), OFTEN),
        Ping::start(&site.veth, site.lan.router.ip, OFTEN),
    ];
    let streams = [
        Stream::start(&site.macvlan, site.host(), v4(101)),
        Stream::start(&site.lan.router.ns, &site.veth, site.lan.router.ip),
    ];
    thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        site.daemon.kill9();
        thread::sleep(Duration::from_millis(300));
        site.daemon.launch();
        thread::sleep(Duration::from_millis(300));
    }
    for ping in pings {
        let result = ping.stop();
        assert!(result.sent > 200 && result.is_clean(), "{result:?}");
    }
    for stream in streams {
        let result = stream.stop();
        assert!(result.error.is_none() && result.bytes > 0, "{result:?}");
        assert!(result.longest_stall < patience(Duration::from_millis(200)), "{result:?}");
    }
    assert_eq!(site.children(), before);
    assert!(site.rx_of("m") > rx, "counters go on");
    assert_eq!(site.programs_on_parent(), 2, "nothing is attached twice");
    site.assert_all_reach();
}

#[test]
fn stopped_it_leaves_the_dataplane_and_started_again_it_takes_over_what_happened() {
    let mut site = Site::new();
    site.daemon.run(&["child", "set", "m", "--trust", "mac"]);
    site.daemon.stop();
    site.assert_all_reach();
    site.adopted.delete("eth0");
    site.macvlan.set_mac("eth0", Mac([2, 0, 0x5e, 0, 0x53, 0x77]));
    let late = site.lan.namespace();
    site.host().macvlan(PARENT, "bridge", &late, "eth0");
    late.address("eth0", "192.168.50.104/24");
    site.daemon.launch();
    // The host has to find out about the MAC.
    site.host().ip("neigh flush all");
    assert_reaches(site.host(), v4(101));
    assert_reaches(site.host(), v4(104));
    assert_eq!(site.daemon.inspect("m")["mac"], "02:00:5e:00:53:77");
    assert_eq!(site.children().len(), 3);
}

#[test]
fn a_parent_that_goes_down_comes_back() {
    let site = Site::new();
    site.host().down(PARENT);
    eventually("the parent is shown down", SOON, || {
        site.daemon.json(&["parent", "show", PARENT])["state"] == "down"
    });
    site.host().up(PARENT);
    eventually("the host reaches the child again", SOON, || {
        ping(site.host(), v4(101), 1, OFTEN).is_clean()
    });
    site.assert_all_reach();
}

#[test]
fn a_parent_that_is_renamed_goes_on() {
    let mut site = Site::new();
    site.host().down(PARENT);
    site.host().rename(PARENT, "lan7");
    site.host().up("lan7");
    eventually("the new name is shown", SOON, || {
        let parent = site.daemon.json(&["parent", "show", PARENT]);
        parent["problems"].to_string().contains("lan7")
    });
    site.assert_all_reach();
    site.daemon.restart();
    site.assert_all_reach();
    assert_eq!(site.daemon.json(&["parent", "show", PARENT])["state"], "up");
}

#[test]
fn a_parent_that_is_made_anew_gets_its_children_back() {
    let site = Site::new();
    let old = site.host().ifindex(PARENT);
    let macs = [site.macvlan.mac("eth0"), site.veth.mac("eth0")];
    site.host().delete(PARENT);
    eventually("the children are gone", SOON, || {
        site.state_of("m") == "gone" && site.state_of("v") == "gone"
    });
    assert_eq!(site.daemon.json(&["parent", "show", PARENT])["state"], "missing");
    // Another index than before.
    site.host().veth("spare0", &site.lan.wire, "spare1");
    site.host().veth(PARENT, &site.lan.wire, "again");
    site.lan.wire.enslave("again", "wire");
    site.host().address(PARENT, "192.168.50.10/24");
    assert_ne!(site.host().ifindex(PARENT), old);
    eventually("the children are up", SOON, || {
        site.state_of("m") == "up" && site.state_of("v") == "up"
    });
    assert_eq!([site.macvlan.mac("eth0"), site.veth.mac("eth0")], macs);
    assert_reaches(site.host(), v4(101));
    assert_reaches(site.host(), v4(102));
    assert_reaches(&site.macvlan, v4(102));
    assert_reaches(&site.lan.router.ns, v4(101));
}

#[test]
fn a_child_that_is_deleted_from_inside_is_made_again() {
    let site = Site::new();
    let mac = site.macvlan.mac("eth0");
    for ns in [&site.macvlan, &site.veth] {
        ns.delete("eth0");
        eventually("the link is there again", SOON, || ns.has("eth0"));
    }
    eventually("both are up", SOON, || site.state_of("m") == "up" && site.state_of("v") == "up");
    assert_eq!(site.macvlan.mac("eth0"), mac);
    site.assert_all_reach();
}

#[test]
fn a_child_whose_namespace_is_gone_is_shown_so_and_can_be_removed() {
    let site = Site::new();
    let Site { macvlan, veth, adopted: _adopted, daemon, lan } = site;
    let mac = macvlan.mac("eth0").to_string();
    drop((macvlan, veth));
    eventually("both are gone", SOON, || {
        ["m", "v"].iter().all(|child| daemon.inspect(child)["state"] == "no namespace")
    });
    let fdb = daemon.run(&["fdb", "ls"]);
    assert!(!fdb.contains(&mac), "{fdb}");
    assert_does_not_reach(&lan.hosts[0].ns, v4(101));
    assert_reaches(&lan.hosts[0].ns, v4(103));
    daemon.run(&["child", "rm", "m"]);
    daemon.run(&["child", "rm", "v"]);
    daemon.run(&["network", "rm", "lan"]);
}

#[test]
fn a_changed_mac_is_followed() {
    let site = Site::new();
    // A child whose security enforces keeps its MAC (`security/identity.rs`).
    for name in ["m", "v"] {
        site.daemon.run(&["child", "set", name, "--trust", "mac"]);
    }
    for (ns, name, mac, last) in [
        (&site.macvlan, "m", 0x61, 101),
        (&site.veth, "v", 0x62, 102),
        (&site.adopted, "", 0x63, 103),
    ] {
        let mac = Mac([2, 0, 0x5e, 0, 0x53, mac]);
        ns.set_mac("eth0", mac);
        eventually("the new MAC is shown", SOON, || {
            site.children().iter().any(|child| {
                child["mac"] == mac.to_string() && (name.is_empty() || child["name"] == name)
            })
        });
        eventually("the host reaches it", SOON, || {
            ping(site.host(), v4(last), 1, OFTEN).is_clean()
        });
    }
    site.assert_all_reach();
}

#[test]
fn a_child_that_takes_the_mac_of_the_host_or_of_another_gets_nothing() {
    let site = Site::new();
    let own = site.veth.mac("eth0");
    for stolen in [site.lan.hosts[0].mac, site.macvlan.mac("eth0")] {
        site.veth.set_mac("eth0", stolen);
        eventually("it is noticed", SOON, || {
            let parent = site.daemon.json(&["parent", "show", PARENT]);
            parent["problems"].to_string().contains(&stolen.to_string())
        });
        assert_eq!(site.daemon.inspect("v")["mac"], own.to_string());
        let dropped = site.daemon.drops("source_mac");
        assert_does_not_reach(&site.veth, site.lan.router.ip);
        assert!(site.daemon.drops("source_mac") > dropped);
        // Nobody else notices.
        assert_reaches(site.host(), site.lan.router.ip);
        assert_reaches(site.host(), v4(101));
        assert_reaches(&site.macvlan, site.lan.router.ip);
        site.veth.set_mac("eth0", own);
        eventually("it is well again", SOON, || {
            let parent = site.daemon.json(&["parent", "show", PARENT]);
            parent["problems"] == serde_json::json!([])
        });
    }
    site.assert_all_reach();
}

#[test]
fn parent_rm_force_leaves_nothing_behind() {
    let site = Site::new();
    let macs = [&site.macvlan, &site.veth].map(|ns| ns.mac("eth0").to_string());
    let (code, message) = site.daemon.fail(&["parent", "rm", PARENT]);
    assert_eq!(code, 1);
    assert!(message.contains("lan") && message.contains("--force"), "{message}");
    site.assert_all_reach();
    site.daemon.run(&["parent", "rm", PARENT, "--force"]);
    assert!(!site.macvlan.has("eth0") && !site.veth.has("eth0"));
    assert!(site.adopted.has("eth0"), "what somebody else made stays");
    assert_reaches(&site.adopted, site.lan.router.ip);
    assert_eq!(site.programs_on_parent(), 0);
    assert!(!site.daemon.bpffs().join("maclane").exists());
    let links = site.host().run(&["ip", "-br", "link"]);
    assert!(!links.contains("ml-"), "{links}");
    let filter = site.host().run(&["bridge", "fdb", "show", "dev", PARENT]);
    let stays = macs.iter().any(|mac| filter.contains(mac));
    assert!(!stays, "a MAC of ours stays in the parent's filter: {filter}");
    assert_eq!(site.daemon.json(&["child", "ls"]), serde_json::json!([]));
}

#[test]
fn a_foreign_xdp_program_is_never_displaced() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let daemon = Daemon::start(host);
    let pin = daemon.bpffs().join("foreign");
    let object = tests::daemon::objects().0;
    let pin = pin.to_str().expect("a name in ASCII");
    let load = ["bpftool", "prog", "loadall", object.to_str().expect("a path in UTF-8"), pin];
    host.run(&load);
    let program = format!("{pin}/maclane_xdp");
    host.run(&["bpftool", "net", "attach", "xdpgeneric", "pinned", &program, "dev", PARENT]);
    let attached = || host.run(&["bpftool", "net", "show", "dev", PARENT]);
    let before = attached();
    for mode in ["generic", "native"] {
        let (code, message) = daemon.fail(&["parent", "add", PARENT, "--xdp", mode]);
        assert_eq!(code, 1);
        assert!(message.contains("not maclane's") && message.contains("--xdp off"), "{message}");
        assert_eq!(attached(), before, "nothing has changed");
        assert_eq!(daemon.json(&["parent", "ls"]), serde_json::json!([]));
    }
    daemon.run(&["parent", "add", PARENT]);
    assert!(attached().contains("xdp"), "it is still there");
    daemon.run(&["parent", "rm", PARENT]);
    assert!(attached().contains("xdp"), "it is still there");
}

#[test]
fn native_xdp_stays_attached_while_the_daemon_is_away_and_serves_children_made_before_it() {
    let lan = Lan::with(Options { vlan_offload: false, ..Options::default() });
    let host = &lan.hosts[0];
    let mut daemon = Daemon::start(&host.ns);
    daemon.network("lanv", 0, "veth");
    let ns = lan.namespace();
    daemon.child("v", "lanv", &ns, "192.168.50.101/24");
    daemon.run(&["parent", "add", PARENT, "--xdp", "native"]);
    let parent = daemon.json(&["parent", "show", PARENT]);
    assert_eq!(
        (&parent["xdp_attached"], &parent["problems"]),
        (&"native".into(), &serde_json::json!([]))
    );
    // What native XDP sends on, a tap on the parent does not hear.
    let by_xdp = |daemon: &Daemon| {
        let tap = Tap::open(&host.ns, PARENT);
        assert_reaches(&lan.router.ns, v4(101));
        let mac: Mac = daemon.inspect("v")["mac"].as_str().expect("a MAC").parse().expect("a MAC");
        tap.collect(Duration::from_millis(20)).iter().all(|f| f.destination != mac)
    };
    eventually("XDP serves the child", SOON, || by_xdp(&daemon));
    let ping = Ping::start(&lan.router.ns, v4(101), OFTEN);
    daemon.kill9();
    thread::sleep(Duration::from_millis(200));
    daemon.launch();
    eventually("XDP serves the child", SOON, || by_xdp(&daemon));
    let result = ping.stop();
    assert!(result.sent > 100 && result.is_clean(), "{result:?}");
    daemon.run(&["parent", "add", PARENT, "--xdp", "off"]);
    assert_eq!(daemon.json(&["parent", "show", PARENT])["xdp_attached"], "off");
    assert!(!host.ns.run(&["ip", "link", "show", PARENT]).contains("xdp"));
    assert_reaches(&lan.router.ns, v4(101));
}

#[test]
fn clsact_serves_where_tcx_is_missing() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let mut daemon = Daemon::start_with(&host.ns, &["--tc", "clsact"]);
    daemon.network("lan", 10, "macvlan");
    daemon.network("lanv", 10, "veth");
    let (a, b, c) = (lan.namespace(), lan.namespace(), lan.namespace());
    daemon.child("a", "lan", &a, "192.168.50.101/24");
    daemon.child("b", "lan", &b, "192.168.50.102/24");
    daemon.child("c", "lanv", &c, "192.168.50.103/24");
    assert_eq!(daemon.json(&["parent", "show", PARENT])["tc"], "clsact");
    assert_eq!(daemon.inspect("a")["identity"], "mac");
    let check = || {
        assert_reaches(&a, v4(102));
        assert_reaches(&a, v4(103));
        assert_reaches(&c, v4(102));
        assert_does_not_reach(&a, host.ip);
    };
    check();
    let filters = || host.ns.run(&["tc", "filter", "show", "dev", PARENT, "ingress"]);
    let before = filters();
    daemon.kill9();
    check();
    daemon.launch();
    check();
    assert_eq!(filters().matches("handle 0x1").count(), 1, "{before} {}", filters());
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    let qdisc = host.ns.run(&["tc", "qdisc", "show", "dev", PARENT]);
    assert!(!qdisc.contains("clsact"), "{qdisc}");
}
