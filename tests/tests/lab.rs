//! The laboratory itself: that its networks behave as the kernel's do, and that nothing of
//! them is left.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    panic,
    time::Duration,
};

use tests::{
    frames::{Frame, SERVICE_VLAN, token},
    mac::Mac,
    netns::Netns,
    patience,
    tap::Tap,
    tcp,
    topology::{Lan, Options, PARENT},
    traffic::{self, Ping, assert_does_not_reach, assert_reaches},
};

/// Long enough for frames that are on their way.
const SOON: Duration = Duration::from_millis(200);

fn child_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 50, 100 + number)
}

/// A macvlan child of the first host, made by hand.
fn child(lan: &Lan, mode: &str, number: u8) -> Netns {
    let ns = lan.namespace();
    lan.hosts[0].ns.macvlan(PARENT, mode, &ns, "eth0");
    ns.address("eth0", &format!("{}/24", child_address(number)));
    ns
}

#[test]
fn hosts_and_router_reach_each_other() {
    for ipv6 in [false, true] {
        let lan = Lan::with(Options { hosts: 2, ipv6, ..Options::default() });
        assert_reaches(&lan.hosts[0].ns, lan.router.ip);
        assert_reaches(&lan.hosts[1].ns, lan.hosts[0].ip);
        if ipv6 {
            assert_reaches(&lan.hosts[1].ns, lan.hosts[0].ip6);
        } else {
            assert_eq!(lan.hosts[0].ns.ip("-6 address show"), "");
        }
    }
}

#[test]
fn kernel_macvlan_children_reach_each_other_and_the_wire_but_not_their_host() {
    let lan = Lan::new(1);
    let (a, b) = (child(&lan, "bridge", 1), child(&lan, "bridge", 2));
    assert_reaches(&a, child_address(2));
    assert_reaches(&b, lan.router.ip);
    assert_does_not_reach(&a, lan.hosts[0].ip);
    assert_does_not_reach(&lan.hosts[0].ns, child_address(1));
}

#[test]
fn kernel_vepa_children_do_not_reach_each_other() {
    let lan = Lan::new(1);
    let a = child(&lan, "vepa", 1);
    let _b = child(&lan, "vepa", 2);
    assert_does_not_reach(&a, child_address(2));
    assert_reaches(&a, lan.router.ip);
}

#[test]
fn wire_carries_vlan_tags_with_and_without_offload() {
    for vlan_offload in [true, false] {
        let lan = Lan::with(Options { hosts: 2, vlan_offload, ..Options::default() });
        let [a, b] = [&lan.hosts[0], &lan.hosts[1]];
        let taps = [Tap::open(&a.ns, PARENT), Tap::open(&b.ns, PARENT)];
        let plain = |token: &str| Frame::new(a.mac, Mac::BROADCAST, token);
        let (one, two, none) = (token(), token(), token());
        let sent = [plain(&one).vlan(10), plain(&two).vlan(20).tag(SERVICE_VLAN, 30), plain(&none)];
        for frame in &sent {
            taps[0].send(frame);
        }
        let received = taps[1].collect(SOON);
        for (frame, token) in sent.iter().zip([one, two, none]) {
            let matching: Vec<_> = received.iter().filter(|f| f.carries(&token)).collect();
            assert_eq!(matching.len(), 1, "{received:?}");
            assert_eq!(matching[0].tags, frame.tags, "vlan_offload: {vlan_offload}");
            assert_eq!(matching[0].source, a.mac);
        }
        let heard = taps[0].collect(SOON);
        assert!(heard.is_empty(), "a tap hears what is sent, or the LAN is not quiet: {heard:?}");
    }
}

#[test]
fn tap_puts_a_tag_back_that_the_kernel_keeps_beside_the_frame() {
    // A bridge that pops no tag moves it into the metadata when it receives the frame.
    let lan = Lan::with(Options { hosts: 1, vlan_offload: true, ..Options::default() });
    let wire = Tap::open(&lan.wire, &lan.hosts[0].port);
    let host = Tap::open(&lan.hosts[0].ns, PARENT);
    let token = token();
    host.send(&Frame::new(lan.hosts[0].mac, Mac::BROADCAST, &token).vlan(7));
    let heard = wire.find(SOON, |frame| frame.carries(&token)).expect("the frame comes");
    assert_eq!(heard.vlan_id(), 7);
}

#[test]
fn udp_frame_is_received_by_a_socket_once() {
    let lan = Lan::new(2);
    let [a, b] = [&lan.hosts[0], &lan.hosts[1]];
    let to = SocketAddrV4::new(b.ip, 5000);
    let socket = b.ns.enter(|| UdpSocket::bind(to)).expect("the address is the host's");
    socket.set_read_timeout(Some(patience(SOON))).expect("a timeout can be set");
    let token = token();
    let from = SocketAddrV4::new(a.ip, 5001);
    Tap::open(&a.ns, PARENT).send(&Frame::udp((a.mac, from), (b.mac, to), &token));
    let mut data = [0; 100];
    let length = socket.recv(&mut data).expect("the datagram is received");
    assert_eq!(&data[..length], token.as_bytes());
    assert!(socket.recv(&mut data).is_err(), "it is received once");
}

#[test]
fn arp_request_is_answered() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let tap = Tap::open(&host.ns, PARENT);
    let token = token();
    tap.send(&Frame::arp_request(host.mac, host.ip, lan.router.ip, &token));
    let answer = tap.find(SOON, |frame| frame.source == lan.router.mac);
    assert_eq!(answer.expect("the router answers").destination, host.mac);
}

#[test]
fn pings_are_counted_until_they_are_stopped() {
    let lan = Lan::new(1);
    let pings = Ping::start(&lan.hosts[0].ns, lan.router.ip, Duration::from_millis(2));
    std::thread::sleep(patience(SOON));
    let result = pings.stop();
    assert!(result.is_clean() && result.sent > 20, "{result:?}");

    let pings = Ping::start(&lan.hosts[0].ns, lan.router.ip, Duration::from_millis(2));
    std::thread::sleep(patience(SOON));
    lan.router.ns.down(PARENT);
    std::thread::sleep(patience(SOON));
    let result = pings.stop();
    assert!(result.received > 20 && result.lost() > 5, "{result:?}");
    let result = traffic::ping(&lan.hosts[0].ns, lan.router.ip, 2, Duration::from_millis(10));
    assert_eq!((result.sent, result.received), (2, 0));
}

#[test]
fn tcp_carries_bytes_both_ways_and_shows_its_stalls() {
    let lan = Lan::with(Options { mtu: 9000, ..Options::default() });
    let (host, router) = (&lan.hosts[0], &lan.router);
    tcp::echo(&router.ns, &host.ns, router.ip, 10_000_000);

    let stream = tcp::Stream::start(&router.ns, &host.ns, router.ip);
    std::thread::sleep(patience(SOON));
    let result = stream.stop();
    assert!(result.bytes > 100_000 && result.error.is_none(), "{result:?}");

    let stream = tcp::Stream::start(&router.ns, &host.ns, router.ip);
    lan.wire.down(&router.port);
    std::thread::sleep(patience(SOON));
    let result = stream.stop();
    assert!(result.longest_stall > SOON / 2, "{result:?}");
}

#[test]
fn interfaces_are_renamed_changed_and_deleted() {
    let lan = Lan::new(1);
    let ns = &lan.hosts[0].ns;
    let mac = Mac::local(7);
    ns.set_mac(PARENT, mac);
    assert_eq!(ns.mac(PARENT), mac);
    ns.offload(PARENT, "txvlan", false);
    ns.down(PARENT);
    ns.rename(PARENT, "lan0");
    assert!(ns.has("lan0") && !ns.has(PARENT));
    ns.delete("lan0");
    assert!(!ns.has("lan0") && !lan.wire.has(&lan.hosts[0].port));
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut names = Vec::new();
    let panicked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lan = Lan::new(1);
        names.extend([&lan.wire, &lan.router.ns, &lan.hosts[0].ns].map(Netns::path));
        assert!(names.iter().all(|path| path.exists()));
        lan.hosts[0].ns.enter(|| panic!("as a test does that fails"));
    }));
    assert!(panicked.is_err());
    assert_eq!(names.len(), 3);
    assert!(!names.iter().any(|path| path.exists()), "{names:?}");
}
