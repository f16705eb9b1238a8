//! `docs/benchmarks.md` and its charts, from a full run.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    chart::{self, Curve},
    context::cpus,
    report::cells,
    row::Finished,
};

/// Where the document goes.
pub(crate) fn docs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))
}

/// Writes the document and its charts. `missing` are rows that could not be measured.
pub(crate) fn write(all: &[Finished], curves: &[Curve], quick: bool) -> Result<()> {
    let write = |name: &str, text: &str| {
        let file = docs().join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    write("bench-ratios.svg", &chart::ratios(all))?;
    write("bench-frames.svg", &chart::frames(all))?;
    let curves: Vec<Curve> = curves.iter().filter_map(Curve::measured).collect();
    for curve in &curves {
        write(curve.file, &chart::curve(curve))?;
    }
    write("benchmarks.md", &document(all, &curves, quick))
}

fn document(all: &[Finished], curves: &[Curve], quick: bool) -> String {
    let mut text = HEAD.to_owned();
    let rounds = all.first().map_or(0, |finished| finished.outcome.ours.rounds());
    let _ = writeln!(text, "| | |\n| --- | --- |");
    for (name, value) in machine() {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    let kind = if quick { "`cargo xtask bench --quick`" } else { "`cargo xtask bench`" };
    let _ = writeln!(text, "| run | {kind}, {rounds} rounds |");
    text += METHOD;

    text += "\n## Against targets\n\n";
    text += "![maclane ÷ peer, with targets](bench-ratios.svg)\n\n";
    let (with, without): (Vec<_>, Vec<_>) = all.iter().partition(|f| f.row.target.is_some());
    table(&mut text, &with);
    notes(&mut text, &with);

    text += "\n## Without targets\n\n";
    text += "![Frames per second](bench-frames.svg)\n\n";
    table(&mut text, &without);
    notes(&mut text, &without);

    text += "\n## Scale\n";
    for curve in curves {
        let _ = writeln!(text, "\n![{}]({})", curve.title, curve.file);
    }
    text
}

fn table(text: &mut String, all: &[&Finished]) {
    text.push_str("| name | what | ours | peer | unit | ratio | spread | target | met |\n");
    text.push_str("| --- | --- | ---: | ---: | --- | ---: | --- | --- | --- |\n");
    for finished in all {
        let [name, unit, ours, peer, ratio, spread, target, met] = cells(finished);
        let against = finished.row.peer.map(|peer| format!(", against {peer}")).unwrap_or_default();
        let what = finished.row.what;
        let _ = writeln!(
            text,
            "| `{name}` | {what}{against} | {ours} | {peer} | {unit} | {ratio} | {spread} | {target} | {met} |"
        );
    }
}

fn notes(text: &mut String, all: &[&Finished]) {
    let with_note = all.iter().filter(|finished| !finished.row.note.is_empty());
    for (number, finished) in with_note.enumerate() {
        if number == 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "- `{}`: {}", finished.row.name, finished.row.note);
    }
}

/// The machine, for a table.
fn machine() -> Vec<(&'static str, String)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kernel = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let virt = Command::new("systemd-detect-virt").arg("--vm").output().ok();
    let virt = virt.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let host = match virt.as_deref() {
        Some("none" | "") | None => String::new(),
        Some(virt) => format!(", virtual ({virt})"),
    };
    let vulnerable = |name: &str| {
        fs::read_to_string(format!("/sys/devices/system/cpu/vulnerabilities/{name}"))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    // What a new network namespace has, too.
    let netfilter = if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        "`br_netfilter` is loaded, and on unless said otherwise"
    } else {
        "`br_netfilter` is not loaded: rows with and without it are the same"
    };
    vec![
        ("CPU", format!("{} × {}{host}", cpus(), field("model name").unwrap_or_default())),
        ("kernel", format!("Linux {kernel}")),
        ("spectre_v2", vulnerable("spectre_v2")),
        ("spec_rstack_overflow", vulnerable("spec_rstack_overflow")),
        ("bridges and iptables", netfilter.to_owned()),
        ("maclane", env!("CARGO_PKG_VERSION").to_owned()),
    ]
}

const HEAD: &str = "\
# Benchmarks

maclane beside what the kernel has: its own macvlan and bridge, and bare programs as the limit.
This page is written by `cargo xtask bench`; what is said about a row is kept beside the row's
definition in `bench/src`.

";

const METHOD: &str = "
## How it is measured

- Both sides of a row are set up at the same time, each in network namespaces of its own, and
  measured in turn, round by round; each is first as often as the other. A first round does not
  count. *Ours* and *peer* are medians; *ratio* is ours ÷ peer, *spread* the lowest and the highest
  ratio of a round (of a value, where there is no peer). On a machine that others use too, only the
  ratio means something.
- Frames are made in the kernel (`BPF_PROG_TEST_RUN` with live frames, batches of 64, 2¹⁸ frames a
  run) and counted where they arrive, by a program that drops them: in XDP, or at the TC ingress of
  the child. Frames have 60 bytes. One CPU makes, carries and receives them, so the numbers
  include what making a frame costs, on both sides.
- TCP bulk is `iperf3`, sender and receiver on a CPU each, and what the receiver saw in the median
  tenth of a second. A round trip is one byte there and one back (`TCP_NODELAY`), both ends on one
  CPU; round trips/s are those that fit into a second at the median.
- Children have addresses, those of maclane from maclane, which keeps them to these (`--security
  enforce`), as users' children are. Rows of port security say what that takes.
- CPU of a TCP stream is what `/proc/stat` says around it. CPU of a storm is how long this program,
  the threads of the kernel and the daemon have run, by their own clocks, less what they ran in the
  time just before: neighbours are not in it. The storm is made in the kernel as frames are, some
  1,500 at once about every 35 ms, and counted where it arrives. What making it takes is in every
  number, and alone in `arp-storm-sender`.
- Nanoseconds of a program are `BPF_PROG_TEST_RUN` on the programs and tables of a running daemon;
  `program-bare` is what of each is the kernel's own.

**What a veth parent means for the numbers.** No NIC is involved. The wire is the other end of a
veth: its \"driver\" is `veth_poll`, which builds an skb for each frame that XDP passes, and which
runs XDP natively. What a NIC's driver, its DMA and its offloads would add is missing on both sides,
so the part that maclane adds is as large here as it can be, and a ratio on a NIC is nearer to 1.
TCP never leaves memory: 40 Gbit/s is a copy, not a link. VLAN tags are in the frame here, where a
NIC would have moved them to metadata. Rows that say nothing about XDP leave it as `--xdp auto`
does, which is *off* on a veth parent; on a NIC whose driver has it, it would be native.

**To reproduce**: `cargo xtask bench`, as root, on a machine that does nothing else. `--quick` takes
a quarter of an hour, `--only NAME` measures one row, `--json FILE` writes the numbers.
";
