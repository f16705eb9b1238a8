//! What a frame carries, in a few words.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use etherparse::{
    ArpPacketSlice, Icmpv4Type, Icmpv6Slice, LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice,
};

/// Types of `ICMPv6` that are about neighbours (RFC 4861, section 4).
const NEIGHBOURS: [(u8, &str); 5] = [
    (133, "router solicitation"),
    (134, "router advertisement"),
    (135, "neighbour solicitation"),
    (136, "neighbour advertisement"),
    (137, "redirect"),
];

/// Operations of ARP (RFC 826).
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A frame in a few words; of one that is cut off, what there is to say.
pub(super) fn summary(bytes: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else { return "a runt".into() };
    let transport = packet.transport.as_ref();
    match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => about_arp(arp),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr().into(), header.destination_addr().into());
            about_ip(from, to, transport, ip.payload_ip_number().0)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr().into(), header.destination_addr().into());
            about_ip(from, to, transport, ip.payload().ip_number.0)
        }
        None => {
            // Behind the last tag.
            let at = 12 + 4 * packet.link_exts.len();
            match bytes.get(at..at + 2) {
                Some(&[high, low]) => format!("type {high:02x}{low:02x}"),
                _ => "cut off".into(),
            }
        }
    }
}

fn about_arp(arp: &ArpPacketSlice<'_>) -> String {
    let ip = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    let (Some(sender), Some(target)) =
        (ip(arp.sender_protocol_addr()), ip(arp.target_protocol_addr()))
    else {
        return "ARP, not of IPv4".into();
    };
    match arp.operation().0 {
        _ if sender == target => format!("ARP {sender} is announced"),
        REQUEST if sender.is_unspecified() => format!("ARP has anybody {target}?"),
        REQUEST => format!("ARP who has {target}? tell {sender}"),
        REPLY => format!("ARP {sender} is here"),
        other => format!("ARP operation {other}"),
    }
}

fn about_ip(
    from: IpAddr,
    to: IpAddr,
    transport: Option<&TransportSlice<'_>>,
    number: u8,
) -> String {
    let ways = |name: &str, a: u16, b: u16| {
        format!("{} > {} {name}", with_port(from, a), with_port(to, b))
    };
    let said = |what: &dyn Display| format!("{from} > {to} {what}");
    match transport {
        Some(TransportSlice::Tcp(tcp)) => {
            ways("TCP", tcp.source_port(), tcp.destination_port()) + &flags(tcp)
        }
        Some(TransportSlice::Udp(udp)) => ways("UDP", udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(_) => said(&"echo request"),
            Icmpv4Type::EchoReply(_) => said(&"echo reply"),
            Icmpv4Type::DestinationUnreachable(_) => said(&"unreachable"),
            _ => said(&format_args!("ICMP {}/{}", icmp.type_u8(), icmp.code_u8())),
        },
        Some(TransportSlice::Icmpv6(icmp)) => said(&about_icmpv6(icmp)),
        None => said(&format_args!("protocol {number}")),
    }
}

fn about_icmpv6(icmp: &Icmpv6Slice<'_>) -> String {
    let number = icmp.type_u8();
    if let Some((_, name)) = NEIGHBOURS.iter().find(|(known, _)| *known == number) {
        // Its target comes behind four bytes (RFC 4861, sections 4.3 and 4.4).
        let target = icmp.payload().first_chunk::<16>().filter(|_| matches!(number, 135 | 136));
        return match target {
            Some(target) => format!("{name} {}", Ipv6Addr::from(*target)),
            None => (*name).into(),
        };
    }
    match number {
        128 => "echo request".into(),
        129 => "echo reply".into(),
        143 => "multicast listener report".into(),
        _ => format!("ICMPv6 {number}/{}", icmp.code_u8()),
    }
}

fn with_port(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

fn flags(tcp: &TcpSlice<'_>) -> String {
    let flags = [(tcp.syn(), " SYN"), (tcp.fin(), " FIN"), (tcp.rst(), " RST")];
    flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const ETHERNET: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
        PacketBuilder::ethernet2(ETHERNET.0, ETHERNET.1)
    }

    fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = [&[0xff; 6][..], &ETHERNET.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
        [&head[..], &ETHERNET.0, &sender, &[0; 6], &target].concat()
    }

    #[test]
    fn frames_in_a_few_words() {
        let (a, b) = ([192, 168, 50, 9], [192, 168, 50, 1]);
        let six = |last| {
            let mut ip = [0; 16];
            (ip[0], ip[15]) = (0xfd, last);
            ip
        };
        macro_rules! packet {
            ($step:expr, $payload:expr) => {{
                let (step, payload, mut bytes) = ($step, $payload, Vec::new());
                step.write(&mut bytes, payload).unwrap();
                bytes
            }};
        }
        let solicitation =
            etherparse::Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
        let long = packet!(ethernet().ipv4(a, b, 64).udp(53, 4000), &[0; 300]);
        let cases = [
            (arp(1, a, b), "ARP who has 192.168.50.1? tell 192.168.50.9"),
            (arp(1, [0; 4], b), "ARP has anybody 192.168.50.1?"),
            (arp(1, a, a), "ARP 192.168.50.9 is announced"),
            (arp(2, a, b), "ARP 192.168.50.9 is here"),
            (
                packet!(ethernet().ipv4(a, b, 64).icmpv4_echo_request(1, 1), &[]),
                "192.168.50.9 > 192.168.50.1 echo request",
            ),
            (
                packet!(ethernet().ipv4(a, b, 64).tcp(40000, 80, 1, 1).syn(), &[]),
                "192.168.50.9:40000 > 192.168.50.1:80 TCP SYN",
            ),
            (
                packet!(
                    ethernet()
                        .single_vlan(etherparse::VlanId::try_new(10).unwrap())
                        .ipv4(a, b, 64)
                        .udp(53, 4000),
                    &[1]
                ),
                "192.168.50.9:53 > 192.168.50.1:4000 UDP",
            ),
            (long[..128].to_vec(), "192.168.50.9:53 > 192.168.50.1:4000 UDP"),
            (
                packet!(ethernet().ipv6(six(9), six(1), 64).tcp(40000, 80, 1, 1).rst(), &[]),
                "[fd00::9]:40000 > [fd00::1]:80 TCP RST",
            ),
            (
                packet!(ethernet().ipv6(six(9), six(1), 255).icmpv6(solicitation), &six(1)),
                "fd00::9 > fd00::1 neighbour solicitation fd00::1",
            ),
            ([&[0; 12][..], &[0x88, 0xcc, 1, 2]].concat(), "type 88cc"),
            (vec![0; 5], "a runt"),
            (Vec::new(), "a runt"),
        ];
        for (bytes, want) in cases {
            assert_eq!(summary(&bytes), want);
        }
    }
}
