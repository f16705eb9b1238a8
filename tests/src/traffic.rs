//! Traffic between namespaces: echo requests.

use std::{
    net::IpAddr,
    process::Stdio,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{netns::Netns, process::Process};

/// What `ping` saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingResult {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// Answers beyond the first to a request.
    pub duplicates: u32,
}

impl PingResult {
    /// Whether each request was answered, and once.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.sent > 0 && self.received == self.sent && self.duplicates == 0
    }

    /// Requests without an answer.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }
}

/// Sends `count` echo requests, one each `interval`, and waits up to a second for the last.
#[track_caller]
#[must_use]
pub fn ping(ns: &Netns, to: impl Into<IpAddr>, count: u32, interval: Duration) -> PingResult {
    let (to, interval) = (to.into().to_string(), interval.as_secs_f64().to_string());
    let output =
        ns.exec(&["ping", "-n", "-W", "1", "-i", &interval, "-c", &count.to_string(), &to]);
    parse(&String::from_utf8_lossy(&output.stdout))
        .unwrap_or_else(|| panic!("ping {to}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Panics unless three echo requests are answered, each once.
#[track_caller]
pub fn assert_reaches(ns: &Netns, to: impl Into<IpAddr>) {
    let to = to.into();
    let result = ping(ns, to, 3, Duration::from_millis(20));
    assert!(result.is_clean(), "{} does not reach {to}: {result:?}", ns.name());
}

/// Panics if an echo request is answered.
#[track_caller]
pub fn assert_does_not_reach(ns: &Netns, to: impl Into<IpAddr>) {
    let to = to.into();
    let result = ping(ns, to, 2, Duration::from_millis(20));
    assert_eq!(result.received, 0, "{} reaches {to}: {result:?}", ns.name());
}

/// Echo requests that go on until they are stopped.
#[derive(Debug)]
pub struct Ping {
    process: Process,
}

impl Ping {
    /// Starts to send one request each `interval`.
    #[track_caller]
    #[must_use]
    pub fn start(ns: &Netns, to: impl Into<IpAddr>, interval: Duration) -> Self {
        let interval = interval.as_secs_f64().to_string();
        let mut command = ns.command("ping");
        command.args(["-n", "-i", &interval, &to.into().to_string()]);
        // A file instead of a pipe: nobody reads while ping runs.
        let log = tempfile::tempfile().expect("a temporary file can be made");
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(Stdio::null());
        Self { process: Process::start(&mut command), log }
    }
}
