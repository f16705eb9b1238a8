//! Whole networks, as values.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{daemon::Daemon, mac::Mac, netns::Netns};

/// The parent of a [`Host`].
pub const PARENT: &str = "eth0";

/// How a [`Lan`] is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many hosts it has.
    pub hosts: u8,
    /// The MTU of every interface.
    pub mtu: u32,
    /// Whether hosts and router have IPv6 addresses; otherwise IPv6 is off everywhere.
    pub ipv6: bool,
    /// Whether both ends of each cable carry VLAN tags beside the frame, as a NIC with VLAN
    /// offload does. Without it they are in the frame.
    pub vlan_offload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts: 1, mtu: 1500, ipv6: false, vlan_offload: true }
    }
}

/// Hosts and a router on one wire.
///
/// ```text
///    hosts[0]              hosts[1]              router
///   ┌──────────────┐      ┌──────────────┐      ┌─────────────┐
///   │ 192.168.50.10│      │ 192.168.50.11│      │ 192.168.50.1│
///   │     eth0     │      │     eth0     │      │    eth0     │
///   └──────┬───────┘      └──────┬───────┘      └──────┬──────┘
///          │ veth                │ veth                │ veth
///   ┌──────┴─────────────────────┴─────────────────────┴──────┐
///   │     p0                    p1                    router  │
///   │               bridge "wire", plain: VLAN tags pass      │
///   └─────────────────────────────────────────────────────────┘
///    wire
/// ```
///
/// In IPv6 it is the same numbers in `fd00:50::/64`: `fd00:50::10`, `::11`, `::1`.
#[derive(Debug)]
pub struct Lan {
    /// A neighbour on the wire that knows nothing of maclane.
    pub router: Host,
    /// The machines on which maclane may run.
    pub hosts: Vec<Host>,
    /// The namespace of the bridge.
    pub wire: Netns,
    options: Options,
}

/// A machine on a [`Lan`]: a namespace whose parent `eth0` is plugged into the wire.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub ns: Netns,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address; configured only where the LAN has IPv6.
    pub ip6: Ipv6Addr,
    /// The address of its parent.
    pub mac: Mac,
    /// The other end of its cable: the bridge's port in the wire's namespace.
    pub port: String,
}

impl Lan {
    /// A LAN with a number of hosts and [`Options::default`] otherwise.
    #[track_caller]
    #[must_use]
    pub fn new(hosts: u8) -> Self {
        Self::with(Options { hosts, ..Options::default() })
    }

    /// A LAN as it is described.
    #[track_caller]
    #[must_use]
    pub fn with(options: Options) -> Self {
        let wire = Netns::without_ipv6();
        wire.bridge("wire");
        let plug = |port: String, number| Host::new(&wire, port, number, options);
        let router = plug("router".to_owned(), 1);
        let hosts = (0..options.hosts).map(|n| plug(format!("p{n}"), 10 + n)).collect();
        Self { router, hosts, wire, options }
    }

    /// Makes a child of a network in a namespace of its own, and says what addresses it got.
    #[track_caller]
    #[must_use]
    pub fn add(&self, daemon: &Daemon, name: &str, network: &str) -> (Netns, Vec<String>) {
        let ns = self.namespace();
        daemon.child_with(name, network, &ns, &[]);
        (ns, daemon.addresses(name))
    }

    /// A namespace for a child, with IPv6 only if the LAN has it.
    #[track_caller]
    #[must_use]
    pub fn namespace(&self) -> Netns {
        namespace(self.options)
    }
}

impl Host {
    #[track_caller]
    fn new(wire: &Netns, port: String, number: u8, options: Options) -> Self {
        let ns = namespace(options);
        ns.veth(PARENT, wire, &port);
        for (end, ifname) in [(&ns, PARENT), (wire, &port)] {
            end.ip(&format!("link set {ifname} mtu {}", options.mtu));
            if !options.vlan_offload {
                end.run(&["ethtool", "-K", ifname, "txvlan", "off", "rxvlan", "off"]);
            }
        }
        wire.enslave(&port, "wire");

        // The number is written the same in both families, so `::10` is sixteen.
        let ip = Ipv4Addr::new(192, 168, 50, number);
        let last = u16::from_str_radix(&number.to_string(), 16).expect("digits are hexadecimal");
        let ip6 = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, last);
        ns.address(PARENT, &format!("{ip}/24"));
        if options.ipv6 {
            ns.address(PARENT, &format!("{ip6}/64"));
        }
        Self { mac: ns.mac(PARENT), ns, ip, ip6, port }
    }
}

#[track_caller]
fn namespace(options: Options) -> Netns {
    if options.ipv6 { Netns::new() } else { Netns::without_ipv6() }
}
