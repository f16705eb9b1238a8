//! The VLAN filter of a parent's NIC (`NETIF_F_HW_VLAN_CTAG_FILTER`, `rx-vlan-filter` of ethtool(8)): the NIC drops tagged
//! frames of a VLAN that is not in the filter.
//!
//! Only the kernel's own users put a VLAN in: 802.1Q sub-interfaces, bridges, bonds (`net/8021q/vlan_core.c`,
//! `vlan_vid_add`). So the filter is switched off where the driver lets it be, and else the parent is made promiscuous,
//! by which drivers let every VLAN in. Either is undone with the last VLAN, and with the parent.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Problem, State};
use crate::{
    dataplane::{Mark, Pins},
    error::{Context as _, Result},
    ethtool,
    failpoint::{self, failpoint},
    model::Trunk,
    netlink::{Link, LinkKind, Netlink},
};

/// The kernel's name of the filter.
const FEATURE: &str = "rx-vlan-filter";

/// What a parent is to take in beside untagged frames.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Vlans {
    /// All of them.
    All,
    /// These.
    Some(BTreeSet<u16>),
}

impl Vlans {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Some(vlans) if vlans.is_empty())
    }

    fn name(&self) -> String {
        match self {
            Self::All => "all VLANs".into(),
            Self::Some(vlans) => {
                let word = if vlans.len() == 1 { "VLAN" } else { "VLANs" };
                format!("{word} {}", Trunk::List(vlans.iter().copied().collect()))
            }
        }
    }
}

/// How the filter lets frames of other VLANs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opened {
    /// There is none, it was off, or the parent was promiscuous.
    Before,
    /// It is switched off.
    Off,
    /// The parent is promiscuous.
    Promiscuous,
}

impl State {
    /// The VLANs of a parent's networks and trunks that the host has no 802.1Q sub-interface in: its NIC may filter
    /// them.
    fn vlans_beside_host(&self, iface: &str) -> Vlans {
        let of_wire: Vec<_> = self.networks_of(iface).filter(|network| !network.internal).collect();
        let names: BTreeSet<_> = of_wire.iter().map(|network| &network.name).collect();
        let trunks = self.children_of(iface).filter_map(|(_, child)| {
            let spec = &child.record.value.spec;
            spec.trunk.as_ref().filter(|_| names.contains(&spec.network))
        });
        let mut vlans: BTreeSet<u16> = of_wire.iter().map(|network| network.vlan).collect();
        for trunk in trunks {
            match trunk {
                Trunk::All => return Vlans::All,
                Trunk::List(list) => vlans.extend(list),
            }
        }
        vlans.remove(&0);
        if let Some(parent) = self.parents.get(iface) {
            vlans.retain(|vlan| !parent.host_vlans.contains_key(vlan));
        }
        Vlans::Some(vlans)
    }

    /// Sees to it that the NIC lets in what the parent's children are to get, and undoes that where none is left that
    /// needs it.
    pub(crate) async fn sync_vlan_filter(&mut self, iface: &str) -> Result<()> {
        let vlans = self.vlans_beside_host(iface);
        let pins = Pins::new(&self.bpffs, iface);
        self.parent_mut(iface)?.problems.remove(&Problem::VlanFilter);
        let Some(link) = self.parent(iface)?.link.clone() else { return Ok(()) };
        if vlans.is_empty() {
            return restore(&pins, &self.netlink, &link).await;
        }
        match open(&pins, &self.netlink, &link).await {
            Ok(Opened::Before) => {}
            Ok(Opened::Off) => tracing::info!(
                parent = iface,
                "the NIC's VLAN filter is off, so that frames of {} come in; it is on again when no network needs them",
                vlans.name()
            ),
            Ok(Opened::Promiscuous) => tracing::info!(
                parent = iface,
                "the parent is promiscuous, so that frames of {} pass the NIC's VLAN filter, until no network needs them",
                vlans.name()
            ),
            Err(e) => {
                let problem = format!(
                    "the NIC may drop frames of {}: {e}; give the host an 802.1Q sub-interface in each (`ip link add link \
                     {} name IFACE type vlan id VLAN`)",
                    vlans.name(),
                    link.name
                );
                self.parent_mut(iface)?.problems.insert(Problem::VlanFilter, problem);
            }
        }
        Ok(())
    }
}

/// Lets every VLAN in. What has to be undone is noted first: a daemon that is killed in between undoes it once too often,
/// and not never.
async fn open(pins: &Pins, netlink: &Netlink, link: &Link) -> Result<Opened> {
    let doing = || format!("cannot switch off the VLAN filter ({FEATURE}) of {}", link.name);
    let feature = ethtool::feature(&link.name, FEATURE).doing(doing)?;
    let Some(feature) = feature.filter(|feature| feature.is_on) else { return Ok(Opened::Before) };
    // Also where the driver has refused to switch the filter off: it is not asked again in each pass.
    if link.promiscuous {
        return Ok(Opened::Before);
    }
    // What is made of other links filters nothing itself: they do.
    if !feature.is_fixed && link.kind == LinkKind::Device {
        pins.mark(Mark::VlanFilterOff, true)?;
        let done = ethtool::set_feature(&link.name, feature, false);
        failpoint!("vlan_filter.off");
        let now = ethtool::feature(&link.name, FEATURE);
        if done.is_ok() && matches!(now, Ok(Some(now)) if !now.is_on) {
            return Ok(Opened::Off);
        }
        pins.mark(Mark::VlanFilterOff, false)?;
    }
    failpoint::refuse("promiscuous").doing(doing)?;
    pins.mark(Mark::Promiscuous, true)?;
    if let Err(e) = netlink.set_promiscuous(link.index, true).await {
        pins.mark(Mark::Promiscuous, false)?;
        return Err(e);
    }
    failpoint!("vlan_filter.promiscuous");
    Ok(Opened::Promiscuous)
}

/// Undoes what [`State::sync_vlan_filter`] has done, where it is noted.
pub(crate) async fn restore(pins: &Pins, netlink: &Netlink, link: &Link) -> Result<()> {
    if pins.has(Mark::VlanFilterOff) {
        let doing = || format!("cannot switch the VLAN filter ({FEATURE}) of {} on", link.name);
        if let Some(feature) = ethtool::feature(&link.name, FEATURE).doing(doing)? {
            ethtool::set_feature(&link.name, feature, true).doing(doing)?;
        }
        failpoint!("vlan_filter.restored");
        pins.mark(Mark::VlanFilterOff, false)?;
        tracing::info!(link = link.name, "the NIC's VLAN filter is on again");
    }
    if pins.has(Mark::Promiscuous) {
        netlink.set_promiscuous(link.index, false).await?;
        failpoint!("vlan_filter.restored");
        pins.mark(Mark::Promiscuous, false)?;
        tracing::info!(link = link.name, "the parent is no longer promiscuous");
    }
    Ok(())
}

/// What maclane has changed on a parent's NIC, each with its value before.
pub(crate) fn changed(pins: &Pins) -> BTreeMap<String, String> {
    let all = [
        (Mark::KeptRxTags, "rx-vlan-offload", "on"),
        (Mark::VlanFilterOff, FEATURE, "on"),
        (Mark::Promiscuous, "promiscuous", "off"),
    ];
    let changed = all.into_iter().filter(|(mark, ..)| pins.has(*mark));
    changed.map(|(_, what, before)| (what.to_owned(), before.to_owned())).collect()
}
