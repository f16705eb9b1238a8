//! What the programs have seen: addresses that children have taken, and frames that they may not send.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuHashMap},
};
use dataplane_common::abi::{Learned, NeighbourKey, Offence, OffenceKey, Usage, map};

use super::maps::take;
use crate::error::{Context, Result};

/// What the programs of a parent write.
pub(super) struct Observed {
    learned: HashMap<MapData, NeighbourKey, Learned>,
    usage: Array<MapData, Usage>,
    offences: PerCpuHashMap<MapData, OffenceKey, Offence>,
}

/// Adds what another CPU has noted; the last frame is the later one.
fn add(sum: Offence, cpu: &Offence) -> Offence {
    let (dropped, logged) = (sum.dropped + cpu.dropped, sum.logged + cpu.logged);
    let last = if cpu.last > sum.last { *cpu } else { sum };
    Offence { dropped, logged, ..last }
}

impl Observed {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            learned: take(ebpf, map::LEARNED)?,
            usage: take(ebpf, map::USAGE)?,
            offences: take(ebpf, map::OFFENCES)?,
        })
    }

    /// The addresses that children have been seen to take.
    pub(super) fn learned(&self) -> Result<BTreeMap<NeighbourKey, Learned>> {
        Ok(self.learned.iter().collect::<Result<_, _>>()?)
    }

    /// Forgets addresses, and counts anew how many are left at the ports that had them.
    pub(super) fn forget(&mut self, goes: impl Fn(&NeighbourKey, &Learned) -> bool) -> Result<()> {
        let (gone, left): (Vec<_>, Vec<_>) =
            self.learned()?.into_iter().partition(|(key, learned)| goes(key, learned));
        for (key, _) in &gone {
            // The programs may have forgotten it meanwhile.
            let _ = self.learned.remove(key);
        }
        let ports: BTreeSet<u16> = gone.iter().map(|(_, learned)| learned.port).collect();
        for port in ports {
            let mut usage = self.usage.get(&port.into(), 0)?;
            let left = left.iter().filter(|(_, learned)| learned.port == port).count();
            usage.addresses = u32::try_from(left).unwrap_or(u32::MAX);
            self.usage
                .set(port.into(), usage, 0)
                .doing(|| format!("cannot write {}", map::USAGE))?;
        }
        Ok(())
    }

    /// What was noted of each pair of a port and a reason.
    pub(super) fn offences(&self) -> Result<BTreeMap<OffenceKey, Offence>> {
        let mut offences = BTreeMap::new();
        for entry in &self.offences {
            let (key, cpus) = entry?;
            offences.insert(key, cpus.iter().fold(Offence::default(), add));
        }
        Ok(offences)
    }

    /// Forgets what was noted of a port, for its next owner.
    pub(super) fn reset(&mut self, port: u16) -> Result<()> {
        let keys: BTreeSet<_> = self.offences.keys().collect::<Result<_, _>>()?;
        for key in keys.into_iter().filter(|key| key.port == port) {
            let _ = self.offences.remove(&key);
        }
        self.usage.set(u32::from(port), Usage::default(), 0)?;
        self.forget(|_, learned| learned.port == port)
    }
}
