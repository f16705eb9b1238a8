//! macvlan links that maclane has not made: Docker's own driver, CNI or a person has, or the owner of a child.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    origin::LinkOrigin,
    state::{ChildRecord, State},
    views::adopted_name,
};
use crate::{
    error::{Error, Result},
    events::{Event, EventKind},
    failpoint::failpoint,
    model::{Mac, Mode, NetworkSpec},
    netlink::{Link, LinkKind, Netlink},
    netns::{Netns, NetnsId},
};

/// A macvlan link that maclane has not made.
#[derive(Clone, Debug)]
pub(crate) struct Adopted {
    /// Its port in the dataplane.
    pub(crate) port: u16,
    /// What was found out about it: its namespace, name, index, mode and MTU.
    pub(crate) found: Option<Found>,
    /// `maclane_guard` is on it.
    pub(crate) guarded: bool,
    /// Where it comes from.
    pub(crate) origin: LinkOrigin,
    /// The mode that it was in before it was isolated.
    pub(crate) mode_before: Option<Mode>,
    /// The owner of a child has made it and put it into mode `source`.
    pub(crate) was_source: bool,
    /// It may have changed.
    pub(crate) suspect: bool,
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

impl Found {
    /// Its namespace. The process by which it was found may have ended, and its ID may be another's: then the
    /// namespace is looked for again.
    ///
    /// # Errors
    ///
    /// If it cannot be found any more.
    pub(crate) fn open(&self) -> Result<Netns> {
        let is_it = |netns: &Netns| {
            netns.id() == self.netns_id
                && (self.cookie == 0 || netns.cookie().is_ok_and(|cookie| cookie == self.cookie))
        };
        let at_path = Netns::open_path(&self.netns).ok().filter(is_it);
        let found = at_path.or_else(|| Netns::all().ok()?.into_iter().find(is_it));
        found.ok_or_else(Self::gone)
    }

    /// That a link's namespace cannot be found.
    pub(crate) fn gone() -> Error {
        Error::failed("its namespace is not found; remove the link there")
    }
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
        self.refresh_adopted(iface, ifindex).await?;
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
        // The kernel keeps no MAC of a link that is down in the filter list, and of several links with one MAC
        // one is up.
        let mut found = find_links(&self.netlink, ifindex, &new, |link| link.up).await;
        let is_hidden = |mac: &&Mac| !found.contains_key(mac) && self.was_heard(iface, **mac);
        let hidden: BTreeSet<Mac> = new.iter().filter(is_hidden).copied().collect();
        let beyond = self.on_sub_interfaces(ifindex, links, &hidden).await;
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
            let is_beyond = beyond.contains(&mac);
            if let Err(e) = self.adopt(iface, mac, found, is_beyond).await {
                tracing::warn!(parent = iface, %mac, "cannot adopt a child: {e}");
            }
        }
        Ok(())
    }

    /// Those of some MACs that macvlan links on the host's 802.1Q sub-interfaces have: 802.1Q copies them to the
    /// filter list below.
    async fn on_sub_interfaces(
        &self,
        ifindex: u32,
        links: &[Link],
        macs: &BTreeSet<Mac>,
    ) -> BTreeSet<Mac> {
        let mut found = BTreeSet::new();
        let is_sub_interface = |link: &&Link| {
            matches!(link.kind, LinkKind::Vlan(_))
                && link.lower == Some(ifindex)
                && link.lower_netns.is_none()
        };
        for link in links.iter().filter(is_sub_interface).filter(|_| !macs.is_empty()) {
            let there = find_links(&self.netlink, link.index, macs, |link| link.up).await;
            found.extend(there.into_keys());
        }
        found
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

    /// The child of maclane whose rules hold for a link that its owner has made, and its network: the
    /// one that the owner was known by, or another one in the namespace of the link. Of several the strictest
    /// counts.
    pub(crate) fn host_of_adopted(
        &self,
        iface: &str,
        adopted: &Adopted,
    ) -> Option<(&NetworkSpec, &ChildRecord)> {
        let owned = match &adopted.origin {
            LinkOrigin::Owner(child) => Some(child),
            LinkOrigin::Restricted => None,
            LinkOrigin::ThirdParty | LinkOrigin::Unknown | LinkOrigin::Alias(_) => return None,
        };
        let netns = adopted.found.as_ref().map(|found| found.netns_id);
        let children = self.children_of(iface).filter(|(name, child)| {
            let live = child.live.as_ref();
            owned == Some(name) || live.is_some_and(|live| Some(live.netns) == netns)
        });
        self.strictest(children.map(|(_, child)| child))
    }

    /// Notes that an event may be about an adopted link. Where it is from the event does not say, so the link
    /// is looked at.
    pub(crate) fn suspect_adopted(&mut self, link: &Link) {
        let Some(mac) = link.mac else { return };
        for adopted in self.parents.values_mut().filter_map(|p| p.adopted.get_mut(&mac)) {
            adopted.suspect = true;
        }
    }

    /// Looks again at adopted links that may have changed, or moved.
    async fn refresh_adopted(&mut self, iface: &str, ifindex: u32) -> Result<()> {
        let parent = self.parent_mut(iface)?;
        let suspects = parent.adopted.iter_mut().filter(|(_, adopted)| adopted.suspect);
        let macs: BTreeSet<Mac> = suspects
            .map(|(mac, adopted)| {
                adopted.suspect = false;
                *mac
            })
            .collect();
        if macs.is_empty() {
            return Ok(());
        }
        let found = find_links(&self.netlink, ifindex, &macs, |link| link.up).await;
        let place = |found: &Found| (found.cookie, found.netns_id, found.link.index);
        for (mac, found) in found {
            let Some(adopted) = self.parent_mut(iface)?.adopted.get_mut(&mac) else { continue };
            if adopted.found.as_ref().map(place) == Some(place(&found)) {
                adopted.found = Some(found);
            } else {
                // Another link has the MAC now, or the link is elsewhere: a MAC gives no rights.
                self.release_adopted(iface, mac)?;
            }
        }
        Ok(())
    }

    async fn adopt(
        &mut self,
        iface: &str,
        mac: Mac,
        found: Option<Found>,
        is_beyond: bool,
    ) -> Result<()> {
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
        let origin = if is_beyond {
            LinkOrigin::ThirdParty
        } else {
            self.origin_of(iface, found.as_ref(), before).await
        };
        if let Some(found) = &found {
            self.parent_mut(iface)?.origins.keep(found, &origin);
        }
        let mut adopted = Adopted {
            port,
            found,
            guarded: false,
            origin,
            mode_before: None,
            was_source: false,
            suspect: false,
        };
        let is_isolated = self.is_isolated(iface, &adopted);
        let parent = self.parent_mut(iface)?;
        if let Some(plane) = parent.plane.as_mut().filter(|_| is_isolated) {
            plane.forget_learned(|_, learned| learned.port == port)?;
        }
        if let (Some(plane), Some(found)) = (&mut parent.plane, &adopted.found)
            && let Ok(netns) = found.open()
        {
            match plane.attach_guard(port, &netns, (&found.link.name, found.link.index), false) {
                Ok(guarded) => adopted.guarded = guarded,
                Err(e) => tracing::warn!(parent = iface, %mac, "no guard on an adopted child: {e}"),
            }
        }
        let inside = self.host_of_adopted(iface, &adopted).map(|(_, record)| &record.spec.name);
        let place = match (&adopted.found, inside) {
            (Some(_), Some(child)) => {
                format!("by the owner of child {child}, whose rules hold for it")
            }
            (Some(found), None) => format!("in {}", found.netns.display()),
            (None, _) => "in a namespace that is not found".into(),
        };
        let is_owners = inside.is_some();
        let why = match &adopted.origin {
            LinkOrigin::ThirdParty => "a third party made it, and the parent adopts none",
            LinkOrigin::Unknown => "it is not known who made it",
            LinkOrigin::Owner(_) | LinkOrigin::Alias(_) | LinkOrigin::Restricted => {
                "the store has no record of it"
            }
        };
        let parent = self.parent_mut(iface)?;
        parent.adopted.insert(mac, adopted);
        match before {
            _ if is_isolated => {
                let message = format!("a macvlan link is isolated: {why}, {place}");
                self.note(adoption(iface, mac, port, message));
            }
            Some(port) => tracing::info!(parent = iface, %mac, port, "child adopted again"),
            None => {
                let message = if is_owners {
                    format!("child adopted: it was made {place}")
                } else {
                    format!("child adopted: a third party made it, {place}")
                };
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

/// Finds the macvlan links of a parent that have these MACs and are `wanted`, in the namespaces that can be
/// entered.
/// A machine can have hundreds, so it looks no further once it has all.
pub(crate) async fn find_links(
    own: &Netlink,
    parent: u32,
    macs: &BTreeSet<Mac>,
    wanted: impl Fn(&Link) -> bool,
) -> BTreeMap<Mac, Found> {
    let mut found = BTreeMap::new();
    let is_candidate = |link: &Link| {
        matches!(link.kind, LinkKind::Macvlan(_))
            && link.lower == Some(parent)
            && link.mac.is_some_and(|mac| macs.contains(&mac))
            && wanted(link)
    };
    // `own` is the ID that the parent's namespace has in the other: an index alone is no proof, as the other
    // may have a link of the same one.
    let take = |found: &mut BTreeMap<_, _>, netns: &Netns, links: Vec<Link>, own: Option<i32>| {
        for link in links.into_iter().filter(is_candidate) {
            if link.lower_netns == own
                && let Some(mac) = link.mac
            {
                let (path, netns_id) = (netns.path().to_owned(), netns.id());
                let cookie = netns.cookie().unwrap_or_default();
                found.insert(mac, Found { netns: path, netns_id, cookie, link });
            }
        }
    };
    let Ok(own_netns) = Netns::own() else { return found };
    if let Ok(links) = own.links().await {
        take(&mut found, &own_netns, links, None);
    }
    for netns in Netns::all().unwrap_or_default() {
        if macs.iter().all(|mac| found.contains_key(mac)) {
            break;
        }
        let Ok(inside) = Netlink::inside(&netns) else { continue };
        if let Ok(links) = inside.links().await
            && links.iter().any(is_candidate)
            && let Ok(Some(id)) = inside.id_of(&own_netns).await
        {
            // Its events tell when the link changes or goes.
            let _ = own.follow(&netns).await;
            take(&mut found, &netns, links, Some(id));
        }
    }
    found
}
