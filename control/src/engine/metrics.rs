//! What is counted and measured, all at once.

use super::{Engine, state::State};
use crate::{error::Result, metrics::Scrape, model::PoolView};

impl Engine {
    /// All that metrics are made of, of one moment. It takes little more than [`Engine::stats`]: the
    /// counters are read once, and nothing else is asked of the kernel.
    pub(crate) async fn scrape(&self) -> Result<Scrape> {
        let state = self.state.lock().await;
        let ifaces = || state.parents.keys();
        Ok(Scrape {
            stats: ifaces().map(|iface| state.stats_view(iface)).collect::<Result<_>>()?,
            parents: ifaces().map(|iface| state.parent_view(iface)).collect::<Result<_>>()?,
            children: state.child_views(),
            pools: state.pools_of_all(),
            fdb: ifaces().map(|iface| (iface.clone(), state.fdb_entries(iface))).collect(),
            events: self.events.totals(),
        })
    }
}

impl State {
    fn pools_of_all(&self) -> Vec<(String, PoolView)> {
        let networks = self.networks.values().map(|network| &network.value);
        let pools = networks.flat_map(|network| {
            self.pool_views(network).into_iter().map(|pool| (network.name.clone(), pool))
        });
        pools.collect()
    }

    fn fdb_entries(&self, iface: &str) -> usize {
        let plane = self.parents.get(iface).and_then(|parent| parent.plane.as_ref());
        plane.map_or(0, |plane| plane.tables().fdb.len())
    }
}
