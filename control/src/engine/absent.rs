//! Children whose namespace is gone, and how long their leases are kept.
//!
//! After a reboot namespaces come back later than the daemon, and containers are stopped and started
//! again: so a child keeps its name, MAC and addresses for a while. Only time counts during which a
//! daemon ran and did not find the namespace. A restart of the daemon goes on counting, less what was
//! not yet saved; a reboot begins anew, because then all namespaces are gone for another reason.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{
    leases::now,
    state::{Child, State},
};
use crate::{error::Result, netns::boot};

/// A count is saved so many times until its end: so much of it a restart forgets at most.
const STEPS: u32 = 10;

/// So many children are removed, and so many counts saved, in one pass of the control loop, each with
/// writes to the disk.
const AT_ONCE: usize = 32;

/// For how long a namespace has been gone, in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missed {
    seconds: u64,
    /// In which boot of the machine.
    boot: String,
}

/// A namespace that is gone.
#[derive(Clone, Debug)]
pub(crate) struct Absence {
    /// Since when this daemon has not found it.
    since: Instant,
    /// For how long daemons before this one had not.
    before: Duration,
    /// What of it all is saved.
    saved: Duration,
    /// In which boot of the machine.
    boot: String,
}

impl Absence {
    fn begin(missed: Option<&Missed>, boot: String) -> Self {
        let of_this_boot = missed.filter(|missed| missed.boot == boot);
        let before = Duration::from_secs(of_this_boot.map_or(0, |missed| missed.seconds));
        Self { since: Instant::now(), before, saved: before, boot }
    }

    fn lasts(&self) -> Duration {
        self.before + self.since.elapsed()
    }
}

impl State {
    /// Notes whether the namespace of a child was found.
    pub(crate) async fn note_namespace(&mut self, name: &str, found: bool) -> Result<()> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        if !found {
            if child.absence.is_none() {
                let missed = child.record.value.missed.as_ref();
                child.absence = Some(Absence::begin(missed, boot()?));
            }
            return Ok(());
        }
        child.absence = None;
        match child.record.value.missed.take() {
            Some(_) => self.save_child(name).await,
            None => Ok(()),
        }
    }

    /// Removes the children whose namespace has been gone for too long, and saves now and then for
    /// how long the others' has.
    pub(crate) async fn end_leases(&mut self) -> Result<()> {
        let (grace, step) = (self.lease_grace, self.lease_grace / STEPS);
        let absences = || {
            let there = self.children.iter().filter(|(_, child)| !child.record.value.removing);
            there.filter_map(|(name, child)| Some((name, child.absence.as_ref()?)))
        };
        let pick = |wanted: &dyn Fn(&Absence) -> bool| -> Vec<String> {
            let picked = absences().filter(|(_, absence)| wanted(absence));
            picked.map(|(name, _)| name.clone()).take(AT_ONCE).collect()
        };
        let over = pick(&|absence| absence.lasts() >= grace);
        let due = pick(&|absence| (absence.saved + step..grace).contains(&absence.lasts()));
        for name in over {
            // It may have come back while nobody could look at the children of its parent.
            if self.child(&name)?.record.value.has_place() {
                self.note_namespace(&name, true).await?;
                continue;
            }
            let netns = self.child(&name)?.record.value.netns.display().to_string();
            tracing::info!(
                child = name,
                netns,
                "its namespace has been gone for {} s: the child is removed and its addresses are given back",
                grace.as_secs()
            );
            self.child_rm(&name).await?;
        }
        for name in due {
            self.save_absence(&name).await?;
        }
        Ok(())
    }

    async fn save_absence(&mut self, name: &str) -> Result<()> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let Some(absence) = &mut child.absence else { return Ok(()) };
        absence.saved = absence.lasts();
        let missed = Missed { seconds: absence.saved.as_secs(), boot: absence.boot.clone() };
        child.record.value.missed = Some(missed);
        self.save_child(name).await
    }

    /// Until when the addresses of a child whose namespace is gone are kept for it, in seconds since
    /// 1970.
    pub(crate) fn lease_until(&self, child: &Child) -> Option<u64> {
        let rest = self.lease_grace.saturating_sub(child.absence.as_ref()?.lasts());
        Some(now() + rest.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_goes_on_counting_and_a_reboot_begins_anew() {
        let missed = Missed { seconds: 3000, boot: "a".into() };
        for (missed, boot, before) in
            [(None, "a", 0), (Some(&missed), "a", 3000), (Some(&missed), "b", 0)]
        {
            let absence = Absence::begin(missed, boot.into());
            assert_eq!(absence.before, Duration::from_secs(before), "{missed:?} in {boot}");
            assert!((before..before + 60).contains(&absence.lasts().as_secs()));
        }
    }
}
