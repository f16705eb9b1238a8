//! Ctrl-C and its kin: noticed between two steps, so that everything is dropped as usual.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::signal::Signal;

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The last signal that asked this process to end.
#[derive(Debug)]
pub struct Interrupt {
    /// Its number; 0 as long as there was none.
    number: Arc<AtomicUsize>,
}

/// Why something was not finished.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// From now on, signals no longer end this process; they are kept here.
    pub fn watch() -> io::Result<Self> {
        let number = Arc::new(AtomicUsize::new(0));
        for signal in SIGNALS {
            let value = usize::from(number_of(signal));
            signal_hook::flag::register_usize(signal as i32, Arc::clone(&number), value)?;
        }
        Ok(Self { number })
    }

    /// The signal, if there was one.
    pub fn caught(&self) -> Option<Signal> {
        let number = self.number.load(Ordering::Relaxed);
        SIGNALS.into_iter().find(|&signal| usize::from(number_of(signal)) == number)
    }

    /// Fails if there was one.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.caught().is_some() { Err(Interrupted) } else { Ok(()) }
    }
}

/// What a shell reports of a process that the signal has ended.
pub fn exit_code(signal: Signal) -> u8 {
    128 + number_of(signal)
}

fn number_of(signal: Signal) -> u8 {
    u8::try_from(signal as i32).expect("signals have small numbers")
}
