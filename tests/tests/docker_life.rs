//! Docker's containers live through the ends of dockerd, of maclane, and of the machine, and leave
//! nothing behind.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    container::Container,
    daemon::{Daemon, Setup},
    docker::{Docker, Dockerd, IMAGE},
    eventually,
    footprint::{Footprint, footprint},
    http,
    length::DOCKER_KILLS,
    mac::Mac,
    netns::Netns,
    process::Process,
    room::Room,
    topology::{Lan, PARENT},
    traffic::{assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(10);

/// The networks, their VLANs, and what else `docker network create` is told. Each has eight addresses
/// for containers.
const NETWORKS: [(&str, &str); 3] = [
    ("of_docker", "--subnet 10.1.0.0/24 --gateway 10.1.0.1 --ip-range 10.1.0.64/29 -o vlan=1"),
    (
        "of_maclane",
        "--subnet 10.2.0.0/24 --gateway 10.2.0.1 --ip-range 10.2.0.64/29 --ipam-driver maclane -o vlan=2",
    ),
    (
        "veth",
        "--subnet 10.3.0.0/24 --gateway 10.3.0.1 --ip-range 10.3.0.64/29 --ipam-driver maclane -o kind=veth -o vlan=3",
    ),
];

/// How many addresses a range has.
const RANGE: u8 = 8;

/// A host with both daemons.
struct Site {
    dockerd: Dockerd,
    daemon: Daemon,
    lan: Lan,
}

impl Site {
    fn new(arguments: &[&str]) -> Self {
        let lan = Lan::new(1);
        let room = Room::new(&lan.hosts[0].ns);
        let setup =
            Setup { arguments: &["--docker"], room: Some(room.clone()), ..Setup::default() };
        let daemon = Daemon::start_as(&lan.hosts[0].ns, setup);
        let dockerd = Dockerd::start_with(&room, arguments);
        Self { dockerd, daemon, lan }
    }

    fn docker(&self) -> &Docker {
        self.dockerd.docker()
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    /// Makes [`NETWORKS`].
    #[track_caller]
    fn networks(&self) {
        for (name, more) in NETWORKS {
            self.docker().network(name, &format!("-d maclane -o parent={PARENT} {more}"));
        }
    }

    fn footprint(&self) -> Footprint {
        footprint(&self.daemon, self.host(), &[])
    }

    /// What maclane has of Docker's.
    #[track_caller]
    fn endpoints(&self) -> Vec<Value> {
        let answer = http::request(&self.daemon.socket(), "GET", "/v1/docker", b"");
        let answer = answer.expect("the daemon answers").body;
        let networks = answer.as_array().expect("a list").iter();
        networks.flat_map(|network| network["endpoints"].as_array().cloned().unwrap()).collect()
    }

    /// Removes all containers, and waits until there is nothing of them any more.
    #[track_caller]
    fn remove_all(&self, empty: &Footprint) {
        eventually("all containers are removed", SOON, || {
            let all = self.docker().run(&["ps", "--all", "--quiet"]);
            let all: Vec<&str> = all.split_whitespace().collect();
            if !all.is_empty() {
                self.docker().output(&[&["rm", "--force"][..], &all].concat());
            }
            all.is_empty()
        });
        let mut left = Footprint::new();
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            left = self.footprint();
            if left == *empty {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let more: Vec<_> = left.difference(empty).collect();
        let less: Vec<_> = empty.difference(&left).collect();
        assert!(more.is_empty() && less.is_empty(), "more: {more:?}, less: {less:?}");
        assert_eq!(self.endpoints(), Vec::<Value>::new());
    }

    /// Waits until a container runs, and the host reaches it, and it the host.
    #[track_caller]
    fn comes_back(&self, container: &Container, identity: &Identity) {
        let name = container.name();
        eventually(&format!("{name} runs again"), SOON, || {
            let state = container.inspect()["State"].take();
            state["Running"] == true && state["Restarting"] == false
        });
        assert_eq!(Identity::of(container, &identity.network), *identity, "{name}");
        eventually(&format!("{name} is reached"), SOON, || {
            ping(self.host(), identity.ip, 1, OFTEN).is_clean()
        });
        assert_reaches(self.host(), identity.ip);
        let [a, b, c, _] = identity.ip.octets();
        let (host, router) = (Ipv4Addr::new(a, b, c, 10), Ipv4Addr::new(a, b, c, 1));
        assert!(container.pings(host), "{name} does not reach the host");
        assert_reaches(&container.ns(), router);
    }
}

/// What a container has to be again.
#[derive(Debug, PartialEq)]
struct Identity {
    network: String,
    ip: Ipv4Addr,
    mac: Mac,
}

impl Identity {
    #[track_caller]
    fn of(container: &Container, network: &str) -> Self {
        let (ip, mac) = (container.ip(network), container.mac(network));
        Self { network: network.to_owned(), ip, mac }
    }
}

/// Numbers in no order.
struct Random(u32);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % end
    }
}

fn run(docker: &Docker, name: &str, network: &str) -> Process {
    let words = ["run", "--detach", "--name", name, "--network", network];
    docker.begin(&[&words[..], &["--stop-signal", "SIGKILL", IMAGE]].concat())
}

#[test]
fn killed_in_the_middle_of_run_and_rm_neither_leaves_anything_over() {
    let mut site = Site::new(&[]);
    site.networks();
    let empty = site.footprint();
    let mut random = Random(0x2545_f491);
    let began = Instant::now();
    let kills = DOCKER_KILLS.get();
    for number in 0..kills {
        let network = |number: u32| NETWORKS[number as usize % NETWORKS.len()].0;
        // One comes, the one before goes.
        let coming = run(site.docker(), &format!("c{number}"), network(number));
        let going = number
            .checked_sub(1)
            .map(|before| site.docker().begin(&["rm", "--force", &format!("c{before}")]));
        thread::sleep(Duration::from_millis(random.below(600).into()));
        let which = random.below(5);
        let (both, dockerd) = (which == 0, which <= 2);
        if both || dockerd {
            site.dockerd.kill9();
        }
        if both || !dockerd {
            site.daemon.kill9();
        }
        drop((coming, going));
        if both || !dockerd {
            site.daemon.begin();
        }
        if both || dockerd {
            site.dockerd.launch();
        }
        if both || !dockerd {
            site.daemon.wait_until_ready();
        }
    }
    eprintln!("{kills} kills in {:?}", began.elapsed());
    site.remove_all(&empty);
    // Every address of a range can be had, so none was lost.
    let docker = site.docker();
    let mut all = Vec::new();
    for (network, _) in NETWORKS {
        let names: Vec<String> = (0..RANGE).map(|n| format!("{network}{n}")).collect();
        let runs: Vec<Process> = names.iter().map(|name| run(docker, name, network)).collect();
        for (mut run, name) in runs.into_iter().zip(&names) {
            let ended = run.wait(SOON).expect("docker run ends");
            assert!(ended.success(), "{name}: {}", docker.fail(&["start", name]));
        }
        all.extend(names.into_iter().map(|name| Container::new(docker.clone(), &name)));
    }
    for (number, (network, _)) in NETWORKS.iter().enumerate() {
        let of_network = &all[number * usize::from(RANGE)..][..usize::from(RANGE)];
        let mut ips: Vec<Ipv4Addr> = of_network.iter().map(|c| c.ip(network)).collect();
        ips.sort_unstable();
        let first = NETWORKS[number].1.split(['=', ' ']).nth(1).map(|net| net.replace(".0/24", ""));
        let first = first.expect("a subnet");
        let expected: Vec<String> = (64..64 + RANGE).map(|n| format!("{first}.{n}")).collect();
        assert_eq!(ips.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        assert_reaches(&of_network[0].ns(), of_network[1].ip(network));
    }
    site.remove_all(&empty);
}

/// Networks in which the host, the router and the containers have addresses of one subnet, and
/// containers of them that are always started again.
fn always(site: &Site) -> Vec<(Container, Identity)> {
    let subnet = "-d maclane --subnet 192.168.50.0/24 --gateway 192.168.50.1 -o parent=eth0";
    let docker = site.docker();
    docker.network("lan", &format!("{subnet} --ip-range 192.168.50.128/25 --ipam-driver maclane"));
    let always = "--restart always";
    let named = docker.container("named", "lan", &format!("{always} --ip 192.168.50.150"));
    let own = docker.container(
        "own",
        "lan",
        &format!("{always} --ip 192.168.50.151 --mac-address 02:00:00:00:00:77"),
    );
    let any = docker.container("any", "lan", always);
    [named, own, any]
        .into_iter()
        .map(|container| {
            let identity = Identity::of(&container, "lan");
            site.comes_back(&container, &identity);
            (container, identity)
        })
        .collect()
}

#[track_caller]
fn all_come_back(site: &Site, containers: &[(Container, Identity)]) {
    for (container, identity) in containers {
        site.comes_back(container, identity);
    }
    assert_eq!(site.endpoints().len(), containers.len());
}

/// One container, of a network with Docker's own pool, beside those of [`always`].
fn of_docker(site: &Site, kind: &str) -> (Container, Identity) {
    site.docker().network(
        "other",
        &format!("-d maclane --subnet 192.168.60.0/24 -o parent=eth0 -o kind={kind} --gateway 192.168.60.1"),
    );
    let container = site.docker().container("other", "other", "--restart always");
    let identity = Identity::of(&container, "other");
    (container, identity)
}

/// The host and the router have addresses in the network of [`of_docker`], too.
fn second_subnet(site: &Site) {
    site.host().ip("address add 192.168.60.10/24 dev eth0");
    site.lan.router.ns.ip("address add 192.168.60.1/24 dev eth0");
    for (ns, to) in [(site.host(), "192.168.60.1"), (&site.lan.router.ns, "192.168.60.10")] {
        assert_reaches(ns, to.parse::<Ipv4Addr>().expect("an address"));
    }
}

/// Something that ends, and begins again.
type End = (&'static str, fn(&mut Site));

#[test]
fn containers_come_back_with_their_addresses_after_every_end_of_a_daemon() {
    let mut site = Site::new(&[]);
    second_subnet(&site);
    let empty = site.footprint();
    let mut containers = always(&site);
    containers.push(of_docker(&site, "veth"));
    all_come_back(&site, &containers);
    let ends: [End; 6] = [
        ("dockerd killed", |site| {
            site.dockerd.kill9();
            site.dockerd.launch();
        }),
        ("dockerd stopped", |site| {
            site.dockerd.stop();
            site.dockerd.launch();
        }),
        ("maclane killed", |site| {
            site.daemon.kill9();
            site.daemon.launch();
        }),
        ("both killed", |site| {
            site.dockerd.kill9();
            site.daemon.kill9();
            site.daemon.launch();
            site.dockerd.launch();
        }),
        ("maclane comes later than dockerd", |site| {
            site.dockerd.kill9();
            site.daemon.kill9();
            site.dockerd.begin();
            thread::sleep(Duration::from_secs(3));
            site.daemon.launch();
            site.dockerd.wait_until_ready();
        }),
        ("a reboot", |site| {
            site.dockerd.kill9();
            site.daemon.kill9();
            site.dockerd.lose_all();
            reboot(site);
            site.daemon.launch();
            site.dockerd.launch();
        }),
    ];
    for (what, end) in ends {
        eprintln!("{what}");
        let began = Instant::now();
        end(&mut site);
        all_come_back(&site, &containers);
        eprintln!("{what}: {:?}", began.elapsed());
    }
    let docker = site.docker();
    for (container, _) in &containers {
        container.docker(&["rm", "--force"]);
    }
    for network in ["lan", "other"] {
        docker.run(&["network", "rm", network]);
    }
    site.daemon.cli(&["parent", "rm", PARENT]);
    eventually("nothing is left", SOON, || site.footprint() == empty);
}

/// Takes what the kernel has of the host, and makes its NIC anew.
#[track_caller]
fn reboot(site: &Site) {
    let host = &site.lan.hosts[0];
    host.ns.delete(PARENT);
    let links = || host.ns.ip("-br link");
    for name in links().lines().filter_map(|line| line.split([' ', '@']).next()) {
        if ["ml-", "mp-"].iter().any(|prefix| name.starts_with(prefix)) {
            host.ns.exec(&["ip", "link", "del", name]);
        }
    }
    fs::remove_dir_all(site.daemon.bpffs().join("maclane")).expect("there are pins");
    fs::remove_dir_all(site.daemon.runtime_dir()).expect("there is a socket");
    host.ns.veth(PARENT, &site.lan.wire, "again");
    host.ns.set_mac(PARENT, host.mac);
    site.lan.wire.enslave("again", "wire");
    for cidr in [format!("{}/24", host.ip), "192.168.60.10/24".to_owned()] {
        host.ns.address(PARENT, &cidr);
    }
}

#[test]
fn with_live_restore_a_container_goes_on_and_keeps_its_endpoint() {
    let mut site = Site::new(&["--live-restore"]);
    second_subnet(&site);
    let mut containers = always(&site);
    containers.push(of_docker(&site, "macvlan"));
    all_come_back(&site, &containers);
    let state = |container: &Container| {
        let all = container.inspect();
        (all["State"]["Pid"].clone(), all["State"]["StartedAt"].clone())
    };
    let before: Vec<_> = containers.iter().map(|(container, _)| state(container)).collect();
    let endpoints = site.endpoints();
    for both in [false, true] {
        site.dockerd.kill9();
        if both {
            site.daemon.kill9();
        }
        for (_, identity) in &containers {
            assert_reaches(site.host(), identity.ip);
        }
        if both {
            site.daemon.launch();
        }
        // For longer than the control loop takes to notice that dockerd has ended.
        thread::sleep(Duration::from_secs(2));
        for (_, identity) in &containers {
            assert_reaches(site.host(), identity.ip);
        }
        site.dockerd.launch();
        all_come_back(&site, &containers);
        let after: Vec<_> = containers.iter().map(|(container, _)| state(container)).collect();
        assert_eq!(after, before, "the containers were started again");
        assert_eq!(site.endpoints(), endpoints);
    }
    for (container, identity) in &containers {
        container.docker(&["restart"]);
        site.comes_back(container, identity);
    }
    for (container, _) in &containers {
        container.docker(&["rm", "--force"]);
    }
    assert_eq!(site.endpoints(), Vec::<Value>::new());
}

#[test]
fn a_container_that_is_started_without_maclane_waits_for_it_or_says_so() {
    let mut site = Site::new(&[]);
    second_subnet(&site);
    let (container, identity) = of_docker(&site, "macvlan");
    site.comes_back(&container, &identity);
    container.docker(&["stop"]);
    site.daemon.kill9();
    let mut start = site.docker().begin(&["start", container.name()]);
    assert_eq!(start.wait(Duration::from_secs(3)), None, "Docker tries again for 30 s");
    site.daemon.launch();
    assert!(start.wait(SOON).is_some_and(|ended| ended.success()), "it is started");
    site.comes_back(&container, &identity);
    // It is stopped while maclane is away, and for longer than Docker waits.
    site.daemon.kill9();
    let began = Instant::now();
    site.docker().output(&["stop", container.name()]);
    let error = site.docker().output(&["start", container.name()]);
    eprintln!("{:?} later: {}", began.elapsed(), String::from_utf8_lossy(&error.stderr));
    assert!(!error.status.success() && !error.stderr.is_empty(), "{error:?}");
    site.daemon.launch();
    eventually("it can be started", SOON, || {
        site.docker().output(&["start", container.name()]).status.success()
    });
    site.comes_back(&container, &identity);
    container.docker(&["rm", "--force"]);
    assert_eq!(site.endpoints(), Vec::<Value>::new());
}
