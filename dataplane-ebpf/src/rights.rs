//! Who has which address, and what is allowed at which port.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
    helpers::bpf_ktime_get_coarse_ns,
    macros::btf_map,
};
use dataplane_common::{
    abi::{
        ALLOWED, Addresses, AllowedKey, EARLY, LEARNED, LIMITS, Learned, Limit, NEIGHBOURS,
        Neighbour, NeighbourKey, PORT_HOST, PORT_WIRE, PORTS, Policy, Port, STRANGERS, Usage,
        WINDOW_SHIFT, WINDOWS, address, check_flag, frames_in_window,
    },
    neighbour::Strangers,
};

const PORT_ENTRIES: usize = PORTS as usize;
const BPF_F_NO_PREALLOC: usize = 1;

#[btf_map(name = "maclane_ports")]
static PORT_TABLE: Array<Port, PORT_ENTRIES> = Array::new();

#[btf_map(name = "maclane_neigh")]
static NEIGHBOUR_TABLE: HashMap<
    NeighbourKey,
    Neighbour,
    { NEIGHBOURS as usize },
    BPF_F_NO_PREALLOC,
> = HashMap::new();

#[btf_map(name = "maclane_learned")]
static LEARNED_TABLE: HashMap<NeighbourKey, Learned, { LEARNED as usize }, BPF_F_NO_PREALLOC> =
    HashMap::new();

#[btf_map(name = "maclane_allowed")]
static ALLOWED_TABLE: LpmTrie<AllowedKey, u8, { ALLOWED as usize }> = LpmTrie::new();

#[btf_map(name = "maclane_policy")]
static POLICIES: Array<Policy, PORT_ENTRIES> = Array::new();

#[btf_map(name = "maclane_usage")]
static USAGE: Array<Usage, PORT_ENTRIES> = Array::new();

/// Nanoseconds since boot, as of the last tick: exact enough for what is remembered, and cheap.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// What stands at a port.
#[inline(always)]
pub(crate) fn port(port: u16) -> Option<Port> {
    PORT_TABLE.get(u32::from(port)).copied()
}

/// What is allowed at a port.
#[inline(always)]
pub(crate) fn policy(port: u16) -> Option<&'static Policy> {
    POLICIES.get(u32::from(port))
}

/// The address tables, as the rules see them.
pub(crate) struct Rights;

impl Addresses for Rights {
    #[inline(always)]
    fn neighbour(&self, key: &NeighbourKey) -> Option<Neighbour> {
        // SAFETY: copied at once; the slot of an entry that is removed at this moment may already
        // hold another one, as it may a moment later.
        unsafe { NEIGHBOUR_TABLE.get(key).copied() }
    }

    #[inline(always)]
    fn learned(&self, key: &NeighbourKey) -> Option<Learned> {
        // SAFETY: as above.
        unsafe { LEARNED_TABLE.get(key).copied() }
    }

    #[inline(always)]
    fn allowed(&self, allowed: AllowedKey) -> bool {
        ALLOWED_TABLE.get(&Key::new(AllowedKey::BITS, allowed)).is_some()
    }

    #[inline(always)]
    fn policy(&self, port: u16) -> Policy {
        policy(port).copied().unwrap_or_default()
    }
}

/// Frames per second that a port may send of a kind; 0 is no limit.
#[inline(always)]
fn rate(port: u16, limit: Limit) -> u32 {
    policy(port).map_or(0, |policy| policy.limits[limit as usize % LIMITS])
}

/// Adds to the frames of a kind that a port has sent in the window of this moment; returns how many these
/// are.
#[inline(always)]
fn add_to_window(port: u16, kind: u32, frames: u32) -> u32 {
    let Some(usage) = USAGE.get_ptr_mut(u32::from(port)) else { return 0 };
    #[allow(clippy::cast_possible_truncation, reason = "it may wrap: windows are only compared")]
    let number = (now() >> WINDOW_SHIFT) as u32;
    // SAFETY: the entry is there as long as the map. Other CPUs may count at the same moment, and a
    // frame more or less may get through then.
    unsafe {
        let window = &raw mut (*usage).windows[kind as usize % WINDOWS];
        if (*window).number != number {
            (*window).number = number;
            (*window).frames = 0;
        }
        (*window).frames += frames;
        (*window).frames
    }
}

/// [`is_within_of`], looked at once by the verifier. The kind, a [`Limit`] or [`EARLY`] more, is in the upper
/// half of `port_and_kind`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_within(port_and_kind: u32, frames: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    let (port, kind) = (port_and_kind as u16, port_and_kind >> 16);
    let rate = match kind % EARLY {
        0 => rate(port, Limit::Broadcast),
        1 => rate(port, Limit::Multicast),
        2 => rate(port, Limit::Unknown),
        _ => STRANGERS,
    };
    u32::from(rate == 0 || add_to_window(port, kind, frames) <= frames_in_window(rate))
}

/// A port's questions for strangers, each of which is counted.
pub(crate) struct Counted(pub(crate) u16);

impl Strangers for Counted {
    #[inline(always)]
    fn may_reach_children(&self) -> bool {
        is_within(self.0, Limit::Stranger)
    }

    #[inline(always)]
    fn may_reach_host(&self) -> bool {
        has_host_room(1)
    }
}

/// The wire's questions for strangers, as XDP sees them: what may go on is counted behind it.
pub(crate) struct Peeked;

impl Strangers for Peeked {
    #[inline(always)]
    fn may_reach_children(&self) -> bool {
        true
    }

    #[inline(always)]
    fn may_reach_host(&self) -> bool {
        has_host_room(0)
    }
}

/// True if the host may hear that many more questions of the wire for strangers: without more, if it may
/// hear the last one that was counted.
#[inline(always)]
fn has_host_room(more: u32) -> bool {
    let rate = rate(PORT_WIRE, Limit::Broadcast);
    rate == 0 || add_to_window(PORT_HOST, Limit::Unknown as u32, more) <= frames_in_window(rate)
}

/// Counts a frame against a limit of a port; false if it is one too many.
#[inline(always)]
pub(crate) fn is_within(port: u16, limit: Limit) -> bool {
    is_within_of(port, limit, false, 1)
}

/// [`is_within`], of as many frames as one will be cut into. An `early` one, which the guard of a child in
/// bridge mode sees, counts on an account of its own: the parent counts it again, as it may have been
/// multiplied behind the guard.
#[inline(always)]
pub(crate) fn is_within_of(port: u16, limit: Limit, early: bool, frames: u32) -> bool {
    let limit = limit as u32 + u32::from(early) * EARLY;
    maclane_within(u32::from(port) | limit << 16, frames) != 0
}

/// Nanoseconds after which it is noted that an address is still in use.
const REFRESH_NS: u64 = 1_000_000_000;

/// Remembers that a child has an address; false if it has as many as it may. Who has had it before has one
/// less.
#[inline(always)]
pub(crate) fn remember(key: &NeighbourKey, child: Neighbour, max: u16, now: u64) -> bool {
    let before = LEARNED_TABLE.get_ptr_mut(key);
    let mut had_it = 0;
    if let Some(entry) = before {
        // SAFETY: an entry of the table. One that is being removed is written in vain.
        unsafe {
            if (*entry).port == child.port {
                if now - (*entry).seen > REFRESH_NS {
                    (*entry).seen = now;
                }
                return true;
            }
            had_it = (*entry).port;
        }
    }
    let Some(usage) = USAGE.get_ptr_mut(u32::from(child.port)) else { return false };
    // SAFETY: the entry is there as long as the map; the daemon counts anew now and then.
    unsafe {
        if (*usage).addresses >= u32::from(max) {
            return false;
        }
        (*usage).addresses += 1;
    }
    let learned = Learned { seen: now, since: now, port: child.port, mac: child.mac };
    let is_kept = LEARNED_TABLE.insert(key, learned, 0).is_ok();
    if is_kept {
        count_down(had_it);
    }
    is_kept
}

/// A port has one address less. Port 0 is the wire, which has none.
#[inline(always)]
fn count_down(port: u16) {
    if let Some(usage) = USAGE.get_ptr_mut(u32::from(port)) {
        // SAFETY: the entry is there as long as the map. Another CPU may count at the same moment, and one
        // more or less may be counted then.
        unsafe { (*usage).addresses = (*usage).addresses.saturating_sub(1) };
    }
}

/// Forgets an address that a port had.
#[inline(always)]
pub(crate) fn drop_learned(key: &NeighbourKey, port: u16) {
    if LEARNED_TABLE.remove(key).is_ok() {
        count_down(port);
    }
}

/// Forgets an address that somebody on the wire has said to have: one that a child has asked for and that
/// it could not believe to be its own yet, and one that may be another's at any time, because nobody keeps
/// the child to it or because it shares it.
#[inline(always)]
pub(crate) fn forget(key: &NeighbourKey, now: u64) {
    let Some(learned) = Rights.learned(key) else { return };
    let kept = Rights.policy(learned.port).checks & check_flag::ADDRESS != 0;
    if !kept
        || now - learned.since < dataplane_common::neighbour::TENTATIVE_NS
        || Rights.allowed(AllowedKey::new(learned.port, address(key.ip)))
    {
        drop_learned(key, learned.port);
    }
}
