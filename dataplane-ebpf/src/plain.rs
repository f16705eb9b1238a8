//! The fast path: plain frames of the wire, which need nothing but the decision, and of which the buckets know
//! all that it asks.
//!
//! That is what most frames are, and nothing here calls a function of ours but to drop one: on some CPUs each
//! return takes as long as a look-up (`Documentation/admin-guide/hw-vuln/srso.rst`). Whatever is not plain is left as it
//! is to the way that every frame can go, which decides by the same rules.

use core::{cell::Cell, hint::black_box};

use dataplane_common::{
    Frame, Tables, Verdict,
    abi::{FdbValue, Kind, PORT_WIRE, Port, Vlan},
    decide::decide,
    frame::Mac,
    mark::{Mark, NO_STAMP, stamped},
    packet::{ETH_P_IPV4, ETH_P_IPV6},
    verdict::Delivery,
};

use crate::{
    count,
    maps::{self, Maps, settings},
    provenance::socket,
    skb::Skb,
    tc::{Hook, act_on_one, drop_of, is_about_an_address},
};

/// The tables, as far as the buckets answer.
struct Buckets {
    /// They were asked what they do not know.
    asked_more: Cell<bool>,
}

impl Tables for Buckets {
    #[inline(always)]
    fn fdb(&self, mac: Mac, vlan: u16) -> Option<FdbValue> {
        let answer = maps::in_bucket(mac, vlan);
        if answer.is_none() {
            self.asked_more.set(true);
        }
        answer.flatten()
    }

    #[inline(always)]
    fn port(&self, port: u16) -> Option<Port> {
        Maps.port(port)
    }

    #[inline(always)]
    fn vlan(&self, vlan: u16) -> Vlan {
        Maps.vlan(vlan)
    }

    #[inline(always)]
    fn may_be_ours(&self, mac: Mac) -> bool {
        Maps.may_be_ours(mac)
    }

    #[inline(always)]
    fn drop_unknown(&self) -> bool {
        Maps.drop_unknown()
    }

    #[inline(always)]
    fn netns(&self, port: u16) -> u16 {
        Maps.netns(port)
    }

    #[inline(always)]
    fn is_closed(&self) -> bool {
        Maps.is_closed()
    }

    #[inline(always)]
    fn has_filters(&self) -> bool {
        Maps.has_filters()
    }
}

/// Decides on a frame at the parent's ingress, counts it and does what was decided; `None` for one that is not
/// plain, which is left as it is.
#[inline(always)]
pub(crate) fn forward(skb: Skb) -> Option<i32> {
    let frame = plain(skb)?;
    // What has one of our MACs may be of a child in bridge mode, or forged.
    if Maps.may_be_ours(frame.src) {
        return None;
    }
    let buckets = Buckets { asked_more: Cell::new(false) };
    // As one word, that the compiler cannot take apart again: verdicts of two ways that meet have gaps, which
    // the verifier does not accept reads of.
    let word = black_box(decide(&frame, PORT_WIRE, &buckets).pack());
    if buckets.asked_more.get() {
        return None;
    }
    let (hook, count) = (Hook::Ingress, || count::rx(PORT_WIRE, skb.size()));
    match Verdict::unpack(word, PORT_WIRE, frame.tag) {
        // The kernel may have switched it here from another child in bridge mode.
        Verdict::Deliver(Delivery { kind: Kind::Macvlan, .. }) if socket(skb).is_of_child() => None,
        one @ Verdict::Deliver(_) => {
            count();
            Some(act_on_one(skb, hook, PORT_WIRE, &frame, one))
        }
        // Of a frame for nobody here storm control has something to say.
        Verdict::Pass if Maps.may_be_ours(frame.dst) => {
            count();
            Some(act_on_one(skb, hook, PORT_WIRE, &frame, Verdict::Pass))
        }
        Verdict::Drop(reason) => {
            count();
            Some(drop_of(skb, hook, PORT_WIRE, reason))
        }
        Verdict::Pass | Verdict::Flood(_) => None,
    }
}

/// The frame, if it is of the wire and to one station, and carries nothing that somebody has to look at: no
/// ARP, no neighbour discovery, no DHCP. Its tag, if it has one, is beside its bytes.
#[inline(always)]
fn plain(skb: Skb) -> Option<Frame> {
    // Whoever traces is told on the other way; and generic XDP hands on frames whose data begins elsewhere.
    let settings = settings();
    if settings.trace != 0 || settings.xdp_generic != 0 {
        return None;
    }
    // A program of ours has put it here, or the kernel has switched it from a sibling.
    if Mark::decode(skb.mark()).is_some() || stamped(skb.tc_index()) != NO_STAMP {
        return None;
    }
    let (frame, payload) = skb.linear()?;
    let is_ip = matches!(payload.ethertype, ETH_P_IPV4 | ETH_P_IPV6) && payload.is_first();
    if !is_ip || frame.is_multicast() || frame.tag.is_stacked() {
        return None;
    }
    if is_about_an_address(skb, payload) || skb.is_dhcp(payload) { None } else { Some(frame) }
}
