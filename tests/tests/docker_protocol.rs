//! Docker's plugin protocol, spoken by hand: what dockerd says, in its order and its shapes, and what it
//! would never say.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    daemon::{Daemon, Setup},
    eventually,
    footprint::{Footprint, footprint},
    http::{self, Response},
    netns::Netns,
    patience,
    topology::{Lan, PARENT},
    traffic::{assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(10);

/// In which time whatever makes no sense is answered.
const AT_ONCE: Duration = Duration::from_secs(2);

const NETWORK: &str = "5f3c7f3e7a2b4b0c9d1e2f30415263748596a7b8c9dadbecfd0e1f2031425364";
const ENDPOINT: &str = "e1d2c3b4a5968778695a4b3c2d1e0f10213243546576879809a1b2c3d4e5f607";

/// A host whose daemon is a plugin of nobody.
struct Plugin {
    daemon: Daemon,
    lan: Lan,
}

impl Plugin {
    fn new() -> Self {
        let lan = Lan::new(1);
        let mut daemon = Daemon::prepare(&lan.hosts[0].ns, Setup::default());
        let socket = daemon.runtime_dir().join("docker.sock");
        let socket = socket.to_str().expect("a path in UTF-8");
        daemon.set_arguments(&["--docker", "--docker-socket", socket]);
        let mut plugin = Self { daemon, lan };
        plugin.launch();
        plugin
    }

    /// Whoever reaches the daemon reaches the plugin, too.
    fn launch(&mut self) {
        self.daemon.launch();
        assert!(UnixStream::connect(self.socket()).is_ok(), "the plugin does not listen");
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    fn socket(&self) -> PathBuf {
        self.daemon.runtime_dir().join("docker.sock")
    }

    #[track_caller]
    fn post(&self, method: &str, body: &[u8]) -> Response {
        let answer = http::request(&self.socket(), "POST", &format!("/{method}"), body);
        answer.unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Calls a method, which has to work.
    #[track_caller]
    fn call(&self, method: &str, body: &Value) -> Value {
        let answer = self.post(method, body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{method} {body}: {}", answer.text);
        assert!(answer.body.is_object(), "{method} {body}: {}", answer.text);
        for key in ["Err", "Error"] {
            assert_eq!(answer.body[key], Value::Null, "{method} {body}: {}", answer.text);
        }
        answer.body
    }

    /// Calls a method, which has to say no, and soon; what it says.
    #[track_caller]
    fn refused(&self, method: &str, body: &[u8]) -> String {
        let began = Instant::now();
        let answer = self.post(method, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        assert!(began.elapsed() < patience(AT_ONCE), "{method} {shown}: {:?}", began.elapsed());
        assert!((400..600).contains(&answer.status), "{method} {shown}: {}", answer.text);
        assert_ne!(
            answer.status, 404,
            "{method} {shown}: Docker takes it for a method that is not there"
        );
        error_of(&answer)
    }

    /// A pool of maclane's IPAM: its ID.
    #[track_caller]
    fn pool(&self, subnet: &str, range: &str) -> String {
        let pool = self.call("IpamDriver.RequestPool", &request_pool(subnet, range));
        pool["PoolID"].as_str().expect("an ID").to_owned()
    }

    /// An address of a pool, without its prefix length.
    #[track_caller]
    fn address(&self, pool: &str, address: &str) -> String {
        let body = json!({ "PoolID": pool, "Address": address, "Options": null });
        let given = self.call("IpamDriver.RequestAddress", &body);
        let given = given["Address"].as_str().expect("an address");
        let (ip, prefix) = given.split_once('/').expect("with a prefix length");
        assert!(!prefix.is_empty(), "{given}");
        ip.to_owned()
    }

    #[track_caller]
    fn release(&self, pool: &str, address: &str) {
        self.call("IpamDriver.ReleaseAddress", &json!({ "PoolID": pool, "Address": address }));
    }

    #[track_caller]
    fn network(&self, id: &str, space: &str, options: &Value, subnet: &str, gateway: &str) {
        let body = create_network(id, space, options, subnet, gateway);
        self.call("NetworkDriver.CreateNetwork", &body);
    }

    /// A network with a pool of maclane's IPAM; the pool.
    #[track_caller]
    fn network_and_pool(&self, id: &str, options: &Value, subnet: &str, range: &str) -> String {
        let pool = self.pool(subnet, range);
        self.network(id, "maclane", options, subnet, "");
        pool
    }

    /// All that a call might have changed.
    fn everything(&self) -> (Footprint, Value, Value) {
        let docker = http::request(&self.daemon.socket(), "GET", "/v1/docker", b"");
        let export = self.daemon.json(&["export"]);
        (footprint(&self.daemon, self.host(), &[]), docker.expect("an answer").body, export)
    }

    fn links(&self) -> String {
        self.host().ip("-br link")
    }
}

/// What an answer says is wrong: under either name.
#[track_caller]
fn error_of(answer: &Response) -> String {
    let [err, error] = ["Err", "Error"].map(|key| answer.body[key].as_str().unwrap_or_default());
    assert!(!err.is_empty() && err == error, "{} {}", answer.status, answer.text);
    err.to_owned()
}

fn request_pool(subnet: &str, range: &str) -> Value {
    json!({ "AddressSpace": "maclane", "Pool": subnet, "SubPool": range, "Options": null, "V6": false })
}

/// As dockerd 20.10 says it.
fn create_network(id: &str, space: &str, options: &Value, subnet: &str, gateway: &str) -> Value {
    let mut data = json!({ "AddressSpace": space, "Pool": subnet });
    if !gateway.is_empty() {
        data["Gateway"] = json!(gateway);
    }
    json!({
        "NetworkID": id,
        "Options": {
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": options,
        },
        "IPv4Data": [data],
        "IPv6Data": [],
    })
}

fn create_endpoint(network: &str, endpoint: &str, address: &str) -> Value {
    json!({
        "NetworkID": network,
        "EndpointID": endpoint,
        "Interface": { "Address": address, "AddressIPv6": "", "MacAddress": "" },
        "Options": {
            "com.docker.network.endpoint.exposedports": [],
            "com.docker.network.portmap": [],
        },
    })
}

fn ids(network: &str, endpoint: &str) -> Value {
    json!({ "NetworkID": network, "EndpointID": endpoint })
}

fn join(network: &str, endpoint: &str, sandbox: &str) -> Value {
    json!({
        "NetworkID": network,
        "EndpointID": endpoint,
        "SandboxKey": sandbox,
        "Options": {
            "com.docker.network.endpoint.exposedports": [{ "Proto": 6, "Port": 80 }],
            "com.docker.network.portmap": [],
        },
    })
}

/// An ID of Docker's: 64 digits.
fn id(number: u32) -> String {
    format!("{number:08x}{}", &NETWORK[8..])
}

/// What dockerd asks for when it uses a plugin for the first time.
#[track_caller]
fn activates(plugin: &Plugin) {
    for method in ["Plugin.Activate", "NetworkDriver.GetCapabilities", "IpamDriver.GetCapabilities"]
    {
        assert_eq!(plugin.post(method, b"").status, 200);
    }
    let activated = plugin.post("Plugin.Activate", b"").body;
    assert_eq!(activated, json!({ "Implements": ["NetworkDriver", "IpamDriver"] }));
    let can = plugin.post("NetworkDriver.GetCapabilities", b"").body;
    assert_eq!((&can["Scope"], &can["GwAllocChecker"]), (&json!("local"), &json!(true)), "{can}");
    let skips = plugin.call("NetworkDriver.GwAllocCheck", &json!({ "Options": {} }));
    assert_eq!(skips, json!({ "SkipIPv4": true, "SkipIPv6": true }));
    let spaces = plugin.post("IpamDriver.GetDefaultAddressSpaces", b"").body;
    assert_eq!(spaces["LocalDefaultAddressSpace"], "maclane");
    assert!(spaces["GlobalDefaultAddressSpace"].is_string());
}

/// dockerd takes a link into a container and sets it up, and brings it back when that ends.
#[track_caller]
fn takes_and_brings_back(
    plugin: &Plugin,
    source: &str,
    sandbox: &Netns,
    (mac, cidr): (&str, &str),
) {
    let host = plugin.host();
    host.ip(&format!("link set {source} netns {}", sandbox.name()));
    sandbox.ip(&format!("link set {source} name eth0"));
    sandbox.ip(&format!("link set eth0 address {mac}"));
    sandbox.ip(&format!("address add {cidr} dev eth0"));
    sandbox.ip("link set eth0 up");
    let ip = cidr.split('/').next().expect("an address");
    let to: std::net::IpAddr = ip.parse().expect("an address");
    eventually("the host reaches it", SOON, || ping(host, to, 1, OFTEN).is_clean());
    assert_reaches(host, to);
    assert_reaches(sandbox, plugin.lan.router.ip);
    // And back.
    sandbox.ip("link set eth0 down");
    sandbox.ip(&format!("link set eth0 name {source}"));
    sandbox.ip(&format!("link set {source} netns {}", host.name()));
}

#[test]
fn the_calls_of_dockerd_in_their_order() {
    for kind in ["macvlan", "veth"] {
        let plugin = Plugin::new();
        let nothing = plugin.everything();
        activates(&plugin);
        let pool = plugin.pool("192.168.50.0/24", "192.168.50.128/25");
        let body = json!({
            "PoolID": pool, "Address": "192.168.50.1",
            "Options": { "RequestAddressType": "com.docker.network.gateway" },
        });
        let gateway = plugin.call("IpamDriver.RequestAddress", &body);
        assert_eq!(gateway["Address"], "192.168.50.1/24");
        assert_eq!(plugin.address(&pool, "192.168.50.20"), "192.168.50.20", "kept back");
        let options = json!({ "parent": PARENT, "kind": kind });
        let mut network =
            create_network(NETWORK, "maclane", &options, "192.168.50.0/24", "192.168.50.1/24");
        network["IPv4Data"][0]["AuxAddresses"] = json!({ "exclude_host": "192.168.50.20/24" });
        plugin.call("NetworkDriver.CreateNetwork", &network);
        let empty = plugin.everything();

        let ip = plugin.address(&pool, "");
        // One of the lowest: some are just being found.
        assert!(ip.starts_with("192.168.50.1"), "{ip}");
        let cidr = format!("{ip}/24");
        let made =
            plugin.call("NetworkDriver.CreateEndpoint", &create_endpoint(NETWORK, ENDPOINT, &cidr));
        let mac = made["Interface"]["MacAddress"].as_str().expect("a MAC").to_owned();
        assert_eq!(
            made,
            json!({ "Interface": { "MacAddress": mac } }),
            "what was said is not said again"
        );
        let before = plugin.links();
        let sandbox = plugin.lan.namespace();
        let path = sandbox.path();
        let body = join(NETWORK, ENDPOINT, path.to_str().expect("UTF-8"));
        let joined = plugin.call("NetworkDriver.Join", &body);
        let source = joined["InterfaceName"]["SrcName"].as_str().expect("a name").to_owned();
        assert_eq!(joined["InterfaceName"]["DstPrefix"], "eth");
        assert_eq!(joined["Gateway"], "192.168.50.1");
        assert!(!before.contains(&source), "{before}");
        assert!(plugin.links().contains(&source), "{source}: {}", plugin.links());
        let body = json!({
            "NetworkID": NETWORK, "EndpointID": ENDPOINT,
            "Options": { "com.docker.network.portmap": [] },
        });
        plugin.call("NetworkDriver.ProgramExternalConnectivity", &body);
        let info = plugin.call("NetworkDriver.EndpointOperInfo", &ids(NETWORK, ENDPOINT));
        assert!(info["Value"].is_object(), "{info}");

        takes_and_brings_back(&plugin, &source, &sandbox, (&mac, &cidr));
        plugin.call("NetworkDriver.RevokeExternalConnectivity", &ids(NETWORK, ENDPOINT));
        for _ in 0..2 {
            plugin.call("NetworkDriver.Leave", &ids(NETWORK, ENDPOINT));
            assert_eq!(plugin.links(), before);
        }
        for _ in 0..2 {
            plugin.call("NetworkDriver.DeleteEndpoint", &ids(NETWORK, ENDPOINT));
        }
        for _ in 0..2 {
            plugin.release(&pool, &ip);
        }
        plugin.call("NetworkDriver.Leave", &ids(NETWORK, ENDPOINT));
        assert_eq!(plugin.everything(), empty);
        // One whose link stays where dockerd has put it.
        let cidr = format!("{}/24", plugin.address(&pool, ""));
        plugin.call("NetworkDriver.CreateEndpoint", &create_endpoint(NETWORK, ENDPOINT, &cidr));
        let joined = plugin.call("NetworkDriver.Join", &body_of_join(&sandbox));
        let source = joined["InterfaceName"]["SrcName"].as_str().expect("a name");
        plugin.host().ip(&format!("link set {source} netns {}", sandbox.name()));
        sandbox.ip(&format!("link set {source} name eth0"));
        plugin.call("NetworkDriver.Leave", &ids(NETWORK, ENDPOINT));
        assert!(!sandbox.ip("-br link").contains("eth0"));
        assert_eq!(plugin.links(), before);
        plugin.call("NetworkDriver.DeleteEndpoint", &ids(NETWORK, ENDPOINT));

        for _ in 0..2 {
            plugin.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": NETWORK }));
        }
        for address in ["192.168.50.1", "192.168.50.20"] {
            plugin.release(&pool, address);
        }
        for _ in 0..2 {
            plugin.call("IpamDriver.ReleasePool", &json!({ "PoolID": pool }));
        }
        plugin.release(&pool, &ip);
        plugin.daemon.cli(&["parent", "rm", PARENT]);
        assert_eq!(plugin.everything(), nothing);
    }
}

fn body_of_join(sandbox: &Netns) -> Value {
    join(NETWORK, ENDPOINT, sandbox.path().to_str().expect("a path in UTF-8"))
}

#[test]
fn calls_of_other_versions_are_understood() {
    let plugin = Plugin::new();
    let discover = json!({
        "DiscoveryType": 1,
        "DiscoveryData": { "Address": "192.168.50.10", "BindAddress": "192.168.50.10", "Self": true },
    });
    for method in ["NetworkDriver.DiscoverNew", "NetworkDriver.DiscoverDelete"] {
        plugin.call(method, &discover);
    }
    let allocate = json!({
        "NetworkID": NETWORK, "Options": { "parent": PARENT },
        "IPv4Data": [{ "AddressSpace": "maclane", "Pool": "10.9.0.0/24" }], "IPv6Data": null,
    });
    plugin.call("NetworkDriver.AllocateNetwork", &allocate);
    plugin.call("NetworkDriver.FreeNetwork", &json!({ "NetworkID": NETWORK }));
    // v28 and later: more options, fields that nobody here knows, and `null` for whatever is empty.
    let pool = plugin.call(
        "IpamDriver.RequestPool",
        &json!({
            "AddressSpace": null, "Pool": "10.9.0.0/24", "SubPool": null, "Options": null, "V6": null,
            "Exclude": ["10.0.0.0/8"], "New": { "deep": [1, 2, { "er": null }] },
        }),
    );
    let pool = pool["PoolID"].as_str().expect("an ID").to_owned();
    plugin.call(
        "NetworkDriver.CreateNetwork",
        &json!({
            "NetworkID": NETWORK,
            "Options": {
                "com.docker.network.enable_ipv4": true,
                "com.docker.network.enable_ipv6": false,
                "com.docker.network.internal": false,
                "com.docker.network.new": { "a": [null] },
                "com.docker.network.generic": { "parent": PARENT, "com.docker.network.driver.mtu": "1400" },
            },
            "IPv4Data": [{ "AddressSpace": "maclane", "Pool": "10.9.0.0/24", "AuxAddresses": null, "New": 1 }],
            "IPv6Data": null,
            "New": [],
        }),
    );
    let body = json!({
        "PoolID": pool, "Address": null, "New": 1,
        "Options": { "com.docker.network.endpoint.name": "web", "com.docker.network.endpoint.macaddress": "02:00:00:00:00:09" },
    });
    let given = plugin.call("IpamDriver.RequestAddress", &body);
    let address = given["Address"].as_str().expect("an address");
    let made = plugin.call(
        "NetworkDriver.CreateEndpoint",
        &json!({
            "NetworkID": NETWORK, "EndpointID": ENDPOINT, "New": {},
            "Interface": { "Address": address, "AddressIPv6": null, "MacAddress": "02:00:00:00:00:09", "New": 7 },
            "Options": { "com.docker.network.endpoint.macaddress": "AgAAAAAJ", "com.docker.network.endpoint.sysctls": "x" },
        }),
    );
    assert_eq!(made, json!({ "Interface": {} }), "a MAC that was said is not said again");
    let sandbox = plugin.lan.namespace();
    let mut body = body_of_join(&sandbox);
    body["Options"] = Value::Null;
    let joined = plugin.call("NetworkDriver.Join", &body);
    assert_eq!(joined["DisableGatewayService"], true, "{joined}");
    assert_eq!(joined.get("Gateway"), None, "{joined}");
    plugin.call("NetworkDriver.DeleteEndpoint", &ids(NETWORK, ENDPOINT));
    plugin.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": NETWORK }));
    plugin.call("IpamDriver.ReleasePool", &json!({ "PoolID": pool }));

    // A network that says as little as can be said: none of a parent, and no addresses.
    plugin.call("NetworkDriver.CreateNetwork", &json!({ "NetworkID": NETWORK }));
    let made = plugin.call(
        "NetworkDriver.CreateEndpoint",
        &json!({
            "NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": null, "Options": null,
        }),
    );
    assert!(made["Interface"]["MacAddress"].is_string(), "{made}");
    plugin.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": NETWORK }));
    assert!(
        !plugin.links().contains("ml-") && !plugin.links().contains("mx-"),
        "{}",
        plugin.links()
    );
}

/// Every method that has something to say, with what would work, and the fields that it listens to.
fn methods(pool: &str, sandbox: &Netns) -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let options = json!({ "parent": PARENT, "vlan": "9" });
    let mut network =
        create_network(&id(1), "LocalDefault", &options, "10.7.0.0/24", "10.7.0.1/24");
    network["IPv4Data"][0]["AuxAddresses"] = json!({ "a": "10.7.0.9/24" });
    let both = vec!["/NetworkID", "/EndpointID"];
    let other = id(2);
    vec![
        (
            "NetworkDriver.CreateNetwork",
            network,
            vec![
                "/NetworkID",
                "/Options",
                "/Options/com.docker.network.generic",
                "/Options/com.docker.network.generic/parent",
                "/Options/com.docker.network.generic/vlan",
                "/IPv4Data",
                "/IPv4Data/0",
                "/IPv4Data/0/Pool",
                "/IPv4Data/0/Gateway",
                "/IPv4Data/0/AddressSpace",
                "/IPv4Data/0/AuxAddresses",
                "/IPv4Data/0/AuxAddresses/a",
                "/IPv6Data",
            ],
        ),
        ("NetworkDriver.DeleteNetwork", json!({ "NetworkID": NETWORK }), vec!["/NetworkID"]),
        (
            "NetworkDriver.CreateEndpoint",
            create_endpoint(NETWORK, &other, "10.5.0.77/24"),
            vec![
                "/NetworkID",
                "/EndpointID",
                "/Interface",
                "/Interface/Address",
                "/Interface/AddressIPv6",
                "/Interface/MacAddress",
                "/Options",
            ],
        ),
        ("NetworkDriver.Join", body_of_join(sandbox), vec![both[0], both[1], "/SandboxKey"]),
        ("NetworkDriver.EndpointOperInfo", ids(NETWORK, ENDPOINT), both.clone()),
        ("NetworkDriver.Leave", ids(NETWORK, ENDPOINT), both.clone()),
        ("NetworkDriver.DeleteEndpoint", ids(NETWORK, ENDPOINT), both),
        (
            "IpamDriver.RequestPool",
            json!({ "AddressSpace": "maclane", "Pool": "10.8.0.0/24", "SubPool": "10.8.0.0/25", "Options": {}, "V6": false }),
            vec!["/AddressSpace", "/Pool", "/SubPool", "/Options", "/V6"],
        ),
        ("IpamDriver.ReleasePool", json!({ "PoolID": pool }), vec!["/PoolID"]),
        (
            "IpamDriver.RequestAddress",
            json!({ "PoolID": pool, "Address": "10.5.0.88", "Options": {} }),
            vec!["/PoolID", "/Address", "/Options"],
        ),
        (
            "IpamDriver.ReleaseAddress",
            json!({ "PoolID": pool, "Address": "10.5.0.70" }),
            vec!["/PoolID", "/Address"],
        ),
    ]
}

/// A network with an endpoint, in a container that is no more than a namespace.
fn furnished() -> (Plugin, String, Netns) {
    let plugin = Plugin::new();
    let options = json!({ "parent": PARENT });
    let pool = plugin.network_and_pool(NETWORK, &options, "10.5.0.0/24", "10.5.0.64/26");
    let ip = plugin.address(&pool, "10.5.0.70");
    let endpoint = create_endpoint(NETWORK, ENDPOINT, &format!("{ip}/24"));
    plugin.call("NetworkDriver.CreateEndpoint", &endpoint);
    let sandbox = plugin.lan.namespace();
    plugin.call("NetworkDriver.Join", &body_of_join(&sandbox));
    (plugin, pool, sandbox)
}

#[test]
fn bodies_that_are_cut_short_change_nothing() {
    let (plugin, pool, sandbox) = furnished();
    let before = plugin.everything();
    for (method, body, _) in methods(&pool, &sandbox) {
        let body = body.to_string();
        for end in 1..body.len() {
            plugin.refused(method, &body.as_bytes()[..end]);
        }
        // Without a body nobody says what is meant.
        if method != "IpamDriver.RequestPool" {
            plugin.refused(method, b"");
        }
    }
    assert_eq!(plugin.everything(), before);
}

#[test]
fn bodies_that_make_no_sense_change_nothing() {
    let (plugin, pool, sandbox) = furnished();
    let before = plugin.everything();
    let wrong = [
        json!(42),
        json!(-1.5e300),
        json!(true),
        json!("\u{0}\n/../no such thing"),
        json!([[["x"]]]),
        json!({ "x": { "y": 1 } }),
    ];
    for (method, body, fields) in methods(&pool, &sandbox) {
        let text = body.to_string();
        // What is not there is removed, and has nothing to tell.
        let is_lenient = ["DeleteNetwork", "ReleasePool", "ReleaseAddress", "OperInfo"]
            .iter()
            .any(|verb| method.ends_with(verb));
        for field in fields {
            for value in &wrong {
                // Which network it was is not asked of whoever names an endpoint.
                let of_endpoint = field == "/NetworkID" && body.get("EndpointID").is_some();
                if of_endpoint && value.is_string() && !method.ends_with("CreateEndpoint") {
                    continue;
                }
                let mut broken = body.clone();
                let place = broken.pointer_mut(field).expect("a field");
                // Objects stay objects, and flags flags.
                let same = place.is_object() && value.is_object()
                    || place.is_boolean() && value.is_boolean();
                if same || is_lenient && field.ends_with("ID") && value.is_string() {
                    continue;
                }
                *place = value.clone();
                if field == "/IPv4Data/0/AddressSpace" && value.is_string() {
                    continue;
                }
                plugin.refused(method, broken.to_string().as_bytes());
            }
        }
        // What has to be there.
        for field in ["NetworkID", "EndpointID", "SandboxKey", "PoolID"] {
            let mut broken = body.clone();
            if broken.as_object_mut().is_some_and(|fields| fields.remove(field).is_some()) {
                plugin.refused(method, broken.to_string().as_bytes());
                broken[field] = Value::Null;
                plugin.refused(method, broken.to_string().as_bytes());
                broken[field] = json!("");
                if !is_lenient && field != "NetworkID" {
                    plugin.refused(method, broken.to_string().as_bytes());
                }
            }
        }
        for whole in ["null", "1", "\"x\"", "[]", "{}{}", "{]", "\u{feff}{}", "{\"a\":}", "true"] {
            plugin.refused(method, whole.as_bytes());
        }
        // A list of what would be the fields, in their order.
        let list = body.as_object().map(|fields| fields.values().cloned().collect::<Vec<_>>());
        for list in [json!(list), json!([NETWORK, ENDPOINT]), json!([NETWORK]), json!([pool])] {
            plugin.refused(method, list.to_string().as_bytes());
        }
        let twice = text.replacen('{', &format!("{{{},", &text[1..text.len() - 1]), 1);
        plugin.refused(method, twice.as_bytes());
        plugin.refused(method, format!("{text}x").as_bytes());
        plugin
            .refused(method, format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes());
        plugin.refused(method, "{\"NetworkID\":".repeat(30_000).as_bytes());
        let mut bytes = text.clone().into_bytes();
        let place = bytes.iter().position(|byte| *byte == b':').expect("a field") + 2;
        bytes[place] = 0xff;
        plugin.refused(method, &bytes);
        plugin.refused(method, &[0xff, 0xfe, 0, b'{', b'}']);
        let large = format!("{},\"x\":\"{}\"}}", &text[..text.len() - 1], "x".repeat(2 << 20));
        plugin.refused(method, large.as_bytes());
        assert_eq!(plugin.everything(), before, "{method}");
    }
    // It is all the same as before for those that make sense.
    plugin.call("NetworkDriver.Leave", &ids(NETWORK, ENDPOINT));
    plugin.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": NETWORK }));
}

#[test]
fn methods_that_are_not_there_and_other_verbs_are_refused() {
    let (plugin, pool, sandbox) = furnished();
    let before = plugin.everything();
    for path in [
        "/",
        "/NetworkDriver.New",
        "/networkdriver.join",
        "/IpamDriver.",
        "/VolumeDriver.List",
        "/NetworkDriver.Join/",
        "//",
        "/v1/docker",
        "/%00",
    ] {
        let answer = http::request(&plugin.socket(), "POST", path, b"{}").expect("an answer");
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
        error_of(&answer);
    }
    let mut all: Vec<_> = methods(&pool, &sandbox).into_iter().map(|(method, ..)| method).collect();
    all.extend(["Plugin.Activate", "NetworkDriver.GetCapabilities", "IpamDriver.GetCapabilities"]);
    for method in all {
        for verb in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let path = format!("/{method}");
            let answer = http::request(&plugin.socket(), verb, &path, b"{}").expect("an answer");
            assert_eq!(answer.status, 405, "{verb} {path}: {}", answer.text);
            error_of(&answer);
        }
    }
    for bytes in [
        &b"\r\n\r\n"[..],
        b"HELLO\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut stream = UnixStream::connect(plugin.socket()).expect("it listens");
        stream.write_all(bytes).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("a socket can be shut");
        stream.set_read_timeout(Some(patience(AT_ONCE))).expect("a timeout");
        let mut answer = Vec::new();
        // An answer or the end, and soon.
        stream.read_to_end(&mut answer).unwrap_or_else(|e| panic!("{bytes:?}: {e}"));
    }
    assert_eq!(plugin.everything(), before);
}

#[test]
fn a_client_that_says_nothing_keeps_nobody_waiting() {
    let (plugin, pool, _sandbox) = furnished();
    let silent: Vec<UnixStream> = (0..200)
        .map(|number| {
            let mut stream = UnixStream::connect(plugin.socket()).expect("it listens");
            let half = match number % 4 {
                0 => "",
                1 => "POST /Ipam",
                2 => "POST /IpamDriver.RequestAddress HTTP/1.1\r\nHost: \r\n",
                _ => "POST /NetworkDriver.CreateEndpoint HTTP/1.1\r\nHost: \r\nContent-Length: 300\r\n\r\n{\"Net",
            };
            stream.write_all(half.as_bytes()).expect("it reads");
            stream
        })
        .collect();
    let began = Instant::now();
    for _ in 0..20 {
        plugin.call("NetworkDriver.EndpointOperInfo", &ids(NETWORK, ENDPOINT));
        plugin.release(&pool, "10.5.0.99");
    }
    assert!(began.elapsed() < patience(AT_ONCE), "{:?}", began.elapsed());
    drop(silent);
    plugin.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": NETWORK }));
}

/// Calls are answered while the LAN is asked about the address of another, and one that ends it waits for its end.
#[test]
fn a_call_that_takes_long_holds_up_no_other() {
    let plugin = Plugin::new();
    // The LAN is asked for 15 s. (That 30 s are the most is a test of the daemon's own, in which time is
    // not what it is here.)
    let options = json!({ "parent": PARENT, "probe": "15000" });
    plugin.network(NETWORK, "LocalDefault", &options, "192.168.50.0/24", "192.168.50.1/24");
    let socket = plugin.socket();
    let body = create_endpoint(NETWORK, ENDPOINT, "192.168.50.99/24").to_string();
    let late = std::thread::spawn(move || {
        http::request(&socket, "POST", "/NetworkDriver.CreateEndpoint", body.as_bytes())
    });
    std::thread::sleep(Duration::from_secs(1));
    let other = json!({ "parent": PARENT, "vlan": "7" });
    plugin.network(&id(1), "LocalDefault", &other, "10.7.0.0/24", "");
    plugin.call("NetworkDriver.CreateEndpoint", &create_endpoint(&id(1), &id(2), "10.7.0.2/24"));
    plugin.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": id(1) }));
    // One that no engine waits for any more is gone with its network.
    plugin.call("NetworkDriver.DeleteEndpoint", &ids(NETWORK, ENDPOINT));
    plugin.call("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": NETWORK }));
    assert!(!late.is_finished(), "others wait for the answer about the address");
    let answer = late.join().expect("no panic").expect("an answer");
    assert_ne!(answer.status, 200, "{}", answer.text);
    error_of(&answer);
    assert_eq!(plugin.daemon.json(&["child", "ls"]), json!([]));
}

#[test]
fn gateways_and_kept_back_addresses_need_not_be_in_the_range() {
    let plugin = Plugin::new();
    let pool = plugin.pool("10.5.0.0/24", "10.5.0.128/25");
    let gateway = json!({
        "PoolID": pool, "Address": "10.5.0.254", "Options": { "RequestAddressType": "com.docker.network.gateway" },
    });
    let given = plugin.call("IpamDriver.RequestAddress", &gateway);
    assert_eq!(given["Address"], "10.5.0.254/24");
    assert_eq!(plugin.address(&pool, "10.5.0.9"), "10.5.0.9");
    let taken = json!({ "PoolID": pool, "Address": "10.5.0.9" }).to_string();
    assert!(plugin.refused("IpamDriver.RequestAddress", taken.as_bytes()).contains("in use"));
    for (address, words) in
        [("10.6.0.1", "not in 10.5.0.0/24"), ("10.5.0.0", "itself"), ("fd00::1", "not in")]
    {
        let body = json!({ "PoolID": pool, "Address": address }).to_string();
        let refused = plugin.refused("IpamDriver.RequestAddress", body.as_bytes());
        assert!(refused.contains(words), "{refused}");
    }
    // One that nobody names is that of the subnet's first station.
    let other = plugin.pool("10.6.0.0/24", "10.6.0.128/25");
    let any = json!({
        "PoolID": other, "Address": "", "Options": { "RequestAddressType": "com.docker.network.gateway" },
    });
    let given = plugin.call("IpamDriver.RequestAddress", &any);
    assert_eq!(given["Address"], "10.6.0.1/24");
    let mut network = create_network(
        NETWORK,
        "maclane",
        &json!({ "parent": PARENT }),
        "10.5.0.0/24",
        "10.5.0.254/24",
    );
    network["IPv4Data"][0]["AuxAddresses"] = json!({ "nas": "10.5.0.9/24" });
    plugin.call("NetworkDriver.CreateNetwork", &network);
    let any = plugin.address(&pool, "");
    assert!(["10.5.0.128", "10.5.0.129"].contains(&any.as_str()), "{any}");
    // A container may have one that is outside of the range, too.
    assert_eq!(plugin.address(&pool, "10.5.0.10"), "10.5.0.10");
    for taken in ["10.5.0.254", "10.5.0.9", "10.5.0.10"] {
        let body = json!({ "PoolID": pool, "Address": taken }).to_string();
        plugin.refused("IpamDriver.RequestAddress", body.as_bytes());
    }
}

#[test]
fn pools_for_networks_of_other_drivers_give_out_what_they_have() {
    let mut plugin = Plugin::new();
    // `docker network create -d bridge --ipam-driver maclane`, twice.
    let request = json!({ "AddressSpace": "maclane", "Pool": "", "SubPool": "", "Options": null, "V6": false });
    let pools: Vec<(String, String)> = (0..2)
        .map(|_| {
            let pool = plugin.call("IpamDriver.RequestPool", &request);
            let text = |key: &str| pool[key].as_str().expect("text").to_owned();
            (text("PoolID"), text("Pool"))
        })
        .collect();
    assert_ne!(pools[0], pools[1]);
    assert_ne!(pools[0].1, pools[1].1, "{pools:?}");
    let (pool, subnet) = &pools[0];
    let prefix = subnet.split_once('/').expect("a prefix length").1;
    let first: Vec<String> = (0..3).map(|_| plugin.address(pool, "")).collect();
    assert!(
        first.iter().all(|ip| first.iter().filter(|other| *other == ip).count() == 1),
        "{first:?}"
    );
    plugin.daemon.kill9();
    plugin.launch();
    // What was given out stays so, because nobody says it again.
    let next = plugin.address(pool, "");
    assert!(!first.contains(&next), "{next} {first:?} /{prefix}");
    plugin.release(pool, &first[1]);
    assert_eq!(plugin.address(pool, ""), first[1], "released, and given again");
    let six =
        json!({ "AddressSpace": "maclane", "Pool": "", "SubPool": "", "Options": {}, "V6": true });
    let six = plugin.call("IpamDriver.RequestPool", &six);
    assert!(six["Pool"].as_str().expect("text").contains(':'), "{six}");
}

#[test]
fn a_small_pool_is_given_out_to_its_last_address() {
    let plugin = Plugin::new();
    let pool = plugin.network_and_pool(NETWORK, &json!({ "parent": PARENT }), "10.5.0.0/29", "");
    for _ in 0..2 {
        let mut given: Vec<String> = (0..6).map(|_| plugin.address(&pool, "")).collect();
        let body = json!({ "PoolID": pool }).to_string();
        let refused = plugin.post("IpamDriver.RequestAddress", body.as_bytes());
        assert_ne!(refused.status, 200, "{}", refused.text);
        assert!(error_of(&refused).contains("no IPv4 address left"), "{}", refused.text);
        given.sort();
        let all: Vec<String> = (1..7).map(|last| format!("10.5.0.{last}")).collect();
        assert_eq!(given, all);
        for ip in &given {
            plugin.release(&pool, ip);
        }
    }
}

#[test]
fn an_address_that_is_held_ahead_can_be_asked_for_at_any_moment() {
    let plugin = Plugin::new();
    let pool = plugin.network_and_pool(
        NETWORK,
        &json!({ "parent": PARENT }),
        "10.5.0.0/24",
        "10.5.0.64/26",
    );
    // While it is being found, and later.
    for wait in [0, 100, 400, 1500, 3500] {
        std::thread::sleep(Duration::from_millis(wait));
        for last in 64..69 {
            let ip = format!("10.5.0.{last}");
            assert_eq!(plugin.address(&pool, &ip), ip, "{wait} ms");
        }
        for last in 64..69 {
            plugin.release(&pool, &format!("10.5.0.{last}"));
        }
    }
}

#[test]
fn docker_is_told_where_the_plugin_is_and_what_it_has() {
    let mut plugin = Plugin::new();
    let dir = plugin.daemon.state_dir().join("plugins");
    let spec = dir.join("maclane.spec");
    let (dir, socket) = (dir.display().to_string(), plugin.socket().display().to_string());
    let places = ["--plugins-dir", &dir, "--docker-socket", &socket];
    let words = |verb| [&["docker", verb], &places[..]].concat();
    for _ in 0..2 {
        plugin.daemon.run(&words("install"));
        let text = std::fs::read_to_string(&spec).expect("the file is there");
        assert_eq!(text, format!("unix://{socket}\n"));
    }
    // What names another socket is nobody's to replace.
    let other = ["docker", "install", "--plugins-dir", &dir, "--docker-socket", "/run/other.sock"];
    let (code, error) = plugin.daemon.fail(&other);
    assert!(code == 1 && error.contains(&socket) && error.contains("--docker-socket"), "{error}");

    plugin.call(
        "NetworkDriver.CreateNetwork",
        &create_network(
            NETWORK,
            "LocalDefault",
            &json!({ "parent": PARENT }),
            "192.168.50.0/24",
            "192.168.50.1/24",
        ),
    );
    let status = plugin.daemon.json(&words("status"));
    assert_eq!(status["implements"], json!(["NetworkDriver", "IpamDriver"]), "{status}");
    assert_eq!(status["spec"], format!("unix://{socket}"), "{status}");
    assert_eq!(status["networks"][0]["id"], NETWORK, "{status}");
    let table = plugin.daemon.run(&words("status"));
    assert!(table.contains("answers on") && table.contains(&NETWORK[..12]), "{table}");
    // A network that Docker has removed while nobody heard it.
    let name = format!("docker-{}", &NETWORK[..12]);
    plugin.daemon.run(&["network", "rm", &name]);
    assert_eq!(plugin.daemon.json(&words("status"))["networks"], json!([]));

    for _ in 0..2 {
        plugin.daemon.run(&words("uninstall"));
        assert!(!spec.exists());
    }
    plugin.daemon.stop();
    let (code, error) = plugin.daemon.fail(&words("status"));
    assert!(code == 1 && error.contains("the daemon does not answer"), "{code}: {error}");
}

#[test]
fn a_sandbox_that_is_no_namespace_keeps_nobody_waiting() {
    let mut plugin = Plugin::new();
    let pipe = plugin.daemon.state_dir().join("pipe");
    Netns::new().run(&["mkfifo", pipe.to_str().expect("a path in UTF-8")]);
    let options = json!({ "parent": PARENT, "probe": "off" });
    let subnet = ("192.168.50.0/24", "192.168.50.1/24");
    plugin.call(
        "NetworkDriver.CreateNetwork",
        &create_network(NETWORK, "LocalDefault", &options, subnet.0, subnet.1),
    );
    let endpoint = create_endpoint(NETWORK, ENDPOINT, "192.168.50.9/24");
    plugin.call("NetworkDriver.CreateEndpoint", &endpoint);
    // Perhaps it becomes one; a pipe would wait for somebody to write, if it was opened.
    let began = Instant::now();
    let body = join(NETWORK, ENDPOINT, pipe.to_str().expect("a path in UTF-8"));
    plugin.post("NetworkDriver.Join", body.to_string().as_bytes());
    plugin.daemon.run(&["child", "ls"]);
    plugin.daemon.kill9();
    plugin.launch();
    for method in ["Leave", "DeleteEndpoint"] {
        plugin.call(&format!("NetworkDriver.{method}"), &ids(NETWORK, ENDPOINT));
    }
    assert!(began.elapsed() < patience(SOON), "{:?}", began.elapsed());
    let (code, error) = plugin.daemon.fail(&[
        "child",
        "add",
        "c",
        "--network",
        &format!("docker-{}", &NETWORK[..12]),
        "--netns",
        pipe.to_str().expect("a path in UTF-8"),
    ]);
    assert!(code == 3 && error.contains("no namespace"), "{code}: {error}");
}
