//! How long it takes until a container of Docker is on the LAN.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::{
    daemon::{Daemon, Setup},
    docker::Dockerd,
    room::Room,
    topology::Lan,
    traffic::ping,
};

use crate::{
    children::milliseconds,
    context::Context,
    row::{Bench, Measured, Row, Target, row},
    series::alternate,
};

const MS: &str = "ms";
const PEER: &str = "Docker's own macvlan driver";

/// Longer than a container takes to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// So often the container is asked whether it is there.
const OFTEN: Duration = Duration::from_millis(5);

const RUN: &[Row] = &[row(
    "docker-run",
    "`docker run` until a machine on the wire has its ping answered, Docker's IPAM on both sides",
    MS,
    PEER,
    Target::AtMost(1.2),
    "30 ms of it are the probe: the LAN is asked whether somebody has the address.",
)];

const IPAM: &[Row] = &[row(
    "docker-run-ipam",
    "the same with `--ipam-driver maclane`",
    MS,
    PEER,
    Target::AtMost(1.2),
    "The addresses were found, and held, before the container asked for one.",
)];

/// The benchmarks of this module.
pub(crate) const BENCHES: &[Bench] = &[
    Bench { rows: RUN, run: |cx| running(cx, "") },
    Bench { rows: IPAM, run: |cx| running(cx, "--ipam-driver maclane") },
];

fn running(cx: &Context, ipam: &str) -> Result<Measured> {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    // A second subnet on the same wire: both sides have their own.
    lan.router.ns.ip("address add 192.168.60.1/24 dev eth0");
    let room = Room::new(&host.ns);
    let setup = Setup {
        program: Some(cx.program.clone()),
        arguments: &["--docker"],
        room: Some(room.clone()),
        ..Setup::default()
    };
    let _daemon = Daemon::start_as(&host.ns, setup);
    let dockerd = Dockerd::start(&room);
    let docker = dockerd.docker();
    for (name, driver, net) in
        [("ours", format!("-d maclane {ipam}"), 50), ("peer", "-d macvlan".into(), 60)]
    {
        let subnet = format!("--subnet 192.168.{net}.0/24 --gateway 192.168.{net}.1");
        let range = format!("--ip-range 192.168.{net}.128/25");
        docker.network(name, &format!("{driver} {subnet} {range} -o parent=eth0"));
    }
    let once = |network: &str| -> Result<[f64; 1]> {
        let began = Instant::now();
        let container = docker.container("container", network, "");
        let ip = container.ip(network);
        while !ping(&lan.router.ns, ip, 1, OFTEN).is_clean() {
            ensure!(began.elapsed() < PATIENCE, "the container in {network} does not answer");
        }
        let took = milliseconds(began);
        container.docker(&["rm", "--force"]);
        Ok([took])
    };
    let outcomes = alternate(cx, || once("ours"), || once("peer"))?;
    Ok(outcomes.into())
}
