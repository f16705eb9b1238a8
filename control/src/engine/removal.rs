//! Parents: removing.

use super::{state::State, vlan_filter};
use crate::{
    dataplane::{Mark, Pins},
    error::{Context, Error, ErrorKind, Result},
    ethtool,
    failpoint::failpoint,
    store::{self, Change, Store},
};

impl State {
    /// Removes a parent and everything that maclane attached to it.
    pub(crate) async fn parent_rm(&mut self, iface: &str, force: bool) -> Result<()> {
        self.parent(iface)?;
        let networks: Vec<String> = self.networks_of(iface).map(|n| n.name.clone()).collect();
        if !networks.is_empty() && !force {
            return Err(Error::conflict(format!(
                "cannot remove parent \"{iface}\": it has the networks {}; remove them first, or \
                 remove everything with --force",
                networks.join(", ")
            )));
        }
        for network in networks {
            let children: Vec<String> = self.children_in(&network).map(String::from).collect();
            for child in children {
                self.child_rm(&child).await?;
            }
            self.network_forget(&network).await?;
        }
        self.mark_left(iface).await.doing(|| format!("cannot remove parent \"{iface}\""))?;
        self.parent_leave(iface).await
    }

    /// Removes a parent without networks.
    pub(crate) async fn parent_leave(&mut self, iface: &str) -> Result<()> {
        self.parent_forget(iface).await?;
        tracing::info!(parent = iface, "parent removed");
        Ok(())
    }

    /// Writes the record of a parent that is being removed: a store that cannot be written is found
    /// out before anything is taken away, and whoever is killed then goes on where maclane has made
    /// the interface.
    async fn mark_left(&mut self, iface: &str) -> Result<()> {
        let before = self.parent(iface)?.record.value.made.clone();
        if let Some(made) = &mut self.parent_mut(iface)?.record.value.made {
            made.with_networks = true;
        }
        let done = self.save_parent(iface).await;
        if done.is_err() {
            self.parent_mut(iface)?.record.value.made = before;
        }
        done
    }

    pub(crate) async fn parent_forget(&mut self, iface: &str) -> Result<()> {
        let pins = Pins::new(&self.bpffs, iface);
        let parent = self.parent_mut(iface)?;
        let link = parent.link.clone();
        if let Some(plane) = parent.plane.take() {
            if let Some(link) = &link {
                if pins.has(Mark::KeptRxTags) {
                    ethtool::offload_rx_tags(&link.name)?;
                }
                vlan_filter::restore(&pins, &self.netlink, link).await?;
                plane.remove_filters(&link.name)?;
                if pins.has(Mark::MadeClsact) {
                    self.netlink.delete_clsact(link.index).await?;
                    failpoint!("clsact.removed");
                }
            }
            plane.unload()?;
        } else if pins.dir().exists() {
            // Unless they are another daemon's.
            match parent.lock.take().map_or_else(|| pins.lock(iface), Ok) {
                Ok(_lock) => pins.remove()?,
                Err(e) if e.kind == ErrorKind::Conflict => {}
                Err(e) => return Err(e),
            }
        }
        self.delete_sub_interface(iface).await?;
        self.delete_isolated(iface).await?;
        if let Some(parent) = self.parents.get(iface) {
            let key = format!("{}{iface}", store::PARENTS);
            let mut changes = vec![Change::delete(&key, parent.record.revision)];
            changes.extend(self.undeclare(&key));
            self.store.change(changes).await?;
            self.declared.remove(&key);
            self.parents.remove(iface);
        }
        Ok(())
    }
}
