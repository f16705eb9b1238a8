//! Following children: what has changed about their links, and what follows from it.

use std::net::IpAddr;

use super::{
    adopt::find_links,
    children::{alias, own_name},
    rights,
    state::{ChildRecord, Live, Problem, State},
};
use crate::{
    error::{ErrorKind, Result},
    model::{Kind, Mac, Mode, NetworkSpec, Security, Trust},
    netlink::{Change, Link, LinkKind, Netlink},
    netns::Netns,
};

impl State {
    /// Looks at a child's link; `None` if it is not there.
    pub(crate) async fn observe(
        &self,
        record: &ChildRecord,
        network: &NetworkSpec,
        netns: &Netns,
        inside: &Netlink,
    ) -> Result<Option<Live>> {
        let parent = self.parent(&record.parent)?.link.as_ref();
        let elsewhere = netns.id() != self.own_netns;
        let host_end = match network.kind {
            Kind::Macvlan => None,
            Kind::Veth => match self.netlink.link(&own_name(&record.spec.name)).await? {
                // An index of another namespace says nothing in this one.
                Some(link) if link.lower_netns.is_some() == elsewhere => Some(link),
                _ => return Ok(None),
            },
        };
        let is_ours = |link: &Link| match &host_end {
            None => {
                matches!(link.kind, LinkKind::Macvlan(_))
                    && parent.is_none_or(|parent| link.lower == Some(parent.index))
                    && link.lower_netns.is_some() == elsewhere
            }
            Some(host_end) => link.kind == LinkKind::Veth && host_end.lower == Some(link.index),
        };
        let links: Vec<Link> = inside.links().await?.into_iter().filter(is_ours).collect();
        let name = &record.spec.name;
        let before = self.children.get(name).and_then(|child| child.live.as_ref());
        let has_mac = |link: &&Link| link.mac == record.mac;
        let is_known = |link: &&Link| {
            // The host end has one other end only.
            host_end.is_some()
                || before.is_some_and(|live| live.ifindex == link.index)
                // A passthru child is the only macvlan link of its parent, and has its MAC.
                || record.mac.is_none() && link.kind == LinkKind::Macvlan(Some(Mode::Passthru))
                // Its MAC may have changed. A name alone would be no proof: somebody else may have
                // made a link of that name.
                || link.alias.as_deref() == Some(&alias(name))
        };
        let found = links.iter().find(has_mac).or_else(|| links.iter().find(is_known)).cloned();
        Ok(found.and_then(|link| {
            Some(Live {
                ifindex: link.index,
                ifname: link.name,
                mac: link.mac?,
                mtu: link.mtu,
                up: link.up,
                mode: link.kind.mode(),
                host_end: host_end.map_or(0, |link| link.index),
                netns: netns.id(),
                cookie: netns.cookie().unwrap_or_default(),
                guarded: false,
                takes_xdp: false,
            })
        }))
    }

    /// Looks again at all children of a parent.
    pub(crate) fn suspect_children(&mut self, iface: &str) {
        for child in self.children.values_mut().filter(|c| c.record.value.parent == iface) {
            child.suspect = true;
        }
    }

    /// Marks the children that a change may be about.
    pub(crate) fn suspect(&mut self, change: &Change) {
        let has_its_mac = |live: &Live, link: &Link| Some(live.mac) == link.mac;
        match change {
            Change::Lost | Change::NetnsGone => {
                self.children.values_mut().for_each(|child| child.suspect = true);
            }
            Change::Moved(moved) => self.note_moved(*moved),
            Change::Gone(link) => {
                self.suspect_adopted(link);
                for child in self.children.values_mut() {
                    let known = child
                        .live
                        .as_ref()
                        .is_some_and(|live| has_its_mac(live, link) || live.host_end == link.index);
                    child.suspect |= known;
                }
            }
            Change::Filter(ifindex) => self.suspect_filter(*ifindex),
            Change::Link(link) => {
                self.suspect_adopted(link);
                let on_a_parent = self.parents.values().any(|parent| {
                    parent.link.as_ref().is_some_and(|parent| link.lower == Some(parent.index))
                });
                let lives = self.children.values().filter_map(|child| child.live.as_ref());
                let mac_is_known = lives.clone().any(|live| has_its_mac(live, link));
                for child in self.children.values_mut() {
                    let Some(live) = &child.live else { continue };
                    let is_its_link = if live.host_end != 0 {
                        // The other end of its host end.
                        link.kind == LinkKind::Veth && link.lower == Some(live.host_end)
                    } else if mac_is_known {
                        has_its_mac(live, link)
                    } else {
                        // Its MAC may have changed.
                        on_a_parent && live.ifindex == link.index && live.ifname == link.name
                    };
                    let changed = live.up != link.up
                        || live.ifname != link.name
                        || live.mtu != link.mtu
                        || live.mode != link.kind.mode()
                        || !has_its_mac(live, link);
                    child.suspect |= is_its_link && changed;
                }
            }
        }
    }

    /// Has the program of a host end attached again, which is a filter: one has gone from there.
    fn suspect_filter(&mut self, ifindex: u32) {
        for child in self.children.values_mut() {
            let record = &child.record.value;
            if child.live.as_ref().is_none_or(|live| live.host_end != ifindex) {
                continue;
            }
            child.suspect = true;
            let parent = self.parents.get_mut(&record.parent);
            if let Some(plane) = parent.and_then(|parent| parent.plane.as_mut()) {
                plane.suspect_filter(record.port);
            }
        }
    }

    /// Looks at the children of a parent that may have changed, and makes links that are missing.
    /// Returns false if one of them could not be looked at.
    pub(crate) async fn sync_children(&mut self, iface: &str) -> bool {
        let mut complete = true;
        let known = match self.parent_mut(iface) {
            Ok(parent) => parent.take_problems_of_children(),
            Err(_) => return true,
        };
        let names: Vec<String> = self
            .children_of(iface)
            .filter(|(_, child)| child.suspect || child.live.is_none() || !child.record.value.built)
            .map(|(name, _)| name.clone())
            .collect();
        let there = self.parent(iface).is_ok_and(|parent| parent.link.is_some());
        for name in names {
            match self.sync_child(&name, there).await {
                Ok(()) => {}
                Err(e) if e.kind == ErrorKind::NotFound => {}
                Err(e) => {
                    tracing::warn!(child = name, "cannot look at it: {e}");
                    complete = false;
                }
            }
        }
        for (about, problem) in self.parent(iface).into_iter().flat_map(|p| &p.problems) {
            if matches!(about, Problem::Child(_)) && known.get(about) != Some(problem) {
                tracing::warn!(parent = iface, "{problem}");
            }
        }
        complete
    }

    async fn sync_child(&mut self, name: &str, parent_is_there: bool) -> Result<()> {
        let record = self.child(name)?.record.value.clone();
        // Tables without the children that come after this one would cost those their frames, and
        // an announcement before the tables is heard by nobody: the first pass only looks.
        let looks_only = !self.parent(&record.parent)?.looked;
        if record.removing && looks_only {
            return Ok(());
        }
        if record.removing {
            if let Err(e) = self.child_undo(name).await {
                let problem = format!("child \"{name}\" is being removed, which fails: {e}");
                self.note_problem(&record, problem)?;
            }
            return Ok(());
        }
        if let Some(child) = self.children.get_mut(name) {
            child.suspect = false;
        }
        if record.endpoint.is_some() {
            return self.sync_endpoint(name, &record, looks_only).await;
        }
        let network = self.network(&record.spec.network)?.clone();
        let netns = record.open_netns();
        self.note_namespace(name, netns.is_some()).await?;
        let Some(netns) = netns.filter(|_| parent_is_there) else {
            if self.child(name)?.live.is_some() {
                if parent_is_there {
                    let grace = self.lease_grace.as_secs();
                    tracing::info!(
                        child = name,
                        "its namespace is gone; its addresses are kept for it for {grace} s"
                    );
                } else {
                    tracing::info!(child = name, "its parent is gone");
                }
                self.release(name).await?;
            }
            return Ok(());
        };
        let inside = Netlink::inside(&netns)?;
        let Some(live) = self.observe(&record, &network, &netns, &inside).await? else {
            if looks_only {
                // The next pass makes it again.
                if let Some(child) = self.children.get_mut(name) {
                    child.suspect = true;
                }
                return Ok(());
            }
            if self.has_moved(&record, &network).await? {
                return Ok(());
            }
            tracing::info!(child = name, "its link is gone: it is made again");
            self.release(name).await?;
            self.unbuild(name, &netns).await?;
            let done = match self.make_link(&record, &network, &netns).await {
                Ok(()) => self.child_build(name, &netns).await,
                Err(e) => Err(e),
            };
            if let Err(e) = done {
                tracing::warn!(child = name, "cannot make it again: {e}");
            }
            return Ok(());
        };
        if !record.built && !looks_only {
            tracing::info!(child = name, "it was not set up to the end: that is done now");
            if let Err(e) = self.child_build(name, &netns).await {
                tracing::warn!(child = name, "cannot set it up: {e}");
            }
            return Ok(());
        }
        let mut live = self.give_name(&record, &inside, live).await?;
        self.follow_mac(name, &record, &network, &mut live).await?;
        let live = self.attach_child(&record, &network, &netns, live).await?;
        if let Some(child) = self.children.get_mut(name) {
            child.live = Some(live);
        }
        self.netlink.follow(&netns).await
    }

    /// Notes that the link of a child has to be set up from its beginning, before it is made again:
    /// whoever is killed in between finds a link without addresses. The namespace may be a new one
    /// of the same name.
    async fn unbuild(&mut self, name: &str, netns: &Netns) -> Result<()> {
        let proof = netns.proof()?;
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let record = &mut child.record.value;
        if !record.built && record.proof == proof {
            return Ok(());
        }
        (record.built, record.proof) = (false, proof);
        self.save_child(name).await
    }

    /// True if the link of a child is not in its namespace because somebody has moved it to
    /// another one: making a second one would give two the same MAC.
    async fn has_moved(&mut self, record: &ChildRecord, network: &NetworkSpec) -> Result<bool> {
        let name = &record.spec.name;
        let moved = match (network.kind, record.mac) {
            (Kind::Veth, _) => {
                let host_end = self.netlink.link(&own_name(name)).await?;
                host_end.is_some_and(|link| link.kind == LinkKind::Veth)
            }
            (Kind::Macvlan, Some(mac)) => {
                let Some(parent) = &self.parent(&record.parent)?.link else { return Ok(false) };
                let macs = [mac].into_iter().collect();
                !find_links(&self.netlink, parent.index, &macs, |_| true).await.is_empty()
            }
            (Kind::Macvlan, None) => false,
        };
        if moved {
            let problem = format!(
                "the link of child \"{name}\" is not in {} any more: somebody has moved it; move it back, or remove the child",
                record.netns.display()
            );
            self.note_problem(record, problem)?;
        }
        Ok(moved)
    }

    /// Notes what is wrong with a child. Nobody tells when that ends, so it is looked at again.
    fn note_problem(&mut self, record: &ChildRecord, problem: String) -> Result<()> {
        let name = &record.spec.name;
        let parent = self.parent_mut(&record.parent)?;
        parent.problems.insert(Problem::Child(name.clone()), problem);
        if let Some(child) = self.children.get_mut(name) {
            child.suspect = true;
        }
        Ok(())
    }

    /// Why a child may not have a MAC: it is another port's, pinned, or the child is kept to its own.
    fn refuses_mac(
        &self,
        name: &str,
        record: &ChildRecord,
        network: &NetworkSpec,
        mac: Mac,
    ) -> Result<Option<String>> {
        if let Some(owner) = self.owner_of_mac(&record.parent, mac, Some(name))? {
            return Ok(Some(format!("the MAC of {owner}")));
        }
        if let Some(ip) = self.pinned_to(&record.parent, mac) {
            return Ok(Some(format!("the MAC that {ip} is pinned to")));
        }
        let policy = rights::policy_of(network, record);
        let is_kept = policy.security == Security::Enforce && !policy.trust.contains(&Trust::Mac);
        Ok(is_kept.then(|| "and its security enforces its MAC (see --trust mac)".into()))
    }

    /// An address that is pinned to a MAC, in a network of a parent.
    fn pinned_to(&self, parent: &str, mac: Mac) -> Option<IpAddr> {
        let networks = self.networks.values().map(|network| &network.value);
        networks
            .filter(|network| network.parent == parent)
            .flat_map(|network| &network.bindings)
            .find_map(|(ip, of)| (*of == mac).then_some(*ip))
    }

    /// Takes over the MAC that a child has given itself, if it may have that one. Otherwise the child
    /// keeps the one that it had, and what it sends is dropped for its source MAC.
    pub(crate) async fn follow_mac(
        &mut self,
        name: &str,
        record: &ChildRecord,
        network: &NetworkSpec,
        live: &mut Live,
    ) -> Result<()> {
        let before = self.child(name)?.live.as_ref().map(|live| live.mac).or(record.mac);
        let Some(before) = before.filter(|mac| *mac != live.mac) else { return Ok(()) };
        if network.mode == Mode::Passthru {
            return Ok(());
        }
        if let Some(why) = self.refuses_mac(name, record, network, live.mac)? {
            let problem = format!(
                "child \"{name}\" has given itself {}, {why}; its frames are dropped until it has {before} again \
                 (`ip link set dev {} address {before}` in its namespace)",
                live.mac, live.ifname
            );
            live.mac = before;
            return self.note_problem(record, problem);
        }
        tracing::info!(child = name, old = %before, new = %live.mac, "its MAC has changed");
        if network.kind == Kind::Veth
            && let Some(link) = &self.parent(&record.parent)?.link
            && let Err(e) = self.netlink.filter_remove(link.index, before).await
        {
            tracing::debug!(child = name, "its old MAC was not in the parent's filter: {e}");
        }
        Ok(())
    }
}
