//! The last events in memory, and those who follow them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, broadcast::error::RecvError};

use super::{Event, EventKind, Filter};
use crate::error::{Error, Result};

/// How many events are kept.
const KEPT: usize = 1024;

/// How many events a follower may be behind before it misses some.
const BEHIND: usize = 1024;

/// How many may follow at once.
const FOLLOWERS: usize = 32;

/// Of one kind about one child, or about one parent, no more than one event is told in this time.
const GATE: Duration = Duration::from_secs(1);

/// The events of the daemon. Nobody who follows them can keep it waiting.
#[derive(Debug)]
pub(crate) struct Events {
    log: Mutex<Log>,
    places: Arc<Semaphore>,
}

/// What is remembered of events.
#[derive(Debug)]
struct Log {
    kept: VecDeque<Arc<Event>>,
    next: u64,
    gates: BTreeMap<About, Gate>,
    totals: BTreeMap<EventKind, u64>,
    /// Absent when the daemon stops.
    followers: Option<broadcast::Sender<Arc<Event>>>,
}

/// What is told once in a while only.
type About = (EventKind, String, Option<String>);

/// When something was told last, and what has happened since.
#[derive(Debug)]
struct Gate {
    told: Instant,
    folded: Option<Event>,
}

impl Events {
    /// Nothing has happened yet.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let log = Log {
            kept: VecDeque::new(),
            // No daemon before this one has told a thousand a second.
            next: u64::try_from(now.as_millis()).unwrap_or_default(),
            gates: BTreeMap::new(),
            totals: BTreeMap::new(),
            followers: Some(broadcast::channel(BEHIND).0),
        };
        Self { log: Mutex::new(log), places: Arc::new(Semaphore::new(FOLLOWERS)) }
    }

    /// Tells an event, or lets the next of its sort stand for it.
    pub(crate) fn note(&self, event: Event) {
        let told = self.lock().note(event, Instant::now());
        if let Some(event) = told {
            event.log();
        }
    }

    /// Tells what has waited for its second to be over.
    pub(crate) fn flush(&self) {
        let told = self.lock().flush(Instant::now());
        for event in told {
            event.log();
        }
    }

    /// Events that are kept, the oldest first.
    pub(crate) fn kept(&self, filter: &Filter) -> Vec<Arc<Event>> {
        self.lock().kept.iter().filter(|event| filter.takes(event)).cloned().collect()
    }

    /// How many there were of each kind since the daemon runs, folded ones too.
    pub(crate) fn totals(&self) -> Vec<(EventKind, u64)> {
        let log = self.lock();
        let total = |kind| (kind, log.totals.get(&kind).copied().unwrap_or_default());
        EventKind::ALL.map(total).into()
    }

    /// Follows events: first those that are kept since the one that the filter names, then new ones.
    pub(crate) fn follow(&self, filter: Filter) -> Result<Follower> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Error::conflict(format!(
                "cannot follow events: {FOLLOWERS} do already, which is all that can; end one of them, or ask \
                 for /v1/events?since=ID now and then"
            ))
        })?;
        let log = self.lock();
        let sender = log.followers.as_ref();
        let new = sender.ok_or_else(|| Error::failed("cannot follow events: the daemon stops"))?;
        let wanted = |event: &&Arc<Event>| filter.since.is_some() && filter.takes(event);
        let kept = log.kept.iter().filter(wanted).cloned().collect();
        Ok(Follower { kept, new: new.subscribe(), filter, _place: place })
    }

    /// Tells what is left, and lets everybody go who follows.
    pub(crate) fn end(&self) {
        let told = {
            let mut log = self.lock();
            let told = log.flush(Instant::now() + GATE);
            log.followers = None;
            told
        };
        for event in told {
            event.log();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn note(&mut self, event: Event, now: Instant) -> Option<Arc<Event>> {
        *self.totals.entry(event.kind).or_default() += event.stands_for();
        let about = (event.kind, event.parent.clone(), event.child.clone());
        let event = if let Some(gate) = self.gates.get_mut(&about) {
            let before = gate.folded.take().map_or(0, |folded| folded.stands_for());
            let all = before + event.stands_for();
            let event = Event { count: Some(all).filter(|all| *all > 1), ..event };
            if now.saturating_duration_since(gate.told) < GATE {
                gate.folded = Some(stamped(event));
                return None;
            }
            gate.told = now;
            event
        } else {
            self.gates.insert(about, Gate { told: now, folded: None });
            event
        };
        Some(self.tell(stamped(event)))
    }

    fn flush(&mut self, now: Instant) -> Vec<Arc<Event>> {
        let is_over = |gate: &Gate| now.saturating_duration_since(gate.told) >= GATE;
        let mut due = Vec::new();
        self.gates.retain(|_, gate| {
            if !is_over(gate) {
                return true;
            }
            gate.told = now;
            let folded = gate.folded.take();
            let stays = folded.is_some();
            due.extend(folded);
            stays
        });
        due.into_iter().map(|event| self.tell(event)).collect()
    }

    fn tell(&mut self, event: Event) -> Arc<Event> {
        let event = Arc::new(Event { id: self.next, ..event });
        self.next += 1;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        // Nobody may follow.
        let _ = self.followers.as_ref().map(|followers| followers.send(event.clone()));
        event
    }
}

fn stamped(event: Event) -> Event {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    Event { time, ..event }
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An event.
    Event(Arc<Event>),
    /// So many events came and went while it did not listen.
    Missed(u64),
}

/// Somebody who follows events, in one of the places that there are.
#[derive(Debug)]
pub(crate) struct Follower {
    kept: VecDeque<Arc<Event>>,
    new: broadcast::Receiver<Arc<Event>>,
    filter: Filter,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// Waits for the next; `None` when the daemon stops.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        if let Some(event) = self.kept.pop_front() {
            return Some(Heard::Event(event));
        }
        loop {
            match self.new.recv().await {
                Ok(event) if self.filter.takes(&event) => return Some(Heard::Event(event)),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Some(Heard::Missed(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
