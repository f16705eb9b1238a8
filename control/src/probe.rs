//! Whether somebody on the LAN has an address: ARP probes for IPv4 (RFC 5227, section 2.1), duplicate
//! address detection for IPv6 (RFC 4862, section 5.4).
//!
//! Both are sent from the parent, with its MAC, into the VLAN of the child to be: that child has no
//! link yet, and must not be seen with an address that somebody else has.

mod socket;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use self::socket::Socket;
use crate::{
    error::Result,
    model::Mac,
    neighbour::{self, ADVERTISEMENT, SOLICITATION},
    task::Task,
};

/// How often is asked, as RFC 5227 has it (`PROBE_NUM`).
pub(crate) const PROBES: u32 = 3;

/// `ETH_P_ARP`, `ETH_P_IPV6` and `ETH_P_8021Q` (`include/uapi/linux/if_ether.h`).
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;

/// `IPPROTO_ICMPV6` (`include/uapi/linux/in6.h`).
const ICMPV6: u8 = 58;

/// Where to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The index of the parent, in the namespace of the daemon.
    pub(crate) ifindex: u32,
    /// The parent's MAC.
    pub(crate) mac: Mac,
    /// The VLAN; 0 is untagged.
    pub(crate) vlan: u16,
}

impl Place {
    /// A frame as it is sent there.
    fn tagged(self, untagged: Vec<u8>) -> Vec<u8> {
        if self.vlan == 0 {
            return untagged;
        }
        let (addresses, rest) = untagged.split_at(12);
        [addresses, &VLAN.to_be_bytes(), &self.vlan.to_be_bytes(), rest].concat()
    }
}

/// What was heard of an address that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Who.
    pub(crate) mac: Mac,
    /// Whether they have it, or ask for it at the same moment.
    pub(crate) has: bool,
}

/// The MAC of the child to be, once it is known.
type Own = Arc<Mutex<Option<Mac>>>;

impl Claim {
    fn is_of(self, own: &Own) -> bool {
        *own.lock().unwrap_or_else(PoisonError::into_inner) == Some(self.mac)
    }
}

/// What the LAN says of the addresses that were asked for.
pub(crate) enum Answer {
    /// Nobody has them.
    Free(Defence),
    /// Some are claimed, by these.
    Claimed(BTreeMap<IpAddr, Claim>),
}

/// Answers whoever asks for addresses that were found free, as long as their child has no link that
/// would: two hosts that ask one after the other must not both find nobody.
#[derive(Debug)]
pub(crate) struct Defence {
    _task: Task,
    own: Own,
}

impl Defence {
    /// What this MAC says is the child's from now on, and gets no answer.
    pub(crate) fn yield_to(&self, mac: Option<Mac>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = mac;
    }
}

/// Asks for addresses, three times with `interval` between and after. It takes three intervals, less
/// if all are claimed. What `own` says is no claim, and gets no answer: it is the MAC of the child to be.
///
/// # Errors
///
/// What the kernel says of the packet socket.
pub(crate) async fn probe(
    place: Place,
    addresses: Vec<IpAddr>,
    interval: Duration,
    own: Option<Mac>,
) -> Result<Answer> {
    let own = Arc::new(Mutex::new(own));
    let socket = Socket::open(place.ifindex)?;
    let mut found = BTreeMap::new();
    for _ in 0..PROBES {
        for ip in addresses.iter().filter(|ip| !found.contains_key(*ip)) {
            socket.send(&question(place, *ip)?)?;
        }
        let until = Instant::now() + interval;
        while found.len() < addresses.len()
            && let Ok(heard) = timeout_at(until, socket.receive()).await
        {
            let claim = heard?.claim(place);
            let is_it = |ip: &IpAddr, claim: &Claim| addresses.contains(ip) && !claim.is_of(&own);
            found.extend(claim.filter(|(ip, claim)| is_it(ip, claim)));
        }
    }
    if found.is_empty() {
        let defend = defend(socket, place, addresses, own.clone());
        return Ok(Answer::Free(Defence { _task: Task::spawn(defend), own }));
    }
    Ok(Answer::Claimed(found))
}

/// Answers whoever asks for addresses that a child had until now.
///
/// # Errors
///
/// What the kernel says of the packet socket.
pub(crate) fn go_on(place: Place, addresses: Vec<IpAddr>) -> Result<Defence> {
    let (socket, own) = (Socket::open(place.ifindex)?, Own::default());
    let defend = defend(socket, place, addresses, own.clone());
    Ok(Defence { _task: Task::spawn(defend), own })
}

/// Goes on with the socket of the probe, so that no question falls between the two.
async fn defend(socket: Socket, place: Place, addresses: Vec<IpAddr>, own: Own) {
    loop {
        let answered = socket.receive().await.and_then(|heard| match heard.claim(place) {
            Some((ip, claim)) if !claim.has && !claim.is_of(&own) && addresses.contains(&ip) => {
                socket.send(&answer(place, ip, claim.mac)?)
            }
            _ => Ok(()),
        });
        if let Err(e) = answered {
            // The parent is down, or gone: nobody asks either.
            tracing::warn!("cannot answer for addresses that are being given out: {e}");
            return;
        }
    }
}

/// Who has `ip`?
fn question(place: Place, ip: IpAddr) -> Result<Vec<u8>> {
    Ok(place.tagged(match ip {
        IpAddr::V4(ip) => arp_probe(place.mac, ip),
        IpAddr::V6(ip) => solicitation(place.mac, ip)?,
    }))
}

/// We have `ip`, to somebody who asks for it as his own.
fn answer(place: Place, ip: IpAddr, asks: Mac) -> Result<Vec<u8>> {
    Ok(place.tagged(match ip {
        IpAddr::V4(ip) => neighbour::arp_reply_to_probe(place.mac, ip, asks),
        IpAddr::V6(ip) => neighbour::advertisement(place.mac, ip, false)?,
    }))
}

/// A request with an empty sender address, which nobody's cache takes over (RFC 5227, section 1.1).
fn arp_probe(mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    neighbour::arp_request(mac, Ipv4Addr::UNSPECIFIED, ip)
}

/// From the unspecified address to the target's solicited-node group (RFC 4862, section 5.4.2).
fn solicitation(mac: Mac, ip: Ipv6Addr) -> Result<Vec<u8>> {
    let [.., a, b, c] = ip.octets();
    let (high, low) = (0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low);
    let kind = (SOLICITATION, [0; 4]);
    neighbour::message(mac, (Ipv6Addr::UNSPECIFIED, group), kind, &ip.octets())
}

/// A frame that came in, without its tag.
#[derive(Debug)]
struct Heard {
    bytes: Vec<u8>,
    vlan: u16,
}

impl Heard {
    /// Whose frame it is, and which address it claims or asks for as its own.
    fn claim(&self, place: Place) -> Option<(IpAddr, Claim)> {
        let mac = Mac(self.at(6)?);
        if self.vlan != place.vlan || mac == place.mac {
            return None;
        }
        let (ip, has) = match u16::from_be_bytes(self.at(12)?) {
            ARP => self.arp().map(|(ip, has)| (IpAddr::V4(ip), has))?,
            IPV6 => self.neighbour().map(|(ip, has)| (IpAddr::V6(ip), has))?,
            _ => return None,
        };
        Some((ip, Claim { mac, has }))
    }

    /// The sender's address, which it has; of somebody else's probe the target.
    fn arp(&self) -> Option<(Ipv4Addr, bool)> {
        if self.at(14)? != [0, 1, 0x08, 0, 6, 4] {
            return None;
        }
        let (sender, target) =
            (Ipv4Addr::from(self.at::<4>(28)?), Ipv4Addr::from(self.at::<4>(38)?));
        Some(if sender.is_unspecified() { (target, false) } else { (sender, true) })
    }

    /// The target of an advertisement, or of somebody else's duplicate address detection.
    fn neighbour(&self) -> Option<(Ipv6Addr, bool)> {
        // Right behind the header, and from the link itself (RFC 4861, section 7.1).
        let ([next], [hops], [kind]) = (self.at(20)?, self.at(21)?, self.at(54)?);
        if next != ICMPV6 || hops != 255 {
            return None;
        }
        let has = kind == ADVERTISEMENT;
        let asks = kind == SOLICITATION && self.at::<16>(22)? == [0; 16];
        let target = Ipv6Addr::from(self.at::<16>(62)?);
        (has || asks).then_some((target, has))
    }

    fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset + N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const PARENT: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const V4: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 9);

    fn place(vlan: u16) -> Place {
        Place { ifindex: 1, mac: PARENT, vlan }
    }

    fn heard(bytes: Vec<u8>, vlan: u16) -> Heard {
        Heard { bytes, vlan }
    }

    fn claims(ip: impl Into<IpAddr>, has: bool) -> (IpAddr, Claim) {
        (ip.into(), Claim { mac: OTHER, has })
    }

    fn v6() -> Ipv6Addr {
        "fd00:50::12:3456".parse().unwrap()
    }

    #[test]
    fn a_probe_has_no_sender_address() {
        let frame = question(place(0), V4.into()).unwrap();
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[22..28], &frame[28..32]), (&PARENT.0[..], &[0; 4][..]));
        assert_eq!(frame[38..42], V4.octets());
        let tagged = question(place(10), V4.into()).unwrap();
        assert_eq!(tagged[12..18], [0x81, 0, 0, 10, 0x08, 0x06]);
        assert_eq!(tagged[18..], frame[14..]);
    }

    #[test]
    fn a_solicitation_is_one_that_a_stack_accepts() {
        let frame = question(place(0), v6().into()).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("no IPv6") };
        assert!(ip.header().source_addr().is_unspecified());
        assert_eq!(ip.header().destination_addr().to_string(), "ff02::1:ff12:3456");
        assert_eq!(ip.header().hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
    }

    #[test]
    fn whoever_asks_for_an_address_that_is_given_out_is_told() {
        for (vlan, ip) in [(0, IpAddr::V4(V4)), (10, V4.into()), (0, v6().into())] {
            let (us, asks) = (Place { mac: OTHER, ..place(vlan) }, PARENT);
            let mut told = answer(us, ip, asks).unwrap();
            if vlan != 0 {
                assert_eq!(told.drain(12..16).collect::<Vec<_>>(), [0x81, 0, 0, 10]);
            }
            assert_eq!(heard(told, vlan).claim(place(vlan)), Some(claims(ip, true)));
        }
    }

    #[test]
    fn answers_and_the_probes_of_others_are_claims() {
        let own_probe = question(place(0), V4.into()).unwrap();
        assert_eq!(heard(own_probe, 0).claim(place(0)), None);
        let other = Place { ifindex: 1, mac: OTHER, vlan: 0 };
        let probe = question(other, V4.into()).unwrap();
        assert_eq!(heard(probe.clone(), 0).claim(place(0)), Some(claims(V4, false)));
        assert_eq!(heard(probe.clone(), 0).claim(place(10)), None, "another VLAN");
        let mut reply = probe.clone();
        reply[21] = 2;
        reply[28..32].copy_from_slice(&V4.octets());
        reply[38..42].copy_from_slice(&[192, 168, 50, 77]);
        assert_eq!(heard(reply, 7).claim(place(7)), Some(claims(V4, true)));
        for end in 0..probe.len() {
            assert_eq!(heard(probe[..end].to_vec(), 0).claim(place(0)), None, "{end} bytes");
        }
        let asks = question(other, v6().into()).unwrap();
        assert_eq!(heard(asks.clone(), 0).claim(place(0)), Some(claims(v6(), false)));
        let mut resolves = asks.clone();
        resolves[22] = 0xfe;
        assert_eq!(heard(resolves, 0).claim(place(0)), None, "a resolution is no claim");
        let mut advertises = asks.clone();
        advertises[54] = ADVERTISEMENT;
        advertises[22] = 0xfd;
        assert_eq!(heard(advertises, 0).claim(place(0)), Some(claims(v6(), true)));
        for end in 0..asks.len() {
            assert_eq!(heard(asks[..end].to_vec(), 0).claim(place(0)), None, "{end} bytes");
        }
    }
}
