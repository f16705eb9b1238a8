//! A child that sends around the guard on its link.

use std::time::Instant;

use dataplane_common::Mark;
use nix::libc;
use tests::{
    forge::{Arp, UDP, V4, udp},
    frames::{Frame, token},
    kernel,
    mac::Mac,
    slowness,
    tap::Tap,
    topology::PARENT,
    xsk::Xsk,
};

use crate::site::{Attacker, EVIL, Site, settle};

/// What is counted of a frame that bypasses the guard of its child.
const BYPASS: &str = "guard_bypass";

/// False, and says so, where the kernel cannot tell such a frame from the host's.
fn is_told_apart() -> bool {
    let is_told_apart = kernel::has_tcx() && kernel::sees_netns();
    if !is_told_apart {
        eprintln!("skipped: Linux {} cannot tell whose socket sent a frame", kernel::release());
    }
    is_told_apart
}

/// A socket of the attacker's that skips the hooks of its link: from before its security enforces, when
/// the option was not refused.
#[track_caller]
fn around(site: &Site) -> Tap {
    let tap = Tap::open(&site.evil.ns, "eth0");
    site.set("--security off");
    tap.bypass().expect("the option can be set");
    site.set("--security enforce");
    tap
}

/// The option is refused to sockets of children that are held to port security, and to no others.
#[test]
fn the_option_to_bypass_is_refused_to_children() {
    let site = Site::new(Attacker::Vepa);
    let may = |ns| Tap::open(ns, "eth0").bypass().map_err(|e| e.raw_os_error());
    let refused = Err(Some(libc::EPERM));
    assert_eq!(may(&site.evil.ns), refused, "an enforced macvlan child");
    assert_eq!(may(&site.sibling.ns), Ok(()), "a veth child, whose host end it cannot go around");
    assert_eq!(may(&site.lan.hosts[0].ns), Ok(()), "the host");
    assert_eq!(may(&site.lan.router.ns), Ok(()), "another host");
    for (setting, expected) in [
        ("--security off", Ok(())),
        ("--security log", Ok(())),
        ("--security enforce", refused),
        ("--trust raw-socket", Ok(())),
        ("--trust none", refused),
    ] {
        site.set(setting);
        assert_eq!(may(&site.evil.ns), expected, "{setting}");
    }
    let checksum = |ns| Tap::open(ns, "eth0").vnet_header().map_err(|e| e.raw_os_error());
    assert_eq!(checksum(&site.evil.ns), refused, "a checksum in a macvlan child");
    assert_eq!(checksum(&site.sibling.ns), refused, "a checksum in a veth child");
    assert_eq!(checksum(&site.lan.hosts[0].ns), Ok(()), "a checksum on the host");
    site.daemon.run(&["parent", "rm", PARENT, "--force"]);
    let left = Tap::open(&site.evil.ns, "lo").bypass();
    assert!(left.is_ok(), "it goes with the last parent: {left:?}");
}

/// Frames that are the attacker's to forge: what they are, and the frame. None is for all stations: in
/// bridge mode the kernel gives such a frame to the siblings by itself.
fn forgeries(site: &Site) -> Vec<(&'static str, Frame)> {
    let (evil, victim, far) = (&site.evil, &site.victim, &site.far);
    let (host, router) = (&site.lan.hosts[0], &site.lan.router);
    let lie = Arp::reply((evil.mac, router.ip), (victim.mac, victim.ip));
    let spoofed = V4::new(victim.ip, router.ip, UDP, udp(5000, 5001));
    let offer = V4::new(router.ip, victim.ip, UDP, udp(67, 68));
    let plain = |source, destination| Frame::new(source, destination, "");
    vec![
        ("its own MAC", plain(evil.mac, router.mac)),
        ("its own MAC, to a sibling", plain(evil.mac, victim.mac)),
        ("its own MAC, to a veth sibling", plain(evil.mac, site.sibling.mac)),
        ("its own MAC, to the host", plain(evil.mac, host.mac)),
        ("the host's MAC", plain(host.mac, router.mac)),
        ("the host's MAC, to a sibling", plain(host.mac, victim.mac)),
        ("the gateway's MAC, to a sibling", plain(router.mac, victim.mac)),
        ("the gateway's MAC, to the host", plain(router.mac, host.mac)),
        ("a sibling's MAC", plain(victim.mac, router.mac)),
        ("a MAC that no station has", plain(Mac::local(77), router.mac)),
        ("a MAC that no station has, to a sibling", plain(Mac::local(77), victim.mac)),
        ("another VLAN", plain(evil.mac, far.mac).vlan(20)),
        ("another VLAN, the host's MAC", plain(host.mac, far.mac).vlan(20)),
        ("ARP in the gateway's name", lie.to(router.mac, victim.mac)),
        ("a sibling's address", spoofed.frame(evil.mac, router.mac)),
        ("a sibling's address and the host's MAC", spoofed.frame(host.mac, router.mac)),
        ("a DHCP offer", offer.frame(router.mac, victim.mac)),
    ]
}

/// A frame that bypasses the guard is dropped and counted as its child's: by its namespace it is known,
/// whatever MAC, tag or mark it has.
#[test]
fn no_frame_around_the_guard_arrives() {
    if !is_told_apart() {
        return;
    }
    for attacker in [Attacker::Vepa, Attacker::Bridge] {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let tap = around(&site);
        for (name, frame) in forgeries(&site) {
            let before = site.counts();
            let who = site.hearers(&tap, &frame);
            // A tap on the host's parent hears what the kernel switches there, before TC.
            let who: Vec<_> = who.into_iter().filter(|who| *who != "the host").collect();
            assert!(who.is_empty(), "{attacker:?}: {name}: heard by {who:?}");
            site.counted(&format!("{attacker:?}: {name}"), &before, &[(BYPASS, (1, 0))]);
        }
        let events = site.daemon.run(&["events", "--kind", "spoof", "-o", "json"]);
        let of_evil = format!("\"child\":\"{EVIL}\"");
        let told = events.lines().any(|e| e.contains(&of_evil) && e.contains(BYPASS));
        assert!(told, "{events}");
    }
}

/// Each of the forgeries is heard without the guard and without port security: from the host.
#[test]
fn the_same_frames_of_the_host_arrive() {
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let tap = Tap::open(&site.lan.hosts[0].ns, PARENT);
    tap.bypass().expect("the option can be set");
    let raw = |frame: &Frame| site.hearers(&tap, frame);
    for (name, frame) in forgeries(&site) {
        // The MACs of children are theirs alone: this one is of no child.
        let is_childs = [site.evil.mac, site.victim.mac].contains(&frame.source);
        let frame = if is_childs { Frame { source: Mac::local(9), ..frame } } else { frame };
        assert!(!raw(&frame).is_empty(), "{name}");
    }
}

/// `AF_XDP` sockets send around the hooks as well: they are told apart in the same way, and refused in the
/// same way.
#[test]
fn no_frame_of_af_xdp_arrives() {
    if !is_told_apart() {
        return;
    }
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let refused = Xsk::open(&site.evil.ns, "eth0").map(drop).map_err(|e| e.raw_os_error());
    assert_eq!(refused, Err(Some(libc::EPERM)), "an enforced child");
    site.set("--security off --trust mac");
    let socket = Xsk::open(&site.evil.ns, "eth0").expect("without security it can be had");
    let sends = |frame: &Frame| site.hearers_of(frame, |frame| socket.send(frame));
    // A frame of such a socket has no MAC header that the kernel knows of, so it redirects none
    // (`net/core/filter.c`, `__bpf_redirect_common`).
    for (name, frame) in forgeries(&site) {
        if frame.destination != site.lan.router.mac {
            continue;
        }
        assert!(!sends(&frame).is_empty(), "without security: {name}");
    }
    site.set("--security enforce --trust none");
    for (name, frame) in forgeries(&site) {
        let before = site.counts();
        assert!(sends(&frame).is_empty(), "{name} arrives");
        site.counted(name, &before, &[(BYPASS, (1, 0))]);
    }
}

/// No mark gets a frame past the check, and none makes it another child's.
#[test]
fn a_mark_does_not_hide_a_bypass() {
    if !is_told_apart() {
        return;
    }
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let tap = around(&site);
    let port = site.daemon.inspect("victim")["port"].as_u64().expect("a port");
    let victim = u16::try_from(port).expect("a port");
    let marks = [
        Mark::Hairpin.encode(),
        Mark::Transit(victim).encode(),
        Mark::Flood { port: victim, slot: 0 }.encode(),
        0xe500_0000 | u32::from(victim),
        7,
    ];
    for mark in marks {
        tap.mark(mark);
        for frame in [
            Frame::new(site.victim.mac, site.lan.router.mac, ""),
            Frame::new(site.lan.hosts[0].mac, Mac::BROADCAST, ""),
            Frame::new(site.evil.mac, site.sibling.mac, ""),
        ] {
            let before = site.counts();
            assert!(site.hearers(&tap, &frame).is_empty(), "{mark:#x}: {frame:?} arrives");
            site.counted(&format!("{mark:#x}: {frame:?}"), &before, &[(BYPASS, (1, 0))]);
        }
    }
}

/// With `--trust raw-socket` such a frame is the child's: port security and storm control hold for it,
/// and an honest one arrives.
#[test]
fn a_trusted_bypass_is_held_to_port_security() {
    if !is_told_apart() {
        return;
    }
    for attacker in [Attacker::Vepa, Attacker::Bridge] {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        site.set("--trust raw-socket");
        let tap = Tap::open(&site.evil.ns, "eth0");
        tap.bypass().expect("the option can be set");
        let (evil, victim, router) = (&site.evil, &site.victim, &site.lan.router);
        let lie = V4::new(victim.ip, router.ip, UDP, udp(5000, 5001));
        let honest = V4::new(evil.ip, router.ip, UDP, udp(5000, 5001));
        let claim = Arp::reply((evil.mac, router.ip), (victim.mac, victim.ip));
        let cases = [
            ("source_ip", lie.frame(evil.mac, router.mac)),
            ("source_mac", honest.frame(victim.mac, router.mac)),
            ("source_mac", Frame::new(router.mac, victim.mac, "")),
            ("neighbour_claim", claim.to(evil.mac, victim.mac)),
            ("vlan_not_allowed", Frame::new(evil.mac, site.far.mac, "").vlan(20)),
        ];
        for (reason, frame) in cases {
            let before = site.counts();
            let who = site.hearers(&tap, &frame);
            let who: Vec<_> = who.into_iter().filter(|who| *who != "the host").collect();
            assert!(who.is_empty(), "{attacker:?}: {reason}: heard by {who:?}");
            site.counted(&format!("{attacker:?}: {frame:?}"), &before, &[(reason, (1, 0))]);
        }
        let before = site.counts();
        let honest = honest.frame(evil.mac, router.mac);
        assert_eq!(site.hearers(&tap, &honest), ["the wire"], "{attacker:?}");
        site.counted(&format!("{attacker:?}: an honest frame"), &before, &[]);
    }
}

/// Security that only logs lets a bypass pass, and counts it. Without security it is not looked at.
#[test]
fn a_bypass_is_logged_or_passes_as_security_says() {
    if !is_told_apart() {
        return;
    }
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let tap = around(&site);
    let frame = Frame::new(site.evil.mac, site.lan.router.mac, "");
    for (security, counted) in [("log", &[(BYPASS, (0, 1))][..]), ("off", &[])] {
        site.set(&format!("--security {security}"));
        let before = site.counts();
        assert_eq!(site.hearers(&tap, &frame), ["the wire"], "{security}");
        site.counted(security, &before, counted);
        // Its MAC is checked whatever security says.
        let before = site.counts();
        let forged = Frame::new(site.victim.mac, site.lan.router.mac, "");
        assert!(site.hearers(&tap, &forged).is_empty(), "{security}");
        let both: Vec<_> = counted.iter().copied().chain([("source_mac", (1, 0))]).collect();
        site.counted(security, &before, &both);
    }
}

/// Without the defence each forgery around the guard arrives, but in another VLAN: tags are not a
/// matter of security.
#[test]
fn without_security_a_forgery_around_the_guard_arrives() {
    for attacker in [Attacker::Vepa, Attacker::Bridge] {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        site.set("--security off --trust mac");
        let tap = Tap::open(&site.evil.ns, "eth0");
        tap.bypass().expect("the option can be set");
        for (name, frame) in forgeries(&site) {
            let who = site.hearers(&tap, &frame);
            assert_eq!(who.is_empty(), !frame.tags.is_empty(), "{attacker:?}: {name}: {who:?}");
        }
    }
}

/// Floods around the guard reach no station: broadcasts beyond any limit, and random source MACs.
#[test]
fn a_flood_around_the_guard_reaches_no_station() {
    if !is_told_apart() {
        return;
    }
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let tap = around(&site);
    let frames = 20_000 / slowness();
    let (token, before) = (token(), site.counts());
    let began = Instant::now();
    for number in 0..frames {
        let source = if number % 2 == 0 { site.evil.mac } else { Mac::local(number) };
        tap.send(&Frame::new(source, Mac::BROADCAST, &token));
    }
    let time = began.elapsed();
    site.counted("a flood", &before, &[(BYPASS, (u64::from(frames), 0))]);
    for (who, heard) in site.heard() {
        let got = heard.iter().filter(|frame| frame.carries(&token)).count();
        assert_eq!(got, 0, "{who} hears a flood of {frames} frames in {time:?}");
    }
}

/// A namespace of which nothing is known has no socket that such a parent lets pass: a macvlan that a
/// child's owner puts there is on the parent (`drivers/net/macvlan.c`, `macvlan_common_newlink`),
/// beside the child. Once it is known, its MAC is checked.
#[test]
fn a_new_namespace_does_not_hide_a_bypass() {
    if !is_told_apart() {
        return;
    }
    for mode in ["vepa", "bridge"] {
        let site = Site::new(Attacker::Vepa);
        settle(&site.evil.ns);
        let inner = site.lan.namespace();
        site.evil.ns.ip(&format!("link add link eth0 name inner type macvlan mode {mode}"));
        site.evil.ns.ip("link set inner addrgenmode none");
        site.evil.ns.ip(&format!("link set inner netns {}", inner.name()));
        inner.up("inner");
        let tap = Tap::open(&inner, "inner");
        // It may be known already whose namespace this is.
        let _ = tap.bypass();
        let router = site.lan.router.mac;
        for frame in [
            Frame::new(site.lan.hosts[0].mac, router, ""),
            Frame::new(Mac::local(77), router, ""),
            Frame::new(site.victim.mac, site.far.mac, "").vlan(20),
        ] {
            assert!(site.hearers(&tap, &frame).is_empty(), "{mode}: {frame:?} arrives");
        }
    }
}

/// The host's own sockets send whatever they like, also around its hooks, and in its own namespace's
/// macvlan links.
#[test]
fn the_hosts_sockets_may_bypass() {
    let site = Site::new(Attacker::Vepa);
    let host = &site.lan.hosts[0];
    let tap = Tap::open(&host.ns, PARENT);
    tap.bypass().expect("the option can be set");
    for source in [host.mac, Mac::local(78)] {
        let frame = Frame::new(source, site.lan.router.mac, "");
        assert!(site.hearers(&tap, &frame).contains(&"the wire"), "{source}");
    }
}
