//! The programs: started in a namespace, with files of their own in a folder that goes with them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tests::{netns::Netns, process::Process, room::Room};

/// What a DHCP client lets do about addresses, and writes down. `udhcpc` calls it with an action, and
/// `dhclient` with a reason.
const SCRIPT: &str = r#"#!/bin/sh
set -e
event=${reason:-$1}
case $event in
bound)
    ip address replace "$ip/$mask" dev "$interface"
    # Somebody may know it from who had it before.
    /usr/bin/busybox arping -q -U -c 1 -I "$interface" "$ip" || true ;;
renew) ip address replace "$ip/$mask" dev "$interface" ;;
deconfig) ip link set "$interface" up; ip -4 address flush dev "$interface" ;;
BOUND6 | RENEW6 | REBIND6)
    ip -6 address replace "$new_ip6_address" dev "$interface" \
        valid_lft "$new_max_life" preferred_lft "$new_preferred_life" ;;
EXPIRE6 | RELEASE6 | STOP6) ip -6 address del "$old_ip6_address" dev "$interface" ;;
esac
echo "$event ${new_ip6_address:-$ip}" >>"$(dirname "$0")/events"
"#;

/// A running program.
#[derive(Debug)]
pub(crate) struct Program {
    process: Process,
    /// Goes after the process.
    dir: TempDir,
    /// Goes last.
    _room: Option<Room>,
}

/// A folder for the files of a program.
fn folder() -> TempDir {
    let dir = tempfile::Builder::new().prefix("maclane-real-").tempdir();
    let dir = dir.expect("a temporary folder can be made");
    // Some of them give up their rights.
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), mode).expect("a folder's mode can be set");
    dir
}

impl Program {
    /// Starts a program. `{}` in its arguments is its folder.
    #[track_caller]
    fn start(ns: &Netns, words: &str, files: &[(&str, &str)]) -> Self {
        let dir = folder();
        for (name, text) in files {
            let path = dir.path().join(name);
            let mode = fs::Permissions::from_mode(if *name == "script" { 0o755 } else { 0o644 });
            let written = fs::write(&path, text).and_then(|()| fs::set_permissions(&path, mode));
            written.expect("a file can be written");
        }
        let place = dir.path().display().to_string();
        let words: Vec<_> = words.split_whitespace().map(|w| w.replace("{}", &place)).collect();
        let mut command = ns.command(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let log = fs::File::create(dir.path().join("log")).expect("a file can be made");
        let process = Process::start(command.stderr(log));
        Self { process, dir, _room: None }
    }

    /// `dnsmasq` as a server of DHCP, and with a range of IPv6 of router advertisements, too: on the
    /// interface `eth0`, and with more of its options.
    #[track_caller]
    pub(crate) fn dnsmasq(ns: &Netns, options: &str) -> Self {
        let line = "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root \
                    --interface=eth0 --bind-interfaces --pid-file={}/pid --no-ping \
                    --dhcp-leasefile={}/leases --dhcp-authoritative --log-dhcp --log-facility={}/log";
        Self::start(ns, &format!("{line} {options}"), &[])
    }

    /// `udhcpc` as a client of DHCP, with more of its options.
    #[track_caller]
    pub(crate) fn udhcpc(ns: &Netns, options: &str) -> Self {
        let line = "/usr/bin/busybox udhcpc -f -i eth0 -t 20 -T 1 -A 1 -s {}/script";
        Self::start(ns, &format!("{line} {options}"), &[("script", SCRIPT)])
    }

    /// `dhclient` as a client of `DHCPv6`.
    #[track_caller]
    pub(crate) fn dhclient6(ns: &Netns) -> Self {
        let line = "dhclient -6 -d -sf {}/script -lf {}/leases -pf {}/pid -cf {}/conf eth0";
        Self::start(ns, line, &[("script", SCRIPT), ("conf", ""), ("leases", "")])
    }

    /// `radvd`, which advertises a router on `eth0`.
    #[track_caller]
    pub(crate) fn radvd(ns: &Netns, prefix: &str) -> Self {
        let conf = format!(
            "interface eth0 {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; \
             prefix {prefix} {{ }}; }};\n"
        );
        let line = "radvd --nodaemon --config {}/conf --pidfile {}/pid --logmethod stderr";
        Self::start(ns, line, &[("conf", &conf)])
    }

    /// `keepalived` as a router of VRRP.
    #[track_caller]
    pub(crate) fn keepalived(ns: &Netns, conf: &str) -> Self {
        let line = "keepalived --vrrp --dont-fork --log-console --use-file {}/conf --pid {}/pid \
                    --vrrp_pid {}/vrrp";
        Self::start(ns, line, &[("conf", conf)])
    }

    /// `dhcrelay`, which relays DHCP, with its options.
    #[track_caller]
    pub(crate) fn dhcrelay(ns: &Netns, options: &str) -> Self {
        Self::start(ns, &format!("dhcrelay -4 -d --no-pid {options}"), &[])
    }

    /// `wireguard-go`, which makes an interface and carries what goes through it.
    #[track_caller]
    pub(crate) fn wireguard(ns: &Netns, ifname: &str) -> Self {
        Self::start(ns, &format!("wireguard-go --foreground {ifname}"), &[])
    }

    /// `avahi-daemon`, which tells that it is `name`.local. It keeps its process id at a place that
    /// cannot be chosen.
    #[track_caller]
    pub(crate) fn avahi(ns: &Netns, name: &str) -> Self {
        let (dir, room) = (folder(), Room::new(ns));
        let conf = format!(
            "[server]\nhost-name={name}\nallow-interfaces=eth0\nenable-dbus=no\n\
             [publish]\npublish-workstation=no\n"
        );
        let path = dir.path().join("conf");
        fs::write(&path, conf).expect("a file can be written");
        let log = fs::File::create(dir.path().join("log")).expect("a file can be made");
        let mut command = std::process::Command::new("avahi-daemon");
        command.args(["--no-drop-root", "--no-chroot", "--no-rlimits", "--file"]).arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { process: room.start(&mut command), dir, _room: Some(room) }
    }

    /// Tells it something.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        let ended = self.process.wait(Duration::from_secs(10));
        assert!(ended.is_some(), "it does not end after SIGTERM: {}", self.log());
    }

    /// What it has said.
    #[must_use]
    pub(crate) fn log(&self) -> String {
        let of = |name: &str| fs::read_to_string(self.file(name)).unwrap_or_default();
        of("log") + &of("events")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How often the script of a client was called for something.
    pub(crate) fn times(&self, event: &str) -> usize {
        let events = fs::read_to_string(self.file("events")).unwrap_or_default();
        events.lines().filter(|line| line.split(' ').next() == Some(event)).count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // Those that have begun others end them, if they are asked to end.
        if self.process.ended().is_none() {
            self.process.signal(Signal::SIGTERM);
            let _ = self.process.wait(Duration::from_secs(3));
        }
    }
}
