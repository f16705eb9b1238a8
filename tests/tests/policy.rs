//! The policy of networks and children as users configure it: set, changed while frames go, declared,
//! backed up, and refused where it makes no sense.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tests::{
    daemon::{Daemon, Setup},
    http,
    netns::Netns,
    site::v4,
    topology::{Lan, PARENT},
    traffic::Ping,
};

/// The MAC of a station that is not there.
const ROUTER: &str = "02:00:5e:00:53:99";

/// A network with all of a policy.
const STRICT: &str = "--subnet 192.168.50.0/24 --ip-range 192.168.50.128/25 --probe-interval 20 --arp suppress \
                      --security log --trust router,dhcp-server --storm broadcast=50,unknown=0 \
                      --max-addresses 4 --binding 192.168.50.1=02:00:5e:00:53:99";

/// The fields of a policy.
const FIELDS: [&str; 7] =
    ["arp", "security", "trust", "storm", "max_addresses", "allow_ip", "bindings"];

#[track_caller]
fn network(daemon: &Daemon, name: &str) -> Value {
    daemon.json(&["network", "inspect", name])
}

/// Those fields of an object that `expected` has are what they are there.
#[track_caller]
fn assert_has(object: &Value, expected: &Value) {
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&object[field], value, "{field} of {object}");
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Everything that a policy is part of, less what is counted.
#[track_caller]
fn shows(daemon: &Daemon) -> Vec<Value> {
    let lists = ["parent", "network", "child", "binding"].map(|what| daemon.json(&[what, "ls"]));
    let export = serde_json::from_str(&daemon.run(&["export"])).expect("a backup is JSON");
    lists.into_iter().chain([export]).collect()
}

/// A network with a child that has words of its own, and one that has none.
fn furnish(lan: &Lan, daemon: &Daemon) -> [Netns; 2] {
    daemon.network_with("lan", STRICT);
    let (plain, own) = (lan.namespace(), lan.namespace());
    daemon.child_with("plain", "lan", &plain, &[]);
    let policy = "--security enforce --trust none --storm broadcast=9 --max-addresses 2 \
                  --allow-ip 192.168.50.250 --allow-ip fd00:50::/64";
    daemon.child_with("own", "lan", &own, &words(policy));
    [plain, own]
}

#[test]
fn a_policy_is_what_was_asked_for_and_the_word_of_a_child_goes_first() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let _children = furnish(&lan, &daemon);
    let expected = json!({
        "arp": "suppress", "security": "log", "trust": ["dhcp-server", "router"],
        "storm": { "broadcast": 50, "multicast": null, "unknown": 0 }, "max_addresses": 4,
        "bindings": { "192.168.50.1": ROUTER },
    });
    assert_has(&network(&daemon, "lan"), &expected);
    let expected = json!({
        "arp": "suppress", "security": "log", "trust": ["dhcp-server", "router"],
        "storm": { "broadcast": 50, "multicast": 0, "unknown": 0 }, "max_addresses": 4,
        "allow_ip": [], "bindings": { "192.168.50.1": ROUTER }, "own_policy": [],
    });
    assert_has(&daemon.inspect("plain"), &expected);
    let expected = json!({
        "arp": "suppress", "security": "enforce", "trust": [],
        "storm": { "broadcast": 9, "multicast": 0, "unknown": 0 }, "max_addresses": 2,
        "allow_ip": ["192.168.50.250/32", "fd00:50::/64"],
        "own_policy": ["security", "trust", "storm", "max_addresses", "allow_ip"],
    });
    assert_has(&daemon.inspect("own"), &expected);
    // Where nobody says anything, a child that has addresses from maclane is kept to them.
    daemon.network("bare", 7, "macvlan");
    let (given, none) = (lan.namespace(), lan.namespace());
    daemon.child("given", "bare", &given, "10.7.0.9/24");
    daemon.child_with("none", "bare", &none, &[]);
    assert_has(&network(&daemon, "bare"), &json!({ "security": null, "arp": "steer" }));
    let default = json!({ "broadcast": 1000, "multicast": 0, "unknown": 0 });
    let expected = json!({ "security": "enforce", "storm": default, "max_addresses": 16 });
    assert_has(&daemon.inspect("given"), &expected);
    assert_has(&daemon.inspect("none"), &json!({ "security": "off" }));
    // The wire's port has limits as well.
    let storm = |daemon: &Daemon| daemon.json(&["parent", "show", PARENT])["storm"].clone();
    assert_eq!(storm(&daemon)["broadcast"], Value::Null);
    daemon.run(&["parent", "add", PARENT, "--storm", "broadcast=7"]);
    assert_eq!(storm(&daemon), json!({ "broadcast": 7, "multicast": null, "unknown": null }));
}

#[test]
fn a_policy_is_changed_while_frames_go_and_survives_the_daemon() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    let [plain, _own] = furnish(&lan, &daemon);
    let link = |ns: &Netns| (ns.ifindex("eth0"), ns.mac("eth0"), ns.ip("-4 addr show eth0"));
    let before = link(&plain);
    let ping = Ping::start(host, v4(128), Duration::from_millis(10));
    for (set, expected) in [
        ("--security off", json!({ "security": "off", "arp": "suppress" })),
        ("--arp flood --trust none", json!({ "arp": "flood", "trust": [], "security": "off" })),
        (
            "--storm multicast=5",
            json!({ "storm": { "broadcast": 50, "multicast": 5, "unknown": 0 } }),
        ),
        (
            "--storm default --security default --arp default --trust bpdu --max-addresses 256",
            json!({
                "storm": { "broadcast": null, "multicast": null, "unknown": null },
                "security": null, "arp": "steer", "trust": ["bpdu"], "max_addresses": 256,
            }),
        ),
    ] {
        let answer = daemon.json(&[&["network", "set", "lan"][..], &words(set)].concat());
        assert_has(&answer, &expected);
        assert_has(&network(&daemon, "lan"), &expected);
    }
    let default = json!({ "broadcast": 1000, "multicast": 0, "unknown": 0 });
    let expected = json!({ "security": "enforce", "trust": ["bpdu"], "storm": default });
    assert_has(&daemon.inspect("plain"), &expected);
    for (set, expected) in [
        (
            "--security default --trust default",
            json!({ "security": "enforce", "trust": ["bpdu"], "max_addresses": 2 }),
        ),
        ("--allow-ip none", json!({ "allow_ip": [], "own_policy": ["storm", "max_addresses"] })),
        (
            "--allow-ip 192.168.50.9 --max-addresses default --storm default",
            json!({ "allow_ip": ["192.168.50.9/32"], "max_addresses": 256, "storm": default }),
        ),
    ] {
        let answer = daemon.json(&[&["child", "set", "own"][..], &words(set)].concat());
        assert_has(&answer, &expected);
        assert_has(&daemon.inspect("own"), &expected);
    }
    daemon.run(&["binding", "add", "192.168.50.2", ROUTER, "--network", "lan"]);
    daemon.run(&["binding", "rm", "192.168.50.1", "--network", "lan"]);
    let before_restart = shows(&daemon);
    daemon.restart();
    assert_eq!(shows(&daemon), before_restart);
    daemon.kill9();
    daemon.launch();
    assert_eq!(shows(&daemon), before_restart);
    assert_eq!(link(&plain), before, "nothing but the policy was changed");
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
}

/// Where a macvlan child is enforced the kernel does not switch between siblings, from the moment at which the
/// command returns.
#[test]
fn the_mode_follows_the_security_of_a_child() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network_with("lan", "--subnet 192.168.50.0/24 --security off");
    let spaces = [lan.namespace(), lan.namespace()];
    for (name, ns) in ["a", "b"].into_iter().zip(&spaces) {
        daemon.child_with(name, "lan", ns, &[]);
    }
    let modes = || {
        let mode = |ns: &Netns| ns.link("eth0")["linkinfo"]["info_data"]["mode"].clone();
        let all = [mode(&spaces[0]), mode(&spaces[1])];
        assert_eq!(all[0], network(&daemon, "lan")["mode_in_force"]);
        all
    };
    assert_eq!(modes(), ["bridge", "bridge"]);
    for (setting, mode) in [
        ("child set a --security enforce", "vepa"),
        ("child set a --security default", "bridge"),
        ("network set lan --security enforce", "vepa"),
        ("network set lan --security log", "bridge"),
    ] {
        daemon.run(&words(setting));
        assert_eq!(modes(), [mode, mode], "{setting}");
    }
}

#[test]
fn bindings_are_those_of_the_wire_and_the_leases() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let [_plain, own] = furnish(&lan, &daemon);
    daemon.network("other", 7, "macvlan");
    let mac = |child: &str| daemon.inspect(child)["mac"].clone();
    let of = |port: &str, ip: &str, mac: Value, source: &str| json!({ "network": "lan", "ip": ip, "mac": mac, "port": port, "source": source });
    let leases = [
        of("plain", "192.168.50.128", mac("plain"), "lease"),
        of("own", "192.168.50.129", mac("own"), "lease"),
    ];
    let expected = |wire: &[Value]| Value::from([wire, &leases[..]].concat());
    let first = of("wire", "192.168.50.1", json!(ROUTER), "configured");
    let list = |network: &str| daemon.json(&["binding", "ls", "--network", network]);
    assert_eq!(list("lan"), expected(std::slice::from_ref(&first)));
    assert_eq!(list("other"), json!([]));
    assert_eq!(daemon.json(&["binding", "ls"]), list("lan"));
    // One of each family; one that is there gets the new MAC.
    let add = |ip: &str, mac: &str| daemon.json(&["binding", "add", ip, mac, "--network", "lan"]);
    assert_eq!(add("192.168.50.1", "02:00:5e:00:53:98")["mac"], "02:00:5e:00:53:98");
    let second = of("wire", "fd00:50::1", json!(ROUTER), "configured");
    assert_eq!(add("fd00:50::1", ROUTER), second);
    let first = of("wire", "192.168.50.1", json!("02:00:5e:00:53:98"), "configured");
    assert_eq!(list("lan"), expected(&[first.clone(), second]));
    daemon.run(&["binding", "rm", "fd00:50::1", "--network", "lan"]);
    assert_eq!(list("lan"), expected(&[first]));
    // What is pinned is given to no child.
    add("192.168.50.130", ROUTER);
    let (code, message) = daemon.fail(&[
        "child",
        "add",
        "x",
        "--network",
        "lan",
        "--netns",
        own.name(),
        "--ifname",
        "x0",
        "--ip",
        "192.168.50.130",
    ]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("a station on the wire") && message.contains("lan"), "{message}");
    let (_ns, got) = lan.add(&daemon, "next", "lan");
    assert_eq!(got, ["192.168.50.131"]);
}

#[test]
fn bad_policies_are_refused_and_change_nothing() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let [_plain, own] = furnish(&lan, &daemon);
    let mac = daemon.inspect("own")["mac"].as_str().expect("a MAC").to_owned();
    let netns = own.name();
    let cases: &[(&str, i32, &[&str])] = &[
        ("network set nope --arp flood", 3, &["no network \"nope\""]),
        ("network set lan", 2, &["--security"]),
        ("network set lan --arp spoof", 2, &["use steer, suppress, flood"]),
        ("network set lan --security on", 2, &["use off, log, enforce"]),
        (
            "network set lan --trust bpdus",
            2,
            &["\"bpdus\"", "use dhcp-server, router, multicast-router, bpdu, mac, ip"],
        ),
        ("network set lan --storm 5", 2, &["broadcast=1000"]),
        ("network set lan --storm broadcast=1,broadcast=2", 2, &["two limits"]),
        ("network set lan --max-addresses 0", 2, &["use 1 to 256"]),
        ("network set lan --max-addresses 257", 2, &["use 1 to 256"]),
        ("network set lan --vlan 5", 2, &["--vlan"]),
        ("network create n --parent eth0 --trust x", 2, &["use dhcp-server"]),
        ("network create n --parent eth0 --binding 10.0.0.1", 2, &["IP=MAC"]),
        ("network create n --parent eth0 --binding 224.0.0.1=02:00:5e:00:53:01", 2, &["224.0.0.1"]),
        (
            "network create n --parent eth0 --binding 10.0.0.1=02:00:5e:00:53:01 --binding 10.0.0.1=02:00:5e:00:53:02",
            2,
            &["10.0.0.1 is bound twice"],
        ),
        (
            "network create n --parent eth0 --binding 192.168.50.129=02:00:5e:00:53:01",
            1,
            &["cannot create network \"n\"", "child \"own\""],
        ),
        ("parent add eth0 --storm all=5", 2, &["broadcast=1000"]),
        ("child set nope --security log", 3, &["no child \"nope\""]),
        ("child set own", 2, &["--security"]),
        ("child set own --allow-ip 192.168.50.9/24", 2, &["write 192.168.50.0/24 or 192.168.50.9"]),
        ("child set own --allow-ip 127.0.0.1", 2, &["cannot be a child's"]),
        ("child set own --allow-ip none --allow-ip 10.0.0.1", 2, &["leave one of them out"]),
        ("child set own --ip 192.168.50.9", 2, &["--ip"]),
        ("binding add 192.168.50.1 02:00:5e:00:53:01 --network nope", 3, &["no network \"nope\""]),
        ("binding add 192.168.50 02:00:5e:00:53:01 --network lan", 2, &["is not an address"]),
        ("binding add 192.168.50.1 02:00:5e --network lan", 2, &["is not a MAC address"]),
        ("binding add 192.168.50.1 00:00:00:00:00:00 --network lan", 2, &["all zeros"]),
        ("binding add 192.168.50.1 01:00:5e:00:00:01 --network lan", 2, &["multicast"]),
        ("binding add 224.0.0.1 02:00:5e:00:53:01 --network lan", 2, &["no station has it"]),
        ("binding add 127.0.0.1 02:00:5e:00:53:01 --network lan", 2, &["no station has it"]),
        ("binding add 0.0.0.0 02:00:5e:00:53:01 --network lan", 2, &["no station has it"]),
        ("binding add ff02::1 02:00:5e:00:53:01 --network lan", 2, &["no station has it"]),
        (
            "binding add 192.168.50.129 02:00:5e:00:53:01 --network lan",
            1,
            &["cannot bind 192.168.50.129", "child \"own\"", "remove that child first"],
        ),
        ("binding add 192.168.50.2 OWN --network lan", 1, &["child \"own\"", "not on the wire"]),
        ("binding rm 192.168.50.77 --network lan", 3, &["`maclane binding ls`"]),
        ("binding ls --network nope", 3, &["no network \"nope\""]),
        (
            "child add x --network lan --netns NS --ifname x0 --mac 02:00:5e:00:53:99",
            1,
            &["02:00:5e:00:53:99", "network lan binds 192.168.50.1", "--mac"],
        ),
    ];
    let before = shows(&daemon);
    for (command, code, expected) in cases {
        let command = command.replace("OWN", &mac).replace("NS", netns);
        let (got, message) = daemon.fail(&words(&command));
        assert_eq!(got, *code, "{command}: {message}");
        for word in *expected {
            assert!(message.contains(word), "{command}: \"{word}\" is not in: {message}");
        }
        assert_eq!(shows(&daemon), before, "{command} has changed something");
    }
}

#[test]
fn the_api_changes_nothing_but_policies() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let _children = furnish(&lan, &daemon);
    let ask = |method: &str, path: &str, body: &Value| {
        let body = body.to_string();
        http::request(&daemon.socket(), method, path, body.as_bytes()).expect("an answer")
    };
    let before = shows(&daemon);
    for (method, path, body, status, word) in [
        ("PATCH", "/v1/networks/lan", json!({ "vlan": 5 }), 400, "unknown field `vlan`"),
        ("PATCH", "/v1/networks/lan", json!({ "bindings": {} }), 400, "unknown field"),
        ("PATCH", "/v1/networks/lan", json!({ "trust": ["bpdus"] }), 400, "unknown variant"),
        ("PATCH", "/v1/networks/lan", json!({ "max_addresses": 0 }), 400, "use 1 to 256"),
        ("PATCH", "/v1/networks/lan", json!({ "storm": { "arp": 5 } }), 400, "unknown field `arp`"),
        ("PATCH", "/v1/networks/nope", json!({}), 404, "no network"),
        ("PATCH", "/v1/children/own", json!({ "mac": "02:00:5e:00:53:01" }), 400, "unknown field"),
        ("PATCH", "/v1/children/own", json!({ "allow_ip": ["10.0.0.1/8"] }), 400, "10.0.0.0/8"),
        ("PATCH", "/v1/children/nope", json!({}), 404, "no child"),
        ("PUT", "/v1/networks/lan/bindings/x", json!({ "mac": ROUTER }), 400, "is not an address"),
        ("PUT", "/v1/networks/lan/bindings/10.0.0.1", json!({}), 400, "missing field `mac`"),
        ("PUT", "/v1/networks/lan/bindings/::1", json!({ "mac": ROUTER }), 400, "no station"),
        ("DELETE", "/v1/networks/lan/bindings/10.0.0.9", json!({}), 404, "there is none"),
        ("GET", "/v1/bindings?network=nope", json!({}), 404, "no network"),
    ] {
        let answer = ask(method, path, &body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text);
        assert!(answer.text.contains(word), "{method} {path} {body}: {}", answer.text);
        assert_eq!(shows(&daemon), before, "{method} {path} {body} has changed something");
    }
    // What is absent stays, and what is null becomes the default.
    let answer = ask("PATCH", "/v1/networks/lan", &json!({}));
    assert_eq!((answer.status, shows(&daemon)), (200, before));
    let answer = ask("PATCH", "/v1/networks/lan", &json!({ "security": null }));
    assert_has(&answer.body, &json!({ "security": null, "arp": "suppress", "max_addresses": 4 }));
    let answer = ask("PUT", "/v1/networks/lan/bindings/fd00:50::1", &json!({ "mac": ROUTER }));
    assert_eq!((answer.status, &answer.body["port"]), (200, &json!("wire")));
    assert_eq!(ask("DELETE", "/v1/networks/lan/bindings/fd00:50::1", &json!({})).status, 204);
}

/// A parent and a network that are declared, with this policy.
fn declared(parent: &str, network: &str) -> String {
    format!(
        "[parent.eth0]\n{parent}\n[network.lan]\nparent = \"eth0\"\nprobe_interval = 20\n{network}\n\
         [[network.lan.subnets]]\nsubnet = \"192.168.50.0/24\"\nip_range = \"192.168.50.128/25\"\n"
    )
}

#[test]
fn a_declared_policy_is_changed_in_place_and_not_by_hand() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::prepare(host, Setup::default());
    daemon.configure(&declared("", ""));
    daemon.launch();
    let ns = lan.namespace();
    daemon.child_with("web", "lan", &ns, &["--storm", "unknown=3"]);
    let link = |ns: &Netns| (ns.ifindex("eth0"), ns.mac("eth0"), ns.ip("-4 addr show eth0"));
    let before = link(&ns);
    let ping = Ping::start(host, v4(128), Duration::from_millis(10));
    daemon.configure(&declared(
        "storm = { broadcast = 9 }",
        "arp = \"flood\"\nsecurity = \"log\"\ntrust = [\"mac\"]\nstorm = { broadcast = 5 }\n\
         max_addresses = 3\nbindings = { \"192.168.50.1\" = \"02:00:5e:00:53:99\" }",
    ));
    let steps = daemon.json(&["reload"]);
    let details = |at: usize| steps[at]["details"].as_str().expect("text").to_owned();
    assert_eq!(details(0), "storm {} -> {broadcast 9}", "{steps}");
    let expected = "arp steer -> flood, security none -> log, trust [] -> [mac], \
                    storm {} -> {broadcast 5}, max_addresses 16 -> 3, \
                    bindings {} -> {192.168.50.1 02:00:5e:00:53:99}";
    assert_eq!((&steps[1]["action"], details(1)), (&json!("change"), expected.to_owned()));
    let expected = json!({
        "arp": "flood", "security": "log", "trust": ["mac"], "max_addresses": 3,
        "storm": { "broadcast": 5, "multicast": 0, "unknown": 3 },
        "bindings": { "192.168.50.1": ROUTER }, "own_policy": ["storm"],
    });
    assert_has(&daemon.inspect("web"), &expected);
    assert_eq!(daemon.json(&["parent", "show", PARENT])["storm"]["broadcast"], 9);
    assert_eq!(daemon.json(&["reload"]), json!([]));
    let there = shows(&daemon);
    for command in [
        &["network", "set", "lan", "--security", "off"][..],
        &["binding", "add", "192.168.50.2", ROUTER, "--network", "lan"],
        &["binding", "rm", "192.168.50.1", "--network", "lan"],
    ] {
        let (code, message) = daemon.fail(command);
        assert_eq!(code, 1, "{message}");
        for word in ["is declared in", "change it there", "`maclane reload`"] {
            assert!(message.contains(word), "{command:?}: \"{word}\" is not in: {message}");
        }
        assert_eq!(shows(&daemon), there);
    }
    // Its children are made by hand, and so are their own words.
    daemon.run(&["child", "set", "web", "--security", "enforce"]);
    assert_eq!(daemon.inspect("web")["security"], "enforce");
    for (network, words) in [
        ("max_addresses = 0", &["use 1 to 256"][..]),
        ("trust = [\"all\"]", &["unknown variant `all`", "line 6"]),
        ("storm = { unicast = 5 }", &["unknown field `unicast`", "line 6"]),
        ("bindings = { \"192.168.50.1\" = \"x\" }", &["is not a MAC address", "line 6"]),
        ("bindings = { \"::1\" = \"02:00:5e:00:53:99\" }", &["no station has it"]),
        (
            "bindings = { \"192.168.50.128\" = \"02:00:5e:00:53:99\" }",
            &["network \"lan\"", "child \"web\""],
        ),
    ] {
        let there = shows(&daemon);
        daemon.configure(&declared("", network));
        let (_, message) = daemon.fail(&["reload"]);
        for word in words.iter().chain(&["nothing was changed"]) {
            assert!(message.contains(word), "{network}: \"{word}\" is not in: {message}");
        }
        assert_eq!(shows(&daemon), there, "{network} has changed something");
    }
    assert_eq!(link(&ns), before);
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
}

#[test]
fn a_backup_has_policies_and_one_from_before_them_is_read() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let _children = furnish(&lan, &daemon);
    daemon.run(&["parent", "add", PARENT, "--storm", "broadcast=7,multicast=8"]);
    let backup = daemon.run(&["export"]);
    let view = |daemon: &Daemon| ["plain", "own"].map(|name| daemon.inspect(name));
    let before = view(&daemon);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("maclane.json");
    let import = |text: &str| {
        fs::write(&file, text).expect("a file");
        daemon.run(&["parent", "rm", PARENT, "--force"]);
        daemon.run(&["import", file.to_str().expect("UTF-8")]);
    };
    import(&backup);
    assert_eq!(daemon.run(&["export"]), backup);
    for (now, before) in view(&daemon).iter().zip(&before) {
        for field in FIELDS {
            assert_eq!(now[field], before[field], "{field}");
        }
    }
    // One that a maclane without policies has written.
    let mut old: Value = serde_json::from_str(&backup).expect("JSON");
    let forget = |object: &mut Value| {
        let fields = object.as_object_mut().expect("an object");
        fields.retain(|name, _| !FIELDS.contains(&name.as_str()));
    };
    for list in ["parents", "networks"] {
        old[list].as_array_mut().expect("a list").iter_mut().for_each(forget);
    }
    old["children"].as_array_mut().expect("a list").iter_mut().for_each(|c| forget(&mut c["spec"]));
    import(&old.to_string());
    let default = json!({
        "arp": "steer", "security": "enforce", "trust": [], "max_addresses": 16, "allow_ip": [],
        "storm": { "broadcast": 1000, "multicast": 0, "unknown": 0 }, "bindings": {},
    });
    assert_has(&daemon.inspect("own"), &default);
    // No child comes back with what the wire has.
    let parsed: Value = serde_json::from_str(&backup).expect("JSON");
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    for (field, value) in [("mac", json!(ROUTER)), ("addresses", json!(["192.168.50.1/24"]))] {
        let mut bad = parsed.clone();
        bad["networks"][0]["subnets"][0]["gateway"] = json!("none");
        bad["children"][0][field] = value;
        fs::write(&file, bad.to_string()).expect("a file");
        let (code, message) = daemon.fail(&["import", file.to_str().expect("UTF-8")]);
        assert_eq!(code, 1, "{message}");
        for word in ["nothing was changed", "child \"own\"", "a station on the wire"] {
            assert!(message.contains(word), "{field}: \"{word}\" is not in: {message}");
        }
        assert_eq!(daemon.json(&["parent", "ls"]), json!([]));
    }
}
