//! What each network card does to frames before maclane sees them.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::Path,
};

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolHeader};
use futures::TryStreamExt;

use super::{XdpProgram, fail, ok, warn};
use crate::model::{Finding, ParentView};

/// Features that are on, by interface.
type Features = BTreeMap<String, HashSet<String>>;

/// A feature that gets in the way.
struct Offload {
    /// The kernel's name for it (`net/ethtool/common.c`).
    feature: &'static str,
    /// What `ethtool -K` calls it.
    word: &'static str,
    /// Only where frames pass an XDP program.
    xdp_only: bool,
    why: &'static str,
}

/// The daemon itself sees to the filter of VLANs.
const IN_THE_WAY: [Offload; 3] = [
    Offload {
        feature: "rx-lro",
        word: "lro",
        xdp_only: false,
        why: "the card merges frames in a way that forwarding to children cannot undo",
    },
    Offload {
        feature: "rx-vlan-hw-parse",
        word: "rxvlan",
        xdp_only: true,
        why: "the card takes VLAN tags off before XDP sees them",
    },
    Offload {
        feature: "rx-gro-hw",
        word: "rx-gro-hw",
        xdp_only: true,
        why: "the card merges frames before XDP sees them",
    },
];

/// Physical cards of this namespace, the daemon's parents, and whatever has an XDP program.
pub(super) async fn findings(parents: &[ParentView], xdp: &[XdpProgram]) -> Vec<Finding> {
    let interfaces = match interfaces(Path::new("/sys/class/net")) {
        Ok(interfaces) => interfaces,
        Err(e) => {
            return vec![fail("nic", format!("cannot list interfaces: {e}; is sysfs mounted?"))];
        }
    };
    let mut findings = Vec::new();
    let features = features().await.unwrap_or_else(|e| {
        let detail = format!("cannot ask cards for their offloads: {e}; see \"ethtool -k IFACE\"");
        findings.push(warn("nic", detail));
        Features::new()
    });
    let parent = |name: &str| parents.iter().find(|parent| parent.iface == *name);
    for (name, driver) in &interfaces {
        if driver.is_some() || parent(name).is_some() {
            let xdp = parent(name).is_some_and(has_xdp);
            findings.extend(card(name, driver.as_deref(), xdp, features.get(name)));
        }
    }
    findings.extend(xdp.iter().filter_map(|(name, id)| foreign_xdp(name, *id, parent(name))));
    if !interfaces.values().any(Option::is_some) {
        findings.push(ok("nic", "no physical card in this network namespace"));
    }
    findings
}

/// The interfaces below `class` (`/sys/class/net`), each with its driver if it is physical.
fn interfaces(class: &Path) -> io::Result<BTreeMap<String, Option<String>>> {
    fs::read_dir(class)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // `bonding_masters` and the like are files.
            let interface = entry.path();
            interface.is_dir().then(|| {
                let driver = interface.join("device").exists().then(|| {
                    fs::read_link(interface.join("device/driver"))
                        .ok()
                        .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()))
                        .unwrap_or_else(|| "unknown".into())
                });
                Ok((entry.file_name().to_string_lossy().into_owned(), driver))
            })
        })
        .collect()
}

/// Asks the kernel over ethtool's netlink family, which needs no privilege.
async fn features() -> Result<Features, Box<dyn std::error::Error>> {
    let (connection, mut handle, _) = ethtool::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut answers = Box::pin(handle.feature().get(None).execute().await?);
    let mut features = Features::new();
    while let Some(answer) = answers.try_next().await? {
        let (mut name, mut on) = (None, HashSet::new());
        for attribute in answer.payload.nlas {
            match attribute {
                EthtoolAttr::Feature(EthtoolFeatureAttr::Header(headers)) => {
                    name = headers.into_iter().find_map(|header| match header {
                        EthtoolHeader::DevName(name) => Some(name),
                        _ => None,
                    });
                }
                EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => {
                    on.extend(bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name));
                }
                _ => {}
            }
        }
        features.extend(name.map(|name| (name, on)));
    }
    connection.abort();
    Ok(features)
}

fn card(name: &str, driver: Option<&str>, xdp: bool, on: Option<&HashSet<String>>) -> Vec<Finding> {
    let check = format!("nic {name}");
    let what = driver.map_or_else(|| "virtual".into(), |driver| format!("driver {driver}"));
    let Some(on) = on else {
        return vec![ok(&check, format!("{what}, offloads unknown"))];
    };
    let in_the_way: Vec<_> = IN_THE_WAY
        .iter()
        .filter(|offload| on.contains(offload.feature) && (xdp || !offload.xdp_only))
        .map(|Offload { word, why, .. }| {
            warn(&check, format!("{what}, {word} is on: {why}; \"ethtool -K {name} {word} off\""))
        })
        .collect();
    if in_the_way.is_empty() {
        return vec![ok(&check, format!("{what}, no offload in the way"))];
    }
    in_the_way
}

fn has_xdp(parent: &ParentView) -> bool {
    parent.xdp_attached != "off"
}

/// A program that is not the daemon's own.
fn foreign_xdp(name: &str, id: u32, parent: Option<&ParentView>) -> Option<Finding> {
    (!parent.is_some_and(has_xdp)).then(|| {
        warn(
            &format!("nic {name}"),
            format!(
                "XDP program {id} is not maclane's (\"bpftool prog show id {id}\"); detach it or add the parent with --xdp off"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn physical_cards_are_those_with_a_device() {
        let class = tempfile::tempdir().unwrap();
        let at = |path: &str| class.path().join(path);
        fs::create_dir_all(at("eth0/device")).unwrap();
        symlink("/sys/bus/pci/drivers/ixgbe", at("eth0/device/driver")).unwrap();
        fs::create_dir_all(at("veth1")).unwrap();
        fs::write(at("bonding_masters"), "").unwrap();
        let found = interfaces(class.path()).unwrap();
        let expected = [("eth0".to_owned(), Some("ixgbe".to_owned())), ("veth1".to_owned(), None)];
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn offloads_in_the_way_come_with_the_way_out() {
        let on = HashSet::from(["rx-lro", "rx-gro-hw", "rx-checksum"].map(String::from));
        let words = |xdp| {
            let findings = card("eth0", Some("ixgbe"), xdp, Some(&on));
            assert!(findings.iter().all(|finding| finding.status == "warn"));
            findings.into_iter().map(|finding| finding.detail).collect::<String>()
        };
        assert!(words(false).ends_with("\"ethtool -K eth0 lro off\""));
        assert!(words(true).ends_with("\"ethtool -K eth0 rx-gro-hw off\""));
        assert_eq!(card("eth0", None, true, Some(&HashSet::new()))[0].status, "ok");
    }
}
