//! What says what children may do: options of `maclane network` and `maclane child`, and `maclane
//! binding`.

use std::{collections::BTreeSet, net::IpAddr};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use ipnetwork::IpNetwork;

use crate::{
    check,
    cli::values::{allowed, bound_ip, max_addresses, or_default, text},
    error::{Error, Result},
    model::{Arp, ChildPatch, Mac, NetworkPatch, Security, Setting, StormLimits, Trust, trust},
};

/// The policy of a network, or of a child, that is made.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// What becomes of frames from MACs and addresses that a child does not have; left out, a child
    /// does what its network says, and a network enforces it for children that have addresses from
    /// maclane
    #[arg(long, value_enum, value_name = "MODE")]
    pub(super) security: Option<Security>,
    /// What may be sent all the same: some of dhcp-server,router,multicast-router,bpdu,mac,ip,raw-socket,
    /// or "none"
    #[arg(long, value_name = "LIST", value_parser = trust)]
    pub(super) trust: Option<BTreeSet<Trust>>,
    /// How many frames of each kind a child may send in a second, 0 for no limit, as in
    /// broadcast=1000,multicast=5000,unknown=0
    #[arg(long, value_name = "LIST")]
    pub(super) storm: Option<StormLimits>,
    /// How many addresses a child may take by itself (SLAAC, DHCP); 16 if nobody says otherwise
    #[arg(long, value_name = "N", value_parser = max_addresses)]
    pub(super) max_addresses: Option<u32>,
}

/// What changes about a network.
#[derive(Debug, Args)]
pub(crate) struct NetworkSet {
    /// The network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    #[command(flatten)]
    changes: NetworkChanges,
}

/// The policy of a network that is there.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct NetworkChanges {
    /// How ARP requests and neighbour solicitations for the address of a child travel
    #[arg(long, value_name = "steer|suppress|flood|default", value_parser = or_default(word::<Arp>))]
    arp: Option<Setting<Arp>>,
    /// What becomes of frames from MACs and addresses that a child does not have
    #[arg(long, value_name = "off|log|enforce|default", value_parser = or_default(word::<Security>))]
    security: Option<Setting<Security>>,
    /// What its children may send all the same: some of
    /// dhcp-server,router,multicast-router,bpdu,mac,ip,raw-socket, "none" or "default"
    #[arg(long, value_name = "LIST", value_parser = or_default(trust))]
    trust: Option<Setting<BTreeSet<Trust>>>,
    /// How many frames of each kind each of its children may send in a second, or "default"; kinds
    /// that are not named stay as they are
    #[arg(long, value_name = "LIST", value_parser = or_default(limits))]
    storm: Option<Setting<StormLimits>>,
    /// How many addresses each of its children may take by itself, or "default"
    #[arg(long, value_name = "N", value_parser = or_default(max_addresses))]
    max_addresses: Option<Setting<u32>>,
}

impl From<NetworkSet> for NetworkPatch {
    fn from(NetworkSet { changes, .. }: NetworkSet) -> Self {
        let NetworkChanges { arp, security, trust, storm, max_addresses } = changes;
        Self { arp, security, trust, storm, max_addresses }
    }
}

/// What changes about a child.
#[derive(Debug, Args)]
pub(crate) struct ChildSet {
    /// The child
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    #[command(flatten)]
    changes: ChildChanges,
}

/// The policy of a child that is there.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct ChildChanges {
    /// What becomes of frames from MACs and addresses that it does not have; "default" is what its
    /// network says
    #[arg(long, value_name = "off|log|enforce|default", value_parser = or_default(word::<Security>))]
    security: Option<Setting<Security>>,
    /// What it may send all the same: some of
    /// dhcp-server,router,multicast-router,bpdu,mac,ip,raw-socket, "none" or "default"
    #[arg(long, value_name = "LIST", value_parser = or_default(trust))]
    trust: Option<Setting<BTreeSet<Trust>>>,
    /// How many frames of each kind it may send in a second, or "default"; kinds that are not named
    /// stay as they are
    #[arg(long, value_name = "LIST", value_parser = or_default(limits))]
    storm: Option<Setting<StormLimits>>,
    /// How many addresses it may take by itself, or "default"
    #[arg(long, value_name = "N", value_parser = or_default(max_addresses))]
    max_addresses: Option<Setting<u32>>,
    /// An address or a prefix that it may use beside its own, instead of those that it might until
    /// now; "none" leaves it none; may be repeated
    #[arg(long, value_name = "IP[/LEN]|none", value_parser = allowed_or_none)]
    allow_ip: Option<Vec<Allowed>>,
}

/// A word of `--allow-ip`: nothing is `none`.
#[derive(Clone, Copy, Debug)]
struct Allowed(Option<IpNetwork>);

fn allowed_or_none(text: &str) -> Result<Allowed> {
    if text == "none" { Ok(Allowed(None)) } else { allowed(text).map(Some).map(Allowed) }
}

impl TryFrom<ChildSet> for ChildPatch {
    type Error = Error;

    fn try_from(ChildSet { changes, .. }: ChildSet) -> Result<Self> {
        let ChildChanges { security, trust, storm, max_addresses, allow_ip } = changes;
        let allow_ip = allow_ip.map(|words| {
            let prefixes: Vec<IpNetwork> = words.iter().filter_map(|word| word.0).collect();
            if prefixes.len() < words.len() && words.len() > 1 {
                return Err(Error::invalid(
                    "\"none\" and addresses are allowed at once; leave one of them out",
                ));
            }
            Ok(Setting::To(prefixes))
        });
        Ok(Self { security, trust, storm, max_addresses, allow_ip: allow_ip.transpose()? })
    }
}

fn word<T: clap::ValueEnum>(text: &str) -> Result<T> {
    check::choice("value of it", text)
}

fn limits(text: &str) -> Result<StormLimits> {
    text.parse()
}

/// What to do with bindings.
#[derive(Debug, Subcommand)]
pub(crate) enum BindingCommand {
    /// Pin an address on the wire, a gateway's for one, to the MAC of its station
    ///
    /// The children of the network never hear another MAC claim the address. One that is there gets
    /// the new MAC.
    #[command(
        after_help = "Example:\n  maclane binding add 192.168.50.1 02:00:5e:00:53:01 --network lan"
    )]
    Add {
        /// The address
        #[arg(value_parser = bound_ip)]
        ip: IpAddr,
        /// The MAC
        mac: Mac,
        /// The network
        #[arg(long, value_parser = text(check::name))]
        network: String,
    },
    /// Take the pin of an address away
    #[command(after_help = "Example:\n  maclane binding rm 192.168.50.1 --network lan")]
    Rm {
        /// The address
        #[arg(value_parser = bound_ip)]
        ip: IpAddr,
        /// The network
        #[arg(long, value_parser = text(check::name))]
        network: String,
    },
    /// List the pinned addresses on the wire, and the leases of children
    Ls {
        /// Only those of this network
        #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::args::{ChildCommand, Cli, Command, NetworkCommand};

    fn typed(text: &str) -> Command {
        Cli::try_parse_from(text.split(' ')).unwrap().command
    }

    #[test]
    fn what_is_set_is_sent_and_nothing_else() {
        for (text, expected) in [
            ("--security default", json!({ "security": null })),
            ("--security log --arp flood", json!({ "security": "log", "arp": "flood" })),
            ("--trust none", json!({ "trust": [] })),
            ("--trust mac,bpdu", json!({ "trust": ["bpdu", "mac"] })),
            ("--trust multicast-router", json!({ "trust": ["multicast-router"] })),
            ("--max-addresses 5", json!({ "max_addresses": 5 })),
            ("--storm default --trust default", json!({ "storm": null, "trust": null })),
        ] {
            let command = typed(&format!("maclane network set lan {text}"));
            let Command::Network(NetworkCommand::Set(set)) = command else { panic!("{text}") };
            assert_eq!(set.name, "lan");
            let body = serde_json::to_value(NetworkPatch::from(set)).unwrap();
            assert_eq!(body, expected, "{text}");
        }
        for (text, expected) in [
            ("--allow-ip none", json!({ "allow_ip": [] })),
            (
                "--allow-ip 10.0.0.1 --allow-ip fd00::/64",
                json!({ "allow_ip": ["10.0.0.1/32", "fd00::/64"] }),
            ),
            ("--max-addresses default", json!({ "max_addresses": null })),
        ] {
            let command = typed(&format!("maclane child set web {text}"));
            let Command::Child(ChildCommand::Set(set)) = command else { panic!("{text}") };
            let body = serde_json::to_value(ChildPatch::try_from(set).unwrap()).unwrap();
            assert_eq!(body, expected, "{text}");
        }
        let both = "maclane child set web --allow-ip none --allow-ip 10.0.0.1";
        let Command::Child(ChildCommand::Set(set)) = typed(both) else { panic!("{both}") };
        assert!(ChildPatch::try_from(set).is_err());
    }
}
