//! A storm of broadcasts from the wire, on a host with many children.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tests::{daemon::Daemon, frames::Frame, mac::Mac, netns::Netns, tap::Tap, topology::PARENT};

use crate::{
    context::{Context, cpus, load_cpu, pin},
    cpu::Work,
    line::{Line, WIRE},
    load::Generator,
};

/// ARP requests for a child that are sent during a storm.
pub(crate) const ASKED: u32 = 5;

/// Broadcasts a second.
pub(crate) const RATE: u32 = 45_000;

/// The child that is asked for.
pub(crate) const ASKED_FOR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);

/// Broadcasts that are sent at once at least.
const BURST: u32 = 64;

/// How busy the kernel may be before a storm, as a part of one CPU, and how long that is waited for.
const CALM: (f64, Duration) = (0.1, Duration::from_secs(5));

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
    calm_down(daemon)?;
    let (calm, ()) = busy(daemon, || thread::sleep(time / 2))?;

    let generator = Generator::new(&line.wire, WIRE, &of.frame(), 0)?;
    let asking = Tap::open(&line.wire, WIRE);
    let (over, before) = (AtomicBool::new(false), received(&line.host));
    let storming = || {
        let began = Instant::now();
        let (sent, answered) = thread::scope(|scope| {
            let sending = || line.wire.enter(|| send(&generator, rate, &over));
            let sending = scope.spawn(sending);
            let answered = ask(&asking, time);
            over.store(true, Ordering::Relaxed);
            (sending.join().expect("it does not panic"), answered)
        });
        (sent, answered, began.elapsed())
    };
    let (busy, (sent, answered, took)) = busy(daemon, storming)?;
    let (sent, arrived) = (f64::from(sent?), received(&line.host) - before);
    ensure!(arrived >= 0.9 * sent, "of {sent} broadcasts only {arrived} have arrived");
    let share = busy - calm;
    #[allow(clippy::cast_precision_loss)]
    Ok(Storm {
        answered: answered.into(),
        percent: 100.0 * share / cpus() as f64,
        microseconds: share * took.as_secs_f64() * 1e6 / arrived,
    })
}

/// Waits until what the storm before has left in the kernel's queues is done.
fn calm_down(daemon: Option<u32>) -> Result<()> {
    let (most, patience) = CALM;
    let began = Instant::now();
    while busy(daemon, || thread::sleep(patience / 25))?.0 > most && began.elapsed() < patience {}
    Ok(())
}

/// Frames that the parent has received.
fn received(host: &Netns) -> f64 {
    let text = host.ip(&format!("-s -json link show dev {PARENT}"));
    let links: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
    links[0]["stats64"]["rx"]["packets"].as_f64().expect("a link counts what it receives")
}

/// How many CPUs that took, on average, with the threads of the kernel and a daemon.
fn busy<T>(daemon: Option<u32>, doing: impl FnOnce() -> T) -> Result<(f64, T)> {
    let (began, before) = (Instant::now(), Work::now(daemon)?);
    let done = doing();
    let (took, after) = (began.elapsed(), Work::now(daemon)?);
    Ok((after.seconds_since(&before) / took.as_secs_f64(), done))
}

/// Sends until it is over what is due; returns how many. To set a run of the generator up takes the
/// kernel some 30 ms, most of which it waits: so long are the gaps.
fn send(generator: &Generator, rate: u32, over: &AtomicBool) -> Result<u32> {
    let _ = pin(load_cpu());
    let began = Instant::now();
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds")]
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u32 - sent;
        if due >= BURST.min(rate / 10).max(1) {
            generator.send(due)?;
            sent += due;
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(sent)
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
