//! What a daemon finds at its start, or loses under it: the pins of another version, programs that
//! are attached another way, a kernel that does not take a program, no BPF file system.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, time::Duration};

use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;
use tests::{
    daemon::{Daemon, Setup},
    eventually,
    failpoints::Failpoints,
    kernel,
    mount::Mount,
    process,
    program::layout,
    site::{SOON, Site, v4},
    topology::{Lan, Options, PARENT},
    traffic::{Ping, assert_reaches, ping},
};

const OFTEN: Duration = Duration::from_millis(2);

fn begin(setup: Setup<'_>) -> Site {
    // With offload, XDP would leave untagged frames to TC, and say so.
    let lan = Lan::with(Options { vlan_offload: false, ..Options::default() });
    let daemon = Daemon::start_as(&lan.hosts[0].ns, setup);
    Site::furnish(lan, daemon)
}

/// The same on a kernel that does not take or tell what is named, as long as the first value is there.
fn begin_without(what: &str) -> (Failpoints, Site) {
    let points = Failpoints::new();
    points.refuse(&[what]);
    let site = begin(Setup { environment: Some(points.variable()), ..Setup::default() });
    (points, site)
}

fn pings(site: &Site) -> [Ping; 4] {
    [
        Ping::start(site.host(), v4(101), OFTEN),
        Ping::start(site.host(), v4(102), OFTEN),
        Ping::start(&site.children[0], v4(102), OFTEN),
        Ping::start(&site.children[1], site.lan.router.ip, OFTEN),
    ]
}

/// Programs of TC on the parent: by TCX, and as filters.
fn programs_of(site: &Site) -> (usize, usize) {
    let tcx = |hook| SchedClassifier::query_tcx(PARENT, hook).map_or(0, |(_, all)| all.len());
    let tcx = || tcx(TcAttachType::Ingress) + tcx(TcAttachType::Egress);
    let filters = |hook| {
        let text = site.host().run(&["tc", "filter", "show", "dev", PARENT, hook]);
        text.matches("handle 0x1").count()
    };
    (site.host().enter(tcx), filters("ingress") + filters("egress"))
}

#[track_caller]
fn assert_clean(pings: [Ping; 4]) {
    for ping in pings {
        let result = ping.stop();
        assert!(result.sent > 100 && result.is_clean(), "{result:?}");
    }
}

/// What `bpftool` says.
fn bpftool(words: &[&str]) -> Value {
    let said = process::run(Command::new("bpftool").arg("-j").args(words));
    serde_json::from_str(&said).expect("bpftool prints JSON")
}

/// The map that a site's guards lead through.
fn array_of_guards(site: &Site) -> PathBuf {
    site.daemon.bpffs().join("maclane").join(layout()).join(PARENT).join("maclane_guards")
}

/// The guards that lead through a site's array, each with its ID.
fn guards_of(site: &Site) -> BTreeMap<u64, String> {
    let array = array_of_guards(site);
    let map = bpftool(&["map", "show", "pinned", array.to_str().expect("a path in UTF-8")]);
    let programs = bpftool(&["prog", "show"]);
    let leads = |program: &&Value| {
        program["map_ids"].as_array().is_some_and(|ids| ids.contains(&map["id"]))
    };
    let guards = programs.as_array().expect("a list").iter().filter(leads);
    guards.map(|guard| (guard["id"].as_u64().expect("an ID"), guard["name"].to_string())).collect()
}

/// The ID of the program that all of them lead to.
fn led_to(site: &Site) -> Value {
    let array = array_of_guards(site);
    let dump = bpftool(&["map", "dump", "pinned", array.to_str().expect("a path in UTF-8")]);
    dump[0].clone()
}

#[test]
fn pins_of_an_older_layout_are_taken_over_and_no_frame_is_lost() {
    if !kernel::has_tcx() {
        eprintln!("skipped: this kernel has no TCX, whose links are taken over (Linux 6.6)");
        return;
    }
    let mut site = begin(Setup::default());
    site.daemon.run(&["parent", "add", PARENT, "--xdp", "native"]);
    eventually("the host reaches its child", SOON, || {
        ping(site.host(), v4(102), 1, OFTEN).is_clean()
    });
    let pings = pings(&site);
    std::thread::sleep(Duration::from_millis(300));
    site.daemon.kill9();
    let root = site.daemon.bpffs().join("maclane");
    fs::rename(root.join(layout()), root.join("v0")).expect("pins can be renamed");
    // Another layout: maps that this version does not know, and lacks some that it does.
    let old = root.join("v0").join(PARENT);
    fs::rename(old.join("maclane_fdb"), old.join("maclane_fdb_v0")).expect("it can be renamed");
    fs::remove_file(old.join("maclane_gate")).expect("it can be removed");
    site.daemon.launch();
    std::thread::sleep(Duration::from_millis(300));
    assert_clean(pings);
    eventually("nothing of the old layout is left", SOON, || !root.join("v0").exists());
    assert_eq!(programs_of(&site), (2, 0), "nothing is attached twice");
    assert_eq!(site.daemon.problems(), "[]");
    assert_eq!(site.daemon.json(&["parent", "show", PARENT])["xdp_attached"], "native");
    site.assert_works();
    // Guards, too, lead to the new programs.
    assert_eq!(guards_of(&site).len(), 2);
    site.daemon.run(&["parent", "rm", PARENT, "--force"]);
    assert!(!root.exists());
}

#[test]
fn a_daemon_that_starts_again_leaves_guards_where_they_are_and_makes_them_lead_to_its_program() {
    if !kernel::has_tcx() {
        eprintln!("skipped: this kernel has no TCX, and there are no guards (Linux 6.6)");
        return;
    }
    let mut site = begin(Setup::default());
    let guards = guards_of(&site);
    let pings = pings(&site);
    let mut led = vec![led_to(&site)];
    for _ in 0..2 {
        site.daemon.kill9();
        site.daemon.launch();
        eventually("the guards lead to another program", SOON, || !led.contains(&led_to(&site)));
        led.push(led_to(&site));
        site.assert_works();
        // What the daemon does now and then is done, too.
        site.daemon.run(&["reload"]);
        assert_eq!(guards_of(&site), guards, "a guard was loaded again");
    }
    assert_clean(pings);
}

#[test]
fn another_way_of_attaching_replaces_the_first() {
    if !kernel::has_tcx() {
        eprintln!("skipped: this kernel has no TCX, only clsact (Linux 6.6)");
        return;
    }
    let mut site = begin(Setup { arguments: &["--tc", "tcx"], ..Setup::default() });
    assert_eq!(programs_of(&site), (2, 0));
    for (tc, programs, identity) in [("clsact", (0, 2), "mac"), ("tcx", (2, 0), kernel::identity())]
    {
        site.daemon.stop();
        site.daemon.set_arguments(&["--tc", tc]);
        site.daemon.launch();
        eventually("one kind is left", SOON, || programs_of(&site) == programs);
        eventually("identity follows", SOON, || site.daemon.inspect("m")["identity"] == identity);
        assert_eq!(site.daemon.problems(), "[]");
        eventually("the host reaches its child", SOON, || {
            ping(site.host(), v4(102), 1, OFTEN).is_clean()
        });
        site.assert_works();
    }
    eventually("the qdisc is gone", SOON, || {
        !site.host().run(&["tc", "qdisc", "show", "dev", PARENT]).contains("clsact")
    });
}

#[test]
fn a_kernel_that_does_not_take_xdp_is_served_by_tc() {
    let (_points, site) = begin_without("maclane_xdp");
    site.assert_works();
    assert_eq!(site.daemon.problems(), "[]", "nobody asked for XDP");
    for mode in ["native", "generic"] {
        let (code, message) = site.daemon.fail(&["parent", "add", PARENT, "--xdp", mode]);
        assert_eq!(code, 1);
        assert!(message.contains("does not take the program maclane_xdp"), "{message}");
        assert_eq!(site.daemon.json(&["parent", "show", PARENT])["xdp"], "auto");
        site.assert_works();
    }
}

#[test]
fn a_kernel_that_does_not_take_the_guard_knows_children_by_their_mac_and_doctor_says_so() {
    if !kernel::has_tcx() {
        eprintln!("skipped: this kernel has no TCX, and no guards anyway (Linux 6.6)");
        return;
    }
    for program in ["maclane_guard", "maclane_macvlan"] {
        let (_points, site) = begin_without(program);
        site.assert_works();
        assert_eq!(site.daemon.inspect("m")["identity"], "mac");
        for text in [site.daemon.problems(), site.daemon.run(&["doctor"])] {
            assert!(text.contains("source MAC only") && text.contains(program), "{text}");
        }
    }
}

/// A kernel that is locked down, or has no BTF, lets no program see pending checksums: users are told.
#[test]
fn a_kernel_that_hides_pending_checksums_is_a_problem() {
    let (_points, site) = begin_without("skb_layout");
    site.assert_works();
    let what = "pending checksums are not looked for: skb_layout is refused";
    for text in [site.daemon.problems(), site.daemon.run(&["doctor"])] {
        assert!(text.contains(what), "{text}");
    }
    for network in ["lan", "lanv", "lan10"] {
        site.daemon.run(&["network", "set", network, "--security", "off"]);
    }
    eventually("nothing is to be looked for", SOON, || site.daemon.problems() == "[]");
}

#[test]
fn a_kernel_that_does_not_take_a_program_of_tc_says_which() {
    let lan = Lan::new(1);
    let points = Failpoints::new();
    points.refuse(&["maclane_egress"]);
    let daemon = Daemon::start_as(
        &lan.hosts[0].ns,
        Setup { environment: Some(points.variable()), ..Setup::default() },
    );
    let (code, message) = daemon.fail(&["parent", "add", PARENT]);
    assert_eq!(code, 1);
    assert!(message.contains("does not take the program maclane_egress"), "{message}");
    assert_eq!(daemon.json(&["parent", "ls"]), serde_json::json!([]));
    assert!(!daemon.bpffs().join("maclane").exists());
    assert_reaches(&lan.hosts[0].ns, lan.router.ip);
}

#[test]
fn a_bpf_file_system_that_is_unmounted_costs_no_frame_and_is_filled_again() {
    let lan = Lan::new(1);
    let dir = tempfile::tempdir().expect("a folder");
    let bpffs = Mount::bpffs(dir.path());
    let setup = Setup { bpffs: Some(dir.path().to_owned()), ..Setup::default() };
    let daemon = Daemon::start_as(&lan.hosts[0].ns, setup);
    let mut site = Site::furnish(lan, daemon);
    let pings = pings(&site);
    std::thread::sleep(Duration::from_millis(300));
    drop(bpffs);
    eventually("it is shown", SOON, || site.daemon.problems().contains("mount -t bpf"));
    let found = site.daemon.run(&["doctor"]);
    assert!(found.contains("mount -t bpf"), "{found}");
    let late = site.lan.namespace();
    if kernel::has_tcx() {
        let add = ["child", "add", "late", "--network", "lan", "--netns", late.name()];
        let (_, message) = site.daemon.fail(&add);
        assert!(message.contains("cannot create child \"late\""), "{message}");
        assert!(message.contains("mount -t bpf"), "{message}");
        assert!(!late.has("eth0"), "{message}");
    }
    site.assert_works();
    let bpffs = Mount::bpffs(dir.path());
    eventually("all is pinned again", SOON, || {
        site.daemon.problems() == "[]"
            && dir.path().join("maclane").join(layout()).join(PARENT).exists()
    });
    site.daemon.child("late", "lan", &late, "192.168.50.104/24");
    site.daemon.kill9();
    std::thread::sleep(Duration::from_millis(300));
    site.daemon.launch();
    assert_clean(pings);
    site.assert_works();
    assert_reaches(site.host(), v4(104));
    // Without one it does not start, and says how it would.
    site.daemon.stop();
    drop(bpffs);
    let message = site.daemon.refusal();
    assert!(message.contains("mount -t bpf"), "{message}");
}
