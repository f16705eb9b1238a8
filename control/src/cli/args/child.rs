//! `maclane child`.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use ipnetwork::IpNetwork;

use super::policy::{ChildSet, PolicyArgs};
use crate::{
    check,
    cli::values::{allowed, asked_ip, netns, station, text},
    model::{AskedIp, ChildSpec, Mac, Route, Trunk},
};

/// What to do with children.
#[derive(Debug, Subcommand)]
pub(crate) enum ChildCommand {
    /// Give a network namespace an interface on a network
    ///
    /// The interface is in the namespace, named, up, with its addresses and routes, and announced
    /// to the LAN when the command returns.
    #[command(after_help = "\
Examples:
  maclane child add web --network lan50 --netns web --ip 192.168.50.9/24
  maclane child add db --network lan50 --netns pid:4711 --ifname lan0 \\
      --ip 192.168.50.10/24 --ip fd00:50::10/64 --route default=192.168.50.1
  maclane child add fw --network lan --netns /run/netns/fw --trunk 10,20,100-110")]
    Add(ChildAdd),
    /// Change the policy of a child that is there; what is not named stays as it is
    #[command(after_help = "\
Examples:
  maclane child set web --security log
  maclane child set vrrp --allow-ip 192.168.50.250 --trust mac
  maclane child set web --security default --allow-ip none")]
    Set(ChildSet),
    /// Remove a child and its interface
    Rm {
        /// The child
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Adopt a macvlan link that is isolated because it is not known who made it
    ///
    /// It may do from then on what it could do without maclane, until it is removed.
    #[command(after_help = "Example:\n  maclane child adopt eth0/02:42:c0:a8:32:09")]
    Adopt {
        /// The link, as `maclane child ls` shows it: PARENT/MAC
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// List children, adopted ones (PARENT/MAC) too
    Ls {
        /// Only those of this network
        #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
    },
    /// Show all about a child
    #[command(
        after_help = "Examples:\n  maclane child inspect web\n  maclane child inspect eth0/02:42:c0:a8:32:09"
    )]
    Inspect {
        /// The child
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
}

/// A child to add.
#[derive(Debug, Args)]
pub(crate) struct ChildAdd {
    /// Its name
    #[arg(value_parser = text(check::name))]
    name: String,
    /// The network that it belongs to
    #[arg(long, value_parser = text(check::name))]
    network: String,
    /// Its network namespace: a name below /run/netns, a path, or pid:N
    #[arg(long, value_name = "NAME|PATH|pid:N", value_parser = netns)]
    netns: String,
    /// The name of its interface in there
    #[arg(long, value_name = "IFNAME", default_value = "eth0", value_parser = text(check::iface))]
    ifname: String,
    /// Its MAC; maclane picks one if it is left out
    #[arg(long, value_parser = station)]
    mac: Option<Mac>,
    /// An address with the prefix length of its subnet, which may be left out if the network has
    /// that subnet; of each family that none is given of, one from the network's pools; may be
    /// repeated
    #[arg(long, value_name = "IP[/PREFIX]", value_parser = asked_ip)]
    ip: Vec<AskedIp>,
    /// A route, the destination a CIDR or "default"; without =GW it is on the link; may be repeated
    #[arg(long, value_name = "DEST=GW")]
    route: Vec<Route>,
    /// VLANs that it sees tagged, instead of the network's own one: "all" or 10,20,100-110
    #[arg(long, value_name = "LIST")]
    trunk: Option<Trunk>,
    /// Do not ask the LAN for its addresses first
    #[arg(long)]
    no_probe: bool,
    /// An address or a prefix that it may use beside its own; may be repeated
    #[arg(long, value_name = "IP[/LEN]", value_parser = allowed)]
    allow_ip: Vec<IpNetwork>,
    #[command(flatten)]
    policy: PolicyArgs,
}

impl From<ChildAdd> for ChildSpec {
    fn from(add: ChildAdd) -> Self {
        let ChildAdd { name, network, netns, ifname, mac, ip, route, trunk, no_probe, .. } = add;
        let PolicyArgs { security, trust, storm, max_addresses } = add.policy;
        Self {
            name,
            network,
            netns,
            ifname,
            mac,
            ip,
            route,
            trunk,
            probe: !no_probe,
            security,
            trust,
            storm: storm.unwrap_or_default(),
            max_addresses,
            allow_ip: add.allow_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    #[test]
    fn a_child_is_sent_as_it_was_typed() {
        let typed = "maclane child add web --network lan --netns red --ip 10.0.0.9/24 --ip fd00::9/64 --route default=10.0.0.1 --trunk 5,6,7";
        let Command::Child(ChildCommand::Add(add)) =
            Cli::try_parse_from(typed.split(' ')).unwrap().command
        else {
            panic!("another command")
        };
        let sent = serde_json::to_value(ChildSpec::from(add)).unwrap();
        let expected = serde_json::json!({
            "name": "web",
            "network": "lan",
            "netns": "red",
            "ifname": "eth0",
            "mac": null,
            "ip": ["10.0.0.9/24", "fd00::9/64"],
            "route": [{ "destination": "0.0.0.0/0", "gateway": "10.0.0.1" }],
            "trunk": "5-7",
            "probe": true,
            "security": null,
            "trust": null,
            "storm": { "broadcast": null, "multicast": null, "unknown": null },
            "max_addresses": null,
            "allow_ip": [],
        });
        assert_eq!(sent, expected);
    }
}
