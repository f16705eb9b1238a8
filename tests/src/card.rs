//! Emulated network cards, two of a kind on a hub: one is a host's parent, the other the wire. A virtual machine has them
//! (`xtask/src/vm/qemu.rs`), and says so in `MACLANE_CARDS`; no card of another machine is touched.

use std::{fs, process::Command, time::Duration};

use crate::{
    eventually,
    mac::Mac,
    process,
    topology::{Lan, PARENT},
};

/// A card comes back when the namespace that it was in is taken apart.
const SOON: Duration = Duration::from_secs(10);

/// Two cards of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Their driver.
    pub driver: &'static str,
    /// Their hub.
    hub: u8,
}

/// The pairs of this machine; none but in a virtual one.
#[must_use]
pub fn pairs() -> Vec<Pair> {
    if std::env::var_os("MACLANE_CARDS").is_none() {
        eprintln!(
            "skipped: this machine has no cards for tests; see `cargo xtask test --kernel 6.1 -- a_vlan_passes`"
        );
        return Vec::new();
    }
    ["virtio_net", "vmxnet3"]
        .into_iter()
        .zip(0..)
        .map(|(driver, hub)| Pair { driver, hub })
        .collect()
}

impl Pair {
    /// A LAN of one host, whose cable is this pair.
    #[track_caller]
    #[must_use]
    pub fn lan(self) -> Lan {
        let mut lan = Lan::new(1);
        let host = &mut lan.hosts[0];
        host.ns.delete(PARENT);
        for (card, ns, ifname) in [(1, &host.ns, PARENT), (2, &lan.wire, &*host.port)] {
            let mac = Mac([0x52, 0x54, 0, 0xca, self.hub, card]);
            let mut name = None;
            eventually(&format!("the card {mac} of {} is there", self.driver), SOON, || {
                name = named(mac);
                name.is_some()
            });
            let name = name.expect("it is there");
            process::run(Command::new("ip").args(["link", "set", &name, "down"]));
            process::run(Command::new("ip").args([
                "link",
                "set",
                &name,
                "netns",
                ns.name(),
                "name",
                ifname,
            ]));
            let driver = fs::read_link(format!("/sys/class/net/{name}/device/driver"));
            assert!(driver.is_err(), "{name} has left");
            ns.up(ifname);
        }
        lan.wire.enslave(&host.port, "wire");
        host.ns.address(PARENT, &format!("{}/24", host.ip));
        host.mac = host.ns.mac(PARENT);
        lan
    }
}

/// The interface with a MAC in the namespace that the machine has begun with.
fn named(mac: Mac) -> Option<String> {
    fs::read_dir("/sys/class/net").ok()?.flatten().find_map(|entry| {
        let address = fs::read_to_string(entry.path().join("address")).ok()?;
        (address.trim() == mac.to_string())
            .then(|| entry.file_name().to_string_lossy().into_owned())
    })
}
