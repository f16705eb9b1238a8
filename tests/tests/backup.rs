//! Backups: what `maclane export` writes brings everything back, or changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    daemon::{Daemon, Setup},
    eventually, kernel,
    netns::Netns,
    process,
    site::{SOON, v4},
    topology::{Lan, Options, PARENT},
    traffic::{Ping, assert_reaches},
};

/// A host with parents, networks and children of both kinds, and an address that rests.
struct Site {
    /// macvlan with a pool (.128), macvlan with addresses of its own (.101), veth (.102).
    children: [Netns; 3],
    daemon: Daemon,
    dir: TempDir,
    lan: Lan,
}

impl Site {
    fn new() -> Self {
        let lan = Lan::new(1);
        let daemon = Daemon::prepare(&lan.hosts[0].ns, Setup::default());
        let dir = tempfile::tempdir().expect("a folder");
        let children = [lan.namespace(), lan.namespace(), lan.namespace()];
        Self { children, daemon, dir, lan }
    }

    fn furnished() -> Self {
        let mut site = Self::new();
        site.daemon.launch();
        let daemon = &site.daemon;
        daemon.run(&["parent", "add", PARENT]);
        daemon.configure("[network.declared]\nparent = \"eth0\"\nvlan = 9\n");
        daemon.run(&["reload"]);
        let pool = "--subnet 192.168.50.0/24 --ip-range 192.168.50.128/25 --quarantine 600 \
                    --aux-address nas=192.168.50.200 --probe-interval 20";
        let words: Vec<&str> = pool.split_whitespace().collect();
        let create = ["network", "create", "lan", "--parent", PARENT];
        daemon.run(&[&create[..], &words].concat());
        daemon.network("lanv", 0, "veth");
        let [pooled, own, veth] = &site.children;
        daemon.child_with("gone", "lan", own, &[]);
        daemon.run(&["child", "rm", "gone"]);
        daemon.child_with("pooled", "lan", pooled, &[]);
        let more =
            ["--ip", "192.168.50.101", "--ifname", "lan0", "--route", "10.9.0.0/16=192.168.50.1"];
        daemon.child_with("own", "lan", own, &more);
        let more = ["--ip", "192.168.50.102/24", "--mac", "02:00:5e:00:53:66"];
        daemon.child_with("veth", "lanv", veth, &more);
        site
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    fn export(&self) -> Value {
        serde_json::from_str(&self.daemon.run(&["export"])).expect("a backup is JSON")
    }

    /// Writes a backup into a file.
    fn file(&self, backup: &Value) -> PathBuf {
        let path = self.dir.path().join("maclane.json");
        fs::write(&path, serde_json::to_string_pretty(backup).expect("JSON")).expect("a file");
        path
    }

    /// Everything that a wrong import could change.
    fn shows(&self) -> [Value; 4] {
        let lists = ["parent", "network", "fdb"].map(|what| self.daemon.json(&[what, "ls"]));
        let [parents, networks, fdb] = lists;
        [parents, networks, fdb, self.export()]
    }

    /// Leaves nothing of it but the namespaces.
    fn remove_everything(&self) {
        self.daemon.configure("");
        self.daemon.run(&["reload"]);
        self.daemon.run(&["parent", "rm", PARENT, "--force"]);
    }

    /// The daemon is replaced by one that knows nothing.
    fn lose_the_disk(&mut self) {
        self.daemon.stop();
        fs::remove_dir_all(self.daemon.state_dir()).expect("there is a state directory");
        fs::remove_dir_all(self.daemon.runtime_dir()).expect("there is a runtime directory");
        self.daemon.configure("");
        self.daemon.launch();
        assert_eq!(self.daemon.json(&["parent", "ls"]), json!([]));
    }

    fn assert_works(&self) {
        for last in [129, 101, 102] {
            assert_reaches(self.host(), v4(last));
        }
        let [pooled, own, _] = &self.children;
        assert_reaches(pooled, v4(102));
        assert_reaches(own, v4(129));
        assert!(own.ip("route").contains("10.9.0.0/16 via 192.168.50.1 dev lan0"));
        assert!(pooled.ip("route").contains("default via 192.168.50.1"));
        assert_eq!(self.daemon.problems(), "[]");
    }
}

fn import(daemon: &Daemon, file: &Path) -> Value {
    daemon.json(&["import", file.to_str().expect("a path in UTF-8")])
}

#[test]
fn a_backup_brings_back_links_macs_and_addresses() {
    let mut site = Site::furnished();
    let backup = site.export();
    let file = site.file(&backup);
    site.remove_everything();
    assert!(!site.children[0].has("eth0"));
    site.lose_the_disk();

    let trial = site.daemon.json(&["import", "--dry-run", file.to_str().expect("UTF-8")]);
    let objects = |steps: &Value| -> Vec<String> {
        let steps = steps.as_array().expect("a list").iter();
        steps.map(|s| format!("{} {}", s["action"], s["object"]).replace('"', "")).collect()
    };
    let expected = [
        "create parent eth0",
        "create network declared",
        "create network lan",
        "create network lanv",
        "create child own",
        "create child pooled",
        "create child veth",
        "create address 192.168.50.128",
    ];
    assert_eq!(objects(&trial), expected);
    assert_eq!(site.daemon.json(&["parent", "ls"]), json!([]), "a trial changes nothing");

    assert_eq!(import(&site.daemon, &file), trial);
    site.assert_works();
    assert_eq!(site.export(), backup);
    assert_eq!(import(&site.daemon, &file), json!([]));
    let again = site.daemon.run(&["import", file.to_str().expect("UTF-8")]);
    assert_eq!(again, "nothing to do\n");
    assert_eq!(site.export(), backup);
    // What it had made of the file is the file's to remove, and .128 rests.
    let network = site.daemon.json(&["network", "inspect", "declared"]);
    assert_eq!(network["declared"], true);
    assert_eq!(site.daemon.json(&["reload"])[0]["object"], "network declared");
    let late = site.lan.namespace();
    site.daemon.child_with("late", "lan", &late, &[]);
    assert_eq!(site.daemon.inspect("late")["ip"][0], "192.168.50.130/24");
    site.daemon.restart();
    site.assert_works();
}

#[test]
fn a_lost_state_directory_comes_back_under_running_children() {
    for by_hand in [false, true] {
        let mut site = Site::furnished();
        let backup = site.export();
        let file = site.file(&backup);
        let [pooled, own, veth] = &site.children;
        let links = |ns: &Netns, ifname: &str| (ns.mac(ifname), ns.ifindex(ifname));
        let before = [links(pooled, "eth0"), links(own, "lan0"), links(veth, "eth0")];
        let ping = Ping::start(site.host(), v4(101), Duration::from_millis(10));
        site.lose_the_disk();
        if by_hand {
            // Then its macvlan children are somebody's for as long as nobody knows better.
            site.daemon.run(&["parent", "add", PARENT]);
            let adopted = |view: &Value| view["adopted"].as_u64();
            eventually("they are adopted", SOON, || {
                adopted(&site.daemon.json(&["parent", "show", PARENT])) == Some(2)
            });
        }
        import(&site.daemon, &file);
        let [pooled, own, veth] = &site.children;
        let after = [links(pooled, "eth0"), links(own, "lan0"), links(veth, "eth0")];
        assert_eq!(after, before, "the links are the same");
        site.assert_works();
        let result = ping.stop();
        // A guard that was somebody else's child's is replaced, and not without a gap.
        assert!(result.is_clean() || by_hand, "{result:?}");
        let parent = site.daemon.json(&["parent", "show", PARENT]);
        assert_eq!((&parent["adopted"], &parent["children"]), (&json!(0), &json!(3)), "{parent}");
        for child in ["own", "pooled"] {
            assert_eq!(site.daemon.inspect(child)["identity"], kernel::identity());
        }
        let names = |backup: &Value| backup["children"].clone();
        assert_eq!(names(&site.export()), names(&backup));
        site.daemon.restart();
        site.assert_works();
    }
}

#[test]
fn children_whose_namespace_is_not_there_are_made_when_it_comes() {
    let mut site = Site::furnished();
    let backup = site.export();
    let file = site.file(&backup);
    site.remove_everything();
    let name = site.children[1].name().to_owned();
    process::run(Command::new("ip").args(["netns", "del", &name]));
    site.lose_the_disk();
    import(&site.daemon, &file);
    let own = site.daemon.inspect("own");
    assert_eq!(
        (&own["state"], &own["ip"][0]),
        (&json!("no namespace"), &json!("192.168.50.101/24"))
    );
    assert_reaches(site.host(), v4(102));
    process::run(Command::new("ip").args(["netns", "add", &name]));
    eventually("it is made", SOON, || site.daemon.inspect("own")["state"] == "up");
    assert_eq!(site.daemon.inspect("own")["mac"], own["mac"]);
    site.assert_works();
}

#[test]
fn children_of_every_sort_come_back() {
    let lan = Lan::with(Options { ipv6: true, ..Options::default() });
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("maclane.json");
    for (network, child) in [
        ("--kind veth", "--trunk 10,20"),
        ("--mode passthru", "--ip 192.168.50.101/24"),
        ("--vlan 7 --mode private --subnet fd00:7::/64 --subnet 10.7.0.0/24", "--ip fd00:7::9"),
        ("--subnet 10.7.0.0/24 --mtu 1400", "--mac 02:00:5e:00:53:01 --ifname lan0 --no-probe"),
    ] {
        let ns = lan.namespace();
        let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
        daemon
            .run(&[&["network", "create", "n", "--parent", PARENT][..], &words(network)].concat());
        daemon.child_with("c", "n", &ns, &words(child));
        let (before, view) = (daemon.run(&["export"]), daemon.inspect("c"));
        fs::write(&file, &before).expect("a file");
        daemon.run(&["parent", "rm", PARENT, "--force"]);
        assert_eq!(ns.run(&["ip", "-o", "link"]).lines().count(), 1, "{network}: lo is left");
        import(&daemon, &file);
        assert_eq!(daemon.run(&["export"]), before, "{network}");
        let now = daemon.inspect("c");
        for field in ["state", "mac", "ip", "mtu", "mode", "trunk", "ifname", "identity", "port"] {
            assert_eq!(now[field], view[field], "{network}: {field}");
        }
        daemon.run(&["parent", "rm", PARENT, "--force"]);
    }
}

#[test]
fn a_parent_whose_interface_is_not_there_comes_with_it() {
    let site = Site::furnished();
    let mut backup = site.export();
    for (place, value) in [
        ("/parents/0/iface", "late0"),
        ("/networks/0/parent", "late0"),
        ("/networks/1/parent", "late0"),
        ("/networks/2/parent", "late0"),
    ] {
        *backup.pointer_mut(place).expect(place) = value.into();
    }
    backup["declared"] = json!({ "parents": [], "networks": [] });
    let other = Site::new();
    let mut daemon = Daemon::prepare(other.host(), Setup::default());
    daemon.launch();
    import(&daemon, &site.file(&backup));
    assert_eq!(daemon.json(&["parent", "show", "late0"])["state"], "missing");
    other.host().veth("late0", &other.lan.wire, "late1");
    eventually("it is served", SOON, || daemon.json(&["parent", "show", "late0"])["state"] == "up");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let site = Site::furnished();
    let whole = site.export();
    let mac = whole["children"][1]["mac"].clone();
    let before = site.shows();
    let new = |more: Value| {
        let mut child = whole["children"][0].clone();
        child["spec"]["name"] = "new".into();
        child["mac"] = "02:00:5e:00:53:77".into();
        child["addresses"] = json!(["192.168.50.77/24"]);
        for (field, value) in more.as_object().expect("an object") {
            child[field] = value.clone();
        }
        child
    };
    let cases: &[(&str, Value, i32, &[&str])] = &[
        ("/schema", json!(99), 2, &["schema 99", "newer maclane"]),
        ("/later", json!(1), 2, &["unknown field `later`", "line "]),
        ("/parents/0/unknown", json!("drop"), 1, &["parent \"eth0\"", "unknown pass -> drop"]),
        ("/parents/1", json!({ "iface": "lo" }), 2, &["loopback"]),
        (
            "/networks/1/quarantine",
            json!(9),
            1,
            &["network \"lan\"", "quarantine 600 -> 9", "remove"],
        ),
        ("/networks/1/vlan", json!(4095), 2, &["is not a VLAN ID", "line "]),
        (
            "/networks/3",
            json!({ "name": "new", "parent": PARENT, "subnets": [{ "subnet": "192.168.50.0/25" }] }),
            1,
            &["network \"new\"", "overlaps with 192.168.50.0/24 of network lan"],
        ),
        (
            "/networks/3",
            json!({ "name": "new", "parent": PARENT, "mtu": 9000 }),
            2,
            &["new", "1500"],
        ),
        ("/children/0/mac", json!("02:00:5e:00:53:77"), 1, &["child \"own\"", "mac"]),
        ("/children/3", new(json!({ "mac": mac })), 1, &["\"new\"", "MAC of child \"pooled\""]),
        (
            "/children/3",
            new(json!({ "addresses": ["192.168.50.102/24"] })),
            1,
            &["child \"new\"", "192.168.50.102 is already used by child \"veth\""],
        ),
        (
            "/children/3",
            new(json!({ "addresses": ["192.168.50.10/24"] })),
            1,
            &["child \"new\"", "the host itself"],
        ),
        (
            "/children/3",
            new(json!({ "addresses": ["192.168.50.1/24"] })),
            1,
            &["child \"new\"", "the gateway"],
        ),
        ("/children/3", new(json!({ "addresses": ["192.168.50.77/25"] })), 2, &["does not fit"]),
        ("/children/3", new(json!({ "mac": null })), 2, &["has no MAC"]),
        ("/children/3", new(json!({ "port": 1 })), 2, &["cannot have port 1"]),
    ];
    for (place, value, code, words) in cases {
        let mut backup = whole.clone();
        // Something that could be made, before and after what cannot.
        backup["parents"].as_array_mut().expect("a list").push(json!({ "iface": "late0" }));
        let networks = backup["networks"].as_array_mut().expect("a list");
        networks.push(json!({ "name": "aa", "parent": "late0" }));
        networks.push(json!({ "name": "zz", "parent": "late0" }));
        put(&mut backup, place, value.clone());
        let file = site.file(&backup);
        for dry_run in [&["--dry-run"][..], &[]] {
            let words_of = [&["import", file.to_str().expect("UTF-8")], dry_run].concat();
            let (got, message) = site.daemon.fail(&words_of);
            assert_eq!(got, *code, "{place}: {message}");
            for word in *words {
                assert!(message.contains(word), "{place}: \"{word}\" is not in: {message}");
            }
            assert_eq!(site.shows(), before, "{place} has changed something");
        }
    }
    for (text, words) in
        [("{\n\n \"sch", &["line 3"][..]), ("", &["line 1"]), ("[]", &["a backup"])]
    {
        let file = site.dir.path().join("broken.json");
        fs::write(&file, text).expect("a file");
        let (code, message) = site.daemon.fail(&["import", file.to_str().expect("UTF-8")]);
        assert_eq!(code, 2, "{message}");
        for word in words.iter().chain(&["broken.json", "maclane export"]) {
            assert!(message.contains(word), "\"{word}\" is not in: {message}");
        }
    }
    let (code, message) = site.daemon.fail(&["import", "/nonexistent/maclane.json"]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("/nonexistent/maclane.json"), "{message}");
    assert_eq!(site.shows(), before);
    site.assert_works();
}

/// Replaces what is at a place, or appends it to a list.
fn put(document: &mut Value, place: &str, value: Value) {
    let (of, name) = place.rsplit_once('/').expect("a place");
    match document.pointer_mut(of).expect(place) {
        Value::Array(list) => match list.get_mut(name.parse::<usize>().expect(place)) {
            Some(there) if !matches!(&value, Value::Object(_)) => *there = value,
            _ => list.push(value),
        },
        other => other[name] = value,
    }
}

#[test]
fn a_port_that_somebody_has_is_not_taken_from_them() {
    let site = Site::furnished();
    let mut backup = site.export();
    let children = backup["children"].as_array_mut().expect("a list");
    let mut child = children[0].clone();
    children.clear();
    child["spec"]["name"] = "new".into();
    child["spec"]["ifname"] = "new0".into();
    child["mac"] = "02:00:5e:00:53:77".into();
    child["addresses"] = json!(["192.168.50.77/24"]);
    let ns = site.lan.namespace();
    child["netns"] = ns.path().to_str().into();
    children.push(child.clone());
    import(&site.daemon, &site.file(&backup));
    let new = site.daemon.inspect("new");
    assert_eq!(new["state"], "up");
    assert_ne!(new["port"], child["port"]);
    site.assert_works();
    assert_reaches(site.host(), v4(77));
}
