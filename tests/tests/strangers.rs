//! What is not maclane's stays as it is, and a daemon that is killed at a bad moment goes on.

use std::{net::Ipv4Addr, process::Command, thread, time::Duration};

use tests::{
    daemon::Daemon,
    eventually,
    mac::Mac,
    netns::Netns,
    topology::{Lan, PARENT},
    traffic::assert_reaches,
};

const SOON: Duration = Duration::from_secs(5);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

#[test]
fn a_link_of_the_same_name_is_not_taken_for_a_child() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    daemon.network("lan", 0, "macvlan");
    let ns = lan.namespace();
    daemon.child("u", "lan", &ns, "192.168.50.101/24");
    daemon.stop();
    ns.delete("eth0");
    let theirs = host.macvlan(PARENT, "bridge", &ns, "eth0");
    daemon.launch();
    eventually("it is adopted", SOON, || {
        daemon.run(&["child", "ls"]).contains(&format!("{PARENT}/{theirs}"))
    });
    assert_eq!(daemon.inspect("u")["state"], "gone");
    daemon.run(&["child", "rm", "u"]);
    assert_eq!(ns.mac("eth0"), theirs, "it is still there");
}

#[test]
fn the_child_of_a_process_is_not_made_in_the_namespace_of_another() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("lan", 0, "macvlan");
    let mut process =
        Command::new("unshare").args(["--net", "sleep", "60"]).spawn().expect("it starts");
    let pid = format!("pid:{}", process.id());
    // Until `unshare` has done its work.
    thread::sleep(Duration::from_millis(200));
    daemon.run(&["child", "add", "p", "--network", "lan", "--netns", &pid]);
    process.kill().expect("it can be ended");
    process.wait().expect("it has ended");
    // The kernel gives the number of the dead namespace to one of these.
    let strangers: Vec<Netns> = (0..20).map(|_| lan.namespace()).collect();
    eventually("the child is gone", SOON, || daemon.inspect("p")["state"] == "no namespace");
    thread::sleep(Duration::from_millis(1500));
    assert!(strangers.iter().all(|ns| !ns.has("eth0")), "a stranger has got the child");
    daemon.run(&["child", "rm", "p"]);
}

#[test]
fn a_mac_that_somebody_put_into_the_filter_is_no_child() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let daemon = Daemon::start(host);
    daemon.run(&["parent", "add", PARENT]);
    let mac = lan.router.mac.to_string();
    host.run(&["bridge", "fdb", "add", &mac, "dev", PARENT, "self", "permanent"]);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.json(&["child", "ls"]), serde_json::json!([]));
    assert_reaches(host, lan.router.ip);
}

#[test]
fn adopted_children_keep_their_ports_over_a_restart_and_share_none() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    daemon.run(&["parent", "add", PARENT]);
    let make = |mac: u8, last: u8| {
        let ns = lan.namespace();
        host.macvlan(PARENT, "bridge", &ns, "eth0");
        ns.set_mac("eth0", Mac([2, 0, 0x5e, 0, 0x53, mac]));
        ns.address("eth0", &format!("192.168.50.{last}/24"));
        ns
    };
    let count =
        |daemon: &Daemon| daemon.json(&["child", "ls"]).as_array().cloned().unwrap_or_default();
    let old = make(0x50, 101);
    let has = |daemon: &Daemon, mac: &str| count(daemon).iter().any(|c| c["mac"] == mac);
    eventually("it is adopted", SOON, || has(&daemon, "02:00:5e:00:53:50"));
    let port = count(&daemon)[0]["port"].clone();
    daemon.stop();
    let new = make(0x10, 102);
    daemon.launch();
    eventually("both are adopted", SOON, || count(&daemon).len() == 2);
    let ports: Vec<_> = count(&daemon).iter().map(|child| child["port"].clone()).collect();
    assert_ne!(ports[0], ports[1]);
    assert!(ports.contains(&port), "the old one has another port than {port}: {ports:?}");
    for (ns, last) in [(&old, 101), (&new, 102)] {
        assert_reaches(host, v4(last));
        assert_reaches(ns, lan.router.ip);
    }
}

#[test]
fn killed_in_the_middle_of_child_add_it_finishes_or_forgets() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    daemon.network("macvlan", 0, "macvlan");
    daemon.network("veth", 0, "veth");
    for (number, wait) in (0..16).map(|n| (n, 2 + u64::from(n) * 3)) {
        let kind = if number % 2 == 0 { "macvlan" } else { "veth" };
        let ns = lan.namespace();
        let name = format!("c{number}");
        let ip = format!("192.168.50.{}/24", 100 + number);
        let mut add = Command::new("nsenter")
            .arg(format!("--net={}", host.path().display()))
            .arg(tests::daemon::binary())
            .arg("--socket")
            .arg(daemon.socket())
            .args(["child", "add", &name, "--network", kind, "--netns", ns.name(), "--ip", &ip])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        thread::sleep(Duration::from_millis(wait));
        daemon.kill9();
        add.wait().expect("it ends");
        daemon.launch();
        let known = daemon.cli(&["child", "inspect", &name]).status.success();
        if known {
            eventually("the child is whole", SOON, || daemon.inspect(&name)["state"] == "up");
            assert_reaches(host, v4(100 + number));
            daemon.run(&["child", "rm", &name]);
        }
        assert!(!ns.has("eth0"), "after {wait} ms a link is left that nobody knows");
    }
    let links = host.run(&["ip", "-br", "link"]);
    assert!(!links.contains("ml-"), "a host end is left: {links}");
}

#[test]
fn a_clsact_qdisc_of_somebody_else_stays_with_its_filters() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    host.run(&["tc", "qdisc", "add", "dev", PARENT, "clsact"]);
    let daemon = Daemon::start_with(host, &["--tc", "clsact"]);
    daemon.network("lanv", 0, "veth");
    let ns = lan.namespace();
    daemon.child("v", "lanv", &ns, "192.168.50.101/24");
    assert_reaches(host, v4(101));
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    let qdisc = host.run(&["tc", "qdisc", "show", "dev", PARENT]);
    assert!(qdisc.contains("clsact"), "{qdisc}");
    let filters = host.run(&["tc", "filter", "show", "dev", PARENT, "ingress"]);
    assert!(!filters.contains("maclane"), "{filters}");
}
