//! Pools that Docker was given, and addresses of them.
//!
//! An address that is given out is held in memory until its endpoint is made, which then has the lease:
//! if either of the two daemons ends in between, nobody has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::no_network;
use crate::{
    engine::{
        Engine,
        ahead::Ready,
        children::random,
        conflicts::Held,
        state::{ChildRecord, State},
    },
    error::{Error, Result},
    model::{AskedIp, NetworkSpec},
    process::{ProcessId, is_over},
    store::{self, Store, Versioned},
    subnet::{self, Pool, SubnetSpec},
};

/// How often somebody looks whether what they want is found.
const FINDING: Duration = Duration::from_millis(20);

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
    /// Addresses of endpoints that have asked for them by name: whoever does will do so again.
    #[serde(default)]
    named: BTreeSet<IpAddr>,
    /// Docker's ID of the network of maclane that it belongs to.
    network: Option<String>,
    /// The process of Docker that has asked for it.
    owner: Option<ProcessId>,
}

/// An address that was given out and has no endpoint yet.
#[derive(Debug)]
pub(crate) struct Reserved {
    /// The network; of a trunk that of all VLANs.
    network: String,
    /// The address.
    pub(crate) held: Held,
    owner: Option<ProcessId>,
}

/// Where the addresses of a pool are asked for.
#[derive(Clone, Debug)]
pub(crate) struct PoolPlace {
    /// The network.
    pub(crate) network: String,
    /// Which of its subnets it is.
    pub(crate) subnet: IpNetwork,
    /// Its LAN is known: that of a trunk comes with the endpoint.
    pub(crate) has_lan: bool,
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

fn no_pool(id: &str) -> Error {
    Error::not_found(format!("there is no pool {id}"))
}

impl super::Docker {
    /// The pools that belong to networks of maclane.
    pub(crate) fn pools_of_networks(&self) -> Vec<String> {
        let bound = self.pools.iter().filter(|(_, pool)| pool.value.network.is_some());
        bound.map(|(id, _)| id.clone()).collect()
    }
}

impl DockerPool {
    fn spec(&self) -> SubnetSpec {
        SubnetSpec { ip_range: self.range, gateway: subnet::Gateway::None, subnet: self.subnet }
    }

    fn address(&self, ip: IpAddr) -> Result<IpNetwork> {
        IpNetwork::new(ip, self.subnet.prefix()).map_err(|e| Error::failed(e.to_string()))
    }

    /// True if Docker has ended before it made a network of it: nothing but a gateway was given out.
    fn is_forgotten(&self) -> bool {
        self.network.is_none() && self.given.len() <= 1 && is_over(self.owner.as_ref())
    }
}

impl Engine {
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
        let held = loop {
            if let Some(held) = self.take_ready(&request.pool, request.ip).await? {
                break held;
            }
            match self.hold_of(&place, request.ip).await {
                Ok(held) => break held,
                Err(_) if self.is_being_found(&request).await => tokio::time::sleep(FINDING).await,
                Err(e) => return Err(e),
            }
        };
        let first = held.addresses.first().copied();
        let address = first.ok_or_else(|| Error::failed("no address was found"))?;
        let reserved = Reserved { network: place.network, held, owner: request.owner };
        let mut state = self.state.lock().await;
        // Not if the network has gone meanwhile.
        state.pool_place(&request.pool)?;
        state.docker.reserved.push(reserved);
        if let Some(ip) = request.ip
            && let Some(pool) = state.docker.pools.get_mut(&request.pool)
            && pool.value.named.insert(ip)
        {
            state.save_pool(&request.pool).await?;
        }
        Ok(address)
    }

    /// Takes an address back that no endpoint has; one that is not given out is taken back.
    pub(crate) async fn address_release(&self, pool: &str, ip: IpAddr) -> Result<()> {
        self.state.lock().await.address_release(pool, ip).await
    }
}

impl State {
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
        let (given, named) = (BTreeSet::new(), BTreeSet::new());
        let pool = DockerPool { subnet, range, given, named, network: None, owner };
        subnet::check(&[pool.spec()], &BTreeMap::new())?;
        // Of before Docker was killed, which asks for the same once more.
        self.forget_pools(|pool| pool.subnet == subnet && pool.is_forgotten()).await?;
        let id = random_id()?;
        let key = format!("{}{id}", store::DOCKER_POOLS);
        let revision = self.store.put_as(&key, &pool, None).await?;
        self.docker.pools.insert(id.clone(), Versioned { value: pool, revision });
        Ok((id, subnet))
    }

    async fn forget_pools(&mut self, which: impl Fn(&DockerPool) -> bool) -> Result<()> {
        let pools = self.docker.pools.iter().filter(|(_, pool)| which(&pool.value));
        let ids: Vec<String> = pools.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.pool_forget(&id).await?;
        }
        Ok(())
    }

    /// Forgets pools of networks that are not there, and what is held of those.
    pub(super) async fn prune_pools(&mut self) -> Result<()> {
        let ids: BTreeSet<String> = self.docker.networks.keys().cloned().collect();
        let of_none = |pool: &DockerPool| pool.network.as_ref().is_some_and(|id| !ids.contains(id));
        self.forget_pools(of_none).await?;
        self.forget_held();
        Ok(())
    }

    /// Lets go of the addresses of pools and networks that are not there.
    pub(super) fn forget_held(&mut self) {
        let ready = std::mem::take(&mut self.docker.ready).into_iter();
        let is_there = |ready: &Ready| matches!(self.pool_place(&ready.pool), Ok(Some(_)));
        let ready: Vec<Ready> = ready.filter(is_there).collect();
        let reserved = std::mem::take(&mut self.docker.reserved).into_iter();
        let has_network = |reserved: &Reserved| self.networks.contains_key(&reserved.network);
        let reserved: Vec<Reserved> = reserved.filter(has_network).collect();
        (self.docker.ready, self.docker.reserved) = (ready, reserved);
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

    /// Gives the subnets of a network the ranges of their pools; the IDs of those.
    pub(super) fn bind_pools(
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
            // Of several the one of this process, with this gateway, that was asked for last.
            let found = free.max_by_key(|(_, pool)| {
                let of_owner = pool.value.owner.as_ref() == owner;
                let has_gateway = subnet.gateway().is_some_and(|ip| pool.value.given.contains(&ip));
                (of_owner, has_gateway, pool.revision)
            });
            let Some((id, pool)) = found else { continue };
            subnet.ip_range = pool.value.range;
            bound.push(id.clone());
        }
        bound
    }

    /// Notes which network pools belong to.
    pub(super) async fn give_pools_to(&mut self, network: &str, pools: &[String]) -> Result<()> {
        for id in pools {
            if let Some(pool) = self.docker.pools.get_mut(id) {
                pool.value.network = Some(network.to_owned());
            }
            self.save_pool(id).await?;
        }
        Ok(())
    }

    /// Where the addresses of a pool are asked for; nowhere if it belongs to no network of maclane.
    pub(crate) fn pool_place(&self, id: &str) -> Result<Option<PoolPlace>> {
        let pool = &self.docker.pools.get(id).ok_or_else(|| no_pool(id))?.value;
        let Some(network) = &pool.network else { return Ok(None) };
        let docker = &self.docker.networks.get(network).ok_or_else(|| no_network(network))?.value;
        Ok(Some(PoolPlace {
            network: docker.network.clone(),
            subnet: pool.subnet,
            has_lan: docker.trunk.is_none(),
        }))
    }

    /// The part of a subnet that a pool gives out.
    pub(crate) fn range_of(&self, place: &PoolPlace) -> Option<Pool> {
        let network = self.network(&place.network).ok()?;
        Some(network.subnets.iter().find(|s| s.subnet == place.subnet)?.pool())
    }

    /// An address of one subnet of a network; what endpoints have in any VLAN of a trunk is taken.
    pub(crate) fn grant_of(&self, place: &PoolPlace, ip: Option<IpAddr>) -> Result<IpNetwork> {
        let network = self.network(&place.network)?;
        let subnets = network.subnets.iter().filter(|s| s.subnet == place.subnet).cloned();
        let mut network = NetworkSpec { subnets: subnets.collect(), ..network.clone() };
        for record in self.records_of_docker(&place.network) {
            for (number, address) in record.addresses.iter().enumerate() {
                let name = format!("{} ({number})", record.spec.name);
                network.aux_addresses.insert(name, address.ip());
            }
        }
        match ip {
            Some(ip) => self.grant_asked(AskedIp { ip, prefix: None }, &network),
            None => self.grant_next(place.subnet.is_ipv4(), &network),
        }
    }

    /// The children in the single VLANs of a network of Docker that is a trunk.
    fn records_of_docker<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a ChildRecord> {
        let mut networks = self.docker.networks.values().map(|docker| &docker.value);
        let docker = networks.find(move |docker| docker.network == network);
        self.children.values().map(|child| &child.record.value).filter(move |record| {
            let of = &record.spec.network;
            of != network && docker.is_some_and(|docker| docker.is_for(of))
        })
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
        let was_named = found.value.named.remove(&ip);
        if found.value.given.remove(&ip) || was_named {
            self.save_pool(pool).await?;
        }
        let Ok(Some(place)) = self.pool_place(pool) else { return Ok(()) };
        self.docker.reserved.retain(|reserved| {
            let is_it = reserved.held.addresses.iter().any(|address| address.ip() == ip);
            !(is_it && reserved.network == place.network)
        });
        if !was_named {
            self.keep_for_again(pool, ip);
        }
        Ok(())
    }

    /// Holds an address that a container has had, for the same one when it is started again; but none that
    /// nobody gets who has not asked for it.
    fn keep_for_again(&mut self, pool: &str, ip: IpAddr) {
        let Ok(Some(place)) = self.pool_place(pool) else { return };
        let is_given_out = self.range_of(&place).is_some_and(|range| range.has(ip));
        let address = IpNetwork::new(ip, place.subnet.prefix()).ok();
        let address = address.filter(|_| place.has_lan && is_given_out);
        if let Some(held) = address.and_then(|a| self.go_on_holding(a, &place.network)) {
            self.docker.ready.push(Ready::new(pool, held, true));
        }
    }

    /// The same for the addresses of an endpoint that Docker has forgotten, and does not give back. Those
    /// that were asked for by name will be so again.
    pub(crate) fn keep_addresses_of(&mut self, record: &ChildRecord) {
        let ips = record.addresses.iter().map(IpNetwork::ip);
        let of_pool = |ip: IpAddr| {
            let is_its = |id: &&String| {
                let place = self.pool_place(id).ok().flatten();
                place.is_some_and(|p| p.network == record.spec.network && p.subnet.contains(ip))
            };
            let is_named = |id: &String| {
                self.docker.pools.get(id).is_some_and(|pool| pool.value.named.contains(&ip))
            };
            self.docker.pools.keys().find(is_its).filter(|id| !is_named(id)).cloned()
        };
        let kept: Vec<(String, IpAddr)> = ips.filter_map(|ip| Some((of_pool(ip)?, ip))).collect();
        for (pool, ip) in kept {
            self.keep_for_again(&pool, ip);
        }
    }

    async fn pool_forget(&mut self, id: &str) -> Result<()> {
        if let Some(pool) = self.docker.pools.get(id) {
            let key = format!("{}{id}", store::DOCKER_POOLS);
            self.store.delete_if(&key, pool.revision).await?;
            self.docker.pools.remove(id);
            self.forget_held();
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

    /// What holds these addresses of a network for an endpoint that is made now. Of a trunk it may be in
    /// any VLAN.
    pub(crate) fn take_reserved(&mut self, network: &str, addresses: &[IpNetwork]) -> Vec<Held> {
        let docker = self.docker.networks.values().find(|docker| docker.value.is_for(network));
        let Some(of) = docker.map(|docker| docker.value.network.clone()) else { return Vec::new() };
        let is_wanted = |reserved: &Reserved| {
            reserved.network == of
                && reserved.held.addresses.iter().all(|address| addresses.contains(address))
        };
        let reserved = std::mem::take(&mut self.docker.reserved).into_iter();
        let (taken, rest): (Vec<Reserved>, Vec<Reserved>) = reserved.partition(is_wanted);
        self.docker.reserved = rest;
        taken.into_iter().map(|reserved| reserved.held).collect()
    }

    /// Lets go of addresses that a process of Docker has asked for and that has ended, and of more than
    /// are to be held.
    pub(crate) fn end_reserved(&mut self) {
        self.docker.reserved.retain(|reserved| !is_over(reserved.owner.as_ref()));
        self.trim_ready();
    }
}

/// An ID that nobody else has.
fn random_id() -> Result<String> {
    Ok(format!("{:032x}", u128::from_be_bytes(random()?)))
}
