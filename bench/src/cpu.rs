//! What the CPUs were busy with.

use std::fs;

use anyhow::{Context as _, Result};

/// Time of all CPUs together since the machine started, in clock ticks (`/proc/stat`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    busy: u64,
    idle: u64,
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

    /// Which part of the machine was busy since then, in percent.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn busy_percent_since(self, before: Self) -> f64 {
        let (busy, idle) = (self.busy - before.busy, self.idle - before.idle);
        100.0 * busy as f64 / (busy + idle).max(1) as f64
    }
}

/// Reads `cpu  USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL …`. What another machine took is
/// neither.
fn parse(stat: &str) -> Option<Cpu> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, idle, wait, irq, softirq, ..] = ticks[..] else { return None };
    Some(Cpu { busy: user + nice + system + irq + softirq, idle: idle + wait })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_and_idle_are_told_apart() {
        let cpu = parse("cpu  1 2 3 40 50 6 7 1000 0 0\ncpu0 0\n").expect("it is a line of stat");
        assert_eq!((cpu.busy, cpu.idle), (19, 90));
        assert!(parse("cpu  1 2").is_none());
    }
}
