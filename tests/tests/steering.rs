//! Questions about addresses, in ARP and neighbour discovery, reach who can answer them and nobody
//! else.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tests::{
    daemon::Daemon,
    eventually,
    forge::{ALL_NODES, Arp, advertisement, solicitation, solicited_node},
    frames::{ARP, Frame, token},
    kernel,
    mac::Mac,
    netns::Netns,
    patience,
    tap::Tap,
    topology::{Lan, Options, PARENT},
    traffic::assert_reaches,
};

const A_WHILE: Duration = Duration::from_millis(250);

/// A station with a tap.
struct Station {
    name: &'static str,
    ns: Option<Netns>,
    mac: Mac,
    ip: Ipv4Addr,
    ip6: Ipv6Addr,
    tap: Tap,
}

/// An address that nobody has.
const STRANGER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 168, 50, 77), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x77));

/// How the children of a [`Site`] are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addresses {
    /// maclane has given them.
    Given,
    /// They have taken them themselves.
    Own,
}

/// ```text
///  host ── eth0 ──── wire ── router
///   ├ m1, m2 (macvlan)  v1, v2 (veth), in the VLAN
///   └ x (veth, in another VLAN)
/// ```
///
/// With a VLAN the host has no address there, and the router speaks with its tag.
struct Site {
    children: Vec<Station>,
    host: Station,
    router: Station,
    vlan: u16,
    daemon: Daemon,
    lan: Lan,
}

/// What makes one site differ from another.
#[derive(Clone, Copy, Debug)]
struct Shape<'a> {
    vlan: u16,
    /// More arguments of `parent add`.
    parent: &'a str,
    /// More arguments of `network create`.
    network: &'a str,
    mode: &'a str,
    addresses: Addresses,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self { vlan: 0, parent: "", network: "", mode: "vepa", addresses: Addresses::Given }
    }
}

const CHILDREN: [(&str, &str, u8); 4] =
    [("m1", "macvlan", 101), ("m2", "macvlan", 102), ("v1", "veth", 103), ("v2", "veth", 104)];

fn addresses(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    let six = u16::from_str_radix(&last.to_string(), 16).expect("digits are hexadecimal");
    (Ipv4Addr::new(192, 168, 50, last), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, six))
}

/// The kernel's macvlan gives its children no groups that they have not joined: it has to be the programs
/// who leave one out.
#[track_caller]
fn hear_all_groups(ns: &Netns) {
    ns.ip("link set eth0 allmulticast on");
}

impl Site {
    #[track_caller]
    fn new(shape: Shape<'_>) -> Self {
        let vlan_offload = shape.parent.is_empty();
        let lan = Lan::with(Options { ipv6: true, vlan_offload, ..Options::default() });
        lan.wire.ip("link set wire type bridge ageing_time 0");
        let daemon = Daemon::start(&lan.hosts[0].ns);
        let words: Vec<_> = shape.parent.split_whitespace().collect();
        daemon.run(&[&["parent", "add", PARENT], &words[..]].concat());
        let Shape { vlan, network, mode, .. } = shape;
        let macvlan = format!("--kind macvlan --mode {mode} --vlan {vlan} {network}");
        daemon.network_with("macvlan", &macvlan);
        daemon.network_with("veth", &format!("--kind veth --vlan {vlan} {network}"));
        let child = |&(name, kind, last): &(&'static str, &str, u8)| {
            let ns = lan.namespace();
            let (ip, ip6) = addresses(last);
            let (cidr, cidr6) = (format!("{ip}/24"), format!("{ip6}/64"));
            let given = ["--ip", &cidr, "--ip", &cidr6];
            let is_given = shape.addresses == Addresses::Given;
            let mac = daemon.child_with(name, kind, &ns, if is_given { &given } else { &[] });
            hear_all_groups(&ns);
            let tap = Tap::open(&ns, "eth0");
            Station { name, ns: Some(ns), mac, ip, ip6, tap }
        };
        let children = CHILDREN.iter().map(child).collect();
        let own = |name, host: &tests::topology::Host| {
            let tap = Tap::open(&host.ns, PARENT);
            Station { name, ns: None, mac: host.mac, ip: host.ip, ip6: host.ip6, tap }
        };
        let (host, router) = (own("host", &lan.hosts[0]), own("router", &lan.router));
        Self { children, host, router, vlan, daemon, lan }
    }

    fn child(&self, name: &str) -> &Station {
        self.children.iter().find(|child| child.name == name).expect("a child of this name")
    }

    /// Everybody who may ask.
    fn askers(&self) -> Vec<&Station> {
        // In a VLAN the host is not a member.
        let host = (self.vlan == 0).then_some(&self.host);
        self.children.iter().chain([&self.router]).chain(host).collect()
    }

    /// Sends a frame of a station; returns who of the others hears it, each once.
    #[track_caller]
    fn hear(&self, from: &Station, frame: Frame) -> Vec<&'static str> {
        let token = token();
        let frame = frame.trailer(&token);
        let is_tagged = self.vlan != 0 && ["router", "host"].contains(&from.name);
        from.tap.send(&if is_tagged { frame.vlan(self.vlan) } else { frame });
        let mut heard = Vec::new();
        let mut patience = A_WHILE;
        for station in self.children.iter().chain([&self.router]) {
            let got = station.tap.with_token(&token, patience).len();
            patience = Duration::ZERO;
            assert!(got <= 1, "{} hears a frame of {} {got} times", station.name, from.name);
            heard.extend((got == 1).then_some(station.name));
        }
        // The tap hears what is put into the parent for macvlan children, too, and all of the wire.
        let macvlan = |frame: &Frame| self.children.iter().any(|c| c.mac == frame.destination);
        let at_host = self.host.tap.with_token(&token, patience);
        if from.name != "router" && at_host.iter().any(|frame| !macvlan(frame)) {
            heard.push("host");
        }
        heard
    }
}

/// A question of a station for an address, in the family of the address.
fn question(from: &Station, target: IpAddr) -> Frame {
    match target {
        IpAddr::V4(ip) => Arp::request((from.mac, from.ip), ip).broadcast(from.mac),
        IpAddr::V6(ip) => solicitation(from.ip6, ip, Some(from.mac)).multicast(from.mac),
    }
}

/// Asks for each address of each station from each other one; `wanted` says who hears it.
#[track_caller]
fn ask_all(site: &Site, what: &str, wanted: impl Fn(&Station, &Station) -> Vec<&'static str>) {
    for from in site.askers() {
        for to in site.askers().into_iter().filter(|to| to.name != from.name) {
            for target in [to.ip.into(), to.ip6.into()] {
                let heard = site.hear(from, question(from, target));
                let case = format!("{what}: {} asks for {} of {}", from.name, target, to.name);
                assert_eq!(heard, wanted(from, to), "{case}");
            }
        }
    }
}

/// Who hears a question for the address of a station, where all are known.
fn steered(from: &Station, to: &Station) -> Vec<&'static str> {
    match to.name {
        // What is on the wire nobody knows: the host and the wire may.
        "router" if from.name == "host" => vec!["router"],
        "router" => vec!["router", "host"],
        // The tap on the host's parent hears all of the wire.
        "host" if from.name == "router" => vec![],
        other => vec![other],
    }
}

#[test]
fn a_question_reaches_the_one_that_can_answer_it_alone() {
    ask_all(&Site::new(Shape::default()), "vepa", steered);
}

#[test]
fn a_question_among_siblings_in_bridge_mode_reaches_its_one() {
    if !kernel::has_tcx() {
        let release = kernel::release();
        eprintln!(
            "skipped: Linux {release} has no TCX, and its macvlan gives siblings all broadcasts"
        );
        return;
    }
    let site = Site::new(Shape { mode: "bridge", ..Shape::default() });
    ask_all(&site, "bridge", |from, to| {
        let mut heard = steered(from, to);
        // Nobody knows where it has to go, and the kernel gives it to the sibling at once.
        if from.name.starts_with('m') && to.name == "router" {
            heard.insert(0, if from.name == "m1" { "m2" } else { "m1" });
        }
        heard
    });
}

#[test]
fn a_question_in_a_tagged_vlan_reaches_its_one() {
    let site = Site::new(Shape { vlan: 30, ..Shape::default() });
    ask_all(&site, "VLAN 30", |from, to| {
        let heard = steered(from, to);
        heard.into_iter().filter(|name| *name != "host").collect()
    });
}

#[test]
fn a_question_through_generic_xdp_reaches_its_one() {
    let site = Site::new(Shape { parent: "--xdp generic", ..Shape::default() });
    ask_all(&site, "generic XDP", steered);
}

#[test]
fn a_question_through_native_xdp_reaches_its_one() {
    let site = Site::new(Shape { parent: "--xdp native", ..Shape::default() });
    ask_all(&site, "native XDP", steered);
}

#[test]
fn where_it_is_wanted_so_a_question_reaches_everybody() {
    let site = Site::new(Shape { network: "--arp flood", ..Shape::default() });
    ask_all(&site, "--arp flood", |from, to| {
        // For the host the host alone: it is no child of the network.
        if to.name == "host" {
            return steered(from, to);
        }
        let all = ["m1", "m2", "v1", "v2", "router", "host"];
        let hears = |name: &&str| *name != from.name && (*name, from.name) != ("host", "router");
        all.into_iter().filter(hears).collect()
    });
}

#[test]
fn a_question_for_a_stranger_reaches_no_child_and_what_concerns_all_reaches_all() {
    let site = Site::new(Shape::default());
    for from in site.askers() {
        let mut outside = vec!["router", "host"];
        outside.retain(|name| *name != from.name && from.name != "router");
        for target in [STRANGER.0.into(), STRANGER.1.into()] {
            let heard = site.hear(from, question(from, target));
            assert_eq!(heard, outside, "{} asks for {target}", from.name);
        }
        let mut others = vec!["m1", "m2", "v1", "v2", "router", "host"];
        others.retain(|name| *name != from.name && (*name, from.name) != ("host", "router"));
        let none = (from.mac, Ipv4Addr::UNSPECIFIED);
        let concerns_all = [
            ("announces itself", Arp::announcement((from.mac, from.ip)).broadcast(from.mac)),
            ("probes", Arp::request(none, STRANGER.0).broadcast(from.mac)),
            (
                "advertises itself",
                advertisement(from.ip6, ALL_NODES, from.ip6, from.mac).multicast(from.mac),
            ),
        ];
        for (what, frame) in concerns_all {
            assert_eq!(site.hear(from, frame), others, "{} {what}", from.name);
        }
    }
}

/// The host answers for strangers (proxy ARP), so that it can be seen how many questions for them reach its
/// stack.
#[track_caller]
fn answer_for_strangers(host: &Netns) {
    let interface = |family: &str, name: &str| format!("net/ipv4/{family}/{PARENT}/{name}");
    host.sysctl(&interface("conf", "forwarding"), "1");
    host.sysctl(&interface("conf", "proxy_arp"), "1");
    host.sysctl(&interface("neigh", "proxy_delay"), "0");
    host.ip("link add nowhere type veth peer name elsewhere");
    host.up("nowhere");
    host.up("elsewhere");
    host.ip(&format!("route add {}/32 dev nowhere", STRANGER.0));
}

#[test]
fn of_a_storm_of_questions_for_strangers_the_host_hears_as_many_as_there_may_be_broadcasts() {
    for xdp in ["off", "native"] {
        let parent = format!("--xdp {xdp} --storm broadcast=200");
        let site = Site::new(Shape { parent: &parent, ..Shape::default() });
        let (host, router) = (&site.lan.hosts[0].ns, &site.lan.router.ns);
        answer_for_strangers(host);
        let asks = question(&site.router, STRANGER.0.into()).to_bytes();
        let answers = |time| {
            let is_answer = |frame: &Frame| {
                frame.ethertype == ARP
                    && frame.source == site.host.mac
                    && frame.payload.get(14..18) == Some(&STRANGER.0.octets()[..])
            };
            site.router.tap.collect(time).iter().filter(|frame| is_answer(frame)).count()
        };
        let dropped = || ["storm", "stranger"].map(|reason| site.daemon.drops(reason));
        let before = dropped();
        let (is_over, began) = (AtomicBool::new(false), Instant::now());
        let sent = thread::scope(|scope| {
            let storm = scope.spawn(|| {
                let (tap, mut sent) = (Tap::open(router, PARENT), 0);
                while !is_over.load(Ordering::Relaxed) {
                    sent += tap.send_burst(&asks, 100);
                    thread::sleep(Duration::from_millis(5));
                }
                sent
            });
            thread::sleep(Duration::from_millis(500));
            // Whoever is here can be found all the while.
            for ip in site.children.iter().chain([&site.host]).map(|station| station.ip) {
                router.ip("neigh flush dev eth0");
                assert_reaches(router, ip);
            }
            is_over.store(true, Ordering::Relaxed);
            storm.join().expect("it does not panic")
        });
        let took = began.elapsed();
        let answered = answers(A_WHILE);
        // 26 in each 0.134 s (`frames_in_window`).
        let most = (took.as_millis() / 134 + 2) * 26;
        assert!(answered > 26 && answered as u128 <= most, "{xdp}: {answered} of {sent}, {took:?}");
        let [storm, stranger] = [0, 1].map(|n| dropped()[n] - before[n]);
        assert_eq!(stranger, 0, "{xdp}: nobody said that strangers go");
        assert_eq!(storm + answered as u64, sent as u64, "{xdp}: dropped and answered");
        // Without a limit each is heard.
        site.daemon.run(&["parent", "add", PARENT, "--xdp", xdp, "--storm", "broadcast=0"]);
        let before = dropped();
        assert_eq!(site.router.tap.send_burst(&asks, 300), 300);
        assert_eq!(answers(A_WHILE), 300, "{xdp}");
        assert_eq!(dropped(), before, "{xdp}");
    }
}

#[test]
fn a_probe_for_the_address_of_a_child_reaches_that_child() {
    let site = Site::new(Shape::default());
    for to in &site.children {
        let none = (site.router.mac, Ipv4Addr::UNSPECIFIED);
        let arp = Arp::request(none, to.ip).broadcast(site.router.mac);
        let mut probe = solicitation(Ipv6Addr::UNSPECIFIED, to.ip6, None);
        probe.to = solicited_node(to.ip6);
        for frame in [arp, probe.multicast(site.router.mac)] {
            assert_eq!(site.hear(&site.router, frame), [to.name], "a probe for {}", to.name);
        }
    }
}

/// Lets a child say once that it has its addresses.
fn speak(child: &Station) {
    child.tap.send(&Arp::announcement((child.mac, child.ip)).broadcast(child.mac));
    let advertisement = advertisement(child.ip6, ALL_NODES, child.ip6, child.mac);
    child.tap.send(&advertisement.multicast(child.mac));
    // An IPv6 address is believed after half a second (RFC 6620).
    thread::sleep(patience(Duration::from_millis(700)));
}

#[test]
fn a_child_that_has_its_own_addresses_hears_questions_until_they_are_known() {
    let site = Site::new(Shape { addresses: Addresses::Own, ..Shape::default() });
    let all = ["m1", "m2", "v1", "v2"];
    for target in [site.child("m2").ip.into(), site.child("v1").ip6.into()] {
        let heard = site.hear(&site.router, question(&site.router, target));
        assert_eq!(heard, all, "nobody knows whose {target} is");
    }
    for child in &site.children {
        speak(child);
        for target in [child.ip.into(), child.ip6.into()] {
            let heard = site.hear(&site.router, question(&site.router, target));
            assert_eq!(heard, [child.name], "{} has said to have {target}", child.name);
        }
    }
}

#[test]
fn an_address_that_a_child_was_seen_with_is_the_wires_once_somebody_there_says_so() {
    for parent in ["", "--xdp generic", "--xdp native"] {
        let site = Site::new(Shape { parent, addresses: Addresses::Own, ..Shape::default() });
        let (thief, router) = (site.child("v1"), &site.router);
        for (target, claim, genuine) in [
            (
                router.ip.into(),
                Arp::announcement((thief.mac, router.ip)).broadcast(thief.mac),
                Arp::request((router.mac, router.ip), site.child("v2").ip).broadcast(router.mac),
            ),
            (
                router.ip6.into(),
                advertisement(router.ip6, ALL_NODES, router.ip6, thief.mac).multicast(thief.mac),
                solicitation(router.ip6, site.child("v2").ip6, Some(router.mac))
                    .multicast(router.mac),
            ),
        ] {
            site.hear(thief, claim);
            thread::sleep(patience(Duration::from_millis(700)));
            let asker = site.child("m2");
            let heard = site.hear(asker, question(asker, target));
            assert_eq!(heard, ["v1"], "{parent}: {target} was seen at v1 last");
            site.hear(router, genuine);
            let heard = site.hear(asker, question(asker, target));
            assert!(heard.contains(&"router"), "{parent}: {target} is the router's: {heard:?}");
        }
    }
}

#[test]
fn an_adopted_child_hears_questions_until_its_addresses_are_known() {
    for mode in ["vepa", "bridge"] {
        let lan = Lan::with(Options { ipv6: true, ..Options::default() });
        lan.wire.ip("link set wire type bridge ageing_time 0");
        let children: Vec<_> = [("a", 111), ("b", 112)]
            .into_iter()
            .map(|(name, last)| {
                let ns = lan.namespace();
                let mac = lan.hosts[0].ns.macvlan(PARENT, mode, &ns, "eth0");
                let (ip, ip6) = addresses(last);
                hear_all_groups(&ns);
                let tap = Tap::open(&ns, "eth0");
                Station { name, ns: Some(ns), mac, ip, ip6, tap }
            })
            .collect();
        let daemon = Daemon::start(&lan.hosts[0].ns);
        daemon.run(&["parent", "add", PARENT]);
        eventually("both are adopted", Duration::from_secs(5), || {
            daemon.json(&["child", "ls"]).as_array().is_some_and(|list| list.len() == 2)
        });
        let own = |name, host: &tests::topology::Host| {
            let tap = Tap::open(&host.ns, PARENT);
            Station { name, ns: None, mac: host.mac, ip: host.ip, ip6: host.ip6, tap }
        };
        let (host, router) = (own("host", &lan.hosts[0]), own("router", &lan.router));
        let site = Site { children, host, router, vlan: 0, daemon, lan };
        for child in &site.children {
            for target in [child.ip.into(), child.ip6.into()] {
                let heard = site.hear(&site.router, question(&site.router, target));
                assert_eq!(heard, ["a", "b"], "{mode}: nobody knows whose {target} is");
            }
        }
        for child in &site.children {
            speak(child);
            for target in [child.ip.into(), child.ip6.into()] {
                let heard = site.hear(&site.router, question(&site.router, target));
                assert_eq!(heard, [child.name], "{mode}: {} has {target}", child.name);
            }
        }
    }
}

#[test]
fn kernels_find_each_other_after_they_have_forgotten_all() {
    for parent in ["", "--xdp generic", "--xdp native"] {
        for mode in ["vepa", "bridge"] {
            let site = Site::new(Shape { parent, mode, ..Shape::default() });
            let (host, router) = (&site.lan.hosts[0], &site.lan.router);
            let children = site.children.iter().map(|c| (c.ns.as_ref(), c.ip, c.ip6));
            let ends =
                [(Some(&host.ns), host.ip, host.ip6), (Some(&router.ns), router.ip, router.ip6)];
            let all: Vec<_> =
                children.chain(ends).filter_map(|(ns, ip, ip6)| Some((ns?, ip, ip6))).collect();
            for (ns, ..) in &all {
                ns.exec(&["ip", "neigh", "flush", "all"]);
            }
            for (from, own, _) in &all {
                for (_, ip, ip6) in all.iter().filter(|(_, ip, _)| ip != own) {
                    assert_reaches(from, *ip);
                    assert_reaches(from, *ip6);
                }
            }
            assert_eq!(site.daemon.problems(), "[]", "{parent} {mode}");
        }
    }
}
