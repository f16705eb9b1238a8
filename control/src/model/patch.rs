//! Changes of the policy of networks and children that are there. What is absent stays as it is.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::{
    ChildSpec, Mac, NetworkSpec,
    policy::{Arp, Security, StormLimits, Trust, default_max_addresses},
};

/// What a setting becomes: in JSON `null` is the default, on the command line `default` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting<T> {
    /// As if nobody had ever said anything.
    Default,
    /// This.
    To(T),
}

impl<T> Setting<T> {
    /// What it becomes; nothing is the default.
    fn value(self) -> Option<T> {
        match self {
            Self::Default => None,
            Self::To(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for Setting<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_none(),
            Self::To(value) => value.serialize(serializer),
        }
    }
}

/// A setting that is there, be it as `null`.
fn there<'de, D, T>(deserializer: D) -> Result<Option<Setting<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let value = Option::<T>::deserialize(deserializer)?;
    Ok(Some(value.map_or(Setting::Default, Setting::To)))
}

/// What changes of the policy of a network. What is absent stays as it is, and what is `null` becomes
/// the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkPatch {
    /// How ARP requests and neighbour solicitations for the address of a child travel.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Arp>)]
    pub(crate) arp: Option<Setting<Arp>>,
    /// What becomes of frames that its children have no right to send.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Security>)]
    pub(crate) security: Option<Setting<Security>>,
    /// What its children may send all the same.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Trust>>)]
    pub(crate) trust: Option<Setting<BTreeSet<Trust>>>,
    /// How much each of its children may send; kinds that it does not have stay as they are.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<StormLimits>)]
    pub(crate) storm: Option<Setting<StormLimits>>,
    /// How many addresses each of its children may take by itself.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub(crate) max_addresses: Option<Setting<u32>>,
}

/// What changes of the policy of a child. What is absent stays as it is, and what is `null` becomes
/// what its network says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChildPatch {
    /// What becomes of frames that it has no right to send.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Security>)]
    pub(crate) security: Option<Setting<Security>>,
    /// What it may send all the same.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Trust>>)]
    pub(crate) trust: Option<Setting<BTreeSet<Trust>>>,
    /// How much it may send; kinds that it does not have stay as they are.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<StormLimits>)]
    pub(crate) storm: Option<Setting<StormLimits>>,
    /// How many addresses it may take by itself.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub(crate) max_addresses: Option<Setting<u32>>,
    /// Addresses and prefixes that it may use beside its own: all of them.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub(crate) allow_ip: Option<Setting<Vec<IpNetwork>>>,
}

/// Whose an address on the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BindingSpec {
    /// The MAC of the station.
    #[schema(value_type = String)]
    pub(crate) mac: Mac,
}

impl NetworkPatch {
    /// The network with these changes.
    pub(crate) fn apply(self, mut spec: NetworkSpec) -> NetworkSpec {
        if let Some(arp) = self.arp {
            spec.arp = arp.value().unwrap_or_default();
        }
        if let Some(security) = self.security {
            spec.security = security.value();
        }
        if let Some(trust) = self.trust {
            spec.trust = trust.value().unwrap_or_default();
        }
        if let Some(storm) = self.storm {
            spec.storm = changed(storm, spec.storm);
        }
        if let Some(most) = self.max_addresses {
            spec.max_addresses = most.value().unwrap_or_else(default_max_addresses);
        }
        spec
    }
}

impl ChildPatch {
    /// The child with these changes.
    pub(crate) fn apply(self, mut spec: ChildSpec) -> ChildSpec {
        if let Some(security) = self.security {
            spec.security = security.value();
        }
        if let Some(trust) = self.trust {
            spec.trust = trust.value();
        }
        if let Some(storm) = self.storm {
            spec.storm = changed(storm, spec.storm);
        }
        if let Some(most) = self.max_addresses {
            spec.max_addresses = most.value();
        }
        if let Some(allowed) = self.allow_ip {
            spec.allow_ip = allowed.value().unwrap_or_default();
        }
        spec
    }
}

fn changed(to: Setting<StormLimits>, from: StormLimits) -> StormLimits {
    to.value().map_or_else(StormLimits::default, |limits| limits.over(from))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn patched<P, T>(spec: Value, patch: &Value, apply: fn(P, T) -> T) -> Value
    where
        P: Serialize + for<'de> Deserialize<'de>,
        T: Serialize + for<'de> Deserialize<'de>,
    {
        let patch_read: P = serde_json::from_value(patch.clone()).unwrap();
        assert_eq!(serde_json::to_value(&patch_read).unwrap().is_object(), patch.is_object());
        let spec: T = serde_json::from_value(spec).unwrap();
        serde_json::to_value(apply(patch_read, spec)).unwrap()
    }

    #[test]
    fn what_is_absent_stays_and_what_is_null_becomes_the_default() {
        let network = json!({
            "name": "lan", "parent": "eth0", "arp": "flood", "security": "log", "trust": ["mac"],
            "storm": { "broadcast": 5, "unknown": 6 }, "max_addresses": 3,
        });
        let storm = |broadcast: Value, multicast: Value, unknown: Value| json!({ "broadcast": broadcast, "multicast": multicast, "unknown": unknown });
        for (patch, field, expected) in [
            (json!({}), "security", json!("log")),
            (json!({}), "max_addresses", json!(3)),
            (json!({ "security": null }), "security", Value::Null),
            (json!({ "security": "off" }), "security", json!("off")),
            (json!({ "arp": null }), "arp", json!("steer")),
            (json!({ "trust": null }), "trust", json!([])),
            (json!({ "trust": ["ip"] }), "trust", json!(["ip"])),
            (
                json!({ "storm": { "broadcast": 7 } }),
                "storm",
                storm(json!(7), Value::Null, json!(6)),
            ),
            (json!({ "storm": null }), "storm", storm(Value::Null, Value::Null, Value::Null)),
            (json!({ "max_addresses": null }), "max_addresses", json!(16)),
        ] {
            let found = patched(network.clone(), &patch, NetworkPatch::apply);
            assert_eq!(found[field], expected, "{patch}");
        }
        let child = json!({
            "name": "web", "network": "lan", "netns": "red", "security": "log", "trust": [],
            "max_addresses": 3, "allow_ip": ["10.0.0.1/32"],
        });
        for (patch, field, expected) in [
            (json!({}), "trust", json!([])),
            (json!({ "trust": null }), "trust", Value::Null),
            (json!({ "security": null }), "security", Value::Null),
            (json!({ "max_addresses": null }), "max_addresses", Value::Null),
            (json!({}), "allow_ip", json!(["10.0.0.1/32"])),
            (json!({ "allow_ip": [] }), "allow_ip", json!([])),
            (json!({ "allow_ip": ["fd00::/64"] }), "allow_ip", json!(["fd00::/64"])),
        ] {
            let found = patched(child.clone(), &patch, ChildPatch::apply);
            assert_eq!(found[field], expected, "{patch}");
        }
    }

    #[test]
    fn nothing_but_policy_is_changed_so() {
        for field in ["vlan", "parent", "bindings", "name"] {
            let read = serde_json::from_value::<NetworkPatch>(json!({ field: "x" }));
            assert!(read.unwrap_err().to_string().contains("unknown field"), "{field}");
        }
        for field in ["network", "mac", "arp", "ip"] {
            let read = serde_json::from_value::<ChildPatch>(json!({ field: "x" }));
            assert!(read.unwrap_err().to_string().contains("unknown field"), "{field}");
        }
    }
}
