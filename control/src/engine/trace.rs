//! Traces: who wants to be told of which frames, and what is told.
//!
//! The programs that tell are loaded when the first asks, in the place of those that do not, and are
//! replaced again when the last has gone; so nobody pays for what nobody looks at. That is one of the
//! settings that the control loop compares with what is there.

mod path;

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use dataplane_common::{
    DropReason,
    abi::port_flag,
    trace::{SNAP_BYTES, Tracer, trace_flag},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};

use self::path::{Scene, view};
use super::{Engine, state::State};
use crate::{
    check,
    dataplane::TracedFrame,
    error::{Context, Error, Result},
    model::{TraceSpec, TraceView},
};

/// How many may trace at once.
pub(crate) const TRACES: usize = 8;

/// How many frames somebody who traces may be behind before he misses some.
const BEHIND: usize = 4096;

/// Bytes of a frame that are told if nobody says how many.
const SNAPLEN: u16 = 128;

/// Who traces a parent, shared with whoever waits for its frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedTraces(Arc<Mutex<Traces>>);

/// Who traces a parent.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    next: u64,
    wanted: BTreeMap<u64, Wanted>,
    scene: Arc<Scene>,
}

/// What somebody wants to be told.
#[derive(Debug)]
struct Wanted {
    filter: Tracer,
    to: mpsc::Sender<TraceView>,
    missed: Arc<AtomicU64>,
}

impl SharedTraces {
    fn lock(&self) -> MutexGuard<'_, Traces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while somebody traces.
    pub(crate) fn are_wanted(&self) -> bool {
        !self.lock().wanted.is_empty()
    }

    /// Which frames the programs have to tell: those that the only one wants, or all.
    fn filter(&self) -> Tracer {
        let filters: Vec<_> = self.lock().wanted.values().map(|wanted| wanted.filter).collect();
        match &filters[..] {
            [] => Tracer::default(),
            [one] => *one,
            several => {
                let snap = several.iter().map(|filter| filter.snap).max().unwrap_or_default();
                Tracer { flags: trace_flag::ON, snap, ..Tracer::default() }
            }
        }
    }

    fn add(&self, wanted: Wanted) -> u64 {
        let mut traces = self.lock();
        traces.next += 1;
        let id = traces.next;
        traces.wanted.insert(id, wanted);
        id
    }

    /// Tells frames to those who want them, and how many more there were.
    pub(crate) fn tell(&self, iface: &str, frames: &[TracedFrame], lost: u64) {
        let (wanted, scene): (Vec<_>, _) = {
            let traces = self.lock();
            let wanted = traces.wanted.values();
            let wanted = wanted.map(|w| (w.filter, w.to.clone(), w.missed.clone())).collect();
            (wanted, traces.scene.clone())
        };
        for (_, _, missed) in &wanted {
            missed.fetch_add(lost, Ordering::Relaxed);
        }
        for frame in frames {
            let seen = path::seen(frame);
            let mut takers = wanted.iter().filter(|(filter, ..)| filter.wants(&seen)).peekable();
            if takers.peek().is_none() {
                continue;
            }
            let shown = view(iface, frame, &scene);
            for (_, to, missed) in takers {
                if to.try_send(shown.clone()).is_err() {
                    missed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Somebody who traces, in one of the places that there are.
#[derive(Debug)]
pub(crate) struct Trace {
    frames: mpsc::Receiver<TraceView>,
    missed: Arc<AtomicU64>,
    at: Vec<(SharedTraces, u64)>,
    kick: Arc<Notify>,
    stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Trace {
    /// Waits for the next frame; `None` when the daemon stops.
    pub(crate) async fn next(&mut self) -> Option<TraceView> {
        tokio::select! {
            frame = self.frames.recv() => frame,
            _ = self.stopping.wait_for(|stopping| *stopping) => None,
        }
    }

    /// How many frames were missed since this was asked last.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        for (traces, id) in mem::take(&mut self.at) {
            traces.lock().wanted.remove(&id);
        }
        // The control loop puts back the programs that tell nothing.
        self.kick.notify_one();
    }
}

impl Engine {
    /// Begins to trace. When this returns, frames are told.
    pub(crate) async fn trace(&self, spec: TraceSpec) -> Result<Trace> {
        let doing = || "cannot trace".into();
        let place = self.traces.clone().try_acquire_owned().map_err(|_| {
            Error::conflict(format!("cannot trace: {TRACES} do already; end one of them first"))
        })?;
        let mut state = self.state.lock().await;
        let filter = state.trace_filter(&spec).doing(doing)?;
        let parents = state.traced_parents(&spec).doing(doing)?;
        let (to, frames) = mpsc::channel(BEHIND);
        let missed = Arc::<AtomicU64>::default();
        let (kick, stopping) = (state.kick.clone(), self.stopping.subscribe());
        let mut trace = Trace { frames, missed, at: Vec::new(), kick, stopping, _place: place };
        for iface in parents {
            let traces = state.parent(&iface)?.traces.clone();
            let wanted = Wanted { filter, to: to.clone(), missed: trace.missed.clone() };
            let id = traces.add(wanted);
            trace.at.push((traces, id));
            // Whoever cannot be told leaves what he has begun with `trace`.
            let it = || format!("cannot trace parent \"{iface}\"");
            state.reconcile_parent(&iface).await.doing(it)?;
            if spec.parent.is_some() && state.parent(&iface)?.plane.is_none() {
                return Err(Error::conflict(format!("{}: its interface is not there", it())));
            }
        }
        Ok(trace)
    }
}

impl State {
    /// The parents whose frames are asked for.
    fn traced_parents(&self, spec: &TraceSpec) -> Result<Vec<String>> {
        let of_child = match &spec.child {
            Some(child) => Some(self.stands_at(child)?.0),
            None => None,
        };
        match (&spec.parent, of_child) {
            (Some(iface), Some(other)) if *iface != other => Err(Error::invalid(format!(
                "the child sits on parent \"{other}\", not on \"{iface}\"; leave one of the two out"
            ))),
            (Some(iface), _) => Ok(self.parent(iface).map(|_| vec![iface.clone()])?),
            (None, Some(iface)) => Ok(vec![iface]),
            (None, None) if self.parents.is_empty() => {
                Err(Error::not_found("there is no parent; add one with `maclane parent add IFACE`"))
            }
            (None, None) => Ok(self.parents.keys().cloned().collect()),
        }
    }

    /// The parent and the port of a child.
    fn stands_at(&self, name: &str) -> Result<(String, u16)> {
        if let Some(child) = self.children.get(name) {
            return Ok((child.record.value.parent.clone(), child.record.value.port));
        }
        let adopted = self.parents.iter().flat_map(|(iface, parent)| {
            parent.adopted.iter().map(move |(mac, adopted)| (iface, mac, adopted.port))
        });
        let mut found =
            adopted.filter(|(iface, mac, _)| super::views::adopted_name(iface, **mac) == name);
        let (iface, _, port) = found.next().ok_or_else(|| {
            Error::not_found(format!("no child \"{name}\"; see `maclane child ls`"))
        })?;
        Ok((iface.clone(), port))
    }

    /// What is asked for, as the programs understand it.
    fn trace_filter(&self, spec: &TraceSpec) -> Result<Tracer> {
        let snap = spec.snaplen.unwrap_or(SNAPLEN);
        if !(1..=SNAP_BYTES).contains(&u32::from(snap)) {
            return Err(Error::invalid(format!(
                "a snaplen of {snap} bytes is none; use 1 to {SNAP_BYTES}"
            )));
        }
        let mut filter = Tracer { flags: trace_flag::ON, snap, ..Tracer::default() };
        if let Some(name) = &spec.child {
            let (iface, port) = self.stands_at(name)?;
            let plane = self.parent(&iface)?.plane.as_ref();
            let there = plane.and_then(|plane| plane.tables().ports.get(&port));
            let there = there.ok_or_else(|| {
                Error::conflict(format!(
                    "child \"{name}\" has no port now; see `maclane child inspect {name}`"
                ))
            })?;
            let is_trunk = there.flags & port_flag::TRUNK != 0;
            filter.flags |= trace_flag::CHILD | if is_trunk { trace_flag::TRUNK } else { 0 };
            (filter.port, filter.port_mac, filter.port_vlan) = (port, there.mac, there.vlan);
        }
        if let Some(mac) = spec.mac {
            filter.flags |= trace_flag::MAC;
            filter.mac = mac.0;
        }
        if let Some(vlan) = spec.vlan {
            check::vlan(vlan)?;
            filter.flags |= trace_flag::VLAN;
            filter.vlan = vlan;
        }
        if let Some(name) = &spec.reason {
            filter.flags |= trace_flag::REASON;
            filter.reason = reason_named(name)? as u16;
        }
        if spec.drops {
            filter.flags |= trace_flag::DROPS;
        }
        Ok(filter)
    }

    /// Asks the programs for no more frames: the daemon stops, and nobody would take them.
    pub(crate) fn end_traces(&mut self) {
        for (iface, parent) in &mut self.parents {
            parent.traces.lock().wanted.clear();
            let Some(plane) = &mut parent.plane else { continue };
            if let Err(e) = plane.trace(Tracer::default()) {
                tracing::warn!(parent = iface, "cannot end the trace: {e}");
            }
        }
    }

    /// Says to the programs which frames are wanted, and keeps at hand what those are explained with.
    pub(crate) fn sync_trace(&mut self, iface: &str) -> Result<()> {
        let traces = self.parent(iface)?.traces.clone();
        let filter = traces.filter();
        if filter.flags != 0 {
            let scene = self.scene(iface)?;
            traces.lock().scene = Arc::new(scene);
        }
        let Some(plane) = &mut self.parent_mut(iface)?.plane else { return Ok(()) };
        plane.trace(filter)
    }

    fn scene(&self, iface: &str) -> Result<Scene> {
        let Some(plane) = &self.parent(iface)?.plane else { return Ok(Scene::default()) };
        let tables = plane.tables();
        let names = tables.ports.keys().map(|port| (*port, self.port_name(iface, *port)));
        Ok(Scene {
            names: names.collect(),
            ports: tables.ports.clone(),
            groups: tables.groups.clone(),
        })
    }
}

/// The reason with this name.
fn reason_named(name: &str) -> Result<DropReason> {
    let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        Error::invalid(format!("there is no reason \"{name}\"; there are {}", names.join(", ")))
    })
}
