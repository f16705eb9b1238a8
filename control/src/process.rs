//! Processes that others of the same number are told apart from.

use std::{fs, path::Path, process::id};

use serde::{Deserialize, Serialize};

use crate::netns::boot;

/// Which process it is, or was, for all time: its number, when it was started, and the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pid: u32,
    /// In clock ticks since the boot.
    started: u64,
    /// The boot (`/proc/sys/kernel/random/boot_id`).
    boot: String,
}

impl ProcessId {
    /// The process that has this number now, if it runs and can be seen from here.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        // Numbers say nothing where /proc shows those of another namespace.
        let is_ours =
            fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&id().to_string()));
        if !is_ours {
            return None;
        }
        Some(Self { pid, started: started(pid)?, boot: boot().ok()? })
    }

    /// True if it ran before the machine was started last.
    pub(crate) fn is_of_another_boot(&self) -> bool {
        boot().is_ok_and(|boot| boot != self.boot)
    }

    /// True while it runs.
    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// True if a process that can be seen has ended.
pub(crate) fn is_over(process: Option<&ProcessId>) -> bool {
    process.is_some_and(|process| !process.is_alive())
}

/// When a process was started (`proc(5)`, `/proc/PID/stat`); nothing of one that has ended, be it not
/// waited for.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // The state is field 3, the start field 22.
    fields.nth(22 - 4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends() {
        let us = ProcessId::of(id()).unwrap();
        assert!(us.is_alive());
        assert_eq!(ProcessId::of(id()), Some(us.clone()));
        assert!(!ProcessId { started: us.started + 1, ..us.clone() }.is_alive(), "another one");
        let before = ProcessId { boot: "another".into(), ..us.clone() };
        assert!(!before.is_alive() && before.is_of_another_boot() && !us.is_of_another_boot());
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let its = ProcessId::of(other.id()).unwrap();
        assert!(its.is_alive());
        other.kill().unwrap();
        while its.is_alive() {
            std::thread::yield_now();
        }
        other.wait().unwrap();
        assert!(!its.is_alive());
        assert_eq!(ProcessId::of(0), None, "of another namespace of processes");
    }
}
