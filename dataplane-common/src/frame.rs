//! The view of a frame: the two addresses and the VLAN tag, wherever the tag is.

/// An Ethernet address in transmission order.
pub type Mac = [u8; 6];

/// Bytes of an Ethernet header (IEEE 802.3-2018, clause 3.1.1).
pub const ETH_HLEN: usize = 14;

/// Bytes of an 802.1Q tag.
pub const VLAN_HLEN: usize = 4;

/// EtherType of a customer VLAN tag (IEEE 802.1Q-2018, table 9-1).
pub const ETH_P_8021Q: u16 = 0x8100;

/// EtherType of a service VLAN tag (IEEE 802.1Q-2018, table 9-1).
pub const ETH_P_8021AD: u16 = 0x88a8;

/// The VLAN ID in a tag control information field.
pub const VID_MASK: u16 = 0x0fff;

/// Bytes that the decision reads: the header and one tag. A frame that is shorter is a runt.
pub const HEAD_LEN: usize = ETH_HLEN + VLAN_HLEN;

/// The first bytes of a frame, as words in the order in which they lie in memory. A frame begins at
/// an even address, so that they can be read as words, which is much faster than byte by byte.
pub type Head = [u16; HEAD_LEN / 2];

/// A frame's VLAN tag: none, one customer tag with its tag control information (PCP, DEI, VLAN
/// ID), or stacked tags, of which only the host may make sense: two, a service tag, or one with
/// the VLAN ID 4095, which no frame may have (IEEE 802.1Q-2018, table 9-2).
///
/// One word, all of it always set: the verifier does not accept the gaps of an enum with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// No tag.
    pub const NONE: Self = Self(0);

    const ONE: u32 = 1 << 16;
    const STACKED: u32 = 1 << 17;

    /// One customer tag.
    #[must_use]
    #[inline(always)]
    pub const fn one(tci: u16) -> Self {
        Self(Self::ONE | tci as u32)
    }

    /// One customer tag as a frame has it.
    #[inline(always)]
    const fn read(tci: u16) -> Self {
        if tci & VID_MASK == VID_MASK { Self::stacked(tci) } else { Self::one(tci) }
    }

    /// Stacked tags, with the outer tag control information.
    #[must_use]
    #[inline(always)]
    pub const fn stacked(tci: u16) -> Self {
        Self(Self::STACKED | tci as u32)
    }

    /// The word.
    #[must_use]
    #[inline(always)]
    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// The tag of a word that [`Self::to_raw`] gave.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// True if there is a tag.
    #[must_use]
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// True for stacked tags.
    #[must_use]
    #[inline(always)]
    pub const fn is_stacked(self) -> bool {
        self.0 & Self::STACKED != 0
    }

    /// The (outer) tag control information; 0 without a tag.
    #[must_use]
    #[inline(always)]
    pub const fn tci(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The (outer) VLAN; 0 without a tag, because VLAN ID 0 is untagged.
    #[must_use]
    #[inline(always)]
    pub const fn vlan(self) -> u16 {
        self.tci() & VID_MASK
    }

    /// The tag that a frame of VLAN `vlan` with this tag has for a port that sees VLANs tagged
    /// (`tagged`), or for one that sees no tags. A priority (PCP) is kept where the new form has a
    /// place for it; a tag of VLAN ID 0, which has only that, is left to ports that see tags.
    #[must_use]
    #[inline(always)]
    pub const fn for_port(self, vlan: u16, tagged: bool) -> Self {
        if !tagged {
            Self::NONE
        } else if self.vlan() == vlan {
            self
        } else {
            Self::one(self.tci() & !VID_MASK | vlan)
        }
    }
}

/// A tag that the kernel or the NIC has moved out of the frame's bytes (`skb->vlan_tci`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadedTag {
    /// There is one.
    pub present: bool,
    /// Its EtherType, host byte order.
    pub proto: u16,
    /// Its tag control information, host byte order.
    pub tci: u16,
}

impl OffloadedTag {
    /// The tag, if there is one, is in the frame's bytes.
    pub const NONE: Self = Self { present: false, proto: 0, tci: 0 };
}

/// What the decision looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// VLAN tag.
    pub tag: Tag,
}

/// An address of three words. Put together and taken apart again as one word, because compilers see
/// through that, and not through bytes of several words.
#[inline(always)]
const fn mac([a, b, c]: [u16; 3]) -> Mac {
    let word = a.to_le() as u64 | (b.to_le() as u64) << 16 | (c.to_le() as u64) << 32;
    let bytes = word.to_le_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
}

/// The head of a frame of which these are the bytes; `None` for a runt.
#[must_use]
pub fn head_of(bytes: &[u8]) -> Option<Head> {
    let bytes: &[u8; HEAD_LEN] = bytes.first_chunk()?;
    Some(core::array::from_fn(|word| u16::from_ne_bytes([bytes[2 * word], bytes[2 * word + 1]])))
}

pub(crate) const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD)
}

impl Frame {
    /// Reads the head of a frame.
    #[must_use]
    #[inline(always)]
    pub fn parse(head: &Head, offloaded: OffloadedTag) -> Self {
        let [d0, d1, d2, s0, s1, s2, outer, tci, inner] = *head;
        let [outer, tci, inner] = [outer, tci, inner].map(u16::from_be);
        let tag = if offloaded.present {
            if offloaded.proto == ETH_P_8021Q && !is_tag(outer) {
                Tag::read(offloaded.tci)
            } else {
                Tag::stacked(offloaded.tci)
            }
        } else if !is_tag(outer) {
            Tag::NONE
        } else if outer == ETH_P_8021Q && !is_tag(inner) {
            Tag::read(tci)
        } else {
            Tag::stacked(tci)
        };
        Self { dst: mac([d0, d1, d2]), src: mac([s0, s1, s2]), tag }
    }

    /// True for broadcast and multicast: the I/G bit (IEEE 802-2014, clause 8.2.2).
    #[must_use]
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        self.dst[0] & 1 == 1
    }

    /// True for 01:80:c2:00:00:00 to 0f, which no bridge forwards (IEEE 802.1Q-2018, table 8-1).
    #[must_use]
    #[inline(always)]
    pub const fn is_reserved(&self) -> bool {
        matches!(self.dst, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_wherever_they_are() {
        let meta = |proto, tci| OffloadedTag { present: true, proto, tci };
        let bytes = OffloadedTag::NONE;
        let cases: &[(&str, [u8; 6], OffloadedTag, Tag)] = &[
            ("untagged", [0x08, 0x06, 1, 2, 3, 4], bytes, Tag::NONE),
            ("in the bytes", [0x81, 0, 0xa0, 10, 8, 0], bytes, Tag::one(0xa00a)),
            ("in the metadata", [8, 6, 1, 2, 3, 4], meta(ETH_P_8021Q, 20), Tag::one(20)),
            ("priority only", [0x81, 0, 0xe0, 0, 8, 0], bytes, Tag::one(0xe000)),
            ("two in the bytes", [0x81, 0, 0, 10, 0x81, 0], bytes, Tag::stacked(10)),
            ("one of each", [0x81, 0, 0, 10, 8, 0], meta(ETH_P_8021Q, 20), Tag::stacked(20)),
            ("service tag", [0x88, 0xa8, 0, 10, 8, 0], bytes, Tag::stacked(10)),
            ("offloaded service tag", [8, 6, 1, 2, 3, 4], meta(ETH_P_8021AD, 7), Tag::stacked(7)),
            ("the reserved ID", [0x81, 0, 0x2f, 0xff, 8, 0], bytes, Tag::stacked(0x2fff)),
            ("offloaded", [8, 6, 1, 2, 3, 4], meta(ETH_P_8021Q, 0xfff), Tag::stacked(0xfff)),
        ];
        for (name, tail, offloaded, want) in cases {
            let mut head = [0xffff; HEAD_LEN / 2];
            for (word, bytes) in head[6..].iter_mut().zip(tail.as_chunks().0) {
                *word = u16::from_ne_bytes(*bytes);
            }
            assert_eq!(Frame::parse(&head, *offloaded).tag, *want, "{name}");
        }
    }

    #[test]
    fn each_port_gets_its_form() {
        let cases = [
            ("untagged to untagged", Tag::NONE, 0, false, Tag::NONE),
            ("untagged to access", Tag::NONE, 10, false, Tag::NONE),
            ("untagged to trunk", Tag::NONE, 10, true, Tag::one(10)),
            ("untagged to trunk, VLAN 0", Tag::NONE, 0, true, Tag::NONE),
            ("tagged to access", Tag::one(10), 10, false, Tag::NONE),
            ("tagged to trunk", Tag::one(0x600a), 10, true, Tag::one(0x600a)),
            ("priority tag to access", Tag::one(0x6000), 0, false, Tag::NONE),
            ("priority tag to trunk, VLAN 0", Tag::one(0x6000), 0, true, Tag::one(0x6000)),
            ("priority tag of an access port", Tag::one(0x6000), 10, true, Tag::one(0x600a)),
        ];
        for (name, have, vlan, tagged, want) in cases {
            assert_eq!(have.for_port(vlan, tagged), want, "{name}");
        }
    }

    #[test]
    fn reserved_is_the_sixteen_addresses_that_no_bridge_forwards() {
        let with_dst = |dst| Frame { dst, src: [2, 0, 0, 0, 0, 1], tag: Tag::NONE };
        assert!(with_dst([1, 0x80, 0xc2, 0, 0, 0]).is_reserved());
        assert!(with_dst([1, 0x80, 0xc2, 0, 0, 0x0f]).is_reserved());
        assert!(!with_dst([1, 0x80, 0xc2, 0, 0, 0x10]).is_reserved());
        assert!(!with_dst([1, 0x80, 0xc2, 0, 1, 0]).is_reserved());
    }
}
