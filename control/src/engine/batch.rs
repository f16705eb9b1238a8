//! Changes of what was asked for that are made together or not at all.
//!
//! A batch is tried on what the daemon knows before it is written: the checks that stand before each
//! single change see all of it, and what they refuse leaves everything as it was.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    leases::{self, Released},
    state::{Child, ChildRecord, Parent, ParentRecord, State},
    sub_interface::SubInterface,
};
use crate::{
    error::{Context, Error, Result},
    model::{Mac, Mode, NetworkSpec, ParentSpec},
    plan::Object,
    store::{self, Change, Store, Versioned},
};

/// What is to be, by name.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Parents that are new or get other settings.
    pub(crate) parents: BTreeMap<String, ParentSpec>,
    /// The interfaces of new parents that maclane makes.
    pub(crate) made: BTreeMap<String, SubInterface>,
    /// Networks that are new or get other settings.
    pub(crate) networks: BTreeMap<String, NetworkSpec>,
    /// Networks that are removed; they have no children.
    pub(crate) gone: Vec<String>,
    /// Children that are new.
    pub(crate) children: BTreeMap<String, ChildRecord>,
    /// Addresses that rest, by network.
    pub(crate) released: BTreeMap<(String, IpAddr), Released>,
    /// Parents and networks, by their keys, that are from now on declared.
    pub(crate) declared: Vec<String>,
}

impl State {
    /// Refuses a batch that leads to what cannot be, and finds ports for its children.
    pub(crate) async fn check_batch(&mut self, batch: &mut Batch) -> Result<()> {
        self.look_at_host().await?;
        let mut new = Vec::new();
        for (iface, spec) in &batch.parents {
            if self.parents.contains_key(iface) {
                continue;
            }
            let doing = || format!("parent \"{iface}\"");
            let link = self.netlink.link(iface).await?;
            if let Some(link) = &link {
                self.check_new_parent_link(iface, link).doing(doing)?;
            } else if !batch.made.contains_key(iface)
                && let Some(made) = self.expect_sub_interface(iface).await.doing(doing)?
            {
                batch.made.insert(iface.clone(), made);
            }
            // One that is not there comes later, as after a reboot.
            let value = batch.record_of(spec);
            let mut parent = Parent::new(Versioned { value, revision: 0 });
            parent.link = link;
            new.push((iface.clone(), parent));
        }
        // As if it were done; nobody else looks meanwhile.
        let networks = self.networks.clone();
        let ifaces: Vec<String> = new.iter().map(|(iface, _)| iface.clone()).collect();
        self.parents.extend(new);
        self.networks.retain(|name, _| !batch.gone.contains(name));
        self.put_networks(&batch.networks, 0);
        let checked = self.check_tried(batch).await;
        for name in batch.children.keys() {
            self.children.remove(name);
        }
        self.networks = networks;
        self.parents.retain(|iface, _| !ifaces.contains(iface));
        checked
    }

    fn put_networks(&mut self, networks: &BTreeMap<String, NetworkSpec>, revision: u64) {
        for (name, spec) in networks {
            self.networks.insert(name.clone(), Versioned { value: spec.clone(), revision });
        }
    }

    /// Looks at the networks of a batch where they would be, and puts its children there one after
    /// the other.
    async fn check_tried(&mut self, batch: &mut Batch) -> Result<()> {
        for (name, spec) in &batch.networks {
            let doing = || format!("network \"{name}\"");
            self.check_network(spec).doing(doing)?;
            self.check_routes(spec).await.doing(doing)?;
        }
        for (name, record) in &mut batch.children {
            let doing = || format!("child \"{name}\"");
            self.check_restored(record).doing(doing)?;
            if self.is_port_taken(record) {
                record.port = self.free_port(&record.parent).doing(doing)?;
            }
            self.insert_child(record.clone(), 0);
        }
        Ok(())
    }

    fn insert_child(&mut self, value: ChildRecord, revision: u64) {
        let name = value.spec.name.clone();
        let record = Versioned { value, revision };
        self.children.insert(name, Child::new(record, true));
    }

    /// Refuses a child with a MAC or an address that it cannot have.
    fn check_restored(&self, record: &ChildRecord) -> Result<()> {
        let mut spec = record.spec.clone();
        // Whether it was asked for does not matter.
        spec.mac = None;
        let network = self.check_child(&spec)?;
        if record.mac.is_none() != (network.mode == Mode::Passthru) {
            return Err(Error::invalid(format!(
                "a child has no MAC of its own in passthru mode, and one in every other; network {} is in {:?} mode",
                network.name, network.mode
            )));
        }
        // Its own link may have been adopted before anybody knew whose it is.
        let adopted =
            |mac: &Mac| self.parent(&network.parent).is_ok_and(|p| p.adopted.contains_key(mac));
        if let Some(mac) = record.mac.filter(|mac| !adopted(mac))
            && let Some(owner) = self.owner_of_mac(&network.parent, mac, None)?
        {
            return Err(Error::conflict(format!(
                "{mac} is already the MAC of {owner} on {}; remove that one first",
                network.parent
            )));
        }
        if let Some(mac) = record.mac {
            self.check_not_bound(mac, &network.parent, "take that binding away first")?;
        }
        for address in &record.addresses {
            if let Some(owner) = self.owner_of_address(address.ip(), &network) {
                return Err(Error::conflict(format!(
                    "{} is already used by {owner}; remove that one first",
                    address.ip()
                )));
            }
            let subnet = network.subnet_of(address.ip()).map(|of| of.subnet);
            if let Some(subnet) = subnet.filter(|subnet| subnet.prefix() != address.prefix()) {
                return Err(Error::invalid(format!(
                    "{address} does not fit to {subnet}, the subnet of network {}",
                    network.name
                )));
            }
        }
        Ok(())
    }

    fn is_port_taken(&self, record: &ChildRecord) -> bool {
        let of_child = |child: &Child| child.record.value.port == record.port;
        let adopted = self.parents.get(&record.parent).into_iter().flat_map(|p| &p.adopted);
        self.children_of(&record.parent).any(|(_, child)| of_child(child))
            || adopted
                .into_iter()
                .any(|(mac, other)| other.port == record.port && record.mac.as_ref() != Some(mac))
    }

    /// Writes a batch that was checked, in one step. What it is about is brought to what it says by
    /// the next pass of the control loop.
    pub(crate) async fn commit(&mut self, batch: Batch) -> Result<()> {
        let records = self.parents_after(&batch);
        let changes = self.changes_of(&batch, &records)?;
        if changes.is_empty() {
            return Ok(());
        }
        let revision = self.store.change(changes).await?;
        for (iface, value) in records {
            let parent = self.parents.entry(iface);
            let parent = parent
                .and_modify(|parent| parent.xdp_for = None)
                .or_insert_with(|| Parent::new(Versioned { value: value.clone(), revision }));
            parent.record = Versioned { value, revision };
        }
        self.put_networks(&batch.networks, revision);
        // What others had may have been somewhere else.
        self.conflicts.retain(|(of, _), _| !batch.networks.contains_key(of));
        for name in batch.gone {
            self.declared.remove(&NetworkSpec::key(&name));
            self.quarantine.retain(|(of, _), _| *of != name);
            self.networks.remove(&name);
        }
        for record in batch.children.into_values() {
            if let Some(mac) = record.mac
                && let Err(e) = self.release_adopted(&record.parent, mac)
            {
                tracing::warn!(child = record.spec.name, "cannot give up its adoption: {e}");
            }
            // Tables without the children that come after this one would cost those their frames.
            if let Some(parent) = self.parents.get_mut(&record.parent) {
                parent.looked = false;
            }
            self.insert_child(record, revision);
        }
        let released = batch.released.into_iter();
        self.quarantine.extend(released.map(|(of, value)| (of, Versioned { value, revision })));
        self.declared.extend(batch.declared.into_iter().map(|key| (key, revision)));
        Ok(())
    }

    /// The records of the parents that a batch writes. One that is declared no longer goes with the last
    /// of its networks.
    fn parents_after(&self, batch: &Batch) -> BTreeMap<String, ParentRecord> {
        let is_declared = |iface: &str| batch.declared.contains(&ParentSpec::key(iface));
        let goes = |parent: &Parent| {
            parent.record.value.made.as_ref().is_some_and(|made| made.with_networks)
        };
        let stay = self.parents.iter().filter(|(iface, p)| is_declared(iface) && goes(p));
        let ifaces = stay.map(|(iface, _)| iface).chain(batch.parents.keys());
        let record = |iface: &String| {
            let before = self.parents.get(iface).map(|parent| parent.record.value.clone());
            let spec = batch.parents.get(iface);
            let mut value = before.or_else(|| spec.map(|spec| batch.record_of(spec)))?;
            value.spec = spec.cloned().unwrap_or(value.spec);
            if let Some(made) = value.made.as_mut().filter(|_| is_declared(iface)) {
                made.with_networks = false;
            }
            Some((iface.clone(), value))
        };
        ifaces.filter_map(record).collect()
    }

    fn changes_of(
        &self,
        batch: &Batch,
        records: &BTreeMap<String, ParentRecord>,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for (iface, value) in records {
            let expected = self.parents.get(iface).map(|parent| parent.record.revision);
            changes.push(Change::put(&ParentSpec::key(iface), value, expected)?);
        }
        for (name, spec) in &batch.networks {
            let expected = self.networks.get(name).map(|network| network.revision);
            changes.push(Change::put(&NetworkSpec::key(name), spec, expected)?);
        }
        for name in &batch.gone {
            let Some(network) = self.networks.get(name) else { continue };
            let key = NetworkSpec::key(name);
            changes.extend(self.undeclare(&key));
            changes.push(Change::delete(&key, network.revision));
            let rests = self.quarantine.iter().filter(|((of, _), _)| of == name);
            changes.extend(
                rests.map(|((of, ip), rest)| Change::delete(&leases::key(of, *ip), rest.revision)),
            );
        }
        for (name, record) in &batch.children {
            changes.push(Change::put(&format!("{}{name}", store::CHILDREN), record, None)?);
        }
        for (of, value) in &batch.released {
            let expected = self.quarantine.get(of).map(|rest| rest.revision);
            changes.push(Change::put(&leases::key(&of.0, of.1), value, expected)?);
        }
        for key in &batch.declared {
            let expected = self.declared.get(key).copied();
            changes.push(Change::put(&format!("{}{key}", store::DECLARED), &true, expected)?);
        }
        Ok(changes)
    }

    /// What forgets that a parent or network was declared.
    pub(crate) fn undeclare(&self, key: &str) -> Option<Change> {
        let revision = self.declared.get(key)?;
        Some(Change::delete(&format!("{}{key}", store::DECLARED), *revision))
    }
}

impl Batch {
    /// The record of a new parent.
    fn record_of(&self, spec: &ParentSpec) -> ParentRecord {
        let made = self.made.get(&spec.iface).cloned();
        ParentRecord::new(spec.clone(), made)
    }
}
