//! Devices that the owner of a child makes above the child's own link: bonds, teams, ipvlan, tunnels,
//! `MACsec` and VLANs. Each changes what it sends by its own rules, and hands the result to the link.
//!
//! A kernel may lack a driver. Debian's, in a virtual machine, has all of [`KINDS`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    net::{Ipv4Addr, UdpSocket},
    process::Stdio,
    time::Duration,
};

use nix::libc;
use tests::{
    eventually,
    forge::{Arp, UDP, V4, udp},
    frames::{ARP, Frame, token},
    kernel,
    mac::Mac,
    netns::Netns,
    process::Process,
    tap::Tap,
    team,
};

use crate::site::{A_WHILE, Attacker, Counts, Site, settle};

/// The kinds of links that are tried, by `ip link`'s names.
const KINDS: [&str; 9] =
    ["bond", "gre", "gretap", "ipip", "ipvlan", "macsec", "team", "vlan", "vxlan"];

/// The name of the device that is being tried.
const DEVICE: &str = "above";

/// An address inside of a tunnel, and that of its other end.
const INNER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const OTHER_END: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is dropped and counted as this, and arrives where nothing is checked.
    Forged(&'static str),
    /// It is dropped and counted as this in any case.
    Never(&'static str),
    /// It arrives.
    Honest,
}

/// A frame that was sent.
struct Shot {
    name: String,
    token: String,
    arrives: bool,
}

/// All devices, one after the other, under one setting of security.
struct Trial<'a> {
    site: &'a Site,
    enforced: bool,
    made: BTreeSet<&'static str>,
    shots: Vec<Shot>,
    expected: BTreeMap<&'static str, (u64, u64)>,
    before: Counts,
}

impl<'a> Trial<'a> {
    fn new(site: &'a Site, enforced: bool) -> Self {
        let _before = site.heard();
        let (made, shots, expected) = Default::default();
        Self { site, enforced, made, shots, expected, before: site.counts() }
    }

    /// Runs `ip link add LINE` in the child's namespace; says no if the kernel has no driver for it.
    #[track_caller]
    fn make(&mut self, kind: &'static str, line: &str) -> bool {
        let words: Vec<_> = ["ip", "link", "add"].into_iter().chain(line.split(' ')).collect();
        let output = self.site.evil.ns.exec(&words);
        if output.status.success() {
            self.made.insert(kind);
            return true;
        }
        let error = String::from_utf8_lossy(&output.stderr);
        let unknown = ["Unknown device type", "not supported"].iter().any(|e| error.contains(e));
        assert!(unknown, "cannot make a device: ip link add {line}: {error}");
        false
    }

    /// Sends a frame with a token.
    fn shoot(&mut self, what: &str, name: &str, fate: Fate, send: impl FnOnce(&str)) {
        let token = token();
        send(&token);
        let arrives = match fate {
            Fate::Honest => true,
            Fate::Forged(_) => !self.enforced,
            Fate::Never(_) => false,
        };
        if let Fate::Forged(reason) | Fate::Never(reason) = fate
            && !arrives
        {
            self.expected.entry(reason).or_default().0 += 1;
        }
        self.shots.push(Shot { name: format!("{what}: {name}"), token, arrives });
    }

    /// Sends a frame through a tap.
    fn frame(&mut self, what: &str, name: &str, fate: Fate, tap: &Tap, frame: Frame) {
        self.shoot(what, name, fate, |token| tap.send(&frame.trailer(token)));
    }

    /// Sends a datagram with the victim's address to the router.
    fn packet(&mut self, what: &str, ns: &Netns) {
        let (from, to) = (self.site.victim.ip, self.site.lan.router.ip);
        self.shoot(
            what,
            "a sibling's address, by the kernel",
            Fate::Forged("source_ip"),
            |token| {
                datagram(ns, from, to, token);
            },
        );
    }

    /// Sends an honest frame and lies through a device with the child's MAC.
    fn lies(&mut self, what: &str, tap: &Tap) {
        let (evil, victim, router) = (&self.site.evil, &self.site.victim, &self.site.lan.router);
        let packet = V4::new(victim.ip, router.ip, UDP, udp(5000, 5001));
        let claim = Arp::announcement((evil.mac, victim.ip));
        let frames = [
            ("its own", Fate::Honest, Frame::new(evil.mac, router.mac, "")),
            ("a sibling's MAC", Fate::Forged("source_mac"), Frame::new(victim.mac, router.mac, "")),
            ("a sibling's address", Fate::Forged("source_ip"), packet.frame(evil.mac, router.mac)),
            ("a claim", Fate::Forged("neighbour_claim"), claim.broadcast(evil.mac)),
        ];
        for (name, fate, frame) in frames {
            self.frame(what, name, fate, tap, frame);
        }
    }

    fn what(&self) -> String {
        format!("{:?}, enforced {}", self.site.attacker, self.enforced)
    }

    /// Panics unless just what was to be dropped has been counted, each as what it is.
    #[track_caller]
    fn assert_counted(&self) {
        let expected: Vec<_> =
            self.expected.iter().map(|(reason, count)| (*reason, *count)).collect();
        self.site.counted(&self.what(), &self.before, &expected);
    }

    /// The same where the child's kernel may have sent more with a forged MAC.
    #[track_caller]
    fn assert_counted_or_more(&self) {
        let what = format!("{}: {:?} are counted", self.what(), self.expected);
        eventually(&what, Duration::from_secs(5), || {
            let now = self.site.counts();
            let of = |counts: &Counts, reason: &str| counts.get(reason).map_or(0, |count| count.0);
            let is_counted = |(reason, (count, _)): (&&str, &(u64, u64))| {
                of(&now, reason) >= of(&self.before, reason) + count
            };
            self.expected.iter().all(is_counted)
        });
    }

    /// Panics unless each frame has met its fate.
    #[track_caller]
    fn assert_heard(&self) {
        let heard = self.site.heard();
        let mut wrong = Vec::new();
        for shot in &self.shots {
            let of = |frames: &[Frame]| frames.iter().any(|frame| frame.carries(&shot.token));
            let who: Vec<_> = heard.iter().filter(|h| of(&h.1)).map(|h| h.0).collect();
            if who.is_empty() == shot.arrives {
                wrong.push(format!("{}: heard by {who:?}", shot.name));
            }
        }
        assert!(wrong.is_empty(), "{}: {wrong:#?}", self.what());
    }
}

/// Runs lines of `ip -batch` in a namespace.
#[track_caller]
fn batch(ns: &Netns, lines: &[&str]) {
    let mut ip = ns.command("ip");
    let mut ip = Process::start(ip.args(["-batch", "-"]).stdin(Stdio::piped()));
    let mut input = ip.streams().stdin.take().expect("it is piped");
    input.write_all((lines.join("\n") + "\n").as_bytes()).expect("it reads");
    drop(input);
    let status = ip.wait(Duration::from_secs(10));
    assert!(status.is_some_and(|status| status.success()), "ip -batch: {lines:#?}");
}

/// Sends a datagram. One that is dropped on its way out is sent, too.
#[track_caller]
fn datagram(ns: &Netns, from: Ipv4Addr, to: Ipv4Addr, token: &str) {
    let socket = ns.enter(|| UdpSocket::bind((from, 0)).expect("an address of the namespace"));
    let sent =
        socket.send_to(token.as_bytes(), (to, 5001)).map_err(|e: io::Error| e.raw_os_error());
    assert!(matches!(sent, Ok(_) | Err(Some(libc::ENOBUFS))), "cannot send: {sent:?}");
}

/// Lines that route what is for the router through the device, from the victim's address.
fn as_the_victim(site: &Site) -> [String; 4] {
    let (victim, router) = (&site.victim, &site.lan.router);
    [
        // A bond asks from an address in whose subnet the target is, or from none.
        format!("address add {}/24 dev {DEVICE} noprefixroute", victim.ip),
        format!("link set {DEVICE} up"),
        format!("route add {} dev {DEVICE} src {}", router.ip, victim.ip),
        format!("neigh replace {} lladdr {} dev {DEVICE} nud permanent", router.ip, router.mac),
    ]
}

/// Tunnels whose outer source is the victim's.
fn tunnels(trial: &mut Trial) {
    let site = trial.site;
    let (ns, router, victim) = (&site.evil.ns, &site.lan.router, &site.victim);
    batch(
        ns,
        &[
            // A link that was down has lost its IPv6 addresses, and their routes.
            &format!("route replace {}/128 dev eth0", router.ip6),
            &format!("address add {}/32 dev lo", victim.ip),
            &format!("address add {}/128 dev lo nodad", victim.ip6),
            &format!("neigh replace {} lladdr {} dev eth0 nud permanent", router.ip, router.mac),
            &format!("neigh replace {} lladdr {} dev eth0 nud permanent", router.ip6, router.mac),
        ],
    );
    let ends = format!("local {} remote {} dev eth0", victim.ip, router.ip);
    let ends6 = format!("local {} remote {} dev eth0", victim.ip6, router.ip6);
    let inner = Netns::without_ipv6();
    let vxlan = "id 5 dstport 4789";
    let cases = [
        ("gre", "gre", ends.clone(), None),
        ("ipip", "ipip", ends.clone(), None),
        ("gretap", "gretap", ends.clone(), None),
        ("vxlan", "vxlan", format!("{vxlan} {ends}"), None),
        ("vxlan over IPv6", "vxlan", format!("{vxlan} {ends6}"), None),
        ("vxlan in a namespace inside", "vxlan", format!("{vxlan} {ends}"), Some(&inner)),
    ];
    let fate = Fate::Forged("source_ip");
    for (name, kind, line, inside) in cases {
        if !trial.make(kind, &format!("{DEVICE} type {kind} {line}")) {
            continue;
        }
        let at = inside.unwrap_or(ns);
        if inside.is_some() {
            ns.ip(&format!("link set {DEVICE} netns {}", inner.name()));
        }
        batch(
            at,
            &[&format!("address add {INNER}/30 dev {DEVICE}"), &format!("link set {DEVICE} up")],
        );
        if matches!(kind, "gre" | "ipip") {
            let send = |token: &str| datagram(at, INNER, OTHER_END, token);
            trial.shoot(name, "the outer source", fate, send);
        } else {
            let frame = Frame::new(Mac::local(79), Mac::BROADCAST, "");
            trial.frame(name, "the outer source", fate, &Tap::open(at, DEVICE), frame);
        }
        at.delete(DEVICE);
    }
    batch(
        ns,
        &[
            &format!("address del {}/32 dev lo", victim.ip),
            &format!("address del {}/128 dev lo", victim.ip6),
        ],
    );
}

/// A VLAN that is not the child's, and one inside of it. The host is heard there.
fn vlan(trial: &mut Trial) {
    let site = trial.site;
    let ns = &site.evil.ns;
    if !trial.make("vlan", &format!("link eth0 name {DEVICE} type vlan id 20")) {
        return;
    }
    batch(
        ns,
        &[
            &format!("link set {DEVICE} up"),
            &format!("link add link {DEVICE} name stacked up type vlan id 30"),
        ],
    );
    let broadcast = |mac| Frame::new(mac, Mac::BROADCAST, "");
    let own = || broadcast(site.evil.mac);
    let tap = Tap::open(ns, DEVICE);
    trial.frame("vlan", "another VLAN", Fate::Never("vlan_not_allowed"), &tap, own());
    let tap = Tap::open(ns, "stacked");
    trial.frame("vlan", "two tags", Fate::Never("stacked_tags"), &tap, own());
    let host = broadcast(site.lan.hosts[0].mac).vlan(20);
    trial.frame("vlan", "of the host", Fate::Honest, &site.host, host);
    ns.delete(DEVICE);
}

/// `MACsec` hides what is in a frame, and not from which MAC it comes.
fn macsec(trial: &mut Trial) {
    let site = trial.site;
    let (ns, evil, router) = (&site.evil.ns, &site.evil, &site.lan.router);
    if !trial.make("macsec", &format!("link eth0 name {DEVICE} type macsec encrypt off")) {
        return;
    }
    let key = "000102030405060708090a0b0c0d0e0f";
    batch(
        ns,
        &[
            &format!("macsec add {DEVICE} tx sa 0 pn 1 on key 01 {key}"),
            &format!("link set {DEVICE} up"),
        ],
    );
    let tap = Tap::open(ns, DEVICE);
    for (name, fate, mac) in [
        ("its own", Fate::Honest, evil.mac),
        ("a sibling's MAC", Fate::Forged("source_mac"), site.victim.mac),
        ("the gateway's MAC", Fate::Forged("source_mac"), router.mac),
    ] {
        trial.frame("macsec", name, fate, &tap, Frame::new(mac, router.mac, ""));
    }
    ns.delete(DEVICE);
}

/// ipvlan with the victim's address: in the child's namespace, and in another.
fn ipvlan(trial: &mut Trial) {
    let site = trial.site;
    let (inner, router) = (Netns::without_ipv6(), &site.lan.router);
    let neighbour =
        format!("neigh replace {} lladdr {} dev eth0 nud permanent", router.ip, router.mac);
    batch(&site.evil.ns, &[&neighbour]);
    let (own, elsewhere) = (String::new(), format!(" netns {}", inner.name()));
    for (what, ns, place) in
        [("ipvlan", &site.evil.ns, own), ("ipvlan in a namespace inside", &inner, elsewhere)]
    {
        let line = format!("link eth0 name {DEVICE}{place} type ipvlan mode l2");
        if !trial.make("ipvlan", &line) {
            return;
        }
        batch(ns, &as_the_victim(site).each_ref().map(String::as_str));
        let tap = Tap::open(ns, DEVICE);
        trial.lies(what, &tap);
        trial.packet(what, ns);
        drop(tap);
        ns.ip(&format!("link set {DEVICE} type ipvlan mode l3"));
        trial.packet(&format!("{what}, l3"), ns);
        ns.delete(DEVICE);
    }
}

/// Makes a bond or a team of the child's link alone, with the child's MAC and the victim's address.
#[track_caller]
fn aggregate(trial: &mut Trial, kind: &'static str, options: &str) -> bool {
    let (site, ns) = (trial.site, &trial.site.evil.ns);
    let bond = kind == "bond";
    let type_and_mode = if bond { format!("bond mode {options}") } else { kind.to_owned() };
    if !trial.make(kind, &format!("{DEVICE} type {type_and_mode}")) {
        return false;
    }
    if !bond {
        team::set_mode(ns, DEVICE, options);
    }
    let lines = [
        "link set eth0 down",
        &format!("link set {DEVICE} address {}", site.evil.mac),
        &format!("link set eth0 master {DEVICE}"),
    ];
    let more = as_the_victim(site);
    batch(ns, &[&lines[..], &more.each_ref().map(String::as_str)].concat());
    true
}

/// Takes it apart. The driver gives the link its own MAC back.
#[track_caller]
fn separate(site: &Site) {
    batch(
        &site.evil.ns,
        &["link set eth0 nomaster", &format!("link delete {DEVICE}"), "link set eth0 up"],
    );
}

/// Bonds and teams: with the child's MAC and the victim's address, then with the gateway's MAC.
fn bonds(trial: &mut Trial) {
    let site = trial.site;
    let (ns, gateway) = (&site.evil.ns, site.lan.router.mac);
    for (kind, mode) in [("bond", "active-backup"), ("bond", "balance-rr"), ("team", "roundrobin")]
    {
        if !aggregate(trial, kind, mode) {
            continue;
        }
        let what = format!("{kind} {mode}");
        eventually(&format!("the {what} has a carrier"), Duration::from_secs(5), || {
            ns.link(DEVICE)["operstate"] == "UP"
        });
        trial.lies(&what, &Tap::open(ns, DEVICE));
        trial.packet(&what, ns);
        ns.set_mac(DEVICE, gateway);
        assert_eq!(ns.mac("eth0"), gateway, "the {what} gives its MAC to its link");
        let socket = Tap::cooked(ns, DEVICE);
        let name = "the gateway's MAC, by the kernel";
        trial.shoot(&what, name, Fate::Forged("source_mac"), |token| {
            let frame = Frame::new(gateway, Mac::BROADCAST, "").trailer(token);
            socket.send_cooked(frame.destination, frame.ethertype, &frame.payload);
        });
        separate(site);
    }
}

/// A bond that asks by itself whether a station answers (`arp_interval`), from the victim's address: such a
/// frame has no socket.
fn asking_bond(trial: &mut Trial) {
    let site = trial.site;
    let (victim, router) = (site.victim.ip, site.lan.router.ip);
    let count = || site.counts().get("neighbour_claim").map_or(0, |count| count.0);
    let before = count();
    let options = format!("active-backup arp_interval 100 arp_ip_target {router}");
    if !aggregate(trial, "bond", &options) {
        return;
    }
    let asks = |f: &Frame| {
        (f.ethertype, f.source) == (ARP, site.evil.mac)
            && f.payload[14..18] == victim.octets()
            && f.payload[24..28] == router.octets()
    };
    let what = format!("{}: a bond that asks", trial.what());
    if trial.enforced {
        // It asks again and again, as no station answers.
        eventually(&format!("{what}, is counted"), Duration::from_secs(5), || {
            count() >= before + 3
        });
        for (who, heard) in site.heard() {
            let asked: Vec<_> = heard.iter().filter(|f| asks(f)).collect();
            assert!(asked.is_empty(), "{what}: {who} hears {asked:?}");
        }
    } else {
        assert!(site.wire.find(10 * A_WHILE, asks).is_some(), "{what}: is not heard");
    }
    separate(site);
}

/// Sends through every device with an attacker, with security and without.
#[track_caller]
fn assail(attacker: Attacker) {
    let site = Site::new(attacker);
    settle(&site.evil.ns);
    // What the kernel says in IPv6 for a device itself would be counted, too.
    site.evil.ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    // Last without security: what is learned while nothing is checked stays a child's own.
    for enforced in [true, false] {
        if !enforced {
            site.set("--security off --trust mac");
        }
        let mut steady = Trial::new(&site, enforced);
        for device in [tunnels, vlan, macsec, ipvlan] {
            device(&mut steady);
        }
        steady.assert_counted();
        steady.assert_heard();
        asking_bond(&mut steady);
        // Last, because the child's kernel may send more while its link has the gateway's MAC.
        let mut changing = Trial::new(&site, enforced);
        bonds(&mut changing);
        changing.assert_heard();
        changing.assert_counted_or_more();
        let made: BTreeSet<_> = steady.made.union(&changing.made).copied().collect();
        let sent = steady.shots.len() + changing.shots.len();
        eprintln!("{attacker:?}, enforced {enforced}: {sent} frames through {made:?}");
        let missing: Vec<_> = KINDS.iter().filter(|kind| !made.contains(*kind)).collect();
        if !missing.is_empty() {
            eprintln!("skipped: Linux {} has no links of type {missing:?}", kernel::release());
        }
        // Debian's kernels for virtual machines have every driver.
        let has_all = kernel::release().ends_with("-cloud-amd64");
        assert!(!has_all || missing.is_empty(), "drivers are missing: {missing:?}");
    }
}

/// No frame with the address, the MAC or the VLAN of another station leaves a macvlan child by a device
/// above its link, be it made by the owner or by the kernel for it: by a bond or a team that has the child's
/// link, by ipvlan, by a tunnel whose outer source is a sibling's, by `MACsec` or by an 802.1Q sub-interface.
/// Each is counted as what it is. What is the child's own passes, and without security the forgeries arrive.
#[test]
fn no_forgery_leaves_above_a_macvlan_childs_link() {
    for &attacker in Attacker::all().iter().filter(|&&attacker| attacker != Attacker::Veth) {
        assail(attacker);
    }
}

/// The same of a veth child.
#[test]
fn no_forgery_leaves_above_a_veth_childs_link() {
    assail(Attacker::Veth);
}
