//! Programs of maclane's dataplane, and the recipe that compiles them.
//!
//! The programs are the binaries of this package and exist on the BPF target only. The
//! library exists on the host only: it holds the recipe that the build scripts of `control` and
//! `bench`, and `xtask`, share. On the BPF target it is empty.

#![cfg_attr(target_arch = "bpf", no_std)]

#[cfg(not(target_arch = "bpf"))]
pub mod toolchain;
