//! Network namespaces.

use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    panic,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use nix::{
    fcntl::{Flock, FlockArg},
    libc,
    sched::{CloneFlags, setns},
};

use crate::{
    process::{self, Process},
    unique,
};

/// A network namespace with a name of its own and `lo` up. It is deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    /// Where it is, if it is somebody else's.
    place: Option<PathBuf>,
}

impl Netns {
    /// Makes a namespace.
    #[track_caller]
    #[must_use]
    pub fn new() -> Self {
        let netns = Self { name: unique("ml"), place: None };
        netns.make();
        netns
    }

    /// A namespace that somebody else has made, and removes. `ip netns` does not know its name.
    #[must_use]
    pub fn at(name: &str, path: PathBuf) -> Self {
        Self { name: name.to_owned(), place: Some(path) }
    }

    #[track_caller]
    fn make(&self) {
        {
            let _adding = lock_adding();
            process::run(Command::new("ip").args(["netns", "add", &self.name]));
        }
        self.ip("link set lo up");
    }

    /// Deletes it, until [`make_again`](Self::make_again).
    #[track_caller]
    pub fn delete_all(&self) {
        process::run(Command::new("ip").args(["netns", "del", &self.name]));
    }

    /// Makes a new one of the same name.
    #[track_caller]
    pub fn make_again(&self) {
        self.make();
    }

    /// Makes a namespace without IPv6, whose chatter would enter a test's counts.
    #[track_caller]
    #[must_use]
    pub fn without_ipv6() -> Self {
        let netns = Self::new();
        for which in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{which}/disable_ipv6"), "1");
        }
        netns
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.clone().unwrap_or_else(|| Path::new("/run/netns").join(&self.name))
    }

    /// A command that will run inside. Unlike `ip netns exec`, this leaves it the machine's
    /// /sys, with cgroups and bpffs.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs a command inside to its end, however that is.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> Output {
        process::output(self.command(words[0]).args(&words[1..]))
    }

    /// Runs a command inside and returns its stdout; panics if it fails.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        process::run(self.command(words[0]).args(&words[1..]))
    }

    /// Starts a command inside, which is killed when the guard is dropped.
    #[track_caller]
    #[must_use]
    pub fn spawn(&self, words: &[&str]) -> Process {
        Process::start(self.command(words[0]).args(&words[1..]))
    }

    /// Calls a function inside, in a thread of its own. Sockets that it opens stay in this
    /// namespace.
    #[track_caller]
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let entered = thread::scope(|scope| {
            scope
                .spawn(|| {
                    join(&self.path());
                    function()
                })
                .join()
        });
        entered.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Starts a thread inside.
    pub fn thread<T: Send + 'static>(
        &self,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = self.path();
        thread::spawn(move || {
            join(&path);
            function()
        })
    }

    /// Its cookie (`SO_NETNS_COOKIE`, `include/uapi/asm-generic/socket.h`).
    #[track_caller]
    #[must_use]
    pub fn cookie(&self) -> u64 {
        const SO_NETNS_COOKIE: i32 = 71;
        self.enter(|| {
            let socket = UnixDatagram::unbound().expect("a socket");
            let mut cookie = 0_u64;
            let mut len = 8;
            // SAFETY: the pointers are to live variables, and `len` is the size of `cookie`.
            let done = unsafe {
                let (cookie, len) = ((&raw mut cookie).cast(), &raw mut len);
                libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, cookie, len)
            };
            assert_eq!(done, 0, "a namespace has a cookie");
            cookie
        })
    }

    /// Sets a kernel parameter: `net/ipv4/ip_forward`.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        let written = self.enter(|| std::fs::write(&path, value));
        if let Err(error) = written {
            panic!("cannot write {value:?} to {path} in {}: {error}", self.name);
        }
    }
}

/// Keeps every other test process from adding a namespace: the first `ip netns add` on a machine sets
/// up /run/netns, and two of them at once disturb each other.
#[track_caller]
fn lock_adding() -> Flock<File> {
    let path = std::env::temp_dir().join("maclane-netns.lock");
    let file =
        File::create(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    Flock::lock(file, FlockArg::LockExclusive)
        .unwrap_or_else(|(_, e)| panic!("cannot lock {}: {e}", path.display()))
}

/// Moves the calling thread into the namespace for good.
fn join(path: &Path) {
    let file =
        File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    setns(file, CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("cannot enter {}: {error}", path.display()));
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.place.is_some() {
            return;
        }
        let output = process::output(Command::new("ip").args(["netns", "del", &self.name]));
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            eprintln!("cannot delete the namespace {}: {}", self.name, error.trim());
        }
    }
}
