//! The XDP entry point of a parent: before an skb exists.
//!
//! XDP ends the frames that it can end, for veth children and for nobody; everything else it
//! leaves to TC, which counts it.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    macros::xdp,
    programs::XdpContext,
};
use dataplane_common::{
    DropReason, Frame, Verdict,
    abi::{Kind, PORT_WIRE},
    decide::{decide, ingress_port},
    frame::{HEAD_LEN, Head, OffloadedTag, Tag, VLAN_HLEN},
    verdict::Delivery,
};

use crate::{
    count::{self, Size},
    maps::{Maps, TX, settings},
    offence::count_drop,
};

/// The two addresses in front of a tag.
const ADDRESSES: usize = 12;

/// XDP on the parent: frames from the wire.
#[xdp(frags)]
#[inline(always)]
fn maclane_xdp(ctx: XdpContext) -> u32 {
    // A frame that is too short is not ours to judge: the kernel counts it.
    let Some(frame) = frame(&ctx) else { return XDP_PASS };
    if !frame.tag.is_some() && settings().xdp_sees_tags == 0 {
        // Its tag may be where only TC can see it; the decision would be about another VLAN.
        return XDP_PASS;
    }
    // Where XDP may not drop, it may be looking at a hairpinned frame: TC sees its mark.
    let may_drop = settings().xdp_may_drop != 0;
    match ingress_port(&frame, None, None, &Maps) {
        Ok(PORT_WIRE) => {}
        Err(reason) if may_drop => return end(&ctx, reason),
        Ok(_) | Err(_) => return XDP_PASS,
    }
    match decide(&frame, PORT_WIRE, &Maps) {
        Verdict::Deliver(Delivery { port, kind: Kind::Veth, tag }) => {
            to_veth(&ctx, &frame, port, tag)
        }
        // XDP cannot reach a macvlan child, nor copy a frame: TC does, and counts.
        Verdict::Deliver(_) | Verdict::Flood(_) => XDP_PASS,
        // For the host, or not ours to judge: TC counts it.
        Verdict::Pass => XDP_PASS,
        // TC drops it: behind the packet sockets, which may wait for an answer in a VLAN that has no
        // member yet.
        Verdict::Drop(DropReason::NoMember) => XDP_PASS,
        Verdict::Drop(reason) if may_drop => end(&ctx, reason),
        Verdict::Drop(_) => XDP_PASS,
    }
}

/// The one bounds check: the head of the frame.
#[inline(always)]
fn frame(ctx: &XdpContext) -> Option<Frame> {
    let data = ctx.data();
    if data + HEAD_LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes were checked to be inside the frame, which begins at an even address.
    let head = unsafe { &*(data as *const Head) };
    Some(Frame::parse(head, OffloadedTag::NONE))
}

#[inline(always)]
fn size(ctx: &XdpContext) -> Size {
    // SAFETY: helper on the program's context; it counts the fragments too.
    Size { packets: 1, bytes: unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) } }
}

/// Redirects a frame to a veth child.
#[inline(always)]
fn to_veth(ctx: &XdpContext, frame: &Frame, port: u16, tag: Tag) -> u32 {
    let size = size(ctx);
    // A child that takes no frames from XDP has no entry here: TC serves it.
    let Ok(action) = TX.redirect(u32::from(port), u64::from(XDP_PASS)) else { return XDP_PASS };
    // From the wire to a child a tag is kept or taken off, never put on.
    if tag != frame.tag && pop_tag(ctx, frame).is_none() {
        return end(ctx, DropReason::Refused);
    }
    count::rx(PORT_WIRE, size);
    count::tx(port, size);
    action
}

/// Takes the tag out of the frame: the addresses move over it.
#[inline(always)]
fn pop_tag(ctx: &XdpContext, frame: &Frame) -> Option<()> {
    // SAFETY: helper on the program's context; pointers into the frame are taken again below.
    if unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), VLAN_HLEN as i32) } != 0 {
        return None;
    }
    let data = ctx.data();
    if data + ADDRESSES > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
    let addresses = unsafe { &mut *(data as *mut [u8; ADDRESSES]) };
    let (dst, src) = addresses.split_at_mut(frame.dst.len());
    dst.copy_from_slice(&frame.dst);
    src.copy_from_slice(&frame.src);
    Some(())
}

/// Drops a frame.
#[inline(always)]
fn end(ctx: &XdpContext, reason: DropReason) -> u32 {
    let size = size(ctx);
    count::rx(PORT_WIRE, size);
    count_drop(reason, size);
    XDP_DROP
}
