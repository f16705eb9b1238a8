//! What the CPUs were busy with.

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{time::clock_getcpuclockid, unistd::Pid};

/// Time of all CPUs together since the machine started, in clock ticks (`/proc/stat`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    busy: u64,
}

/// `USER_HZ`, which is what the kernel shows on every architecture that maclane runs on.
const TICKS_PER_SECOND: f64 = 100.0;

impl Cpu {
    /// Now.
    pub(crate) fn now() -> Result<Self> {
        parse(&fs::read_to_string("/proc/stat")?).context("cannot read /proc/stat")
    }

    /// Seconds that the CPUs were busy since then, added up.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn busy_seconds_since(self, before: Self) -> f64 {
        (self.busy - before.busy) as f64 / TICKS_PER_SECOND
    }
}

/// The thread whose children all threads of the kernel are.
const KTHREADD: Pid = Pid::from_raw(2);

/// How long those have run, to the nanosecond, who may have a part in carrying a frame: this program,
/// which sends, the threads of the kernel, which do what is put off, and a daemon.
///
/// What others do at the same time is not in it, so that neighbours are not taken for the storm. A
/// softirq is in the time of the thread that it has interrupted: that is the one that has sent, because
/// no wire of the laboratory has an interrupt of its own.
pub(crate) struct Work(HashMap<Pid, Duration>);

impl Work {
    /// So far.
    pub(crate) fn now(daemon: Option<u32>) -> Result<Self> {
        let mut times = HashMap::new();
        let daemon = daemon.map(|id| Pid::from_raw(id.cast_signed()));
        let kernel = kernel_threads()?;
        ensure!(!kernel.is_empty(), "no thread of the kernel is to be seen: /proc is another's");
        for pid in kernel.into_iter().chain(daemon).chain([Pid::this()]) {
            // One that has ended meanwhile has done its work before.
            if let Ok(time) = clock_getcpuclockid(pid).and_then(nix::time::clock_gettime) {
                times.insert(pid, time.into());
            }
        }
        Ok(Self(times))
    }

    /// Seconds that all of them together have run since then.
    pub(crate) fn seconds_since(&self, before: &Self) -> f64 {
        let ran = |(pid, time): (&Pid, &Duration)| {
            time.saturating_sub(before.0.get(pid).copied().unwrap_or_default())
        };
        self.0.iter().map(ran).sum::<Duration>().as_secs_f64()
    }
}

fn kernel_threads() -> Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let pid = Pid::from_raw(id);
        if pid == KTHREADD || parent(&stat) == Some(KTHREADD) {
            threads.push(pid);
        }
    }
    Ok(threads)
}

/// Reads `PID (NAME) STATE PARENT …`; a name may hold anything.
fn parent(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// Reads `cpu  USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL …`. What another machine took is not in
/// it.
fn parse(stat: &str) -> Option<Cpu> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, softirq, ..] = ticks[..] else { return None };
    Some(Cpu { busy: user + nice + system + irq + softirq })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_and_idle_are_told_apart() {
        let cpu = parse("cpu  1 2 3 40 50 6 7 1000 0 0\ncpu0 0\n").expect("it is a line of stat");
        assert_eq!(cpu.busy, 19);
        assert!(parse("cpu  1 2").is_none());
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        let cases = [("17 (kworker/0:1) I 2 0 0", 2), ("18 (a ) b) S 17 0 0", 17)];
        for (stat, want) in cases {
            assert_eq!(parent(stat), Some(Pid::from_raw(want)), "{stat}");
        }
        assert_eq!(parent("nothing"), None);
    }
}
