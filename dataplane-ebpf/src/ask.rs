//! Questions about addresses: whom they are for, and watching who says to have one.

use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    DropReason,
    abi::{
        Addresses as _, Claim, Event, Neighbour, NeighbourKey, PORT_WIRE, event_kind, port_flag,
    },
    decide::Audience,
    frame::Mac,
    neighbour::{Asked, UNSPECIFIED, asked, is_child, is_forged, message, word},
    packet::{Bytes, ETH_P_IPV6, IPV6_HLEN},
    security::names,
};

use crate::{
    admit::{SkbBytes, place},
    maps::Maps,
    offence::tell,
    place::Place,
    rights::{Counted, Rights, forget, now, port},
};

/// Everybody whom its destination says.
const EVERYBODY: Asked = Asked::Audience(Audience::Everybody);

/// Whom a frame from port `from` about an address is for.
#[inline(always)]
pub(crate) fn ask(skb: *mut __sk_buff, from: u16, is_multicast: bool) -> Asked {
    let Some(at) = place(skb, from) else { return EVERYBODY };
    let at = at.pack();
    if maclane_hear(skb, at) != 0 {
        Asked::Nobody(DropReason::Pinned)
    } else if is_multicast {
        Asked::unpack(maclane_ask(skb, at))
    } else {
        EVERYBODY
    }
}

/// Hears who says to have an address; not 0 if that is forged.
///
/// A global function, which the verifier looks at once (`Documentation/bpf/verifier.rst`), as is the next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_hear(skb: *mut __sk_buff, at: u64) -> i32 {
    let (bytes, at) = (SkbBytes(skb), Place::unpack(at));
    let Some(message) = message(&bytes, at.extra, at.offset.into()) else { return 0 };
    let Some(src) = bytes.load::<6>(6) else { return 0 };
    if message.sender == UNSPECIFIED {
        return 0;
    }
    let key = NeighbourKey::new(message.sender, at.vlan);
    let owner = Rights.neighbour(&key);
    if is_forged(&message, src, at.port, owner) {
        return 1;
    }
    // What a neighbour message says of a MAC is in its options.
    if let Some(pinned) = owner.filter(|owner| owner.port == PORT_WIRE)
        && at.extra == ETH_P_IPV6
        && !names(&bytes, u32::from(at.offset) + IPV6_HLEN, message.kind, pinned.mac)
    {
        return 1;
    }
    if at.port == PORT_WIRE {
        watch(&key, owner, src);
    }
    0
}

/// Whom a message is for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_ask(skb: *mut __sk_buff, at: u64) -> u64 {
    let at = Place::unpack(at);
    let Some(message) = message(&SkbBytes(skb), at.extra, at.offset.into()) else {
        return EVERYBODY.pack();
    };
    let asked = match asked(&message, at.port, at.vlan, now(), &Maps, &Counted(at.port)) {
        // The kernel has given it to the siblings in bridge mode already.
        Asked::Child(owner) if are_bridged(at.port, owner.port) => {
            Asked::Audience(Audience::HostAndWire)
        }
        other => other,
    };
    asked.pack()
}

#[inline(always)]
fn are_bridged(from: u16, to: u16) -> bool {
    let (Some(from), Some(to)) = (port(from), port(to)) else { return false };
    from.flags & to.flags & port_flag::BRIDGE != 0
}

/// Tells the daemon about a frame from the wire whose sender says to have the address of a child. What
/// becomes of the frame has nothing to do with it.
#[inline(always)]
fn watch(key: &NeighbourKey, owner: Option<Neighbour>, mac: Mac) {
    match owner {
        Some(owner) if is_child(owner.port) && word(owner.mac) != word(mac) => {
            let kind = event_kind::CLAIM;
            tell(kind, Claim { event: Event { kind, vlan: key.vlan, mac }, ip: key.ip });
        }
        Some(_) => {}
        None => forget(key, now()),
    }
}
