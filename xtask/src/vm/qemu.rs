//! QEMU: boots a kernel and passes on what it reports.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

const QEMU: &str = "qemu-system-x86_64";

/// Several times as long as the tests take on an idle machine: for one that hangs.
const LIMIT: Duration = Duration::from_secs(50 * 60);

/// The last line of the report: so many test programs failed.
const VERDICT: (&str, &str) = ("maclane: ", " test programs failed");

/// A running virtual machine, ended when this is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots, prints the report, each line with the machine's name before it, and says whether every
/// test program has succeeded.
///
/// One thread emulates both processors: with one for each, QEMU 7.2 now and then executes the
/// breakpoint by which a kernel replaces an instruction (`arch/x86/kernel/alternative.c`,
/// `text_poke_bp_batch`) after it is gone, and the kernel panics.
pub(crate) fn boot(kernel: &Path, initrd: &Path, work: &Path, name: &str) -> Result<bool> {
    let console = work.join("console");
    let mut qemu = Command::new(QEMU);
    qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2560"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 panic=-1 loglevel=5 mitigations=off"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = Machine(qemu.spawn().with_context(|| format!("cannot start {QEMU}"))?);
    let report = machine.0.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut report = BufReader::new(report);
        let mut line = Vec::new();
        while report.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + LIMIT;
    let mut verdict = None;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches(['\r', '\n']);
                writeln!(io::stdout(), "{name:>5} | {line}")?;
                let count = line.strip_prefix(VERDICT.0).and_then(|l| l.strip_suffix(VERDICT.1));
                verdict = count.and_then(|count| count.parse::<u32>().ok()).or(verdict);
            }
            // The machine is switched off.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("the tests have not ended after {LIMIT:?}{}", tail(&console))
            }
        }
    }
    match verdict {
        Some(failed) => Ok(failed == 0),
        None => bail!("the machine ended before the tests did{}", tail(&console)),
    }
}

/// What the kernel had to say in the end: from its first complaint on, or its last lines.
fn tail(console: &Path) -> String {
    const LINES: usize = 40;
    const COMPLAINTS: [&str; 4] = ["BUG: ", "Oops: ", "WARNING: ", "Kernel panic"];
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let complains = |line: &&str| COMPLAINTS.iter().any(|complaint| line.contains(complaint));
    let last = lines.len().saturating_sub(LINES);
    let first = lines.iter().position(complains).map_or(last, |found| found.min(last));
    format!("; the kernel's last lines are\n{}", lines[first..].join("\n"))
}
