//! VRRP (RFC 9568): `keepalived` in two children.

use std::{net::IpAddr, thread, time::Duration};

use tests::{eventually, netns::Netns, patience};

use crate::{
    programs::Program,
    site::{KINDS, Member, SOON, Site, addresses, reaches_soon},
};

/// The address that moves.
const SHARED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 50, 200));

/// A router of VRRP, which announces itself five times in a second.
fn router(child: &Member, priority: u8, more: &str) -> Program {
    let conf = format!(
        "global_defs {{ router_id {}\n vrrp_version 3\n vrrp_garp_master_delay 1\n }}\n\
         vrrp_instance shared {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n \
         priority {priority}\n advert_int 0.2\n {more}\n \
         virtual_ipaddress {{\n {SHARED}/24\n }}\n }}\n",
        child.name
    );
    Program::keepalived(&child.ns, &conf)
}

/// Waits until the shared address is at one child and not at the other, and everybody reaches it there.
#[track_caller]
fn moves_to(site: &Site, (at, not): (&Member, &Member), everybody: &[&tests::netns::Netns]) {
    let what = format!("{SHARED} is at {}, and not at {}", at.name, not.name);
    let has = |child: &Member| addresses(&child.ns, "-4").contains(&SHARED);
    eventually(&what, SOON, || has(at) && !has(not));
    for from in everybody {
        reaches_soon(from, SHARED);
        let known = from.ip(&format!("neigh show {SHARED}"));
        assert!(known.contains(&at.mac.to_string()), "{what}: {}: {known}", from.name());
    }
    site.assert_nothing_counted(&[at, not]);
}

#[test]
fn an_address_of_two_real_vrrp_routers_is_where_its_master_is() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let [one, two] = [("one", 101), ("two", 102)].map(|(name, last)| {
            // It is one address more, however often it comes.
            let more = format!("--ip 192.168.50.{last}/24 --allow-ip {SHARED} --max-addresses 1");
            site.member(name, &more)
        });
        let sibling = site.member("sibling", "--ip 192.168.50.103/24");
        let everybody = [&site.lan.router.ns, &site.lan.hosts[0].ns, &sibling.ns];
        let (master, backup) = (router(&one, 150, ""), router(&two, 100, ""));
        moves_to(&site, (&one, &two), &everybody);
        // The cable of the master is pulled: it says nothing any more.
        one.ns.down("eth0");
        moves_to(&site, (&two, &one), &everybody);
        one.ns.up("eth0");
        moves_to(&site, (&one, &two), &everybody);
        // It ends in good order.
        master.stop();
        moves_to(&site, (&two, &one), &everybody);
        drop(backup);
    }
}

/// Whether a router has the shared address, on whichever of its interfaces.
fn is_master(router: &Member) -> bool {
    router.ns.ip("-4 address").contains(&format!("{SHARED}/"))
}

/// With a virtual MAC (`use_vmac`) a macvlan child is a router where it is trusted with `ip`: a router on the
/// wire hears it and waits until it has ended, and wire and host reach the master. Siblings do not:
/// `keepalived` makes its interface a macvlan in private mode. Without trust the interface is not heard.
#[test]
fn a_virtual_mac_of_vrrp_needs_trust_with_ip() {
    for (kind, trust) in [(KINDS[0], "ip"), (KINDS[1], "none"), (KINDS[1], "ip")] {
        eprintln!("{kind} --trust {trust}");
        let site = Site::new(kind, false);
        let child = site.member("child", &format!("--ip 192.168.50.101/24 --trust {trust}"));
        let ns = Netns::without_ipv6();
        ns.veth("eth0", &site.lan.wire, "peer");
        site.lan.wire.enslave("peer", "wire");
        ns.address("eth0", "192.168.50.2/24");
        let wire = Member { name: "wire".to_owned(), mac: ns.mac("eth0"), ns };
        let master = router(&child, 150, "use_vmac vrrp.51\n");
        eventually("the child is the master", SOON, || is_master(&child));
        let _backup = router(&wire, 100, "");
        if trust == "none" {
            eventually("the router on the wire is a master, too", SOON, || is_master(&wire));
            let drops = site.daemon.json(&["drops"]);
            let rows = drops.as_array().expect("a list").iter();
            let refused = rows.filter(|row| row["reason"] == "source_ip");
            assert!(refused.count() > 0, "what it announces is counted: {drops}");
            continue;
        }
        let others = [&site.lan.router.ns, &site.lan.hosts[0].ns];
        for from in others {
            reaches_soon(from, SHARED);
        }
        // Longer than a backup waits for its master.
        thread::sleep(patience(Duration::from_secs(2)));
        assert!(!is_master(&wire), "the router on the wire hears the child");
        master.stop();
        eventually("the router on the wire is the master", SOON, || is_master(&wire));
        for from in others {
            reaches_soon(from, SHARED);
        }
    }
}
