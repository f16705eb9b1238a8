//! Links that are isolated: no frame of theirs passes. They are a child's of maclane of which the store has
//! no record, because it was lost or replaced by an older copy, or it is not known who made them.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{
    adopt::{Adopted, Found},
    children::{alias, child_of, own_name},
    origin::LinkOrigin,
    state::{Child, Problem, State},
    views::adopted_name,
};
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
    model::{Adopt, Kind, Mac, Mode},
    netlink::{Link, LinkKind, Netlink},
};

/// Before the child and the parent in the alias of an isolated host end.
const ISOLATED: &str = "maclane isolated child ";

fn isolated_alias(child: &str, iface: &str) -> String {
    format!("{ISOLATED}{child} of {iface}")
}

/// The child and the parent of an isolated host end.
pub(crate) fn isolated_child_of(link: &Link) -> Option<(&str, &str)> {
    link.alias.as_deref()?.strip_prefix(ISOLATED)?.rsplit_once(" of ")
}

/// A macvlan link that is isolated, or one of mode `source` that the owner of a child has made.
struct Isolated {
    mac: Mac,
    why: LinkOrigin,
    found: Option<Found>,
}

impl Isolated {
    fn new(mac: Mac, adopted: &Adopted) -> Self {
        Self { mac, why: adopted.origin.clone(), found: adopted.found.clone() }
    }

    fn mode(&self) -> Option<Mode> {
        self.found.as_ref()?.link.kind.mode()
    }

    fn ifname(&self) -> &str {
        self.found.as_ref().map_or("", |found| &found.link.name)
    }

    /// Its index, and netlink in its namespace.
    fn inside(&self) -> Result<(u32, Netlink)> {
        let found = self.found.as_ref().ok_or_else(Found::gone)?;
        Ok((found.link.index, Netlink::inside(&found.open()?)?))
    }

    async fn set_mode(&self, mode: Mode) -> Result<()> {
        let (index, inside) = self.inside()?;
        inside.set_mode(index, mode).await
    }

    /// In private mode the kernel gives it nothing of its siblings and them nothing of its own
    /// (`drivers/net/macvlan.c`, `macvlan_queue_xmit`, `macvlan_broadcast`): all is left to the dataplane.
    async fn make_private(&self) -> Result<()> {
        if self.mode() != Some(Mode::Private) && self.found.is_some() {
            self.set_mode(Mode::Private).await?;
            failpoint!("link.private");
        }
        Ok(())
    }

    fn source_problem(&self, iface: &str, failed: Option<&Error>) -> String {
        let done = match failed {
            None => "it is in mode private now".into(),
            Some(e) => format!("its mode cannot be changed: {e}"),
        };
        let name = adopted_name(iface, self.mac);
        format!(
            "the macvlan link {} ({}), which the owner of a child has made, was in mode source, in which the kernel gives \
             it frames for others: {done}; remove it with `maclane child rm {name}`, and take veth children for owners \
             that have CAP_NET_ADMIN",
            self.ifname(),
            self.mac
        )
    }

    fn problem(&self, iface: &str, has_record: bool, failed: Option<&Error>) -> String {
        let place = match &self.found {
            Some(found) => format!("{} in {}", found.link.name, found.netns.display()),
            None => "in a namespace that is not found".into(),
        };
        let no_record = "of which the store has no record";
        let name = adopted_name(iface, self.mac);
        let import = "restore a backup with `maclane import`, or ";
        let adopt = format!("let it in with `maclane child adopt {name}`, or ");
        let (what, way_out) = match &self.why {
            LinkOrigin::Alias(child) if has_record => {
                (format!("says that it is child \"{child}\", which has another link"), "")
            }
            LinkOrigin::Alias(child) => {
                (format!("says that it is child \"{child}\", {no_record}"), import)
            }
            LinkOrigin::Owner(child) => {
                (format!("was made by the owner of child \"{child}\", which is gone"), "")
            }
            LinkOrigin::Restricted => {
                let text = "was held to less than a third party's before the daemon started, and the store has \
                            no record of a child";
                (text.into(), &*adopt)
            }
            LinkOrigin::Unknown | LinkOrigin::ThirdParty => {
                let text =
                    "may be made by the owner of a child: it was not seen in the host's namespace";
                (text.into(), &*adopt)
            }
        };
        let failed = failed.map_or_else(String::new, |e| {
            format!(", except that siblings in bridge mode hear its broadcasts ({e})")
        });
        format!(
            "the macvlan link {place} ({}) {what}: it is isolated, no frame of it passes{failed}; {way_out}remove \
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
        let adopt = self.parents.get(iface).map(|parent| parent.record.value.spec.adopt);
        let is_hosts = adopted.found.as_ref().is_some_and(|f| f.netns_id == self.own_netns);
        match adopted.origin {
            LinkOrigin::ThirdParty => adopt == Some(Adopt::None) && !is_hosts,
            LinkOrigin::Unknown => adopt != Some(Adopt::All),
            LinkOrigin::Alias(_) => true,
            LinkOrigin::Owner(_) | LinkOrigin::Restricted => {
                self.host_of_adopted(iface, adopted).is_none()
            }
        }
    }

    /// Keeps isolated links from their siblings as well, which the kernel's switch would give their frames,
    /// and notes them. A link of mode `source`, to which the kernel gives what its owner asks for, is
    /// not left to the owner of a child.
    pub(crate) async fn isolate_links(&mut self, iface: &str, links: &[Link]) -> Result<()> {
        let mut problems = BTreeMap::new();
        let is_source = |adopted: &Adopted| {
            let found = adopted.found.as_ref();
            matches!(adopted.origin, LinkOrigin::Owner(_))
                && (adopted.was_source
                    || found.is_some_and(|found| found.link.kind == LinkKind::Macvlan(None)))
        };
        // What the user does not want adopted is as it was made.
        let is_isolated = |adopted: &Adopted| {
            adopted.origin != LinkOrigin::ThirdParty && self.is_isolated(iface, adopted)
        };
        let all: Vec<(Isolated, bool)> = (self.parent(iface)?.adopted.iter())
            .filter(|(_, adopted)| is_isolated(adopted) || is_source(adopted))
            .map(|(mac, adopted)| (Isolated::new(*mac, adopted), is_isolated(adopted)))
            .collect();
        for (link, is_isolated) in all {
            let failed = link.make_private().await.err();
            let has_record = matches!(
                &link.why,
                LinkOrigin::Alias(name) if self.recorded(iface, name, Kind::Macvlan).is_some()
            );
            let problem = if is_isolated {
                link.problem(iface, has_record, failed.as_ref())
            } else {
                link.source_problem(iface, failed.as_ref())
            };
            problems.insert(Problem::Isolated(link.mac.to_string()), problem);
            let Some(adopted) = self.parent_mut(iface)?.adopted.get_mut(&link.mac) else {
                continue;
            };
            if !is_isolated {
                adopted.was_source = true;
            } else if link.mode().is_some_and(|mode| mode != Mode::Private) {
                adopted.mode_before = link.mode();
            }
            if let Some(found) = adopted.found.as_mut().filter(|_| failed.is_none()) {
                found.link.kind = LinkKind::Macvlan(Some(Mode::Private));
            }
        }
        for link in links.iter().filter(|link| link.kind == LinkKind::Veth) {
            if let Some(problem) = self.isolate_host_end(iface, link).await {
                problems.insert(Problem::Isolated(link.name.clone()), problem);
            }
        }
        let parent = self.parent_mut(iface)?;
        for problem in
            problems.iter().filter(|(about, text)| parent.problems.get(about) != Some(text))
        {
            tracing::error!(parent = iface, "{}", problem.1);
        }
        parent.problems.retain(|about, _| !matches!(about, Problem::Isolated(_)));
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

    /// The macvlan link with this name that maclane has not made, and its parent.
    fn adopted_by_name(&self, name: &str) -> Option<(String, Mac, &Adopted)> {
        let all = self.parents.iter().flat_map(|(iface, parent)| {
            parent.adopted.iter().map(move |(mac, adopted)| (iface, mac, adopted))
        });
        let mut named = all.filter(|(iface, mac, _)| adopted_name(iface, **mac) == name);
        named.next().map(|(iface, mac, adopted)| (iface.clone(), *mac, adopted))
    }

    /// Removes a macvlan link that a third party has not made; false if there is none of this name.
    pub(crate) async fn remove_adopted(&mut self, name: &str) -> Result<bool> {
        let found = self.adopted_by_name(name);
        let Some((iface, mac, adopted)) =
            found.filter(|(_, _, adopted)| adopted.origin != LinkOrigin::ThirdParty)
        else {
            return Ok(false);
        };
        let link = Isolated::new(mac, adopted);
        let doing = || format!("cannot remove child \"{name}\"");
        let (index, inside) = link.inside().doing(doing)?;
        inside.delete(index).await.doing(doing)?;
        failpoint!("link.deleted");
        self.release_adopted(&iface, link.mac)?;
        self.sync_tables(&iface)?;
        tracing::info!(parent = iface, mac = %link.mac, "isolated link removed");
        self.kick.notify_one();
        Ok(true)
    }

    /// Takes an isolated link for a third party's from now on.
    ///
    /// # Errors
    ///
    /// There is none of this name, or it cannot be a third party's.
    pub(crate) async fn adopt_isolated(&mut self, name: &str) -> Result<()> {
        let Some((iface, mac, adopted)) = self.adopted_by_name(name) else {
            return Err(Error::not_found(format!(
                "there is no macvlan link \"{name}\" that maclane has not made; see `maclane child ls`"
            )));
        };
        let refused = match &adopted.origin {
            LinkOrigin::ThirdParty if self.is_isolated(&iface, adopted) => Some(format!(
                "parent {iface} adopts no link (--adopt none); `maclane parent add {iface} --adopt known` changes it"
            )),
            LinkOrigin::ThirdParty => return Ok(()),
            LinkOrigin::Owner(child) => Some(format!(
                "the owner of child \"{child}\" has made it, whose rules hold for it; `maclane child set {child}` \
                 changes these, `maclane child rm {name}` removes it"
            )),
            LinkOrigin::Alias(child) => Some(format!(
                "it says that it is child \"{child}\"; restore a backup with `maclane import`, or remove it with \
                 `maclane child rm {name}`"
            )),
            LinkOrigin::Unknown | LinkOrigin::Restricted => None,
        };
        if let Some(why) = refused {
            return Err(Error::conflict(why));
        }
        // The kernel's default where it is not known any more.
        let mode = adopted.mode_before.unwrap_or(Mode::Bridge);
        let link = Isolated::new(mac, adopted);
        if link.mode() == Some(Mode::Private) {
            link.set_mode(mode).await?;
            failpoint!("link.mode");
        }
        let adopted = self.parent_mut(&iface)?.adopted.get_mut(&mac);
        if let Some(adopted) = adopted {
            adopted.origin = LinkOrigin::ThirdParty;
            if let Some(found) = &mut adopted.found {
                found.link.kind = LinkKind::Macvlan(Some(mode));
            }
            let found = adopted.found.clone();
            if let Some(found) = found {
                self.parent_mut(&iface)?.origins.keep(&found, &LinkOrigin::ThirdParty);
            }
        }
        self.parent_mut(&iface)?.problems.remove(&Problem::Isolated(mac.to_string()));
        self.sync_modes(&iface).await;
        self.sync_tables(&iface)?;
        tracing::info!(parent = iface, %mac, "isolated link adopted");
        self.kick.notify_one();
        Ok(())
    }
}
