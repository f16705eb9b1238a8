//! What changes with the number of children, and of entries in the FDB.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use dataplane_common::abi::{Bucket, FdbKey, FdbValue, SOURCES, bucket, map};
use tests::{mac::Mac, topology::PARENT};

use crate::{
    chart::Curve,
    context::Context,
    growing::Growing,
    line::{CHILD, Line, Setup},
    load::{Sink, rate},
    row::{Bench, Measured, Row, Target, info, row},
    series::{Outcome, Series},
    storm::{Of, RATE},
};

const KERNEL: &str = "kernel macvlan";

const CHILDREN: &[Row] = &[
    row(
        "child-add-last-100",
        "time for each of the last 100 of 1,000 macvlan children",
        "ms",
        "each of the first 100",
        Target::AtMost(1.1),
        "What grows is the daemon's own work: at each change it computes the tables of the parent \
         anew, and lists the links of the child's namespace, a hundred here, where the children \
         are in ten namespaces. In a profile at 600 children a third of its time went into asking \
         each child for its network's mode, which it now asks once for each network.",
    ),
    info(
        "scale-children",
        "wire → macvlan child beside 999 others",
        "frames/s",
        Some("maclane with one child"),
        "",
    ),
    row(
        "broadcast-cost-1000",
        "CPU for a broadcast at 1,000 macvlan children",
        "µs",
        "maclane with one child",
        Target::AtMost(1.2),
        "An ARP request for a stranger, 45,000/s of them, as in `arp-storm-cpu`. The kernel's curve is \
         of as many as it can copy to all children without dropping any.",
    ),
];

const FDB: &[Row] = &[info(
    "scale-fdb",
    "wire → veth child in XDP, 65,536 destinations in the FDB",
    "frames/s",
    Some("maclane with one"),
    "",
)];

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] =
    &[Bench { rows: CHILDREN, run: children }, Bench { rows: FDB, run: fdb }];

const STEPS: [usize; 5] = [1, 10, 100, 500, 1000];

fn children(cx: &Context) -> Result<Measured> {
    let setup = Setup { kind: "macvlan", vlan: 0, xdp: "auto", unknown: "pass" };
    let mut ours = Growing::new(Line::maclane(cx, setup))?;
    let mut peer = Growing::new(Line::macvlan("bridge"))?;
    let (mut our_rates, mut peer_rates) = (Vec::new(), Vec::new());
    let (mut our_costs, mut peer_costs) = (Vec::new(), Vec::new());
    for step in STEPS {
        for (side, rates, costs, rate) in [
            (&mut ours, &mut our_rates, &mut our_costs, RATE),
            (&mut peer, &mut peer_rates, &mut peer_costs, bearable(step)),
        ] {
            side.grow(cx, step)?;
            cx.say(&format!("{step} children"));
            rates.push((at(step), side.rates(cx)?));
            costs.push((at(step), costs_of(cx, side, rate)?));
        }
    }
    let outcomes = vec![last_against_first(&ours.added), ends(&our_rates), ends(&our_costs)];
    let lines = |ours, peer| vec![("maclane", ours), (KERNEL, peer)];
    let (our_added, peer_added) = (by_step(&ours.added), by_step(&peer.added));
    let x = "macvlan children";
    let curve = |file, title, y, lines| Curve { file, title, x, y, log: false, lines };
    let curves = vec![
        curve(
            "scale-children.svg",
            "Frames to one of many macvlan children",
            "frames/s",
            lines(our_rates, peer_rates),
        ),
        Curve {
            log: true,
            ..curve(
                "scale-broadcast.svg",
                "Cost of one ARP request for a stranger, its sending included",
                "µs of CPU",
                lines(our_costs, peer_costs),
            )
        },
        curve("scale-add.svg", "Time to add a macvlan child", "ms", lines(our_added, peer_added)),
    ];
    Ok(Measured { outcomes, curves })
}

/// Microseconds of CPU for each broadcast.
fn costs_of(cx: &Context, side: &Growing, rate: u32) -> Result<Series> {
    let costs = (0..if cx.quick { 3 } else { 7 })
        .map(|_| Ok(side.storm(cx, Of::Strangers, rate)?.microseconds));
    Ok(Series::new(costs.collect::<Result<_>>()?))
}

/// Broadcasts a second that the host can bear with so many children, or most would be dropped.
fn bearable(children: usize) -> u32 {
    let copies = 300_000;
    (copies / u32::try_from(children).unwrap_or(1)).min(RATE)
}

#[allow(clippy::cast_precision_loss)]
fn at(step: usize) -> f64 {
    step as f64
}

/// The last point of a line, compared with the first.
fn ends(line: &[(f64, Series)]) -> Outcome {
    let series = |point: Option<&(f64, Series)>| point.map(|(_, series)| series.clone());
    Outcome { ours: series(line.last()).unwrap_or_default(), peer: series(line.first()) }
}

fn last_against_first(added: &[f64]) -> Outcome {
    let hundred = 100.min(added.len());
    Outcome {
        ours: Series::new(added[added.len() - hundred..].to_vec()),
        peer: Some(Series::new(added[..hundred].to_vec())),
    }
}

/// How long it took to add a child, for those up to each step.
fn by_step(added: &[f64]) -> Vec<(f64, Series)> {
    let ranges = STEPS.windows(2).map(|ends| (ends[0] - 1, ends[1] - 1));
    ranges.map(|(from, to)| (at(to + 1), Series::new(added[from..to].to_vec()))).collect()
}

/// Frames for more and more destinations that are all the same child.
fn fdb(cx: &Context) -> Result<Measured> {
    let setup = Setup { kind: "veth", vlan: 0, xdp: "native", unknown: "pass" };
    let mut line = Line::maclane(cx, setup);
    let sink = Sink::xdp(&line.child, PARENT)?;
    let mut table = Fdb::open(&line)?;
    // It would put the tables right; the dataplane goes on without it.
    line.daemon.as_mut().context("no maclane runs")?.stop();
    let mut points = Vec::new();
    for entries in (0..=16).step_by(2).map(|power| 1 << power) {
        cx.check()?;
        cx.say(&format!("{entries} entries"));
        table.fill(entries)?;
        let mut generator = line.generator(CHILD, 0, entries - 1)?;
        let rates = (0..cx.rounds()).map(|_| rate(&mut generator, &line.wire, || sink.count()));
        points.push((f64::from(entries), Series::new(rates.collect::<Result<_>>()?)));
    }
    let outcomes = vec![ends(&points)];
    let curves = vec![Curve {
        file: "scale-fdb.svg",
        title: "Frames to a veth child in XDP, by destinations",
        x: "destinations in the FDB",
        y: "frames/s",
        log: false,
        lines: vec![("maclane", points)],
    }];
    Ok(Measured { outcomes, curves })
}

/// The tables of a daemon, written to by somebody else.
struct Fdb {
    entries: HashMap<MapData, FdbKey, FdbValue>,
    sources: Array<MapData, Bucket>,
    /// What the child's own entry says.
    value: FdbValue,
}

impl Fdb {
    fn open(line: &Line) -> Result<Self> {
        let daemon = line.daemon.as_ref().context("no maclane runs")?;
        let shown = daemon.json(&["parent", "show", PARENT]);
        let pins = std::path::PathBuf::from(shown["pins"].as_str().context("it has no pins")?);
        let open = |name| MapData::from_pin(pins.join(name));
        let entries: HashMap<_, _, _> = Map::HashMap(open(map::FDB)?).try_into()?;
        let sources = Map::Array(open(map::SOURCES)?).try_into()?;
        let value = entries.get(&key(0), 0).context("the child is not in the FDB")?;
        Ok(Self { entries, sources, value })
    }

    /// Gives the child as many addresses, those that a generator with this spread sends to.
    fn fill(&mut self, entries: u32) -> Result<()> {
        let mut buckets: BTreeMap<u32, Bucket> = BTreeMap::new();
        // The daemon has entries of its own, and the table has room for no more than it has.
        for number in 0..entries.min(65_536 - 8) {
            let key = key(number);
            self.entries.insert(key, self.value, 0)?;
            let empty = Bucket { key, entry: self.value, macs: 0 };
            buckets.entry(bucket(key.mac)).or_insert(empty).macs += 1;
        }
        for (number, bucket) in buckets.into_iter().filter(|(number, _)| *number < SOURCES) {
            self.sources.set(number, bucket, 0)?;
        }
        Ok(())
    }
}

fn key(number: u32) -> FdbKey {
    let Mac(mut mac) = CHILD;
    for (byte, change) in mac[2..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= change;
    }
    FdbKey { mac, vlan: 0 }
}
