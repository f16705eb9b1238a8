//! What the owner of a child makes of its links, and of its namespace.

use std::{
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

use tests::{
    eventually,
    forge::{Arp, UDP, V4, udp},
    frames::{Frame, token},
    kernel,
    mac::Mac,
    process::Process,
    ring::{Ring, Version},
    tap::Tap,
    topology::PARENT,
};

use crate::site::{A_WHILE, Attacker, EVIL, Site, counts, settle};

/// Sends frames that are forged through a socket, and sees that none arrives, and by a port is counted
/// what it is; or that each arrives.
#[track_caller]
fn forge(site: &Site, what: &str, tap: &Tap, port: &str, frames: &[(&str, Frame)], enforced: bool) {
    for (reason, frame) in frames {
        let count = || counts(&site.daemon, port).get(*reason).map_or(0, |count| count.0);
        let before = count();
        let who = site.hearers(tap, frame);
        assert_eq!(who.is_empty(), enforced, "{what}: {reason}: {frame:?} is heard by {who:?}");
        if enforced {
            eventually(&format!("{what}: {reason} is counted"), A_WHILE, || count() > before);
        }
    }
}

/// Children in one namespace are no more than each of them is: a macvlan, a veth and a macvlan in another VLAN
/// send with each other's MAC or address, and into each other's VLAN.
#[test]
fn children_in_one_namespace_are_not_each_other() {
    let site = Site::new(Attacker::Bridge);
    settle(&site.evil.ns);
    let ns = &site.evil.ns;
    let more = |name: &str, network, last: u8| {
        let ip = format!("192.168.50.{last}/24");
        site.daemon.child_with(name, network, ns, &["--ifname", name, "--ip", &ip]);
        (ns.mac(name), [192, 168, 50, last].into())
    };
    let veth = more("second", "lanv", 111);
    let tagged = more("third", "far", 112);
    let evil = (site.evil.mac, site.evil.ip);
    let links = [(EVIL, "eth0", evil), ("second", "second", veth), ("third", "third", tagged)];
    let router = &site.lan.router;
    let packet = |ip, mac| V4::new(ip, router.ip, UDP, udp(5000, 5001)).frame(mac, router.mac);
    for enforced in [true, false] {
        for (name, ifname, own) in links {
            if !enforced {
                let off = ["--security", "off", "--trust", "mac"];
                site.daemon.run(&[&["child", "set", name], &off[..]].concat());
            }
            let tap = Tap::open(ns, ifname);
            for (other, _, (mac, ip)) in links.into_iter().filter(|link| link.0 != name) {
                let what = format!("{name} as {other}, enforced {enforced}");
                let frames = [
                    ("source_mac", Frame::new(mac, router.mac, "")),
                    ("source_ip", packet(ip, own.0)),
                ];
                forge(&site, &what, &tap, name, &frames, enforced);
            }
            // Tags are no matter of security.
            let tag = if name == "third" { 30 } else { 20 };
            let frames = [("vlan_not_allowed", Frame::new(own.0, Mac::BROADCAST, "").vlan(tag))];
            forge(&site, name, &tap, name, &frames, true);
        }
    }
}

/// A link whose MAC changes all the time sends none of its frames from another MAC than the child's own, and
/// is the child's when it is over.
#[test]
fn no_frame_of_a_flapping_mac_arrives() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (ns, own, router) = (&site.evil.ns, site.evil.mac, &site.lan.router);
        // The kernel refuses a macvlan the MAC of another on its parent.
        let macs = [router.mac, site.sibling.mac, Mac::local(78), own];
        let line = |mac: &Mac| format!("link set eth0 address {mac}\n");
        let lines: String = macs.iter().map(line).collect::<String>().repeat(40);
        let mut ip = ns.command("ip");
        ip.args(["-force", "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut flapping = Process::start(&mut ip);
        let mut input = flapping.streams().stdin.take().expect("it is piped");
        input.write_all(lines.as_bytes()).expect("it reads");
        drop(input);
        let (token, began) = (token(), Instant::now());
        while flapping.ended().is_none() && began.elapsed() < Duration::from_secs(20) {
            for mac in macs {
                for to in [router.mac, site.victim.mac, Mac::BROADCAST] {
                    site.evil.send(&Frame::new(mac, to, ""), &token);
                }
            }
        }
        for (who, heard) in site.heard() {
            let forged: Vec<_> =
                heard.iter().filter(|f| f.carries(&token) && f.source != own).collect();
            assert!(forged.is_empty(), "{attacker:?}: {who} hears {forged:?}");
        }
        assert!(site.counts()["source_mac"].0 > 0, "{attacker:?}: {:?}", site.counts());
        site.evil.ns.set_mac("eth0", own);
        eventually("the child has its frames", Duration::from_secs(10), || {
            let frame = Frame::new(router.mac, own, &token);
            Tap::open(&router.ns, "eth0").send(&frame);
            !site.evil.tap.with_token(&token, Duration::from_millis(50)).is_empty()
        });
        // Where nothing is checked, such a frame arrives.
        site.set("--security off --trust mac");
        let frames = [("", Frame::new(Mac::local(78), router.mac, ""))];
        forge(&site, "without security", &site.evil.tap, EVIL, &frames, false);
    }
}

/// A promiscuous link that takes all multicast hears what is for its child: nothing to a sibling, to the
/// host, or of another VLAN.
#[test]
fn a_promiscuous_link_hears_nothing_more() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        site.evil.ns.ip("link set eth0 promisc on allmulticast on");
        let (router, host) = (&site.lan.router, &site.lan.hosts[0]);
        let from_wire = Tap::open(&router.ns, "eth0");
        let group = Mac([0x33, 0x33, 0, 0, 0, 0x77]);
        let cases: [(&str, &Tap, Frame, bool); 9] = [
            ("its own", &from_wire, Frame::new(router.mac, site.evil.mac, ""), true),
            ("to all", &from_wire, Frame::new(router.mac, Mac::BROADCAST, ""), true),
            ("to a sibling", &from_wire, Frame::new(router.mac, site.victim.mac, ""), false),
            ("to the other", &from_wire, Frame::new(router.mac, site.sibling.mac, ""), false),
            ("to the host", &from_wire, Frame::new(router.mac, host.mac, ""), false),
            ("another VLAN", &from_wire, Frame::new(router.mac, group, "").vlan(20), false),
            ("its child", &from_wire, Frame::new(router.mac, site.far.mac, "").vlan(20), false),
            ("a sibling's", &site.victim.tap, Frame::new(site.victim.mac, router.mac, ""), false),
            ("the host's", &site.host, Frame::new(host.mac, site.victim.mac, ""), false),
        ];
        for (name, tap, frame, hears) in cases {
            let token = token();
            tap.send(&frame.trailer(&token));
            let heard = !site.evil.tap.with_token(&token, A_WHILE).is_empty();
            assert_eq!(heard, hears, "{attacker:?}: {name}");
        }
    }
}

/// A link that its owner moves into a new namespace is its child's there: the guard and the host end go with
/// it. A socket that was opened before finds no link any more.
#[test]
fn a_link_in_a_new_namespace_is_its_childs() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (router, inner) = (&site.lan.router, site.lan.namespace());
        let packet = V4::new(site.victim.ip, router.ip, UDP, udp(5000, 5001));
        let frames = [
            ("source_mac", Frame::new(site.victim.mac, router.mac, "")),
            ("source_ip", packet.frame(site.evil.mac, router.mac)),
        ];
        site.evil.ns.ip(&format!("link set eth0 netns {}", inner.name()));
        inner.up("eth0");
        for enforced in [true, false] {
            if !enforced {
                site.set("--security off --trust mac");
            }
            let what = format!("{attacker:?}, enforced {enforced}");
            let tap = Tap::open(&inner, "eth0");
            forge(&site, &what, &tap, EVIL, &frames, enforced);
        }
    }
}

/// The kernel of a child's namespace answers for addresses of others where it is told to (`proxy_arp`,
/// `proxy_ndp`): no station hears such an answer.
#[test]
fn no_answer_of_a_proxy_arrives() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (ns, victim, host) = (&site.evil.ns, &site.victim, &site.lan.hosts[0]);
        ns.sysctl("net/ipv4/conf/eth0/proxy_arp", "1");
        ns.sysctl("net/ipv4/ip_forward", "1");
        ns.ip("link add out type veth peer name of");
        ns.up("out");
        ns.up("of");
        ns.ip(&format!("route add {} dev out", victim.ip));
        let asked = || {
            let request = Arp::request((host.mac, host.ip), victim.ip).to(host.mac, site.evil.mac);
            site.host.send(&request);
            let answers =
                |f: &Frame| f.payload[6..8] == [0, 2] && f.payload[14..18] == victim.ip.octets();
            site.host.find(A_WHILE, |f| f.ethertype == tests::frames::ARP && answers(f))
        };
        let count = || site.counts().get("neighbour_claim").map_or(0, |count| count.0);
        let before = count();
        let answer = asked();
        assert_eq!(answer, None, "{attacker:?}");
        eventually("the answer is counted", A_WHILE, || count() > before);
        site.set("--security off");
        assert!(asked().is_some(), "{attacker:?}: without security");
    }
}

/// A frame from a packet ring is read like any other: one of a namespace that maclane does not know is no
/// frame of the host. Such a frame is too short to be read before it is copied
/// (`net/packet/af_packet.c`, `tpacket_fill_skb`).
#[test]
fn a_ring_in_a_new_namespace_is_not_the_hosts() {
    if !kernel::sees_netns() {
        eprintln!("skipped: Linux {} cannot tell whose socket sent a frame", kernel::release());
        return;
    }
    let site = Site::new(Attacker::Vepa);
    settle(&site.evil.ns);
    let (router, inner) = (&site.lan.router, site.lan.namespace());
    site.evil.ns.ip("link add link eth0 name inner type macvlan mode vepa");
    site.evil.ns.ip("link set inner addrgenmode none");
    site.evil.ns.ip(&format!("link set inner netns {}", inner.name()));
    inner.up("inner");
    let ring = Ring::open(&inner, "inner", Version::V2).expect("a ring");
    // It may be known already whose namespace this is.
    let _ = ring.socket().bypass();
    for source in [site.lan.hosts[0].mac, site.victim.mac, Mac::local(77)] {
        let frame = Frame::new(source, router.mac, "");
        let who = site.hearers_of(&frame, |frame| ring.send(frame));
        assert!(who.is_empty(), "{source}: heard by {who:?}");
    }
    let host = Ring::open(&site.lan.hosts[0].ns, PARENT, Version::V2).expect("a ring");
    let frame = Frame::new(Mac::local(77), router.mac, "");
    let who = site.hearers_of(&frame, |frame| host.send(frame));
    assert_eq!(who, ["the wire"], "the host's own");
    let frame = Frame::new(site.lan.hosts[0].mac, site.sibling.mac, "");
    let who = site.hearers_of(&frame, |frame| host.send(frame));
    assert_eq!(who, ["sibling"], "the host's own, to a child");
}
