//! Ways of sending: the same forgeries through whatever else the kernel offers to the owner of a child.
//!
//! Not here, because this is what the kernel itself makes of it:
//! - `sendfile` and `splice` into a packet socket copy the bytes (`net/packet/af_packet.c`, `packet_snd`), as
//!   does `MSG_ZEROCOPY`, which such a socket ignores.
//! - A packet socket of another namespace finds no link of the child's there (`packet_cached_dev_get`,
//!   `dev_get_by_index` of the socket's own namespace).
//! - A frame that `mirred` puts into a link's *ingress* goes to the child's own stack.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    ptr,
    rc::Rc,
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, sendto,
    },
};
use tests::{
    forge::{UDP, V4, V6, udp},
    frames::{Frame, IPV4, token},
    kernel,
    mac::Mac,
    netns::Netns,
    ring::{Ring, Version},
    tap::Tap,
    tun::{Kind, Tun},
    uring,
};

use crate::{
    attacks::{Attack, Key, all},
    site::{A_WHILE, Attacker, Site, settle},
};

/// The attacks that each way sends, by their names in the table.
const FORGERIES: [&str; 8] = [
    "a sibling's MAC",
    "the gateway's MAC, to a sibling",
    "a tag to a member",
    "a sibling is told so",
    "everybody is told of another gateway",
    "a sibling's address",
    "a DHCP server",
    "a router",
];

/// What is counted of a frame that bypasses the guard of its child.
const BYPASS: &str = "guard_bypass";

/// `include/uapi/linux/if_packet.h`.
const PACKET_FANOUT: i32 = 18;

/// A frame, or a packet, that one way sends.
struct Shot<'a> {
    name: &'static str,
    /// As what it is counted.
    reason: &'static str,
    /// As how many frames.
    frames: u64,
    /// Whether it arrives where nothing is checked: tags are no matter of security.
    passes: bool,
    /// Sends it with a token.
    send: Box<dyn Fn(&str) + 'a>,
}

/// A way of sending.
struct Way<'a> {
    name: &'static str,
    shots: Vec<Shot<'a>>,
}

impl<'a> Way<'a> {
    /// One that sends any frame as it is.
    fn frames(site: &Site, name: &'static str, send: impl Fn(&Frame) + Clone + 'a) -> Self {
        let shots = forgeries(site).map(|attack| shot(attack, send.clone())).collect();
        Self { name, shots }
    }

    /// One that sends frames from the child's own MAC, without tags.
    fn own(site: &Site, name: &'static str, send: impl Fn(&Frame) + Clone + 'a) -> Self {
        let own = site.evil.mac;
        let may = |attack: &Attack| attack.frame.source == own && attack.frame.tags.is_empty();
        let shots = forgeries(site).filter(may).map(|attack| shot(attack, send.clone())).collect();
        Self { name, shots }
    }

    /// One that goes around the guard of a macvlan child.
    fn around(site: &Site, name: &'static str, send: impl Fn(&Frame) + Clone + 'a) -> Self {
        // In bridge mode the kernel gives a frame for all to the siblings by itself, and a tap on the
        // parent hears, before TC, what is for a sibling.
        let may = |attack: &Attack| attack.frame.destination == site.lan.router.mac;
        let shots = forgeries(site).filter(may).map(|attack| {
            let reason = if site.attacker == Attacker::Veth { attack.reason } else { BYPASS };
            shot(Attack { reason, ..attack }, send.clone())
        });
        Self { name, shots: shots.collect() }
    }

    /// One that sends a packet with a sibling's address.
    fn packet(name: &'static str, send: impl Fn(&str) + 'a) -> Self {
        let shot = Shot {
            name: "a sibling's address",
            reason: "source_ip",
            frames: 1,
            passes: true,
            send: Box::new(send),
        };
        Self { name, shots: vec![shot] }
    }
}

fn shot<'a>(attack: Attack, send: impl Fn(&Frame) + 'a) -> Shot<'a> {
    let (name, reason, passes) = (attack.name, attack.reason, attack.key != Key::Nothing);
    Shot { name, reason, frames: 1, passes, send: Box::new(move |token| send(&attack.with(token))) }
}

fn forgeries(site: &Site) -> impl Iterator<Item = Attack> {
    all(site).into_iter().filter(|attack| FORGERIES.contains(&attack.name))
}

/// Sends through each way, and looks at what has become of it: everything arrives but what no switch
/// would carry, or nothing does and each is counted.
#[track_caller]
fn run(site: &Site, what: &str, ways: &[Way], enforced: bool) {
    let _before = site.heard();
    let mut sent = Vec::new();
    for way in ways {
        let before = site.counts();
        let mut expected: Vec<(&str, (u64, u64))> = Vec::new();
        for shot in &way.shots {
            let token = token();
            (shot.send)(&token);
            sent.push((way.name, shot, token));
            match expected.iter_mut().find(|(reason, _)| *reason == shot.reason) {
                Some((_, count)) => count.0 += shot.frames,
                None => expected.push((shot.reason, (shot.frames, 0))),
            }
        }
        if enforced {
            site.counted(&format!("{:?}, {what}: {}", site.attacker, way.name), &before, &expected);
        }
    }
    let heard = site.heard();
    let mut wrong = Vec::new();
    for (way, shot, token) in &sent {
        let of = |frames: &[Frame]| frames.iter().any(|frame| frame.carries(token));
        let who: Vec<_> = heard.iter().filter(|h| of(&h.1)).map(|h| h.0).collect();
        if who.is_empty() != (enforced || !shot.passes) {
            wrong.push(format!("{way}: {}: heard by {who:?}", shot.name));
        }
    }
    assert!(wrong.is_empty(), "{:?}, {what}: {wrong:#?}", site.attacker);
}

/// Sockets on the child's link.
fn sockets(site: &Site) -> Vec<Way<'_>> {
    let ns = &site.evil.ns;
    let tap = || Tap::open(ns, "eth0");
    let mut ways = Vec::new();
    for (name, version) in [("TPACKET_V2", Version::V2), ("TPACKET_V3", Version::V3)] {
        let ring = Rc::new(Ring::open(ns, "eth0", version).expect("a ring"));
        ways.push(Way::frames(site, name, move |frame| ring.send(frame)));
    }
    let mut way = |name, tap: Tap, send: fn(&Tap, &[u8])| {
        let tap = Rc::new(tap);
        ways.push(Way::frames(site, name, move |frame| send(&tap, &frame.to_bytes())));
    };
    way("sendmmsg", tap(), |tap, bytes| {
        tap.send_burst(bytes, 1);
    });
    way("IORING_OP_SENDMSG", tap(), |tap, bytes| done(uring::send(tap.as_fd(), bytes)));
    way("IORING_OP_WRITE", tap(), |tap, bytes| done(uring::write(tap.as_fd(), bytes)));
    way("splice", tap(), splice);
    let fanout = tap();
    // Group 7, by hash (`include/uapi/linux/if_packet.h`).
    fanout.set(libc::SOL_PACKET, PACKET_FANOUT, 7).expect("a group");
    way("PACKET_FANOUT", fanout, |tap, bytes| tap.send_bytes(bytes));
    let elsewhere = site.lan.namespace();
    let way_of = Rc::new((tap(), elsewhere));
    ways.push(Way::frames(site, "SCM_RIGHTS", move |frame| {
        let (tap, elsewhere) = &*way_of;
        send_from(elsewhere, tap, &frame.to_bytes());
    }));
    let cooked = Rc::new(Tap::cooked(ns, "eth0"));
    ways.push(Way::own(site, "SOCK_DGRAM", move |frame| send_cooked(&cooked, frame)));
    ways
}

/// Sockets that skip the hooks of the child's link: they can be had while its security does not enforce.
fn around(site: &Site) -> Vec<Way<'_>> {
    if site.attacker != Attacker::Veth && !kernel::sees_netns() {
        eprintln!("skipped: Linux {} cannot tell whose socket sent a frame", kernel::release());
        return Vec::new();
    }
    let ns = &site.evil.ns;
    let ring = Ring::open(ns, "eth0", Version::V2).expect("a ring");
    ring.socket().bypass().expect("the option can be set");
    let ring = Rc::new(ring);
    let mut ways = vec![Way::around(site, "a ring with a bypass", move |frame| ring.send(frame))];
    let mut way = |name, send: fn(&Tap, &[u8])| {
        let tap = Tap::open(ns, "eth0");
        tap.bypass().expect("the option can be set");
        let tap = Rc::new(tap);
        ways.push(Way::around(site, name, move |frame| send(&tap, &frame.to_bytes())));
    };
    way("sendmmsg with a bypass", |tap, bytes| {
        tap.send_burst(bytes, 1);
    });
    way("io_uring with a bypass", |tap, bytes| done(uring::send(tap.as_fd(), bytes)));
    way("splice with a bypass", splice);
    let elsewhere = site.lan.namespace();
    let tap = Tap::open(ns, "eth0");
    tap.bypass().expect("the option can be set");
    let handed = Rc::new((tap, elsewhere));
    ways.push(Way::around(site, "SCM_RIGHTS with a bypass", move |frame| {
        let (tap, elsewhere) = &*handed;
        send_from(elsewhere, tap, &frame.to_bytes());
    }));
    ways
}

/// Devices inside of the child's namespace, whose frames go out of its link.
fn devices(site: &Site) -> Vec<Way<'_>> {
    let ns = &site.evil.ns;
    ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let mut ways = Vec::new();
    let mut pair = |name, number: u8, set_up: &dyn Fn(&str)| {
        let (near, far) = (format!("a{number}"), format!("b{number}"));
        ns.ip(&format!("link add {near} type veth peer name {far}"));
        ns.up(&near);
        ns.up(&far);
        set_up(&far);
        let tap = Rc::new(Tap::open(ns, &near));
        ways.push(Way::frames(site, name, move |frame| tap.send(frame)));
    };
    let tc = |line: &str| {
        let words: Vec<_> = std::iter::once("tc").chain(line.split_whitespace()).collect();
        ns.run(&words);
    };
    for (number, action) in [(1, "redirect"), (2, "mirror")] {
        let name = if number == 1 { "mirred redirect" } else { "mirred mirror" };
        pair(name, number, &|far| {
            tc(&format!("qdisc add dev {far} clsact"));
            tc(&format!(
                "filter add dev {far} ingress protocol all u32 match u32 0 0 \
                 action mirred egress {action} dev eth0"
            ));
        });
    }
    for (number, statement) in [(3, "fwd to eth0"), (4, "dup to eth0")] {
        let name = if number == 3 { "nft fwd" } else { "nft dup" };
        pair(name, number, &|far| {
            nft(
                ns,
                &format!(
                    "table netdev t{number} {{ chain c {{ \
                 type filter hook ingress device {far} priority 0; {statement}; }}; }}"
                ),
            );
        });
    }
    pair("a bridge", 5, &|far| {
        ns.bridge("inner");
        // It forgets at once where a MAC was.
        ns.ip("link set inner type bridge ageing_time 0");
        ns.enslave(far, "inner");
        ns.enslave("eth0", "inner");
    });
    let tap = Rc::new(Tun::new(ns, "tap", Kind::Tap));
    ns.enslave("tap", "inner");
    ways.push(Way::frames(site, "a tap in a bridge", move |frame| tap.write(&frame.to_bytes())));
    ways
}

/// The kernel of the child's namespace as a router, and sockets that choose their source.
fn packets(site: &Site) -> Vec<Way<'_>> {
    let ns = &site.evil.ns;
    let (evil, victim, router) = (&site.evil, &site.victim, &site.lan.router);
    ns.sysctl("net/ipv4/ip_forward", "1");
    // A bridge takes what its port receives.
    for ip in [router.ip.to_string(), router.ip6.to_string()] {
        ns.ip(&format!("neigh replace {ip} lladdr {} dev eth0 nud permanent", router.mac));
    }
    let (from, to) = (victim.ip, router.ip);
    let datagram = move |token: &str| packet(from, to, token);
    let tun = Tun::new(ns, "tun", Kind::Tun);
    for which in ["all", "tun"] {
        ns.sysctl(&format!("net/ipv4/conf/{which}/rp_filter"), "0");
    }
    let raw = || ns.enter(|| raw_socket(libc::AF_INET));
    let (header, bound, raw6) = (raw(), raw(), ns.enter(|| raw_socket(libc::AF_INET6)));
    let device = (&raw const b"eth0"[0]).cast();
    // SAFETY: the pointer is to four bytes, which are only read.
    let set = unsafe {
        libc::setsockopt(bound.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device, 4)
    };
    assert_eq!(set, 0, "a socket of root's can be bound to a device");
    let to_router = SocketAddr::from((to, 0));
    let (from6, to6) = (victim.ip6, router.ip6);
    let mut ways = vec![
        Way::packet("a router", move |token| tun.write(&datagram(token))),
        Way::packet("IP_HDRINCL", move |token| send_to(&header, &datagram(token), to_router)),
        Way::packet("SO_BINDTODEVICE", move |token| send_to(&bound, &datagram(token), to_router)),
        Way::packet("IPV6_HDRINCL", move |token| {
            send_to(&raw6, &packet6(from6, to6, token), SocketAddr::from((to6, 0)));
        }),
    ];
    let transparent = ns.enter(|| datagram_socket(from, Some(libc::IP_TRANSPARENT)));
    // With this route it is an address of the namespace's own. `IP_FREEBIND` alone lets nothing be sent.
    ns.ip(&format!("route add local {} dev lo", site.sibling.ip));
    let local = ns.enter(|| datagram_socket(site.sibling.ip, None));
    for (name, socket) in [("IP_TRANSPARENT", transparent), ("a local route", local)] {
        ways.push(Way::packet(name, move |token| {
            send_to(&socket, token.as_bytes(), (to, 5001).into());
        }));
    }
    // Each from a port of its own, by which the rules know it.
    let from_port = |port| {
        let socket = ns.enter(|| UdpSocket::bind((evil.ip, port)).expect("its own address"));
        move |token: &str| {
            send_to(
                &socket.as_fd().try_clone_to_owned().expect("a descriptor"),
                token.as_bytes(),
                (to, 5001).into(),
            );
        }
    };
    nft(
        ns,
        &format!(
            "table ip nat1 {{ chain c {{ type nat hook postrouting priority 100; \
         udp sport 5011 snat to {from}; }}; }}"
        ),
    );
    nft(
        ns,
        &format!(
            "table ip set1 {{ chain c {{ type filter hook postrouting priority 0; \
         udp sport 5012 ip saddr set {from}; }}; }}"
        ),
    );
    nft(
        ns,
        &format!(
            "table netdev out1 {{ chain c {{ type filter hook egress device eth0 priority 0; \
         udp sport 5013 ip saddr set {from}; }}; }}"
        ),
    );
    ways.push(Way::packet("nft snat", from_port(5011)));
    ways.push(Way::packet("nft saddr set", from_port(5012)));
    ways.push(Way::packet("nft egress", from_port(5013)));
    // A packet of many segments, which the parent's NIC takes apart (udp(7)).
    let segmented = ns.enter(|| datagram_socket(from, Some(libc::IP_TRANSPARENT)));
    set_number(&segmented, (libc::SOL_UDP, libc::UDP_SEGMENT), SEGMENT);
    let mut segments = Way::packet("UDP_SEGMENT", move |token| {
        let segment = format!("{token:-<width$}", width = SEGMENT.unsigned_abs() as usize);
        send_to(&segmented, segment.repeat(3).as_bytes(), (to, 5001).into());
    });
    segments.shots[0].frames = 3;
    ways.push(segments);
    // The source of what it wraps is whatever its owner says (ip-sr(8)).
    ns.ip("address add fd99::1/64 dev lo nodad");
    ns.ip(&format!("sr tunsrc set {from6}"));
    let segments = format!("encap seg6 mode encap segs {to6} dev eth0");
    let added =
        ns.exec(&[&["ip", "-6", "route", "add", "fd77::/64"], &words(&segments)[..]].concat());
    if added.status.success() {
        let socket = ns.enter(|| UdpSocket::bind("[fd99::1]:0").expect("its own address"));
        let mut wrapped = Way::packet("seg6", move |token| {
            let to = SocketAddr::from((Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1), 5001));
            done(socket.send_to(token.as_bytes(), to).map(drop));
        });
        // The kernel says that the transport header is the routing header, where a NIC would put the checksum
        // (`net/ipv6/seg6_iptunnel.c`, `seg6_do_srh`).
        wrapped.shots[0].reason = "hidden_header";
        ways.push(wrapped);
    } else {
        eprintln!("skipped: no segment routing");
    }
    ways
}

/// Bytes of a segment: such that three of them make a packet that is taken apart.
const SEGMENT: i32 = 600;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Sets an option of a socket to a number.
#[track_caller]
fn set_number(socket: &OwnedFd, (level, option): (i32, i32), value: i32) {
    let (fd, value) = (socket.as_raw_fd(), &raw const value);
    // SAFETY: the pointer is to four bytes, which are only read.
    let set = unsafe { libc::setsockopt(fd, level, option, value.cast(), 4) };
    assert_eq!(set, 0, "the option can be set: {}", io::Error::last_os_error());
}

/// A UDP socket that is bound to an address.
fn datagram_socket(address: Ipv4Addr, option: Option<i32>) -> OwnedFd {
    // SAFETY: `socket` takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "cannot open a socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, so nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(option) = option {
        set_number(&socket, (libc::SOL_IP, option), 1);
    }
    let address = SockaddrStorage::from(SocketAddr::from((address, 0)));
    nix::sys::socket::bind(fd, &address).expect("it can be bound");
    socket
}

/// Panics unless it was sent, or dropped on its way out.
#[track_caller]
fn done(result: io::Result<()>) {
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => panic!("cannot send: {error}"),
        Ok(()) | Err(_) => {}
    }
}

/// Sends bytes that come out of a pipe.
fn splice(tap: &Tap, bytes: &[u8]) {
    let (from, to) = nix::unistd::pipe().expect("a pipe");
    nix::unistd::write(&to, bytes).expect("it has room for a frame");
    let (from, to) = (from.as_raw_fd(), tap.as_fd().as_raw_fd());
    let none = ptr::null_mut;
    // SAFETY: no place is pointed to.
    let moved = unsafe { libc::splice(from, none(), to, none(), bytes.len(), 0) };
    done(if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
}

/// Sends bytes through a socket that a process of another namespace has been given (unix(7)).
fn send_from(elsewhere: &Netns, tap: &Tap, bytes: &[u8]) {
    let (ours, theirs) = UnixDatagram::pair().expect("a pair");
    let fds = [tap.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [IoSlice::new(bytes)];
    sendmsg::<()>(ours.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).expect("it is sent");
    elsewhere.enter(|| {
        let (mut space, mut bytes) = (cmsg_space!([i32; 1]), [0; 2048]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got =
            recvmsg::<()>(theirs.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty());
        let got = got.expect("it is received");
        let len = got.bytes;
        let fd = got.cmsgs().expect("it has room").find_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        // SAFETY: the descriptor is new, so nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd.expect("a socket was sent")) };
        done(nix::unistd::write(&socket, &bytes[..len]).map(drop).map_err(io::Error::from));
    });
}

/// Sends what follows a frame's MAC header, which the kernel makes of the socket's address.
fn send_cooked(tap: &Tap, frame: &Frame) {
    tap.send_cooked(frame.destination, frame.ethertype, &frame.to_bytes()[14..]);
}

/// A table of nftables.
#[track_caller]
fn nft(ns: &Netns, rules: &str) {
    ns.run(&["nft", rules]);
}

/// A UDP datagram with a token.
fn packet(from: Ipv4Addr, to: Ipv4Addr, token: &str) -> Vec<u8> {
    let mut body = udp(5000, 5001);
    body.extend(token.bytes());
    let len = u16::try_from(body.len()).expect("a short token");
    body[4..6].copy_from_slice(&len.to_be_bytes());
    V4::new(from, to, UDP, body).frame(Mac::BROADCAST, Mac::BROADCAST).payload
}

/// The same of IPv6.
fn packet6(from: Ipv6Addr, to: Ipv6Addr, token: &str) -> Vec<u8> {
    let packet = V6::udp(from, to, (5000, 5001), token.as_bytes());
    packet.frame(Mac::BROADCAST, Mac::BROADCAST).payload
}

/// Sends bytes to an address. What is dropped on its way out was sent, too.
#[track_caller]
fn send_to(socket: &OwnedFd, bytes: &[u8], to: SocketAddr) {
    let sent = sendto(socket.as_raw_fd(), bytes, &SockaddrStorage::from(to), MsgFlags::empty());
    done(sent.map(drop).map_err(io::Error::from));
}

/// A raw socket to which a packet is given with its header.
fn raw_socket(family: i32) -> OwnedFd {
    // SAFETY: `socket` takes no pointers.
    let fd =
        unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    assert!(fd >= 0, "cannot open a raw socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, so nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What a child wraps is its own: the outer packet passes, and no station is given the inner frame. The
/// programs take nothing out of a tunnel.
#[test]
fn a_tunnel_of_a_child_leads_to_its_other_end() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (ns, router) = (&site.evil.ns, &site.lan.router);
        ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        let remote = router.ip;
        ns.ip(&format!("link add vx type vxlan id 5 remote {remote} dstport 4789 dev eth0"));
        ns.up("vx");
        // No answer that no station waits there.
        let _end = router.ns.enter(|| UdpSocket::bind((remote, 4789)).expect("a free port"));
        let tunnel = Tap::open(ns, "vx");
        for attack in forgeries(&site) {
            let who = site.hearers(&tunnel, &attack.frame);
            assert_eq!(who, ["the wire"], "{attacker:?}: {}", attack.name);
        }
        let inner = |f: &Frame| f.ethertype != IPV4 || f.source != site.evil.mac;
        let token = token();
        tunnel.send(&forgeries(&site).next().expect("an attack").with(&token));
        let heard = site.wire.with_token(&token, A_WHILE);
        assert!(!heard.is_empty() && !heard.iter().any(inner), "{attacker:?}: {heard:?}");
        assert_eq!(site.counts().len(), 0, "{attacker:?}: {:?}", site.counts());
    }
}

/// The ways of sending are as many as the kernel has: packet rings, many frames in one call, `io_uring`,
/// `splice`, sockets handed from one process to another, redirects of `tc` and nftables, bridges, taps
/// and routers inside of the child's namespace, tunnels, NAT. Without security a forgery arrives by each of them; with it,
/// by none, and each is counted as what it is. Sockets and devices are from before security enforces, and
/// from after.
#[test]
fn no_other_way_of_sending_carries_a_forgery() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let off = "--security off --trust mac";
        site.set(off);
        let ways: Vec<_> =
            [packets, sockets, around, devices].into_iter().flat_map(|make| make(&site)).collect();
        site.set("--security enforce --trust none");
        run(&site, "enforced", &ways, true);
        run(&site, "made while it enforces", &sockets(&site), true);
        // Last: what is learned while nothing is checked stays a child's own.
        site.set(off);
        run(&site, "without security", &ways, false);
    }
}
