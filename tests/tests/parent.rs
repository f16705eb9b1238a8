//! What may happen to a parent, and to what the daemon hears of it.

use std::{net::Ipv4Addr, thread, time::Duration};

use tests::{
    daemon::Daemon,
    eventually,
    mac::Mac,
    netns::Netns,
    topology::{Lan, PARENT},
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(10);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// A host with a macvlan child (.101), a veth child (.102), and a macvlan child in VLAN 10 (.103).
struct Site {
    children: [Netns; 3],
    daemon: Daemon,
    lan: Lan,
}

impl Site {
    fn new() -> Self {
        let lan = Lan::new(1);
        let daemon = Daemon::start(&lan.hosts[0].ns);
        let children = [lan.namespace(), lan.namespace(), lan.namespace()];
        daemon.network("lan", 0, "macvlan");
        daemon.network("lanv", 0, "veth");
        daemon.network("lan10", 10, "macvlan");
        for (n, (name, network)) in [("m", "lan"), ("v", "lanv"), ("t", "lan10")].iter().enumerate()
        {
            daemon.child(name, network, &children[n], &format!("192.168.50.10{}/24", n + 1));
        }
        Self { children, daemon, lan }
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    fn state(&self, child: &str) -> String {
        self.daemon.inspect(child)["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Everything works again, and nothing is wrong.
    #[track_caller]
    fn works_soon(&self) {
        for (from, to) in [
            (self.host(), v4(101)),
            (self.host(), v4(102)),
            (&self.children[0], v4(102)),
            (&self.children[1], self.lan.router.ip),
            (&self.lan.router.ns, v4(101)),
        ] {
            eventually(&format!("{} reaches {to}", from.name()), SOON, || {
                ping(from, to, 1, OFTEN).is_clean()
            });
        }
        assert_does_not_reach(&self.children[2], self.lan.router.ip);
        eventually("no problem is shown", SOON, || self.daemon.problems() == "[]");
    }
}

#[test]
fn a_parent_that_flaps_serves_its_children_again() {
    let site = Site::new();
    let before = site.daemon.json(&["fdb", "ls"]);
    for _ in 0..30 {
        site.host().down(PARENT);
        site.host().up(PARENT);
    }
    site.works_soon();
    assert_eq!(site.daemon.json(&["fdb", "ls"]), before);
    assert_eq!(site.daemon.json(&["parent", "show", PARENT])["state"], "up");
}

#[test]
fn a_parent_that_comes_and_goes_gets_its_children_back_each_time() {
    let site = Site::new();
    for round in 0..3 {
        site.host().delete(PARENT);
        if round != 1 {
            eventually("it is shown", SOON, || site.daemon.problems().contains("no interface"));
            assert_eq!(site.state("m"), "gone");
        }
        let port = format!("again{round}");
        site.host().veth(PARENT, &site.lan.wire, &port);
        site.lan.wire.enslave(&port, "wire");
        site.host().address(PARENT, "192.168.50.10/24");
        eventually("the children are up", SOON, || {
            ["m", "v", "t"].iter().all(|child| site.state(child) == "up")
        });
        site.works_soon();
    }
}

#[test]
fn a_parent_in_another_namespace_is_missing_and_has_no_program_of_ours() {
    let mut site = Site::new();
    let away = site.lan.namespace();
    for restarted in [false, true] {
        if restarted {
            site.daemon.stop();
        }
        site.host().ip(&format!("link set {PARENT} netns {}", away.name()));
        if restarted {
            site.daemon.launch();
        }
        eventually("it is shown", SOON, || site.daemon.problems().contains("no interface"));
        assert_eq!(site.daemon.json(&["parent", "show", PARENT])["state"], "missing");
        assert_eq!(site.state("m"), "gone");
        // Its programs would send frames to the interfaces of another namespace.
        away.up(PARENT);
        let programs = tests::stranger::programs_on(&away, PARENT);
        assert_eq!(programs, 0, "restarted: {restarted}");
        away.ip(&format!("link set {PARENT} netns {}", site.host().name()));
        site.host().up(PARENT);
        let addresses = site.host().ip(&format!("addr show {PARENT}"));
        if !addresses.contains("192.168.50.10/24") {
            site.host().address(PARENT, "192.168.50.10/24");
        }
        site.works_soon();
    }
}

#[test]
fn children_larger_than_their_parent_are_a_problem_until_they_fit() {
    let site = Site::new();
    site.host().ip(&format!("link set {PARENT} mtu 1400"));
    // The kernel lowers that of macvlan children by itself.
    eventually("it is shown", SOON, || {
        let problems = site.daemon.problems();
        problems.contains("child \\\"v\\\" has an MTU of 1500")
            && problems.contains("1400")
            && !problems.contains("child \\\"m\\\"")
    });
    assert_eq!(site.daemon.inspect("m")["mtu"], 1400);
    assert_reaches(site.host(), v4(102));
    site.children[1].ip("link set eth0 mtu 1400");
    site.works_soon();
    site.host().ip(&format!("link set {PARENT} mtu 1500"));
    site.works_soon();
}

#[test]
fn changes_that_nobody_could_tell_are_found() {
    let site = Site::new();
    let busy = site.lan.namespace();
    // It is followed from here on, so that its events fill the socket, too.
    site.daemon.child("busy", "lan", &busy, "192.168.50.104/24");
    busy.ip("link add noise type veth peer name noise1");
    // Of a link that is down not every change is told.
    busy.up("noise");
    site.daemon.freeze(true);
    // More events than the socket has room for.
    let batch: Vec<String> = (0..4000).map(|n| format!("link set noise alias {n:0250}")).collect();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), batch.join("\n")).expect("it can be written");
    for _ in 0..3 {
        busy.run(&["ip", "-batch", file.path().to_str().expect("a path in UTF-8")]);
    }
    let mac = Mac([2, 0, 0x5e, 0, 0x53, 0x41]);
    site.children[0].set_mac("eth0", mac);
    site.children[1].delete("eth0");
    let late = site.lan.namespace();
    let adopted = site.host().macvlan(PARENT, "bridge", &late, "eth0");
    site.daemon.freeze(false);
    eventually("the new MAC is known", SOON, || site.daemon.inspect("m")["mac"] == mac.to_string());
    eventually("the child is made again", SOON, || site.children[1].has("eth0"));
    eventually("the new child is adopted", SOON, || {
        site.daemon.run(&["child", "ls"]).contains(&adopted.to_string())
    });
    assert!(site.daemon.log().contains("more to tell than there was room for"), "nothing was lost");
    thread::sleep(Duration::from_millis(10));
    site.works_soon();
}
