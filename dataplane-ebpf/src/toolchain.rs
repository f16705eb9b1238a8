//! Finds what compiles the eBPF objects on this machine, and compiles them.
//!
//! Two things are needed: a Rust toolchain that has `core` for the BPF target, and `bpf-linker`
//! built on the same LLVM. Nothing is installed here; that is the work of `cargo xtask setup`.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// The BPF target of this machine's byte order.
pub const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// The profile of the objects, declared in the workspace's `Cargo.toml`.
pub const PROFILE: &str = "bpf";

const PACKAGE: &str = "dataplane-ebpf";

/// Why the objects could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that `cargo xtask setup` installs is not there.
    #[error("cannot build the eBPF objects: {need} is missing; run `cargo xtask setup`")]
    Missing {
        /// What is missing, in words.
        need: &'static str,
    },
    /// A command could not be started.
    #[error("cannot start `{command}`: {source}; run `cargo xtask setup`")]
    Start {
        /// The command line.
        command: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// The compiler or the linker failed, and has said why on stderr.
    #[error("cannot build the eBPF objects: `{command}` ended with {status}; see its output")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// What was built could not be put where it is wanted.
    #[error("cannot copy {object} to {}: {source}", to.display())]
    Copy {
        /// The name of the object.
        object: &'static str,
        /// Where it is wanted.
        to: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A Rust toolchain that compiles for [`TARGET`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// `/usr/bin/rustc` with a ready-made `core` (Debian's `libstd-rust-web-dev-bpf`).
    System,
    /// rustup's nightly, which compiles `core` from its `rust-src` component.
    Nightly,
}

impl Toolchain {
    const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
    const SYSTEM_CARGO: &str = "/usr/bin/cargo";

    /// The best toolchain that is installed.
    pub fn find() -> Result<Self, Error> {
        [Self::System, Self::Nightly].into_iter().find(Self::has_core).ok_or(Error::Missing {
            need: "a Rust toolchain with `core` for the BPF target \
                   (Debian's libstd-rust-web-dev-bpf, or rustup's nightly with rust-src)",
        })
    }

    fn has_core(&self) -> bool {
        let Some(sysroot) = self.ask_rustc(&["--print", "sysroot"]) else { return false };
        let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
        match self {
            Self::System => {
                Path::new(Self::SYSTEM_CARGO).exists()
                    && holds_core(&rustlib.join(TARGET).join("lib"))
            }
            Self::Nightly => rustlib.join("src/rust/library/core/Cargo.toml").exists(),
        }
    }

    /// What its compiler says of itself: `rustc 1.96.0 (…)`.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        self.ask_rustc(&["--version"]).map(|version| version.trim().to_owned())
    }

    /// The major version of its LLVM. `bpf-linker` has to be built on the same one, because it
    /// reads the compiler's bitcode.
    #[must_use]
    pub fn llvm(&self) -> Option<u32> {
        llvm_major(&self.ask_rustc(&["--version", "--verbose"])?)
    }

    fn ask_rustc(&self, arguments: &[&str]) -> Option<String> {
        let mut command = match self {
            Self::System => Command::new(Self::SYSTEM_RUSTC),
            Self::Nightly => rustup_nightly("rustc"),
        };
        shed_outer_cargo(&mut command);
        let output = command.args(arguments).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok()
    }

    /// `cargo SUBCOMMAND` for the programs, with everything set that this toolchain needs.
    /// `flags` are further flags of the compiler.
    #[must_use]
    pub fn cargo(
        &self,
        subcommand: &str,
        linker: &Path,
        flags: &[&str],
        options: &Options,
    ) -> Command {
        let mut command = match self {
            Self::System => Command::new(Self::SYSTEM_CARGO),
            Self::Nightly => rustup_nightly("cargo"),
        };
        shed_outer_cargo(&mut command);
        command.arg(subcommand);
        match self {
            // aya-ebpf uses `asm_experimental_arch`, which is unstable, on the BPF target.
            Self::System => {
                command.env("RUSTC", Self::SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            }
            Self::Nightly => {
                command.args(["-Z", "build-std=core"]);
            }
        }
        command
            .current_dir(options.manifest_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(linker, flags))
            .args(["--package", PACKAGE])
            .args(["--target", TARGET, "--profile", PROFILE])
            .arg("--target-dir")
            .arg(options.target_dir);
        if has_lockfile(options.manifest_dir) {
            command.arg("--locked");
        }
        if !options.features.is_empty() {
            command.arg("--features").arg(options.features.join(","));
        }
        command
    }
}

/// What to build, and where.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The folder of this package's `Cargo.toml`.
    pub manifest_dir: &'a Path,
    /// A target folder that no other cargo has locked.
    pub target_dir: &'a Path,
    /// Features of this package to switch on.
    pub features: &'a [&'a str],
}

/// The object with the programs of a parent.
pub const DATAPLANE: &str = "dataplane";

/// The object with the program of a child.
pub const GUARD: &str = "guard";

/// The object that `bench` measures with.
pub const LOAD: &str = "load";

/// The target folder that the build scripts of every profile share, below cargo's own: what one of them has
/// compiled the next need not. `out` is the folder of a build script, `TARGET/PROFILE/build/PACKAGE/out`.
#[must_use]
pub fn shared_target_dir(out: &Path) -> PathBuf {
    out.ancestors().nth(4).unwrap_or(out).join("ebpf")
}

/// Builds objects by their names, and puts them, as ELF files, into the folder `to`, where no build with other
/// features overwrites them; says where they lie. What the compiler has to say goes to stderr.
pub fn build<const N: usize>(
    options: &Options,
    objects: [&'static str; N],
    to: &Path,
) -> Result<[PathBuf; N], Error> {
    let toolchain = Toolchain::find()?;
    let mut command = toolchain.cargo("build", &find_linker()?, &[], options);
    command.args(objects.iter().flat_map(|name| ["--bin", name]));
    run(&mut command)?;
    let built = options.target_dir.join(TARGET).join(PROFILE);
    for object in objects {
        fs::copy(built.join(object), to.join(object)).map_err(|source| Error::Copy {
            object,
            to: to.to_owned(),
            source,
        })?;
    }
    Ok(objects.map(|name| to.join(name)))
}

/// Checks the programs with every warning as an error, without linking them.
///
/// Debian's toolchain has no clippy, and another toolchain's clippy cannot read its `core`; so
/// this is `cargo clippy` with rustup's nightly and `cargo check` with Debian's.
pub fn check(options: &Options) -> Result<(), Error> {
    let toolchain = Toolchain::find()?;
    let subcommand = match toolchain {
        Toolchain::System => "check",
        Toolchain::Nightly => "clippy",
    };
    let mut command = toolchain.cargo(subcommand, &find_linker()?, &["-Dwarnings"], options);
    run(command.arg("--bins"))
}

fn run(command: &mut Command) -> Result<(), Error> {
    // A build script's stdout is read by cargo; stderr is where people look.
    let status = command
        .stdout(Stdio::null())
        .status()
        .map_err(|source| Error::Start { command: command_line(command), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: command_line(command), status })
}

/// The folder into which `cargo xtask setup` installs `bpf-linker`, as `bin/bpf-linker`.
#[must_use]
pub fn tools_dir() -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME")?).join(".cache"),
    };
    Some(cache.join("maclane/tools"))
}

/// The `bpf-linker` that `cargo xtask setup` installed, else the one in `PATH`. One that does
/// not start (it links to a shared LLVM, which may be gone) does not count.
pub fn find_linker() -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    tools_dir()
        .map(|tools| tools.join("bin"))
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("bpf-linker"))
        .find(|linker| linker.is_file() && starts(linker))
        .ok_or(Error::Missing { need: "a working `bpf-linker`" })
}

fn starts(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn holds_core(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn rustup_nightly(tool: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", tool]);
    command
}

/// Flags of the compiler, separated as `CARGO_ENCODED_RUSTFLAGS` wants them.
fn rustflags(linker: &Path, more: &[&str]) -> OsString {
    // aya-ebpf names this one architecture differently from rustc.
    let arch = if env::consts::ARCH.starts_with("riscv64") { "riscv64" } else { env::consts::ARCH };
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(linker);
    let mut flags = vec![
        OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\"")),
        // 32-bit arithmetic and jumps, which every kernel that maclane runs on has (Linux 5.1).
        "-Ctarget-cpu=v3".into(),
        // The programs' BTF is made of their debug information.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        linker_flag,
    ];
    flags.extend(more.iter().map(OsString::from));
    flags.join(OsStr::new("\x1f"))
}

/// Takes away what an outer cargo, or its user, set for the host's build and what would bend
/// this one. The jobserver, the registry and the network settings stay.
fn shed_outer_cargo(command: &mut Command) {
    const NAMES: &[&str] = &[
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_LINKER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: &[&str] = &[
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_UNSTABLE_",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if NAMES.contains(&text) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

fn has_lockfile(manifest_dir: &Path) -> bool {
    manifest_dir.ancestors().any(|dir| dir.join("Cargo.lock").exists())
}

fn llvm_major(rustc_verbose_version: &str) -> Option<u32> {
    let version = rustc_verbose_version.lines().find_map(|l| l.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_rustc() {
        let cases = [
            ("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.4\n", Some(22)),
            ("rustc 1.96.0\nLLVM version: 9", Some(9)),
            ("rustc 1.96.0\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(llvm_major(text), expected, "{text:?}");
        }
    }

    #[test]
    fn errors_name_the_way_out() {
        let error = Error::Missing { need: "a working `bpf-linker`" }.to_string();
        assert!(error.contains("bpf-linker") && error.contains("cargo xtask setup"), "{error}");
    }

    #[test]
    fn flags_carry_the_linker_and_are_separated() {
        let flags = rustflags(Path::new("/opt/bpf-linker"), &["-Dwarnings"]);
        let flags = flags.to_str().expect("flags are text");
        let words: Vec<_> = flags.split('\x1f').collect();
        assert!(words.contains(&"-Clinker=/opt/bpf-linker"), "{words:?}");
        assert_eq!(words.last(), Some(&"-Dwarnings"));
    }
}
