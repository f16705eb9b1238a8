//! Addresses that are held while the LAN is asked for them, and those that others have there.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipnetwork::IpNetwork;

use super::{Engine, leases::now, state::State, sub_interface::Lan};
use crate::{
    error::{Error, Result},
    events::{Event, EventKind},
    model::{ChildSpec, ConflictView, Mac, NetworkSpec},
    probe::{self, Answer, Claim, Defence, Place},
};

/// How long an address that somebody has is not asked for again, in seconds: as long as a wrong
/// machine may be on the LAN before somebody notices.
const HELD_BY_OTHERS: u64 = 600;

/// The same for one that somebody has asked for at the same moment: they have it by then, or not.
const ASKED_FOR_BY_OTHERS: u64 = 5;

/// How many addresses are tried for a child before somebody has to look: a machine that answers for
/// all would keep it busy for as long as there are addresses.
const TRIES: usize = 64;

/// The addresses that are asked for just now, by LAN.
pub(crate) type Asking = Arc<Mutex<BTreeSet<(Lan, IpAddr)>>>;

/// Addresses that somebody on the LAN has, by network: who, and until when that is believed.
pub(crate) type Conflicts = BTreeMap<(String, IpAddr), (Mac, u64)>;

/// The addresses of a child to be: nobody else gets them as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    /// With the prefix lengths of their subnets.
    pub(crate) addresses: Vec<IpNetwork>,
    pub(super) network: NetworkSpec,
    _asked: Asked,
    defence: Option<Defence>,
}

/// What is among the addresses that are asked for, until this is dropped.
#[derive(Debug)]
struct Asked {
    keys: Vec<(Lan, IpAddr)>,
    asking: Asking,
}

impl Held {
    /// True if the LAN was asked for the addresses, and is answered.
    pub(super) fn was_asked_for(&self) -> bool {
        self.defence.is_some()
    }

    /// Whoever has this MAC from now on is the child, and may ask for the addresses as its own.
    pub(super) fn yield_to(&self, mac: Option<Mac>) {
        if let Some(defence) = &self.defence {
            defence.yield_to(mac);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            asking.remove(key);
        }
    }
}

/// Whose addresses the LAN is asked for.
pub(super) struct Question<'a> {
    /// The network.
    pub(super) network: &'a str,
    /// Those that somebody has asked for by name: there is no going on to the next.
    pub(super) named: Vec<IpAddr>,
    /// Whether the LAN is asked at all, where the network says so.
    pub(super) probe: bool,
    /// How long is waited for answers, three times, in milliseconds.
    pub(super) interval: u32,
    /// The MAC of the child to be, if that may speak before its addresses are let go of.
    pub(super) mac: Option<Mac>,
}

impl Engine {
    /// Finds addresses for a child to be, and asks the LAN whether somebody has them. Others may do
    /// the same meanwhile.
    pub(super) async fn hold(&self, spec: &ChildSpec) -> Result<Held> {
        let interval = self.state.lock().await.network(&spec.network)?.probe_interval;
        let question = Question {
            network: &spec.network,
            named: spec.ip.iter().map(|asked| asked.ip).collect(),
            probe: spec.probe && spec.trunk.is_none(),
            interval,
            mac: None,
        };
        let grant = |state: &State, network: &NetworkSpec| {
            state.check_child(spec)?;
            state.grant(spec, network)
        };
        self.hold_for(&question, grant).await
    }

    /// The same for what `grant` finds, each time that it is asked.
    pub(super) async fn hold_for(
        &self,
        question: &Question<'_>,
        grant: impl Fn(&State, &NetworkSpec) -> Result<Vec<IpNetwork>> + Send + Sync,
    ) -> Result<Held> {
        let mut last = None;
        for _ in 0..TRIES {
            let (held, place) = {
                let mut state = self.state.lock().await;
                let network = state.network(question.network)?.clone();
                state.look_at_host().await?;
                let place = state.place_to_ask(&network).filter(|_| question.probe);
                let addresses = grant(&state, &network)?;
                (state.hold(addresses, network), place)
            };
            let ips: Vec<IpAddr> = held.addresses.iter().map(IpNetwork::ip).collect();
            let Some(place) = place.filter(|_| !ips.is_empty()) else { return Ok(held) };
            let interval = Duration::from_millis(question.interval.into());
            let claims = match probe::probe(place, ips, interval, question.mac).await? {
                Answer::Free(defence) => return Ok(Held { defence: Some(defence), ..held }),
                Answer::Claimed(claims) => claims,
            };
            let mut state = self.state.lock().await;
            for (ip, claim) in &claims {
                state.note_conflict(&held.network, *ip, *claim);
            }
            drop(state);
            let wanted = claims.iter().find(|(ip, _)| question.named.contains(ip));
            if let Some((ip, claim)) = wanted {
                let Claim { mac, has } = claim;
                return Err(Error::conflict(if *has {
                    format!(
                        "{ip} is already used on the LAN by {mac}; pick another --ip or leave it out"
                    )
                } else {
                    format!("{mac} asks the LAN for {ip} at this moment, too; try again")
                }));
            }
            last = claims.into_iter().next();
            tokio::time::sleep(pause()).await;
        }
        let last = last.map_or_else(String::new, |(ip, claim)| {
            format!(", {ip} by {} the last one", claim.mac)
        });
        Err(Error::conflict(format!(
            "{TRIES} addresses in a row are used by others on the LAN{last}; if one machine answers for all \
             of them (proxy ARP), use --no-probe, else an --ip-range that is free"
        )))
    }
}

/// A moment of random length: two that ask at the same moment must not go on to the next address at
/// the same moment.
fn pause() -> Duration {
    Duration::from_millis(RandomState::new().build_hasher().finish() % 40)
}

impl State {
    /// Refuses addresses of a network that is not what it was when they were found.
    pub(super) fn check_held(&self, held: &Held) -> Result<()> {
        let name = &held.network.name;
        if self.network(name)?.is_but_for_policy(&held.network) {
            return Ok(());
        }
        Err(Error::conflict(format!("network \"{name}\" was changed meanwhile; try again")))
    }

    /// Where the LAN is asked for the addresses of a network; nowhere if nobody wants that, or cannot.
    fn place_to_ask(&self, network: &NetworkSpec) -> Option<Place> {
        // An internal network has no LAN to ask.
        let wanted = network.probe && !network.internal && !network.subnets.is_empty();
        self.place_of(network).filter(|_| wanted)
    }

    /// Where the LAN of a network is asked; nowhere while its parent is down.
    pub(super) fn place_of(&self, network: &NetworkSpec) -> Option<Place> {
        let link = self.parent(&network.parent).ok()?.link.as_ref().filter(|link| link.up)?;
        Some(Place { ifindex: link.index, mac: link.mac?, vlan: network.vlan })
    }

    /// Holds an address that a child had until now; nothing if somebody has it, or it cannot be answered
    /// for.
    pub(super) fn go_on_holding(&self, address: IpNetwork, network: &str) -> Option<Held> {
        let network = self.network(network).ok()?.clone();
        let place = self.place_to_ask(&network)?;
        let is_claimed = self.conflict_views(&network.name).iter().any(|c| c.ip == address.ip());
        if is_claimed || self.owner_of_address(address.ip(), &network).is_some() {
            return None;
        }
        let defence = probe::go_on(place, vec![address.ip()]).ok()?;
        Some(Held { defence: Some(defence), ..self.hold(vec![address], network) })
    }

    fn hold(&self, addresses: Vec<IpNetwork>, network: NetworkSpec) -> Held {
        let lan = self.lan_of(&network);
        let keys: Vec<_> = addresses.iter().map(|a| (lan.clone(), a.ip())).collect();
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).extend(keys.iter().cloned());
        let asked = Asked { keys, asking: self.asking.clone() };
        Held { addresses, network, _asked: asked, defence: None }
    }

    /// The addresses that are asked for just now on a network's LAN.
    pub(super) fn asked_for(&self, network: &NetworkSpec) -> Vec<IpAddr> {
        let asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let lan = self.lan_of(network);
        asking.iter().filter(|(other, _)| *other == lan).map(|(_, ip)| *ip).collect()
    }

    /// Tells what the LAN has answered about an address, and keeps it.
    pub(super) fn note_conflict(&mut self, network: &NetworkSpec, ip: IpAddr, claim: Claim) {
        let mac = claim.mac;
        if claim.has {
            let message = "somebody on the LAN has an address of this network";
            self.note(Event {
                network: Some(network.name.clone()),
                vlan: Some(network.vlan),
                mac: Some(mac),
                ip: Some(ip),
                ..Event::new(EventKind::AddressConflict, &network.parent, message)
            });
        } else {
            tracing::info!(network = network.name, %ip, %mac, "somebody on the LAN asks for the same address");
        }
        self.keep_conflict(network, ip, claim);
    }

    /// Keeps an address from being given out for a while.
    pub(super) fn keep_conflict(
        &mut self,
        network: &NetworkSpec,
        ip: IpAddr,
        Claim { mac, has }: Claim,
    ) {
        let now = now();
        self.conflicts.retain(|_, (_, until)| *until > now);
        let until = now + if has { HELD_BY_OTHERS } else { ASKED_FOR_BY_OTHERS };
        self.conflicts.insert((network.name.clone(), ip), (mac, until));
    }

    /// The addresses of a network that somebody on the LAN has, as far as is known.
    pub(super) fn conflict_views(&self, network: &str) -> Vec<ConflictView> {
        let now = now();
        let of_network =
            self.conflicts.iter().filter(|((of, _), (_, until))| of == network && *until > now);
        of_network
            .map(|((_, ip), (mac, until))| ConflictView { ip: *ip, mac: *mac, until: *until })
            .collect()
    }
}
