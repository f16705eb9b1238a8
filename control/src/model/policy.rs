//! The policy of networks and children: what a child may send, how much of it, and how the questions
//! for its addresses travel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChildSpec, Mac, NetworkSpec};
use crate::{
    check,
    error::{Error, Result},
};

/// Broadcasts per second that a port may send where nobody has said otherwise.
const BROADCAST: u32 = 1000;

/// How ARP requests and neighbour solicitations for the address of a child travel.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arp {
    /// To the one who has the address alone.
    #[default]
    Steer,
    /// Nowhere: maclane answers on the child's behalf.
    Suppress,
    /// To everybody, as without maclane.
    Flood,
}

/// What becomes of frames that a child has no right to send; the stricter, the greater.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Security {
    /// They pass.
    Off,
    /// They pass, and are counted and told.
    Log,
    /// They are dropped, counted and told.
    Enforce,
}

/// Something that only a trusted child may send.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trust {
    /// What DHCP servers say.
    DhcpServer,
    /// Router advertisements.
    Router,
    /// What multicast routers say: queries of IGMP and MLD, PIM.
    MulticastRouter,
    /// What switches tell each other: STP, LLDP and whatever else goes to reserved link-local addresses, CDP and
    /// its kin, GVRP, MVRP.
    Bpdu,
    /// Any source MAC.
    Mac,
    /// Any source address, and any claim in ARP and neighbour discovery.
    Ip,
    /// Packet sockets that bypass the hooks of the child's link (`PACKET_QDISC_BYPASS`). Port security
    /// holds for what they send.
    RawSocket,
}

/// A list such as `dhcp-server,router`; `none` is the empty one.
pub(crate) fn trust(text: &str) -> Result<BTreeSet<Trust>> {
    if text == "none" {
        return Ok(BTreeSet::new());
    }
    text.split(',').map(|word| check::choice("word of trust", word)).collect()
}

/// How many frames of each kind a port may send in a second, as asked for; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StormLimits {
    /// Broadcasts; absent: 1000.
    #[serde(default)]
    pub(crate) broadcast: Option<u32>,
    /// Multicasts; absent: no limit.
    #[serde(default)]
    pub(crate) multicast: Option<u32>,
    /// Unicast for a MAC that nobody here has; absent: no limit.
    #[serde(default)]
    pub(crate) unknown: Option<u32>,
}

/// How many frames of each kind a port may send in a second; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Storm {
    /// Broadcasts.
    pub(crate) broadcast: u32,
    /// Multicasts.
    pub(crate) multicast: u32,
    /// Unicast for a MAC that nobody here has.
    pub(crate) unknown: u32,
}

impl StormLimits {
    /// These, and what `base` says where they say nothing.
    #[must_use]
    pub(crate) fn over(self, base: Self) -> Self {
        Self {
            broadcast: self.broadcast.or(base.broadcast),
            multicast: self.multicast.or(base.multicast),
            unknown: self.unknown.or(base.unknown),
        }
    }

    /// These, and the defaults where they say nothing.
    pub(crate) fn in_force(self) -> Storm {
        Storm {
            broadcast: self.broadcast.unwrap_or(BROADCAST),
            multicast: self.multicast.unwrap_or(0),
            unknown: self.unknown.unwrap_or(0),
        }
    }
}

impl FromStr for StormLimits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "\"{text}\" is no list of limits; write frames per second, 0 for no limit, as in \
                 broadcast=1000,multicast=5000,unknown=0"
            ))
        };
        let mut limits = Self::default();
        for part in text.split(',') {
            let (kind, number) = part.split_once('=').ok_or_else(bad)?;
            let limit = match kind {
                "broadcast" => &mut limits.broadcast,
                "multicast" => &mut limits.multicast,
                "unknown" => &mut limits.unknown,
                _ => return Err(bad()),
            };
            let number = number.parse().map_err(|_| bad())?;
            if limit.replace(number).is_some() {
                return Err(Error::invalid(format!(
                    "\"{text}\" has two limits for {kind}; leave one of them out"
                )));
            }
        }
        Ok(limits)
    }
}

/// How many addresses a child may take by itself where nobody has said otherwise.
pub(crate) fn default_max_addresses() -> u32 {
    16
}

/// The policy that is in force for a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Policy {
    /// How ARP requests and neighbour solicitations for its addresses travel.
    pub(crate) arp: Arp,
    /// What becomes of frames that it has no right to send.
    pub(crate) security: Security,
    /// What it may send all the same.
    pub(crate) trust: BTreeSet<Trust>,
    /// How much it may send.
    pub(crate) storm: Storm,
    /// How many addresses it may take by itself.
    pub(crate) max_addresses: u32,
    /// Addresses and prefixes that it may use beside its own.
    #[schema(value_type = Vec<String>)]
    pub(crate) allow_ip: Vec<IpNetwork>,
    /// Whose addresses on the wire are pinned: it never hears another MAC claim one of them.
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) bindings: BTreeMap<IpAddr, Mac>,
}

impl NetworkSpec {
    /// The security of its children that have no word of their own, and have addresses from maclane or not.
    pub(crate) fn security_of(&self, addressed: bool) -> Security {
        let default = if addressed { Security::Enforce } else { Security::Off };
        self.security.unwrap_or(default)
    }
}

impl Policy {
    /// What is in force for a child of a network. Its own word goes before its network's. Where neither
    /// says anything about security, a child that is `addressed`, that has addresses from maclane, is
    /// kept to them, and the others are not.
    pub(crate) fn of(network: &NetworkSpec, child: &ChildSpec, addressed: bool) -> Self {
        Self {
            arp: network.arp,
            security: child.security.unwrap_or_else(|| network.security_of(addressed)),
            trust: child.trust.as_ref().unwrap_or(&network.trust).clone(),
            storm: child.storm.over(network.storm).in_force(),
            max_addresses: child.max_addresses.unwrap_or(network.max_addresses),
            allow_ip: child.allow_ip.clone(),
            bindings: network.bindings.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resolve(network: &Value, child: &Value, addressed: bool) -> Value {
        let with = |mut base: Value, more: &Value| {
            for (name, value) in more.as_object().unwrap() {
                base[name] = value.clone();
            }
            base
        };
        let network = with(json!({ "name": "lan", "parent": "eth0" }), network);
        let child = with(json!({ "name": "web", "network": "lan", "netns": "red" }), child);
        let network = serde_json::from_value(network).unwrap();
        let child = serde_json::from_value(child).unwrap();
        serde_json::to_value(Policy::of(&network, &child, addressed)).unwrap()
    }

    #[test]
    fn the_word_of_a_child_goes_before_that_of_its_network_and_that_before_the_defaults() {
        let storm = |broadcast, multicast, unknown| json!({ "broadcast": broadcast, "multicast": multicast, "unknown": unknown });
        let none = || json!({});
        for (network, child, addressed, field, expected) in [
            (none(), none(), true, "security", json!("enforce")),
            (none(), none(), false, "security", json!("off")),
            (json!({ "security": "log" }), none(), true, "security", json!("log")),
            (json!({ "security": "log" }), none(), false, "security", json!("log")),
            (json!({ "security": "off" }), none(), true, "security", json!("off")),
            (none(), json!({ "security": "enforce" }), false, "security", json!("enforce")),
            (
                json!({ "security": "enforce" }),
                json!({ "security": "off" }),
                true,
                "security",
                json!("off"),
            ),
            (none(), none(), true, "arp", json!("steer")),
            (json!({ "arp": "suppress" }), none(), true, "arp", json!("suppress")),
            (none(), none(), true, "trust", json!([])),
            (json!({ "trust": ["mac", "bpdu"] }), none(), true, "trust", json!(["bpdu", "mac"])),
            (json!({ "trust": ["mac"] }), json!({ "trust": ["ip"] }), true, "trust", json!(["ip"])),
            (json!({ "trust": ["mac"] }), json!({ "trust": [] }), true, "trust", json!([])),
            (none(), none(), true, "storm", storm(1000, 0, 0)),
            (json!({ "storm": { "broadcast": 0 } }), none(), true, "storm", storm(0, 0, 0)),
            (
                json!({ "storm": { "broadcast": 5, "multicast": 6 } }),
                json!({ "storm": { "multicast": 0, "unknown": 7 } }),
                true,
                "storm",
                storm(5, 0, 7),
            ),
            (none(), none(), true, "max_addresses", json!(16)),
            (json!({ "max_addresses": 4 }), none(), true, "max_addresses", json!(4)),
            (
                json!({ "max_addresses": 4 }),
                json!({ "max_addresses": 9 }),
                true,
                "max_addresses",
                json!(9),
            ),
            (none(), none(), true, "allow_ip", json!([])),
            (
                none(),
                json!({ "allow_ip": ["10.0.0.1", "fd00::/64", "fd00::1"] }),
                true,
                "allow_ip",
                json!(["10.0.0.1/32", "fd00::/64", "fd00::1/128"]),
            ),
            (none(), none(), true, "bindings", json!({})),
            (
                json!({ "bindings": { "fd00::1": "02:00:5e:00:53:01" } }),
                none(),
                true,
                "bindings",
                json!({ "fd00::1": "02:00:5e:00:53:01" }),
            ),
        ] {
            let found = resolve(&network, &child, addressed);
            assert_eq!(found[field], expected, "{network} {child} {addressed}");
        }
    }

    #[test]
    fn limits_are_written_by_kind() {
        let limits = |broadcast, multicast, unknown| StormLimits { broadcast, multicast, unknown };
        for (text, expected) in [
            ("broadcast=1", limits(Some(1), None, None)),
            ("unknown=0,multicast=5000", limits(None, Some(5000), Some(0))),
        ] {
            assert_eq!(text.parse::<StormLimits>().unwrap(), expected, "{text}");
        }
        for bad in ["", "broadcast", "broadcast=", "broadcast=-1", "arp=5", "broadcast=1,", "1000"]
        {
            let message = bad.parse::<StormLimits>().unwrap_err().message;
            assert!(message.contains("broadcast=1000,multicast=5000,unknown=0"), "{message}");
        }
        let twice = "broadcast=1,broadcast=2".parse::<StormLimits>().unwrap_err();
        assert!(twice.message.contains("two limits for broadcast"), "{twice}");
    }

    #[test]
    fn trust_is_a_list_of_known_words() {
        assert_eq!(trust("none").unwrap(), BTreeSet::new());
        let expected = BTreeSet::from([Trust::DhcpServer, Trust::Ip]);
        assert_eq!(trust("ip,dhcp-server,ip").unwrap(), expected);
        for bad in ["", "all", "dhcp", "BPDU", "mac,", "none,mac"] {
            let message = trust(bad).unwrap_err().message;
            assert!(
                message.contains(
                    "use dhcp-server, router, multicast-router, bpdu, mac, ip, raw-socket"
                ),
                "{bad}: {message}"
            );
        }
    }
}
