//! Which addresses the children of a network have, and which comes next.
//!
//! A child's record is its lease: an address is taken for as long as the record is there. What was
//! given back is remembered for the network's quarantine, under keys of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::state::{ChildRecord, State};
use crate::{
    error::{Error, Result},
    failpoint::failpoint,
    model::{AskedIp, ChildSpec, LeaseView, Mac, NetworkSpec, PoolView, QuarantineView, Route},
    store::{self, Store, Versioned},
    subnet::{SubnetSpec, overlap},
};

/// So many records of a quarantine that is over are deleted in one pass of the control loop, each
/// with a write to the disk.
const PRUNED_AT_ONCE: usize = 32;

/// An address that was given back, in the store.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Released {
    /// Until when it is not given out again, in seconds since 1970.
    pub(crate) until: u64,
}

/// The addresses that were given back, by network.
pub(crate) type Quarantine = BTreeMap<(String, IpAddr), Versioned<Released>>;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The key of an address that was given back.
pub(crate) fn key(network: &str, ip: IpAddr) -> String {
    format!("{}{network}/{ip}", store::RELEASED)
}

/// What the store has of addresses that were given back.
pub(crate) async fn read(store: &impl Store) -> Result<Quarantine> {
    let found = store.list_as::<Released>(store::RELEASED).await?;
    let parsed = found.into_iter().filter_map(|(key, released)| {
        let (network, ip) = key.rsplit_once('/')?;
        Some(((network.to_owned(), ip.parse().ok()?), released))
    });
    Ok(parsed.collect())
}

/// The routes that a child gets: its own, those of its network to elsewhere, and through the gateways
/// of its subnets for the families that it has no default route of. An internal network has no
/// gateway.
pub(crate) fn routes(record: &ChildRecord, network: &NetworkSpec) -> Vec<Route> {
    let mut routes = record.spec.route.clone();
    for route in &network.routes {
        if routes.iter().all(|other| other.destination != route.destination) {
            routes.push(route.clone());
        }
    }
    for address in record.addresses.iter().filter(|_| !network.internal) {
        let everything = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let Ok(destination) = everything.parse::<IpNetwork>() else { continue };
        let gateway = network.subnet_of(address.ip()).and_then(SubnetSpec::gateway);
        if gateway.is_some() && routes.iter().all(|route| route.destination != destination) {
            routes.push(Route { destination, gateway });
        }
    }
    routes
}

impl State {
    /// The addresses of a child to be: those that it asks for, and one of each family that it asks
    /// for none of and the network has subnets of. A trunk has no place for those.
    pub(crate) fn grant(&self, spec: &ChildSpec, network: &NetworkSpec) -> Result<Vec<IpNetwork>> {
        let mut granted: Vec<IpNetwork> = Vec::new();
        for asked in &spec.ip {
            if granted.iter().any(|other| other.ip() == asked.ip) {
                return Err(Error::invalid(format!(
                    "{} is asked for twice; leave one of them out",
                    asked.ip
                )));
            }
            granted.push(self.grant_asked(*asked, network)?);
        }
        for is_ipv4 in [true, false] {
            let wanted = network.subnets.iter().any(|s| s.subnet.is_ipv4() == is_ipv4)
                && granted.iter().all(|address| address.is_ipv4() != is_ipv4);
            if wanted && spec.trunk.is_none() {
                granted.push(self.grant_next(is_ipv4, network)?);
            }
        }
        Ok(granted)
    }

    /// The addresses that a child to be asks for, and no others.
    pub(crate) fn grant_asked_for(
        &self,
        spec: &ChildSpec,
        network: &NetworkSpec,
    ) -> Result<Vec<IpNetwork>> {
        spec.ip.iter().map(|asked| self.grant_asked(*asked, network)).collect()
    }

    pub(crate) fn grant_asked(&self, asked: AskedIp, network: &NetworkSpec) -> Result<IpNetwork> {
        let ip = asked.ip;
        if let Some(owner) = self.owner_of_address(ip, network) {
            return Err(Error::conflict(format!(
                "{ip} is already used by {owner}; pick another --ip or leave it out"
            )));
        }
        let Some(subnet) = network.subnet_of(ip) else {
            let of_family = network.subnets.iter().filter(|s| s.subnet.is_ipv4() == ip.is_ipv4());
            let subnets: Vec<String> = of_family.map(|s| s.subnet.to_string()).collect();
            let prefix = asked.prefix.filter(|_| subnets.is_empty());
            return prefix.and_then(|prefix| IpNetwork::new(ip, prefix).ok()).ok_or_else(|| {
                Error::invalid(if subnets.is_empty() {
                    format!(
                        "network {} has no subnet of {ip} that would say its prefix length; write it, as in {ip}/{}",
                        network.name,
                        if ip.is_ipv4() { 24 } else { 64 }
                    )
                } else {
                    format!(
                        "{ip} is not in {}, what network {} has; pick an --ip of it or leave it out",
                        subnets.join(" or "),
                        network.name
                    )
                })
            });
        };
        let prefix = subnet.subnet.prefix();
        if let Some(other) = asked.prefix.filter(|asked| *asked != prefix) {
            return Err(Error::invalid(format!(
                "{ip}/{other} does not fit to the subnet {}; write {ip} or {ip}/{prefix}",
                subnet.subnet
            )));
        }
        subnet.station(ip, "the address")?;
        IpNetwork::new(ip, prefix).map_err(|e| Error::invalid(e.to_string()))
    }

    /// The next address of the network's pools of a family: the lowest that nobody has, or, where
    /// there is none, the one that was given back first.
    pub(crate) fn grant_next(&self, is_ipv4: bool, network: &NetworkSpec) -> Result<IpNetwork> {
        let mut taken = self.taken(network);
        let used = taken.clone();
        let quarantined = || self.quarantined(&network.name);
        taken.extend(quarantined().map(|(ip, _)| ip));
        let subnets = || network.subnets.iter().filter(|s| s.subnet.is_ipv4() == is_ipv4);
        let free = subnets().find_map(|s| Some((s.pool().first_free(&taken)?, s)));
        let oldest = || {
            let rests = quarantined().filter(|(ip, _)| !used.contains(ip));
            let of_pool = rests
                .filter_map(|(ip, until)| Some((until, ip, subnets().find(|s| s.pool().has(ip))?)));
            of_pool.min_by_key(|(until, ip, _)| (*until, *ip)).map(|(_, ip, subnet)| (ip, subnet))
        };
        let (ip, subnet) = free.or_else(oldest).ok_or_else(|| {
            let pools: Vec<String> = subnets().map(|s| s.pool().to_string()).collect();
            Error::failed(format!(
                "network {} has no {} address left ({} are all in use); remove a child, or make a network with a larger --ip-range",
                network.name,
                if is_ipv4 { "IPv4" } else { "IPv6" },
                pools.join(", ")
            ))
        })?;
        IpNetwork::new(ip, subnet.subnet.prefix()).map_err(|e| Error::failed(e.to_string()))
    }

    /// The addresses that no child of a network can get: those of children in its VLAN and of those
    /// that are being made, of the host, of gateways, of others on the LAN, those that are pinned to a
    /// station there, and those that are kept back.
    fn taken(&self, network: &NetworkSpec) -> BTreeSet<IpAddr> {
        let of_children = self.addresses_beside(network).map(|(_, _, ip)| ip);
        let gateways = network.subnets.iter().filter_map(SubnetSpec::gateway);
        let kept_back = network.aux_addresses.values().copied();
        let asked_for = self.asked_for(network);
        let of_others = self.conflict_views(&network.name).into_iter().map(|conflict| conflict.ip);
        let of_host = self.host_addresses.iter().copied();
        let bound = self.bound_beside(network).map(|(ip, _)| ip);
        of_children
            .chain(bound)
            .chain(of_host)
            .chain(gateways)
            .chain(kept_back)
            .chain(asked_for)
            .chain(of_others)
            .collect()
    }

    /// Who has an address in a network's VLAN.
    pub(crate) fn owner_of_address(&self, ip: IpAddr, network: &NetworkSpec) -> Option<String> {
        let child = self.addresses_beside(network).find(|(_, _, other)| *other == ip);
        if let Some((name, record, _)) = child {
            return Some(format!("child \"{name}\" (network {})", record.spec.network));
        }
        if self.host_addresses.contains(&ip) {
            return Some("the host itself".into());
        }
        if self.asked_for(network).contains(&ip) {
            return Some("a child that is just being made".into());
        }
        if network.subnets.iter().any(|subnet| subnet.gateway() == Some(ip)) {
            return Some("the gateway".into());
        }
        if let Some((_, name)) = self.bound_beside(network).find(|(bound, _)| *bound == ip) {
            return Some(format!("a station on the wire (a binding of network {name})"));
        }
        let kept = network.aux_addresses.iter().find(|(_, other)| **other == ip);
        kept.map(|(name, _)| format!("\"{name}\", for which it is kept back"))
    }

    /// The addresses of children on the same LAN.
    pub(super) fn addresses_beside<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> impl Iterator<Item = (&'a str, &'a ChildRecord, IpAddr)> {
        let lan = self.lan_of(network);
        let beside = move |record: &ChildRecord| {
            self.network(&record.spec.network).is_ok_and(|other| self.lan_of(other) == lan)
        };
        self.addresses_where(beside)
    }

    /// The addresses of some children.
    fn addresses_where<'a>(
        &'a self,
        wanted: impl Fn(&ChildRecord) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a str, &'a ChildRecord, IpAddr)> {
        self.children
            .iter()
            .map(|(name, child)| (name.as_str(), &child.record.value))
            .filter(move |(_, record)| wanted(record))
            .flat_map(|(name, record)| {
                record.addresses.iter().map(move |address| (name, record, address.ip()))
            })
    }

    /// The addresses of a network that are in quarantine, with its end.
    fn quarantined(&self, network: &str) -> impl Iterator<Item = (IpAddr, u64)> {
        let (now, from) = (now(), (network.to_owned(), IpAddr::from([0; 4])));
        let network = network.to_owned();
        self.quarantine
            .range(from..)
            .take_while(move |((of, _), _)| *of == network)
            .map(|((_, ip), released)| (*ip, released.value.until))
            .filter(move |(_, until)| *until > now)
    }

    /// Notes that a child gives its addresses back.
    pub(crate) async fn give_back(&mut self, record: &ChildRecord) -> Result<()> {
        let Ok(network) = self.network(&record.spec.network) else { return Ok(()) };
        if network.quarantine == 0 {
            return Ok(());
        }
        let name = network.name.clone();
        let value = Released { until: now() + u64::from(network.quarantine) };
        for ip in record.addresses.iter().map(IpNetwork::ip) {
            if self.network(&name)?.subnet_of(ip).is_none() {
                continue;
            }
            let place = (name.clone(), ip);
            let expected = self.quarantine.get(&place).map(|there| there.revision);
            let revision = self.store.put_as(&key(&name, ip), &value, expected).await?;
            failpoint!("lease.released");
            self.quarantine.insert(place, Versioned { value, revision });
        }
        Ok(())
    }

    /// Forgets addresses whose quarantine is over.
    pub(crate) async fn prune_quarantine(&mut self) -> Result<()> {
        let now = now();
        let over = self.quarantine.iter().filter(|(_, released)| released.value.until <= now);
        let over: Vec<_> = over.map(|(place, _)| place.clone()).take(PRUNED_AT_ONCE).collect();
        self.forget_released(&over).await
    }

    /// Forgets what a network that is removed was given back.
    pub(crate) async fn forget_quarantine(&mut self, network: &str) -> Result<()> {
        let places = self.quarantine.keys().filter(|(of, _)| of == network);
        let places: Vec<_> = places.cloned().collect();
        self.forget_released(&places).await
    }

    async fn forget_released(&mut self, places: &[(String, IpAddr)]) -> Result<()> {
        for place in places {
            let Some(released) = self.quarantine.get(place) else { continue };
            self.store.delete_if(&key(&place.0, place.1), released.revision).await?;
            self.quarantine.remove(place);
        }
        Ok(())
    }

    /// Refuses subnets that another network in the same VLAN has.
    pub(crate) fn check_subnets(&self, spec: &NetworkSpec) -> Result<()> {
        match self.overlaps(spec).first() {
            None => Ok(()),
            Some((ours, theirs, other)) => Err(Error::conflict(format!(
                "the subnet {ours} overlaps with {theirs} of network {other}, in the same VLAN of {}; take another subnet, \
                 make the children in that network, or, if nobody needs it any more, remove it (`maclane network rm {other}`)",
                spec.parent
            ))),
        }
    }

    /// The subnets of a network that share addresses with one of another network on its LAN, that one,
    /// and the name of the other network.
    pub(crate) fn overlaps(&self, spec: &NetworkSpec) -> Vec<(IpNetwork, IpNetwork, &str)> {
        let lan = self.lan_of(spec);
        let networks = self.networks.values().map(|network| &network.value);
        let beside = networks.filter(|o| self.lan_of(o) == lan && o.name != spec.name);
        let pairs = beside.flat_map(|other| {
            let with = move |ours: &SubnetSpec| {
                let ours = ours.subnet;
                other.subnets.iter().map(move |s| (ours, s.subnet, other.name.as_str()))
            };
            spec.subnets.iter().flat_map(with)
        });
        pairs.filter(|(ours, theirs, _)| overlap(*ours, *theirs)).collect()
    }

    /// What the subnets of a network have to give.
    pub(crate) fn pool_views(&self, network: &NetworkSpec) -> Vec<PoolView> {
        let leased = |subnet: IpNetwork| {
            let of_subnet = self.leases(&network.name).filter(|(_, _, ip)| subnet.contains(*ip));
            of_subnet.count()
        };
        let view = |subnet: &SubnetSpec| PoolView {
            subnet: subnet.subnet,
            gateway: subnet.gateway(),
            range: subnet.pool().to_string(),
            size: subnet.pool().size().to_string(),
            leased: leased(subnet.subnet),
        };
        network.subnets.iter().map(view).collect()
    }

    fn leases<'a>(
        &'a self,
        network: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a ChildRecord, IpAddr)> {
        self.addresses_where(move |record| record.spec.network == network)
    }

    /// The addresses of a network's children, in order.
    pub(crate) fn lease_views(&self, network: &str) -> Vec<LeaseView> {
        let view = |(child, record, ip): (&str, &ChildRecord, IpAddr)| {
            let rival = self.rivals.get(&(child.to_owned(), ip));
            LeaseView {
                ip,
                child: child.to_owned(),
                mac: record.mac.unwrap_or(Mac([0; 6])),
                since: record.since,
                claims: rival.map_or(0, |rival| rival.claims),
                claimed_by: rival.map(|rival| rival.mac),
            }
        };
        let mut views: Vec<LeaseView> = self.leases(network).map(view).collect();
        views.sort_by_key(|view| view.ip);
        views
    }

    /// The addresses of a network that were given back and are not given out yet.
    pub(crate) fn quarantine_views(&self, network: &str) -> Vec<QuarantineView> {
        self.quarantined(network).map(|(ip, until)| QuarantineView { ip, until }).collect()
    }
}
