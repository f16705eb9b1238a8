//! What nobody tells about: programs, pins and entries of maps that somebody has taken away, and
//! limits that have to be shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use dataplane_common::abi::{Learned, NeighbourKey, Policy as PortPolicy, check_flag};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{
    rights,
    state::{Child, Problem, State},
};
use crate::{
    clock,
    dataplane::{Mark, TcKind, XdpIn},
    error::{Context, Error, Result},
    model::{Kind, Security},
    netlink::Link,
};

/// How often maps and pins are compared with what they should be.
const PERIOD: Duration = Duration::from_secs(5);

/// Refuses a folder that is no BPF file system.
pub(crate) fn check_bpffs(dir: &Path) -> Result<()> {
    if statfs(dir).map(|fs| fs.filesystem_type()) == Ok(BPF_FS_MAGIC) {
        return Ok(());
    }
    let dir = dir.display();
    Err(Error::failed(format!(
        "{dir} is no BPF file system, and without one the dataplane would end with the daemon; mount it with \
         `mount -t bpf bpf {dir}`"
    )))
}

/// The XDP programs that netlink shows on a link.
pub(crate) fn xdp_on(link: &Link) -> Vec<(u32, XdpIn)> {
    let mode = |generic| if generic { XdpIn::Generic } else { XdpIn::Native };
    link.xdp.iter().map(|xdp| (xdp.program, mode(xdp.generic))).collect()
}

/// How long an address is remembered that a child has been seen to take, and does not use. One that is
/// bound to its child is remembered as long as the child is there and has room for it.
const FORGET: Duration = Duration::from_secs(3600);

/// True for an address that a child has not used for long.
fn is_forgotten(learned: &Learned, now: Duration) -> bool {
    now.saturating_sub(Duration::from_nanos(learned.seen)) > FORGET
}

/// What is open where the options of sockets cannot be refused.
fn bypass_problem(why: &str, sees_netns: bool) -> String {
    let open = if sees_netns {
        "a child in bridge mode with CAP_NET_RAW can send broadcasts to its siblings unchecked \
         (use --mode vepa), and any child can hide a header behind a checksum offload"
    } else {
        "a child with CAP_NET_RAW can send around its guard, and hide a header behind a checksum \
         offload (use --kind veth for children that are not trusted)"
    };
    format!("socket options cannot be refused: {why}; {open}")
}

/// True for a port that is kept to its addresses.
fn is_bound(policies: &BTreeMap<u16, PortPolicy>, port: u16) -> bool {
    policies.get(&port).is_some_and(|policy| policy.checks & check_flag::ADDRESS != 0)
}

/// Of each port that is kept to its addresses and has as many as it may, the one that it has not used for
/// longest, if that is long: a child that takes a new temporary address each day (RFC 8981) has forgotten
/// the old ones itself.
fn outlived(
    learned: &BTreeMap<NeighbourKey, Learned>,
    policies: &BTreeMap<u16, PortPolicy>,
    now: Duration,
) -> BTreeSet<NeighbourKey> {
    let mut of_ports: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for (key, learned) in learned {
        of_ports.entry(learned.port).or_default().push((key, learned));
    }
    let full = of_ports.into_iter().filter(|(port, addresses)| {
        is_bound(policies, *port)
            && policies.get(port).is_some_and(|p| addresses.len() >= usize::from(p.max_addresses))
    });
    let oldest = full.filter_map(|(_, of)| of.into_iter().min_by_key(|(_, learned)| learned.seen));
    oldest.filter(|(_, learned)| is_forgotten(learned, now)).map(|(key, _)| *key).collect()
}

impl State {
    /// Has the store written anew if its file is gone or another one, and shows at every parent what is
    /// wrong with it.
    pub(crate) async fn look_at_store(&mut self) {
        let wrong = self.store.look().await.join("; ");
        for parent in self.parents.values_mut() {
            if wrong.is_empty() {
                parent.problems.remove(&Problem::Store);
            } else {
                parent.problems.insert(Problem::Store, wrong.clone());
            }
        }
    }

    /// Looks for programs that are not where they were attached, so that this pass attaches them
    /// again. It costs one question to the kernel for each.
    pub(crate) fn check_programs(&mut self, iface: &str) -> Result<()> {
        let parent = self.parent_mut(iface)?;
        let (Some(plane), Some(link)) = (&parent.plane, &parent.link) else { return Ok(()) };
        let on_it = xdp_on(link);
        if parent.xdp_for == Some(link.index) {
            // Ours is gone, even before it was seen here once, or somebody else's, which kept ours
            // away.
            let gone = match parent.xdp {
                Some(_) => !plane.has_xdp(&on_it),
                None => parent.xdp_seen != on_it,
            };
            if gone {
                parent.xdp_for = None;
            }
            parent.xdp_seen = on_it;
        }
        let ports: BTreeSet<u16> = plane.unattended().into_iter().collect();
        if ports.is_empty() {
            return Ok(());
        }
        for child in self.children.values_mut() {
            let record = &child.record.value;
            child.suspect |= record.parent == iface && ports.contains(&record.port);
        }
        self.guard_adopted(iface, &ports)
    }

    /// Puts guards back onto adopted children.
    fn guard_adopted(&mut self, iface: &str, ports: &BTreeSet<u16>) -> Result<()> {
        let parent = self.parent_mut(iface)?;
        let Some(plane) = &mut parent.plane else { return Ok(()) };
        for (mac, adopted) in parent.adopted.iter_mut().filter(|(_, a)| ports.contains(&a.port)) {
            let Some(found) = &adopted.found else { continue };
            let Ok(netns) = found.open() else { continue };
            let link = (found.link.name.as_str(), found.link.index);
            match plane.attach_guard(adopted.port, &netns, link, false) {
                Ok(guarded) => adopted.guarded = guarded,
                Err(e) => tracing::debug!(parent = iface, %mac, "no guard: {e}"),
            }
        }
        Ok(())
    }

    /// Compares maps and pins with what they should be, now and then, and puts right what somebody
    /// has changed. `complete` says that every child could be looked at.
    pub(crate) async fn audit(&mut self, iface: &str, complete: bool) -> Result<()> {
        let mounted = check_bpffs(&self.bpffs);
        let ports = self.ports_of(iface);
        let parent = self.parent_mut(iface)?;
        let Some(plane) = &mut parent.plane else { return Ok(()) };
        let was_mounted = parent.problems.remove(&Problem::Pins).is_none();
        if let Err(e) = mounted {
            let problem = format!(
                "{e}: what was pinned there is held by the daemon, and is pinned again then"
            );
            if was_mounted {
                tracing::error!(parent = iface, "{problem}");
            }
            parent.problems.insert(Problem::Pins, problem);
            return Ok(());
        }
        let is_time = parent.audited.is_none_or(|last| last.elapsed() >= PERIOD);
        if !is_time && was_mounted {
            return Ok(());
        }
        let first = parent.audited.is_none();
        parent.audited = Some(Instant::now());
        let repinned = plane.repin()?;
        if repinned > 0 {
            tracing::warn!(parent = iface, repinned, "pins were gone, and are there again");
            parent.lock = None;
            parent.lock = Some(plane.pins().lock(iface)?);
        }
        if complete {
            plane.prune(&ports)?;
            let now = clock::since_boot()?;
            let policies = plane.tables().policies.clone();
            let outlived = outlived(&plane.learned()?, &policies, now);
            plane.forget_learned(|key, learned| {
                !ports.contains(&learned.port)
                    || !is_bound(&policies, learned.port) && is_forgotten(learned, now)
                    || outlived.contains(key)
            })?;
        }
        if plane.tc_kind() == TcKind::Tcx && plane.pins().has(Mark::Filters) && complete {
            self.leave_clsact(iface).await?;
        }
        if !first && complete {
            self.reread(iface)?;
        }
        self.check_filters(iface).await
    }

    /// Looks for filters that somebody has taken off the host ends of veth children. A TCX link says
    /// itself where it is.
    async fn check_filters(&mut self, iface: &str) -> Result<()> {
        if self.tc == TcKind::Tcx {
            return Ok(());
        }
        let host_end = |child: &Child| Some(child.live.as_ref()?.host_end).filter(|end| *end != 0);
        let host_ends: Vec<(String, u16, u32)> = self
            .children_of(iface)
            .filter_map(|(name, child)| {
                Some((name.clone(), child.record.value.port, host_end(child)?))
            })
            .collect();
        for (name, port, host_end) in host_ends {
            // One that has just gone has none.
            let filters = self.netlink.filters(host_end).await.unwrap_or_default();
            let Some(plane) = &mut self.parent_mut(iface)?.plane else { return Ok(()) };
            if plane.has_lost_filter(port, &filters)
                && let Some(child) = self.children.get_mut(&name)
            {
                child.suspect = true;
            }
        }
        Ok(())
    }

    /// Removes what a daemon that attached filters has left: TCX serves now.
    async fn leave_clsact(&mut self, iface: &str) -> Result<()> {
        let parent = self.parent(iface)?;
        let (Some(plane), Some(link)) = (&parent.plane, &parent.link) else { return Ok(()) };
        plane.remove_filters(&link.name)?;
        if plane.pins().has(Mark::MadeClsact) {
            self.netlink.delete_clsact(link.index).await?;
            plane.pins().mark(Mark::MadeClsact, false)?;
        }
        plane.pins().mark(Mark::Filters, false)
    }

    fn reread(&mut self, iface: &str) -> Result<()> {
        let parent = self.parent_mut(iface)?;
        let Some(plane) = &mut parent.plane else { return Ok(()) };
        if plane.reread().doing(|| format!("cannot read the maps of {iface}"))? {
            tracing::warn!(parent = iface, "somebody has changed the maps; they are put right");
            self.sync_tables(iface)?;
        }
        Ok(())
    }

    /// The ports that somebody has.
    fn ports_of(&self, iface: &str) -> BTreeSet<u16> {
        let created = self.children_of(iface).map(|(_, child)| child.record.value.port);
        let adopted = self.parents.get(iface).into_iter().flat_map(|p| p.adopted.values());
        created.chain(adopted.map(|adopted| adopted.port)).collect()
    }

    /// Notes what is limited: identity without guards, and children whose frames the parent does
    /// not take.
    pub(crate) fn note_limits(&mut self, iface: &str) -> Result<()> {
        let too_large: Vec<(String, u32)> = self
            .children_of(iface)
            .filter_map(|(name, child)| Some((name.clone(), child.live.as_ref()?.mtu?)))
            .collect();
        let has_macvlan = self
            .children_of(iface)
            .any(|(_, child)| self.kind_of(&child.record.value) == Kind::Macvlan);
        let strictest = self
            .strictest(self.children_of(iface).map(|(_, child)| child))
            .map_or(Security::Off, |(network, record)| rights::policy_of(network, record).security);
        let is_enforced = strictest == Security::Enforce;
        let sees_netns = self.sees_netns;
        let parent = self.parent_mut(iface)?;
        parent.problems.retain(|about, _| {
            !matches!(
                about,
                Problem::Guard | Problem::Bypass | Problem::Checksums | Problem::Mtu(_)
            )
        });
        let (Some(plane), Some(link)) = (&parent.plane, &parent.link) else { return Ok(()) };
        if let Some(why) = parent.sockopt_refused.as_ref().filter(|_| is_enforced) {
            let problem = bypass_problem(why, sees_netns && plane.guard_refused().is_none());
            parent.problems.insert(Problem::Bypass, problem);
        }
        if let Some(why) = plane.checksums_hidden().filter(|_| strictest != Security::Off) {
            let problem = format!(
                "pending checksums are not looked for: {why}; a guest in a child, or a child with CAP_NET_RAW, can have \
                 one written over a header that was checked"
            );
            parent.problems.insert(Problem::Checksums, problem);
        }
        let refused = plane.guard_refused().filter(|_| has_macvlan || !parent.adopted.is_empty());
        if let Some(why) = refused {
            let problem = format!(
                "macvlan children are known by their source MAC only: {why}; use a newer kernel"
            );
            parent.problems.insert(Problem::Guard, problem);
        }
        let most = link.mtu.unwrap_or(u32::MAX);
        for (name, mtu) in too_large.into_iter().filter(|(_, mtu)| *mtu > most) {
            let problem = format!(
                "child \"{name}\" has an MTU of {mtu} and its parent one of {most}: larger frames are lost; \
                 change one of them (`ip link set dev IFACE mtu {most}` in the child's namespace)"
            );
            parent.problems.insert(Problem::Mtu(name), problem);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_full_has_room_again_for_what_it_does_not_use() {
        let now = FORGET * 3;
        let key = |last| NeighbourKey::new(dataplane_common::abi::address([last; 16]), 0);
        let seen = |ago: Duration, port| {
            let seen = u64::try_from(now.saturating_sub(ago).as_nanos()).expect("below 500 years");
            Learned { seen, since: 0, port, mac: [2; 6] }
        };
        let (old, older) = (FORGET + Duration::from_secs(1), FORGET * 2);
        let learned: BTreeMap<_, _> = [
            (key(1), seen(old, 2)),
            (key(2), seen(older, 2)),
            (key(3), seen(Duration::ZERO, 2)),
            (key(4), seen(FORGET, 3)),
            (key(5), seen(older, 4)),
            (key(6), seen(older, 5)),
        ]
        .into();
        let policy =
            |checks, max_addresses| PortPolicy { checks, max_addresses, ..Default::default() };
        let policies: BTreeMap<_, _> = [
            (2, policy(check_flag::ADDRESS, 3)),
            // It uses what it has.
            (3, policy(check_flag::ADDRESS, 1)),
            // It has room.
            (4, policy(check_flag::ADDRESS, 2)),
            // Its addresses are forgotten anyway.
            (5, policy(0, 1)),
        ]
        .into();
        assert_eq!(outlived(&learned, &policies, now), [key(2)].into());
    }
}
