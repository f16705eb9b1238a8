//! What a storm of broadcasts does to a host with 500 macvlan children.

use anyhow::Result;
use tests::topology::PARENT;

use crate::{
    context::Context,
    growing::Growing,
    line::{Line, NOBODY, Setup, WIRE},
    load::{Generator, Sink, rate},
    row::{Bench, Measured, Row, Target, info, row},
    series::{Outcome, Series, alternate},
    storm::{ASKED, Of, RATE, Storm, storm, stranger},
};

const KERNEL: &str = "kernel macvlan";
const OFF: &str = "maclane, XDP off";
const BUSY: &str = "% of the machine";
const OF_5: &str = "of 5";
const FRAMES: &str = "frames/s";

const STORMS: &[Row] = &[
    row(
        "arp-storm-answered",
        "45,000 broadcast ARP requests/s for strangers, 500 macvlan children: requests for a \
         child answered",
        OF_5,
        "all",
        Target::AtLeast(1.0),
        "XDP off, as `auto` has it on a veth. A question for a stranger goes to the host alone, \
         one for a child to that child.",
    ),
    info(
        "arp-calm-answered",
        "the same children, requests answered while there is no storm",
        OF_5,
        Some("all"),
        "Without a storm all are answered: the set-up works.",
    ),
    info("arp-storm-answered-kernel", "the same with kernel macvlan", OF_5, Some("all"), ""),
    row(
        "arp-storm-cpu",
        "that storm's CPU",
        BUSY,
        KERNEL,
        Target::AtMost(0.125),
        "The storm is made in the kernel and carried by the CPU that makes it; what that takes is in \
         both numbers (`arp-storm-sender`). The rest of ours is the skb and the program: of questions \
         for strangers the host hears as many as there may be broadcasts (`parent add --storm`), and what \
         is more ends at TC. The kernel's macvlan copies \
         broadcasts in one work item, on one CPU, and drops what its queue cannot hold: more than \
         one CPU it cannot take, whatever the storm.",
    ),
    info("arp-storm-sender", "the storm's sender alone", BUSY, None, ""),
    info("arp-storm-answered-native", "the storm with XDP native", OF_5, Some("all"), ""),
    info(
        "arp-storm-cpu-native",
        "its CPU with XDP native",
        BUSY,
        Some(OFF),
        "XDP drops what TC has found to be too much, before there is an skb.",
    ),
    info(
        "arp-storm-cpu-drop",
        "its CPU with `--unknown drop`, XDP off",
        BUSY,
        Some(KERNEL),
        "TC drops questions for strangers; the host does not hear them.",
    ),
    info(
        "arp-storm-cpu-drop-native",
        "its CPU with `--unknown drop` and XDP native",
        BUSY,
        Some("the same with XDP off"),
        "XDP drops them before there is an skb. At this rate an skb more or less is not what a storm \
         takes; `stranger-flood-drop` is what it makes at full speed. This is why `auto` leaves XDP \
         off on a virtual parent, also where broadcast dominates: TC comes to nearly the same, and a \
         veth with native XDP loses its other end's segmentation offload.",
    ),
    info(
        "udp-storm-answered",
        "45,000 broadcast datagrams/s, 500 macvlan children: requests for a child answered",
        OF_5,
        Some("all"),
        "",
    ),
    info("udp-storm-answered-kernel", "the same with kernel macvlan", OF_5, Some("all"), ""),
    info(
        "udp-storm-cpu",
        "that storm's CPU",
        BUSY,
        Some(KERNEL),
        "Storm control lets 1,000/s through unless told otherwise, and the kernel makes 500 copies of \
         each: 500,000 copies/s, which is about what one CPU can do. With as many children `parent \
         add --storm broadcast=100` makes it a tenth. Questions for children go round that queue, \
         so all are answered.",
    ),
];

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] = &[
    Bench { rows: STORMS, run: storms },
    Bench {
        rows: &[info(
            "stranger-flood",
            "ARP requests for strangers from the wire to the host's stack, XDP native",
            FRAMES,
            Some(OFF),
            "With `--storm broadcast=0`: the host hears all of them, so XDP has nothing to end. It leaves \
             each to TC, which looks at it again.",
        )],
        run: |cx| strangers(cx, "pass"),
    },
    Bench {
        rows: &[info(
            "stranger-flood-drop",
            "ARP requests for strangers dropped, `--unknown drop`, XDP native",
            FRAMES,
            Some(OFF),
            "What XDP is worth where it may drop: on a NIC `auto` has it native.",
        )],
        run: |cx| strangers(cx, "drop"),
    },
];

const CHILDREN: usize = 500;

const SETUP: Setup = Setup { kind: "macvlan", vlan: 0, xdp: "off", unknown: "pass" };

/// A wire whose storms are dropped where they arrive.
fn sink() -> Result<(Line, Sink)> {
    let line = Line::bare();
    let sink = Sink::xdp(&line.host, PARENT)?;
    Ok((line, sink))
}

fn storms(cx: &Context) -> Result<Measured> {
    let mut ours = Growing::new(Line::maclane(cx, SETUP))?;
    let mut peer = Growing::new(Line::macvlan("bridge"))?;
    let (sender, _sink) = sink()?;
    for side in [&mut ours, &mut peer] {
        side.grow(cx, CHILDREN)?;
    }
    let calm = ours.storm(cx, Of::Strangers, 0)?;
    let arp = || ours.storm(cx, Of::Strangers, RATE);
    let [off, kernel, sender, udp, udp_kernel] = rounds(cx, || {
        Ok([
            arp()?,
            peer.storm(cx, Of::Strangers, RATE)?,
            storm(cx, &sender, Of::Strangers, RATE)?,
            ours.storm(cx, Of::Datagrams, RATE)?,
            peer.storm(cx, Of::Datagrams, RATE)?,
        ])
    })?;
    // One after the other: with so many children it takes seconds to attach XDP anew.
    let with = |xdp, unknown| {
        ours.line().configure(Setup { xdp, unknown, ..SETUP }, &[]);
        rounds(cx, || Ok([arp()?]))
    };
    let [native] = with("native", "pass")?;
    let [drop_native] = with("native", "drop")?;
    let [drop_off] = with("off", "drop")?;
    Ok([
        answered(&off),
        answered(&[calm]),
        answered(&kernel),
        busy(&off, Some(&kernel)),
        busy(&sender, None),
        answered(&native),
        busy(&native, Some(&off)),
        busy(&drop_off, Some(&kernel)),
        busy(&drop_native, Some(&drop_off)),
        answered(&udp),
        answered(&udp_kernel),
        busy(&udp, Some(&udp_kernel)),
    ]
    .into())
}

/// The same storms in turn, some rounds of them.
fn rounds<const N: usize>(
    cx: &Context,
    once: impl Fn() -> Result<[Storm; N]>,
) -> Result<[Vec<Storm>; N]> {
    let mut all = [const { Vec::new() }; N];
    for round in 1..=if cx.quick { 5 } else { 9 } {
        cx.say(&format!("storms of round {round}"));
        all.iter_mut().zip(once()?).for_each(|(all, storm)| all.push(storm));
    }
    Ok(all)
}

fn series(storms: &[Storm], value: impl Fn(&Storm) -> f64) -> Series {
    Series::new(storms.iter().map(value).collect())
}

fn answered(storms: &[Storm]) -> Outcome {
    let all = Series::new(vec![f64::from(ASKED); storms.len()]);
    Outcome { ours: series(storms, |storm| storm.answered), peer: Some(all) }
}

fn busy(ours: &[Storm], peer: Option<&[Storm]>) -> Outcome {
    let percent = |storms: &[Storm]| series(storms, |storm| storm.percent);
    Outcome { ours: percent(ours), peer: peer.map(percent) }
}

/// Questions for strangers, as many as there can be.
fn strangers(cx: &Context, unknown: &str) -> Result<Measured> {
    let [native, off] = ["native", "off"].map(|xdp| {
        let setup = Setup { xdp, unknown, ..SETUP };
        let line = Line::maclane(cx, setup);
        line.configure(setup, &["--storm", "broadcast=0"]);
        // Behind maclane: it gets what the host gets.
        let sink = Sink::stack(&line.host, PARENT)?;
        let generator = Generator::new(&line.wire, WIRE, &stranger(NOBODY), 0)?;
        Ok::<_, anyhow::Error>((line, sink, generator))
    });
    let measure = |(line, sink, generator): &mut (Line, Sink, Generator)| {
        let daemon = line.daemon.as_ref().expect("maclane runs");
        let count = || if unknown == "drop" { Ok(daemon.drops("stranger")) } else { sink.count() };
        Ok([rate(generator, &line.wire, count)?])
    };
    let (mut native, mut off) = (native?, off?);
    Ok(alternate(cx, || measure(&mut native), || measure(&mut off))?.into())
}
