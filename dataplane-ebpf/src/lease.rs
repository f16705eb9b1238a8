//! Leases that DHCP servers give to children, and that children give back.

use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    abi::{Addresses as _, Neighbour, NeighbourKey, Tables, VLAN_ANY, check_flag, port_flag},
    dhcp::{Lease, Said, said},
    neighbour::{is_child, mapped_address, owner},
};

use crate::{
    admit::SkbBytes,
    maps::Maps,
    place::Place,
    rights::{Rights, drop_learned, now, policy, port, remember},
};

/// Bytes from the beginning of an IPv4 packet without options to what UDP carries.
const UDP_PAYLOAD: u32 = 28;

/// Remembers the address that a DHCP server has given to a child, if the child is one whose addresses are
/// looked at, and forgets one that its child gives back.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_lease(skb: *mut __sk_buff, at: u64) -> i32 {
    let at = Place::unpack(at);
    let start = u32::from(at.offset) + UDP_PAYLOAD;
    match said(&SkbBytes(skb), start) {
        Some(Said::Given(lease)) => give(at, lease),
        Some(Said::Back(ip)) => take_back(at, ip),
        None => {}
    }
    0
}

/// A child gives an address back. In the name of another it may say what it wants.
#[inline(always)]
fn take_back(at: Place, ip: [u8; 4]) {
    let key = NeighbourKey::new(mapped_address(ip), at.vlan);
    if is_child(at.port) && Rights.learned(&key).is_some_and(|learned| learned.port == at.port) {
        drop_learned(&key, at.port);
    }
}

/// Somebody says that a client gets an address.
#[inline(always)]
fn give(at: Place, lease: Lease) {
    // Not every frame of a child that is no server has been refused: some are only counted, and before
    // Linux 6.6 the kernel gives others to siblings.
    let is_server =
        || policy(at.port).is_some_and(|policy| policy.checks & check_flag::DHCP_SERVER == 0);
    if is_child(at.port) && !is_server() {
        return;
    }
    let Some(child) = Maps.fdb(lease.mac, VLAN_ANY).filter(|entry| is_child(entry.port)) else {
        return;
    };
    let (Some(policy), Some(own)) = (policy(child.port), port(child.port)) else { return };
    let in_vlan = own.flags & port_flag::TRUNK != 0 || own.vlan == at.vlan;
    if policy.checks & check_flag::ADDRESS == 0 || !in_vlan {
        return;
    }
    let (key, now) = (NeighbourKey::new(mapped_address(lease.ip), at.vlan), now());
    // Whose address it is, no server may say.
    if owner(&key, now, &Rights).is_none_or(|owner| owner.port == child.port) {
        let child = Neighbour { port: child.port, mac: lease.mac };
        remember(&key, child, policy.max_addresses, now);
    }
}
