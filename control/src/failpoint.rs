//! Points between two side effects, at which a test lets the daemon die (SIGKILL) or the kernel
//! say no. They exist with the feature `failpoints` only; without it they are nothing.
//!
//! A daemon that is started with `MACLANE_FAILPOINTS=DIR` appends the name of each point that it
//! reaches to `DIR/trace`, dies at the N-th time that it reaches NAME if `DIR/kill` says `NAME N`,
//! and fails where `DIR/refuse` has the name of what it was about to do.

/// Every point, `what.step`: the step has just been done, and nothing after it.
pub(crate) const ALL: &[&str] = &[
    "store.directory",
    "store.filled",
    "store.kept",
    "store.renamed",
    "store.written",
    "runtime.bound",
    "runtime.listening",
    "counters.reset",
    "endpoint.aliased",
    "isolated.made",
    "isolated.up",
    "isolated.deleted",
    "vlan_filter.off",
    "vlan_filter.promiscuous",
    "vlan_filter.restored",
    "sub_interface.made",
    "sub_interface.deleted",
    "link.made",
    "link.ipv6_off",
    "link.address",
    "link.host_end_up",
    "link.up",
    "link.route",
    "link.announced",
    "link.followed",
    "link.deleted",
    "link.mode",
    "link.private",
    "link.isolated",
    "link.gro_on",
    "filter.added",
    "filter.removed",
    "tcx.attached",
    "tcx.pinned",
    "tcx.replaced",
    "lease.released",
    "clsact.marked",
    "clsact.qdisc",
    "clsact.filter",
    "clsact.unfiltered",
    "clsact.removed",
    "sockopt.attached",
    "sockopt.pinned",
    "sockopt.replaced",
    "xdp.attached",
    "xdp.pinned",
    "xdp.replaced",
    "pins.created",
    "pins.program_unpinned",
    "pins.program_pinned",
    "guards.led",
    "siblings.led",
    "pins.detached",
    "pins.unpinned",
    "pins.links_gone",
    "upgrade.pinned",
    "upgrade.unpinned",
    "maps.allowed",
    "maps.policies",
    "maps.ports",
    "maps.host_ends",
    "maps.netns",
    "maps.tx",
    "maps.sources",
    "maps.groups",
    "maps.vlans",
    "maps.fdb",
    "maps.neighbours",
    "maps.neighbours_removed",
    "maps.fdb_removed",
    "maps.vlans_removed",
    "maps.groups_removed",
    "maps.sources_removed",
    "maps.tx_removed",
    "maps.host_ends_removed",
    "maps.netns_removed",
    "maps.ports_removed",
    "maps.policies_removed",
    "maps.allowed_removed",
];

/// True if [`ALL`] has this name.
pub(crate) const fn is_known(name: &str) -> bool {
    let mut n = 0;
    while n < ALL.len() {
        if is_same(ALL[n].as_bytes(), name.as_bytes()) {
            return true;
        }
        n += 1;
    }
    false
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut n = 0;
    while n < a.len() && n < b.len() {
        if a[n] != b[n] {
            return false;
        }
        n += 1;
    }
    a.len() == b.len()
}

/// A point: `failpoint!("link.made")`. A name that is not in [`ALL`] does not compile, and a name
/// there that no test reaches fails `tests/tests/crash.rs`.
macro_rules! failpoint {
    ($name:literal) => {{
        const { assert!($crate::failpoint::is_known($name), "add it to failpoint::ALL") };
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach($name);
    }};
}
pub(crate) use failpoint;

#[cfg(feature = "failpoints")]
fn folder() -> Option<std::path::PathBuf> {
    std::env::var_os("MACLANE_FAILPOINTS").map(Into::into)
}

/// Notes that a point was reached, and dies if it is the one.
#[cfg(feature = "failpoints")]
pub(crate) fn reach(name: &str) {
    use std::{
        fs::{self, File},
        io::Write as _,
    };
    let Some(folder) = folder() else { return };
    let trace = folder.join("trace");
    if let Ok(mut file) = File::options().append(true).create(true).open(&trace) {
        let _ = file.write_all(format!("{name}\n").as_bytes());
    }
    let kill = fs::read_to_string(folder.join("kill")).unwrap_or_default();
    let Some((wanted, number)) = kill.trim().split_once(' ') else { return };
    let reached = fs::read_to_string(&trace).unwrap_or_default();
    let times = reached.lines().filter(|line| *line == name).count();
    if wanted == name && number.parse() == Ok(times) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
    }
}

/// Fails if a test wants `what` to fail.
#[cfg(feature = "failpoints")]
pub(crate) fn refuse(what: &str) -> crate::error::Result<()> {
    let refused = folder().and_then(|folder| std::fs::read_to_string(folder.join("refuse")).ok());
    if refused.is_some_and(|refused| refused.lines().any(|line| line == what)) {
        return Err(crate::error::Error::failed(format!("{what} is refused by a test")));
    }
    Ok(())
}

/// Fails if a test wants `what` to fail.
#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
pub(crate) fn refuse(_what: &str) -> crate::error::Result<()> {
    Ok(())
}

/// A limit of another program, scaled for this machine: in an emulated one everything takes
/// longer, by the factor in `MACLANE_PATIENCE`.
#[cfg(feature = "failpoints")]
pub(crate) fn patience(time: std::time::Duration) -> std::time::Duration {
    let factor = std::env::var("MACLANE_PATIENCE").ok().and_then(|factor| factor.parse().ok());
    time * factor.unwrap_or(1)
}

/// A limit of another program, as it is.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn patience(time: std::time::Duration) -> std::time::Duration {
    time
}
