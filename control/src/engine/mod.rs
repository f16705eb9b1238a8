//! The control loop: desired state in, links and maps out.
//!
//! Level-triggered. The kernel is the truth for links, the store for what was asked for, and every
//! step compares the two and may be done twice or cut short anywhere.

mod absent;
mod adopt;
mod ahead;
mod audit;
mod backup;
mod batch;
mod changes;
mod checks;
mod children;
mod conflicts;
mod declare;
mod defence;
mod docker;
mod drops;
mod endpoints;
mod findings;
mod follow;
mod heard;
mod host;
mod isolated;
mod isolation;
mod leases;
mod metrics;
mod networks;
mod origin;
mod parents;
mod policy;
mod removal;
mod rights;
mod state;
mod sub_interface;
mod tables;
mod trace;
mod views;
mod vlan_filter;
mod xdp;

pub(crate) use self::{
    docker::{AddressRequest, DockerNetworkSpec, Vlans},
    endpoints::EndpointSpec,
    sub_interface::SubInterface,
    trace::Trace,
};

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Notify, Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::{
    audit::check_bpffs,
    state::{Problem, State},
};
use crate::{
    backup::Backup,
    config::ConfigFile,
    dataplane::{TcKind, pinned_parents},
    error::{Context, Error, Result},
    events::Events,
    kernel,
    model::{
        ChildSpec, ChildView, DropView, FdbView, NetworkSpec, NetworkView, ParentSpec, ParentView,
        StatsView, TcMode,
    },
    netlink::{self, Change, Watch},
    plan::Step,
    task::Task,
};

/// How long the control loop waits for more changes before it looks.
const SETTLE: Duration = Duration::from_millis(50);

/// How often it looks although nothing was said: children in namespaces that cannot be followed
/// come and go without a word.
const PERIOD: Duration = Duration::from_secs(1);

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the store is: it survives a reboot.
    pub(crate) state_dir: PathBuf,
    /// Where the BPF file system is mounted.
    pub(crate) bpffs: PathBuf,
    /// How TC programs are attached.
    pub(crate) tc: TcMode,
    /// What declares parents and networks.
    pub(crate) config: ConfigFile,
    /// How long a child whose namespace is gone keeps its addresses.
    pub(crate) lease_grace: Duration,
}

/// The daemon's one owner of state.
pub(crate) struct Engine {
    state: Arc<Mutex<State>>,
    events: Arc<Events>,
    /// The places of those who trace.
    traces: Arc<Semaphore>,
    /// True when the daemon stops.
    stopping: watch::Sender<bool>,
    _tasks: [Task; 3],
}

impl Engine {
    /// Reads the store, brings everything to what it says, and goes on watching.
    pub(crate) async fn start(settings: Settings) -> Result<Arc<Self>> {
        let config = settings.config.read().map_err(|e| {
            Error::invalid(format!(
                "cannot start: {e}; correct it and start the daemon again; traffic goes on meanwhile as it was"
            ))
        })?;
        kernel::check()?;
        check_bpffs(&settings.bpffs)?;
        let (changes, heard) = mpsc::unbounded_channel();
        // Before the first look, so that nothing changes unseen.
        let (watch, watch_own) = (netlink::watch()?, netlink::watch_own()?);
        let mut state = State::open(settings).await?;
        state.prune_docker().await?;
        for parent in pinned_parents(&state.bpffs) {
            if !state.parents.contains_key(&parent) {
                tracing::warn!(
                    parent,
                    "a dataplane is pinned that this state directory does not know; it goes on as it is until \
                     `maclane parent add {parent}` takes it over or `maclane parent rm {parent}` after that removes it"
                );
            }
        }
        let (kick, events) = (state.kick.clone(), state.events.clone());
        // Where links are attached, filters are another program's, and a child's owner can have any number go.
        let has_filters = state.tc == TcKind::Clsact;
        let state = Arc::new(Mutex::new(state));
        let told = move |change| match change {
            Change::Filter(_) if !has_filters => None,
            other => Some(other),
        };
        let told_own = |change| match change {
            Change::Moved(_) => Some(change),
            // The other watch tells of the rest.
            _ => None,
        };
        let listeners = [
            Task::spawn(listen(watch, netlink::watch, changes.clone(), told)),
            Task::spawn(listen(watch_own, netlink::watch_own, changes, told_own)),
        ];
        // The first pass only looks at children; the second finishes what was begun.
        for _ in 0..2 {
            state.lock().await.reconcile().await;
        }
        state.lock().await.begin_telling();
        if let Err(e) = state.lock().await.declare(&config, false).await {
            tracing::error!("{e}; then `maclane reload`");
        }
        let control = Task::spawn(control(state.clone(), kick, heard));
        let traces = Arc::new(Semaphore::new(trace::TRACES));
        let (stopping, _) = watch::channel(false);
        let [listener, own_listener] = listeners;
        let tasks = [listener, own_listener, control];
        Ok(Arc::new(Self { state, events, traces, stopping, _tasks: tasks }))
    }

    /// What has happened.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Ends what goes on until the daemon stops: events and traces.
    pub(crate) async fn end_streams(&self) {
        self.events.end();
        self.stopping.send_replace(true);
        self.state.lock().await.end_traces();
    }

    /// Sees to it that the store is there for the next start.
    pub(crate) async fn end_store(&self) {
        self.state.lock().await.look_at_store().await;
    }

    /// Every parent.
    pub(crate) async fn parents(&self) -> Result<Vec<ParentView>> {
        let state = self.state.lock().await;
        state.parents.keys().map(|iface| state.parent_view(iface)).collect()
    }

    /// One parent.
    pub(crate) async fn parent(&self, iface: &str) -> Result<ParentView> {
        self.state.lock().await.parent_view(iface)
    }

    /// Adds a parent, or changes the settings of one.
    pub(crate) async fn parent_add(&self, spec: ParentSpec) -> Result<ParentView> {
        let mut state = self.state.lock().await;
        let iface = spec.iface.clone();
        let doing = || format!("cannot add parent \"{iface}\"");
        if state.parents.get(&iface).is_some_and(|there| there.record.value.spec != spec) {
            state.check_not_declared::<ParentSpec>(&iface, "change").doing(doing)?;
        }
        state.parent_add(spec, false).await.doing(doing)?;
        state.parent_view(&iface)
    }

    /// Removes a parent and everything that maclane attached to it.
    pub(crate) async fn parent_rm(&self, iface: &str, force: bool) -> Result<()> {
        let mut state = self.state.lock().await;
        let doing = || format!("cannot remove parent \"{iface}\"");
        state.check_not_declared::<ParentSpec>(iface, "remove").doing(doing)?;
        for network in state.networks_of(iface).filter(|_| force) {
            let it = || format!("cannot remove network \"{}\" of parent \"{iface}\"", network.name);
            state.check_not_declared::<NetworkSpec>(&network.name, "remove").doing(it)?;
        }
        state.parent_rm(iface, force).await?;
        state.prune_docker().await
    }

    /// Every network.
    pub(crate) async fn networks(&self) -> Result<Vec<NetworkView>> {
        let state = self.state.lock().await;
        state.networks.keys().map(|name| state.network_view(name)).collect()
    }

    /// One network.
    pub(crate) async fn network(&self, name: &str) -> Result<NetworkView> {
        self.state.lock().await.network_view(name)
    }

    /// Makes a network.
    pub(crate) async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkView> {
        let mut state = self.state.lock().await;
        let name = spec.name.clone();
        state.network_create(spec).await?;
        state.network_view(&name)
    }

    /// Removes a network without children.
    pub(crate) async fn network_rm(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        let doing = || format!("cannot remove network \"{name}\"");
        state.check_not_declared::<NetworkSpec>(name, "remove").doing(doing)?;
        state.network_rm(name).await?;
        state.prune_docker().await
    }

    /// Every child, adopted ones too.
    pub(crate) async fn children(&self) -> Result<Vec<ChildView>> {
        Ok(self.state.lock().await.child_views())
    }

    /// One child.
    pub(crate) async fn child(&self, name: &str) -> Result<ChildView> {
        let state = self.state.lock().await;
        state
            .child_view(name)
            .ok_or_else(|| Error::not_found(format!("no child \"{name}\"; see `maclane child ls`")))
    }

    /// Makes a child.
    pub(crate) async fn child_add(&self, spec: ChildSpec) -> Result<ChildView> {
        let name = spec.name.clone();
        let doing = || format!("cannot create child \"{name}\"");
        let held = self.hold(&spec).await.doing(doing)?;
        let addresses = held.addresses.clone();
        let mut state = self.state.lock().await;
        state.check_held(&held).doing(doing)?;
        state.child_create(spec, addresses).await.doing(doing)?;
        drop((state, held));
        self.child(&name).await
    }

    /// Removes a child that maclane made.
    pub(crate) async fn child_rm(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        if !state.children.contains_key(name) && state.child_view(name).is_some() {
            if state.remove_adopted(name).await? {
                return Ok(());
            }
            return Err(Error::conflict(format!(
                "cannot remove child \"{name}\": somebody else made it, and only they can remove it"
            )));
        }
        state.child_rm(name).await
    }

    /// Takes an isolated link for a third party's.
    pub(crate) async fn child_adopt(&self, name: &str) -> Result<ChildView> {
        let mut state = self.state.lock().await;
        state.adopt_isolated(name).await.doing(|| format!("cannot adopt child \"{name}\""))?;
        drop(state);
        self.child(name).await
    }

    /// Makes parents and networks what the configuration file says; what that was, or, for a trial,
    /// would be.
    pub(crate) async fn reload(&self, dry_run: bool) -> Result<Vec<Step>> {
        let file = self.state.lock().await.config.clone();
        let config = file.read().doing(|| "cannot reload, and nothing was changed".into())?;
        self.state.lock().await.declare(&config, dry_run).await
    }

    /// Everything that users asked for, and what children got.
    pub(crate) async fn export(&self) -> Backup {
        self.state.lock().await.export()
    }

    /// Makes what a backup has and what is not there; what that was, or, for a trial, would be.
    pub(crate) async fn import(&self, backup: Backup, dry_run: bool) -> Result<Vec<Step>> {
        self.state.lock().await.import(backup, dry_run).await
    }

    /// The forwarding table, of one parent or of all.
    pub(crate) async fn fdb(&self, parent: Option<&str>) -> Result<Vec<FdbView>> {
        let state = self.state.lock().await;
        let tables: Result<Vec<_>> =
            state.named_or_all(parent)?.into_iter().map(|iface| state.fdb_view(iface)).collect();
        Ok(tables?.into_iter().flatten().collect())
    }

    /// The counters, of one parent or of all.
    pub(crate) async fn stats(&self, parent: Option<&str>) -> Result<Vec<StatsView>> {
        let state = self.state.lock().await;
        state.named_or_all(parent)?.into_iter().map(|iface| state.stats_view(iface)).collect()
    }

    /// What was dropped at one parent or all of them.
    pub(crate) async fn drops(&self, parent: Option<&str>) -> Result<Vec<DropView>> {
        let state = self.state.lock().await;
        let parents = state.named_or_all(parent)?;
        let views: Result<Vec<_>> =
            parents.into_iter().map(|iface| state.drop_views(iface)).collect();
        Ok(views?.concat())
    }
}

impl State {
    fn named_or_all<'a>(&'a self, parent: Option<&'a str>) -> Result<Vec<&'a str>> {
        match parent {
            Some(iface) => self.parent(iface).map(|_| vec![iface]),
            None => Ok(self.parents.keys().map(String::as_str).collect()),
        }
    }

    /// One pass of the control loop. What fails is noted, and tried again with the next pass.
    async fn reconcile(&mut self) {
        self.look_at_store().await;
        if let Err(e) = self.prune_quarantine().await {
            tracing::warn!("cannot forget addresses whose quarantine is over: {e}");
        }
        let parents: Vec<String> = self.parents.keys().cloned().collect();
        for iface in parents {
            let mut done = self.reconcile_parent(&iface).await;
            if self.is_left(&iface) {
                done = self.parent_leave(&iface).await;
            }
            let Some(parent) = self.parents.get_mut(&iface) else { continue };
            match done {
                Ok(()) => drop(parent.problems.remove(&Problem::Sync)),
                Err(e) => {
                    let text = e.to_string();
                    if parent.problems.get(&Problem::Sync) != Some(&text) {
                        tracing::error!(parent = iface, "{text}");
                    }
                    parent.problems.insert(Problem::Sync, text);
                }
            }
        }
        if let Err(e) = self.end_leases().await {
            tracing::warn!("cannot remove a child whose namespace is gone: {e}");
        }
        self.tell_changes();
    }
}

/// Passes on what a watch tells and is asked for, and begins it again when it has ended.
async fn listen(
    mut watch: Watch,
    begin: fn() -> Result<Watch>,
    changes: mpsc::UnboundedSender<Change>,
    asked_for: impl Fn(Change) -> Option<Change>,
) {
    loop {
        while let Some(change) = watch.next().await {
            if let Some(change) = asked_for(change) {
                let _ = changes.send(change);
            }
        }
        let _ = changes.send(Change::Lost);
        match begin() {
            Ok(again) => watch = again,
            Err(e) => tracing::warn!("cannot watch links: {e}"),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Waits for changes, lets them settle, and looks.
async fn control(
    state: Arc<Mutex<State>>,
    kick: Arc<Notify>,
    mut heard: mpsc::UnboundedReceiver<Change>,
) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let first = tokio::select! {
            change = heard.recv() => match change {
                Some(change) => Some(change),
                None => return,
            },
            () = kick.notified() => None,
            _ = period.tick() => None,
        };
        let mut changes: Vec<Change> = first.into_iter().collect();
        let settled = Instant::now() + SETTLE;
        loop {
            tokio::select! {
                change = heard.recv() => changes.extend(change),
                () = sleep_until(settled) => break,
            }
        }
        if changes.iter().any(|change| matches!(change, Change::Lost)) {
            tracing::warn!(
                "the kernel had more to tell than there was room for: everything is looked at"
            );
        }
        let mut state = state.lock().await;
        for change in &changes {
            state.suspect(change);
        }
        state.reconcile().await;
        state.end_endpoints().await;
    }
}
