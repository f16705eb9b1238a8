//! The control loop: desired state in, links and maps out.

use std::{path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Result},
    model::{
        ChildSpec, ChildView, FdbView, NetworkSpec, NetworkView, ParentSpec, ParentView, StatsView,
    },
};

/// Where the daemon keeps its things.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    /// The store: survives a reboot.
    pub(crate) state: PathBuf,
    /// The socket and the lock: gone after a reboot.
    pub(crate) runtime: PathBuf,
    /// Where the BPF file system is mounted.
    pub(crate) bpffs: PathBuf,
}

/// The daemon's one owner of state.
pub(crate) struct Engine;

impl Engine {
    pub(crate) async fn start(_dirs: Dirs) -> Result<Arc<Self>> { todo() }
    pub(crate) async fn parents(&self) -> Result<Vec<ParentView>> { todo() }
    pub(crate) async fn parent(&self, _iface: &str) -> Result<ParentView> { todo() }
    pub(crate) async fn parent_add(&self, _spec: ParentSpec) -> Result<ParentView> { todo() }
    pub(crate) async fn parent_rm(&self, _iface: &str, _force: bool) -> Result<()> { todo() }
    pub(crate) async fn networks(&self) -> Result<Vec<NetworkView>> { todo() }
    pub(crate) async fn network(&self, _name: &str) -> Result<NetworkView> { todo() }
    pub(crate) async fn network_create(&self, _spec: NetworkSpec) -> Result<NetworkView> { todo() }
    pub(crate) async fn network_rm(&self, _name: &str) -> Result<()> { todo() }
    pub(crate) async fn children(&self) -> Result<Vec<ChildView>> { todo() }
    pub(crate) async fn child(&self, _name: &str) -> Result<ChildView> { todo() }
    pub(crate) async fn child_add(&self, _spec: ChildSpec) -> Result<ChildView> { todo() }
    pub(crate) async fn child_rm(&self, _name: &str) -> Result<()> { todo() }
    pub(crate) async fn fdb(&self, _parent: Option<&str>) -> Result<Vec<FdbView>> { todo() }
    pub(crate) async fn stats(&self, _parent: Option<&str>) -> Result<Vec<StatsView>> { todo() }
}

fn todo<T>() -> Result<T> {
    Err(Error::failed("not yet"))
}
