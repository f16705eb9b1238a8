//! What changes with the number of children, and of entries in the FDB.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use dataplane_common::abi::{Bucket, FdbKey, FdbValue, SOURCES, bucket, map};
use tests::{mac::Mac, netns::Netns, topology::PARENT};

use crate::{
    chart::Curve,
    children::{milliseconds, namespaces},
    context::Context,
    line::{CHILD, Line, Setup, Side},
    load::{Sink, rate},
    row::{Bench, Measured, Row, Target, info, row},
    series::{Outcome, Series},
    storm::{ASKED, ASKED_FOR, RATE, Storm, storm},
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
        "arp-storm-answered",
        "45,000 broadcast ARP requests/s for strangers, 500 macvlan children: requests for a \
         child answered",
        "of 5",
        "all",
        Target::AtLeast(1.0),
        "An untagged broadcast from the wire is left to the kernel's macvlan, which queues it and \
         makes a copy for every child: the queue overflows, and requests for a child are lost in \
         it as they are without maclane. This waits for ARP steering.",
    ),
    info(
        "arp-calm-answered",
        "the same children, requests answered while there is no storm",
        "of 5",
        Some("all"),
        "Without a storm all are answered: the set-up works.",
    ),
    info("arp-storm-answered-kernel", "the same with kernel macvlan", "of 5", Some("all"), ""),
    row(
        "arp-storm-cpu",
        "that storm's CPU",
        "% of the machine",
        KERNEL,
        Target::AtMost(0.125),
        "As above: the kernel does the same work on both sides. There is no number where the machine \
     was busy with other things for more than 40 %.",
    ),
    row(
        "broadcast-cost-1000",
        "CPU for a broadcast at 1,000 macvlan children",
        "µs",
        "maclane with one child",
        Target::AtMost(1.2),
        "A copy for each child, by the kernel: it grows with the children until ARP steering.",
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

/// A host that gets more and more macvlan children.
struct Growing {
    side: Side,
    /// How long it took to add each.
    added: Vec<f64>,
    namespaces: Vec<Netns>,
}

impl Growing {
    fn new(line: Line) -> Result<Self> {
        let namespaces = namespaces();
        for ns in &namespaces {
            // All links of a namespace hear a request: only the one that has the address answers.
            ns.sysctl("net/ipv4/conf/all/arp_ignore", "1");
        }
        Ok(Self { side: Side::stack(line, 0)?, added: Vec::new(), namespaces })
    }

    /// Gives the second child the address that is asked for: the first one's sink takes everything.
    fn address_second(&self) {
        self.namespaces[1].address("e1", &format!("{ASKED_FOR}/16"));
    }

    fn grow(&mut self, cx: &Context, to: usize) -> Result<()> {
        let line = self.side.line();
        for number in self.added.len() + 1..to {
            if number % 10 == 0 {
                cx.check()?;
                cx.say(&format!("adding child {number} of {to}"));
            }
            let ns = &self.namespaces[number % self.namespaces.len()];
            let ifname = format!("e{number}");
            let began = Instant::now();
            if let Some(daemon) = &line.daemon {
                let name = format!("c{number}");
                let add = ["child", "add", &name, "--network", "lan", "--netns", ns.name()];
                daemon.run(&[&add[..], &["--ifname", &ifname]].concat());
            } else {
                let netns = ns.name();
                line.host.ip(&format!(
                    "link add link {PARENT} name {ifname} netns {netns} type macvlan mode bridge"
                ));
                ns.up(&ifname);
            }
            self.added.push(milliseconds(began));
        }
        Ok(())
    }

    fn rates(&mut self, cx: &Context) -> Result<Series> {
        let rates = (0..cx.rounds().min(9)).map(|_| self.side.rate());
        Ok(Series::new(rates.collect::<Result<_>>()?))
    }

    fn storms(&self, cx: &Context, rounds: u32, rate: u32) -> Result<Vec<Storm>> {
        (0..rounds)
            .map(|_| {
                cx.check()?;
                storm(cx, &self.side.line().wire, rate)
            })
            .collect()
    }
}

fn children(cx: &Context) -> Result<Measured> {
    let setup = Setup { kind: "macvlan", vlan: 0, xdp: "auto", unknown: "pass" };
    let mut ours = Growing::new(Line::maclane(cx, setup))?;
    let mut peer = Growing::new(Line::macvlan("bridge"))?;
    let (mut our_rates, mut peer_rates) = (Vec::new(), Vec::new());
    let (mut our_costs, mut peer_costs) = (Vec::new(), Vec::new());
    let (mut storms, mut calm) = (None, Series::default());
    for step in STEPS {
        for (side, rates, costs) in [
            (&mut ours, &mut our_rates, &mut our_costs),
            (&mut peer, &mut peer_rates, &mut peer_costs),
        ] {
            side.grow(cx, step)?;
            cx.say(&format!("{step} children"));
            rates.push((at(step), side.rates(cx)?));
            costs
                .push((at(step), series(&side.storms(cx, 3, bearable(step))?, |s| s.microseconds)));
        }
        if step == 500 {
            cx.say("storm at 500 children");
            ours.address_second();
            peer.address_second();
            calm = series(&ours.storms(cx, 1, 0)?, |s| s.answered);
            storms = Some((ours.storms(cx, 7, RATE)?, peer.storms(cx, 7, RATE)?));
        }
    }
    let (our_storms, peer_storms) = storms.context("there was no storm")?;
    let all = || Some(Series::new(vec![f64::from(ASKED); our_storms.len()]));
    let outcomes = vec![
        last_against_first(&ours.added),
        ends(&our_rates),
        Outcome { ours: series(&our_storms, |s| s.answered), peer: all() },
        Outcome { ours: calm, peer: Some(Series::new(vec![f64::from(ASKED)])) },
        Outcome { ours: series(&peer_storms, |s| s.answered), peer: all() },
        Outcome {
            ours: series(&our_storms, |s| s.percent),
            peer: Some(series(&peer_storms, |s| s.percent)),
        },
        ends(&our_costs),
    ];
    let lines = |ours, peer| vec![("maclane", ours), (KERNEL, peer)];
    let (our_added, peer_added) = (by_step(&ours.added), by_step(&peer.added));
    let curve = |file, title, y, lines| Curve { file, title, x: "macvlan children", y, lines };
    let curves = vec![
        curve(
            "scale-children.svg",
            "Frames to one of many macvlan children",
            "frames/s",
            lines(our_rates, peer_rates),
        ),
        curve(
            "scale-broadcast.svg",
            "Cost of one broadcast, its sending included",
            "µs of CPU",
            lines(our_costs, peer_costs),
        ),
        curve("scale-add.svg", "Time to add a macvlan child", "ms", lines(our_added, peer_added)),
    ];
    Ok(Measured { outcomes, curves })
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

fn series(storms: &[Storm], value: impl Fn(&Storm) -> f64) -> Series {
    // A storm during which the machine was busy with other things has no CPU of its own.
    Series::new(storms.iter().map(value).collect()).finite()
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
