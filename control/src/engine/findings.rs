//! What is wrong with a network: where its leases, its links and the LAN do not agree.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnetwork::IpNetwork;

use super::{
    Engine,
    children::child_of,
    isolation::isolated_child_of,
    state::{Child, ChildRecord, State},
};
use crate::{
    error::Result,
    model::{NetworkFinding, NetworkSpec},
    netlink::Netlink,
    probe::{self, Answer, Place},
    subnet::SubnetSpec,
};

impl Engine {
    /// Compares the leases of a network with links, with its gateways, and with what others say.
    pub(crate) async fn network_check(&self, name: &str) -> Result<Vec<NetworkFinding>> {
        let state = self.state.lock().await;
        let network = state.network(name)?.clone();
        let mut texts = state.routes_elsewhere(&network).await?;
        texts.extend(state.overlaps(&network).into_iter().map(|(ours, theirs, other)| {
            format!("the subnet {ours} overlaps with {theirs} of network {other}")
        }));
        texts.extend(state.leases_and_links(&network).await?);
        texts.extend(state.strangers(&network));
        let place = state.place_of(&network);
        let own: Vec<IpAddr> =
            state.netlink.addresses().await?.iter().map(|(_, a)| a.ip()).collect();
        drop(state);
        let gateways = network.subnets.iter().filter_map(SubnetSpec::gateway);
        let gateways: Vec<IpAddr> =
            gateways.filter(|ip| !network.internal && !own.contains(ip)).collect();
        texts.extend(silent(place, gateways, &network).await?);
        let finding = |finding| NetworkFinding { network: name.to_owned(), finding };
        Ok(texts.into_iter().map(finding).collect())
    }
}

/// Gateways that do not answer.
async fn silent(
    place: Option<Place>,
    gateways: Vec<IpAddr>,
    network: &NetworkSpec,
) -> Result<Vec<String>> {
    let Some(place) = place.filter(|_| !gateways.is_empty()) else { return Ok(Vec::new()) };
    let interval = Duration::from_millis(network.probe_interval.into());
    let found = match probe::probe(place, gateways.clone(), interval, None).await? {
        Answer::Free(_) => BTreeMap::new(),
        Answer::Claimed(found) => found,
    };
    let quiet = gateways.into_iter().filter(|ip| !found.get(ip).is_some_and(|claim| claim.has));
    let text = |ip| {
        format!(
            "the gateway {ip} does not answer in VLAN {} of {}: children reach nothing behind it",
            network.vlan, network.parent
        )
    };
    Ok(quiet.map(text).collect())
}

impl State {
    /// Leases that strangers claim.
    fn strangers(&self, network: &NetworkSpec) -> Vec<String> {
        let of_network = self.lease_views(&network.name).into_iter();
        let claimed = of_network.filter_map(|lease| Some((lease.claimed_by?, lease)));
        claimed
            .map(|(mac, lease)| {
                format!(
                    "{mac} says to have {}, the address of child {} (heard since the daemon runs: {})",
                    lease.ip, lease.child, lease.claims
                )
            })
            .collect()
    }

    async fn leases_and_links(&self, network: &NetworkSpec) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for (name, child) in &self.children {
            if child.record.value.spec.network == network.name {
                texts.extend(lease_and_link(name, child, network).await?);
            }
        }
        texts.extend(self.links_of_nobody().await?);
        texts.extend(self.adopted_with_addresses(network).await?);
        Ok(texts)
    }

    /// Host ends of children that there is no record of.
    async fn links_of_nobody(&self) -> Result<Vec<String>> {
        let links = self.netlink.links().await?;
        let named = links.iter().filter(|link| {
            let isolated = || isolated_child_of(link).map(|(child, _)| child);
            child_of(link).or_else(isolated).is_some_and(|child| !self.children.contains_key(child))
        });
        let text = |name: &str| {
            format!(
                "the link {name} was made for a child that is not known: `ip link del {name}` removes it"
            )
        };
        Ok(named.map(|link| text(&link.name)).collect())
    }

    /// Children that somebody else made, with addresses of the network's subnets.
    async fn adopted_with_addresses(&self, network: &NetworkSpec) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for (mac, adopted) in &self.parent(&network.parent)?.adopted {
            let Some(found) = &adopted.found else { continue };
            let Ok(netns) = found.open() else { continue };
            let on_link = Netlink::inside(&netns)?.addresses().await?;
            let of_subnets = on_link.iter().filter(|(index, address)| {
                *index == found.link.index && network.subnet_of(address.ip()).is_some()
            });
            texts.extend(of_subnets.map(|(_, address)| {
                format!(
                    "{} in {} ({mac}) has {address} without a lease: somebody else made it; \
                     keep its address back with --aux-address",
                    found.link.name,
                    found.netns.display()
                )
            }));
        }
        Ok(texts)
    }
}

/// Where the addresses of a child and those of its link are not the same.
async fn lease_and_link(name: &str, child: &Child, network: &NetworkSpec) -> Result<Vec<String>> {
    let record = &child.record.value;
    let on_link = match &child.live {
        None => None,
        Some(live) => match record.open_netns() {
            None => None,
            Some(netns) => {
                let all = Netlink::inside(&netns)?.addresses().await?;
                let of_link = all.into_iter().filter(|(index, _)| *index == live.ifindex);
                Some(of_link.map(|(_, address)| address).collect::<Vec<_>>())
            }
        },
    };
    Ok(match on_link {
        None => vec![format!(
            "child {name} has {} and no link: its namespace {} or its parent is gone",
            text(record),
            record.netns.display()
        )],
        Some(on_link) => differences(name, record, network, &on_link),
    })
}

fn text(record: &ChildRecord) -> String {
    let addresses: Vec<String> = record.addresses.iter().map(|a| a.ip().to_string()).collect();
    if addresses.is_empty() { "no address".into() } else { addresses.join(" and ") }
}

fn differences(
    name: &str,
    record: &ChildRecord,
    network: &NetworkSpec,
    on_link: &[IpNetwork],
) -> Vec<String> {
    let has = |list: &[IpNetwork], ip: IpAddr| list.iter().any(|address| address.ip() == ip);
    let lost = record.addresses.iter().filter(|address| !has(on_link, address.ip()));
    let lost = lost.map(|address| {
        format!("child {name} has a lease of {}, and its link does not have it", address.ip())
    });
    let more = on_link.iter().filter(|address| {
        network.subnet_of(address.ip()).is_some() && !has(&record.addresses, address.ip())
    });
    let more = more
        .map(|address| format!("the link of child {name} has {} without a lease", address.ip()));
    lost.chain(more).collect()
}
