//! Leases that DHCP servers give to children.

use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    abi::{Neighbour, NeighbourKey, Tables, VLAN_ANY, check_flag, port_flag},
    dhcp::lease,
    neighbour::{is_child, mapped_address, owner},
};

use crate::{
    admit::SkbBytes,
    maps::Maps,
    place::Place,
    rights::{Rights, now, policy, port, remember},
};

/// Bytes from the beginning of an IPv4 packet without options to what UDP carries.
const UDP_PAYLOAD: u32 = 28;

/// Remembers the address that a DHCP server has given to a child, if the child is one whose addresses are
/// looked at.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_lease(skb: *mut __sk_buff, at: u64) -> i32 {
    let at = Place::unpack(at);
    let start = u32::from(at.offset) + UDP_PAYLOAD;
    let Some(lease) = lease(&SkbBytes(skb), start) else { return 0 };
    let Some(child) = Maps.fdb(lease.mac, VLAN_ANY).filter(|entry| is_child(entry.port)) else {
        return 0;
    };
    let (Some(policy), Some(own)) = (policy(child.port), port(child.port)) else { return 0 };
    let in_vlan = own.flags & port_flag::TRUNK != 0 || own.vlan == at.vlan;
    if policy.checks & check_flag::ADDRESS == 0 || !in_vlan {
        return 0;
    }
    let (key, now) = (NeighbourKey::new(mapped_address(lease.ip), at.vlan), now());
    // Whose address it is, no server may say.
    if owner(&key, now, &Rights).is_none_or(|owner| owner.port == child.port) {
        let child = Neighbour { port: child.port, mac: lease.mac };
        remember(&key, child, policy.max_addresses, now);
    }
    0
}
