//! Where things are in the workspace, and how its binary is built.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{command, setup};

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask lies in the workspace's folder")
}

/// The folder into which cargo builds.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        // Cargo takes a relative one from its working directory, which is the root here.
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// `cargo SUBCOMMAND` in the workspace, with the toolchain that runs this program.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(subcommand).current_dir(root());
    cargo
}

/// Sets up, builds the release binary and says where it is.
pub(crate) fn build() -> Result<PathBuf> {
    setup::ensure()?;
    command::run(cargo("build").args(["--release", "--locked", "--package", "control"]))?;
    Ok(target_dir().join("release/maclane"))
}

/// Builds the binary in which a test can let the daemon die between any two steps, and says where
/// it is: in a folder of its own, so that it cannot be taken for another.
pub(crate) fn build_with_failpoints() -> Result<PathBuf> {
    let options = ["--locked", "--package", "control", "--features", "failpoints"];
    command::run(cargo("build").args(options))?;
    let (built, kept) = (target_dir().join("debug/maclane"), target_dir().join("failpoints"));
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let kept = kept.join("maclane");
    // By another name first: a daemon that a test has left may still run what is there.
    let fresh = kept.with_extension("new");
    fs::copy(&built, &fresh)
        .and_then(|_| fs::rename(&fresh, &kept))
        .with_context(|| format!("cannot copy {} to {}", built.display(), kept.display()))?;
    Ok(kept)
}
