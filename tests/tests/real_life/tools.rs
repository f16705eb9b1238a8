//! Tools that open packet sockets: `arping` of iputils, `nmap` and `tcpdump`.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, TcpListener},
    process::Stdio,
    time::Duration,
};

use nix::sys::signal::Signal;
use tests::{
    eventually, forge::ETHERNET, frames::ARP, netns::Netns, process::Process, tap::Tap,
    traffic::ping,
};

use crate::site::{KINDS, Member, SOON, Site};

/// Addresses of two children.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 101);
const SIBLING: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 102);

/// An address that no station has.
const FREE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 77);

/// The children `child` and `sibling`, without a word of trust.
#[track_caller]
fn two(site: &Site) -> (Member, Member) {
    let of = |name, ip| site.member(name, &format!("--ip {ip}/24"));
    (of("child", OWN), of("sibling", SIBLING))
}

/// The addresses of the router, the host and the sibling.
fn stations(site: &Site) -> [Ipv4Addr; 3] {
    [site.lan.router.ip, site.lan.hosts[0].ip, SIBLING]
}

/// `arping` for one address, with more options: what it says, and whether it is content.
#[track_caller]
fn arping(ns: &Netns, options: &str, ip: Ipv4Addr) -> (String, bool) {
    let line = format!("arping -c 1 -w 1 -I eth0 {options} {ip}");
    let output = ns.exec(&line.split_whitespace().collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (text.into_owned(), output.status.success())
}

/// `arping` of an enforced child finds each station, finds out which addresses are taken, also before
/// the child has one, and announces the child's own.
#[test]
fn arping_works_without_trust() {
    for kind in &KINDS[1..] {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let (child, sibling) = two(&site);
        let bare = site.member("bare", "");
        for ip in stations(&site) {
            let (said, _) = arping(&child.ns, "", ip);
            assert!(said.contains("Received 1 response(s)"), "{ip}: {said}");
            for from in [&child, &bare] {
                let (said, is_free) = arping(&from.ns, "-D", ip);
                assert!(!is_free, "{}: {ip} is taken: {said}", from.name);
                assert!(said.contains("Received 1 response(s)"), "{ip}: {said}");
            }
        }
        for from in [&child, &bare] {
            let (said, is_free) = arping(&from.ns, "-D", FREE);
            assert!(is_free, "{}: {FREE} is free: {said}", from.name);
        }
        for (options, operation) in [("-U", 1), ("-A", 2)] {
            let (wire, beside) =
                (Tap::open(&site.lan.router.ns, "eth0"), Tap::open(&sibling.ns, "eth0"));
            let (said, is_content) = arping(&child.ns, options, OWN);
            assert!(is_content, "{options}: {said}");
            let begin = [&ETHERNET.to_be_bytes()[..], &[8, 0, 6, 4, 0, operation]].concat();
            let own = [&begin[..], &child.mac.0, &OWN.octets()].concat();
            for tap in [wire, beside] {
                let heard = tap.find(SOON, |f| f.ethertype == ARP && f.payload.starts_with(&own));
                assert!(heard.is_some(), "{options} is not heard");
            }
        }
        site.assert_nothing_counted(&[&child, &sibling, &bare]);
    }
}

/// `nmap -sS` of an enforced child finds which stations are up and which of their ports are open.
#[test]
fn nmap_works_without_trust() {
    for kind in &KINDS[1..] {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let (child, sibling) = two(&site);
        let listen = |ns: &Netns| ns.enter(|| TcpListener::bind(("0.0.0.0", 8080)));
        let _listeners = [&site.lan.router.ns, &site.lan.hosts[0].ns, &sibling.ns].map(listen);
        let addresses = stations(&site).map(|ip| ip.to_string());
        let free = FREE.to_string();
        let options = ["nmap", "-sS", "-n", "-oG", "-", "-p", "8080,8081"];
        let targets = addresses.iter().map(String::as_str).chain([&*free]);
        let words: Vec<_> = options.into_iter().chain(targets).collect();
        let said = child.ns.run(&words);
        for ip in &addresses {
            let of =
                |line: &&str| line.starts_with(&format!("Host: {ip} ")) && line.contains("Ports:");
            let line = said.lines().find(of).unwrap_or_else(|| panic!("{ip} is up: {said}"));
            assert!(line.contains(" 8080/open/tcp/"), "{line}");
            assert!(line.contains(" 8081/closed/tcp/"), "{line}");
        }
        assert!(said.contains("4 IP addresses (3 hosts up)"), "{said}");
        site.assert_nothing_counted(&[&child, &sibling]);
    }
}

/// `tcpdump` in an enforced child has a ring in which it sees what the child sends and receives, and
/// ends when it is asked to.
#[test]
fn tcpdump_works_without_trust() {
    for kind in &KINDS[1..] {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let (child, sibling) = two(&site);
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = |name: &str| dir.path().join(name);
        let read = |name: &str| fs::read_to_string(path(name)).expect("a file can be read");
        let [out, err] = ["out", "err"].map(|n| File::create(path(n)).expect("a file can be made"));
        let mut command = child.ns.command("tcpdump");
        command.args(["-n", "-l", "-i", "eth0", "icmp"]);
        let mut tcpdump = Process::start(command.stdin(Stdio::null()).stdout(out).stderr(err));
        eventually("tcpdump listens", SOON, || read("err").contains("listening on eth0"));
        let sockets = child.ns.run(&["ss", "--packet", "--no-header", "--extended", "--info"]);
        assert!(sockets.contains("ring_rx("), "it has a ring: {sockets}");
        let pairs = [
            (&child.ns, OWN, site.lan.router.ip),
            (&site.lan.router.ns, site.lan.router.ip, OWN),
            (&site.lan.hosts[0].ns, site.lan.hosts[0].ip, OWN),
            (&sibling.ns, SIBLING, OWN),
        ];
        for (ns, from, to) in pairs {
            let result = ping(ns, IpAddr::from(to), 1, Duration::from_millis(10));
            assert!(result.is_clean(), "{from} > {to}: {result:?}");
            for line in [
                format!("IP {from} > {to}: ICMP echo request"),
                format!("IP {to} > {from}: ICMP echo reply"),
            ] {
                eventually(&line, SOON, || read("out").contains(&line));
            }
        }
        tcpdump.signal(Signal::SIGINT);
        let ended = tcpdump.wait(SOON).expect("tcpdump ends after SIGINT");
        assert!(ended.success(), "{ended}: {}", read("err"));
        assert!(read("err").contains("\n0 packets dropped by kernel"), "{}", read("err"));
        site.assert_nothing_counted(&[&child, &sibling]);
    }
}
