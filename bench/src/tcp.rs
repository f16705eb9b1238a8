//! TCP: bulk (iperf3) and round trips, between the host and its children.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{daemon::Daemon, eventually, netns::Netns, process::Process, topology::PARENT};

use crate::{
    context::{ANSWER_CPU, Context, load_cpu, pin},
    cpu::Cpu,
    row::{Bench, Measured, Row, Target, info, row},
    series::{Series, alternate},
};

const BITS: &str = "Gbit/s";
const TRIPS: &str = "round trips/s";
const MICROSECONDS: &str = "µs";
const SHIM: &str = "macvlan shim";
const BRIDGE_MODE: &str = "kernel macvlan, bridge mode";
const BRIDGE: &str = "kernel bridge";
const BARE_BRIDGE: &str = "kernel bridge without netfilter";
const OFF: &str = "`--security off`";

/// A network whose children see each other through maclane only.
const MACVLAN: &str = "--kind macvlan --mode vepa";

const BULK_TO: &[Row] = &[
    row(
        "tcp-bulk-to-child",
        "one TCP stream, host → macvlan child",
        BITS,
        SHIM,
        Target::AtLeast(0.95),
        "The stream needs as much CPU on both sides (`tcp-bulk-to-child-cpu`), which is what counts \
         on a machine with neighbours: whoever takes one of the two CPUs for a while halves a \
         round.",
    ),
    info("tcp-bulk-to-child-cpu", "CPU time of that stream", "ns/KiB", Some(SHIM), ""),
];

const BULK_FROM: &[Row] = &[
    row(
        "tcp-bulk-from-child",
        "one TCP stream, macvlan child → host",
        BITS,
        SHIM,
        Target::AtLeast(0.95),
        "Sender and receiver are on a CPU each; the softirqs run wherever the sender is, and on a \
         machine with neighbours that is what the spread shows.",
    ),
    info("tcp-bulk-from-child-cpu", "CPU time of that stream", "ns/KiB", Some(SHIM), ""),
];

const HOST_CHILD: &[Row] = &[
    row(
        "tcp-rt-host-child",
        "TCP round trips of one byte, host ↔ macvlan child",
        TRIPS,
        SHIM,
        Target::AtLeast(0.95),
        "Both ends on one CPU, as in all rows of round trips: what is measured is the path. With a \
         CPU each, waking the other, virtual, CPU takes 30 of 45 µs and hides it.",
    ),
    info("tcp-rt-host-child-p50", "half of them take no longer", MICROSECONDS, Some(SHIM), ""),
    info("tcp-rt-host-child-p99", "99 of 100 take no longer", MICROSECONDS, Some(SHIM), ""),
];

const CHILD_CHILD: &[Row] = &[
    row(
        "tcp-rt-child-child",
        "TCP round trips, macvlan child ↔ macvlan child, vepa mode",
        TRIPS,
        BRIDGE_MODE,
        Target::AtLeast(0.90),
        "In vepa mode a frame goes through the parent's TC egress, the CPU's backlog and the parent's \
         TC ingress; in bridge mode the kernel hands it to the sibling. Where one VLAN and no \
         policy is all there is, `--mode auto` takes bridge mode, too.",
    ),
    info(
        "tcp-rt-child-child-p50",
        "half of them take no longer",
        MICROSECONDS,
        Some(BRIDGE_MODE),
        "",
    ),
    info("tcp-rt-child-child-p99", "99 of 100 take no longer", MICROSECONDS, Some(BRIDGE_MODE), ""),
];

const VETH_VETH: &[Row] = &[
    row(
        "tcp-rt-veth-veth",
        "TCP round trips, veth child ↔ veth child",
        TRIPS,
        BRIDGE,
        Target::AtLeast(1.2),
        "`bpf_redirect_peer` leaves out the host end's transmit and one pass of the backlog. Two \
         TCP stacks, four system calls and two context switches are the same on both sides, and \
         most of a round trip. The bridge is as the kernel has it (see `wire-veth-stack`); \
         `tcp-rt-veth-veth-bare` is against one without netfilter.",
    ),
    info("tcp-rt-veth-veth-p50", "half of them take no longer", MICROSECONDS, Some(BRIDGE), ""),
    info("tcp-rt-veth-veth-p99", "99 of 100 take no longer", MICROSECONDS, Some(BRIDGE), ""),
];

const VETH_VETH_BARE: &[Row] = &[
    info("tcp-rt-veth-veth-bare", "the same round trips", TRIPS, Some(BARE_BRIDGE), ""),
    info(
        "tcp-rt-veth-veth-bare-p50",
        "half of them take no longer",
        MICROSECONDS,
        Some(BARE_BRIDGE),
        "",
    ),
    info(
        "tcp-rt-veth-veth-bare-p99",
        "99 of 100 take no longer",
        MICROSECONDS,
        Some(BARE_BRIDGE),
        "",
    ),
];

const ENFORCE: &[Row] = &[
    info(
        "tcp-rt-enforce",
        "TCP round trips, macvlan child ↔ macvlan child, vepa mode, port security enforced",
        TRIPS,
        Some(OFF),
        "All rows of children that maclane made are with port security, as it is by default for \
         those to which it gave addresses: this is what it takes.",
    ),
    info("tcp-rt-enforce-p50", "half of them take no longer", MICROSECONDS, Some(OFF), ""),
    info("tcp-rt-enforce-p99", "99 of 100 take no longer", MICROSECONDS, Some(OFF), ""),
];

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] = &[
    Bench { rows: BULK_TO, run: |cx| bulk(cx, false) },
    Bench { rows: BULK_FROM, run: |cx| bulk(cx, true) },
    Bench { rows: HOST_CHILD, run: |cx| trips(cx, Pair::host_child(cx), Pair::shim()) },
    Bench { rows: CHILD_CHILD, run: |cx| trips(cx, Pair::children(cx, MACVLAN), Pair::macvlan()) },
    Bench {
        rows: VETH_VETH,
        run: |cx| trips(cx, Pair::children(cx, "--kind veth"), Pair::bridge(true)),
    },
    Bench {
        rows: VETH_VETH_BARE,
        run: |cx| trips(cx, Pair::children(cx, "--kind veth"), Pair::bridge(false)),
    },
    Bench {
        rows: ENFORCE,
        run: |cx| {
            let [enforce, off] = ["enforce", "off"]
                .map(|word| Pair::children(cx, &format!("{MACVLAN} --security {word}")));
            trips(cx, enforce, off)
        },
    },
];

/// Who answers.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 102);

/// Two parties on one host, and the host with its wire. Dropped in this order.
struct Pair {
    _daemon: Option<Daemon>,
    /// `None` is the host itself.
    client: Option<Netns>,
    server: Netns,
    host: Netns,
    _wire: Netns,
}

impl Pair {
    /// A host without children, whose cable leads nowhere.
    fn bare() -> Self {
        let [wire, host, server] = [(); 3].map(|()| Netns::without_ipv6());
        host.veth(PARENT, &wire, "w0");
        Self { _daemon: None, client: None, server, host, _wire: wire }
    }

    fn host_child(cx: &Context) -> Self {
        let pair = Self::bare();
        pair.host.address(PARENT, "192.168.50.10/24");
        let daemon = Daemon::start_program(cx.program.clone(), &pair.host, &[]);
        daemon.network("lan", 0, "macvlan");
        daemon.child("server", "lan", &pair.server, &format!("{SERVER}/24"));
        Self { _daemon: Some(daemon), ..pair }
    }

    /// What people build by hand: a macvlan interface of the host's own.
    fn shim() -> Self {
        let pair = Self::bare();
        pair.host.macvlan(PARENT, "bridge", &pair.host, "shim0");
        pair.host.address("shim0", "192.168.50.10/24");
        pair.host.macvlan(PARENT, "bridge", &pair.server, PARENT);
        pair.server.address(PARENT, &format!("{SERVER}/24"));
        pair
    }

    /// Two children of a network that is made with these arguments.
    fn children(cx: &Context, network: &str) -> Self {
        let pair = Self::bare();
        let client = Netns::without_ipv6();
        let daemon = Daemon::start_program(cx.program.clone(), &pair.host, &[]);
        daemon.network_with("lan", network);
        daemon.child("server", "lan", &pair.server, &format!("{SERVER}/24"));
        daemon.child("client", "lan", &client, "192.168.50.101/24");
        Self { _daemon: Some(daemon), client: Some(client), ..pair }
    }

    fn macvlan() -> Self {
        let pair = Self::bare();
        let client = Netns::without_ipv6();
        for (ns, cidr) in [(&pair.server, format!("{SERVER}/24")), (&client, CLIENT.to_owned())] {
            pair.host.macvlan(PARENT, "bridge", ns, PARENT);
            ns.address(PARENT, &cidr);
        }
        Self { client: Some(client), ..pair }
    }

    fn bridge(netfilter: bool) -> Self {
        let pair = Self::bare();
        let client = Netns::without_ipv6();
        pair.host.bridge("br0");
        pair.host.bridge_netfilter(netfilter);
        pair.host.enslave(PARENT, "br0");
        let ends = [("h0", &pair.server, format!("{SERVER}/24")), ("h1", &client, CLIENT.into())];
        for (host_end, ns, cidr) in ends {
            pair.host.veth(host_end, ns, PARENT);
            pair.host.enslave(host_end, "br0");
            ns.address(PARENT, &cidr);
        }
        Self { client: Some(client), ..pair }
    }

    fn client(&self) -> &Netns {
        self.client.as_ref().unwrap_or(&self.host)
    }
}

const CLIENT: &str = "192.168.50.101/24";

fn bulk(cx: &Context, reverse: bool) -> Result<Measured> {
    let sides = [Pair::host_child(cx), Pair::shim()];
    let servers: Vec<Process> = sides.iter().map(iperf_server).collect();
    let measure = |pair: &Pair| iperf(cx, pair, reverse);
    let outcomes = alternate(cx, || measure(&sides[0]), || measure(&sides[1]));
    drop(servers);
    Ok(outcomes?.into())
}

fn iperf_server(pair: &Pair) -> Process {
    let mut command = pair.server.command("iperf3");
    command.args(["-s", "-J"]).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Process::start(&mut command);
    eventually("iperf3 listens", Duration::from_secs(5), || {
        pair.server.enter(|| TcpStream::connect((SERVER, 5201)).is_ok())
    });
    server
}

/// Gigabits a second as the receiver saw them in the median tenth of a second, and nanoseconds of CPU for each KiB.
fn iperf(cx: &Context, pair: &Pair, reverse: bool) -> Result<[f64; 2]> {
    let server = SERVER.to_string();
    let seconds = cx.seconds().to_string();
    let cpus = format!("{},{ANSWER_CPU}", load_cpu());
    let mut words = vec!["iperf3", "-J", "-i", "0.1", "-A", &cpus, "-t", &seconds, "-c", &server];
    // The receiver's intervals are wanted, whichever end that is.
    words.push(if reverse { "-R" } else { "--get-server-output" });
    let before = Cpu::now()?;
    let text = pair.client().run(&words);
    let busy = Cpu::now()?.busy_seconds_since(before);
    let report: Value = serde_json::from_str(&text).context("iperf3 prints no JSON")?;
    let receiver = if reverse { &report } else { &report["server_output_json"] };
    let intervals = receiver["intervals"].as_array().context("iperf3 received nothing")?;
    let of = |key: &str| intervals.iter().filter_map(|i| i["sum"][key].as_f64()).collect();
    let (bits, bytes): (Vec<f64>, Vec<f64>) = (of("bits_per_second"), of("bytes"));
    let kib = bytes.iter().sum::<f64>() / 1024.0;
    Ok([Series::new(bits).median() / 1e9, busy * 1e9 / kib])
}

#[allow(clippy::needless_pass_by_value, reason = "both sides end with the benchmark")]
fn trips(cx: &Context, ours: Pair, peer: Pair) -> Result<Measured> {
    let measure = |pair: &Pair| ping_pong(pair, Duration::from_secs(cx.seconds().into()) / 2);
    Ok(alternate(cx, || measure(&ours), || measure(&peer))?.into())
}

/// One byte there and one back, again and again: how many a second fit at the median, and the p50
/// and p99 of how many microseconds one took. The median, because a neighbour that takes a CPU for
/// a time slice costs as much as a hundred round trips.
fn ping_pong(pair: &Pair, time: Duration) -> Result<[f64; 3]> {
    let listener = pair.server.enter(|| TcpListener::bind((SERVER, 0)))?;
    let address = listener.local_addr()?;
    let mut near = pair.client().enter(|| TcpStream::connect(address))?;
    let (mut far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(Duration::from_secs(10)))?;
    }
    let answering = thread::spawn(move || -> Result<()> {
        pin(load_cpu())?;
        let mut byte = [0];
        while far.read(&mut byte)? > 0 {
            far.write_all(&byte)?;
        }
        Ok(())
    });
    let asking = thread::spawn(move || -> Result<Vec<f64>> {
        pin(load_cpu())?;
        let (mut byte, mut took) = ([0], Vec::new());
        let end = Instant::now() + time;
        let mut before = Instant::now();
        while before < end {
            near.write_all(&byte)?;
            near.read_exact(&mut byte)?;
            let now = Instant::now();
            took.push((now - before).as_secs_f64() * 1e6);
            before = now;
        }
        Ok(took)
    });
    let took = Series::new(asking.join().expect("it does not panic")?);
    answering.join().expect("it does not panic")?;
    Ok([1e6 / took.median(), took.median(), took.quantile(0.99)])
}
