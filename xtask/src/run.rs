//! `cargo xtask run`: maclane at work on a small LAN of namespaces.
//!
//! ```text
//!          host: the daemon                                           router
//!  ┌────────────────────────────────┐                            ┌────────────┐
//!  │       eth0  192.168.50.10      │            wire            │ eth0  .1   │
//!  └───┬───────────┬───────────┬──┬─┘                            └──────┬─────┘
//!      │ VLAN 0    │ VLAN 10   │  └─────────────────────────────────────┘
//!      │           │           │ VLAN 20
//!      │           │           ├─ macvlan-20   .201
//!      │           │           └─ veth-20      .202
//!      │           ├─ macvlan-10a  .101
//!      │           ├─ macvlan-10b  .102
//!      │           ├─ veth-10a     .103
//!      │           └─ veth-10b     .104
//!      ├─ adopted      .50
//!      ├─ macvlan-0    .51
//!      └─ veth-0       .52
//! ```
//!
//! Each child has a namespace of its own, and all are in one subnet: what keeps the VLANs apart
//! is not their addresses. `adopted` is a macvlan child that somebody else made before maclane
//! was told of the parent. The machine has no VLAN sub-interfaces; tags are made and seen with
//! raw sockets.

mod checks;
mod live;
mod observe;
mod proofs;
mod site;

use std::{
    any::Any,
    env,
    io::{self, IsTerminal as _, Write as _},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tabled::{
    builder::Builder,
    settings::{Padding, Style},
};
use tests::interrupt::{self, Interrupt, Interrupted};

use crate::{command, setup, workspace};
use proofs::PROOFS;
use site::Site;

/// What a proof has seen: all that it promises, or something else.
type Seen = Result<String, String>;

/// Makes the LAN, starts the daemon in it and proves with real traffic what it promises.
pub(crate) fn proof() -> Result<ExitCode> {
    ensure!(
        command::is_root(),
        "cannot prove maclane: it makes network namespaces and loads eBPF programs, which needs \
         root; run `sudo -E cargo xtask run`"
    );
    let program = program()?;
    let interrupt = Interrupt::watch().context("cannot watch for signals")?;
    tests::process::shield_from_terminal();
    // The laboratory panics where something fails; what it says is shown as an error or in the
    // table, so it need not be said twice.
    panic::set_hook(Box::new(|_| {}));

    let ended = caught(|| perform(program, &interrupt)).unwrap_or_else(|panic| Err(anyhow!(panic)));
    match (interrupt.caught(), ended) {
        (Some(signal), ended) => {
            match ended {
                Err(error) if !error.is::<Interrupted>() => say(&format!("error: {error:#}")),
                _ => {}
            }
            // The terminal has put `^C` at the start of the line.
            let after_echo = if io::stderr().is_terminal() { "\n" } else { "" };
            say(&format!("{after_echo}ended by {}; nothing is left", signal.as_str()));
            Ok(ExitCode::from(interrupt::exit_code(signal)))
        }
        (None, Ok(true)) => Ok(ExitCode::SUCCESS),
        (None, Ok(false)) => Ok(ExitCode::FAILURE),
        (None, Err(error)) => Err(error),
    }
}

/// The binary to prove: `MACLANE_BIN`, or the release build.
fn program() -> Result<PathBuf> {
    let Some(program) = env::var_os("MACLANE_BIN").map(PathBuf::from) else {
        return workspace::build();
    };
    setup::ensure()?;
    program
        .canonicalize()
        .with_context(|| format!("cannot find {}, which MACLANE_BIN names", program.display()))
}

/// Says whether all proofs hold. When it returns, everything that it made is gone.
fn perform(program: PathBuf, interrupt: &Interrupt) -> Result<bool> {
    let site = caught(|| Site::new(program, interrupt))
        .unwrap_or_else(|panic| Err(anyhow!(panic).context("cannot make the LAN")))?;
    let seen = prove(&site, interrupt)?;
    let held = seen.iter().filter(|seen| seen.is_ok()).count();
    print(&format!("{}\n{held} of {} proofs hold\n", table(&seen), seen.len()));
    let all = held == seen.len();
    if !all {
        say(&site.log_tail());
    }
    if io::stdout().is_terminal() {
        live::show(&site, interrupt)?;
    }
    Ok(all)
}

/// Tries every proof.
fn prove(site: &Site, interrupt: &Interrupt) -> Result<Vec<Seen>> {
    let bar = ProgressBar::new(PROOFS.len() as u64).with_finish(ProgressFinish::AndClear);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {msg:<48}")?);
    let mut all = Vec::new();
    for (number, proof) in (1..).zip(PROOFS) {
        interrupt.check()?;
        let title = proof.title();
        if bar.is_hidden() {
            say(&format!("proof {number} of {}: {title}", PROOFS.len()));
        }
        bar.set_message(title);
        let seen = caught(|| proof.prove(site)).unwrap_or_else(Err);
        bar.inc(1);
        all.push(seen.map_err(|seen| shortened(&seen)));
    }
    interrupt.check()?;
    Ok(all)
}

fn table(seen: &[Seen]) -> String {
    let mut table = Builder::default();
    table.push_record(["PROOF", "SENT", "SEEN", "RESULT"]);
    for (proof, seen) in PROOFS.iter().zip(seen) {
        let (seen, result) = match seen {
            Ok(seen) => (seen, "ok"),
            Err(seen) => (seen, "FAILED"),
        };
        table.push_record([&proof.title(), &proof.sent(), seen, result]);
    }
    let mut table = table.build();
    table.with(Style::empty()).with(Padding::new(0, 3, 0, 0));
    table.to_string().lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// Calls a function, and returns what it says if it panics.
fn caught<T>(function: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(function)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}

/// One line, which leaves the table readable.
fn shortened(text: &str) -> String {
    const MOST: usize = 120;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A line of progress. Nobody is left to tell if standard error is closed.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Results. Whoever has closed standard output does not want them.
fn print(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
