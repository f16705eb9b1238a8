//! A storm of ARP requests for strangers, on a host with many children.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{frames::Frame, mac::Mac, netns::Netns, tap::Tap};

use crate::{
    context::{Context, load_cpu, pin},
    cpu::Cpu,
    line::WIRE,
};

/// ARP requests for a child that are sent during a storm.
pub(crate) const ASKED: u32 = 5;

/// Broadcasts a second.
pub(crate) const RATE: u32 = 45_000;

/// The child that is asked for.
pub(crate) const ASKED_FOR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);

/// How busy the machine may be with other things, in percent.
const MOST_BUSY: f64 = 40.0;

/// What a storm did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    /// ARP requests for a child that were answered.
    pub(crate) answered: f64,
    /// Which part of the machine was busy, in percent, without what it is busy with anyway.
    pub(crate) percent: f64,
    /// Microseconds of CPU for each broadcast, its sending included.
    pub(crate) microseconds: f64,
}

/// Sends `rate` broadcasts a second from the wire, and meanwhile asks for a child.
pub(crate) fn storm(cx: &Context, wire: &Netns, rate: u32) -> Result<Storm> {
    let time = Duration::from_secs(cx.seconds().into());
    let idle = Cpu::now()?;
    thread::sleep(time / 2);
    let idle = Cpu::now()?.busy_percent_since(idle);

    let (tap, asking) = (Tap::open(wire, WIRE), Tap::open(wire, WIRE));
    let over = AtomicBool::new(false);
    let before = Cpu::now()?;
    let (sent, answered) = thread::scope(|scope| {
        let sending = scope.spawn(|| send(&tap, rate, &over));
        let answered = ask(&asking, time);
        over.store(true, Ordering::Relaxed);
        (sending.join().expect("it does not panic"), answered)
    });
    let after = Cpu::now()?;
    // Where others keep the machine busy, what a storm adds cannot be told.
    let percent = if idle > MOST_BUSY { f64::NAN } else { after.busy_percent_since(before) - idle };
    let seconds = percent / 100.0 * time.as_secs_f64() * cpus();
    Ok(Storm { answered: answered.into(), percent, microseconds: seconds * 1e6 / f64::from(sent) })
}

#[allow(clippy::cast_precision_loss)]
fn cpus() -> f64 {
    crate::context::cpus() as f64
}

/// Sends until it is over, evenly by the millisecond; returns how many.
fn send(tap: &Tap, rate: u32, over: &AtomicBool) -> u32 {
    let _ = pin(load_cpu());
    let stranger = |last| Ipv4Addr::new(10, 78, 0, last);
    let frame = Frame::arp_request(Mac::local(90), stranger(1), stranger(2), "").to_bytes();
    let began = Instant::now();
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        let due = began.elapsed().as_secs_f64() * f64::from(rate);
        while f64::from(sent) < due {
            tap.send_bytes(&frame);
            sent += 1;
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
        let sender = Ipv4Addr::new(10, 77, 1, u8::try_from(number).unwrap_or(0));
        tap.send(&Frame::arp_request(asker, sender, ASKED_FOR, ""));
        let answer = tap.find(pause, |frame| {
            frame.destination == asker && frame.payload.get(24..28) == Some(&sender.octets()[..])
        });
        answered += u32::from(answer.is_some());
        thread::sleep(pause / 4);
    }
    answered
}
