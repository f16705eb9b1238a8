//! Checksums that are still to be made: where the kernel, or a card, will write behind every check.
//!
//! A frame may come with `CHECKSUM_PARTIAL`: somewhere in it a checksum is to be written, at
//! `csum_start` + `csum_offset`. A stack names the field of its transport header. A tap device takes
//! both numbers from whoever holds its other end (`include/linux/virtio_net.h`,
//! `virtio_net_hdr_to_skb`), which may name any field that was checked. A program sees neither of the
//! two, nor that there are such numbers; helpers whose answers depend on them say enough.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_store_bytes},
};
use dataplane_common::frame::ETH_P_8021Q;
use dataplane_common::packet::{Bytes as _, ETH_P_IPV4, ETH_P_IPV6, Header, ICMPV6, UDP, Upper};

use crate::admit::SkbBytes;

/// `IPPROTO_*`.
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const PIM: u8 = 103;

const ETH_HLEN: u32 = 14;
const VLAN_HLEN: u32 = 4;

/// Where the checksum of UDP ends, and that of TCP does not yet begin; the ports, which are checked, come
/// before.
const UPPER_CHECK_END: u32 = 8;

/// Behind all that is checked of packets in which no stack leaves a checksum to others; less than a frame can be
/// made to have (`BPF_SKB_MAX_LEN`).
const BEHIND: u32 = 8192;

/// The offset of a fragment (RFC 791, section 3.1).
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// `EINVAL`, as helpers return it.
const INVALID: i64 = -22;

/// The first two bytes of a frame.
#[inline(always)]
fn first(skb: *mut __sk_buff) -> Option<[u8; 2]> {
    // SAFETY: the program's context; the verifier rewrites the accesses.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if data + 2 > end {
        return None;
    }
    // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
    Some(unsafe { *(data as *const [u8; 2]) })
}

/// Whether a checksum is to be made in a frame. The helper that changes a checksum as a packet changes leaves
/// alone one that is still to be made (`net/core/utils.c`, `inet_proto_csum_replace4`); it is tried on
/// the first bytes of the destination MAC.
#[inline(always)]
pub(crate) fn is_partial(skb: *mut __sk_buff) -> bool {
    let Some(before) = first(skb) else { return true };
    // SAFETY: helper on the program's context.
    let tried = unsafe { bpf_l4_csum_replace(skb, 0, 0, 1, 2) };
    if tried == 0 && first(skb) == Some(before) {
        return true;
    }
    // SAFETY: helper on the program's context; `before` has two bytes.
    unsafe { bpf_skb_store_bytes(skb, 0, before.as_ptr().cast(), 2, 0) };
    tried != 0
}

/// Where the checksum of a packet ends, at least.
///
/// A global function, which the verifier looks at once (`Documentation/bpf/verifier.rst`).
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_checksum_end(skb: *mut __sk_buff) -> u32 {
    let bytes = SkbBytes(skb);
    let mut start = ETH_HLEN;
    let Some(mut head) = bytes.load::<12>(start - 2) else { return BEHIND };
    if u16::from_be_bytes([head[0], head[1]]) == ETH_P_8021Q {
        start += VLAN_HLEN;
        let Some(inner) = bytes.load::<12>(start - 2) else { return BEHIND };
        head = inner;
    }
    let [high, low, header @ ..] = head;
    let (protocol, offset) = match u16::from_be_bytes([high, low]) {
        ETH_P_IPV4 if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET == 0 => {
            (header[9], start + u32::from(header[0] & 0xf) * 4)
        }
        ETH_P_IPV6 => match bytes.upper(start, header[6]) {
            Upper::At(Header { protocol, offset, .. }) => (protocol, offset),
            Upper::Elsewhere | Upper::Hidden => return BEHIND,
        },
        _ => return BEHIND,
    };
    let len = match protocol {
        TCP | UDP => UPPER_CHECK_END,
        ICMP | IGMP | ICMPV6 | PIM => return BEHIND,
        // Of a packet inside.
        _ => 2,
    };
    offset + len
}

/// Whether a checksum that is still to be made ends there or behind.
///
/// The helper that cuts a frame refuses to cut it before the end of such a checksum (`net/core/filter.c`,
/// `__bpf_skb_min_len`), and refuses nothing else with EINVAL. A frame that it does cut has to be
/// dropped.
#[inline(always)]
pub(crate) fn ends_behind(skb: *mut __sk_buff, end: u32) -> bool {
    // SAFETY: helper on the program's context.
    unsafe { bpf_skb_change_tail(skb, end - 1, 0) == INVALID }
}
