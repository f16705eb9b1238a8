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

use anyhow::{Context as _, Result, bail, ensure};

use super::kernel::Kernel;
use crate::{
    command,
    test::{nextest, report::Outcome},
};

const QEMU: &str = "qemu-system-x86_64";

/// The emulated processor: the one with the fewest features, since each costs the emulation time
/// (`max` takes a fifth longer).
const CPU: &str = "qemu64";

/// `nice(1)` of a machine.
const NICENESS: &str = "5";

/// The kernel's command line. `rcupdate.rcu_expedited` ends the waits for RCU grace periods early, of
/// which each attached program has one; the others switch off what hardens a kernel and costs time.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 loglevel=5 mitigations=off nokaslr audit=0 \
    hardened_usercopy=off init_on_alloc=0 rcupdate.rcu_expedited=1";

/// Emulated cards, two of each on a hub of its own. `tests/src/card.rs` knows them by their MACs: 52:54:00:ca, the hub,
/// and 1 or 2.
const CARDS: [&str; 2] = ["virtio-net-pci", "vmxnet3"];

/// For a machine that hangs: longer than the tests take beside all others.
const LIMIT: Duration = Duration::from_secs(70 * 60);

/// The last line that the machine prints: how nextest ended.
const VERDICT: &str = "maclane: nextest ended with ";

/// A running virtual machine, ended when this is dropped.
struct Machine(Option<Child>);

impl Machine {
    /// Waits for its end, and accounts for its CPU time.
    fn reap(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |mut child| command::reap(&mut child).map(|_| ()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = command::reap(&mut child);
        }
    }
}

/// Boots a kernel with the archive of tests, prints what they print, each line with the machine's
/// name before it, and returns how they ended. The archive's tests of this kernel's version run.
///
/// `work` is a folder for this machine's files.
///
/// One thread emulates both processors: with one for each, QEMU 7.2 now and then executes the
/// breakpoint by which a kernel replaces an instruction (`arch/x86/kernel/alternative.c`,
/// `text_poke_bp_batch`) after it is gone, and the kernel panics.
pub(crate) fn boot(kernel: &Kernel, initrd: &Path, work: &Path) -> Outcome {
    let report = work.join("junit.xml");
    nextest::outcome(run(kernel, initrd, work, &report), || {
        let xml = fs::read_to_string(&report).with_context(|| "the machine has made no report")?;
        // A terminal's line ends.
        Ok(xml.replace("\r\n", "\n"))
    })
}

fn run(kernel: &Kernel, initrd: &Path, work: &Path, report: &Path) -> Result<()> {
    let (name, console) = (&kernel.version, work.join("console"));
    // Tests on the running kernel have deadlines, and go first.
    let mut qemu = Command::new("nice");
    qemu.args(["-n", NICENESS, QEMU])
        .args(["-accel", "tcg,thread=single", "-cpu", CPU, "-smp", "2", "-m", "2560"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg(format!("{COMMAND_LINE} maclane.tests={name}"))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio", "-serial"])
        .arg(format!("file:{}", report.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for (hub, device) in CARDS.iter().enumerate() {
        for card in 1..=2 {
            qemu.arg("-netdev").arg(format!("hubport,hubid={hub},id=card{hub}-{card}"));
            let mac = format!("52:54:00:ca:{hub:02x}:{card:02x}");
            // No machine boots from one.
            let options = format!("netdev=card{hub}-{card},mac={mac},romfile=");
            qemu.arg("-device").arg(format!("{device},{options}"));
        }
    }
    let mut child = qemu.spawn().with_context(|| format!("cannot start {QEMU}"))?;
    let output = child.stdout.take().context("QEMU has no output")?;
    let machine = Machine(Some(child));
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
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
                let status = line.strip_prefix(VERDICT).and_then(|status| status.parse().ok());
                verdict = status.or(verdict);
            }
            // The machine is switched off.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("the tests have not ended after {LIMIT:?}{}", tail(&console))
            }
        }
    }
    machine.reap()?;
    let status: u32 = verdict
        .with_context(|| format!("the machine ended before the tests did{}", tail(&console)))?;
    ensure!(
        status == 0,
        "tests fail on Linux {}, see above; `cargo xtask test --kernel {name} -- FILTER` repeats \
         one",
        kernel.release
    );
    Ok(())
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
