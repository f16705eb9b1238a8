//! Parents: adding, attaching, following.

use dataplane_common::abi::Settings;

use super::{
    state::{Parent, ParentRecord, Problem, State},
    sub_interface::SubInterface,
    xdp::wanted_xdp,
};
use crate::{
    dataplane::{Dataplane, Pins, TcKind, XdpIn},
    error::{Context, Error, Result},
    model::{ParentSpec, UnknownPolicy},
    netlink::{Link, LinkKind},
    store::{self, Store, Versioned},
    task::Task,
};

/// Refuses interfaces that no child can sit on.
pub(crate) fn check_link(link: &Link) -> Result<()> {
    let cannot =
        |why: &str| Err(Error::invalid(format!("{} cannot be a parent: {why}", link.name)));
    if link.loopback {
        return cannot("it is a loopback; name the interface that leads to the LAN");
    }
    if matches!(link.kind, LinkKind::Macvlan(_)) {
        return cannot("it is a macvlan link itself; name the interface that it sits on");
    }
    if link.mac.is_none() {
        return cannot("it is no Ethernet interface");
    }
    Ok(())
}

impl State {
    /// Adds a parent, or changes the settings of one. What maclane makes for one that is added for a
    /// network goes with its last network.
    pub(crate) async fn parent_add(&mut self, spec: ParentSpec, for_network: bool) -> Result<()> {
        let iface = spec.iface.clone();
        let before = self.parents.get(&iface).map(|parent| {
            let record = &parent.record.value;
            (record.spec.clone(), record.made.clone())
        });
        let made = match &before {
            None => self.check_new_parent(&iface, for_network).await?,
            Some((_, made)) => made.clone().map(|made| {
                let with_networks = made.with_networks && for_network;
                SubInterface { with_networks, ..made }
            }),
        };
        let changed = before.is_some();
        let done = self.parent_put(spec, made).await;
        let done = match done {
            Ok(()) => self.parent_settle(&iface).await,
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            // Whatever was there before is there again.
            let undone = if let Some((spec, made)) = before {
                self.parent_put(spec, made).await?;
                self.parent_settle(&iface).await
            } else {
                let parent = self.parent_mut(&iface)?;
                // Not even seen: whatever has its name is not ours.
                if parent.link.is_none() {
                    parent.record.value.made = None;
                }
                self.parent_forget(&iface).await
            };
            if let Err(e) = undone {
                tracing::error!(parent = iface, "cannot undo: {e}");
            }
            return Err(e);
        }
        let what = if changed { "settings changed" } else { "parent added" };
        tracing::info!(parent = iface, "{what}");
        Ok(())
    }

    /// Refuses an interface that cannot be a parent; returns what has to be made if it is not there.
    async fn check_new_parent(
        &self,
        iface: &str,
        for_network: bool,
    ) -> Result<Option<SubInterface>> {
        let Some(link) = self.netlink.link(iface).await? else {
            return self.plan_sub_interface(iface, for_network).await.map(Some);
        };
        self.check_new_parent_link(iface, &link)?;
        Ok(None)
    }

    /// Refuses a link that cannot be a parent.
    pub(crate) fn check_new_parent_link(&self, iface: &str, link: &Link) -> Result<()> {
        if link.name != iface {
            return Err(Error::invalid(format!(
                "\"{iface}\" is another name of {}; use that one",
                link.name
            )));
        }
        check_link(link)?;
        self.check_no_host_end(link)?;
        self.check_no_parent(link)
    }

    /// Refuses an interface that is a parent already, under the name that it had.
    fn check_no_parent(&self, link: &Link) -> Result<()> {
        let is_it = |parent: &Parent| parent.link.as_ref().is_some_and(|l| l.index == link.index);
        match self.parents.iter().find(|(_, parent)| is_it(parent)) {
            Some((name, _)) => Err(Error::conflict(format!(
                "{} is the parent \"{name}\", renamed; give it its name back, or remove that parent first",
                link.name
            ))),
            None => Ok(()),
        }
    }

    /// Refuses the host end of a veth child.
    fn check_no_host_end(&self, link: &Link) -> Result<()> {
        let of_child = |(_, child): &(&String, &super::state::Child)| {
            child.live.as_ref().is_some_and(|live| live.host_end == link.index)
        };
        match self.children.iter().find(of_child) {
            Some((name, _)) => Err(Error::invalid(format!(
                "{} cannot be a parent: it is this end of child \"{name}\"",
                link.name
            ))),
            None => Ok(()),
        }
    }

    async fn parent_put(&mut self, spec: ParentSpec, made: Option<SubInterface>) -> Result<()> {
        let iface = spec.iface.clone();
        if let Some(parent) = self.parents.get_mut(&iface) {
            (parent.record.value.spec, parent.record.value.made) = (spec, made);
            parent.xdp_for = None;
            return self.save_parent(&iface).await;
        }
        let value = ParentRecord::new(spec, made);
        let key = format!("{}{iface}", store::PARENTS);
        let revision = self.store.put_as(&key, &value, None).await?;
        self.parents.insert(iface, Parent::new(Versioned { value, revision }));
        Ok(())
    }

    /// Brings a parent up at once, and fails where the control loop would only note it.
    async fn parent_settle(&mut self, iface: &str) -> Result<()> {
        self.make_sub_interface(iface).await?;
        self.reconcile_parent(iface).await?;
        let parent = self.parent(iface)?;
        let forced = parent.record.value.spec.xdp.is_forced();
        match parent.problems.get(&Problem::Xdp) {
            Some(why) if forced && parent.xdp.is_none() => Err(Error::conflict(why.clone())),
            _ => Ok(()),
        }
    }

    /// Looks at the parent's interface; what is gone has no programs to keep track of.
    pub(crate) async fn sync_link(&mut self, iface: &str, links: &[Link]) -> Result<()> {
        let bpffs = self.bpffs.clone();
        let parent = self.parent_mut(iface)?;
        let seen = parent.record.value.seen;
        let by_name = links.iter().find(|link| link.name == iface);
        let renamed = || {
            links.iter().find(|link| link.mac.is_some_and(|mac| seen == Some((link.index, mac))))
        };
        let found = by_name.or_else(renamed).cloned();
        parent.problems.remove(&Problem::Link);
        match &found {
            None => {
                parent.xdp_for = None;
                if let Some(plane) = &mut parent.plane {
                    plane.leave_parent()?;
                } else {
                    Pins::new(&bpffs, iface).leave_parent()?;
                }
                parent.problems.insert(
                    Problem::Link,
                    format!("no interface \"{iface}\"; its networks come back with it"),
                );
            }
            Some(link) if link.name != iface => {
                let problem = format!(
                    "the interface is called \"{}\" now; it is served all the same until another one is called \"{iface}\"",
                    link.name
                );
                parent.problems.insert(Problem::Link, problem);
            }
            Some(_) => {}
        }
        let now = found.as_ref().and_then(|link| link.mac.map(|mac| (link.index, mac)));
        let changed = now.is_some() && now != seen;
        parent.link = found;
        if changed {
            parent.record.value.seen = now;
            self.save_parent(iface).await?;
        }
        Ok(())
    }

    /// Learns which VLANs, MACs and addresses are the host's own.
    pub(crate) async fn sync_host(&mut self, iface: &str, links: &[Link]) -> Result<()> {
        let addresses = self.netlink.addresses().await?;
        let parent = self.parent_mut(iface)?;
        let Some(link) = &parent.link else { return Ok(()) };
        parent.host_vlans = links
            .iter()
            .filter(|other| other.lower == Some(link.index) && other.lower_netns.is_none())
            .filter_map(|other| match other.kind {
                LinkKind::Vlan(vlan) => Some((vlan, other.mac?)),
                _ => None,
            })
            .collect();
        parent.host_macs = links
            .iter()
            .filter(|other| Some(other.index) == link.controller)
            .filter_map(|other| other.mac)
            .collect();
        let place = |ifindex| {
            let other = links.iter().find(|other| other.index == ifindex)?;
            let vlan = match other.kind {
                LinkKind::Vlan(vlan) if other.lower == Some(link.index) => vlan,
                _ if ifindex == link.index || Some(ifindex) == link.controller => 0,
                _ => return None,
            };
            Some((vlan, other.mac?))
        };
        parent.host_addresses = addresses
            .iter()
            .filter_map(|(ifindex, address)| {
                let (vlan, mac) = place(*ifindex)?;
                Some(((vlan, address.ip()), mac))
            })
            .collect();
        Ok(())
    }

    /// Loads the programs where they are not; returns where XDP has to be attached.
    async fn load_programs(&mut self, iface: &str) -> Result<Option<XdpIn>> {
        let parent = self.parent(iface)?;
        let Some(link) = parent.link.clone() else { return Ok(None) };
        let spec = parent.record.value.spec.clone();
        let decided = parent.xdp_for == Some(link.index);
        let xdp = if decided { parent.xdp } else { wanted_xdp(spec.xdp, &link) };
        let wanted = if decided && parent.plane.is_some() {
            parent.plane.as_ref().map(Dataplane::settings).unwrap_or_default()
        } else {
            self.settings(&spec, xdp, &link).await
        };
        let (bpffs, tc, kick) = (self.bpffs.clone(), self.tc, self.kick.clone());
        let parent = self.parent_mut(iface)?;
        let wanted = Settings { trace: parent.traces.are_wanted().into(), ..wanted };
        if parent.plane.as_ref().is_none_or(|plane| plane.settings() != wanted) {
            // The old programs run on until each link is updated. The new ones find their maps by the pins.
            if let Some(plane) = &parent.plane {
                plane.repin()?;
            }
            (parent.listener, parent.tracing, parent.plane) = (None, None, None);
            let pins = Pins::new(&bpffs, iface);
            if parent.lock.is_none() {
                parent.lock = Some(pins.lock(iface)?);
            }
            let mut plane = Dataplane::load(pins, wanted, tc)?;
            let mut events = plane.take_events()?;
            let heard = parent.heard.clone();
            parent.listener = Some(Task::spawn(async move {
                while let Ok(events) = events.wait().await {
                    // Claims have time until the next look: whoever repeats one shall not hurry us.
                    if heard.lock().is_ok_and(|mut heard| heard.note(events)) {
                        kick.notify_one();
                    }
                }
            }));
            if wanted.trace != 0 {
                let mut frames = plane.take_frames()?;
                let (traces, iface) = (parent.traces.clone(), iface.to_owned());
                parent.tracing = Some(Task::spawn(async move {
                    while let Ok((frames, lost)) = frames.wait().await {
                        traces.tell(&iface, &frames, lost);
                    }
                }));
            }
            parent.plane = Some(plane);
            // XDP gets the new program, too.
            parent.xdp_for = None;
            // Their host ends get the new programs, too.
            self.suspect_children(iface);
        }
        Ok(xdp)
    }

    /// Attaches the programs where they are not: after the tables, so that no frame is judged by
    /// empty ones.
    async fn attach_programs(&mut self, iface: &str, xdp: Option<XdpIn>) -> Result<()> {
        let Some(link) = self.parent(iface)?.link.clone() else { return Ok(()) };
        // TCX links are asked themselves.
        let filters = match self.tc {
            TcKind::Tcx => Vec::new(),
            TcKind::Clsact => self.netlink.filters(link.index).await?,
        };
        let parent = self.parent_mut(iface)?;
        let Some(plane) = &mut parent.plane else { return Ok(()) };
        plane.attach_tc(&link.name, link.index, &filters)?;
        // What it cannot refuse the parent's egress tells apart, where the kernel can.
        parent.sockopt_refused = plane.attach_sockopt().err().map(|e| e.to_string());
        if parent.xdp_for == Some(link.index) {
            return Ok(());
        }
        self.decide_xdp(iface, &link, xdp)
    }

    /// True until the tables are written for the first time.
    fn has_empty_tables(&self, iface: &str) -> bool {
        let plane = self.parents.get(iface).and_then(|parent| parent.plane.as_ref());
        plane.is_some_and(|plane| plane.tables().ports.is_empty())
    }

    /// What the programs are loaded with.
    async fn settings(&self, spec: &ParentSpec, xdp: Option<XdpIn>, link: &Link) -> Settings {
        Settings {
            drop_unknown: u8::from(spec.unknown == UnknownPolicy::Drop),
            xdp_may_drop: u8::from(xdp == Some(XdpIn::Native)),
            xdp_sees_tags: u8::from(xdp.is_some() && self.sees_tags(&spec.iface, link).await),
            xdp_generic: u8::from(xdp == Some(XdpIn::Generic)),
            trace: 0,
            netns: u8::from(self.sees_netns),
            host: self.own_cookie,
            guards: u8::from(self.tc == TcKind::Tcx),
            pad: 0,
        }
    }

    /// One pass of the control loop over a parent.
    pub(crate) async fn reconcile_parent(&mut self, iface: &str) -> Result<()> {
        let mut links = self.netlink.links().await?;
        if self.sync_sub_interface(iface, &links).await?
            || self.sync_isolated(iface, &links).await?
        {
            links = self.netlink.links().await?;
        }
        let was = self.parent(iface)?.link.as_ref().map(|link| link.index);
        self.sync_link(iface, &links).await.doing(|| format!("parent {iface}"))?;
        let is = self.parent(iface)?.link.as_ref().map(|link| link.index);
        if was != is {
            if was.is_some() {
                tracing::info!(parent = iface, ?was, ?is, "the interface has another index");
            }
            self.suspect_children(iface);
            self.parent_mut(iface)?.looked = false;
        }
        if is.is_none() {
            self.parent_mut(iface)?.looked = true;
            self.sync_children(iface).await;
            return Ok(());
        }
        self.sync_host(iface, &links).await?;
        self.check_programs(iface)?;
        let xdp = self.load_programs(iface).await.doing(|| format!("parent {iface}"))?;
        let mut complete = self.sync_children(iface).await;
        self.sync_adopted(iface, &links).await?;
        self.isolate_links(iface, &links).await?;
        self.answer_claims(iface);
        self.tell_offences(iface);
        let kick = self.kick.clone();
        if !std::mem::replace(&mut self.parent_mut(iface)?.looked, true) {
            kick.notify_one();
        }
        if complete && self.has_empty_tables(iface) {
            // Before any program that would judge by them is put into the place of an older one.
            self.sync_tables(iface)?;
            self.suspect_children(iface);
            complete = self.sync_children(iface).await;
        }
        self.sync_modes(iface).await;
        // Better old tables than tables without a child that could not be looked at.
        if complete {
            self.sync_tables(iface)?;
        }
        self.attach_programs(iface, xdp).await?;
        self.sync_vlan_filter(iface).await?;
        self.sync_trace(iface)?;
        self.note_limits(iface)?;
        self.audit(iface, complete).await
    }
}
