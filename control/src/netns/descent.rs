//! Who controls a network namespace: which others its processes come from.
//!
//! A network namespace has no parent. What its processes share with those of another one, and where they
//! come from, tells: a process that has entered a namespace of its own is still in the PID namespace, the
//! mount namespace or the user namespace of the container that it was started in, or below it
//! (`ioctl_nsfs(2)`, `NS_GET_PARENT`, `NS_GET_USERNS`), or has ancestors that are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use nix::{libc, sys::stat::fstat};

use super::{Netns, NetnsId};

/// `include/uapi/linux/nsfs.h`: `_IO(0xb7, 1)`.
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// `include/uapi/linux/nsfs.h`: `_IO(0xb7, 2)`.
const NS_GET_PARENT: libc::c_ulong = 0xb702;

/// The kinds of namespace by which a container is told from the host, as below `/proc/PID/ns`.
const KINDS: [&str; 3] = ["pid", "mnt", "user"];

/// How far up a chain of namespaces or of processes is gone: the kernel nests 32 at most, and processes
/// may be deeper.
const DEPTH: usize = 64;

/// A process, as far as it tells who controls its network namespace.
struct Process {
    parent: u32,
    net: NetnsId,
    /// By [`KINDS`], inode numbers; 0 where it cannot be read.
    others: [u64; 3],
}

/// The processes of the machine that can be seen, read once.
pub(crate) struct Processes(BTreeMap<u32, Process>);

impl Processes {
    /// Reads `/proc`.
    pub(crate) fn read() -> Self {
        let pids = super::entries(Path::new("/proc"))
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        Self(pids.filter_map(|pid: u32| Some((pid, process(pid)?))).collect())
    }

    /// The namespace among `owners` from which `netns` is controlled.
    ///
    /// `None` says nothing: its processes may be gone, or nothing of them may be left.
    pub(crate) fn owner_of(&self, netns: &Netns, owners: &BTreeSet<NetnsId>) -> Option<NetnsId> {
        let inside = || self.0.iter().filter(|(_, process)| process.net == netns.id());
        let controlled = self.controlled(owners);
        let of_chain = |kind: usize, file: File| {
            chain(file).find_map(|inode| controlled.get(&(kind, inode)).copied())
        };
        let user = related(&netns.file, NS_GET_USERNS).and_then(|user| of_chain(2, user));
        user.or_else(|| {
            inside().find_map(|(pid, _)| {
                KINDS.iter().enumerate().find_map(|(kind, name)| {
                    of_chain(kind, File::open(format!("/proc/{pid}/ns/{name}")).ok()?)
                })
            })
        })
        .or_else(|| inside().find_map(|(pid, _)| self.ancestor_in(*pid, owners)))
    }

    /// The namespaces of processes in `owners` that are not the host's.
    fn controlled(&self, owners: &BTreeSet<NetnsId>) -> BTreeMap<(usize, u64), NetnsId> {
        let hosts: Vec<[u64; 3]> = [1, std::process::id()]
            .iter()
            .filter_map(|pid| self.0.get(pid).map(|process| process.others))
            .collect();
        let of_owners = self.0.values().filter(|process| owners.contains(&process.net));
        of_owners
            .flat_map(|process| {
                let others = process.others.iter().copied().enumerate();
                others.map(|(kind, inode)| ((kind, inode), process.net))
            })
            .filter(|((kind, inode), _)| {
                *inode != 0 && hosts.iter().all(|others| others[*kind] != *inode)
            })
            .collect()
    }

    fn ancestor_in(&self, pid: u32, owners: &BTreeSet<NetnsId>) -> Option<NetnsId> {
        let up = |process: &&Process| self.0.get(&process.parent);
        std::iter::successors(self.0.get(&pid), up)
            .take(DEPTH)
            .map(|process| process.net)
            .find(|net| owners.contains(net))
    }
}

/// A namespace and those above it, by their inode numbers. A mount namespace has none above it.
fn chain(file: File) -> impl Iterator<Item = u64> {
    let above = |file: &File| related(file, NS_GET_PARENT);
    std::iter::successors(Some(file), above)
        .take(DEPTH)
        .filter_map(|file| fstat(&file).ok().map(|stat| stat.st_ino))
}

/// The namespace that an ioctl of nsfs leads to, where there is one that may be seen.
fn related(file: &File, request: libc::c_ulong) -> Option<File> {
    // SAFETY: the descriptor is open, and the request takes no argument.
    let fd = unsafe { libc::ioctl(file.as_raw_fd(), request) };
    // SAFETY: a descriptor that is not negative is new, and no one else's.
    (fd >= 0).then(|| File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn process(pid: u32) -> Option<Process> {
    let inode = |name: &str| fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|m| m.ino());
    Some(Process {
        parent: parent_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?,
        net: NetnsId(inode("net").ok()?),
        others: KINDS.map(|name| inode(name).unwrap_or(0)),
    })
}

/// The parent's ID in `/proc/PID/stat`: the second field after the name, which may hold anything
/// (`proc_pid_stat(5)`).
fn parent_of(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_of("7 (a) S 3 7 7 0"), Some(3));
        assert_eq!(parent_of("7 (a) b) R 1 (c) S 5 7"), Some(5));
        assert_eq!(parent_of("7 (a"), None);
    }

    /// The host's own namespaces tell nothing: what shares only those is not controlled from there.
    #[test]
    fn a_namespace_with_ancestors_elsewhere_has_an_owner() {
        let of = |parent, net, others| Process { parent, net: NetnsId(net), others };
        let processes = Processes(BTreeMap::from([
            (1, of(0, 10, [1, 2, 3])),
            (20, of(1, 11, [1, 4, 3])),
            (21, of(20, 12, [1, 5, 3])),
            (30, of(1, 13, [1, 2, 3])),
        ]));
        let owners = BTreeSet::from([NetnsId(11)]);
        assert_eq!(processes.ancestor_in(21, &owners), Some(NetnsId(11)));
        assert_eq!(processes.ancestor_in(30, &owners), None);
        let controlled = processes.controlled(&owners);
        assert_eq!(controlled.into_iter().collect::<Vec<_>>(), [((1, 4), NetnsId(11))]);
    }
}
