//! Parents that lead nowhere: of a network that was asked for without one.
//!
//! Such a parent is one end of a veth pair, whose other end nobody listens on. Its networks are
//! internal, so the dataplane lets nothing through to there in the first place. It is made again when
//! it is missing, and goes with its last network.

use super::state::{Parent, ParentRecord, State};
use crate::{
    error::{Context, Result},
    failpoint::failpoint,
    ipv6::{self, Ipv6},
    model::ParentSpec,
    netlink::{Link, LinkKind, NewLink},
    netns::Netns,
    store::{self, Store, Versioned},
};

/// The name of the other end.
fn other_end(iface: &str) -> String {
    format!("mx-{}", iface.strip_prefix("ml-").unwrap_or(iface))
}

impl State {
    /// Adds a parent that leads nowhere.
    pub(crate) async fn isolated_add(&mut self, iface: &str) -> Result<()> {
        let value =
            ParentRecord { spec: ParentSpec::new(iface), seen: None, made: None, isolated: true };
        let key = format!("{}{iface}", store::PARENTS);
        let revision = self.store.put_as(&key, &value, None).await?;
        self.parents.insert(iface.to_owned(), Parent::new(Versioned { value, revision }));
        let done = match self.make_isolated(iface).await {
            Ok(()) => self.reconcile_parent(iface).await,
            Err(e) => Err(e),
        };
        if done.is_err()
            && let Err(e) = self.parent_forget(iface).await
        {
            tracing::error!(parent = iface, "cannot undo: {e}");
        }
        done
    }

    /// Makes the links of a parent that leads nowhere, if they are missing; true if they were made.
    pub(crate) async fn sync_isolated(&mut self, iface: &str, links: &[Link]) -> Result<bool> {
        let is_missing = links.iter().all(|link| link.name != iface);
        if !self.parent(iface)?.record.value.isolated || !is_missing || self.is_left(iface) {
            return Ok(false);
        }
        self.make_isolated(iface).await.map(|()| true)
    }

    async fn make_isolated(&self, iface: &str) -> Result<()> {
        let doing = || format!("cannot make {iface}, a parent that leads nowhere");
        let (own, other) = (Netns::own()?, other_end(iface));
        let new = NewLink { name: &other, netns: &own, mac: None, mtu: None };
        self.netlink.add_veth(iface, &new).await.doing(doing)?;
        failpoint!("isolated.made");
        // Nobody is to speak, or to listen, on that end.
        ipv6::set(&other, Ipv6::Off).doing(doing)?;
        for name in [other.as_str(), iface] {
            if let Some(link) = self.netlink.link(name).await? {
                self.netlink.set_up(link.index, "maclane, leads nowhere").await.doing(doing)?;
            }
        }
        failpoint!("isolated.up");
        tracing::info!(parent = iface, "a parent that leads nowhere was made");
        Ok(())
    }

    /// Removes the links of a parent that leads nowhere.
    pub(crate) async fn delete_isolated(&self, iface: &str) -> Result<()> {
        if !self.parent(iface)?.record.value.isolated {
            return Ok(());
        }
        let Some(link) = self.netlink.link(iface).await? else { return Ok(()) };
        if link.kind != LinkKind::Veth {
            tracing::warn!(parent = iface, "the interface is not what maclane has made: it stays");
            return Ok(());
        }
        self.netlink.delete(link.index).await.doing(|| format!("cannot remove {iface}"))?;
        failpoint!("isolated.deleted");
        Ok(())
    }
}
