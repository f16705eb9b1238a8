//! Frames about who has an address: ARP requests (RFC 826), and messages of neighbour discovery (RFC
//! 4861).

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv6Type, PacketBuilder};

use crate::{
    error::{Error, Result},
    model::Mac,
};

/// `ICMPv6` types (RFC 4861, sections 4.3 and 4.4).
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

/// To everybody (RFC 4291, section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A broadcast request of `mac`, which says that it has `sender`, for the MAC of `target`.
pub(crate) fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(1, (mac, sender), (Mac([0xff; 6]), Mac([0; 6]), target))
}

/// A reply of `mac` to another, which says that it has `ip`, to a probe for it.
pub(crate) fn arp_reply_to_probe(mac: Mac, ip: Ipv4Addr, to: Mac) -> Vec<u8> {
    arp(2, (mac, ip), (to, to, Ipv4Addr::UNSPECIFIED))
}

/// `to` is the destination of the frame, and the hardware and protocol addresses of the target.
fn arp(operation: u8, (mac, ip): (Mac, Ipv4Addr), to: (Mac, Mac, Ipv4Addr)) -> Vec<u8> {
    let ethernet_ipv4 = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation];
    let (frame, target, target_ip) = to;
    let (ip, target_ip) = (ip.octets(), target_ip.octets());
    [&frame.0[..], &mac.0, &ethernet_ipv4, &mac.0, &ip, &target.0, &target_ip].concat()
}

/// An unsolicited advertisement to all nodes that `mac` has `ip` (RFC 4861, section 4.4); one that
/// overrides changes what they believe.
///
/// # Errors
///
/// [`crate::error::ErrorKind::Failed`] if it cannot be built.
pub(crate) fn advertisement(mac: Mac, ip: Ipv6Addr, overrides: bool) -> Result<Vec<u8>> {
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    let body = [&ip.octets()[..], &TARGET_LINK_LAYER_ADDRESS, &mac.0].concat();
    let kind = (ADVERTISEMENT, [if overrides { 0x20 } else { 0 }, 0, 0, 0]);
    message(mac, (ip, ALL_NODES), kind, &body)
}

/// A message from `mac` and `source` to a group, with the first word and the rest of its body.
///
/// # Errors
///
/// [`crate::error::ErrorKind::Failed`] if it cannot be built.
pub(crate) fn message(
    mac: Mac,
    (source, group): (Ipv6Addr, Ipv6Addr),
    kind: (u8, [u8; 4]),
    body: &[u8],
) -> Result<Vec<u8>> {
    let [.., a, b, c, d] = group.octets();
    let icmp = Icmpv6Type::Unknown { type_u8: kind.0, code_u8: 0, bytes5to8: kind.1 };
    let mut frame = Vec::new();
    // The group's MAC: RFC 2464, section 7.
    PacketBuilder::ethernet2(mac.0, [0x33, 0x33, a, b, c, d])
        .ipv6(source.octets(), group.octets(), 255)
        .icmpv6(icmp)
        .write(&mut frame, body)
        .map_err(|e| {
            Error::failed(format!("cannot build a message of neighbour discovery: {e}"))
        })?;
    Ok(frame)
}
