//! Questions about addresses: whom they are for, and watching who says to have one.

use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    DropReason,
    abi::{Claim, Event, Neighbour, NeighbourKey, PORT_WIRE, event_kind, port_flag},
    decide::Audience,
    neighbour::{Asked, UNSPECIFIED, asked, halves, is_child, join, message, word},
    packet::{Bytes, ETH_P_ARP, ETH_P_IPV4, ETH_P_IPV6, Payload},
    pinned::{Heard, Origin as Claimant, hear_arp, hear_discovery, hear_wrapped},
};

use crate::{
    admit::{SkbBytes, place, refuse},
    maps::Maps,
    offence::tell,
    packed::{pack_mac, unpack_mac},
    place::Place,
    rights::{Counted, forget, now, port},
    trace::Origin,
};

/// Everybody whom its destination says.
const EVERYBODY: Asked = Asked::Audience(Audience::Everybody);

/// Whom a frame from port `from` about an address is for.
#[inline(always)]
pub(crate) fn ask(skb: *mut __sk_buff, from: u16, is_multicast: bool) -> Asked {
    let Some(at) = place(skb, from) else { return EVERYBODY };
    let at = at.pack();
    let refused = hear(skb, at);
    #[allow(clippy::cast_possible_truncation, reason = "a reason")]
    if refused != 0 {
        Asked::Nobody(DropReason::from_raw((refused - 1) as u8))
    } else if is_multicast {
        Asked::unpack(maclane_ask(skb, at))
    } else {
        EVERYBODY
    }
}

/// True for a frame of a child that must not be heard of an address that is pinned: it has been dropped then. Where
/// the kernel gives the frame to siblings, or has switched it to one.
#[inline(always)]
pub(crate) fn hides(skb: *mut __sk_buff, origin: Origin) -> bool {
    let Some(at) = place(skb, origin.from).filter(|at| at.extra != ETH_P_IPV4) else {
        return false;
    };
    let refused = hear(skb, at.pack());
    #[allow(clippy::cast_possible_truncation, reason = "a reason")]
    let reason = DropReason::from_raw(refused.wrapping_sub(1) as u8);
    refused != 0 && refuse(skb, origin, reason) != 0
}

/// Hears which station claims an address; one more than the reason if that must not be heard.
///
/// Of itself it is no function: on Linux 6.1 each takes at least 32 bytes of stack, of which there are none to spare
/// below the ingress.
#[inline(always)]
fn hear(skb: *mut __sk_buff, at: u64) -> u32 {
    match Place::unpack(at).extra {
        ETH_P_ARP => maclane_hear_arp(skb, at),
        ETH_P_IPV6 => maclane_hear_ipv6(skb, at),
        _ => maclane_hear_llc(skb, at),
    }
}

/// [`hear_arp`]. A global function, which the verifier looks at once (`Documentation/bpf/verifier.rst`), as are the
/// next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_hear_arp(skb: *mut __sk_buff, at: u64) -> u32 {
    let Some((origin, payload)) = origin(skb, at) else { return 0 };
    learn(&hear_arp(&SkbBytes(skb), payload.offset, origin, &Maps), origin)
}

/// [`hear_discovery`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_hear_ipv6(skb: *mut __sk_buff, at: u64) -> u32 {
    let Some((origin, payload)) = origin(skb, at) else { return 0 };
    learn(&hear_discovery(&SkbBytes(skb), payload.offset, origin, &Maps), origin)
}

/// [`hear_wrapped`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_hear_llc(skb: *mut __sk_buff, at: u64) -> u32 {
    let Some((origin, payload)) = origin(skb, at) else { return 0 };
    learn(&hear_wrapped(&SkbBytes(skb), payload, origin, &Maps), origin)
}

/// Where a frame came from, and what it carries.
#[inline(always)]
fn origin(skb: *mut __sk_buff, at: u64) -> Option<(Claimant, Payload)> {
    let Place { port, vlan, offset, extra } = Place::unpack(at);
    let src = SkbBytes(skb).load::<6>(6)?;
    Some((Claimant { src, port, vlan }, Payload { ethertype: extra, offset: offset.into() }))
}

/// What follows from what was heard: one more than the reason if it must not be.
#[inline(always)]
fn learn(heard: &Heard, Claimant { src, port, vlan }: Claimant) -> u32 {
    if let Some(reason) = heard.refused {
        return reason as u32 + 1;
    }
    if port == PORT_WIRE && heard.sender != UNSPECIFIED {
        let (first, last) = halves(heard.sender);
        maclane_watch(first, last, Neighbour::to_raw(heard.owner), pack_mac(src, vlan));
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

/// Tells the daemon about a frame from the wire whose sender claims the address of a child, by its two halves, the
/// raw [`Neighbour`] that has it, and the frame's source and VLAN. What becomes of the frame has nothing to do with it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_watch(first: u64, last: u64, owner: u64, src: u64) -> i32 {
    let (mac, vlan) = unpack_mac(src);
    let key = NeighbourKey::new(join(first, last), vlan);
    match Neighbour::from_raw(owner) {
        Some(owner) if is_child(owner.port) && word(owner.mac) != word(mac) => {
            let kind = event_kind::CLAIM;
            tell(kind, Claim { event: Event { kind, vlan, mac }, ip: key.ip });
        }
        Some(_) => {}
        None => forget(&key, now()),
    }
    0
}
