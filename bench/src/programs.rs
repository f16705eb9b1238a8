//! Nanoseconds that each program takes on its main paths (`BPF_PROG_TEST_RUN`), and what the maps
//! take of memory.
//!
//! The programs are those of a running daemon, with its tables. What they decide is not done: a
//! redirect ends where the program does.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use aya::{
    TestRun,
    maps::{HashMap, Map, MapData},
    programs::{SchedClassifier, TestRunOptions, loaded_programs},
};
use dataplane_common::abi::{GROUP_ENTRIES, GroupKey, PortRef, map};
use serde_json::Value;
use tests::{daemon::Daemon, frames::Frame, mac::Mac, netns::Netns, process, topology::PARENT};

use crate::{
    context::{Context, FRAMES, load_cpu, pin},
    line::{Line, NOBODY, Setup},
    load::bare_program,
    row::{Bench, Measured, Row, info},
    series::{Outcome, Series, alone},
};

const NS: &str = "ns/frame";

const PROGRAMS: &[Row] = &[
    info("program-xdp-veth", "maclane_xdp: redirect to a veth child", NS, None, ""),
    info("program-xdp-drop", "maclane_xdp: drop a frame for nobody here", NS, None, ""),
    info("program-xdp-pass", "maclane_xdp: leave a macvlan child's frame to TC", NS, None, ""),
    info("program-ingress-macvlan", "maclane_ingress: to a macvlan child", NS, None, ""),
    info("program-ingress-veth", "maclane_ingress: to a veth child", NS, None, ""),
    info("program-ingress-host", "maclane_ingress: to the host", NS, None, ""),
    info("program-egress-hairpin", "maclane_egress: host → macvlan child", NS, None, ""),
    info("program-egress-wire", "maclane_egress: host → wire", NS, None, ""),
    info("program-port-veth", "maclane_port: veth child → veth child", NS, None, ""),
    info("program-port-wire", "maclane_port: veth child → wire", NS, None, ""),
    info(
        "program-bare",
        "a program that does no more than count",
        NS,
        None,
        "What of every program's time is not the program's own.",
    ),
    info("program-guard", "maclane_guard: a macvlan child's frame", NS, None, ""),
];

const MEMORY: &[Row] = &[
    info("memory-fdb", "maclane_fdb, when full", "bytes/entry", None, ""),
    info("memory-ports", "maclane_ports", "bytes/entry", None, ""),
    info("memory-groups", "maclane_groups, when full", "bytes/entry", None, ""),
    info("memory-stats", "maclane_stats, all CPUs", "bytes/entry", None, ""),
    info("memory-parent", "all maps of a parent that has no children", "KiB", None, ""),
    info("memory-guard", "maclane_guard, for each macvlan child", "KiB", None, ""),
];

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] =
    &[Bench { rows: PROGRAMS, run: programs }, Bench { rows: MEMORY, run: memory }];

/// A host with two children of each kind.
struct Host {
    /// Where the programs are pinned.
    pins: PathBuf,
    macs: [Mac; 4],
    line: Line,
}

impl Host {
    fn new(cx: &Context) -> Result<Self> {
        let setup = Setup { kind: "macvlan", vlan: 0, xdp: "native", unknown: "drop" };
        let line = Line::maclane(cx, setup);
        let daemon = daemon(&line);
        daemon.network("veths", 0, "veth");
        let child = |name: &str, network: &str| {
            daemon.child_with(name, network, &line.child, &["--ifname", name])
        };
        let macs =
            [child("m1", "lan"), child("m2", "lan"), child("v1", "veths"), child("v2", "veths")];
        let pins = pins(daemon)?;
        Ok(Self { pins, macs, line })
    }
}

fn daemon(line: &Line) -> &Daemon {
    line.daemon.as_ref().expect("maclane runs")
}

fn pins(daemon: &Daemon) -> Result<PathBuf> {
    let shown = daemon.json(&["parent", "show", PARENT]);
    Ok(shown["pins"].as_str().context("the parent has no pins")?.into())
}

fn programs(cx: &Context) -> Result<Measured> {
    let host = Host::new(cx)?;
    let [m1, _, v1, v2] = host.macs;
    let own = host.line.host.mac(PARENT);
    let stranger = Mac::local(99);
    // aya has no way to open a pinned `Xdp`, and how a test is run is the same for both.
    let open = |name: &str| SchedClassifier::from_pin(host.pins.join("programs").join(name));
    let (xdp, ingress) = (open("maclane_xdp")?, open("maclane_ingress")?);
    let (egress, port) = (open("maclane_egress")?, open("maclane_port")?);
    let (guard, bare) = (guard()?, bare_program()?);

    let ns = &host.line.host;
    let run = |program: &SchedClassifier, ifname: Option<&str>, from, to| {
        time(ns, program, ifname.map(|name| ns.ifindex(name)), from, to)
    };
    let wire = Some(PARENT);
    let end = Some("ml-v1");
    let outcomes = alone(cx, || {
        Ok([
            run(&xdp, None, stranger, v1)?,
            run(&xdp, None, stranger, NOBODY)?,
            run(&xdp, None, stranger, m1)?,
            run(&ingress, wire, stranger, m1)?,
            run(&ingress, wire, stranger, v1)?,
            run(&ingress, wire, stranger, own)?,
            run(&egress, wire, own, m1)?,
            run(&egress, wire, own, stranger)?,
            run(&port, end, v1, v2)?,
            run(&port, end, v1, stranger)?,
            run(&bare, None, stranger, m1)?,
            run(&guard, None, m1, stranger)?,
        ])
    });
    Ok(outcomes?.into())
}

/// Where `ifindex` is in `struct __sk_buff` (`include/uapi/linux/bpf.h`).
const IFINDEX: usize = 40;

/// Nanoseconds of one frame.
fn time(
    ns: &Netns,
    program: &SchedClassifier,
    ifindex: Option<u32>,
    from: Mac,
    to: Mac,
) -> Result<f64> {
    let ip = |last| SocketAddrV4::new(Ipv4Addr::new(10, 9, 8, last), 9);
    let frame = Frame::udp((from, ip(1)), (to, ip(2)), "maclane").to_bytes();
    let mut skb = [0; 192];
    skb[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.unwrap_or(0).to_ne_bytes());
    let result = ns.enter(|| {
        pin(load_cpu())?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.ctx_in = ifindex.is_some().then_some(&skb[..]);
        options.repeat = FRAMES;
        Ok::<_, anyhow::Error>(program.test_run(options)?)
    })?;
    Ok(result.duration.as_secs_f64() * 1e9)
}

/// The guard that was loaded last: one of ours, because no other daemon makes children now.
fn guard() -> Result<SchedClassifier> {
    let newest = loaded_programs()
        .filter_map(Result::ok)
        .filter(|info| info.name() == b"maclane_guard")
        .max_by_key(aya::programs::ProgramInfo::id)
        .context("no guard is loaded; the kernel has no TCX")?;
    Ok(SchedClassifier::from_program_info(newest, "maclane_guard".into())?)
}

fn memory(cx: &Context) -> Result<Measured> {
    let host = Host::new(cx)?;
    let map = |name: &str| bpftool(&["map", "show", "pinned", text(&host.pins.join(name))?]);
    let total: f64 = map::ALL.iter().map(|name| memlock(&map(name)?)).sum::<Result<f64>>()?;
    // It grows with what it holds.
    let entries = fill_groups(&host.pins)?;
    let groups = memlock(&map("maclane_groups")?)? / f64::from(entries);
    let each = |name: &str| {
        let map = map(name)?;
        Ok::<_, anyhow::Error>(
            memlock(&map)? / map["max_entries"].as_f64().context("a map has entries")?,
        )
    };
    let [fdb, ports, stats] = ["maclane_fdb", "maclane_ports", "maclane_stats"].map(each);
    let values = [fdb?, ports?, groups, stats?, total / 1024.0, guard_memory()? / 1024.0];
    Ok(values.map(|value| Outcome { ours: Series::new(vec![value]), peer: None }).into())
}

/// Fills the groups, and says how many entries that took.
fn fill_groups(pins: &Path) -> Result<u32> {
    let data = MapData::from_pin(pins.join(map::GROUPS))?;
    let mut groups: HashMap<_, GroupKey, PortRef> = Map::HashMap(data).try_into()?;
    let mut written = 0;
    for (vlan, slot) in (1000..).flat_map(|vlan| (0..1000).map(move |slot| (vlan, slot))) {
        if written + 16 == GROUP_ENTRIES {
            break;
        }
        groups.insert(GroupKey { vlan, slot }, PortRef { port: 2, pad: 0 }, 0)?;
        written += 1;
    }
    Ok(written)
}

/// The memory of a guard and of its frozen globals.
fn guard_memory() -> Result<f64> {
    let info = guard()?.info()?;
    let mut bytes = f64::from(info.memory_locked()?);
    for id in info.map_ids()?.unwrap_or_default() {
        let map = bpftool(&["map", "show", "id", &id.to_string()])?;
        if map["name"].as_str().is_some_and(|name| name.starts_with(".rodata")) {
            bytes += memlock(&map)?;
        }
    }
    Ok(bytes)
}

fn memlock(map: &Value) -> Result<f64> {
    map["bytes_memlock"].as_f64().context("bpftool does not say what a map takes")
}

fn bpftool(arguments: &[&str]) -> Result<Value> {
    let text = process::run(Command::new("bpftool").arg("-j").args(arguments));
    serde_json::from_str(&text).with_context(|| format!("bpftool prints no JSON: {text}"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}
