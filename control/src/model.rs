//! What users name and what they are shown: parents, networks, children.
//!
//! `…Spec` is what was asked for, `…Record` what the store keeps, `…View` what is shown. The same
//! types travel over the API, into tables and into `-o json`, so field names are stable.

mod patch;
mod policy;
mod trace;
mod views;
mod word;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::{
    patch::{BindingSpec, ChildPatch, NetworkPatch, Setting},
    policy::{Arp, Policy, Security, Storm, StormLimits, Trust, default_max_addresses, trust},
    trace::{Fate, TraceSpec, TraceView},
    views::{
        BindingSource, BindingView, ChildView, ConflictView, DockerEndpointView, DockerNetworkView,
        DropStats, DropView, FdbView, Finding, LastDrop, LeaseView, LinkMode, NetworkFinding,
        NetworkView, Origin, ParentView, PoolView, PortStats, QuarantineView, StatsView,
    },
    word::{AskedIp, Mac, Route, Trunk},
};
use crate::subnet::SubnetSpec;

/// The highest VLAN ID that may be used; 4095 is reserved (IEEE 802.1Q-2018, table 9-2).
pub(crate) const VLAN_MAX: u16 = 4094;

/// `IFNAMSIZ` without the terminating NUL (`include/uapi/linux/if.h`).
pub(crate) const IFNAME_MAX: usize = 15;

/// How XDP is attached to a parent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum XdpMode {
    /// Native on a physical NIC whose driver has it, off elsewhere.
    #[default]
    Auto,
    /// In the driver; an error where the driver cannot.
    Native,
    /// In the stack, on an skb: for tests and for drivers without XDP.
    Generic,
    /// Not at all: TC does the whole job.
    Off,
}

impl XdpMode {
    /// True if anything else than this mode is an error.
    pub(crate) fn is_forced(self) -> bool {
        matches!(self, Self::Native | Self::Generic)
    }
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TcMode {
    /// The best that the kernel has.
    #[default]
    Auto,
    /// As TCX links, which Linux has from 6.6 on.
    Tcx,
    /// As filters of a clsact qdisc.
    Clsact,
}

/// What happens to a unicast frame from the wire for a MAC that nobody here has.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UnknownPolicy {
    /// The kernel sees it, as it did without maclane.
    #[default]
    Pass,
    /// It is dropped and counted.
    Drop,
}

/// Which macvlan links that maclane has not made are adopted. The others are isolated: no frame of them
/// passes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Adopt {
    /// All but those that the owner of a child is known to have made.
    All,
    /// Those that are known to be a third party's, where the owner of a child could have made one.
    #[default]
    Known,
    /// Those in the host's own namespace only.
    None,
}

/// What a child is made of.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A macvlan link on the parent.
    #[default]
    Macvlan,
    /// A veth pair: one end in the child's namespace, the other beside the parent.
    Veth,
}

/// The macvlan mode of a network's children.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// `bridge` where all macvlan children of the parent share one VLAN and none has enforced security, else
    /// `vepa`.
    #[default]
    Auto,
    /// The kernel switches between siblings by itself.
    Bridge,
    /// Every frame reaches the parent, where maclane decides.
    Vepa,
    /// Children never talk to each other, only to the host and the wire.
    Private,
    /// One child takes the whole parent, with the parent's MAC.
    Passthru,
}

/// A parent, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParentSpec {
    /// The interface that children sit on.
    pub(crate) iface: String,
    /// How XDP is attached.
    #[serde(default)]
    pub(crate) xdp: XdpMode,
    /// What happens to frames from the wire for nobody here.
    #[serde(default)]
    pub(crate) unknown: UnknownPolicy,
    /// How many frames of each kind come in from the wire in a second.
    #[serde(default)]
    pub(crate) storm: StormLimits,
    /// Which macvlan links that maclane has not made are adopted.
    #[serde(default)]
    pub(crate) adopt: Adopt,
}

impl ParentSpec {
    /// With the default for everything else.
    pub(crate) fn new(iface: &str) -> Self {
        Self {
            iface: iface.to_owned(),
            xdp: XdpMode::default(),
            unknown: UnknownPolicy::default(),
            storm: StormLimits::default(),
            adopt: Adopt::default(),
        }
    }
}

/// A network, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkSpec {
    /// Its name.
    pub(crate) name: String,
    /// The interface that it sits on.
    pub(crate) parent: String,
    /// Its VLAN; 0 is untagged.
    #[serde(default)]
    pub(crate) vlan: u16,
    /// What its children are made of.
    #[serde(default)]
    pub(crate) kind: Kind,
    /// The macvlan mode of its children.
    #[serde(default)]
    pub(crate) mode: Mode,
    /// The MTU of its children in bytes; absent: the parent's.
    #[serde(default)]
    pub(crate) mtu: Option<u32>,
    /// Its subnets; none: layer 2 only.
    #[serde(default)]
    pub(crate) subnets: Vec<SubnetSpec>,
    /// Addresses that no child gets, by the name of who has them.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) aux_addresses: BTreeMap<String, IpAddr>,
    /// How long an address that was given back is not given out again, in seconds.
    #[serde(default = "default_quarantine")]
    pub(crate) quarantine: u32,
    /// Whether the LAN is asked for an address of a subnet before a child gets it.
    #[serde(default = "yes")]
    pub(crate) probe: bool,
    /// How long is waited for answers, three times, in milliseconds.
    #[serde(default = "default_probe_interval")]
    pub(crate) probe_interval: u32,
    /// Nothing goes between its children and the wire, and they get no default route.
    #[serde(default)]
    pub(crate) internal: bool,
    /// Whether its children take IPv6 addresses and routes from the routers of the LAN (RFC 4862);
    /// absent: with subnets they do not, without they do what their namespace says.
    #[serde(default)]
    pub(crate) slaac: Option<bool>,
    /// Routes that each of its children gets, beside those through the gateways of its subnets.
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    /// How ARP requests and neighbour solicitations for the address of a child travel.
    #[serde(default)]
    pub(crate) arp: Arp,
    /// What becomes of frames that its children have no right to send; absent: they are dropped for
    /// children that have addresses from maclane, and pass for the others.
    #[serde(default)]
    pub(crate) security: Option<Security>,
    /// What its children may send all the same.
    #[serde(default)]
    pub(crate) trust: BTreeSet<Trust>,
    /// How many frames of each kind each of its children may send in a second.
    #[serde(default)]
    pub(crate) storm: StormLimits,
    /// How many addresses each of its children may take by itself.
    #[serde(default = "default_max_addresses")]
    pub(crate) max_addresses: u32,
    /// Stations on the wire, the gateway for one, whose addresses are pinned to their MACs: its
    /// children never hear another MAC claim one of them.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) bindings: BTreeMap<IpAddr, Mac>,
}

fn yes() -> bool {
    true
}

/// Three of them are less than a second.
pub(crate) fn default_probe_interval() -> u32 {
    250
}

impl NetworkSpec {
    /// The subnet that an address is in.
    pub(crate) fn subnet_of(&self, ip: IpAddr) -> Option<&SubnetSpec> {
        self.subnets.iter().find(|subnet| subnet.subnet.contains(ip))
    }

    /// True if another one is the same network, whatever the policy of the two.
    pub(crate) fn is_but_for_policy(&self, other: &Self) -> bool {
        let Self { arp, security, trust, storm, max_addresses, bindings, .. } = self.clone();
        *self == Self { arp, security, trust, storm, max_addresses, bindings, ..other.clone() }
    }
}

/// Longer than hosts on the LAN remember who had an address (`gc_stale_time`, 60 s in Linux).
pub(crate) fn default_quarantine() -> u32 {
    60
}

/// A child, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChildSpec {
    /// Its name.
    pub(crate) name: String,
    /// The network that it belongs to.
    pub(crate) network: String,
    /// Its network namespace: a name (below /run/netns), a path, or `pid:N`.
    pub(crate) netns: String,
    /// The name of its interface in there.
    #[serde(default = "default_ifname")]
    pub(crate) ifname: String,
    /// Its MAC; absent: maclane picks a locally administered one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) mac: Option<Mac>,
    /// The addresses that it asks for, each with the prefix length of its subnet, or without one
    /// where the network has that subnet. Of each family that it asks for none of, it gets one from
    /// the network's pools.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub(crate) ip: Vec<AskedIp>,
    /// Its routes, beside those through the gateways of its subnets.
    #[serde(default)]
    pub(crate) route: Vec<Route>,
    /// The VLANs that it sees tagged, instead of the network's own one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) trunk: Option<Trunk>,
    /// Whether the LAN is asked for its addresses first, where the network says so.
    #[serde(default = "yes")]
    pub(crate) probe: bool,
    /// What becomes of frames that it has no right to send; absent: what its network says.
    #[serde(default)]
    pub(crate) security: Option<Security>,
    /// What it may send all the same; absent: what its network says.
    #[serde(default)]
    pub(crate) trust: Option<BTreeSet<Trust>>,
    /// How many frames of each kind it may send in a second; absent: what its network says.
    #[serde(default)]
    pub(crate) storm: StormLimits,
    /// How many addresses it may take by itself; absent: what its network says.
    #[serde(default)]
    pub(crate) max_addresses: Option<u32>,
    /// Addresses and prefixes that it may use beside its own.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub(crate) allow_ip: Vec<IpNetwork>,
}

impl ChildSpec {
    /// What of its policy is its own, by the names of the fields.
    pub(crate) fn own_policy(&self) -> Vec<String> {
        let fields = [
            ("security", self.security.is_some()),
            ("trust", self.trust.is_some()),
            ("storm", self.storm != StormLimits::default()),
            ("max_addresses", self.max_addresses.is_some()),
            ("allow_ip", !self.allow_ip.is_empty()),
        ];
        fields.iter().filter(|(_, own)| *own).map(|(name, _)| (*name).to_owned()).collect()
    }
}

fn default_ifname() -> String {
    "eth0".into()
}
