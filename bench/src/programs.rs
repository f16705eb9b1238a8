//! Nanoseconds that each program takes on its main paths (`BPF_PROG_TEST_RUN`), and what the maps
//! take of memory.
//!
//! The programs are those of a running daemon, with its tables. What they decide is not done: a
//! redirect ends where the program does.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    TestRun,
    maps::{Array, HashMap, Map, MapData},
    programs::{SchedClassifier, TestRunOptions, loaded_programs},
};
use dataplane_common::{
    abi::{GROUP_ENTRIES, GroupKey, PortRef, map},
    trace::Tracer,
};
use serde_json::Value;
use tests::{
    daemon::Daemon, eventually, frames::Frame, mac::Mac, netns::Netns, process, topology::PARENT,
};

use crate::{
    context::{Context, FRAMES, load_cpu, pin},
    line::{Line, NOBODY, Setup},
    load::bare_program,
    row::{Bench, Measured, Row, info},
    series::{Outcome, Series, alone, alternate},
    storm,
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
    info(
        "program-guard",
        "maclane_guard: a macvlan child's frame",
        NS,
        None,
        "Without port security, as are all programs above.",
    ),
    info(
        "program-guard-enforce",
        "maclane_guard, port security enforced: plain UDP from the child's first IPv4 address",
        NS,
        None,
        "TCP and UDP from there take one comparison.",
    ),
    info(
        "program-guard-enforce-ping",
        "maclane_guard, port security enforced: ICMP, which is no plain frame",
        NS,
        None,
        "Whatever is not plain is looked at in full: limits, headers, and whose address it is.",
    ),
    info(
        "program-guard-enforce-ipv6",
        "maclane_guard, port security enforced: UDP in IPv6",
        NS,
        None,
        "",
    ),
    info(
        "program-port-veth-enforce",
        "maclane_port, port security enforced: veth child → veth child, plain UDP",
        NS,
        None,
        "",
    ),
    info(
        "program-port-veth-enforce-ipv6",
        "maclane_port, port security enforced: veth child → veth child, UDP in IPv6",
        NS,
        None,
        "",
    ),
    info(
        "program-ingress-stranger",
        "maclane_ingress: drop an ARP request for a stranger, `--unknown drop`",
        NS,
        None,
        "",
    ),
    info(
        "program-xdp-stranger",
        "maclane_xdp: drop an ARP request for a stranger, `--unknown drop`",
        NS,
        None,
        "",
    ),
    info(
        "program-ingress-macvlan-filtered",
        "maclane_ingress: to a macvlan child, while somebody traces something else",
        NS,
        Some("while nobody traces"),
        "The frame is looked at and not told. While nobody traces, the programs have no instruction for it.",
    ),
    info(
        "program-ingress-macvlan-traced",
        "maclane_ingress: to a macvlan child, while somebody traces it",
        NS,
        Some("while nobody traces"),
        "128 bytes of the frame are copied into the ring buffer.",
    ),
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
    /// The guard of the first macvlan child.
    guard: SchedClassifier,
    line: Line,
    _children: Netns,
}

/// The addresses of the first child of each kind, where maclane has given them some.
const ADDRESSES: [(Ipv4Addr, Ipv6Addr); 2] = [
    (Ipv4Addr::new(10, 77, 0, 11), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x11)),
    (Ipv4Addr::new(10, 77, 0, 12), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x12)),
];

impl Host {
    /// Its children have addresses of maclane, and are kept to them, or have none.
    fn new(cx: &Context, given: bool) -> Result<Self> {
        let setup = Setup { kind: "macvlan", vlan: 0, xdp: "native", unknown: "drop" };
        let (line, children) = (Line::maclane(cx, setup), Netns::new());
        let daemon = line.maclane_there();
        daemon.network("veths", 0, "veth");
        let child = |name: &str, network: &str, addresses: [String; 2]| {
            let [four, six] = &addresses;
            let ips = ["--ip", four, "--ip", six];
            let ips: &[&str] = if given { &ips } else { &[] };
            daemon.child_with(name, network, &children, &[&["--ifname", name], ips].concat())
        };
        let of = |(four, six): (Ipv4Addr, Ipv6Addr)| [format!("{four}/16"), format!("{six}/64")];
        let [m, v] = ADDRESSES.map(of);
        let more = |last| {
            of((Ipv4Addr::new(10, 77, 0, last), Ipv6Addr::from(0xfd00 << 112 | u128::from(last))))
        };
        let m2 = child("m2", "lan", more(21));
        let m1 = child("m1", "lan", m);
        let guard = guard()?;
        let macs = [m1, m2, child("v1", "veths", v), child("v2", "veths", more(22))];
        Ok(Self { pins: pins(daemon)?, macs, guard, line, _children: children })
    }

    /// A program of its parent.
    fn program(&self, name: &str) -> Result<SchedClassifier> {
        // aya has no way to open a pinned `Xdp`, and how a test is run is the same for both.
        Ok(SchedClassifier::from_pin(self.pins.join("programs").join(name))?)
    }

    /// Nanoseconds that a program takes for a frame that comes by an interface.
    fn time(&self, program: &SchedClassifier, ifname: Option<&str>, frame: &Frame) -> Result<f64> {
        let ns = &self.line.host;
        time(ns, program, ifname.map(|name| ns.ifindex(name)), frame)
    }
}

fn pins(daemon: &Daemon) -> Result<PathBuf> {
    let shown = daemon.json(&["parent", "show", PARENT]);
    Ok(shown["pins"].as_str().context("the parent has no pins")?.into())
}

fn programs(cx: &Context) -> Result<Measured> {
    let (free, kept) = (Host::new(cx, false)?, Host::new(cx, true)?);
    let [xdp, ingress, egress, port] = PARENTS.map(|name| free.program(name));
    let (xdp, ingress, egress, port) = (xdp?, ingress?, egress?, port?);
    let [kept_xdp, kept_ingress, _, kept_port] = PARENTS.map(|name| kept.program(name));
    let (kept_xdp, kept_ingress, kept_port) = (kept_xdp?, kept_ingress?, kept_port?);
    let bare = bare_program()?;

    let [m1, _, v1, v2] = free.macs;
    let own = free.line.host.mac(PARENT);
    let stranger = Mac::local(99);
    let [km, _, kv, kv2] = kept.macs;
    let [(m4, m6), (v4, v6)] = ADDRESSES;
    let question = storm::stranger(stranger);
    let (wire, end) = (Some(PARENT), Some("ml-v1"));
    let run = |program: &SchedClassifier, ifname, from, to| {
        free.time(program, ifname, &datagram((from, Ipv4Addr::new(10, 9, 8, 1)), to))
    };
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
            run(&free.guard, None, m1, stranger)?,
            kept.time(&kept.guard, None, &datagram((km, m4), stranger))?,
            kept.time(&kept.guard, None, &ping((km, m4), stranger))?,
            kept.time(&kept.guard, None, &datagram6((km, m6), stranger))?,
            kept.time(&kept_port, end, &datagram((kv, v4), kv2))?,
            kept.time(&kept_port, end, &datagram6((kv, v6), kv2))?,
            kept.time(&kept_ingress, wire, &question)?,
            kept.time(&kept_xdp, None, &question)?,
        ])
    });
    let mut outcomes = Vec::from(outcomes?);
    for query in [["--vlan", "4000"], ["--vlan", "0"]] {
        outcomes.push(traced(cx, &free, &query)?);
    }
    Ok(Measured { outcomes, curves: Vec::new() })
}

/// A frame to the first macvlan child while somebody traces, beside one while nobody does.
fn traced(cx: &Context, host: &Host, query: &[&str]) -> Result<Outcome> {
    let frame = datagram((Mac::local(99), Ipv4Addr::new(10, 9, 8, 1)), host.macs[0]);
    let time = |program: &SchedClassifier| {
        // What was told before is taken out of the ring.
        thread::sleep(Duration::from_millis(200));
        let ifindex = host.line.host.ifindex(PARENT);
        time_of(&host.line.host, program, Some(ifindex), &frame, TOLD)
    };
    let plain = host.program("maclane_ingress")?;
    let tracing = host.line.maclane_there().begin_cli(&[&["trace"], query].concat());
    let tracer = MapData::from_pin(host.pins.join(map::TRACER))?;
    let tracer: Array<_, Tracer> = Map::Array(tracer).try_into()?;
    let is_on = |on: bool| tracer.get(&0, 0).is_ok_and(|tracer| (tracer.flags != 0) == on);
    eventually("it is traced", Duration::from_secs(10), || is_on(true));
    let telling = host.program("maclane_ingress")?;
    let [outcome] = alternate(cx, || Ok([time(&telling)?]), || Ok([time(&plain)?]))?;
    drop(tracing);
    eventually("nobody traces", Duration::from_secs(10), || is_on(false));
    Ok(outcome)
}

/// Frames in a run that are all told: fewer than the ring holds.
const TOLD: u32 = 2000;

/// The programs of a parent.
const PARENTS: [&str; 4] = ["maclane_xdp", "maclane_ingress", "maclane_egress", "maclane_port"];

/// A datagram, in IPv4.
fn datagram((from, ip): (Mac, Ipv4Addr), to: Mac) -> Frame {
    let to = (to, SocketAddrV4::new(Ipv4Addr::new(10, 9, 8, 2), 9));
    Frame::udp((from, SocketAddrV4::new(ip, 9)), to, "maclane")
}

/// The same as ICMP.
fn ping(from: (Mac, Ipv4Addr), to: Mac) -> Frame {
    const PROTOCOL: usize = 9;
    const ICMP: u8 = 1;
    let mut frame = datagram(from, to);
    frame.payload[PROTOCOL] = ICMP;
    frame
}

/// A datagram, in IPv6.
fn datagram6((from, ip): (Mac, Ipv6Addr), to: Mac) -> Frame {
    const IPV6: u16 = 0x86dd;
    let server = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    // Eight bytes of UDP, 64 hops.
    let head = [0x60, 0, 0, 0, 0, 8, 17, 64];
    let udp = [0, 9, 0, 9, 0, 8, 0, 0];
    let payload = [&head[..], &ip.octets(), &server.octets(), &udp].concat();
    Frame { ethertype: IPV6, payload, ..Frame::new(from, to, "") }
}

/// Where `ifindex` is in `struct __sk_buff` (`include/uapi/linux/bpf.h`).
const IFINDEX: usize = 40;

/// Nanoseconds of one frame.
fn time(ns: &Netns, program: &SchedClassifier, ifindex: Option<u32>, frame: &Frame) -> Result<f64> {
    time_of(ns, program, ifindex, frame, FRAMES)
}

/// Nanoseconds of one frame of so many.
fn time_of(
    ns: &Netns,
    program: &SchedClassifier,
    ifindex: Option<u32>,
    frame: &Frame,
    frames: u32,
) -> Result<f64> {
    let frame = frame.to_bytes();
    let mut skb = [0; 192];
    skb[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.unwrap_or(0).to_ne_bytes());
    let result = ns.enter(|| {
        pin(load_cpu())?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.ctx_in = ifindex.is_some().then_some(&skb[..]);
        options.repeat = frames;
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
    let host = Host::new(cx, false)?;
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
