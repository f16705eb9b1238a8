//! The TC entry points of a parent, and of the host ends of its veth children.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use dataplane_common::{
    DropReason, Frame, Mark, Tables, Verdict,
    abi::{Event, Kind, PORT_HOST, PORT_WIRE, event_kind, local_flag},
    decide::{Sender, decide, egress_port, ingress_port, runt},
    frame::Tag,
    mark::stamped,
    verdict::Delivery,
};

use crate::{
    claims, count,
    flood::flood,
    log,
    maps::{Maps, count_drop, port_of_host_end, settings, tell},
    skb::{END, NEXT, Refused, Skb},
};

/// Where a TC program sits.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Hook {
    /// The parent's ingress.
    Ingress = 0,
    /// The parent's egress.
    Egress = 1,
    /// The ingress of a veth child's host end.
    HostEnd = 2,
}

/// TC ingress of the parent: frames from the wire, and those that our own programs put back.
#[classifier]
#[inline(always)]
fn maclane_ingress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let hairpin = skb.mark() == Mark::Hairpin.encode();
    if settings().xdp_generic != 0 && !hairpin && skb.is_misplaced() {
        return skb.mend(parent()).unwrap_or_else(|Refused| {
            finish(skb, Hook::Ingress, Verdict::Drop(DropReason::Refused))
        });
    }
    match Mark::decode(skb.mark()) {
        Some(Mark::Hairpin) => {
            skb.clear_mark();
            NEXT
        }
        Some(Mark::Flood { port, slot }) => resume(skb, port, slot),
        Some(Mark::From(_) | Mark::Transit(_)) | None => arrived(skb),
    }
}

/// A frame that no program of ours has put into the parent's ingress: from the wire, or between
/// two children in bridge mode.
#[inline(always)]
fn arrived(skb: Skb) -> i32 {
    claims::watch(skb);
    let Some(frame) = skb.frame() else {
        count::rx(PORT_WIRE, skb.size());
        return finish(skb, Hook::Ingress, runt(PORT_WIRE));
    };
    let mark = Mark::decode(skb.mark());
    match ingress_port(&frame, mark, stamped(skb.tc_index()), &Maps) {
        Ok(PORT_WIRE) => {
            count::rx(PORT_WIRE, skb.size());
            act(skb, Hook::Ingress, &frame, PORT_WIRE)
        }
        Ok(child) => maclane_sibling(skb.0, child.into()),
        Err(reason) => {
            count::rx(PORT_WIRE, skb.size());
            finish(skb, Hook::Ingress, Verdict::Drop(reason))
        }
    }
}

/// A frame between two children in bridge mode, which was counted where it was sent. It is for one
/// port, or for nobody: `ingress_port` has looked.
///
/// A global function, which the verifier looks at once, and not once for each way that leads on
/// from it (`Documentation/bpf/verifier.rst`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_sibling(skb: *mut __sk_buff, from: u32) -> i32 {
    let skb = Skb(skb);
    let Some(frame) = skb.frame().filter(|frame| !frame.is_multicast()) else { return END };
    if Mark::decode(skb.mark()).is_some() {
        skb.clear_mark();
    }
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    match decide(&frame, from as u16, &Maps) {
        Verdict::Flood(_) => finish(skb, Hook::Ingress, Verdict::Drop(DropReason::Refused)),
        one => act_on_one(skb, Hook::Ingress, &frame, one),
    }
}

/// TC egress of the parent: frames of the host, of macvlan children, and of veth children that
/// were decided on at their host end.
#[classifier]
#[inline(always)]
fn maclane_egress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let mark = Mark::decode(skb.mark());
    let Some(frame) = skb.frame() else {
        // Without a source MAC only a mark can say that a child sent it.
        let from = if let Some(Mark::From(port)) = mark { port } else { PORT_HOST };
        return finish(skb, Hook::Egress, runt(from));
    };
    let from = match egress_port(&frame, mark, skb.came_in(), &Maps) {
        Ok(Sender::Port(port)) => port,
        Ok(Sender::Unknown) => {
            let kind = event_kind::NEW_SOURCE;
            tell(kind, Event { kind, vlan: frame.tag.vlan(), mac: frame.src });
            PORT_HOST
        }
        Ok(Sender::Transit) => {
            skb.clear_mark();
            return NEXT;
        }
        Err(reason) => return finish(skb, Hook::Egress, Verdict::Drop(reason)),
    };
    // The guard has counted what it marked.
    if mark != Some(Mark::From(from)) {
        count::rx(from, skb.size());
    }
    act(skb, Hook::Egress, &frame, from)
}

/// TC ingress of a veth child's host end: frames of that child.
#[classifier]
#[inline(always)]
fn maclane_port(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(from) = port_of_host_end(skb.ifindex()) else {
        return finish(skb, Hook::HostEnd, Verdict::Drop(DropReason::NoPort));
    };
    count::rx(from, skb.size());
    match skb.frame() {
        Some(frame) => act(skb, Hook::HostEnd, &frame, from),
        None => finish(skb, Hook::HostEnd, runt(from)),
    }
}

/// Decides, and does what was decided.
#[inline(always)]
fn act(skb: Skb, hook: Hook, frame: &Frame, from: u16) -> i32 {
    match decide(frame, from, &Maps) {
        Verdict::Flood(plan) => flood(skb, hook, frame.dst, plan, 0),
        one => act_on_one(skb, hook, frame, one),
    }
}

/// Does what was decided, where that is no flood.
#[inline(always)]
fn act_on_one(skb: Skb, hook: Hook, frame: &Frame, verdict: Verdict) -> i32 {
    match verdict {
        // The kernel switched between siblings in bridge mode that are in different VLANs.
        Verdict::Deliver(Delivery { kind: Kind::Wire, .. }) if hook == Hook::Ingress => {
            finish(skb, hook, Verdict::Drop(DropReason::OtherVlan))
        }
        Verdict::Deliver(delivery) => match deliver(skb, hook, frame.tag, delivery) {
            Ok(action) => {
                count::tx(delivery.port, skb.size());
                action
            }
            Err(Refused) => finish(skb, hook, Verdict::Drop(DropReason::Refused)),
        },
        done @ (Verdict::Pass | Verdict::Drop(_) | Verdict::Flood(_)) => finish(skb, hook, done),
    }
}

/// The verdicts that leave the frame alone.
#[inline(always)]
fn finish(skb: Skb, hook: Hook, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => {
            let to = if hook == Hook::Ingress { PORT_HOST } else { PORT_WIRE };
            count::tx(to, skb.size());
            NEXT
        }
        Verdict::Drop(reason) => {
            count_drop(reason, skb.size());
            log::dropped(skb, reason);
            END
        }
        // `act` has taken them.
        Verdict::Deliver(_) | Verdict::Flood(_) => NEXT,
    }
}

/// Sends the frame itself, with tag `have`, to one port.
#[inline(always)]
pub(crate) fn deliver(
    skb: Skb,
    hook: Hook,
    have: Tag,
    Delivery { port, kind, tag }: Delivery,
) -> Result<i32, Refused> {
    skb.set_tag(have, tag)?;
    Ok(match (kind, hook) {
        // From the wire: the kernel's macvlan delivers by MAC, into whatever namespace.
        (Kind::Macvlan | Kind::Host, Hook::Ingress) => NEXT,
        (Kind::Macvlan | Kind::Host, Hook::Egress | Hook::HostEnd) => {
            skb.set_mark(Mark::Hairpin);
            skb.to_ingress(parent())
        }
        (Kind::Veth, hook) => to_veth(skb, hook, port)?,
        (Kind::Wire, Hook::Egress) => {
            if Mark::decode(skb.mark()).is_some() {
                skb.clear_mark();
            }
            NEXT
        }
        (Kind::Wire, Hook::HostEnd) => {
            let Some(from) = port_of_host_end(skb.ifindex()) else { return Err(Refused) };
            skb.set_mark(Mark::Transit(from));
            skb.to_egress(parent())
        }
        // `act` has taken the first, and the decision sends nothing nowhere.
        (Kind::Wire, Hook::Ingress) | (Kind::None, _) => return Err(Refused),
    })
}

/// Sends the frame to a veth child: through its host end, or, where the kernel can, past it.
#[inline(always)]
fn to_veth(skb: Skb, hook: Hook, port: u16) -> Result<i32, Refused> {
    let Some(to) = Maps.port(port) else { return Err(Refused) };
    skb.clear_mark();
    // `bpf_redirect_peer` works from ingress only, and into another namespace only
    // (`net/core/filter.c`, `skb_do_redirect`).
    Ok(if hook != Hook::Egress && to.local & local_flag::PEER != 0 {
        skb.to_peer(to.ifindex)
    } else {
        skb.to_egress(to.ifindex)
    })
}

/// The parent's index.
#[inline(always)]
pub(crate) fn parent() -> u32 {
    Maps.port(PORT_WIRE).map_or(0, |wire| wire.ifindex)
}

/// Goes on with a flood that did not fit into one turn.
#[inline(always)]
fn resume(skb: Skb, from: u16, slot: u16) -> i32 {
    let Some(frame) = skb.frame().filter(Frame::is_multicast) else { return END };
    match decide(&frame, from, &Maps) {
        Verdict::Flood(plan) => flood(skb, Hook::Ingress, frame.dst, plan, slot),
        // The tables have changed since the flood began, and the rest of it has no members.
        Verdict::Pass | Verdict::Deliver(_) | Verdict::Drop(_) => END,
    }
}
