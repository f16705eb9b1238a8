//! Answers on behalf of a child: the question becomes the answer, and goes back where it came from.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_store_bytes};
use dataplane_common::{
    abi::Neighbour,
    answer,
    neighbour::{Kind, message},
    packet::{Bytes as _, ETH_P_ARP, IPV6_HLEN},
};

use crate::{admit::SkbBytes, packed::unpack_mac, place::Place};

/// Writes bytes of a frame; true if that was done.
#[inline(always)]
fn store<const N: usize>(skb: *mut __sk_buff, offset: u32, bytes: &[u8; N]) -> bool {
    // SAFETY: helper on the program's context; there are as many bytes.
    unsafe { bpf_skb_store_bytes(skb, offset, bytes.as_ptr().cast(), N as u32, 0) == 0 }
}

/// Turns a question into the answer of the child whose port and MAC are in `owner`; 0 if that was done. What
/// is no plain question is left alone: a probe is for the child itself, which has to defend its address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_answer(skb: *mut __sk_buff, at: u64, owner: u64) -> i32 {
    let (bytes, at, (mac, _)) = (SkbBytes(skb), Place::unpack(at), unpack_mac(owner));
    let start = u32::from(at.offset);
    match message(&bytes, at.extra, start) {
        Some(message) if message.kind as u8 == Kind::Question as u8 => {}
        Some(_) | None => return 1,
    }
    let Some(asker) = bytes.load::<6>(6) else { return 1 };
    let done = if at.extra == ETH_P_ARP {
        let Some(reply) = answer::arp(&bytes, start, mac) else { return 1 };
        store(skb, start + 6, &reply)
    } else {
        let Some((source, destination, message)) = answer::advertisement(&bytes, start, mac) else {
            return 1;
        };
        store(skb, start + 8, &source)
            && store(skb, start + 24, &destination)
            && store(skb, start + IPV6_HLEN, &message)
    };
    // The first one makes the bytes writable or fails (`net/core/filter.c`, `bpf_try_make_writable`); then
    // nothing has changed.
    i32::from(!(done && store(skb, 0, &asker) && store(skb, 6, &mac)))
}

/// Answers for a child.
#[inline(always)]
pub(crate) fn answer_for(skb: *mut __sk_buff, at: Place, owner: Neighbour) -> bool {
    maclane_answer(skb, at.pack(), crate::packed::pack_mac(owner.mac, owner.port)) == 0
}
