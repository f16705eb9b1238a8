//! A backup: everything that users asked for, and what children got, in one document.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
    net::IpAddr,
    path::PathBuf,
};

use dataplane_common::abi::{PORT_FIRST_CHILD, PORTS};
use ipnetwork::IpNetwork;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

use crate::{
    check::{self, Check},
    engine::SubInterface,
    error::{Error, Result},
    model::{ChildSpec, Mac, NetworkSpec, ParentSpec},
    netns::NetnsProof,
    store::SCHEMA,
};

/// The largest backup that is read: some hundred thousand children.
pub(crate) const BACKUP_MAX: usize = 64 << 20;

/// Everything that users asked for, and what children got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backup {
    /// The layout of this document, which is that of the store.
    pub(crate) schema: u64,
    /// The parents.
    #[serde(deserialize_with = "checked")]
    pub(crate) parents: Vec<ParentSpec>,
    /// The networks.
    #[serde(deserialize_with = "checked")]
    pub(crate) networks: Vec<NetworkSpec>,
    /// The children that maclane made.
    #[serde(deserialize_with = "checked")]
    pub(crate) children: Vec<ChildBackup>,
    /// Addresses that were given back and are not given out again yet.
    #[serde(default)]
    pub(crate) quarantined: Vec<ReleasedBackup>,
    /// The 802.1Q sub-interfaces that maclane has made for parents, by parent.
    #[serde(default)]
    pub(crate) made: BTreeMap<String, SubInterface>,
    /// What the configuration file has made.
    #[serde(default)]
    pub(crate) declared: DeclaredBackup,
}

/// A child of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChildBackup {
    /// What was asked for.
    pub(crate) spec: ChildSpec,
    /// Its MAC; absent for a passthru child, which has the parent's.
    #[schema(value_type = Option<String>)]
    pub(crate) mac: Option<Mac>,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub(crate) addresses: Vec<IpNetwork>,
    /// When it was made, in seconds since 1970.
    pub(crate) since: u64,
    /// Its port in the dataplane; it gets another one if somebody has it.
    pub(crate) port: u16,
    /// Where its namespace is.
    #[schema(value_type = String)]
    pub(crate) netns: PathBuf,
    /// Which namespace that was.
    pub(crate) netns_proof: NetnsProof,
}

/// An address that was given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleasedBackup {
    /// The network that it is of.
    pub(crate) network: String,
    /// The address.
    #[schema(value_type = String)]
    pub(crate) ip: IpAddr,
    /// Until when it is not given out, in seconds since 1970.
    pub(crate) until: u64,
}

/// What the configuration file has made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeclaredBackup {
    /// Names of parents.
    pub(crate) parents: Vec<String>,
    /// Names of networks.
    pub(crate) networks: Vec<String>,
}

/// An object that is checked while it is read: an error of its end has its line.
struct Checked<T>(T);

impl<'de, T: Deserialize<'de> + Check> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Checking(PhantomData)).map(Self)
    }
}

struct Checking<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Check> Visitor<'de> for Checking<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        let value = T::deserialize(MapAccessDeserializer::new(map))?;
        value.check().map_err(A::Error::custom)?;
        Ok(value)
    }
}

fn checked<'de, D: Deserializer<'de>, T: Deserialize<'de> + Check>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let values = Vec::<Checked<T>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|Checked(value)| value).collect())
}

impl Check for ChildBackup {
    fn check(&self) -> Result<()> {
        let name = &self.spec.name;
        self.spec.check()?;
        self.mac.map_or(Ok(()), check::station)?;
        self.addresses.iter().try_for_each(|address| check::address(address.ip()))?;
        let ports = u32::from(PORT_FIRST_CHILD)..PORTS;
        if !ports.contains(&self.port.into()) {
            return Err(Error::invalid(format!(
                "child \"{name}\" cannot have port {}; children have {} to {}",
                self.port,
                ports.start,
                ports.end - 1
            )));
        }
        if !self.netns.is_absolute() {
            return Err(Error::invalid(format!(
                "\"{}\" is not the path of a namespace; write an absolute one, as in /run/netns/web",
                self.netns.display()
            )));
        }
        Ok(())
    }
}

impl Backup {
    /// Reads a backup, and checks all of it that can be checked without looking at any state.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        /// What the backups of all versions have.
        #[derive(Deserialize)]
        #[serde(expecting = "a backup")]
        struct Head {
            schema: u64,
        }
        let wrong = |e: serde_json::Error| {
            Error::invalid(format!("{e}; give what `maclane export` has written"))
        };
        let Head { schema } = serde_json::from_slice(bytes).map_err(wrong)?;
        if schema > SCHEMA {
            return Err(Error::invalid(format!(
                "it has schema {schema} and this maclane knows {SCHEMA}; use the newer maclane that wrote it"
            )));
        }
        if schema < SCHEMA {
            return Err(Error::invalid(format!(
                "it has schema {schema}, which never was; give what `maclane export` has written"
            )));
        }
        let backup: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        backup.check_names()?;
        Ok(backup)
    }

    /// Refuses what is there twice, and what names something that is not there.
    fn check_names(&self) -> Result<()> {
        let parents = names("parent", self.parents.iter().map(|p| p.iface.as_str()))?;
        let networks = names("network", self.networks.iter().map(|n| n.name.as_str()))?;
        names("child", self.children.iter().map(|c| c.spec.name.as_str()))?;
        let known = |kind: &str, all: &BTreeSet<&str>, name: &str, of: String| {
            if all.contains(name) {
                return Ok(());
            }
            Err(Error::invalid(format!("{of} names {kind} \"{name}\", which is not in the backup")))
        };
        for network in &self.networks {
            known("parent", &parents, &network.parent, format!("network \"{}\"", network.name))?;
        }
        for ChildBackup { spec, .. } in &self.children {
            known("network", &networks, &spec.network, format!("child \"{}\"", spec.name))?;
        }
        for released in &self.quarantined {
            known("network", &networks, &released.network, format!("address {}", released.ip))?;
        }
        for iface in &self.declared.parents {
            known("parent", &parents, iface, "\"declared\"".into())?;
        }
        for name in &self.declared.networks {
            known("network", &networks, name, "\"declared\"".into())?;
        }
        Ok(())
    }
}

fn names<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Result<BTreeSet<&'a str>> {
    let mut found = BTreeSet::new();
    for name in names {
        if !found.insert(name) {
            return Err(Error::invalid(format!(
                "{kind} \"{name}\" is there twice; leave one of them out"
            )));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        json!({
            "schema": 1,
            "parents": [{ "iface": "eth0", "xdp": "off", "unknown": "pass" }],
            "networks": [{ "name": "lan", "parent": "eth0", "subnets": [{ "subnet": "10.7.0.0/24" }] }],
            "children": [{
                "spec": { "name": "web", "network": "lan", "netns": "red" },
                "mac": "02:00:5e:00:53:01", "addresses": ["10.7.0.2/24"], "since": 7, "port": 3,
                "netns": "/run/netns/red", "netns_proof": { "cookie": 7, "boot": "b" },
            }],
            "quarantined": [{ "network": "lan", "ip": "10.7.0.9", "until": 9 }],
            "declared": { "parents": ["eth0"], "networks": [] },
        })
    }

    #[test]
    fn what_was_written_is_read() {
        let read = Backup::parse(document().to_string().as_bytes()).unwrap();
        assert_eq!(read.children[0].spec.ifname, "eth0");
        let again = Backup::parse(&serde_json::to_vec(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (place, value, words) in [
            ("/schema", json!(2), &["schema 2", "knows 1", "newer maclane"][..]),
            ("/schema", json!(0), &["never was"]),
            ("/schema", json!("x"), &["invalid type", "line 2"]),
            ("/parents/0/iface", json!("a/b"), &["is not an interface name", "line 8"]),
            ("/parents/0/later", json!(1), &["unknown field `later`", "line 8"]),
            ("/later", json!(1), &["unknown field `later`"]),
            ("/networks/0/vlan", json!(4095), &["is not a VLAN ID", "line "]),
            ("/networks/0/parent", json!("eth1"), &["network \"lan\" names parent \"eth1\""]),
            (
                "/networks/1",
                json!({ "name": "lan", "parent": "eth0" }),
                &["\"lan\" is there twice"],
            ),
            ("/children/0/mac", json!("ff:ff:ff:ff:ff:ff"), &["multicast", "line "]),
            ("/children/0/addresses/0", json!("x"), &["line "]),
            ("/children/0/port", json!(1), &["cannot have port 1"]),
            ("/children/0/port", json!(60_000), &["cannot have port 60000"]),
            ("/children/0/netns", json!("red"), &["an absolute one"]),
            ("/children/0/spec/network", json!("no"), &["child \"web\" names network \"no\""]),
            ("/quarantined/0/network", json!("no"), &["address 10.7.0.9 names network \"no\""]),
            ("/declared/networks/0", json!("no"), &["names network \"no\""]),
        ] {
            let mut document = document();
            let (of, name) = place.rsplit_once('/').unwrap();
            match document.pointer_mut(of).unwrap() {
                Value::Array(list) => {
                    list.truncate(name.parse().unwrap());
                    list.push(value);
                }
                other => other[name] = value,
            }
            let text = serde_json::to_string_pretty(&document).unwrap();
            let error = Backup::parse(text.as_bytes()).unwrap_err();
            for word in words {
                assert!(error.message.contains(word), "{place}: \"{word}\" is not in: {error}");
            }
        }
        let cut = Backup::parse(b"{\n \"schema\": 1,\n \"par").unwrap_err();
        assert!(cut.message.contains("line 3"), "{cut}");
    }
}
