//! Builds the eBPF object that the benchmarks measure with.

use std::{env, path::PathBuf, process::ExitCode};

use dataplane_ebpf::toolchain::{self, Options};

fn main() -> ExitCode {
    let bench = PathBuf::from(cargo_variable("CARGO_MANIFEST_DIR"));
    let workspace = bench.parent().expect("this package lies in the workspace's folder");
    let manifest_dir = workspace.join("dataplane-ebpf");
    let out = PathBuf::from(cargo_variable("OUT_DIR"));
    let target_dir = toolchain::shared_target_dir(&out);
    let options = Options { manifest_dir: &manifest_dir, target_dir: &target_dir, features: &[] };
    for input in ["Cargo.lock", "Cargo.toml", "dataplane-common/src", "dataplane-ebpf"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    match toolchain::build(&options, [toolchain::LOAD], &out) {
        Ok([load]) => {
            println!("cargo::rustc-env=BENCH_LOAD_OBJECT={}", load.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn cargo_variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for a build script"))
}
