//! What every virtual machine boots into: the test programs, what they start, the modules of each
//! kernel, and little else.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{archive::Archive, kernel::Kernel};
use crate::{
    command, setup,
    test::{Programs, selection},
    workspace,
};

/// What begins in the machine.
const INIT: &str = include_str!("init.sh");

/// The profile of nextest, in `.config/nextest.toml`.
const PROFILE: &str = "machine";

/// Modules that the tests need, in the order in which they are loaded. A kernel may have one
/// built in, or not at all.
const MODULES: &[&str] = &[
    "net/llc/llc",
    "net/802/stp",
    "net/802/garp",
    "net/802/mrp",
    "net/8021q/8021q",
    "net/bridge/bridge",
    "net/tls/tls",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
    "net/sched/act_mirred",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/macvlan",
    "drivers/net/bonding/bonding",
    "drivers/net/team/team",
    "drivers/net/team/team_mode_roundrobin",
    "drivers/net/ipvlan/ipvlan",
    "net/ipv4/tunnel4",
    "net/ipv4/ip_tunnel",
    "net/ipv4/ipip",
    "net/ipv4/gre",
    "net/ipv4/ip_gre",
    "net/ipv4/udp_tunnel",
    "net/ipv6/ip6_udp_tunnel",
    "drivers/net/vxlan/vxlan",
    // MACsec finds its cipher only when it is used.
    "crypto/crypto_null",
    // Before Linux 6.2 in the other folder.
    "crypto/gf128mul",
    "lib/crypto/gf128mul",
    "crypto/ghash-generic",
    "crypto/gcm",
    "drivers/net/macsec",
    // Emulated cards.
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/net/vmxnet3/vmxnet3",
];

/// Programs of `busybox` that the init script uses.
const APPLETS: &[&str] =
    &["sh", "mount", "umount", "mkdir", "insmod", "poweroff", "sleep", "cat", "uname"];

/// Files of this machine that programs look into.
const FILES: &[&str] = &["/etc/passwd", "/etc/group", "/etc/protocols", "/etc/nsswitch.conf"];

/// The workspace in the machine, wherever it is on this one, and cargo's folder in it.
const ROOT: &str = "/maclane";
const TARGET: &str = "/maclane/target";

/// nextest's descriptions of workspace and programs in the machine.
const WORKSPACE: &str = "/tests/workspace.json";
const PROGRAMS: &str = "/tests/programs.json";

/// Writes the archive that boots into the tests on any of the kernels.
pub(crate) fn build(
    to: &Path,
    kernels: &[Kernel],
    programs: &Programs,
    arguments: &[OsString],
) -> Result<()> {
    let mut image = Archive::create(to)?;
    for dir in ["/proc", "/sys", "/dev", "/tmp", "/run", "/var", "/root"] {
        image.dir(Path::new(dir))?;
    }
    image.bytes(Path::new("/init"), 0o755, INIT.as_bytes())?;
    image.copy(Path::new("/bin/busybox"), Path::new("/bin/busybox"))?;
    for applet in APPLETS {
        image.link(&Path::new("/bin").join(applet), "busybox")?;
    }
    for file in FILES.iter().map(Path::new).filter(|file| file.exists()) {
        image.copy(file, file)?;
    }
    for program in setup::test_programs().chain(["cargo-nextest"]) {
        let path = command::find(program);
        let path =
            path.with_context(|| format!("cannot find `{program}`; run `cargo xtask setup`"))?;
        add_program(&mut image, &Path::new("/usr/bin").join(program), &path)?;
    }
    add_program(&mut image, Path::new("/usr/bin/maclane"), &programs.maclane)?;
    for object in ["dataplane", "guard"] {
        image.copy(&Path::new("/objects").join(object), &programs.objects.join(object))?;
    }
    add_tests(&mut image, programs)?;
    for kernel in kernels {
        add_modules(&mut image, kernel)?;
        let script = script(&kernel.version, arguments);
        image.bytes(&Path::new("/tests").join(&kernel.version), 0o644, script.as_bytes())?;
    }
    image.finish()
}

/// The part of the init script that runs the tests of a kernel.
fn script(version: &str, arguments: &[OsString]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    // Tests named on the command line are those tests alone, from every program that is there.
    let filter = if arguments.is_empty() {
        selection::in_machine(version)
    } else {
        selection::programs_in_machine(version)
    };
    let mut run = format!(
        "cd {ROOT}\ncargo-nextest nextest run --profile {PROFILE} --no-tests pass \
         --cargo-metadata {WORKSPACE} --workspace-remap {ROOT} \
         --binaries-metadata {PROGRAMS} --target-dir-remap {TARGET} -E {filter} --",
        filter = quoted(&filter),
    );
    for argument in arguments {
        run.push(' ');
        run.push_str(&quoted(&argument.to_string_lossy()));
    }
    format!("{run}\nstatus=$?\nmv {TARGET}/nextest/{PROFILE}/junit.xml /tests/junit.xml\n")
}

/// Adds the test programs that a machine runs, where this machine has them, and what nextest has to
/// know of them.
fn add_tests(image: &mut Archive, programs: &Programs) -> Result<()> {
    let list = fs::read(&programs.built.programs)?;
    let mut list: Value = serde_json::from_slice(&list)?;
    let wanted: BTreeSet<&str> = selection::programs().collect();
    let binaries = list["rust-binaries"].as_object_mut().context("nextest lists no programs")?;
    binaries.retain(|id, binary| {
        let name = binary["binary-name"].as_str().unwrap_or_default();
        id.starts_with("tests::") && wanted.contains(name)
    });
    ensure!(binaries.len() == wanted.len(), "nextest does not list every one of {wanted:?}");
    let target = workspace::target_dir();
    for binary in binaries.values() {
        let path = Path::new(binary["binary-path"].as_str().context("a program without a path")?);
        let place = path.strip_prefix(&target).context("a program outside of cargo's folder")?;
        add_program(image, &Path::new(TARGET).join(place), path)?;
    }
    image.bytes(Path::new(PROGRAMS), 0o644, &serde_json::to_vec(&list)?)?;
    image.copy(Path::new(WORKSPACE), &programs.built.workspace)?;
    // nextest runs each test in the folder of its package, and reads its configuration.
    for file in ["tests/Cargo.toml", "Cargo.toml", ".config/nextest.toml"] {
        image.copy(&Path::new(ROOT).join(file), &workspace::root().join(file))?;
    }
    Ok(())
}

/// Adds a program, without its debug information, and the libraries that it is linked to.
fn add_program(image: &mut Archive, place: &Path, program: &Path) -> Result<()> {
    let program =
        fs::canonicalize(program).with_context(|| format!("cannot find {}", program.display()))?;
    let stripped = tempfile::NamedTempFile::new()?;
    let strip = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(stripped.path())
        .arg(&program)
        .output();
    // What is no ELF file, or stripped already, goes in as it is.
    let bytes = match strip {
        Ok(output) if output.status.success() => fs::read(stripped.path())?,
        _ => fs::read(&program)?,
    };
    image.bytes(place, 0o755, &bytes)?;
    let listed = command::output(Command::new("ldd").arg(&program)).unwrap_or_default();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let library = PathBuf::from(library);
        if !image.has(&library) {
            image.copy(&library, &fs::canonicalize(&library)?)?;
        }
    }
    Ok(())
}

/// Adds the modules of a kernel, and their list.
fn add_modules(image: &mut Archive, kernel: &Kernel) -> Result<()> {
    let dir = Path::new("/modules").join(&kernel.release);
    let mut names = Vec::new();
    for module in MODULES {
        let plain = kernel.modules.join(format!("{module}.ko"));
        let packed = kernel.modules.join(format!("{module}.ko.xz"));
        let bytes = if plain.exists() {
            fs::read(&plain)?
        } else if packed.exists() {
            let output =
                Command::new("xz").args(["--decompress", "--stdout"]).arg(&packed).output();
            output.with_context(|| format!("cannot unpack {}", packed.display()))?.stdout
        } else {
            continue;
        };
        let name = Path::new(module).file_name().unwrap_or_default().to_string_lossy();
        image.bytes(&dir.join(format!("{name}.ko")), 0o644, &bytes)?;
        names.push(name.into_owned());
    }
    image.bytes(&dir.join("list"), 0o644, (names.join("\n") + "\n").as_bytes())
}
