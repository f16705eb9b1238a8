//! Frames about who has an address: ARP (RFC 826) and neighbour advertisements (RFC 4861).

use crate::abi::Ip;

/// `ETH_P_ARP` (`include/uapi/linux/if_ether.h`).
pub const ETH_P_ARP: u16 = 0x0806;

/// `ETH_P_IPV6` (`include/uapi/linux/if_ether.h`).
pub const ETH_P_IPV6: u16 = 0x86dd;

/// An ARP packet for IPv4 over Ethernet: what is behind the `EtherType`.
pub type Arp = [u8; 28];

/// An IPv6 header and the fixed part of a neighbour advertisement.
pub type Advertisement = [u8; 64];

/// The hardware, the protocol and the lengths of their addresses: Ethernet and IPv4.
const ETHERNET_IPV4: u64 = 0x0001_0800_0604;

/// Next header 58, from the link itself (RFC 4861, section 7.1.2).
const ICMPV6_FROM_LINK: u16 = 0x3aff;

/// An advertisement, with code 0 (RFC 4861, section 4.4).
const ADVERTISEMENT: u16 = 0x8800;

/// An IPv4 address as the tables have it (RFC 4291, section 2.5.5.2).
#[must_use]
#[inline(always)]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> Ip {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The address that the sender of an ARP packet says to have: any packet with one is a claim (RFC
/// 5227, section 2.4), a probe has none.
#[must_use]
#[inline(always)]
pub fn claimed_by_arp(arp: &Arp) -> Option<Ip> {
    let head = u64::from_be_bytes([0, 0, arp[0], arp[1], arp[2], arp[3], arp[4], arp[5]]);
    let sender = [arp[14], arp[15], arp[16], arp[17]];
    if head == ETHERNET_IPV4 && u32::from_be_bytes(sender) != 0 {
        Some(mapped(sender))
    } else {
        None
    }
}

/// The address that a neighbour advertisement is about.
#[must_use]
#[inline(always)]
pub fn claimed_by_advertisement(packet: &Advertisement) -> Option<Ip> {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if word(6) != ICMPV6_FROM_LINK || word(40) != ADVERTISEMENT {
        return None;
    }
    packet[48..].try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: [u8; 4] = [192, 168, 50, 9];

    fn arp(operation: u8, sender: [u8; 4]) -> Arp {
        let mut arp = [0; 28];
        arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
        arp[14..18].copy_from_slice(&sender);
        arp[24..].copy_from_slice(&[10, 0, 0, 1]);
        arp
    }

    #[test]
    fn whoever_names_itself_in_arp_claims_that_address() {
        for operation in [1, 2] {
            assert_eq!(claimed_by_arp(&arp(operation, SENDER)), Some(mapped(SENDER)));
            assert_eq!(claimed_by_arp(&arp(operation, [0; 4])), None, "a probe");
        }
        for byte in 0..6 {
            let mut other = arp(1, SENDER);
            other[byte] ^= 1;
            assert_eq!(claimed_by_arp(&other), None, "not Ethernet and IPv4, byte {byte}");
        }
    }

    #[test]
    fn an_advertisement_claims_its_target() {
        let mut packet = [0; 64];
        (packet[6], packet[7], packet[40]) = (58, 255, 136);
        packet[48..].copy_from_slice(&[0xfd, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        let target: Ip = packet[48..].try_into().unwrap();
        assert_eq!(claimed_by_advertisement(&packet), Some(target));
        for (byte, value, why) in
            [(6, 17, "UDP"), (7, 64, "from afar"), (40, 135, "a question"), (41, 1, "its code")]
        {
            let mut other = packet;
            other[byte] = value;
            assert_eq!(claimed_by_advertisement(&other), None, "{why}");
        }
    }
}
