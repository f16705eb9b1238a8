//! `maclane_macvlan`: what a macvlan child sends. The guard on the child leads it here.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use dataplane_common::{
    DropReason, Frame,
    abi::{Port, port_flag},
    mark::{Guarded, stamp},
    trace::Hook,
};

use crate::{
    admit::{is_plain_of, maclane_admit, maclane_ask_sibling, maclane_forbidden, refuse},
    ask::hides,
    count,
    rights::port,
    skb::{END, NEXT, Skb},
    trace::Origin,
};

/// TC egress of a macvlan child: stamps its frames, so that the parent's programs know the sender.
///
/// The frames of a child in bridge mode reach its siblings before they reach the parent
/// (`drivers/net/macvlan.c`, `macvlan_queue_xmit`), so these are checked here as well. The parent
/// checks them all: behind this program the child's owner can change them.
///
/// On a child that maclane made it ends with `TC_ACT_OK`, not with "go on": the filters that
/// the child's owner may add run after TCX (`net/core/dev.c`, `sch_handle_egress`) and must
/// not write the stamp again (`tc_run`). A child that somebody else made keeps its filters.
#[classifier]
#[inline(always)]
fn maclane_macvlan(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    // SAFETY: the program's context; the verifier rewrites the access. The guard has just written it.
    let Guarded { port, last } = Guarded::decode(unsafe { (*skb.0).cb[0] });
    count::rx(port, skb.size());
    skb.gather();
    if let Some(own) = bridge_port(port)
        && !may_reach_siblings(skb, port, &own)
    {
        return END;
    }
    let stamp = u32::from(stamp(port));
    // SAFETY: as above; with `TC_ACT_OK` the kernel makes the class the index.
    unsafe {
        (*skb.0).tc_index = stamp;
        (*skb.0).tc_classid = stamp;
    }
    if last { TC_ACT_OK } else { NEXT }
}

/// A port in bridge mode.
#[inline(always)]
fn bridge_port(number: u16) -> Option<Port> {
    port(number).filter(|own| own.flags & port_flag::BRIDGE != 0)
}

/// True for a frame that the kernel may give to siblings; sends a request for an address of one of them to
/// that one alone.
#[inline(always)]
fn may_reach_siblings(skb: Skb, number: u16, own: &Port) -> bool {
    let origin = Origin::new(number, Hook::Guard);
    let is_plain = is_plain_of(skb.0, number);
    if !is_plain && (maclane_admit(skb.0, origin.pack()) != 0 || hides(skb.0, origin)) {
        return false;
    }
    // `None` for one that is too short, or not in one piece.
    let frame = skb.linear().map(|(frame, _)| frame);
    if is_suspect(frame.as_ref(), own) && forbid(skb, origin) {
        return false;
    }
    if frame.is_none_or(|frame| frame.is_multicast()) {
        maclane_ask_sibling(skb.0, number.into());
    }
    true
}

/// True for a frame that is no plain unicast frame with the child's own MAC.
#[inline(always)]
fn is_suspect(frame: Option<&Frame>, own: &Port) -> bool {
    frame.is_none_or(|frame| frame.is_multicast() || frame.src != own.mac || frame.tag.is_some())
}

/// Refuses a frame that the child may not send to any station; true if it was dropped.
#[inline(always)]
fn forbid(skb: Skb, origin: Origin) -> bool {
    let found = maclane_forbidden(skb.0, origin.from.into());
    #[allow(clippy::cast_possible_truncation, reason = "a reason")]
    let reason = DropReason::from_raw(found.wrapping_sub(1) as u8);
    found != 0 && refuse(skb.0, origin, reason) != 0
}
