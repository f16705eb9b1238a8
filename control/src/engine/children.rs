//! Children: making and removing.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::{
    adopt::find_links,
    audit::check_bpffs,
    leases::{now, routes},
    state::{Child, ChildRecord, Live, State},
};
use crate::{
    announce,
    error::{Context, Error, Result},
    ethtool,
    failpoint::failpoint,
    ipv6::{self, Ipv6},
    model::{ChildSpec, Kind, Mac, Mode, NetworkSpec},
    netlink::{Link, LinkKind, Netlink, NewLink},
    netns::Netns,
    store::{self, Store, Versioned},
};

/// FNV-1a.
pub(crate) fn hash(bytes: &[u8]) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    bytes.iter().fold(0x811c_9dc5, step)
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

/// The name of a veth child's host end, and the one with which a macvlan child begins.
pub(crate) fn own_name(child: &str) -> String {
    if child.len() <= 12 {
        format!("ml-{child}")
    } else {
        format!("ml-{:08x}", hash(child.as_bytes()))
    }
}

/// What says that a link is a child's, beside its MAC.
pub(crate) fn alias(child: &str) -> String {
    format!("maclane child {child}")
}

/// The child whose link it is by its alias.
pub(crate) fn child_of(link: &Link) -> Option<&str> {
    link.alias.as_deref()?.strip_prefix(&alias(""))
}

/// A locally administered MAC that nobody else is likely to have.
fn random_mac() -> Result<Mac> {
    let mut mac: [u8; 6] = random()?;
    mac[0] = 2;
    Ok(Mac(mac))
}

/// What a child does about IPv6; `None` is what its namespace says.
fn ipv6_of(record: &ChildRecord, network: &NetworkSpec) -> Option<Ipv6> {
    let given = record.addresses.iter().any(IpNetwork::is_ipv6);
    match network.slaac {
        Some(true) => Some(Ipv6::Slaac),
        None if network.subnets.is_empty() => None,
        Some(false) | None => Some(if given { Ipv6::Given } else { Ipv6::Off }),
    }
}

fn name_is_taken(ifname: &str) -> String {
    format!("an interface called {ifname} is there; pick another --ifname")
}

impl State {
    /// Names of the children of a network.
    pub(crate) fn children_in<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a str> {
        self.children
            .iter()
            .filter(move |(_, child)| child.record.value.spec.network == network)
            .map(|(name, _)| name.as_str())
    }

    /// Makes a child with these addresses, which are held for it.
    pub(crate) async fn child_create(
        &mut self,
        spec: ChildSpec,
        addresses: Vec<IpNetwork>,
    ) -> Result<()> {
        let name = spec.name.clone();
        let network = self.check_child(&spec)?;
        let netns = Netns::open(&spec.netns)?;
        self.check_ready(&network.parent)?;
        let value = self.new_record(spec, &network, &netns, addresses)?;
        let port = value.port;
        self.insert_new(value).await?;
        let made = self.make_link(&self.child(&name)?.record.value, &network, &netns).await;
        if let Err(e) = made {
            // There is no link of ours: whatever has its name stays.
            if let Err(e) = self.forget_child(&name).await {
                tracing::error!(child = name, "cannot undo: {e}");
            }
            return Err(e);
        }
        if let Err(e) = self.child_build(&name, &netns).await {
            self.mark_removing(&name, true);
            // If it cannot be undone now, the control loop goes on trying.
            if let Err(e) = self.child_undo(&name).await {
                tracing::error!(child = name, "cannot undo: {e}");
            }
            return Err(e);
        }
        tracing::info!(child = name, port, parent = network.parent, "child created");
        Ok(())
    }

    /// Refuses a parent on which no link can be made now.
    pub(crate) fn check_ready(&self, iface: &str) -> Result<()> {
        check_bpffs(&self.bpffs)?;
        let parent = self.parent(iface)?;
        if parent.link.is_none() || parent.plane.is_none() {
            return Err(Error::failed(format!(
                "its parent {iface} is not there; bring the interface back first"
            )));
        }
        Ok(())
    }

    /// The record of a child that is new.
    pub(crate) fn new_record(
        &self,
        spec: ChildSpec,
        network: &NetworkSpec,
        netns: &Netns,
        addresses: Vec<IpNetwork>,
    ) -> Result<ChildRecord> {
        let mac = match (network.mode, spec.mac) {
            (Mode::Passthru, _) => None,
            (_, Some(mac)) => Some(mac),
            (_, None) => Some(random_mac()?),
        };
        Ok(ChildRecord {
            parent: network.parent.clone(),
            mac,
            port: self.free_port(&network.parent)?,
            netns: netns.path().to_owned(),
            proof: netns.proof()?,
            built: false,
            removing: false,
            addresses,
            since: now(),
            missed: None,
            endpoint: None,
            spec,
        })
    }

    /// Writes the record of a child that is new, and lets its port count from nothing.
    pub(crate) async fn insert_new(&mut self, value: ChildRecord) -> Result<()> {
        let (name, port, parent) = (value.spec.name.clone(), value.port, value.parent.clone());
        let key = format!("{}{name}", store::CHILDREN);
        let revision = self.store.put_as(&key, &value, None).await?;
        let record = Versioned { value, revision };
        self.children.insert(name, Child::new(record, false));
        if let Some(plane) = &mut self.parent_mut(&parent)?.plane {
            plane.reset_counters(port)?;
            failpoint!("counters.reset");
        }
        Ok(())
    }

    /// Sets the link of a child up, down to the announcement of its addresses.
    pub(crate) async fn child_build(&mut self, name: &str, netns: &Netns) -> Result<()> {
        let record = self.child(name)?.record.value.clone();
        let network = self.network(&record.spec.network)?.clone();
        let parent = record.parent.clone();
        let inside = Netlink::inside(netns)?;
        let live = self.observe(&record, &network, netns, &inside).await?;
        let live = live.ok_or_else(|| Error::failed("its link was there and is gone again"))?;
        let live = self.give_name(&record, &inside, live).await?;
        let live = self.attach_child(&record, &network, netns, live).await?;
        let ifindex = live.ifindex;
        let (host_end, mac) = (live.host_end, live.mac);
        let ifname = live.ifname.clone();
        if let Some(child) = self.children.get_mut(name) {
            child.live = Some(Live { up: true, ..live });
        }
        self.sync_modes(&parent).await;
        self.sync_tables(&parent)?;
        if let Some(ipv6) = ipv6_of(&record, &network) {
            let doing = || format!("cannot set how {ifname} speaks IPv6");
            netns.inside(|| ipv6::set(&ifname, ipv6))?.doing(doing)?;
        }
        for address in &record.addresses {
            let doing = || format!("cannot give {ifname} the address {address}");
            inside.add_address(ifindex, *address).await.doing(doing)?;
            failpoint!("link.address");
        }
        let alias = alias(name);
        if host_end != 0 {
            self.netlink.set_up(host_end, &alias).await?;
            failpoint!("link.host_end_up");
        }
        inside.set_up(ifindex, &alias).await.doing(|| format!("cannot bring {ifname} up"))?;
        failpoint!("link.up");
        for route in &routes(&record, &network) {
            let doing = || format!("cannot give {ifname} the route to {}", route.destination);
            let unreachable = "its gateway has to be in the subnet of one of the child's addresses";
            let added = inside.add_route(ifindex, route).await;
            added.map_err(|e| e.way_out(Errno::ENETUNREACH, unreachable)).doing(doing)?;
            failpoint!("link.route");
        }
        let addresses: Vec<IpAddr> = record.addresses.iter().map(IpNetwork::ip).collect();
        if !addresses.is_empty()
            && let Err(e) = announce::announce(netns, ifindex, mac, &addresses)
        {
            tracing::warn!(child = name, "cannot announce its addresses: {e}");
        }
        failpoint!("link.announced");
        self.netlink.follow(netns).await?;
        failpoint!("link.followed");
        if let Some(child) = self.children.get_mut(name).filter(|c| !c.record.value.built) {
            child.record.value.built = true;
            self.save_child(name).await?;
        }
        self.tell_below(&parent);
        Ok(())
    }

    pub(crate) async fn make_link(
        &self,
        record: &ChildRecord,
        network: &NetworkSpec,
        netns: &Netns,
    ) -> Result<()> {
        let parent = self.parent(&network.parent)?.link.as_ref();
        let parent = parent.ok_or_else(|| Error::failed("its parent is not there"))?;
        let (own_name, ifname) = (own_name(&record.spec.name), &record.spec.ifname);
        let new = |name| NewLink { name, netns, mac: record.mac, mtu: network.mtu.or(parent.mtu) };
        // Before Linux 6.15 a name is also refused if it is taken here, where the request is made
        // (`net/core/rtnetlink.c`, `__rtnl_newlink`), so a macvlan link gets its own one later.
        let made = match self.mode_in_force(network) {
            Some(mode) => self.netlink.add_macvlan(parent.index, mode, &new(&own_name)).await,
            None => self.netlink.add_veth(&own_name, &new(ifname)).await,
        };
        failpoint!("link.made");
        if made.is_ok() && network.kind == Kind::Veth {
            // The host speaks to the child through the dataplane only, not through this end.
            if let Err(e) = ipv6::set(&own_name, Ipv6::Off) {
                tracing::debug!(
                    child = record.spec.name,
                    "no IPv6 to switch off on {own_name}: {e}"
                );
            }
            failpoint!("link.ipv6_off");
        }
        made.map_err(|e| {
            e.way_out(Errno::EEXIST, &name_is_taken(ifname))
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

    /// Gives a macvlan link that [`Self::make_link`] has made the name that was asked for.
    pub(crate) async fn give_name(
        &self,
        record: &ChildRecord,
        inside: &Netlink,
        live: Live,
    ) -> Result<Live> {
        let ifname = &record.spec.ifname;
        let is_own_name = live.ifname == own_name(&record.spec.name) && live.ifname != *ifname;
        if live.host_end != 0 || !is_own_name {
            return Ok(live);
        }
        inside
            .rename(live.ifindex, ifname)
            .await
            .map_err(|e| e.way_out(Errno::EEXIST, &name_is_taken(ifname)))
            .doing(|| format!("cannot make {ifname} in {}", record.netns.display()))?;
        Ok(Live { ifname: ifname.clone(), ..live })
    }

    /// Attaches the programs of a child, and lets its frames in.
    pub(crate) async fn attach_child(
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
        let empty = plane.tables().ports.is_empty();
        match network.kind {
            Kind::Macvlan => {
                live.guarded =
                    plane.attach_guard(record.port, netns, (&live.ifname, live.ifindex), true)?;
            }
            Kind::Veth => {
                let host_end = own_name(&record.spec.name);
                // What is there goes on until the tables are written.
                if !empty {
                    plane.attach_host_end(record.port, &host_end, live.host_end)?;
                }
                own.filter_add(link.index, live.mac)
                    .await
                    .doing(|| format!("cannot add {} to the filter of {}", live.mac, link.name))?;
                failpoint!("filter.added");
                if parent.xdp.is_some() {
                    live.takes_xdp = netns.inside(|| ethtool::enable_gro(&live.ifname))?.is_ok();
                    failpoint!("link.gro_on");
                }
            }
        }
        Ok(live)
    }

    /// Removes a child.
    pub(crate) async fn child_rm(&mut self, name: &str) -> Result<()> {
        let was = self.child(name)?.record.value.removing;
        self.mark_removing(name, true);
        if let Err(e) = self.save_child(name).await {
            self.mark_removing(name, was);
            return Err(e.context(format!("cannot remove child \"{name}\"")));
        }
        self.child_undo(name).await
    }

    fn mark_removing(&mut self, name: &str, removing: bool) {
        if let Some(child) = self.children.get_mut(name) {
            child.record.value.removing = removing;
        }
    }

    /// Removes a child that is marked so: its link first, so that whoever is killed in between
    /// finds it again.
    pub(crate) async fn child_undo(&mut self, name: &str) -> Result<()> {
        let record = self.child(name)?.record.value.clone();
        let doing = || format!("cannot remove child \"{name}\"");
        self.delete_link(&record).await.doing(doing)?;
        self.release(name).await?;
        self.give_back(&record).await?;
        self.forget_child(name).await?;
        self.sync_tables(&record.parent)?;
        self.sync_modes(&record.parent).await;
        self.tell_below(&record.parent);
        tracing::info!(child = name, "child removed");
        Ok(())
    }

    /// Removes the link of a child, wherever that is.
    pub(crate) async fn delete_link(&self, record: &ChildRecord) -> Result<()> {
        let mut is_found = false;
        if let Ok(network) = self.network(&record.spec.network).cloned() {
            for netns in record.places() {
                let inside = Netlink::inside(&netns)?;
                if let Some(live) = self.observe(record, &network, &netns, &inside).await? {
                    inside.delete(live.ifindex).await?;
                    is_found = true;
                    failpoint!("link.deleted");
                }
            }
        }
        if !is_found {
            self.delete_lost_link(record).await?;
        }
        // What is left of a veth whose other end could not be reached.
        if self.kind_of(record) == Kind::Veth
            && let Some(link) = self.netlink.link(&own_name(&record.spec.name)).await?
            && link.kind == LinkKind::Veth
        {
            self.netlink.delete(link.index).await?;
        }
        Ok(())
    }

    /// Removes the link of an endpoint from wherever it is. dockerd puts a new namespace in the place of
    /// a sandbox that it knows of from before it was killed (`osl.NewSandbox`, when it removes stale
    /// sandboxes), and a process that it has forgotten, such as `runc init`, may keep the one with the link.
    async fn delete_lost_link(&self, record: &ChildRecord) -> Result<()> {
        let sandbox = record.endpoint.as_ref().and_then(|endpoint| endpoint.sandbox.as_ref());
        if sandbox.is_none() || !record.built || self.kind_of(record) != Kind::Macvlan {
            return Ok(());
        }
        let link = self.parents.get(&record.parent).and_then(|parent| parent.link.as_ref());
        let (Some(parent), Some(mac)) = (link, record.mac) else { return Ok(()) };
        let found = find_links(&self.netlink, parent.index, &[mac].into(), |_| true).await;
        for found in found.into_values() {
            if found.link.alias.as_deref() == Some(&alias(&record.spec.name)) {
                let netns = found.open()?;
                Netlink::inside(&netns)?.delete(found.link.index).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn forget_child(&mut self, name: &str) -> Result<()> {
        if let Some(child) = self.children.get(name) {
            let key = format!("{}{name}", store::CHILDREN);
            self.store.delete_if(&key, child.record.revision).await?;
        }
        self.forget_rivals(name);
        self.children.remove(name);
        Ok(())
    }

    /// Forgets the link of a child: its programs, and its MAC in the parent's filter.
    pub(crate) async fn release(&mut self, name: &str) -> Result<()> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let live = child.live.take();
        let record = child.record.value.clone();
        let veth = self.kind_of(&record) == Kind::Veth;
        let Some(parent) = self.parents.get_mut(&record.parent) else { return Ok(()) };
        if let Some(plane) = &mut parent.plane {
            plane.forget_guard(record.port)?;
            plane.forget_host_end(record.port)?;
            plane.forget_learned(|_, learned| learned.port == record.port)?;
        }
        let Some(link) = parent.link.as_ref().filter(|_| veth) else { return Ok(()) };
        let macs = [record.mac, live.map(|live| live.mac)];
        for mac in macs.into_iter().flatten().collect::<std::collections::BTreeSet<_>>() {
            if let Err(e) = self.netlink.filter_remove(link.index, mac).await {
                tracing::debug!(child = name, "{mac} was not in the parent's filter: {e}");
            }
            failpoint!("filter.removed");
        }
        Ok(())
    }
}
