//! What is refused because of what is there.

use super::{adopt::Adopted, origin::LinkOrigin, state::State};
use crate::{
    error::{Error, Result},
    model::{ChildSpec, Kind, Mac, Mode, NetworkSpec, Trunk},
};

impl State {
    /// Refuses a child that cannot be; returns its network.
    pub(crate) fn check_child(&self, spec: &ChildSpec) -> Result<NetworkSpec> {
        let network = self.network(&spec.network)?.clone();
        if self.children.contains_key(&spec.name) {
            return Err(Error::conflict(
                "there is one of this name; pick another, or remove it first",
            ));
        }
        if let Some(mac) = spec.mac {
            self.check_mac(mac, &network)?;
        }
        if let Some(trunk) = &spec.trunk {
            self.check_trunk(trunk, &network)?;
        }
        Ok(network)
    }

    fn check_mac(&self, mac: Mac, network: &NetworkSpec) -> Result<()> {
        if network.mode == Mode::Passthru {
            return Err(Error::invalid(format!(
                "a passthru child has the MAC of its parent {}; leave --mac out",
                network.parent
            )));
        }
        self.check_not_bound(mac, &network.parent, "pick another --mac or leave it out")?;
        let owner = self.owner_of_mac(&network.parent, mac, None)?;
        match owner {
            Some(owner) => Err(Error::conflict(format!(
                "{mac} is already the MAC of {owner} on {}; pick another --mac or leave it out",
                network.parent
            ))),
            None => Ok(()),
        }
    }

    /// Who has a MAC on a parent, apart from the child `but`.
    pub(crate) fn owner_of_mac(
        &self,
        iface: &str,
        mac: Mac,
        but: Option<&str>,
    ) -> Result<Option<String>> {
        let parent = self.parent(iface)?;
        let mut others = self.children_of(iface).filter(|(name, _)| Some(name.as_str()) != but);
        let child = others.find(|(_, child)| {
            child.record.value.mac == Some(mac)
                || child.live.as_ref().is_some_and(|live| live.mac == mac)
        });
        if let Some((name, _)) = child {
            return Ok(Some(format!("child \"{name}\"")));
        }
        let of_host = parent.link.as_ref().and_then(|link| link.mac) == Some(mac)
            || parent.host_macs.contains(&mac)
            || parent.host_vlans.values().any(|vlan| *vlan == mac);
        if of_host {
            return Ok(Some("the host".into()));
        }
        // Its own link may have been adopted while there was no record of it.
        let is_its_own = |adopted: &Adopted| {
            but.is_some_and(|but| adopted.origin == LinkOrigin::Alias(but.into()))
        };
        let adopted = parent.adopted.get(&mac).filter(|adopted| !is_its_own(adopted));
        Ok(adopted.map(|_| "an adopted child".into()))
    }

    /// Refuses a trunk that a network cannot have.
    pub(crate) fn check_trunk(&self, trunk: &Trunk, network: &NetworkSpec) -> Result<()> {
        if network.internal {
            return Err(Error::conflict(format!(
                "network {} is internal, and a trunk leaves its VLAN; use another network",
                network.name
            )));
        }
        if network.mode == Mode::Bridge || network.mode == Mode::Passthru {
            return Err(Error::conflict(format!(
                "a trunk needs maclane to see every frame, and network {} is in {:?} mode; use auto or vepa",
                network.name, network.mode
            )));
        }
        let hosts = &self.parent(&network.parent)?.host_vlans;
        let shared = match trunk {
            Trunk::All => hosts.keys().next(),
            Trunk::List(vlans) => hosts.keys().find(|vlan| vlans.contains(vlan)),
        };
        match shared {
            Some(vlan) if network.kind == Kind::Macvlan => Err(Error::conflict(format!(
                "the host has a sub-interface of {} for VLAN {vlan}, and the kernel gives it every frame of \
                 that VLAN before a macvlan trunk; use a network of --kind veth, or leave {vlan} out",
                network.parent
            ))),
            _ => Ok(()),
        }
    }
}
