//! Watching who says to have an address.

use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    Frame,
    abi::{Claim, Event, event_kind},
    frame::{ETH_HLEN, Mac},
    neighbour::{
        Advertisement, Arp, ETH_P_ARP, ETH_P_IPV6, claimed_by_advertisement, claimed_by_arp,
    },
};

use crate::{
    maps::{neighbour, tell},
    skb::Skb,
};

/// Tells the daemon about a frame from the wire whose sender says to have the address of a child.
/// What becomes of the frame has nothing to do with it.
#[inline(always)]
pub(crate) fn watch(skb: Skb, frame: &Frame) {
    let is = |ethertype: u16| skb.protocol() == u32::from(ethertype.to_be());
    // What else it takes is asked behind the call: whatever is known here, the verifier follows on
    // ways of their own.
    if is(ETH_P_ARP) || is(ETH_P_IPV6) {
        let [a, b, c, d, e, f] = frame.src;
        let addresses = u64::from_be_bytes([frame.dst[0], 0, a, b, c, d, e, f]);
        maclane_claim(skb.0, addresses, u32::from(frame.tag.vlan()));
    }
}

/// A function of its own, which the verifier looks at once, and whose stack is not below that of a
/// flood. The kernel has taken the tag of a frame from the wire out of its bytes
/// (`net/core/dev.c`, `__netif_receive_skb_core`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_claim(skb: *mut __sk_buff, addresses: u64, vlan: u32) -> i32 {
    let skb = Skb(skb);
    let [dst, _, a, b, c, d, e, f] = addresses.to_be_bytes();
    let (mac, vlan): (Mac, u16) = ([a, b, c, d, e, f], (vlan & 0xfff) as u16);
    let claimed = if skb.protocol() == u32::from(ETH_P_ARP.to_be()) {
        skb.load(ETH_HLEN as u32).and_then(|arp: Arp| claimed_by_arp(&arp))
    } else if dst & 1 == 0 {
        // Advertisements that claim something go to all nodes.
        return 0;
    } else {
        skb.load(ETH_HLEN as u32).and_then(|nd: Advertisement| claimed_by_advertisement(&nd))
    };
    let Some(ip) = claimed else { return 0 };
    match neighbour(ip, vlan) {
        Some(child) if child.mac != mac => {
            let kind = event_kind::CLAIM;
            tell(kind, Claim { event: Event { kind, vlan, mac }, ip });
        }
        Some(_) | None => {}
    }
    0
}
