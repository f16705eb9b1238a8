//! What the kernel has, and what this process may do with it.

use std::{fs, path::Path};

use nix::{
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use super::{fail, ok, warn};
use crate::{kernel, model::Finding};

/// What the daemon needs, with the bits of `include/uapi/linux/capability.h`.
const CAPABILITIES: [(&str, u32); 3] =
    [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// `net.core.netdev_max_backlog` as kernels come.
const BACKLOG: u32 = 1000;

const BPFFS: &str = "/sys/fs/bpf";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Everything that does not depend on an interface.
pub(super) fn findings() -> Vec<Finding> {
    let release = kernel::release();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let modules = ["dep", "builtin"]
        .map(|list| fs::read_to_string(format!("/lib/modules/{release}/modules.{list}")))
        .map(Result::unwrap_or_default)
        .concat();
    let has = |module, symbol| Available::look(&modules, &symbols, module, symbol);
    vec![
        version(&release),
        capabilities(&status, geteuid().is_root()),
        btf(Path::new(BTF)),
        bpffs(Path::new(BPFFS)),
        has("macvlan", "macvlan_common_newlink")
            .finding("macvlan", "children of kind macvlan cannot be made, those of kind veth can"),
        has("8021q", "register_vlan_dev").finding(
            "8021q",
            "the host itself cannot have VLAN sub-interfaces; children in VLANs need none",
        ),
        backlog(&fs::read_to_string("/proc/sys/net/core/netdev_max_backlog").unwrap_or_default()),
    ]
}

fn version(release: &str) -> Finding {
    match kernel::version(release) {
        None => warn("kernel", format!("\"{release}\" has no version that could be understood")),
        Some(old) if old < kernel::OLDEST => fail("kernel", kernel::too_old(release).message),
        Some(no_tcx) if no_tcx < kernel::TCX => warn(
            "kernel",
            format!(
                "{release} has no TCX: clsact is used, and a child is known by its source MAC only; TCX comes with {}.{}",
                kernel::TCX.0,
                kernel::TCX.1
            ),
        ),
        Some(_) => ok("kernel", format!("{release}, with TCX")),
    }
}

fn capabilities(status: &str, root: bool) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return ok("capabilities", "all that the daemon needs");
    }
    let missing = missing.join(", ");
    if root {
        let why = "a container runtime or a service's CapabilityBoundingSet took it away";
        fail("capabilities", format!("this process is root without {missing}: {why}; give it back"))
    } else {
        let way_out = "the daemon needs it; check what root has with \"sudo maclane doctor\"";
        warn("capabilities", format!("this process has no {missing}; {way_out}"))
    }
}

fn btf(path: &Path) -> Finding {
    if path.exists() {
        ok("btf", path.display().to_string())
    } else {
        let way_out = "use a kernel with CONFIG_DEBUG_INFO_BTF=y";
        fail("btf", format!("{} is not there; {way_out}", path.display()))
    }
}

fn bpffs(path: &Path) -> Finding {
    let shown = path.display();
    match statfs(path) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            ok("bpffs", format!("mounted at {shown}"))
        }
        Ok(_) => fail(
            "bpffs",
            format!("no BPF file system at {shown}; mount it with \"mount -t bpf bpf {shown}\""),
        ),
        Err(e) => fail(
            "bpffs",
            format!(
                "cannot look at {shown}: {}; is sysfs mounted (\"mount -t sysfs sysfs /sys\")?",
                e.desc()
            ),
        ),
    }
}

fn backlog(text: &str) -> Finding {
    const CHECK: &str = "netdev_max_backlog";
    match text.trim().parse::<u32>() {
        Ok(packets) if packets >= BACKLOG => ok(CHECK, format!("{packets} packets")),
        Ok(packets) => warn(
            CHECK,
            format!(
                "{packets} packets: bursts between the host and its children are dropped; \"sysctl -w net.core.netdev_max_backlog={BACKLOG}\" or more"
            ),
        ),
        Err(_) => ok(CHECK, "set in the initial network namespace, which this is not"),
    }
}

/// Whether the kernel has a driver.
#[derive(Debug, PartialEq, Eq)]
enum Available {
    /// Built in, or loaded.
    Loaded,
    /// As a module that is loaded when it is needed.
    Module,
    No,
    /// Neither symbols nor lists of modules can be read.
    Unknown,
}

impl Available {
    /// `modules` is the text of `modules.dep` and `modules.builtin`, `symbols` that of
    /// `/proc/kallsyms`, `symbol` a function that only this driver has.
    fn look(modules: &str, symbols: &str, module: &str, symbol: &str) -> Self {
        let listed = format!("/{module}.ko");
        if symbols.lines().any(|line| line.split_whitespace().nth(2) == Some(symbol)) {
            Self::Loaded
        } else if modules.contains(&listed) {
            Self::Module
        } else if symbols.is_empty() {
            Self::Unknown
        } else {
            Self::No
        }
    }

    fn finding(self, module: &str, without: &str) -> Finding {
        match self {
            Self::Loaded => ok(module, "in the kernel"),
            Self::Module => ok(module, "a module, loaded when it is needed"),
            Self::No => warn(
                module,
                format!(
                    "not in this kernel: {without}; install the package with this kernel's modules"
                ),
            ),
            Self::Unknown => warn(
                module,
                "cannot be found out: neither /proc/kallsyms nor /lib/modules can be read",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_old_limited_or_good() {
        let cases = [
            ("5.15.0-91-generic", "fail"),
            ("6.0.19", "fail"),
            ("6.1.0-18-amd64", "warn"),
            ("6.5.13", "warn"),
            ("6.6.0", "ok"),
            ("6.12.48+deb13-cloud-amd64", "ok"),
            ("7.0-rc1", "ok"),
            ("mainline", "warn"),
            ("", "warn"),
        ];
        for (release, status) in cases {
            assert_eq!(version(release).status, status, "{release}");
        }
    }

    #[test]
    fn capabilities_name_what_is_missing() {
        let status = |bits: u64| format!("Name:\tmaclane\nCapEff:\t{bits:016x}\nSeccomp:\t0\n");
        assert_eq!(capabilities(&status(0x1ff_ffff_ffff), true).status, "ok");
        let docker = capabilities(&status(0xa804_25fb), true);
        assert_eq!(docker.status, "fail");
        assert!(docker.detail.contains("CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF"), "{docker:?}");
        assert_eq!(capabilities(&status(0), false).status, "warn");
    }

    #[test]
    fn drivers_are_found_in_symbols_and_in_lists() {
        let symbols = "0000 T macvlan_common_newlink\t[macvlan]\n0000 t other\n";
        let look = |modules, symbols| {
            Available::look(modules, symbols, "macvlan", "macvlan_common_newlink")
        };
        assert_eq!(look("", symbols), Available::Loaded);
        assert_eq!(look("kernel/drivers/net/macvlan.ko.zst:\n", "0 T x\n"), Available::Module);
        assert_eq!(look("kernel/drivers/net/ipvlan.ko:\n", "0 T x\n"), Available::No);
        assert_eq!(look("", ""), Available::Unknown);
    }

    #[test]
    fn a_directory_is_not_a_bpf_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let finding = bpffs(dir.path());
        assert_eq!(finding.status, "fail");
        assert!(finding.detail.contains("mount -t bpf"), "{finding:?}");
    }

    #[test]
    fn a_short_backlog_is_worth_a_word() {
        for (text, status) in [("1000\n", "ok"), ("300\n", "warn"), ("", "ok")] {
            assert_eq!(backlog(text).status, status, "{text}");
        }
    }
}
