//! `maclane_siblings`: frames between two children in bridge mode. The parent's ingress leads here.

use aya_ebpf::{macros::classifier, programs::TcContext};
use dataplane_common::{DropReason, Mark, Verdict, decide::Audience, trace::Hook as Told};

use crate::{
    admit::{admit, place},
    ask::hides,
    lease::maclane_lease,
    skb::{END, Skb},
    tc::{Hook, act_on_one, drop_of, follow, rule},
    trace::{Origin, Was},
};

/// A frame that the kernel has switched between two children in bridge mode
/// (`drivers/net/macvlan.c`, `macvlan_queue_xmit`), and that was counted where it was sent. It is held
/// to what its sender may send, because behind its guard the sender's owner can change it.
///
/// A program of its own: below the stack of the ingress there is no room for the checks on Linux 6.1.
#[classifier]
#[inline(always)]
fn maclane_siblings(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    // SAFETY: the program's context; the verifier rewrites the access. The ingress has just written it.
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    let from = unsafe { (*skb.0).cb[0] } as u16;
    let origin = Origin::new(from, Told::Ingress);
    if !admit(skb.0, origin) || hides(skb.0, origin) {
        return END;
    }
    let Some((frame, payload)) = skb.parsed().filter(|(frame, _)| !frame.is_multicast()) else {
        return drop_of(skb, Hook::Ingress, from, DropReason::Refused);
    };
    skb.clear_stamp();
    if Mark::decode(skb.mark()).is_some() {
        skb.clear_mark();
    }
    if skb.is_dhcp(payload)
        && let Some(at) = place(skb.0, from)
    {
        maclane_lease(skb.0, at.pack());
    }
    // The kernel switches by MAC alone: what is for a station on the wire it may have taken for a
    // sibling's, in another VLAN, or one that has given itself that station's MAC.
    let mut word = rule(&frame, from, Audience::Everybody);
    if Verdict::floods(word) {
        // It is no flood: the frame is for one station.
        word = Verdict::Drop(DropReason::Refused).pack();
    }
    follow(skb, Hook::Ingress, from, word, Was::THE_SAME);
    act_on_one(skb, Hook::Ingress, from, &frame, Verdict::unpack(word, from, frame.tag))
}
