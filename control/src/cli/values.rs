//! Values on the command line: text in, a checked value or the reason why not out.

use std::{
    net::IpAddr,
    path::{Path, absolute},
};

use ipnetwork::IpNetwork;

use crate::{
    check,
    error::{Error, Result},
    model::{AskedIp, Mac, Setting},
};

/// Text that passes `check`.
pub(super) fn text(
    check: fn(&str) -> Result<()>,
) -> impl Fn(&str) -> Result<String> + Clone + Send + Sync + 'static {
    move |text| check(text).map(|()| text.to_owned())
}

/// A VLAN ID.
pub(super) fn vlan(text: &str) -> Result<u16> {
    let id = text.parse().map_err(|_| Error::invalid(check::not_a_vlan(text)))?;
    check::vlan(id).map(|()| id)
}

/// An MTU.
pub(super) fn mtu(text: &str) -> Result<u32> {
    let bytes = text.parse().map_err(|_| Error::invalid(check::not_an_mtu(text)))?;
    check::mtu(bytes).map(|()| bytes)
}

/// A MAC that a station may have.
pub(super) fn station(text: &str) -> Result<Mac> {
    let mac = text.parse()?;
    check::station(mac).map(|()| mac)
}

/// An address that a child asks for.
pub(super) fn asked_ip(text: &str) -> Result<AskedIp> {
    let asked: AskedIp = text.parse()?;
    check::address(asked.ip).map(|()| asked)
}

/// A subnet, or a part of one.
pub(super) fn subnet(text: &str) -> Result<IpNetwork> {
    let bad = || {
        Error::invalid(format!("\"{text}\" is not a subnet; write 192.168.50.0/24 or fd00:50::/64"))
    };
    let (_, _) = text.split_once('/').ok_or_else(bad)?;
    text.parse().map_err(|_| bad())
}

/// An address that is kept back, after the name of who has it.
pub(super) fn aux_address(text: &str) -> Result<(String, IpAddr)> {
    let bad = || {
        Error::invalid(format!(
            "\"{text}\" is not an address with a name; write NAME=IP, as in router=192.168.50.2"
        ))
    };
    let (name, ip) = text.split_once('=').ok_or_else(bad)?;
    check::name(name)?;
    Ok((name.to_owned(), ip.parse().map_err(|_| bad())?))
}

/// An address on the wire.
pub(super) fn bound_ip(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        Error::invalid(format!("\"{text}\" is not an address; write 192.168.50.1 or fd00:50::1"))
    })
}

/// An address on the wire, and the MAC that it is pinned to.
pub(super) fn binding(text: &str) -> Result<(IpAddr, Mac)> {
    let (ip, mac) = text.split_once('=').ok_or_else(|| {
        Error::invalid(format!(
            "\"{text}\" is not a binding; write IP=MAC, as in 192.168.50.1=02:00:5e:00:53:01"
        ))
    })?;
    let (ip, mac) = (bound_ip(ip)?, mac.parse()?);
    check::binding(ip, mac).map(|()| (ip, mac))
}

/// An address or a prefix that a child may use beside its own.
pub(super) fn allowed(text: &str) -> Result<IpNetwork> {
    let prefix = text.parse().map_err(|_| {
        Error::invalid(format!(
            "\"{text}\" is neither an address nor a prefix; write 192.168.50.250 or fd00:50::/80"
        ))
    })?;
    check::allowed(prefix).map(|()| prefix)
}

/// How many addresses a child may take by itself.
pub(super) fn max_addresses(text: &str) -> Result<u32> {
    let most = text.parse().map_err(|_| Error::invalid(check::not_max_addresses(text)))?;
    check::max_addresses(most).map(|()| most)
}

/// A value, or the word `default`.
pub(super) fn or_default<T: 'static>(
    parse: fn(&str) -> Result<T>,
) -> impl Fn(&str) -> Result<Setting<T>> + Clone + Send + Sync + 'static {
    move |text| {
        if text == "default" { Ok(Setting::Default) } else { parse(text).map(Setting::To) }
    }
}

/// `on` or `off`.
pub(super) fn on_off(text: &str) -> Result<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::invalid(format!("\"{text}\" is neither \"on\" nor \"off\""))),
    }
}

/// A network namespace, in words that mean the same to the daemon: paths are made absolute, and
/// `/proc/self` is this process.
pub(super) fn netns(text: &str) -> Result<String> {
    let netns = if text.contains('/') {
        let path = absolute(text)
            .map_err(|e| Error::invalid(format!("cannot make {text} absolute: {e}")))?;
        own(&path).into_os_string().into_string().unwrap_or_default()
    } else {
        text.to_owned()
    };
    check::netns(&netns).map(|()| netns)
}

fn own(path: &Path) -> std::path::PathBuf {
    let me = Path::new("/proc").join(std::process::id().to_string());
    ["/proc/self", "/proc/thread-self"]
        .iter()
        .find_map(|own| path.strip_prefix(own).ok())
        .map_or_else(|| path.to_owned(), |rest| me.join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_prefix_length_or_none() {
        for good in ["192.168.50.9/24", "fd00::9/64", "10.0.0.1/32", "192.168.50.9", "fd00::9"] {
            assert_eq!(asked_ip(good).unwrap().to_string(), good);
        }
        for bad in ["192.168.50/24", "192.168.50.9/33", "fd00::/129", "", "/", "224.0.0.1"] {
            assert!(asked_ip(bad).is_err(), "{bad}");
        }
        for bad in ["192.168.50.0", "192.168.50/24", "192.168.50.0/33", ""] {
            assert!(subnet(bad).is_err(), "{bad}");
        }
        assert_eq!(aux_address("a=10.0.0.1").unwrap().0, "a");
        for bad in ["10.0.0.1", "=10.0.0.1", "a=", "a=x", ""] {
            assert!(aux_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bindings_and_what_is_allowed_are_of_stations() {
        for good in ["10.0.0.1=02:00:5e:00:53:01", "fd00::1=02:00:5e:00:53:01"] {
            let (ip, mac) = binding(good).unwrap();
            assert_eq!(format!("{ip}={mac}"), good);
        }
        for bad in [
            "10.0.0.1",
            "10.0.0.1=",
            "10.0.0=02:00:5e:00:53:01",
            "10.0.0.1=00:00:00:00:00:00",
            "224.0.0.1=02:00:5e:00:53:01",
        ] {
            assert!(binding(bad).is_err(), "{bad}");
        }
        for (typed, sent) in [("10.0.0.1", "10.0.0.1/32"), ("fd00::/64", "fd00::/64")] {
            assert_eq!(allowed(typed).unwrap().to_string(), sent);
        }
        for bad in ["10.0.0.1/24", "10.0.0", "224.0.0.1", ""] {
            assert!(allowed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_and_words_have_one_message() {
        for bad in ["4095", "70000", "-1", "ten", ""] {
            let message = vlan(bad).unwrap_err().message;
            assert_eq!(
                message,
                format!("\"{bad}\" is not a VLAN ID; use 1 to 4094, or 0 for untagged")
            );
        }
        for bad in ["0", "257", "-1", "many", ""] {
            let message = max_addresses(bad).unwrap_err().message;
            assert_eq!(message, format!("\"{bad}\" is not a number of addresses; use 1 to 256"));
        }
        for bad in ["67", "65536", "big"] {
            assert!(mtu(bad).unwrap_err().message.starts_with(&format!("\"{bad}\" is not an MTU")));
        }
    }

    #[test]
    fn namespaces_mean_the_same_to_the_daemon() {
        let here = std::env::current_dir().unwrap();
        let me = std::process::id();
        let cases = [
            ("red", "red".to_owned()),
            ("pid:7", "pid:7".to_owned()),
            ("/run/netns/red", "/run/netns/red".to_owned()),
            ("./red", here.join("red").display().to_string()),
            ("/proc/self/ns/net", format!("/proc/{me}/ns/net")),
            ("/proc/thread-self/ns/net", format!("/proc/{me}/ns/net")),
            ("/proc/selfish/net", "/proc/selfish/net".to_owned()),
        ];
        for (typed, sent) in cases {
            assert_eq!(netns(typed).unwrap(), sent);
        }
        assert!(netns("pid:x").is_err());
    }
}
