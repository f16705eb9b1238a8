//! The LAN, its daemon and its children.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::Result;
use tests::{
    daemon::Daemon,
    interrupt::Interrupt,
    mac::Mac,
    netns::Netns,
    topology::{Host, Lan, Options, PARENT},
};

use super::say;

/// A child as it is to be made. Its interface is called like the parent.
struct Plan {
    name: &'static str,
    kind: Kind,
    vlan: u16,
    /// The last number of its addresses.
    number: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// macvlan, made by hand before maclane knows the parent.
    Adopted,
    Macvlan,
    Veth,
}

const CHILDREN: &[Plan] = &[
    Plan { name: "adopted", kind: Kind::Adopted, vlan: 0, number: 50 },
    Plan { name: "macvlan-0", kind: Kind::Macvlan, vlan: 0, number: 51 },
    Plan { name: "veth-0", kind: Kind::Veth, vlan: 0, number: 52 },
    Plan { name: "macvlan-10a", kind: Kind::Macvlan, vlan: 10, number: 101 },
    Plan { name: "macvlan-10b", kind: Kind::Macvlan, vlan: 10, number: 102 },
    Plan { name: "veth-10a", kind: Kind::Veth, vlan: 10, number: 103 },
    Plan { name: "veth-10b", kind: Kind::Veth, vlan: 10, number: 104 },
    Plan { name: "macvlan-20", kind: Kind::Macvlan, vlan: 20, number: 201 },
    Plan { name: "veth-20", kind: Kind::Veth, vlan: 20, number: 202 },
];

/// Everything that the proofs need. It is gone when this is dropped.
pub(super) struct Site {
    // Dropped in this order: the daemon ends before its namespace goes.
    pub(super) daemon: Daemon,
    children: Vec<Child>,
    pub(super) lan: Lan,
    pub(super) program: PathBuf,
}

struct Child {
    plan: &'static Plan,
    ns: Netns,
    mac: Mac,
}

/// Somebody on the LAN, with an `eth0`.
#[derive(Clone, Copy)]
pub(super) struct Station<'a> {
    pub(super) name: &'static str,
    pub(super) ns: &'a Netns,
    pub(super) ip: Ipv4Addr,
    pub(super) ip6: Ipv6Addr,
    pub(super) mac: Mac,
    /// The VLAN that it is in; the router's and the host's own is 0.
    pub(super) vlan: u16,
}

impl Site {
    /// Makes the LAN and the child that is to be adopted, starts the daemon, and has it make
    /// the rest.
    pub(super) fn new(program: PathBuf, interrupt: &Interrupt) -> Result<Self> {
        say("making a LAN of namespaces: a router and a host on one wire");
        let lan = Lan::with(Options { hosts: 1, ipv6: true, ..Options::default() });
        let host = &lan.hosts[0];
        let mut namespaces = Vec::new();
        for plan in CHILDREN {
            interrupt.check()?;
            namespaces.push((plan, lan.namespace()));
        }
        for (plan, ns) in namespaces.iter().filter(|(plan, _)| plan.kind == Kind::Adopted) {
            say(&format!("making a macvlan child by hand: {}", plan.name));
            host.ns.macvlan(PARENT, "bridge", ns, PARENT);
            for address in plan.addresses() {
                ns.address(PARENT, &address);
            }
        }

        interrupt.check()?;
        say(&format!("starting {} daemon", program.display()));
        let daemon = Daemon::start_program(program.clone(), &host.ns, &[]);
        maclane(&daemon, &["parent", "add", PARENT]);
        for network in networks() {
            interrupt.check()?;
            maclane(&daemon, &network.split(' ').collect::<Vec<_>>());
        }
        for (plan, ns) in namespaces.iter().filter(|(plan, _)| plan.kind != Kind::Adopted) {
            interrupt.check()?;
            plan.add(&daemon, ns);
        }
        let child = |(plan, ns): (_, Netns)| Child { plan, mac: ns.mac(PARENT), ns };
        let children = namespaces.into_iter().map(child).collect();
        Ok(Self { daemon, children, lan, program })
    }

    /// The station of that name.
    pub(super) fn station(&self, name: &str) -> Station<'_> {
        match name {
            "host" => station("host", &self.lan.hosts[0]),
            "router" => station("router", &self.lan.router),
            _ => self
                .children()
                .find(|child| child.name == name)
                .unwrap_or_else(|| panic!("the LAN has no {name}")),
        }
    }

    /// All children.
    pub(super) fn children(&self) -> impl Iterator<Item = Station<'_>> {
        self.children.iter().map(|child| Station {
            name: child.plan.name,
            ns: &child.ns,
            ip: child.plan.ip(),
            ip6: child.plan.ip6(),
            mac: child.mac,
            vlan: child.plan.vlan,
        })
    }

    /// The end of the daemon's log.
    pub(super) fn log_tail(&self) -> String {
        const LINES: usize = 30;
        let log = self.daemon.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        format!("the daemon's log, its last {} lines:\n{}", tail.len(), tail.join("\n"))
    }

    /// A command line of this daemon.
    pub(super) fn command_line(&self, arguments: &str) -> String {
        let (program, socket) = (self.program.display(), self.daemon.socket());
        format!("{program} --socket {} {arguments}", socket.display())
    }
}

fn station<'a>(name: &'static str, host: &'a Host) -> Station<'a> {
    Station { name, ns: &host.ns, ip: host.ip, ip6: host.ip6, mac: host.mac, vlan: 0 }
}

/// `network create …`, once for each VLAN and kind.
fn networks() -> Vec<String> {
    let created = CHILDREN.iter().filter(|plan| plan.kind != Kind::Adopted);
    let mut commands: Vec<_> = created
        .map(|plan| {
            let (name, vlan, kind) = (plan.network(), plan.vlan, plan.kind.word());
            format!("network create {name} --parent {PARENT} --vlan {vlan} --kind {kind}")
        })
        .collect();
    commands.dedup();
    commands
}

/// Shows a command of maclane and runs it.
fn maclane(daemon: &Daemon, arguments: &[&str]) {
    say(&format!("+ maclane {}", arguments.join(" ")));
    daemon.run(arguments);
}

impl Plan {
    fn add(&self, daemon: &Daemon, ns: &Netns) {
        let (network, [ip, ip6]) = (self.network(), self.addresses());
        let place = ["--network", &network, "--netns", ns.name(), "--ip", &ip, "--ip", &ip6];
        maclane(daemon, &[&["child", "add", self.name], &place[..]].concat());
    }

    fn network(&self) -> String {
        format!("vlan{}-{}", self.vlan, self.kind.word())
    }

    fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 50, self.number)
    }

    /// The number is written the same in both families, as on the LAN.
    fn ip6(&self) -> Ipv6Addr {
        let last = u16::from_str_radix(&self.number.to_string(), 16);
        let last = last.expect("digits are hexadecimal");
        Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, last)
    }

    fn addresses(&self) -> [String; 2] {
        [format!("{}/24", self.ip()), format!("{}/64", self.ip6())]
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Adopted | Self::Macvlan => "macvlan",
            Self::Veth => "veth",
        }
    }
}
