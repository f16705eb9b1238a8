//! A host whose children are kept to their rights.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde_json::Value;
use tests::{
    daemon::Daemon,
    eventually,
    mac::Mac,
    netns::Netns,
    topology::{Lan, Options},
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

/// In which time a client has an address, a router is heard, and another takes over.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What the children of a network are. The second lets the kernel switch between siblings, past the
/// programs of the parent.
pub(crate) const KINDS: [&str; 3] =
    ["--kind macvlan --mode vepa", "--kind macvlan --mode bridge", "--kind veth"];

/// A child in a namespace of its own.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) ns: Netns,
    pub(crate) mac: Mac,
}

/// A LAN with one host and the network `lan`, which enforces security and has no addresses of its own.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    pub(crate) lan: Lan,
}

impl Site {
    #[track_caller]
    pub(crate) fn new(kind: &str, ipv6: bool) -> Self {
        let lan = Lan::with(Options { ipv6, ..Options::default() });
        let daemon = Daemon::start(&lan.hosts[0].ns);
        daemon.network_with("lan", &format!("{kind} --security enforce"));
        Self { daemon, lan }
    }

    /// A child with more arguments of `maclane child add`.
    #[track_caller]
    pub(crate) fn member(&self, name: &str, more: &str) -> Member {
        self.member_in(name, self.lan.namespace(), more)
    }

    /// The same, in a namespace that is there.
    #[track_caller]
    pub(crate) fn member_in(&self, name: &str, ns: Netns, more: &str) -> Member {
        let more: Vec<_> = more.split_whitespace().collect();
        let mac = self.daemon.child_with(name, "lan", &ns, &more);
        Member { name: name.to_owned(), ns, mac }
    }

    /// The router, the host and that sibling reach a child by this address, and it reaches them from it.
    #[track_caller]
    pub(crate) fn assert_works(&self, child: &Member, ip: IpAddr, sibling: (&Member, IpAddr)) {
        let (router, host) = (&self.lan.router, &self.lan.hosts[0]);
        for from in [&router.ns, &host.ns, &sibling.0.ns] {
            reaches_soon(from, ip);
            assert_reaches(from, ip);
        }
        let of = |own: (IpAddr, IpAddr)| if ip.is_ipv4() { own.0 } else { own.1 };
        let routers = of((router.ip.into(), router.ip6.into()));
        for to in [routers, of((host.ip.into(), host.ip6.into())), sibling.1] {
            assert!(answers(&child.ns, ip, to), "{} from {ip} reaches {to}", child.name);
        }
    }

    /// A child that gives itself this address by hand is not heard with it.
    #[track_caller]
    pub(crate) fn assert_refused(&self, child: &Member, ip: IpAddr) {
        let router = &self.lan.router;
        // The routes that it has stay what they are.
        let (length, to) = match ip {
            IpAddr::V4(_) => (32, IpAddr::from(router.ip)),
            IpAddr::V6(_) => (128, router.ip6.into()),
        };
        child.ns.address("eth0", &format!("{ip}/{length}"));
        child.ns.ip(&format!("route add {to}/{length} dev eth0"));
        let before = self.counted(child);
        assert!(!answers(&child.ns, ip, to), "{} from {ip} reaches {to}", child.name);
        assert_does_not_reach(&router.ns, ip);
        assert_ne!(self.counted(child), before, "what {} sends from {ip} is counted", child.name);
        child.ns.ip(&format!("route del {to}/{length} dev eth0"));
        child.ns.ip(&format!("address del {ip}/{length} dev eth0"));
    }

    /// How many frames of a child were dropped, by reason.
    #[track_caller]
    pub(crate) fn counted(&self, child: &Member) -> BTreeMap<String, u64> {
        let list = self.daemon.json(&["drops"]);
        let rows = list.as_array().expect("a list").iter();
        let rows = rows.filter(|row| row["port"] == child.name.as_str());
        let of = |row: &Value| Some((row["reason"].as_str()?.to_owned(), row["dropped"].as_u64()?));
        rows.map(|row| of(row).expect("a reason and a number")).collect()
    }

    /// Nothing that these children have sent was refused.
    #[track_caller]
    pub(crate) fn assert_nothing_counted(&self, children: &[&Member]) {
        for child in children {
            let counted = self.counted(child);
            assert!(counted.is_empty(), "{}: {counted:?}", child.name);
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in [&["drops"][..], &["binding", "ls"]] {
                eprintln!("{}", String::from_utf8_lossy(&self.daemon.cli(what).stdout));
            }
            for ns in [&self.lan.router.ns, &self.lan.hosts[0].ns] {
                eprintln!("{}", String::from_utf8_lossy(&ns.exec(&["ip", "neigh"]).stdout));
            }
        }
    }
}

/// Whether an echo request from an address of a namespace is answered.
#[track_caller]
pub(crate) fn answers(ns: &Netns, from: IpAddr, to: IpAddr) -> bool {
    let (from, to) = (from.to_string(), to.to_string());
    let wait = tests::patience(Duration::from_secs(1)).as_secs().to_string();
    let words = ["ping", "-n", "-c", "2", "-i", "0.05", "-W", &wait, "-I", &from, &to];
    let output = ns.exec(&words);
    String::from_utf8_lossy(&output.stdout).contains(" 2 received")
}

/// Waits until an address answers.
#[track_caller]
pub(crate) fn reaches_soon(from: &Netns, ip: IpAddr) {
    eventually(&format!("{} reaches {ip}", from.name()), SOON, || {
        ping(from, ip, 1, Duration::from_millis(10)).is_clean()
    });
}

/// The global addresses of a child that its kernel uses, of the family that is asked for.
#[track_caller]
pub(crate) fn addresses(ns: &Netns, more: &str) -> Vec<IpAddr> {
    let text = ns.ip(&format!("-json {more} address show dev eth0 scope global"));
    let links: Value = serde_json::from_str(&text).expect("ip prints JSON");
    let list = links.as_array().into_iter().flatten();
    let list = list.filter_map(|link| link["addr_info"].as_array()).flatten();
    let usable = list.filter(|info| info["tentative"].is_null());
    usable.filter_map(|info| info["local"].as_str()?.parse().ok()).collect()
}
