//! Commands of other programs: found, shown, run and accounted for.

use std::{
    cell::Cell,
    env,
    ffi::OsStr,
    fs,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::{Pid, SysconfVar, sysconf},
};

thread_local! {
    /// CPU time of the commands that this thread has run.
    static CPU: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Shows a command, runs it with its output streamed, and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("+ {line}");
    let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
    let status = reap(&mut child).with_context(|| format!("cannot wait for `{line}`"))?;
    ensure!(status.success(), "`{line}` ended with {status}; see its output above");
    Ok(())
}

/// Runs a command to its end and returns its stdout; fails if it does.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start `{line}`"))?;
    let status = output.status;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(status.success(), "`{line}` ended with {status}: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Shows a command and runs it to its end, with its stderr streamed; returns its stdout, and fails if
/// it does.
pub(crate) fn streamed_output(command: &mut Command) -> Result<String> {
    let line = line(command);
    eprintln!("+ {line}");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|e| anyhow!("cannot start `{line}`: {e}"))?;
    let mut text = String::new();
    let stdout = child.stdout.take();
    let read = stdout.map(|mut stdout| stdout.read_to_string(&mut text)).transpose();
    let status = reap(child)?;
    read.with_context(|| format!("cannot read the output of `{line}`"))?;
    ensure!(status.success(), "`{line}` ended with {status}; see its output above");
    Ok(text)
}

/// Waits for the end of a child, and adds its CPU time to that of this thread.
pub(crate) fn reap(child: &mut Child) -> Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // The process stays a zombie, whose times can be read, until `wait` takes it away.
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    let used = cpu_time(pid).unwrap_or_default();
    CPU.set(CPU.get() + used);
    Ok(child.wait()?)
}

/// CPU time of the commands that this thread has run so far. It covers the processes that a command
/// has waited for, but not those that have outlived their parent.
pub(crate) fn cpu_so_far() -> Duration {
    CPU.get()
}

/// CPU time of a process and of the children that it has waited for (`proc_pid_stat(5)`, fields 14
/// to 17).
fn cpu_time(pid: Pid) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold spaces.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(from_ticks(ticks))
}

/// CPU time that the machine has used since it booted, idle time aside (`proc_stat(5)`).
pub(crate) fn machine_cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // User, nice, system, irq and softirq; 3 and 4 are idle and iowait.
    from_ticks([0, 1, 2, 5, 6].iter().filter_map(|place| ticks.get(*place)).sum())
}

/// A time in clock ticks, as proc(5) has them.
fn from_ticks(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    Duration::from_millis(ticks * 1000 / per_second.and_then(|n| n.try_into().ok()).unwrap_or(100))
}

/// The program of that name in `PATH` or where administrators' programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.display(), value?.display())));
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| OsStr::to_string_lossy(word).into_owned());
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        time::{Duration, Instant},
    };

    use super::{cpu_so_far, run};

    /// A stage accounts for the CPU time of the children of the commands that it runs.
    #[test]
    fn cpu_time_of_grandchildren_counts() {
        let (before, began) = (cpu_so_far(), Instant::now());
        let spin = "sh -c 'n=0; while [ $n -lt 300000 ]; do n=$((n + 1)); done'; true";
        run(Command::new("sh").args(["-c", spin])).unwrap();
        let used = cpu_so_far().checked_sub(before).unwrap();
        assert!(used > Duration::from_millis(20), "{used:?} of {:?}", began.elapsed());
    }
}
