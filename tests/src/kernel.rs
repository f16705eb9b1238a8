//! What the running kernel has, for what a test expects of it.

use nix::sys::utsname::uname;

use crate::{
    bpf::{instruction, load},
    netns::Netns,
};

/// Its release, such as `6.1.0-28-cloud-amd64`.
#[must_use]
pub fn release() -> String {
    uname().expect("the kernel has a name").release().to_string_lossy().into_owned()
}

/// Its version: major, minor.
#[must_use]
pub fn version() -> (u32, u32) {
    let release = release();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    numbers.next().zip(numbers.next()).expect("a release begins with two numbers")
}

/// Whether it has TCX, and with it guards on children that stay wherever they move
/// (Linux 6.6).
#[must_use]
pub fn has_tcx() -> bool {
    version() >= (6, 6)
}

/// Whether TC programs can ask for the network namespace of a frame's socket (Linux 6.15).
#[must_use]
pub fn sees_netns() -> bool {
    const GET_NETNS_COOKIE: i32 = 122;
    const SCHED_CLS: u32 = 3;
    // call; r0 = 0; exit
    let code = [(0x85, GET_NETNS_COOKIE), (0xb7, 0), (0x95, 0)]
        .map(|(code, value)| instruction(code, (0, 0), 0, value));
    load(SCHED_CLS, &code, *b"trial\0\0\0").is_ok()
}

/// The word by which `child inspect` says how a macvlan child's frames are known, with nothing in the way
/// of the best that this kernel has.
#[must_use]
pub fn identity() -> &'static str {
    match (has_tcx(), sees_netns()) {
        (true, true) => "guard",
        (true, false) => "guard-only",
        (false, _) => "mac",
    }
}

/// Whether the running kernel lacks a kind of link, by `ip link`'s names; then it says so, and the
/// test has nothing to try.
#[must_use]
pub fn lacks(kind: &str) -> bool {
    let ns = Netns::without_ipv6();
    ns.ip("link add v0 type veth peer name v1");
    let below = if kind == "vlan" { "link v0" } else { "" };
    let more = if kind == "vlan" { "id 5" } else { "" };
    let line = format!("ip link add {below} name probe type {kind} {more}");
    let words: Vec<_> = line.split_whitespace().collect();
    let lacks = !ns.exec(&words).status.success();
    if lacks {
        eprintln!("skipped: Linux {} has no links of type {kind}", release());
    }
    lacks
}
