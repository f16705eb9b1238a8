//! What the configuration file declares: first the plan, for all of it, then what the plan says.
//!
//! An object is declared if the file has made it, or has it as somebody has made it by hand. One that
//! leaves the file is removed; what was made by hand is left alone.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::{batch::Batch, state::State};
use crate::{
    config::Config,
    error::{Context, Error, Result},
    model::{Mode, NetworkSpec, ParentSpec, Trunk},
    plan::{Action, Object, Step, differences, settings},
    subnet::SubnetSpec,
};

/// What has to be done so that everything is as declared.
#[derive(Debug, Default)]
struct Plan {
    /// What is shown of it.
    steps: Vec<Step>,
    /// All of it but the parents that are removed.
    batch: Batch,
    /// The parents that are removed.
    gone: Vec<String>,
    /// Why it cannot be done.
    conflicts: Vec<String>,
}

impl State {
    /// Makes parents and networks what the configuration says, or, for a trial, only says what that
    /// would be. Nothing is changed if any of it cannot be.
    pub(crate) async fn declare(&mut self, config: &Config, dry_run: bool) -> Result<Vec<Step>> {
        let path = self.config.path().display().to_string();
        let doing = || format!("cannot make everything as {path} says, and nothing was changed");
        if config.is_missing && !self.declared.is_empty() {
            // Somebody may have lost it, or not yet mounted what it is on.
            let gone = format!(
                "{path} is not there, and what it has declared is: put it back, or an empty one in its place if \
                 all of that is to go"
            );
            return Err(Error::conflict(gone)).doing(doing);
        }
        let mut plan = self.plan(config);
        if !plan.conflicts.is_empty() {
            return Err(Error::conflict(plan.conflicts.join("; "))).doing(doing);
        }
        self.check_batch(&mut plan.batch).await.doing(doing)?;
        let steps = plan.steps.clone();
        if !dry_run {
            self.apply(plan).await.map_err(|e| {
                let message = &e.message;
                let message = format!(
                    "cannot do all that {path} says: {message}; `maclane reload` tries again"
                );
                Error { message, ..e }
            })?;
        }
        Ok(steps)
    }

    /// Compares what is declared with what is there.
    fn plan(&self, config: &Config) -> Plan {
        let mut plan = Plan::default();
        let there = self.parents.iter().map(|(k, parent)| (k.clone(), &parent.record.value.spec));
        let wanted = self.wanted_parents(config);
        let parents = plan.compare(&there.collect(), &wanted, &self.declared);
        plan.batch.parents = parents.put;
        let there = self.networks.iter().map(|(name, network)| (name.clone(), &network.value));
        let networks = plan.compare(&there.collect(), &config.networks, &self.declared);
        for (name, spec) in &networks.put {
            let before = self.networks.get(name).map(|network| &network.value);
            plan.conflicts.extend(before.and_then(|before| self.refuse_change(before, spec)));
        }
        for name in &networks.gone {
            plan.conflicts.extend(self.refuse_removal(name));
            plan.steps.push(Step::new::<NetworkSpec>(Action::Remove, name, String::new()));
        }
        for iface in &parents.gone {
            let stays = |n: &&NetworkSpec| {
                !networks.gone.contains(&n.name) && !networks.put.contains_key(&n.name)
            };
            let stay: Vec<&str> =
                self.networks_of(iface).filter(stays).map(|n| n.name.as_str()).collect();
            if !stay.is_empty() {
                plan.conflicts.push(format!(
                    "parent \"{iface}\" is not declared any more, and still has the networks {}, which were made by hand; \
                     declare it again, or remove these first",
                    stay.join(", ")
                ));
            }
            plan.steps.push(Step::new::<ParentSpec>(Action::Remove, iface, String::new()));
        }
        (plan.batch.networks, plan.batch.gone, plan.gone) =
            (networks.put, networks.gone, parents.gone);
        plan
    }

    /// The parents of a configuration, and those that its networks need and nobody has made.
    fn wanted_parents(&self, config: &Config) -> BTreeMap<String, ParentSpec> {
        let mut wanted = config.parents.clone();
        for NetworkSpec { parent, .. } in config.networks.values() {
            let by_hand =
                self.parents.contains_key(parent) && !self.is_declared::<ParentSpec>(parent);
            if !by_hand && !wanted.contains_key(parent) {
                wanted.insert(parent.clone(), ParentSpec::new(parent));
            }
        }
        wanted
    }

    /// Does what a plan says: all of it in one step, but for parents that are removed, which takes
    /// several. Whoever is killed among those goes on with them at the next start.
    async fn apply(&mut self, plan: Plan) -> Result<()> {
        self.commit(plan.batch).await?;
        for iface in &plan.gone {
            self.parent_rm(iface, false).await?;
        }
        for Step { action, object, details } in &plan.steps {
            tracing::info!(details, "as declared: {} {object}", action.name());
        }
        if !plan.steps.is_empty() {
            self.reconcile().await;
        }
        Ok(())
    }

    /// Why a network cannot be removed.
    fn refuse_removal(&self, name: &str) -> Option<String> {
        let children: Vec<&str> = self.children_in(name).collect();
        (!children.is_empty()).then(|| {
            format!(
                "network \"{name}\" is not declared any more, and still has the children {}; declare it again, or remove \
                 these first",
                children.join(", ")
            )
        })
    }

    /// Why a network cannot be changed while it has the children that it has.
    fn refuse_change(&self, was: &NetworkSpec, is: &NetworkSpec) -> Option<String> {
        let fixed = was.parent != is.parent
            || was.vlan != is.vlan
            || was.kind != is.kind
            || (was.mode != is.mode && [was.mode, is.mode].contains(&Mode::Passthru));
        let trunk_ends = |trunk: &Trunk| {
            self.check_trunk(trunk, was).is_ok() && self.check_trunk(trunk, is).is_err()
        };
        let children = self.children.iter().map(|(name, child)| (name, &child.record.value));
        let refused: Vec<&str> = children
            .filter(|(_, record)| record.spec.network == was.name)
            .filter(|(_, record)| {
                fixed
                    || record.spec.trunk.as_ref().is_some_and(trunk_ends)
                    || record.addresses.iter().any(|a| !keeps_address(was, is, *a))
            })
            .map(|(name, _)| name.as_str())
            .collect();
        (!refused.is_empty()).then(|| {
            format!(
                "network \"{}\" cannot become what is declared ({}) while it has the children {}; remove these first, or \
                 make a network of another name",
                was.name,
                differences(was, is),
                refused.join(", ")
            )
        })
    }

    /// Whether the configuration file has made it.
    pub(crate) fn is_declared<T: Object>(&self, name: &str) -> bool {
        self.declared.contains_key(&T::key(name))
    }

    /// Refuses to do by hand what is the file's to do.
    pub(crate) fn check_not_declared<T: Object>(&self, name: &str, verb: &str) -> Result<()> {
        if !self.is_declared::<T>(name) {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "it is declared in {}; {verb} it there and run `maclane reload`",
            self.config.path().display()
        )))
    }
}

/// True if a child may go on with an address: its subnet does not change, and nobody else gets it.
fn keeps_address(was: &NetworkSpec, is: &NetworkSpec, address: IpNetwork) -> bool {
    let ip = address.ip();
    let fits = match is.subnet_of(ip) {
        Some(of) => of.subnet.prefix() == address.prefix(),
        None => was.subnet_of(ip).is_none(),
    };
    fits && is.subnets.iter().filter_map(SubnetSpec::gateway).all(|gateway| gateway != ip)
        && is.aux_addresses.values().all(|kept| *kept != ip)
}

/// Parents or networks that do not stay as they are.
struct Compared<T> {
    /// Those that are new or get other settings.
    put: BTreeMap<String, T>,
    /// Those that are removed.
    gone: Vec<String>,
}

impl Plan {
    /// Compares parents, or networks; notes what is created and changed.
    fn compare<T: Object>(
        &mut self,
        there: &BTreeMap<String, &T>,
        wanted: &BTreeMap<String, T>,
        declared: &BTreeMap<String, u64>,
    ) -> Compared<T> {
        let is_declared = |name: &str| declared.contains_key(&T::key(name));
        let mut put = BTreeMap::new();
        for (name, spec) in wanted {
            let before = there.get(name).copied();
            let details = match before {
                None => settings(spec),
                Some(before) => differences(before, spec),
            };
            let step = match (before, is_declared(name)) {
                (None, _) => (Action::Create, details),
                (Some(before), true) if before == spec => continue,
                (Some(_), true) => (Action::Change, details),
                (Some(before), false) if before == spec => {
                    (Action::Change, "made by hand -> declared".into())
                }
                (Some(_), false) => {
                    self.conflicts.push(format!(
                        "{} \"{name}\" was made by hand, and what is declared differs ({details}); declare it as it is, \
                         or remove it first",
                        T::KIND
                    ));
                    continue;
                }
            };
            if before != Some(spec) {
                put.insert(name.clone(), spec.clone());
            }
            if !is_declared(name) {
                self.batch.declared.push(T::key(name));
            }
            self.steps.push(Step::new::<T>(step.0, name, step.1));
        }
        let left = there.keys().filter(|name| is_declared(name) && !wanted.contains_key(*name));
        Compared { put, gone: left.cloned().collect() }
    }
}
