//! What users are shown: parents, networks and children as they are, and what is counted.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Adopt, Kind, Mac, Mode, NetworkSpec, Policy, StormLimits, Trunk, UnknownPolicy, XdpMode,
};

/// A parent, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ParentView {
    /// The interface's name.
    pub(crate) iface: String,
    /// `up`, `down`, or `missing` while no interface has this name.
    pub(crate) state: String,
    /// The interface's index; absent while it is missing.
    pub(crate) ifindex: Option<u32>,
    /// The interface's MAC.
    #[schema(value_type = Option<String>)]
    pub(crate) mac: Option<Mac>,
    /// The interface's MTU in bytes.
    pub(crate) mtu: Option<u32>,
    /// maclane has made the interface, and removes it with the parent.
    pub(crate) made: bool,
    /// What was asked for.
    pub(crate) xdp: XdpMode,
    /// What is attached: `native`, `generic` or `off`.
    pub(crate) xdp_attached: String,
    /// How TC programs are attached: `tcx` or `clsact`; absent while they are not.
    pub(crate) tc: Option<String>,
    /// What happens to frames from the wire for nobody here.
    pub(crate) unknown: UnknownPolicy,
    /// How many frames of each kind come in from the wire in a second, as asked for.
    pub(crate) storm: StormLimits,
    /// Which macvlan links that maclane has not made are adopted.
    pub(crate) adopt: Adopt,
    /// Names of its networks.
    pub(crate) networks: Vec<String>,
    /// How many children maclane made on it.
    pub(crate) children: usize,
    /// How many children somebody else made on it.
    pub(crate) adopted: usize,
    /// Where its maps, programs and links are pinned.
    pub(crate) pins: String,
    /// Whether the configuration file has made it.
    pub(crate) declared: bool,
    /// What maclane has changed on the NIC, each with its value before, which it has again after `parent rm`.
    pub(crate) changed: BTreeMap<String, String>,
    /// What is wrong or limited, with the way out; empty if nothing is.
    pub(crate) problems: Vec<String>,
}

/// A network, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NetworkView {
    /// What was asked for.
    #[serde(flatten)]
    pub(crate) spec: NetworkSpec,
    /// Whether the configuration file has made it.
    pub(crate) declared: bool,
    /// The mode in force: never `auto`; absent for `veth`.
    pub(crate) mode_in_force: Option<Mode>,
    /// Names of its children.
    pub(crate) children: Vec<String>,
    /// What its subnets have to give.
    pub(crate) pools: Vec<PoolView>,
    /// The addresses of its children.
    pub(crate) leases: Vec<LeaseView>,
    /// Addresses that were given back and are not given out again yet.
    pub(crate) quarantined: Vec<QuarantineView>,
    /// Addresses that somebody else on the LAN has.
    pub(crate) conflicts: Vec<ConflictView>,
}

/// Something that is wrong with a network.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NetworkFinding {
    /// The network.
    pub(crate) network: String,
    /// What, and the way out where there is one.
    pub(crate) finding: String,
}

/// What a subnet has to give.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PoolView {
    /// The subnet.
    #[schema(value_type = String)]
    pub(crate) subnet: IpNetwork,
    /// Who routes for it.
    #[schema(value_type = Option<String>)]
    pub(crate) gateway: Option<IpAddr>,
    /// The addresses that children get, as `FIRST to LAST`.
    pub(crate) range: String,
    /// How many these are, as a decimal number: they may be more than JSON's numbers can say.
    pub(crate) size: String,
    /// How many addresses of the subnet children have.
    pub(crate) leased: usize,
}

/// An address of a child.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LeaseView {
    /// The address.
    #[schema(value_type = String)]
    pub(crate) ip: IpAddr,
    /// The child.
    pub(crate) child: String,
    /// The child's MAC.
    #[schema(value_type = String)]
    pub(crate) mac: Mac,
    /// Since when, in seconds since 1970.
    pub(crate) since: u64,
    /// How often somebody else on the LAN was heard to have it, since the daemon runs.
    pub(crate) claims: u64,
    /// Who that was last.
    #[schema(value_type = Option<String>)]
    pub(crate) claimed_by: Option<Mac>,
}

/// An address that somebody else on the LAN has.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConflictView {
    /// The address.
    #[schema(value_type = String)]
    pub(crate) ip: IpAddr,
    /// Who.
    #[schema(value_type = String)]
    pub(crate) mac: Mac,
    /// Until when it is not asked for again, in seconds since 1970.
    pub(crate) until: u64,
}

/// An address that was given back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct QuarantineView {
    /// The address.
    #[schema(value_type = String)]
    pub(crate) ip: IpAddr,
    /// Until when it is not given out, in seconds since 1970.
    pub(crate) until: u64,
}

/// The mode of a macvlan link, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LinkMode {
    /// The kernel switches between siblings by itself.
    Bridge,
    /// Every frame reaches the parent.
    Vepa,
    /// Children never talk to each other.
    Private,
    /// The link takes the whole parent.
    Passthru,
    /// The link gets what a list of source MACs sends to the parent, whatever its destination. No network
    /// of maclane has it.
    Source,
}

impl LinkMode {
    /// The mode of a link that was found; of the kernel's modes a network can have all but `source`.
    pub(crate) fn of(mode: Option<Mode>) -> Self {
        match mode {
            Some(Mode::Bridge) => Self::Bridge,
            Some(Mode::Auto | Mode::Vepa) => Self::Vepa,
            Some(Mode::Private) => Self::Private,
            Some(Mode::Passthru) => Self::Passthru,
            None => Self::Source,
        }
    }
}

/// Who made a child's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// maclane did, and removes it with the child.
    Created,
    /// Somebody else did; maclane only steers its frames.
    Adopted,
}

/// A child, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ChildView {
    /// Its name; an adopted child is known by `PARENT/MAC`.
    pub(crate) name: String,
    /// The network that it belongs to; absent for an adopted child.
    pub(crate) network: Option<String>,
    /// The child of maclane in whose namespace an adopted child is: what holds for that one holds for it.
    #[serde(default)]
    pub(crate) inside: Option<String>,
    /// The interface that it sits on.
    pub(crate) parent: String,
    /// The VLAN of its network; it sees that one untagged unless it is a trunk.
    pub(crate) vlan: u16,
    /// The VLANs that it sees tagged.
    #[schema(value_type = Option<String>)]
    pub(crate) trunk: Option<Trunk>,
    /// What it is made of.
    pub(crate) kind: Kind,
    /// Its macvlan mode; absent for `veth`, or where it cannot be seen.
    pub(crate) mode: Option<LinkMode>,
    /// Where it lives; absent where that cannot be found out.
    pub(crate) netns: Option<String>,
    /// The name of its interface in there.
    pub(crate) ifname: Option<String>,
    /// The index of its interface in there.
    pub(crate) ifindex: Option<u32>,
    /// Its MAC.
    #[schema(value_type = String)]
    pub(crate) mac: Mac,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub(crate) ip: Vec<IpNetwork>,
    /// Its MTU in bytes.
    pub(crate) mtu: Option<u32>,
    /// Its port in the dataplane; absent while it has none.
    pub(crate) port: Option<u16>,
    /// `up`, `down`, `no namespace` while its namespace does not exist, `gone` while its parent or its
    /// link does not, or `isolated` for a link that maclane has not made and no frame of which passes.
    pub(crate) state: String,
    /// While its namespace does not exist: until when its addresses are kept for it, in seconds
    /// since 1970. Then it is removed.
    pub(crate) lease_until: Option<u64>,
    /// Who made its link.
    pub(crate) origin: Origin,
    /// What proves that a frame is its own: `guard` (a program on the link), `port` (it came in
    /// through the child's host end), or `mac` (its source MAC says so).
    pub(crate) identity: String,
    /// The policy that is in force for it; absent for an adopted child that is in no other's namespace.
    #[serde(flatten)]
    pub(crate) policy: Option<Policy>,
    /// The fields of the policy that are its own, and not its network's.
    #[serde(default)]
    pub(crate) own_policy: Vec<String>,
}

/// Where the word comes from that an address is somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BindingSource {
    /// Somebody has said so.
    Configured,
    /// maclane has given it to a child.
    Lease,
    /// The child was seen to take it.
    Learned,
}

/// An address, and whose it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct BindingView {
    /// The network.
    pub(crate) network: String,
    /// The address.
    #[schema(value_type = String)]
    pub(crate) ip: IpAddr,
    /// The MAC of the station that has it.
    #[schema(value_type = String)]
    pub(crate) mac: Mac,
    /// Where that is: `wire`, or the name of a child.
    pub(crate) port: String,
    /// Where that comes from.
    pub(crate) source: BindingSource,
}

/// A network of Docker, as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DockerNetworkView {
    /// Docker's ID of it.
    pub(crate) id: String,
    /// Its name here.
    pub(crate) network: String,
    /// The interface that it sits on; absent if it was removed here.
    pub(crate) parent: Option<String>,
    /// Its VLAN.
    pub(crate) vlan: u16,
    /// The VLANs that its endpoints see tagged, or one of which they choose.
    #[schema(value_type = Option<String>)]
    pub(crate) trunk: Option<Trunk>,
    /// Its endpoints.
    pub(crate) endpoints: Vec<DockerEndpointView>,
}

/// An endpoint of a network of Docker.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DockerEndpointView {
    /// The child.
    pub(crate) child: String,
    /// Docker's ID of it.
    pub(crate) id: String,
    /// The namespace of its container; absent before it joins one.
    pub(crate) sandbox: Option<String>,
}

/// One line of the forwarding table.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct FdbView {
    /// The parent that it belongs to.
    pub(crate) parent: String,
    /// The destination MAC.
    #[schema(value_type = String)]
    pub(crate) mac: Mac,
    /// The VLAN; absent for the entry that says who owns the MAC in any VLAN.
    pub(crate) vlan: Option<u16>,
    /// The port.
    pub(crate) port: u16,
    /// `host`, `macvlan` or `veth`.
    pub(crate) kind: String,
    /// The child's name, or `host`.
    pub(crate) owner: String,
}

/// Counters of one port.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PortStats {
    /// The port.
    pub(crate) port: u16,
    /// `wire`, `host`, or the child's name.
    pub(crate) name: String,
    /// `wire`, `host`, `macvlan` or `veth`.
    pub(crate) kind: String,
    /// Frames that came in from it (segments of an offloaded frame are counted one by one).
    pub(crate) rx_packets: u64,
    /// Bytes that came in from it.
    pub(crate) rx_bytes: u64,
    /// Frames that went out to it.
    pub(crate) tx_packets: u64,
    /// Bytes that went out to it.
    pub(crate) tx_bytes: u64,
}

/// Counters of one drop reason.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DropStats {
    /// The reason's name.
    pub(crate) reason: String,
    /// What it means.
    pub(crate) meaning: String,
    /// Frames.
    pub(crate) packets: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// All counters of a parent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct StatsView {
    /// The parent.
    pub(crate) parent: String,
    /// Its ports, in order.
    pub(crate) ports: Vec<PortStats>,
    /// Every drop reason, also those that never happened.
    pub(crate) drops: Vec<DropStats>,
}

/// Frames of one port that were dropped for one reason, or would have been.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DropView {
    /// The parent.
    pub(crate) parent: String,
    /// `wire`, `host`, or the child's name; absent where the programs do not tell ports apart.
    pub(crate) port: Option<String>,
    /// The reason's name.
    pub(crate) reason: String,
    /// What it means.
    pub(crate) meaning: String,
    /// Frames that were dropped.
    pub(crate) dropped: u64,
    /// Frames that passed although they should not, because the child's security only logs.
    pub(crate) logged: u64,
    /// The last one; absent where the programs have kept none.
    pub(crate) last: Option<LastDrop>,
}

/// The last frame that was dropped for a reason.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LastDrop {
    /// How long ago that was, in seconds.
    pub(crate) seconds_ago: u64,
    /// Its source.
    #[schema(value_type = String)]
    pub(crate) source: Mac,
    /// Its destination.
    #[schema(value_type = String)]
    pub(crate) destination: Mac,
    /// The VLAN that it was in.
    pub(crate) vlan: u16,
    /// What it carried, four hexadecimal digits.
    pub(crate) ethertype: String,
}

/// One finding of `doctor`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: String,
    /// `ok`, `warn` or `fail`.
    pub(crate) status: String,
    /// What was seen, and the way out.
    pub(crate) detail: String,
}
