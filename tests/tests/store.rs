//! A state directory that is damaged, full or taken away, and daemons that want the same things.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

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

/// The file of a daemon's store.
fn store(daemon: &Daemon) -> PathBuf {
    daemon.state_dir().join("maclane.redb")
}

/// Another file that was in its place.
fn kept(daemon: &Daemon) -> PathBuf {
    daemon.state_dir().join("maclane.redb.kept-1")
}

/// What becomes of the store under a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Its file is removed.
    Removed,
    /// A copy from before takes its place, as `mv` and `rsync` do it.
    Replaced,
    /// Its content is replaced by that of a copy from before, as `cp` does it.
    Overwritten,
    /// A file of another program takes its place.
    Foreign,
    /// Its directory is removed.
    NoDirectory,
    /// Another directory takes the place of its own, with a copy from before in it.
    OtherDirectory,
}

impl Fault {
    const ALL: [Self; 6] = [
        Self::Removed,
        Self::Replaced,
        Self::Overwritten,
        Self::Foreign,
        Self::NoDirectory,
        Self::OtherDirectory,
    ];

    /// Does it; returns the content of the file that is there then.
    fn inject(self, daemon: &Daemon, older: &[u8]) -> Option<Vec<u8>> {
        let (file, dir) = (store(daemon), daemon.state_dir());
        let aside = dir.with_extension("aside");
        let script = b"#!/bin/sh\n".repeat(500);
        let put = |bytes: &[u8]| {
            fs::write(&aside, bytes).expect("a file");
            fs::rename(&aside, &file).expect("it can be renamed");
            Some(bytes.to_vec())
        };
        match self {
            Self::Removed => fs::remove_file(&file).expect("there is a store"),
            Self::Replaced => return put(older),
            Self::Overwritten => {
                fs::write(&file, older).expect("it can be written");
                return Some(older.to_vec());
            }
            Self::Foreign => return put(&script),
            Self::NoDirectory => fs::remove_dir_all(&dir).expect("there is a directory"),
            Self::OtherDirectory => {
                fs::rename(&dir, &aside).expect("it can be renamed");
                fs::create_dir(&dir).expect("a directory");
                fs::write(&file, older).expect("a file");
                return Some(older.to_vec());
            }
        }
        None
    }
}

/// What is done to the store's file or directory under the daemon costs nothing that was acknowledged, and
/// no file of another program: the store is written anew before the next change is acknowledged, or, without
/// a change, by the control loop.
#[test]
fn a_lost_store_is_written_anew() {
    for (fault, changes) in Fault::ALL.into_iter().flat_map(|fault| [(fault, true), (fault, false)])
    {
        let case = format!("{fault:?}, changes: {changes}");
        let lan = Lan::new(1);
        let host = &lan.hosts[0].ns;
        let mut daemon = Daemon::start(host);
        let _namespaces = furnish(&lan, &daemon);
        let older = fs::read(store(&daemon)).expect("a store");
        let late = lan.namespace();
        daemon.child("late", "lan", &late, "192.168.50.103/24");
        let ping = Ping::start(host, v4(101), OFTEN);
        let foreign = fault.inject(&daemon, &older);
        let last = lan.namespace();
        if changes {
            daemon.child("last", "lanv", &last, "192.168.50.104/24");
        } else {
            let is_written =
                || fs::read(store(&daemon)).ok().filter(|now| foreign.as_ref() != Some(now));
            eventually(&format!("{case}: it is written anew"), SOON, || is_written().is_some());
        }
        let children = daemon.json(&["child", "ls"]);
        daemon.kill9();
        daemon.launch();
        assert_eq!(daemon.json(&["child", "ls"]), children, "{case}");
        for last in [101, 102, 103].into_iter().chain(changes.then_some(104)) {
            assert_reaches(host, v4(last));
        }
        let log = daemon.log();
        assert!(log.contains("ERROR") && log.contains("written anew from memory"), "{case}: {log}");
        if let Some(bytes) = foreign {
            let file = kept(&daemon);
            assert!(fs::read(&file).expect("it is kept") == bytes, "{case}: it was changed");
            let name = file.display().to_string();
            eventually(&format!("{case}: it is shown"), SOON, || daemon.problems().contains(&name));
            assert!(daemon.run(&["doctor"]).contains(&name), "{case}");
            fs::remove_file(file).expect("it can be removed");
        }
        eventually(&format!("{case}: no problem is left"), SOON, || daemon.problems() == "[]");
        let result = ping.stop();
        assert!(result.is_clean(), "{case}: {result:?}");
    }
}

/// A store that cannot be written anew, because the disk is full or read-only, refuses changes with the
/// reason, is shown as a problem, and costs no traffic; it is tried again until it can be.
#[test]
fn a_lost_store_without_a_disk_refuses_changes() {
    for read_only in [false, true] {
        let lan = Lan::new(1);
        let host = &lan.hosts[0].ns;
        let mut daemon = Daemon::prepare(host, Setup::default());
        let disk = Mount::tmpfs(&daemon.state_dir(), 4 << 20);
        daemon.launch();
        let children = furnish(&lan, &daemon);
        let list = daemon.json(&["child", "ls"]);
        let pings = [Ping::start(host, v4(101), OFTEN), Ping::start(&children[0], v4(102), OFTEN)];
        let filler = daemon.state_dir().join("filler");
        let reason = if read_only { "Read-only file system" } else { "No space left" };
        // It shall not come in between.
        daemon.freeze(true);
        if !read_only {
            fill(&filler);
        }
        let moved = daemon.state_dir().join("moved");
        fs::rename(store(&daemon), moved).expect("it can be renamed");
        let over = read_only.then(|| Mount::read_only(&daemon.state_dir()));
        daemon.freeze(false);
        let late = lan.namespace();
        let add = ["child", "add", "late", "--network", "lan", "--netns", late.name()];
        let add = [&add[..], &["--ip", "192.168.50.103/24"]].concat();
        let (code, message) = daemon.fail(&add);
        assert_eq!(code, 1, "{message}");
        for word in ["maclane.redb", reason, "changes are refused", "traffic goes on"] {
            assert!(message.contains(word), "\"{word}\" is not in: {message}");
        }
        assert!(!late.has("eth0"), "the link of a child that was refused");
        eventually("it is shown", SOON, || daemon.problems().contains(reason));
        assert!(daemon.run(&["doctor"]).contains(reason));
        assert_eq!(daemon.json(&["child", "ls"]), list);
        drop(over);
        let _ = fs::remove_file(&filler);
        eventually("no problem is left", SOON, || daemon.problems() == "[]");
        daemon.run(&add);
        daemon.kill9();
        daemon.launch();
        for last in 101..=103 {
            assert_reaches(host, v4(last));
        }
        for ping in pings {
            let result = ping.stop();
            assert!(result.is_clean(), "{result:?}");
        }
        drop(daemon);
        drop(disk);
    }
}

/// A second daemon that takes the place of the directory has it: the first refuses changes, and neither
/// touches what the other has.
#[test]
fn a_directory_that_another_daemon_took_is_left_alone() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut first = Daemon::start(host);
    let _children = furnish(&lan, &first);
    let other_lan = Lan::new(1);
    let second = Daemon::start(&other_lan.hosts[0].ns);
    second.run(&["parent", "add", PARENT]);
    let aside = first.state_dir().with_extension("aside");
    fs::rename(first.state_dir(), &aside).expect("it can be renamed");
    // One directory under two names: what one daemon has locked the other cannot lock.
    std::os::unix::fs::symlink(second.state_dir(), first.state_dir()).expect("a link");
    let (code, message) = first.fail(&["network", "create", "n", "--parent", PARENT]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("another maclane daemon uses this state directory"), "{message}");
    eventually("it is shown", SOON, || first.problems().contains("another maclane daemon"));
    second.run(&["network", "create", "theirs", "--parent", PARENT]);
    assert_eq!(second.problems(), "[]");
    assert!(!kept(&second).exists(), "its store was put aside");
    fs::remove_file(first.state_dir()).expect("the link can be removed");
    fs::rename(&aside, first.state_dir()).expect("it can be renamed");
    eventually("the first has its own again", SOON, || first.problems() == "[]");
    first.run(&["network", "create", "n", "--parent", PARENT]);
    first.kill9();
    first.launch();
    assert_reaches(host, v4(101));
    assert_reaches(host, v4(102));
}
