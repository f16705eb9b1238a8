//! The program under test.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use dataplane_common::abi;

/// The program under test: `MACLANE_BIN`, else what `cargo xtask test` builds. It has failpoints.
#[must_use]
pub fn binary() -> PathBuf {
    env::var_os("MACLANE_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/maclane"),
        PathBuf::from,
    )
}

/// The eBPF objects that the program under test carries: that of a parent, and the guard's. They
/// are in the folder `MACLANE_OBJECTS`, else where cargo has built the program.
#[track_caller]
#[must_use]
pub fn objects() -> (PathBuf, PathBuf) {
    let built = || built_objects(&binary());
    let dir = env::var_os("MACLANE_OBJECTS").map_or_else(built, PathBuf::from);
    (dir.join("dataplane"), dir.join("guard"))
}

/// The folder of the eBPF objects that cargo has built for a program.
#[track_caller]
#[must_use]
pub fn built_objects(program: &Path) -> PathBuf {
    let build = program.parent().expect("the program is in a folder").join("build");
    let newest = fs::read_dir(&build)
        .unwrap_or_else(|e| panic!("cannot list {}: {e}", build.display()))
        .flatten()
        .map(|entry| entry.path().join("out"))
        .filter_map(|dir| Some((fs::metadata(dir.join("guard")).ok()?.modified().ok()?, dir)))
        .max();
    let (_, dir) = newest.unwrap_or_else(|| panic!("no eBPF objects below {}", build.display()));
    dir
}

/// The folder of pins in this layout, below `BPFFS/maclane`.
#[must_use]
pub fn layout() -> String {
    format!("v{}", abi::VERSION)
}
