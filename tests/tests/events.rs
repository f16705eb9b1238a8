//! What the daemon tells of what happens: each thing once, to everybody who asks or follows.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{
    daemon::{Daemon, binary},
    eventually,
    frames::Frame,
    http, patience,
    process::Process,
    tap::Tap,
    topology::{Lan, PARENT},
};

const SOON: Duration = Duration::from_secs(10);

/// The events that are kept, of those that `query` asks for.
fn events(daemon: &Daemon, query: &str) -> Vec<Value> {
    let path = format!("/v1/events{query}");
    let answer = http::request(&daemon.socket(), "GET", &path, b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body.as_array().expect("a list").clone()
}

/// Kind and child of each, in order.
fn told(events: &[Value]) -> Vec<(&str, &str)> {
    let word = |value: &'_ Value| value.as_str().map_or("-", |text| text.to_owned().leak());
    events.iter().map(|event| (word(&event["kind"]), word(&event["child"]))).collect()
}

fn last_id(daemon: &Daemon) -> u64 {
    events(daemon, "").last().and_then(|event| event["id"].as_u64()).unwrap_or_default()
}

/// Waits until these, and no others, were told since.
#[track_caller]
fn tells(daemon: &Daemon, since: u64, expected: &[(&str, &str)]) {
    let query = format!("?since={since}");
    eventually(&format!("{expected:?} are told"), SOON, || {
        events(daemon, &query).len() >= expected.len()
    });
    let all = events(daemon, &query);
    let mut got = told(&all);
    got.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(got, expected, "{all:?}");
}

/// `maclane events --follow`, with its standard output.
fn follow(lan: &Lan, daemon: &Daemon, more: &[&str]) -> Process {
    let mut command = lan.hosts[0].ns.command(binary().to_str().expect("UTF-8"));
    command.arg("--socket").arg(daemon.socket()).args(["events", "--follow"]).args(more);
    Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn what_comes_and_goes_is_told_once() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    daemon.network("lan", 7, "veth");
    tells(&daemon, 0, &[("parent_up", "-")]);
    let (ns, stranger) = (lan.namespace(), lan.namespace());
    let mut since = last_id(&daemon);
    let mac = daemon.child("web", "lan", &ns, "192.168.50.101/24").to_string();
    tells(&daemon, since, &[("port_up", "web")]);
    let up = events(&daemon, "").pop().expect("an event");
    for (field, value) in [
        ("parent", PARENT),
        ("network", "lan"),
        ("mac", &mac),
        ("message", "the child's port is up"),
    ] {
        assert_eq!(up[field], value, "{up}");
    }
    let port = daemon.inspect("web")["port"].clone();
    assert_eq!((&up["port"], &up["vlan"], &up["count"]), (&port, &7.into(), &Value::Null));
    let time = up["time"].as_str().expect("text");
    assert!(time.ends_with('Z') && time.len() == 24 && time.as_bytes()[19] == b'.', "{time}");

    let mut step = |daemon: &Daemon, expected: &[(&str, &str)]| {
        tells(daemon, since, expected);
        since = last_id(daemon);
        // What is told again within a second waits.
        std::thread::sleep(patience(Duration::from_millis(1100)));
    };
    step(&daemon, &[("port_up", "web")]);
    ns.down("eth0");
    step(&daemon, &[("port_down", "web")]);
    ns.up("eth0");
    step(&daemon, &[("port_up", "web")]);
    host.down(PARENT);
    step(&daemon, &[("parent_down", "-")]);
    host.up(PARENT);
    step(&daemon, &[("parent_up", "-")]);
    let adopted = host.macvlan(PARENT, "bridge", &stranger, "eth0");
    let name = format!("{PARENT}/{adopted}");
    step(&daemon, &[("new_mac", &name), ("port_up", &name)]);
    stranger.delete("eth0");
    step(&daemon, &[("port_down", &name)]);
    daemon.run(&["child", "rm", "web"]);
    step(&daemon, &[("port_down", "web")]);

    // Each is one line of the log, too.
    let log = daemon.log();
    for event in events(&daemon, "") {
        let id = format!("id={}", event["id"]);
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&id)).collect();
        assert_eq!(lines.len(), 1, "{event}: {lines:?}");
        assert!(lines[0].contains(event["kind"].as_str().expect("text")), "{lines:?}");
    }
    assert!(!log.contains("adopted child is gone"), "{log}");

    // By kind and parent.
    for (query, expected) in [
        ("?kind=parent_down", vec![("parent_down", "-")]),
        ("?kind=parent_down,new_mac", vec![("parent_down", "-"), ("new_mac", &*name)]),
        ("?parent=other", vec![]),
        ("?kind=spoof,storm", vec![]),
    ] {
        assert_eq!(told(&events(&daemon, query)), expected, "{query}");
    }
    let text = daemon.run(&["events", "--kind", "new_mac", "--parent", PARENT]);
    assert!(text.starts_with("TIME") && text.contains(&name), "{text}");
    let json = daemon.run(&["-o", "json", "events", "--kind", "port_up", "--kind", "port_down"]);
    let ids: Vec<u64> = (json.lines())
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_u64().expect("one"))
        .collect();
    assert!(ids.len() == 6 && ids.is_sorted(), "{json}");
    let refused = http::request(&daemon.socket(), "GET", "/v1/events?kind=flood", b"");
    let refused = refused.expect("an answer");
    assert!(refused.status == 400 && refused.text.contains("port_up"), "{}", refused.text);
    assert_eq!(daemon.fail(&["events", "--kind", "flood"]).0, 2);

    // What was there before a daemon is no news, and numbers go on.
    let before = last_id(&daemon);
    daemon.child("again", "lan", &ns, "192.168.50.101/24");
    daemon.restart();
    std::thread::sleep(patience(Duration::from_millis(1500)));
    assert_eq!(events(&daemon, ""), Vec::<Value>::new());
    daemon.run(&["child", "rm", "again"]);
    tells(&daemon, before, &[("port_down", "again")]);
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    tells(&daemon, before, &[("port_down", "again"), ("parent_down", "-")]);
}

#[test]
fn an_address_that_two_have_is_told_and_a_crowd_is_counted() {
    const CLAIMS: u64 = 20;
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    lan.router.ns.address(PARENT, "10.7.0.1/24");
    daemon.network_with("lan", "--subnet 10.7.0.0/24 --gateway none");
    let (_ns, got) = lan.add(&daemon, "web", "lan");
    assert_eq!(got, ["10.7.0.2"]);
    let stranger = lan.router.mac;
    let probed = events(&daemon, "?kind=address_conflict");
    assert_eq!(told(&probed), [("address_conflict", "-")]);
    assert_eq!((&probed[0]["ip"], &probed[0]["network"]), (&"10.7.0.1".into(), &"lan".into()));
    assert_eq!(probed[0]["mac"], stranger.to_string());

    let since = last_id(&daemon);
    let router = Tap::open(&lan.router.ns, PARENT);
    let address: Ipv4Addr = "10.7.0.2".parse().expect("an address");
    for _ in 0..CLAIMS {
        router.send(&Frame::arp_request(stranger, address, address, ""));
        std::thread::sleep(patience(Duration::from_millis(20)));
    }
    let query = format!("?since={since}&kind=address_conflict");
    let counted = |events: &[Value]| -> u64 {
        events.iter().map(|event| event["count"].as_u64().unwrap_or(1)).sum()
    };
    let heard = || {
        let leases = daemon.json(&["network", "inspect", "lan"])["leases"].clone();
        leases[0]["claims"].as_u64().expect("a number")
    };
    eventually("all that was heard is told", SOON, || {
        let told = counted(&events(&daemon, &query));
        told > 1 && told == heard()
    });
    let all = events(&daemon, &query);
    assert!((all.len() as u64) < heard(), "{all:?}");
    assert!(all.iter().all(|event| event["child"] == "web" && event["ip"] == "10.7.0.2"));
    let ip: IpAddr = address.into();
    assert!(daemon.log().contains(&format!("ip={ip}")), "{}", daemon.log());
}

#[test]
fn who_follows_is_told_at_once_and_let_go_at_the_end() {
    let lan = Lan::new(1);
    let mut daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("lan", 0, "macvlan");
    let ns = lan.namespace();
    let mut json = follow(&lan, &daemon, &["-o", "json"]);
    let mut table = follow(&lan, &daemon, &["--kind", "port_up"]);
    let lines = |process: &mut Process| {
        let out = process.streams().stdout.take().expect("it is piped");
        BufReader::new(out).lines().map(|line| line.expect("UTF-8"))
    };
    let (mut from_json, mut from_table) = (lines(&mut json), lines(&mut table));
    let header = from_table.next().expect("a header");
    assert!(header.starts_with("TIME"), "{header}");
    let first: Value = serde_json::from_str(&from_json.next().expect("a line")).expect("JSON");
    assert_eq!(first["kind"], "parent_up", "what was there before comes first");
    let begun = Instant::now();
    daemon.child("web", "lan", &ns, "192.168.50.101/24");
    let line: Value = serde_json::from_str(&from_json.next().expect("a line")).expect("JSON");
    assert_eq!((&line["kind"], &line["child"]), (&"port_up".into(), &"web".into()));
    assert!(begun.elapsed() < patience(Duration::from_secs(5)), "{:?}", begun.elapsed());
    let line = from_table.next().expect("a line");
    assert!(line.contains("port_up") && line.contains("web"), "{line}");

    // Ctrl-C is an end like any other.
    table.signal(Signal::SIGINT);
    assert_eq!(table.wait(SOON).and_then(|status| status.code()), Some(0));

    // There is room for 32, and the daemon's other clients do not notice.
    let head = "GET /v1/events/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut streams = Vec::new();
    let mut refused = String::new();
    for _ in 0..40 {
        let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut first = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut first).expect("it answers");
        if first.contains("409") {
            refused =
                reader.lines().map_while(Result::ok).find(|l| l.starts_with('{')).expect("why");
            break;
        }
        streams.push(reader);
    }
    assert!(refused.contains("32 do already"), "{refused}");
    // One follows already, and the other one may not be missed yet.
    assert!((30..=31).contains(&streams.len()), "{}", streams.len());
    drop(streams);

    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < patience(Duration::from_secs(4)), "{:?}", begun.elapsed());
    assert_eq!(json.wait(SOON).and_then(|status| status.code()), Some(4));
    let why = json.streams().stderr.take().map(std::io::read_to_string);
    let why = why.expect("it is piped").expect("UTF-8");
    assert!(why.contains("the maclane daemon has stopped"), "{why}");
    let mut without = follow(&lan, &daemon, &[]);
    assert_eq!(without.wait(SOON).and_then(|status| status.code()), Some(4));
}
