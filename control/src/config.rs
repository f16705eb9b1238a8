//! The configuration file: the parents and networks that it declares.
//!
//! ```toml
//! [parent.eth0]
//! unknown = "drop"
//!
//! [network.lan50]
//! parent = "eth0"
//! vlan = 50
//! ```
//!
//! The tables are the specifications of the API, which get their names from the tables' own.

mod named;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf, absolute},
};

use serde::Deserialize;

use self::named::named;
use crate::error::{Error, Result};
use crate::metrics::Address;
use crate::model::{NetworkSpec, ParentSpec};

/// Where the file is if nobody says it.
pub(crate) const DEFAULT: &str = "/etc/maclane/maclane.toml";

/// A configuration file.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// Somebody has named it: then it has to be there.
    named: bool,
}

/// What a configuration file declares, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Tables `[parent.IFACE]`.
    #[serde(default, rename = "parent", deserialize_with = "named")]
    pub(crate) parents: BTreeMap<String, ParentSpec>,
    /// Tables `[network.NAME]`.
    #[serde(default, rename = "network", deserialize_with = "named")]
    pub(crate) networks: BTreeMap<String, NetworkSpec>,
    /// Whether the daemon is Docker's plugin, too; read when it starts.
    #[serde(default)]
    pub(crate) docker: bool,
    /// Where metrics are to be had, beside the socket of the API; read when the daemon starts.
    pub(crate) metrics: Option<Address>,
    /// There is no file.
    #[serde(skip)]
    pub(crate) is_missing: bool,
}

impl ConfigFile {
    /// The file that somebody has named, or the one at the usual place.
    pub(crate) fn new(named: Option<PathBuf>) -> Self {
        let is_named = named.is_some();
        let path = named.unwrap_or_else(|| DEFAULT.into());
        Self { path: absolute(&path).unwrap_or(path), named: is_named }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it declares; nothing if it is not there and nobody has named it.
    pub(crate) fn read(&self) -> Result<Config> {
        let path = self.path.display();
        match fs::read_to_string(&self.path) {
            Ok(text) => toml::from_str(&text).map_err(|e| {
                Error::invalid(format!("{path}, {}: {}", place(&text, &e), e.message().trim()))
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.named => {
                Ok(Config { is_missing: true, ..Config::default() })
            }
            Err(e) => Err(Error::invalid(format!(
                "cannot read the configuration file {path}: {}; make it, or name another one with --config",
                Error::from(e).message
            ))),
        }
    }
}

/// The line that an error is about, and what is written there.
fn place(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let number = text.bytes().take(start).filter(|byte| *byte == b'\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    format!("line {} (`{line}`)", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maclane.toml");
        fs::write(&path, text).unwrap();
        ConfigFile::new(Some(path)).read()
    }

    #[test]
    fn tables_are_the_specifications_of_the_api() {
        let config = read(
            r#"
            [parent.eth0]
            xdp = "off"
            unknown = "drop"
            storm = { multicast = 9 }
            [parent."eth0.7"]

            [network.lan50]
            parent = "eth0"
            vlan = 50
            kind = "macvlan"
            mode = "vepa"
            mtu = 1400
            quarantine = 9
            probe = false
            probe_interval = 100
            aux_addresses = { nas = "192.168.50.128" }
            arp = "suppress"
            security = "log"
            trust = ["dhcp-server", "ip"]
            storm = { broadcast = 5, unknown = 0 }
            max_addresses = 4
            bindings = { "192.168.50.1" = "02:00:5e:00:53:01", "fd00:50::1" = "02:00:5e:00:53:01" }
            [[network.lan50.subnets]]
            subnet = "192.168.50.0/24"
            gateway = "none"
            ip_range = "192.168.50.128/25"
            [[network.lan50.subnets]]
            subnet = "fd00:50::/64"

            [network.bare]
            parent = "eth0.7"
            "#,
        )
        .unwrap();
        let as_api = serde_json::json!({
            "lan50": {
                "name": "lan50", "parent": "eth0", "vlan": 50, "kind": "macvlan", "mode": "vepa",
                "mtu": 1400, "quarantine": 9, "probe": false, "probe_interval": 100,
                "aux_addresses": { "nas": "192.168.50.128" },
                "arp": "suppress", "security": "log", "trust": ["ip", "dhcp-server"],
                "storm": { "broadcast": 5, "unknown": 0 }, "max_addresses": 4,
                "bindings": {
                    "192.168.50.1": "02:00:5e:00:53:01", "fd00:50::1": "02:00:5e:00:53:01",
                },
                "subnets": [
                    { "subnet": "192.168.50.0/24", "gateway": "none", "ip_range": "192.168.50.128/25" },
                    { "subnet": "fd00:50::/64" },
                ],
            },
            "bare": { "name": "bare", "parent": "eth0.7" },
        });
        let networks: BTreeMap<String, NetworkSpec> = serde_json::from_value(as_api).unwrap();
        assert_eq!(config.networks, networks);
        let parents = serde_json::json!({
            "eth0": {
                "iface": "eth0", "xdp": "off", "unknown": "drop", "storm": { "multicast": 9 },
            },
            "eth0.7": { "iface": "eth0.7" },
        });
        let parents: BTreeMap<String, ParentSpec> = serde_json::from_value(parents).unwrap();
        assert_eq!(config.parents, parents);
    }

    #[test]
    fn a_line_makes_the_daemon_dockers_plugin() {
        assert!(read("docker = true").unwrap().docker);
        assert!(!read("").unwrap().docker);
        assert!(read("docker = 1").unwrap_err().message.contains("line 1 (`docker = 1`)"));
    }

    #[test]
    fn a_line_says_where_metrics_are_to_be_had() {
        let address = |text: &str| read(text).map(|config| config.metrics);
        let good = address("metrics = \"[::1]:9469\"\n[parent.eth0]").unwrap();
        assert_eq!(good, Some("[::1]:9469".parse().unwrap()));
        assert_eq!(address("").unwrap(), None);
        for (text, word) in [
            ("metrics = \"0.0.0.0:9469\"", "not a loopback address"),
            ("metrics = 9469", "integer"),
        ] {
            let message = address(text).unwrap_err().message;
            assert!(message.contains("line 1") && message.contains(word), "{message}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let lan = "[parent.eth0]\n\n[network.lan]\nparent = \"eth0\"\n";
        for (text, words) in [
            (format!("{lan}vlam = 5"), &["line 5 (`vlam = 5`)", "unknown field `vlam`"][..]),
            (format!("{lan}vlan = \"x\""), &["line 5 (`vlan = \"x\"`)", "string \"x\"", "u16"]),
            (format!("{lan}vlan = 70000"), &["line 5 (`vlan = 70000`)", "70000"]),
            (format!("{lan}vlan = 4095"), &["line 3 (`[network.lan]`)", "VLAN ID"]),
            (format!("{lan}mode = \"fast\""), &["line 5", "unknown variant `fast`"]),
            (format!("{lan}name = \"other\""), &["line 3", "duplicate field `name`"]),
            (format!("{lan}vlan = 1\nvlan = 2"), &["line 6 (`vlan = 2`)", "duplicate key"]),
            (
                format!("{lan}aux_addresses = {{ nas = \"10.0.0.1\" }}"),
                &["line 3", "is in no subnet"],
            ),
            (format!("{lan}vlan ="), &["line 5 (`vlan =`)"]),
            (format!("{lan}trust = [\"bpdus\"]"), &["line 5", "unknown variant `bpdus`", "`bpdu`"]),
            (format!("{lan}storm = {{ all = 5 }}"), &["line 5", "unknown field `all`"]),
            (format!("{lan}max_addresses = 0"), &["line 3", "use 1 to 256"]),
            (
                format!("{lan}bindings = {{ \"10.0.0.1\" = \"01:00:5e:00:00:01\" }}"),
                &["line 3", "it is a multicast address"],
            ),
            (format!("{lan}[[network.lan.subnets]]"), &["line 5", "missing field `subnet`"]),
            (
                format!(
                    "{lan}[[network.lan.routes]]\ndestination = \"10.0.0.0/8\"\ngatway = \"x\""
                ),
                &["line 7 (`gatway = \"x\"`)", "unknown field `gatway`"],
            ),
            (
                format!("{lan}[[network.lan.subnets]]\nsubnet = \"10.0.0.0/24\"\ngateway = \"x\""),
                &["line 7 (`gateway = \"x\"`)", "is not a gateway"],
            ),
            ("[network.lan]".to_owned(), &["line 1 (`[network.lan]`)", "missing field `parent`"]),
            (
                "[network.\"a/b\"]\nparent = \"eth0\"".to_owned(),
                &["line 1", "\"a/b\" is not a name"],
            ),
            (
                "[parents.eth0]".to_owned(),
                &["line 1 (`[parents.eth0]`)", "unknown field `parents`"],
            ),
            ("[parent]\neth0 = 1".to_owned(), &["line 2 (`eth0 = 1`)", "integer `1`"]),
        ] {
            let message = read(&text).unwrap_err().message;
            for word in ["maclane.toml, "].iter().chain(words) {
                assert!(message.contains(word), "{text}: \"{word}\" is not in: {message}");
            }
        }
    }

    #[test]
    fn the_document_has_every_key_and_its_example_is_read() {
        let document = include_str!("../../docs/configuration.md");
        let example = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let config = read(example.unwrap()).unwrap();
        let parent = serde_json::to_value(&config.parents["eth0"]).unwrap();
        let network = serde_json::to_value(&config.networks["lan"]).unwrap();
        let (subnet, route) = (&network["subnets"][0], &network["routes"][0]);
        for (table, names) in [(&parent, "iface"), (&network, "name"), (subnet, ""), (route, "")] {
            for key in table.as_object().unwrap().keys().filter(|key| *key != names) {
                assert!(document.contains(&format!("\n| `{key}` | ")), "{key} is not described");
            }
        }
    }

    #[test]
    fn only_a_file_that_nobody_has_named_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maclane.toml");
        let error = ConfigFile::new(Some(path.clone())).read().unwrap_err();
        assert!(error.message.contains(&path.display().to_string()), "{error}");
        assert!(error.message.contains("--config"), "{error}");
        let usual = ConfigFile { path, named: false };
        assert_eq!(usual.read().unwrap(), Config { is_missing: true, ..Config::default() });
    }
}
