//! Addresses that were found before anybody asks for them.
//!
//! To ask a LAN takes most of a second, and whoever starts a container does not want to wait. So of each
//! pool of a network of Docker some addresses are held: the LAN was asked for them, and whoever on it
//! asks for them is answered. One that has been held for a while is asked for once more, shortly, when
//! it is given out.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;

use super::{
    Engine,
    conflicts::{Held, Question},
    docker::{AddressRequest, Docker, PoolPlace},
    state::State,
};
use crate::{
    error::{Error, Result},
    model::{NetworkSpec, default_probe_interval},
    probe::{self, Answer},
    subnet::Pool,
};

/// So many addresses of a pool are held: as many containers may be started one after the other
/// in the time that it takes to find one.
const AHEAD: usize = 4;

/// No more of a pool is held than the part of it that has this in its denominator.
const SHARE: u128 = 16;

/// So soon after a container has left an address, whoever asks is taken for it: started again, it gets
/// its address back.
const AGAIN: Duration = Duration::from_secs(3);

/// For so long what the LAN has said is believed.
const FRESH: Duration = Duration::from_secs(10);

/// An address that is held.
#[derive(Debug)]
pub(super) struct Ready {
    /// Its pool.
    pub(super) pool: String,
    held: Held,
    since: Instant,
    /// A container had it until then.
    was_used: bool,
}

impl Ready {
    /// One that nobody on the LAN has now.
    pub(super) fn new(pool: &str, held: Held, was_used: bool) -> Self {
        Self { pool: pool.to_owned(), held, since: Instant::now(), was_used }
    }

    /// True if the LAN was asked for it, or it was used, a moment ago.
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < FRESH
    }

    /// Since when nobody uses it, if that is not long ago.
    fn just_left(&self) -> Option<Instant> {
        Some(self.since).filter(|since| self.was_used && since.elapsed() < AGAIN)
    }

    /// Its address.
    fn ip(&self) -> Option<IpAddr> {
        self.held.addresses.first().map(IpNetwork::ip)
    }
}

impl Engine {
    /// Finds addresses of a pool until enough are held.
    pub(crate) async fn look_ahead(&self, pool: &str) {
        if !self.state.lock().await.docker.looking.insert(pool.to_owned()) {
            // Somebody is at it.
            return;
        }
        while let Some(held) = self.find_one(pool).await {
            let mut state = self.state.lock().await;
            // Not if the network has gone meanwhile.
            if matches!(state.pool_place(pool), Ok(Some(_))) {
                state.docker.ready.push(Ready::new(pool, held, false));
            }
        }
        self.state.lock().await.docker.looking.remove(pool);
    }

    /// Finds addresses of every pool.
    pub(crate) async fn look_ahead_everywhere(&self) {
        let pools = {
            let mut state = self.state.lock().await;
            // What those had who are gone is to be found first: after a reboot they come back for it.
            state.end_endpoints().await;
            state.docker.pools_of_networks()
        };
        for pool in pools {
            self.look_ahead(&pool).await;
        }
    }

    /// True if what is asked for cannot be had because it may just be what is found ahead: whoever asks
    /// gets it then.
    pub(super) async fn is_being_found(&self, request: &AddressRequest) -> bool {
        let state = self.state.lock().await;
        if !state.docker.looking.contains(&request.pool) {
            return false;
        }
        let has = |held: &Held, ip| held.addresses.iter().any(|address| address.ip() == ip);
        request.ip.is_none_or(|ip| {
            let of_children =
                state.children.values().flat_map(|child| &child.record.value.addresses);
            state.asking.lock().is_ok_and(|asking| asking.iter().any(|(_, other)| *other == ip))
                && !state.docker.reserved.iter().any(|reserved| has(&reserved.held, ip))
                && !of_children.into_iter().any(|address| address.ip() == ip)
        })
    }

    /// One more address, unless enough of the pool are held or there are no more.
    async fn find_one(&self, pool: &str) -> Option<Held> {
        let place = {
            let state = self.state.lock().await;
            let place = state.pool_place(pool).ok()??;
            let is_enough = state.docker.ready_of(pool).count() >= state.ahead_of(&place);
            (!is_enough && place.has_lan).then_some(place)?
        };
        let held = self.hold_of(&place, None).await.ok()?;
        held.was_asked_for().then_some(held)
    }

    /// An address of a pool that was asked for on the LAN now, where that is known.
    pub(super) async fn hold_of(&self, place: &PoolPlace, ip: Option<IpAddr>) -> Result<Held> {
        let interval = self.state.lock().await.network(&place.network)?.probe_interval;
        let question = Question {
            network: &place.network,
            named: ip.into_iter().collect(),
            probe: place.has_lan,
            // Longer than for those that nobody but Docker has chosen.
            interval: interval.max(default_probe_interval()),
            mac: None,
        };
        let grant =
            |state: &State, _: &NetworkSpec| state.grant_of(place, ip).map(|address| vec![address]);
        self.hold_for(&question, grant).await
    }

    /// An address of a pool that is held; the one that is asked for, if one is. Nothing if none is held.
    pub(super) async fn take_ready(&self, pool: &str, ip: Option<IpAddr>) -> Result<Option<Held>> {
        loop {
            let taken = self.state.lock().await.docker.take_ready(pool, ip);
            let Some(ready) = taken else { return Ok(None) };
            if ready.is_fresh() || self.is_still_free(&ready).await? {
                return Ok(Some(ready.held));
            }
            if let Some(ip) = ip {
                return Err(Error::conflict(format!(
                    "{ip} is used on the LAN meanwhile; `maclane network inspect` says by whom"
                )));
            }
        }
    }

    async fn is_still_free(&self, ready: &Ready) -> Result<bool> {
        let network = &ready.held.network;
        let place = self.state.lock().await.place_of(network);
        let (Some(place), Some(ip)) = (place, ready.ip()) else { return Ok(true) };
        let interval = Duration::from_millis(network.probe_interval.into());
        match probe::probe(place, vec![ip], interval, None).await? {
            Answer::Free(_) => Ok(true),
            Answer::Claimed(claims) => {
                let mut state = self.state.lock().await;
                for (ip, claim) in claims {
                    state.note_conflict(network, ip, claim);
                }
                Ok(false)
            }
        }
    }
}

impl State {
    /// How many addresses of a pool are held. Of a small one several hosts may have to live.
    fn ahead_of(&self, place: &PoolPlace) -> usize {
        let size = self.range_of(place).map_or(0, Pool::size);
        usize::try_from(size / SHARE).map_or(AHEAD, |share| share.min(AHEAD))
    }

    /// Lets go of addresses of which more are held than there should be: the highest of those that nobody
    /// has just left.
    pub(super) fn trim_ready(&mut self) {
        for pool in self.docker.pools_of_networks() {
            let Ok(Some(place)) = self.pool_place(&pool) else { continue };
            let most = self.ahead_of(&place);
            let mut older: Vec<IpAddr> = self
                .docker
                .ready_of(&pool)
                .filter(|ready| ready.just_left().is_none())
                .filter_map(Ready::ip)
                .collect();
            older.sort_unstable();
            let too_many: BTreeSet<IpAddr> = older.into_iter().skip(most).collect();
            self.docker.ready.retain(|ready| {
                ready.pool != pool || ready.ip().is_none_or(|ip| !too_many.contains(&ip))
            });
        }
    }
}

impl Docker {
    /// The addresses of a pool that are held.
    fn ready_of<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a Ready> {
        self.ready.iter().filter(move |ready| ready.pool == pool)
    }

    /// The address of a pool that is asked for, else the one that was left last, just now, else the
    /// lowest one.
    fn take_ready(&mut self, pool: &str, ip: Option<IpAddr>) -> Option<Ready> {
        let of_pool = self.ready.iter().enumerate().filter(|(_, ready)| ready.pool == pool);
        let wanted = of_pool.filter(|(_, ready)| ip.is_none() || ip == ready.ip());
        let order = |ready: &Ready| (Reverse(ready.just_left()), ready.ip());
        let (place, _) = wanted.min_by_key(|(_, ready)| order(ready))?;
        Some(self.ready.remove(place))
    }
}
