//! `DHCPv6` (RFC 8415): `dnsmasq` serves, `dhclient` asks.

use std::net::IpAddr;

use tests::eventually;

use crate::{
    programs::Program,
    site::{KINDS, Member, SOON, Site, addresses},
};

fn v6(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A range of one address, and who routes.
const ONE: &str = "--dhcp-range=fd00:50::1000,fd00:50::1000,64,1h --enable-ra";

/// Starts a client, as soon as there is an address from which it can ask, and somebody has said what is on
/// the link.
#[track_caller]
fn client(child: &Member) -> Program {
    eventually("its link-local address can be used", SOON, || {
        let text = child.ns.ip("-6 address show dev eth0 scope link");
        text.contains("fe80") && !text.contains("tentative")
    });
    eventually("it has heard a router", SOON, || {
        !child.ns.ip("-6 route show fd00:50::/64").trim().is_empty()
    });
    Program::dhclient6(&child.ns)
}

#[test]
fn a_child_gets_its_ipv6_address_from_a_real_dhcp_server() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, true);
        let _server = Program::dnsmasq(&site.lan.router.ns, ONE);
        let child = site.member("child", "");
        let sibling = site.member("sibling", "--ip fd00:50::103/64");
        site.assert_refused(&child, v6("fd00:50::1000"));
        let before = site.counted(&child);
        let _client = client(&child);
        eventually("it has an address", SOON, || {
            addresses(&child.ns, "-6") == [v6("fd00:50::1000")]
        });
        site.assert_works(&child, v6("fd00:50::1000"), (&sibling, v6("fd00:50::103")));
        assert_eq!(site.counted(&child), before, "{kind}: refused of what a client does");
        site.assert_nothing_counted(&[&sibling]);
        site.assert_refused(&child, v6("fd00:50::1001"));
    }
}

#[test]
fn a_child_that_is_trusted_with_it_is_an_ipv6_dhcp_server_and_another_is_not() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, true);
        let server = site.member("server", "--ip fd00:50::102/64 --trust router");
        let child = site.member("child", "");
        let _server = Program::dnsmasq(&server.ns, ONE);
        let client = client(&child);
        eventually("an answer of the server is refused", SOON, || {
            site.counted(&server).contains_key("dhcp_server")
        });
        assert_eq!(client.times("BOUND6"), 0);
        site.daemon.run(&["child", "set", "server", "--trust", "dhcp-server,router"]);
        eventually("it has an address", SOON, || {
            addresses(&child.ns, "-6") == [v6("fd00:50::1000")]
        });
        site.assert_works(&child, v6("fd00:50::1000"), (&server, v6("fd00:50::102")));
        site.assert_nothing_counted(&[&child]);
    }
}
