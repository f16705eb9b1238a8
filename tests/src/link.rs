//! Interfaces of a namespace, made and changed by hand as an administrator would.

use std::path::Path;

use serde_json::Value;

use crate::{mac::Mac, netns::Netns};

impl Netns {
    /// Runs `ip` inside, with its arguments in one line: `ns.ip("link set eth0 up")`.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let words: Vec<_> = std::iter::once("ip").chain(arguments.split_whitespace()).collect();
        self.run(&words)
    }

    /// Makes a veth pair, each end directly in its final namespace, and sets both up.
    #[track_caller]
    pub fn veth(&self, ifname: &str, peer: &Self, peer_ifname: &str) {
        let peer_netns = peer.name();
        self.ip(&format!("link add {ifname} type veth peer name {peer_ifname} netns {peer_netns}"));
        self.up(ifname);
        peer.up(peer_ifname);
    }

    /// Makes a plain bridge and sets it up. It learns, floods, and lets VLAN tags through.
    #[track_caller]
    pub fn bridge(&self, ifname: &str) {
        // With snooping it would hold back multicast that nobody has joined, and join groups
        // itself.
        self.ip(&format!(
            "link add {ifname} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
        ));
        self.up(ifname);
        // It takes IP packets apart, and cuts off what is behind.
        self.bridge_netfilter(false);
    }

    /// Has bridges show IP packets to iptables or not, where `br_netfilter` is loaded. They do unless
    /// somebody says otherwise.
    #[track_caller]
    pub fn bridge_netfilter(&self, on: bool) {
        for family in ["ip", "ip6"] {
            let key = format!("net/bridge/bridge-nf-call-{family}tables");
            if Path::new("/proc/sys").join(&key).exists() {
                self.sysctl(&key, if on { "1" } else { "0" });
            }
        }
    }

    /// Makes an interface a port of a bridge.
    #[track_caller]
    pub fn enslave(&self, ifname: &str, bridge: &str) {
        self.ip(&format!("link set {ifname} master {bridge}"));
    }

    /// Makes a macvlan child of `parent`, an interface of this namespace, in `child`, and sets
    /// it up: somebody else's child, of which maclane has not been told.
    #[track_caller]
    pub fn macvlan(&self, parent: &str, mode: &str, child: &Self, ifname: &str) -> Mac {
        // Before Linux 6.15 a name is refused if it is taken here.
        let (netns, temporary) = (child.name(), format!("m{ifname}"));
        self.ip(&format!(
            "link add link {parent} name {temporary} netns {netns} type macvlan mode {mode}"
        ));
        child.rename(&temporary, ifname);
        child.up(ifname);
        child.mac(ifname)
    }

    /// Adds an address with its prefix length. An IPv6 address can be used at once.
    #[track_caller]
    pub fn address(&self, ifname: &str, cidr: &str) {
        let nodad = if cidr.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {cidr} dev {ifname} {nodad}"));
    }

    /// Sets an interface up.
    #[track_caller]
    pub fn up(&self, ifname: &str) {
        self.ip(&format!("link set {ifname} up"));
    }

    /// Sets an interface down.
    #[track_caller]
    pub fn down(&self, ifname: &str) {
        self.ip(&format!("link set {ifname} down"));
    }

    /// Gives an interface another name; it has to be down on kernels before 6.3.
    #[track_caller]
    pub fn rename(&self, ifname: &str, to: &str) {
        self.ip(&format!("link set {ifname} name {to}"));
    }

    /// Deletes an interface.
    #[track_caller]
    pub fn delete(&self, ifname: &str) {
        self.ip(&format!("link delete {ifname}"));
    }

    /// Whether there is an interface of that name.
    #[track_caller]
    #[must_use]
    pub fn has(&self, ifname: &str) -> bool {
        self.exec(&["ip", "link", "show", "dev", ifname]).status.success()
    }

    /// What `ip -details -json link show` says of an interface.
    #[track_caller]
    #[must_use]
    pub fn link(&self, ifname: &str) -> Value {
        let text = self.ip(&format!("-details -json link show dev {ifname}"));
        let mut links: Vec<Value> = serde_json::from_str(&text).expect("ip prints JSON");
        links.swap_remove(0)
    }

    /// The address of an interface.
    #[track_caller]
    #[must_use]
    pub fn mac(&self, ifname: &str) -> Mac {
        let link = self.link(ifname);
        let address = link["address"].as_str().expect("a link has an address");
        address.parse().expect("ip prints Ethernet addresses")
    }

    /// Sets the address of an interface.
    #[track_caller]
    pub fn set_mac(&self, ifname: &str, mac: Mac) {
        self.ip(&format!("link set {ifname} address {mac}"));
    }

    /// The index of an interface.
    #[track_caller]
    #[must_use]
    pub fn ifindex(&self, ifname: &str) -> u32 {
        let index = self.link(ifname)["ifindex"].as_u64().expect("a link has an index");
        u32::try_from(index).expect("an index has 32 bits")
    }

    /// Switches offloads of an interface, by `ethtool`'s names: `ns.offload("eth0", "txvlan",
    /// false)`.
    #[track_caller]
    pub fn offload(&self, ifname: &str, feature: &str, on: bool) {
        self.run(&["ethtool", "-K", ifname, feature, if on { "on" } else { "off" }]);
    }
}
