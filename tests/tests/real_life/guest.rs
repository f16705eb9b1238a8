//! A guest behind a tap device in the namespace of a child, as QEMU's are: each of its frames comes with a
//! `struct virtio_net_hdr`, and leaves checksums and segments to the kernel.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use tests::{
    eventually,
    forge::{Arp, UDP, V4},
    frames::{ARP, Frame, IPV4, internet_checksum},
    mac::Mac,
    netns::Netns,
    patience,
    tap::Tap,
    topology::PARENT,
    tun::{Kind, Tun, Vnet},
};

use crate::site::{KINDS, SOON, Site};

/// The protocol TCP.
const TCP: u8 = 6;

/// Bytes in front of TCP or UDP.
const HEADERS: u16 = 34;

/// Bytes of data in the long segment of a guest, and in each of those that leave.
const LONG: u16 = 4000;
const SHORT: u16 = 1000;

/// Port of the stations.
const PORT: u16 = 7777;

/// A guest.
struct Guest {
    tun: Tun,
    mac: Mac,
    ip: Ipv4Addr,
}

/// The sum of a pseudo-header, which a sender that leaves the checksum to others writes in its place.
fn pseudo_sum((from, to): (Ipv4Addr, Ipv4Addr), protocol: u8, length: usize) -> [u8; 2] {
    let length = u16::try_from(length).expect("a test's packet is small").to_be_bytes();
    let bytes = [&from.octets()[..], &to.octets(), &[0, protocol], &length].concat();
    (!internet_checksum(&bytes)).to_be_bytes()
}

impl Guest {
    /// Asks for an address, and returns whose it is.
    #[track_caller]
    fn resolve(&self, ip: Ipv4Addr) -> Mac {
        let request = Arp::request((self.mac, self.ip), ip).broadcast(self.mac);
        self.tun.send(Vnet::default(), &request.to_bytes());
        let is_reply =
            |f: &Frame| f.ethertype == ARP && f.payload[7] == 2 && f.payload[14..18] == ip.octets();
        let reply = self.tun.find(SOON, is_reply).unwrap_or_else(|| panic!("{ip} answers"));
        reply.source
    }

    /// Sends a datagram to a station and is answered; the checksum of what it sends is left to the kernel.
    #[track_caller]
    fn talks_to(&self, mac: Mac, station: &Netns, ip: Ipv4Addr) {
        let socket = station.enter(|| UdpSocket::bind((ip, PORT))).expect("a port is free");
        socket.set_read_timeout(Some(patience(SOON))).expect("a time can be set");
        let data = b"a question of the guest's";
        let mut body = [&PORT.to_be_bytes()[..], &PORT.to_be_bytes()].concat();
        let length = 8 + data.len();
        body.extend(u16::try_from(length).expect("a short datagram").to_be_bytes());
        body.extend(pseudo_sum((self.ip, ip), UDP, length));
        body.extend(data);
        let frame = V4::new(self.ip, ip, UDP, body).frame(self.mac, mac);
        let vnet = Vnet { checksum: Some((HEADERS, 6)), segments: None };
        self.tun.send(vnet, &frame.to_bytes());
        let mut heard = [0; 100];
        let (read, from) = socket.recv_from(&mut heard).unwrap_or_else(|e| panic!("{ip}: {e}"));
        assert_eq!(&heard[..read], data, "{ip}");
        assert_eq!(from, SocketAddrV4::new(self.ip, PORT).into());
        socket.send_to(b"an answer", from).expect("a datagram can be sent");
        let answer = self.tun.find(SOON, |f| f.ethertype == IPV4 && f.carries("an answer"));
        assert!(answer.is_some(), "the guest hears {ip}");
    }

    /// Sends a long segment of TCP, which the kernel takes apart.
    #[track_caller]
    fn sends_long(&self, mac: Mac, ip: Ipv4Addr) {
        let mut body = [&PORT.to_be_bytes()[..], &PORT.to_be_bytes()].concat();
        body.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0]);
        body.extend(pseudo_sum((self.ip, ip), TCP, usize::from(20 + LONG)));
        body.extend([0, 0]);
        body.resize(usize::from(20 + LONG), 0x5a);
        let frame = V4::new(self.ip, ip, TCP, body).frame(self.mac, mac);
        let vnet = Vnet { checksum: Some((HEADERS, 16)), segments: Some((HEADERS + 20, SHORT)) };
        self.tun.send(vnet, &frame.to_bytes());
    }
}

/// Whether the checksum of a packet of TCP is right.
fn is_whole(frame: &Frame) -> bool {
    let length = usize::from(u16::from_be_bytes([frame.payload[2], frame.payload[3]]));
    let (header, body) = frame.payload[..length].split_at(20);
    let ends = u16::try_from(body.len()).expect("a packet is small").to_be_bytes();
    let mut bytes = [&header[12..20], &[0, TCP], &ends, body].concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    internet_checksum(&bytes) == 0
}

/// The guest talks to each station, with and without checksum offload of the parent; `next_hop` is to whom
/// its frames go if not to the station itself.
#[track_caller]
fn works(site: &Site, guest: &Guest, sibling: (&Netns, Ipv4Addr), next_hop: Option<Mac>) {
    let (router, host) = (&site.lan.router, &site.lan.hosts[0]);
    for offload in [true, false] {
        host.ns.offload(PARENT, "tx", offload);
        for (ns, ip) in [(&router.ns, router.ip), (&host.ns, host.ip), sibling] {
            let mac = next_hop.unwrap_or_else(|| guest.resolve(ip));
            guest.talks_to(mac, ns, ip);
        }
        let tap = Tap::open(&router.ns, "eth0");
        guest.sends_long(next_hop.unwrap_or(router.mac), router.ip);
        let of_guest = |f: &Frame| {
            f.ethertype == IPV4 && f.payload[9] == TCP && f.payload[12..16] == guest.ip.octets()
        };
        let mut data = 0;
        while data < LONG {
            let segment = tap.find(SOON, of_guest).expect("a segment arrives");
            let length = u16::from_be_bytes([segment.payload[2], segment.payload[3]]);
            data += length - 40;
            assert!(offload || is_whole(&segment) && length == SHORT + 40, "{segment:?}");
        }
        assert_eq!(data, LONG);
    }
}

/// A guest with the MAC and the address of its child, to which the child's link is tied by `tc … mirred`
/// (as Kata Containers does), needs no trust.
#[test]
fn a_guest_with_the_childs_addresses_works() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let child = site.member("child", "--ip 192.168.50.101/24");
        let sibling = site.member("sibling", "--ip 192.168.50.102/24");
        let tun = Tun::new(&child.ns, "tap0", Kind::TapWithHeader);
        for (from, to) in [("eth0", "tap0"), ("tap0", "eth0")] {
            for line in [
                format!("tc qdisc add dev {from} clsact"),
                format!(
                    "tc filter add dev {from} ingress protocol all u32 match u8 0 0 \
                     action mirred egress redirect dev {to}"
                ),
            ] {
                child.ns.run(&line.split_whitespace().collect::<Vec<_>>());
            }
        }
        let guest = Guest { tun, mac: child.mac, ip: Ipv4Addr::new(192, 168, 50, 101) };
        works(&site, &guest, (&sibling.ns, Ipv4Addr::new(192, 168, 50, 102)), None);
        site.assert_nothing_counted(&[&child, &sibling]);
    }
}

/// A guest with a prefix of its own, for which the child is a router, needs `--allow-ip` for the prefix.
#[test]
fn a_routed_guest_needs_its_prefix_allowed() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let child = site.member("child", "--ip 192.168.50.101/24 --allow-ip 10.66.0.0/24");
        let sibling = site.member("sibling", "--ip 192.168.50.102/24");
        let tun = Tun::new(&child.ns, "tap0", Kind::TapWithHeader);
        child.ns.address("tap0", "10.66.0.1/24");
        child.ns.sysctl("net/ipv4/ip_forward", "1");
        for ns in [&site.lan.router.ns, &site.lan.hosts[0].ns, &sibling.ns] {
            ns.ip("route add 10.66.0.0/24 via 192.168.50.101");
        }
        let guest = Guest { tun, mac: Mac::local(66), ip: Ipv4Addr::new(10, 66, 0, 2) };
        let next_hop = guest.resolve(Ipv4Addr::new(10, 66, 0, 1));
        works(&site, &guest, (&sibling.ns, Ipv4Addr::new(192, 168, 50, 102)), Some(next_hop));
        site.assert_nothing_counted(&[&child, &sibling]);
    }
}

/// A guest on a bridge with a MAC of its own is heard with `--trust mac` and its address in `--allow-ip`.
#[test]
fn a_bridged_guest_needs_trust_with_mac() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let own = "--ip 192.168.50.101/24 --allow-ip 192.168.50.130";
        let child = site.member("child", own);
        let tun = Tun::new(&child.ns, "tap0", Kind::TapWithHeader);
        child.ns.bridge("br0");
        child.ns.enslave("eth0", "br0");
        child.ns.enslave("tap0", "br0");
        let guest = Guest { tun, mac: Mac::local(66), ip: Ipv4Addr::new(192, 168, 50, 130) };
        let tap = Tap::open(&site.lan.router.ns, "eth0");
        let request = Arp::request((guest.mac, guest.ip), site.lan.router.ip).broadcast(guest.mac);
        let sends = || guest.tun.send(Vnet::default(), &request.to_bytes());
        eventually("what the guest sends is refused", SOON, || {
            sends();
            site.counted(&child).contains_key("source_mac")
        });
        site.daemon.run(&["child", "set", "child", "--trust", "mac"]);
        sends();
        let heard: Vec<_> = tap.collect(Duration::from_millis(300));
        let heard = heard.iter().filter(|frame| frame.source == guest.mac).count();
        assert_eq!(heard, 1, "frames of the guest on the wire");
    }
}
