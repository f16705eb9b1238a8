//! From the policy of a child to what the dataplane looks at: storm control, port security, and how
//! questions for its addresses travel.

use dataplane_common::{
    abi::{Ip, LIMITS, Policy as PortPolicy, check_flag, local_flag},
    topology::Rights,
};
use ipnetwork::IpNetwork;

use super::{state::ChildRecord, tables::mapped};
use crate::model::{
    Arp, Mode, NetworkSpec, ParentSpec, Policy, Security, Storm, Trust, default_max_addresses,
};

/// The policy in force for a child. What a trunk does in its VLANs, and what is behind a passthru child,
/// maclane has given no addresses to.
pub(crate) fn policy_of(network: &NetworkSpec, record: &ChildRecord) -> Policy {
    let knows_all = record.spec.trunk.is_none() && network.mode != Mode::Passthru;
    Policy::of(network, &record.spec, knows_all && !record.addresses.is_empty())
}

/// What a child of a network may do.
pub(crate) fn of(network: &NetworkSpec, record: &ChildRecord) -> Rights {
    let policy = policy_of(network, record);
    Rights {
        addresses: record.addresses.iter().map(|address| mapped(address.ip())).collect(),
        policy: PortPolicy {
            checks: checks(&policy),
            max_addresses: u16::try_from(policy.max_addresses).unwrap_or(u16::MAX),
            limits: limits(policy.storm),
            ..PortPolicy::default()
        },
        allowed: policy.allow_ip.iter().copied().map(prefix).collect(),
        hidden: network.internal,
    }
}

/// What an adopted child may do: everything, as without maclane. What addresses it has is remembered.
pub(crate) fn of_adopted() -> Rights {
    let max_addresses = u16::try_from(default_max_addresses()).unwrap_or(u16::MAX);
    let policy = PortPolicy { checks: LEARN, max_addresses, ..PortPolicy::default() };
    Rights { policy, ..Rights::default() }
}

/// What an isolated link may do: nothing.
pub(crate) fn of_isolated() -> Rights {
    let checks = check_flag::MAC
        | check_flag::ADDRESS
        | check_flag::DHCP_SERVER
        | check_flag::ROUTER
        | check_flag::ENFORCE;
    Rights { policy: PortPolicy { checks, ..PortPolicy::default() }, ..Rights::default() }
}

/// What an adopted child in the namespace of a child may do: what that one may, but for its addresses, which
/// are where its own link is.
pub(crate) fn of_adopted_inside(network: &NetworkSpec, record: &ChildRecord) -> Rights {
    Rights { addresses: Vec::new(), ..of(network, record) }
}

/// What is limited of what comes in from the wire.
pub(crate) fn of_wire(parent: &ParentSpec) -> PortPolicy {
    PortPolicy { limits: limits(parent.storm.in_force()), ..PortPolicy::default() }
}

/// The flags of a child's port that follow from its policy.
pub(crate) fn local_flags(network: &NetworkSpec, record: &ChildRecord) -> u8 {
    let trust = policy_of(network, record).trust;
    let flag = |word, flag| if trust.contains(&word) { flag } else { 0 };
    flag(Trust::Mac, local_flag::ANY_MAC) | flag(Trust::Bpdu, local_flag::RESERVED)
}

/// The addresses that it is seen with are its own.
const LEARN: u16 = check_flag::LEARN4 | check_flag::LEARN6;

fn checks(policy: &Policy) -> u16 {
    let arp = match policy.arp {
        Arp::Steer => 0,
        Arp::Suppress => check_flag::ARP_SUPPRESS,
        Arp::Flood => check_flag::ARP_FLOOD,
    };
    let unless = |word, flags| if policy.trust.contains(&word) { 0 } else { flags };
    let raw = if policy.trust.contains(&Trust::RawSocket) { check_flag::RAW_SOCKET } else { 0 };
    let looked_for = unless(Trust::DhcpServer, check_flag::DHCP_SERVER)
        | unless(Trust::Router, check_flag::ROUTER)
        | unless(Trust::MulticastRouter, check_flag::MULTICAST_ROUTER)
        | unless(Trust::Bpdu, check_flag::SWITCHING)
        | unless(Trust::Mac, check_flag::MAC)
        | unless(Trust::Ip, check_flag::ADDRESS);
    arp | raw
        | match policy.security {
            Security::Off => LEARN,
            Security::Log => looked_for | learned(policy),
            Security::Enforce => looked_for | learned(policy) | check_flag::ENFORCE,
        }
}

/// A child whose addresses are looked at may take others of IPv6 by asking for them first; one that is
/// trusted with any has those that it uses.
fn learned(policy: &Policy) -> u16 {
    if policy.trust.contains(&Trust::Ip) { LEARN } else { check_flag::LEARN6 }
}

fn limits(storm: Storm) -> [u32; LIMITS] {
    [storm.broadcast, storm.multicast, storm.unknown, 0]
}

/// A prefix as the tables have it, with its length in bits of an [`Ip`].
fn prefix(network: IpNetwork) -> (Ip, u8) {
    let bits = if network.is_ipv4() { 96 } else { 0 };
    (mapped(network.network()), bits + network.prefix())
}
