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

/// A broadcast request of `mac`, which says that it has `sender`, for the MAC of `target`.
pub(crate) fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let ethernet_ipv4_request = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    let (sender, target) = (sender.octets(), target.octets());
    [&[0xff; 6][..], &mac.0, &ethernet_ipv4_request, &mac.0, &sender, &[0; 6], &target].concat()
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
