//! Backups: what there is as one document, and back.

use std::collections::BTreeMap;

use super::{
    batch::Batch,
    leases::{Released, now},
    state::{ChildRecord, State},
};
use crate::{
    backup::{Backup, ChildBackup, DeclaredBackup, ReleasedBackup},
    error::{Context, Error, Result},
    model::{NetworkSpec, ParentSpec},
    plan::{Action, Object, Step, differences, settings},
    store::SCHEMA,
};

impl State {
    /// Everything that users asked for, and what children got. Children that are being removed are
    /// gone already.
    pub(crate) fn export(&self) -> Backup {
        // What Docker has made is known to it under IDs that it makes anew.
        let of_docker = |network: &str| self.docker.has(network);
        let parents = self.parents.values().filter(|parent| !parent.record.value.isolated);
        let parents = parents.map(|parent| parent.record.value.spec.clone());
        let networks = self.networks.values().filter(|network| !of_docker(&network.value.name));
        let networks = networks.map(|network| network.value.clone());
        let children = self.children.values().map(|child| &child.record.value);
        let children = children.filter(|record| record.endpoint.is_none());
        let quarantined = self
            .quarantine
            .iter()
            .filter(|((network, _), rest)| rest.value.until > now() && !of_docker(network));
        let declared = |all: Vec<&String>, key: fn(&str) -> String| {
            let made = all.into_iter().filter(|name| self.declared.contains_key(&key(name)));
            made.cloned().collect()
        };
        let made = self
            .parents
            .iter()
            .filter_map(|(iface, parent)| Some((iface.clone(), parent.record.value.made.clone()?)));
        Backup {
            made: made.collect(),
            schema: SCHEMA,
            parents: parents.collect(),
            networks: networks.collect(),
            children: children.filter(|record| !record.removing).map(backup_of).collect(),
            quarantined: quarantined
                .map(|((network, ip), rest)| ReleasedBackup {
                    network: network.clone(),
                    ip: *ip,
                    until: rest.value.until,
                })
                .collect(),
            declared: DeclaredBackup {
                parents: declared(self.parents.keys().collect(), ParentSpec::key),
                networks: declared(self.networks.keys().collect(), NetworkSpec::key),
            },
        }
    }

    /// Makes what a backup has and what is not there, or, for a trial, only says what that would be.
    /// Nothing is changed if any of it cannot be.
    pub(crate) async fn import(&mut self, backup: Backup, dry_run: bool) -> Result<Vec<Step>> {
        let doing = || "cannot import, and nothing was changed".to_owned();
        let (steps, mut batch) = self.missing(backup).doing(doing)?;
        self.check_batch(&mut batch).await.doing(doing)?;
        if dry_run || steps.is_empty() {
            return Ok(steps);
        }
        self.commit(batch).await.doing(doing)?;
        tracing::info!(objects = steps.len(), "imported");
        // As at a start: the first pass only looks.
        for _ in 0..2 {
            self.reconcile().await;
        }
        Ok(steps)
    }

    /// What of a backup is not there; an error that names what is there and differs.
    fn missing(&self, backup: Backup) -> Result<(Vec<Step>, Batch)> {
        let mut found = Missing::default();
        let there = self.parents.iter().map(|(k, parent)| (k.clone(), &parent.record.value.spec));
        let parents = backup.parents.into_iter().map(|spec| (spec.iface.clone(), spec));
        found.batch.parents =
            found.select(&there.collect(), parents.collect(), &backup.declared.parents);
        found.batch.made = backup.made;
        let there = self.networks.iter().map(|(name, network)| (name.clone(), &network.value));
        let networks = backup.networks.into_iter().map(|spec| (spec.name.clone(), spec));
        let networks: BTreeMap<_, _> = networks.collect();
        let parent_of: BTreeMap<String, String> =
            networks.values().map(|n| (n.name.clone(), n.parent.clone())).collect();
        found.batch.networks = found.select(&there.collect(), networks, &backup.declared.networks);
        for child in backup.children {
            let before = self.children.get(&child.spec.name).map(|there| &there.record.value);
            found.select_child(before, child, &parent_of);
        }
        for ReleasedBackup { network, ip, until } in backup.quarantined {
            let of = (network, ip);
            if until > now() && !self.quarantine.contains_key(&of) {
                let details = format!("network {}, not given out again yet", of.0);
                let object = format!("address {ip}");
                found.steps.push(Step { action: Action::Create, object, details });
                found.batch.released.insert(of, Released { until });
            }
        }
        if found.conflicts.is_empty() {
            return Ok((found.steps, found.batch));
        }
        Err(Error::conflict(format!(
            "{}; remove what differs first, or import where nothing is",
            found.conflicts.join("; ")
        )))
    }
}

fn backup_of(record: &ChildRecord) -> ChildBackup {
    ChildBackup {
        spec: record.spec.clone(),
        mac: record.mac,
        addresses: record.addresses.clone(),
        since: record.since,
        port: record.port,
        netns: record.netns.clone(),
        netns_proof: record.proof.clone(),
    }
}

/// What of a backup is not there.
#[derive(Default)]
struct Missing {
    steps: Vec<Step>,
    batch: Batch,
    conflicts: Vec<String>,
}

impl Missing {
    /// Parents, or networks, that are not there.
    fn select<T: Object>(
        &mut self,
        there: &BTreeMap<String, &T>,
        wanted: BTreeMap<String, T>,
        declared: &[String],
    ) -> BTreeMap<String, T> {
        let mut missing = BTreeMap::new();
        for (name, spec) in wanted {
            match there.get(&name) {
                Some(before) if **before == spec => {}
                Some(before) => self.differs(T::KIND, &name, &differences(*before, &spec)),
                None => {
                    self.steps.push(Step::new::<T>(Action::Create, &name, settings(&spec)));
                    if declared.contains(&name) {
                        self.batch.declared.push(T::key(&name));
                    }
                    missing.insert(name, spec);
                }
            }
        }
        missing
    }

    /// A child, if it is not there.
    fn select_child(
        &mut self,
        before: Option<&ChildRecord>,
        child: ChildBackup,
        parent_of: &BTreeMap<String, String>,
    ) {
        let name = child.spec.name.clone();
        if before.is_some_and(|before| before.removing) {
            self.conflicts.push(format!("child \"{name}\" is just being removed"));
            return;
        }
        if let Some(before) = before {
            // Not what the daemon keeps for itself: the port, the time, the proof of the namespace.
            let before = ChildBackup {
                since: child.since,
                port: child.port,
                netns_proof: child.netns_proof.clone(),
                ..backup_of(before)
            };
            if before != child {
                self.differs("child", &name, &differences(&before, &child));
            }
            return;
        }
        let mut details = vec![format!("network {}", child.spec.network)];
        details.extend(child.mac.iter().map(ToString::to_string));
        details.extend(child.addresses.iter().map(ToString::to_string));
        details.push(format!("in {}", child.netns.display()));
        let (object, details) = (format!("child {name}"), details.join(", "));
        self.steps.push(Step { action: Action::Create, object, details });
        let record = ChildRecord {
            parent: parent_of.get(&child.spec.network).cloned().unwrap_or_default(),
            mac: child.mac,
            port: child.port,
            netns: child.netns,
            proof: child.netns_proof,
            built: false,
            removing: false,
            addresses: child.addresses,
            since: child.since,
            missed: None,
            endpoint: None,
            spec: child.spec,
        };
        self.batch.children.insert(name, record);
    }

    fn differs(&mut self, kind: &str, name: &str, what: &str) {
        self.conflicts.push(format!("{kind} \"{name}\" is there and differs ({what})"));
    }
}
