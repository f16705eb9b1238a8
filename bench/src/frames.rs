//! Frames a second, from the wire.

use anyhow::Result;
use tests::{daemon::Daemon, netns::Netns, topology::PARENT};

use crate::{
    context::Context,
    line::{Line, NOBODY, Setup, Side},
    load::{Bare, Sink, rate},
    row::{Bench, Measured, Target, info, row},
    series::{alone, alternate},
};

const FRAMES: &str = "frames/s";

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] = &[
    Bench {
        rows: &[row(
            "wire-veth-xdp",
            "wire → veth child that consumes in XDP",
            FRAMES,
            "bare devmap redirect",
            Target::AtLeast(0.90),
            "XDP native on the parent. What maclane adds to a bare redirect is two buckets of \
             `maclane_sources`, the length of the frame (a helper) and two counters.",
        )],
        run: veth_xdp,
    },
    Bench {
        rows: &[row(
            "wire-veth-stack",
            "wire → the stack of a veth child",
            FRAMES,
            "kernel bridge with a veth child",
            Target::AtLeast(2.5),
            "XDP native on the parent, GRO on at the child, as maclane sets it. The bridge is as the \
             kernel has it: where `br_netfilter` is loaded, as Docker does, it shows IP packets to \
             iptables. `wire-veth-stack-bare` is against a bridge that does not \
             (`bridge-nf-call-iptables=0`), and misses this target.",
        )],
        run: |cx| veth_stack(cx, true),
    },
    Bench {
        rows: &[info(
            "wire-veth-stack-bare",
            "wire → the stack of a veth child",
            FRAMES,
            Some("kernel bridge without netfilter"),
            "",
        )],
        run: |cx| veth_stack(cx, false),
    },
    Bench {
        rows: &[row(
            "wire-macvlan",
            "wire → macvlan child, maclane attached",
            FRAMES,
            "kernel macvlan",
            Target::AtLeast(0.95),
            "XDP off, as `auto` has it on a veth: TC does the work. The target leaves about 22 ns a \
             frame, and being asked at all takes a good part of them: see `limit-tc-pass`, the \
             ceiling. What the program itself takes is `program-ingress-macvlan` less \
             `program-bare`. On this CPU each return costs extra (`spec_rstack_overflow`), so a plain \
             frame, which is no ARP, neighbour discovery or DHCP, is decided on without a call \
             (`dataplane-ebpf/src/plain.rs`).",
        )],
        run: macvlan,
    },
    Bench {
        rows: &[row(
            "wire-macvlan-vlan",
            "wire → macvlan child in VLAN 10",
            FRAMES,
            "kernel macvlan, untagged",
            Target::AtLeast(0.90),
            "The tagged side pays for what its untagged peer does not: the kernel moves the tag out of \
             the bytes before TC sees the frame (`skb_vlan_untag`), and TC takes it away \
             (`bpf_skb_vlan_pop`). Both show in a profile. A NIC \
             that strips tags does the first part itself.",
        )],
        run: macvlan_vlan,
    },
    Bench {
        rows: &[row(
            "foreign-flood",
            "unicast frames for nobody here, dropped at a promiscuous parent",
            FRAMES,
            "kernel macvlan",
            Target::AtLeast(3.0),
            "XDP native, `--unknown drop`. A bare XDP drop that looks at nothing (`limit-xdp-drop`) \
             would reach about 3.2 here, because making a frame and `veth_poll` are in every \
             number; the target asks for more than nine tenths of that. It was 1.7 while a frame for \
             nobody cost two look-ups in the FDB's hash, which it no longer does.",
        )],
        run: foreign,
    },
    Bench {
        rows: &[info(
            "wire-veth-tc",
            "wire → the stack of a veth child, XDP off",
            FRAMES,
            Some("kernel bridge with a veth child"),
            "",
        )],
        run: veth_tc,
    },
    Bench {
        rows: &[info(
            "wire-macvlan-native",
            "wire → macvlan child, XDP native on the parent",
            FRAMES,
            Some("kernel macvlan"),
            "XDP passes the frame to TC, so it is looked at twice; the skb is built by the same code. \
             This is why `auto` leaves XDP off on a veth.",
        )],
        run: macvlan_native,
    },
    Bench {
        rows: &[info(
            "foreign-flood-tc",
            "the foreign flood with XDP off",
            FRAMES,
            Some("kernel macvlan"),
            "An skb is built for each frame before TC can drop it.",
        )],
        run: foreign_tc,
    },
    Bench {
        rows: &[info("limit-xdp-drop", "a bare XDP drop at the parent", FRAMES, None, "")],
        run: xdp_drop,
    },
    Bench {
        rows: &[info(
            "limit-veth",
            "a veth alone: wire → the parent's own stack",
            FRAMES,
            None,
            "",
        )],
        run: veth_alone,
    },
    Bench {
        rows: &[info(
            "limit-tc-pass",
            "wire → kernel macvlan child, a TC program on the parent that does nothing",
            FRAMES,
            Some("kernel macvlan"),
            "The most that `wire-macvlan` can reach with a program at TC, whatever it does.",
        )],
        run: tc_pass,
    },
    Bench {
        rows: &[info(
            "kernel-macvlan-modes",
            "kernel macvlan, bridge mode",
            FRAMES,
            Some("kernel macvlan, private mode"),
            "",
        )],
        run: modes,
    },
];

const VETH_NATIVE: Setup = Setup { kind: "veth", vlan: 0, xdp: "native", unknown: "pass" };
const MACVLAN: Setup = Setup { kind: "macvlan", vlan: 0, xdp: "auto", unknown: "pass" };

fn compare(cx: &Context, mut ours: Side, mut peer: Side) -> Result<Measured> {
    Ok(alternate(cx, || Ok([ours.rate()?]), || Ok([peer.rate()?]))?.into())
}

fn veth_xdp(cx: &Context) -> Result<Measured> {
    let peer = Line::veth();
    let redirect = Bare::redirect(&peer.host, PARENT, Line::host_end())?;
    let sink = Sink::xdp(&peer.child, PARENT)?;
    let peer = Side::with(peer, 0, sink, Some(Box::new(redirect)))?;
    compare(cx, Side::xdp(Line::maclane(cx, VETH_NATIVE))?, peer)
}

fn veth_stack(cx: &Context, netfilter: bool) -> Result<Measured> {
    let ours = Line::maclane(cx, VETH_NATIVE);
    compare(cx, Side::stack(ours, 0)?, Side::stack(Line::bridge(netfilter), 0)?)
}

fn veth_tc(cx: &Context) -> Result<Measured> {
    let ours = Line::maclane(cx, Setup { xdp: "off", ..VETH_NATIVE });
    compare(cx, Side::stack(ours, 0)?, Side::stack(Line::bridge(true), 0)?)
}

fn macvlan(cx: &Context) -> Result<Measured> {
    let ours = Line::maclane(cx, MACVLAN);
    compare(cx, Side::stack(ours, 0)?, Side::stack(Line::macvlan("bridge"), 0)?)
}

fn macvlan_native(cx: &Context) -> Result<Measured> {
    let ours = Line::maclane(cx, Setup { xdp: "native", ..MACVLAN });
    compare(cx, Side::stack(ours, 0)?, Side::stack(Line::macvlan("bridge"), 0)?)
}

fn macvlan_vlan(cx: &Context) -> Result<Measured> {
    let ours = Line::maclane(cx, Setup { vlan: 10, ..MACVLAN });
    compare(cx, Side::stack(ours, 10)?, Side::stack(Line::macvlan("bridge"), 0)?)
}

fn tc_pass(cx: &Context) -> Result<Measured> {
    let line = Line::macvlan("bridge");
    let pass = Bare::pass(&line.host, PARENT)?;
    let sink = Sink::stack(&line.child, PARENT)?;
    let ours = Side::with(line, 0, sink, Some(Box::new(pass)))?;
    compare(cx, ours, Side::stack(Line::macvlan("bridge"), 0)?)
}

fn modes(cx: &Context) -> Result<Measured> {
    let [ours, peer] = ["bridge", "private"].map(|mode| Side::stack(Line::macvlan(mode), 0));
    compare(cx, ours?, peer?)
}

fn foreign(cx: &Context) -> Result<Measured> {
    foreign_with(cx, "native")
}

fn foreign_tc(cx: &Context) -> Result<Measured> {
    foreign_with(cx, "off")
}

/// Frames for 65,536 addresses that nobody here has.
fn foreign_with(cx: &Context, xdp: &str) -> Result<Measured> {
    const SPREAD: u32 = 0xffff;
    let ours = Line::maclane(cx, Setup { xdp, unknown: "drop", ..MACVLAN });
    let peer = Line::macvlan("bridge");
    let mut generators = Vec::new();
    for line in [&ours, &peer] {
        line.host.ip(&format!("link set {PARENT} promisc on"));
        generators.push(line.generator(NOBODY, 0, SPREAD)?);
    }
    let [our_generator, peer_generator] = &mut generators[..] else { unreachable!("two lines") };
    let daemon = ours.daemon.as_ref().expect("maclane runs");
    let measured = alternate(
        cx,
        || Ok([rate(our_generator, &ours.wire, || Ok(unknown(daemon)))?]),
        || Ok([rate(peer_generator, &peer.wire, || Ok(for_others(&peer.host)))?]),
    );
    Ok(measured?.into())
}

/// Frames that maclane has dropped.
fn unknown(daemon: &Daemon) -> u64 {
    daemon.drops("unknown")
}

/// Frames that the kernel's IP has dropped, because their MAC is somebody else's.
fn for_others(host: &Netns) -> u64 {
    let text = host.ip(&format!("-s -s -json link show dev {PARENT}"));
    let links: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
    // `ip` leaves it out as long as it is zero.
    links[0]["stats64"]["rx"]["otherhost"].as_u64().unwrap_or(0)
}

fn xdp_drop(cx: &Context) -> Result<Measured> {
    let line = Line::bare();
    let sink = Sink::xdp(&line.host, PARENT)?;
    let mut side = Side::with(line, 0, sink, None)?;
    Ok(alone(cx, || Ok([side.rate()?]))?.into())
}

fn veth_alone(cx: &Context) -> Result<Measured> {
    let line = Line::bare();
    let sink = Sink::stack(&line.host, PARENT)?;
    let mut side = Side::with(line, 0, sink, None)?;
    Ok(alone(cx, || Ok([side.rate()?]))?.into())
}
