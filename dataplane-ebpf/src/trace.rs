//! Single frames, told to whoever traces them.

use core::{ffi::c_void, slice};

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    macros::btf_map,
};
use dataplane_common::{
    frame::{Mac, OffloadedTag},
    neighbour::word,
    trace::{Hook, SNAP_BYTES, Seen, Snap, TRACE_BYTES, Traced, Tracer, trace_flag, traced_flag},
};

use crate::admit::place;

// The value type has no size: libbpf refuses a ring buffer whose value has one.
#[btf_map(name = "maclane_trace")]
static TRACE: RingBuf<[Traced; 0], { TRACE_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "maclane_tracer")]
static TRACER: Array<Tracer, 1> = Array::new();

#[btf_map(name = "maclane_snap")]
static SNAPS: PerCpuArray<Snap, 1> = PerCpuArray::new();

/// Who sent a frame, and where it was when its fate was known.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The port.
    pub(crate) from: u16,
    /// The program.
    pub(crate) hook: Hook,
    /// [`traced_flag`]s.
    pub(crate) flags: u8,
}

impl Origin {
    /// Nothing special.
    #[inline(always)]
    pub(crate) const fn new(from: u16, hook: Hook) -> Self {
        Self { from, hook, flags: 0 }
    }

    /// The origin in a number: functions that the verifier looks at by themselves take numbers only.
    #[inline(always)]
    pub(crate) const fn pack(self) -> u32 {
        self.from as u32 | (self.hook as u32) << 16 | (self.flags as u32) << 24
    }

    /// Undoes [`Self::pack`].
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    pub(crate) const fn unpack(word: u32) -> Self {
        let hook = Hook::from_raw((word >> 16) as u8);
        Self { from: word as u16, hook, flags: (word >> 24) as u8 }
    }
}

/// The destination that a frame came with, where its bytes have another one by now.
#[derive(Clone, Copy)]
pub(crate) struct Was(pub(crate) u64);

impl Was {
    /// Its bytes have it still.
    pub(crate) const THE_SAME: Self = Self(0);

    /// This one.
    #[inline(always)]
    pub(crate) const fn of(mac: Mac) -> Self {
        Self(word(mac) | Self::THERE)
    }

    const THERE: u64 = 1 << 48;

    /// It, or the one that the bytes have.
    #[inline(always)]
    const fn or(self, bytes: u64) -> u64 {
        if self.0 & Self::THERE == 0 { bytes } else { self.0 & !Self::THERE }
    }
}

/// Tells of a frame and its verdict ([`dataplane_common::Verdict::pack`]), if somebody wants to know. Its bytes have to be those with which it came, but for the
/// destination.
#[inline(always)]
pub(crate) fn trace(skb: *mut __sk_buff, origin: Origin, verdict: u64, was: Was) {
    maclane_traced(skb, origin.pack(), verdict, was.0);
}

/// [`trace`]. A global function, which the verifier looks at once (`Documentation/bpf/verifier.rst`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_traced(skb: *mut __sk_buff, origin: u32, verdict: u64, was: u64) -> i32 {
    if !is_on() {
        return 0;
    }
    let origin = Origin::unpack(origin);
    // SAFETY: the program's context; the verifier rewrites the accesses.
    let (len, present, proto, tci) =
        unsafe { ((*skb).len, (*skb).vlan_present, (*skb).vlan_proto, (*skb).vlan_tci) };
    #[allow(clippy::cast_possible_truncation, reason = "16-bit fields in 32-bit places")]
    let aside =
        OffloadedTag { present: present != 0, proto: u16::from_be(proto as u16), tci: tci as u16 };
    let vlan = place(skb, origin.from).map_or(0, |at| at.vlan);
    let load = |to: *mut c_void, len: u32| {
        // SAFETY: helper on the program's context; `to` has room for as many.
        unsafe { bpf_skb_load_bytes(skb.cast(), 0, to, len) }
    };
    tell(origin, &Told { len, aside, vlan, verdict, was: Was(was) }, load);
    0
}

/// True while somebody traces.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    TRACER.get(0).is_some_and(|tracer| tracer.flags & trace_flag::ON != 0)
}

/// What is known of a frame that may be told.
pub(crate) struct Told {
    /// Its bytes.
    pub(crate) len: u32,
    /// The tag that the kernel keeps beside its bytes.
    pub(crate) aside: OffloadedTag,
    /// Its VLAN.
    pub(crate) vlan: u16,
    /// [`dataplane_common::Verdict::pack`].
    pub(crate) verdict: u64,
    /// The destination that it came with.
    pub(crate) was: Was,
}

/// Tells of a frame whose first bytes `load` puts somewhere, if the filter takes it.
#[inline(always)]
pub(crate) fn tell(origin: Origin, frame: &Told, load: impl Fn(*mut c_void, u32) -> i64) {
    let (Some(tracer), Some(snap)) = (TRACER.get_ptr_mut(0), SNAPS.get_ptr_mut(0)) else { return };
    // SAFETY: the entry is there as long as the map. The daemon may be writing it: a frame more or less is
    // told then.
    let filter = unsafe { &*tracer };
    // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
    let Snap { traced, bytes } = unsafe { &mut *snap };
    // From 1 to the room that there is, as the verifier sees, too.
    let snapped = (frame.len.min(filter.snap.into()).wrapping_sub(1) & SNAP_BYTES - 1) + 1;
    if load(bytes.as_mut_ptr().cast(), snapped) != 0 {
        return;
    }
    // Of a frame that is shorter, the rest is what was there before.
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *bytes;
    let dst = frame.was.or(word([d0, d1, d2, d3, d4, d5]));
    let src = word([s0, s1, s2, s3, s4, s5]);
    let Origin { from, hook, flags } = origin;
    if maclane_wanted(dst, src, frame.verdict, u32::from(from) | u32::from(frame.vlan) << 16) == 0 {
        return;
    }
    let [_, _, was @ ..] = dst.to_be_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]] = was;
    *traced = Traced {
        // SAFETY: the helper has no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        verdict: frame.verdict,
        len: frame.len,
        tag_tci: frame.aside.tci,
        tag_proto: frame.aside.proto,
        from,
        vlan: frame.vlan,
        #[allow(clippy::cast_possible_truncation, reason = "at most SNAP_BYTES")]
        snapped: snapped as u16,
        hook: hook as u8,
        flags: flags | if frame.aside.present { traced_flag::TAG_ASIDE } else { 0 },
    };
    let len = size_of::<Traced>() + snapped as usize;
    // SAFETY: the entry has as many bytes, all of which were written once.
    let told = unsafe { slice::from_raw_parts(snap.cast::<u8>(), len) };
    if TRACE.output_untyped::<[u8]>(told, 0).is_err() {
        // SAFETY: as above. Other CPUs may count at the same moment, and one may be missed then.
        unsafe { (*tracer).lost += 1 };
    }
}

/// Not 0 if the filter takes a frame with this verdict from a port in a VLAN, which is in the upper half.
///
/// A global function, so that what comes after it is looked at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_wanted(dst: u64, src: u64, verdict: u64, from_and_vlan: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    let (from, vlan) = (from_and_vlan as u16, (from_and_vlan >> 16) as u16);
    let seen = Seen { from, vlan, dst, src, verdict };
    TRACER.get(0).is_some_and(|filter| filter.wants(&seen)).into()
}
