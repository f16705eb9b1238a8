//! Network namespaces: finding them, and working inside one.

mod descent;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        stat::fstat,
        statfs::fstatfs,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use descent::Processes;

use crate::error::{Error, Result};

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";

/// Where namespaces are bound by those who make them.
const BOUND: [&str; 2] = [NAMED, "/run/docker/netns"];

/// `include/uapi/asm-generic/socket.h`.
const SO_NETNS_COOKIE: i32 = 71;

/// `NSFS_MAGIC` (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Which namespace it is, as long as it lives: the inode number, which the next one may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NetnsId(u64);

/// Which namespace it was, for all time: its cookie (`SO_NETNS_COOKIE`), which is never given out
/// again until the next boot, and the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NetnsProof {
    /// Its cookie.
    cookie: u64,
    /// The boot (`/proc/sys/kernel/random/boot_id`).
    boot: String,
}

/// An open network namespace. It lives as long as this value: hold it for a moment only.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    path: PathBuf,
    id: NetnsId,
}

impl Netns {
    /// Opens what a user named: a name (below /run/netns), a path, or `pid:N`.
    pub(crate) fn open(spec: &str) -> Result<Self> {
        let path = match spec.strip_prefix("pid:") {
            Some(pid) => format!("/proc/{pid}/ns/net").into(),
            None if spec.contains('/') => PathBuf::from(spec),
            None => Path::new(NAMED).join(spec),
        };
        Self::open_path(&path)
    }

    /// Opens the namespace at a path.
    pub(crate) fn open_path(path: &Path) -> Result<Self> {
        let gone = |cause: String| {
            Error::not_found(format!(
                "network namespace {} is not there: {cause}; see `ip netns`, or name a process with pid:N",
                path.display()
            ))
        };
        // Without opening it for real: what is no namespace may be a pipe, which would wait for somebody
        // to write, or a device.
        let mut place = File::options();
        let place = place.read(true).custom_flags(libc::O_PATH).open(path);
        let place = place.map_err(|e| gone(e.to_string()))?;
        let fs = fstatfs(&place).map_err(|e| gone(e.to_string()))?;
        if fs.filesystem_type().0 != NSFS_MAGIC {
            return Err(gone("it is no namespace".into()));
        }
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()));
        let file = file.map_err(|e| gone(e.to_string()))?;
        let id = NetnsId(fstat(&file).map_err(|e| gone(e.to_string()))?.st_ino);
        Ok(Self { file, path: path.to_owned(), id })
    }

    /// The namespace of the daemon.
    pub(crate) fn own() -> Result<Self> {
        Self::open_path(Path::new("/proc/self/ns/net"))
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which it is.
    pub(crate) fn id(&self) -> NetnsId {
        self.id
    }

    /// For netlink messages.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` on a thread inside the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                    setns(self.as_fd(), CloneFlags::CLONE_NEWNET).map(|()| work())
                })?;
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.map_err(|e| {
                Error::failed(format!(
                    "cannot enter network namespace {}: {}; maclane needs CAP_SYS_ADMIN",
                    self.path.display(),
                    e.desc()
                ))
            })
        })
    }

    /// Its cookie (`SO_NETNS_COOKIE`, since Linux 5.14), by which the dataplane knows the namespace of
    /// a socket.
    pub(crate) fn cookie(&self) -> Result<u64> {
        self.inside(cookie)?
    }

    /// What tells it from every other one, dead ones too.
    pub(crate) fn proof(&self) -> Result<NetnsProof> {
        Ok(NetnsProof { cookie: self.cookie()?, boot: boot()? })
    }

    /// The namespace that `proof` was taken of, if it can be found.
    pub(crate) fn with_proof(proof: &NetnsProof) -> Option<Self> {
        if boot().is_ok_and(|boot| boot != proof.boot) {
            return None;
        }
        let is_it = |netns: &Self| netns.proof().is_ok_and(|other| other == *proof);
        let own = Self::own().ok().filter(is_it);
        own.or_else(|| Self::all().ok()?.into_iter().find(is_it))
    }

    /// True if it is bound to a file in the daemon's mount namespace, as `ip netns` and container engines
    /// do with the namespaces that they make. What has entered a mount namespace of its own cannot.
    pub(crate) fn is_bound(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        bound(&mounts).contains(&self.id)
    }

    /// Every namespace that can be found: by name, bound by Docker, or of a running process. The
    /// daemon's own is not among them.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let own = Self::own()?.id;
        let mut found = BTreeMap::new();
        let bound = BOUND.iter().flat_map(|dir| entries(Path::new(dir)));
        let of_processes = entries(Path::new("/proc"))
            .filter(|path| {
                path.file_name()
                    .is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit))
            })
            .map(|path| path.join("ns/net"));
        for path in bound.chain(of_processes) {
            if let Ok(netns) = Self::open_path(&path)
                && netns.id != own
            {
                found.entry(netns.id).or_insert(netns);
            }
        }
        Ok(found.into_values().collect())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What tells this boot of the machine from every other one.
pub(crate) fn boot() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The cookie of the calling thread's namespace.
fn cookie() -> Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or_default();
    // SAFETY: the pointers are to live variables, and `size` is that of `cookie`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    nix::errno::Errno::result(done)?;
    Ok(cookie)
}

/// The network namespaces that a table of mounts has (`proc_pid_mountinfo(5)`: the fourth field is the root
/// of the mount, `net:[INODE]` for one of nsfs).
fn bound(mounts: &str) -> BTreeSet<NetnsId> {
    let inode = |line: &str| {
        let root = line.split(' ').nth(3)?;
        root.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok().map(NetnsId)
    };
    mounts.lines().filter_map(inode).collect()
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_namespaces_are_read_from_the_mounts() {
        let mounts = "24 30 0:22 / /proc rw,nosuid shared:13 - proc proc rw\n\
            412 25 0:4 net:[4026532251] /run/netns/web rw shared:211 - nsfs nsfs rw\n\
            413 25 0:4 mnt:[4026532252] /run/mnt rw shared:211 - nsfs nsfs rw\n";
        assert_eq!(bound(mounts), BTreeSet::from([NetnsId(4_026_532_251)]));
    }
}
