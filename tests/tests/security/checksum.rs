//! A child whose frames come with pending checksums, at a place that it chooses: what holds the other end of a tap
//! device in its namespace hands them in (`IFF_VNET_HDR`), past every option of a socket. A guest of QEMU does so
//! without a capability.

use tests::{
    forge::{Arp, UDP, V4, V6},
    frames::{Frame, token},
    tap::Tap,
    topology::PARENT,
    tun::{Kind, Tun, Vnet},
};

use crate::site::{A_WHILE, Attacker, Site, settle};

/// Where a checksum begins that is written into the headers: the first place that `virtio_net_hdr_to_skb`
/// takes.
const START: usize = 20;

/// A frame, and where a checksum is to be written that comes out as `then`.
struct Forgery {
    name: &'static str,
    frame: Frame,
    at: usize,
    then: [u8; 2],
}

impl Forgery {
    /// The bytes to hand in. The last two see to it that the checksum comes out as it is to.
    fn unfinished(&self) -> (Vnet, Vec<u8>) {
        let mut bytes = self.frame.to_bytes();
        let end = bytes.len() & !1;
        bytes.truncate(end);
        bytes[end - 2..].fill(0);
        let add = |sum: u32, pair: &[u8]| {
            let sum = sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]));
            (sum & 0xffff) + (sum >> 16)
        };
        let sum = bytes[START..].chunks(2).fold(0, add);
        let wanted = u32::from(!u16::from_be_bytes(self.then));
        let balance = u16::try_from((wanted + 0xffff - sum) % 0xffff).expect("16 bits");
        bytes[end - 2..].copy_from_slice(&balance.to_be_bytes());
        let [start, offset] = [START, self.at - START].map(|n| u16::try_from(n).expect("small"));
        (Vnet { checksum: Some((start, offset)), segments: None }, bytes)
    }
}

/// UDP with a token in it, which no checksum covers.
fn datagram(from: u16, to: u16, token: &str) -> Vec<u8> {
    let mut data = token.as_bytes().to_vec();
    data.resize(48, 0);
    let length = u16::try_from(8 + data.len()).expect("a short datagram");
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], &data].concat()
}

/// What the attacker may send as it is handed in, and may not as it is on the wire.
fn forgeries(site: &Site, token: &str) -> Vec<Forgery> {
    let (evil, victim, router) = (&site.evil, &site.victim, &site.lan.router);
    let last = |ip: std::net::Ipv4Addr| [ip.octets()[2], ip.octets()[3]];
    let v4 = |ip, from, to| V4::new(ip, router.ip, UDP, datagram(from, to, token));
    let own = v4(evil.ip, 5000, 5001).frame(evil.mac, router.mac);
    let mut spoofed = own.clone();
    let wanted = v4(victim.ip, 5000, 5001).frame(evil.mac, router.mac);
    spoofed.payload[10..12].copy_from_slice(&wanted.payload[10..12]);
    let reply = Arp::reply((evil.mac, evil.ip), (router.mac, router.ip));
    let long = token.to_owned() + "........";
    let body = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &evil.ip6.octets()].concat();
    let claim = V6::icmp(evil.ip6, router.ip6, body).frame(evil.mac, router.mac).trailer(&long);
    let claimed = victim.ip6.segments()[7].to_be_bytes();
    vec![
        Forgery { name: "a source", frame: spoofed, at: 28, then: last(victim.ip) },
        Forgery {
            name: "ARP",
            frame: reply.to(evil.mac, router.mac).trailer(&long),
            at: 30,
            then: last(victim.ip),
        },
        Forgery { name: "DHCP", frame: own.clone(), at: 36, then: [0, 68] },
        // Where UDP's checksum is, but of a transport header that begins earlier: by that alone some NICs go.
        Forgery { name: "the start", frame: own.clone(), at: 40, then: [0, 68] },
        // Some NICs take 8 bits of the place: 282 is a byte of the source address for them.
        Forgery {
            name: "far off",
            frame: own.clone().trailer(&"x".repeat(240)),
            at: 282,
            then: [0, 1],
        },
        Forgery { name: "a protocol", frame: own, at: 22, then: [64, 2] },
        Forgery { name: "neighbour discovery", frame: claim, at: 76, then: claimed },
    ]
}

/// No frame whose checksum is to be written over a header arrives: bridged to the child's link, with and
/// without checksum offload of the parent. With `--security log` and with `--trust raw-socket` each does, and is forged
/// by then.
#[test]
fn no_checksum_is_written_where_headers_are_checked() {
    for attacker in Attacker::all() {
        let site = Site::new(*attacker);
        settle(&site.evil.ns);
        let (host, wire) = (&site.lan.hosts[0].ns, &site.lan.wire);
        // What is pending on the way to the router, is computed here.
        wire.offload("router", "tx", false);
        let evil = &site.evil.ns;
        // Bridge and tap device have nothing to say of their own.
        evil.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        evil.bridge("br0");
        let tun = Tun::new(evil, "tap0", Kind::TapWithHeader);
        evil.enslave("tap0", "br0");
        evil.enslave("eth0", "br0");
        let enforce = "--security enforce --trust none";
        for (offload, setting, counts) in [
            (true, enforce, Some((1, 0))),
            (false, enforce, Some((1, 0))),
            (false, "--security log --trust none", Some((0, 1))),
            (false, "--security enforce --trust raw-socket", None),
        ] {
            host.offload(PARENT, "tx", offload);
            site.set(setting);
            let router = Tap::open(&site.lan.router.ns, "eth0");
            let token = token();
            for forgery in forgeries(&site, &token) {
                let what = format!("{attacker:?}, offload {offload}, {setting}: {}", forgery.name);
                let before = site.counts();
                let (vnet, bytes) = forgery.unfinished();
                tun.send(vnet, &bytes);
                let heard = router.find(A_WHILE, |frame| frame.carries(&token));
                let at = forgery.at;
                let forged = heard.map(|frame| frame.to_bytes()[at..at + 2] == forgery.then);
                let passes = counts != Some((1, 0));
                assert_eq!(forged, passes.then_some(true), "{what}");
                let counted: Vec<_> = counts.map(|n| ("hidden_header", n)).into_iter().collect();
                site.counted(&what, &before, &counted);
            }
        }
    }
}
