//! Watching who says to have an address.

use aya_ebpf::bindings::__sk_buff;
use dataplane_common::{
    abi::{Claim, Event, event_kind},
    frame::ETH_HLEN,
    neighbour::{
        Advertisement, Arp, ETH_P_ARP, ETH_P_IPV6, claimed_by_advertisement, claimed_by_arp,
    },
};

use crate::{
    maps::{neighbour, tell},
    skb::Skb,
};

/// Tells the daemon about a frame that comes in through the parent and whose sender says to have the
/// address of a child. What becomes of the frame has nothing to do with it.
///
/// Before anything else is known of the frame: what is known, the verifier would follow on ways of
/// their own, and the stack would have to hold beside the call.
#[inline(always)]
pub(crate) fn watch(skb: Skb) {
    if is(skb, ETH_P_ARP) || is(skb, ETH_P_IPV6) {
        maclane_claim(skb.0);
    }
}

/// The kernel has taken the tag of a frame from the wire out of its bytes (`net/core/dev.c`,
/// `__netif_receive_skb_core`): what it takes the frame for is what is in it.
#[inline(always)]
fn is(skb: Skb, ethertype: u16) -> bool {
    skb.protocol() == u32::from(ethertype.to_be())
}

/// A function of its own, which the verifier looks at once, and whose stack is not below that of a
/// flood.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_claim(skb: *mut __sk_buff) -> i32 {
    let skb = Skb(skb);
    let Some(frame) = skb.frame() else { return 0 };
    let claimed = if is(skb, ETH_P_ARP) {
        skb.load(ETH_HLEN as u32).and_then(|arp: Arp| claimed_by_arp(&arp))
    } else if frame.is_multicast() {
        skb.load(ETH_HLEN as u32).and_then(|nd: Advertisement| claimed_by_advertisement(&nd))
    } else {
        // Advertisements that claim something go to all nodes.
        None
    };
    let Some(ip) = claimed else { return 0 };
    let (mac, vlan) = (frame.src, frame.tag.vlan());
    match neighbour(ip, vlan) {
        Some(child) if child.mac != mac => {
            let kind = event_kind::CLAIM;
            tell(kind, Claim { event: Event { kind, vlan, mac }, ip });
        }
        Some(_) | None => {}
    }
    0
}
