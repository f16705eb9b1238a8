//! The XDP entry point of a parent: before an skb exists.
//!
//! XDP ends the frames that it can end, for veth children and for nobody; everything else it
//! leaves to TC, which counts it.

use core::{ffi::c_void, hint::black_box, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    macros::xdp,
    programs::XdpContext,
};
use dataplane_common::{
    DropReason, Frame, Verdict,
    abi::{Addresses as _, Kind, NeighbourKey, PORT_WIRE},
    decide::{Audience, decide},
    dhcp,
    frame::{ETH_P_8021Q, HEAD_LEN, Head, Mac, OffloadedTag, Tag, VLAN_HLEN},
    neighbour::{Asked, Kind as Says, UNSPECIFIED, asked, message},
    packet::{Bytes, ETH_P_ARP, ETH_P_IPV4, ETH_P_IPV6, ICMPV6, Payload, UDP, may_be_icmpv6},
    sender::{Provenance, Sender, ingress_port},
    trace::Hook,
    verdict::Delivery,
};

use crate::{
    count::{self, Size, count_drop},
    maps::{Maps, TX, settings},
    place::Place,
    rights::{Peeked, Rights, now, port},
    trace::{Origin, Told, Was, is_on, tell},
};

/// Where IPv6's next header is (RFC 8200, section 3).
const NEXT_HEADER: u32 = 6;

/// The two addresses in front of a tag.
const ADDRESSES: usize = 12;

/// XDP on the parent: frames from the wire.
#[xdp(frags)]
#[inline(always)]
fn maclane_xdp(ctx: XdpContext) -> u32 {
    // A frame that is too short is not ours to judge: the kernel counts it.
    let Some((mut frame, payload)) = parsed(&ctx) else { return XDP_PASS };
    if !frame.tag.is_some() && settings().xdp_sees_tags == 0 {
        // Its tag may be where only TC can see it; the decision would be about another VLAN.
        return XDP_PASS;
    }
    let was = Was::of(frame.dst);
    // Where XDP may not drop, it may be looking at a hairpinned frame: TC sees its mark.
    let may_drop = settings().xdp_may_drop != 0;
    // What only an skb says is said behind XDP.
    match ingress_port(&frame, &Provenance::KERNEL, &Maps).sender() {
        Ok(Sender::Port(PORT_WIRE)) => {}
        Err(reason) if may_drop => return end(&ctx, &frame, reason),
        Ok(_) | Err(_) => return XDP_PASS,
    }
    if is_about_an_address(&ctx, payload) {
        match ask(&ctx, &frame, payload) {
            Some(Asked::Audience(_)) => {}
            Some(Asked::Child(owner)) if set_dst(&ctx, owner.mac).is_some() => {
                frame.dst = owner.mac;
            }
            Some(Asked::Nobody(reason)) if may_drop => return end(&ctx, &frame, reason),
            Some(Asked::Child(_) | Asked::Nobody(_)) | None => return XDP_PASS,
        }
    }
    if is_dhcp_answer(&ctx) {
        // TC remembers whom a server gives what.
        return XDP_PASS;
    }
    match decide(&frame, PORT_WIRE, &Maps) {
        Verdict::Deliver(Delivery { port, kind: Kind::Veth, tag }) => {
            to_veth(&ctx, &frame, port, tag, was)
        }
        // XDP cannot reach a macvlan child, nor copy a frame: TC does, and counts.
        Verdict::Deliver(_) | Verdict::Flood(_) => XDP_PASS,
        // For the host, or not ours to judge: TC counts it.
        Verdict::Pass => XDP_PASS,
        // TC drops it: behind the packet sockets, which may wait for an answer in a VLAN that has no
        // member yet.
        Verdict::Drop(DropReason::NoMember) => XDP_PASS,
        Verdict::Drop(reason) if may_drop => end(&ctx, &frame, reason),
        Verdict::Drop(_) => XDP_PASS,
    }
}

/// The one bounds check: the head of the frame, and what it carries.
#[inline(always)]
fn parsed(ctx: &XdpContext) -> Option<(Frame, Payload)> {
    let data = ctx.data();
    if data + HEAD_LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes were checked to be inside the frame, which begins at an even address.
    let head = unsafe { &*(data as *const Head) };
    Some((Frame::parse(head, OffloadedTag::NONE), Payload::of(head)))
}

/// The bytes of a frame in XDP.
struct XdpBytes(*mut xdp_md);

impl Bytes for XdpBytes {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let (to, len) = (bytes.as_mut_ptr().cast(), N as u32);
        // SAFETY: helper on the program's context; `bytes` has room for as many.
        let read = unsafe { bpf_xdp_load_bytes(self.0, offset, to, len) };
        // SAFETY: the helper has written all of it.
        if read == 0 { Some(unsafe { bytes.assume_init() }) } else { None }
    }
}

/// True for ARP, for what may be neighbour discovery, and for what may wrap either.
#[inline(always)]
fn is_about_an_address(ctx: &XdpContext, payload: Payload) -> bool {
    match payload.ethertype {
        ETH_P_ARP => true,
        ETH_P_IPV6 => {
            let next = XdpBytes(ctx.ctx).load(payload.offset + NEXT_HEADER);
            next.is_some_and(|[next]: [u8; 1]| may_be_icmpv6(next))
        }
        _ => payload.is_llc(),
    }
}

/// True for what may be a DHCP server's: UDP from its port, in IPv4 without options.
#[inline(always)]
fn is_dhcp_answer(ctx: &XdpContext) -> bool {
    const WANTED: usize = 40;
    let data = ctx.data();
    if data + WANTED > ctx.data_end() {
        return false;
    }
    // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
    let bytes = unsafe { &*(data as *const [u8; WANTED]) };
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let answers = |at: usize| {
        word(at) == ETH_P_IPV4 && bytes[at + 11] == UDP && word(at + 22) == dhcp::SERVER_PORT
    };
    answers(12) || word(12) == ETH_P_8021Q && answers(16)
}

/// Whom a frame about an address is for; `None` if TC has to find out.
#[inline(always)]
fn ask(ctx: &XdpContext, frame: &Frame, payload: Payload) -> Option<Asked> {
    let extra = payload.ethertype;
    #[allow(clippy::cast_possible_truncation, reason = "14 or 18")]
    let offset = payload.offset as u16;
    let at = Place { port: PORT_WIRE, vlan: frame.tag.vlan(), offset, extra };
    match maclane_xdp_ask(ctx.ctx, at.pack(), frame.is_multicast().into()) {
        LEAVE => None,
        word => Some(Asked::unpack(word)),
    }
}

/// No [`Asked`]: TC looks at the frame.
const LEAVE: u64 = 0;

/// [`ask`], looked at once by the verifier. What has to be told or counted is left to TC: whoever says to
/// have an address that somebody is known to have, and questions that go to several. Of a storm of questions
/// for strangers TC sees as many as the host may hear, and the first that it may not.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_xdp_ask(ctx: *mut xdp_md, at: u64, is_multicast: u32) -> u64 {
    let (bytes, at) = (XdpBytes(ctx), Place::unpack(at));
    let everybody = Asked::Audience(Audience::Everybody).pack();
    let offset = u32::from(at.offset);
    // What it may be has to be found out: behind extension headers, or behind that of LLC.
    let is_plain = at.extra == ETH_P_IPV6 && bytes.load(offset + NEXT_HEADER) == Some([ICMPV6]);
    if at.extra != ETH_P_ARP && !is_plain {
        return LEAVE;
    }
    let Some(message) = message(&bytes, at.extra, offset) else { return everybody };
    if message.kind as u8 == Says::Redirect as u8 {
        return LEAVE;
    }
    if message.sender != UNSPECIFIED {
        let key = NeighbourKey::new(message.sender, at.vlan);
        if Rights.neighbour(&key).is_some() || Rights.learned(&key).is_some() {
            return LEAVE;
        }
    }
    if is_multicast == 0 {
        return everybody;
    }
    // As one word, that the compiler cannot take apart again: see `plain::forward`.
    let word = black_box(asked(&message, PORT_WIRE, at.vlan, now(), &Maps, &Peeked).pack());
    match Asked::unpack(word) {
        Asked::Child(owner) if port(owner.port).is_some_and(|p| p.kind == Kind::Veth as u8) => {
            Asked::Child(owner).pack()
        }
        nobody @ Asked::Nobody(_) => nobody.pack(),
        Asked::Child(_) | Asked::Audience(_) => LEAVE,
    }
}

/// Writes the destination.
#[inline(always)]
fn set_dst(ctx: &XdpContext, mac: Mac) -> Option<()> {
    let data = ctx.data();
    if data + HEAD_LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
    let dst = unsafe { &mut *(data as *mut Mac) };
    dst.copy_from_slice(&mac);
    Some(())
}

#[inline(always)]
fn size(ctx: &XdpContext) -> Size {
    // SAFETY: helper on the program's context; it counts the fragments too.
    Size { packets: 1, bytes: unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) } }
}

/// Redirects a frame to a veth child.
#[inline(always)]
fn to_veth(ctx: &XdpContext, frame: &Frame, port: u16, tag: Tag, was: Was) -> u32 {
    let size = size(ctx);
    // A child that takes no frames from XDP has no entry here: TC serves it.
    let Ok(action) = TX.redirect(u32::from(port), u64::from(XDP_PASS)) else { return XDP_PASS };
    if settings().trace != 0 {
        let delivery = Delivery { port, kind: Kind::Veth, tag };
        maclane_xdp_traced(ctx.ctx, Verdict::Deliver(delivery).pack(), frame.tag.to_raw(), was.0);
    }
    // From the wire to a child a tag is kept or taken off, never put on.
    if tag != frame.tag && pop_tag(ctx, frame).is_none() {
        return end(ctx, frame, DropReason::Refused);
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
fn end(ctx: &XdpContext, frame: &Frame, reason: DropReason) -> u32 {
    let size = size(ctx);
    if settings().trace != 0 {
        let verdict = Verdict::Drop(reason).pack();
        maclane_xdp_traced(ctx.ctx, verdict, frame.tag.to_raw(), Was::THE_SAME.0);
    }
    count::rx(PORT_WIRE, size);
    count_drop(reason, size);
    XDP_DROP
}

/// [`crate::trace::trace`] in XDP, for a frame with this raw [`Tag`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_xdp_traced(ctx: *mut xdp_md, verdict: u64, tag: u32, was: u64) -> i32 {
    if !is_on() {
        return 0;
    }
    // SAFETY: helper on the program's context.
    let len = unsafe { bpf_xdp_get_buff_len(ctx) };
    let vlan = Tag::from_raw(tag).vlan();
    #[allow(clippy::cast_possible_truncation, reason = "the bytes of a frame")]
    let frame = Told { len: len as u32, aside: OffloadedTag::NONE, vlan, verdict, was: Was(was) };
    let load = |to: *mut c_void, len: u32| {
        // SAFETY: helper on the program's context; `to` has room for as many.
        unsafe { bpf_xdp_load_bytes(ctx, 0, to, len) }
    };
    tell(Origin::new(PORT_WIRE, Hook::Xdp), &frame, load);
    0
}
