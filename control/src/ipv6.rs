//! How a link speaks IPv6 (`Documentation/networking/ip-sysctl.rst`, `conf/interface/*`).

use std::{fs, io, path::PathBuf};

/// What a link does about IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    /// It has none, not even a link-local address.
    Off,
    /// It has the addresses that it is given, and does not listen to routers.
    Given,
    /// It takes addresses and routes from routers, too (RFC 4862), even if it is one itself.
    Slaac,
}

/// Sets a link of the calling thread's namespace. Where the kernel has no IPv6 there is nothing to
/// set, except for [`Ipv6::Slaac`].
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn set(ifname: &str, ipv6: Ipv6) -> io::Result<()> {
    let folder = PathBuf::from("/proc/sys/net/ipv6/conf").join(ifname);
    let values: &[(&str, &str)] = match ipv6 {
        Ipv6::Off => &[("disable_ipv6", "1")],
        Ipv6::Given => &[("disable_ipv6", "0"), ("accept_ra", "0"), ("autoconf", "0")],
        Ipv6::Slaac => &[("disable_ipv6", "0"), ("accept_ra", "2"), ("autoconf", "1")],
    };
    for (name, value) in values {
        match fs::write(folder.join(name), value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && ipv6 != Ipv6::Slaac => {}
            other => other?,
        }
    }
    Ok(())
}
