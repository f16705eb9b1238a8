//! What the running kernel has, as far as a test's expectation depends on it.

use nix::sys::utsname::uname;

/// Whether programs are attached by TCX, and children have guards: from Linux 6.6 on.
#[must_use]
pub fn has_tcx() -> bool {
    let names = uname().expect("uname works");
    let release = names.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).expect("a release begins with a version");
    (next(), next()) >= (6, 6)
}
