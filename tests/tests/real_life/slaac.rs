//! Stateless addresses (RFC 4862, RFC 8981): `radvd` advertises.

use std::net::IpAddr;

use tests::eventually;

use crate::{
    programs::Program,
    site::{KINDS, SOON, Site, addresses},
};

#[test]
fn a_child_takes_the_addresses_that_a_real_router_advertises_and_temporary_ones() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, true);
        let _router = Program::radvd(&site.lan.router.ns, "fd00:50::/64");
        let sibling = site.member("sibling", "--ip fd00:50::103/64");
        let ns = site.lan.namespace();
        for which in ["all", "default"] {
            ns.sysctl(&format!("net/ipv6/conf/{which}/use_tempaddr"), "2");
        }
        let child = site.member_in("child", ns, "");
        eventually("it has a stable and a temporary address", SOON, || {
            addresses(&child.ns, "-6").len() == 2
        });
        let sibling6: IpAddr = "fd00:50::103".parse().expect("an address");
        for ip in addresses(&child.ns, "-6") {
            site.assert_works(&child, ip, (&sibling, sibling6));
        }
        site.assert_nothing_counted(&[&child, &sibling]);
        // What it has not asked for is not its own.
        site.assert_refused(&child, "fd00:50::bad".parse().expect("an address"));
    }
}
