//! `maclane_sockopt` on the root of the cgroup hierarchy: one for each parent, beside the programs of
//! others.

use std::{
    fs::File,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::programs::CgroupSockopt;

use super::{Dataplane, program, sys};
use crate::{
    error::{Context, Error, Result},
    failpoint::{self, failpoint},
};

/// The name of its link.
const LINK: &str = "sockopt";

/// The root of the cgroup v2 hierarchy.
///
/// # Errors
///
/// None is mounted here, or what is mounted is not the root: that of a cgroup namespace. A program
/// there sees the sockets of the daemon's own container alone.
pub(crate) fn cgroup_root(mountinfo: &str) -> Result<PathBuf> {
    let way_out = "run the daemon on the host, or in a container with --cgroupns=host and the host's \
                   /sys/fs/cgroup";
    // proc_pid_mountinfo(5): the fifth field is the mount point, and the type follows a lone hyphen.
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, fs) = line.split_once(" - ")?;
        fs.starts_with("cgroup2 ").then_some(mount.split(' ').nth(4)?)
    });
    let mut seen = None;
    for mount in mounts {
        let mount = PathBuf::from(mount.replace("\\040", " "));
        // Every cgroup but the root has this file (Documentation/admin-guide/cgroup-v2.rst).
        if mount.join("cgroup.procs").exists() && !mount.join("cgroup.type").exists() {
            return Ok(mount);
        }
        seen = Some(mount);
    }
    Err(Error::failed(match seen {
        Some(mount) => {
            format!("{} is not the root of the cgroup hierarchy; {way_out}", mount.display())
        }
        None => format!("no cgroup2 file system is mounted; {way_out}"),
    }))
}

impl Dataplane {
    /// Loads the program; where the kernel does not take it, why.
    pub(super) fn load_sockopt(&mut self) -> Result<()> {
        failpoint::refuse(program::SOCKOPT)?;
        let loaded = self.sockopt()?.load();
        loaded.doing(|| format!("the kernel does not take the program {}", program::SOCKOPT))
    }

    /// Sees to it that the program is on the root of the cgroup hierarchy.
    ///
    /// # Errors
    ///
    /// The kernel does not take it, or there is no root to attach it to.
    pub(crate) fn attach_sockopt(&mut self) -> Result<()> {
        let path = self.pins.link(LINK);
        if let Some(why) = &self.sockopt_refused {
            self.held.detach(&path)?;
            return Err(Error::failed(why.clone()));
        }
        let wanted = self.sockopt()?.info()?.id();
        // The ID of a cgroup is where that of an interface is in other links.
        if self.held.interface_of(&path).is_some() {
            if self.held.program_id_of(&path) == Some(wanted) {
                return Ok(());
            }
            let program = self.sockopt()?.fd()?.try_clone()?;
            self.held.update(&path, &program)?;
            failpoint!("sockopt.replaced");
            return Ok(());
        }
        self.held.detach(&path)?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        self.attach_to(&cgroup_root(&mounts)?, &path)
    }

    fn attach_to(&mut self, root: &Path, path: &Path) -> Result<()> {
        let doing = || format!("cannot attach {} to {}", program::SOCKOPT, root.display());
        let cgroup = File::open(root).doing(doing)?;
        let program = self.sockopt()?.fd()?.as_fd();
        let link = sys::attach_setsockopt(program, cgroup.as_fd()).doing(doing)?;
        failpoint!("sockopt.attached");
        sys::pin(link.as_fd(), path).doing(doing)?;
        failpoint!("sockopt.pinned");
        self.held.hold(path)
    }

    fn sockopt(&mut self) -> Result<&mut CgroupSockopt> {
        let program = self.ebpf.program_mut(program::SOCKOPT);
        let program = program.ok_or_else(|| Error::failed("the object has no such program"))?;
        Ok(program.try_into()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mounts of no cgroup, and of what is not there, are refused with the way out.
    #[test]
    fn a_missing_root_is_refused() {
        let line =
            "36 25 0:31 / /nowhere/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        for (mounts, says) in [
            ("", "no cgroup2 file system is mounted"),
            ("36 25 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw", "no cgroup2 file system"),
            (line, "/nowhere/cgroup is not the root"),
        ] {
            let error = cgroup_root(mounts).unwrap_err();
            assert!(error.message.contains(says), "{mounts}: {error}");
            assert!(error.message.contains("--cgroupns=host"), "{error}");
        }
    }
}
