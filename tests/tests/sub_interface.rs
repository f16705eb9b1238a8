//! Parents that are 802.1Q sub-interfaces which maclane makes, and removes, by itself.
//!
//! What needs a kernel that has them says so where it has not.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    daemon::{Daemon, Setup},
    eventually,
    failpoints::Failpoints,
    footprint::footprint,
    kernel,
    netns::Netns,
    topology::{Host, Lan, PARENT},
    traffic::{assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(15);
const OFTEN: Duration = Duration::from_millis(10);

/// The sub-interface of most tests.
const SUB: &str = "eth0.50";

/// An address of the LAN in VLAN 50.
fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 50, 0, last).into()
}

/// Gives a host a sub-interface in VLAN 50 by hand, and an address there.
fn sub_interface(host: &Host, last: u8) {
    host.ns.ip(&format!("link add link {PARENT} name {SUB} type vlan id 50"));
    host.ns.up(SUB);
    host.ns.address(SUB, &format!("{}/24", v4(last)));
}

/// `maclane network create NAME --parent PARENT MORE`.
#[track_caller]
fn create(daemon: &Daemon, name: &str, parent: &str, more: &str) {
    let mut words = vec!["network", "create", name, "--parent", parent];
    words.extend(more.split_whitespace());
    daemon.run(&words);
}

/// The VLAN of a sub-interface of the host's parent, if it is one and up.
fn vlan_of(host: &Netns, ifname: &str) -> Option<u64> {
    if !host.has(ifname) {
        return None;
    }
    let link = host.link(ifname);
    let is_up = link["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP")));
    let id = link["linkinfo"]["info_data"]["id"].as_u64();
    id.filter(|_| is_up && link["link"] == PARENT && link["linkinfo"]["info_kind"] == "vlan")
}

/// All that a daemon knows.
fn known(daemon: &Daemon) -> [Value; 3] {
    ["parent", "network", "child"].map(|what| daemon.json(&[what, "ls"]))
}

/// A host with the networks `m` (macvlan, child .101) and `v` (veth, child .102) on a sub-interface
/// that maclane makes; the host is .10 there and the router .1.
struct Site {
    children: [Netns; 2],
    daemon: Daemon,
    lan: Lan,
}

impl Site {
    fn new() -> Self {
        let lan = Lan::new(1);
        sub_interface(&lan.router, 1);
        let daemon = Daemon::start(&lan.hosts[0].ns);
        let children = [lan.namespace(), lan.namespace()];
        create(&daemon, "m", SUB, "");
        create(&daemon, "v", SUB, "--kind veth");
        daemon.child("m", "m", &children[0], "10.50.0.101/24");
        daemon.child("v", "v", &children[1], "10.50.0.102/24");
        Self { children, daemon, lan }
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    #[track_caller]
    fn works_soon(&self) {
        eventually("the children have their links", SOON, || {
            let has_address = |ns: &Netns| ns.ip("-br -4 address").contains("10.50.0.");
            self.children.iter().all(has_address)
        });
        for (from, to) in [
            (&self.children[0], v4(1)),
            (&self.children[1], v4(1)),
            (&self.children[0], v4(102)),
            (&self.lan.router.ns, v4(101)),
        ] {
            eventually(&format!("{} reaches {to}", from.name()), SOON, || {
                ping(from, to, 1, OFTEN).is_clean()
            });
            assert_reaches(from, to);
        }
    }
}

#[test]
fn bad_names_of_sub_interfaces_are_refused_and_change_nothing() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let host = &lan.hosts[0].ns;
    let before = (known(&daemon), host.ip("-br link"));
    for (name, code, words) in [
        ("eth0.0", 2, "\"0\" is not a VLAN ID"),
        ("eth0.4095", 2, "use 1 to 4094, as in eth0.50"),
        ("eth0.5000", 2, "\"5000\" is not a VLAN ID"),
        ("eth0.x", 2, "\"x\" is not a VLAN ID"),
        ("eth0.050", 2, "\"050\" is not a VLAN ID"),
        ("eth0.", 2, "is not a VLAN ID"),
        ("eth9.50", 3, "no \"eth9\" on which maclane could make it"),
        ("eth9.x", 3, "no \"eth9\" on which maclane could make it"),
        ("lo.50", 2, "it is a loopback"),
    ] {
        for command in [&["parent", "add", name][..], &["network", "create", "n", "--parent", name]]
        {
            let (exit, message) = daemon.fail(command);
            assert_eq!(exit, code, "{name}: {message}");
            assert!(message.contains(words), "{name}: {message}");
        }
    }
    assert_eq!((known(&daemon), host.ip("-br link")), before);
}

#[test]
fn a_kernel_without_8021q_says_so_and_what_to_do() {
    if !kernel::lacks("vlan") {
        eprintln!("skipped: Linux {} has 802.1Q sub-interfaces", kernel::release());
        return;
    }
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let empty = known(&daemon);
    let why = "there is no interface eth0.50, and this kernel has no 802.1Q sub-interfaces (8021q); \
               use --parent eth0 --vlan 50";
    for (command, doing) in [
        (&["network", "create", "x", "--parent", SUB][..], "cannot create network \"x\""),
        (&["parent", "add", SUB], "cannot add parent \"eth0.50\""),
    ] {
        let (code, message) = daemon.fail(command);
        assert_eq!((code, message.trim()), (1, format!("error: {doing}: {why}").as_str()));
        assert_eq!(known(&daemon), empty);
    }
    let mut daemon = daemon;
    daemon.restart();
    assert_eq!(known(&daemon), empty);
    create(&daemon, "x", PARENT, "--vlan 50");
}

#[test]
fn a_network_makes_its_sub_interface_and_takes_it_away() {
    if kernel::lacks("vlan") {
        return;
    }
    let site = Site::new();
    let (host, daemon) = (site.host(), &site.daemon);
    assert_eq!(vlan_of(host, SUB), Some(50));
    let parent = daemon.json(&["parent", "show", SUB]);
    assert_eq!((&parent["made"], &parent["problems"]), (&json!(true), &json!([])), "{parent}");
    host.address(SUB, "10.50.0.10/24");
    site.works_soon();
    for child in &site.children {
        assert_reaches(child, v4(10));
    }
    for (name, stays) in [("m", true), ("v", false)] {
        daemon.run(&["child", "rm", name]);
        daemon.run(&["network", "rm", name]);
        assert_eq!(host.has(SUB), stays, "after network {name}");
    }
    assert_eq!(daemon.json(&["parent", "ls"]), json!([]));
    // One that was added by itself stays without networks.
    daemon.run(&["parent", "add", SUB]);
    create(daemon, "m", SUB, "");
    daemon.run(&["network", "rm", "m"]);
    assert_eq!(vlan_of(host, SUB), Some(50));
    daemon.run(&["parent", "rm", SUB]);
    assert!(!host.has(SUB));
    // So does one that is added once more.
    create(daemon, "m", SUB, "");
    daemon.run(&["parent", "add", SUB]);
    daemon.run(&["network", "rm", "m"]);
    assert!(host.has(SUB));
    create(daemon, "m", SUB, "");
    daemon.run(&["parent", "rm", SUB, "--force"]);
    assert!(!host.has(SUB));
    assert_eq!(known(daemon), [json!([]), json!([]), json!([])]);
}

#[test]
fn a_sub_interface_that_others_have_made_or_use_stays() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let daemon = Daemon::start(host);
    // There before.
    sub_interface(&lan.hosts[0], 10);
    create(&daemon, "n", SUB, "");
    assert_eq!(daemon.json(&["parent", "show", SUB])["made"], false);
    daemon.run(&["network", "rm", "n"]);
    daemon.run(&["parent", "rm", SUB]);
    assert_eq!(vlan_of(host, SUB), Some(50));
    // Of another name.
    host.delete(SUB);
    host.ip(&format!("link add link {PARENT} name office type vlan id 50"));
    let (code, message) = daemon.fail(&["network", "create", "n", "--parent", SUB]);
    assert_eq!(code, 1, "{message}");
    assert!(
        message.contains("has the sub-interface office already; use --parent office"),
        "{message}"
    );
    host.delete("office");
    // Somebody else's child sits on it.
    create(&daemon, "n", SUB, "");
    let theirs = lan.namespace();
    host.macvlan(SUB, "bridge", &theirs, "eth0");
    daemon.run(&["network", "rm", "n"]);
    assert!(theirs.has("eth0") && host.has(SUB));
    assert_eq!(known(&daemon), [json!([]), json!([]), json!([])]);
    assert!(daemon.log().contains("used by a child that somebody else made"), "{}", daemon.log());
    host.delete(SUB);
    // A trunk would lose its VLAN.
    create(&daemon, "t", PARENT, "");
    let trunk = lan.namespace();
    daemon.child_with("t", "t", &trunk, &["--trunk", "50,51"]);
    let (code, message) = daemon.fail(&["network", "create", "n", "--parent", SUB]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("macvlan trunk of VLAN 50") && !host.has(SUB), "{message}");
}

#[test]
fn a_sub_interface_that_somebody_deletes_is_made_again_and_one_that_is_replaced_stays() {
    if kernel::lacks("vlan") {
        return;
    }
    let site = Site::new();
    let host = site.host();
    let before = host.ifindex(SUB);
    host.delete(SUB);
    eventually("it is there again", SOON, || vlan_of(host, SUB) == Some(50));
    assert_ne!(host.ifindex(SUB), before);
    site.works_soon();
    // With its base it comes and goes.
    host.down(PARENT);
    host.up(PARENT);
    site.works_soon();
    site.daemon.freeze(true);
    host.delete(SUB);
    host.veth(SUB, &site.lan.wire, "theirs");
    site.daemon.freeze(false);
    let problems = || site.daemon.json(&["parent", "show", SUB])["problems"].to_string();
    eventually("it is shown", SOON, || problems().contains("into the place of eth0.50"));
    site.daemon.run(&["parent", "rm", SUB, "--force"]);
    assert_eq!(host.link(SUB)["linkinfo"]["info_kind"], "veth");
    assert_eq!(known(&site.daemon), [json!([]), json!([]), json!([])]);
}

#[test]
fn after_a_reboot_a_sub_interface_is_made_when_its_base_is_there() {
    if kernel::lacks("vlan") {
        return;
    }
    let mut site = Site::new();
    site.works_soon();
    let macs = site.children.each_ref().map(|ns| ns.mac("eth0"));
    site.daemon.kill9();
    // The sub-interface goes with it.
    site.host().delete(PARENT);
    fs::remove_dir_all(site.daemon.bpffs().join("maclane")).expect("there are pins");
    site.daemon.launch();
    assert_eq!(site.daemon.json(&["parent", "show", SUB])["state"], "missing");
    let host = &site.lan.hosts[0].ns;
    host.veth(PARENT, &site.lan.wire, "again");
    site.lan.wire.enslave("again", "wire");
    eventually("it is there again", SOON, || vlan_of(host, SUB) == Some(50));
    site.works_soon();
    assert_eq!(site.children.each_ref().map(|ns| ns.mac("eth0")), macs);
    assert_eq!(site.daemon.json(&["parent", "show", SUB])["problems"], json!([]));
}

#[test]
fn a_sub_interface_whose_base_is_down_is_an_error_first_and_a_problem_later() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    host.down(PARENT);
    let (code, message) = daemon.fail(&["network", "create", "n", "--parent", SUB]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("eth0 is down; bring it up first"), "{message}");
    assert!(!host.has(SUB));
    assert_eq!(known(&daemon), [json!([]), json!([]), json!([])]);
    host.up(PARENT);
    create(&daemon, "n", SUB, "");
    daemon.stop();
    host.delete(SUB);
    host.down(PARENT);
    daemon.launch();
    let problems = daemon.json(&["parent", "show", SUB])["problems"].to_string();
    assert!(problems.contains("eth0 is down"), "{problems}");
    host.up(PARENT);
    eventually("it is there again", SOON, || vlan_of(host, SUB) == Some(50));
    eventually("no problem is left", SOON, || {
        daemon.json(&["parent", "show", SUB])["problems"] == json!([])
    });
}

/// Network on `eth0` in VLAN 50 and on `eth0.50`: one VLAN, two parents.
#[test]
fn children_in_a_vlan_and_on_its_sub_interface_reach_each_other() {
    if kernel::lacks("vlan") {
        return;
    }
    let site = Site::new();
    let daemon = &site.daemon;
    site.host().address(SUB, "10.50.0.10/24");
    create(daemon, "m50", PARENT, "--vlan 50 --subnet 10.50.0.0/24 --gateway none --no-probe");
    create(daemon, "v50", PARENT, "--vlan 50 --kind veth");
    daemon.run(&["parent", "add", PARENT, "--unknown", "drop"]);
    let below = [site.lan.namespace(), site.lan.namespace()];
    daemon.child("m50", "m50", &below[0], "10.50.0.103/24");
    daemon.child("v50", "v50", &below[1], "10.50.0.104/24");
    let all = [&site.children[0], &site.children[1], &below[0], &below[1]];
    for (from, own) in all.iter().zip(101..) {
        for to in [1, 10, 101, 102, 103, 104].into_iter().filter(|to| *to != own) {
            eventually(&format!(".{own} reaches .{to}"), SOON, || {
                ping(from, v4(to), 1, OFTEN).is_clean()
            });
            assert_reaches(from, v4(to));
        }
    }
    for last in 101..=104 {
        // Whoever asks for them finds those behind the upper parent, too.
        site.lan.router.ns.ip("neigh flush all");
        assert_reaches(&site.lan.router.ns, v4(last));
        assert_reaches(site.host(), v4(last));
    }
    // They are on one LAN, and have one stock of addresses.
    let taken = ["child", "add", "x", "--network", "m50", "--netns", site.lan.wire.name()];
    let (_, message) = daemon.fail(&[&taken[..], &["--ip", "10.50.0.101"]].concat());
    assert!(message.contains("already used by child \"m\" (network m)"), "{message}");
    let (_, message) =
        daemon.fail(&["network", "create", "o", "--parent", SUB, "--subnet", "10.50.0.0/25"]);
    assert!(message.contains("overlaps with 10.50.0.0/24 of network m50"), "{message}");
    daemon.run(&["parent", "rm", SUB, "--force"]);
    assert!(!site.host().has(SUB));
    assert_reaches(&below[0], v4(104));
    assert_reaches(&below[1], v4(1));
}

#[test]
fn killed_anywhere_a_sub_interface_is_made_or_gone_and_never_stale() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let points = Failpoints::new();
    let mut daemon =
        Daemon::start_as(host, Setup { environment: Some(points.variable()), ..Setup::default() });
    let create = ["network", "create", "n", "--parent", SUB];
    let remove = ["network", "rm", "n"];
    let before = footprint(&daemon, host, &[]);
    for removes in [false, true] {
        let prepare = |daemon: &Daemon| {
            if removes {
                daemon.run(&create);
            }
            points.wait_for_quiet();
        };
        let operation: &[&str] = if removes { &remove } else { &create };
        prepare(&daemon);
        points.clear();
        daemon.run(operation);
        let wanted = |name: &str| name.starts_with("sub_") || name.starts_with("store.");
        let reached = points.reached().into_iter().filter(|(name, _)| wanted(name));
        let reached: Vec<_> = reached.collect();
        assert!(reached.len() > 2, "{reached:?}");
        if !removes {
            daemon.run(&remove);
        }
        for at in reached {
            prepare(&daemon);
            points.kill_at(&at);
            let _ = daemon.cli(operation);
            assert!(daemon.wait_for_end(Duration::from_secs(5)), "it does not die at {at:?}");
            points.clear();
            daemon.launch();
            let there = daemon.json(&["network", "ls"]) != json!([]);
            let agrees = || {
                let parents = daemon.json(&["parent", "ls"]) != json!([]);
                (parents, host.has(SUB)) == (there, there)
            };
            eventually(&format!("killed at {at:?}: link and records agree"), SOON, agrees);
            if there {
                daemon.run(&remove);
            }
            let left = footprint(&daemon, host, &[]);
            assert_eq!(left, before, "killed at {at:?}");
        }
    }
}

#[test]
fn a_declared_sub_interface_comes_with_the_file_and_goes_with_it() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let (host, mut daemon) = (&lan.hosts[0].ns, Daemon::start(&lan.hosts[0].ns));
    daemon.configure("[network.fifty]\nparent = \"eth0.50\"\n");
    daemon.run(&["reload"]);
    assert_eq!(vlan_of(host, SUB), Some(50));
    assert_eq!(daemon.run(&["reload"]), "nothing to do\n");
    // It is what a backup remembers, too.
    let backup: Value = serde_json::from_str(&daemon.run(&["export"])).expect("JSON");
    assert_eq!(backup["made"][SUB]["vlan"], 50, "{backup}");
    daemon.kill9();
    host.delete(SUB);
    daemon.launch();
    eventually("it is made again", SOON, || vlan_of(host, SUB) == Some(50));
    daemon.configure("");
    daemon.run(&["reload"]);
    assert!(!host.has(SUB));
    assert_eq!(known(&daemon), [json!([]), json!([]), json!([])]);
}

#[test]
fn a_backup_brings_a_sub_interface_back() {
    if kernel::lacks("vlan") {
        return;
    }
    let site = Site::new();
    let host = site.host();
    let backup = site.daemon.run(&["export"]);
    let file = site.daemon.state_dir().join("backup.json");
    fs::write(&file, backup).expect("the folder can be written to");
    site.daemon.run(&["parent", "rm", SUB, "--force"]);
    assert!(!host.has(SUB));
    site.daemon.run(&["import", file.to_str().expect("a path in UTF-8")]);
    assert_eq!(vlan_of(host, SUB), Some(50));
    site.works_soon();
    // Made for networks, it goes with the last of them.
    for name in ["m", "v"] {
        site.daemon.run(&["child", "rm", name]);
        site.daemon.run(&["network", "rm", name]);
    }
    assert!(!host.has(SUB));
}
