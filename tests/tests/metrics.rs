//! What Prometheus is told: that it can read it, that it is true, and where it is to be had.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
};

use serde_json::Value;
use tests::{
    daemon::Daemon,
    http,
    netns::Netns,
    site::{SOON, Site},
    topology::{Lan, PARENT},
    traffic::assert_reaches,
};

/// Name and labels of a series.
type Series = (String, BTreeMap<String, String>);

/// A scrape, read as strictly as Prometheus reads it.
#[derive(Debug, Default)]
struct Scrape {
    /// Type of each metric that has a HELP and a TYPE.
    kinds: BTreeMap<String, String>,
    /// The values.
    series: BTreeMap<Series, f64>,
}

impl Scrape {
    /// Reads the text format 0.0.4.
    #[track_caller]
    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        let (mut helped, mut current) = ("", "");
        assert!(text.ends_with('\n'), "the last line ends, too");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and words");
                assert!(help.len() > 10, "{line}");
                helped = name;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert_eq!(name, helped, "HELP comes first: {line}");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                let known = scrape.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(known, None, "one block for each metric: {line}");
                current = name;
            } else {
                let (series, value) = sample(line);
                assert_eq!(series.0, current, "a sample is in the block of its metric: {line}");
                assert_eq!(scrape.series.insert(series, value), None, "twice: {line}");
            }
        }
        scrape
    }

    /// The value of the series of this name that has these labels, and maybe others.
    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |all: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| all.get(*key).is_some_and(|other| other == value))
        };
        let mut found = self.series.iter().filter(|((other, all), _)| other == name && has(all));
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name}{labels:?}"));
        assert!(found.next().is_none(), "more than one {name}{labels:?}");
        *value
    }
}

/// `name{label="value",…} number`.
#[track_caller]
fn sample(line: &str) -> (Series, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while let Some((key, value)) = rest.split_once("=\"") {
            let (value, more) = value.split_once('"').expect("a label ends");
            assert!(!value.contains('\\'), "no label of this test has to be escaped: {line}");
            assert_eq!(labels.insert(key.to_owned(), value.to_owned()), None, "{line}");
            rest = more.strip_prefix(',').unwrap_or(more);
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("no end of labels: {line}"));
    }
    let value = rest.trim_start().parse().unwrap_or_else(|_| panic!("no number: {line}"));
    ((name.to_owned(), labels), value)
}

#[track_caller]
fn scrape(daemon: &Daemon) -> Scrape {
    let answer = http::request(&daemon.socket(), "GET", "/metrics", b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text);
    Scrape::parse(&answer.text)
}

fn furnished() -> Site {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let site = Site::furnish(lan, daemon);
    site.daemon.network_with("pool", "--vlan 20 --subnet 10.7.0.0/24 --gateway none --no-probe");
    site
}

#[test]
fn metrics_say_what_the_commands_say() {
    let site = furnished();
    let _leased = site.lan.add(&site.daemon, "leased", "pool");
    let foreign = site.lan.namespace();
    site.host().macvlan(PARENT, "bridge", &foreign, "eth0");
    tests::eventually("all children are told", SOON, || {
        scrape(&site.daemon).value("maclane_events_total", &[("kind", "port_up")]) >= 5.0
    });
    assert_reaches(&site.children[1], site.lan.router.ip);
    let text = scrape(&site.daemon);
    let stats = site.daemon.json(&["stats"]);
    for port in stats[0]["ports"].as_array().expect("a list") {
        let number = port["port"].to_string();
        let labels = [("parent", PARENT), ("port", &*number)];
        for (name, field) in [
            ("maclane_port_receive_packets_total", "rx_packets"),
            ("maclane_port_receive_bytes_total", "rx_bytes"),
            ("maclane_port_transmit_packets_total", "tx_packets"),
            ("maclane_port_transmit_bytes_total", "tx_bytes"),
        ] {
            let (told, now) = (text.value(name, &labels), port[field].as_f64().expect("one"));
            assert!(told <= now, "{name}{labels:?}: {told}, and {now} after that");
        }
    }
    let number = site.daemon.inspect("v")["port"].to_string();
    let labels = [("child", "v"), ("network", "lanv"), ("kind", "veth"), ("port", &*number)];
    assert!(text.value("maclane_port_receive_packets_total", &labels) > 0.0);
    assert!(text.value("maclane_port_receive_bytes_total", &labels) > 0.0);
    for drops in stats[0]["drops"].as_array().expect("a list") {
        let labels = [("parent", PARENT), ("reason", drops["reason"].as_str().expect("a name"))];
        let told = text.value("maclane_drops_total", &labels);
        assert!(told <= drops["packets"].as_f64().expect("a number"), "{labels:?}");
        text.value("maclane_drop_bytes_total", &labels);
    }
    let fdb = site.daemon.json(&["fdb", "ls"]).as_array().map_or(0, Vec::len);
    let is = |name, labels: &[(&str, &str)], expected: f64| {
        let told = scrape(&site.daemon).value(name, labels);
        assert!((told - expected).abs() < 0.5, "{name}{labels:?} is {told}");
    };
    is("maclane_fdb_entries", &[("parent", PARENT)], f64::from(u32::try_from(fdb).expect("few")));
    is("maclane_parent_up", &[("parent", PARENT)], 1.0);
    is("maclane_problems", &[("parent", PARENT)], 0.0);
    is("maclane_leases", &[("network", "pool"), ("subnet", "10.7.0.0/24")], 1.0);
    is("maclane_pool_addresses", &[("network", "pool"), ("subnet", "10.7.0.0/24")], 254.0);
    is("maclane_children", &[("network", "lan"), ("state", "up")], 1.0);
    is("maclane_events_total", &[("kind", "spoof")], 0.0);
    is("maclane_children", &[("network", ""), ("state", "up")], 1.0);
    is("maclane_events_total", &[("kind", "new_mac")], 1.0);
    is("maclane_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    site.host().down(PARENT);
    tests::eventually("it is told to be down", SOON, || {
        scrape(&site.daemon).value("maclane_parent_up", &[("parent", PARENT)]) < 0.5
    });
}

/// Every text below `value` that Grafana sends to Prometheus.
fn queries<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "query", "definition"].contains(&&**name) => {
                        found.push(text);
                    }
                    _ => queries(value, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_document_name_the_metrics_that_there_are() {
    let site = furnished();
    let known: BTreeSet<String> = scrape(&site.daemon).kinds.into_keys().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dashboard = fs::read_to_string(root.join("packaging/grafana/maclane.json"));
    let dashboard: Value = serde_json::from_str(&dashboard.expect("it is there")).expect("JSON");
    let mut texts = Vec::new();
    queries(&dashboard, &mut texts);
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("maclane_")).map(String::from).collect()
    };
    let named: BTreeSet<String> = texts.iter().flat_map(|text| words(text)).collect();
    assert_eq!(named, known, "each metric has its place, and no other is asked for");
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    let variables: Vec<_> = variables.iter().map(|it| (&it["name"], &it["type"])).collect();
    assert_eq!(
        variables,
        [(&"datasource".into(), &"datasource".into()), (&"parent".into(), &"query".into())]
    );
    let document = fs::read_to_string(root.join("docs/observability.md")).expect("it is there");
    for name in &known {
        assert!(document.contains(&format!("| `{name}` |")), "{name} is not in the document");
    }
}

/// What is answered at an address of the host.
fn get(ns: &Netns, port: u16, path: &str) -> Option<String> {
    ns.enter(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}

#[test]
fn metrics_are_at_a_loopback_address_if_somebody_wants_that() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    assert_eq!(get(host, 9469, "/metrics"), None);
    for (arguments, config) in
        [(&["--metrics", "127.0.0.1:9469"][..], ""), (&[], "metrics = \"127.0.0.1:9469\"\n")]
    {
        daemon.stop();
        daemon.set_arguments(arguments);
        daemon.configure(config);
        daemon.launch();
        let answer = get(host, 9469, "/metrics").expect("somebody listens");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let head = answer.to_lowercase();
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        assert!(Scrape::parse(body).kinds.contains_key("maclane_build_info"), "{body}");
        let other = get(host, 9469, "/v1/parents").expect("somebody listens");
        assert!(other.starts_with("HTTP/1.1 404"), "the API is not there: {other}");
        assert!(daemon.log().contains("http://127.0.0.1:9469/metrics"), "{}", daemon.log());
    }
    daemon.stop();
    for (config, words) in [
        ("metrics = \"0.0.0.0:9469\"\n", "is not a loopback address"),
        ("metrics = \"nonsense\"\n", "line 1"),
    ] {
        daemon.configure(config);
        let message = daemon.refusal();
        assert!(message.contains(words), "{message}");
    }
    daemon.configure("");
    daemon.set_arguments(&["--metrics", "192.168.50.10:9469"]);
    assert!(!daemon.try_launch());
    assert!(
        daemon.log().contains("192.168.50.10:9469 is not a loopback address"),
        "{}",
        daemon.log()
    );
    let taken = host.enter(|| std::net::TcpListener::bind("127.0.0.1:9470")).expect("it is free");
    daemon.set_arguments(&["--metrics", "127.0.0.1:9470"]);
    let message = daemon.refusal();
    assert!(message.contains("cannot listen on 127.0.0.1:9470 for --metrics"), "{message}");
    drop(taken);
}

#[test]
fn without_a_terminal_top_says_what_to_use() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for arguments in [&["top"][..], &["-o", "json", "top"], &["top", "--parent", PARENT]] {
        let (code, message) = daemon.fail(arguments);
        assert_eq!(code, 2, "{message}");
        assert!(message.contains("maclane stats --watch"), "{message}");
    }
    for wrong in ["0", "31", "x"] {
        assert_eq!(daemon.fail(&["top", "--interval", wrong]).0, 2);
    }
}
