//! Everything that a daemon leaves on a machine, as lines of text: what is the same before and
//! after has left nothing.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

use crate::{daemon::Daemon, netns::Netns, process, topology::PARENT};

/// Tables whose entries are there only for somebody.
const MAPS: [&str; 5] =
    ["maclane_fdb", "maclane_groups", "maclane_hostend", "maclane_ports", "maclane_tx"];

/// Pins, entries of maps, links, filters and records.
pub type Footprint = BTreeSet<String>;

/// The footprint of a daemon on its host, and in the namespaces of children.
#[track_caller]
#[must_use]
pub fn footprint(daemon: &Daemon, host: &Netns, children: &[&Netns]) -> Footprint {
    let mut found = Footprint::new();
    pins(daemon.bpffs(), &mut found);
    for (n, ns) in [host].iter().chain(children).enumerate() {
        let links = ns.ip("-br link");
        let names = links.lines().filter_map(|line| line.split([' ', '@']).next());
        found.extend(names.map(|name| format!("link {n} {name}")));
    }
    let dump = |words: &[&str]| {
        let output = host.exec(words);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for words in [
        &["bridge", "fdb", "show", "dev", PARENT][..],
        &["tc", "qdisc", "show", "dev", PARENT],
        &["tc", "filter", "show", "dev", PARENT, "ingress"],
        &["tc", "filter", "show", "dev", PARENT, "egress"],
    ] {
        // Programs come and go with their IDs.
        let lines = dump(words);
        let lines = lines.lines().map(|line| line.split(" id ").next().unwrap_or_default().trim());
        found.extend(lines.map(|line| format!("{} {line}", words[0])));
    }
    for what in ["parent", "network", "child"] {
        let all = daemon.json(&[what, "ls"]);
        let names = all.as_array().into_iter().flatten();
        let names = names.map(|it| if what == "parent" { &it["iface"] } else { &it["name"] });
        found.extend(names.map(|name| format!("{what} {name}")));
    }
    for entry in daemon.json(&["fdb", "ls"]).as_array().into_iter().flatten() {
        found.insert(format!("fdb {} {} {}", entry["mac"], entry["vlan"], entry["owner"]));
    }
    found
}

fn pins(dir: &Path, found: &mut Footprint) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(format!("pin {}", path.display()));
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            pins(&path, found);
        } else if MAPS.contains(&name.as_str()) {
            found.extend(entries(&path).into_iter().map(|entry| format!("{name} {entry}")));
        }
    }
}

/// The entries of a map that are not empty.
fn entries(map: &Path) -> Vec<String> {
    let dump =
        process::output(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(map));
    let dump: Value = serde_json::from_slice(&dump.stdout).unwrap_or_default();
    let entries = dump.as_array().into_iter().flatten();
    let filled = entries.filter(|entry| {
        let value = entry.get("value").and_then(Value::as_array);
        // An empty slot of an array reads as zeroes, one of a devmap as an error.
        value.is_some_and(|bytes| bytes.iter().any(|byte| byte != "0x00"))
    });
    // Which slot of its group a member has does not matter: what comes before it there is its VLAN.
    let key = |entry: &Value| match entry["key"].as_array() {
        Some(bytes) if map.ends_with("maclane_groups") => format!("{:?}", &bytes[..2]),
        _ => entry["key"].to_string(),
    };
    filled.map(|entry| format!("{} {}", key(entry), entry["value"])).collect()
}
