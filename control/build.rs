//! Builds the eBPF objects, which the binary carries inside itself.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use dataplane_ebpf::toolchain::{self, Error, Options};

fn main() -> ExitCode {
    let control = PathBuf::from(cargo_variable("CARGO_MANIFEST_DIR"));
    let workspace = control.parent().expect("this package lies in the workspace's folder");
    let manifest_dir = workspace.join("dataplane-ebpf");
    let out = PathBuf::from(cargo_variable("OUT_DIR"));
    let target_dir = toolchain::shared_target_dir(&out);

    let features: &[&str] =
        if env::var_os("CARGO_FEATURE_BPF_LOG").is_some() { &["log"] } else { &[] };
    let options = Options { manifest_dir: &manifest_dir, target_dir: &target_dir, features };
    match toolchain::build(&options, [toolchain::DATAPLANE, toolchain::GUARD], &out) {
        Ok([dataplane, guard]) => {
            watch(workspace);
            println!("cargo::rustc-env=MACLANE_BPF_OBJECT={}", dataplane.display());
            println!("cargo::rustc-env=MACLANE_GUARD_OBJECT={}", guard.display());
            ExitCode::SUCCESS
        }
        // Cargo shows this one line, and nothing around it.
        Err(error @ (Error::Missing { .. } | Error::Start { .. })) => {
            println!("cargo::error={error}");
            ExitCode::SUCCESS
        }
        // Cargo shows all of stderr, where the compiler has said what is wrong.
        Err(error @ (Error::Failed { .. } | Error::Copy { .. })) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Names what the objects are made of. Cargo repeats a build that failed without being told.
fn watch(workspace: &Path) {
    for input in [
        "Cargo.lock",
        "Cargo.toml",
        "dataplane-common/Cargo.toml",
        "dataplane-common/src",
        "dataplane-ebpf/Cargo.toml",
        "dataplane-ebpf/src",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
}

fn cargo_variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for a build script"))
}
