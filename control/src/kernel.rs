//! The running kernel's version, and what begins with which.

use nix::sys::utsname::uname;

use crate::error::{Error, Result};

/// A kernel's version: major, minor.
pub(crate) type Version = (u32, u32);

/// The oldest kernel that is supported.
pub(crate) const OLDEST: Version = (6, 1);

/// Where TCX begins: <https://git.kernel.org/torvalds/c/e420bed02507>.
pub(crate) const TCX: Version = (6, 6);

/// The version in a release such as `6.1.0-28-cloud-amd64`.
pub(crate) fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The release of the running kernel.
pub(crate) fn release() -> String {
    uname().map_or_else(|_| String::new(), |names| names.release().to_string_lossy().into_owned())
}

/// True if the running kernel has TCX.
pub(crate) fn has_tcx() -> bool {
    version(&release()).is_some_and(|version| version >= TCX)
}

/// Refuses a kernel that is too old.
pub(crate) fn check() -> Result<()> {
    let release = release();
    match version(&release) {
        Some(version) if version < OLDEST => Err(too_old(&release)),
        _ => Ok(()),
    }
}

/// Why a kernel of this release will not do.
pub(crate) fn too_old(release: &str) -> Error {
    Error::failed(format!("Linux {release} is too old; {}.{} is needed", OLDEST.0, OLDEST.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        for (release, want) in [
            ("6.1.0-28-cloud-amd64", Some((6, 1))),
            ("6.18.44", Some((6, 18))),
            ("5.15", Some((5, 15))),
            ("6", None),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(version(release), want, "{release}");
        }
        assert!(version("5.15.0") < Some(OLDEST) && version("6.6.1") >= Some(TCX));
    }
}
