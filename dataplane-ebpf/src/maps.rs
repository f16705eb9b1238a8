//! The maps, and the tables that the decision reads them as.

use aya_ebpf::{
    Global,
    btf_maps::{Array, DevMap, HashMap},
    macros::btf_map,
};
use dataplane_common::{
    Tables,
    abi::{
        Addresses, AllowedKey, Bucket, FDB_ENTRIES, FdbKey, FdbValue, GROUP_ENTRIES, GroupKey,
        Learned, Neighbour, NeighbourKey, PORT_HOST, PORTS, Policy, Port, PortRef, SOURCES,
        Settings, SkbLayout, VLANS, Vlan, bucket, check_flag,
    },
    frame::Mac,
};

use crate::rights::{self, Rights};

const PORT_ENTRIES: usize = PORTS as usize;
const BPF_F_NO_PREALLOC: usize = 1;

#[btf_map(name = "maclane_fdb")]
static FDB: HashMap<FdbKey, FdbValue, { FDB_ENTRIES as usize }> = HashMap::new();

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

/// The parent's settings, frozen when the programs are loaded.
#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings {
    host: 0,
    drop_unknown: 0,
    xdp_may_drop: 0,
    xdp_sees_tags: 0,
    xdp_generic: 0,
    trace: 0,
    netns: 0,
    guards: 0,
    pad: 0,
});

/// Where a pending checksum is found, frozen when the programs are loaded.
#[unsafe(no_mangle)]
static SKB_LAYOUT: Global<SkbLayout> =
    Global::new(SkbLayout { ip_summed: 0, csum_start: 0, place: 0, transport_header: 0, shift: 0 });

/// The settings.
#[inline(always)]
pub(crate) fn settings() -> Settings {
    SETTINGS.load()
}

/// Where a pending checksum is found.
#[inline(always)]
pub(crate) fn skb_layout() -> SkbLayout {
    SKB_LAYOUT.load()
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

/// What the bucket of a MAC says of its entry in a VLAN; `None` if the FDB has to be asked.
#[inline(always)]
pub(crate) fn in_bucket(mac: Mac, vlan: u16) -> Option<Option<FdbValue>> {
    let key = FdbKey { mac, vlan };
    let Some(bucket) = SOURCE_TABLE.get(bucket(mac)) else { return Some(None) };
    match bucket.answer(key) {
        Some(Some(_)) if !still(bucket, key) => None,
        answer => answer,
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn fdb(&self, mac: Mac, vlan: u16) -> Option<FdbValue> {
        let found = match in_bucket(mac, vlan) {
            Some(entry) => entry.map_or(FdbValue::NOTHING, FdbValue::to_raw),
            None => maclane_lookup(FdbKey { mac, vlan }.word()),
        };
        FdbValue::from_raw(found)
    }

    #[inline(always)]
    fn port(&self, port: u16) -> Option<Port> {
        rights::port(port)
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

    #[inline(always)]
    fn netns(&self, port: u16) -> u16 {
        rights::policy(port).map_or(0, |policy| policy.netns)
    }

    #[inline(always)]
    fn is_closed(&self) -> bool {
        // Without the helper no parent is: the verifier need not look at what follows.
        settings().netns != 0 && host_checks() & check_flag::CLOSED != 0
    }

    #[inline(always)]
    fn has_filters(&self) -> bool {
        host_checks() & check_flag::FILTERS != 0
    }
}

/// The checks of the host's port.
#[inline(always)]
fn host_checks() -> u16 {
    rights::policy(PORT_HOST).map_or(0, |policy| policy.checks)
}

impl Addresses for Maps {
    #[inline(always)]
    fn neighbour(&self, key: &NeighbourKey) -> Option<Neighbour> {
        Rights.neighbour(key)
    }

    #[inline(always)]
    fn learned(&self, key: &NeighbourKey) -> Option<Learned> {
        Rights.learned(key)
    }

    #[inline(always)]
    fn allowed(&self, key: AllowedKey) -> bool {
        Rights.allowed(key)
    }

    #[inline(always)]
    fn policy(&self, port: u16) -> Policy {
        Rights.policy(port)
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
