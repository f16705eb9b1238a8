//! What may happen to a parent, and to what the daemon hears of it.

use std::{thread, time::Duration};

use tests::{
    daemon::Daemon,
    eventually,
    mac::Mac,
    netns::Netns,
    site::{SOON, Site, v4},
    topology::{Lan, PARENT},
    traffic::assert_reaches,
};

fn begin() -> Site {
    begin_with(&[])
}

/// The same, with more arguments of the daemon.
fn begin_with(arguments: &[&str]) -> Site {
    let lan = Lan::new(1);
    let daemon = Daemon::start_with(&lan.hosts[0].ns, arguments);
    Site::furnish(lan, daemon)
}

fn state(site: &Site, child: &str) -> String {
    site.daemon.inspect(child)["state"].as_str().unwrap_or_default().to_owned()
}

/// Everything works again, and nothing is wrong.
#[track_caller]
fn recovers(site: &Site) {
    site.works_soon();
    eventually("no problem is shown", SOON, || site.daemon.problems() == "[]");
}

#[test]
fn a_parent_that_flaps_serves_its_children_again() {
    let site = begin();
    let before = site.daemon.json(&["fdb", "ls"]);
    for _ in 0..30 {
        site.host().down(PARENT);
        site.host().up(PARENT);
    }
    recovers(&site);
    assert_eq!(site.daemon.json(&["fdb", "ls"]), before);
    assert_eq!(site.daemon.json(&["parent", "show", PARENT])["state"], "up");
}

#[test]
fn a_parent_that_comes_and_goes_gets_its_children_back_each_time() {
    let site = begin();
    for round in 0..3 {
        site.host().delete(PARENT);
        if round != 1 {
            eventually("it is shown", SOON, || site.daemon.problems().contains("no interface"));
            assert_eq!(state(&site, "m"), "gone");
        }
        let port = format!("again{round}");
        site.host().veth(PARENT, &site.lan.wire, &port);
        site.lan.wire.enslave(&port, "wire");
        site.host().address(PARENT, "192.168.50.10/24");
        eventually("the children are up", SOON, || {
            ["m", "v", "t"].iter().all(|child| state(&site, child) == "up")
        });
        recovers(&site);
    }
}

#[test]
fn a_parent_that_is_replaced_before_anybody_has_seen_it_gone_gets_its_children_back() {
    for tc in ["auto", "clsact"] {
        let site = begin_with(&["--tc", tc]);
        site.daemon.freeze(true);
        site.host().delete(PARENT);
        site.host().veth(PARENT, &site.lan.wire, "again");
        site.lan.wire.enslave("again", "wire");
        site.host().address(PARENT, "192.168.50.10/24");
        site.daemon.freeze(false);
        eventually(&format!("the children have their links ({tc})"), SOON, || {
            let has_address = |ns: &Netns| ns.ip("-br -4 address").contains("192.168.50.");
            site.children.iter().all(has_address)
        });
        recovers(&site);
    }
}

#[test]
fn a_parent_in_another_namespace_is_missing_and_has_no_program_of_ours() {
    let mut site = begin();
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
        assert_eq!(state(&site, "m"), "gone");
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
        recovers(&site);
    }
}

#[test]
fn children_larger_than_their_parent_are_a_problem_until_they_fit() {
    let site = begin();
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
    recovers(&site);
    site.host().ip(&format!("link set {PARENT} mtu 1500"));
    recovers(&site);
}

#[test]
fn changes_that_nobody_could_tell_are_found() {
    let site = begin();
    let busy = site.lan.namespace();
    // It is followed from here on, so that its events fill the socket, too.
    site.daemon.child("busy", "lan", &busy, "192.168.50.104/24");
    busy.ip("link add noise type veth peer name noise1");
    // Of a link that is down not every change is told.
    busy.up("noise");
    site.daemon.run(&["child", "set", "m", "--trust", "mac"]);
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
    recovers(&site);
}
