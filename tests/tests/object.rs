//! What others see of the dataplane: the objects, the maps and the programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    path::Path,
    process::Command,
};

use aya::programs::ProgramInfo;
use dataplane_common::{
    DropReason,
    abi::{
        self, AllowedKey, Bucket, Drops, FdbKey, FdbValue, Gate, GroupKey, Learned, Neighbour,
        NeighbourKey, Netns, Offence, OffenceKey, Policy, Port, PortRef, Settings, SkbLayout,
        Stats, Usage, Vlan, event_kind, map,
    },
    trace::{Snap, TRACE_BYTES, Tracer},
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use serde_json::Value;
use tests::{
    daemon::Daemon,
    frames::Frame,
    kernel,
    mac::Mac,
    process,
    program::objects,
    slowness,
    tap::Tap,
    topology::{Lan, PARENT},
};

/// Instructions that the verifier may look at in one program.
const BUDGET: u32 = 20_000;

/// The kernel's limit of the stack of a program, and of any chain of calls in it (`MAX_BPF_STACK`,
/// `include/linux/filter.h`).
const STACK: u32 = 512;

/// The programs of both objects.
const PROGRAMS: [&str; 8] = [
    "maclane_xdp",
    "maclane_ingress",
    "maclane_egress",
    "maclane_port",
    "maclane_macvlan",
    "maclane_siblings",
    "maclane_guard",
    "maclane_sockopt",
];

fn bpftool(arguments: &[&str]) -> String {
    process::run(Command::new("bpftool").args(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The bytes of both objects, parsed.
fn with_objects(look: impl Fn(&Path, &object::File<'_>)) {
    let (dataplane, guard) = objects();
    for path in [dataplane, guard] {
        let bytes = fs::read(&path).expect("the object can be read");
        look(&path, &object::File::parse(&*bytes).expect("an ELF object"));
    }
}

#[test]
fn the_objects_have_no_legacy_maps_and_call_no_functions_with_pointers() {
    with_objects(|path, object| {
        let sections: Vec<_> =
            object.sections().filter_map(|s| Some(s.name().ok()?.to_owned())).collect();
        assert!(!sections.iter().any(|name| name == "maps"), "{}: {sections:?}", path.display());
        for section in [".maps", ".BTF", "license"] {
            assert!(
                sections.iter().any(|name| name == section),
                "{}: no {section}",
                path.display()
            );
        }
        // Kernels before 6.8 verify such functions by themselves, where a pointer may be null
        // (`Documentation/bpf/verifier.rst`): libbpf cannot load the object then.
        let calls = object.sections().flat_map(|section| section.relocations().collect::<Vec<_>>());
        let called: BTreeSet<_> = calls
            .filter_map(|(_, relocation)| match relocation.target() {
                object::RelocationTarget::Symbol(index) => object.symbol_by_index(index).ok(),
                _ => None,
            })
            .filter_map(|symbol| Some(symbol.name().ok()?.to_owned()))
            .collect();
        for function in ["memcmp", "memcpy", "memmove", "memset"] {
            assert!(!called.contains(function), "{} calls {function}", path.display());
        }
    });
}

/// The settings in [`SETTINGS`] with which the programs do everything that they can.
const EVERYTHING: usize = 1;

/// Settings of a parent's programs that leave different code to the verifier: from `drop_unknown` to
/// `trace`. What the kernel has is on in all of them, but that pending checksums are hidden in the first.
const SETTINGS: [[u8; 5]; 5] = [
    [0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1],
    // XDP native, with and without somebody who traces.
    [1, 1, 1, 0, 0],
    [1, 1, 1, 0, 1],
    // XDP generic.
    [0, 0, 1, 1, 0],
];

/// The bytes of [`Settings`].
fn bytes_of([drop, may_drop, sees_tags, generic, trace]: [u8; 5]) -> [u8; size_of::<Settings>()] {
    let [netns, guards] = [kernel::sees_netns(), kernel::has_tcx()].map(u8::from);
    let host = [[1; 4], [0; 4]].concat();
    let rest = [drop, may_drop, sees_tags, generic, trace, netns, guards, 0];
    [&host[..], &rest].concat().try_into().expect("as many bytes")
}

/// An object whose frozen globals are set: `SETTINGS` to these, the guard's to the last port.
fn with_settings(path: &Path, row: [u8; 5], to: &Path) {
    let settings = bytes_of(row);
    let mut bytes = fs::read(path).expect("the object can be read");
    let object = object::File::parse(&*bytes).expect("an ELF object");
    let mut places = Vec::new();
    for symbol in object.symbols() {
        let value: &[u8] = match symbol.name() {
            Ok("SETTINGS") => &settings,
            // A kernel that hides pending checksums.
            Ok("SKB_LAYOUT") if row == SETTINGS[0] => &[0; size_of::<SkbLayout>()],
            // Any will do: the verifier does not look at what is there.
            Ok("SKB_LAYOUT") => &[128, 0, 136, 0, 176, 0, 6, 5],
            Ok("GUARD_PORT") => &(abi::PORTS - 1).to_ne_bytes(),
            Ok("GUARD_LAST") => &u32::from(row[0]).to_ne_bytes(),
            _ => continue,
        };
        let section = symbol.section_index().expect("a variable is in a section");
        let section = object.section_by_index(section).expect("that section");
        let (start, _) = section.file_range().expect("a section with bytes");
        let place = usize::try_from(start + symbol.address()).expect("an offset");
        places.push((place, value.to_vec()));
    }
    assert!(!places.is_empty(), "{} has no settings", path.display());
    for (place, value) in places {
        bytes[place..place + value.len()].copy_from_slice(&value);
    }
    fs::write(to, bytes).expect("a copy of the object can be written");
}

/// What the verifier says of the programs of an object: name → (instructions looked at, bytes of
/// stack of the function that takes most, 0 without `stack`).
///
/// The stack stands only in the verifier's log, which bpftool asks for with every instruction in it:
/// an emulated machine formats it for minutes.
fn verified(object: &Path, pins: &Path, stack: bool) -> BTreeMap<String, (u32, u32)> {
    let mut command = Command::new("bpftool");
    command.args(stack.then_some("--debug"));
    command.args(["prog", "loadall", text(object), text(pins)]);
    let log = process::output(&mut command);
    let loaded = log.status.success();
    let log = String::from_utf8_lossy(&log.stderr) + String::from_utf8_lossy(&log.stdout);
    // The end of it says what the kernel did not like.
    let tail: Vec<_> = log.lines().rev().take(40).collect();
    assert!(loaded, "libbpf cannot load {}: {tail:#?}", object.display());
    let mut programs = BTreeMap::new();
    for pin in fs::read_dir(pins).expect("bpftool has made pins").flatten() {
        let info = ProgramInfo::from_pin(pin.path()).expect("a pinned program");
        let count = info.verified_instruction_count().expect("Linux 5.16 or later");
        programs.insert(pin.file_name().to_string_lossy().into_owned(), (count, 0));
    }
    fs::remove_dir_all(pins).expect("pins can be removed");
    let mut name = String::new();
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix("libbpf: prog '") {
            rest.split('\'').next().unwrap_or_default().clone_into(&mut name);
        } else if let Some(depths) = line.strip_prefix("stack depth ") {
            // One number for each function. What a chain of calls takes, the kernel has limited.
            let depths = depths.split('+').map(|depth| depth.trim().parse::<u32>());
            let most = depths.map(|depth| depth.expect("a stack depth is a number")).max();
            programs.get_mut(&name).expect("a program of the object").1 = most.unwrap_or(0);
        }
    }
    programs
}

#[test]
fn libbpf_loads_the_objects_and_the_verifier_stays_within_budget() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let dir = tempfile::tempdir().expect("a folder");
    let (dataplane, guard) = objects();
    let mut most = BTreeMap::<String, (u32, u32)>::new();
    for (number, settings) in SETTINGS.into_iter().enumerate() {
        for object in [&dataplane, &guard] {
            let copy = dir.path().join("object");
            with_settings(object, settings, &copy);
            let stack = slowness() == 1 || number == EVERYTHING;
            let pins = daemon.bpffs().join("verified");
            for (name, (instructions, stack)) in verified(&copy, &pins, stack) {
                let most = most.entry(name).or_default();
                *most = (most.0.max(instructions), most.1.max(stack));
            }
        }
    }
    let names: BTreeSet<_> = most.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(PROGRAMS), "the verifier has looked at every program");
    for (name, (instructions, stack)) in &most {
        // Past the harness, which keeps what a test that succeeds prints to itself.
        let release = kernel::release();
        let _ = writeln!(
            io::stderr(),
            "    {release}: {name} {instructions} verified instructions, {stack} bytes of stack in a function"
        );
    }
    for (name, (instructions, stack)) in &most {
        assert!(*instructions <= BUDGET, "{name}: {instructions} instructions");
        assert!(*stack <= STACK, "{name}: {stack} bytes of stack in a function");
    }
}

/// Key size, value size and entries that each map has to have.
fn shapes() -> BTreeMap<&'static str, (usize, usize, u32)> {
    fn of<K, V>(entries: u32) -> (usize, usize, u32) {
        (size_of::<K>(), size_of::<V>(), entries)
    }
    let reasons = u32::try_from(DropReason::ALL.len()).expect("a short list");
    BTreeMap::from([
        (map::FDB, of::<FdbKey, FdbValue>(abi::FDB_ENTRIES)),
        (map::PORTS, of::<u32, Port>(abi::PORTS)),
        (map::HOST_ENDS, of::<u32, PortRef>(abi::PORTS)),
        (map::NETNS, of::<u64, Netns>(abi::NETNS)),
        (map::TX, of::<u32, [u32; 2]>(abi::PORTS)),
        (map::VLANS, of::<u32, Vlan>(abi::VLANS)),
        (map::GROUPS, of::<GroupKey, PortRef>(abi::GROUP_ENTRIES)),
        (map::SOURCES, of::<u32, Bucket>(abi::SOURCES)),
        (map::STATS, of::<u32, Stats>(abi::PORTS)),
        (map::DROPS, of::<u32, Drops>(reasons)),
        (map::EVENTS, (0, 0, abi::EVENTS_BYTES)),
        (map::EVENT_GATE, of::<u32, Gate>(event_kind::END)),
        (map::NEIGHBOURS, of::<NeighbourKey, Neighbour>(abi::NEIGHBOURS)),
        (map::LEARNED, of::<NeighbourKey, Learned>(abi::LEARNED)),
        (map::ALLOWED, of::<([u8; 4], AllowedKey), u8>(abi::ALLOWED)),
        (map::POLICY, of::<u32, Policy>(abi::PORTS)),
        (map::USAGE, of::<u32, Usage>(abi::PORTS)),
        (map::OFFENCES, of::<OffenceKey, Offence>(abi::OFFENCES)),
        (map::GUARDS, of::<u32, u32>(1)),
        (map::SIBLINGS, of::<u32, u32>(1)),
        (map::TRACE, (0, 0, TRACE_BYTES)),
        (map::TRACER, of::<u32, Tracer>(1)),
        (map::SNAP, of::<u32, Snap>(1)),
    ])
}

/// Maps of which the kernel keeps no BTF (`kernel/bpf/syscall.c`, `map_check_btf`; aya gives none
/// to those that take none).
const WITHOUT_BTF: [&str; 3] = [map::TX, map::EVENTS, map::TRACE];

/// The fields that `bpftool` prints of each map.
const FIELDS: [(&str, &[&str]); 19] = [
    (map::FDB, &["mac", "vlan", "port", "kind", "flags"]),
    (map::PORTS, &["ifindex", "mac", "vlan", "kind", "flags"]),
    (map::HOST_ENDS, &["port"]),
    (map::VLANS, &["slots", "veth", "flags"]),
    (map::GROUPS, &["vlan", "slot", "port"]),
    (map::SOURCES, &["macs"]),
    (map::NEIGHBOURS, &["ip", "vlan", "port", "mac"]),
    (map::STATS, &["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"]),
    (map::DROPS, &["packets", "bytes"]),
    (map::EVENT_GATE, &["last"]),
    (map::LEARNED, &["ip", "vlan", "seen", "since", "port", "mac"]),
    (map::ALLOWED, &["prefix_len", "data", "port", "ip"]),
    (map::POLICY, &["checks", "max_addresses", "limits", "ip4", "ip6"]),
    (map::USAGE, &["windows", "number", "frames", "addresses"]),
    (map::OFFENCES, &["port", "reason", "dropped", "logged", "last", "dst", "src", "ethertype"]),
    (map::GUARDS, &["key", "value"]),
    (map::SIBLINGS, &["key", "value"]),
    (map::TRACER, &["lost", "flags", "snap", "reason", "vlan", "mac", "port", "port_mac"]),
    (map::SNAP, &["traced", "time", "verdict", "len", "hook", "bytes"]),
];

#[test]
fn maps_read_like_tables_and_programs_have_names() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("lan", 10, "macvlan");
    daemon.network("lanv", 10, "veth");
    let (a, b) = (lan.namespace(), lan.namespace());
    let more = ["--ip", "192.168.50.101/24", "--allow-ip", "192.168.50.200"];
    let mac = daemon.child_with("a", "lan", &a, &more);
    daemon.child("b", "lanv", &b, "192.168.50.102/24");
    // Something that is learned, and something that is dropped.
    let tap = Tap::open(&a, "eth0");
    let (own, virtual_ip) = ("192.168.50.101".parse().unwrap(), "192.168.50.200".parse().unwrap());
    tap.send(&Frame::arp_request(mac, virtual_ip, virtual_ip, "announced"));
    // By a veth child: before Linux 6.6 a macvlan child with a MAC of nobody's is taken for the host.
    Tap::open(&b, "eth0").send(&Frame::arp_request(Mac::local(77), own, own, "forged"));
    let pins = daemon.json(&["parent", "show", PARENT])["pins"].clone();
    let pins = Path::new(pins.as_str().expect("a folder"));
    assert_eq!(shapes().len(), map::ALL.len());
    for (name, (key, value, entries)) in shapes() {
        let pin = pins.join(name);
        let shown = bpftool(&["-j", "map", "show", "pinned", text(&pin)]);
        let shown: Value = serde_json::from_str(&shown).expect("bpftool prints JSON");
        assert_eq!(shown["name"], name);
        assert_eq!(shown["bytes_key"], key, "{name}");
        assert_eq!(shown["bytes_value"], value, "{name}");
        assert_eq!(shown["max_entries"], entries, "{name}");
        assert_eq!(shown["btf_id"].is_u64(), !WITHOUT_BTF.contains(&name), "{name}: {shown}");
    }
    for (name, fields) in FIELDS {
        let dump = bpftool(&["map", "dump", "pinned", text(&pins.join(name))]);
        for field in fields {
            assert!(dump.contains(&format!("\"{field}\"")), "no {field} in {name}: {dump}");
        }
    }
    // Filters of clsact are no links.
    let links: &[&str] =
        if kernel::has_tcx() { &["ingress", "egress", "guard_2", "port_3"] } else { &[] };
    for (folder, want) in [("programs", &PROGRAMS[..6]), ("links", links)] {
        for name in want {
            assert!(pins.join(folder).join(name).exists(), "{folder}/{name} is not pinned");
        }
    }
    let programs: Value = serde_json::from_str(&bpftool(&["-j", "prog", "show"])).expect("JSON");
    let programs = programs.as_array().into_iter().flatten();
    let names: Vec<&str> = programs.filter_map(|program| program["name"].as_str()).collect();
    for name in PROGRAMS {
        let expected = name != "maclane_guard" || kernel::has_tcx();
        assert!(!expected || names.contains(&name), "{name} is not shown: {names:?}");
    }
}
