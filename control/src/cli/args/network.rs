//! `maclane network`.

use std::{collections::BTreeMap, net::IpAddr};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use ipnetwork::IpNetwork;

use super::policy::{NetworkSet, PolicyArgs};
use crate::{
    check,
    cli::values::{aux_address, binding, mtu, on_off, subnet, text, vlan},
    error::{Error, Result},
    model::{
        Arp, Kind, Mac, Mode, NetworkSpec, Route, default_max_addresses, default_probe_interval,
        default_quarantine,
    },
    subnet::{self, Gateway},
};

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Create a network
    #[command(after_help = "\
Examples:
  maclane network create lan --parent eth0
  maclane network create lan50 --parent eth0 --vlan 50
  maclane network create lan60 --parent eth0 --vlan 60 --subnet 192.168.60.0/24 --subnet fd00:60::/64 \\
      --gateway 192.168.60.254 --ip-range 192.168.60.128/25 --aux-address printer=192.168.60.130
  maclane network create vms --parent eth0 --vlan 60 --kind veth --mtu 9000
  maclane network create tenants --parent eth0 --vlan 80 --subnet 192.168.80.0/24 --security enforce \\
      --arp suppress --storm broadcast=100,unknown=1000 --binding 192.168.80.1=02:00:5e:00:53:01
  maclane network create as-in-docker --parent eth0.70")]
    Create(NetworkCreate),
    /// Change the policy of a network that is there; what is not named stays as it is
    #[command(after_help = "\
Examples:
  maclane network set lan --security log
  maclane network set lan --arp suppress --trust router --storm broadcast=500
  maclane network set lan --security default --storm default")]
    Set(NetworkSet),
    /// Remove a network that has no children
    Rm {
        /// The network
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// List networks
    Ls,
    /// Show all about a network
    Inspect {
        /// The network
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Compare leases with links and with the LAN, and say what is wrong
    ///
    /// Finds leases without links, links without leases, overlapping subnets, a gateway that does
    /// not answer, a subnet that the host routes elsewhere, and strangers that have the address of a
    /// child. Changes nothing. The exit status is 1 if there is a finding.
    Check {
        /// The network; all of them if it is left out
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: Option<String>,
    },
}

/// A network to create.
#[derive(Debug, Args)]
pub(crate) struct NetworkCreate {
    /// Its name
    #[arg(value_parser = text(check::name))]
    name: String,
    /// The parent that it sits on; where there is no eth0.50 but an eth0, maclane makes that 802.1Q
    /// sub-interface, and removes it with its last network
    #[arg(long, value_name = "IFACE", value_parser = text(check::iface))]
    parent: String,
    /// Its VLAN; 0 is untagged
    #[arg(long, value_name = "ID", default_value_t, value_parser = vlan)]
    vlan: u16,
    /// What its children are made of
    #[arg(long, value_enum, value_name = "KIND", default_value_t)]
    kind: Kind,
    /// The macvlan mode of its children
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    mode: Mode,
    /// The MTU of its children; the parent's if left out
    #[arg(long, value_name = "BYTES", value_parser = mtu)]
    mtu: Option<u32>,
    /// A subnet, of which children get addresses; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = subnet)]
    subnet: Vec<IpNetwork>,
    /// The gateway of the subnet that it is in, or "none" for the subnets that get no other; the
    /// first address of each if it is left out; may be repeated
    #[arg(long, value_name = "IP|none")]
    gateway: Vec<Gateway>,
    /// The part of its subnet that children get addresses of; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = subnet)]
    ip_range: Vec<IpNetwork>,
    /// An address that no child gets; may be repeated
    #[arg(long, value_name = "NAME=IP", value_parser = aux_address)]
    aux_address: Vec<(String, IpAddr)>,
    /// How long an address that was given back is not given out again
    #[arg(long, value_name = "SECONDS", default_value_t = default_quarantine())]
    quarantine: u32,
    /// Do not ask the LAN for an address before a child gets it
    #[arg(long)]
    no_probe: bool,
    /// How long answers are waited for, three times
    #[arg(long, value_name = "MILLISECONDS", default_value_t = default_probe_interval())]
    probe_interval: u32,
    /// Let nothing go between its children and the wire, and give them no default route
    #[arg(long)]
    internal: bool,
    /// Whether its children take IPv6 addresses and routes from the LAN's routers; left out, a
    /// network with subnets does not, and one without leaves it to the child's namespace
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    slaac: Option<bool>,
    /// A route that each of its children gets; without a gateway it is on the link; may be repeated
    #[arg(long, value_name = "CIDR[=GATEWAY]")]
    route: Vec<Route>,
    /// How ARP requests and neighbour solicitations for the address of a child travel
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    arp: Arp,
    #[command(flatten)]
    policy: PolicyArgs,
    /// An address on the wire, a gateway's for one, that is pinned to the MAC of its station; may be
    /// repeated
    #[arg(long, value_name = "IP=MAC", value_parser = binding)]
    binding: Vec<(IpAddr, Mac)>,
}

impl TryFrom<NetworkCreate> for NetworkSpec {
    type Error = Error;

    fn try_from(create: NetworkCreate) -> Result<Self> {
        let NetworkCreate { name, parent, vlan, kind, mode, mtu, quarantine, .. } = create;
        let subnets = subnet::assemble(&create.subnet, &create.gateway, &create.ip_range)?;
        let mut aux_addresses = BTreeMap::new();
        for (name, ip) in create.aux_address {
            if aux_addresses.insert(name.clone(), ip).is_some() {
                return Err(Error::invalid(format!(
                    "two addresses are kept back for \"{name}\"; give each a name of its own"
                )));
            }
        }
        let mut bindings = BTreeMap::new();
        for (ip, mac) in create.binding {
            if bindings.insert(ip, mac).is_some() {
                return Err(Error::invalid(format!(
                    "{ip} is bound twice; leave one of the bindings out"
                )));
            }
        }
        let PolicyArgs { security, trust, storm, max_addresses } = create.policy;
        Ok(Self {
            name,
            parent,
            vlan,
            kind,
            mode,
            mtu,
            subnets,
            aux_addresses,
            quarantine,
            probe: !create.no_probe,
            probe_interval: create.probe_interval,
            internal: create.internal,
            slaac: create.slaac,
            routes: create.route,
            arp: create.arp,
            security,
            trust: trust.unwrap_or_default(),
            storm: storm.unwrap_or_default(),
            max_addresses: max_addresses.unwrap_or_else(default_max_addresses),
            bindings,
        })
    }
}
