//! Docker's plugin without a Docker: what dockerd asks of it, and does with the links that it gets.
//! So these run on every kernel, also where a dockerd has no place; and where there are 802.1Q
//! sub-interfaces, with those.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    daemon::Daemon,
    eventually,
    footprint::footprint,
    http, kernel,
    netns::Netns,
    plugin::assert_all_reach,
    topology::{Host, Lan, PARENT},
    traffic::ping,
};

/// The sub-interface of the host.
const SUB: &str = "eth0.50";

const SOON: Duration = Duration::from_secs(15);
const OFTEN: Duration = Duration::from_millis(10);

/// An address of the networks' subnet.
fn v4(last: u8) -> Ipv4Addr {
    [10, 50, 0, last].into()
}

/// An ID as Docker's are.
fn id(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

/// A daemon that is asked what dockerd asks.
struct Asked {
    daemon: Daemon,
    dir: TempDir,
}

impl Asked {
    fn start(host: &Netns) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let socket = dir.path().join("maclane.sock");
        let path = socket.to_str().expect("a path in UTF-8");
        let daemon = Daemon::start_with(host, &["--docker", "--docker-socket", path]);
        Self { daemon, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("maclane.sock")
    }

    /// Calls a method of the network driver, which has to work.
    #[track_caller]
    fn call(&self, method: &str, body: &Value) -> Value {
        let path = format!("/NetworkDriver.{method}");
        let answer = http::request(&self.socket(), "POST", &path, body.to_string().as_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("{method}: {error}"));
        assert_eq!(answer.status, 200, "{method}: {}", answer.text);
        answer.body
    }

    /// Makes the network `number` with options.
    #[track_caller]
    fn network(&self, number: u8, options: &Value) {
        self.call(
            "CreateNetwork",
            &json!({
                "NetworkID": id(number),
                "Options": { "com.docker.network.generic": options },
                "IPv4Data": [{
                    "AddressSpace": "LocalDefault",
                    "Pool": "10.50.0.0/24",
                    "Gateway": "10.50.0.1/24",
                }],
                "IPv6Data": [],
            }),
        );
    }

    #[track_caller]
    fn remove_network(&self, number: u8) {
        self.call("DeleteNetwork", &json!({ "NetworkID": id(number) }));
    }

    /// Starts a container of a network with an address: its link is moved into its namespace, named,
    /// furnished and brought up.
    #[track_caller]
    fn container(&self, host: &Netns, network: u8, last: u8) -> Sandbox {
        let ns = Netns::without_ipv6();
        let sandbox = Sandbox { ns, network, endpoint: last };
        let mut body = sandbox.ids();
        body["Interface"] = json!({ "Address": format!("{}/24", v4(last)) });
        let mac = self.call("CreateEndpoint", &body)["Interface"]["MacAddress"].clone();
        let mut body = sandbox.ids();
        body["SandboxKey"] = json!(sandbox.ns.path());
        let joined = self.call("Join", &body);
        let link = joined["InterfaceName"]["SrcName"].as_str().expect("a link");
        assert_eq!(joined["InterfaceName"]["DstPrefix"], "eth");
        let (ns, name) = (&sandbox.ns, sandbox.ns.name());
        host.ip(&format!("link set {link} netns {name}"));
        ns.down(link);
        ns.rename(link, "eth0");
        ns.ip(&format!("link set eth0 address {}", mac.as_str().expect("a MAC")));
        ns.address("eth0", &format!("{}/24", v4(last)));
        ns.up("eth0");
        let gateway = joined["Gateway"].as_str().expect("a gateway");
        ns.ip(&format!("route add default via {gateway}"));
        sandbox
    }

    /// Ends a container: its link comes back to the host's namespace, or goes with its own.
    #[track_caller]
    fn end(&self, host: &Netns, sandbox: Sandbox, comes_back: bool) {
        if comes_back {
            sandbox.ns.down("eth0");
            sandbox.ns.rename("eth0", "back");
            sandbox.ns.ip(&format!("link set back netns {}", host.name()));
        }
        let ids = sandbox.ids();
        drop(sandbox);
        self.call("Leave", &ids);
        self.call("DeleteEndpoint", &ids);
    }
}

/// A container's namespace, and what its endpoint is.
struct Sandbox {
    ns: Netns,
    network: u8,
    endpoint: u8,
}

impl Sandbox {
    fn ids(&self) -> Value {
        json!({ "NetworkID": id(self.network), "EndpointID": id(self.endpoint) })
    }

    fn ip(&self) -> IpAddr {
        v4(self.endpoint).into()
    }
}

/// Panics unless containers and others reach each other, now or after a while.
#[track_caller]
fn assert_reach(containers: &[&Sandbox], others: &[(&Netns, Ipv4Addr)]) {
    let inside = containers.iter().map(|container| (&container.ns, container.ip()));
    let all: Vec<_> = inside.chain(others.iter().map(|(ns, ip)| (*ns, (*ip).into()))).collect();
    for (ns, _) in &all {
        for (_, ip) in all.iter().filter(|(other, _)| other.name() != ns.name()) {
            eventually(&format!("{} reaches {ip}", ns.name()), SOON, || {
                ping(ns, *ip, 1, OFTEN).is_clean()
            });
        }
    }
    assert_all_reach(&all);
}

#[test]
fn containers_reach_the_host_and_the_wire_on_every_kernel() {
    let lan = Lan::new(1);
    let (host, router) = (&lan.hosts[0].ns, &lan.router.ns);
    let asked = Asked::start(host);
    asked.daemon.run(&["parent", "add", PARENT]);
    let before = footprint(&asked.daemon, host, &[]);
    for (ns, last) in [(host, 10), (router, 1)] {
        ns.address(PARENT, &format!("{}/24", v4(last)));
    }
    let others = [(host, v4(10)), (router, v4(1))];
    for (kind, comes_back) in [("macvlan", true), ("veth", false)] {
        asked.network(1, &json!({ "parent": PARENT, "kind": kind }));
        let [one, two] = [101, 102].map(|last| asked.container(host, 1, last));
        assert_reach(&[&one, &two], &others);
        asked.end(host, one, comes_back);
        let left = asked.daemon.json(&["child", "ls"]);
        assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
        // It comes again.
        let one = asked.container(host, 1, 101);
        assert_reach(&[&one], &others[..1]);
        asked.end(host, one, comes_back);
        asked.end(host, two, comes_back);
        asked.remove_network(1);
        let after = footprint(&asked.daemon, host, &[]);
        assert_eq!(after, before, "{kind}");
    }
}

/// Gives a host a sub-interface in VLAN 50, and an address there.
fn sub_interface(host: &Host, last: u8) {
    host.ns.ip(&format!("link add link {PARENT} name {SUB} type vlan id 50"));
    host.ns.up(SUB);
    host.ns.address(SUB, &format!("{}/24", v4(last)));
}

#[test]
fn a_sub_interface_of_docker_is_made_with_its_first_network_and_goes_with_its_last() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    sub_interface(&lan.router, 1);
    let asked = Asked::start(host);
    asked.daemon.run(&["parent", "add", PARENT]);
    let before = footprint(&asked.daemon, host, &[]);
    asked.network(1, &json!({ "parent": SUB }));
    assert_eq!(host.link(SUB)["linkinfo"]["info_data"]["id"], 50);
    host.address(SUB, &format!("{}/24", v4(10)));
    let [one, two] = [101, 102].map(|last| asked.container(host, 1, last));
    assert_reach(&[&one, &two], &[(host, v4(10)), (&lan.router.ns, v4(1))]);
    asked.end(host, one, true);
    asked.end(host, two, false);
    asked.remove_network(1);
    // The last link goes with its namespace, for which the kernel takes its time.
    eventually("the sub-interface is gone", SOON, || !host.has(SUB));
    eventually("nothing is left", SOON, || footprint(&asked.daemon, host, &[]) == before);
}

#[test]
fn a_sub_interface_that_was_there_before_docker_stays() {
    if kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    sub_interface(&lan.router, 1);
    sub_interface(&lan.hosts[0], 10);
    let asked = Asked::start(host);
    asked.network(1, &json!({ "parent": SUB }));
    let one = asked.container(host, 1, 101);
    assert_reach(&[&one], &[(host, v4(10)), (&lan.router.ns, v4(1))]);
    asked.end(host, one, true);
    asked.remove_network(1);
    assert!(host.has(SUB));
    assert!(host.ip("-br address").contains("10.50.0.10/24"));
}

#[test]
fn a_kernel_without_8021q_refuses_a_sub_interface_and_names_the_way_out() {
    if !kernel::lacks("vlan") {
        return;
    }
    let lan = Lan::new(1);
    let asked = Asked::start(&lan.hosts[0].ns);
    let body = json!({
        "NetworkID": id(1),
        "Options": { "com.docker.network.generic": { "parent": SUB } },
    });
    let body = body.to_string();
    let path = "/NetworkDriver.CreateNetwork";
    let answer = http::request(&asked.socket(), "POST", path, body.as_bytes()).expect("an answer");
    assert_ne!(answer.status, 200);
    let message = answer.body["Err"].as_str().expect("a message");
    assert!(message.contains("no 802.1Q sub-interfaces"), "{message}");
    assert!(message.contains("use --parent eth0 --vlan 50"), "{message}");
    assert_eq!(asked.daemon.json(&["network", "ls"]), json!([]));
}
