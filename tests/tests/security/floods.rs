//! Children that send too much, from too many MACs, or with too many addresses.

use std::{
    net::{Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::libc;

use tests::{
    forge::solicitation,
    frames::{Frame, token},
    mac::Mac,
    patience, slowness,
    tap::Tap,
    traffic::Ping,
};

use crate::site::{A_WHILE, Attacker, Site, settle};

#[test]
fn a_flood_of_macs_reaches_nobody_and_each_frame_is_counted() {
    const MACS: u32 = 1000;
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        // The guard against storms is another one.
        site.set("--storm broadcast=0");
        let (token, before) = (token(), site.counts());
        for number in 0..MACS {
            let to = if number % 2 == 0 { Mac::BROADCAST } else { site.lan.router.mac };
            site.evil.tap.send(&Frame::new(Mac::local(number), to, &token));
        }
        site.counted("a flood", &before, &[("source_mac", (u64::from(MACS), 0))]);
        for (who, frames) in site.heard() {
            let got = frames.iter().filter(|frame| frame.carries(&token)).count();
            assert_eq!(got, 0, "{attacker:?}: {who} hears a flood of MACs");
        }
    }
}

#[test]
fn a_child_gets_no_more_addresses_than_it_may_have() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        // Its link-local address is one that it has taken by itself already.
        site.set("--max-addresses 3");
        let ip = |last| Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0xa0 + last);
        let mut tokens = Vec::new();
        for number in 1..=3_u16 {
            let (token, before) = (token(), site.counts());
            let probe = solicitation(Ipv6Addr::UNSPECIFIED, ip(number), None);
            site.evil.send(&probe.multicast(site.evil.mac), &token);
            let refused: &[_] = if number == 3 { &[("address_limit", (1, 0))] } else { &[] };
            site.counted(&format!("{attacker:?}: address {number}"), &before, refused);
            tokens.push(token);
        }
        let heard = site.heard();
        let by_wire = |token: &String| heard[0].1.iter().any(|frame| frame.carries(token));
        let got: Vec<_> = tokens.iter().map(by_wire).collect();
        assert_eq!(got, [true, true, false], "{attacker:?}: probes on the wire");
    }
}

/// Broadcasts per second where nobody says otherwise, and in one window of 2²⁷ ns.
const LIMIT: u128 = 1000;
const BURST: u128 = 133;

#[test]
fn a_storm_of_one_child_is_held_to_its_limit_and_disturbs_nobody() {
    let frames = 20_000 / slowness();
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.victim.ns);
        // On the wire one interface hears each frame once.
        let wire = Tap::open(&site.lan.wire, &site.lan.hosts[0].port);
        let ping = Ping::start(&site.victim.ns, site.lan.router.ip, Duration::from_millis(2));
        let (token, before) = (token(), site.counts());
        let frame = Frame::new(site.evil.mac, Mac::BROADCAST, &token);
        let began = Instant::now();
        for _ in 0..frames {
            site.evil.tap.send(&frame);
        }
        let time = began.elapsed();
        let result = ping.stop();
        let on_wire = wire.with_token(&token, A_WHILE).len();
        let at_victim = site.victim.tap.with_token(&token, Duration::ZERO).len();
        let most = LIMIT * time.as_millis() / 1000 + 2 * BURST;
        let what = format!("{attacker:?}: {on_wire} of {frames} in {time:?}");
        assert!((1..=most).contains(&(on_wire as u128)), "{what}: on the wire, at most {most}");
        assert_eq!(at_victim, on_wire, "{what}: at the victim");
        let storm = u64::from(frames) - u64::try_from(on_wire).expect("a count");
        site.counted(&what, &before, &[("storm", (storm, 0))]);
        assert!(result.is_clean(), "{what}: {result:?}");
    }
}

#[test]
fn a_storm_ends_when_the_child_does_and_others_may_send_meanwhile() {
    let site = Site::new(Attacker::Veth);
    site.set("--storm broadcast=10");
    let (own, others) = (token(), token());
    for _ in 0..100 {
        site.evil.tap.send(&Frame::new(site.evil.mac, Mac::BROADCAST, &own));
    }
    for _ in 0..20 {
        site.sibling.tap.send(&Frame::new(site.sibling.mac, Mac::BROADCAST, &others));
    }
    let got = site.victim.tap.collect(A_WHILE);
    let of = |token: &str| got.iter().filter(|frame| frame.carries(token)).count();
    assert!((1..=4).contains(&of(&own)), "{} of the storm", of(&own));
    assert_eq!(of(&others), 20, "the limit is one child's");
    std::thread::sleep(patience(A_WHILE));
    let later = token();
    site.evil.tap.send(&Frame::new(site.evil.mac, Mac::BROADCAST, &later));
    assert_eq!(site.victim.tap.with_token(&later, A_WHILE).len(), 1, "after the storm");
}

/// A socket of UDP that cuts what is sent into datagrams of that many `bytes` (udp(7)).
fn cutting_socket(site: &Site, bytes: i32) -> UdpSocket {
    let socket =
        site.evil.ns.enter(|| UdpSocket::bind((site.evil.ip, 0)).expect("its own address"));
    socket.set_broadcast(true).expect("it may send broadcasts");
    // SAFETY: `bytes` is as long as is said.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const bytes).cast(),
            4,
        )
    };
    assert_eq!(done, 0, "the option can be set");
    socket
}

/// A datagram that will be cut into many counts as many, and none of DHCP is cut: one message of it would be
/// looked into.
#[test]
fn what_will_be_cut_counts_as_what_comes_of_it() {
    const SEGMENTS: usize = 60;
    for attacker in [Attacker::Vepa, Attacker::Veth] {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let wire = Tap::open(&site.lan.wire, &site.lan.hosts[0].port);
        let socket = cutting_socket(&site, 64);
        let flood = |times: usize| {
            let token = token();
            let segment = format!("{token:-<64}");
            let began = Instant::now();
            for _ in 0..times {
                // The device may refuse it while its queue is full.
                let _ = socket.send_to(segment.repeat(SEGMENTS).as_bytes(), "255.255.255.255:5001");
            }
            let time = began.elapsed();
            // veth hands on what is not cut yet.
            let frames = wire.with_token(&token, A_WHILE);
            let cut = |frame: &Frame| {
                let token = token.as_bytes();
                frame.payload.windows(token.len()).filter(|bytes| *bytes == token).count()
            };
            (frames.iter().map(cut).sum::<usize>() as u128, time)
        };
        let (heard, time) = flood(500);
        let most = LIMIT * time.as_millis() / 1000 + 2 * BURST;
        assert!(heard <= most, "{attacker:?}: {heard} in {time:?}, at most {most}");
        site.set("--storm broadcast=0");
        let (heard, _) = flood(100);
        assert!(heard > 2 * BURST + LIMIT / 2, "{attacker:?}: {heard} without a limit");
        site.set("--storm default");

        let lie = |token: &str| {
            // The first message is a request (RFC 2131, section 2), the others are replies.
            let messages = [1_u8, 2, 2].map(|op| format!("{}{token:-<63}", char::from(op)));
            socket.send_to(messages.concat().as_bytes(), (site.lan.router.ip, 67))
        };
        let (token, before) = (token(), site.counts());
        let _ = lie(&token);
        assert_eq!(wire.with_token(&token, A_WHILE).len(), 0, "{attacker:?}: a reply arrives");
        site.counted("replies behind a request", &before, &[("hidden_header", (3, 0))]);
        site.set("--security off");
        let token = tests::frames::token();
        lie(&token).expect("it is sent");
        assert!(
            !wire.with_token(&token, A_WHILE).is_empty(),
            "{attacker:?}: nothing without security"
        );
    }
}
