//! `maclane_macvlan`: what a macvlan child sends. The guard on the child leads it here.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use dataplane_common::{
    DropReason, Frame, Mark,
    abi::port_flag,
    mark::{Guarded, stamp},
};

use crate::{
    admit::{admit, maclane_ask_sibling, maclane_forbidden, refuse},
    count,
    rights::port,
    skb::{END, NEXT, Skb},
};

/// TC egress of a macvlan child: proves which child sent a frame, and lets through what it may send.
///
/// On a child that maclane made it ends with `TC_ACT_OK`, not with "go on": the filters that
/// the child's owner may add run after TCX (`net/core/dev.c`, `sch_handle_egress`) and must
/// not write the mark again. A child that somebody else made keeps its filters.
#[classifier]
#[inline(always)]
fn maclane_macvlan(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    // SAFETY: the program's context; the verifier rewrites the access. The guard has just written it.
    let Guarded { port, last } = Guarded::decode(unsafe { (*skb.0).cb[0] });
    count::rx(port, skb.size());
    if !admit(skb.0, port) {
        return END;
    }
    // `None` for one that is too short, or not in one piece.
    let frame = skb.linear().map(|(frame, _)| frame);
    if is_suspect(frame.as_ref(), port) && forbid(skb, port) {
        return END;
    }
    if frame.is_none_or(|frame| frame.is_multicast()) {
        maclane_ask_sibling(skb.0, port.into());
    }
    skb.set_mark(Mark::From(port));
    let stamp = u32::from(stamp(port));
    // SAFETY: as above; with `TC_ACT_OK` the kernel makes the class the index.
    unsafe {
        (*skb.0).tc_index = stamp;
        (*skb.0).tc_classid = stamp;
    }
    if last { TC_ACT_OK } else { NEXT }
}

/// True for a frame that the kernel gives to siblings before any other program of ours sees it, and
/// that is no plain unicast frame with the child's own MAC.
#[inline(always)]
fn is_suspect(frame: Option<&Frame>, from: u16) -> bool {
    let Some(own) = port(from).filter(|own| own.flags & port_flag::BRIDGE != 0) else {
        return false;
    };
    frame.is_none_or(|frame| frame.is_multicast() || frame.src != own.mac || frame.tag.is_some())
}

/// Refuses a frame that the child may not send, whoever is to get it; true if it was dropped.
#[inline(always)]
fn forbid(skb: Skb, from: u16) -> bool {
    let found = maclane_forbidden(skb.0, from.into());
    #[allow(clippy::cast_possible_truncation, reason = "a reason")]
    let reason = DropReason::from_raw(found.wrapping_sub(1) as u8);
    found != 0 && refuse(skb.0, from, reason) != 0
}
