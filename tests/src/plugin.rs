//! A host on which maclane is Docker's plugin.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    container::Container,
    daemon::{Daemon, Setup},
    docker::{Docker, Dockerd},
    eventually,
    footprint::{Footprint, footprint},
    mac::Mac,
    netns::Netns,
    patience,
    room::Room,
    tcp,
    topology::{Host, PARENT},
    traffic::assert_reaches,
};

/// In which time what Docker has done is seen, and what it has taken away is gone.
const SOON: Duration = Duration::from_secs(10);

/// Between two looks.
const OFTEN: Duration = Duration::from_millis(50);

/// A Docker and a maclane in one room. The host has to outlive it.
#[derive(Debug)]
pub struct Plugin<'a> {
    /// maclane.
    pub daemon: Daemon,
    /// Docker.
    pub dockerd: Dockerd,
    host: &'a Host,
}

impl<'a> Plugin<'a> {
    /// Starts both on a host.
    #[track_caller]
    #[must_use]
    pub fn start(host: &'a Host) -> Self {
        Self::start_with(host, &["--docker"])
    }

    /// The same, with arguments of `maclane daemon`.
    #[track_caller]
    #[must_use]
    pub fn start_with(host: &'a Host, arguments: &[&str]) -> Self {
        let room = Room::new(&host.ns);
        let setup = Setup { room: Some(room.clone()), arguments, ..Setup::default() };
        let daemon = Daemon::start_as(&host.ns, setup);
        Self { daemon, dockerd: Dockerd::start(&room), host }
    }

    /// Docker's command line.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        self.dockerd.docker()
    }

    /// `docker network create --driver maclane MORE NAME`.
    #[track_caller]
    pub fn network(&self, name: &str, more: &str) -> String {
        self.docker().network(name, &format!("--driver maclane {more}"))
    }

    /// `docker network create --driver maclane --opt parent=eth0 --subnet SUBNET MORE NAME`.
    #[track_caller]
    pub fn network_on(&self, name: &str, subnet: &str, more: &str) -> String {
        self.network(name, &format!("--opt parent={PARENT} --subnet {subnet} {more}"))
    }

    /// `docker run --detach --name NAME --network NETWORK MORE`.
    #[track_caller]
    pub fn container(&self, name: &str, network: &str, more: &str) -> Container {
        self.docker().container(name, network, more)
    }

    /// Starts containers of a network at once, and waits until all run.
    #[track_caller]
    pub fn containers(&self, names: &[String], network: &str) -> Vec<Container> {
        thread::scope(|scope| {
            let start = |name: &String| {
                let name = name.clone();
                scope.spawn(move || self.container(&name, network, ""))
            };
            let starting: Vec<_> = names.iter().map(start).collect();
            let started = starting.into_iter().map(thread::ScopedJoinHandle::join);
            started.map(|one| one.expect("a container that starts")).collect()
        })
    }

    /// The address and the MAC of each container that runs in a network, by its name.
    #[track_caller]
    #[must_use]
    pub fn members(&self, network: &str) -> BTreeMap<String, (Ipv4Addr, Mac)> {
        let containers = self.docker().inspect(network)["Containers"].take();
        let containers = containers.as_object().expect("docker lists the containers of a network");
        let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
        let member = |of: &Value| {
            let (cidr, mac) = (text(of, "IPv4Address"), text(of, "MacAddress"));
            let ip = cidr.split('/').next().and_then(|ip| ip.parse().ok()).expect("an address");
            (text(of, "Name"), (ip, mac.parse().expect("a MAC")))
        };
        containers.values().map(member).collect()
    }

    /// The children of Docker's endpoints.
    #[track_caller]
    #[must_use]
    pub fn children(&self) -> Vec<Value> {
        let children = self.daemon.json(&["child", "ls"]);
        children.as_array().expect("a list").clone()
    }

    /// Everything that both have on the host now.
    #[track_caller]
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        footprint(&self.daemon, &self.host.ns, &[])
    }

    /// How many packet sockets are open on the host: each address that the daemon holds has one.
    #[track_caller]
    #[must_use]
    pub fn packet_sockets(&self) -> usize {
        let table = self.host.ns.enter(|| fs::read_to_string("/proc/thread-self/net/packet"));
        table.expect("the kernel lists packet sockets").lines().skip(1).count()
    }

    /// Everything that both have on the host before there is a network. The parent is there: it stays
    /// when its networks go.
    #[track_caller]
    #[must_use]
    pub fn before(&self) -> Footprint {
        self.daemon.run(&["parent", "add", PARENT]);
        self.footprint()
    }

    fn has_networks(&self) -> bool {
        self.daemon.json(&["network", "ls"]).as_array().is_some_and(|networks| !networks.is_empty())
    }

    /// Waits until nothing is there that was not before, and nothing is missing.
    #[track_caller]
    pub fn returns_to(&self, before: &Footprint) {
        let deadline = Instant::now() + patience(SOON);
        loop {
            let now = self.footprint();
            let differs: Vec<_> = now.symmetric_difference(before).collect();
            // Without networks, nobody answers for an address.
            let sockets = if self.has_networks() { 0 } else { self.packet_sockets() };
            if differs.is_empty() && sockets == 0 {
                return;
            }
            let left = format!("{differs:#?} and {sockets} packet sockets");
            assert!(Instant::now() < deadline, "left over, or missing: {left}");
            thread::sleep(OFTEN);
        }
    }

    /// Waits until there are as many things of each sort as before: a container that was started
    /// again has others.
    #[track_caller]
    pub fn has_as_many_as(&self, before: &Footprint) {
        let deadline = Instant::now() + patience(SOON);
        loop {
            let now = self.footprint();
            let (is, was) = (counts(&now), counts(before));
            if is == was {
                return;
            }
            assert!(Instant::now() < deadline, "{is:?} instead of {was:?}; now: {now:#?}");
            thread::sleep(OFTEN);
        }
    }
}

/// How many there are of each sort.
fn counts(footprint: &Footprint) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for line in footprint {
        *counts.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// Panics unless each of them reaches each other one, by ping and TCP.
#[track_caller]
pub fn assert_all_reach(members: &[(&Netns, IpAddr)]) {
    for (from, _) in members {
        for (to, ip) in members.iter().filter(|(to, _)| to.path() != from.path()) {
            assert_reaches(from, *ip);
            tcp::echo(to, from, *ip, 20_000);
        }
    }
}

/// Waits until the IPv6 addresses of a namespace can be used: nobody else has them (DAD).
#[track_caller]
pub fn wait_for_dad(ns: &Netns) {
    eventually("its IPv6 addresses are its own", SOON, || {
        ns.ip("-6 address show tentative").is_empty()
    });
}
