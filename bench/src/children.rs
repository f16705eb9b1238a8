//! How long it takes to add parents and children.

use std::time::Instant;

use anyhow::Result;
use tests::{daemon::Daemon, mac::Mac, netns::Netns, topology::PARENT};

use crate::{
    context::Context,
    line::Line,
    row::{Bench, Measured, Row, Target, info, row},
    series::{Outcome, Series},
};

const MS: &str = "ms";

const MACVLAN: &[Row] = &[
    row(
        "child-add-macvlan",
        "`maclane child add` of a macvlan child, half take no longer",
        MS,
        "the same steps with `ip`",
        Target::AtMost(1.3),
        "Beside the netlink steps maclane attaches `maclane_guard`, and the kernel waits for an RCU grace \
         period when a program is put on a TCX hook (`tcx_entry_sync` in `include/net/tcx.h`): \
         `strace` shows 5 to 15 ms in that one call, BPF_LINK_CREATE. Loading the program, little more \
         than a jump to the one for all children, takes 0.3 ms. The store's two transactions sync the \
         disk, 1 ms each. The guard has to be there before the link is up, so none of it can be left for \
         later.",
    ),
    info(
        "child-add-macvlan-p99",
        "99 of 100 take no longer",
        MS,
        Some("the same steps with `ip`"),
        "",
    ),
];

const VETH: &[Row] = &[
    row(
        "child-add-veth",
        "`maclane child add` of a veth child, half take no longer",
        MS,
        "the same steps with `ip`",
        Target::AtMost(1.3),
        "Beside the netlink steps maclane attaches `maclane_port`; the rest is as for a macvlan child.",
    ),
    info(
        "child-add-veth-p99",
        "99 of 100 take no longer",
        MS,
        Some("the same steps with `ip`"),
        "",
    ),
];

const PARENTS: &[Row] = &[
    info("parent-add", "`maclane parent add`, half take no longer", MS, None, ""),
    info("parent-add-p99", "99 of 100 take no longer", MS, None, ""),
];

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] = &[
    Bench { rows: MACVLAN, run: |cx| adding(cx, "macvlan") },
    Bench { rows: VETH, run: |cx| adding(cx, "veth") },
    Bench { rows: PARENTS, run: parents },
];

/// Adds and removes children, with maclane and by hand, in turn.
fn adding(cx: &Context, kind: &str) -> Result<Measured> {
    let count = if cx.quick { 60 } else { 200 };
    let (ours, by_hand) = (Line::bare(), Line::bare());
    let daemon = Daemon::start_program(cx.program.clone(), &ours.host, &[]);
    daemon.network("lan", 0, kind);
    let mut sides = [Vec::new(), Vec::new()];
    for number in 0..count {
        cx.check()?;
        cx.say(&format!("child {} of {count}", number + 1));
        let ip = format!("10.77.0.{}/24", 1 + number % 250);
        let began = Instant::now();
        let add = ["child", "add", "c", "--network", "lan", "--netns", ours.child.name()];
        daemon.run(&[&add[..], &["--ip", &ip]].concat());
        sides[0].push(milliseconds(began));
        daemon.run(&["child", "rm", "c"]);

        let began = Instant::now();
        by_hand_add(&by_hand, kind, &ip);
        sides[1].push(milliseconds(began));
        by_hand.child.delete(PARENT);
    }
    Ok(Measured::from(percentiles(sides)))
}

/// What an administrator would type, for the same result: a link with an address, up and announced
/// as soon as the kernel does.
fn by_hand_add(line: &Line, kind: &str, ip: &str) {
    let child = line.child.name();
    if kind == "macvlan" {
        line.host.ip(&format!(
            "link add link {PARENT} name {PARENT} netns {child} address {} mtu 1500 type macvlan mode bridge",
            Mac::local(7)
        ));
    } else {
        line.host.ip(&format!(
            "link add h0 mtu 1500 type veth peer name {PARENT} netns {child} address {} mtu 1500",
            Mac::local(7)
        ));
        line.host.run(&["bridge", "fdb", "append", &Mac::local(7).to_string(), "dev", PARENT]);
        line.host.ip("link set h0 alias by-hand up");
    }
    line.child.ip(&format!("address add {ip} dev {PARENT}"));
    line.child.ip(&format!("link set {PARENT} alias by-hand up"));
}

fn parents(cx: &Context) -> Result<Measured> {
    let count = if cx.quick { 20 } else { 60 };
    let line = Line::bare();
    let daemon = Daemon::start_program(cx.program.clone(), &line.host, &[]);
    let mut took = Vec::new();
    for _ in 0..count {
        cx.check()?;
        let began = Instant::now();
        daemon.run(&["parent", "add", PARENT]);
        took.push(milliseconds(began));
        daemon.run(&["parent", "rm", PARENT]);
    }
    let took = Series::new(took);
    let outcome = |series: Series| Outcome { ours: series, peer: None };
    let p99 = Series::new(vec![took.quantile(0.99)]);
    Ok([outcome(took), outcome(p99)].into())
}

/// The middle, and what 99 of 100 do not exceed.
fn percentiles([ours, peer]: [Vec<f64>; 2]) -> [Outcome; 2] {
    let (ours, peer) = (Series::new(ours), Series::new(peer));
    let p99 = |series: &Series| Series::new(vec![series.quantile(0.99)]);
    let slow = Outcome { ours: p99(&ours), peer: Some(p99(&peer)) };
    [Outcome { ours, peer: Some(peer) }, slow]
}

/// Milliseconds since then.
pub(crate) fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// Namespaces for many children: each holds many links, and has no IPv6.
pub(crate) fn namespaces() -> Vec<Netns> {
    (0..10).map(|_| Netns::without_ipv6()).collect()
}
