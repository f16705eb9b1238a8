//! What a virtual machine boots into: the test programs, what they start, and little else.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{archive::Archive, kernel::Kernel};
use crate::{command, setup, test::Programs};

/// What begins in the machine.
const INIT: &str = include_str!("init.sh");

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
    "drivers/net/veth",
    "drivers/net/macvlan",
    "drivers/net/bonding/bonding",
];

/// Programs of `busybox` that the init script uses.
const APPLETS: &[&str] = &["sh", "mount", "umount", "mkdir", "insmod", "poweroff", "sleep", "cat"];

/// The test programs that run there: those that ask something of the kernel. Where an emulator has no time for
/// all tests of one, these of it. And on which kernels.
///
/// The others are about the daemon and its files, hundreds of times over, or with a real Docker and other real
/// servers, for which the machine has no place: `docker_vlan` does by itself what Docker asks of the kernel.
const HERE: &[(&str, &[&str], &[&str])] = &[
    ("object", ALL, BOTH),
    ("fixtures", ALL, BOTH),
    (
        "reach",
        &[
            "parent_add_gives_existing_bridge_children_the_host_and_parent_rm_takes_it_away",
            "everybody_in_a_vlan_reaches_everybody",
            "a_passthru_child_takes_the_parent",
        ],
        BOTH,
    ),
    (
        "vlan",
        &[
            "a_broadcast_reaches_every_other_member_of_its_vlan_exactly_once",
            "unicast_from_the_wire_through_generic_xdp_reaches_its_child_in_its_vlan_only",
            "nobody_speaks_for_another",
        ],
        BOTH,
    ),
    (
        "foreign",
        &[
            "strangers_before_and_after_ours_on_tcx_all_run",
            "strangers_before_and_after_ours_in_clsact_all_run",
            "a_link_that_somebody_detaches_is_attached_again",
        ],
        BOTH,
    ),
    (
        "life",
        &[
            "killed_under_load_it_loses_no_frame_and_finds_everything_as_it_was",
            "clsact_serves_where_tcx_is_missing",
        ],
        BOTH,
    ),
    ("upgrade", &["another_way_of_attaching_replaces_the_first"], BOTH),
    ("strangers", &["a_clsact_qdisc_of_somebody_else_stays_with_its_filters"], BOTH),
    (
        "security",
        &[
            "no_attack_of_a_child_reaches_anybody_and_each_is_counted_as_what_it_is",
            "without_security_each_attack_is_heard_but_those_that_no_switch_would_carry",
            "no_mark_makes_a_child_its_sibling",
            "a_macvlan_that_a_child_makes_on_its_own_is_held_to_the_childs_rules",
            "without_guards_a_macvlan_child_can_be_its_sibling_and_lie_to_those_in_bridge_mode",
            "nobody_on_the_wire_can_say_to_be_a_pinned_gateway",
        ],
        BOTH,
    ),
    // These need modules that the running kernel may not have, and take one of the two.
    ("other_links", ALL, &["6.1"]),
    ("docker_vlan", ALL, &["6.1"]),
    ("sub_interface", ALL, &["6.12"]),
];

/// Both kernels.
const BOTH: &[&str] = &["6.1", "6.12"];

/// Every test of a program.
const ALL: &[&str] = &[];

/// Files of this machine that programs look into.
const FILES: &[&str] = &["/etc/passwd", "/etc/group", "/etc/protocols", "/etc/nsswitch.conf"];

/// Writes the archive that boots into the tests.
pub(crate) fn build(
    to: &Path,
    kernel: &Kernel,
    programs: &Programs,
    threads: usize,
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
    for program in setup::test_programs() {
        let path = command::find(program);
        let path =
            path.with_context(|| format!("cannot find `{program}`; run `cargo xtask setup`"))?;
        let place = Path::new("/usr/bin").join(program);
        add_program(&mut image, &place, &path)?;
    }
    add_modules(&mut image, kernel)?;
    add_program(&mut image, Path::new("/usr/bin/maclane"), &programs.maclane)?;
    add_program(&mut image, Path::new("/usr/bin/maclane-failpoints"), &programs.failpoints)?;
    for object in ["dataplane", "guard"] {
        image.copy(&Path::new("/objects").join(object), &programs.objects.join(object))?;
    }
    let mut words = String::new();
    for argument in arguments {
        let quoted = argument.to_string_lossy().replace('\'', "'\\''");
        write!(words, " '{quoted}'")?;
    }
    let mut run = String::new();
    let here = HERE.iter().filter(|(_, _, on)| on.contains(&kernel.version.as_str()));
    for (name, chosen, _) in here {
        let path = programs.tests.get(*name);
        let path = path.with_context(|| format!("there is no test program `{name}`"))?;
        add_program(&mut image, &Path::new("/tests").join(name), path)?;
        let listed = command::output(Command::new(path).arg("--list"))?;
        for test in *chosen {
            let is_there = listed.contains(&format!("{test}: test"));
            ensure!(
                is_there,
                "`{name}` has no test {test}; put right what `HERE` in {} says",
                file!()
            );
        }
        // Whoever asks for tests by name gets those.
        let chosen = if arguments.is_empty() { chosen.join(" ") } else { String::new() };
        writeln!(run, "run {name} --test-threads={threads}{words} {chosen}")?;
    }
    image.bytes(Path::new("/tests.sh"), 0o644, run.as_bytes())?;
    image.finish()
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

fn add_modules(image: &mut Archive, kernel: &Kernel) -> Result<()> {
    let mut names = String::new();
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
        image.bytes(Path::new(&format!("/modules/{name}.ko")), 0o644, &bytes)?;
        writeln!(names, "{name}")?;
    }
    image.bytes(Path::new("/modules/list"), 0o644, names.as_bytes())
}
