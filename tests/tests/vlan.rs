//! VLANs kept apart, tags on the wire, and floods that reach each member once.

use std::time::Duration;

use tests::{
    daemon::Daemon,
    eventually,
    frames::{Frame, IPV4, token},
    kernel,
    mac::Mac,
    netns::Netns,
    tap::Tap,
    tcp,
    topology::{Lan, Options, PARENT},
    traffic::{assert_does_not_reach, assert_reaches},
};

const A_WHILE: Duration = Duration::from_millis(300);

/// A child with a tap on it.
struct Member {
    name: &'static str,
    vlan: u16,
    ns: Netns,
    mac: Mac,
    tap: Tap,
}

/// ```text
///  host ── eth0 ──── wire ── router
///   ├ VLAN 0:  m0 (macvlan)  v0 (veth)  x0 (macvlan, adopted)
///   ├ VLAN 10: m10 n10 (macvlan)  v10 w10 (veth)
///   └ VLAN 20: m20 (macvlan)  v20 (veth)
/// ```
struct Site {
    members: Vec<Member>,
    router: Tap,
    daemon: Daemon,
    lan: Lan,
}

/// A plain macvlan link gets every VLAN, tagged, as it does without maclane.
const TRUNK: &str = "x0";

const MEMBERS: [(&str, u16, &str); 8] = [
    ("m0", 0, "macvlan"),
    ("v0", 0, "veth"),
    ("m10", 10, "macvlan"),
    ("n10", 10, "macvlan"),
    ("v10", 10, "veth"),
    ("w10", 10, "veth"),
    ("m20", 20, "macvlan"),
    ("v20", 20, "veth"),
];

impl Site {
    fn new(adopted: bool, parent: &[&str]) -> Self {
        let lan = Lan::with(Options { vlan_offload: parent.is_empty(), ..Options::default() });
        // A hub: what leaves for a MAC that it could have learned is seen by the router all the same.
        lan.wire.ip("link set wire type bridge ageing_time 0");
        let daemon = Daemon::start(&lan.hosts[0].ns);
        daemon.run(&[&["parent", "add", PARENT], parent].concat());
        for vlan in [0, 10, 20] {
            for kind in ["macvlan", "veth"] {
                daemon.network(&format!("{kind}{vlan}"), vlan, kind);
            }
        }
        let mut members: Vec<Member> = MEMBERS
            .iter()
            .zip(101..)
            .map(|(&(name, vlan, kind), last)| {
                let ns = lan.namespace();
                let ip = format!("192.168.50.{last}/24");
                let mac = daemon.child(name, &format!("{kind}{vlan}"), &ns, &ip);
                let tap = Tap::open(&ns, "eth0");
                Member { name, vlan, ns, mac, tap }
            })
            .collect();
        if adopted {
            let ns = lan.namespace();
            let mac = lan.hosts[0].ns.macvlan(PARENT, "bridge", &ns, "eth0");
            eventually("x0 is adopted", Duration::from_secs(5), || {
                let list = daemon.json(&["child", "ls"]);
                list.as_array().is_some_and(|list| list.len() == MEMBERS.len() + 1)
            });
            let tap = Tap::open(&ns, "eth0");
            members.push(Member { name: TRUNK, vlan: 0, ns, mac, tap });
        }
        let router = Tap::open(&lan.router.ns, PARENT);
        Self { members, router, daemon, lan }
    }

    fn member(&self, name: &str) -> &Member {
        self.members.iter().find(|m| m.name == name).expect("a member of this name")
    }

    /// Checks who got the frame with this token: each member of `to` once, nobody else. `wire` is
    /// the VLAN in which the router has to see it once, if it has to.
    #[track_caller]
    fn assert_received(&self, what: &str, token: &str, to: &[&str], wire: Option<u16>) {
        self.assert_received_in(what, token, to, wire, 0);
    }

    /// The same, for a frame of this VLAN, which a trunk member sees tagged.
    #[track_caller]
    fn assert_received_in(
        &self,
        what: &str,
        token: &str,
        to: &[&str],
        wire: Option<u16>,
        vlan: u16,
    ) {
        let mut patience = A_WHILE;
        for member in &self.members {
            let got = member.tap.with_token(token, patience);
            patience = Duration::ZERO;
            let want = usize::from(to.contains(&member.name));
            assert_eq!(got.len(), want, "{what}: {} received {got:?}", member.name);
            let tag = if member.name == TRUNK { vlan } else { 0 };
            let right = |f: &Frame| f.vlan_id() == tag && (tag != 0 || f.tags.is_empty());
            assert!(got.iter().all(right), "{what}: {} sees another tag: {got:?}", member.name);
        }
        let got = self.router.with_token(token, Duration::ZERO);
        let vlans: Vec<u16> = got.iter().map(Frame::vlan_id).collect();
        assert_eq!(vlans, wire.into_iter().collect::<Vec<_>>(), "{what}: on the wire: {got:?}");
    }

    fn in_vlan(&self, vlan: u16, but: &str) -> Vec<&'static str> {
        let is_in = |m: &&Member| (m.vlan == vlan || m.name == TRUNK) && m.name != but;
        self.members.iter().filter(is_in).map(|m| m.name).collect()
    }
}

#[test]
fn a_broadcast_reaches_every_other_member_of_its_vlan_exactly_once() {
    for adopted in [false, true] {
        let site = Site::new(adopted, &[]);
        for sender in &site.members {
            let token = token();
            sender.tap.send(&Frame::new(sender.mac, Mac::BROADCAST, &token));
            let to = site.in_vlan(sender.vlan, sender.name);
            let what = format!("broadcast of {}", sender.name);
            site.assert_received_in(&what, &token, &to, Some(sender.vlan), sender.vlan);
        }
        for vlan in [0, 10, 20, 30] {
            let token = token();
            let frame = Frame::new(site.lan.router.mac, Mac::BROADCAST, &token);
            let frame = if vlan == 0 { frame } else { frame.vlan(vlan) };
            site.router.send(&frame);
            let to = site.in_vlan(vlan, "");
            site.assert_received_in(&format!("from the wire in {vlan}"), &token, &to, None, vlan);
        }
        let host = Tap::open(&site.lan.hosts[0].ns, PARENT);
        let token = token();
        host.send(&Frame::new(site.lan.hosts[0].mac, Mac::BROADCAST, &token));
        site.assert_received("the host's", &token, &site.in_vlan(0, ""), Some(0));
        // The tap hears the copies for macvlan children, too, which carry their MACs.
        let back = host.with_token(&token, Duration::ZERO);
        let mut to_host =
            back.iter().filter(|f| site.members.iter().all(|m| m.mac != f.destination));
        assert_eq!(to_host.next(), None, "it came back to the host");
    }
}

#[test]
fn unicast_stays_in_its_vlan_and_leaves_with_its_tag() {
    let site = Site::new(false, &[]);
    for from in &site.members {
        for to in site.members.iter().filter(|to| to.name != from.name) {
            let token = token();
            from.tap.send(&Frame::new(from.mac, to.mac, &token));
            let what = format!("{} to {}", from.name, to.name);
            if from.vlan == to.vlan {
                site.assert_received(&what, &token, &[to.name], None);
            } else {
                site.assert_received(&what, &token, &[], Some(from.vlan));
            }
        }
        let token = token();
        from.tap.send(&Frame::new(from.mac, site.lan.router.mac, &token));
        let what = format!("{} to the router", from.name);
        site.assert_received(&what, &token, &[], Some(from.vlan));
    }
}

fn wire_unicast(parent: &[&str]) {
    let site = Site::new(false, parent);
    // What XDP sends on, in either mode, a tap on the parent does not hear; what TC does, it does.
    let before_tc = Tap::open(&site.lan.hosts[0].ns, PARENT);
    for to in &site.members {
        for vlan in [0, 10, 20, 30] {
            let token = token();
            let frame = Frame::new(site.lan.router.mac, to.mac, &token);
            let frame = if vlan == 0 { frame } else { frame.vlan(vlan) };
            site.router.send(&frame);
            let want: &[&str] = if vlan == to.vlan { &[to.name] } else { &[] };
            let what = format!("from the wire in {vlan} to {}", to.name);
            site.assert_received(&what, &token, want, None);
            if !want.is_empty() && to.name.starts_with('v') | to.name.starts_with('w') {
                let by_tc = before_tc.with_token(&token, Duration::ZERO).len();
                assert_eq!(by_tc, usize::from(parent.is_empty()), "{what}: by XDP or by TC");
            }
        }
    }
    assert_eq!(site.daemon.drops("other_vlan"), 8 * 3);
    // VID 0 is untagged.
    let (token, to) = (token(), site.member("v0"));
    let frame = Frame::new(site.lan.router.mac, to.mac, &token).tag(0x8100, 5 << 13);
    site.router.send(&frame);
    site.assert_received("a priority tag", &token, &["v0"], None);
}

#[test]
fn unicast_from_the_wire_reaches_its_child_in_its_vlan_only() {
    wire_unicast(&[]);
}

#[test]
fn unicast_from_the_wire_through_generic_xdp_reaches_its_child_in_its_vlan_only() {
    wire_unicast(&["--xdp", "generic"]);
}

#[test]
fn unicast_from_the_wire_through_native_xdp_reaches_its_child_in_its_vlan_only() {
    wire_unicast(&["--xdp", "native"]);
}

#[test]
fn same_vlan_talks_across_hosts_and_other_vlans_do_not() {
    let lan = Lan::new(2);
    let daemons: Vec<Daemon> = lan.hosts.iter().map(|host| Daemon::start(&host.ns)).collect();
    let mut children = Vec::new();
    let mut last = 100;
    for (number, daemon) in daemons.iter().enumerate() {
        for vlan in [10, 20] {
            for kind in ["macvlan", "veth"] {
                last += 1;
                daemon.network(&format!("{kind}{vlan}"), vlan, kind);
                let ns = lan.namespace();
                let name = format!("c{last}");
                let cidr = format!("192.168.50.{last}/24");
                daemon.child(&name, &format!("{kind}{vlan}"), &ns, &cidr);
                let tap = Tap::open(&ns, "eth0");
                children.push((ns, number, vlan, last, tap));
            }
        }
    }
    let ip = |last: u8| std::net::Ipv4Addr::new(192, 168, 50, last);
    for (from, host, vlan, ..) in &children {
        for (_, _, other_vlan, last, _) in children.iter().filter(|c| c.1 != *host) {
            if vlan == other_vlan {
                assert_reaches(from, ip(*last));
            } else {
                assert_does_not_reach(from, ip(*last));
            }
        }
    }
    tcp::echo(&children[4].0, &children[0].0, ip(children[4].3), 8 << 20);
    tcp::echo(&children[5].0, &children[1].0, ip(children[5].3), 8 << 20);
    // A broadcast of the first child: its VLAN on both hosts, once, and nobody else.
    let token = token();
    children[0].4.send(&Frame::new(children[0].0.mac("eth0"), Mac::BROADCAST, &token));
    let mut wait = A_WHILE;
    for (number, (.., vlan, last, tap)) in children.iter().enumerate() {
        let got = tap.with_token(&token, wait).len();
        wait = Duration::ZERO;
        assert_eq!(got, usize::from(*vlan == 10 && number != 0), "c{last}");
    }
}

#[test]
fn a_trunk_child_sees_its_vlans_tagged() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for kind in ["macvlan", "veth"] {
        daemon.network(kind, 10, kind);
        let (trunk, access) = (lan.namespace(), lan.namespace());
        let trunk_mac =
            daemon.child_with(&format!("t-{kind}"), kind, &trunk, &["--trunk", "0,10,30-31"]);
        let access_mac = daemon.child_with(&format!("a-{kind}"), kind, &access, &[]);
        let (trunk, access) = (Tap::open(&trunk, "eth0"), Tap::open(&access, "eth0"));
        let router = Tap::open(&lan.router.ns, PARENT);
        for vlan in [0, 10, 20, 30, 31] {
            let token = token();
            let tagged = |frame: Frame| if vlan == 0 { frame } else { frame.vlan(vlan) };
            trunk.send(&tagged(Frame::new(trunk_mac, Mac::BROADCAST, &token)));
            let on_wire = router.with_token(&token, A_WHILE);
            let allowed = vlan != 20;
            assert_eq!(on_wire.len(), usize::from(allowed), "{kind} {vlan}: {on_wire:?}");
            assert!(on_wire.iter().all(|f| f.vlan_id() == vlan), "{kind} {vlan}: {on_wire:?}");
            let got = access.with_token(&token, Duration::ZERO);
            assert_eq!(got.len(), usize::from(vlan == 10), "{kind} {vlan}: {got:?}");
            assert!(got.iter().all(|f| f.tags.is_empty()), "{kind} {vlan}: {got:?}");
        }
        // A packet socket may tell the kernel that there is no tag.
        let disguised = token();
        let broadcast = Frame::new(trunk_mac, Mac::BROADCAST, &disguised).vlan(10);
        trunk.send_disguised(&broadcast, IPV4);
        let got = access.with_token(&disguised, A_WHILE);
        assert_eq!(got.len(), 1, "{kind}: {got:?}");
        assert!(got[0].tags.is_empty(), "{kind}: {got:?}");
        let on_wire = router.with_token(&disguised, A_WHILE);
        assert_eq!(on_wire.iter().map(Frame::vlan_id).collect::<Vec<_>>(), [10], "{kind}");
        let (back, from_wire) = (token(), token());
        access.send(&Frame::new(access_mac, trunk_mac, &back));
        router.send(&Frame::new(lan.router.mac, trunk_mac, &from_wire).vlan(30));
        let got = trunk.collect(A_WHILE);
        let vlan_of = |token: &str| got.iter().find(|f| f.carries(token)).map(Frame::vlan_id);
        assert_eq!(vlan_of(&back), Some(10), "{kind}: {got:?}");
        assert_eq!(vlan_of(&from_wire), Some(30), "{kind}: {got:?}");
    }
    assert_eq!(daemon.drops("vlan_not_allowed"), 2);
}

#[test]
fn frames_that_no_bridge_forwards_stay_where_they_are() {
    let site = Site::new(false, &[]);
    let lldp = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    let from_wire = token();
    site.router.send(&Frame::new(site.lan.router.mac, lldp, &from_wire));
    site.assert_received("LLDP from the wire", &from_wire, &[], None);
    for sender in &site.members {
        let token = token();
        sender.tap.send(&Frame::new(sender.mac, lldp, &token));
        site.assert_received(&format!("LLDP of {}", sender.name), &token, &[], None);
    }
    assert_eq!(site.daemon.drops("reserved_multicast"), 8);
}

#[test]
fn nobody_speaks_for_another() {
    let site = Site::new(false, &[]);
    let victim = site.member("m10").mac;
    // Without a guard a macvlan child is known by its source MAC only.
    let thieves: &[&str] = if kernel::has_tcx() { &["n10", "v10", "m20", "m0"] } else { &["v10"] };
    for thief in thieves {
        let token = token();
        site.member(thief).tap.send(&Frame::new(victim, site.lan.router.mac, &token));
        site.assert_received(&format!("forged by {thief}"), &token, &[], None);
    }
    assert_eq!(site.daemon.drops("source_mac"), thieves.len() as u64);
    // From the wire, too: a loop, or somebody who uses the address of a child.
    let token = token();
    site.router.send(&Frame::new(victim, site.member("n10").mac, &token).vlan(10));
    site.assert_received("forged on the wire", &token, &[], None);
    assert_eq!(site.daemon.drops("source_is_ours"), 1);
    assert!(site.member("m10").ns.has("eth0"));
}
