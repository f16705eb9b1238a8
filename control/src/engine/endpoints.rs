//! Endpoints: children whose links a container engine takes.
//!
//! Such a link is made in the daemon's namespace when its container joins the network. The engine
//! moves it into the container's namespace, names it, gives it its addresses and routes, and brings it
//! up; when the container leaves, it may bring it back. So the daemon only follows the link, and never
//! makes one again by itself.
//!
//! An endpoint that its engine has forgotten goes ([`is_forgotten`]): an engine that was killed may say
//! nothing of those that it had. A second deletion is none.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{
    Engine,
    children::{alias, hash, own_name},
    conflicts::{Held, Question},
    state::{Child, ChildRecord, Live, State},
};
use crate::{
    announce,
    error::{Context, Error, Result},
    failpoint::failpoint,
    model::{AskedIp, ChildSpec, Kind, Mac, Mode, NetworkSpec, StormLimits, Trunk},
    netlink::Netlink,
    netns::Netns,
    process::{ProcessId, is_over},
    subnet::SubnetSpec,
};

/// So long a container may take to start, from its endpoint to its namespace.
const STARTING: Duration = Duration::from_secs(600);

/// Where an endpoint's link is made.
const OWN_NETNS: &str = "/proc/self/ns/net";

/// What a child is to a container engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// The engine's ID of it.
    pub(crate) id: String,
    /// Where the namespace of its container is, or will be; absent: it is in no container.
    pub(crate) sandbox: Option<PathBuf>,
    /// The process of the engine that asked for something about it last; absent: one that cannot be
    /// seen from here.
    pub(crate) owner: Option<ProcessId>,
}

impl Endpoint {
    /// The namespace of its container, if that is there.
    pub(crate) fn open_sandbox(&self) -> Option<Netns> {
        Netns::open_path(self.sandbox.as_deref()?).ok()
    }

    /// True if it is in no container. `seen` is where its link was last: whoever has never seen a sandbox
    /// cannot say that it is gone by not seeing it, as from another mount namespace.
    fn has_no_sandbox(&self, seen: &Path) -> bool {
        let Some(sandbox) = &self.sandbox else { return true };
        let was_seen = || sandbox == seen;
        let is_of_another_boot = || self.owner.as_ref().is_some_and(ProcessId::is_of_another_boot);
        let is_removed = || !sandbox.exists() && sandbox.parent().is_some_and(Path::is_dir);
        self.open_sandbox().is_none() && (was_seen() || is_of_another_boot() || is_removed())
    }
}

/// True for an endpoint that is in no container and comes into none: its engine has ended, its container
/// has, or it has waited for too long. The engine makes another one for a container that it starts again.
fn is_forgotten(child: &Child) -> bool {
    let record = &child.record.value;
    let Some(endpoint) = &record.endpoint else { return false };
    let has_gone = || endpoint.sandbox.as_ref() == Some(&record.netns);
    let is_late = || child.touched.elapsed() > STARTING;
    endpoint.has_no_sandbox(&record.netns)
        && (is_over(endpoint.owner.as_ref()) || has_gone() || is_late())
}

/// An endpoint, as asked for.
#[derive(Debug)]
pub(crate) struct EndpointSpec {
    /// The name of the child.
    pub(crate) name: String,
    /// The engine's ID of it.
    pub(crate) id: String,
    /// Its network.
    pub(crate) network: String,
    /// The addresses that it has, from whoever gives them out.
    pub(crate) addresses: Vec<IpNetwork>,
    /// The MAC that it has to have.
    pub(crate) mac: Option<Mac>,
    /// The VLANs that it sees tagged, instead of the network's own one.
    pub(crate) trunk: Option<Trunk>,
    /// Who asks.
    pub(crate) owner: Option<ProcessId>,
}

/// What an engine has to know of an endpoint whose link is there for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The name of the link, in the daemon's namespace.
    pub(crate) ifname: String,
    /// Who routes for its addresses.
    pub(crate) gateways: Vec<IpAddr>,
}

/// The name of an endpoint's link before the engine gives it another one.
fn link_name(child: &str, kind: Kind) -> String {
    let name = own_name(child);
    match kind {
        Kind::Macvlan => name,
        // The host end has that one.
        Kind::Veth => name.replacen("ml-", "mp-", 1),
    }
}

/// The MAC that Docker's own drivers, up to Docker 27, give to whoever has an IPv4 address: it is the same
/// each time, and what it was before.
fn mac_of(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            Mac([0x02, 0x42, a, b, c, d])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d] = hash(&ip.octets()).to_be_bytes();
            Mac([0x02, 0x46, a, b, c, d])
        }
    }
}

impl Engine {
    /// Makes an endpoint; its link comes when a container joins. Of its addresses some may be held
    /// already, and the LAN is asked for the others. Returns its MAC; none for that of the parent.
    pub(crate) async fn endpoint_create(&self, spec: EndpointSpec) -> Result<Option<Mac>> {
        let (child, interval, mut held) = {
            let mut state = self.state.lock().await;
            // An engine that was killed and starts again may say nothing of those before.
            state.end_endpoints().await;
            state.end_replaced(&spec).await;
            let child = state.child_of_endpoint(&spec)?;
            let interval = state.network(&spec.network)?.probe_interval;
            let mut held = state.take_reserved(&spec.network, &spec.addresses);
            // Of a trunk the LAN was not known before.
            held.retain(Held::was_asked_for);
            (child, interval, held)
        };
        let is_held = |ip: IpAddr| held.iter().any(|h| h.addresses.iter().any(|a| a.ip() == ip));
        let rest: Vec<IpNetwork> =
            spec.addresses.iter().filter(|address| !is_held(address.ip())).copied().collect();
        let ip = rest.iter().copied().map(AskedIp::from).collect();
        let wanted = ChildSpec { ip, ..child.clone() };
        let question = Question {
            network: &spec.network,
            named: rest.iter().map(IpNetwork::ip).collect(),
            probe: child.trunk.is_none(),
            interval,
            mac: child.mac,
        };
        let grant = |state: &State, network: &NetworkSpec| {
            state.check_child(&wanted)?;
            state.grant_asked_for(&wanted, network)
        };
        held.push(self.hold_for(&question, grant).await?);
        let mut state = self.state.lock().await;
        for held in &held {
            state.check_held(held)?;
            held.yield_to(child.mac);
        }
        state.endpoint_insert(child, &spec, held).await
    }

    /// Makes the link of an endpoint, for its engine to take into a container's namespace.
    pub(crate) async fn endpoint_join(
        &self,
        which: (&str, &str),
        sandbox: &Path,
        owner: Option<ProcessId>,
    ) -> Result<Joined> {
        self.state.lock().await.endpoint_join(which, sandbox, owner).await
    }

    /// Takes the link of an endpoint away; one that is in no container is left alone.
    pub(crate) async fn endpoint_leave(
        &self,
        which: (&str, &str),
        owner: Option<ProcessId>,
    ) -> Result<()> {
        self.state.lock().await.endpoint_leave(which, owner).await
    }

    /// Removes an endpoint; one that is gone is removed.
    pub(crate) async fn endpoint_delete(&self, which: (&str, &str)) -> Result<()> {
        self.state.lock().await.endpoint_delete(which).await
    }
}

impl State {
    /// The child that an endpoint will be.
    fn child_of_endpoint(&self, spec: &EndpointSpec) -> Result<ChildSpec> {
        let network = self.network(&spec.network)?;
        let mac = match network.mode {
            // The engine would give it to the parent.
            Mode::Passthru => spec.mac,
            _ => spec.mac.or_else(|| self.mac_for(network, &spec.addresses)),
        };
        let child = ChildSpec {
            name: spec.name.clone(),
            network: spec.network.clone(),
            netns: OWN_NETNS.into(),
            ifname: link_name(&spec.name, network.kind),
            mac,
            ip: spec.addresses.iter().copied().map(AskedIp::from).collect(),
            route: Vec::new(),
            trunk: spec.trunk.clone(),
            probe: true,
            security: None,
            trust: None,
            storm: StormLimits::default(),
            max_addresses: None,
            allow_ip: Vec::new(),
        };
        self.check_child(&child)?;
        Ok(child)
    }

    /// The MAC that goes with the addresses of an endpoint, unless somebody on its parent has it, as
    /// one with the same address in another VLAN does.
    fn mac_for(&self, network: &NetworkSpec, addresses: &[IpNetwork]) -> Option<Mac> {
        let of_ipv4 = addresses.iter().filter(|a| a.is_ipv4());
        let of_any = of_ipv4.chain(addresses).map(|address| mac_of(address.ip()));
        of_any.into_iter().find(|mac| {
            self.owner_of_mac(&network.parent, *mac, None).is_ok_and(|owner| owner.is_none())
        })
    }

    async fn endpoint_insert(
        &mut self,
        child: ChildSpec,
        spec: &EndpointSpec,
        held: Vec<Held>,
    ) -> Result<Option<Mac>> {
        let network = self.check_child(&child)?;
        let name = child.name.clone();
        let own = Netns::own()?;
        let mut record = self.new_record(child, &network, &own, spec.addresses.clone())?;
        record.endpoint =
            Some(Endpoint { id: spec.id.clone(), sandbox: None, owner: spec.owner.clone() });
        let mac = record.mac;
        self.insert_new(record).await?;
        if let Some(child) = self.children.get_mut(&name) {
            child.held = held;
        }
        tracing::info!(child = name, network = network.name, "endpoint created");
        Ok(mac)
    }

    /// An endpoint that is there.
    fn endpoint(&self, name: &str, id: &str) -> Result<&Child> {
        let child = self.children.get(name).filter(|child| {
            let record = &child.record.value;
            !record.removing && record.endpoint.as_ref().is_some_and(|endpoint| endpoint.id == id)
        });
        child.ok_or_else(|| Error::not_found(format!("no endpoint {id}")))
    }

    async fn save_endpoint(&mut self, name: &str, endpoint: Endpoint) -> Result<()> {
        if let Some(child) = self.children.get_mut(name) {
            child.record.value.endpoint = Some(endpoint);
            child.touched = Instant::now();
        }
        self.save_child(name).await
    }

    async fn endpoint_join(
        &mut self,
        (name, id): (&str, &str),
        sandbox: &Path,
        owner: Option<ProcessId>,
    ) -> Result<Joined> {
        let child = self.endpoint(name, id)?;
        let record = child.record.value.clone();
        let network = self.network(&record.spec.network)?.clone();
        let before = record.endpoint.as_ref().and_then(|endpoint| endpoint.sandbox.as_deref());
        if before.is_some_and(|before| before != sandbox) && child.live.is_some() {
            return Err(Error::conflict(format!(
                "endpoint {id} is in {} already; let it leave there first",
                before.unwrap_or(sandbox).display()
            )));
        }
        self.check_ready(&record.parent)?;
        let endpoint = Endpoint { id: id.into(), sandbox: Some(sandbox.to_owned()), owner };
        self.save_endpoint(name, endpoint.clone()).await?;
        if let Err(e) = self.endpoint_build(name, &network).await {
            if let Err(e) = self.endpoint_take_back(name, endpoint).await {
                tracing::error!(child = name, "cannot undo: {e}");
            }
            return Err(e);
        }
        tracing::info!(child = name, sandbox = %sandbox.display(), "endpoint joined");
        let gateway =
            |address: &IpNetwork| network.subnet_of(address.ip()).and_then(SubnetSpec::gateway);
        let gateways = record.addresses.iter().filter(|_| !network.internal).filter_map(gateway);
        Ok(Joined { ifname: record.spec.ifname.clone(), gateways: gateways.collect() })
    }

    /// Makes a link in the daemon's namespace, down and without addresses, and lets its frames in.
    async fn endpoint_build(&mut self, name: &str, network: &NetworkSpec) -> Result<()> {
        let record = self.child(name)?.record.value.clone();
        // What another join, that was cut short, has left.
        self.delete_link(&record).await?;
        self.release(name).await?;
        let own = Netns::own()?;
        self.endpoint_is_in(name, &own).await?;
        self.make_link(&record, network, &own).await?;
        let inside = Netlink::inside(&own)?;
        let live = self.observe(&record, network, &own, &inside).await?;
        let live = live.ok_or_else(|| Error::failed("its link was there and is gone again"))?;
        self.netlink.set_alias(live.ifindex, &alias(name)).await?;
        failpoint!("endpoint.aliased");
        let live = self.attach_child(&record, network, &own, live).await?;
        let host_end = live.host_end;
        if let Some(child) = self.children.get_mut(name) {
            child.live = Some(live);
        }
        self.sync_modes(&record.parent).await;
        self.sync_tables(&record.parent)?;
        if host_end != 0 {
            self.netlink.set_up(host_end, &alias(name)).await?;
            failpoint!("link.host_end_up");
        }
        if let Some(child) = self.children.get_mut(name).filter(|c| !c.record.value.built) {
            child.record.value.built = true;
            self.save_child(name).await?;
        }
        self.tell_below(&record.parent);
        Ok(())
    }

    /// Notes in which namespace the link of an endpoint is.
    async fn endpoint_is_in(&mut self, name: &str, netns: &Netns) -> Result<()> {
        let proof = netns.proof()?;
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let record = &mut child.record.value;
        if record.netns == netns.path() && record.proof == proof {
            return Ok(());
        }
        (record.netns, record.proof) = (netns.path().to_owned(), proof);
        self.save_child(name).await
    }

    /// Whether its engine has brought the link back or not.
    async fn endpoint_leave(
        &mut self,
        (name, id): (&str, &str),
        owner: Option<ProcessId>,
    ) -> Result<()> {
        let Ok(child) = self.endpoint(name, id) else { return Ok(()) };
        if child.record.value.endpoint.as_ref().is_some_and(|e| e.sandbox.is_none()) {
            return Ok(());
        }
        let endpoint = Endpoint { id: id.into(), sandbox: None, owner };
        self.endpoint_take_back(name, endpoint).await?;
        tracing::info!(child = name, "endpoint left");
        Ok(())
    }

    async fn endpoint_take_back(&mut self, name: &str, endpoint: Endpoint) -> Result<()> {
        let record = self.child(name)?.record.value.clone();
        self.delete_link(&record)
            .await
            .doing(|| format!("cannot remove the link of \"{name}\""))?;
        self.release(name).await?;
        self.save_endpoint(name, Endpoint { sandbox: None, ..endpoint }).await?;
        self.sync_tables(&record.parent)?;
        self.sync_modes(&record.parent).await;
        self.tell_below(&record.parent);
        Ok(())
    }

    async fn endpoint_delete(&mut self, (name, id): (&str, &str)) -> Result<()> {
        match self.endpoint(name, id) {
            Ok(_) => self.child_rm(name).await,
            Err(_) => Ok(()),
        }
    }

    /// Follows the link of an endpoint: from the daemon's namespace into its container's, and back.
    pub(crate) async fn sync_endpoint(
        &mut self,
        name: &str,
        record: &ChildRecord,
        looks_only: bool,
    ) -> Result<()> {
        let network = self.network(&record.spec.network)?.clone();
        self.note_namespace(name, record.has_place()).await?;
        if self.parent(&record.parent)?.link.is_none() {
            return self.release(name).await;
        }
        for netns in record.places() {
            let inside = Netlink::inside(&netns)?;
            let Some(mut live) = self.observe(record, &network, &netns, &inside).await? else {
                continue;
            };
            self.follow_mac(name, record, &network, &mut live).await?;
            let live = match self.attach_child(record, &network, &netns, live).await {
                Ok(live) => live,
                Err(e) => {
                    if self.observe(record, &network, &netns, &inside).await?.is_some() {
                        return Err(e);
                    }
                    // Its engine has moved it meanwhile.
                    if let Some(child) = self.children.get_mut(name) {
                        child.suspect = true;
                    }
                    self.kick.notify_one();
                    return Ok(());
                }
            };
            let is_new = self
                .child(name)?
                .live
                .as_ref()
                .is_none_or(|before| (before.netns, before.up) != (live.netns, live.up));
            let is_taken = netns.id() != self.own_netns;
            if let Some(child) = self.children.get_mut(name) {
                child.live = Some(live.clone());
            }
            self.endpoint_is_in(name, &netns).await?;
            if is_taken && live.up && is_new && !looks_only {
                self.endpoint_is_up(name, record, &netns, &live);
            }
            return if is_taken { self.netlink.follow(&netns).await } else { Ok(()) };
        }
        self.release(name).await
    }

    /// The engine has set a link up to its end: it answers for its addresses itself from now on, and
    /// the LAN is told.
    fn endpoint_is_up(&mut self, name: &str, record: &ChildRecord, netns: &Netns, live: &Live) {
        if let Some(child) = self.children.get_mut(name) {
            child.held.clear();
        }
        let addresses: Vec<IpAddr> = record.addresses.iter().map(IpNetwork::ip).collect();
        // It is gone again; or nothing of it leaves the host, which the dataplane sees to.
        let is_expected = |e: &Error| matches!(e.errno, Some(Errno::ENODEV | Errno::ENOBUFS));
        match announce::announce(netns, live.ifindex, live.mac, &addresses) {
            Err(e) if !is_expected(&e) => {
                tracing::warn!(child = name, "cannot announce its addresses: {e}");
            }
            _ => {}
        }
    }

    /// Removes endpoints that are in no container and whose addresses their engine has given to another
    /// one of the same network: it could not say, while maclane was away, that they are gone.
    async fn end_replaced(&mut self, spec: &EndpointSpec) {
        let replaced = self.children.iter().filter(|(_, child)| {
            let record = &child.record.value;
            let is_another =
                |endpoint: &Endpoint| endpoint.id != spec.id && endpoint.open_sandbox().is_none();
            !record.removing
                && record.spec.network == spec.network
                && record.endpoint.as_ref().is_some_and(is_another)
                && record.addresses.iter().any(|address| spec.addresses.contains(address))
        });
        let names: Vec<String> = replaced.map(|(name, _)| name.clone()).collect();
        for name in names {
            tracing::info!(child = name, "another endpoint has its address: it is removed");
            if let Err(e) = self.child_rm(&name).await {
                tracing::warn!("{e}");
            }
        }
    }

    /// Removes the endpoints that their engine has forgotten.
    pub(crate) async fn end_endpoints(&mut self) {
        let forgotten = self.children.values().filter(|child| is_forgotten(child));
        let records: Vec<ChildRecord> = forgotten.map(|child| child.record.value.clone()).collect();
        for record in records.into_iter().filter(|record| !record.removing) {
            let name = &record.spec.name;
            tracing::info!(
                child = name,
                "its container engine has forgotten it: the endpoint is removed"
            );
            match self.child_rm(name).await {
                Ok(()) => self.keep_addresses_of(&record),
                Err(e) => tracing::warn!("{e}"),
            }
        }
        self.end_reserved();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_the_mac_that_it_gives_in_docker() {
        let mac = |ip: &str| mac_of(ip.parse().unwrap()).to_string();
        assert_eq!(mac("192.168.50.9"), "02:42:c0:a8:32:09");
        assert_ne!(mac("fd00:50::9"), mac("fd00:50::a"));
    }

    #[test]
    fn the_ends_of_a_pair_have_names_of_their_own() {
        let child = "docker-0123456789ab";
        assert_ne!(link_name(child, Kind::Veth), own_name(child));
        assert_eq!(link_name(child, Kind::Macvlan), own_name(child));
        assert!(link_name(child, Kind::Veth).len() <= crate::model::IFNAME_MAX);
    }
}
