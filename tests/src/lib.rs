//! maclane's laboratory: LANs of network namespaces on one machine, with real traffic.
//!
//! A test makes a [`Lan`](topology::Lan), starts a [`Daemon`](daemon::Daemon) in one of its
//! hosts and drives it through its command line. Everything is a value that removes what it
//! made when it is dropped, also after a panic; nothing outside of the namespaces is touched.
//!
//! The functions panic where something fails that a test cannot do without, and name the line
//! of the test.

#![expect(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "panicking is how the laboratory fails, and a command is often run for its effect"
)]

pub mod bpf;
pub mod card;
pub mod container;
pub mod daemon;
pub mod docker;
pub mod failpoints;
pub mod footprint;
pub mod forge;
pub mod frames;
pub mod http;
pub mod interrupt;
pub mod kernel;
pub mod length;
pub mod link;
pub mod mac;
pub mod mount;
pub mod netns;
pub mod plugin;
pub mod process;
pub mod program;
pub mod ring;
pub mod room;
pub mod site;
pub mod stranger;
pub mod tap;
pub mod tcp;
pub mod team;
pub mod topology;
pub mod traffic;
pub mod tun;
pub mod uring;
pub mod xsk;

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

/// A name that nothing else on this machine has: prefix, process, when it began, and a counter. An ended
/// run may have left names of a process with the same ID.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    static BEGAN: LazyLock<u128> =
        LazyLock::new(|| UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() & 0xff_ffff));
    let (process, count) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    format!("{prefix}{process}-{:x}-{count}", *BEGAN)
}

/// A time that is long enough on this machine: a slow one, such as an emulated one, says in
/// `MACLANE_PATIENCE` how many times longer things take there.
#[must_use]
pub fn patience(time: Duration) -> Duration {
    time * slowness()
}

/// How many times slower than a machine of its own this one is: 1, or what `MACLANE_PATIENCE` says. A
/// test that is about numbers takes smaller ones on a slow machine.
#[must_use]
pub fn slowness() -> u32 {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let set = std::env::var("MACLANE_PATIENCE").ok();
        set.map_or(1, |factor| factor.parse().expect("MACLANE_PATIENCE is a number"))
    });
    *FACTOR
}

/// Waits until a condition holds, and panics with its description if it does not in time.
#[track_caller]
pub fn eventually(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let timeout = patience(timeout);
    let deadline = Instant::now() + timeout;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
