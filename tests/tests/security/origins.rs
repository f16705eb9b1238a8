//! macvlan links that maclane has not made: a third party's are as they were, and what the owner of a
//! child makes gets no more than the child has, into whatever namespace it is moved.
//!
//! The kernel puts a macvlan that is made on a macvlan on the same parent (`drivers/net/macvlan.c`,
//! `macvlan_common_newlink`).

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tests::{
    eventually,
    frames::Frame,
    kernel,
    mac::Mac,
    netns::Netns,
    process::Process,
    site::SOON,
    tap::Tap,
    topology::PARENT,
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

use super::site::{A_WHILE, Attacker, EVIL, Site, settle};

/// `ETH_P_IPV6` (`include/uapi/linux/if_ether.h`).
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The address of a link that is not a child's.
const OUTSIDE: &str = "192.168.50.120";

/// A network namespace without a name, that of a process.
struct Place {
    ns: Netns,
    _process: Process,
}

impl Place {
    /// Of a process that has entered it from the namespace `from`, in which its parent stays.
    fn below(from: &Netns) -> Self {
        let script = "setpriv --pdeathsig KILL unshare --net sleep infinity & echo $!; wait";
        let mut command = from.command("sh");
        let mut process = Process::start(command.args(["-c", script]).stdout(Stdio::piped()));
        let mut line = String::new();
        let output = process.streams().stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("the shell tells");
        Self::of(process, line.trim().parse().expect("the ID of a process"))
    }

    /// Of a process of the host.
    fn apart() -> Self {
        let mut command = Command::new("unshare");
        let process = Process::start(command.args(["--net", "sleep", "infinity"]));
        let id = process.id();
        Self::of(process, id)
    }

    /// Of another process in the same namespace.
    fn again(&self) -> Self {
        let netns = format!("--net={}", self.ns.path().display());
        let mut command = Command::new("nsenter");
        let process = Process::start(command.args([&netns, "sleep", "infinity"]));
        let id = process.id();
        Self::of(process, id)
    }

    fn of(process: Process, id: u32) -> Self {
        let path = format!("/proc/{id}/ns/net");
        eventually("the process is in its namespace", SOON, || {
            fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "sleep")
        });
        Self { ns: Netns::at(&format!("pid:{id}"), path.into()), _process: process }
    }

    /// Moves a link here and sets it up, with an address.
    fn take(&self, from: &Netns, link: &str) {
        from.ip(&format!("link set {link} addrgenmode none"));
        from.ip(&format!("link set {link} netns {}", self.ns.path().display()));
        self.ns.ip("link set lo up");
        self.ns.ip(&format!("address add {OUTSIDE}/24 dev {link}"));
        self.ns.up(link);
    }
}

/// What `child ls` says of a link, once it is there.
fn view(site: &Site, mac: Mac) -> Value {
    let name = format!("{PARENT}/{mac}");
    let mut view = Value::Null;
    eventually(&format!("{name} is known"), SOON, || {
        let list = site.daemon.json(&["child", "ls"]);
        let found = list.as_array().expect("a list").iter().find(|child| child["name"] == *name);
        view = found.cloned().unwrap_or_default();
        !view.is_null()
    });
    view
}

/// Frames that a child has no right to send, with the MAC of the link and with others.
fn forgeries(site: &Site, own: Mac) -> [Frame; 4] {
    let (router, host) = (&site.lan.router, &site.lan.hosts[0]);
    [
        Frame::arp_request(own, router.ip, host.ip, ""),
        Frame::new(own, site.far.mac, "").vlan(20),
        Frame::new(host.mac, router.mac, ""),
        Frame::new(Mac::local(77), router.mac, ""),
    ]
}

/// A macvlan that the owner of a child has moved out of its namespace has the child's rules where its
/// processes tell whose it is, and is isolated where nothing does, until `child adopt` says otherwise. Not one
/// frame passes before maclane has seen it, where the kernel tells the namespace of a socket.
#[test]
fn a_link_that_leaves_a_childs_namespace_is_its_owners() {
    if !kernel::sees_netns() {
        return eprintln!("skipped: Linux {} does not tell the namespace", kernel::release());
    }
    for is_below in [true, false] {
        let mut site = Site::new(Attacker::Vepa);
        settle(&site.evil.ns);
        let place = if is_below { Place::below(&site.evil.ns) } else { Place::apart() };
        site.evil.ns.ip("link add link eth0 name inner type macvlan mode bridge");
        let own = site.evil.ns.mac("inner");
        let _ = site.wire.collect(Duration::ZERO);
        place.take(&site.evil.ns, "inner");
        assert_does_not_reach(&place.ns, site.lan.router.ip);
        // A child may speak for itself in multicast (MLD), and so may this link once it is known.
        let its = |frame: &Frame| frame.source == own && frame.ethertype != ETHERTYPE_IPV6;
        assert_eq!(site.wire.collect(A_WHILE).iter().filter(|frame| its(frame)).count(), 0);
        let seen = view(&site, own);
        let (inside, state) =
            if is_below { (EVIL.into(), "up") } else { (Value::Null, "isolated") };
        assert_eq!((&seen["inside"], &seen["state"]), (&inside, &state.into()), "{seen}");
        let tap = Tap::open(&place.ns, "inner");
        for frame in forgeries(&site, own) {
            assert!(site.hearers(&tap, &frame).is_empty(), "{is_below}: {frame:?} arrives");
        }
        // It hears nothing that is for others, and no broadcast if it is isolated.
        let _ = tap.collect(Duration::ZERO);
        let _ = ping(&site.victim.ns, site.lan.router.ip, 2, Duration::from_millis(20));
        let heard = tap.collect(A_WHILE);
        // A copy of a flood is sent to the station that gets it.
        let is_for_it = |to: Mac| to == own || to.0[0] & 1 != 0;
        let may_hear = |frame: &Frame| is_below && is_for_it(frame.destination);
        assert!(heard.iter().all(may_hear), "{is_below}: {heard:?}");
        let name = format!("{PARENT}/{own}");
        if is_below {
            let (code, message) = site.daemon.fail(&["child", "adopt", &name]);
            assert!(code == 1 && message.contains(EVIL), "{message}");
            // Without rules for the child there are none for the link.
            site.set("--security off");
            eventually("the link reaches the gateway", SOON, || {
                ping(&place.ns, site.lan.router.ip, 1, Duration::from_millis(20)).is_clean()
            });
            continue;
        }
        assert!(site.daemon.problems().contains("child adopt"), "{}", site.daemon.problems());
        site.daemon.run(&["child", "adopt", &name]);
        eventually("the link reaches the gateway", SOON, || {
            ping(&place.ns, site.lan.router.ip, 1, Duration::from_millis(20)).is_clean()
        });
        let lie = &forgeries(&site, own)[1];
        assert!(site.hearers(&tap, lie).contains(&"far"), "an adopted link is in every VLAN");
        assert_eq!(site.daemon.problems(), "[]");
        site.daemon.restart();
        assert_eq!(view(&site, own)["state"], "up", "after a restart");
        assert_reaches(&place.ns, site.lan.router.ip);
    }
}

/// An isolated link stays so when the daemon starts again, and can be removed.
#[test]
fn an_isolated_link_stays_isolated() {
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let place = Place::apart();
    site.evil.ns.ip("link add link eth0 name inner type macvlan mode bridge");
    let own = site.evil.ns.mac("inner");
    place.take(&site.evil.ns, "inner");
    // On kernels that do not tell the namespace, a frame tells of the link.
    let _ = ping(&place.ns, site.lan.router.ip, 1, Duration::from_millis(20));
    assert_eq!(view(&site, own)["state"], "isolated");
    let mut site = site;
    site.daemon.restart();
    assert_eq!(view(&site, own)["state"], "isolated", "after a restart");
    assert_does_not_reach(&place.ns, site.lan.router.ip);
    // `all` lets in what is not known, and not what was restricted.
    site.daemon.run(&["child", "rm", &format!("{PARENT}/{own}")]);
    assert!(!place.ns.has("inner"), "the link is left");
    eventually("no problem is left", SOON, || site.daemon.problems() == "[]");
    site.daemon.run(&["parent", "add", PARENT, "--adopt", "all"]);
    site.evil.ns.ip("link add link eth0 name inner type macvlan mode bridge");
    place.take(&site.evil.ns, "inner");
    eventually("a link of unknown origin is adopted", SOON, || {
        ping(&place.ns, site.lan.router.ip, 1, Duration::from_millis(20)).is_clean()
    });
}

/// A link is still found when the process by which its namespace was found has ended, and another is there.
#[test]
fn a_namespace_outlives_the_process_that_showed_it() {
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let first = Place::apart();
    let second = first.again();
    site.evil.ns.ip("link add link eth0 name inner type macvlan mode bridge");
    let own = site.evil.ns.mac("inner");
    first.take(&site.evil.ns, "inner");
    // On kernels that do not tell the namespace, a frame tells of the link.
    let _ = ping(&first.ns, site.lan.router.ip, 1, Duration::from_millis(20));
    let seen = view(&site, own);
    let shows = |place: &Place| seen["netns"] == *place.ns.path().display().to_string();
    let (left, other) = if shows(&first) { (first, second) } else { (second, first) };
    assert!(shows(&left) && seen["state"] == "isolated", "{seen}");
    drop(left);
    site.daemon.run(&["child", "adopt", &format!("{PARENT}/{own}")]);
    eventually("the link reaches the gateway", SOON, || {
        ping(&other.ns, site.lan.router.ip, 1, Duration::from_millis(20)).is_clean()
    });
}

/// What a third party makes beside enforced children is adopted, however it comes to its namespace: made in the
/// host's and moved (Docker, LXC), or made in one that the host has a name for (CNI, `ip netns`). With `--adopt
/// none` it is isolated, and what is in the host's own namespace is not.
#[test]
fn the_links_of_third_parties_are_adopted() {
    let site = Site::new(Attacker::Vepa);
    let host = &site.lan.hosts[0].ns;
    let (moved, named) = (Place::apart(), site.lan.namespace());
    host.ip(&format!("link add link {PARENT} name moved type macvlan mode bridge"));
    moved.take(host, "moved");
    host.ip(&format!(
        "link add link {PARENT} name made netns {} type macvlan mode bridge",
        named.name()
    ));
    named.ip("address add 192.168.50.121/24 dev made");
    named.up("made");
    host.ip(&format!("link add link {PARENT} name shim type macvlan mode bridge"));
    host.up("shim");
    let macs = [moved.ns.mac("moved"), named.mac("made"), host.mac("shim")];
    let states = || macs.map(|mac| view(&site, mac)["state"].clone());
    for ns in [&moved.ns, &named] {
        eventually("the link is adopted", SOON, || {
            ping(ns, site.lan.router.ip, 1, Duration::from_millis(20)).is_clean()
        });
    }
    assert_eq!(states(), ["up", "up", "up"]);
    assert_eq!(site.daemon.problems(), "[]");
    site.daemon.run(&["parent", "add", PARENT, "--adopt", "none"]);
    assert_eq!(states(), ["isolated", "isolated", "up"]);
    assert_does_not_reach(&moved.ns, site.lan.router.ip);
    site.daemon.run(&["parent", "add", PARENT]);
    assert_eq!(states(), ["up", "up", "up"]);
    assert_reaches(&moved.ns, site.lan.router.ip);
}

/// A link of mode `source` hears what its list of MACs sends, whatever the destination
/// (`drivers/net/macvlan.c`, `macvlan_forward_source`). The owner of an enforced child does not keep one.
#[test]
fn a_link_of_mode_source_does_not_listen() {
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let gateway = &site.lan.router;
    let listen = || {
        site.evil.ns.ip("link add link eth0 name ear type macvlan mode source");
        site.evil.ns.ip(&format!("link set ear type macvlan macaddr add {}", gateway.mac));
        site.evil.ns.ip("link set ear addrgenmode none");
        site.evil.ns.up("ear");
        Tap::open(&site.evil.ns, "ear")
    };
    let hears = |tap: &Tap| {
        let _ = tap.collect(Duration::ZERO);
        let _ = ping(&site.lan.hosts[0].ns, gateway.ip, 2, Duration::from_millis(20));
        tap.collect(A_WHILE).iter().any(|frame| frame.destination == site.lan.hosts[0].mac)
    };
    site.set("--security off");
    assert!(hears(&listen()), "a link of mode source hears nothing even without security");
    site.evil.ns.delete("ear");
    site.set("--security enforce");
    let tap = listen();
    let own = site.evil.ns.mac("ear");
    eventually("its mode is another one", SOON, || view(&site, own)["mode"] == "private");
    assert!(!hears(&tap), "it hears what is for the host");
    let problems = site.daemon.problems();
    assert!(problems.contains("mode source") && problems.contains(&own.to_string()), "{problems}");
    // The list of MACs is gone with the mode; the owner may set both again.
    site.evil.ns.ip("link set ear type macvlan mode source");
    eventually("and again", SOON, || !site.evil.ns.ip("-d link show ear").contains("mode source"));
}

/// What was decided of a link holds while it is: it may go down, and get another MAC.
#[test]
fn a_link_that_was_down_is_the_same() {
    let site = Site::new(Attacker::Vepa);
    let host = &site.lan.hosts[0].ns;
    let place = Place::apart();
    host.ip(&format!("link add link {PARENT} name moved type macvlan mode bridge"));
    place.take(host, "moved");
    let reaches = |when: &str| {
        eventually(&format!("it reaches the gateway {when}"), SOON, || {
            ping(&place.ns, site.lan.router.ip, 1, Duration::from_millis(20)).is_clean()
        });
    };
    reaches("at first");
    place.ns.ip("link set moved down");
    let name = format!("{PARENT}/{}", place.ns.mac("moved"));
    eventually("it is released", SOON, || !site.daemon.run(&["child", "ls"]).contains(&name));
    place.ns.ip(&format!("link set moved address {}", Mac::local(79)));
    place.ns.up("moved");
    reaches("when it is up again");
    assert_eq!(site.daemon.problems(), "[]");
}

/// The MAC of a third party's link gives no rights to another link that takes it, nor does one that is down
/// with that MAC take any from it.
#[test]
fn the_mac_of_a_third_partys_link_gives_no_rights() {
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let (host, theirs) = (&site.lan.hosts[0].ns, site.lan.namespace());
    let shared = Mac::local(80);
    site.evil
        .ns
        .ip(&format!("link add link eth0 name x address {shared} type macvlan mode private"));
    host.ip(&format!(
        "link add link {PARENT} name theirs address {shared} netns {} type macvlan mode bridge",
        theirs.name()
    ));
    theirs.ip(&format!("address add {OUTSIDE}/24 dev theirs"));
    theirs.up("theirs");
    eventually("the third party's is adopted", SOON, || {
        ping(&theirs, site.lan.router.ip, 1, Duration::from_millis(20)).is_clean()
    });
    let seen = view(&site, shared);
    assert_eq!((&seen["inside"], &seen["mode"]), (&Value::Null, &"bridge".into()), "{seen}");
    theirs.delete("theirs");
    site.evil.ns.ip("link set x addrgenmode none");
    site.evil.ns.up("x");
    eventually("the other is its owner's", SOON, || view(&site, shared)["inside"] == EVIL);
    let tap = Tap::open(&site.evil.ns, "x");
    for frame in forgeries(&site, shared) {
        assert!(site.hearers(&tap, &frame).is_empty(), "{frame:?} arrives");
    }
}
