//! The maps, and the tables that the decision reads them as.

use aya_ebpf::{
    Global,
    btf_maps::{Array, DevMap, HashMap, PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use dataplane_common::{
    DropReason, Tables,
    abi::{
        Bucket, Drops, EVENTS_BYTES, Event, FDB_ENTRIES, FdbKey, FdbValue, GROUP_ENTRIES, Gate,
        GroupKey, Ip, NEIGHBOURS, Neighbour, NeighbourKey, PORTS, Port, PortRef, SOURCES, Settings,
        VLANS, Vlan, bucket, event_kind,
    },
    frame::Mac,
};

use crate::count::Size;

const PORT_ENTRIES: usize = PORTS as usize;
const DROP_ENTRIES: usize = DropReason::ALL.len();
const BPF_F_NO_PREALLOC: usize = 1;

/// Nanoseconds between two events of one kind of one CPU: a storm of unknown sources wakes the daemon
/// a hundred times a second, not a million.
const EVENT_INTERVAL_NS: u64 = 10_000_000;

#[btf_map(name = "maclane_fdb")]
static FDB: HashMap<FdbKey, FdbValue, { FDB_ENTRIES as usize }> = HashMap::new();

#[btf_map(name = "maclane_ports")]
static PORT_TABLE: Array<Port, PORT_ENTRIES> = Array::new();

#[btf_map(name = "maclane_hostend")]
static HOST_ENDS: HashMap<u32, PortRef, PORT_ENTRIES> = HashMap::new();

#[btf_map(name = "maclane_tx")]
pub(crate) static TX: DevMap<PORT_ENTRIES> = DevMap::new();

#[btf_map(name = "maclane_vlans")]
static VLAN_TABLE: Array<Vlan, { VLANS as usize }> = Array::new();

#[btf_map(name = "maclane_groups")]
static GROUPS: HashMap<GroupKey, PortRef, { GROUP_ENTRIES as usize }, BPF_F_NO_PREALLOC> =
    HashMap::new();

#[btf_map(name = "maclane_sources")]
static SOURCE_TABLE: Array<Bucket, { SOURCES as usize }> = Array::new();

#[btf_map(name = "maclane_neigh")]
static NEIGHBOUR_TABLE: HashMap<
    NeighbourKey,
    Neighbour,
    { NEIGHBOURS as usize },
    BPF_F_NO_PREALLOC,
> = HashMap::new();

#[btf_map(name = "maclane_drops")]
static DROPS: PerCpuArray<Drops, DROP_ENTRIES> = PerCpuArray::new();

// The value type has no size: libbpf refuses a ring buffer whose value has one.
#[btf_map(name = "maclane_events")]
static EVENTS: RingBuf<[Event; 0], { EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "maclane_gate")]
static EVENT_GATE: PerCpuArray<Gate, { event_kind::END as usize }> = PerCpuArray::new();

/// The parent's settings, frozen when the programs are loaded.
#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> =
    Global::new(Settings { drop_unknown: 0, xdp_may_drop: 0, xdp_sees_tags: 0, xdp_generic: 0 });

/// The settings.
#[inline(always)]
pub(crate) fn settings() -> Settings {
    SETTINGS.load()
}

/// The BPF maps, as the decision's tables.
pub(crate) struct Maps;

/// Asks the hash table itself: the entry for the key in `word`, or [`FdbValue::NOTHING`].
///
/// A global function, which the verifier looks at once, and not once for each way that leads on
/// from it (`Documentation/bpf/verifier.rst`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_lookup(word: u64) -> u32 {
    // SAFETY: the value is copied at once; the slot of an entry that the daemon removes at
    // this moment may already hold another one, as it may a moment later.
    let found = unsafe { FDB.get(FdbKey::from_word(word)).copied() };
    found.map_or(FdbValue::NOTHING, FdbValue::to_raw)
}

impl Tables for Maps {
    #[inline(always)]
    fn fdb(&self, mac: Mac, vlan: u16) -> Option<FdbValue> {
        let key = FdbKey { mac, vlan };
        let bucket = SOURCE_TABLE.get(bucket(mac))?;
        let found = match bucket.answer(key) {
            Some(None) => FdbValue::NOTHING,
            Some(Some(entry)) if still(bucket, key) => entry.to_raw(),
            Some(Some(_)) | None => maclane_lookup(key.word()),
        };
        FdbValue::from_raw(found)
    }

    #[inline(always)]
    fn port(&self, port: u16) -> Option<Port> {
        PORT_TABLE.get(u32::from(port)).copied()
    }

    #[inline(always)]
    fn vlan(&self, vlan: u16) -> Vlan {
        VLAN_TABLE.get(u32::from(vlan)).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn may_be_ours(&self, mac: Mac) -> bool {
        SOURCE_TABLE.get(bucket(mac)).is_some_and(|b| b.macs != 0)
    }

    #[inline(always)]
    fn drop_unknown(&self) -> bool {
        settings().drop_unknown != 0
    }
}

/// True if the entry that was just read out of a bucket was that of this key: the daemon, which may
/// be writing it, changes the key before the entry and after it.
#[inline(always)]
fn still(bucket: &Bucket, key: FdbKey) -> bool {
    // SAFETY: the key is a live value, aligned as a word.
    let word = unsafe { core::ptr::from_ref(&bucket.key).cast::<u64>().read_volatile() };
    word == u64::from_ne_bytes(key.word().to_le_bytes())
}

/// The member in a slot of a group.
#[inline(always)]
pub(crate) fn member(vlan: u16, slot: u16) -> Option<u16> {
    // SAFETY: copied at once, as in `Maps::fdb`.
    unsafe { GROUPS.get(GroupKey { vlan, slot }).map(|member| member.port) }
}

/// The port whose host end has this index.
#[inline(always)]
pub(crate) fn port_of_host_end(ifindex: u32) -> Option<u16> {
    // SAFETY: copied at once, as in `Maps::fdb`.
    unsafe { HOST_ENDS.get(ifindex).map(|end| end.port) }
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

/// The child that has an address in a VLAN.
#[inline(always)]
pub(crate) fn neighbour(ip: Ip, vlan: u16) -> Option<Neighbour> {
    // SAFETY: copied at once, as in `Maps::fdb`.
    unsafe { NEIGHBOUR_TABLE.get(NeighbourKey { ip, vlan, pad: 0 }).copied() }
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
