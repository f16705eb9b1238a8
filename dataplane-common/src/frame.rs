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

/// The first bytes of a frame: as many as the header and one tag take.
#[derive(Clone, Copy)]
pub struct Head {
    /// The bytes; those behind `len` are zero.
    pub bytes: [u8; ETH_HLEN + VLAN_HLEN],
    /// How many of them the frame has.
    pub len: usize,
}

impl Head {
    /// The head of the frame in `frame`.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        let mut head = Self { bytes: [0; ETH_HLEN + VLAN_HLEN], len: 0 };
        for (to, from) in head.bytes.iter_mut().zip(frame) {
            *to = *from;
            head.len += 1;
        }
        head
    }

    #[inline(always)]
    const fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}

/// A tag that the kernel or the NIC has moved out of the frame's bytes (`skb->vlan_tci`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadedTag {
    /// Its EtherType, host byte order.
    pub proto: u16,
    /// Its tag control information, host byte order.
    pub tci: u16,
}

/// The VLAN tags of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// No tag.
    None,
    /// One customer tag, with its tag control information: PCP, DEI, VLAN ID.
    One(u16),
    /// Two tags, or a service tag, with the outer tag control information. Only the host may
    /// have such a frame: which VLAN it belongs to is not ours to say.
    Stacked(u16),
}

/// What the decision looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// VLAN tags.
    pub tags: Tags,
}

const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD)
}

impl Frame {
    /// Reads the head of a frame. `None` if it ends inside its header or tag.
    #[must_use]
    #[inline(always)]
    pub fn parse(head: &Head, offloaded: Option<OffloadedTag>) -> Option<Self> {
        if head.len < ETH_HLEN {
            return None;
        }
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = head.bytes;
        let in_bytes = is_tag(head.be16(12));
        if in_bytes && head.len < ETH_HLEN + VLAN_HLEN {
            return None;
        }
        let tags = match offloaded {
            Some(OffloadedTag { proto: ETH_P_8021Q, tci }) if !in_bytes => Tags::One(tci),
            Some(OffloadedTag { tci, .. }) => Tags::Stacked(tci),
            None if !in_bytes => Tags::None,
            None if head.be16(12) == ETH_P_8021Q && !is_tag(head.be16(16)) => {
                Tags::One(head.be16(14))
            }
            None => Tags::Stacked(head.be16(14)),
        };
        Some(Self { dst: [d0, d1, d2, d3, d4, d5], src: [s0, s1, s2, s3, s4, s5], tags })
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

    fn frame(tail: &[u8]) -> Vec<u8> {
        [&[0xff; 6], &[2, 0, 0, 0, 0, 1], tail].concat()
    }

    #[test]
    fn tags_are_read_wherever_they_are() {
        let q = |tci| Some(OffloadedTag { proto: ETH_P_8021Q, tci });
        let ad = Some(OffloadedTag { proto: ETH_P_8021AD, tci: 7 });
        let cases: &[(&str, &[u8], Option<OffloadedTag>, Option<Tags>)] = &[
            ("untagged", &[0x08, 0x06, 1, 2], None, Some(Tags::None)),
            ("in the bytes", &[0x81, 0, 0xa0, 10, 8, 0], None, Some(Tags::One(0xa00a))),
            ("in the metadata", &[0x08, 0x06, 1, 2], q(20), Some(Tags::One(20))),
            ("priority only", &[0x81, 0, 0xe0, 0, 8, 0], None, Some(Tags::One(0xe000))),
            ("two in the bytes", &[0x81, 0, 0, 10, 0x81, 0], None, Some(Tags::Stacked(10))),
            ("one of each", &[0x81, 0, 0, 10, 8, 0], q(20), Some(Tags::Stacked(20))),
            ("service tag", &[0x88, 0xa8, 0, 10, 8, 0], None, Some(Tags::Stacked(10))),
            ("offloaded service tag", &[0x08, 0x06, 1, 2], ad, Some(Tags::Stacked(7))),
            ("header alone", &[0x08, 0x06], None, Some(Tags::None)),
            ("cut in the tag", &[0x81, 0, 0, 10, 8], None, None),
            ("cut in the header", &[0x08], None, None),
        ];
        for (name, tail, offloaded, want) in cases {
            let got = Frame::parse(&Head::of(&frame(tail)), *offloaded).map(|f| f.tags);
            assert_eq!(got, *want, "{name}");
        }
    }

    #[test]
    fn reserved_is_the_sixteen_addresses_that_no_bridge_forwards() {
        let with_dst = |dst| Frame { dst, src: [2, 0, 0, 0, 0, 1], tags: Tags::None };
        assert!(with_dst([1, 0x80, 0xc2, 0, 0, 0]).is_reserved());
        assert!(with_dst([1, 0x80, 0xc2, 0, 0, 0x0f]).is_reserved());
        assert!(!with_dst([1, 0x80, 0xc2, 0, 0, 0x10]).is_reserved());
        assert!(!with_dst([1, 0x80, 0xc2, 0, 1, 0]).is_reserved());
    }
}
