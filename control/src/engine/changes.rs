//! What is told about ports and parents: which have come and gone since the control loop looked last.

use std::collections::BTreeMap;

use super::state::{Parent, State};
use crate::{
    events::{Event, EventKind},
    model::Mac,
};

/// What was told last.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The daemon has looked at everything: what was up before it came is no news.
    begun: bool,
    parents: BTreeMap<String, ToldParent>,
}

/// What was told last about a parent.
#[derive(Debug, Default)]
struct ToldParent {
    up: bool,
    ports: BTreeMap<u16, Port>,
}

/// A port that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    child: String,
    network: Option<String>,
    vlan: Option<u16>,
    mac: Mac,
}

impl Port {
    fn event(&self, kind: EventKind, iface: &str, port: u16, message: &str) -> Event {
        Event {
            child: Some(self.child.clone()),
            network: self.network.clone(),
            port: Some(port),
            vlan: self.vlan,
            mac: Some(self.mac),
            ..Event::new(kind, iface, message)
        }
    }
}

impl State {
    /// Notes something that has happened, for those who follow events, and in the log.
    pub(crate) fn note(&self, event: Event) {
        self.events.note(event);
    }

    /// From now on everything is told.
    pub(crate) fn begin_telling(&mut self) {
        self.told.begun = true;
    }

    /// Tells what has changed since this was done last.
    pub(crate) fn tell_changes(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        told.parents.retain(|iface, last| {
            let stays = self.parents.contains_key(iface);
            if !stays {
                self.tell_removed(iface, last);
            }
            stays
        });
        for (iface, parent) in &self.parents {
            let is_new = !told.parents.contains_key(iface);
            let last = told.parents.entry(iface.clone()).or_default();
            self.tell_parent(iface, parent, last, is_new, told.begun);
            self.tell_ports(iface, parent, last, told.begun);
        }
        self.told = told;
        self.events.flush();
    }

    fn tell_removed(&self, iface: &str, last: &ToldParent) {
        for (port, it) in &last.ports {
            self.note(it.event(EventKind::PortDown, iface, *port, "the child's port has gone"));
        }
        self.note(Event::new(EventKind::ParentDown, iface, "the parent was removed"));
    }

    fn tell_parent(
        &self,
        iface: &str,
        parent: &Parent,
        last: &mut ToldParent,
        is_new: bool,
        begun: bool,
    ) {
        let up = parent.link.as_ref().is_some_and(|link| link.up);
        let is_news = if is_new { begun || !up } else { last.up != up };
        last.up = up;
        if !is_news {
            return;
        }
        let (kind, message) = match &parent.link {
            Some(link) if link.up => (EventKind::ParentUp, "the parent's interface is up"),
            Some(_) => (EventKind::ParentDown, "the parent's interface is down"),
            None => (EventKind::ParentDown, "the parent's interface is not there"),
        };
        let mac = parent.link.as_ref().and_then(|link| link.mac);
        self.note(Event { mac, ..Event::new(kind, iface, message) });
    }

    fn tell_ports(&self, iface: &str, parent: &Parent, last: &mut ToldParent, begun: bool) {
        let now = self.ports_that_are_up(iface, parent);
        last.ports.retain(|port, it| {
            let stays = now
                .get(port)
                .is_some_and(|(child, mac)| *mac == it.mac && child.is_none_or(|c| *c == it.child));
            if !stays {
                self.note(it.event(EventKind::PortDown, iface, *port, "the child's port is down"));
            }
            stays
        });
        for (port, (child, mac)) in now {
            if last.ports.contains_key(&port) {
                continue;
            }
            let it = self.port_to_tell(iface, child, mac);
            if begun {
                self.note(it.event(EventKind::PortUp, iface, port, "the child's port is up"));
            }
            last.ports.insert(port, it);
        }
    }

    /// The ports of children that are up, with the name of the child where maclane made it.
    fn ports_that_are_up<'a>(
        &'a self,
        iface: &str,
        parent: &Parent,
    ) -> BTreeMap<u16, (Option<&'a String>, Mac)> {
        if parent.link.is_none() {
            return BTreeMap::new();
        }
        let created = self.children_of(iface).filter_map(|(name, child)| {
            let live = child.live.as_ref().filter(|live| live.up)?;
            Some((child.record.value.port, (Some(name), live.mac)))
        });
        let adopted =
            parent.adopted.iter().filter(|(_, adopted)| !self.is_isolated(iface, adopted));
        let adopted = adopted.map(|(mac, adopted)| (adopted.port, (None, *mac)));
        created.chain(adopted).collect()
    }

    fn port_to_tell(&self, iface: &str, child: Option<&String>, mac: Mac) -> Port {
        let network = child.and_then(|name| self.child(name).ok());
        let network = network.map(|child| child.record.value.spec.network.clone());
        Port {
            child: child.cloned().unwrap_or_else(|| super::views::adopted_name(iface, mac)),
            vlan: network.as_ref().and_then(|name| Some(self.network(name).ok()?.vlan)),
            network,
            mac,
        }
    }
}
