//! Floods: a copy for every other member of a VLAN.
//!
//! One turn serves [`TURN`] slots. What is left goes on in the parent's ingress, behind the copies
//! that this turn has queued there: the queue of a CPU holds 1,000 frames by default
//! (`net.core.netdev_max_backlog`), and more copies at once would be dropped.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use dataplane_common::{
    DropReason, Frame, Mark, Tables,
    abi::{Kind, PORT_HOST, PORT_WIRE, Port},
    decide::{copy_for, tci},
    frame::Mac,
    verdict::{Copy, Flood, IngressCopy, Retag},
};

use crate::{
    count,
    maps::{Maps, count_drop, member},
    skb::{END, NEXT, Refused, Skb},
    tc::{Hook, deliver, parent},
};

/// Slots served in one turn.
const TURN: u16 = 128;

/// A flood in progress: the frame, in the form that its last copy had.
struct Walk {
    skb: Skb,
    plan: Flood,
    /// The slot that this turn began with.
    first: u16,
    /// The tag that the frame came with.
    have: Option<u16>,
    /// The destination that the frame came with.
    dst: Mac,
    /// The tag that it has now.
    now: Option<u16>,
    /// It has a child's destination now.
    unicast: bool,
}

impl Walk {
    /// Gives the frame another form: a tag, and a child's destination or its own.
    #[inline(always)]
    fn reshape(&mut self, tag: Option<u16>, unicast: Option<Mac>) -> Result<(), Refused> {
        self.skb.set_tag(self.now, tag)?;
        self.now = tag;
        if let Some(dst) = unicast {
            self.unicast = true;
            self.skb.set_dst(dst)?;
        } else if self.unicast {
            self.skb.set_dst(self.dst)?;
            self.unicast = false;
        }
        Ok(())
    }

    /// A copy for one member.
    #[inline(always)]
    fn copy(&mut self, copy: Copy, to: &Port) -> Result<(), Refused> {
        self.reshape(copy.to.retag.apply(self.have), copy.unicast.then_some(to.mac))?;
        if copy.to.kind == Kind::Veth {
            self.skb.clear_mark();
            self.skb.copy_to_egress(to.ifindex)
        } else {
            self.skb.set_mark(Mark::Hairpin);
            self.skb.copy_to_ingress(parent())
        }
    }

    /// A copy for the parent's ingress, where the frame is not there already.
    #[inline(always)]
    fn copy_to_ingress(&mut self, unicast: Option<Mac>) -> Result<(), Refused> {
        let tag = Retag::new(self.have, self.plan.vlan, true).apply(self.have);
        self.reshape(tag, unicast)?;
        self.skb.set_mark(Mark::Hairpin);
        self.skb.copy_to_ingress(parent())
    }

    /// The rest of the flood, as the frame that it began with.
    #[inline(always)]
    fn go_on(&mut self, slot: u16) -> Result<(), Refused> {
        self.reshape(self.have, None)?;
        self.skb.set_mark(Mark::Flood { port: self.plan.from, slot });
        self.skb.copy_to_ingress(parent())
    }
}

/// Counts a copy, or that the kernel did not take it.
#[inline(always)]
fn counted(skb: Skb, port: u16, result: Result<(), Refused>) {
    match result {
        Ok(()) => count::tx(port, skb.size()),
        Err(Refused) => count_drop(DropReason::Refused, skb.size()),
    }
}

/// One slot of a flood; called by the kernel for each.
unsafe extern "C" fn serve_slot(index: u32, walk: *mut c_void) -> i64 {
    // SAFETY: `flood` hands in its `Walk`, which outlives the loop, and nothing else has it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    #[allow(clippy::cast_possible_truncation, reason = "below TURN")]
    let slot = walk.first + index as u16;
    if let Some(port) = member(walk.plan.group, slot)
        && let Some(to) = Maps.port(port)
        && let Some(copy) = copy_for(&walk.plan, walk.have, port, &to)
    {
        let result = walk.copy(copy, &to);
        counted(walk.skb, port, result);
    }
    0
}

/// Serves the slots of a flood from `first` on, and, in its first turn, the host and the wire.
#[inline(always)]
pub(crate) fn flood(skb: Skb, hook: Hook, frame: &Frame, plan: Flood, first: u16) -> i32 {
    let have = tci(frame);
    let mut walk = Walk { skb, plan, first, have, dst: frame.dst, now: have, unicast: false };
    let turn = plan.slots.saturating_sub(first).min(TURN);
    if turn != 0 {
        // SAFETY: the callback has the type that the helper calls, and gets the `Walk` it expects.
        unsafe {
            bpf_loop(
                u32::from(turn),
                serve_slot as *const () as *mut c_void,
                (&raw mut walk).cast(),
                0,
            );
        }
    }
    let next = first + turn;
    if next < plan.slots && walk.go_on(next).is_err() {
        count_drop(DropReason::Refused, skb.size());
    }
    if first == 0 { last_copies(&mut walk, hook, frame) } else { END }
}

/// The copy for the parent's ingress, and the frame itself for the wire.
#[inline(always)]
fn last_copies(walk: &mut Walk, hook: Hook, frame: &Frame) -> i32 {
    let skb = walk.skb;
    let host = Maps.port(PORT_HOST).map(|host| host.mac);
    let unicast = match walk.plan.ingress {
        IngressCopy::ToHost => host,
        IngressCopy::AsIs | IngressCopy::None => None,
    };
    if hook == Hook::Ingress {
        // The frame is where the host's copy has to be.
        if walk.plan.ingress == IngressCopy::None {
            return END;
        }
        let result = walk.reshape(walk.have, unicast);
        skb.clear_mark();
        let refused = result.is_err();
        counted(skb, PORT_HOST, result);
        return if refused { END } else { NEXT };
    }
    if walk.plan.ingress != IngressCopy::None {
        let result = walk.copy_to_ingress(unicast);
        counted(skb, PORT_HOST, result);
    }
    let wire = Retag::new(walk.have, walk.plan.vlan, true);
    let wire =
        dataplane_common::verdict::Delivery { port: PORT_WIRE, kind: Kind::Wire, retag: wire };
    let sent = walk.reshape(walk.have, None).and_then(|()| deliver(skb, hook, frame, wire));
    match sent {
        Ok(action) => {
            counted(skb, PORT_WIRE, Ok(()));
            action
        }
        Err(Refused) => {
            counted(skb, PORT_WIRE, Err(Refused));
            END
        }
    }
}
