//! What others see of the dataplane: the object, the maps and the programs.

use std::{path::Path, process::Command};

use serde_json::Value;
use tests::{
    daemon::{Daemon, objects},
    process,
    topology::{Lan, PARENT},
};

const MAPS: [&str; 11] = [
    "maclane_fdb",
    "maclane_ports",
    "maclane_hostend",
    "maclane_tx",
    "maclane_vlans",
    "maclane_groups",
    "maclane_sources",
    "maclane_stats",
    "maclane_drops",
    "maclane_events",
    "maclane_gate",
];

fn bpftool(arguments: &[&str]) -> String {
    process::run(Command::new("bpftool").args(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn libbpf_accepts_the_release_objects() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let (dataplane, guard) = objects();
    for (object, name) in [(&dataplane, "all"), (&guard, "guard")] {
        let pins = daemon.bpffs().join(name);
        bpftool(&["prog", "loadall", text(object), text(&pins)]);
        assert!(pins.read_dir().expect("pins").count() > 0);
    }
}

#[test]
fn the_verifier_looks_at_less_than_twenty_thousand_instructions_of_each_program() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let (dataplane, guard) = objects();
    for (object, programs) in [(&dataplane, 4), (&guard, 1)] {
        let pins = daemon.bpffs().join("verified");
        let mut command = Command::new("bpftool");
        command.args(["--debug", "prog", "loadall", text(object), text(&pins)]);
        let log = process::output(&mut command);
        let log = String::from_utf8_lossy(&log.stderr) + String::from_utf8_lossy(&log.stdout);
        let processed: Vec<u32> = log
            .lines()
            .filter_map(|line| line.strip_prefix("processed ")?.split(' ').next()?.parse().ok())
            .collect();
        assert_eq!(processed.len(), programs, "{log}");
        assert!(processed.iter().all(|count| *count < 20_000), "{processed:?}");
        std::fs::remove_dir_all(pins).expect("pins can be removed");
    }
}

#[test]
fn maps_read_like_tables_and_programs_have_names() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("lan", 10, "macvlan");
    daemon.network("lanv", 10, "veth");
    let (a, b) = (lan.namespace(), lan.namespace());
    daemon.child("a", "lan", &a, "192.168.50.101/24");
    daemon.child("b", "lanv", &b, "192.168.50.102/24");
    let pins = daemon.json(&["parent", "show", PARENT])["pins"].clone();
    let pins = Path::new(pins.as_str().expect("a folder"));
    for name in MAPS {
        assert!(pins.join(name).exists(), "{name} is not pinned");
    }
    let dump = |name: &str| bpftool(&["map", "dump", "pinned", text(&pins.join(name))]);
    for (name, fields) in [
        ("maclane_fdb", &["\"mac\"", "\"vlan\"", "\"port\"", "\"kind\"", "\"flags\""][..]),
        ("maclane_ports", &["\"ifindex\"", "\"mac\"", "\"vlan\"", "\"kind\"", "\"flags\""]),
        ("maclane_hostend", &["\"port\""]),
        ("maclane_vlans", &["\"slots\"", "\"veth\"", "\"flags\""]),
        ("maclane_groups", &["\"vlan\"", "\"slot\"", "\"port\""]),
        ("maclane_stats", &["\"rx_packets\"", "\"rx_bytes\"", "\"tx_packets\"", "\"tx_bytes\""]),
        ("maclane_drops", &["\"packets\"", "\"bytes\""]),
    ] {
        let dump = dump(name);
        for field in fields {
            assert!(dump.contains(field), "{name} does not print {field}: {dump}");
        }
    }
    for (folder, want) in [
        ("programs", &["maclane_xdp", "maclane_ingress", "maclane_egress", "maclane_port"][..]),
        ("links", &["ingress", "egress", "guard_2", "port_3"]),
    ] {
        for name in want {
            assert!(pins.join(folder).join(name).exists(), "{folder}/{name} is not pinned");
        }
    }
    let programs: Value = serde_json::from_str(&bpftool(&["-j", "prog", "show"])).expect("JSON");
    let names: Vec<&str> = programs
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|program| program["name"].as_str())
        .collect();
    for name in
        ["maclane_xdp", "maclane_ingress", "maclane_egress", "maclane_port", "maclane_guard"]
    {
        assert!(names.contains(&name), "{name} is not shown: {names:?}");
    }
}
