//! The clock of the programs.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::error::Result;

/// How long the machine has been running, as the programs count it: without the time in which it slept
/// (`bpf_ktime_get_coarse_ns`).
pub(crate) fn since_boot() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}
