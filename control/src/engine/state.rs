//! What the daemon knows: the records that it keeps in the store, and what it saw last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dataplane_common::abi::{CHILDREN, PORT_FIRST_CHILD};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{
    Settings,
    absent::{Absence, Missed},
    adopt::Adopted,
    changes::Told,
    conflicts::{Asking, Conflicts, Held},
    defence::Rivals,
    docker::Docker,
    endpoints::Endpoint,
    heard::Heard,
    leases::{self, Quarantine},
    origin::Origins,
    sub_interface::SubInterface,
    trace::SharedTraces,
};
use crate::{
    config::ConfigFile,
    dataplane::{Dataplane, TcKind, XdpIn, sees_netns},
    error::{Error, Result},
    events::Events,
    model::{ChildSpec, Kind, Mac, Mode, NetworkSpec, ParentSpec},
    netlink::{Link, Netlink},
    netns::{Netns, NetnsId, NetnsProof},
    store::{self, RedbStore, Store, Versioned},
    task::Task,
};

/// A parent, in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ParentRecord {
    /// What was asked for.
    pub(crate) spec: ParentSpec,
    /// The index and MAC that the interface had last: how it is known again when it was renamed.
    #[serde(default)]
    pub(crate) seen: Option<(u32, Mac)>,
    /// The sub-interface that maclane makes for it.
    #[serde(default)]
    pub(crate) made: Option<SubInterface>,
    /// It leads nowhere: maclane makes it for a network that has no other parent.
    #[serde(default)]
    pub(crate) isolated: bool,
}

impl ParentRecord {
    /// One that was not there yet.
    pub(crate) fn new(spec: ParentSpec, made: Option<SubInterface>) -> Self {
        Self { spec, seen: None, made, isolated: false }
    }

    /// True if it was added for a network, and goes with the last one that it has.
    pub(crate) fn goes_with_networks(&self) -> bool {
        self.isolated || self.made.as_ref().is_some_and(|made| made.with_networks)
    }
}

/// A child, in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChildRecord {
    /// What was asked for.
    pub(crate) spec: ChildSpec,
    /// The parent of its network.
    pub(crate) parent: String,
    /// Its MAC; absent for a passthru child, which has the parent's.
    pub(crate) mac: Option<Mac>,
    /// Its port in the dataplane.
    pub(crate) port: u16,
    /// Where its namespace is.
    pub(crate) netns: PathBuf,
    /// Which namespace that was.
    pub(crate) proof: NetnsProof,
    /// Its link was set up to the end.
    pub(crate) built: bool,
    /// It is being removed: whoever finds it so goes on.
    #[serde(default)]
    pub(crate) removing: bool,
    /// Its addresses: those that it asked for, and those that it got.
    #[serde(default)]
    pub(crate) addresses: Vec<IpNetwork>,
    /// When it was made, in seconds since 1970.
    #[serde(default)]
    pub(crate) since: u64,
    /// For how long its namespace has been gone.
    #[serde(default)]
    pub(crate) missed: Option<Missed>,
    /// What it is to the container engine that takes its link; absent for a child that maclane sets up
    /// itself.
    #[serde(default)]
    pub(crate) endpoint: Option<Endpoint>,
}

impl ChildRecord {
    /// A record of before networks had subnets names its addresses only where they were asked for.
    fn with_addresses(mut self) -> Self {
        if self.addresses.is_empty() {
            let asked = self.spec.ip.iter();
            let full = asked.filter_map(|asked| IpNetwork::new(asked.ip, asked.prefix?).ok());
            self.addresses = full.collect();
        }
        self
    }

    /// True if its namespace is there; an endpoint has none before it joins one.
    pub(crate) fn has_place(&self) -> bool {
        match &self.endpoint {
            Some(endpoint) => endpoint.sandbox.is_none() || endpoint.open_sandbox().is_some(),
            None => self.open_netns().is_some(),
        }
    }

    /// Every namespace that its link may be in.
    pub(crate) fn places(&self) -> Vec<Netns> {
        let mut places: Vec<Netns> = self.open_netns().into_iter().collect();
        if let Some(endpoint) = &self.endpoint {
            places.extend(endpoint.open_sandbox());
            places.extend(Netns::own());
            places.sort_by_key(Netns::id);
            places.dedup_by_key(|netns| netns.id());
        }
        places
    }

    /// Its namespace, if that is still there; of an endpoint the one in which its link was seen last. A
    /// name stands for whatever has it now; a process stands for the namespace that it had. Either may live
    /// on without its name.
    pub(crate) fn open_netns(&self) -> Option<Netns> {
        let netns = Netns::open_path(&self.netns).ok();
        let is_it = |netns: &Netns| {
            !self.netns.starts_with("/proc") || netns.proof().is_ok_and(|p| p == self.proof)
        };
        netns.filter(is_it).or_else(|| Netns::with_proof(&self.proof))
    }
}

/// The link of a child, as it was seen last.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Its index in its namespace.
    pub(crate) ifindex: u32,
    /// Its name in its namespace.
    pub(crate) ifname: String,
    /// Its MAC.
    pub(crate) mac: Mac,
    /// Its MTU in bytes.
    pub(crate) mtu: Option<u32>,
    /// It is up.
    pub(crate) up: bool,
    /// Its macvlan mode.
    pub(crate) mode: Option<Mode>,
    /// For a veth child the index of its host end.
    pub(crate) host_end: u32,
    /// Its namespace.
    pub(crate) netns: NetnsId,
    /// The cookie of its namespace; 0 where the kernel has none.
    pub(crate) cookie: u64,
    /// `maclane_guard` is on it.
    pub(crate) guarded: bool,
    /// It takes frames from XDP.
    pub(crate) takes_xdp: bool,
}

/// A child that maclane made.
#[derive(Debug)]
pub(crate) struct Child {
    /// What the store holds.
    pub(crate) record: Versioned<ChildRecord>,
    /// Its link; absent while there is none.
    pub(crate) live: Option<Live>,
    /// Something about it has changed: look again.
    pub(crate) suspect: bool,
    /// Its namespace is gone.
    pub(crate) absence: Option<Absence>,
    /// What answers for the addresses of an endpoint until its container does.
    pub(crate) held: Vec<Held>,
    /// When somebody last asked for something about an endpoint, or the daemon began.
    pub(crate) touched: Instant,
}

impl Child {
    /// One whose link was not seen yet.
    pub(crate) fn new(record: Versioned<ChildRecord>, suspect: bool) -> Self {
        Self {
            record,
            live: None,
            suspect,
            absence: None,
            held: Vec::new(),
            touched: Instant::now(),
        }
    }
}

/// A parent.
pub(crate) struct Parent {
    /// What the store holds.
    pub(crate) record: Versioned<ParentRecord>,
    /// Who waits for the events of its programs.
    pub(crate) listener: Option<Task>,
    /// Who waits for the frames that they tell of, while somebody traces it.
    pub(crate) tracing: Option<Task>,
    /// Its programs and maps; absent until the interface was there once.
    pub(crate) plane: Option<Dataplane>,
    /// The interface; absent while it is missing.
    pub(crate) link: Option<Link>,
    /// Where XDP is attached.
    pub(crate) xdp: Option<XdpIn>,
    /// XDP was decided on for this index of the interface.
    pub(crate) xdp_for: Option<u32>,
    /// The XDP programs that were on the interface after that.
    pub(crate) xdp_seen: Vec<(u32, XdpIn)>,
    /// Why options of sockets cannot be refused.
    pub(crate) sockopt_refused: Option<String>,
    /// All its children were looked at since the interface is there.
    pub(crate) looked: bool,
    /// Keeps other daemons from its pins.
    pub(crate) lock: Option<File>,
    /// When maps and pins were compared with what they should be.
    pub(crate) audited: Option<Instant>,
    /// The host's 802.1Q sub-interfaces on it.
    pub(crate) host_vlans: BTreeMap<u16, Mac>,
    /// The host's addresses there, each with its VLAN and the MAC that it has in it.
    pub(crate) host_addresses: BTreeMap<(u16, IpAddr), Mac>,
    /// Other MACs of the host.
    pub(crate) host_macs: BTreeSet<Mac>,
    /// What its programs have told since the control loop looked last.
    pub(crate) heard: Arc<Mutex<Heard>>,
    /// Who traces it.
    pub(crate) traces: SharedTraces,
    /// macvlan links that maclane has not made, by MAC.
    pub(crate) adopted: BTreeMap<Mac, Adopted>,
    /// What is known of the origin of macvlan links.
    pub(crate) origins: Origins,
    /// What is wrong, by what it is about.
    pub(crate) problems: BTreeMap<Problem, String>,
}

/// What a problem of a parent is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Problem {
    /// The interface.
    Link,
    /// The sub-interface that maclane makes for it.
    SubInterface,
    /// XDP.
    Xdp,
    /// The child with this name.
    Child(String),
    /// The BPF file system.
    Pins,
    /// The program that proves which child sent a frame.
    Guard,
    /// Frames around that program, and the options of sockets that send them.
    Bypass,
    /// Pending checksums, which the kernel does not show.
    Checksums,
    /// The VLAN filter of the NIC.
    VlanFilter,
    /// The MTU of the child with this name.
    Mtu(String),
    /// The last pass of the control loop.
    Sync,
    /// The store.
    Store,
    /// The link with this MAC or name, which is isolated or held to private mode.
    Isolated(String),
}

impl Parent {
    /// Takes what is known to be wrong with its children.
    pub(crate) fn take_problems_of_children(&mut self) -> BTreeMap<Problem, String> {
        let is_child = |problem: &Problem| matches!(problem, Problem::Child(_));
        let (children, others) = std::mem::take(&mut self.problems)
            .into_iter()
            .partition(|(problem, _)| is_child(problem));
        self.problems = others;
        children
    }

    pub(crate) fn new(record: Versioned<ParentRecord>) -> Self {
        Self {
            record,
            listener: None,
            tracing: None,
            plane: None,
            link: None,
            xdp: None,
            xdp_for: None,
            xdp_seen: Vec::new(),
            sockopt_refused: None,
            looked: false,
            lock: None,
            audited: None,
            host_vlans: BTreeMap::new(),
            host_addresses: BTreeMap::new(),
            host_macs: BTreeSet::new(),
            heard: Arc::default(),
            traces: SharedTraces::default(),
            adopted: BTreeMap::new(),
            origins: Origins::default(),
            problems: BTreeMap::new(),
        }
    }
}

impl Child {
    /// The namespace that its link is in, or those that it may be in while it is not found.
    pub(crate) fn namespaces(&self) -> Vec<NetnsId> {
        match &self.live {
            Some(live) => vec![live.netns],
            None => self.record.value.places().iter().map(Netns::id).collect(),
        }
    }
}

/// Everything that the daemon knows.
pub(crate) struct State {
    /// Where the BPF file system is mounted.
    pub(crate) bpffs: PathBuf,
    pub(crate) store: RedbStore,
    pub(crate) netlink: Netlink,
    pub(crate) own_netns: NetnsId,
    /// The cookie of the daemon's namespace; 0 where the kernel has none.
    pub(crate) own_cookie: u64,
    /// The programs see the namespace of a frame's socket.
    pub(crate) sees_netns: bool,
    pub(crate) tc: TcKind,
    pub(crate) parents: BTreeMap<String, Parent>,
    pub(crate) networks: BTreeMap<String, Versioned<NetworkSpec>>,
    pub(crate) children: BTreeMap<String, Child>,
    /// How long a child whose namespace is gone keeps its addresses.
    pub(crate) lease_grace: Duration,
    /// Addresses that were given back.
    pub(crate) quarantine: Quarantine,
    /// The file that declares parents and networks.
    pub(crate) config: ConfigFile,
    /// The keys of parents and networks that it has made, with the revisions that say so.
    pub(crate) declared: BTreeMap<String, u64>,
    /// Addresses that the LAN is asked for just now.
    pub(crate) asking: Asking,
    /// Addresses that somebody on the LAN has.
    pub(crate) conflicts: Conflicts,
    /// The host's own addresses, as they were seen last.
    pub(crate) host_addresses: BTreeSet<IpAddr>,
    /// Who says to have the address of a child.
    pub(crate) rivals: Rivals,
    /// What Docker has asked for.
    pub(crate) docker: Docker,
    /// What has happened, and who follows it.
    pub(crate) events: Arc<Events>,
    /// What was told last about ports and parents.
    pub(crate) told: Told,
    /// Wakes the control loop; given to those who wait for a parent's events.
    pub(crate) kick: Arc<tokio::sync::Notify>,
}

impl State {
    /// Reads the store.
    pub(crate) async fn open(settings: Settings) -> Result<Self> {
        let store = RedbStore::open(&settings.state_dir)?;
        let parents = store.list_as::<ParentRecord>(store::PARENTS).await?;
        let networks = store.list_as::<NetworkSpec>(store::NETWORKS).await?;
        let children = store.list_as::<ChildRecord>(store::CHILDREN).await?;
        let declared = store.list_as::<bool>(store::DECLARED).await?;
        Ok(Self {
            netlink: Netlink::own()?,
            own_netns: Netns::own()?.id(),
            own_cookie: Netns::own()?.cookie().unwrap_or_default(),
            sees_netns: sees_netns(),
            tc: TcKind::of(settings.tc),
            parents: parents.into_iter().map(|(k, record)| (k, Parent::new(record))).collect(),
            networks: networks.into_iter().collect(),
            children: children
                .into_iter()
                .map(|(k, Versioned { value, revision })| {
                    let record = Versioned { value: value.with_addresses(), revision };
                    (k, Child::new(record, true))
                })
                .collect(),
            lease_grace: settings.lease_grace,
            quarantine: leases::read(&store).await?,
            config: settings.config,
            declared: declared.into_iter().map(|(key, mark)| (key, mark.revision)).collect(),
            asking: Asking::default(),
            conflicts: Conflicts::new(),
            host_addresses: BTreeSet::new(),
            rivals: Rivals::new(),
            docker: Docker::read(&store).await?,
            events: Arc::new(Events::new()),
            told: Told::default(),
            kick: Arc::default(),
            bpffs: settings.bpffs,
            store,
        })
    }

    /// The parent with this name.
    pub(crate) fn parent(&self, iface: &str) -> Result<&Parent> {
        self.parents.get(iface).ok_or_else(|| {
            Error::not_found(format!("no parent \"{iface}\"; see `maclane parent ls`"))
        })
    }

    /// The parent with this name, to change.
    pub(crate) fn parent_mut(&mut self, iface: &str) -> Result<&mut Parent> {
        self.parents.get_mut(iface).ok_or_else(|| {
            Error::not_found(format!("no parent \"{iface}\"; see `maclane parent ls`"))
        })
    }

    /// The network with this name.
    pub(crate) fn network(&self, name: &str) -> Result<&NetworkSpec> {
        self.networks.get(name).map(|network| &network.value).ok_or_else(|| {
            Error::not_found(format!("no network \"{name}\"; see `maclane network ls`"))
        })
    }

    /// The child with this name.
    pub(crate) fn child(&self, name: &str) -> Result<&Child> {
        self.children
            .get(name)
            .ok_or_else(|| Error::not_found(format!("no child \"{name}\"; see `maclane child ls`")))
    }

    /// The children that maclane made on a parent.
    pub(crate) fn children_of(&self, parent: &str) -> impl Iterator<Item = (&String, &Child)> {
        self.children.iter().filter(move |(_, child)| child.record.value.parent == parent)
    }

    /// The networks on a parent.
    pub(crate) fn networks_of(&self, parent: &str) -> impl Iterator<Item = &NetworkSpec> {
        self.networks.values().map(|network| &network.value).filter(move |n| n.parent == parent)
    }

    /// What a child is made of.
    pub(crate) fn kind_of(&self, record: &ChildRecord) -> Kind {
        self.networks.get(&record.spec.network).map_or(Kind::Macvlan, |n| n.value.kind)
    }

    /// The lowest port of a parent that nobody has.
    pub(crate) fn free_port(&self, parent: &str) -> Result<u16> {
        let mut taken: BTreeSet<u16> =
            self.children_of(parent).map(|(_, child)| child.record.value.port).collect();
        // A port that the tables still have may get its old owner back.
        let plane = self.parents.get(parent).and_then(|p| p.plane.as_ref());
        taken.extend(plane.into_iter().flat_map(|plane| plane.tables().ports.keys()).copied());
        taken.extend(
            self.parents.get(parent).into_iter().flat_map(|p| p.adopted.values()).map(|a| a.port),
        );
        let last = PORT_FIRST_CHILD + u16::try_from(CHILDREN).unwrap_or(u16::MAX) - 1;
        (PORT_FIRST_CHILD..=last).find(|port| !taken.contains(port)).ok_or_else(|| {
            Error::failed(format!(
                "parent {parent} has {CHILDREN} children, which is all that it can have; remove some first"
            ))
        })
    }

    /// Writes a child's record.
    pub(crate) async fn save_child(&mut self, name: &str) -> Result<()> {
        if let Some(child) = self.children.get_mut(name) {
            let key = format!("{}{name}", store::CHILDREN);
            let expected = Some(child.record.revision);
            child.record.revision = self.store.put_as(&key, &child.record.value, expected).await?;
        }
        Ok(())
    }

    /// Writes a parent's record.
    pub(crate) async fn save_parent(&mut self, iface: &str) -> Result<()> {
        if let Some(parent) = self.parents.get_mut(iface) {
            let key = format!("{}{iface}", store::PARENTS);
            let expected = Some(parent.record.revision);
            parent.record.revision =
                self.store.put_as(&key, &parent.record.value, expected).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_before_networks_had_subnets_keeps_its_addresses() {
        let record: ChildRecord = serde_json::from_value(serde_json::json!({
            "spec": {
                "name": "web", "network": "lan", "netns": "red", "ifname": "eth0", "mac": null,
                "ip": ["192.168.50.9/24", "fd00:50::9/64"], "route": [], "trunk": null,
            },
            "parent": "eth0", "mac": "02:00:5e:00:53:01", "port": 2, "netns": "/run/netns/red",
            "proof": { "cookie": 7, "boot": "b" }, "built": true,
        }))
        .unwrap();
        let addresses: Vec<String> =
            record.with_addresses().addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.168.50.9/24", "fd00:50::9/64"]);
    }
    #[test]
    fn records_of_before_there_were_policies_have_the_defaults() {
        let [parent, network, child] = [
            serde_json::json!({ "spec": { "iface": "eth0", "xdp": "off", "unknown": "pass" } }),
            serde_json::json!({
                "name": "lan", "parent": "eth0", "vlan": 0, "kind": "macvlan", "mode": "auto", "mtu": null,
                "subnets": [], "aux_addresses": {}, "quarantine": 60, "probe": true, "probe_interval": 250,
                "internal": false, "slaac": null, "routes": [],
            }),
            serde_json::json!({
                "spec": {
                    "name": "web", "network": "lan", "netns": "red", "ifname": "eth0", "mac": null,
                    "ip": ["10.0.0.9/24"], "route": [], "trunk": null, "probe": true,
                },
                "parent": "eth0", "mac": "02:00:5e:00:53:01", "port": 2, "netns": "/run/netns/red",
                "proof": { "cookie": 7, "boot": "b" }, "built": true, "addresses": ["10.0.0.9/24"],
            }),
        ];
        let parent: ParentRecord = serde_json::from_value(parent).unwrap();
        assert_eq!(parent.spec.storm.in_force().broadcast, 1000);
        let network: NetworkSpec = serde_json::from_value(network).unwrap();
        let child: ChildRecord = serde_json::from_value(child).unwrap();
        assert!(child.spec.own_policy().is_empty());
        let policy = crate::model::Policy::of(&network, &child.spec, true);
        let expected = serde_json::json!({
            "arp": "steer", "security": "enforce", "trust": [],
            "storm": { "broadcast": 1000, "multicast": 0, "unknown": 0 },
            "max_addresses": 16, "allow_ip": [], "bindings": {},
        });
        assert_eq!(serde_json::to_value(policy).unwrap(), expected);
    }
}
