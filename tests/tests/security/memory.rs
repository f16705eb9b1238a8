//! A child that would have a frame changed after it was checked: by the kernel, which writes a checksum
//! where the child has chosen, by memory that the child shares with the kernel, or by a filter behind the
//! guard on its link.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tests::{
    bpf::{instruction, load, pin},
    eventually,
    forge::{Arp, UDP, V4, udp},
    frames::{Frame, token},
    netns::Netns,
    ring::{Ring, SLOTS, Version},
    tap::Tap,
    tcp::echo,
    topology::PARENT,
    tun::{Kind, Tun},
};

use crate::site::{A_WHILE, Attacker, Site, settle};

/// Where a test's bytes have two to spare, which make a checksum what it shall be.
const SPARE: usize = 56;

/// What a child hands in whose checksum the kernel is to make: a `struct virtio_net_hdr`
/// (`include/uapi/linux/virtio_net.h`), and the frame. The sum of what follows `start` is written `offset`
/// behind that, and is `value`.
pub(crate) fn unfinished(frame: &Frame, (start, offset): (u16, u16), value: u16) -> Vec<u8> {
    let mut bytes = frame.to_bytes();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes[SPARE..SPARE + 2].fill(0);
    let have = sum(&bytes[usize::from(start)..]);
    let spare = sum(&[(!value).to_be_bytes(), (!have).to_be_bytes()].concat());
    bytes[SPARE..SPARE + 2].copy_from_slice(&spare.to_be_bytes());
    // VIRTIO_NET_HDR_F_NEEDS_CSUM, no segmentation.
    let header = [&[1, 0, 0, 0, 0, 0][..], &start.to_le_bytes(), &offset.to_le_bytes()].concat();
    [header, bytes].concat()
}

/// Hands in bytes.
type HandIn<'a> = &'a dyn Fn(&[u8]);

/// The one's complement sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    words.fold(0, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// The place of IPv4's source in a frame, of UDP's target port, and of the sender's address in ARP.
const SOURCE: u16 = 26;
const TO_PORT: u16 = 36;
const ARP_SENDER: u16 = 28;

/// The place of a checksum that makes another address of a packet's source, and that checksum.
pub(crate) fn source_of(ip: Ipv4Addr) -> (&'static str, (u16, u16), u16) {
    ("a sibling's address", (SOURCE + 2, 0), half(ip))
}

/// The second half of an address.
fn half(ip: Ipv4Addr) -> u16 {
    u16::from_be_bytes([ip.octets()[2], ip.octets()[3]])
}

/// The frames of a child's own that a checksum makes forgeries of: what they are, the frame, where the
/// checksum is written and what it is.
fn transformed(site: &Site) -> Vec<(&'static str, Frame, (u16, u16), u16)> {
    let (evil, router) = (&site.evil, &site.lan.router);
    let packet = || V4::new(evil.ip, router.ip, UDP, udp(5000, 5001)).frame(evil.mac, router.mac);
    let claim = Arp::reply((evil.mac, evil.ip), (site.victim.mac, site.victim.ip));
    vec![
        ("a sibling's address", packet(), (SOURCE + 2, 0), half(site.victim.ip)),
        ("the same, from before", packet(), (20, SOURCE + 2 - 20), half(site.victim.ip)),
        ("a DHCP server", packet(), (TO_PORT, 0), 68),
        (
            "the gateway's address in ARP",
            claim.to(evil.mac, site.victim.mac),
            (ARP_SENDER + 2, 0),
            half(router.ip),
        ),
    ]
}

/// A pending checksum is written behind every check: by the parent, or its NIC. It may be
/// that of the transport header that was checked, and no other. A tap device in the child's namespace hands
/// in such frames, and so does a packet socket that has set `PACKET_VNET_HDR` before its child was
/// enforced. An honest one, as of a virtual machine behind the tap, passes.
#[test]
fn no_checksum_changes_what_was_checked() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let ns = &site.evil.ns;
        // The parent writes it by itself, so that the taps on the wire hear what a NIC would send.
        site.lan.hosts[0].ns.offload(PARENT, "tx", false);
        site.set("--security off --trust mac");
        let early = Tap::open(ns, "eth0");
        early.vnet_header().expect("the option can be set");
        ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        ns.bridge("inner");
        let tap = Tun::new(ns, "tap", Kind::TapWithHeader);
        for ifname in ["tap", "eth0"] {
            ns.enslave(ifname, "inner");
        }
        // A copy of a frame has no socket.
        ns.veth("copies", ns, "origins");
        tc(ns, "qdisc add dev origins clsact");
        tc(
            ns,
            "filter add dev origins ingress protocol all u32 match u32 0 0 \
                action mirred egress mirror dev eth0",
        );
        let origin = Tap::open(ns, "copies");
        origin.vnet_header().expect("the option can be set");
        let ways: [(&str, HandIn<'_>); 3] = [
            ("a tap", &|bytes| tap.write(bytes)),
            ("a socket", &|bytes| early.send_bytes(bytes)),
            ("a copy", &|bytes| origin.send_bytes(bytes)),
        ];
        for enforced in [true, false] {
            if enforced {
                site.set("--security enforce --trust none");
            } else {
                site.set("--security off --trust mac");
            }
            let (before, mut sent) = (site.counts(), Vec::new());
            let _earlier = site.heard();
            for (way, send) in ways {
                let mut hand_in = |name, frame: &Frame, place, value, arrives| {
                    let token = token();
                    send(&unfinished(&frame.clone().trailer(&token), place, value));
                    sent.push((format!("{attacker:?}: {name}, by {way}"), token, arrives));
                };
                for (name, frame, place, value) in &transformed(&site) {
                    hand_in(*name, frame, *place, *value, !enforced);
                }
                // UDP's own, of a virtual machine.
                let (_, honest, ..) = &transformed(&site)[0];
                hand_in("an honest one", honest, (34, 6), 0x1234, true);
            }
            if enforced {
                let dropped = sent.iter().filter(|(.., arrives)| !arrives).count() as u64;
                let what = format!("{attacker:?}");
                site.counted(&what, &before, &[("hidden_header", (dropped, 0))]);
            }
            let heard = site.heard();
            for (what, token, arrives) in &sent {
                let of = |frames: &[Frame]| frames.iter().any(|frame| frame.carries(token));
                let who: Vec<_> = heard.iter().filter(|h| of(&h.1)).map(|h| h.0).collect();
                assert_eq!(!who.is_empty(), *arrives, "{what}: heard by {who:?}");
            }
        }
    }
}

/// What a kernel makes that forwards for others has pending checksums, and no socket: a container behind
/// NAT in a child reaches the LAN by TCP.
#[test]
fn a_router_in_a_child_forwards_tcp() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (ns, inner) = (&site.evil.ns, Netns::without_ipv6());
        ns.veth("inside", &inner, "eth0");
        ns.address("inside", "10.9.0.1/24");
        inner.address("eth0", "10.9.0.2/24");
        inner.ip("route add default via 10.9.0.1");
        ns.sysctl("net/ipv4/ip_forward", "1");
        ns.run(&[
            "nft",
            "table ip masq { chain c { type nat hook postrouting priority 100; \
                         oif eth0 masquerade; }; }",
        ]);
        let before = site.counts();
        echo(&site.lan.router.ns, &inner, site.lan.router.ip, 1 << 20);
        site.counted(&format!("{attacker:?}"), &before, &[]);
    }
}

/// A packet ring shares a frame's memory with its sender (`PACKET_TX_RING`), which can change what stands
/// there at any time. A frame is what was checked all the same: with a source address that changes all the time,
/// those with the child's own arrive, and none with its sibling's.
#[test]
fn a_ring_cannot_change_what_was_checked() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (own, other) = (site.evil.ip, site.victim.ip);
        let packet = |from| {
            V4::new(from, site.lan.router.ip, UDP, udp(5000, 5001))
                .frame(site.evil.mac, site.lan.router.mac)
        };
        let dropped = || site.counts().get("source_ip").map_or(0, |count| count.0);
        for enforced in [true, false] {
            if !enforced {
                site.set("--security off");
            }
            let ring = Ring::open(&site.evil.ns, "eth0", Version::V2).expect("a ring");
            let what = format!("{attacker:?}, enforced {enforced}");
            let (mut own_heard, mut changed) = (0, 0);
            // On a busy machine the two threads do not always run at the same time.
            eventually(&format!("{what}: both are seen"), Duration::from_secs(60), || {
                let (token, before) = (token(), dropped());
                send_changing(&ring, &packet(own).trailer(&token), [own, other]);
                let heard = site.wire.with_token(&token, A_WHILE);
                let from = |ip: Ipv4Addr| {
                    heard.iter().filter(|f| f.payload[12..16] == ip.octets()).count() as u64
                };
                own_heard += from(own);
                if enforced {
                    assert_eq!(from(other), 0, "{what}: heard with its sibling's address");
                    changed += dropped() - before;
                } else {
                    changed += from(other);
                }
                own_heard > 0 && changed > 0
            });
        }
    }
}

/// Sends a frame of IPv4 many times by a ring, while its source is one of two that differ in their last byte.
fn send_changing(ring: &Ring, frame: &Frame, ips: [Ipv4Addr; 2]) {
    const FRAMES: usize = 1000;
    let (runs, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let last = usize::from(SOURCE) + 3;
    let slots: Vec<_> = (0..SLOTS).map(|slot| ring.byte(slot, last)).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            run_on(1);
            while !stop.load(Ordering::Relaxed) {
                for ip in ips {
                    for byte in &slots {
                        byte.store(ip.octets()[3], Ordering::Relaxed);
                    }
                }
                runs.store(true, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            run_on(0);
            while !runs.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            for _ in 0..FRAMES {
                ring.send(frame);
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// Keeps the calling thread on a CPU, so that two of them run at the same time.
fn run_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a small number");
    // On a machine of one CPU it runs on that.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// A classifier of a qdisc on the child's link runs behind the guard, and can rewrite a frame: the parent's
/// egress, or the host end, checks what comes out. In bridge mode the kernel gives a frame for all stations to
/// siblings in that mode before, which is why it is not tried there.
#[test]
fn no_filter_behind_the_guard_gets_a_forgery_through() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        let (ns, evil, victim) = (&site.evil.ns, &site.evil, &site.victim);
        tc(ns, "qdisc add dev eth0 root handle 1: htb default 1");
        tc(ns, "class add dev eth0 parent 1: classid 1:1 htb rate 10gbit");
        let program = rewriter(ARP_SENDER.into(), site.lan.router.ip);
        let path = site.daemon.bpffs().join("rewriter");
        pin(&program, &path);
        let place = path.display();
        tc(ns, &format!("filter add dev eth0 parent 1: protocol arp bpf da object-pinned {place}"));
        std::fs::remove_file(&path).expect("the pin is there");
        let own = (evil.mac, evil.ip);
        let mut honest = vec![Arp::reply(own, (victim.mac, victim.ip)).to(evil.mac, victim.mac)];
        if attacker != Attacker::Bridge {
            honest.push(Arp::announcement(own).broadcast(evil.mac));
        }
        for enforced in [true, false] {
            if !enforced {
                site.set("--security off");
            }
            for frame in &honest {
                let before = site.counts();
                let who = site.hearers(&evil.tap, frame);
                // A tap on the host's parent hears what the kernel switches there, before TC.
                let who: Vec<_> = who.into_iter().filter(|who| *who != "the host").collect();
                let what = format!("{attacker:?}: {frame:?} is heard by {who:?}");
                assert_eq!(who.is_empty(), enforced, "{what}");
                if enforced {
                    site.counted(&what, &before, &[("neighbour_claim", (1, 0))]);
                }
            }
        }
    }
}

/// A classifier that writes an address into each frame.
fn rewriter(at: i32, ip: Ipv4Addr) -> std::os::fd::OwnedFd {
    const SCHED_CLS: u32 = 3;
    const SKB_STORE_BYTES: i32 = 9;
    // The address onto the stack; the helper's arguments; the call; TC_ACT_UNSPEC.
    let code = [
        instruction(0x62, (10, 0), -4, i32::from_ne_bytes(ip.octets())),
        instruction(0xb7, (2, 0), 0, at),
        instruction(0xbf, (3, 10), 0, 0),
        instruction(0x07, (3, 0), 0, -4),
        instruction(0xb7, (4, 0), 0, 4),
        instruction(0xb7, (5, 0), 0, 0),
        instruction(0x85, (0, 0), 0, SKB_STORE_BYTES),
        instruction(0xb7, (0, 0), 0, -1),
        instruction(0x95, (0, 0), 0, 0),
    ];
    load(SCHED_CLS, &code, *b"rewriter").expect("a program of nine instructions")
}

/// Runs `tc` inside.
#[track_caller]
fn tc(ns: &Netns, line: &str) {
    let words: Vec<_> = std::iter::once("tc").chain(line.split_whitespace()).collect();
    ns.run(&words);
}
