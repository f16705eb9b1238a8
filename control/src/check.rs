//! What a specification must satisfy whatever the state: the command line checks while it parses,
//! the API before the engine sees it, both with these functions.

use std::{fmt, net::IpAddr};

use crate::{
    error::{Error, Result},
    model::{ChildSpec, IFNAME_MAX, Kind, Mac, Mode, NetworkSpec, ParentSpec, VLAN_MAX},
    subnet,
};

/// Room for a container's ID of 64 characters and an interface's name after it.
const NAME_MAX: usize = 128;

/// `ETH_MIN_MTU` (`include/uapi/linux/if_ether.h`).
const MTU_MIN: u32 = 68;

/// `ETH_MAX_MTU`, likewise.
const MTU_MAX: u32 = 65_535;

/// Three of them are what a caller waits at most.
const PROBE_INTERVAL_MAX: u32 = 5_000;

/// A specification that can be checked without looking at any state.
pub(crate) trait Check {
    /// An error of kind `Invalid` for the first thing that makes no sense.
    fn check(&self) -> Result<()>;
}

impl Check for ParentSpec {
    fn check(&self) -> Result<()> {
        iface(&self.iface)
    }
}

impl Check for NetworkSpec {
    fn check(&self) -> Result<()> {
        name(&self.name)?;
        iface(&self.parent)?;
        vlan(self.vlan)?;
        if let Some(bytes) = self.mtu {
            mtu(bytes)?;
        }
        if self.kind == Kind::Veth && self.mode != Mode::Auto {
            return Err(Error::invalid(format!(
                "network \"{}\" has kind veth, and a mode is for macvlan children only; leave the mode out or use kind macvlan",
                self.name
            )));
        }
        ensure((1..=PROBE_INTERVAL_MAX).contains(&self.probe_interval), || {
            format!(
                "{} ms is not a time to wait for answers; use 1 to {PROBE_INTERVAL_MAX}, or probe none",
                self.probe_interval
            )
        })?;
        ensure(!self.internal || self.mode != Mode::Passthru, || {
            "a passthru child gets what the wire sends to the host, and cannot be in an internal network; \
             use another mode".into()
        })?;
        ensure(!self.internal || self.slaac != Some(true), || {
            "the routers of the LAN do not reach an internal network; leave slaac out".into()
        })?;
        for name in self.aux_addresses.keys() {
            self::name(name)?;
        }
        subnet::check(&self.subnets, &self.aux_addresses)
    }
}

impl Check for ChildSpec {
    fn check(&self) -> Result<()> {
        name(&self.name)?;
        name(&self.network)?;
        netns(&self.netns)?;
        iface(&self.ifname)?;
        self.mac.map_or(Ok(()), station)?;
        self.ip.iter().try_for_each(|asked| address(asked.ip))
    }
}

/// The name of a network or of a child that maclane makes.
pub(crate) fn name(text: &str) -> Result<()> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(inner)
        && text.len() <= NAME_MAX;
    ensure(good, || {
        format!(
            "\"{text}\" is not a name; use at most {NAME_MAX} of a-z, A-Z, 0-9, \"_\", \".\" and \"-\", beginning with a letter or a digit"
        )
    })
}

/// An interface's name, as `dev_valid_name` in `net/core/dev.c` has it; `%` would be taken for a
/// pattern.
pub(crate) fn iface(text: &str) -> Result<()> {
    ensure(!text.is_empty() && text.len() <= IFNAME_MAX, || {
        format!("\"{text}\" is not an interface name; use 1 to {IFNAME_MAX} bytes")
    })?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    ensure(!text.contains(bad) && text != "." && text != "..", || {
        format!(
            "\"{}\" is not an interface name; leave out spaces, \"/\", \":\" and \"%\"",
            text.escape_debug()
        )
    })
}

/// A VLAN ID; 0 is untagged.
pub(crate) fn vlan(id: u16) -> Result<()> {
    ensure(id <= VLAN_MAX, || not_a_vlan(id))
}

/// Why `id` is no VLAN ID.
pub(crate) fn not_a_vlan(id: impl fmt::Display) -> String {
    format!("\"{id}\" is not a VLAN ID; use 1 to {VLAN_MAX}, or 0 for untagged")
}

/// A size of an interface's frames.
pub(crate) fn mtu(bytes: u32) -> Result<()> {
    ensure((MTU_MIN..=MTU_MAX).contains(&bytes), || not_an_mtu(bytes))
}

/// Why `bytes` is no MTU.
pub(crate) fn not_an_mtu(bytes: impl fmt::Display) -> String {
    format!("\"{bytes}\" is not an MTU; use {MTU_MIN} to {MTU_MAX} bytes")
}

/// A MAC that a station may have.
pub(crate) fn station(mac: Mac) -> Result<()> {
    ensure(!mac.is_zero() && !mac.is_multicast(), || {
        format!(
            "{mac} cannot be an interface's MAC: it is {}; take a locally administered one, as in 02:00:5e:00:53:01, or leave it out",
            if mac.is_zero() { "all zeros" } else { "a multicast address" }
        )
    })
}

/// An address that a station may have.
pub(crate) fn address(address: IpAddr) -> Result<()> {
    ensure(!address.is_unspecified() && !address.is_multicast(), || {
        format!("{address} cannot be an interface's address; take one of the network's hosts")
    })
}

/// A network namespace: a name, an absolute path, or `pid:N`.
pub(crate) fn netns(text: &str) -> Result<()> {
    let good = match text.strip_prefix("pid:") {
        Some(pid) => pid.parse::<u32>().is_ok_and(|n| n > 0),
        None if text.contains('/') => text.starts_with('/'),
        None => !matches!(text, "" | "." | ".."),
    };
    ensure(good && !text.contains('\0'), || {
        format!(
            "\"{}\" is not a network namespace; write a name below /run/netns, an absolute path, or pid:N",
            text.escape_debug()
        )
    })
}

fn ensure(good: bool, why: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { Err(Error::invalid(why())) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[track_caller]
    fn table<T: Copy + fmt::Debug>(good: &[T], bad: &[T], check: impl Fn(T) -> Result<()>) {
        for case in good {
            assert!(check(*case).is_ok(), "{case:?} is refused");
        }
        for case in bad {
            assert!(check(*case).is_err(), "{case:?} is taken");
        }
    }

    #[test]
    fn interface_names_are_those_that_the_kernel_takes() {
        let good = ["eth0", "eth0.50", "br-1a2b", "a", "123456789012345", "wlan\u{e9}"];
        let bad =
            ["", ".", "..", "1234567890123456", "a b", "a/b", "a:b", "eth%d", "a\n", "a\u{1b}"];
        table(&good, &bad, iface);
    }

    #[test]
    fn names_are_safe_in_paths_and_keys() {
        let long = "x".repeat(NAME_MAX);
        let longer = "x".repeat(NAME_MAX + 1);
        let good = ["web", "lan50", "a.b-c_d", "0", long.as_str()];
        let bad = ["", "-a", ".a", "a/b", "a b", "\u{e9}", longer.as_str()];
        table(&good, &bad, name);
    }

    #[test]
    fn numbers_have_bounds() {
        table(&[0, 1, 4094], &[4095, u16::MAX], vlan);
        table(&[68, 1500, 9000, 65_535], &[0, 67, 65_536], mtu);
    }

    #[test]
    fn stations_have_unicast_addresses() {
        let good = ["02:00:5e:00:53:01", "00:11:22:33:44:55"];
        let bad = ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"];
        table(&good, &bad, |text| station(text.parse().unwrap()));
        let good = ["192.168.50.9", "fd00::9"];
        let bad = ["0.0.0.0", "224.0.0.1", "ff02::1"];
        table(&good, &bad, |text| address(text.parse().unwrap()));
    }

    #[test]
    fn namespaces_are_names_absolute_paths_or_process_ids() {
        let good = ["red", "/run/netns/red", "/proc/1/ns/net", "pid:1"];
        let bad = ["", ".", "..", "a/b", "./a", "pid:", "pid:0", "pid:x", "pid:-1", "a\0"];
        table(&good, &bad, netns);
    }

    #[test]
    fn a_mode_is_for_macvlan_networks() {
        let spec = |kind, mode| NetworkSpec {
            name: "lan".into(),
            parent: "eth0".into(),
            vlan: 0,
            kind,
            mode,
            mtu: None,
            subnets: Vec::new(),
            aux_addresses: BTreeMap::new(),
            quarantine: 0,
            internal: false,
            slaac: None,
            routes: Vec::new(),
            probe: true,
            probe_interval: 250,
        };
        let good = [(Kind::Macvlan, Mode::Vepa), (Kind::Veth, Mode::Auto)];
        table(&good, &[(Kind::Veth, Mode::Bridge)], |(kind, mode)| spec(kind, mode).check());
    }
}
