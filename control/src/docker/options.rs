//! The options of `docker network create -o` and of endpoints.

use std::{collections::BTreeSet, str::FromStr};

use serde_json::{Map, Value};

use crate::{
    check::{self, choice},
    engine::Vlans,
    error::{Error, Result},
    model::{Arp, Kind, Mode, Security, StormLimits, Trunk, Trust, trust},
    probe,
};

/// Where Docker has the `-o` options of a network.
const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";

/// Docker's own names begin so: it may add more of them, and they say nothing to this driver.
pub(super) const OF_DOCKER: &str = "com.docker.";

/// What Docker calls an MTU for its own bridge.
const DRIVER_MTU: &str = "com.docker.network.driver.mtu";

/// The options of a network.
const OF_NETWORK: &[&str] = &[
    "parent",
    "macvlan_mode",
    "vlan",
    "kind",
    "mode",
    "probe",
    "mtu",
    DRIVER_MTU,
    "arp",
    "security",
    "trust",
    "storm",
];

/// The options of an endpoint.
const OF_ENDPOINT: &[&str] = &["vlan"];

/// How long is waited for each answer, in milliseconds, for an address that Docker has chosen: a
/// container waits for it, and its start takes some hundreds.
const PROBE_INTERVAL: u32 = 10;

/// So alike two words have to be that one may be meant for the other.
const ALIKE: f64 = 0.7;

/// What a network was asked for with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NetworkOptions {
    /// The parent; absent: an isolated network.
    pub(super) parent: Option<String>,
    /// The VLAN of its endpoints, or those that they see tagged.
    pub(super) vlans: Vlans,
    /// What its endpoints are made of.
    pub(super) kind: Kind,
    /// Their macvlan mode.
    pub(super) mode: Mode,
    /// Whether the LAN is asked for an address first.
    pub(super) probe: bool,
    /// How long is waited for each answer, in milliseconds.
    pub(super) probe_interval: u32,
    /// The MTU of its endpoints in bytes; absent: the parent's.
    pub(super) mtu: Option<u32>,
    /// Nothing leaves it through the wire.
    pub(super) internal: bool,
    /// How questions for the addresses of its endpoints travel.
    pub(super) arp: Arp,
    /// What becomes of frames that its endpoints have no right to send.
    pub(super) security: Option<Security>,
    /// What they may send all the same.
    pub(super) trust: BTreeSet<Trust>,
    /// How much each of them may send.
    pub(super) storm: StormLimits,
}

impl FromStr for Vlans {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty() {
            let vlan = text.parse().map_err(|_| Error::invalid(check::not_a_vlan(text)))?;
            check::vlan(vlan)?;
            return Ok(Self::Access(vlan));
        }
        text.parse::<Trunk>().map(Self::Trunk)
    }
}

impl NetworkOptions {
    /// Reads the options of `CreateNetwork`.
    pub(super) fn read(options: &Map<String, Value>) -> Result<Self> {
        let mut read = Self {
            parent: None,
            vlans: Vlans::Access(0),
            kind: Kind::default(),
            mode: Mode::Auto,
            probe: true,
            probe_interval: PROBE_INTERVAL,
            mtu: None,
            internal: flag(options, INTERNAL)?,
            arp: Arp::default(),
            security: None,
            trust: BTreeSet::new(),
            storm: StormLimits::default(),
        };
        let none = Map::new();
        let given = match options.get(GENERIC) {
            None | Some(Value::Null) => &none,
            Some(Value::Object(given)) => given,
            Some(other) => {
                return Err(Error::invalid(format!("{GENERIC} is no list of options: {other}")));
            }
        };
        // What Docker's own driver calls it, and what maclane does.
        let (mut of_docker, mut of_maclane) = (None, None);
        for (name, value) in given {
            let text = text(name, value)?;
            match name.as_str() {
                "parent" => read.parent = (!text.is_empty()).then(|| text.to_owned()),
                "macvlan_mode" => of_docker = mode_of_docker(text)?,
                "mode" => of_maclane = Some(choice::<Mode>(name, text)?),
                "kind" => read.kind = choice(name, text)?,
                "vlan" => read.vlans = text.parse()?,
                "probe" => (read.probe, read.probe_interval) = probing(text)?,
                "mtu" | DRIVER_MTU => read.mtu = Some(mtu(text)?),
                "arp" => read.arp = choice(name, text)?,
                "security" => read.security = Some(choice(name, text)?),
                "trust" => read.trust = trust(text)?,
                "storm" => read.storm = text.parse()?,
                other if other.starts_with(OF_DOCKER) => {}
                other => return Err(unknown(other, OF_NETWORK)),
            }
        }
        if let (Some(one), Some(other)) = (of_docker, of_maclane)
            && one != other
        {
            return Err(Error::invalid(format!(
                "macvlan_mode and mode say different things ({one:?} and {other:?}); leave one of them out"
            )));
        }
        read.mode = of_maclane.or(of_docker).unwrap_or_default();
        Ok(read)
    }
}

/// The VLANs that an endpoint asks for.
pub(super) fn of_endpoint(options: &Map<String, Value>) -> Result<Option<Vlans>> {
    let mut vlans = None;
    for (name, value) in options {
        match name.as_str() {
            "vlan" => vlans = Some(text(name, value)?.parse()?),
            other if other.starts_with(OF_DOCKER) => {}
            other => return Err(unknown(other, OF_ENDPOINT)),
        }
    }
    Ok(vlans)
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str> {
    value
        .as_str()
        .ok_or_else(|| Error::invalid(format!("the option \"{name}\" is no text: {value}")))
}

fn flag(options: &Map<String, Value>, name: &str) -> Result<bool> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if matches!(text.as_str(), "false" | "") => Ok(false),
        Some(other) => Err(Error::invalid(format!("{name} is true or false, not {other}"))),
    }
}

/// Docker's `bridge` says that containers reach each other, which they do in every mode but `private`:
/// which one of the kernel's it takes is left to maclane.
fn mode_of_docker(text: &str) -> Result<Option<Mode>> {
    match text {
        "" => Ok(None),
        "bridge" => Ok(Some(Mode::Auto)),
        "vepa" => Ok(Some(Mode::Vepa)),
        "private" => Ok(Some(Mode::Private)),
        "passthru" => Ok(Some(Mode::Passthru)),
        other => Err(Error::invalid(format!(
            "\"{other}\" is not a macvlan_mode; use bridge, vepa, private or passthru"
        ))),
    }
}

/// `on`, `off`, or for how long the LAN is asked in all, in milliseconds.
fn probing(text: &str) -> Result<(bool, u32)> {
    match text {
        "on" | "true" => Ok((true, PROBE_INTERVAL)),
        "off" | "false" => Ok((false, PROBE_INTERVAL)),
        other => {
            let all: u32 = other.parse().ok().filter(|ms| *ms > 0).ok_or_else(|| {
                Error::invalid(format!(
                    "\"{other}\" says nothing about probing; use on, off, or for how many milliseconds the LAN \
                     is asked, as in 300"
                ))
            })?;
            Ok((true, all.div_ceil(probe::PROBES)))
        }
    }
}

fn mtu(text: &str) -> Result<u32> {
    let bytes = text.parse().map_err(|_| Error::invalid(check::not_an_mtu(text)))?;
    check::mtu(bytes)?;
    Ok(bytes)
}

/// Names the option that was meant, if one is like it.
fn unknown(name: &str, known: &[&str]) -> Error {
    let alike = known.iter().map(|other| (strsim::jaro_winkler(name, other), other));
    let best = alike.max_by(|one, other| one.0.total_cmp(&other.0));
    Error::invalid(match best {
        Some((likeness, meant)) if likeness >= ALIKE => {
            format!("there is no option \"{name}\"; did you mean \"{meant}\"?")
        }
        _ => format!("there is no option \"{name}\"; there are {}", known.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(options: &Value) -> Result<NetworkOptions> {
        let all = json!({ GENERIC: options });
        NetworkOptions::read(all.as_object().unwrap())
    }

    fn refused(options: &Value) -> String {
        read(options).unwrap_err().message
    }

    #[test]
    fn options_of_dockers_own_driver_mean_the_same() {
        let read = read(&json!({ "parent": "eth0.50", "macvlan_mode": "private" })).unwrap();
        assert_eq!((read.parent.as_deref(), read.mode), (Some("eth0.50"), Mode::Private));
        assert_eq!(self::read(&json!({ "macvlan_mode": "bridge" })).unwrap().mode, Mode::Auto);
        assert_eq!(self::read(&json!({ "parent": "" })).unwrap().parent, None);
        assert_eq!(self::read(&Value::Null).unwrap(), self::read(&json!({})).unwrap());
        assert_eq!(self::read(&json!({ DRIVER_MTU: "1400" })).unwrap().mtu, Some(1400));
        assert!(self::read(&json!({ "com.docker.network.new": "x" })).is_ok());
    }

    #[test]
    fn options_of_maclane_are_read() {
        let options = json!({
            "parent": "eth0", "vlan": "50", "kind": "veth", "mode": "auto", "probe": "300", "mtu": "9000",
        });
        let read = read(&options).unwrap();
        assert_eq!((read.vlans, read.kind, read.mode), (Vlans::Access(50), Kind::Veth, Mode::Auto));
        assert_eq!((read.probe, read.probe_interval, read.mtu), (true, 100, Some(9000)));
        let trunk = |text: &str| self::read(&json!({ "vlan": text })).unwrap().vlans;
        assert_eq!(trunk("10,20"), Vlans::Trunk(Trunk::List(vec![10, 20])));
        assert_eq!(trunk("all"), Vlans::Trunk(Trunk::All));
        assert!(!self::read(&json!({ "probe": "off" })).unwrap().probe);
        let options = json!({
            "arp": "flood", "security": "log", "trust": "mac,ip", "storm": "broadcast=5",
        });
        let policy = self::read(&options).unwrap();
        assert_eq!((policy.arp, policy.security), (Arp::Flood, Some(Security::Log)));
        assert_eq!(policy.trust, BTreeSet::from([Trust::Mac, Trust::Ip]));
        assert_eq!(policy.storm.broadcast, Some(5));
        let internal = json!({ INTERNAL: true });
        assert!(NetworkOptions::read(internal.as_object().unwrap()).unwrap().internal);
    }

    #[test]
    fn what_is_wrong_is_named_with_the_way_out() {
        for (options, words) in [
            (json!({ "parrent": "eth0" }), "did you mean \"parent\"?"),
            (json!({ "vlans": "5" }), "did you mean \"vlan\"?"),
            (json!({ "macvlan-mode": "vepa" }), "did you mean \"macvlan_mode\"?"),
            (json!({ "colour": "red" }), "there are parent, macvlan_mode"),
            (json!({ "vlan": "4095" }), "not a VLAN ID"),
            (json!({ "vlan": "70000" }), "not a VLAN ID"),
            (json!({ "vlan": "x" }), "not a list of VLANs"),
            (json!({ "vlan": 5 }), "is no text"),
            (json!({ "mode": "fast" }), "use auto, bridge, vepa, private, passthru"),
            (json!({ "macvlan_mode": "fast" }), "use bridge, vepa, private or passthru"),
            (json!({ "mode": "vepa", "macvlan_mode": "private" }), "leave one of them out"),
            (json!({ "probe": "maybe" }), "on, off"),
            (json!({ "mtu": "5" }), "not an MTU"),
            (json!({ "arp": "spoof" }), "use steer, suppress, flood"),
            (json!({ "security": "on" }), "use off, log, enforce"),
            (
                json!({ "trust": "all" }),
                "use dhcp-server, router, multicast-router, bpdu, mac, ip, raw-socket",
            ),
            (json!({ "storm": "5" }), "no list of limits"),
            (json!("x"), "no list of options"),
        ] {
            let message = refused(&options);
            assert!(message.contains(words), "{options}: {message}");
        }
    }

    #[test]
    fn endpoints_choose_their_vlan() {
        let of = |value: &Value| of_endpoint(value.as_object().unwrap());
        assert_eq!(of(&json!({ "vlan": "10" })).unwrap(), Some(Vlans::Access(10)));
        assert_eq!(of(&json!({ "com.docker.network.portmap": null })).unwrap(), None);
        assert!(of(&json!({ "vlann": "10" })).unwrap_err().message.contains("\"vlan\"?"));
    }
}
