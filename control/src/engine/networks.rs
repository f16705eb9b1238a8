//! Networks: a name for (parent, VLAN) and how its children are made.

use super::state::State;
use crate::{
    error::{Context, Error, Result},
    model::{Kind, Mode, NetworkSpec, ParentSpec},
    store::{self, Store, Versioned},
};

impl State {
    /// Makes a network; a parent that is not known yet is added.
    pub(crate) async fn network_create(&mut self, spec: NetworkSpec) -> Result<()> {
        let name = spec.name.clone();
        let doing = || format!("cannot create network \"{name}\"");
        if self.networks.contains_key(&name) {
            let there =
                Error::conflict("there is one of this name; pick another, or remove it first");
            return Err(there).doing(doing);
        }
        let new_parent = !self.parents.contains_key(&spec.parent);
        if new_parent {
            self.parent_add(ParentSpec::new(&spec.parent), true).await.doing(doing)?;
        }
        let checked = match self.check_network(&spec) {
            Ok(()) => self.check_routes(&spec).await,
            refused => refused,
        };
        let done = match checked {
            Ok(()) => {
                let key = format!("{}{name}", store::NETWORKS);
                self.store.put_as(&key, &spec, None).await
            }
            Err(e) => Err(e),
        };
        match done {
            Ok(revision) => {
                tracing::info!(
                    network = name,
                    parent = spec.parent,
                    vlan = spec.vlan,
                    "network created"
                );
                self.networks.insert(name, Versioned { value: spec, revision });
                Ok(())
            }
            Err(e) => {
                if new_parent {
                    self.parent_rm(&spec.parent, false).await?;
                }
                Err(e).doing(doing)
            }
        }
    }

    /// Refuses a network that cannot be.
    pub(crate) fn check_network(&self, spec: &NetworkSpec) -> Result<()> {
        let iface = &spec.parent;
        let parent = self.parent(iface)?;
        if let (Some(wanted), Some(most)) = (spec.mtu, parent.link.as_ref().and_then(|l| l.mtu))
            && wanted > most
        {
            return Err(Error::invalid(format!(
                "an MTU of {wanted} is more than {most}, the MTU of {iface}; raise that one first, or take less"
            )));
        }
        self.check_subnets(spec)?;
        self.check_bindings(spec)?;
        if spec.internal && parent.link.as_ref().is_some_and(|link| link.controller.is_some()) {
            return Err(Error::conflict(format!(
                "{iface} is a port of a bridge or bond, which would carry an internal network's frames on; \
                 use the bridge itself as parent, or leave --internal out"
            )));
        }
        if spec.kind == Kind::Veth {
            return Ok(());
        }
        if parent.link.as_ref().is_some_and(|link| link.controller.is_some()) {
            return Err(Error::conflict(format!(
                "{iface} is a port of a bridge or bond, and the kernel lets no macvlan link sit on one (EBUSY); \
                 use --kind veth, or the bridge itself as parent"
            )));
        }
        if spec.mode == Mode::Passthru && spec.vlan != 0 {
            return Err(Error::invalid(format!(
                "a passthru child takes the whole of {iface}, every VLAN of it; leave --vlan out"
            )));
        }
        self.check_bridge(spec)
    }

    /// Refuses bridge mode in two VLANs: the kernel would switch between them.
    fn check_bridge(&self, spec: &NetworkSpec) -> Result<()> {
        if spec.mode != Mode::Bridge {
            return Ok(());
        }
        let iface = &spec.parent;
        let other = self
            .networks_of(iface)
            .find(|n| {
                n.kind == Kind::Macvlan
                    && n.mode == Mode::Bridge
                    && n.vlan != spec.vlan
                    && n.name != spec.name
            })
            .map(|n| format!("those of network {} in VLAN {}", n.name, n.vlan));
        let bridged =
            |p: &super::state::Parent| p.adopted.values().any(|a| a.mode() == Mode::Bridge);
        let adopted = || {
            (spec.vlan != 0 && bridged(self.parents.get(iface)?))
                .then(|| "the untagged ones that somebody else made".to_owned())
        };
        match other.or_else(adopted) {
            Some(other) => Err(Error::conflict(format!(
                "in bridge mode the kernel would switch between its children in VLAN {} and {other}; \
                 use --mode auto or vepa",
                spec.vlan
            ))),
            None => Ok(()),
        }
    }

    /// Removes a network without children, and with it the parent that was made for it.
    pub(crate) async fn network_rm(&mut self, name: &str) -> Result<()> {
        let iface = self.network(name)?.parent.clone();
        self.network_forget(name).await?;
        if self.is_left(&iface) {
            // If it cannot be removed now, the control loop goes on trying.
            if let Err(e) = self.parent_leave(&iface).await {
                tracing::warn!(parent = iface, "cannot remove it with its last network: {e}");
            }
        }
        Ok(())
    }

    /// Removes a network without children, and leaves its parent.
    pub(crate) async fn network_forget(&mut self, name: &str) -> Result<()> {
        self.network(name)?;
        let children: Vec<&str> = self.children_in(name).collect();
        if !children.is_empty() {
            return Err(Error::conflict(format!(
                "cannot remove network \"{name}\": it has the children {}; remove them first",
                children.join(", ")
            )));
        }
        self.forget_quarantine(name).await?;
        if let Some(network) = self.networks.get(name) {
            let key = format!("{}{name}", store::NETWORKS);
            self.store.delete_if(&key, network.revision).await?;
        }
        self.networks.remove(name);
        tracing::info!(network = name, "network removed");
        Ok(())
    }
}
