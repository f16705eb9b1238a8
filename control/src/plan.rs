//! What becomes of parents, networks and children, object by object: what `reload` and `import`
//! show before they do it, and after.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    model::{NetworkSpec, ParentSpec},
    store,
};

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// It is made.
    Create,
    /// It gets other settings.
    Change,
    /// It is removed.
    Remove,
}

impl Action {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Remove => "remove",
        }
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Step {
    /// What happens.
    pub(crate) action: Action,
    /// To what: `network lan50`.
    pub(crate) object: String,
    /// The settings that differ, or, of an object that is made, those that are not the defaults.
    pub(crate) details: String,
}

impl Step {
    /// A step about a parent or a network.
    pub(crate) fn new<T: Object>(action: Action, name: &str, details: String) -> Self {
        Self { action, object: format!("{} {name}", T::KIND), details }
    }
}

/// A parent or a network, as asked for.
pub(crate) trait Object: Serialize + Clone + PartialEq {
    /// What it is called: `network`.
    const KIND: &'static str;
    /// What comes before its name in the store.
    const PREFIX: &'static str;
    /// The fields that have no default: first its name, then what it cannot be without.
    const REQUIRED: &'static [&'static str];

    /// Its key in the store.
    fn key(name: &str) -> String {
        format!("{}{name}", Self::PREFIX)
    }

    /// Itself with the default for everything that has one.
    fn bare(&self) -> Option<Self>;
}

impl Object for ParentSpec {
    const KIND: &'static str = "parent";
    const PREFIX: &'static str = store::PARENTS;
    const REQUIRED: &'static [&'static str] = &["iface"];

    fn bare(&self) -> Option<Self> {
        bare(self)
    }
}

impl Object for NetworkSpec {
    const KIND: &'static str = "network";
    const PREFIX: &'static str = store::NETWORKS;
    const REQUIRED: &'static [&'static str] = &["name", "parent"];

    fn bare(&self) -> Option<Self> {
        bare(self)
    }
}

fn bare<T: Object + for<'de> Deserialize<'de>>(spec: &T) -> Option<T> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(spec) else { return None };
    fields.retain(|name, _| T::REQUIRED.contains(&name.as_str()));
    serde_json::from_value(Value::Object(fields)).ok()
}

/// What an object that is made is, apart from the defaults.
pub(crate) fn settings<T: Object>(spec: &T) -> String {
    let mut words: Vec<String> = fields(spec)
        .filter(|(name, _)| T::REQUIRED[1..].contains(&name.as_str()))
        .map(|(name, value)| format!("{name} {}", text(&value)))
        .collect();
    let bare = spec.bare();
    words.extend(
        differing(bare.as_ref(), spec).map(|(name, _, is)| format!("{name} {}", text(&is))),
    );
    words.join(", ")
}

/// What differs between two objects: `quarantine 60 -> 30, probe true -> false`.
pub(crate) fn differences<T: Serialize>(was: &T, is: &T) -> String {
    let each = differing(Some(was), is)
        .map(|(name, was, is)| format!("{name} {} -> {}", text(&was), text(&is)));
    each.collect::<Vec<_>>().join(", ")
}

fn differing<T: Serialize>(
    was: Option<&T>,
    is: &T,
) -> impl Iterator<Item = (String, Value, Value)> {
    let before = was.and_then(|was| serde_json::to_value(was).ok()).unwrap_or_default();
    fields(is).filter_map(move |(name, is)| {
        let was = before.get(&name).cloned().unwrap_or_default();
        (was != is).then_some((name, was, is))
    })
}

fn fields(spec: &impl Serialize) -> impl Iterator<Item = (String, Value)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(spec) else {
        return None.into_iter().flatten();
    };
    Some(fields).into_iter().flatten()
}

/// A value for people: `[{subnet 192.168.50.0/24, gateway first}]`.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let there = fields.iter().filter(|(_, value)| !value.is_null());
            let words: Vec<_> =
                there.map(|(name, value)| format!("{name} {}", text(value))).collect();
            format!("{{{}}}", words.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn network(more: &Value) -> NetworkSpec {
        let mut fields = json!({ "name": "lan", "parent": "eth0" });
        for (name, value) in more.as_object().unwrap() {
            fields[name] = value.clone();
        }
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn what_is_made_is_told_without_its_defaults() {
        assert_eq!(settings(&network(&json!({}))), "parent eth0");
        let subnets =
            json!([{ "subnet": "10.7.0.0/24" }, { "subnet": "fd00::/64", "gateway": "none" }]);
        let spec =
            network(&json!({ "vlan": 5, "quarantine": 60, "probe": false, "subnets": subnets }));
        let expected = "parent eth0, vlan 5, subnets [{subnet 10.7.0.0/24, gateway first}, \
                        {subnet fd00::/64, gateway none}], probe false";
        assert_eq!(settings(&spec), expected);
        let parent: ParentSpec = serde_json::from_value(json!({ "iface": "eth0" })).unwrap();
        assert_eq!(settings(&parent), "");
    }

    #[test]
    fn what_differs_is_told_field_by_field() {
        let was = network(&json!({ "vlan": 5, "mtu": 1400, "aux_addresses": {} }));
        let is = network(&json!({ "vlan": 6, "aux_addresses": { "nas": "10.7.0.9" } }));
        let expected = "vlan 5 -> 6, mtu 1400 -> none, aux_addresses {} -> {nas 10.7.0.9}";
        assert_eq!(differences(&was, &is), expected);
        assert_eq!(differences(&was, &was), "");
    }
}
