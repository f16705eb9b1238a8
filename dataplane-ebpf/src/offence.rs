//! What is told and noted of frames that are dropped: by port and reason, with the last frame.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{PerCpuArray, PerCpuHashMap, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use dataplane_common::{
    DropReason,
    abi::{EVENTS_BYTES, Event, Gate, OFFENCES, Offence, OffenceKey, Offended, event_kind},
};

use dataplane_common::packet::Bytes as _;

use crate::{
    admit::{SkbBytes, place},
    count::Size,
    place::Place,
    rights::now,
};

const BPF_F_NO_PREALLOC: usize = 1;

/// Nanoseconds between two events of one kind of one CPU: a storm of unknown sources wakes the daemon
/// a hundred times a second, not a million.
const EVENT_INTERVAL_NS: u64 = 10_000_000;

#[btf_map(name = "maclane_offend")]
static OFFENCE_TABLE: PerCpuHashMap<OffenceKey, Offence, { OFFENCES as usize }, BPF_F_NO_PREALLOC> =
    PerCpuHashMap::new();

// The value type has no size: libbpf refuses a ring buffer whose value has one.
#[btf_map(name = "maclane_events")]
static EVENTS: RingBuf<[Event; 0], { EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "maclane_gate")]
static EVENT_GATE: PerCpuArray<Gate, { event_kind::END as usize }> = PerCpuArray::new();

/// True unless it was asked for the same kind just before.
#[inline(always)]
fn passes(kind: u32) -> bool {
    let Some(gate) = EVENT_GATE.get_ptr_mut(kind) else { return false };
    // SAFETY: the helper has no preconditions; the entry is this CPU's own.
    unsafe {
        let now = bpf_ktime_get_ns();
        if now - (*gate).last < EVENT_INTERVAL_NS {
            return false;
        }
        (*gate).last = now;
    }
    true
}

/// Tells the daemon, unless it was told of the same kind just before.
#[inline(always)]
pub(crate) fn tell<T: 'static>(kind: u32, event: T) {
    if !passes(kind) {
        return;
    }
    // A full ring means that the daemon is away or behind; it looks at everything when it is back.
    let _ = EVENTS.output_untyped::<T>(event, 0);
}

/// Notes a frame that was dropped, beside the count of its reason, or one that its port may not send and
/// that passes all the same.
#[inline(always)]
pub(crate) fn note(skb: *mut __sk_buff, port: u16, reason: DropReason, dropped: bool) {
    maclane_note(skb, u32::from(port) | (reason as u32) << 16, dropped.into());
}

/// True where it is time to look at one of many dropped frames.
#[inline(always)]
pub(crate) fn is_time_to_look() -> bool {
    passes(event_kind::SAMPLE)
}

/// Nothing yet.
static NONE: Offence = Offence {
    dropped: 0,
    logged: 0,
    last: 0,
    dst: [0; 6],
    src: [0; 6],
    vlan: 0,
    ethertype: 0,
    pad: 0,
};

/// [`note`], with the reason in the upper half of `port_and_reason`. Of its own, because many ways lead
/// here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_note(skb: *mut __sk_buff, port_and_reason: u32, is_dropped: u32) -> i32 {
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    let (port, reason) = (port_and_reason as u16, (port_and_reason >> 16) as u16);
    // Of one that is too short, what there is.
    let nothing = Place { port, vlan: 0, offset: 0, extra: 0 };
    let at = place(skb, port).unwrap_or(nothing);
    let Some([d0, d1, d2, d3, d4, d5, src @ ..]) = SkbBytes(skb).load::<12>(0) else { return 0 };
    let packets = Size::of_skb(skb).packets;
    let (dropped, logged) = if is_dropped != 0 { (packets, 0) } else { (0, packets) };
    let key = OffenceKey { port, reason };
    if OFFENCE_TABLE.get_ptr_mut(key).is_none() {
        // A full table means that this pair is not told apart: its reason is counted all the same.
        let _ = OFFENCE_TABLE.insert(key, &NONE, 0);
    }
    if let Some(entry) = OFFENCE_TABLE.get_ptr_mut(key) {
        // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
        unsafe {
            (*entry).dropped += dropped;
            (*entry).logged += logged;
            (*entry).last = now();
            (*entry).dst = [d0, d1, d2, d3, d4, d5];
            (*entry).src = src;
            (*entry).vlan = at.vlan;
            (*entry).ethertype = at.extra;
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "a reason")]
    let what = DropReason::from_raw(reason as u8);
    let kind = if what as u32 == DropReason::Storm as u32 {
        event_kind::STORM
    } else if what.is_offence() {
        event_kind::OFFENCE
    } else {
        return 0;
    };
    tell(kind, Offended { event: Event { kind, vlan: at.vlan, mac: src }, port, reason });
    0
}
