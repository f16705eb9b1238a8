//! A storm of broadcasts from the wire, on a host with many children.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{daemon::Daemon, frames::Frame, mac::Mac, tap::Tap};

use crate::{
    context::{Context, cpus, load_cpu, pin},
    cpu::Work,
    line::{Line, WIRE},
};

/// ARP requests for a child that are sent during a storm.
pub(crate) const ASKED: u32 = 5;

/// Broadcasts a second.
pub(crate) const RATE: u32 = 45_000;

/// The child that is asked for.
pub(crate) const ASKED_FOR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);

/// Broadcasts that the kernel is handed at once.
const BURST: u32 = 64;

/// What a storm is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    /// ARP requests for an address that nobody here has.
    Strangers,
    /// UDP datagrams to everybody.
    Datagrams,
}

impl Of {
    fn frame(self) -> Frame {
        let from = Mac::local(90);
        let ip = |last| Ipv4Addr::new(10, 78, 0, last);
        match self {
            Self::Strangers => stranger(from),
            Self::Datagrams => {
                let everybody = (Mac::BROADCAST, SocketAddrV4::new(Ipv4Addr::BROADCAST, 9));
                Frame::udp((from, SocketAddrV4::new(ip(1), 9)), everybody, "maclane")
            }
        }
    }
}

/// A question for an address that nobody here has.
pub(crate) fn stranger(from: Mac) -> Frame {
    let ip = |last| Ipv4Addr::new(10, 78, 0, last);
    Frame::arp_request(from, ip(1), ip(2), "")
}

/// What a storm did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    /// ARP requests for a child that were answered.
    pub(crate) answered: f64,
    /// Which part of the machine it kept busy, in percent, its sending included.
    pub(crate) percent: f64,
    /// Microseconds of CPU for each broadcast, its sending included.
    pub(crate) microseconds: f64,
}

/// Sends `rate` broadcasts a second from the wire, and meanwhile asks for a child.
pub(crate) fn storm(cx: &Context, line: &Line, of: Of, rate: u32) -> Result<Storm> {
    cx.check()?;
    let time = Duration::from_secs(cx.seconds().into());
    let daemon = line.daemon.as_ref().map(Daemon::id);
    let (calm, ()) = busy(daemon, || thread::sleep(time / 2))?;

    let (tap, asking) = (Tap::open(&line.wire, WIRE), Tap::open(&line.wire, WIRE));
    let frame = of.frame().to_bytes();
    let over = AtomicBool::new(false);
    let storming = || {
        let began = Instant::now();
        let (sent, answered) = thread::scope(|scope| {
            let sending = scope.spawn(|| send(&tap, &frame, rate, &over));
            let answered = ask(&asking, time);
            over.store(true, Ordering::Relaxed);
            (sending.join().expect("it does not panic"), answered)
        });
        (sent, answered, began.elapsed())
    };
    let (busy, (sent, answered, took)) = busy(daemon, storming)?;
    let share = busy - calm;
    #[allow(clippy::cast_precision_loss)]
    Ok(Storm {
        answered: answered.into(),
        percent: 100.0 * share / cpus() as f64,
        microseconds: share * took.as_secs_f64() * 1e6 / f64::from(sent),
    })
}

/// How many CPUs that took, on average, with the threads of the kernel and a daemon.
fn busy<T>(daemon: Option<u32>, doing: impl FnOnce() -> T) -> Result<(f64, T)> {
    let (began, before) = (Instant::now(), Work::now(daemon)?);
    let done = doing();
    let (took, after) = (began.elapsed(), Work::now(daemon)?);
    Ok((after.seconds_since(&before) / took.as_secs_f64(), done))
}

/// Sends until it is over, evenly by the millisecond; returns how many the kernel took.
fn send(tap: &Tap, frame: &[u8], rate: u32, over: &AtomicBool) -> u32 {
    let _ = pin(load_cpu());
    let began = Instant::now();
    let (mut tried, mut sent) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds")]
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        while tried < due {
            let burst = BURST.min(due - tried);
            tried += burst;
            sent += u32::try_from(tap.send_burst(frame, burst as usize)).unwrap_or(0);
        }
        thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// Asks for the child during a time; returns how many requests were answered.
fn ask(tap: &Tap, time: Duration) -> u32 {
    let pause = time / (ASKED + 1);
    let asker = Mac::local(91);
    let mut answered = 0;
    thread::sleep(pause / 2);
    for number in 0..ASKED {
        // From an address of its own each, so that one answer is not taken for another's.
        let sender = Ipv4Addr::new(10, 77, 250, u8::try_from(number + 1).unwrap_or(1));
        tap.send(&Frame::arp_request(asker, sender, ASKED_FOR, ""));
        let answer = tap.find(pause, |frame| {
            frame.destination == asker && frame.payload.get(24..28) == Some(&sender.octets()[..])
        });
        answered += u32::from(answer.is_some());
        thread::sleep(pause / 4);
    }
    answered
}
