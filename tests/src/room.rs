//! A part of the machine for the programs of one host, beside its network: what Docker keeps at
//! places that cannot be chosen.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    panic,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::Signal,
};
use tempfile::TempDir;

use crate::{
    netns::Netns,
    process::{self, Process},
    unique,
};

/// Where the hierarchies of cgroups are, or the only one.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Longer than the kernel takes to end everything in a room.
const PATIENCE: Duration = Duration::from_secs(10);

/// What begins in a room and ends with it: it gives the room file systems of its own, says that they
/// are there, and reaps whatever is left without a parent until nobody holds the other end of its
/// stdin any more.
///
/// - `/run` is the room's own, because dockerd looks for plugins in `/run/docker/plugins` and shims
///   listen in `/run/containerd`; `/run/netns` stays what it is, also as namespaces come and go.
/// - In `/etc/docker` are the machine's settings, plugins and keys.
/// - containerd makes itself folders in `/opt`.
const INIT: &str = r"
set -e
mount -t proc proc /proc
mount --rbind /run/netns $1
mount -t tmpfs -o mode=0755 run /run
mkdir -p /run/netns /run/lock /run/opt /run/opt.work
mount --move $1 /run/netns
mkdir -p /opt
mount -t overlay -o lowerdir=/opt,upperdir=/run/opt,workdir=/run/opt.work opt /opt
mkdir -p /etc/docker
mount -t tmpfs -o mode=0755 docker /etc/docker
echo ready
exec 3<&0 >/dev/null
cat <&3 &
while kill -0 $!; do wait $!; done 2>/dev/null
";

/// The network of a host, and process ids and mounts of its own. What is started in it ends with
/// it, also what has daemonized itself, and however the test ends.
///
/// Clones are the same room; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Process 1 of the room. The kernel ends whatever else is in there with it.
    init: Process,
    mounts: File,
    ids: File,
    net: File,
    /// In which cgroup containers are made.
    cgroup: String,
    /// Goes after `init`.
    dir: TempDir,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.init.signal(Signal::SIGKILL);
        // Ends after everything else in the room; then nobody writes to the folder.
        if self.init.wait(PATIENCE).is_none() {
            eprintln!("something that was started in a room is held longer than the room");
        }
        let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
        let hierarchies = hierarchies.map(|entry| entry.path()).chain([CGROUPS.into()]);
        hierarchies.for_each(|hierarchy| remove_cgroup(&hierarchy.join(&self.cgroup)));
    }
}

/// Removes a cgroup and those in it, which have no processes any more.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("cannot remove the cgroup {}: {error}", path.display());
    }
}

impl Room {
    /// A room with the network of a host.
    #[track_caller]
    #[must_use]
    pub fn new(ns: &Netns) -> Self {
        let dir = tempfile::Builder::new().prefix("maclane-room-").tempdir();
        let dir = dir.expect("a temporary folder can be made");
        let kept = dir.path().join("netns");
        fs::create_dir(&kept).expect("a folder can be made");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", INIT, "room"]).arg(&kept);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let net = open(&ns.path());
        let start = || {
            // For the children of this thread: the first of them is process 1.
            setns(&net, CloneFlags::CLONE_NEWNET)
                .and_then(|()| unshare(CloneFlags::CLONE_NEWPID))
                .expect("root makes namespaces");
            Process::start(&mut command)
        };
        let mut init = in_thread(start);
        let said = init.streams().stdout.take().expect("stdout is piped");
        let mut line = String::new();
        let read = BufReader::new(said).read_line(&mut line);
        assert!(read.is_ok() && line == "ready\n", "the room is not made: {read:?} {line:?}");
        let of = |what: &str| open(Path::new(&format!("/proc/{}/ns/{what}", init.id())));
        let cgroup = unique("mltest");
        Self(Arc::new(Inner { mounts: of("mnt"), ids: of("pid"), net, cgroup, init, dir }))
    }

    /// A folder that is the same inside and outside, and goes with the room.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// The name of a cgroup below the root of each hierarchy, which goes with the room.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.0.cgroup
    }

    /// Where a file of the room is outside. It may be nothing behind a link.
    #[must_use]
    pub fn outside(&self, inside: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.0.init.id()));
        root.join(inside.strip_prefix("/").expect("an absolute path"))
    }

    /// Calls a function that sees the room's files and network.
    #[track_caller]
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        in_thread(|| {
            // Threads share a root and a working directory, which leaves them no mounts of
            // their own.
            unshare(CloneFlags::CLONE_FS)
                .and_then(|()| setns(&self.0.net, CloneFlags::CLONE_NEWNET))
                .and_then(|()| setns(&self.0.ids, CloneFlags::CLONE_NEWPID))
                .and_then(|()| setns(&self.0.mounts, CloneFlags::CLONE_NEWNS))
                .expect("the room is there");
            function()
        })
    }

    /// Starts a command inside; its id is that outside. It has to be dropped before the room.
    #[track_caller]
    #[must_use]
    pub fn start(&self, command: &mut Command) -> Process {
        self.enter(|| Process::start(command))
    }

    /// Runs a command inside to its end, however that is.
    #[track_caller]
    pub fn output(&self, command: &mut Command) -> Output {
        self.enter(|| process::output(command))
    }
}

/// Calls a function in a thread of its own, which may move it to other namespaces.
#[track_caller]
fn in_thread<T: Send>(function: impl FnOnce() -> T + Send) -> T {
    let result = thread::scope(|scope| scope.spawn(function).join());
    result.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

#[track_caller]
fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}
