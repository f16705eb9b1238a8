//! What port security takes of the frames that a child sends.

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use std::{net::SocketAddrV4, thread, time::Duration};
use tests::{frames::Frame, netns::Netns, tap::Tap, topology::PARENT};

use crate::{
    context::{Context, FRAMES, load_cpu, pin},
    line::{CHILD, CHILD_IP, Line, NOBODY, Setup, WIRE},
    load::{Generator, Sink, rate},
    row::{Bench, Measured, info},
    series::alternate,
};

const RATE: &str = "frames/s";
const OFF: &str = "`--security off`";

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] = &[
    Bench {
        rows: &[info(
            "veth-wire-enforce",
            "veth child → wire, port security enforced",
            RATE,
            Some(OFF),
            "Plain UDP from the address that maclane gave it.",
        )],
        run: veth,
    },
    Bench {
        rows: &[info(
            "macvlan-wire-enforce",
            "macvlan child → wire, from a packet socket, port security enforced",
            RATE,
            Some(OFF),
            "Frames for each second of CPU: of a macvlan child only a socket can send.",
        )],
        run: |cx| macvlan(cx, Line::maclane(cx, SETUP), secured(cx, SETUP, "off")),
    },
    Bench {
        rows: &[info(
            "macvlan-wire",
            "macvlan child → wire, from a packet socket, port security enforced",
            RATE,
            Some("kernel macvlan"),
            "Beside the guard on the child, the parent's egress decides where each frame goes.",
        )],
        run: |cx| macvlan(cx, Line::maclane(cx, SETUP), Line::macvlan("bridge")),
    },
];

const SETUP: Setup = Setup { kind: "macvlan", vlan: 0, xdp: "auto", unknown: "pass" };

/// A line whose child has another word of security.
fn secured(cx: &Context, setup: Setup, word: &str) -> Line {
    let line = Line::maclane(cx, setup);
    line.maclane_there().run(&["child", "set", "child", "--security", word]);
    line
}

/// A datagram of the child to somebody on the wire.
fn datagram() -> Frame {
    let to = SocketAddrV4::new([10, 77, 0, 2].into(), 9);
    Frame::udp((CHILD, SocketAddrV4::new(CHILD_IP, 9)), (NOBODY, to), "maclane")
}

fn veth(cx: &Context) -> Result<Measured> {
    let setup = Setup { kind: "veth", ..SETUP };
    let [enforce, off] = ["enforce", "off"].map(|word| {
        let line = secured(cx, setup, word);
        // A veth takes frames of `ndo_xdp_xmit` only where NAPI is on.
        line.host.offload("ml-child", "gro", true);
        let generator = Generator::new(&line.child, PARENT, &datagram(), 0)?;
        let sink = Sink::stack(&line.wire, WIRE)?;
        Ok::<_, anyhow::Error>((generator, sink, line))
    });
    let measure = |(generator, sink, line): &mut (Generator, Sink, Line)| {
        Ok([rate(generator, &line.child, || sink.count())?])
    };
    let (mut enforce, mut off) = (enforce?, off?);
    Ok(alternate(cx, || measure(&mut enforce), || measure(&mut off))?.into())
}

#[allow(clippy::needless_pass_by_value, reason = "both sides end with the benchmark")]
fn macvlan(cx: &Context, ours: Line, peer: Line) -> Result<Measured> {
    let [ours, peer] = [&ours, &peer].map(|line| {
        let sink = Sink::stack(&line.wire, WIRE)?;
        Ok::<_, anyhow::Error>((&line.child, sink))
    });
    let (ours, peer) = (ours?, peer?);
    let measure = |(child, sink): &(&Netns, Sink)| {
        let before = sink.count()?;
        let seconds = send(child)?;
        #[allow(clippy::cast_precision_loss)]
        Ok([(sink.count()? - before) as f64 / seconds])
    };
    Ok(alternate(cx, || measure(&ours), || measure(&peer))?.into())
}

/// Sends [`FRAMES`] datagrams on one CPU, which also carries them; returns the seconds of CPU.
fn send(child: &Netns) -> Result<f64> {
    const BURST: usize = 64;
    let (tap, frame) = (Tap::open(child, PARENT), datagram().to_bytes());
    let sending = thread::spawn(move || {
        pin(load_cpu())?;
        let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
        let before = clock_gettime(clock)?;
        for _ in 0..FRAMES as usize / BURST {
            tap.send_burst(&frame, BURST);
        }
        Ok(Duration::from(clock_gettime(clock)? - before).as_secs_f64())
    });
    sending.join().expect("it does not panic")
}
