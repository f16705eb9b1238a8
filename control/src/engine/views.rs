//! What is shown: parents, networks, children, tables and counters.

use dataplane_common::{
    DropReason,
    abi::{Kind as PortKind, PORT_HOST, PORT_WIRE, VLAN_ANY},
};

use super::{
    adopt::Adopted,
    rights,
    state::{Child, State},
    vlan_filter,
};
use crate::{
    dataplane::Pins,
    error::Result,
    model::{
        ChildView, DropStats, FdbView, Kind, LinkMode, Mac, NetworkSpec, NetworkView, Origin,
        ParentSpec, ParentView, PortStats, StatsView, Trunk,
    },
};

fn state_name(up: Option<bool>, none: &str) -> String {
    match up {
        Some(true) => "up".into(),
        Some(false) => "down".into(),
        None => none.into(),
    }
}

/// How the sender of a macvlan child's frames is known. `guard-only`: the kernel cannot tell frames that
/// bypass the guard from the host's.
fn identity(guarded: bool, sees_netns: bool) -> String {
    match (guarded, sees_netns) {
        (true, true) => "guard".into(),
        (true, false) => "guard-only".into(),
        (false, _) => "mac".into(),
    }
}

impl State {
    /// A parent, as it is.
    pub(crate) fn parent_view(&self, iface: &str) -> Result<ParentView> {
        let parent = self.parent(iface)?;
        let link = parent.link.as_ref();
        let spec = &parent.record.value.spec;
        let pins = Pins::new(&self.bpffs, iface);
        Ok(ParentView {
            iface: iface.into(),
            state: state_name(link.map(|link| link.up), "missing"),
            ifindex: link.map(|link| link.index),
            mac: link.and_then(|link| link.mac),
            mtu: link.and_then(|link| link.mtu),
            made: parent.record.value.made.is_some() || parent.record.value.isolated,
            xdp: spec.xdp,
            xdp_attached: parent.xdp.map_or("off", crate::dataplane::XdpIn::name).into(),
            tc: link.and(parent.plane.as_ref()).map(|_| self.tc.name().into()),
            unknown: spec.unknown,
            storm: spec.storm,
            adopt: spec.adopt,
            networks: self.networks_of(iface).map(|network| network.name.clone()).collect(),
            children: self.children_of(iface).count(),
            adopted: parent.adopted.len(),
            pins: pins.dir().display().to_string(),
            declared: self.is_declared::<ParentSpec>(iface),
            changed: vlan_filter::changed(&pins),
            problems: parent.problems.values().cloned().collect(),
        })
    }

    /// A network, as it is.
    pub(crate) fn network_view(&self, name: &str) -> Result<NetworkView> {
        let spec = self.network(name)?.clone();
        Ok(NetworkView {
            declared: self.is_declared::<NetworkSpec>(name),
            mode_in_force: self.mode_in_force(&spec),
            children: self.children_in(name).map(String::from).collect(),
            pools: self.pool_views(&spec),
            leases: self.lease_views(name),
            quarantined: self.quarantine_views(name),
            conflicts: self.conflict_views(name),
            spec,
        })
    }

    /// Every child: those that maclane made, then those that others made.
    pub(crate) fn child_views(&self) -> Vec<ChildView> {
        let created = self.children.iter().map(|(name, child)| self.created_view(name, child));
        created.chain(self.adopted_views()).collect()
    }

    /// The child of a name.
    pub(crate) fn child_view(&self, name: &str) -> Option<ChildView> {
        match self.children.get(name) {
            Some(child) => Some(self.created_view(name, child)),
            None => self.adopted_views().find(|child| child.name == name),
        }
    }

    fn adopted_views(&self) -> impl Iterator<Item = ChildView> {
        self.parents.iter().flat_map(|(iface, parent)| {
            parent.adopted.iter().map(|(mac, adopted)| self.adopted_view(iface, *mac, adopted))
        })
    }

    fn created_view(&self, name: &str, child: &Child) -> ChildView {
        let record = &child.record.value;
        let network = self.network(&record.spec.network).ok();
        let live = child.live.as_ref();
        ChildView {
            name: name.into(),
            network: Some(record.spec.network.clone()),
            inside: None,
            parent: record.parent.clone(),
            vlan: network.map_or(0, |network| network.vlan),
            trunk: record.spec.trunk.clone(),
            kind: network.map_or(Kind::Macvlan, |network| network.kind),
            mode: live.and_then(|live| live.mode).map(|mode| LinkMode::of(Some(mode))),
            netns: Some(record.netns.display().to_string()),
            ifname: Some(live.map_or_else(|| record.spec.ifname.clone(), |l| l.ifname.clone())),
            ifindex: live.map(|live| live.ifindex),
            mac: live.map(|live| live.mac).or(record.mac).unwrap_or(Mac([0; 6])),
            ip: record.addresses.clone(),
            mtu: live.and_then(|live| live.mtu),
            port: Some(record.port),
            state: state_name(
                live.map(|live| live.up),
                if child.absence.is_some() { "no namespace" } else { "gone" },
            ),
            lease_until: self.lease_until(child),
            origin: Origin::Created,
            identity: match network.map(|network| network.kind) {
                // Its host end is on this side.
                Some(Kind::Veth) => "port".into(),
                _ => identity(live.is_some_and(|live| live.guarded), self.sees_netns),
            },
            policy: self.policy_of(record),
            own_policy: record.spec.own_policy(),
        }
    }

    fn adopted_view(&self, iface: &str, mac: Mac, adopted: &Adopted) -> ChildView {
        let found = adopted.found.as_ref();
        let link = found.map(|found| &found.link);
        let inside = self.host_of_adopted(iface, adopted);
        let is_isolated = self.is_isolated(iface, adopted);
        ChildView {
            name: adopted_name(iface, mac),
            network: None,
            parent: iface.into(),
            inside: inside.map(|(_, record)| record.spec.name.clone()),
            vlan: inside.map_or(0, |(network, _)| network.vlan),
            trunk: match inside {
                Some((_, record)) => record.spec.trunk.clone(),
                None => (!is_isolated).then_some(Trunk::All),
            },
            kind: Kind::Macvlan,
            mode: link.map(|link| LinkMode::of(link.kind.mode())),
            netns: found.map(|found| found.netns.display().to_string()),
            ifname: link.map(|link| link.name.clone()),
            ifindex: link.map(|link| link.index),
            mac,
            ip: Vec::new(),
            mtu: link.and_then(|link| link.mtu),
            port: Some(adopted.port),
            // Only the MACs of children that are up are in the parent's filter.
            state: if is_isolated { "isolated" } else { "up" }.into(),
            lease_until: None,
            origin: Origin::Adopted,
            identity: identity(adopted.guarded, self.sees_netns),
            policy: inside.map(|(network, record)| rights::policy_of(network, record)),
            own_policy: Vec::new(),
        }
    }

    /// The forwarding table of a parent.
    pub(crate) fn fdb_view(&self, iface: &str) -> Result<Vec<FdbView>> {
        let Some(plane) = &self.parent(iface)?.plane else { return Ok(Vec::new()) };
        let entries = plane.tables().fdb.iter();
        Ok(entries
            .map(|(key, value)| FdbView {
                parent: iface.into(),
                mac: Mac(key.mac),
                vlan: (key.vlan != VLAN_ANY).then_some(key.vlan),
                port: value.port,
                kind: kind_name(value.kind).into(),
                owner: self.port_name(iface, value.port),
            })
            .collect())
    }

    /// Who stands at a port.
    pub(crate) fn port_name(&self, iface: &str, port: u16) -> String {
        match port {
            PORT_WIRE => return "wire".into(),
            PORT_HOST => return "host".into(),
            _ => {}
        }
        let created = self.children_of(iface).find(|(_, child)| child.record.value.port == port);
        let adopted = || {
            let adopted = &self.parents.get(iface)?.adopted;
            let (mac, _) = adopted.iter().find(|(_, adopted)| adopted.port == port)?;
            Some(adopted_name(iface, *mac))
        };
        created.map(|(name, _)| name.clone()).or_else(adopted).unwrap_or_else(|| port.to_string())
    }

    /// The counters of a parent.
    pub(crate) fn stats_view(&self, iface: &str) -> Result<StatsView> {
        let mut view = StatsView { parent: iface.into(), ports: Vec::new(), drops: Vec::new() };
        let Some(plane) = &self.parent(iface)?.plane else { return Ok(view) };
        let counters = plane.counters()?;
        for (port, entry) in &plane.tables().ports {
            let stats = counters.ports.get(usize::from(*port)).copied().unwrap_or_default();
            view.ports.push(PortStats {
                port: *port,
                name: self.port_name(iface, *port),
                kind: kind_name(entry.kind).into(),
                rx_packets: stats.rx_packets,
                rx_bytes: stats.rx_bytes,
                tx_packets: stats.tx_packets,
                tx_bytes: stats.tx_bytes,
            });
        }
        for (reason, drops) in DropReason::ALL.iter().zip(&counters.drops) {
            view.drops.push(DropStats {
                reason: reason.name().into(),
                meaning: reason.meaning().into(),
                packets: drops.packets,
                bytes: drops.bytes,
            });
        }
        Ok(view)
    }
}

fn kind_name(kind: u8) -> &'static str {
    match PortKind::from_raw(kind) {
        PortKind::None => "none",
        PortKind::Wire => "wire",
        PortKind::Host => "host",
        PortKind::Macvlan => "macvlan",
        PortKind::Veth => "veth",
    }
}

pub(super) fn adopted_name(iface: &str, mac: Mac) -> String {
    format!("{iface}/{mac}")
}
