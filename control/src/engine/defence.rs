//! Strangers who say to have the address of a child, and what they are told (RFC 5227, section 2.4).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use dataplane_common::abi::Claim;
use tokio::time::Instant;

use super::state::State;
use crate::{
    announce,
    error::{Error, Result},
    events::{Event, EventKind},
    model::Mac,
    probe,
};

/// An address is defended once within this time (`DEFEND_INTERVAL`): two that both did at once would
/// go on for ever.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// Who says to have an address of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rival {
    /// How often that was heard.
    pub(crate) claims: u64,
    /// Who, last.
    pub(crate) mac: Mac,
    /// When the address was defended last.
    defended: Instant,
}

/// By child and address.
pub(crate) type Rivals = BTreeMap<(String, IpAddr), Rival>;

impl State {
    /// Counts the claims that the programs of a parent have heard, says so, and announces the
    /// addresses again.
    pub(crate) fn answer_claims(&mut self, iface: &str) {
        let heard = self.parents.get(iface).and_then(|parent| parent.heard.lock().ok());
        let claims = heard.map(|mut heard| std::mem::take(&mut heard.claims)).unwrap_or_default();
        for Claim { event, ip } in claims {
            let (ip, mac) = (Ipv6Addr::from(ip).to_canonical(), Mac(event.mac));
            let Some(child) = self.child_with(iface, event.vlan, ip) else { continue };
            let due = self.note_claim(&child, ip, mac);
            self.tell_claim(iface, &child, event.vlan, ip, mac);
            if due && let Err(e) = self.defend(&child, ip) {
                tracing::warn!(child, %ip, "cannot defend an address: {e}");
            }
        }
    }

    fn tell_claim(&self, iface: &str, child: &str, vlan: u16, ip: IpAddr, mac: Mac) {
        let message = "somebody else on the LAN says to have the address of a child";
        let record = self.child(child).ok().map(|child| &child.record.value);
        self.note(Event {
            child: Some(child.into()),
            network: record.map(|record| record.spec.network.clone()),
            port: record.map(|record| record.port),
            vlan: Some(vlan),
            mac: Some(mac),
            ip: Some(ip),
            ..Event::new(EventKind::AddressConflict, iface, message)
        });
    }

    /// The child that a claim is about: one that has let go of the address meanwhile is not.
    fn child_with(&self, iface: &str, vlan: u16, ip: IpAddr) -> Option<String> {
        let claimed = self.children_of(iface).find(|(_, child)| {
            let record = &child.record.value;
            let network = self.network(&record.spec.network);
            record.addresses.iter().any(|address| address.ip() == ip)
                && network.is_ok_and(|network| network.vlan == vlan)
        });
        claimed.map(|(name, _)| name.clone())
    }

    /// Forgets who claims addresses of a child that goes; they are believed to have them for a while.
    pub(crate) fn forget_rivals(&mut self, child: &str) {
        let network = self.child(child).map(|child| child.record.value.spec.network.clone());
        let network = network.and_then(|network| self.network(&network).cloned());
        let of_child = |(of, _): &(String, IpAddr)| of == child;
        let rivals: Vec<_> = self
            .rivals
            .iter()
            .filter(|(of, _)| of_child(of))
            .map(|((_, ip), r)| (*ip, r.mac))
            .collect();
        self.rivals.retain(|of, _| !of_child(of));
        let Ok(network) = network else { return };
        for (ip, mac) in rivals.into_iter().filter(|(ip, _)| network.subnet_of(*ip).is_some()) {
            self.keep_conflict(&network, ip, probe::Claim { mac, has: true });
        }
    }

    /// True if it is time to defend the address.
    fn note_claim(&mut self, child: &str, ip: IpAddr, mac: Mac) -> bool {
        let now = Instant::now();
        let key = (child.to_owned(), ip);
        let Some(rival) = self.rivals.get_mut(&key) else {
            self.rivals.insert(key, Rival { claims: 1, mac, defended: now });
            return true;
        };
        (rival.claims, rival.mac) = (rival.claims + 1, mac);
        let due = now - rival.defended >= DEFEND_INTERVAL;
        if due {
            rival.defended = now;
        }
        due
    }

    /// Announces an address from the child's own link.
    fn defend(&self, name: &str, ip: IpAddr) -> Result<()> {
        let child = self.child(name)?;
        let live = child.live.as_ref().ok_or_else(|| Error::failed("its link is not there"))?;
        let netns = child.record.value.open_netns();
        let netns = netns.ok_or_else(|| Error::failed("its namespace is not there"))?;
        announce::announce(&netns, live.ifindex, live.mac, &[ip])
    }
}
