//! Lengths of the long loops, all in one place: short in `cargo xtask test`, full in
//! `cargo xtask soak`, which sets `MACLANE_SOAK`.
//!
//! A short loop keeps every assertion of the full one. What it may miss is a fault that shows once in
//! many rounds, which is what a soak is for.

use std::env;

/// How often a loop goes round, for how many seconds, or over how many frames.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    short: u32,
    full: u32,
}

/// SIGKILLs of the daemon under traffic.
pub const KILLS: Length = Length { short: 25, full: 200 };

/// SIGKILLs of dockerd and of the daemon while containers come and go.
pub const DOCKER_KILLS: Length = Length { short: 8, full: 50 };

/// Workers that add and remove children at once, and for how many seconds.
pub const CHURN_WORKERS: Length = Length { short: 20, full: 100 };
/// See [`CHURN_WORKERS`].
pub const CHURN_SECONDS: Length = Length { short: 10, full: 60 };

/// Children of one parent that a flood reaches, and that answer the host. In `test` still more than one
/// turn of a flood serves.
pub const CHILDREN: Length = Length { short: 300, full: 1020 };

/// Of the bytes of a store that are in use, every how many-th is damaged.
pub const STORE_DAMAGE_STEP: Length = Length { short: 41, full: 1 };

/// At how many places a store is cut off, if it has as many bytes.
pub const STORE_CUTS: Length = Length { short: 97, full: u32::MAX };

/// Of the bytes that a write to a store changes, at every how many-th the write is torn.
pub const STORE_TEAR_STEP: Length = Length { short: 500, full: 1 };

/// Frames of each kind that go through the programs, of which each has to be counted.
pub const COUNTED_FRAMES: Length = Length { short: 1_000_000, full: 1_000_000_000 };

impl Length {
    /// The length in this run.
    #[must_use]
    pub fn get(self) -> u32 {
        if env::var_os("MACLANE_SOAK").is_some() { self.full } else { self.short }
    }
}
