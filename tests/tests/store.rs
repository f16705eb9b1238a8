//! A state directory that is damaged or full, and daemons that want the same things.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use tests::{
    daemon::{Daemon, Setup},
    eventually, kernel,
    mount::Mount,
    netns::Netns,
    topology::{Lan, PARENT},
    traffic::{Ping, assert_reaches},
};

const SOON: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(10);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// A host with a macvlan child (.101) and a veth child (.102).
fn furnish(lan: &Lan, daemon: &Daemon) -> [Netns; 2] {
    let children = [lan.namespace(), lan.namespace()];
    daemon.network("lan", 0, "macvlan");
    daemon.network("lanv", 0, "veth");
    daemon.child("m", "lan", &children[0], "192.168.50.101/24");
    daemon.child("v", "lanv", &children[1], "192.168.50.102/24");
    children
}

#[test]
fn a_damaged_store_is_refused_kept_and_costs_no_traffic() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    let _children = furnish(&lan, &daemon);
    let before = daemon.json(&["child", "ls"]);
    daemon.kill9();
    let file = daemon.state_dir().join("maclane.redb");
    let whole = fs::read(&file).expect("a store");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        bytes
    };
    for (case, bytes) in [
        ("empty", Vec::new()),
        ("without its end", whole[..whole.len() / 2].to_vec()),
        ("of zeroes", vec![0; whole.len()]),
        ("with another beginning", flipped(0)),
        ("of somebody else", b"#!/bin/sh\n".repeat(500)),
    ] {
        fs::write(&file, &bytes).expect("it can be written");
        let message = daemon.refusal();
        for word in ["maclane.redb", "backup", "move it away"] {
            assert!(message.contains(word), "a store {case}: \"{word}\" is not in: {message}");
        }
        assert!(!daemon.log().contains("panicked"), "a store {case}");
        assert!(fs::read(&file).expect("it is there") == bytes, "a store {case} was changed");
        assert_reaches(host, v4(101));
        assert_reaches(host, v4(102));
    }
    fs::write(&file, &whole).expect("it can be written");
    daemon.launch();
    assert_eq!(daemon.json(&["child", "ls"]), before);
}

#[test]
fn a_full_disk_refuses_changes_and_costs_nothing_else() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::prepare(host, Setup::default());
    let disk = Mount::tmpfs(&daemon.state_dir(), 4 << 20);
    daemon.launch();
    let children = furnish(&lan, &daemon);
    let late = lan.namespace();
    let add = |daemon: &Daemon| {
        let add = ["child", "add", "late", "--network", "lan", "--netns", late.name()];
        daemon.cli(&[&add[..], &["--ip", "192.168.50.103/24"]].concat())
    };
    let show = |daemon: &Daemon| {
        ["parent", "network", "child", "fdb"].map(|what| daemon.json(&[what, "ls"]))
    };
    let before = show(&daemon);
    let pings = [Ping::start(host, v4(101), OFTEN), Ping::start(&children[0], v4(102), OFTEN)];
    let filler = daemon.state_dir().join("filler");
    fill(&filler);
    // Until the store has used up what room it has in its own file.
    let mut failed = false;
    for _ in 0..500 {
        let output = add(&daemon);
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            for word in ["maclane.redb", "No space left", "see that the disk has room"] {
                assert!(message.contains(word), "\"{word}\" is not in: {message}");
            }
            failed = true;
            break;
        }
        if !daemon.cli(&["child", "rm", "late"]).status.success() {
            failed = true;
            break;
        }
    }
    assert!(failed, "the disk is full, and the daemon goes on changing its store");
    fs::remove_file(&filler).expect("there is a filler");
    // The one that could not be removed is there, or the one that could not be made is not.
    let _ = daemon.cli(&["child", "rm", "late"]);
    eventually("all is as it was", SOON, || show(&daemon) == before);
    assert!(!late.has("eth0"), "the link of a child that nobody knows");
    assert!(add(&daemon).status.success(), "it works again when there is room");
    assert_reaches(host, v4(103));
    daemon.restart();
    assert_reaches(host, v4(103));
    for ping in pings {
        let result = ping.stop();
        assert!(result.is_clean(), "{result:?}");
    }
    drop(daemon);
    drop(disk);
}

/// Fills the file system of a file.
fn fill(file: &Path) {
    let mut size = 8 << 20;
    fs::write(file, []).expect("a file");
    let mut bytes = Vec::new();
    while size > 0 {
        let more = [bytes.as_slice(), &vec![1; size]].concat();
        match fs::write(file, &more) {
            Ok(()) => bytes = more,
            Err(_) => size /= 2,
        }
    }
    let _ = fs::write(file, &bytes);
}

#[test]
fn a_second_daemon_with_the_same_pins_does_not_touch_the_parent_of_the_first() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut first = Daemon::start(host);
    let _children = furnish(&lan, &first);
    let before = first.json(&["fdb", "ls"]);
    let setup = Setup { bpffs: Some(first.bpffs().to_owned()), ..Setup::default() };
    let second = Daemon::start_as(host, setup);
    let pings = [Ping::start(host, v4(101), OFTEN), Ping::start(host, v4(102), OFTEN)];
    for command in [&["parent", "add", PARENT][..], &["network", "create", "n", "--parent", PARENT]]
    {
        let (code, message) = second.fail(command);
        assert_eq!(code, 1, "{message}");
        assert!(message.contains("another maclane daemon serves eth0"), "{message}");
        assert_eq!(second.json(&["parent", "ls"]), serde_json::json!([]));
    }
    assert_eq!(first.json(&["fdb", "ls"]), before);
    first.restart();
    assert_eq!(first.json(&["fdb", "ls"]), before);
    assert_eq!(first.problems(), "[]");
    for ping in pings {
        let result = ping.stop();
        assert!(result.is_clean(), "{result:?}");
    }
}

#[test]
fn a_second_daemon_with_other_pins_does_not_touch_the_parent_of_the_first() {
    for tc in ["auto", "clsact"] {
        let lan = Lan::new(1);
        let host = &lan.hosts[0].ns;
        let mut first = Daemon::start_with(host, &["--tc", tc]);
        let _children = furnish(&lan, &first);
        let second = Daemon::start_with(host, &["--tc", tc]);
        let refused = || {
            let (code, message) = second.fail(&["parent", "add", PARENT]);
            assert_eq!(code, 1, "{message}");
            assert!(message.contains("another maclane are on eth0"), "{message}");
            assert_eq!(second.json(&["parent", "ls"]), serde_json::json!([]));
            assert_reaches(host, v4(101));
            assert_reaches(host, v4(102));
        };
        refused();
        first.stop();
        // Its programs go on, and so does what they do for its children.
        refused();
        first.launch();
        first.run(&["parent", "rm", PARENT, "--force"]);
        second.run(&["parent", "add", PARENT]);
        assert_eq!(second.problems(), "[]");
    }
}

#[test]
fn a_parent_of_another_daemon_is_a_problem_at_the_start_and_not_touched() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut second = Daemon::start(host);
    second.run(&["parent", "add", PARENT]);
    second.stop();
    let gone = second.bpffs().join("maclane");
    fs::rename(&gone, second.bpffs().join("aside")).expect("pins can be renamed");
    fs::remove_dir_all(second.bpffs().join("aside")).expect("pins can be removed");
    if !kernel::has_tcx() {
        // Filters need no pins to stay.
        host.run(&["tc", "qdisc", "del", "dev", PARENT, "clsact"]);
    }
    let first = Daemon::start(host);
    let _children = furnish(&lan, &first);
    second.launch();
    eventually("it is shown", SOON, || second.problems().contains("another maclane"));
    assert_reaches(host, v4(101));
    assert_reaches(host, v4(102));
    first.run(&["parent", "rm", PARENT, "--force"]);
    eventually("the second takes over", SOON, || second.problems() == "[]");
}
