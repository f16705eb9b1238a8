//! Where a macvlan link that maclane has not made comes from.
//!
//! The kernel puts a macvlan that is made on another macvlan on the same parent (`drivers/net/macvlan.c`,
//! `macvlan_common_newlink`). So whoever has `CAP_NET_ADMIN` over the link of a child can make links on
//! the parent, and move them to each namespace of which they have a descriptor. What they make must not
//! get more than the child has.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dataplane_common::abi::{check_flag, port_flag};
use tokio::time::Instant;

use super::{
    adopt::Found,
    children::child_of,
    rights,
    state::{Child, ChildRecord, Parent, State},
};
use crate::{
    dataplane::Dataplane,
    model::{Kind, NetworkSpec, Security},
    netlink::Moved,
    netns::{Netns, NetnsId, Processes},
};

/// Where a macvlan link comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkOrigin {
    /// A third party made it: Docker's own driver, CNI, or a person.
    ThirdParty,
    /// The owner of this child made it.
    Owner(String),
    /// Not known: the owner of a child may have made it.
    Unknown,
    /// Its alias names this child of maclane, of whose link it is not.
    Alias(String),
    /// The tables held it to less than what a third party's link may do.
    Restricted,
}

/// What the tables had of a link before the daemon started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing, or of a link in another namespace.
    Absent,
    /// A port without restrictions: a third party's.
    Open,
    /// A port with a child's restrictions, or isolated.
    Restricted,
}

/// What is known of a link when it is seen first.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a finding of its own")]
pub(crate) struct Evidence {
    /// The child of maclane that its alias names.
    pub(crate) alias: Option<String>,
    /// It is in the host's own namespace.
    pub(crate) is_hosts: bool,
    /// The child of maclane that is in the same namespace.
    pub(crate) inside: Option<String>,
    /// What the tables had of it.
    pub(crate) before: Before,
    /// The parent has children whose owners could have made it and are held to rules.
    pub(crate) has_owners: bool,
    /// The host has a name for its namespace.
    pub(crate) is_bound: bool,
    /// It was made in the host's namespace, and moved.
    pub(crate) was_hosts: bool,
    /// The child from whose namespace its own is controlled.
    pub(crate) below: Option<String>,
}

impl Evidence {
    /// The origin that follows.
    pub(crate) fn origin(self) -> LinkOrigin {
        let below = |otherwise| self.below.map_or(otherwise, LinkOrigin::Owner);
        match (self.alias, self.inside) {
            (Some(child), _) => LinkOrigin::Alias(child),
            _ if self.is_hosts || self.before == Before::Open => LinkOrigin::ThirdParty,
            (None, Some(child)) => LinkOrigin::Owner(child),
            (None, None) => match self.before {
                Before::Restricted => below(LinkOrigin::Restricted),
                _ if !self.has_owners || self.is_bound || self.was_hosts => LinkOrigin::ThirdParty,
                _ => below(LinkOrigin::Unknown),
            },
        }
    }
}

/// What is known of the origin of macvlan links on a parent.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    /// The links that were moved from the host's namespace, and when.
    moved: BTreeMap<Moved, Instant>,
    /// Decided origins, by the cookie of the namespace and the index in it: a link that is down has no port, and
    /// is the same when it is up again.
    decided: BTreeMap<(u64, u32), LinkOrigin>,
}

impl Origins {
    /// How long after it was moved a link is looked for.
    const TIME: Duration = Duration::from_secs(60);

    /// More are not kept in mind; those that are forgotten are decided on again.
    const MOST: usize = 4096;

    /// Notes that a link has left the host's namespace.
    pub(crate) fn note_moved(&mut self, moved: Moved) {
        self.moved.retain(|_, when| when.elapsed() < Self::TIME);
        self.moved.insert(moved, Instant::now());
    }

    /// Keeps the origin of a link in mind.
    pub(crate) fn keep(&mut self, found: &Found, origin: &LinkOrigin) {
        if found.cookie == 0 {
            return;
        }
        if self.decided.len() >= Self::MOST {
            self.decided.clear();
        }
        self.decided.insert((found.cookie, found.link.index), origin.clone());
    }

    /// The origin that was decided on.
    fn decided(&self, found: &Found) -> Option<LinkOrigin> {
        self.decided.get(&(found.cookie, found.link.index)).cloned()
    }
}

impl State {
    /// Where a link on a parent comes from. `before` is the port that it had in the tables.
    pub(crate) async fn origin_of(
        &self,
        iface: &str,
        found: Option<&Found>,
        before: Option<u16>,
    ) -> LinkOrigin {
        let alias = found.and_then(|found| child_of(&found.link));
        let parent = self.parents.get(iface);
        let decided = found.and_then(|found| parent?.origins.decided(found));
        if let Some(origin) = decided.filter(|_| alias.is_none()) {
            return origin;
        }
        let before = before.map_or(Before::Absent, |port| self.before(iface, port, found));
        let owners = self.owners(iface);
        let mut evidence = Evidence {
            alias: alias.map(str::to_owned),
            is_hosts: found.is_some_and(|found| found.netns_id == self.own_netns),
            inside: found.and_then(|found| self.strictest_in(iface, found.netns_id)),
            before,
            has_owners: !owners.is_empty(),
            is_bound: false,
            was_hosts: false,
            below: None,
        };
        // All processes of the machine are read for what follows.
        let is_decided = evidence.is_hosts || evidence.inside.is_some() || owners.is_empty();
        let Some(found) = found.filter(|_| !is_decided) else { return evidence.origin() };
        let Ok(netns) = found.open() else { return evidence.origin() };
        evidence.is_bound = netns.is_bound();
        evidence.was_hosts = self.was_moved(iface, found, &netns).await;
        let of_owners: BTreeSet<NetnsId> = owners.keys().copied().collect();
        let owner = Processes::read().owner_of(&netns, &of_owners);
        evidence.below = owner.and_then(|owner| owners.get(&owner).cloned());
        evidence.origin()
    }

    /// The namespaces of enforced macvlan children, each with a child. The owner of one may have removed its
    /// link.
    fn owners(&self, iface: &str) -> BTreeMap<NetnsId, String> {
        let enforced = self.children_of(iface).filter(|(_, child)| {
            let record = &child.record.value;
            self.network(&record.spec.network).is_ok_and(|network| {
                network.kind == Kind::Macvlan
                    && rights::policy_of(network, record).security == Security::Enforce
            })
        });
        enforced
            .flat_map(|(name, child)| {
                child.namespaces().into_iter().map(move |id| (id, name.clone()))
            })
            .filter(|(id, _)| *id != self.own_netns)
            .collect()
    }

    /// Of the children in a namespace the one with the strictest policy.
    fn strictest_in(&self, iface: &str, netns: NetnsId) -> Option<String> {
        let children = self.children_of(iface).map(|(_, child)| child);
        let there =
            children.filter(|child| netns != self.own_netns && child.namespaces().contains(&netns));
        self.strictest(there).map(|(_, record)| record.spec.name.clone())
    }

    /// Of some children the one with the strictest policy, and its network.
    pub(crate) fn strictest<'a>(
        &'a self,
        children: impl Iterator<Item = &'a Child>,
    ) -> Option<(&'a NetworkSpec, &'a ChildRecord)> {
        children
            .map(|child| &child.record.value)
            .filter_map(|record| Some((self.network(&record.spec.network).ok()?, record)))
            .max_by_key(|(network, record)| rights::policy_of(network, record).security)
    }

    /// What the tables had at a port. A MAC is no proof: the namespace has to be the same.
    fn before(&self, iface: &str, port: u16, found: Option<&Found>) -> Before {
        let plane = self.parents.get(iface).and_then(|parent| parent.plane.as_ref());
        let Some(tables) = plane.map(Dataplane::tables) else { return Before::Absent };
        let Some(entry) = tables.ports.get(&port) else { return Before::Absent };
        let policy = tables.policies.get(&port);
        let is_open = entry.flags & port_flag::ALL_VLANS != 0
            && policy.is_none_or(|policy| policy.checks & check_flag::ENFORCE == 0);
        if !is_open {
            return Before::Restricted;
        }
        // Both are ports that stand for a namespace; without a cookie there is none.
        let was_in = policy.map_or(0, |policy| policy.netns);
        let is_in = found.and_then(|found| tables.netns.get(&found.cookie)).map_or(0, |n| n.port);
        if was_in == is_in { Before::Open } else { Before::Absent }
    }

    /// Notes that a link has left the host's namespace.
    pub(crate) fn note_moved(&mut self, moved: Moved) {
        let is_on = |parent: &&mut Parent| {
            parent.link.as_ref().is_some_and(|link| link.index == moved.lower)
        };
        for parent in self.parents.values_mut().filter(is_on) {
            parent.origins.note_moved(moved);
        }
    }

    /// True if the link was moved to its namespace from the host's.
    async fn was_moved(&self, iface: &str, found: &Found, netns: &Netns) -> bool {
        let Some(parent) = self.parents.get(iface) else { return false };
        let Some(lower) = parent.link.as_ref().map(|link| link.index) else { return false };
        let Ok(Some(id)) = self.netlink.id_of(netns).await else { return false };
        let moved = Moved { lower, netns: id, index: found.link.index };
        parent.origins.moved.get(&moved).is_some_and(|when| when.elapsed() < Origins::TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link in a namespace of which nothing is known, beside enforced children.
    fn evidence() -> Evidence {
        Evidence {
            alias: None,
            is_hosts: false,
            inside: None,
            before: Before::Absent,
            has_owners: true,
            is_bound: false,
            was_hosts: false,
            below: None,
        }
    }

    #[test]
    fn the_origin_follows_from_the_evidence() {
        use LinkOrigin::{Alias, Owner, Restricted, ThirdParty, Unknown};
        let a = || Some("a".to_owned());
        let none = evidence();
        let cases = [
            (none.clone(), Unknown),
            (Evidence { is_hosts: true, ..none.clone() }, ThirdParty),
            (Evidence { is_bound: true, below: a(), ..none.clone() }, ThirdParty),
            (Evidence { was_hosts: true, ..none.clone() }, ThirdParty),
            (Evidence { has_owners: false, ..none.clone() }, ThirdParty),
            (Evidence { inside: a(), is_bound: true, ..none.clone() }, Owner("a".into())),
            (Evidence { below: a(), ..none.clone() }, Owner("a".into())),
            (Evidence { before: Before::Open, inside: a(), ..none.clone() }, ThirdParty),
            (Evidence { before: Before::Restricted, is_bound: true, ..none.clone() }, Restricted),
            (
                Evidence { before: Before::Restricted, has_owners: false, ..none.clone() },
                Restricted,
            ),
            (
                Evidence { before: Before::Restricted, below: a(), ..none.clone() },
                Owner("a".into()),
            ),
            // A link with the alias of a child is never let into more than it had.
            (
                Evidence { alias: a(), is_hosts: true, before: Before::Open, ..none },
                Alias("a".into()),
            ),
        ];
        for (evidence, origin) in cases {
            assert_eq!(evidence.clone().origin(), origin, "{evidence:?}");
        }
    }
}
