//! Frames that begin with an LLC header (IEEE 802.2), and what SNAP (RFC 1042) wraps in them.
//!
//! Linux takes no ARP and no IP out of SNAP (`net/802/psnap.c`: "We don't yet use this for IP"). Other stacks
//! do, and so does whatever translates between Ethernet and 802.11, where SNAP stands in front of every frame
//! (IEEE 802.1H; VU#855201: CVE-2021-27853, CVE-2021-27854, CVE-2021-27861, CVE-2021-27862).

use crate::packet::{
    Bytes, ETH_P_802_3_MIN, ETH_P_ARP, ETH_P_IPV4, ETH_P_IPV6, ETH_P_LONG_LLC, ETH_P_RARP,
};

/// The service access points of IP, ARP, spanning trees and SNAP, each as that of one station or of a group
/// (IEEE Registration Authority, LLC addresses).
const IP_SAP: u8 = 0x06;
const ARP_SAP: u8 = 0x98;
const BRIDGE_SAP: u8 = 0x42;
const SNAP_SAP: u8 = 0xaa;

/// Unnumbered information, the only kind of frame that SNAP knows (RFC 1042).
const UNNUMBERED: u8 = 0x03;

/// The bit in the control field that asks for an answer.
const POLL: u8 = 0x10;

/// `EtherType`s of tags that switches have used beside 802.1Q and 802.1ad for stacks of VLANs
/// (`include/uapi/linux/if_ether.h`, `ETH_P_QINQ1` to `ETH_P_QINQ3`).
#[must_use]
#[inline(always)]
pub const fn is_old_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x9100 | 0x9200 | 0x9300)
}

/// What a frame with an LLC header carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Carries {
    /// Nothing that matters here: IPX, `NetBIOS`, IS-IS, `AppleTalk` and the like.
    Other = 0,
    /// What switches tell each other: spanning trees, CDP and its kin.
    Switching = 1,
    /// ARP, IP, or what may carry them.
    Wrapped = 2,
}

impl Carries {
    /// The one with this number; [`Self::Wrapped`] for a number that none has.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Other,
            1 => Self::Switching,
            _ => Self::Wrapped,
        }
    }
}

/// What the frame carries whose LLC header begins at `offset`. Its length is not looked at: stations do not
/// agree on what follows from a wrong one.
#[inline(always)]
pub fn carries(bytes: &(impl Bytes + ?Sized), offset: u32) -> Carries {
    let Some([to, _, control, a, b, c, high, low]) = bytes.load::<8>(offset) else {
        return Carries::Other;
    };
    match to & 0xfe {
        IP_SAP | ARP_SAP => Carries::Wrapped,
        BRIDGE_SAP => Carries::Switching,
        SNAP_SAP if control & !POLL != UNNUMBERED => Carries::Wrapped,
        SNAP_SAP => snap(u32::from_be_bytes([0, a, b, c]), u16::from_be_bytes([high, low])),
        _ => Carries::Other,
    }
}

/// What SNAP carries, by organisation and protocol.
#[inline(always)]
const fn snap(organisation: u32, protocol: u16) -> Carries {
    match organisation {
        // An EtherType (RFC 1042), also through a bridge (IEEE 802.1H).
        0x00_0000 | 0x00_00f8 if is_wrapped(protocol) => Carries::Wrapped,
        // A whole frame (RFC 2684, section 5.2).
        0x00_80c2 => Carries::Wrapped,
        // Cisco: CDP, VTP, DTP, UDLD, PAgP, per-VLAN spanning trees. Nortel, Extreme, Foundry: SONMP, EDP, FDP.
        0x00_000c | 0x00_0081 | 0x00_e02b | 0x00_e052 => Carries::Switching,
        _ => Carries::Other,
    }
}

/// True for an `EtherType` that is looked into where it stands in a frame, and for those of tags.
#[inline(always)]
const fn is_wrapped(ethertype: u16) -> bool {
    ethertype < ETH_P_802_3_MIN
        || matches!(
            ethertype,
            ETH_P_IPV4 | ETH_P_ARP | ETH_P_RARP | ETH_P_IPV6 | ETH_P_LONG_LLC | 0x8100 | 0x88a8
        )
        || is_old_tag(ethertype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_is_seen_whatever_its_header() {
        use Carries::{Other, Switching, Wrapped};
        let snap = |oui: [u8; 3], kind: u16| {
            [&[0xaa, 0xaa, 3][..], &oui, &kind.to_be_bytes(), &[0; 28]].concat()
        };
        let with = |at: usize, byte| {
            let mut frame = snap([0; 3], ETH_P_ARP);
            frame[at] = byte;
            frame
        };
        let cases = [
            ("ARP", snap([0; 3], ETH_P_ARP), Wrapped),
            ("IPv4", snap([0; 3], ETH_P_IPV4), Wrapped),
            ("IPv6", snap([0; 3], ETH_P_IPV6), Wrapped),
            ("RARP", snap([0; 3], ETH_P_RARP), Wrapped),
            ("ARP through a bridge", snap([0, 0, 0xf8], ETH_P_ARP), Wrapped),
            ("a tag", snap([0; 3], 0x8100), Wrapped),
            ("a service tag", snap([0; 3], 0x88a8), Wrapped),
            ("an old tag", snap([0; 3], 0x9100), Wrapped),
            ("a length", snap([0; 3], 36), Wrapped),
            ("a whole frame", snap([0, 0x80, 0xc2], 1), Wrapped),
            ("to a group of access points", with(0, 0xab), Wrapped),
            ("from another access point", with(1, 0xe0), Wrapped),
            ("with the poll bit", with(2, 0x13), Wrapped),
            ("with another control field", with(2, 0xaf), Wrapped),
            ("IP without SNAP", vec![6, 6, 3, 0x45, 0, 0, 28, 0], Wrapped),
            ("ARP without SNAP", vec![0x98, 0x98, 3, 0, 1, 8, 0, 6], Wrapped),
            ("CDP", snap([0, 0, 0x0c], 0x2000), Switching),
            ("EDP", snap([0, 0xe0, 0x2b], 0x00bb), Switching),
            ("FDP", snap([0, 0xe0, 0x52], 0x2000), Switching),
            ("SONMP", snap([0, 0, 0x81], 0x01a2), Switching),
            ("a spanning tree", vec![0x42, 0x42, 3, 0, 0, 0, 0, 0], Switching),
            ("IPX", snap([0; 3], 0x8137), Other),
            ("AppleTalk", snap([8, 0, 7], 0x809b), Other),
            ("NetBIOS", vec![0xf0, 0xf0, 3, 0, 0, 0, 0, 0], Other),
            ("IS-IS", vec![0xfe, 0xfe, 3, 0x83, 0x1b, 1, 0, 0x0f], Other),
            ("too short to carry anything", vec![0xaa, 0xaa, 3], Other),
        ];
        for (name, frame, want) in cases {
            assert_eq!(carries(&frame.as_slice(), 0), want, "{name}");
            assert_eq!(Carries::from_raw(want as u32), want, "{name}");
        }
    }
}
