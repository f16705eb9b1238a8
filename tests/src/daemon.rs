//! The daemon and its command line, as a user runs them.

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    eventually,
    mac::Mac,
    netns::Netns,
    process::{self, Process},
    room::Room,
    topology::PARENT,
    unique,
};

pub use crate::program::{binary, objects};

/// The configuration file in a daemon's folder.
const CONFIG: &str = "maclane.toml";

/// Longer than the kernel was seen to keep everybody from links (10 s, after hundreds of namespaces
/// had been deleted).
const PATIENCE: Duration = Duration::from_secs(40);

/// A daemon in the namespace of a host, with state, socket and pins of its own.
///
/// On drop it is ended, and its pins are removed; after a panic the end of its log is shown.
/// The namespace has to outlive it.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    /// The namespace of its host.
    ns_path: PathBuf,
    /// Where it runs, if not on the machine itself.
    room: Option<Room>,
    dir: TempDir,
    bpffs: PathBuf,
    arguments: Vec<String>,
    environment: Option<(String, String)>,
    /// It is told where its configuration file is.
    names_config: bool,
    process: Option<Process>,
}

/// How a [`Daemon`] is started, where a test wants something special.
#[derive(Clone, Debug, Default)]
pub struct Setup<'a> {
    /// The program; [`binary`] if it is absent.
    pub program: Option<PathBuf>,
    /// More arguments of `maclane daemon`.
    pub arguments: &'a [&'a str],
    /// A variable of its environment.
    pub environment: Option<(String, String)>,
    /// The folder below which it pins, which is there; else one of its own is made.
    pub bpffs: Option<PathBuf>,
    /// The room on its host in which it runs, with Docker.
    pub room: Option<Room>,
}

impl Daemon {
    /// Starts a daemon, and waits until it answers.
    #[track_caller]
    #[must_use]
    pub fn start(ns: &Netns) -> Self {
        Self::start_with(ns, &[])
    }

    /// The same, with more arguments of `maclane daemon`.
    #[track_caller]
    #[must_use]
    pub fn start_with(ns: &Netns, arguments: &[&str]) -> Self {
        Self::start_program(binary(), ns, arguments)
    }

    /// The same, with a program of the caller's choice.
    #[track_caller]
    #[must_use]
    pub fn start_program(program: PathBuf, ns: &Netns, arguments: &[&str]) -> Self {
        Self::start_as(ns, Setup { program: Some(program), arguments, ..Setup::default() })
    }

    /// The same, as it is described.
    #[track_caller]
    #[must_use]
    pub fn start_as(ns: &Netns, setup: Setup<'_>) -> Self {
        let mut daemon = Self::prepare(ns, setup);
        daemon.launch();
        daemon
    }

    /// A daemon that is not running yet.
    #[track_caller]
    #[must_use]
    pub fn prepare(ns: &Netns, setup: Setup<'_>) -> Self {
        let bpffs = setup.bpffs.unwrap_or_else(|| Path::new("/sys/fs/bpf").join(unique("mlt")));
        if let Err(error) = fs::create_dir_all(&bpffs) {
            panic!("cannot make {}: {error}; run `cargo xtask setup` as root", bpffs.display());
        }
        let dir = tempfile::Builder::new().prefix("maclane-").tempdir();
        let dir = dir.expect("a temporary folder can be made");
        // Not the one of this machine.
        fs::write(dir.path().join(CONFIG), "").expect("the folder can be written to");
        Self {
            program: setup.program.unwrap_or_else(binary),
            ns_path: ns.path(),
            room: setup.room,
            dir,
            bpffs,
            arguments: setup.arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: setup.environment,
            names_config: true,
            process: None,
        }
    }

    /// With which arguments it is started from now on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Starts it again after [`kill9`](Self::kill9) or [`stop`](Self::stop), with the same
    /// state, and waits until it answers.
    #[track_caller]
    pub fn launch(&mut self) {
        self.begin();
        self.wait_until_ready();
    }

    /// Waits until it answers; panics if it has ended.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        eventually("the daemon answers on its socket", PATIENCE, || {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("the daemon ended with {status} at its start; its log is below");
            }
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// Starts it, and waits until it answers or has ended; true if it answers.
    #[track_caller]
    pub fn try_launch(&mut self) -> bool {
        self.begin();
        let mut answers = false;
        eventually("the daemon answers on its socket, or ends", PATIENCE, || {
            answers = UnixStream::connect(self.socket()).is_ok();
            answers || self.process.as_mut().and_then(Process::ended).is_some()
        });
        if !answers {
            self.process = None;
        }
        answers
    }

    /// Starts it, which has to fail; returns what it says last.
    #[track_caller]
    pub fn refusal(&mut self) -> String {
        assert!(!self.try_launch(), "the daemon starts");
        self.log().lines().last().unwrap_or_default().to_owned()
    }

    /// Starts it, and does not wait for it.
    #[track_caller]
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "the daemon is running already");
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.expect("the log can be opened");
        let mut command = self.command();
        command.arg("daemon");
        if self.names_config {
            command.arg("--config").arg(self.config());
        }
        command
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            .arg("--bpffs")
            .arg(&self.bpffs)
            .args(&self.arguments)
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        self.process = Some(self.start_process(&mut command));
    }

    /// Waits until it has ended by itself; false if it has not in time.
    #[track_caller]
    pub fn wait_for_end(&mut self, timeout: Duration) -> bool {
        if self.process.as_mut().is_some_and(|process| process.wait(timeout).is_none()) {
            return false;
        }
        self.process = None;
        true
    }

    /// Stops it where it stands (SIGSTOP), or lets it go on (SIGCONT).
    #[track_caller]
    pub fn freeze(&self, frozen: bool) {
        let process = self.process.as_ref().expect("the daemon is running");
        process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
    }

    /// Writes its configuration file, which it reads at its start and when it is told to.
    #[track_caller]
    pub fn configure(&self, text: &str) {
        fs::write(self.config(), text).expect("the configuration file can be written");
    }

    /// From its next start on it is not told where its configuration file is.
    pub fn forget_config(&mut self) {
        self.names_config = false;
    }

    /// Tells it to read its configuration file again (SIGHUP).
    #[track_caller]
    pub fn hang_up(&self) {
        self.process.as_ref().expect("the daemon is running").signal(Signal::SIGHUP);
    }

    /// Kills it (SIGKILL), as a crash would.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.running().kill().expect("the daemon can be killed");
        self.process = None;
    }

    /// Asks it to end (SIGTERM); panics unless it does, and with exit code 0.
    #[track_caller]
    pub fn stop(&mut self) {
        let process = self.running();
        process.signal(Signal::SIGTERM);
        let ended = process.wait(PATIENCE).expect("the daemon ends after SIGTERM");
        assert!(ended.success(), "the daemon ended with {ended} after SIGTERM");
        self.process = None;
    }

    /// Stops it and starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Its process id.
    #[track_caller]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the daemon is running").id()
    }

    /// Runs `maclane ARGUMENTS` against it, however that ends.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.arg("--socket").arg(self.socket()).args(arguments);
        match &self.room {
            Some(room) => room.output(&mut command),
            None => process::output(&mut command),
        }
    }

    /// Starts `maclane ARGUMENTS`, which is ended with the returned value.
    #[track_caller]
    #[must_use]
    pub fn begin_cli(&self, arguments: &[&str]) -> Process {
        let mut command = self.command();
        command.arg("--socket").arg(self.socket()).args(arguments);
        self.start_process(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Runs `maclane ARGUMENTS` and returns its stdout; panics if it fails.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(
            output.status.success(),
            "`maclane {}` ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
        );
        String::from_utf8(output.stdout).expect("maclane prints UTF-8")
    }

    /// Runs `maclane -o json ARGUMENTS` and returns what it prints, `null` if that is nothing;
    /// panics if it fails.
    #[track_caller]
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[&["-o", "json"], arguments].concat());
        if text.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|e| {
            panic!("`maclane {}` prints no JSON: {e}: {text}", arguments.join(" "))
        })
    }

    /// Runs `maclane ARGUMENTS`, which has to fail; returns its exit code and its stderr.
    #[track_caller]
    #[must_use]
    pub fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.cli(arguments);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "`maclane {}` works: {stdout}", arguments.join(" "));
        let code = output.status.code().expect("maclane is not killed by a signal");
        (code, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Makes a network on the host's parent.
    #[track_caller]
    pub fn network(&self, name: &str, vlan: u16, kind: &str) {
        let vlan = vlan.to_string();
        let arguments = ["--parent", PARENT, "--vlan", &vlan, "--kind", kind];
        self.run(&[&["network", "create", name], &arguments[..]].concat());
    }

    /// Makes a network on the host's parent, with more arguments of `maclane network create`.
    #[track_caller]
    pub fn network_with(&self, name: &str, more: &str) {
        let mut words = vec!["network", "create", name, "--parent", PARENT];
        words.extend(more.split_whitespace());
        self.run(&words);
    }

    /// The addresses of a child, without their prefix lengths.
    #[track_caller]
    #[must_use]
    pub fn addresses(&self, child: &str) -> Vec<String> {
        let list = self.inspect(child)["ip"].as_array().expect("a list").clone();
        let ip = |address: &Value| address.as_str()?.split('/').next().map(String::from);
        list.iter().filter_map(ip).collect()
    }

    /// Makes a child of a network in a namespace, with an address.
    #[track_caller]
    pub fn child(&self, name: &str, network: &str, ns: &Netns, cidr: &str) -> Mac {
        self.child_with(name, network, ns, &["--ip", cidr])
    }

    /// Makes a child of a network in a namespace, with more arguments of `maclane child add`.
    #[track_caller]
    pub fn child_with(&self, name: &str, network: &str, ns: &Netns, more: &[&str]) -> Mac {
        let arguments = ["child", "add", name, "--network", network, "--netns", ns.name()];
        let child = self.json(&[&arguments[..], more].concat());
        child["mac"].as_str().expect("a child has a MAC").parse().expect("and a valid one")
    }

    /// One child, as `maclane child inspect` shows it.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        self.json(&["child", "inspect", name])
    }

    /// What is wrong with the host's parent, as `maclane parent show` says it.
    #[track_caller]
    #[must_use]
    pub fn problems(&self) -> String {
        self.json(&["parent", "show", PARENT])["problems"].to_string()
    }

    /// Frames dropped for a reason so far.
    #[track_caller]
    pub fn drops(&self, reason: &str) -> u64 {
        let stats = self.json(&["stats"]);
        let drops = stats[0]["drops"].as_array().expect("every reason is listed").iter();
        let found = drops.filter(|entry| entry["reason"] == reason).map(|e| &e["packets"]).next();
        found.and_then(Value::as_u64).unwrap_or_else(|| panic!("no drop reason {reason}: {stats}"))
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("maclane.sock")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.path().join(CONFIG)
    }

    /// The folder of its store.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The folder of its socket.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The folder below which it pins.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    #[track_caller]
    fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("the daemon is running")
    }

    #[track_caller]
    fn start_process(&self, command: &mut Command) -> Process {
        match &self.room {
            Some(room) => room.start(command),
            None => Process::start(command),
        }
    }

    /// `maclane`, to be run in the host's namespace.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.ns_path.display())).arg(&self.program);
        command.envs(self.environment.clone());
        command
    }

    fn show_log(&self) {
        const LINES: usize = 60;
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        eprintln!("--- the daemon's log, last {} of {} lines", tail.len(), lines.len());
        eprintln!("{}\n---", tail.join("\n"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Reaped here if it has ended by itself, and then there is nobody to signal.
            if process.wait(Duration::ZERO).is_none() {
                process.signal(Signal::SIGTERM);
                if process.wait(PATIENCE).is_none() {
                    eprintln!("the daemon does not end after SIGTERM; killing it");
                }
            }
        }
        if thread::panicking() {
            self.show_log();
        }
        if let Err(error) = fs::remove_dir_all(&self.bpffs) {
            eprintln!("cannot remove {}: {error}", self.bpffs.display());
        }
    }
}
