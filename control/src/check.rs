//! What a specification must satisfy whatever the state: the command line checks while it parses,
//! the API before the engine sees it, both with these functions.

use std::{fmt, net::IpAddr};

use clap::ValueEnum;
use ipnetwork::IpNetwork;

use crate::{
    error::{Error, Result},
    model::{
        BindingSpec, ChildPatch, ChildSpec, IFNAME_MAX, Kind, Mac, Mode, NetworkPatch, NetworkSpec,
        ParentSpec, Setting, VLAN_MAX,
    },
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

/// More addresses than a child may take by itself.
const ADDRESSES_MAX: u32 = 256;

/// More prefixes than a child may use beside its own addresses, and more stations than a network may
/// pin.
const LIST_MAX: usize = 256;

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
        max_addresses(self.max_addresses)?;
        ensure(self.bindings.len() <= LIST_MAX, || {
            format!(
                "network \"{}\" has {} bindings, and {LIST_MAX} is all that it can have; leave some out",
                self.name,
                self.bindings.len()
            )
        })?;
        self.bindings.iter().try_for_each(|(ip, mac)| binding(*ip, *mac))?;
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
        self.max_addresses.map_or(Ok(()), max_addresses)?;
        allowed_list(&self.allow_ip)?;
        self.ip.iter().try_for_each(|asked| address(asked.ip))
    }
}

impl Check for NetworkPatch {
    fn check(&self) -> Result<()> {
        check_setting(self.max_addresses.as_ref(), |most| max_addresses(*most))
    }
}

impl Check for ChildPatch {
    fn check(&self) -> Result<()> {
        check_setting(self.max_addresses.as_ref(), |most| max_addresses(*most))?;
        check_setting(self.allow_ip.as_ref(), |list| allowed_list(list))
    }
}

impl Check for BindingSpec {
    fn check(&self) -> Result<()> {
        bound_mac(self.mac)
    }
}

fn check_setting<T>(
    setting: Option<&Setting<T>>,
    check: impl FnOnce(&T) -> Result<()>,
) -> Result<()> {
    match setting {
        Some(Setting::To(value)) => check(value),
        Some(Setting::Default) | None => Ok(()),
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

/// How many addresses a child may take by itself.
pub(crate) fn max_addresses(most: u32) -> Result<()> {
    ensure((1..=ADDRESSES_MAX).contains(&most), || not_max_addresses(most))
}

/// Why `most` is no number of addresses.
pub(crate) fn not_max_addresses(most: impl fmt::Display) -> String {
    format!("\"{most}\" is not a number of addresses; use 1 to {ADDRESSES_MAX}")
}

/// An address on the wire, and the MAC that it is pinned to.
pub(crate) fn binding(ip: IpAddr, mac: Mac) -> Result<()> {
    let is_broadcast = ip == IpAddr::from([255; 4]);
    let station = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && !is_broadcast;
    ensure(station, || {
        format!(
            "{ip} cannot be bound to a MAC: no station has it; take the address of one on the wire"
        )
    })?;
    bound_mac(mac)
}

fn bound_mac(mac: Mac) -> Result<()> {
    ensure(!mac.is_zero() && !mac.is_multicast(), || {
        format!(
            "nothing can be bound to {mac}: it is {}; take the MAC of the station that has the address",
            if mac.is_zero() { "all zeros" } else { "a multicast address" }
        )
    })
}

/// An address or a prefix that a child may use beside its own addresses.
pub(crate) fn allowed(prefix: IpNetwork) -> Result<()> {
    ensure(prefix.ip() == prefix.network(), || {
        format!(
            "{prefix} is not a prefix but an address in one; write {}/{} or {}",
            prefix.network(),
            prefix.prefix(),
            prefix.ip()
        )
    })?;
    let ip = prefix.ip();
    let unfit =
        ip.is_multicast() || ip.is_loopback() || (ip.is_unspecified() && prefix.prefix() > 0);
    ensure(!unfit, || {
        format!(
            "{prefix} cannot be a child's; take an address or a prefix of its network, as in 192.168.50.9"
        )
    })
}

fn allowed_list(prefixes: &[IpNetwork]) -> Result<()> {
    ensure(prefixes.len() <= LIST_MAX, || {
        format!(
            "{} addresses and prefixes are more than the {LIST_MAX} that a child can be allowed; take larger prefixes",
            prefixes.len()
        )
    })?;
    prefixes.iter().try_for_each(|prefix| allowed(*prefix))
}

/// One of the words of a closed list; `what` is what they are called.
pub(crate) fn choice<T: ValueEnum>(what: &str, text: &str) -> Result<T> {
    T::from_str(text, false).map_err(|_| {
        let names = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|value| value.get_name().to_owned()).collect();
        Error::invalid(format!("\"{text}\" is not a {what}; use {}", names.join(", ")))
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
    use serde_json::{Value, json};

    use super::*;

    fn network(more: &Value) -> NetworkSpec {
        let mut spec = json!({ "name": "lan", "parent": "eth0" });
        for (name, value) in more.as_object().unwrap() {
            spec[name] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

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
        let spec = |kind, mode| NetworkSpec { kind, mode, ..network(&json!({})) };
        let good = [(Kind::Macvlan, Mode::Vepa), (Kind::Veth, Mode::Auto)];
        table(&good, &[(Kind::Veth, Mode::Bridge)], |(kind, mode)| spec(kind, mode).check());
    }
    #[test]
    fn a_policy_has_bounds() {
        table(&[1, 16, 256], &[0, 257], max_addresses);
        let good = ["10.0.0.1/32", "10.0.0.0/8", "fd00::/64", "fe80::1/128", "0.0.0.0/0"];
        let bad = ["10.0.0.1/8", "224.0.0.1/32", "127.0.0.1/32", "0.0.0.0/32", "::/128", "::1/128"];
        table(&good, &bad, |text| allowed(text.parse().unwrap()));
        let mac = "02:00:5e:00:53:01";
        let good = [("10.0.0.1", mac), ("fe80::1", mac), ("fd00::1", "00:11:22:33:44:55")];
        let bad = [
            ("0.0.0.0", mac),
            ("::", mac),
            ("127.0.0.1", mac),
            ("::1", mac),
            ("224.0.0.1", mac),
            ("ff02::1", mac),
            ("255.255.255.255", mac),
            ("10.0.0.1", "00:00:00:00:00:00"),
            ("10.0.0.1", "01:00:5e:00:00:01"),
        ];
        table(&good, &bad, |(ip, mac)| network(&json!({ "bindings": { ip: mac } })).check());
    }
}
