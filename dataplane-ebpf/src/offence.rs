//! What is told and counted of frames that are dropped: by reason, and by port and reason with the
//! last frame.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{PerCpuArray, PerCpuHashMap, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use dataplane_common::{
    DropReason,
    abi::{Drops, EVENTS_BYTES, Event, Gate, OFFENCES, Offence, OffenceKey, Offended, event_kind},
};

use crate::{admit::SkbBytes, count::Size, rights::now};

const DROP_ENTRIES: usize = DropReason::ALL.len();
const BPF_F_NO_PREALLOC: usize = 1;

/// Nanoseconds between two events of one kind of one CPU: a storm of unknown sources wakes the daemon
/// a hundred times a second, not a million.
const EVENT_INTERVAL_NS: u64 = 10_000_000;

#[btf_map(name = "maclane_drops")]
static DROPS: PerCpuArray<Drops, DROP_ENTRIES> = PerCpuArray::new();

#[btf_map(name = "maclane_offend")]
static OFFENCE_TABLE: PerCpuHashMap<OffenceKey, Offence, { OFFENCES as usize }, BPF_F_NO_PREALLOC> =
    PerCpuHashMap::new();

// The value type has no size: libbpf refuses a ring buffer whose value has one.
#[btf_map(name = "maclane_events")]
static EVENTS: RingBuf<[Event; 0], { EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "maclane_gate")]
static EVENT_GATE: PerCpuArray<Gate, { event_kind::END as usize }> = PerCpuArray::new();

/// A frame was dropped.
#[inline(always)]
pub(crate) fn count_drop(reason: DropReason, size: Size) {
    if let Some(drops) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
        unsafe {
            (*drops).packets += size.packets;
            (*drops).bytes += size.bytes;
        }
    }
}

/// Tells the daemon, unless it was told of the same kind just before.
#[inline(always)]
pub(crate) fn tell<T: 'static>(kind: u32, event: T) {
    let Some(gate) = EVENT_GATE.get_ptr_mut(kind) else { return };
    // SAFETY: the helper has no preconditions; the entry is this CPU's own.
    unsafe {
        let now = bpf_ktime_get_ns();
        if now - (*gate).last < EVENT_INTERVAL_NS {
            return;
        }
        (*gate).last = now;
    }
    // A full ring means that the daemon is away or behind; it looks at everything when it is back.
    let _ = EVENTS.output_untyped::<T>(event, 0);
}

/// Notes a frame that a port may not send, beside the count of its reason.
#[inline(always)]
pub(crate) fn note(skb: *mut __sk_buff, port: u16, reason: DropReason, dropped: bool) {
    maclane_note(skb, u32::from(port) | (reason as u32) << 16, dropped.into());
}

/// [`note`], with the reason in the upper half of `port_and_reason`. Of its own, because many ways lead
/// here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_note(skb: *mut __sk_buff, port_and_reason: u32, is_dropped: u32) -> i32 {
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    let (port, reason) = (port_and_reason as u16, (port_and_reason >> 16) as u16);
    let Some((frame, payload)) = SkbBytes(skb).frame() else { return 0 };
    let packets = Size::of_skb(skb).packets;
    let (dropped, logged) = if is_dropped != 0 { (packets, 0) } else { (0, packets) };
    let (vlan, ethertype) = (frame.tag.vlan(), payload.ethertype);
    let key = OffenceKey { port, reason };
    if let Some(entry) = OFFENCE_TABLE.get_ptr_mut(key) {
        // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
        unsafe {
            (*entry).dropped += dropped;
            (*entry).logged += logged;
            (*entry).last = now();
            (*entry).dst = frame.dst;
            (*entry).src = frame.src;
            (*entry).vlan = vlan;
            (*entry).ethertype = ethertype;
        }
    } else {
        let (last, dst, src) = (now(), frame.dst, frame.src);
        let entry = Offence { dropped, logged, last, dst, src, vlan, ethertype, pad: 0 };
        // A full table means that this pair is not told apart: its reason is counted all the same.
        let _ = OFFENCE_TABLE.insert(key, entry, 0);
    }
    let kind = if u32::from(reason) == DropReason::Storm as u32 {
        event_kind::STORM
    } else {
        event_kind::OFFENCE
    };
    tell(kind, Offended { event: Event { kind, vlan, mac: frame.src }, port, reason });
    0
}
