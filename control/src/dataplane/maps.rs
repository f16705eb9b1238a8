//! The maps of a parent: reading what they hold, and making them hold something else.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, RingBuf,
        lpm_trie::{Key, LpmTrie},
        xdp::DevMap,
    },
    util::nr_cpus,
};
use dataplane_common::{
    DropReason,
    abi::{
        self, AllowedKey, Bucket, Claim, Drops, Event, FdbKey, FdbValue, Gate, GroupKey, Kind,
        Learned, Neighbour, NeighbourKey, Netns, Offence, OffenceKey, Offended, Policy, Port,
        PortRef, Stats, Usage, Vlan, event_kind, map,
    },
    topology::TableSet,
    trace::{Snap, TRACE_BYTES, Tracer},
};
use tokio::io::unix::AsyncFd;

use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
};

/// Key size, value size and entries of a map.
pub(super) fn shape(name: &str) -> (u32, u32, u32) {
    fn of<K, V>(entries: u32) -> (u32, u32, u32) {
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        (size(size_of::<K>()), size(size_of::<V>()), entries)
    }
    match name {
        map::FDB => of::<FdbKey, FdbValue>(abi::FDB_ENTRIES),
        map::PORTS => of::<u32, Port>(abi::PORTS),
        map::HOST_ENDS => of::<u32, PortRef>(abi::PORTS),
        map::NETNS => of::<u64, Netns>(abi::NETNS),
        // struct bpf_devmap_val (include/uapi/linux/bpf.h)
        map::TX => of::<u32, [u32; 2]>(abi::PORTS),
        map::VLANS => of::<u32, Vlan>(abi::VLANS),
        map::GROUPS => of::<GroupKey, PortRef>(abi::GROUP_ENTRIES),
        map::SOURCES => of::<u32, Bucket>(abi::SOURCES),
        map::STATS => of::<u32, Stats>(abi::PORTS),
        map::DROPS => of::<u32, Drops>(u32::try_from(DropReason::ALL.len()).unwrap_or(u32::MAX)),
        map::EVENT_GATE => of::<u32, Gate>(event_kind::END),
        map::NEIGHBOURS => of::<NeighbourKey, Neighbour>(abi::NEIGHBOURS),
        map::LEARNED => of::<NeighbourKey, Learned>(abi::LEARNED),
        // struct bpf_lpm_trie_key (include/uapi/linux/bpf.h): the prefix length comes first.
        map::ALLOWED => of::<([u8; 4], AllowedKey), u8>(abi::ALLOWED),
        map::POLICY => of::<u32, Policy>(abi::PORTS),
        map::USAGE => of::<u32, Usage>(abi::PORTS),
        map::OFFENCES => of::<OffenceKey, Offence>(abi::OFFENCES),
        map::GUARDS | map::SIBLINGS => of::<u32, u32>(1),
        map::TRACER => of::<u32, Tracer>(1),
        map::SNAP => of::<u32, Snap>(1),
        // A ring buffer has neither keys nor values.
        map::TRACE => (0, 0, TRACE_BYTES),
        _ => (0, 0, abi::EVENTS_BYTES),
    }
}

/// Counters, summed over the CPUs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// By port.
    pub(crate) ports: Vec<Stats>,
    /// By drop reason.
    pub(crate) drops: Vec<Drops>,
}

/// The maps of a parent.
pub(super) struct Maps {
    fdb: HashMap<MapData, FdbKey, FdbValue>,
    ports: Array<MapData, Port>,
    host_ends: HashMap<MapData, u32, PortRef>,
    netns: HashMap<MapData, u64, Netns>,
    tx: DevMap<MapData>,
    vlans: Array<MapData, Vlan>,
    groups: HashMap<MapData, GroupKey, PortRef>,
    sources: Array<MapData, Bucket>,
    neighbours: HashMap<MapData, NeighbourKey, Neighbour>,
    allowed: LpmTrie<MapData, AllowedKey, u8>,
    policies: Array<MapData, Policy>,
    stats: PerCpuArray<MapData, Stats>,
    drops: PerCpuArray<MapData, Drops>,
    events: Option<RingBuf<MapData>>,
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name);
    let map = map.ok_or_else(|| Error::failed(format!("the object has no map {name}")))?;
    M::try_from(map).doing(|| format!("cannot use the map {name}"))
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            fdb: take(ebpf, map::FDB)?,
            ports: take(ebpf, map::PORTS)?,
            host_ends: take(ebpf, map::HOST_ENDS)?,
            netns: take(ebpf, map::NETNS)?,
            tx: take(ebpf, map::TX)?,
            vlans: take(ebpf, map::VLANS)?,
            groups: take(ebpf, map::GROUPS)?,
            sources: take(ebpf, map::SOURCES)?,
            neighbours: take(ebpf, map::NEIGHBOURS)?,
            allowed: take(ebpf, map::ALLOWED)?,
            policies: take(ebpf, map::POLICY)?,
            stats: take(ebpf, map::STATS)?,
            drops: take(ebpf, map::DROPS)?,
            events: Some(take(ebpf, map::EVENTS)?),
        })
    }

    /// What the maps hold.
    pub(super) fn read(&mut self) -> Result<TableSet> {
        let mut tables = TableSet {
            fdb: self.fdb.iter().collect::<Result<_, _>>()?,
            groups: self.groups.iter().collect::<Result<_, _>>()?,
            host_ends: self.host_ends.iter().collect::<Result<_, _>>()?,
            netns: self.netns.iter().collect::<Result<_, _>>()?,
            neighbours: self.neighbours.iter().collect::<Result<_, _>>()?,
            ..TableSet::default()
        };
        for port in 0..abi::PORTS {
            let policy = self.policies.get(&port, 0)?;
            if policy != Policy::default() {
                tables.policies.insert(port_number(port), policy);
            }
            let entry = self.ports.get(&port, 0)?;
            let key = port_number(port);
            if entry.kind != Kind::None as u8 {
                tables.ports.insert(key, entry);
            }
            if let Ok(device) = self.tx.get(port, 0) {
                tables.tx.insert(key, device.if_index);
            }
        }
        for key in self.allowed.keys() {
            let key = key?;
            tables.allowed.insert((key.data(), key.prefix_len()));
        }
        for vlan in 0..abi::VLANS {
            let entry = self.vlans.get(&vlan, 0)?;
            if entry != Vlan::default() {
                tables.vlans.insert(port_number(vlan), entry);
            }
        }
        for bucket in 0..abi::SOURCES {
            let entry = self.sources.get(&bucket, 0)?;
            if entry.macs != 0 {
                tables.sources.insert(bucket, entry);
            }
        }
        Ok(tables)
    }

    /// Turns what the maps hold from `old` into `new`: additions from the tables that are looked
    /// up last to those that are looked up first, then removals the other way round. Where there
    /// is no room for both, the removals come first.
    pub(super) fn write(&mut self, old: &TableSet, new: &TableSet) -> Result<()> {
        check_room(map::FDB, new.fdb.len(), abi::FDB_ENTRIES)?;
        check_room(map::GROUPS, new.groups.len(), abi::GROUP_ENTRIES)?;
        check_room(map::NEIGHBOURS, new.neighbours.len(), abi::NEIGHBOURS)?;
        check_room(map::ALLOWED, new.allowed.len(), abi::ALLOWED)?;
        let both = |old: usize, added: usize, room: u32| old + added <= room as usize;
        let fdb = both(old.fdb.len(), absent(&old.fdb, &new.fdb), abi::FDB_ENTRIES);
        if fdb && both(old.groups.len(), absent(&old.groups, &new.groups), abi::GROUP_ENTRIES) {
            self.add(old, new)?;
            self.remove(old, new)
        } else {
            self.remove(old, new)?;
            self.add(old, new)
        }
    }

    fn add(&mut self, old: &TableSet, new: &TableSet) -> Result<()> {
        let full = |name: &str| format!("cannot write {name}");
        for (key, bits) in new.allowed.difference(&old.allowed) {
            self.allowed.insert(&Key::new(*bits, *key), 1, 0).doing(|| full(map::ALLOWED))?;
            failpoint!("maps.allowed");
        }
        for (port, policy) in added(&old.policies, &new.policies) {
            self.policies.set(u32::from(*port), *policy, 0).doing(|| full(map::POLICY))?;
            failpoint!("maps.policies");
        }
        for (port, entry) in added(&old.ports, &new.ports) {
            self.ports.set(u32::from(*port), *entry, 0).doing(|| full(map::PORTS))?;
            failpoint!("maps.ports");
        }
        for (ifindex, port) in added(&old.host_ends, &new.host_ends) {
            self.host_ends.insert(ifindex, port, 0).doing(|| full(map::HOST_ENDS))?;
            failpoint!("maps.host_ends");
        }
        for (cookie, port) in added(&old.netns, &new.netns) {
            self.netns.insert(cookie, port, 0).doing(|| full(map::NETNS))?;
            failpoint!("maps.netns");
        }
        for (port, ifindex) in added(&old.tx, &new.tx) {
            self.tx.set(u32::from(*port), *ifindex, None, 0).doing(|| full(map::TX))?;
            failpoint!("maps.tx");
        }
        for (bucket, entry) in added(&old.sources, &new.sources) {
            // Whoever reads it meanwhile must not find an entry under another one's key.
            self.sources.set(*bucket, Bucket::without_entry(entry.macs), 0)?;
            self.sources.set(*bucket, *entry, 0).doing(|| full(map::SOURCES))?;
            failpoint!("maps.sources");
        }
        for (key, member) in added(&old.groups, &new.groups) {
            self.groups.insert(key, member, 0).doing(|| full(map::GROUPS))?;
            failpoint!("maps.groups");
        }
        for (vlan, entry) in added(&old.vlans, &new.vlans) {
            self.vlans.set(u32::from(*vlan), *entry, 0).doing(|| full(map::VLANS))?;
            failpoint!("maps.vlans");
        }
        for (key, entry) in added(&old.fdb, &new.fdb) {
            self.fdb.insert(key, entry, 0).doing(|| full(map::FDB))?;
            failpoint!("maps.fdb");
        }
        for (key, neighbour) in added(&old.neighbours, &new.neighbours) {
            self.neighbours.insert(key, neighbour, 0).doing(|| full(map::NEIGHBOURS))?;
            failpoint!("maps.neighbours");
        }
        Ok(())
    }

    fn remove(&mut self, old: &TableSet, new: &TableSet) -> Result<()> {
        for key in removed(&old.neighbours, &new.neighbours) {
            self.neighbours
                .remove(key)
                .doing(|| format!("cannot remove from {}", map::NEIGHBOURS))?;
            failpoint!("maps.neighbours_removed");
        }
        for key in removed(&old.fdb, &new.fdb) {
            self.fdb.remove(key).doing(|| format!("cannot remove from {}", map::FDB))?;
            failpoint!("maps.fdb_removed");
        }
        for vlan in removed(&old.vlans, &new.vlans) {
            self.vlans.set(u32::from(*vlan), Vlan::default(), 0)?;
            failpoint!("maps.vlans_removed");
        }
        for key in removed(&old.groups, &new.groups) {
            self.groups.remove(key).doing(|| format!("cannot remove from {}", map::GROUPS))?;
            failpoint!("maps.groups_removed");
        }
        for bucket in removed(&old.sources, &new.sources) {
            self.sources.set(*bucket, Bucket::without_entry(0), 0)?;
            failpoint!("maps.sources_removed");
        }
        for port in removed(&old.tx, &new.tx) {
            // Index 0 empties the slot (`kernel/bpf/devmap.c`, `__dev_map_update_elem`).
            self.tx.set(u32::from(*port), 0, None, 0)?;
            failpoint!("maps.tx_removed");
        }
        for cookie in removed(&old.netns, &new.netns) {
            self.netns.remove(cookie).doing(|| format!("cannot remove from {}", map::NETNS))?;
            failpoint!("maps.netns_removed");
        }
        for ifindex in removed(&old.host_ends, &new.host_ends) {
            self.host_ends
                .remove(ifindex)
                .doing(|| format!("cannot remove from {}", map::HOST_ENDS))?;
            failpoint!("maps.host_ends_removed");
        }
        for port in removed(&old.ports, &new.ports) {
            self.ports.set(u32::from(*port), Port::default(), 0)?;
            failpoint!("maps.ports_removed");
        }
        for port in removed(&old.policies, &new.policies) {
            self.policies.set(u32::from(*port), Policy::default(), 0)?;
            failpoint!("maps.policies_removed");
        }
        for (key, bits) in old.allowed.difference(&new.allowed) {
            let removed = self.allowed.remove(&Key::new(*bits, *key));
            removed.doing(|| format!("cannot remove from {}", map::ALLOWED))?;
            failpoint!("maps.allowed_removed");
        }
        Ok(())
    }

    /// The counters of every port and drop reason.
    pub(super) fn counters(&self) -> Result<Counters> {
        let add = |sum: Stats, cpu: &Stats| Stats {
            rx_packets: sum.rx_packets + cpu.rx_packets,
            rx_bytes: sum.rx_bytes + cpu.rx_bytes,
            tx_packets: sum.tx_packets + cpu.tx_packets,
            tx_bytes: sum.tx_bytes + cpu.tx_bytes,
        };
        let add_drops = |sum: Drops, cpu: &Drops| Drops {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
        };
        let mut counters = Counters::default();
        for port in 0..abi::PORTS {
            let cpus = self.stats.get(&port, 0)?;
            counters.ports.push(cpus.iter().fold(Stats::default(), add));
        }
        for reason in DropReason::ALL {
            let cpus = self.drops.get(&(*reason as u32), 0)?;
            counters.drops.push(cpus.iter().fold(Drops::default(), add_drops));
        }
        Ok(counters)
    }

    /// Sets the counters of a port to zero.
    pub(super) fn reset_counters(&mut self, port: u16) -> Result<()> {
        Ok(self.stats.set(u32::from(port), zeroes::<Stats>()?, 0)?)
    }

    /// The ring buffer; given out once.
    pub(super) fn take_events(&mut self) -> Result<Events> {
        let ring = self.events.take();
        let ring = ring.ok_or_else(|| Error::failed("the events are taken already"))?;
        // SAFETY: the descriptor is the ring's own, the same one for as long as the ring lives.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Events { ring: ring.map_err(std::io::Error::from)? })
    }
}

fn zeroes<T: Pod + Default>() -> Result<PerCpuValues<T>> {
    let cpus = nr_cpus().map_err(|(path, e)| Error::failed(format!("cannot read {path}: {e}")))?;
    Ok(PerCpuValues::try_from(vec![T::default(); cpus])?)
}

/// An index of a map of at most 65,536 entries.
fn port_number(index: u32) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// Refuses more than a map has room for.
fn check_room(name: &str, wanted: usize, room: u32) -> Result<()> {
    if wanted <= room as usize {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{name} would need {wanted} entries and has room for {room}; remove children, or VLANs from trunks"
    )))
}

/// How many keys of `new` are not in `old`.
fn absent<K: Ord, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> usize {
    new.keys().filter(|key| !old.contains_key(key)).count()
}

fn added<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

fn removed<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !new.contains_key(key))
}

/// What the programs of a parent tell.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// A frame left with a source MAC that the tables do not know.
    NewSource(Event),
    /// Somebody on the wire says to have the address of a child.
    Claim(Claim),
    /// A child has sent what it may not, or a port more than it may.
    Offence(Offended),
}

impl Told {
    /// Reads an event; `None` for a kind that this version does not know.
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(match read::<Event>(bytes)?.kind {
            event_kind::NEW_SOURCE => Self::NewSource(read(bytes)?),
            event_kind::CLAIM => Self::Claim(read(bytes)?),
            event_kind::OFFENCE | event_kind::STORM => Self::Offence(read(bytes)?),
            _ => return None,
        })
    }
}

pub(super) fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    let enough = bytes.len() >= size_of::<T>();
    // SAFETY: there are as many bytes as a `T` has, and any bytes are one.
    enough.then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The events of a parent's programs.
pub(crate) struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Waits for events and takes all that are there.
    pub(crate) async fn wait(&mut self) -> Result<Vec<Told>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let mut events = Vec::new();
            while let Some(item) = ready.get_inner_mut().next() {
                events.extend(Told::read(&item));
            }
            ready.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}
