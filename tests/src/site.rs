//! A host with a child of each sort: what tests of faults begin with.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use crate::{
    daemon::Daemon,
    eventually,
    netns::Netns,
    program::layout,
    topology::{Lan, PARENT},
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

/// In which time what was taken away is there again: the control loop looks once a second, and at
/// maps once in five.
pub const SOON: Duration = Duration::from_secs(10);

/// An address of the LAN.
#[must_use]
pub fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// A host with the macvlan child `m` (.101), the veth child `v` (.102), and the macvlan child `t` in
/// VLAN 10 (.103), of the networks `lan`, `lanv` and `lan10`.
#[derive(Debug)]
pub struct Site {
    /// Their namespaces, in that order.
    pub children: [Netns; 3],
    /// The daemon of the host.
    pub daemon: Daemon,
    /// The LAN, of which the host is the first.
    pub lan: Lan,
}

impl Site {
    /// Makes networks and children.
    #[track_caller]
    #[must_use]
    pub fn furnish(lan: Lan, daemon: Daemon) -> Self {
        let children = [lan.namespace(), lan.namespace(), lan.namespace()];
        daemon.network("lan", 0, "macvlan");
        daemon.network("lanv", 0, "veth");
        daemon.network("lan10", 10, "macvlan");
        for ((ns, last), (name, network)) in
            children.iter().zip(101..).zip([("m", "lan"), ("v", "lanv"), ("t", "lan10")])
        {
            daemon.child(name, network, ns, &format!("{}/24", v4(last)));
        }
        Self { children, daemon, lan }
    }

    /// The namespace of the host.
    pub fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    /// A pin of the parent.
    pub fn pin(&self, name: &str) -> PathBuf {
        self.daemon.bpffs().join("maclane").join(layout()).join(PARENT).join(name)
    }

    /// Each of the programs that somebody may take away is needed for one of these.
    fn paths(&self) -> [(&Netns, Ipv4Addr); 5] {
        let [macvlan, veth, _] = &self.children;
        [
            (self.host(), v4(101)),
            (self.host(), v4(102)),
            (macvlan, v4(102)),
            (veth, self.lan.router.ip),
            (&self.lan.router.ns, v4(101)),
        ]
    }

    /// Whoever shares a VLAN reaches each other.
    #[track_caller]
    pub fn assert_works(&self) {
        for (from, to) in self.paths() {
            assert_reaches(from, to);
        }
        assert_does_not_reach(&self.children[2], self.lan.router.ip);
    }

    /// Everything works, now or after a while.
    #[track_caller]
    pub fn works_soon(&self) {
        for (from, to) in self.paths() {
            eventually(&format!("{} reaches {to}", from.name()), SOON, || {
                ping(from, to, 1, Duration::from_millis(10)).is_clean()
            });
        }
        self.assert_works();
    }
}
