//! What Docker has asked for: networks under its IDs, and in [`pools`] what they give out.
//!
//! Docker tells nobody what it has when it starts again, so its networks and pools are in the store.

mod pools;

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub(crate) use self::pools::{AddressRequest, PoolPlace};
use self::pools::{DockerPool, Reserved};
use super::{
    Engine,
    ahead::Ready,
    state::{Child, State},
};
use crate::{
    error::{Error, Result},
    model::{DockerEndpointView, DockerNetworkView, NetworkSpec, Trunk},
    process::ProcessId,
    store::{self, Store, Versioned},
};

/// A network of Docker, in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DockerNetwork {
    /// The network. Those of single VLANs of a trunk have its name, a dot and the VLAN.
    network: String,
    /// The VLANs that its endpoints see tagged, or one of which they choose.
    trunk: Option<Trunk>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Docker {
    networks: BTreeMap<String, Versioned<DockerNetwork>>,
    pools: BTreeMap<String, Versioned<DockerPool>>,
    /// Addresses that were given out and have no endpoint yet.
    pub(super) reserved: Vec<Reserved>,
    /// Addresses that were found ahead.
    pub(super) ready: Vec<Ready>,
    /// Pools of which addresses are being found ahead.
    pub(super) looking: BTreeSet<String>,
}

/// The VLANs of a network or an endpoint: one that it sees untagged, or some that it sees tagged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vlans {
    /// This one.
    Access(u16),
    /// These.
    Trunk(Trunk),
}

/// A network, as Docker asks for it.
#[derive(Clone, Debug)]
pub(crate) struct DockerNetworkSpec {
    /// Docker's ID of it.
    pub(crate) id: String,
    /// The network; of its subnets the ranges are known to the pools only.
    pub(crate) network: NetworkSpec,
    /// The VLANs that its endpoints see tagged, or one of which they choose.
    pub(crate) trunk: Option<Trunk>,
    /// It was asked for without a parent.
    pub(crate) isolated: bool,
    /// The subnets that are pools of maclane.
    pub(crate) pools: Vec<IpNetwork>,
    /// Who asks.
    pub(crate) owner: Option<ProcessId>,
}

fn no_network(id: &str) -> Error {
    Error::not_found(format!(
        "maclane does not know network {id}; remove it with `docker network rm` and create it again"
    ))
}

impl Docker {
    /// What the store has.
    pub(crate) async fn read(store: &impl Store) -> Result<Self> {
        let networks = store.list_as::<DockerNetwork>(store::DOCKER_NETWORKS).await?;
        let pools = store.list_as::<DockerPool>(store::DOCKER_POOLS).await?;
        let (networks, pools) = (networks.into_iter().collect(), pools.into_iter().collect());
        Ok(Self { networks, pools, ..Self::default() })
    }

    /// True for a network that was made for Docker.
    pub(crate) fn has(&self, network: &str) -> bool {
        self.networks.values().any(|docker| docker.value.is_for(network))
    }
}

impl DockerNetwork {
    /// True for the network, and for those of single VLANs of it.
    fn is_for(&self, network: &str) -> bool {
        let rest = network.strip_prefix(&self.network);
        rest.is_some_and(|rest| match rest.strip_prefix('.') {
            Some(vlan) => vlan.parse::<u16>().is_ok_and(|number| number.to_string() == vlan),
            None => rest.is_empty(),
        })
    }
}

impl Engine {
    /// Makes a network for Docker.
    pub(crate) async fn docker_network_create(&self, spec: DockerNetworkSpec) -> Result<()> {
        self.state.lock().await.docker_network_create(spec).await
    }

    /// Removes a network of Docker; one that is gone is removed.
    pub(crate) async fn docker_network_rm(&self, id: &str) -> Result<()> {
        self.state.lock().await.docker_network_rm(id).await
    }

    /// The network that an endpoint of a network of Docker belongs to, and the VLANs that it sees
    /// tagged there.
    pub(crate) async fn docker_place(
        &self,
        id: &str,
        vlans: Option<Vlans>,
    ) -> Result<(String, Option<Trunk>)> {
        self.state.lock().await.docker_place(id, vlans).await
    }

    /// What Docker has here.
    pub(crate) async fn docker(&self) -> Vec<DockerNetworkView> {
        self.state.lock().await.docker_views()
    }
}

impl State {
    async fn docker_network_create(&mut self, spec: DockerNetworkSpec) -> Result<()> {
        let DockerNetworkSpec { id, mut network, trunk, isolated, pools, owner } = spec;
        if self.docker.networks.contains_key(&id) {
            return Err(Error::conflict(format!("there is a network {id} already")));
        }
        let bound = self.bind_pools(&mut network, &pools, owner.as_ref());
        let value = DockerNetwork { network: network.name.clone(), trunk };
        let key = format!("{}{id}", store::DOCKER_NETWORKS);
        let revision = self.store.put_as(&key, &value, None).await?;
        self.docker.networks.insert(id.clone(), Versioned { value, revision });
        if let Err(e) = self.docker_network_make(network, isolated).await {
            self.docker_network_forget(&id).await?;
            return Err(e);
        }
        if let Err(e) = self.give_pools_to(&id, &bound).await {
            self.docker_network_rm(&id).await?;
            return Err(e);
        }
        Ok(())
    }

    async fn docker_network_make(&mut self, network: NetworkSpec, isolated: bool) -> Result<()> {
        let parent = network.parent.clone();
        if isolated {
            self.isolated_add(&parent).await?;
        }
        let done = self.network_create(network).await;
        if isolated && done.is_err() {
            self.parent_leave(&parent).await?;
        }
        done
    }

    async fn docker_network_rm(&mut self, id: &str) -> Result<()> {
        let Some(docker) = self.docker.networks.get(id) else { return Ok(()) };
        let docker = docker.value.clone();
        let of_it = self
            .children
            .iter()
            .filter(|(_, child)| docker.is_for(&child.record.value.spec.network));
        let (endpoints, others): (Vec<_>, Vec<_>) =
            of_it.partition(|(_, child)| child.record.value.endpoint.is_some());
        if let Some((name, _)) = others.first() {
            return Err(Error::conflict(format!(
                "child \"{name}\" is in it, which Docker has not made; remove that first (`maclane child rm {name}`)"
            )));
        }
        let endpoints: Vec<String> = endpoints.into_iter().map(|(name, _)| name.clone()).collect();
        for child in endpoints {
            self.child_rm(&child).await?;
        }
        let networks = self.networks.keys().filter(|name| docker.is_for(name));
        let networks: Vec<String> = networks.cloned().collect();
        for network in networks.iter().rev() {
            self.network_rm(network).await?;
        }
        self.docker_network_forget(id).await?;
        self.forget_held();
        Ok(())
    }

    async fn docker_network_forget(&mut self, id: &str) -> Result<()> {
        if let Some(network) = self.docker.networks.get(id) {
            let key = format!("{}{id}", store::DOCKER_NETWORKS);
            self.store.delete_if(&key, network.revision).await?;
            self.docker.networks.remove(id);
        }
        Ok(())
    }

    /// Forgets what belongs to networks that are not there: somebody has removed them here, or a daemon
    /// ended when it had begun to make them.
    pub(crate) async fn prune_docker(&mut self) -> Result<()> {
        let networks = self.docker.networks.iter();
        let gone =
            networks.filter(|(_, docker)| !self.networks.contains_key(&docker.value.network));
        let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.docker_network_forget(&id).await?;
        }
        self.prune_pools().await
    }

    async fn docker_place(
        &mut self,
        id: &str,
        vlans: Option<Vlans>,
    ) -> Result<(String, Option<Trunk>)> {
        let docker = self.docker.networks.get(id).ok_or_else(|| no_network(id))?.value.clone();
        let base = self.network(&docker.network).map_err(|_| no_network(id))?.clone();
        let Some(trunk) = docker.trunk else {
            return match vlans {
                None => Ok((base.name, None)),
                Some(Vlans::Access(vlan)) if vlan == base.vlan => Ok((base.name, None)),
                Some(_) => Err(Error::invalid(format!(
                    "the network is in VLAN {} alone, and an endpoint of it in no other; leave the option \
                     \"vlan\" out, or make a network that is a trunk (`-o vlan=10,20`)",
                    base.vlan
                ))),
            };
        };
        match vlans {
            None => Ok((base.name, Some(trunk))),
            Some(Vlans::Trunk(wanted)) if holds(&trunk, &wanted) => Ok((base.name, Some(wanted))),
            Some(Vlans::Access(0)) if holds(&trunk, &Trunk::List(vec![0])) => Ok((base.name, None)),
            Some(Vlans::Access(vlan)) if holds(&trunk, &Trunk::List(vec![vlan])) => {
                let name = format!("{}.{vlan}", base.name);
                if !self.networks.contains_key(&name) {
                    self.network_create(NetworkSpec { name: name.clone(), vlan, ..base }).await?;
                }
                Ok((name, None))
            }
            Some(Vlans::Access(_) | Vlans::Trunk(_)) => Err(Error::invalid(format!(
                "the network is a trunk of the VLANs {trunk}; take \"vlan\" from those"
            ))),
        }
    }

    fn docker_views(&self) -> Vec<DockerNetworkView> {
        let view = |(id, docker): (&String, &Versioned<DockerNetwork>)| {
            let docker = &docker.value;
            let network = self.network(&docker.network).ok();
            let children = self
                .children
                .iter()
                .filter(|(_, child)| docker.is_for(&child.record.value.spec.network));
            let endpoint = |(name, child): (&String, &Child)| {
                let record = &child.record.value;
                let endpoint = record.endpoint.as_ref();
                DockerEndpointView {
                    child: name.clone(),
                    id: endpoint.map(|endpoint| endpoint.id.clone()).unwrap_or_default(),
                    sandbox: endpoint
                        .and_then(|endpoint| endpoint.sandbox.as_ref())
                        .map(|path| path.display().to_string()),
                }
            };
            DockerNetworkView {
                id: id.clone(),
                network: docker.network.clone(),
                parent: network.map(|network| network.parent.clone()),
                vlan: network.map_or(0, |network| network.vlan),
                trunk: docker.trunk.clone(),
                endpoints: children.map(endpoint).collect(),
            }
        };
        self.docker.networks.iter().map(view).collect()
    }
}

/// True if a trunk has all VLANs of another one.
fn holds(trunk: &Trunk, wanted: &Trunk) -> bool {
    match (trunk, wanted) {
        (Trunk::All, _) => true,
        (Trunk::List(_), Trunk::All) => false,
        (Trunk::List(has), Trunk::List(wanted)) => wanted.iter().all(|vlan| has.contains(vlan)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_docker_is_its_own_and_those_of_its_vlans() {
        let docker = DockerNetwork { network: "docker-0123".into(), trunk: None };
        for (name, is_its) in [
            ("docker-0123", true),
            ("docker-0123.10", true),
            ("docker-01234", false),
            ("docker-0123.mine", false),
            ("docker-0123.010", false),
            ("docker-012", false),
        ] {
            assert_eq!(docker.is_for(name), is_its, "{name}");
        }
    }
}
