//! What whoever traces is told: the way of each frame, of those that were asked for and no others, at
//! nobody's cost who does not trace.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{
    daemon::Daemon,
    eventually,
    frames::{Frame, token},
    kernel,
    mac::Mac,
    netns::Netns,
    patience, process,
    tap::Tap,
    topology::{Lan, Options, PARENT},
    traffic::{Ping, assert_reaches},
};

const SOON: Duration = Duration::from_secs(10);

/// In which time a frame that is told has been told.
const A_WHILE: Duration = Duration::from_millis(400);

/// Somebody who traces, until this is dropped.
struct Tracing {
    lines: Receiver<Value>,
    stream: UnixStream,
}

impl Tracing {
    /// Begins; when this returns, frames are told.
    #[track_caller]
    fn begin(daemon: &Daemon, query: &str) -> Self {
        let mut stream = UnixStream::connect(daemon.socket()).expect("the daemon listens");
        write!(stream, "GET /v1/trace{query} HTTP/1.1\r\nHost: maclane\r\n\r\n").expect("it reads");
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).expect("an answer"), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let (to, lines) = channel();
        thread::spawn(move || {
            // Beside the lines there are the sizes of chunks.
            for line in reader.lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
                let _ = to.send(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { lines, stream }
    }

    /// What was told of frames with this token.
    fn told(&self, token: &str) -> Vec<Value> {
        thread::sleep(patience(A_WHILE));
        self.lines.try_iter().filter(|line| carries(line, token)).collect()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn bytes(line: &Value) -> Vec<u8> {
    STANDARD.decode(line["frame"].as_str().unwrap_or_default()).expect("base64")
}

fn carries(line: &Value, token: &str) -> bool {
    bytes(line).windows(token.len()).any(|part| part == token.as_bytes())
}

fn path(line: &Value) -> String {
    let words = line["path"].as_array().into_iter().flatten().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(" ")
}

/// A host with a macvlan and a veth child in VLAN 10, and one of each without a VLAN.
struct Site {
    daemon: Daemon,
    lan: Lan,
    children: Vec<(Netns, Mac, Tap)>,
}

const WEB: usize = 0;
const VM: usize = 1;
const PLAIN: usize = 2;

impl Site {
    fn new(parent: &[&str]) -> Self {
        // XDP does not see a tag that a cable carries beside the frame.
        let vlan_offload = parent.is_empty();
        let lan = Lan::with(Options { vlan_offload, ..Options::default() });
        let daemon = Daemon::start(&lan.hosts[0].ns);
        daemon.run(&[&["parent", "add", PARENT], parent].concat());
        for (name, more) in [
            ("lan10", "--vlan 10 --kind macvlan --mode vepa"),
            ("vms10", "--vlan 10 --kind veth"),
            ("lan", "--kind macvlan --mode vepa"),
        ] {
            daemon.network_with(name, more);
        }
        let child = |name: &str, network: &str, cidr: &str| {
            let ns = lan.namespace();
            let mac = daemon.child(name, network, &ns, cidr);
            let tap = Tap::open(&ns, "eth0");
            (ns, mac, tap)
        };
        let children = vec![
            child("web", "lan10", "192.168.60.101/24"),
            child("vm", "vms10", "192.168.60.102/24"),
            child("plain", "lan", "192.168.50.103/24"),
        ];
        Self { daemon, lan, children }
    }

    fn mac(&self, child: usize) -> Mac {
        self.children[child].1
    }

    /// Sends a frame from a child.
    fn send(&self, child: usize, frame: &Frame) {
        self.children[child].2.send(frame);
    }

    /// The folder of the parent's pins.
    fn pins(&self) -> PathBuf {
        let pins = self.daemon.json(&["parent", "show", PARENT])["pins"].clone();
        pins.as_str().expect("a folder").into()
    }

    /// Whether programs are asked to tell.
    fn is_traced(&self) -> bool {
        is_traced(&self.pins())
    }

    /// The size of a program in bytes, without what the verifier has taken out because it is never reached.
    fn size(&self, name: &str) -> u64 {
        self.program(name)["bytes_xlated"].as_u64().expect("a size")
    }

    /// The ID of a program.
    fn id(&self, name: &str) -> u64 {
        self.program(name)["id"].as_u64().expect("an ID")
    }

    /// The ID of the program that the guards lead to.
    fn led_to(&self) -> u64 {
        let pin = self.pins().join("maclane_guards");
        let pin = pin.to_str().expect("UTF-8");
        let dump = process::run(Command::new("bpftool").args(["-j", "map", "dump", "pinned", pin]));
        let dump: Value = serde_json::from_str(&dump).expect("JSON");
        dump[0]["formatted"]["value"].as_u64().expect("an ID")
    }

    fn program(&self, name: &str) -> Value {
        let pin = self.pins().join("programs").join(name);
        let pin = pin.to_str().expect("UTF-8");
        let shown =
            process::run(Command::new("bpftool").args(["-j", "prog", "show", "pinned", pin]));
        serde_json::from_str(&shown).expect("JSON")
    }
}

/// Whether the programs with these pins are asked to tell.
fn is_traced(pins: &Path) -> bool {
    let pin = pins.join("maclane_tracer");
    let pin = pin.to_str().expect("UTF-8");
    let dump = process::run(Command::new("bpftool").args(["-j", "map", "dump", "pinned", pin]));
    let dump: Value = serde_json::from_str(&dump).expect("JSON");
    dump[0]["formatted"]["value"]["flags"] != 0
}

/// The guard in front of a program, where there is one.
fn guarded(path: &str) -> String {
    if kernel::has_tcx() { path.into() } else { path.replace(" guard", "") }
}

#[test]
fn the_way_of_each_frame_is_told() {
    let site = Site::new(&[]);
    let tracing = Tracing::begin(&site.daemon, "");
    let (lan, host) = (&site.lan, &site.lan.hosts[0]);
    let (wire, own) = (Tap::open(&lan.router.ns, PARENT), Tap::open(&host.ns, PARENT));
    let [web, vm, plain] = [WEB, VM, PLAIN].map(|child| site.mac(child));
    let (router, nobody) = (lan.router.mac, Mac::local(77));
    let from = |source, destination| Frame::new(source, destination, "");
    let tap = |child: usize| &site.children[child].2;
    let cases = [
        (tap(WEB), from(web, vm), 10, "web guard egress redirect vm"),
        (tap(VM), from(vm, web), 10, "vm port hairpin web"),
        (tap(VM), from(vm, router), 10, "vm port egress wire"),
        (tap(WEB), from(web, router), 10, "web guard egress wire"),
        (tap(PLAIN), from(plain, host.mac), 0, "plain guard egress hairpin host"),
        (&own, from(host.mac, plain), 0, "host egress hairpin plain"),
        (&own, from(host.mac, router), 0, "host egress wire"),
        (&wire, from(router, plain), 0, "wire ingress plain"),
        (&wire, from(router, host.mac), 0, "wire ingress host"),
        (&wire, from(router, web).vlan(10), 10, "wire ingress web"),
        (&wire, from(router, vm).vlan(10), 10, "wire ingress peer vm"),
        (&wire, from(router, web), 0, "wire ingress drop (other_vlan)"),
        (&wire, from(router, Mac::BROADCAST).vlan(10), 10, "wire ingress flood web, vm"),
        (tap(WEB), from(web, Mac::BROADCAST), 10, "web guard egress flood vm, wire"),
        (&own, from(host.mac, Mac::BROADCAST), 0, "host egress flood plain, wire"),
        (tap(VM), from(nobody, router), 10, "vm port drop (source_mac)"),
        (tap(VM), from(vm, router).vlan(20), 20, "vm port drop (vlan_not_allowed)"),
    ];
    for (tap, frame, vlan, want) in cases {
        let token = token();
        tap.send(&frame.clone().trailer(&token));
        let told = tracing.told(&token);
        assert_eq!(told.len(), 1, "{want}: {told:?}");
        let line = &told[0];
        assert_eq!(path(line), guarded(want), "{line}");
        assert_eq!(line["parent"], PARENT);
        assert_eq!(line["source"], frame.source.to_string(), "{line}");
        assert_eq!(line["destination"], frame.destination.to_string(), "{line}");
        let length = frame.clone().trailer(&token).to_bytes().len();
        if vlan != 20 {
            assert_eq!(line["vlan"], vlan, "{line}");
        }
        // What comes over a cable may be longer than what was sent.
        assert!(line["length"].as_u64().is_some_and(|told| told >= length as u64), "{line}");
        assert_eq!(bytes(line)[..12], frame.to_bytes()[..12], "{line}");
    }
    if kernel::has_tcx() {
        let token = token();
        site.send(WEB, &from(nobody, router).trailer(&token));
        let told = tracing.told(&token);
        assert_eq!(
            told.iter().map(path).collect::<Vec<_>>(),
            ["web guard egress drop (source_mac)"]
        );
    }
}

#[test]
fn a_question_is_shown_with_whom_it_went_to() {
    let site = Site::new(&[]);
    let tracing = Tracing::begin(&site.daemon, "");
    let router = &site.lan.router;
    let wire = Tap::open(&router.ns, PARENT);
    let token = token();
    let target = "192.168.60.101".parse().expect("an address");
    let sender = "192.168.60.1".parse().expect("an address");
    wire.send(&Frame::arp_request(router.mac, sender, target, &token).vlan(10));
    let told = tracing.told(&token);
    assert_eq!(told.iter().map(path).collect::<Vec<_>>(), ["wire ingress web"]);
    // It is shown as it came.
    assert_eq!(told[0]["destination"], Mac::BROADCAST.to_string());
    assert_eq!(bytes(&told[0])[12..14], [0x81, 0], "its tag is where it was");
}

#[test]
fn native_xdp_tells_of_what_it_ends() {
    let site = Site::new(&["--xdp", "native", "--unknown", "drop"]);
    let wire = Tap::open(&site.lan.router.ns, PARENT);
    let router = site.lan.router.mac;
    for (destination, vlan, want) in [
        (site.mac(VM), 10, "wire xdp redirect vm"),
        (site.mac(WEB), 10, "wire ingress web"),
        (Mac::local(78), 10, "wire xdp drop (unknown)"),
    ] {
        let tracing = Tracing::begin(&site.daemon, "");
        let token = token();
        wire.send(&Frame::new(router, destination, &token).vlan(vlan));
        let told = tracing.told(&token);
        assert_eq!(told.iter().map(path).collect::<Vec<_>>(), [want]);
    }
    eventually("the programs tell nothing any more", SOON, || !site.is_traced());
    assert_eq!(site.daemon.json(&["parent", "show", PARENT])["xdp_attached"], "native");
}

#[test]
fn a_filter_shows_what_it_says_and_nothing_else() {
    let site = Site::new(&[]);
    let wire = Tap::open(&site.lan.router.ns, PARENT);
    let router = site.lan.router.mac;
    let [web, vm, plain] = [WEB, VM, PLAIN].map(|child| site.mac(child));
    let frames = |token: &str| {
        site.send(WEB, &Frame::new(web, vm, token));
        site.send(PLAIN, &Frame::new(plain, router, token));
        site.send(VM, &Frame::new(Mac::local(77), router, token));
        wire.send(&Frame::new(router, Mac::BROADCAST, token).vlan(10));
        wire.send(&Frame::new(router, web, token));
    };
    let (to_vm, to_wire) = ("web guard egress redirect vm", "plain guard egress wire");
    let (forged, flood) = ("vm port drop (source_mac)", "wire ingress flood web, vm");
    let stray = "wire ingress drop (other_vlan)";
    let mac = format!("?mac={vm}");
    let cases: [(&str, &[&str]); 9] = [
        ("", &[to_vm, to_wire, forged, flood, stray]),
        ("?parent=eth0", &[to_vm, to_wire, forged, flood, stray]),
        // Also what is for its MAC and never reaches it.
        ("?child=web", &[to_vm, flood, stray]),
        ("?child=vm", &[to_vm, forged, flood]),
        (&mac, &[to_vm]),
        ("?vlan=10", &[to_vm, forged, flood]),
        ("?drops=true", &[forged, stray]),
        ("?reason=other_vlan", &[stray]),
        ("?child=vm&drops=true", &[forged]),
    ];
    // The programs filter for one, and the daemon for several.
    for others in 0..2 {
        let _others: Vec<_> = (0..others).map(|_| Tracing::begin(&site.daemon, "")).collect();
        for (query, want) in cases {
            let tracing = Tracing::begin(&site.daemon, query);
            let token = token();
            frames(&token);
            let mut told: Vec<_> = tracing.told(&token).iter().map(path).collect();
            let mut want: Vec<_> = want.iter().map(|path| guarded(path)).collect();
            told.sort();
            want.sort();
            assert_eq!(told, want, "{query:?} beside {others}");
        }
    }
}

#[test]
fn what_a_policy_only_counts_is_shown_as_that() {
    let site = Site::new(&[]);
    site.daemon.run(&["child", "set", "vm", "--security", "log"]);
    let tracing = Tracing::begin(&site.daemon, "?child=vm&drops=true");
    let token = token();
    let stranger = "192.168.60.77".parse().expect("an address");
    site.send(VM, &Frame::arp_request(site.mac(VM), stranger, stranger, &token));
    let told = tracing.told(&token);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(path(&told[0]), "vm port logged (neighbour_claim)");
    assert_eq!(
        (&told[0]["verdict"], &told[0]["reason"]),
        (&"log".into(), &"neighbour_claim".into())
    );
}

#[test]
fn nobody_pays_for_what_nobody_looks_at_and_no_frame_is_lost_in_between() {
    let site = Site::new(&[]);
    let programs = ["maclane_ingress", "maclane_egress", "maclane_port"];
    let before = programs.map(|name| site.size(name));
    let is_led_to_it = || !kernel::has_tcx() || site.led_to() == site.id("maclane_macvlan");
    assert!(is_led_to_it());
    let router = site.lan.router.ip;
    let ping = Ping::start(&site.children[PLAIN].0, router, Duration::from_millis(2));
    for _ in 0..5 {
        let tracing = Tracing::begin(&site.daemon, "");
        assert!(site.is_traced());
        let during = programs.map(|name| site.size(name));
        // What is told costs the others instructions; the ingress has another way for plain frames, which
        // tells nothing, while nobody traces.
        assert!(before[1..].iter().zip(&during[1..]).all(|(a, b)| a < b), "{before:?}, {during:?}");
        assert_ne!(before[0], during[0], "the programs are not others while somebody traces");
        assert!(is_led_to_it());
        drop(tracing);
        eventually("the programs tell nothing any more", SOON, || {
            !site.is_traced() && programs.map(|name| site.size(name)) == before && is_led_to_it()
        });
    }
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
}

#[test]
fn a_trace_ends_with_the_daemon_and_traffic_goes_on() {
    let mut site = Site::new(&[]);
    let _tracing = Tracing::begin(&site.daemon, "");
    let ping = Ping::start(&site.children[PLAIN].0, site.lan.router.ip, Duration::from_millis(5));
    site.daemon.kill9();
    thread::sleep(patience(Duration::from_millis(300)));
    site.daemon.launch();
    assert!(!site.is_traced());
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
    let folder = site.pins();
    let _tracing = Tracing::begin(&site.daemon, "");
    let began = Instant::now();
    site.daemon.stop();
    assert!(began.elapsed() < patience(Duration::from_secs(4)), "{:?}", began.elapsed());
    assert!(!is_traced(&folder), "it tells nobody");
    assert_reaches(&site.lan.router.ns, "192.168.50.103".parse::<std::net::Ipv4Addr>().unwrap());
}

#[test]
fn what_cannot_be_traced_is_said_so() {
    let site = Site::new(&[]);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("frames.pcapng");
    std::fs::write(&file, "mine").expect("it can be written");
    let file = file.to_str().expect("UTF-8");
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--child", "nobody"], 3, "no child \"nobody\""),
        (&["--parent", "eth9"], 3, "no parent \"eth9\""),
        (&["--vlan", "4095"], 2, "VLAN"),
        (&["--mac", "01:00:00:00:00:01"], 2, "MAC"),
        (&["--reason", "bad_weather"], 2, "bad_weather"),
        (&["--snaplen", "0"], 2, "snaplen"),
        (&["--snaplen", "3000"], 2, "snaplen"),
        (&["--pcap", file], 1, "is there already"),
    ];
    for (arguments, code, text) in cases {
        let failed = site.daemon.fail(&[&["trace"], arguments].concat());
        assert!(failed.0 == code && failed.1.contains(text), "{arguments:?}: {failed:?}");
    }
    assert_eq!(std::fs::read_to_string(file).expect("it is there"), "mine");
    assert!(!site.is_traced());
    let _eight: Vec<_> = (0..8).map(|_| Tracing::begin(&site.daemon, "")).collect();
    let (code, error) = site.daemon.fail(&["trace"]);
    assert!(code == 1 && error.contains("8 do already"), "{code}: {error}");
}

#[test]
fn wireshark_reads_the_frames_with_their_verdicts() {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("skipped: there is no tshark in a virtual machine");
        return;
    }
    let site = Site::new(&[]);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("frames.pcapng");
    let file = file.to_str().expect("UTF-8");
    let mut traced = site.daemon.begin_cli(&["trace", "--pcap", file]);
    eventually("it is traced", SOON, || site.is_traced());
    let (router, host) = (site.lan.router.mac, site.lan.hosts[0].mac);
    let (web, vm) = (site.mac(WEB), site.mac(VM));
    let long = "x".repeat(1400);
    site.send(WEB, &Frame::new(web, vm, &token()).trailer(&long));
    site.send(VM, &Frame::new(Mac::local(77), router, &token()));
    Tap::open(&site.lan.router.ns, PARENT).send(&Frame::new(router, host, &token()).vlan(30));
    thread::sleep(patience(A_WHILE));
    traced.signal(Signal::SIGINT);
    let ended = traced.wait(SOON).expect("it ends");
    assert!(ended.success(), "{ended}");
    let fields = [
        "frame.interface_name",
        "eth.src",
        "frame.len",
        "frame.cap_len",
        "vlan.id",
        "frame.comment",
    ];
    let mut command = Command::new("tshark");
    command.args(["-r", file, "-Y", "eth.type == 0x88b5 || vlan.etype == 0x88b5", "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let shown = process::run(&mut command);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    let (web, nobody, router) = (web.to_string(), Mac::local(77).to_string(), router.to_string());
    let length = |at: usize| lines[at][2].to_owned();
    assert_eq!(lines.len(), 3, "{shown}");
    let redirect = guarded("web guard egress redirect vm").replace(' ', " → ");
    let want = [
        ["eth0:web", &web, &length(0), &length(0), "", &redirect],
        ["eth0:vm", &nobody, &length(1), &length(1), "", "vm → port → drop (source_mac)"],
        ["eth0:wire", &router, &length(2), &length(2), "30", "wire → ingress → host"],
    ];
    assert_eq!(lines, want.map(Vec::from), "{shown}");
    assert!(length(0).parse::<usize>().is_ok_and(|length| length > 1400), "{shown}");
}
