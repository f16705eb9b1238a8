//! `cargo xtask lint`: formatting and lints, each warning an error.

use anyhow::Result;
use dataplane_ebpf::toolchain::{self, Options};

use crate::{command, setup, test::nextest, workspace};

/// Checks what runs on this machine, then the programs on the BPF target.
pub(crate) fn run() -> Result<()> {
    setup::ensure()?;
    // libFuzzer is built with the fuzz targets.
    setup::ensure_fuzz()?;
    command::run(workspace::cargo("fmt").args(["--all", "--check"]))?;
    let mut clippy = workspace::cargo("clippy");
    clippy.args(nextest::selection()).args(["--all-targets", "--", "--deny", "warnings"]);
    command::run(&mut clippy)?;

    // Debian's toolchain has no clippy; see `toolchain::check`.
    eprintln!("+ check of dataplane-ebpf for {}", toolchain::TARGET);
    let manifest_dir = workspace::root().join("dataplane-ebpf");
    let target_dir = workspace::target_dir().join("bpf-lint");
    for features in [&[][..], &["log"]] {
        let options = Options { manifest_dir: &manifest_dir, target_dir: &target_dir, features };
        toolchain::check(&options)?;
    }
    Ok(())
}
