//! Floods: a copy for every other member of a VLAN.
//!
//! One turn serves [`TURN`] slots. What is left goes on in the parent's ingress, behind the copies
//! that this turn has queued there: the queue of a CPU holds 1,000 frames by default
//! (`net.core.netdev_max_backlog`), and more copies at once would be dropped.
//!
//! A flood and one member of it are functions that the verifier looks at once each (global
//! functions, `Documentation/bpf/verifier.rst`), not once for each way to them. Such functions
//! take at most five numbers, so what they need is packed.

use core::ffi::c_void;

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};
use dataplane_common::{
    DropReason, Mark, Tables,
    abi::{Kind, PORT_HOST, PORT_WIRE, Port},
    decide::copy_for,
    frame::{Mac, Tag},
    verdict::{Copy, Delivery, Flood, IngressCopy},
};

use crate::{
    count::{self, count_drop},
    maps::{Maps, member},
    packed::{pack_mac, unpack_mac},
    skb::{END, NEXT, Refused, Skb},
    tc::{HOOK_BITS, Hook, deliver, parent},
};

/// Slots served in one turn.
const TURN: u16 = 128;

/// The frame of a flood, in the form that its last copy had.
struct Walk {
    skb: Skb,
    plan: Flood,
    /// The destination that the frame came with.
    dst: Mac,
    form: Form,
}

/// The form of a frame.
#[derive(Clone, Copy)]
struct Form {
    tag: Tag,
    /// It has the MAC of one member as destination.
    unicast: bool,
}

impl Form {
    #[inline(always)]
    fn pack(self) -> u64 {
        u64::from(self.tag.to_raw()) | u64::from(self.unicast) << 32
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is the tag")]
    fn unpack(form: u64) -> Self {
        Self { tag: Tag::from_raw(form as u32), unicast: form >> 32 != 0 }
    }
}

impl Walk {
    /// Gives the frame another form: a tag, and one member's destination or its own.
    #[inline(always)]
    fn reshape(&mut self, tag: Tag, unicast: Option<Mac>) -> Result<(), Refused> {
        let form = Form { tag, unicast: unicast.is_some() };
        let dst = pack_mac(unicast.unwrap_or(self.dst), 0);
        if maclane_reshape(self.skb.0, self.form.pack(), form.pack(), dst) != 0 {
            return Err(Refused);
        }
        self.form = form;
        Ok(())
    }

    /// A copy for one member.
    #[inline(always)]
    fn copy(&mut self, copy: Copy, to: &Port) -> Result<(), Refused> {
        self.reshape(copy.to.tag, copy.unicast.then_some(to.mac))?;
        if copy.to.kind == Kind::Veth {
            self.skb.clear_mark();
            self.skb.copy_to_egress(to.ifindex)
        } else {
            self.skb.set_mark(Mark::Hairpin);
            self.skb.copy_to_ingress(parent())
        }
    }

    /// The rest of the flood, as the frame that it began with.
    #[inline(always)]
    fn go_on(&mut self, slot: u16) -> Result<(), Refused> {
        self.reshape(self.plan.tag, None)?;
        self.skb.set_mark(Mark::Flood { port: self.plan.from, slot });
        self.skb.copy_to_ingress(parent())
    }
}

/// Turns a frame of one [`Form`] into one of another, with this destination; 0 if that was done. A function
/// of its own, because every copy has many ways that lead here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_reshape(skb: *mut __sk_buff, have: u64, want: u64, dst: u64) -> i32 {
    let (skb, have, want) = (Skb(skb), Form::unpack(have), Form::unpack(want));
    let (dst, _) = unpack_mac(dst);
    // Not by a function of its own: whoever comes here has little stack left.
    let changed = skb
        .retag(have.tag, want.tag)
        .and_then(|()| if have.unicast || want.unicast { skb.set_dst(dst) } else { Ok(()) });
    i32::from(changed.is_err())
}

/// Counts a copy, or that the kernel did not take it.
#[inline(always)]
fn counted(skb: Skb, port: u16, result: Result<(), Refused>) {
    match result {
        Ok(()) => count::tx(port, skb.size()),
        Err(Refused) => drop(maclane_refused(skb.0)),
    }
}

/// Counts a copy that the kernel has refused. A function of its own, because a flood has many ways
/// that lead here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_refused(skb: *mut __sk_buff) -> i32 {
    count_drop(DropReason::Refused, Skb(skb).size());
    0
}

/// Serves one slot of a flood: the plan in `ports` and `rest`, the frame's own destination and the
/// slot in `dst_and_slot`, the frame's form in `form`. Returns its form afterwards.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_slot(
    skb: *mut __sk_buff,
    ports: u64,
    rest: u64,
    dst_and_slot: u64,
    form: u64,
) -> u64 {
    let plan = Flood::unpack(ports, rest);
    let (dst, slot) = unpack_mac(dst_and_slot);
    if let Some(port) = member(plan.group, slot)
        && let Some(to) = Maps.port(port)
        && let Some(copy) = copy_for(&plan, port, &to)
    {
        let mut walk = Walk { skb: Skb(skb), plan, dst, form: Form::unpack(form) };
        let result = walk.copy(copy, &to);
        counted(walk.skb, port, result);
        return walk.form.pack();
    }
    form
}

/// What the loop over the slots hands from one to the next.
struct Slots {
    skb: *mut __sk_buff,
    ports: u64,
    rest: u64,
    dst: Mac,
    first: u16,
    form: u64,
}

/// One turn of the loop; called by the kernel.
unsafe extern "C" fn serve_slot(index: u32, slots: *mut c_void) -> i64 {
    // SAFETY: `maclane_flood` hands in its `Slots`, which outlives the loop.
    let slots = unsafe { &mut *slots.cast::<Slots>() };
    #[allow(clippy::cast_possible_truncation, reason = "below TURN")]
    let slot = slots.first + index as u16;
    let dst_and_slot = pack_mac(slots.dst, slot);
    slots.form = maclane_slot(slots.skb, slots.ports, slots.rest, dst_and_slot, slots.form);
    0
}

/// Serves the slots of a flood from `first` on, and, in its first turn, the host and the wire.
#[inline(always)]
pub(crate) fn flood(skb: Skb, hook: Hook, dst: Mac, plan: Flood, first: u16) -> i32 {
    let (ports, rest) = plan.pack();
    maclane_flood(skb.0, ports, rest, pack_mac(dst, first << HOOK_BITS | hook as u16))
}

/// Slots of the turn that begins at slot `first`.
#[inline(always)]
fn turn(plan: &Flood, first: u16) -> u16 {
    plan.slots.saturating_sub(first).min(TURN)
}

/// [`flood`], with the plan in `ports` and `rest`, and the destination, the first slot and the hook
/// in `place`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_flood(skb: *mut __sk_buff, ports: u64, rest: u64, place: u64) -> i32 {
    let plan = Flood::unpack(ports, rest);
    let (dst, place_of_slot) = unpack_mac(place);
    let first = place_of_slot >> HOOK_BITS;
    let form = Form { tag: plan.tag, unicast: false }.pack();
    let mut slots = Slots { skb, ports, rest, dst, first, form };
    let turn = turn(&plan, first);
    if turn != 0 {
        let serve = serve_slot as *const () as *mut c_void;
        // SAFETY: the callback has the type that the helper calls, and gets what it expects.
        unsafe { bpf_loop(u32::from(turn), serve, (&raw mut slots).cast(), 0) };
    }
    maclane_leave(skb, ports, rest, place, slots.form)
}

/// What comes after the slots of a turn: the next one, and in the first turn the host and the wire.
/// A function of its own, so that its stack is not below that of a slot.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_leave(
    skb: *mut __sk_buff,
    ports: u64,
    rest: u64,
    place: u64,
    form: u64,
) -> i32 {
    let plan = Flood::unpack(ports, rest);
    let (dst, place_of_slot) = unpack_mac(place);
    let first = place_of_slot >> HOOK_BITS;
    let hook = Hook::from_raw(place_of_slot);
    let mut walk = Walk { skb: Skb(skb), plan, dst, form: Form::unpack(form) };
    let next = first + turn(&plan, first);
    if next < plan.slots && walk.go_on(next).is_err() {
        maclane_refused(walk.skb.0);
    }
    match (first, hook) {
        (0, Hook::Ingress) => leave_for_host(&mut walk),
        (0, Hook::Egress | Hook::HostEnd) => leave_for_wire(&mut walk, hook),
        _ => END,
    }
}

/// The MAC that the host's copy has to have, if not its own.
#[inline(always)]
fn host_unicast(plan: &Flood) -> Option<Mac> {
    match plan.ingress {
        IngressCopy::ToHost => Maps.port(PORT_HOST).map(|host| host.mac),
        IngressCopy::AsIs | IngressCopy::None => None,
    }
}

/// From the wire: the frame itself is where the host's copy has to be.
#[inline(always)]
fn leave_for_host(walk: &mut Walk) -> i32 {
    if walk.plan.ingress == IngressCopy::None {
        return END;
    }
    let result = walk.reshape(walk.plan.tag, host_unicast(&walk.plan));
    walk.skb.clear_mark();
    let action = if result.is_ok() { NEXT } else { END };
    counted(walk.skb, PORT_HOST, result);
    action
}

/// Leaves a copy of a flood for the host in the parent's ingress: a frame of one [`Form`] in another, with this
/// destination. Returns its form afterwards.
///
/// A function of its own, so that what comes after it is looked at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_to_ingress(skb: *mut __sk_buff, have: u64, want: u64, dst: u64) -> u64 {
    if maclane_reshape(skb, have, want, dst) != 0 {
        maclane_refused(skb);
        return have;
    }
    let skb = Skb(skb);
    skb.set_mark(Mark::Hairpin);
    let result = skb.copy_to_ingress(parent());
    counted(skb, PORT_HOST, result);
    want
}

/// From the host or a child: a copy for the parent's ingress, and the frame itself for the wire.
#[inline(always)]
fn leave_for_wire(walk: &mut Walk, hook: Hook) -> i32 {
    if walk.plan.ingress != IngressCopy::None {
        let unicast = host_unicast(&walk.plan);
        let tag = walk.plan.tag.for_port(walk.plan.vlan, true);
        let want = Form { tag, unicast: unicast.is_some() };
        let dst = pack_mac(unicast.unwrap_or(walk.dst), 0);
        let form = maclane_to_ingress(walk.skb.0, walk.form.pack(), want.pack(), dst);
        walk.form = Form::unpack(form);
    }
    if !walk.plan.wire {
        return END;
    }
    let tag = walk.plan.tag.for_port(walk.plan.vlan, true);
    let wire = Delivery { port: PORT_WIRE, kind: Kind::Wire, tag };
    let sent = walk
        .reshape(walk.plan.tag, None)
        .and_then(|()| deliver(walk.skb, hook, walk.plan.tag, wire));
    let action = match sent {
        Ok(action) => action,
        Err(Refused) => END,
    };
    counted(walk.skb, PORT_WIRE, sent.map(drop));
    action
}
