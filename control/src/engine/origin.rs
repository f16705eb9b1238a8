//! Where a macvlan link that maclane has not made comes from.
//!
//! The kernel puts a macvlan that is made on another macvlan on the same parent (`drivers/net/macvlan.c`,
//! `macvlan_common_newlink`). So whoever has `CAP_NET_ADMIN` over the link of a child can make links on
//! the parent, and move them to each namespace of which they have a descriptor. What they make must not
//! get more than the child has.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{check_flag, port_flag};

use super::{adopt::Found, children::child_of, rights, state::State};
use crate::{
    dataplane::Dataplane,
    model::{Kind, Security},
    netlink::{Link, LinkKind},
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

/// The macvlan links that were seen in the host's own namespace, by index, and when last. A link that is
/// moved keeps its index unless the other namespace has one of it (`net/core/dev.c`,
/// `__dev_change_net_namespace`).
#[derive(Debug, Default)]
pub(crate) struct MadeHere(BTreeMap<u32, tokio::time::Instant>);

impl MadeHere {
    /// How long after it was seen last a link is looked for elsewhere.
    const TIME: std::time::Duration = std::time::Duration::from_secs(60);

    /// Notes a link of the host's namespace.
    pub(crate) fn note(&mut self, index: u32) {
        let now = tokio::time::Instant::now();
        self.0.retain(|_, seen| now.duration_since(*seen) < Self::TIME);
        self.0.insert(index, now);
    }

    /// True once for a link that was noted.
    fn take(&mut self, index: u32) -> bool {
        self.0.remove(&index).is_some_and(|seen| seen.elapsed() < Self::TIME)
    }
}

impl State {
    /// Where a link on a parent comes from. `before` is the port that it had in the tables, and `links` are
    /// those of the host's namespace.
    pub(crate) fn origin_of(
        &mut self,
        iface: &str,
        found: Option<&Found>,
        before: Option<u16>,
        links: &[Link],
    ) -> LinkOrigin {
        let before = before.map_or(Before::Absent, |port| self.before(iface, port, found));
        let owners = self.owners(iface);
        let mut evidence = Evidence {
            alias: found.and_then(|found| child_of(&found.link)).map(str::to_owned),
            is_hosts: found.is_some_and(|found| found.netns_id == self.own_netns),
            inside: found.and_then(|found| self.strictest_in(iface, found.netns_id)),
            before,
            has_owners: !owners.is_empty(),
            is_bound: false,
            was_hosts: found.is_some_and(|found| self.was_made_here(iface, found, links)),
            below: None,
        };
        let Some(netns) = found.filter(|_| !owners.is_empty()).and_then(|found| {
            Netns::open_path(&found.netns).ok().filter(|n| n.id() == found.netns_id)
        }) else {
            return evidence.origin();
        };
        evidence.is_bound = netns.is_bound();
        let of_owners: BTreeSet<NetnsId> = owners.keys().copied().collect();
        let owner = Processes::read().owner_of(&netns, &of_owners);
        evidence.below = owner.and_then(|owner| owners.get(&owner).cloned());
        evidence.origin()
    }

    /// The namespaces of enforced macvlan children, each with a child.
    fn owners(&self, iface: &str) -> BTreeMap<NetnsId, String> {
        let live = self.children_of(iface).filter_map(|(name, child)| {
            let (record, live) = (&child.record.value, child.live.as_ref()?);
            let network = self.network(&record.spec.network).ok()?;
            let is_enforced = rights::policy_of(network, record).security == Security::Enforce;
            let is_owners = is_enforced && network.kind == Kind::Macvlan;
            (is_owners && live.netns != self.own_netns).then(|| (live.netns, name.clone()))
        });
        live.collect()
    }

    /// Of the children in a namespace the one with the strictest policy.
    fn strictest_in(&self, iface: &str, netns: NetnsId) -> Option<String> {
        let is_there = |netns_of| netns_of == netns;
        self.children_of(iface)
            .filter(|(_, child)| child.live.as_ref().is_some_and(|live| is_there(live.netns)))
            .filter_map(|(name, child)| {
                let record = &child.record.value;
                let network = self.network(&record.spec.network).ok()?;
                Some((rights::policy_of(network, record).security, name.clone()))
            })
            .max_by_key(|(security, _)| *security)
            .map(|(_, name)| name)
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

    /// True if a link was made in the host's namespace and is not there any more.
    fn was_made_here(&mut self, iface: &str, found: &Found, links: &[Link]) -> bool {
        let is_here = |link: &Link| {
            link.index == found.link.index && matches!(link.kind, LinkKind::Macvlan(_))
        };
        found.netns_id != self.own_netns
            && !links.iter().any(is_here)
            && self.parents.get_mut(iface).is_some_and(|p| p.made_here.take(found.link.index))
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
