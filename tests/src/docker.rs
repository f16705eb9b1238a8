//! A real Docker: its daemon on a host of a [`Lan`](crate::topology::Lan), and its command line.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{container::Container, eventually, http, process::Process, room::Room};

/// Its daemon; Debian's package `docker.io` has it.
const DOCKERD: &str = "/usr/sbin/dockerd";

/// Its command line, by its path: a machine may have another one of that name further ahead in its
/// PATH.
const DOCKER: &str = "/usr/bin/docker";

/// What [`Dockerd`] makes an image of.
const BUSYBOX: &str = "/usr/bin/busybox";

/// The image of every container.
pub const IMAGE: &str = "busybox";

/// What a container does unless it is told something else: nothing.
const COMMAND: &str = "CMD [\"sleep\", \"1000000\"]";

/// Programs of busybox that are there under their own names.
const APPLETS: [&str; 8] = ["sh", "sleep", "ping", "ip", "cat", "nc", "true", "wget"];

/// What a reboot does to containers, their shims and namespaces, and to the folder `$1` of what dockerd
/// has in memory. Process ids are those of the room.
const LOSE: &str = r#"
[ "$(cat /proc/1/comm)" = sh ] && [ $$ -gt 1 ] || exit 1
for id in $(ls "$1/containerd/daemon/io.containerd.runtime.v2.task/moby"); do
    init=$(cat "$1/containerd/daemon/io.containerd.runtime.v2.task/moby/$id/init.pid")
    shim=$(sed -n 's/^PPid:	//p' "/proc/$init/status")
    [ "$shim" -le 1 ] || kill -9 "$shim"
    kill -9 "$init"
done
umount "$1"/netns/*
rm -rf --one-file-system "$1"
"#;

/// Longer than it takes to start, or to stop, with some containers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Docker's command line in a room.
#[derive(Clone, Debug)]
pub struct Docker {
    room: Room,
    /// The folder of all that its daemon writes.
    dir: PathBuf,
}

/// Docker's daemon, with containers of its own and an image for them. One in a room.
///
/// Its containers end with the room.
#[derive(Debug)]
pub struct Dockerd {
    docker: Docker,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Dockerd {
    /// Starts a daemon in a room, and waits until it answers.
    #[track_caller]
    #[must_use]
    pub fn start(room: &Room) -> Self {
        Self::start_with(room, &[])
    }

    /// The same, with more arguments of `dockerd`.
    #[track_caller]
    #[must_use]
    pub fn start_with(room: &Room, arguments: &[&str]) -> Self {
        let dir = room.dir().join("docker");
        fs::create_dir(&dir).expect("one dockerd in a room");
        let docker = Docker { room: room.clone(), dir };
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut dockerd = Self { docker, arguments, process: None };
        dockerd.launch();
        dockerd.make_image();
        dockerd
    }

    /// Starts it again after [`kill9`](Self::kill9) or [`stop`](Self::stop), and waits until it
    /// answers: then it has dealt with the containers of its former life.
    #[track_caller]
    pub fn launch(&mut self) {
        self.begin();
        self.wait_until_ready();
    }

    /// Starts it, and does not wait for it.
    #[track_caller]
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "dockerd is running already");
        let log = File::options().create(true).append(true).open(self.dir().join("log"));
        let log = log.expect("the log can be opened");
        let mut command = Command::new(DOCKERD);
        command
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            // Also where systemd is process 1, which would be asked to make the cgroups.
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent"])
            .arg(format!("/{}", self.docker.room.cgroup()))
            .arg("--data-root")
            .arg(self.dir().join("data"))
            .arg("--exec-root")
            .arg(self.dir().join("exec"))
            .arg("--pidfile")
            .arg(self.dir().join("pid"))
            .arg("--host")
            .arg(self.docker.host())
            .args(&self.arguments)
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        self.process = Some(self.docker.room.start(&mut command));
    }

    /// Waits until it answers; panics if it has ended.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        eventually("dockerd answers", PATIENCE, || {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("dockerd ended with {status} at its start; its log is below");
            }
            let answer = http::request(&self.docker.socket(), "GET", "/_ping", b"");
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Kills it (SIGKILL). Its containers go on; containerd, which it has started, ends with it.
    #[track_caller]
    pub fn kill9(&mut self) {
        let id = fs::read_to_string(self.dir().join("exec/containerd/containerd.pid"));
        let mut process = self.process.take().expect("dockerd is running");
        process.kill().expect("dockerd can be killed");
        let Ok(id) = id else { return };
        let containerd = self.docker.room.outside(&Path::new("/proc").join(id.trim()));
        eventually("containerd ends with dockerd", PATIENCE, || !containerd.exists());
    }

    /// Asks it to end (SIGTERM), which ends its containers; panics unless it does.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("dockerd is running");
        process.signal(Signal::SIGTERM);
        let ended = process.wait(PATIENCE).expect("dockerd ends after SIGTERM");
        assert!(ended.success(), "dockerd ended with {ended} after SIGTERM");
    }

    /// Its command line, which can be used while this is borrowed, or killed.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Ends everything that a reboot would, after [`kill9`](Self::kill9): its containers, what looks
    /// after them, and what it has in memory.
    #[track_caller]
    pub fn lose_all(&self) {
        assert!(self.process.is_none(), "dockerd is running");
        let exec = self.dir().join("exec");
        let mut command = Command::new("sh");
        let output = self.docker.room.output(command.args(["-c", LOSE, "lose"]).arg(&exec));
        assert!(!exec.exists(), "{output:?}");
    }

    fn dir(&self) -> &Path {
        &self.docker.dir
    }

    /// Makes the image of busybox alone.
    #[track_caller]
    fn make_image(&self) {
        let bin = self.dir().join("image/bin");
        fs::create_dir_all(&bin).expect("the folder can be written to");
        if let Err(error) = fs::copy(BUSYBOX, bin.join("busybox")) {
            panic!("cannot copy {BUSYBOX}: {error}; run `cargo xtask setup`");
        }
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("a link can be made");
        }
        let archive = self.dir().join("image.tar");
        crate::process::run(
            Command::new("tar")
                .arg("-cf")
                .arg(&archive)
                .arg("-C")
                .arg(self.dir().join("image"))
                .arg("."),
        );
        let archive = archive.to_str().expect("a path in UTF-8");
        self.docker.run(&["import", "--change", COMMAND, archive, IMAGE]);
    }

    fn show_log(&self) {
        const LINES: usize = 40;
        let log = self.log();
        // What it says about its own plugins and connections at each start.
        let dull = ["loading plugin", "[core]", "skip loading"];
        let lines: Vec<_> =
            log.lines().filter(|line| !dull.iter().any(|words| line.contains(words))).collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        eprintln!("--- dockerd's log, last {} of {} lines", tail.len(), lines.len());
        eprintln!("{}\n---", tail.join("\n"));
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_log();
        }
        // Before the room.
        self.process = None;
    }
}

impl Docker {
    /// Runs `docker ARGUMENTS`, however that ends.
    #[track_caller]
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.room.output(self.command().args(arguments))
    }

    /// Runs `docker ARGUMENTS` and returns its stdout without the line's end; panics if it fails.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "`docker {}` ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
        );
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs `docker ARGUMENTS`, which has to fail; returns what it says.
    #[track_caller]
    #[must_use]
    pub fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "`docker {}` works: {stdout}", arguments.join(" "));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts `docker ARGUMENTS`, which is killed with the returned value.
    #[track_caller]
    #[must_use]
    pub fn begin(&self, arguments: &[&str]) -> Process {
        let mut command = self.command();
        command
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        self.room.start(&mut command)
    }

    /// What `docker inspect` says of a container, a network or an image.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, what: &str) -> Value {
        let text = self.run(&["inspect", what]);
        let mut list: Vec<Value> = serde_json::from_str(&text).expect("docker prints JSON");
        list.swap_remove(0)
    }

    /// Makes a network: `docker network create NAME MORE`.
    #[track_caller]
    pub fn network(&self, name: &str, more: &str) -> String {
        let mut words = vec!["network", "create"];
        words.extend(more.split_whitespace());
        words.push(name);
        self.run(&words)
    }

    /// Starts a container in a network: `docker run --detach --name NAME --network NETWORK MORE`.
    #[track_caller]
    pub fn container(&self, name: &str, network: &str, more: &str) -> Container {
        let mut words = vec!["run", "--detach", "--name", name, "--network", network];
        // Process 1 of a container ignores SIGTERM, for which Docker would wait 10 s.
        words.extend(["--stop-signal", "SIGKILL"]);
        words.extend(more.split_whitespace());
        words.push(IMAGE);
        self.run(&words);
        Container::new(self.clone(), name)
    }

    /// The room of its daemon.
    #[must_use]
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Where its daemon listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(DOCKER);
        // Without the settings of whoever runs the tests.
        command.env("DOCKER_CONFIG", &self.dir).arg("--host").arg(self.host());
        command
    }
}
