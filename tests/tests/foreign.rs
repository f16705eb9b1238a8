//! Programs of others beside ours, and others who take ours away.

use std::{path::PathBuf, process::Command, time::Duration};

use dataplane_common::abi;
use serde_json::Value;
use tests::{
    daemon::{Daemon, Setup},
    eventually, kernel, process,
    site::{SOON, Site, v4},
    stranger::{Hook, Stranger},
    topology::{Lan, PARENT},
    traffic::{Ping, assert_does_not_reach, assert_reaches},
};

const OFTEN: Duration = Duration::from_millis(10);

/// A furnished host, its daemon started with these arguments.
fn site(arguments: &[&str]) -> Site {
    let lan = Lan::new(1);
    let daemon = Daemon::start_with(&lan.hosts[0].ns, arguments);
    Site::furnish(lan, daemon)
}

fn link(site: &Site, name: &str) -> PathBuf {
    site.pin("links").join(name)
}

/// The kernel's ID of a link, by which its successor is told from it.
fn link_id(site: &Site, name: &str) -> Option<u64> {
    let mut bpftool = Command::new("bpftool");
    let shown = bpftool.args(["-j", "link", "show", "pinned"]).arg(link(site, name)).output();
    let link: Value = serde_json::from_slice(&shown.ok()?.stdout).ok()?;
    link["id"].as_u64()
}

fn detach(site: &Site, name: &str) {
    process::run(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(link(site, name)));
}

fn skip_without_tcx() -> bool {
    if !kernel::has_tcx() {
        eprintln!("skipped: this kernel has no TCX (Linux 6.6)");
    }
    !kernel::has_tcx()
}

#[test]
fn strangers_before_and_after_ours_on_tcx_all_run() {
    if skip_without_tcx() {
        return;
    }
    let lan = Lan::new(1);
    let attach = |hook| {
        let mut stranger = Stranger::load(hook);
        stranger.attach(&lan.hosts[0].ns, PARENT, hook);
        stranger
    };
    let before = [attach(Hook::Ingress), attach(Hook::Egress)];
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let after = [attach(Hook::Ingress), attach(Hook::Egress)];
    let site = Site::furnish(lan, daemon);
    site.assert_works();
    let counts = |all: &[Stranger; 2]| [all[0].runs(), all[1].runs()];
    for strangers in [&before, &after] {
        let then = counts(strangers);
        assert_reaches(site.host(), site.lan.router.ip);
        let now = counts(strangers);
        assert!(now[0] > then[0] && now[1] > then[1], "a stranger does not run: {then:?} {now:?}");
    }
    assert_eq!(site.daemon.problems(), "[]");
    let found = site.daemon.run(&["doctor"]);
    assert!(found.contains("stranger"), "doctor does not name them: {found}");
    drop((before, after));
    site.assert_works();
}

#[test]
fn strangers_before_and_after_ours_in_clsact_all_run() {
    let lan = Lan::new(1);
    let stranger = Stranger::load(Hook::Ingress);
    let daemon = Daemon::prepare(
        &lan.hosts[0].ns,
        Setup { arguments: &["--tc", "clsact"], ..Setup::default() },
    );
    let pin = daemon.bpffs().join("stranger");
    stranger.pin(&pin);
    let pin = pin.to_str().expect("a path in UTF-8");
    let filter = |priority: &str, hook: &str| {
        let words = ["tc", "filter", "add", "dev", PARENT, hook, "prio", priority];
        let program = ["handle", "7", "bpf", "da", "object-pinned", pin];
        lan.hosts[0].ns.run(&[&words[..], &program[..]].concat());
    };
    lan.hosts[0].ns.run(&["tc", "qdisc", "add", "dev", PARENT, "clsact"]);
    filter("1", "ingress");
    filter("1", "egress");
    let mut daemon = daemon;
    daemon.launch();
    daemon.run(&["parent", "add", PARENT]);
    filter("50000", "ingress");
    filter("50000", "egress");
    let site = Site::furnish(lan, daemon);
    site.assert_works();
    let then = stranger.runs();
    assert_reaches(site.host(), site.lan.router.ip);
    assert!(stranger.runs() > then, "the stranger does not run");
    let found = site.daemon.run(&["doctor"]);
    assert!(found.contains("stranger"), "doctor does not name it: {found}");
    site.daemon.run(&["parent", "rm", PARENT, "--force"]);
    for hook in ["ingress", "egress"] {
        let filters = site.host().run(&["tc", "filter", "show", "dev", PARENT, hook]);
        assert!(filters.contains("pref 1 ") && filters.contains("pref 50000"), "{filters}");
        assert!(!filters.contains("maclane"), "{filters}");
    }
}

#[test]
fn xdp_of_a_stranger_runs_before_ours_and_ours_comes_when_it_goes() {
    let lan = Lan::new(1);
    let mut stranger = Stranger::load(Hook::Xdp);
    stranger.attach(&lan.hosts[0].ns, PARENT, Hook::Xdp);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let (code, message) = daemon.fail(&["parent", "add", PARENT, "--xdp", "generic"]);
    assert!(code == 1 && message.contains("not maclane's"), "{message}");
    let site = Site::furnish(lan, daemon);
    site.assert_works();
    let then = stranger.runs();
    assert_reaches(site.host(), site.lan.router.ip);
    assert!(stranger.runs() > then, "the stranger does not run");
    let found = site.daemon.run(&["doctor"]);
    assert!(found.contains("is not maclane's"), "{found}");
    stranger.detach();
    site.daemon.run(&["parent", "add", PARENT, "--xdp", "generic"]);
    site.assert_works();
}

#[test]
fn a_link_that_somebody_detaches_is_attached_again() {
    if skip_without_tcx() {
        return;
    }
    let site = site(&[]);
    site.assert_works();
    for link in ["ingress", "egress", "guard_2", "port_3"] {
        detach(&site, link);
        site.works_soon();
    }
    assert_eq!(site.daemon.problems(), "[]");
    assert_eq!(site.daemon.inspect("m")["identity"], kernel::identity());
}

#[test]
fn filters_that_somebody_deletes_come_back() {
    let site = site(&["--tc", "clsact"]);
    site.assert_works();
    for words in [
        &["tc", "filter", "del", "dev", PARENT, "ingress"][..],
        &["tc", "filter", "del", "dev", PARENT, "egress"],
        &["tc", "qdisc", "del", "dev", PARENT, "clsact"],
    ] {
        site.host().run(words);
        for hook in ["ingress", "egress"] {
            eventually(&format!("{hook} has its filter after {words:?}"), SOON, || {
                let filters = site.host().run(&["tc", "filter", "show", "dev", PARENT, hook]);
                filters.contains("maclane")
            });
        }
        site.works_soon();
    }
    for words in [
        &["tc", "filter", "del", "dev", "ml-v", "ingress"][..],
        &["tc", "qdisc", "del", "dev", "ml-v", "clsact"],
    ] {
        // As long as the daemon cannot put it back.
        site.daemon.freeze(true);
        site.host().run(words);
        assert_does_not_reach(&site.children[1], v4(101));
        site.daemon.freeze(false);
        site.works_soon();
    }
    site.daemon.run(&["parent", "rm", PARENT, "--force"]);
    let qdisc = site.host().run(&["tc", "qdisc", "show", "dev", PARENT]);
    assert!(!qdisc.contains("clsact"), "{qdisc}");
}

#[test]
fn xdp_that_somebody_takes_off_comes_back() {
    let site = site(&[]);
    site.daemon.run(&["parent", "add", PARENT, "--xdp", "generic"]);
    let off = site.host().exec(&["ip", "link", "set", "dev", PARENT, "xdpgeneric", "off"]);
    assert!(!off.status.success(), "the kernel keeps a link from being replaced");
    let detached = link_id(&site, "xdp");
    assert!(detached.is_some(), "XDP has a link");
    detach(&site, "xdp");
    eventually("XDP is there again, by another link", SOON, || {
        link_id(&site, "xdp").is_some_and(|id| Some(id) != detached)
            && site.host().ip(&format!("link show {PARENT}")).contains("xdp")
    });
    assert_eq!(site.daemon.json(&["parent", "show", PARENT])["xdp_attached"], "generic");
    site.works_soon();
}

#[test]
fn pins_that_somebody_removes_are_there_again_and_no_frame_is_lost() {
    if skip_without_tcx() {
        return;
    }
    let mut site = site(&[]);
    let pings = [
        Ping::start(site.host(), v4(101), OFTEN),
        Ping::start(site.host(), v4(102), OFTEN),
        Ping::start(&site.children[0], v4(102), OFTEN),
    ];
    let removed = [
        "links/ingress",
        "links/egress",
        "links/guard_2",
        "links/port_3",
        "maclane_fdb",
        "maclane_guards",
        "programs/maclane_ingress",
    ];
    let removed = removed.map(|name| site.pin(name));
    for pin in &removed {
        std::fs::remove_file(pin).expect("there is a pin");
    }
    // One that comes before the daemon has looked is no other than the rest.
    let ns = site.lan.namespace();
    site.daemon.child("late", "lan", &ns, "192.168.50.109/24");
    assert_reaches(&ns, site.lan.router.ip);
    eventually("every pin is there again", SOON, || removed.iter().all(|pin| pin.exists()));
    site.daemon.kill9();
    std::thread::sleep(Duration::from_millis(300));
    site.daemon.launch();
    for ping in pings {
        let result = ping.stop();
        assert!(result.is_clean(), "{result:?}");
    }
    site.assert_works();
}

#[test]
fn entries_that_somebody_changes_are_put_right() {
    let site = site(&[]);
    let map = site.pin("maclane_fdb");
    let bpftool = |words: &[&str]| {
        process::run(
            Command::new("bpftool").args(&words[..2]).arg("pinned").arg(&map).args(&words[2..]),
        )
    };
    let mac = site.children[1].mac("eth0");
    let words = |bytes: &[u8]| -> Vec<String> { bytes.iter().map(ToString::to_string).collect() };
    let mut key: Vec<String> = ["map", "delete", "key"].map(String::from).to_vec();
    key.extend(words(&[&mac.0[..], &[0; 2]].concat()));
    // On a slow machine it would be put right before anybody looks.
    site.daemon.freeze(true);
    bpftool(&key.iter().map(String::as_str).collect::<Vec<_>>());
    // Its bucket answers for it until that is gone, too: a bucket of no MACs.
    let mut emptied: Vec<String> = ["map", "update", "pinned"].map(String::from).to_vec();
    emptied.push(site.pin("maclane_sources").display().to_string());
    emptied.push("key".into());
    emptied.extend(words(&abi::bucket(mac.0).to_ne_bytes()));
    emptied.push("value".into());
    emptied.extend(words(&[&[0xff; 8][..], &[0; 8]].concat()));
    process::run(Command::new("bpftool").args(&emptied));
    assert_does_not_reach(site.host(), v4(102));
    site.daemon.freeze(false);
    site.works_soon();
    // Where the guards lead.
    if kernel::has_tcx() {
        site.daemon.freeze(true);
        let array = site.pin("maclane_guards");
        let delete = ["map", "delete", "pinned", array.to_str().expect("a path in UTF-8")];
        process::run(Command::new("bpftool").args(delete).args(["key", "0", "0", "0", "0"]));
        assert_does_not_reach(&site.children[0], site.lan.router.ip);
        site.daemon.freeze(false);
        site.works_soon();
        assert!(
            site.daemon.drops("refused") >= 1,
            "what a guard without its program ends is counted"
        );
    }
    // One that nobody owns goes.
    let strange = ["0x02", "0", "0x5e", "0", "0x53", "0xff", "0", "0"];
    let update = [&["map", "update", "key"], &strange[..], &["value", "0", "0", "2", "0"]].concat();
    site.daemon.freeze(true);
    bpftool(&update);
    let lookup = || {
        let words = ["map", "lookup", "pinned"];
        let mut command = Command::new("bpftool");
        command.args(words).arg(&map).arg("key").args(strange);
        process::output(&mut command).status.success()
    };
    assert!(lookup());
    site.daemon.freeze(false);
    eventually("the strange entry is gone", SOON, || !lookup());
}
