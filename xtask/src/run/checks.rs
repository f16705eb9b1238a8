//! How each proof is tried.

use std::{net::IpAddr, thread, time::Duration};

use tests::{
    frames::{self, Frame, token},
    tap::Tap,
    tcp,
    topology::PARENT,
    traffic::{PingResult, ping},
};

use super::{
    Seen,
    observe::{Shot, WIRE, observe},
    proofs::Proof,
    site::{Site, Station},
};

const INTERVAL: Duration = Duration::from_millis(20);

impl Proof {
    /// Tries it.
    pub(super) fn prove(&self, site: &Site) -> Seen {
        match *self {
            Self::Ping(a, b) => both_ping(site, a, b, |station| station.ip.into()),
            Self::Ping6(a, b) => both_ping(site, a, b, |station| station.ip6.into()),
            Self::Tcp(a, b) => both_echo(site, a, b),
            Self::Arp(child) => answers_tagged_arp(site, child),
            Self::Silence(from, to) => is_not_answered(site, from, to),
            Self::ForeignMac(from, to) => leaves_to_the_wire_only(site, from, to),
            Self::ForeignTag(vlan, to) => is_received_with_its_own_tag_only(site, vlan, to),
            Self::Tags(vlan) => arrive_tagged(site, vlan),
            Self::Broadcast(from, vlan) => reaches_all_members_once(site, from, vlan),
        }
    }
}

fn both_ping(site: &Site, a: &str, b: &str, ip: impl Fn(Station<'_>) -> IpAddr) -> Seen {
    const COUNT: u32 = 5;
    let (a, b) = (site.station(a), site.station(b));
    let mut answered = 0;
    let mut faults = Vec::new();
    for (from, to) in [(a, b), (b, a)] {
        let result = ping(from.ns, ip(to), COUNT, INTERVAL);
        answered += result.received;
        if !result.is_clean() {
            let PingResult { sent, received, duplicates } = result;
            let (from, to) = (from.name, to.name);
            faults
                .push(format!("{from} → {to}: {received} of {sent} answered, {duplicates} twice"));
        }
    }
    held(format!("{answered} answers"), &faults)
}

fn both_echo(site: &Site, a: &str, b: &str) -> Seen {
    let (a, b) = (site.station(a), site.station(b));
    let mut faults = Vec::new();
    for (client, server) in [(a, b), (b, a)] {
        if let Err(error) = tcp::try_echo(server.ns, client.ns, server.ip.into(), 1 << 20) {
            faults.push(format!("{} → {}: {error}", client.name, server.name));
        }
    }
    held("all came back unchanged".to_owned(), &faults)
}

fn answers_tagged_arp(site: &Site, child: &str) -> Seen {
    const REPLY: [u8; 2] = [0, 2];
    let (router, child) = (site.station("router"), site.station(child));
    let tap = Tap::open(router.ns, PARENT);
    let request = Frame::arp_request(router.mac, router.ip, child.ip, &token());
    tap.send(&request.vlan(child.vlan));
    let reply = tap.find(Duration::from_secs(1), |frame| {
        frame.ethertype == frames::ARP
            && (frame.source, frame.destination) == (child.mac, router.mac)
            && frame.payload.get(6..8) == Some(&REPLY)
    });
    match reply.map(|reply| reply.vlan_id()) {
        Some(vlan) if vlan == child.vlan => Ok(format!("a reply tagged {vlan}")),
        Some(vlan) => Err(format!("a reply in VLAN {vlan}")),
        None => Err("no reply".to_owned()),
    }
}

fn is_not_answered(site: &Site, from: &str, to: [&str; 2]) -> Seen {
    let from = site.station(from);
    let results = thread::scope(|scope| {
        let pings = to.map(|to| {
            let to = site.station(to);
            scope.spawn(move || (to.name, ping(from.ns, to.ip, 2, INTERVAL)))
        });
        pings.map(|ping| ping.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let faults: Vec<_> = results
        .iter()
        .filter(|(_, result)| result.received > 0)
        .map(|(to, result)| format!("{} answers from {to}", result.received))
        .collect();
    held("no answer".to_owned(), &faults)
}

fn leaves_to_the_wire_only(site: &Site, from: &str, to: &str) -> Seen {
    let (from, to) = (site.station(from), site.station(to));
    let shot = Shot::unicast(from, to.mac).expect(WIRE, from.vlan);
    // Whether the wire's bridge brings it to the router depends on what the bridge has learned.
    observe(site, Some("router"), &[shot])?;
    Ok(format!("on the wire tagged {}, by no child", from.vlan))
}

fn is_received_with_its_own_tag_only(site: &Site, vlan: u16, to: &str) -> Seen {
    let (router, to) = (site.station("router"), site.station(to));
    let foreign = Shot::unicast(router, to.mac).tagged(vlan);
    let own = Shot::unicast(router, to.mac).tagged(to.vlan).expect(to.name, 0);
    observe(site, None, &[foreign, own])?;
    Ok(format!("tagged {vlan} by nobody, tagged {} once", to.vlan))
}

fn arrive_tagged(site: &Site, vlan: u16) -> Seen {
    let router = site.station("router");
    let host = (vlan == 0).then(|| site.station("host"));
    let members = site.children().filter(|child| child.vlan == vlan).chain(host);
    let shots: Vec<_> = members
        .map(|member| {
            let shot = Shot::unicast(member, router.mac);
            shot.expect(WIRE, vlan).expect(router.name, vlan)
        })
        .collect();
    observe(site, None, &shots)?;
    let tag = if vlan == 0 { "untagged".to_owned() } else { format!("tagged {vlan}") };
    Ok(format!("{} frames, each {tag}", shots.len()))
}

fn reaches_all_members_once(site: &Site, from: &str, vlan: u16) -> Seen {
    let from = site.station(from);
    let mut shot = Shot::broadcast(from);
    let mut names = Vec::new();
    // An access port sees no tag.
    let host = (vlan == 0).then(|| site.station("host"));
    for member in site.children().filter(|child| child.vlan == vlan).chain(host) {
        if member.name != from.name {
            shot = shot.expect(member.name, 0);
            names.push(member.name);
        }
    }
    // What somebody else made sees every VLAN, tagged, as it does without maclane.
    if vlan != 0 {
        shot = shot.expect("adopted", vlan);
        names.push("adopted (tagged)");
    }
    if from.name == "router" {
        shot = shot.tagged(vlan);
    } else {
        shot = shot.expect("router", vlan).expect(WIRE, vlan);
        names.push("router");
    }
    observe(site, None, &[shot])?;
    Ok(format!("once: {}", names.join(", ")))
}

fn held(seen: String, faults: &[String]) -> Seen {
    if faults.is_empty() { Ok(seen) } else { Err(faults.join("; ")) }
}
