//! Echo requests between namespaces.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    net::IpAddr,
    process::Stdio,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{eventually, netns::Netns, patience, process::Process};

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
    let wait = patience(Duration::from_secs(1)).as_secs().to_string();
    let output =
        ns.exec(&["ping", "-n", "-W", &wait, "-i", &interval, "-c", &count.to_string(), &to]);
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
    log: File,
    interval: Duration,
}

/// How long a ping goes on after it was asked to stop.
const TAIL: Duration = Duration::from_millis(200);

/// How long an answer may be on its way.
const LATE: Duration = Duration::from_millis(50);

impl Ping {
    /// Starts to send one request each `interval`; while none is answered, one each 10 ms at
    /// the most.
    #[track_caller]
    #[must_use]
    pub fn start(ns: &Netns, to: impl Into<IpAddr>, interval: Duration) -> Self {
        let interval = patience(interval);
        let seconds = interval.as_secs_f64().to_string();
        let mut command = ns.command("ping");
        command.args(["-n", "-i", &seconds, &to.into().to_string()]);
        // A file instead of a pipe: nobody reads while ping runs.
        let log = tempfile::tempfile().expect("a temporary file can be made");
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(Stdio::null());
        let process = Process::start(&mut command);
        // Before that, SIGINT would end it without a summary.
        eventually("ping waits for SIGINT", Duration::from_secs(10), || {
            process.catches(Signal::SIGINT)
        });
        Self { process, log, interval }
    }

    /// Goes on for [`TAIL`], stops, and says what was seen. Requests of the last [`LATE`] whose
    /// answers were still on their way are not counted.
    #[track_caller]
    #[must_use]
    pub fn stop(mut self) -> PingResult {
        thread::sleep(patience(TAIL));
        self.process.signal(Signal::SIGINT);
        let ended = self.process.wait(Duration::from_secs(5));
        assert!(ended.is_some(), "ping does not end after SIGINT");
        let mut text = String::new();
        self.log.rewind().expect("a file can be rewound");
        self.log.read_to_string(&mut text).expect("ping prints text");
        let mut result = parse(&text).unwrap_or_else(|| panic!("ping has not finished: {text}"));
        let last_answered = text.lines().rev().find_map(|line| number_after(line, "icmp_seq="));
        // ping counts from 1 and wraps at 16 bits.
        let waiting = last_answered.map(|last| result.sent.wrapping_sub(last) & 0xffff);
        let late = patience(LATE).as_micros() / self.interval.as_micros();
        if let Some(waiting) = waiting.filter(|n| *n <= result.lost() && u128::from(*n) <= late) {
            result.sent -= waiting;
        }
        result
    }
}

/// Reads `4 packets transmitted, 4 received, +1 duplicates, 0% packet loss, time 60ms`.
fn parse(output: &str) -> Option<PingResult> {
    let line = output.lines().rev().find(|line| line.contains(" packets transmitted"))?;
    let number = |what: &str| {
        let field = line.split(", ").find(|field| field.ends_with(what))?;
        field.split(' ').next()?.trim_start_matches('+').parse().ok()
    };
    Some(PingResult {
        sent: number(" packets transmitted")?,
        received: number(" received")?,
        duplicates: number(" duplicates").unwrap_or(0),
    })
}

fn number_after(line: &str, prefix: &str) -> Option<u32> {
    let (_, rest) = line.split_once(prefix)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_ping_are_read() {
        let cases = [
            ("2 packets transmitted, 2 received, 0% packet loss, time 60ms", Some((2, 2, 0))),
            (
                "9 packets transmitted, 8 received, +3 duplicates, 11% packet loss, time 0ms",
                Some((9, 8, 3)),
            ),
            (
                "4 packets transmitted, 0 received, +4 errors, 100% packet loss, time 9ms",
                Some((4, 0, 0)),
            ),
            ("PING 10.0.0.1", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(sent, received, duplicates)| PingResult {
                sent,
                received,
                duplicates,
            });
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sequence_numbers_are_read() {
        let line = "64 bytes from 10.0.0.1: icmp_seq=12 ttl=64 time=0.04 ms";
        assert_eq!(number_after(line, "icmp_seq="), Some(12));
        assert_eq!(number_after("From 10.0.0.2", "icmp_seq="), None);
    }
}
