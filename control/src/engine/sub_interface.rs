//! Parents that are 802.1Q sub-interfaces which maclane makes itself, named `BASE.VID` as Docker's
//! macvlan driver has them.
//!
//! The parent's record says so before there is a link, and is deleted after there is none. What is
//! deleted is compared with the record first: somebody may have put another link in its place.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    parents::check_link,
    state::{Child, Parent, Problem, State},
};
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
    model::{Kind, Mac, NetworkSpec, Trunk, VLAN_MAX},
    netlink::{Link, LinkKind},
};

/// Exists, in the daemon's namespace, where the kernel has 802.1Q sub-interfaces.
const PROC_VLAN: &str = "/proc/self/net/vlan";

/// A parent and a VLAN of it.
pub(crate) type Lan = (String, u16);

/// A sub-interface that maclane makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SubInterface {
    /// The interface that it sits on.
    pub(crate) base: String,
    /// Its VLAN.
    pub(crate) vlan: u16,
    /// Its parent was added for a network, and goes with the last one that it has.
    pub(crate) with_networks: bool,
}

impl SubInterface {
    /// True if `link` is one of this VLAN on this base.
    fn is(&self, link: &Link, links: &[Link]) -> bool {
        let base = links.iter().find(|base| base.name == self.base);
        base.is_some_and(|base| self.is_on(link, base))
    }

    fn is_on(&self, link: &Link, base: &Link) -> bool {
        link.kind == LinkKind::Vlan(self.vlan)
            && link.lower == Some(base.index)
            && link.lower_netns.is_none()
    }

    /// Refuses a VLAN for which the base has a sub-interface of another name.
    fn check_free(&self, base: &Link, links: &[Link]) -> Result<()> {
        match links.iter().find(|link| self.is_on(link, base)) {
            None => Ok(()),
            Some(other) => Err(Error::conflict(format!(
                "VLAN {} of {} has the sub-interface {} already; use --parent {}",
                self.vlan, self.base, other.name, other.name
            ))),
        }
    }

    /// What a kernel says that does not make one, in words.
    fn refused(&self, e: Error, iface: &str) -> Error {
        let Self { base, vlan, .. } = self;
        let way_out = format!("use --parent {base} --vlan {vlan}");
        let has_8021q = std::path::Path::new(PROC_VLAN).exists();
        match e.errno {
            Some(Errno::EOPNOTSUPP) if has_8021q => Error::failed(format!(
                "there is no interface {iface}, and {base} takes no 802.1Q sub-interfaces; {way_out}"
            )),
            Some(Errno::EOPNOTSUPP) => Error::failed(format!(
                "there is no interface {iface}, and this kernel has no 802.1Q sub-interfaces (8021q); {way_out}"
            )),
            Some(Errno::ENETDOWN) => Error::failed(format!(
                "cannot make {iface}: {base} is down; bring it up first (`ip link set {base} up`)"
            )),
            Some(Errno::EEXIST) => Error::conflict(format!(
                "cannot make {iface}: somebody has a sub-interface for VLAN {vlan} of {base} already, perhaps in \
                 another network namespace; remove that one, or {way_out}"
            )),
            _ => e.context(format!("cannot make {iface} on {base}")),
        }
    }
}

/// Base and VLAN of a name `BASE.VID`.
fn parse(name: &str) -> Option<(&str, u16)> {
    let (base, text) = name.rsplit_once('.')?;
    let vlan: u16 = text.parse().ok()?;
    // As it would be printed: "050" and "+50" are other names.
    let is_one = (1..=VLAN_MAX).contains(&vlan) && vlan.to_string() == text && !base.is_empty();
    is_one.then_some((base, vlan))
}

impl State {
    /// The sub-interface that maclane makes for a parent that is not there, or why it makes none.
    pub(crate) async fn plan_sub_interface(
        &self,
        iface: &str,
        with_networks: bool,
    ) -> Result<SubInterface> {
        let links = self.netlink.links().await?;
        let absent = format!("no interface \"{iface}\" in this network namespace");
        let Some((base, text)) = iface.rsplit_once('.') else {
            return Err(Error::not_found(format!("{absent}; see `ip link`")));
        };
        let Some(link) = links.iter().find(|link| link.name == base) else {
            return Err(Error::not_found(format!(
                "{absent}, and no \"{base}\" on which maclane could make it; see `ip link`"
            )));
        };
        let Some((base, vlan)) = parse(iface) else {
            return Err(Error::invalid(format!(
                "{absent}, and \"{text}\" is not a VLAN ID for which maclane could make it on {base}; \
                 use 1 to {VLAN_MAX}, as in {base}.50"
            )));
        };
        check_link(link)?;
        let planned = SubInterface { base: base.to_owned(), vlan, with_networks };
        planned.check_free(link, &links)?;
        self.check_no_trunk(base, vlan)?;
        Ok(planned)
    }

    /// The same for a parent that may come later: `None` is one that somebody else makes. A base that
    /// is not there yet cannot be looked at.
    pub(crate) async fn expect_sub_interface(&self, iface: &str) -> Result<Option<SubInterface>> {
        let Some((base, vlan)) = parse(iface) else { return Ok(None) };
        if self.netlink.link(base).await?.is_some() {
            return self.plan_sub_interface(iface, false).await.map(Some);
        }
        Ok(Some(SubInterface { base: base.to_owned(), vlan, with_networks: false }))
    }

    /// Refuses a VLAN that a macvlan trunk child has: the kernel gives all its frames to the
    /// sub-interface.
    fn check_no_trunk(&self, base: &str, vlan: u16) -> Result<()> {
        let is_trunk = |(_, child): &(&String, &Child)| {
            let record = &child.record.value;
            let is_in = |trunk: &Trunk| match trunk {
                Trunk::All => true,
                Trunk::List(vlans) => vlans.contains(&vlan),
            };
            self.kind_of(record) == Kind::Macvlan && record.spec.trunk.as_ref().is_some_and(is_in)
        };
        match self.children_of(base).find(is_trunk) {
            None => Ok(()),
            Some((name, _)) => Err(Error::conflict(format!(
                "child \"{name}\" is a macvlan trunk of VLAN {vlan} on {base}, and the kernel would give its \
                 frames to a sub-interface; use --parent {base} --vlan {vlan}"
            ))),
        }
    }

    /// Makes the sub-interface of a parent that has one, if it is missing and its base is there; true
    /// if it was made.
    pub(crate) async fn make_sub_interface(&self, iface: &str) -> Result<bool> {
        let record = &self.parent(iface)?.record.value;
        let Some(wanted) = &record.made else { return Ok(false) };
        let links = self.netlink.links().await?;
        let is_seen = |link: &Link| record.seen.is_some_and(|(index, _)| index == link.index);
        // Perhaps renamed.
        let is_there = |link: &Link| link.name == iface || is_seen(link) && wanted.is(link, &links);
        let base = links.iter().find(|link| link.name == wanted.base);
        let Some(base) = base.filter(|_| !links.iter().any(is_there)) else { return Ok(false) };
        wanted.check_free(base, &links)?;
        let made = self.netlink.add_vlan(iface, base.index, wanted.vlan).await;
        failpoint!("sub_interface.made");
        made.map_err(|e| wanted.refused(e, iface))?;
        let (base, vlan) = (&wanted.base, wanted.vlan);
        tracing::info!(parent = iface, base, vlan, "sub-interface made");
        Ok(true)
    }

    /// The same, in the control loop: what fails is a problem of the parent, and so is another link
    /// in its place. True if it was made.
    pub(crate) async fn sync_sub_interface(&mut self, iface: &str, links: &[Link]) -> Result<bool> {
        if self.parent(iface)?.record.value.made.is_none() || self.is_left(iface) {
            return Ok(false);
        }
        let done = self.make_sub_interface(iface).await;
        let parent = self.parent_mut(iface)?;
        let known = parent.problems.remove(&Problem::SubInterface);
        let by_name = links.iter().find(|link| link.name == iface);
        let wrong = match (&parent.record.value.made, by_name, done) {
            (_, _, Err(e)) => e.to_string(),
            (Some(made), Some(link), Ok(false)) if !made.is(link, links) => format!(
                "somebody has put another interface into the place of {iface}, which maclane has made for VLAN {} \
                 of {}; it is served as it is, and stays when the parent is removed",
                made.vlan, made.base
            ),
            (_, _, Ok(is_new)) => return Ok(is_new),
        };
        if known.as_ref() != Some(&wrong) {
            tracing::warn!(parent = iface, "{wrong}");
        }
        parent.problems.insert(Problem::SubInterface, wrong);
        Ok(false)
    }

    /// True for a parent that came with a network and has none any more.
    pub(crate) fn is_left(&self, iface: &str) -> bool {
        let parent = self.parents.get(iface);
        parent.is_some_and(|parent| parent.record.value.goes_with_networks())
            && self.networks_of(iface).next().is_none()
    }

    /// Removes the sub-interface that maclane has made for a parent, unless another link has its
    /// place or others use it.
    pub(crate) async fn delete_sub_interface(&mut self, iface: &str) -> Result<()> {
        if self.parent(iface)?.record.value.made.is_none() {
            return Ok(());
        }
        let links = self.netlink.links().await?;
        self.sync_adopted(iface, &links).await?;
        let parent = self.parent(iface)?;
        let Some(made) = &parent.record.value.made else { return Ok(()) };
        let index = parent.link.as_ref().map(|link| link.index);
        let renamed = || links.iter().find(|link| Some(link.index) == index);
        let by_name = links.iter().find(|link| link.name == iface);
        let Some(link) = by_name.or_else(renamed) else { return Ok(()) };
        if !made.is(link, &links) {
            tracing::warn!(parent = iface, "the interface is not what maclane has made: it stays");
            return Ok(());
        }
        if let Some(user) = user_of(link, parent, &links) {
            tracing::warn!(parent = iface, "the interface is used by {user}: it stays");
            return Ok(());
        }
        let doing = || format!("cannot remove {}", link.name);
        self.netlink.delete(link.index).await.doing(doing)?;
        failpoint!("sub_interface.deleted");
        tracing::info!(parent = iface, "sub-interface removed");
        Ok(())
    }

    /// The parent and the VLAN there that a parent is the sub-interface of.
    pub(crate) fn below(&self, iface: &str) -> Option<(&str, u16)> {
        let parent = self.parents.get(iface)?;
        let Some(link) = &parent.link else {
            // As it will be.
            let made = parent.record.value.made.as_ref()?;
            let (name, _) = self.parents.get_key_value(&made.base)?;
            return Some((name, made.vlan));
        };
        let LinkKind::Vlan(vlan) = link.kind else { return None };
        let lower = link.lower.filter(|_| link.lower_netns.is_none())?;
        let is_lower = |parent: &Parent| parent.link.as_ref().is_some_and(|l| l.index == lower);
        let (name, _) = self.parents.iter().find(|(_, parent)| is_lower(parent))?;
        Some((name, vlan))
    }

    /// Has the tables of the parent below brought up to date, where there is one.
    pub(crate) fn tell_below(&self, iface: &str) {
        if self.below(iface).is_some() {
            self.kick.notify_one();
        }
    }

    /// What children of a parent's sub-interfaces have for MACs, each with its VLAN: for the
    /// dataplane of the parent they are where the host is.
    pub(crate) fn macs_beyond(&self, iface: &str) -> Vec<(u16, Mac)> {
        let above = self.parents.iter().filter_map(|(name, parent)| {
            let (below, vlan) = self.below(name)?;
            (below == iface).then_some((name, parent, vlan))
        });
        let of_parent = |(name, parent, vlan): (&String, &Parent, u16)| {
            let mac = |(_, child): (_, &Child)| {
                // Before it was looked at, what it had.
                child.live.as_ref().map(|live| live.mac).or(child.record.value.mac)
            };
            let created: Vec<Mac> = self.children_of(name).filter_map(mac).collect();
            let macs = created.into_iter().chain(parent.adopted.keys().copied());
            macs.map(|mac| (vlan, mac)).collect::<Vec<_>>()
        };
        above.flat_map(of_parent).collect()
    }

    /// The LAN that the children of a network are on. A sub-interface and a network in its VLAN on
    /// what it sits on share one.
    pub(crate) fn lan_of(&self, network: &NetworkSpec) -> Lan {
        match self.below(&network.parent).filter(|_| network.vlan == 0) {
            Some((below, vlan)) => (below.to_owned(), vlan),
            None => (network.parent.clone(), network.vlan),
        }
    }
}

/// Who else than maclane has something on a link.
fn user_of(link: &Link, parent: &Parent, links: &[Link]) -> Option<String> {
    if let Some(mac) = parent.adopted.keys().next() {
        return Some(format!("a child that somebody else made ({mac})"));
    }
    let other = links.iter().find(|other| {
        Some(other.index) == link.controller
            || other.lower == Some(link.index) && other.lower_netns.is_none()
    });
    other.map(|other| other.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sub_interfaces_are_base_and_vlan() {
        for (name, expected) in [
            ("eth0.50", Some(("eth0", 50))),
            ("eth0.1", Some(("eth0", 1))),
            ("eth0.4094", Some(("eth0", 4094))),
            ("br.x.7", Some(("br.x", 7))),
            ("eth0.50.60", Some(("eth0.50", 60))),
            ("eth0", None),
            ("eth0.", None),
            (".50", None),
            ("eth0.0", None),
            ("eth0.4095", None),
            ("eth0.70000", None),
            ("eth0.050", None),
            ("eth0.+50", None),
            ("eth0.x", None),
        ] {
            assert_eq!(parse(name), expected, "{name}");
        }
    }
}
