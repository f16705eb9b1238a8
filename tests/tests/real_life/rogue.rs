//! Servers of DHCP and `DHCPv6` in a child that may be none, which answer from another port than that of servers: a
//! client does not look at it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tests::{
    eventually,
    forge::{UDP, V4, V6},
    frames::{Frame, IPV4, IPV6},
    mac::Mac,
    tap::Tap,
};

use crate::{
    programs::Program,
    site::{KINDS, Member, SOON, Site},
};

/// The port that they answer from.
const PORT: u16 = 1067;

/// Bytes of a frame's IPv4 and IPv6 header, and of that of UDP.
const IPV4_HLEN: usize = 20;
const IPV6_HLEN: usize = 40;
const UDP_HLEN: usize = 8;

/// Where the options of a message of `DHCPv4` begin (RFC 2131, section 2).
const OPTIONS: usize = 240;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 102);
const GIVEN: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 120);
const GIVEN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x1000);

/// A server in a child.
struct Rogue<'a> {
    child: &'a Member,
    tap: Tap,
}

impl<'a> Rogue<'a> {
    #[track_caller]
    fn new(child: &'a Member) -> Self {
        Self { child, tap: Tap::open(&child.ns, "eth0") }
    }

    /// Answers all questions that have come by now, and those of a moment.
    fn answer(&self, answer: impl Fn(Mac, &Frame) -> Option<Frame>) {
        for question in self.tap.collect(Duration::from_millis(20)) {
            if let Some(answer) = answer(self.child.mac, &question) {
                self.tap.send(&answer);
            }
        }
    }
}

/// What UDP carries in a frame to a port, behind an IP header of that length.
fn datagram(frame: &Frame, (ethertype, header): (u16, usize), port: u16) -> Option<&[u8]> {
    let ports = frame.payload.get(header..header + 4)?;
    let is_it = frame.ethertype == ethertype && ports[2..] == port.to_be_bytes();
    if is_it { frame.payload.get(header + UDP_HLEN..) } else { None }
}

/// The value of an option of `DHCPv4`.
fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = message.get(OPTIONS..)?;
    while let [code, length, ..] = rest {
        let end = 2 + usize::from(*length);
        if *code == wanted {
            return rest.get(2..end);
        }
        rest = rest.get(end..)?;
    }
    None
}

/// The answer to a message of a client: an offer to a discovery, an acknowledgement to a request.
fn answer(source: Mac, question: &Frame) -> Option<Frame> {
    let question = datagram(question, (IPV4, IPV4_HLEN), 67)?;
    let kind = match option(question, 53)? {
        [1] => 2,
        [3] => 5,
        _ => return None,
    };
    let mut message = question.get(..OPTIONS)?.to_vec();
    message[0] = 2;
    message[16..20].copy_from_slice(&GIVEN.octets());
    message.extend([53, 1, kind, 54, 4]);
    message.extend(OWN.octets());
    message.extend([51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 255]);
    let packet = V4::new(OWN, Ipv4Addr::BROADCAST, UDP, udp(68, &message));
    Some(packet.frame(source, Mac::BROADCAST))
}

/// A datagram from [`PORT`] without a checksum.
fn udp(to: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(UDP_HLEN + data.len()).expect("a small datagram");
    [&PORT.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], data].concat()
}

/// An option of `DHCPv6` (RFC 8415, section 21.1).
fn option6(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a short option");
    [&code.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

/// The value of an option of `DHCPv6`.
fn find6(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(4..)?;
    while let [a, b, c, d, ..] = rest {
        let end = 4 + usize::from(u16::from_be_bytes([*c, *d]));
        if u16::from_be_bytes([*a, *b]) == wanted {
            return rest.get(4..end);
        }
        rest = rest.get(end..)?;
    }
    None
}

/// The answer to a message of a client of `DHCPv6`: an advertisement to a solicitation, a reply to a request.
fn answer6(source: Mac, from: Ipv6Addr, question: &Frame) -> Option<Frame> {
    let message = datagram(question, (IPV6, IPV6_HLEN), 547)?;
    let kind = match message.first()? {
        1 => 2,
        3 => 7,
        _ => return None,
    };
    let client: [u8; 16] = *question.payload.get(8..24)?.first_chunk()?;
    let association = find6(message, 3)?.get(..4)?;
    let lifetimes = [0, 0, 14, 16, 0, 0, 14, 16];
    let address = option6(5, &[&GIVEN6.octets()[..], &lifetimes].concat());
    let association = [association, &[0; 8], &address].concat();
    let server = [&[0, 3, 0, 1][..], &source.0].concat();
    let mut answer = vec![kind];
    answer.extend(message.get(1..4)?);
    answer.extend(option6(1, find6(message, 1)?));
    answer.extend(option6(2, &server));
    answer.extend(option6(3, &association));
    let packet = V6::udp(from, client.into(), (PORT, 546), &answer);
    Some(packet.frame(source, question.source))
}

/// The link-local address of a child, as soon as it can be used.
#[track_caller]
fn link_local(child: &Member) -> Ipv6Addr {
    let mut found = None;
    eventually("its link-local address can be used", SOON, || {
        let text = child.ns.ip("-6 address show dev eth0 scope link");
        let word = text.split_whitespace().find(|word| word.starts_with("fe80"));
        found = word.and_then(|word| word.split('/').next()?.parse().ok());
        found.is_some() && !text.contains("tentative")
    });
    found.expect("an address")
}

#[test]
fn a_dhcp_server_at_another_port_gives_no_lease() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let server = site.member("server", &format!("--ip {OWN}/24"));
        let child = site.member("child", "");
        let rogue = Rogue::new(&server);
        let client = Program::udhcpc(&child.ns, "");
        eventually("its offers are refused", SOON, || {
            rogue.answer(answer);
            site.counted(&server).get("dhcp_server").is_some_and(|count| *count >= 3)
        });
        assert_eq!(client.times("bound"), 0, "{kind}: {}", client.log());
        // It is security that keeps the client from it.
        site.daemon.run(&["child", "set", "server", "--security", "off"]);
        eventually("the client takes it", SOON, || {
            rogue.answer(answer);
            client.times("bound") > 0
        });
    }
}

#[test]
fn a_dhcpv6_server_at_another_port_gives_no_lease() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, true);
        let server = site.member("server", "--ip fd00:50::102/64");
        let child = site.member("child", "");
        let from = link_local(&server);
        link_local(&child);
        let rogue = Rogue::new(&server);
        // A server is in the group of servers and relays (RFC 8415, section 7.1).
        server.ns.ip("maddress add 33:33:00:01:00:02 dev eth0");
        let answer = |mac, question: &Frame| answer6(mac, from, question);
        let client = Program::dhclient6(&child.ns);
        eventually("its advertisements are refused", SOON, || {
            rogue.answer(answer);
            site.counted(&server).get("dhcp_server").is_some_and(|count| *count >= 2)
        });
        assert_eq!(client.times("BOUND6"), 0, "{kind}: {}", client.log());
        site.daemon.run(&["child", "set", "server", "--security", "off"]);
        eventually("the client takes it", SOON, || {
            rogue.answer(answer);
            client.times("BOUND6") > 0
        });
    }
}
