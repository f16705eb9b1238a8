//! What Docker has asked for: networks under its IDs, pools, and addresses that no endpoint has yet.
//!
//! Docker tells nobody what it has when it starts again, so its networks and pools are in the store.
//! An address that is given out is held in memory until its endpoint is made, which then has the lease:
//! if either of the two daemons ends in between, nobody has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{
    Engine,
    ahead::{FINDING, Ready},
    conflicts::Held,
    state::State,
};
use crate::{
    error::{Error, Result},
    model::{AskedIp, DockerEndpointView, DockerNetworkView, NetworkSpec, Trunk},
    process::ProcessId,
    store::{self, Store, Versioned},
    subnet::{self, Pool, SubnetSpec},
};

/// A network of Docker, in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DockerNetwork {
    /// The network. Those of single VLANs of a trunk have its name, a dot and the VLAN.
    network: String,
    /// The VLANs that its endpoints see tagged, or one of which they choose.
    trunk: Option<Trunk>,
    /// The process of Docker that has made it.
    owner: Option<ProcessId>,
}

/// A pool that Docker was given, in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DockerPool {
    /// The subnet.
    subnet: IpNetwork,
    /// The part of it that endpoints get addresses of.
    range: Option<IpNetwork>,
    /// Addresses that were given out while it belonged to no network of maclane: the gateway, those
    /// that are kept back, and all of a network of another driver.
    given: BTreeSet<IpAddr>,
    /// Docker's ID of the network of maclane that it belongs to.
    network: Option<String>,
    /// The process of Docker that has asked for it.
    owner: Option<ProcessId>,
}

/// An address that was given out and has no endpoint yet.
#[derive(Debug)]
pub(super) struct Reserved {
    network: String,
    pub(super) held: Held,
    owner: Option<ProcessId>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Docker {
    networks: BTreeMap<String, Versioned<DockerNetwork>>,
    pools: BTreeMap<String, Versioned<DockerPool>>,
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
    /// Its subnets are pools of Docker itself, which gives out none that overlap.
    pub(crate) of_docker: bool,
    /// Who asks.
    pub(crate) owner: Option<ProcessId>,
}

/// An address, as Docker asks for it.
#[derive(Clone, Debug)]
pub(crate) struct AddressRequest {
    /// The pool.
    pub(crate) pool: String,
    /// The address; absent: any.
    pub(crate) ip: Option<IpAddr>,
    /// It is for the gateway.
    pub(crate) is_gateway: bool,
    /// Who asks.
    pub(crate) owner: Option<ProcessId>,
}

fn no_network(id: &str) -> Error {
    Error::not_found(format!(
        "maclane does not know network {id}; remove it with `docker network rm` and create it again"
    ))
}

fn no_pool(id: &str) -> Error {
    Error::not_found(format!("there is no pool {id}"))
}

fn is_over(owner: Option<&ProcessId>) -> bool {
    owner.is_some_and(|owner| !owner.is_alive())
}

impl Docker {
    /// What the store has.
    pub(crate) async fn read(store: &impl Store) -> Result<Self> {
        let networks = store.list_as::<DockerNetwork>(store::DOCKER_NETWORKS).await?;
        let pools = store.list_as::<DockerPool>(store::DOCKER_POOLS).await?;
        let (networks, pools) = (networks.into_iter().collect(), pools.into_iter().collect());
        Ok(Self { networks, pools, ..Self::default() })
    }

    /// The pools that belong to networks of maclane.
    pub(super) fn pools_of_networks(&self) -> Vec<String> {
        let bound = self.pools.iter().filter(|(_, pool)| pool.value.network.is_some());
        bound.map(|(id, _)| id.clone()).collect()
    }

    /// True for a network that was made for Docker.
    pub(crate) fn has(&self, network: &str) -> bool {
        self.networks.values().any(|docker| docker.value.is_for(network))
    }
}

impl DockerNetwork {
    fn is_for(&self, network: &str) -> bool {
        let rest = network.strip_prefix(&self.network);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl DockerPool {
    fn spec(&self) -> SubnetSpec {
        SubnetSpec { ip_range: self.range, gateway: subnet::Gateway::None, subnet: self.subnet }
    }

    fn address(&self, ip: IpAddr) -> Result<IpNetwork> {
        IpNetwork::new(ip, self.subnet.prefix()).map_err(|e| Error::failed(e.to_string()))
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

    /// Gives Docker a pool: the one that it asks for, or one that nobody here uses. Its ID, and what it
    /// is.
    pub(crate) async fn pool_request(
        &self,
        wanted: Option<(IpNetwork, Option<IpNetwork>)>,
        is_ipv6: bool,
        owner: Option<ProcessId>,
    ) -> Result<(String, IpNetwork)> {
        self.state.lock().await.pool_request(wanted, is_ipv6, owner).await
    }

    /// Takes a pool back; one that is gone is taken back.
    pub(crate) async fn pool_release(&self, id: &str) -> Result<()> {
        self.state.lock().await.pool_forget(id).await
    }

    /// Gives Docker an address of a pool. For an endpoint of a network of maclane the LAN is asked
    /// first.
    pub(crate) async fn address_request(&self, request: AddressRequest) -> Result<IpNetwork> {
        let place = {
            let mut state = self.state.lock().await;
            match state.pool_place(&request.pool)? {
                Some(place) => place,
                None => return state.pool_give(&request).await,
            }
        };
        let (network, subnet, _) = place;
        let held = loop {
            if let Some(held) = self.take_ready(&request.pool, request.ip).await? {
                break held;
            }
            match self.hold_of(&network, subnet, request.ip).await {
                Ok(held) => break held,
                Err(_) if self.is_being_found(&request).await => tokio::time::sleep(FINDING).await,
                Err(e) => return Err(e),
            }
        };
        let first = held.addresses.first().copied();
        let address = first.ok_or_else(|| Error::failed("no address was found"))?;
        let reserved = Reserved { network: network.clone(), held, owner: request.owner };
        self.state.lock().await.docker.reserved.push(reserved);
        Ok(address)
    }

    /// Takes an address back that no endpoint has; one that is not given out is taken back.
    pub(crate) async fn address_release(&self, pool: &str, ip: IpAddr) -> Result<()> {
        self.state.lock().await.address_release(pool, ip).await
    }

    /// What Docker has here.
    pub(crate) async fn docker(&self) -> Vec<DockerNetworkView> {
        self.state.lock().await.docker_views()
    }
}

impl State {
    async fn docker_network_create(&mut self, spec: DockerNetworkSpec) -> Result<()> {
        let DockerNetworkSpec { id, mut network, trunk, isolated, pools, of_docker, owner } = spec;
        if self.docker.networks.contains_key(&id) {
            return Err(Error::conflict(format!("there is a network {id} already")));
        }
        if of_docker {
            self.forget_overlapped(&network).await?;
        }
        let bound = self.bind_pools(&mut network, &pools, owner.as_ref());
        let value = DockerNetwork { network: network.name.clone(), trunk, owner };
        let key = format!("{}{id}", store::DOCKER_NETWORKS);
        let revision = self.store.put_as(&key, &value, None).await?;
        self.docker.networks.insert(id.clone(), Versioned { value, revision });
        let done = self.docker_network_make(network, isolated).await;
        if let Err(e) = done {
            self.docker_network_forget(&id).await?;
            return Err(e);
        }
        for pool in bound {
            if let Some(pool) = self.docker.pools.get_mut(&pool) {
                pool.value.network = Some(id.clone());
            }
            self.save_pool(&pool).await?;
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

    /// Removes networks of Docker that it has forgotten: it makes another one where they are, which its
    /// own pools would not let it do. They were removed while this daemon was down, or Docker has ended
    /// just when it made them.
    async fn forget_overlapped(&mut self, network: &NetworkSpec) -> Result<()> {
        let overlapped: BTreeSet<String> =
            self.overlaps(network).into_iter().map(|(_, _, name)| name.to_owned()).collect();
        let forgotten = self.docker.networks.iter().filter(|(_, docker)| {
            let docker = &docker.value;
            let mut children = self.children.values().map(|child| &child.record.value);
            let is_used = children.any(|record| {
                docker.is_for(&record.spec.network)
                    && record.endpoint.as_ref().is_some_and(|e| e.open_sandbox().is_some())
            });
            !is_used && overlapped.iter().any(|network| docker.is_for(network))
        });
        let ids: Vec<String> = forgotten.map(|(id, _)| id.clone()).collect();
        for id in ids {
            tracing::warn!(id, "Docker has forgotten this network: it is removed");
            self.docker_network_rm(&id).await?;
        }
        Ok(())
    }

    /// Gives the subnets of a network the ranges of their pools; the IDs of those.
    fn bind_pools(
        &self,
        network: &mut NetworkSpec,
        pools: &[IpNetwork],
        owner: Option<&ProcessId>,
    ) -> Vec<String> {
        let mut bound = Vec::new();
        for subnet in network.subnets.iter_mut().filter(|s| pools.contains(&s.subnet)) {
            let free = self.docker.pools.iter().filter(|(_, pool)| {
                pool.value.subnet == subnet.subnet && pool.value.network.is_none()
            });
            // Of two that are asked for at the same moment, the one of this process, with this gateway.
            let found = free.max_by_key(|(_, pool)| {
                let of_owner = pool.value.owner.as_ref() == owner;
                (of_owner, subnet.gateway().is_some_and(|ip| pool.value.given.contains(&ip)))
            });
            let Some((id, pool)) = found else { continue };
            subnet.ip_range = pool.value.range;
            bound.push(id.clone());
        }
        bound
    }

    async fn docker_network_rm(&mut self, id: &str) -> Result<()> {
        let Some(docker) = self.docker.networks.get(id) else { return Ok(()) };
        let docker = docker.value.clone();
        let networks = self.networks.keys().filter(|name| docker.is_for(name));
        let networks: Vec<String> = networks.cloned().collect();
        self.docker.reserved.retain(|reserved| !docker.is_for(&reserved.network));
        let pools = &self.docker.pools;
        self.docker.ready.retain(|ready| {
            let pool = pools.get(&ready.pool);
            pool.is_some_and(|pool| pool.value.network.as_deref() != Some(id))
        });
        for network in networks.iter().rev() {
            let children: Vec<String> = self.children_in(network).map(String::from).collect();
            for child in children {
                self.child_rm(&child).await?;
            }
            self.network_rm(network).await?;
        }
        self.docker_network_forget(id).await
    }

    async fn docker_network_forget(&mut self, id: &str) -> Result<()> {
        if let Some(network) = self.docker.networks.get(id) {
            let key = format!("{}{id}", store::DOCKER_NETWORKS);
            self.store.delete_if(&key, network.revision).await?;
            self.docker.networks.remove(id);
        }
        Ok(())
    }

    /// Forgets what was begun when a daemon ended: networks of Docker that are not there, and pools of
    /// such.
    pub(crate) async fn prune_docker(&mut self) -> Result<()> {
        let networks = self.docker.networks.iter();
        let gone =
            networks.filter(|(_, docker)| !self.networks.contains_key(&docker.value.network));
        let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.docker_network_forget(&id).await?;
        }
        let of_none = self.docker.pools.iter().filter(|(_, pool)| {
            let network = pool.value.network.as_ref();
            network.is_some_and(|id| !self.docker.networks.contains_key(id))
        });
        let of_none: Vec<String> = of_none.map(|(id, _)| id.clone()).collect();
        for id in of_none {
            self.pool_forget(&id).await?;
        }
        Ok(())
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

    async fn pool_request(
        &mut self,
        wanted: Option<(IpNetwork, Option<IpNetwork>)>,
        is_ipv6: bool,
        owner: Option<ProcessId>,
    ) -> Result<(String, IpNetwork)> {
        let (subnet, range) = match wanted {
            Some(wanted) => wanted,
            None => (self.unused_pool(is_ipv6)?, None),
        };
        let pool = DockerPool { subnet, range, given: BTreeSet::new(), network: None, owner };
        subnet::check(&[pool.spec()], &BTreeMap::new())?;
        self.forget_pools_like(subnet).await?;
        let id = random_id()?;
        let key = format!("{}{id}", store::DOCKER_POOLS);
        let revision = self.store.put_as(&key, &pool, None).await?;
        self.docker.pools.insert(id.clone(), Versioned { value: pool, revision });
        Ok((id, subnet))
    }

    /// Removes pools of a subnet that Docker has forgotten: it has ended before it made their network,
    /// and asks for the same once more.
    async fn forget_pools_like(&mut self, subnet: IpNetwork) -> Result<()> {
        let forgotten = self.docker.pools.iter().filter(|(_, pool)| {
            let pool = &pool.value;
            pool.subnet == subnet && pool.network.is_none() && is_over(pool.owner.as_ref())
        });
        let ids: Vec<String> = forgotten.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.pool_forget(&id).await?;
        }
        Ok(())
    }

    /// A subnet that no pool and no network has anything in common with, of those that Docker takes
    /// itself.
    fn unused_pool(&self, is_ipv6: bool) -> Result<IpNetwork> {
        let of_pools = self.docker.pools.values().map(|pool| pool.value.subnet);
        let of_networks = self.networks.values().flat_map(|n| &n.value.subnets).map(|s| s.subnet);
        let used: Vec<IpNetwork> = of_pools.chain(of_networks).collect();
        let texts: Vec<String> = if is_ipv6 {
            (0..256).map(|n| format!("fd6d:6163:6c61:{n:x}::/64")).collect()
        } else {
            let large = (17..32).map(|n| format!("172.{n}.0.0/16"));
            large.chain((0..16).map(|n| format!("192.168.{}.0/20", n * 16))).collect()
        };
        let candidates = texts.iter().filter_map(|text| text.parse::<IpNetwork>().ok());
        let mut free =
            candidates.filter(|pool| used.iter().all(|other| !subnet::overlap(*pool, *other)));
        free.next().ok_or_else(|| {
            Error::failed("every pool that is given out by itself is in use; name a --subnet")
        })
    }

    /// The network that a pool belongs to, which of its subnets it is, and whether the LAN can be asked;
    /// nothing if it belongs to no network of maclane.
    pub(super) fn pool_place(&self, id: &str) -> Result<Option<(String, IpNetwork, bool)>> {
        let pool = &self.docker.pools.get(id).ok_or_else(|| no_pool(id))?.value;
        let Some(network) = &pool.network else { return Ok(None) };
        let docker = &self.docker.networks.get(network).ok_or_else(|| no_network(network))?.value;
        Ok(Some((docker.network.clone(), pool.subnet, docker.trunk.is_none())))
    }

    /// An address of one subnet of a network.
    pub(super) fn grant_of(
        &self,
        network: &NetworkSpec,
        subnet: IpNetwork,
        ip: Option<IpAddr>,
    ) -> Result<IpNetwork> {
        let subnets = network.subnets.iter().filter(|s| s.subnet == subnet).cloned().collect();
        let network = NetworkSpec { subnets, ..network.clone() };
        match ip {
            Some(ip) => self.grant_asked(AskedIp { ip, prefix: None }, &network),
            None => self.grant_next(subnet.is_ipv4(), &network),
        }
    }

    /// Gives out an address of a pool that belongs to no network of maclane.
    async fn pool_give(&mut self, request: &AddressRequest) -> Result<IpNetwork> {
        let pool =
            &self.docker.pools.get(&request.pool).ok_or_else(|| no_pool(&request.pool))?.value;
        let spec = pool.spec();
        let ip = if let Some(ip) = request.ip {
            spec.station(ip, "the address")?;
            if pool.given.contains(&ip) {
                return Err(Error::conflict(format!("{ip} is in use; pick another address")));
            }
            ip
        } else {
            // A gateway need not be in the range.
            let all = Pool::new(pool.subnet, pool.subnet);
            let from = if request.is_gateway { all } else { spec.pool() };
            from.first_free(&pool.given).ok_or_else(|| {
                Error::failed(format!("the pool {} has no address left", pool.subnet))
            })?
        };
        let address = pool.address(ip)?;
        if let Some(pool) = self.docker.pools.get_mut(&request.pool) {
            pool.value.given.insert(ip);
        }
        self.save_pool(&request.pool).await?;
        Ok(address)
    }

    async fn address_release(&mut self, pool: &str, ip: IpAddr) -> Result<()> {
        let Some(found) = self.docker.pools.get_mut(pool) else { return Ok(()) };
        let was_given = found.value.given.remove(&ip);
        let docker = found.value.network.as_ref().and_then(|id| self.docker.networks.get(id));
        let network = docker.map(|docker| docker.value.network.clone());
        self.docker.reserved.retain(|reserved| {
            let is_it = reserved.held.addresses.iter().any(|address| address.ip() == ip);
            !(is_it && Some(&reserved.network) == network.as_ref())
        });
        if was_given {
            return self.save_pool(pool).await;
        }
        // A container that is started again gets the lowest address, and so, mostly, the one that it had.
        let Some((network, subnet, _)) = self.pool_place(pool)? else { return Ok(()) };
        let held = IpNetwork::new(ip, subnet.prefix()).ok().filter(|_| subnet.contains(ip));
        if let Some(held) = held.and_then(|address| self.go_on_holding(address, &network)) {
            self.docker.keep_ready(Ready::new(pool, held, true));
        }
        Ok(())
    }

    async fn pool_forget(&mut self, id: &str) -> Result<()> {
        if let Some(pool) = self.docker.pools.get(id) {
            let key = format!("{}{id}", store::DOCKER_POOLS);
            self.store.delete_if(&key, pool.revision).await?;
            self.docker.pools.remove(id);
        }
        Ok(())
    }

    async fn save_pool(&mut self, id: &str) -> Result<()> {
        if let Some(pool) = self.docker.pools.get_mut(id) {
            let key = format!("{}{id}", store::DOCKER_POOLS);
            pool.revision = self.store.put_as(&key, &pool.value, Some(pool.revision)).await?;
        }
        Ok(())
    }

    /// What holds these addresses of a network for an endpoint that is made now.
    pub(crate) fn take_reserved(&mut self, network: &str, addresses: &[IpNetwork]) -> Vec<Held> {
        let is_wanted = |reserved: &Reserved| {
            reserved.network == network
                && reserved.held.addresses.iter().all(|address| addresses.contains(address))
        };
        let (taken, rest) =
            std::mem::take(&mut self.docker.reserved).into_iter().partition(is_wanted);
        self.docker.reserved = rest;
        let taken: Vec<Reserved> = taken;
        taken.into_iter().map(|reserved| reserved.held).collect()
    }

    /// Lets go of addresses that a process of Docker has asked for and that has ended.
    pub(crate) fn end_reserved(&mut self) {
        self.docker.reserved.retain(|reserved| !is_over(reserved.owner.as_ref()));
    }

    fn docker_views(&self) -> Vec<DockerNetworkView> {
        let view = |(id, docker): (&String, &Versioned<DockerNetwork>)| {
            let docker = &docker.value;
            let network = self.network(&docker.network).ok();
            let children = self
                .children
                .iter()
                .filter(|(_, child)| docker.is_for(&child.record.value.spec.network));
            let endpoint = |(name, child): (&String, &super::state::Child)| {
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

/// An ID that nobody else has.
fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
