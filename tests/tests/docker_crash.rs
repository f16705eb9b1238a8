//! SIGKILL at every step of what Docker's plugin does.
//!
//! As in `crash.rs`: the calls of a container's life are made once to see which failpoints they reach,
//! and then once for each of them, where the daemon dies. After a new start Docker cleans up, as it
//! does, and nothing is left. The calls are those of dockerd, without one: `docker_life.rs` has it.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tests::{
    daemon::{Daemon, Setup},
    eventually,
    failpoints::{Failpoints, Reached},
    footprint::{Footprint, footprint},
    http,
    netns::Netns,
    topology::{Lan, PARENT},
};

const SOON: Duration = Duration::from_secs(20);

/// Docker's IDs of a network and of an endpoint.
const NETWORK: &str = "5d1dc45f4f3b7c1d2e6f7a8b9c0d1e2f3a4b5c6d7e8f90112233445566778899";
const ENDPOINT: &str = "e4a1b2c3d4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeeff";

/// A host whose daemon has failpoints and is Docker's plugin.
struct Site {
    points: Failpoints,
    sandbox: Netns,
    daemon: Daemon,
    lan: Lan,
}

impl Site {
    fn new() -> Self {
        let (lan, points) = (Lan::new(1), Failpoints::new());
        let setup = Setup { environment: Some(points.variable()), ..Setup::default() };
        let mut daemon = Daemon::prepare(&lan.hosts[0].ns, setup);
        let socket = daemon.runtime_dir().join("docker.sock");
        daemon.set_arguments(&["--docker", "--docker-socket", socket.to_str().expect("UTF-8")]);
        daemon.launch();
        Self { points, sandbox: lan.namespace(), daemon, lan }
    }

    fn socket(&self) -> PathBuf {
        self.daemon.runtime_dir().join("docker.sock")
    }

    /// Calls a method; nothing if the daemon dies over it.
    fn call(&self, method: &str, body: &Value) -> Option<Value> {
        let path = format!("/{method}");
        let answer = http::request(&self.socket(), "POST", &path, body.to_string().as_bytes());
        answer.ok().filter(|answer| answer.status == 200).map(|answer| answer.body)
    }

    /// What dockerd does from `docker network create` to `docker network rm`, with one container;
    /// nothing if the daemon dies over it.
    fn live(&self, options: &Value) -> Option<()> {
        // Of an internal network nobody on the LAN is asked, so its addresses come at once.
        let space = if options.get("parent").is_some() { "LocalDefault" } else { "maclane" };
        let ids = json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT });
        let pool = self.call(
            "IpamDriver.RequestPool",
            &json!({ "AddressSpace": "maclane", "Pool": "192.168.50.0/24", "SubPool": "192.168.50.128/25" }),
        )?;
        let data =
            json!({ "AddressSpace": space, "Pool": pool["Pool"], "Gateway": "192.168.50.1/24" });
        let create = json!({
            "NetworkID": NETWORK,
            "Options": { "com.docker.network.generic": options },
            "IPv4Data": [data],
        });
        self.call("NetworkDriver.CreateNetwork", &create)?;
        let asked = json!({ "PoolID": pool["PoolID"], "Address": "" });
        let address = self.call("IpamDriver.RequestAddress", &asked)?["Address"].clone();
        let mut endpoint = ids.clone();
        endpoint["Interface"] = json!({ "Address": address });
        self.call("NetworkDriver.CreateEndpoint", &endpoint)?;
        let mut join = ids.clone();
        join["SandboxKey"] = json!(self.sandbox.path());
        let joined = self.call("NetworkDriver.Join", &join)?;
        let link = joined["InterfaceName"]["SrcName"].as_str().expect("a name").to_owned();
        self.take(&link, address.as_str().expect("an address"));
        self.call("NetworkDriver.Leave", &ids)?;
        self.call("NetworkDriver.DeleteEndpoint", &ids)?;
        let ip = address.as_str().and_then(|text| text.split('/').next());
        self.call(
            "IpamDriver.ReleaseAddress",
            &json!({ "PoolID": pool["PoolID"], "Address": ip }),
        )?;
        self.call("IpamDriver.ReleasePool", &json!({ "PoolID": pool["PoolID"] }))?;
        self.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": NETWORK }))?;
        Some(())
    }

    /// Moves a link into the container, as dockerd does.
    fn take(&self, link: &str, address: &str) {
        let host = &self.lan.hosts[0].ns;
        host.ip(&format!("link set {link} netns {}", self.sandbox.name()));
        self.sandbox.ip(&format!("link set {link} name eth0"));
        self.sandbox.ip(&format!("address add {address} dev eth0"));
        self.sandbox.ip("link set eth0 up");
        // A daemon that dies meanwhile does not see it.
        let is_seen = || {
            let children = self.daemon.cli(&["child", "ls", "-o", "json"]);
            let children: Value = serde_json::from_slice(&children.stdout).unwrap_or_default();
            children.is_null() || children[0]["state"] == "up" && children[0]["ifname"] == "eth0"
        };
        eventually("the daemon follows the link", SOON, is_seen);
    }

    /// What dockerd does about what is left of a container and a network.
    fn clean_up(&self, at: &Reached) {
        let ids = json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT });
        for method in ["Leave", "DeleteEndpoint", "DeleteNetwork"] {
            let done = self.call(&format!("NetworkDriver.{method}"), &ids);
            assert!(done.is_some(), "{method} fails after the daemon died at {at:?}");
        }
    }

    fn footprint(&self) -> Footprint {
        footprint(&self.daemon, &self.lan.hosts[0].ns, &[&self.sandbox])
    }

    /// Lets the daemon die at every point that a container's life reaches.
    fn kill_everywhere(&mut self, options: &Value) {
        // The first time a parent is added, which stays.
        for _ in 0..2 {
            self.points.wait_for_quiet();
            self.points.clear();
            assert!(self.live(options).is_some(), "a call fails");
        }
        let reached = self.points.reached();
        let before = self.footprint();
        let mut killed = 0;
        for at in reached.iter().filter(|at| is_first_or_last(at, &reached)) {
            self.points.wait_for_quiet();
            self.points.kill_at(at);
            let lived = self.live(options).is_some();
            if self.daemon.wait_for_end(Duration::from_secs(if lived { 2 } else { 10 })) {
                killed += 1;
                self.daemon.launch();
            }
            self.points.clear();
            self.clean_up(at);
            let as_before = || self.footprint() == before;
            eventually(&format!("after it died at {at:?}, all is as before"), SOON, as_before);
        }
        assert!(self.live(options).is_some(), "a call fails at the end");
        eprintln!("{options}: killed at {killed} of {} points", reached.len());
        assert!(killed > reached.len() / 4, "{killed} of {reached:?}");
    }
}

/// Of a row of entries in a map the first and the last one will do, and so will the first times that
/// something is written.
fn is_first_or_last((name, times): &Reached, all: &[Reached]) -> bool {
    let last = all.iter().filter(|(other, _)| other == name).count();
    !name.starts_with("maps.") || *times == 1 || *times == last
}

#[test]
fn killed_anywhere_in_the_life_of_a_macvlan_container_it_leaves_nothing() {
    Site::new().kill_everywhere(&json!({ "parent": PARENT, "vlan": "10", "probe": "off" }));
}

#[test]
fn killed_anywhere_in_the_life_of_a_veth_container_it_leaves_nothing() {
    Site::new().kill_everywhere(&json!({ "parent": PARENT, "kind": "veth", "probe": "off" }));
}

#[test]
fn killed_anywhere_in_the_life_of_an_isolated_container_it_leaves_nothing() {
    Site::new().kill_everywhere(&json!({}));
}
