//! The BPF toolchain: a Rust with `core` for the BPF target, and `bpf-linker`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use dataplane_ebpf::toolchain::{Toolchain, find_linker, tools_dir};

use super::apt::Apt;
use crate::{command, workspace};

/// The packages of Debian's Rust with a ready-made `core` for the BPF target.
const RUST_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

const LINKER_VERSION: &str = "0.13.0";

/// The toolchain, installed if there is none.
pub(crate) fn ensure(apt: Option<&mut Apt>) -> Result<Toolchain> {
    if let Ok(toolchain) = Toolchain::find() {
        return Ok(toolchain);
    }
    eprintln!("installing a Rust toolchain with `core` for the BPF target");
    if !install_if_offered(apt, RUST_PACKAGES)? {
        install_nightly()?;
    }
    Toolchain::find().context("cannot find the toolchain that was just installed")
}

fn install_nightly() -> Result<()> {
    if command::find("rustup").is_none() {
        bail!(
            "cannot install a toolchain for the BPF target: there is neither Debian's \
             libstd-rust-web-dev-bpf nor rustup; install rustup from https://rustup.rs"
        );
    }
    command::run(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src,clippy",
    ]))
}

/// Builds `bpf-linker` if there is none that starts.
///
/// It is built against the LLVM of the toolchain's compiler, whichever that is: a linker on an
/// older LLVM cannot read the compiler's bitcode. It links to the shared library of that LLVM,
/// so the package of the library has to stay.
pub(crate) fn ensure_linker(toolchain: &Toolchain, apt: Option<&mut Apt>) -> Result<()> {
    if find_linker().is_ok() {
        return Ok(());
    }
    let llvm = toolchain.llvm().context("cannot read the version of the compiler's LLVM")?;
    let prefix = llvm_prefix(llvm, apt)?;
    let tools = tools_dir().context("cannot tell where to install bpf-linker; set HOME")?;
    eprintln!("building bpf-linker {LINKER_VERSION} on LLVM {llvm}; this takes a minute or two");
    command::run(
        workspace::cargo("install")
            .env("LLVM_PREFIX", prefix)
            .args(["bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
            .arg("--root")
            .arg(&tools),
    )?;
    find_linker().context("cannot use the bpf-linker that was just built")?;
    Ok(())
}

/// The folder of that LLVM's development files, installed if apt has them.
fn llvm_prefix(llvm: u32, apt: Option<&mut Apt>) -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if has_development_files(&prefix) {
        return Ok(prefix);
    }
    if !install_if_offered(apt, &[&format!("llvm-{llvm}-dev")])? {
        bail!(
            "cannot build bpf-linker: there are no development files of LLVM {llvm} in {}; install \
             them, or set LLVM_PREFIX to where they are, or put a bpf-linker built on LLVM {llvm} \
             into PATH (`cargo binstall bpf-linker`)",
            prefix.display()
        );
    }
    Ok(prefix)
}

/// Whether apt is there, has the packages, and has now installed them.
fn install_if_offered(apt: Option<&mut Apt>, packages: &[&str]) -> Result<bool> {
    apt.map_or(Ok(false), |apt| apt.install_if_offered(packages))
}

fn has_development_files(prefix: &Path) -> bool {
    prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm-c").exists()
}

/// Says what is used.
pub(crate) fn report() {
    if let Ok(toolchain) = Toolchain::find() {
        let version = toolchain.version().unwrap_or_else(|| format!("{toolchain:?}"));
        eprintln!("{:<12} {version}", "BPF rustc");
    }
    if let Ok(linker) = find_linker() {
        eprintln!("{:<12} {}", "bpf-linker", linker.display());
    }
}
