//! Links of children that the store has no record of, because it was lost or replaced by an older copy
//! while the daemon was down: they get nothing that they did not have.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    daemon::Daemon,
    eventually,
    frames::{Frame, token},
    mac::Mac,
    netns::Netns,
    patience,
    site::{SOON, v4},
    slowness,
    tap::Tap,
    topology::{Lan, Options, PARENT},
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

/// In which time a frame that arrives has arrived.
const A_WHILE: Duration = Duration::from_millis(300);

/// The children, each with its network and the end of its address. Of the first there is a record in the
/// older copy as well.
const CHILDREN: [(&str, &str, u8); 4] =
    [("stays", "lan", 104), ("m", "lan", 101), ("v", "lanv", 102), ("t", "lan10", 103)];

/// A host with a child that every copy of its store knows, and with children that only the newer one does:
/// `m` (macvlan in bridge mode), and in VLAN 10 `v` (veth) and `t` (macvlan).
struct Site {
    children: Vec<Netns>,
    macs: Vec<Mac>,
    daemon: Daemon,
    lan: Lan,
    older: Vec<u8>,
    newer: Vec<u8>,
    backup: String,
}

impl Site {
    /// The daemon is down.
    fn new(tc: &str) -> Self {
        // Tags in the frame, so that XDP and taps see them.
        let lan = Lan::with(Options { vlan_offload: false, ..Options::default() });
        let mut daemon = Daemon::start_with(&lan.hosts[0].ns, &["--tc", tc]);
        daemon.run(&["parent", "add", PARENT]);
        daemon.network_with("lan", "--mode bridge");
        daemon.network("lanv", 10, "veth");
        // One of its children gives itself another MAC.
        daemon.network_with("lan10", "--vlan 10 --trust mac");
        let children: Vec<Netns> = CHILDREN.iter().map(|_| lan.namespace()).collect();
        let mut macs = Vec::new();
        let mut older = Vec::new();
        for ((name, network, last), ns) in CHILDREN.iter().zip(&children) {
            macs.push(daemon.child(name, network, ns, &format!("{}/24", v4(*last))));
            if macs.len() == 1 {
                daemon.stop();
                older = fs::read(daemon.state_dir().join("maclane.redb")).expect("a store");
                daemon.launch();
            }
        }
        let backup = daemon.run(&["export"]);
        daemon.stop();
        let newer = fs::read(daemon.state_dir().join("maclane.redb")).expect("a store");
        Self { children, macs, daemon, lan, older, newer, backup }
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    /// Starts the daemon with the older copy of its store.
    fn launch_older(&mut self) {
        self.put_store(&self.older);
        self.daemon.launch();
    }

    fn put_store(&self, bytes: &[u8]) {
        fs::write(self.daemon.state_dir().join("maclane.redb"), bytes).expect("it can be written");
    }

    /// What of all that a child without a record sends arrives somewhere, and the other way round.
    fn leaks(&self) -> BTreeSet<String> {
        let all = CHILDREN.iter().zip(self.children.iter().zip(&self.macs)).skip(1);
        all.flat_map(|((name, _, last), (ns, mac))| self.leaks_of(name, ns, *mac, *last)).collect()
    }

    fn leaks_of(&self, name: &str, ns: &Netns, mac: Mac, last: u8) -> BTreeSet<String> {
        let own = Tap::open(ns, "eth0");
        let stays = Tap::open(&self.children[0], "eth0");
        let router = Tap::open(&self.lan.router.ns, PARENT);
        let others =
            [("a sibling", &stays, self.macs[0]), ("the wire", &router, self.lan.router.mac)];
        let mut leaks = BTreeSet::new();
        let in_vlan = |frame: Frame, vlan| if vlan == 0 { frame } else { frame.vlan(vlan) };
        let mut sent = Vec::new();
        let to = others.map(|(who, _, mac)| (who, mac));
        for (what, to) in to.into_iter().chain([("all", Mac::BROADCAST)]) {
            for vlan in [0, 10, 20] {
                let token = token();
                own.send(&in_vlan(Frame::new(mac, to, &token), vlan));
                sent.push((format!("{name} to {what}, tag {vlan}"), token));
            }
        }
        let request = token();
        own.send(&Frame::arp_request(mac, v4(last), v4(10), &request));
        sent.push((format!("{name}'s ARP request"), request));
        // What has arrived at the first has arrived at the second.
        for ((who, tap, _), time) in others.into_iter().zip([A_WHILE, Duration::ZERO]) {
            let heard = tap.collect(time);
            let arrived = sent.iter().filter(|(_, token)| heard.iter().any(|f| f.carries(token)));
            leaks.extend(arrived.map(|(what, _)| format!("{what}, is heard by {who}")));
        }
        let mut sent = Vec::new();
        for (who, tap, from) in others {
            for (what, to) in [("all", Mac::BROADCAST), (name, mac)] {
                for vlan in [0, 10, 20] {
                    let token = token();
                    tap.send(&in_vlan(Frame::new(from, to, &token), vlan));
                    sent.push((format!("{who} to {what}, tag {vlan}, is heard by {name}"), token));
                }
            }
        }
        let heard = own.collect(A_WHILE);
        let arrived = sent.iter().filter(|(_, token)| heard.iter().any(|f| f.carries(token)));
        leaks.extend(arrived.map(|(what, _)| what.clone()));
        if self.host_hears(ns) {
            leaks.insert(format!("{name}'s datagram is heard by the host"));
        }
        for (who, from, to) in [("the host", self.host(), v4(last)), (name, ns, v4(10))] {
            if ping(from, to, 1, Duration::from_millis(10)).is_clean() {
                leaks.insert(format!("{who} reaches {to}"));
            }
        }
        leaks
    }

    /// True if a datagram of a child reaches a socket of the host, by whatever interface.
    fn host_hears(&self, child: &Netns) -> bool {
        let socket = self.host().enter(|| UdpSocket::bind((v4(10), 0))).expect("a socket");
        let to = socket.local_addr().expect("it is bound");
        // The kernel may say at once that it has no way for it.
        let _ = child.enter(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"hello", to));
        socket.set_read_timeout(Some(patience(A_WHILE))).expect("it can wait");
        socket.recv(&mut [0; 16]).is_ok()
    }

    /// The children without a record are isolated and reported.
    #[track_caller]
    fn assert_isolated(&self, when: &str) {
        let is_reported = || {
            ["\\\"m\\\"", "\\\"t\\\"", "ml-v"].iter().all(|it| self.daemon.problems().contains(it))
        };
        wait(is_reported);
        assert_eq!(self.leaks(), BTreeSet::new(), "{when}");
        assert!(is_reported(), "{when}: {}", self.daemon.problems());
        let problems = self.daemon.problems();
        for word in ["no record", "isolated", "maclane import", "maclane child rm", "ip link del"] {
            assert!(problems.contains(word), "{when}: \"{word}\" is not in: {problems}");
        }
        let list = self.daemon.json(&["child", "ls"]);
        let states = list.as_array().expect("a list").iter().filter(|it| it["origin"] == "adopted");
        let states: Vec<&Value> = states.map(|it| &it["state"]).collect();
        let isolated = states.iter().filter(|state| **state == "isolated").count();
        assert_eq!(isolated, 2, "{when}: {list}");
        assert_reaches(self.host(), v4(104));
        assert_reaches(&self.children[0], self.lan.router.ip);
    }

    /// All is as it was before the store was lost.
    #[track_caller]
    fn assert_works(&self, when: &str) {
        for last in [101, 104] {
            eventually(&format!("{when}: the host reaches .{last}"), SOON, || {
                ping(self.host(), v4(last), 1, Duration::from_millis(10)).is_clean()
            });
        }
        assert_reaches(&self.children[1], v4(104));
        assert_reaches(&self.children[2], v4(103));
        for other in [2, 3] {
            assert_does_not_reach(&self.children[other], v4(10));
        }
        let tap = Tap::open(&self.lan.router.ns, PARENT);
        let text = token();
        let own = Tap::open(&self.children[3], "eth0");
        own.send(&Frame::arp_request(self.macs[3], v4(103), v4(1), &text));
        let heard = tap.with_token(&text, A_WHILE);
        assert!(heard.len() == 1 && heard[0].vlan_id() == 10, "{when}: VLAN 10 is left: {heard:?}");
        eventually(&format!("{when}: no problem is left"), SOON, || self.daemon.problems() == "[]");
        for ((name, ..), mac) in CHILDREN.iter().zip(&self.macs) {
            assert_eq!(self.daemon.inspect(name)["mac"], json!(mac.to_string()), "{when}");
        }
        assert_eq!(self.daemon.inspect("m")["mode"], "bridge", "{when}");
    }
}

/// Waits until it is so, or for a while: what comes next says what it is without that.
fn wait(is_so: impl Fn() -> bool) {
    for _ in 0..30 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A third party's link sends and hears in every VLAN: the frames that tell whether a link is isolated are
/// heard where it is not.
#[test]
fn a_third_partys_link_is_not_isolated() {
    let mut site = Site::new("auto");
    let ns = site.lan.namespace();
    let mac = site.host().macvlan(PARENT, "bridge", &ns, "eth0");
    ns.address("eth0", "192.168.50.105/24");
    site.launch_older();
    site.assert_isolated("beside a third party's link");
    let leaks = site.leaks_of("third", &ns, mac, 105);
    for to in ["all", "the wire"] {
        for vlan in [0, 10, 20] {
            let wanted = format!("third to {to}, tag {vlan}, is heard by the wire");
            assert!(leaks.contains(&wanted), "\"{wanted}\" is not in {leaks:#?}");
        }
    }
    for wanted in [
        "third to a sibling, tag 0, is heard by a sibling",
        "the wire to all, tag 20, is heard by third",
        "the wire to third, tag 0, is heard by third",
        "the host reaches 192.168.50.105",
        "third reaches 192.168.50.10",
        "third's datagram is heard by the host",
    ] {
        assert!(leaks.contains(wanted), "\"{wanted}\" is not in {leaks:#?}");
    }
}

/// A daemon that finds an older copy of its store isolates the links of the children that it does not know,
/// macvlan and veth, also after another restart, and whatever the owner of the link does with its alias. With
/// the newer copy all is as before.
#[test]
fn links_without_a_record_are_isolated() {
    // A slow machine tries what its kernel has.
    let is_slow = slowness() > 1;
    for tc in ["auto", "clsact"].into_iter().take(if is_slow { 1 } else { 2 }) {
        let mut site = Site::new(tc);
        site.launch_older();
        site.assert_isolated(tc);
        if !is_slow {
            site.daemon.restart();
            site.assert_isolated("after a restart");
        }
        site.daemon.stop();
        site.put_store(&site.newer);
        site.daemon.launch();
        site.assert_works(tc);
    }
}

/// The owner of a link that takes the alias away gets no more by that: the tables say what it had.
#[test]
fn a_link_without_its_alias_is_isolated_too() {
    let mut site = Site::new("auto");
    for ns in [&site.children[1], &site.children[3]] {
        ns.run(&["ip", "link", "set", "dev", "eth0", "alias", ""]);
    }
    site.launch_older();
    let isolated = || site.daemon.problems().matches("no record").count() == 3;
    wait(isolated);
    assert_eq!(site.leaks(), BTreeSet::new());
    assert!(isolated(), "{}", site.daemon.problems());
    site.daemon.restart();
    assert_eq!(site.leaks(), BTreeSet::new(), "after a restart");
    site.daemon.stop();
    site.put_store(&site.newer);
    site.daemon.launch();
    site.assert_works("with the newer copy");
}

/// A backup that is imported gives isolated links back what they had, at once, also one that has another
/// MAC than the backup says.
#[test]
fn an_import_ends_the_isolation() {
    let mut site = Site::new("auto");
    site.macs[3] = Mac::local(77);
    site.children[3].ip(&format!("link set dev eth0 address {}", site.macs[3]));
    site.launch_older();
    site.assert_isolated("before");
    let file = site.daemon.state_dir().join("backup.json");
    fs::write(&file, &site.backup).expect("a file");
    site.daemon.run(&["import", file.to_str().expect("a path in UTF-8")]);
    site.assert_works("after the import");
    site.daemon.restart();
    site.assert_works("after a restart");
}

/// An isolated link can be removed, as its problem says.
#[test]
fn an_isolated_link_can_be_removed() {
    let mut site = Site::new("auto");
    site.launch_older();
    site.assert_isolated("before");
    for n in [1, 3] {
        let (code, message) = site.daemon.fail(&["child", "rm", CHILDREN[n].0]);
        assert_eq!(code, 3, "{message}");
        site.daemon.run(&["child", "rm", &format!("{PARENT}/{}", site.macs[n])]);
        assert!(!site.children[n].has("eth0"), "the link is left");
    }
    site.host().ip("link del ml-v");
    eventually("no problem is left", SOON, || site.daemon.problems() == "[]");
    let macs: Vec<String> = site.macs.iter().map(ToString::to_string).collect();
    let fdb = site.daemon.json(&["fdb", "ls"]).to_string();
    assert!(macs[1..].iter().all(|mac| !fdb.contains(mac)), "{fdb}");
    site.daemon.child("m", "lan", &site.children[1], "192.168.50.101/24");
    assert_reaches(site.host(), v4(101));
}

/// A macvlan that the owner of a child makes and gives the alias of that child has nothing by that.
#[test]
fn an_alias_alone_gives_a_link_nothing() {
    let lan = Lan::with(Options { vlan_offload: false, ..Options::default() });
    let mut daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("lan", 0, "macvlan");
    let ns = lan.namespace();
    daemon.child("m", "lan", &ns, "192.168.50.101/24");
    ns.ip("link add link eth0 name two type macvlan mode bridge");
    ns.run(&["ip", "link", "set", "dev", "two", "alias", "maclane child m"]);
    ns.up("two");
    let (mac, host) = (ns.mac("two"), Ipv4Addr::new(192, 168, 50, 10));
    let router = Tap::open(&lan.router.ns, PARENT);
    for restarted in [false, true] {
        if restarted {
            daemon.restart();
        }
        let is_reported = || daemon.problems().contains("has another link");
        wait(is_reported);
        let own = Tap::open(&ns, "two");
        let tokens: Vec<(u16, String)> = [0, 20].map(|vlan| (vlan, token())).into();
        for (vlan, token) in &tokens {
            let frame = Frame::new(mac, Mac::BROADCAST, token);
            own.send(&if *vlan == 0 { frame } else { frame.vlan(*vlan) });
        }
        let heard = router.collect(A_WHILE);
        for (vlan, token) in &tokens {
            assert!(!heard.iter().any(|f| f.carries(token)), "VLAN {vlan}, restarted: {restarted}");
        }
        assert!(is_reported(), "restarted: {restarted}: {}", daemon.problems());
        assert_reaches(&ns, host);
    }
    daemon.run(&["child", "rm", &format!("{PARENT}/{mac}")]);
    assert!(!ns.has("two") && ns.has("eth0"));
    eventually("no problem is left", SOON, || daemon.problems() == "[]");
    assert_reaches(&ns, host);
}
