//! Links that are a child's of maclane and of which the store has no record: it was lost, or replaced by
//! an older copy. They are isolated until the record is there again, or they are removed.

use std::{collections::BTreeMap, path::PathBuf};

use dataplane_common::abi::{check_flag, port_flag};
use nix::errno::Errno;

use super::{
    adopt::{Adopted, Found},
    children::{alias, child_of, own_name},
    state::{Child, Problem, State},
    views::adopted_name,
};
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
    model::{Kind, Mac, Mode},
    netlink::{Link, LinkKind, Netlink},
    netns::{Netns, NetnsId},
};

/// Why a macvlan link is isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unrecorded {
    /// Its alias names this child.
    Child(String),
    /// The tables held it to less than what a third party's link may do.
    Restricted,
}

/// Before the child and the parent in the alias of an isolated host end.
const ISOLATED: &str = "maclane isolated child ";

fn isolated_alias(child: &str, iface: &str) -> String {
    format!("{ISOLATED}{child} of {iface}")
}

/// The child and the parent of an isolated host end.
pub(crate) fn isolated_child_of(link: &Link) -> Option<(&str, &str)> {
    link.alias.as_deref()?.strip_prefix(ISOLATED)?.rsplit_once(" of ")
}

/// A macvlan link that is isolated.
struct Isolated {
    mac: Mac,
    why: Unrecorded,
    netns: Option<(PathBuf, NetnsId)>,
    index: u32,
    ifname: String,
    mode: Option<Mode>,
}

impl Isolated {
    fn new(mac: Mac, adopted: &Adopted) -> Option<Self> {
        let (why, found) = (adopted.unrecorded.clone()?, adopted.found.as_ref());
        Some(Self {
            mac,
            why,
            netns: found.map(|found| (found.netns.clone(), found.netns_id)),
            index: found.map_or(0, |found| found.link.index),
            ifname: found.map_or_else(String::new, |found| found.link.name.clone()),
            mode: found.and_then(|found| found.link.kind.mode()),
        })
    }

    fn inside(&self) -> Result<Netlink> {
        let gone = || Error::failed("its namespace is not found; remove the link there");
        let (path, id) = self.netns.as_ref().ok_or_else(gone)?;
        let netns = Netns::open_path(path).ok().filter(|netns| netns.id() == *id);
        Netlink::inside(&netns.ok_or_else(gone)?)
    }

    /// In private mode the kernel gives it nothing of its siblings and them nothing of its own
    /// (`drivers/net/macvlan.c`, `macvlan_queue_xmit`, `macvlan_broadcast`): all is left to the dataplane.
    async fn make_private(&self) -> Result<()> {
        if self.mode != Some(Mode::Private) && self.netns.is_some() {
            self.inside()?.set_mode(self.index, Mode::Private).await?;
            failpoint!("link.private");
        }
        Ok(())
    }

    fn problem(&self, iface: &str, has_record: bool, failed: Option<&Error>) -> String {
        let place = match &self.netns {
            Some((path, _)) => format!("{} in {}", self.ifname, path.display()),
            None => "in a namespace that is not found".into(),
        };
        let no_record = "of which the store has no record";
        let what = match &self.why {
            Unrecorded::Child(name) if has_record => {
                format!("says that it is child \"{name}\", which has another link")
            }
            Unrecorded::Child(name) => format!("says that it is child \"{name}\", {no_record}"),
            Unrecorded::Restricted => format!("was held to the rules of a child, {no_record}"),
        };
        let failed = failed.map_or_else(String::new, |e| {
            format!(", except that siblings in bridge mode hear its broadcasts ({e})")
        });
        let restore = if has_record { "" } else { "restore a backup with `maclane import`, or " };
        let name = adopted_name(iface, self.mac);
        format!(
            "the macvlan link {place} ({}) {what}: it is isolated, no frame of it passes{failed}; {restore}remove \
             the link with `maclane child rm {name}`",
            self.mac
        )
    }
}

impl State {
    /// True for the link of a child that maclane made, with a MAC that is not known yet: the event is on
    /// its way, or lost. The child is looked at again. Another link may bear its alias.
    pub(crate) fn is_of_child(&mut self, iface: &str, found: &Found) -> bool {
        let Some(name) = child_of(&found.link) else { return false };
        let is_its_link = |child: &Child| match &child.live {
            Some(live) => (live.netns, live.ifindex) == (found.netns_id, found.link.index),
            None => child.record.value.places().iter().any(|netns| netns.id() == found.netns_id),
        };
        if !self.recorded(iface, name, Kind::Macvlan).is_some_and(is_its_link) {
            return false;
        }
        if let Some(child) = self.children.get_mut(name) {
            child.suspect = true;
        }
        true
    }

    /// The child of a name on a parent, if the store has a record of it and it is of this kind.
    fn recorded(&self, iface: &str, name: &str, kind: Kind) -> Option<&Child> {
        let child = self.children.get(name)?;
        let record = &child.record.value;
        (record.parent == iface && self.kind_of(record) == kind).then_some(child)
    }

    /// True if no frame of an adopted link passes.
    pub(crate) fn is_isolated(&self, iface: &str, adopted: &Adopted) -> bool {
        adopted.unrecorded.is_some() && self.host_of_adopted(iface, adopted).is_none()
    }

    /// Why a macvlan link that is not a child's of maclane is no third party's. `before` is the port that
    /// it had in the tables.
    pub(crate) fn unrecorded(
        &self,
        iface: &str,
        found: Option<&Found>,
        before: Option<u16>,
    ) -> Option<Unrecorded> {
        if let Some(name) = found.and_then(|found| child_of(&found.link)) {
            return Some(Unrecorded::Child(name.to_owned()));
        }
        let tables = self.parents.get(iface)?.plane.as_ref()?.tables();
        let port = before?;
        let is_open = tables.ports.get(&port)?.flags & port_flag::ALL_VLANS != 0
            && tables.policies.get(&port).is_none_or(|p| p.checks & check_flag::ENFORCE == 0);
        (!is_open).then_some(Unrecorded::Restricted)
    }

    /// Keeps links without a record from the LAN and from each other, and says so.
    pub(crate) async fn isolate_unrecorded(&mut self, iface: &str, links: &[Link]) -> Result<()> {
        let mut problems = BTreeMap::new();
        let isolated = |(mac, adopted): (&Mac, &Adopted)| {
            Isolated::new(*mac, adopted).filter(|_| self.is_isolated(iface, adopted))
        };
        let all: Vec<Isolated> = self.parent(iface)?.adopted.iter().filter_map(isolated).collect();
        for link in all {
            let failed = link.make_private().await.err();
            let has_record = matches!(
                &link.why,
                Unrecorded::Child(name) if self.recorded(iface, name, Kind::Macvlan).is_some()
            );
            let problem = link.problem(iface, has_record, failed.as_ref());
            problems.insert(Problem::Unrecorded(link.mac.to_string()), problem);
            let found = self.parent_mut(iface)?.adopted.get_mut(&link.mac);
            if let Some(found) = found.and_then(|adopted| adopted.found.as_mut())
                && failed.is_none()
            {
                found.link.kind = LinkKind::Macvlan(Some(Mode::Private));
            }
        }
        for link in links.iter().filter(|link| link.kind == LinkKind::Veth) {
            if let Some(problem) = self.isolate_host_end(iface, link).await {
                problems.insert(Problem::Unrecorded(link.name.clone()), problem);
            }
        }
        let parent = self.parent_mut(iface)?;
        for problem in
            problems.iter().filter(|(about, text)| parent.problems.get(about) != Some(text))
        {
            tracing::error!(parent = iface, "{}", problem.1);
        }
        parent.problems.retain(|about, _| !matches!(about, Problem::Unrecorded(_)));
        parent.problems.extend(problems);
        Ok(())
    }

    /// Takes down the host end of a veth child without a record, behind which is the host's own stack once
    /// the program is gone; brings it up again once there is a record. Returns what is wrong.
    async fn isolate_host_end(&self, iface: &str, link: &Link) -> Option<String> {
        let recorded = |child| self.recorded(iface, child, Kind::Veth);
        let plane = self.parents.get(iface)?.plane.as_ref();
        let is_served =
            plane.is_some_and(|plane| plane.tables().host_ends.contains_key(&link.index));
        let ours = child_of(link).filter(|name| is_served && link.name == own_name(name));
        let isolated = isolated_child_of(link).filter(|(_, of)| *of == iface);
        let name = &link.name;
        let (child, done) = match (ours, isolated) {
            (Some(child), _) if recorded(child).is_none() => {
                let done = self.netlink.set_down(link.index, &isolated_alias(child, iface)).await;
                failpoint!("link.isolated");
                (child, done)
            }
            (_, Some((child, _))) => match recorded(child) {
                None => (child, Ok(())),
                Some(it) if is_served && it.live.as_ref()?.host_end == link.index => {
                    let done = self.netlink.set_up(link.index, &alias(child)).await;
                    failpoint!("link.host_end_up");
                    let cannot =
                        |e| format!("cannot bring {name} of child \"{child}\" up again: {e}");
                    return done.err().map(cannot);
                }
                Some(_) => return None,
            },
            _ => return None,
        };
        let state = match done {
            Ok(()) => "it is down, no frame passes".into(),
            Err(e) if e.errno == Some(Errno::ENODEV) => return None,
            Err(e) => format!("it cannot be taken down: {e}"),
        };
        Some(format!(
            "the veth link {name} was made for child \"{child}\", of which the store has no record: {state}; \
             restore a backup with `maclane import`, or remove the link with `ip link del {name}`"
        ))
    }

    /// Removes an isolated macvlan link; false if there is none of this name.
    pub(crate) async fn remove_unrecorded(&mut self, name: &str) -> Result<bool> {
        let all = self.parents.iter().flat_map(|(iface, parent)| {
            parent.adopted.iter().map(move |(mac, adopted)| (iface, mac, adopted))
        });
        let found = all
            .filter(|(iface, mac, _)| adopted_name(iface, **mac) == name)
            .find_map(|(iface, mac, adopted)| Some((iface.clone(), Isolated::new(*mac, adopted)?)));
        let Some((iface, link)) = found else { return Ok(false) };
        let doing = || format!("cannot remove child \"{name}\"");
        link.inside().doing(doing)?.delete(link.index).await.doing(doing)?;
        failpoint!("link.deleted");
        self.release_adopted(&iface, link.mac)?;
        self.sync_tables(&iface)?;
        tracing::info!(parent = iface, mac = %link.mac, "link without a record removed");
        self.kick.notify_one();
        Ok(true)
    }
}
