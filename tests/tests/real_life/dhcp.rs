//! DHCP (RFC 2131): `dnsmasq` serves, `udhcpc` asks.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tests::{eventually, patience};

use crate::{
    programs::Program,
    site::{KINDS, Member, SOON, Site, addresses},
};

fn v4(last: u8) -> IpAddr {
    [192, 168, 50, last].into()
}

/// A range of the one address .120.
const ONE: &str = "--dhcp-range=192.168.50.120,192.168.50.120,255.255.255.0,1h";

/// Children, and what their clients ask for: answers to one station, or broadcasts.
const CLIENTS: [(&str, &str); 4] =
    [(KINDS[0], ""), (KINDS[1], ""), (KINDS[1], "-B"), (KINDS[2], "-B")];

/// Waits until a client has the address .120.
#[track_caller]
fn gets_it(client: &Member) {
    eventually(&format!("{} has {}", client.name, v4(120)), SOON, || {
        addresses(&client.ns, "-4") == [v4(120)]
    });
}

/// Lets a client renew its lease. It may miss an answer that comes before it listens, and is told again then.
#[track_caller]
fn renew(client: &Program) {
    let mut told: Option<Instant> = None;
    eventually("the lease is renewed", SOON, || {
        if told.is_none_or(|told| told.elapsed() > patience(Duration::from_secs(4))) {
            client.signal(Signal::SIGUSR1);
            told = Some(Instant::now());
        }
        client.times("renew") > 0
    });
}

#[test]
fn a_child_gets_its_address_from_a_real_dhcp_server() {
    for (kind, broadcast) in CLIENTS {
        eprintln!("{kind} {broadcast}");
        let site = Site::new(kind, false);
        let child = site.member("child", "");
        let sibling = site.member("sibling", "--ip 192.168.50.103/24");
        let sibling = (&sibling, v4(103));
        site.assert_refused(&child, v4(120));

        let _server = Program::dnsmasq(&site.lan.router.ns, ONE);
        let before = site.counted(&child);
        let client = Program::udhcpc(&child.ns, broadcast);
        gets_it(&child);
        site.assert_works(&child, v4(120), sibling);
        renew(&client);
        site.assert_works(&child, v4(120), sibling);
        assert_eq!(site.counted(&child), before, "{kind}: refused of what a client does");
        site.assert_nothing_counted(&[sibling.0]);
        site.assert_refused(&child, v4(121));
    }
}

#[test]
fn an_address_that_a_child_gives_back_is_the_next_ones() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let [first, next] = ["first", "next"].map(|name| site.member(name, ""));
        let sibling = site.member("sibling", "--ip 192.168.50.103/24");
        let _server = Program::dnsmasq(&site.lan.router.ns, ONE);
        let client = Program::udhcpc(&first.ns, "");
        gets_it(&first);
        site.assert_works(&first, v4(120), (&sibling, v4(103)));
        client.signal(Signal::SIGUSR2);
        eventually("it has no address", SOON, || addresses(&first.ns, "-4").is_empty());
        site.assert_nothing_counted(&[&first]);
        site.assert_refused(&first, v4(120));

        let _other = Program::udhcpc(&next.ns, "");
        gets_it(&next);
        site.assert_works(&next, v4(120), (&sibling, v4(103)));
        site.assert_nothing_counted(&[&next, &sibling]);
    }
}

#[test]
fn a_child_that_is_trusted_with_it_is_a_dhcp_server_and_another_is_not() {
    for (kind, broadcast) in CLIENTS {
        eprintln!("{kind} {broadcast}");
        let site = Site::new(kind, false);
        let server = site.member("server", "--ip 192.168.50.102/24");
        let child = site.member("child", "");
        let _server = Program::dnsmasq(&server.ns, ONE);
        let client = Program::udhcpc(&child.ns, broadcast);
        eventually("an offer of the server is refused", SOON, || {
            site.counted(&server).contains_key("dhcp_server")
        });
        assert_eq!(client.times("bound"), 0);
        site.daemon.run(&["child", "set", "server", "--trust", "dhcp-server"]);
        gets_it(&child);
        site.assert_works(&child, v4(120), (&server, v4(102)));
        renew(&client);
        site.assert_works(&child, v4(120), (&server, v4(102)));
        site.assert_nothing_counted(&[&child]);
    }
}
