//! From what is there to what the dataplane needs: modes and tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_common::{
    abi::{Ip, Kind as PortKind, local_flag, port_flag},
    neighbour,
    topology::{Child as PortChild, Membership, Topology},
};

use super::{
    adopt::Adopted,
    rights,
    state::{Child, ChildRecord, Live, Parent, State},
};
use crate::{
    error::Result,
    failpoint::failpoint,
    model::{Kind, Mac, Mode, NetworkSpec, Security, Trunk},
    netlink::Netlink,
};

/// The VLANs of a child of this network.
pub(crate) fn membership(network: &NetworkSpec, trunk: Option<&Trunk>) -> Membership {
    match trunk {
        _ if network.mode == Mode::Passthru => Membership::All,
        None => Membership::Access(network.vlan),
        Some(Trunk::All) => Membership::All,
        Some(Trunk::List(vlans)) => Membership::Trunk(vlans.iter().copied().collect()),
    }
}

impl State {
    /// The macvlan mode that a network's children have to be in.
    ///
    /// In bridge mode the kernel switches between siblings by itself. It knows no VLANs, so `auto` takes it only
    /// where all macvlan children of the parent share one. And what the owner of a link can change behind
    /// its guard, or sends around it, reaches siblings in bridge mode before the parent sees it
    /// (`drivers/net/macvlan.c`, `macvlan_broadcast`), so `auto` takes it only where none is enforced.
    pub(crate) fn mode_in_force(&self, network: &NetworkSpec) -> Option<Mode> {
        match (network.kind, network.mode) {
            (Kind::Veth, _) => None,
            (Kind::Macvlan, Mode::Auto) if self.kernel_may_switch(network) => Some(Mode::Bridge),
            (Kind::Macvlan, Mode::Auto) => Some(Mode::Vepa),
            (Kind::Macvlan, forced) => Some(forced),
        }
    }

    /// True if all macvlan children of the network's parent, and those that the network would
    /// have, share one VLAN, and none is enforced.
    fn kernel_may_switch(&self, network: &NetworkSpec) -> bool {
        if network.security_of(!network.subnets.is_empty()) == Security::Enforce {
            return false;
        }
        let mut vlans = BTreeSet::from([network.vlan]);
        let parent = &network.parent;
        let adopted = |p: &Parent| p.adopted.values().any(|a| !self.is_isolated(parent, a));
        if self.parents.get(parent).is_some_and(adopted) {
            vlans.insert(0);
        }
        for (_, child) in self.children_of(parent) {
            let record = &child.record.value;
            let Ok(network) = self.network(&record.spec.network) else { continue };
            if network.kind == Kind::Macvlan {
                vlans.insert(network.vlan);
                let is_enforced = rights::policy_of(network, record).security == Security::Enforce;
                if record.spec.trunk.is_some() || is_enforced {
                    return false;
                }
            }
        }
        vlans.len() == 1
    }

    /// Puts every macvlan child of a parent into the mode that is in force.
    pub(crate) async fn sync_modes(&mut self, parent: &str) {
        // By network, because the answer takes a look at every child.
        let mut in_force: BTreeMap<&str, Option<Mode>> = BTreeMap::new();
        let wrong: Vec<(String, Mode)> = self
            .children_of(parent)
            .filter_map(|(name, child)| {
                let live = child.live.as_ref()?;
                let network = child.record.value.spec.network.as_str();
                let mode = || self.network(network).ok().and_then(|n| self.mode_in_force(n));
                let wanted = (*in_force.entry(network).or_insert_with(mode))?;
                (live.mode != Some(wanted) && wanted != Mode::Passthru)
                    .then(|| (name.clone(), wanted))
            })
            .collect();
        for (name, mode) in wrong {
            if let Err(e) = self.set_mode(&name, mode).await {
                tracing::warn!(child = name, ?mode, "cannot change the macvlan mode: {e}");
            }
        }
    }

    async fn set_mode(&mut self, name: &str, mode: Mode) -> Result<()> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let (Some(netns), Some(live)) = (child.record.value.open_netns(), &mut child.live) else {
            return Ok(());
        };
        Netlink::inside(&netns)?.set_mode(live.ifindex, mode).await?;
        failpoint!("link.mode");
        live.mode = Some(mode);
        tracing::info!(child = name, ?mode, "macvlan mode changed");
        Ok(())
    }

    /// Writes the tables of a parent into the kernel.
    pub(crate) fn sync_tables(&mut self, iface: &str) -> Result<()> {
        let Some(topology) = self.topology(iface) else { return Ok(()) };
        let parent = self.parent_mut(iface)?;
        let Some(plane) = &mut parent.plane else { return Ok(()) };
        plane.apply(topology)
    }

    fn topology(&self, iface: &str) -> Option<Topology> {
        let parent = self.parents.get(iface)?;
        let link = parent.link.as_ref()?;
        let created = self.children_of(iface).filter_map(|(_, child)| self.port_of(child));
        let is_alone = self.is_alone(iface);
        let adopted = parent.adopted.iter().map(|(mac, adopted)| {
            let access = if self.is_isolated(iface, adopted) {
                Access::None
            } else {
                self.host_of_adopted(iface, adopted).map_or(Access::Full, Access::Child)
            };
            let is_hosts = adopted.found.as_ref().is_some_and(|f| f.netns_id == self.own_netns);
            PortChild {
                has_filters: adopted.guarded && !is_hosts,
                ..port_of_adopted(*mac, adopted, &access, is_alone)
            }
        });
        Some(Topology {
            parent: link.index,
            mac: link.mac?.0,
            host_vlans: parent.host_vlans.iter().map(|(vlan, mac)| (*vlan, mac.0)).collect(),
            host_macs: parent.host_macs.iter().map(|mac| mac.0).collect(),
            beyond: self.macs_beyond(iface).into_iter().map(|(vlan, mac)| (vlan, mac.0)).collect(),
            children: created.chain(adopted).collect(),
            host_addresses: parent
                .host_addresses
                .iter()
                .map(|((vlan, ip), mac)| ((*vlan, mapped(*ip)), mac.0))
                .collect(),
            pinned: self.pinned(iface),
            wire: rights::of_wire(&parent.record.value.spec),
            netns: self.own_cookie,
            sees_netns: self.sees_netns,
        })
    }

    /// True if no other macvlan link than one can be on the parent: the kernel lets one in passthru mode be
    /// the only one (`drivers/net/macvlan.c`, `macvlan_common_newlink`), and what is not alone has another
    /// mode, whatever its namespace shows.
    fn is_alone(&self, iface: &str) -> bool {
        let adopted = self.parents.get(iface).map_or(0, |parent| parent.adopted.len());
        let is_macvlan = |child: &Child| {
            self.kind_of(&child.record.value) == Kind::Macvlan && child.live.is_some()
        };
        adopted == 1 && !self.children_of(iface).any(|(_, child)| is_macvlan(child))
    }

    /// The stations on the wire whose addresses are pinned.
    fn pinned(&self, iface: &str) -> BTreeMap<(u16, Ip), [u8; 6]> {
        let networks = self.networks.values().map(|network| &network.value);
        networks
            .filter(|network| network.parent == iface)
            .flat_map(|network| {
                network.bindings.iter().map(|(ip, mac)| ((network.vlan, mapped(*ip)), mac.0))
            })
            .collect()
    }

    fn port_of(&self, child: &Child) -> Option<PortChild> {
        let live = child.live.as_ref()?;
        let record = &child.record.value;
        let network = self.network(&record.spec.network).ok()?;
        let membership = membership(network, record.spec.trunk.as_ref());
        let kind = match network.kind {
            Kind::Macvlan => PortKind::Macvlan,
            Kind::Veth => PortKind::Veth,
        };
        Some(PortChild {
            port: record.port,
            mac: live.mac.0,
            kind,
            membership,
            host_end: live.host_end,
            flags: flags(network, live),
            local: self.local_flags(network, live) | rights::local_flags(network, record),
            netns: live.cookie,
            has_filters: false,
            takes_xdp: live.takes_xdp,
            rights: rights::of(network, record),
        })
    }

    fn local_flags(&self, network: &NetworkSpec, live: &Live) -> u8 {
        let peer = network.kind == Kind::Veth && live.netns != self.own_netns;
        any_source(live.mode.unwrap_or(network.mode)) | if peer { local_flag::PEER } else { 0 }
    }
}

/// An address as the tables have it.
pub(crate) fn mapped(ip: IpAddr) -> Ip {
    match ip {
        IpAddr::V4(ip) => neighbour::mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn flags(network: &NetworkSpec, live: &Live) -> u8 {
    let mut flags = mode_flags(live.mode.unwrap_or(network.mode));
    if live.guarded {
        flags |= port_flag::GUARDED;
    }
    flags | network_flags(network)
}

/// The flags of a port that follow from its network.
fn network_flags(network: &NetworkSpec) -> u8 {
    if network.internal { port_flag::INTERNAL } else { 0 }
}

fn mode_flags(mode: Mode) -> u8 {
    match mode {
        Mode::Auto | Mode::Vepa | Mode::Passthru => 0,
        Mode::Bridge => port_flag::BRIDGE,
        Mode::Private => port_flag::ISOLATED,
    }
}

fn any_source(mode: Mode) -> u8 {
    if mode == Mode::Passthru { local_flag::ANY_SOURCE } else { 0 }
}

/// What an adopted link may do.
enum Access<'a> {
    /// What it could do without maclane.
    Full,
    /// What the child may whose owner has made it.
    Child((&'a NetworkSpec, &'a ChildRecord)),
    /// Nothing: it is isolated.
    None,
}

/// The port of an adopted link.
fn port_of_adopted(mac: Mac, adopted: &Adopted, access: &Access<'_>, is_alone: bool) -> PortChild {
    let guard = if adopted.guarded { port_flag::GUARDED } else { 0 };
    let (membership, flags, local, rights) = match access {
        Access::Child((network, record)) => (
            membership(network, record.spec.trunk.as_ref()),
            network_flags(network),
            rights::local_flags(network, record),
            rights::of_adopted_inside(network, record),
        ),
        // No VLAN has it: nothing is for it, and nothing of it is for anything.
        Access::None => (Membership::Trunk(BTreeSet::new()), 0, 0, rights::of_isolated()),
        // Untagged, and any VLAN that it has a sub-interface for. By these flags and rights `State::before`
        // knows it again after a restart.
        Access::Full => {
            let source = if is_alone { any_source(adopted.mode()) } else { 0 };
            (Membership::All, 0, source, rights::of_adopted())
        }
    };
    PortChild {
        port: adopted.port,
        mac: mac.0,
        kind: PortKind::Macvlan,
        membership,
        host_end: 0,
        flags: mode_flags(adopted.mode()) | guard | flags,
        local,
        netns: adopted.found.as_ref().map_or(0, |found| found.cookie),
        has_filters: false,
        takes_xdp: false,
        rights,
    }
}
