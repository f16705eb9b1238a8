//! A LAN with a child that attacks, and taps on all whom it could attack.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde_json::Value;
use tests::{
    daemon::Daemon,
    eventually,
    frames::{Frame, token},
    kernel,
    mac::Mac,
    netns::Netns,
    slowness,
    tap::Tap,
    topology::{Lan, Options, PARENT},
};

/// In which time a frame that arrives has arrived.
pub(crate) const A_WHILE: Duration = Duration::from_millis(300);

/// The name of the child that attacks.
pub(crate) const EVIL: &str = "evil";

/// An address that nobody on the LAN has.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 77);
/// The same of IPv6.
pub(crate) const STRANGER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x77);

/// What the child that attacks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attacker {
    /// macvlan, whose every frame reaches the parent.
    Vepa,
    /// macvlan, whose frames the kernel gives to its siblings by itself.
    Bridge,
    /// veth.
    Veth,
}

impl Attacker {
    /// Those that the running kernel can be asked to hold back: without TCX there is no guard on a
    /// macvlan child, and what it sends to its siblings in bridge mode nobody sees.
    pub(crate) fn all() -> &'static [Self] {
        if kernel::has_tcx() {
            Self::each()
        } else {
            eprintln!("skipped for macvlan: Linux {} has no TCX, so no guards", kernel::release());
            &[Self::Veth]
        }
    }

    /// All of them; a slow machine tries one, the kind that its kernel has most to do with.
    pub(crate) fn each() -> &'static [Self] {
        match (slowness() > 1, kernel::has_tcx()) {
            (false, _) => &[Self::Vepa, Self::Bridge, Self::Veth],
            (true, true) => &[Self::Bridge],
            (true, false) => &[Self::Veth],
        }
    }

    fn network(self) -> &'static str {
        match self {
            Self::Vepa => "--kind macvlan --mode vepa",
            Self::Bridge => "--kind macvlan --mode bridge",
            Self::Veth => "--kind veth",
        }
    }
}

/// A child, or another station, with a tap.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) ns: Netns,
    pub(crate) mac: Mac,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Ipv6Addr,
    pub(crate) tap: Tap,
}

impl Station {
    /// A child with an address of each family that ends in `last`, and more arguments of `child add`.
    #[track_caller]
    pub(crate) fn child(
        (lan, daemon): (&Lan, &Daemon),
        (name, network): (&str, &str),
        last: u8,
        more: &[&str],
    ) -> Self {
        let ns = lan.namespace();
        let (ip, ip6) = addresses(last);
        let (cidr, cidr6) = (format!("{ip}/24"), format!("{ip6}/64"));
        let own = ["--ip", &cidr, "--ip", &cidr6];
        let mac = daemon.child_with(name, network, &ns, &[&own[..], more].concat());
        let tap = Tap::open(&ns, "eth0");
        Self { ns, mac, ip, ip6, tap }
    }

    /// The address that follows from its MAC.
    #[allow(clippy::many_single_char_names, reason = "the bytes of a MAC")]
    pub(crate) fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.0;
        let word = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
    }

    /// Sends a frame with a token behind it.
    #[track_caller]
    pub(crate) fn send(&self, frame: &Frame, token: &str) {
        self.tap.send(&frame.clone().trailer(token));
    }
}

/// Addresses that end in that number, written the same.
pub(crate) fn addresses(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    let six = u16::from_str_radix(&last.to_string(), 16).expect("digits are hexadecimal");
    (Ipv4Addr::new(192, 168, 50, last), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, six))
}

/// What was counted of a port, by reason: dropped, and let through.
pub(crate) type Counts = BTreeMap<String, (u64, u64)>;

/// ```text
///  host ── eth0 ──── wire ── router
///   ├ VLAN 0:  evil (.101)  victim (.102, like evil)  sibling (.103, veth)
///   └ VLAN 20: far (.104, macvlan)
/// ```
pub(crate) struct Site {
    pub(crate) evil: Station,
    pub(crate) victim: Station,
    pub(crate) sibling: Station,
    pub(crate) far: Station,
    /// Every interface of the wire.
    pub(crate) wire: Tap,
    /// What is put into the host's parent.
    pub(crate) host: Tap,
    pub(crate) daemon: Daemon,
    pub(crate) lan: Lan,
    pub(crate) attacker: Attacker,
}

impl Site {
    #[track_caller]
    pub(crate) fn new(attacker: Attacker) -> Self {
        let lan = Lan::with(Options { ipv6: true, ..Options::default() });
        // A hub: whoever is on the wire sees what leaves.
        lan.wire.ip("link set wire type bridge ageing_time 0");
        let daemon = Daemon::start(&lan.hosts[0].ns);
        daemon.network_with("lan", attacker.network());
        daemon.network_with("lanv", "--kind veth");
        daemon.network_with("far", "--kind macvlan --mode vepa --vlan 20");
        let child =
            |name, network, last| Station::child((&lan, &daemon), (name, network), last, &[]);
        let (evil, victim) = (child(EVIL, "lan", 101), child("victim", "lan", 102));
        let (sibling, far) = (child("sibling", "lanv", 103), child("far", "far", 104));
        let (wire, host) = (Tap::open_all(&lan.wire), Tap::open(&lan.hosts[0].ns, PARENT));
        Self { evil, victim, sibling, far, wire, host, daemon, lan, attacker }
    }

    /// All that was heard by now and within [`A_WHILE`], by who heard it.
    #[track_caller]
    pub(crate) fn heard(&self) -> [(&'static str, Vec<Frame>); 5] {
        let wire = self.wire.collect(A_WHILE);
        let now = |tap: &Tap| tap.collect(Duration::ZERO);
        [
            ("the wire", wire),
            ("the host", now(&self.host)),
            ("victim", now(&self.victim.tap)),
            ("sibling", now(&self.sibling.tap)),
            ("far", now(&self.far.tap)),
        ]
    }

    /// The stations that hear a frame which is sent through a tap.
    #[track_caller]
    pub(crate) fn hearers(&self, tap: &Tap, frame: &Frame) -> Vec<&'static str> {
        self.hearers_of(frame, |frame| tap.send(frame))
    }

    /// The stations that hear a frame, which is given a token and then sent.
    #[track_caller]
    pub(crate) fn hearers_of(&self, frame: &Frame, send: impl FnOnce(&Frame)) -> Vec<&'static str> {
        let token = token();
        send(&frame.clone().trailer(&token));
        let carries = |heard: &[Frame]| heard.iter().any(|frame| frame.carries(&token));
        let heard = self.heard();
        heard.iter().filter(|(_, heard)| carries(heard)).map(|(who, _)| *who).collect()
    }

    /// Changes what the attacker may do: `maclane child set evil SETTING`.
    #[track_caller]
    pub(crate) fn set(&self, setting: &str) {
        let words: Vec<_> = setting.split_whitespace().collect();
        self.daemon.run(&[&["child", "set", EVIL], &words[..]].concat());
    }

    /// What `maclane drops` says of the attacker.
    #[track_caller]
    pub(crate) fn counts(&self) -> Counts {
        counts(&self.daemon, EVIL)
    }

    /// Waits until just that has been counted of the attacker since `before`.
    #[track_caller]
    pub(crate) fn counted(&self, what: &str, before: &Counts, expected: &[(&str, (u64, u64))]) {
        let expected: Counts = expected.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect();
        let mut since = Counts::new();
        let mut right = || {
            since = difference(before, &self.counts());
            since == expected
        };
        // What veth carries is counted a moment later.
        let is_right = (0..40).any(|turn| {
            std::thread::sleep(tests::patience(Duration::from_millis(turn)));
            right()
        });
        assert!(is_right, "{what}: counted {since:?} and not {expected:?}");
    }
}

/// What `maclane drops` says of a port.
#[track_caller]
pub(crate) fn counts(daemon: &Daemon, port: &str) -> Counts {
    let list = daemon.json(&["drops"]);
    let number = |row: &Value, field: &str| row[field].as_u64().expect("a number");
    let rows = list.as_array().expect("a list").iter().filter(|row| row["port"] == port);
    rows.map(|row| {
        let reason = row["reason"].as_str().expect("a reason").to_owned();
        (reason, (number(row, "dropped"), number(row, "logged")))
    })
    .collect()
}

fn difference(before: &Counts, after: &Counts) -> Counts {
    let mut left = after.clone();
    for (reason, (dropped, logged)) in before {
        let entry = left.entry(reason.clone()).or_default();
        *entry = (entry.0 - dropped, entry.1 - logged);
    }
    left.retain(|_, count| *count != (0, 0));
    left
}

/// Waits until a child's own IPv6 addresses can be used, which its kernel asks for first.
#[track_caller]
pub(crate) fn settle(ns: &Netns) {
    eventually("no address is tentative", Duration::from_secs(10), || {
        !ns.ip("-6 address show dev eth0").contains("tentative")
    });
}
