//! The LAN stays up: gentle traffic, and live counters until Ctrl-C.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tests::{interrupt::Interrupt, process::Process, tcp::Stream, topology::PARENT, traffic::Ping};

use super::{print, site::Site};

/// How often to look for a signal, and how long a pause ends what `stats` prints at once.
const TICK: Duration = Duration::from_millis(100);

/// Shows what can be tried, and counters, until a signal comes.
pub(super) fn show(site: &Site, interrupt: &Interrupt) -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(200);
    let [host, macvlan, a, b] =
        ["host", "macvlan-0", "macvlan-10a", "veth-10a"].map(|name| site.station(name));
    let _pings = [Ping::start(host.ns, macvlan.ip, INTERVAL), Ping::start(a.ns, b.ip, INTERVAL)];
    let stream = Stream::start(b.ns, a.ns, b.ip);
    print(&hints(site));
    let ended = watch(site, interrupt);
    // What became of the connection is of no interest here.
    let _ = stream.stop();
    ended
}

fn hints(site: &Site) -> String {
    let lan = &site.lan;
    let enter =
        |name, command: &str| format!("ip netns exec {} {command}", site.station(name).ns.name());
    let ping = |from, to| enter(from, &format!("ping {}", site.station(to).ip));
    let lines = [
        site.command_line("child ls"),
        site.command_line("fdb ls"),
        site.command_line(&format!("parent show {PARENT}")),
        format!("{}   # host → adopted", ping("host", "adopted")),
        format!("{}   # VLAN 10", ping("macvlan-10b", "veth-10b")),
        format!("{}   # VLAN 10 → 20: no answer", ping("macvlan-10b", "macvlan-20")),
        enter("router", &format!("tcpdump -e -n -i {PARENT}")),
        format!(
            "ip netns exec {} tcpdump -e -n -i {}   # the wire",
            lan.wire.name(),
            lan.hosts[0].port
        ),
    ];
    let lines = lines.map(|line| format!("  {line}\n")).concat();
    format!(
        "\nThe LAN stays up, with pings and a TCP stream in it. In another terminal, try:\n\
         {lines}\nCounters of `maclane stats --watch`; Ctrl-C ends all:\n\n"
    )
}

/// Shows what `maclane stats --watch` prints each second in place, below what is on the screen.
fn watch(site: &Site, interrupt: &Interrupt) -> Result<()> {
    let mut command = Command::new(&site.program);
    command.arg("--socket").arg(site.daemon.socket()).args(["stats", "--watch"]);
    let mut stats = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let lines = lines(&mut stats);
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    bar.set_style(ProgressStyle::with_template("{msg}")?);
    let mut block = Vec::new();
    let ended = loop {
        if let Err(interrupted) = interrupt.check() {
            break Err(interrupted.into());
        }
        match lines.recv_timeout(TICK) {
            Ok(line) => block.push(line),
            // All lines of one look come at once.
            Err(RecvTimeoutError::Timeout) if block.is_empty() => {}
            Err(RecvTimeoutError::Timeout) => {
                bar.set_message(block.join("\n").trim_end().to_owned());
                block.clear();
            }
            Err(RecvTimeoutError::Disconnected) => {
                let end = stats.wait(TICK).map_or("output closed".into(), |end| end.to_string());
                break Err(anyhow!("`maclane stats --watch` ended by itself: {end}"));
            }
        }
    };
    // What is shown stays: the terminal's `^C` has moved the cursor, so it must not be drawn over.
    bar.set_draw_target(ProgressDrawTarget::hidden());
    ended
}

/// The lines that it prints, as they come.
fn lines(stats: &mut Process) -> Receiver<String> {
    let stdout = stats.streams().stdout.take().expect("its stdout is piped");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
