//! Values on the command line: text in, a checked value or the reason why not out.

use std::path::{Path, absolute};

use ipnetwork::IpNetwork;

use crate::{
    check,
    error::{Error, Result},
    model::Mac,
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

/// An address with a prefix length: without one it would stand alone in its subnet, which is
/// hardly ever meant.
pub(super) fn cidr(text: &str) -> Result<IpNetwork> {
    let bad = || {
        Error::invalid(format!(
            "\"{text}\" is not an address with a prefix length; write 192.168.50.9/24 or fd00:50::9/64"
        ))
    };
    let (_, _) = text.split_once('/').ok_or_else(bad)?;
    let ip = text.parse().map_err(|_| bad())?;
    check::address(ip).map(|()| ip)
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
    fn addresses_need_a_prefix_length() {
        for good in ["192.168.50.9/24", "fd00::9/64", "10.0.0.1/32"] {
            assert_eq!(cidr(good).unwrap().to_string(), good);
        }
        for bad in ["192.168.50.9", "192.168.50/24", "192.168.50.9/33", "fd00::/129", "", "/"] {
            assert!(cidr(bad).is_err(), "{bad}");
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
