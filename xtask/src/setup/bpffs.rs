//! The BPF file system, in which the daemon pins programs and maps.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::command;

const PATH: &str = "/sys/fs/bpf";

/// Mounts it at its usual place if it is nowhere there and this is root. It is the only thing
/// that setup mounts; without root there is nothing to do, as no test can run either.
pub(crate) fn ensure() -> Result<()> {
    if is_mounted() || !command::is_root() {
        return Ok(());
    }
    eprintln!("mounting the BPF file system at {PATH}");
    command::run(Command::new("mount").args(["-t", "bpf", "-o", "mode=700", "bpf", PATH]))
        .with_context(|| format!("cannot mount the BPF file system at {PATH}; mount it by hand"))
}

/// Its state, in words.
pub(crate) fn state() -> String {
    if is_mounted() { PATH.to_owned() } else { format!("not mounted; root mounts it at {PATH}") }
}

fn is_mounted() -> bool {
    fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| lists_bpffs(&mounts))
}

fn lists_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(PATH) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::lists_bpffs;

    #[test]
    fn bpffs_is_known_by_place_and_type() {
        let cases = [
            ("bpf /sys/fs/bpf bpf rw,nosuid 0 0\n", true),
            ("none /mnt/bpf bpf rw 0 0\n", false),
            ("sysfs /sys/fs/bpf sysfs rw 0 0\n", false),
        ];
        for (mounts, expected) in cases {
            assert_eq!(lists_bpffs(mounts), expected, "{mounts:?}");
        }
    }
}
