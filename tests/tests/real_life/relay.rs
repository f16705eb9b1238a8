//! A DHCP relay (RFC 1542): `dhcrelay` in a namespace with two children.

use std::net::IpAddr;

use tests::{eventually, netns::Netns, traffic::assert_reaches};

use crate::{
    programs::Program,
    site::{KINDS, Member, SOON, Site, addresses},
};

/// A relay between two networks gives the children of one of them addresses of a server on the other,
/// where both of its children are trusted with `dhcp-server`; the client may use what it got.
#[test]
fn a_dhcp_relay_needs_trust_with_dhcp_server() {
    // Two networks of a parent are not both in bridge mode.
    for kind in [KINDS[0], KINDS[2]] {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        site.daemon.network_with("inner", &format!("{kind} --vlan 10 --security enforce"));
        let relay = site.member("relay", "--ip 192.168.50.102/24");
        // The relay's other interface, and the client behind it.
        let add = |name: &str, ns: &Netns, more: &str| {
            let more: Vec<_> = more.split_whitespace().collect();
            site.daemon.child_with(name, "inner", ns, &more)
        };
        add("below", &relay.ns, "--ifname eth1 --ip 192.168.60.1/24");
        let ns = site.lan.namespace();
        let client = Member { name: "client".to_owned(), mac: add("client", &ns, ""), ns };
        let router = &site.lan.router.ns;
        router.ip("route add 192.168.60.0/24 via 192.168.50.102");
        let range = "--dhcp-range=192.168.60.120,192.168.60.120,255.255.255.0,1h";
        let _server = Program::dnsmasq(router, range);
        let _relay = Program::dhcrelay(&relay.ns, "-iu eth0 -id eth1 192.168.50.1");
        let dhcp = Program::udhcpc(&client.ns, "");
        eventually("what the relay tells the server is refused", SOON, || {
            site.counted(&relay).contains_key("dhcp_server")
        });
        site.daemon.run(&["child", "set", "relay", "--trust", "dhcp-server"]);
        eventually("what the relay tells the client is refused", SOON, || {
            let drops = site.daemon.json(&["drops"]).to_string();
            drops.contains("\"below\"")
        });
        assert_eq!(dhcp.times("bound"), 0);
        site.daemon.run(&["child", "set", "below", "--trust", "dhcp-server"]);
        let leased = IpAddr::from([192, 168, 60, 120]);
        eventually("the client has an address", SOON, || addresses(&client.ns, "-4") == [leased]);
        assert_reaches(&client.ns, IpAddr::from([192, 168, 60, 1]));
        assert_reaches(&relay.ns, leased);
        site.assert_nothing_counted(&[&client]);
    }
}
