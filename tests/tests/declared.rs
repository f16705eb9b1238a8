//! What the configuration file declares: made at the start and with each reload, all of it or nothing.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    daemon::{Daemon, Setup},
    eventually,
    netns::Netns,
    site::{SOON, v4},
    topology::{Lan, PARENT},
    traffic::{Ping, assert_does_not_reach, assert_reaches},
};

/// A parent, a network with a pool, and one in a VLAN.
const DECLARED: &str = r#"
[parent.eth0]
xdp = "auto"
unknown = "pass"

[network.lan]
parent = "eth0"
quarantine = 60
probe_interval = 20
aux_addresses = { nas = "192.168.50.128" }
[[network.lan.subnets]]
subnet = "192.168.50.0/24"
gateway = "192.168.50.1"
ip_range = "192.168.50.128/25"

[network.lan50]
parent = "eth0"
vlan = 50
"#;

/// A daemon that has not been started yet, with this configuration file.
fn prepare(lan: &Lan, config: &str) -> Daemon {
    let daemon = Daemon::prepare(&lan.hosts[0].ns, Setup::default());
    daemon.configure(config);
    daemon
}

fn start(lan: &Lan, config: &str) -> Daemon {
    let mut daemon = prepare(lan, config);
    daemon.launch();
    daemon
}

/// Steps as `change network lan: quarantine 60 -> 30`.
fn lines(steps: &Value) -> Vec<String> {
    let text = |step: &Value, field: &str| step[field].as_str().expect(field).to_owned();
    let steps = steps.as_array().expect("a list").iter();
    steps
        .map(|s| format!("{} {}: {}", text(s, "action"), text(s, "object"), text(s, "details")))
        .collect()
}

/// What a trial says, what a reload says, and that there is nothing left to do.
#[track_caller]
fn reload(daemon: &Daemon, config: &str) -> Vec<String> {
    let before = shows(daemon);
    daemon.configure(config);
    let trial = daemon.json(&["reload", "--dry-run"]);
    assert_eq!(shows(daemon), before, "a trial changes nothing");
    let done = daemon.json(&["reload"]);
    assert_eq!(done, trial);
    assert_eq!(daemon.json(&["reload"]), json!([]));
    lines(&done)
}

/// A reload that is refused and changes nothing, by hand and by a signal.
#[track_caller]
fn assert_refused(daemon: &Daemon, config: &str, code: i32, words: &[&str]) {
    let before = shows(daemon);
    daemon.configure(config);
    for command in [&["reload", "--dry-run"][..], &["reload"]] {
        let (got, message) = daemon.fail(command);
        assert_eq!(got, code, "{message}");
        for word in words.iter().chain(&["maclane.toml", "nothing was changed"]) {
            assert!(message.contains(word), "\"{word}\" is not in: {message}");
        }
        assert_eq!(shows(daemon), before, "{config} has changed something");
    }
    let said = daemon.log().matches("ERROR SIGHUP").count();
    daemon.hang_up();
    eventually("SIGHUP says so", SOON, || daemon.log().matches("ERROR SIGHUP").count() > said);
    assert_eq!(shows(daemon), before, "{config} has changed something");
}

/// Everything that a reload could change.
#[track_caller]
fn shows(daemon: &Daemon) -> Vec<Value> {
    let lists = ["parent", "network", "child", "fdb"].map(|what| daemon.json(&[what, "ls"]));
    let export = serde_json::from_str(&daemon.run(&["export"])).expect("a backup is JSON");
    lists.into_iter().chain([export]).collect()
}

#[track_caller]
fn network(daemon: &Daemon, name: &str) -> Value {
    daemon.json(&["network", "inspect", name])
}

#[track_caller]
fn first_ip(daemon: &Daemon, child: &str) -> String {
    daemon.inspect(child)["ip"][0].as_str().expect("an address").to_owned()
}

#[test]
fn what_is_declared_is_there_after_the_start_and_stays() {
    let lan = Lan::new(1);
    let mut daemon = start(&lan, DECLARED);
    let there = network(&daemon, "lan");
    for (field, value) in [
        ("declared", json!(true)),
        ("parent", json!(PARENT)),
        ("quarantine", json!(60)),
        ("aux_addresses", json!({ "nas": "192.168.50.128" })),
        ("probe", json!(true)),
    ] {
        assert_eq!(there[field], value, "{field}: {there}");
    }
    assert_eq!(network(&daemon, "lan50")["vlan"], 50);
    assert_eq!(daemon.json(&["parent", "show", PARENT])["declared"], true);
    assert_eq!(daemon.run(&["reload"]), "nothing to do\n");
    assert_eq!(daemon.run(&["reload", "--dry-run"]), "nothing to do\n");
    assert_eq!(daemon.json(&["reload"]), json!([]));
    let ns = lan.namespace();
    daemon.child_with("web", "lan", &ns, &[]);
    assert_eq!(first_ip(&daemon, "web"), "192.168.50.129/24");
    assert_reaches(&lan.hosts[0].ns, v4(129));
    let before = shows(&daemon);
    let ping = Ping::start(&lan.hosts[0].ns, v4(129), Duration::from_millis(10));
    daemon.restart();
    assert_eq!(shows(&daemon), before);
    daemon.kill9();
    daemon.launch();
    assert_eq!(shows(&daemon), before);
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
}

#[test]
fn a_network_is_changed_under_its_children() {
    let lan = Lan::new(1);
    let (host, daemon) = (&lan.hosts[0].ns, start(&lan, DECLARED));
    let ns = lan.namespace();
    daemon.child_with("web", "lan", &ns, &[]);
    let link = |ns: &Netns| (ns.ifindex("eth0"), ns.mac("eth0"), ns.ip("-4 addr show eth0"));
    let before = link(&ns);
    let ping = Ping::start(host, v4(129), Duration::from_millis(10));
    let changed = DECLARED
        .replace("quarantine = 60", "quarantine = 30\nprobe = false\nmode = \"vepa\"")
        .replace("probe_interval = 20", "probe_interval = 30")
        .replace("{ nas = \"192.168.50.128\" }", "{ printer = \"192.168.50.64\" }")
        .replace("\"192.168.50.1\"", "\"192.168.50.10\"")
        .replace("192.168.50.128/25", "192.168.50.64/26")
        .replace(
            "[network.lan50]",
            "[[network.lan.subnets]]\nsubnet = \"10.7.0.0/24\"\n[network.lan50]",
        );
    let done = reload(&daemon, &changed);
    assert_eq!(done.len(), 1, "{done:?}");
    for words in [
        "change network lan: ",
        "mode auto -> vepa",
        "quarantine 60 -> 30",
        "probe true -> false",
        "probe_interval 20 -> 30",
        "aux_addresses {nas 192.168.50.128} -> {printer 192.168.50.64}",
        "-> [{subnet 192.168.50.0/24, gateway 192.168.50.10, ip_range 192.168.50.64/26}, \
         {subnet 10.7.0.0/24, gateway first}]",
    ] {
        assert!(done[0].contains(words), "\"{words}\" is not in {}", done[0]);
    }
    assert_eq!(daemon.inspect("web")["mode"], "vepa");
    assert_eq!(network(&daemon, "lan")["mode_in_force"], "vepa");
    assert_eq!(link(&ns), before);
    // Its route is what it was; the next child gets what is declared now.
    assert!(ns.ip("route").contains("default via 192.168.50.1 "));
    let late = lan.namespace();
    daemon.child_with("late", "lan", &late, &[]);
    assert_eq!(first_ip(&daemon, "late"), "192.168.50.65/24");
    assert!(late.ip("route").contains("default via 192.168.50.10 "));
    assert_reaches(&late, v4(129));
    // A parent is changed in place as well.
    let unknown = changed.replace("unknown = \"pass\"", "unknown = \"drop\"");
    assert_eq!(reload(&daemon, &unknown), ["change parent eth0: unknown pass -> drop"]);
    assert_eq!(daemon.json(&["parent", "show", PARENT])["unknown"], "drop");
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
}

#[test]
fn a_network_becomes_internal_under_its_children_and_open_again() {
    let lan = Lan::new(1);
    let daemon = start(&lan, DECLARED);
    let ns = lan.namespace();
    daemon.child_with("web", "lan", &ns, &[]);
    assert_reaches(&ns, lan.router.ip);
    let internal = DECLARED.replace("quarantine = 60", "internal = true");
    assert_eq!(reload(&daemon, &internal), ["change network lan: internal false -> true"]);
    assert_does_not_reach(&ns, lan.router.ip);
    assert_reaches(&lan.hosts[0].ns, v4(129));
    assert_eq!(reload(&daemon, DECLARED), ["change network lan: internal true -> false"]);
    assert_reaches(&ns, lan.router.ip);
}

#[test]
fn what_children_stand_against_is_refused_and_changes_nothing() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    host.veth("eth1", &lan.wire, "wire1");
    let daemon = start(&lan, DECLARED);
    let (web, trunk) = (lan.namespace(), lan.namespace());
    daemon.child_with("web", "lan", &web, &[]);
    daemon.child_with("t", "lan50", &trunk, &["--trunk", "7,8"]);
    let with = |from: &str, to: &str| {
        // Something that could be done, too.
        DECLARED.replace(from, to) + "[network.aa]\nparent = \"eth0\"\nvlan = 7\n"
    };
    let lan_is = |more: &str| with("[network.lan]\n", &format!("[network.lan]\n{more}\n"));
    let without = |name: &str| {
        let begin = DECLARED.find(&format!("[network.{name}]")).expect("it is declared");
        DECLARED[..begin].to_owned()
    };
    let cases: &[(String, &[&str])] = &[
        (lan_is("vlan = 9"), &["network \"lan\"", "vlan 0 -> 9", "the children web"]),
        (lan_is("kind = \"veth\""), &["kind macvlan -> veth", "the children web"]),
        (lan_is("mode = \"passthru\""), &["mode auto -> passthru", "the children web"]),
        (
            with("vlan = 50", "vlan = 50\ninternal = true"),
            &["network \"lan50\"", "internal false -> true", "the children t"],
        ),
        (
            with("vlan = 50", "vlan = 50\nmode = \"bridge\""),
            &["network \"lan50\"", "the children t"],
        ),
        (
            with("parent = \"eth0\"\nq", "parent = \"eth1\"\nq"),
            &["parent eth0 -> eth1", "the children web"],
        ),
        (
            with("192.168.50.0/24", "192.168.50.128/25")
                .replace("50.1\"", "50.254\"")
                .replace("50.128\"", "50.130\""),
            &["the children web"],
        ),
        (with("192.168.50.0/24", "192.168.48.0/22"), &["the children web"]),
        (with("nas = \"192.168.50.128\"", "nas = \"192.168.50.129\""), &["the children web"]),
        (with("gateway = \"192.168.50.1\"", "gateway = \"192.168.50.129\""), &["the children web"]),
        (
            without("lan50"),
            &["network \"lan50\" is not declared any more", "the children t", "declare it again"],
        ),
        (
            String::new(),
            &[
                "network \"lan\" is not declared any more",
                "network \"lan50\" is not declared any more",
            ],
        ),
    ];
    for (config, words) in cases {
        assert_refused(&daemon, config, 1, words);
    }
    assert_reaches(host, v4(129));
    // Without children all of that can be.
    daemon.run(&["child", "rm", "web"]);
    daemon.run(&["child", "rm", "t"]);
    let moved = lan_is("kind = \"veth\"\nvlan = 9")
        .replace("parent = \"eth0\"\nvlan = 50", "parent = \"eth1\"");
    let done = reload(&daemon, &moved);
    let expected = [
        "create parent eth1: ",
        "create network aa: parent eth0, vlan 7",
        "change network lan: vlan 0 -> 9, kind macvlan -> veth",
        "change network lan50: parent eth0 -> eth1, vlan 50 -> 0",
    ];
    assert_eq!(done, expected);
    let done = reload(&daemon, "");
    let expected = [
        "remove network aa: ",
        "remove network lan: ",
        "remove network lan50: ",
        "remove parent eth0: ",
        "remove parent eth1: ",
    ];
    assert_eq!(done, expected);
    assert_eq!(daemon.json(&["parent", "ls"]), json!([]));
    let export: Value = serde_json::from_str(&daemon.run(&["export"])).expect("JSON");
    assert_eq!(export["quarantined"], json!([]), "{export}");
    assert_eq!(reload(&daemon, DECLARED).len(), 3);
}

#[test]
fn a_file_that_is_wrong_changes_nothing() {
    let lan = Lan::new(1);
    let daemon = start(&lan, DECLARED);
    let more = |text: &str| format!("{DECLARED}{text}\n");
    let in_line = format!("line {}", DECLARED.lines().count() + 1);
    let cases: &[(String, i32, &[&str])] = &[
        (more("vlam = 5"), 2, &[&in_line, "unknown field `vlam`"]),
        (more("mtu = 1"), 2, &["[network.lan50]", "is not an MTU"]),
        (more("vlan = \"x\""), 2, &[&in_line]),
        (more("[networks.x]"), 2, &[&in_line, "unknown field `networks`"]),
        (more("mtu = 9000"), 2, &["network \"lan50\"", "1500"]),
        (more("[parent.lo]"), 2, &["parent \"lo\"", "loopback"]),
        (
            more("[network.x]\nparent = \"eth0\"\nsubnets = [{ subnet = \"192.168.50.128/25\" }]"),
            1,
            &["overlaps", "\"x\""],
        ),
        (
            more("mode = \"bridge\"\n[network.x]\nparent = \"eth0\"\nvlan = 9\nmode = \"bridge\""),
            1,
            &["switch between"],
        ),
    ];
    for (config, code, words) in cases {
        assert_refused(&daemon, config, *code, words);
    }
    std::fs::remove_file(daemon.config()).expect("there is a file");
    let (code, message) = daemon.fail(&["reload"]);
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("maclane.toml") && message.contains("--config"), "{message}");
}

#[test]
fn what_was_made_by_hand_is_left_alone() {
    let lan = Lan::new(1);
    let daemon = start(&lan, "");
    daemon.run(&["parent", "add", PARENT, "--unknown", "drop"]);
    daemon.network("own", 7, "macvlan");
    daemon.network("lan50", 50, "macvlan");
    let by_hand = network(&daemon, "own");
    // One that is declared in another way.
    let lan60 = "[network.lan60]\nparent = \"eth0\"\nvlan = 60\n";
    let conflict = format!("{lan60}[network.lan50]\nparent = \"eth0\"\nvlan = 51\n");
    let words = ["network \"lan50\" was made by hand", "vlan 50 -> 51"];
    assert_refused(&daemon, &conflict, 1, &words);
    let conflict = format!("{lan60}[parent.eth0]\n");
    assert_refused(&daemon, &conflict, 1, &["parent \"eth0\" was made by hand", "drop -> pass"]);
    // One that is declared as it is.
    let both = format!("{lan60}[network.lan50]\nparent = \"eth0\"\nvlan = 50\n");
    let done = reload(&daemon, &both);
    let expected = [
        "change network lan50: made by hand -> declared",
        "create network lan60: parent eth0, vlan 60",
    ];
    assert_eq!(done, expected);
    assert_eq!(network(&daemon, "lan50")["declared"], true);
    assert_eq!(daemon.json(&["parent", "show", PARENT])["declared"], false);
    assert_eq!(reload(&daemon, ""), ["remove network lan50: ", "remove network lan60: "]);
    assert_eq!(network(&daemon, "own"), by_hand);
    assert_eq!(daemon.json(&["parent", "show", PARENT])["unknown"], "drop");
    // A parent that leaves the file stays with what is on it by hand.
    let parent = "[parent.eth0]\nunknown = \"drop\"\n";
    assert_eq!(reload(&daemon, parent), ["change parent eth0: made by hand -> declared"]);
    assert_refused(&daemon, "", 1, &["parent \"eth0\" is not declared any more", "networks own"]);
    daemon.run(&["network", "rm", "own"]);
    assert_eq!(reload(&daemon, ""), ["remove parent eth0: "]);
}

#[test]
fn what_is_declared_is_not_removed_by_hand() {
    let lan = Lan::new(1);
    let daemon = start(&lan, DECLARED);
    let before = shows(&daemon);
    for command in [
        &["network", "rm", "lan50"][..],
        &["parent", "rm", PARENT],
        &["parent", "rm", PARENT, "--force"],
        &["parent", "add", PARENT, "--unknown", "drop"],
    ] {
        let (code, message) = daemon.fail(command);
        assert_eq!(code, 1, "{message}");
        for word in ["is declared in", "maclane.toml", "`maclane reload`"] {
            assert!(message.contains(word), "{command:?}: \"{word}\" is not in: {message}");
        }
        assert_eq!(shows(&daemon), before);
    }
    daemon.run(&["parent", "add", PARENT]);
    assert_eq!(shows(&daemon), before);
    // Nor with the parent that it is on.
    let other = Lan::new(1);
    let daemon = start(&other, "");
    daemon.run(&["parent", "add", PARENT]);
    reload(&daemon, "[network.n]\nparent = \"eth0\"\n");
    let (code, message) = daemon.fail(&["parent", "rm", PARENT, "--force"]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("network \"n\"") && message.contains("maclane.toml"), "{message}");
}

#[test]
fn a_wrong_file_keeps_the_daemon_from_starting_and_costs_no_traffic() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = start(&lan, DECLARED);
    let ns = lan.namespace();
    daemon.child_with("web", "lan", &ns, &[]);
    let before = shows(&daemon);
    let ping = Ping::start(host, v4(129), Duration::from_millis(10));
    daemon.stop();
    daemon.configure(&format!("{DECLARED}\nvlam = 5\n"));
    let message = daemon.refusal();
    for word in ["maclane.toml", "unknown field `vlam`", "traffic goes on", "correct it"] {
        assert!(message.contains(word), "\"{word}\" is not in: {message}");
    }
    std::fs::remove_file(daemon.config()).expect("there is a file");
    let message = daemon.refusal();
    assert!(message.contains("cannot read the configuration file"), "{message}");
    daemon.configure(DECLARED);
    daemon.launch();
    assert_eq!(shows(&daemon), before);
    // What stands against what is there does not keep children from coming back.
    daemon.stop();
    daemon.configure("");
    daemon.launch();
    assert_eq!(shows(&daemon), before);
    let log = daemon.log();
    let said = log.lines().find(|line| line.contains("ERROR")).unwrap_or_default();
    for word in ["the children web", "nothing was changed", "`maclane reload`"] {
        assert!(said.contains(word), "\"{word}\" is not in: {said}");
    }
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
}

#[test]
fn a_file_that_is_gone_takes_nothing_away() {
    if std::path::Path::new("/etc/maclane/maclane.toml").exists() {
        eprintln!("skipped: this machine has a configuration of its own");
        return;
    }
    let lan = Lan::new(1);
    let mut daemon = start(&lan, DECLARED);
    let before = shows(&daemon);
    daemon.stop();
    daemon.forget_config();
    daemon.launch();
    assert_eq!(shows(&daemon), before);
    let words = "/etc/maclane/maclane.toml is not there, and what it has declared is";
    assert!(daemon.log().contains(words), "{}", daemon.log());
    let (code, message) = daemon.fail(&["reload"]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains(words) && message.contains("nothing was changed"), "{message}");
    assert_eq!(shows(&daemon), before);
}

#[test]
fn a_hang_up_reloads() {
    let lan = Lan::new(1);
    let daemon = start(&lan, "");
    daemon.configure(DECLARED);
    daemon.hang_up();
    eventually("it is as declared", SOON, || {
        daemon.json(&["network", "ls"]).as_array().is_some_and(|all| all.len() == 2)
    });
    assert_eq!(daemon.json(&["reload"]), json!([]));
    daemon.configure("");
    daemon.hang_up();
    eventually("nothing is left", SOON, || daemon.json(&["parent", "ls"]) == json!([]));
}

#[test]
fn a_declared_parent_may_come_later() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = prepare(&lan, "[network.late]\nparent = \"late0\"\n");
    daemon.launch();
    assert_eq!(daemon.json(&["parent", "show", "late0"])["state"], "missing");
    assert_eq!(daemon.run(&["reload"]), "nothing to do\n");
    host.veth("late0", &lan.wire, "late1");
    lan.wire.enslave("late1", "wire");
    eventually("it is served", SOON, || daemon.json(&["parent", "show", "late0"])["state"] == "up");
    let ns = lan.namespace();
    daemon.child("web", "late", &ns, "192.168.50.101/24");
    assert_reaches(&lan.router.ns, v4(101));
}

#[test]
fn what_a_driver_cannot_do_is_warned_of() {
    let lan = Lan::new(1);
    let daemon = start(&lan, "");
    lan.hosts[0].ns.bridge("br0");
    daemon.configure("[parent.br0]\nxdp = \"native\"\n");
    let output = daemon.cli(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("warning: br0: "), "{said}");
    let problems = daemon.json(&["parent", "show", "br0"])["problems"].clone();
    assert!(said.contains(problems[0].as_str().expect("a problem")), "{problems}: {said}");
}
