//! Children that somebody else made: Docker's own driver, CNI, or a person.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    rights,
    state::{ChildRecord, State},
    unrecorded::Unrecorded,
    views::adopted_name,
};
use crate::{
    error::Result,
    events::{Event, EventKind},
    failpoint::failpoint,
    model::{Mac, Mode, NetworkSpec},
    netlink::{Link, LinkKind, Netlink},
    netns::{Netns, NetnsId},
};

/// A macvlan child that somebody else made.
#[derive(Clone, Debug)]
pub(crate) struct Adopted {
    /// Its port in the dataplane.
    pub(crate) port: u16,
    /// What was found out about it: its namespace, name, index, mode and MTU.
    pub(crate) found: Option<Found>,
    /// `maclane_guard` is on it.
    pub(crate) guarded: bool,
    /// Why it is isolated: it is a child's of maclane, and the store has no record of that.
    pub(crate) unrecorded: Option<Unrecorded>,
}

/// An adopted child's link, where its namespace can be entered.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Where its namespace is.
    pub(crate) netns: PathBuf,
    /// Which namespace that is.
    pub(crate) netns_id: NetnsId,
    /// Its cookie; 0 where the kernel has none.
    pub(crate) cookie: u64,
    /// The link in there.
    pub(crate) link: Link,
}

impl Adopted {
    /// Its macvlan mode; that of the kernel's default and of Docker where it cannot be seen.
    pub(crate) fn mode(&self) -> Mode {
        self.found.as_ref().and_then(|found| found.link.kind.mode()).unwrap_or(Mode::Bridge)
    }
}

impl State {
    /// Brings the list of adopted children up to date with the parent's unicast filter list, where
    /// the kernel keeps the MAC of every macvlan child that is up, in whatever namespace.
    pub(crate) async fn sync_adopted(&mut self, iface: &str, links: &[Link]) -> Result<()> {
        let parent = self.parent(iface)?;
        let Some(ifindex) = parent.link.as_ref().map(|link| link.index) else { return Ok(()) };
        let mut there: BTreeSet<Mac> =
            self.netlink.filter_list(ifindex).await?.into_iter().collect();
        for mac in self.macs_that_are_no_adoption(iface, links) {
            there.remove(&mac);
        }
        let parent = self.parent_mut(iface)?;
        let gone: Vec<Mac> =
            parent.adopted.keys().filter(|mac| !there.contains(mac)).copied().collect();
        for mac in gone {
            self.release_adopted(iface, mac)?;
        }
        let parent = self.parent(iface)?;
        let new: BTreeSet<Mac> =
            there.into_iter().filter(|mac| !parent.adopted.contains_key(mac)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut found = find_links(&self.netlink, ifindex, &new).await;
        // Those that had a port before a restart come first, so that nobody else gets it.
        let mut new: Vec<Mac> = new.into_iter().collect();
        new.sort_by_key(|mac| self.port_before_restart(iface, *mac).is_none());
        for mac in new {
            if !found.contains_key(&mac) && !self.was_heard(iface, mac) {
                // In the filter for another reason: a person, 802.1Q, a bridge.
                continue;
            }
            let found = found.remove(&mac);
            if found.as_ref().is_some_and(|found| self.is_of_child(iface, found)) {
                continue;
            }
            if let Err(e) = self.adopt(iface, mac, found) {
                tracing::warn!(parent = iface, %mac, "cannot adopt a child: {e}");
            }
        }
        Ok(())
    }

    /// MACs in the filter list that are the host's, or those of children that maclane made.
    fn macs_that_are_no_adoption(&self, iface: &str, links: &[Link]) -> Vec<Mac> {
        // Of every parent: 802.1Q copies the filter of a sub-interface to what it sits on.
        let created = self
            .children
            .values()
            .flat_map(|child| [child.record.value.mac, child.live.as_ref().map(|live| live.mac)]);
        let elsewhere = self
            .parents
            .iter()
            .filter(|(other, _)| *other != iface)
            .flat_map(|(_, parent)| parent.adopted.keys().copied().map(Some));
        let of_the_host = links
            .iter()
            .filter(|link| !matches!(link.kind, LinkKind::Macvlan(_)))
            .map(|link| link.mac);
        created.chain(elsewhere).chain(of_the_host).flatten().collect()
    }

    /// True if a frame with this source has left through the parent, or the tables knew it before
    /// a restart.
    fn was_heard(&self, iface: &str, mac: Mac) -> bool {
        let heard = |parent: &super::state::Parent| {
            parent.heard.lock().is_ok_and(|heard| heard.sources.contains(&mac))
        };
        self.parents.get(iface).is_some_and(heard) || self.port_before_restart(iface, mac).is_some()
    }

    /// The child of maclane in whose namespace an adopted one is, and its network.
    ///
    /// Whoever may make links there can make a macvlan on that child's, which the kernel puts on the parent
    /// (`drivers/net/macvlan.c`, `macvlan_common_newlink`): what holds for the child holds for it. Of several
    /// children the strictest counts. What is in the daemon's own namespace is the host's, and a link that
    /// names a child without a record has no rules but that it is isolated.
    pub(crate) fn host_of_adopted(
        &self,
        iface: &str,
        adopted: &Adopted,
    ) -> Option<(&NetworkSpec, &ChildRecord)> {
        let netns = adopted.found.as_ref()?.netns_id;
        if netns == self.own_netns || matches!(adopted.unrecorded, Some(Unrecorded::Child(_))) {
            return None;
        }
        self.children_of(iface)
            .filter(|(_, child)| child.live.as_ref().is_some_and(|live| live.netns == netns))
            .map(|(_, child)| &child.record.value)
            .filter_map(|record| Some((self.network(&record.spec.network).ok()?, record)))
            .max_by_key(|(network, record)| rights::policy_of(network, record).security)
    }

    /// Takes over what has changed about an adopted child.
    pub(crate) fn refresh_adopted(&mut self, link: &Link) {
        let Some(mac) = link.mac else { return };
        for parent in self.parents.values_mut() {
            if let Some(found) = parent.adopted.get_mut(&mac).and_then(|a| a.found.as_mut())
                && found.link.index == link.index
                && matches!(link.kind, LinkKind::Macvlan(_))
            {
                found.link = link.clone();
            }
        }
    }

    fn adopt(&mut self, iface: &str, mac: Mac, found: Option<Found>) -> Result<()> {
        let before = self.port_before_restart(iface, mac);
        let port = if let Some(port) = before {
            port
        } else {
            let port = self.free_port(iface)?;
            if let Some(plane) = &mut self.parent_mut(iface)?.plane {
                plane.reset_counters(port)?;
                failpoint!("counters.reset");
            }
            port
        };
        let unrecorded = self.unrecorded(iface, found.as_ref(), before);
        let mut adopted = Adopted { port, found, guarded: false, unrecorded };
        let parent = self.parent_mut(iface)?;
        if let Some(plane) = parent.plane.as_mut().filter(|_| adopted.unrecorded.is_some()) {
            plane.forget_learned(|_, learned| learned.port == port)?;
        }
        if let (Some(plane), Some(found)) = (&mut parent.plane, &adopted.found)
            && let Ok(netns) = Netns::open_path(&found.netns)
        {
            match plane.attach_guard(port, &netns, (&found.link.name, found.link.index), false) {
                Ok(guarded) => adopted.guarded = guarded,
                Err(e) => tracing::warn!(parent = iface, %mac, "no guard on an adopted child: {e}"),
            }
        }
        let inside = self.host_of_adopted(iface, &adopted).map(|(_, record)| &record.spec.name);
        let place = match (&adopted.found, inside) {
            (Some(_), Some(child)) => {
                format!("in the namespace of child {child}, whose rules hold for it")
            }
            (Some(found), None) => format!("in {}", found.netns.display()),
            (None, _) => "in a namespace that is not found".into(),
        };
        let is_isolated = adopted.unrecorded.is_some() && inside.is_none();
        let parent = self.parent_mut(iface)?;
        parent.adopted.insert(mac, adopted);
        match before {
            _ if is_isolated => {
                let message = format!(
                    "the link of a child is isolated: the store has no record of it, {place}"
                );
                self.note(adoption(iface, mac, port, message));
            }
            Some(port) => tracing::info!(parent = iface, %mac, port, "child adopted again"),
            None => {
                let message = format!("child adopted: somebody else made it, {place}");
                self.note(adoption(iface, mac, port, message));
            }
        }
        Ok(())
    }

    /// The port that the maps say this MAC had: counters go on.
    fn port_before_restart(&self, iface: &str, mac: Mac) -> Option<u16> {
        let plane = self.parents.get(iface)?.plane.as_ref()?;
        let (port, _) = plane.tables().ports.iter().find(|(_, entry)| {
            entry.mac == mac.0 && entry.kind == dataplane_common::abi::Kind::Macvlan as u8
        })?;
        let adopted = &self.parents.get(iface)?.adopted;
        let taken = self.children_of(iface).any(|(_, child)| child.record.value.port == *port)
            || adopted.values().any(|adopted| adopted.port == *port);
        (!taken).then_some(*port)
    }

    pub(crate) fn release_adopted(&mut self, iface: &str, mac: Mac) -> Result<()> {
        let parent = self.parent_mut(iface)?;
        if let Some(adopted) = parent.adopted.remove(&mac)
            && let Some(plane) = &mut parent.plane
        {
            plane.forget_guard(adopted.port)?;
            plane.forget_learned(|_, learned| learned.port == adopted.port)?;
        }
        Ok(())
    }
}

/// Says that a link was found that is no child's of maclane.
fn adoption(iface: &str, mac: Mac, port: u16, message: String) -> Event {
    Event {
        child: Some(adopted_name(iface, mac)),
        port: Some(port),
        mac: Some(mac),
        ..Event::new(EventKind::NewMac, iface, message)
    }
}

/// Finds the macvlan links of a parent that have these MACs, in the namespaces that can be entered.
/// A machine can have hundreds, so it looks no further once it has all.
pub(crate) async fn find_links(
    own: &Netlink,
    parent: u32,
    macs: &BTreeSet<Mac>,
) -> BTreeMap<Mac, Found> {
    let mut found = BTreeMap::new();
    let take = |found: &mut BTreeMap<_, _>, netns: &Netns, links: Vec<Link>, elsewhere: bool| {
        for link in links {
            if matches!(link.kind, LinkKind::Macvlan(_))
                && link.lower == Some(parent)
                && link.lower_netns.is_some() == elsewhere
                && let Some(mac) = link.mac.filter(|mac| macs.contains(mac))
            {
                let (path, netns_id) = (netns.path().to_owned(), netns.id());
                let cookie = netns.cookie().unwrap_or_default();
                found.insert(mac, Found { netns: path, netns_id, cookie, link });
            }
        }
    };
    if let (Ok(netns), Ok(links)) = (Netns::own(), own.links().await) {
        take(&mut found, &netns, links, false);
    }
    for netns in Netns::all().unwrap_or_default() {
        if macs.iter().all(|mac| found.contains_key(mac)) {
            break;
        }
        let Ok(inside) = Netlink::inside(&netns) else { continue };
        if let Ok(links) = inside.links().await {
            if links.iter().any(|link| link.mac.is_some_and(|mac| macs.contains(&mac))) {
                // Its events tell when the child changes or goes.
                let _ = own.follow(&netns).await;
            }
            take(&mut found, &netns, links, true);
        }
    }
    found
}
