//! Where things are in the workspace, and how its binary is built.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

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

/// How cargo compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests: quickly compiled.
    Dev,
    /// Optimized as the product is, into a folder of its own: a binary with failpoints must not be
    /// taken for the product.
    Soak,
}

impl Profile {
    /// The options of cargo.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Soak => &["--profile", "soak"],
        }
    }

    /// The folder into which cargo builds.
    pub(crate) fn folder(self) -> PathBuf {
        target_dir().join(match self {
            Self::Dev => "debug",
            Self::Soak => "soak",
        })
    }
}

/// Where nextest writes its JUnit report of a profile.
pub(crate) fn nextest_report(profile: &str) -> PathBuf {
    root().join("target/nextest").join(profile).join("junit.xml")
}
