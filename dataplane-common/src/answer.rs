//! Answers on behalf of a child: an ARP reply (RFC 826), a neighbour advertisement (RFC 4861, section
//! 4.4), made of the question in its place.

use crate::{
    abi::{Address, address},
    frame::Mac,
    packet::{Bytes, IPV6_HLEN},
};

/// What follows the operation of an ARP packet, and the operation itself.
pub type Arp = [u8; 22];

/// An advertisement with the option that carries a MAC.
pub type Advertisement = [u8; 32];

/// The bytes of a solicitation with the option that carries the asker's MAC, and no other.
const SOLICITATION: u16 = 32;

/// The option with the target's MAC, of one unit (RFC 4861, section 4.6.1).
const TARGET_MAC: [u8; 2] = [2, 1];

/// The option with the source's MAC.
const SOURCE_MAC: [u8; 2] = [1, 1];

/// A neighbour advertisement, solicited, that overrides what was known.
const ADVERTISEMENT: [u8; 8] = [136, 0, 0, 0, 0x60, 0, 0, 0];

/// From the operation on, the ARP packet at `offset` as a reply of the target, which has `mac`.
#[inline(always)]
pub fn arp(bytes: &impl Bytes, offset: u32, mac: Mac) -> Option<Arp> {
    let asker: [u8; 10] = bytes.load(offset + 8)?;
    let target: [u8; 4] = bytes.load(offset + 24)?;
    let mut reply = [0; 22];
    reply[1] = 2;
    put(&mut reply, 2, &mac);
    put(&mut reply, 8, &target);
    put(&mut reply, 12, &asker);
    Some(reply)
}

/// The addresses and the message of an advertisement that answers the solicitation of the IPv6 packet at
/// `offset`: one that is nothing but its asker's MAC beside the question. The target has `mac`.
#[inline(always)]
pub fn advertisement(
    bytes: &impl Bytes,
    offset: u32,
    mac: Mac,
) -> Option<([u8; 16], [u8; 16], Advertisement)> {
    let length: [u8; 2] = bytes.load(offset + 4)?;
    let option: [u8; 2] = bytes.load(offset + IPV6_HLEN + 24)?;
    if u16::from_be_bytes(length) != SOLICITATION || option != SOURCE_MAC {
        return None;
    }
    let asker: [u8; 16] = bytes.load(offset + 8)?;
    let target: [u8; 16] = bytes.load(offset + IPV6_HLEN + 8)?;
    let mut message = [0; 32];
    put(&mut message, 0, &ADVERTISEMENT);
    put(&mut message, 8, &target);
    put(&mut message, 24, &TARGET_MAC);
    put(&mut message, 26, &mac);
    let sum = checksum(&message, address(target), address(asker));
    put(&mut message, 2, &sum);
    Some((target, asker, message))
}

/// Copies bytes without a call of `memcpy`, which some kernels do not take.
#[inline(always)]
fn put<const N: usize, const M: usize>(to: &mut [u8; N], at: usize, from: &[u8; M]) {
    let mut place = 0;
    while place < M {
        to[at + place] = from[place];
        place += 1;
    }
}

/// The checksum of an `ICMPv6` message of 32 bytes (RFC 8200, section 8.1; RFC 1071), as it lies in memory.
#[inline(always)]
fn checksum(message: &Advertisement, source: Address, destination: Address) -> [u8; 2] {
    // The sum does not depend on the order of bytes (RFC 1071, section 2).
    let mut sum = words(source) + words(destination);
    let mut place = 0;
    while place < message.len() {
        sum += u64::from(u16::from_ne_bytes([message[place], message[place + 1]]));
        place += 2;
    }
    sum += u64::from(SOLICITATION.to_be()) + u64::from(58_u16.to_be());
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    #[allow(clippy::cast_possible_truncation, reason = "the carries are folded")]
    let sum = !(sum as u16);
    sum.to_ne_bytes()
}

/// The sum of the eight words of an address.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "each half is cut out")]
const fn words(ip: Address) -> u64 {
    let (a, b) = (ip as u64, (ip >> 64) as u64);
    (a & 0xffff)
        + (a >> 16 & 0xffff)
        + (a >> 32 & 0xffff)
        + (a >> 48)
        + (b & 0xffff)
        + (b >> 16 & 0xffff)
        + (b >> 32 & 0xffff)
        + (b >> 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Mac = [2, 0, 0, 0, 0, 1];
    const TARGET: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn a_request_becomes_the_reply_of_its_target() {
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
        request.extend(ASKER.iter().chain(&[10, 0, 0, 1]).chain(&[0; 6]).chain(&[10, 0, 0, 9]));
        let reply = arp(&request.as_slice(), 0, TARGET).unwrap();
        let want = [&[0, 2], &TARGET[..], &[10, 0, 0, 9], &ASKER, &[10, 0, 0, 1]].concat();
        assert_eq!(reply.as_slice(), want);
    }

    #[test]
    fn a_solicitation_becomes_the_advertisement_of_its_target() {
        let ip = |last: u8| -> [u8; 16] {
            let mut ip = [0xfd; 16];
            ip[15] = last;
            ip
        };
        let mut packet = vec![0x60, 0, 0, 0, 0, 32, 58, 255];
        packet.extend(ip(1).iter().chain(&[0xff; 16]).chain(&[135, 0, 0, 0, 0, 0, 0, 0]));
        packet.extend(ip(9).iter().chain(&[1, 1]).chain(&ASKER));
        let (source, destination, message) = advertisement(&packet.as_slice(), 0, TARGET).unwrap();
        assert_eq!((source, destination), (ip(9), ip(1)));
        assert_eq!(message[..2], [136, 0]);
        assert_eq!(message[4..8], [0x60, 0, 0, 0]);
        assert_eq!(message[8..24], ip(9));
        assert_eq!(message[24..], [&[2, 1], &TARGET[..]].concat());
        // Over everything with the checksum in it, the sum is all ones.
        let pseudo = [&source[..], &destination, &[0, 0, 0, 32, 0, 0, 0, 58], &message].concat();
        let sum: u32 = pseudo
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        packet[5] = 40;
        assert_eq!(advertisement(&packet.as_slice(), 0, TARGET), None, "there is more in it");
        (packet[5], packet[64]) = (32, 14);
        assert_eq!(advertisement(&packet.as_slice(), 0, TARGET), None, "no MAC of the asker");
    }
}
