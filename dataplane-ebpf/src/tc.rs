//! The TC entry points of a parent, and of the host ends of its veth children.

use core::hint::black_box;

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::ProgramArray,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use dataplane_common::{
    DropReason, Frame, Mark, Tables, Verdict,
    abi::{
        Event, Kind, Limit, NO_PORT, Neighbour, PORT_HOST, PORT_WIRE, PORTS, check_flag,
        event_kind, local_flag,
    },
    decide::{Audience, decide_among, runt},
    frame::Tag,
    mark::NO_STAMP,
    neighbour::{Asked, is_child},
    packet::{ETH_P_ARP, ETH_P_IPV6, ICMPV6, Payload},
    sender::{Attribution, Sender, egress_port, ingress_port},
    trace::{Hook as Told, traced_flag},
    verdict::Delivery,
};

use crate::{
    admit::{admit, maclane_bypass, place},
    ask::ask,
    count::{self, count_drop},
    flood::flood,
    lease::maclane_lease,
    log,
    maps::{Maps, port_of_host_end, settings},
    offence::{is_time_to_look, note, tell},
    packed::{pack_mac, unpack_mac},
    plain,
    provenance::provenance,
    rights::{is_within, policy, port},
    skb::{END, NEXT, Refused, Skb},
    suppress::answer_for,
    trace::{Origin, Was, trace},
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

/// Bits of a [`Hook`].
pub(crate) const HOOK_BITS: u32 = 2;

impl Hook {
    /// The hook whose number is in the lowest [`HOOK_BITS`].
    #[inline(always)]
    pub(crate) const fn from_raw(raw: u16) -> Self {
        match raw & 3 {
            0 => Self::Ingress,
            1 => Self::Egress,
            _ => Self::HostEnd,
        }
    }

    /// What whoever traces is told.
    #[inline(always)]
    pub(crate) const fn told(self) -> Told {
        match self {
            Self::Ingress => Told::Ingress,
            Self::Egress => Told::Egress,
            Self::HostEnd => Told::Port,
        }
    }
}

/// Where the ingress leads with frames between siblings: one program, with a stack of its own.
#[btf_map(name = "maclane_sibling")]
static SIBLINGS: ProgramArray<1> = ProgramArray::new();

/// TC ingress of the parent: frames from the wire, and those that our own programs put back.
#[classifier]
#[inline(always)]
fn maclane_ingress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    if let Some(action) = plain::forward(skb) {
        return action;
    }
    let hairpin = skb.mark() == Mark::Hairpin.encode();
    if settings().xdp_generic != 0 && !hairpin && skb.is_misplaced() {
        return skb.mend(parent()).unwrap_or_else(|Refused| {
            finish(skb, Hook::Ingress, PORT_WIRE, Verdict::Drop(DropReason::Refused))
        });
    }
    match Mark::decode(skb.mark()) {
        Some(Mark::Hairpin) => {
            skb.clear_mark();
            NEXT
        }
        Some(Mark::Flood { port, slot }) => resume(skb, port, slot),
        Some(Mark::Transit(_)) | None => arrived(skb),
    }
}

/// The sender, out of a word that the compiler cannot take apart.
#[inline(always)]
fn attributed(attribution: Attribution) -> Result<Sender, DropReason> {
    Attribution::of(black_box(attribution.word())).sender()
}

/// A frame that no program of ours has put into the parent's ingress: from the wire, or between
/// two children in bridge mode.
#[inline(always)]
fn arrived(skb: Skb) -> i32 {
    let Some((frame, payload)) = skb.parsed() else {
        count::rx(PORT_WIRE, skb.size());
        return finish(skb, Hook::Ingress, PORT_WIRE, runt(PORT_WIRE));
    };
    match attributed(ingress_port(&frame, &provenance(skb), &Maps)) {
        Ok(Sender::Port(PORT_WIRE)) => {
            count::rx(PORT_WIRE, skb.size());
            act(skb, Hook::Ingress, &frame, payload, PORT_WIRE)
        }
        Ok(Sender::Port(child)) => sibling(skb, child),
        Ok(Sender::Bypass(child)) => {
            let around = Origin::new(child, Told::Ingress);
            if maclane_bypass(skb.0, around.pack()) != 0 {
                return END;
            }
            sibling(skb, child)
        }
        // These leave through the parent.
        Ok(Sender::Unknown | Sender::Transit | Sender::Foreign) => {
            drop_of(skb, Hook::Ingress, PORT_WIRE, DropReason::Refused)
        }
        Err(reason) => {
            count::rx(PORT_WIRE, skb.size());
            drop_of(skb, Hook::Ingress, PORT_WIRE, reason)
        }
    }
}

/// Hands a frame between two children in bridge mode to [`maclane_sibling`].
#[inline(always)]
fn sibling(skb: Skb, from: u16) -> i32 {
    // SAFETY: the program's context; nothing runs between here and the program that reads it.
    unsafe { (*skb.0).cb[0] = from.into() };
    // SAFETY: it holds no values that a jump would leave behind.
    unsafe { SIBLINGS.tail_call(&TcContext::new(skb.0), 0) };
    // The array is empty, which the daemon fills before it attaches a program that leads here.
    drop_of(skb, Hook::Ingress, from, DropReason::Refused)
}

/// TC egress of the parent: frames of the host, of macvlan children, and of veth children that
/// were decided on at their host end.
#[classifier]
#[inline(always)]
fn maclane_egress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    skb.gather();
    let provenance = provenance(skb);
    let Some((frame, payload)) = skb.gathered() else {
        // Without a source MAC only its stamp or its socket can say that a child sent it.
        let from = if provenance.stamp != NO_STAMP {
            provenance.stamp
        } else if provenance.socket.is_of_child() {
            provenance.socket.0
        } else {
            PORT_HOST
        };
        return finish(skb, Hook::Egress, from, runt(from));
    };
    let from = match attributed(egress_port(&frame, &provenance, &Maps)) {
        // Without the helper there are none: the verifier need not look at what follows.
        Ok(Sender::Bypass(_) | Sender::Foreign) if settings().netns == 0 => {
            return drop_of(skb, Hook::Egress, PORT_HOST, DropReason::Refused);
        }
        Ok(Sender::Port(port)) => {
            // The guard has counted what it stamped.
            if provenance.stamp != port {
                count::rx(port, skb.size());
            }
            port
        }
        Ok(Sender::Bypass(port)) => {
            if maclane_bypass(skb.0, Origin::new(port, Told::Egress).pack()) != 0 {
                return END;
            }
            port
        }
        Ok(Sender::Foreign) => {
            maclane_new_source(skb.0, pack_mac(frame.src, frame.tag.vlan()));
            return drop_of(skb, Hook::Egress, PORT_HOST, DropReason::GuardBypass);
        }
        Ok(Sender::Unknown) => {
            maclane_new_source(skb.0, pack_mac(frame.src, frame.tag.vlan()));
            PORT_HOST
        }
        Ok(Sender::Transit) => {
            skb.clear_mark();
            return NEXT;
        }
        // Nobody has proved to be the child whose MAC it is: whoever sent it is behind the host.
        Err(reason) => return drop_of(skb, Hook::Egress, PORT_HOST, reason),
    };
    if is_child(from) {
        skb.clear_stamp();
        skb.clear_mark();
        if !admit(skb.0, Origin::new(from, Told::Egress)) {
            return END;
        }
    }
    act(skb, Hook::Egress, &frame, payload, from)
}

/// Counts a frame of the host whose source MAC no port has, and reports that MAC, beside its VLAN, to the
/// daemon: a child may have been made.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_new_source(skb: *mut __sk_buff, source: u64) -> i32 {
    count::rx(PORT_HOST, Skb(skb).size());
    let ((mac, vlan), kind) = (unpack_mac(source), event_kind::NEW_SOURCE);
    tell(kind, Event { kind, vlan, mac });
    0
}

/// TC ingress of a veth child's host end: frames of that child.
#[classifier]
#[inline(always)]
fn maclane_port(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(from) = port_of_host_end(skb.ifindex()) else {
        return finish(skb, Hook::HostEnd, NO_PORT, Verdict::Drop(DropReason::NoPort));
    };
    count::rx(from, skb.size());
    skb.gather();
    if !admit(skb.0, Origin::new(from, Told::Port)) {
        return END;
    }
    match skb.gathered() {
        Some((frame, payload)) => act(skb, Hook::HostEnd, &frame, payload, from),
        None => finish(skb, Hook::HostEnd, from, runt(from)),
    }
}

/// Decides, and does what was decided.
#[inline(always)]
fn act(skb: Skb, hook: Hook, frame: &Frame, payload: Payload, from: u16) -> i32 {
    let looks = if is_about_an_address(skb, payload) {
        ABOUT_AN_ADDRESS
    } else if skb.is_dhcp(payload) {
        DHCP
    } else {
        0
    };
    let of = pack_mac(frame.src, looks | hook as u16);
    let (to, tag) = (pack_mac(frame.dst, from), frame.tag.to_raw());
    // By the hook: so each program has the one that it needs.
    if hook == Hook::Ingress {
        maclane_act_for_wire(skb.0, to, of, tag)
    } else {
        maclane_act(skb.0, to, of, tag)
    }
}

/// Beside a [`Hook`]: the frame is ARP, or may be neighbour discovery.
const ABOUT_AN_ADDRESS: u16 = 1 << HOOK_BITS;

/// Beside a [`Hook`]: a DHCP server says something, or is told something.
const DHCP: u16 = 2 << HOOK_BITS;

/// [`act`] for a frame of the host or a child, with the port in `to`, and the hook and what the frame may be in
/// `of`, beside the addresses.
///
/// A global function, which the verifier looks at once, and not once for each way that leads to it
/// (`Documentation/bpf/verifier.rst`), as is the next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_act(skb: *mut __sk_buff, to: u64, of: u64, tag: u32) -> i32 {
    let ((_, from), (_, how)) = (unpack_mac(to), unpack_mac(of));
    // Never one of the wire: those come at the ingress, which calls the next. It tells the compiler so.
    if from == PORT_WIRE {
        return drop_of(Skb(skb), Hook::from_raw(how), from, DropReason::NoPort);
    }
    act_for(skb, (to, of, tag), from)
}

/// The same for a frame of the wire.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_act_for_wire(skb: *mut __sk_buff, to: u64, of: u64, tag: u32) -> i32 {
    act_for(skb, (to, of, tag), PORT_WIRE)
}

/// [`act`] for a frame of `from`.
#[inline(always)]
fn act_for(skb: *mut __sk_buff, (to, of, tag): (u64, u64, u32), from: u16) -> i32 {
    let ((dst, _), (src, how)) = (unpack_mac(to), unpack_mac(of));
    let (skb, hook) = (Skb(skb), Hook::from_raw(how));
    let mut frame = Frame { dst, src, tag: Tag::from_raw(tag) };
    let mut audience = Audience::Everybody;
    if how & DHCP != 0
        && let Some(at) = place(skb.0, from)
    {
        maclane_lease(skb.0, at.pack());
    }
    if how & ABOUT_AN_ADDRESS != 0 {
        match ask(skb.0, from, frame.is_multicast()) {
            Asked::Audience(of) => audience = of,
            Asked::Child(owner) if suppresses(owner) && answer_for_child(skb, from, owner) => {
                return maclane_send_back(skb.0, from.into(), how.into(), tag);
            }
            Asked::Child(owner) => {
                if skb.set_dst(owner.mac).is_err() {
                    return finish(skb, hook, from, Verdict::Drop(DropReason::Refused));
                }
                frame.dst = owner.mac;
            }
            Asked::Nobody(reason) => return drop_of(skb, hook, from, reason),
        }
    }
    // What no child is to get anyway takes nothing of their share.
    if from == PORT_WIRE
        && frame.is_multicast()
        && audience.has_children()
        && maclane_storms(skb.0) != 0
    {
        audience = Audience::HostAndWire;
    }
    let mut word = rule(&frame, from, audience);
    if from == PORT_WIRE && word == Verdict::Pass.pack() && maclane_is_unknown(to) != 0 {
        word = Verdict::Drop(DropReason::Storm).pack();
    }
    follow(skb, hook, from, word, Was::of(dst));
    match Verdict::unpack(word, from, frame.tag) {
        Verdict::Flood(plan) => flood(skb, hook, frame.dst, plan, 0),
        Verdict::Drop(reason) => drop_of(skb, hook, from, reason),
        one => act_on_one(skb, hook, from, &frame, one),
    }
}

/// Tells whoever traces what becomes of a frame that is not dropped: of those [`finish`] tells.
#[inline(always)]
pub(crate) fn follow(skb: Skb, hook: Hook, from: u16, verdict: u64, was: Was) {
    if settings().trace != 0 && !Verdict::drops(verdict) {
        trace(skb.0, Origin::new(from, hook.told()), verdict, was);
    }
}

/// Storm control for a frame from the wire that nobody here has the MAC of: not 0 if it is one too many.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_is_unknown(to: u64) -> i32 {
    let (dst, _) = unpack_mac(to);
    let limited = policy(PORT_WIRE).is_some_and(|p| p.limits[Limit::Unknown as usize] != 0);
    let is_ours =
        || Frame { dst, src: dst, tag: Tag::NONE }.is_multicast() || Maps.may_be_ours(dst);
    i32::from(limited && !is_ours() && !is_within(PORT_WIRE, Limit::Unknown))
}

/// Drops a frame of a port.
#[inline(always)]
pub(crate) fn drop_of(skb: Skb, hook: Hook, from: u16, reason: DropReason) -> i32 {
    maclane_drop(skb.0, Origin::new(from, hook.told()).pack(), reason as u32)
}

/// Drops a frame: counts it by its reason and by its port, of the many that the wire may bring only some, and
/// tells whoever traces.
///
/// A global function, which the verifier looks at once, and not once for each of the many ways that lead to
/// it (`Documentation/bpf/verifier.rst`).
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_drop(skb: *mut __sk_buff, origin: u32, reason: u32) -> i32 {
    let (skb, origin) = (Skb(skb), Origin::unpack(origin));
    #[allow(clippy::cast_possible_truncation, reason = "a reason")]
    let reason = DropReason::from_raw(reason as u8);
    count_drop(reason, skb.size());
    log::dropped(skb, reason);
    if origin.from < PORTS as u16 && (origin.from != PORT_WIRE || is_time_to_look()) {
        note(skb.0, origin.from, reason, true);
    }
    if settings().trace != 0 {
        trace(skb.0, origin, Verdict::Drop(reason).pack(), Was::THE_SAME);
    }
    END
}

/// True for a child for which maclane answers.
#[inline(always)]
fn suppresses(owner: Neighbour) -> bool {
    policy(owner.port).is_some_and(|policy| policy.checks & check_flag::ARP_SUPPRESS != 0)
}

/// Turns the question that a frame is into the child's answer; false if it is no plain one.
#[inline(always)]
fn answer_for_child(skb: Skb, from: u16, owner: Neighbour) -> bool {
    place(skb.0, from).is_some_and(|at| answer_for(skb.0, at, owner))
}

/// Sends a frame, which answers the one that came with this raw [`Tag`], back to the port that that came
/// from. `how` is a [`Hook`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_send_back(skb: *mut __sk_buff, from: u32, how: u32, tag: u32) -> i32 {
    #[allow(clippy::cast_possible_truncation, reason = "a port, a hook")]
    let (skb, from, hook) = (Skb(skb), from as u16, Hook::from_raw(how as u16));
    let (size, tag) = (skb.size(), Tag::from_raw(tag));
    let kind = port(from).map_or(Kind::None, |port| Kind::from_raw(port.kind));
    let delivery = Delivery { port: from, kind, tag };
    if settings().trace != 0 {
        let origin = Origin { flags: traced_flag::ANSWERED, ..Origin::new(from, hook.told()) };
        trace(skb.0, origin, Verdict::Deliver(delivery).pack(), Was::THE_SAME);
    }
    let sent = if hook == Hook::Ingress {
        skb.set_mark(Mark::Hairpin);
        Ok(skb.to_egress(parent()))
    } else {
        deliver(skb, hook, tag, delivery)
    };
    match sent {
        Ok(action) => {
            count::tx(from, size);
            action
        }
        // By its reason alone: there is no stack left for more.
        Err(Refused) => {
            count_drop(DropReason::Refused, size);
            END
        }
    }
}

/// Decides where a frame goes: a [`Verdict::pack`], because verdicts of two ways that meet have gaps, which
/// the verifier does not accept reads of.
#[inline(always)]
pub(crate) fn rule(frame: &Frame, from: u16, audience: Audience) -> u64 {
    let to = pack_mac(frame.dst, from);
    let of = pack_mac(frame.src, audience as u16);
    if from == PORT_WIRE {
        maclane_decide_for_wire(to, of, frame.tag.to_raw())
    } else {
        maclane_decide(to, of, frame.tag.to_raw())
    }
}

/// [`decide_among`] for a frame of the host or a child, with the port in `to` and the audience in `of`, beside
/// the addresses.
///
/// A global function, which the verifier looks at once, and not once for each way that leads on
/// from it (`Documentation/bpf/verifier.rst`), as is the next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_decide(to: u64, of: u64, tag: u32) -> u64 {
    match unpack_mac(to) {
        (_, PORT_WIRE) => Verdict::Drop(DropReason::NoPort).pack(),
        (_, from) => decided(to, of, tag, from),
    }
}

/// The same for a frame of the wire.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_decide_for_wire(to: u64, of: u64, tag: u32) -> u64 {
    decided(to, of, tag, PORT_WIRE)
}

/// [`decide_among`] for a frame of `from`.
#[inline(always)]
fn decided(to: u64, of: u64, tag: u32, from: u16) -> u64 {
    let ((dst, _), (src, audience)) = (unpack_mac(to), unpack_mac(of));
    let frame = Frame { dst, src, tag: Tag::from_raw(tag) };
    #[allow(clippy::cast_possible_truncation, reason = "an audience")]
    decide_among(&frame, from, Audience::from_raw(audience as u8), &Maps).pack()
}

/// True for ARP, and for what may be neighbour discovery.
#[inline(always)]
pub(crate) fn is_about_an_address(skb: Skb, payload: Payload) -> bool {
    payload.ethertype == ETH_P_ARP
        || payload.ethertype == ETH_P_IPV6 && skb.next_header(payload) == ICMPV6
        || payload.is_llc()
}

/// Storm control for a frame from the wire to several: not 0 if it is one too many. The host gets it
/// all the same, as it would without maclane.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_storms(skb: *mut __sk_buff) -> i32 {
    let skb = Skb(skb);
    let Some(frame) = skb.frame() else { return 0 };
    let limit = if frame.dst[0] == 0xff { Limit::Broadcast } else { Limit::Multicast };
    if is_within(PORT_WIRE, limit) {
        return 0;
    }
    count_drop(DropReason::Storm, skb.size());
    note(skb.0, PORT_WIRE, DropReason::Storm, true);
    if settings().trace != 0 {
        let origin = Origin::new(PORT_WIRE, Told::Ingress);
        let origin = Origin { flags: traced_flag::LOGGED, ..origin };
        trace(skb.0, origin, Verdict::Drop(DropReason::Storm).pack(), Was::THE_SAME);
    }
    1
}

/// Does what was decided, where that is no flood.
#[inline(always)]
pub(crate) fn act_on_one(skb: Skb, hook: Hook, from: u16, frame: &Frame, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Deliver(delivery) => match deliver(skb, hook, frame.tag, delivery) {
            Ok(action) => {
                count::tx(delivery.port, skb.size());
                action
            }
            Err(Refused) => finish(skb, hook, from, Verdict::Drop(DropReason::Refused)),
        },
        done @ (Verdict::Pass | Verdict::Drop(_) | Verdict::Flood(_)) => {
            finish(skb, hook, from, done)
        }
    }
}

/// The verdicts that leave the frame alone.
#[inline(always)]
fn finish(skb: Skb, hook: Hook, from: u16, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => {
            let to = if hook == Hook::Ingress { PORT_HOST } else { PORT_WIRE };
            count::tx(to, skb.size());
            NEXT
        }
        Verdict::Drop(reason) => drop_of(skb, hook, from, reason),
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
        // A frame of a sibling that the kernel has switched here, and that is for the wire: it passes
        // the egress like an answer on a child's behalf.
        (Kind::Wire, Hook::Ingress) => {
            skb.set_mark(Mark::Hairpin);
            skb.to_egress(parent())
        }
        // The decision sends nothing nowhere.
        (Kind::None, _) => return Err(Refused),
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
    let word = rule(&frame, from, Audience::Everybody);
    match Verdict::unpack(word, from, frame.tag) {
        Verdict::Flood(plan) => flood(skb, Hook::Ingress, frame.dst, plan, slot),
        // The tables have changed since the flood began, and the rest of it has no members.
        Verdict::Pass | Verdict::Deliver(_) | Verdict::Drop(_) => END,
    }
}
