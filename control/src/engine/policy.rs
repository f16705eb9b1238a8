//! The policy of networks and children: changing it while frames go, and whose addresses are whose.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use super::{
    Engine, rights,
    state::{Child, ChildRecord, State},
};
use crate::{
    check::Check,
    error::{Context, Error, Result},
    model::{
        BindingSource, BindingSpec, BindingView, ChildPatch, ChildView, Mac, NetworkPatch,
        NetworkSpec, NetworkView, Policy,
    },
    plan::{Object, differences},
    store::{self, Store, Versioned},
};

impl Engine {
    /// Changes the policy of a network.
    pub(crate) async fn network_set(&self, name: &str, patch: NetworkPatch) -> Result<NetworkView> {
        let mut state = self.state.lock().await;
        let spec = patch.apply(state.network(name)?.clone());
        state.network_change(spec).await.doing(|| format!("cannot change network \"{name}\""))?;
        state.network_view(name)
    }

    /// Changes the policy of a child that maclane made.
    pub(crate) async fn child_set(&self, name: &str, patch: ChildPatch) -> Result<ChildView> {
        self.state.lock().await.child_set(name, patch).await?;
        self.child(name).await
    }

    /// Pins an address on the wire to the MAC of its station.
    pub(crate) async fn binding_put(
        &self,
        network: &str,
        ip: IpAddr,
        BindingSpec { mac }: BindingSpec,
    ) -> Result<BindingView> {
        let mut state = self.state.lock().await;
        let mut spec = state.network(network)?.clone();
        spec.bindings.insert(ip, mac);
        let doing = || format!("cannot bind {ip} to {mac} in network \"{network}\"");
        spec.check().doing(doing)?;
        state.check_bindings(&spec).doing(doing)?;
        state.network_change(spec).await.doing(doing)?;
        Ok(configured(network, ip, mac))
    }

    /// Takes the pin of an address away.
    pub(crate) async fn binding_rm(&self, network: &str, ip: IpAddr) -> Result<()> {
        let mut state = self.state.lock().await;
        let mut spec = state.network(network)?.clone();
        let doing = || format!("cannot remove the binding of {ip} in network \"{network}\"");
        if spec.bindings.remove(&ip).is_none() {
            return Err(Error::not_found("there is none; see `maclane binding ls`")).doing(doing);
        }
        state.network_change(spec).await.doing(doing)
    }

    /// Whose the addresses of a network are, or of all.
    pub(crate) async fn bindings(&self, network: Option<&str>) -> Result<Vec<BindingView>> {
        let state = self.state.lock().await;
        if let Some(name) = network {
            return state.binding_views(name);
        }
        let all: Result<Vec<_>> =
            state.networks.keys().map(|name| state.binding_views(name)).collect();
        Ok(all?.into_iter().flatten().collect())
    }
}

impl State {
    /// Writes what is new about a network that is the same but for its policy, and lets the tables of
    /// its parent follow.
    async fn network_change(&mut self, spec: NetworkSpec) -> Result<()> {
        let name = spec.name.clone();
        self.check_not_declared::<NetworkSpec>(&name, "change")?;
        let Some(there) = self.networks.get(&name).filter(|there| there.value != spec) else {
            return Ok(());
        };
        let details = differences(&there.value, &spec);
        let key = NetworkSpec::key(&name);
        let revision = self.store.put_as(&key, &spec, Some(there.revision)).await?;
        tracing::info!(network = name, details, "policy changed");
        let parent = spec.parent.clone();
        self.networks.insert(name, Versioned { value: spec, revision });
        self.sync_policy(&parent).await;
        Ok(())
    }

    async fn child_set(&mut self, name: &str, patch: ChildPatch) -> Result<()> {
        let doing = || format!("cannot change child \"{name}\"");
        let adopted = || self.child_view(name).is_some();
        if !self.children.contains_key(name) && adopted() {
            let foreign = "somebody else made it, and no network of maclane has a policy for it";
            return Err(Error::conflict(foreign)).doing(doing);
        }
        let Versioned { value: record, revision } = &self.child(name)?.record;
        if record.removing {
            return Err(Error::conflict("it is just being removed")).doing(doing);
        }
        let spec = patch.apply(record.spec.clone());
        if spec == record.spec {
            return Ok(());
        }
        let (details, parent) = (differences(&record.spec, &spec), record.parent.clone());
        let value = ChildRecord { spec, ..record.clone() };
        let key = format!("{}{name}", store::CHILDREN);
        let revision = self.store.put_as(&key, &value, Some(*revision)).await.doing(doing)?;
        tracing::info!(child = name, details, "policy changed");
        if let Some(child) = self.children.get_mut(name) {
            child.record = Versioned { value, revision };
        }
        self.sync_policy(&parent).await;
        Ok(())
    }

    /// Lets the modes and the tables of a parent follow a policy. What cannot be written now is written by
    /// the control loop.
    async fn sync_policy(&mut self, parent: &str) {
        if !self.parents.get(parent).is_some_and(|parent| parent.looked) {
            // The tables are not to be without children that were not looked at yet.
            self.kick.notify_one();
            return;
        }
        self.sync_modes(parent).await;
        if let Err(e) = self.sync_tables(parent) {
            tracing::warn!(parent, "cannot write a policy into the tables yet: {e}");
            self.kick.notify_one();
        }
    }

    /// The policy that is in force for a child.
    pub(crate) fn policy_of(&self, record: &ChildRecord) -> Option<Policy> {
        Some(rights::policy_of(self.network(&record.spec.network).ok()?, record))
    }

    /// Refuses bindings of a network that say something about its children.
    pub(crate) fn check_bindings(&self, spec: &NetworkSpec) -> Result<()> {
        let asked_for = self.asked_for(spec);
        for (ip, mac) in &spec.bindings {
            let child = self.addresses_beside(spec).find(|(_, _, other)| other == ip);
            if let Some((name, record, _)) = child {
                return Err(Error::conflict(format!(
                    "{ip} is the address of child \"{name}\" (network {}), and a binding is for stations on \
                     the wire; leave it out, or remove that child first",
                    record.spec.network
                )));
            }
            if asked_for.contains(ip) {
                return Err(Error::conflict(format!(
                    "{ip} is the address of a child that is just being made; leave it out, or try again"
                )));
            }
            if let Some(owner) = self.owner_of_mac(&spec.parent, *mac, None)? {
                return Err(Error::conflict(format!(
                    "{ip} cannot be bound to {mac}: that is the MAC of {owner}, which is not on the wire; take \
                     the MAC of the station that has the address"
                )));
            }
        }
        Ok(())
    }

    /// The addresses that are pinned on a network's LAN, with the network that says so.
    pub(crate) fn bound_beside<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> impl Iterator<Item = (IpAddr, &'a str)> {
        let lan = self.lan_of(network);
        let beside =
            move |other: &&NetworkSpec| !other.bindings.is_empty() && self.lan_of(other) == lan;
        let networks = self.networks.values().map(|other| &other.value).filter(beside);
        networks.flat_map(|other| other.bindings.keys().map(move |ip| (*ip, other.name.as_str())))
    }

    /// Refuses a child's MAC to which an address on its parent's wire is pinned.
    pub(crate) fn check_not_bound(&self, mac: Mac, iface: &str, way_out: &str) -> Result<()> {
        let bound = self.networks_of(iface).find_map(|network| {
            let (ip, _) = network.bindings.iter().find(|(_, bound)| **bound == mac)?;
            Some((ip, &network.name))
        });
        match bound {
            Some((ip, name)) => Err(Error::conflict(format!(
                "{mac} is the MAC of a station on the wire, to which network {name} binds {ip}; {way_out}"
            ))),
            None => Ok(()),
        }
    }

    /// Whose the addresses of a network are: first those on the wire, then those of its children.
    fn binding_views(&self, name: &str) -> Result<Vec<BindingView>> {
        let on_wire = self.network(name)?.bindings.iter();
        let mut views: Vec<_> = on_wire.map(|(ip, mac)| configured(name, *ip, *mac)).collect();
        views.extend(self.lease_views(name).into_iter().map(|lease| {
            let live = self.children.get(&lease.child).and_then(|child| child.live.as_ref());
            BindingView {
                network: name.to_owned(),
                ip: lease.ip,
                mac: live.map_or(lease.mac, |live| live.mac),
                port: lease.child,
                source: BindingSource::Lease,
            }
        }));
        views.extend(self.learned_views(name)?);
        Ok(views)
    }

    /// The addresses that children of a network have taken by themselves.
    fn learned_views(&self, name: &str) -> Result<Vec<BindingView>> {
        let Some(plane) = &self.parent(&self.network(name)?.parent)?.plane else {
            return Ok(Vec::new());
        };
        let of_network = |child: &&Child| child.record.value.spec.network == name;
        let ports: BTreeMap<u16, &str> = self
            .children
            .values()
            .filter(of_network)
            .map(|child| (child.record.value.port, child.record.value.spec.name.as_str()))
            .collect();
        let views = plane.learned()?.into_iter().filter_map(|(key, learned)| {
            Some(BindingView {
                network: name.to_owned(),
                ip: Ipv6Addr::from(key.ip).to_canonical(),
                mac: Mac(learned.mac),
                port: (*ports.get(&learned.port)?).to_owned(),
                source: BindingSource::Learned,
            })
        });
        Ok(views.collect())
    }
}

fn configured(network: &str, ip: IpAddr, mac: Mac) -> BindingView {
    let source = BindingSource::Configured;
    BindingView { network: network.to_owned(), ip, mac, port: "wire".into(), source }
}
