//! The counters. Per CPU, so that nothing is shared; every exit of every program counts.

use aya_ebpf::{bindings::__sk_buff, btf_maps::PerCpuArray, macros::btf_map};
use dataplane_common::{
    DropReason,
    abi::{Drops, PORTS, Stats},
};

/// Drop reason → counters.
#[btf_map(name = "maclane_drops")]
static DROPS: PerCpuArray<Drops, { DropReason::ALL.len() }> = PerCpuArray::new();

/// Port → counters.
#[btf_map(name = "maclane_stats")]
static STATS: PerCpuArray<Stats, { PORTS as usize }> = PerCpuArray::new();

/// What is counted of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Frames: the segments of an offloaded one.
    pub(crate) packets: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl Size {
    /// Of an skb.
    #[inline(always)]
    pub(crate) fn of_skb(skb: *mut __sk_buff) -> Self {
        // SAFETY: `skb` is the program's context; the verifier rewrites the field accesses.
        let (len, segments) = unsafe { ((*skb).len, (*skb).gso_segs) };
        // At least one, without a branch: the verifier would follow both ways to the end.
        let packets = segments | segments.wrapping_sub(1) >> 31;
        Self { packets: u64::from(packets), bytes: u64::from(len) }
    }
}

/// A frame came in from `port`.
#[inline(always)]
pub(crate) fn rx(port: u16, size: Size) {
    if let Some(stats) = STATS.get_ptr_mut(u32::from(port)) {
        // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
        unsafe {
            (*stats).rx_packets += size.packets;
            (*stats).rx_bytes += size.bytes;
        }
    }
}

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

/// A frame went out to `port`.
#[inline(always)]
#[allow(dead_code, reason = "a guard only sees frames come in")]
pub(crate) fn tx(port: u16, size: Size) {
    if let Some(stats) = STATS.get_ptr_mut(u32::from(port)) {
        // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
        unsafe {
            (*stats).tx_packets += size.packets;
            (*stats).tx_bytes += size.bytes;
        }
    }
}
