//! What the running kernel has, for what a test expects of it.

use nix::sys::utsname::uname;

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
