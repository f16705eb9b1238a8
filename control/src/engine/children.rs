//! Children: making, watching, removing.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::{
    adopt::find_links,
    parents::problem,
    state::{Child, ChildRecord, Live, State},
};
use crate::{
    announce,
    error::{Context, Error, ErrorKind, Result},
    ethtool,
    model::{ChildSpec, Kind, Mac, Mode, NetworkSpec},
    netlink::{Change, Link, LinkKind, Netlink, NewLink},
    netns::Netns,
    store::{self, Store, Versioned},
};

/// The name of a veth child's host end.
fn host_end_name(child: &str) -> String {
    // FNV-1a over a name that does not fit.
    let hash = || {
        child
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    };
    if child.len() <= 12 { format!("ml-{child}") } else { format!("ml-{:08x}", hash()) }
}

/// What says that a link is a child's, beside its MAC.
fn alias(child: &str) -> String {
    format!("maclane child {child}")
}

/// A locally administered MAC that nobody else is likely to have.
fn random_mac() -> Result<Mac> {
    let mut mac = [2, 0, 0, 0, 0, 0];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut mac[1..])?;
    Ok(Mac(mac))
}

impl State {
    /// Names of the children of a network.
    pub(crate) fn children_in<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a str> {
        self.children
            .iter()
            .filter(move |(_, child)| child.record.value.spec.network == network)
            .map(|(name, _)| name.as_str())
    }

    /// Makes a child.
    pub(crate) async fn child_add(&mut self, spec: ChildSpec) -> Result<()> {
        let name = spec.name.clone();
        self.child_create(spec).await.doing(|| format!("cannot create child \"{name}\""))
    }

    async fn child_create(&mut self, spec: ChildSpec) -> Result<()> {
        let name = spec.name.clone();
        let network = self.check_child(&spec)?;
        let netns = Netns::open(&spec.netns)?;
        let parent = self.parent(&network.parent)?;
        if parent.link.is_none() || parent.plane.is_none() {
            return Err(Error::failed(format!(
                "its parent {} is not there; bring the interface back first",
                network.parent
            )));
        }
        let mac = match (network.mode, spec.mac) {
            (Mode::Passthru, _) => None,
            (_, Some(mac)) => Some(mac),
            (_, None) => Some(random_mac()?),
        };
        let port = self.free_port(&network.parent)?;
        let value = ChildRecord {
            parent: network.parent.clone(),
            mac,
            port,
            netns: netns.path().to_owned(),
            proof: netns.proof()?,
            built: false,
            removing: false,
            spec,
        };
        let key = format!("{}{name}", store::CHILDREN);
        let revision = self.store.put_as(&key, &value, None).await?;
        let record = Versioned { value, revision };
        self.children.insert(name.clone(), Child { record, live: None, suspect: false });
        if let Some(plane) = &mut self.parent_mut(&network.parent)?.plane {
            plane.reset_counters(port)?;
        }
        let made = self.make_link(&self.child(&name)?.record.value, &network, &netns).await;
        if let Err(e) = made {
            // There is no link of ours: whatever has its name stays.
            self.forget_child(&name).await?;
            return Err(e);
        }
        if let Err(e) = self.child_build(&name, &netns).await {
            if let Err(e) = self.child_rm(&name).await {
                tracing::error!(child = name, "cannot undo: {e}");
            }
            return Err(e);
        }
        tracing::info!(child = name, port, parent = network.parent, "child created");
        Ok(())
    }

    /// Sets the link of a child up, down to the announcement of its addresses.
    async fn child_build(&mut self, name: &str, netns: &Netns) -> Result<()> {
        let record = self.child(name)?.record.value.clone();
        let network = self.network(&record.spec.network)?.clone();
        let parent = record.parent.clone();
        let inside = Netlink::inside(netns)?;
        let live = self.observe(&record, &network, netns, &inside).await?;
        let live = live.ok_or_else(|| Error::failed("its link was there and is gone again"))?;
        let live = self.attach_child(&record, &network, netns, live).await?;
        let ifindex = live.ifindex;
        let (host_end, mac) = (live.host_end, live.mac);
        let ifname = live.ifname.clone();
        if let Some(child) = self.children.get_mut(name) {
            child.live = Some(Live { up: true, ..live });
        }
        self.sync_modes(&parent).await;
        self.sync_tables(&parent)?;
        for address in &record.spec.ip {
            let doing = || format!("cannot give {ifname} the address {address}");
            inside.add_address(ifindex, *address).await.doing(doing)?;
        }
        let alias = alias(name);
        if host_end != 0 {
            self.netlink.set_up(host_end, &alias).await?;
        }
        inside.set_up(ifindex, &alias).await.doing(|| format!("cannot bring {ifname} up"))?;
        for route in &record.spec.route {
            let doing = || format!("cannot give {ifname} the route to {}", route.destination);
            let unreachable = "its gateway has to be in the subnet of one of the child's addresses";
            let added = inside.add_route(ifindex, route).await;
            added.map_err(|e| e.way_out(Errno::ENETUNREACH, unreachable)).doing(doing)?;
        }
        let addresses: Vec<IpAddr> = record.spec.ip.iter().map(IpNetwork::ip).collect();
        if !addresses.is_empty() {
            match netns.inside(|| announce::announce(ifindex, mac, &addresses))? {
                Ok(socket) => drop(tokio::task::spawn_blocking(move || drop(socket))),
                Err(e) => tracing::warn!(child = name, "cannot announce its addresses: {e}"),
            }
        }
        self.netlink.follow(netns).await?;
        if let Some(child) = self.children.get_mut(name).filter(|c| !c.record.value.built) {
            child.record.value.built = true;
            self.save_child(name).await?;
        }
        Ok(())
    }

    async fn make_link(
        &self,
        record: &ChildRecord,
        network: &NetworkSpec,
        netns: &Netns,
    ) -> Result<()> {
        let parent = self.parent(&network.parent)?.link.as_ref();
        let parent = parent.ok_or_else(|| Error::failed("its parent is not there"))?;
        let ifname = &record.spec.ifname;
        let new = NewLink { name: ifname, netns, mac: record.mac, mtu: network.mtu.or(parent.mtu) };
        let made = match self.mode_in_force(network) {
            Some(mode) => self.netlink.add_macvlan(parent.index, mode, &new).await,
            None => self.netlink.add_veth(&host_end_name(&record.spec.name), &new).await,
        };
        if made.is_ok() && network.kind == Kind::Veth {
            // The host speaks to the child through the dataplane only, not through this end.
            let name = host_end_name(&record.spec.name);
            let ipv6 = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
            if let Err(e) = std::fs::write(ipv6, "1") {
                tracing::debug!(child = record.spec.name, "no IPv6 to switch off on {name}: {e}");
            }
        }
        let taken = format!("an interface called {ifname} is there; pick another --ifname");
        made.map_err(|e| {
            e.way_out(Errno::EEXIST, &taken)
                .way_out(
                    Errno::EINVAL,
                    "a passthru child needs the parent for itself: remove the other macvlan links, or the passthru one, first",
                )
                .way_out(
                    Errno::EBUSY,
                    "somebody else (a bridge, a bond, OVS) takes what the parent receives; use a network of --kind veth",
                )
        })
        .doing(|| format!("cannot make {ifname} in {} on {}", netns.path().display(), network.parent))
    }

    /// Attaches the programs of a child, and lets its frames in.
    async fn attach_child(
        &mut self,
        record: &ChildRecord,
        network: &NetworkSpec,
        netns: &Netns,
        mut live: Live,
    ) -> Result<Live> {
        let own = &self.netlink;
        let parent = self.parents.get_mut(&record.parent);
        let Some(parent) = parent else { return Ok(live) };
        let (Some(plane), Some(link)) = (&mut parent.plane, &parent.link) else { return Ok(live) };
        match network.kind {
            Kind::Macvlan => {
                live.guarded = plane.attach_guard(record.port, netns, &live.ifname, true)?;
            }
            Kind::Veth => {
                let host_end = host_end_name(&record.spec.name);
                plane.attach_host_end(record.port, &host_end, live.host_end)?;
                own.filter_add(link.index, live.mac)
                    .await
                    .doing(|| format!("cannot add {} to the filter of {}", live.mac, link.name))?;
                if parent.xdp.is_some() {
                    live.takes_xdp = netns.inside(|| ethtool::enable_gro(&live.ifname))?.is_ok();
                }
            }
        }
        Ok(live)
    }

    /// Looks at a child's link; `None` if it is not there.
    async fn observe(
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
            Kind::Veth => match self.netlink.link(&host_end_name(&record.spec.name)).await? {
                Some(link) => Some(link),
                None => return Ok(None),
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
                mode: match link.kind {
                    LinkKind::Macvlan(mode) => mode,
                    _ => None,
                },
                host_end: host_end.map_or(0, |link| link.index),
                netns: netns.id(),
                guarded: false,
                takes_xdp: false,
            })
        }))
    }

    /// Removes a child: its link first, so that whoever is killed in between finds it again.
    pub(crate) async fn child_rm(&mut self, name: &str) -> Result<()> {
        self.child(name)?;
        if let Some(child) = self.children.get_mut(name) {
            child.record.value.removing = true;
        }
        self.save_child(name).await?;
        let record = self.child(name)?.record.value.clone();
        let doing = || format!("cannot remove child \"{name}\"");
        if let (Ok(network), Some(netns)) =
            (self.network(&record.spec.network).cloned(), record.open_netns())
        {
            let inside = Netlink::inside(&netns)?;
            if let Some(live) = self.observe(&record, &network, &netns, &inside).await? {
                inside.delete(live.ifindex).await.doing(doing)?;
            }
        }
        // What is left of a veth whose other end could not be reached.
        if self.kind_of(&record) == Kind::Veth
            && let Some(link) = self.netlink.link(&host_end_name(name)).await?
            && link.kind == LinkKind::Veth
        {
            self.netlink.delete(link.index).await.doing(doing)?;
        }
        self.release(name).await?;
        self.forget_child(name).await?;
        self.sync_tables(&record.parent)?;
        self.sync_modes(&record.parent).await;
        tracing::info!(child = name, "child removed");
        Ok(())
    }

    async fn forget_child(&mut self, name: &str) -> Result<()> {
        if let Some(child) = self.children.get(name) {
            let key = format!("{}{name}", store::CHILDREN);
            self.store.delete_if(&key, child.record.revision).await?;
        }
        self.children.remove(name);
        Ok(())
    }

    /// Forgets the link of a child: its programs, and its MAC in the parent's filter.
    async fn release(&mut self, name: &str) -> Result<()> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let live = child.live.take();
        let record = child.record.value.clone();
        let veth = self.kind_of(&record) == Kind::Veth;
        let Some(parent) = self.parents.get_mut(&record.parent) else { return Ok(()) };
        if let Some(plane) = &mut parent.plane {
            plane.forget_guard(record.port)?;
            plane.forget_host_end(record.port)?;
        }
        let Some(link) = parent.link.as_ref().filter(|_| veth) else { return Ok(()) };
        let macs = [record.mac, live.map(|live| live.mac)];
        for mac in macs.into_iter().flatten().collect::<std::collections::BTreeSet<_>>() {
            if let Err(e) = self.netlink.filter_remove(link.index, mac).await {
                tracing::debug!(child = name, "{mac} was not in the parent's filter: {e}");
            }
        }
        Ok(())
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
            Change::Gone(link) => {
                for child in self.children.values_mut() {
                    let known = child
                        .live
                        .as_ref()
                        .is_some_and(|live| has_its_mac(live, link) || live.host_end == link.index);
                    child.suspect |= known;
                }
            }
            Change::Link(link) => {
                self.refresh_adopted(link);
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
                    let mode = match link.kind {
                        LinkKind::Macvlan(mode) => mode,
                        _ => None,
                    };
                    let changed = live.up != link.up
                        || live.ifname != link.name
                        || live.mtu != link.mtu
                        || live.mode != mode
                        || !has_its_mac(live, link);
                    child.suspect |= is_its_link && changed;
                }
            }
        }
    }

    /// Looks at the children of a parent that may have changed, and makes links that are missing.
    /// Returns false if one of them could not be looked at.
    pub(crate) async fn sync_children(&mut self, iface: &str) -> bool {
        let mut complete = true;
        let known = self.parent_mut(iface).ok().and_then(|p| p.problems.remove(problem::MAC));
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
        if let Some(problem) = self.parent(iface).ok().and_then(|p| p.problems.get(problem::MAC))
            && Some(problem) != known.as_ref()
        {
            tracing::warn!(parent = iface, "{problem}");
        }
        complete
    }

    async fn sync_child(&mut self, name: &str, parent_is_there: bool) -> Result<()> {
        let record = self.child(name)?.record.value.clone();
        if record.removing {
            return self.child_rm(name).await;
        }
        if let Some(child) = self.children.get_mut(name) {
            child.suspect = false;
        }
        let network = self.network(&record.spec.network)?.clone();
        let Some(netns) = record.open_netns().filter(|_| parent_is_there) else {
            if self.child(name)?.live.is_some() {
                tracing::info!(child = name, "its namespace or its parent is gone");
                self.release(name).await?;
            }
            return Ok(());
        };
        let inside = Netlink::inside(&netns)?;
        let Some(live) = self.observe(&record, &network, &netns, &inside).await? else {
            if self.has_moved(&record, &network).await? {
                return Ok(());
            }
            tracing::info!(child = name, "its link is gone: it is made again");
            self.release(name).await?;
            let done = match self.make_link(&record, &network, &netns).await {
                Ok(()) => self.child_build(name, &netns).await,
                Err(e) => Err(e),
            };
            if let Err(e) = done {
                tracing::warn!(child = name, "cannot make it again: {e}");
            }
            return Ok(());
        };
        if !record.built {
            tracing::info!(child = name, "it was not set up to the end: that is done now");
            if let Err(e) = self.child_build(name, &netns).await {
                tracing::warn!(child = name, "cannot set it up: {e}");
            }
            return Ok(());
        }
        let mut live = live;
        self.follow_mac(name, &record, &network, &mut live).await?;
        let live = self.attach_child(&record, &network, &netns, live).await?;
        if let Some(child) = self.children.get_mut(name) {
            child.live = Some(live);
        }
        self.netlink.follow(&netns).await
    }

    /// True if the link of a child is not in its namespace because somebody has moved it to
    /// another one: making a second one would give two the same MAC.
    async fn has_moved(&mut self, record: &ChildRecord, network: &NetworkSpec) -> Result<bool> {
        let name = &record.spec.name;
        let moved = match (network.kind, record.mac) {
            (Kind::Veth, _) => {
                let host_end = self.netlink.link(&host_end_name(name)).await?;
                host_end.is_some_and(|link| link.kind == LinkKind::Veth)
            }
            (Kind::Macvlan, Some(mac)) => {
                let Some(parent) = &self.parent(&record.parent)?.link else { return Ok(false) };
                let macs = [mac].into_iter().collect();
                !find_links(&self.netlink, parent.index, &macs).await.is_empty()
            }
            (Kind::Macvlan, None) => false,
        };
        if moved {
            let problem = format!(
                "the link of child \"{name}\" is not in {} any more: somebody has moved it; move it back, or remove the child",
                record.netns.display()
            );
            self.parent_mut(&record.parent)?.problems.insert(problem::MAC, problem);
            if let Some(child) = self.children.get_mut(name) {
                child.suspect = true;
            }
        }
        Ok(moved)
    }

    /// Takes over the MAC that a child has given itself, unless it is somebody else's: then the
    /// child keeps the one that it had, and what it sends is dropped for its source MAC.
    async fn follow_mac(
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
        if let Some(owner) = self.owner_of_mac(&record.parent, live.mac, Some(name))? {
            let problem = format!(
                "child \"{name}\" has given itself {}, the MAC of {owner}; its frames are dropped until it has {before} again",
                live.mac
            );
            live.mac = before;
            self.parent_mut(&record.parent)?.problems.insert(problem::MAC, problem);
            if let Some(child) = self.children.get_mut(name) {
                // Nobody tells when that ends.
                child.suspect = true;
            }
            return Ok(());
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
