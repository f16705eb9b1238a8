//! What a child's frame has to pass before anything is decided about it: storm control and port
//! security.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use dataplane_common::{
    DropReason, Frame, Verdict,
    abi::{
        Address, Limit, Neighbour, NeighbourKey, Policy, Port, check_flag, local_flag, port_flag,
    },
    decide::forbidden,
    dhcp,
    frame::{HEAD_LEN, Head, Mac, OffloadedTag},
    llc::{Carries, carries},
    neighbour::{Kind, halves, is_child, join, message, owner, right, word},
    packet::{
        Bytes, ETH_P_ARP, ETH_P_IPV4, ETH_P_IPV6, ETH_P_RARP, ICMPV6, Payload, UDP, Upper,
        may_be_icmpv6, step_packed, upper,
    },
    security::{Account, Sender, Use, is_heard, names, settle},
    trace::{Hook, traced_flag},
};

use crate::{
    count::{Size, rx},
    maps::settings,
    offence::note,
    packed::{pack_mac, unpack_mac},
    place::Place,
    rights::{Rights, is_within_of, now, policy, port, remember},
    skb::{PLAIN_IP, PLAIN_L4, PLAIN_LEN, PendingChecksum, Skb},
    tc::maclane_drop,
    trace::{Origin, Was, trace},
};

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The bytes of an skb, from its data on.
#[derive(Clone, Copy)]
pub(crate) struct SkbBytes(pub(crate) *mut __sk_buff);

/// Bytes at an address from which the compiler can take several at once.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

impl Bytes for SkbBytes {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<Aligned<N>>::uninit();
        let len = N as u32;
        // SAFETY: helper on the program's context; `bytes` has room for as many.
        let read =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), len) };
        // SAFETY: the helper has written all of it.
        if read == 0 { Some(unsafe { bytes.assume_init() }.0) } else { None }
    }

    #[inline(always)]
    fn step(&self, at: u64) -> u64 {
        maclane_step(self.0, at)
    }

    #[inline(always)]
    fn upper(&self, offset: u32, first: u8) -> Upper {
        Upper::unpack(maclane_upper(self.0, offset, first.into()))
    }

    #[inline(always)]
    fn is_heard(&self, start: u32, target: Address) -> bool {
        maclane_is_heard(self.0, start, halves(target).1) != 0
    }

    #[inline(always)]
    fn carries(&self, offset: u32) -> Carries {
        Carries::from_raw(maclane_carries(self.0, offset))
    }

    #[inline(always)]
    fn names(&self, at: u32, end: u32, mac: Mac) -> bool {
        maclane_names(self.0, at, end, pack_mac(mac, 0)) != 0
    }
}

/// [`upper`], of the packet that begins at `offset`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_upper(skb: *mut __sk_buff, offset: u32, first: u32) -> u64 {
    // Of these bytes, not of those that come here.
    #[allow(clippy::cast_possible_truncation, reason = "a protocol")]
    upper(&SkbBytes(skb), offset, first as u8).pack()
}

/// [`carries`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_carries(skb: *mut __sk_buff, offset: u32) -> u32 {
    // Of these bytes, not of those that come here.
    carries(&SkbBytes(skb), offset) as u32
}

/// [`names`], for a packed MAC.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_names(skb: *mut __sk_buff, at: u32, end: u32, mac: u64) -> u32 {
    // Of these bytes, not of those that come here.
    names(&SkbBytes(skb), at, end, unpack_mac(mac).0).into()
}

/// [`is_heard`], for the second half of the target: it looks at nothing else, and what a function does not look at
/// the compiler does not hand to it, which the verifier refuses.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_is_heard(skb: *mut __sk_buff, start: u32, last: u64) -> u32 {
    // Of these bytes, not of those that come here.
    is_heard(&SkbBytes(skb), start, join(0, last)).into()
}

/// [`step_packed`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_step(skb: *mut __sk_buff, at: u64) -> u64 {
    // Of these bytes, not of those that come here.
    step_packed(&SkbBytes(skb), at)
}

impl SkbBytes {
    /// The frame and where its payload begins; `None` if it is too short.
    #[inline(always)]
    pub(crate) fn frame(self) -> Option<(Frame, Payload)> {
        let mut head = MaybeUninit::<Head>::uninit();
        let (to, len) = (head.as_mut_ptr().cast(), HEAD_LEN as u32);
        // SAFETY: helper on the program's context; `head` has room for as many bytes.
        if unsafe { bpf_skb_load_bytes(self.0.cast(), 0, to, len) } != 0 {
            return None;
        }
        // SAFETY: the helper has written all of it.
        let head = unsafe { head.assume_init() };
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (present, proto, tci) =
            unsafe { ((*self.0).vlan_present, (*self.0).vlan_proto, (*self.0).vlan_tci) };
        #[allow(clippy::cast_possible_truncation, reason = "16-bit fields in 32-bit places")]
        let tag = OffloadedTag {
            present: present != 0,
            proto: u16::from_be(proto as u16),
            tci: tci as u16,
        };
        Some((Frame::parse(&head, tag), Payload::of(&head)))
    }
}

/// What is looked at in every frame of a port.
const ALWAYS: u16 = check_flag::ADDRESS
    | check_flag::MAC
    | check_flag::DHCP_SERVER
    | check_flag::ROUTER
    | check_flag::MULTICAST_ROUTER
    | check_flag::SWITCHING;

/// What is looked at in frames about addresses only.
const MESSAGES: u16 = check_flag::LEARN4 | check_flag::LEARN6;

/// False for a frame that a child may not send: it has been counted then.
#[inline(always)]
pub(crate) fn admit(skb: *mut __sk_buff, origin: Origin) -> bool {
    is_plain_of(skb, origin.from) || maclane_admit(skb, origin.pack()) == 0
}

/// True for a frame of a port that need not be looked at more closely.
#[inline(always)]
pub(crate) fn is_plain_of(skb: *mut __sk_buff, from: u16) -> bool {
    policy(from).is_none_or(|policy| is_plain(skb, policy))
}

/// A frame of a child's namespace that no guard has stamped; not 0 if it was dropped. Of a port that
/// may bypass its guard, or whose security does not enforce, it goes on as one of that port.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_bypass(skb: *mut __sk_buff, origin: u32) -> i32 {
    // Without the helper none is told apart: the verifier need not look at the rest.
    if settings().netns == 0 {
        return 0;
    }
    let (origin, reason) = (Origin::unpack(origin), DropReason::GuardBypass);
    rx(origin.from, Size::of_skb(skb));
    let checks = policy(origin.from).map_or(0, |policy| policy.checks);
    if checks & check_flag::RAW_SOCKET != 0 || checks & ALWAYS == 0 {
        return 0;
    }
    if checks & check_flag::ENFORCE != 0 {
        return refuse(skb, origin, reason);
    }
    note(skb, origin.from, reason, false);
    follow(skb, origin, reason, traced_flag::LOGGED);
    0
}

/// True for a frame that need not be looked at more closely: one that is for one station and, where
/// that is checked, plain TCP or UDP from the port's first IPv4 address.
#[inline(always)]
fn is_plain(skb: *mut __sk_buff, policy: &Policy) -> bool {
    // SAFETY: the program's context; the verifier rewrites the accesses.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if data + PLAIN_LEN > end {
        return false;
    }
    // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
    let bytes = unsafe { &*(data as *const [u8; PLAIN_LEN]) };
    if bytes[0] & 1 != 0 {
        return false;
    }
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    match word(12) {
        ETH_P_IPV4 if policy.checks & ALWAYS == 0 => true,
        ETH_P_IPV4 => {
            let source = u32::from_ne_bytes([bytes[26], bytes[27], bytes[28], bytes[29]]);
            let protocol = bytes[23];
            let is_plain = bytes[14] == 0x45
                && word(16) >= PLAIN_IP
                && source != 0
                && source == u32::from_ne_bytes(policy.ip4)
                && (protocol == TCP
                    || protocol == UDP
                        && word(20) & 0x1fff == 0
                        && word(34) != dhcp::SERVER_PORT
                        && !dhcp::is_port(word(36)));
            is_plain && (!PendingChecksum::is_in(skb) || maclane_plain_checksum(skb) != 0)
        }
        ETH_P_IPV6 => policy.checks & ALWAYS == 0 && !may_be_icmpv6(bytes[20]),
        _ => policy.checks & (ALWAYS | MESSAGES) == 0,
    }
}

/// Looks at a frame of a child; 0 if it may pass. A frame too short to be read is left to who decides.
///
/// A global function, which the verifier looks at once (`Documentation/bpf/verifier.rst`), as are those
/// that it calls.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_admit(skb: *mut __sk_buff, origin: u32) -> i32 {
    let origin = Origin::unpack(origin);
    let (from, is_early) = (origin.from, origin.hook as u8 == Hook::Guard as u8);
    Skb(skb).gather_more();
    // One that is too short is counted as that.
    let (Some(_), Some(limited)) = (place(skb, from), limited(skb)) else { return 0 };
    let Some(own) = port(from) else { return 0 };
    let any_mac = own.local & (local_flag::ANY_SOURCE | local_flag::ANY_MAC) != 0;
    if word(limited.src) != word(own.mac) && !any_mac {
        return refuse(skb, origin, DropReason::SourceMac);
    }
    if limited.is_multicast && !is_within_of(from, limited.limit, is_early, Skb(skb).segments()) {
        return refuse(skb, origin, DropReason::Storm);
    }
    let found = inspect(skb, from);
    if found == 0 {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation, reason = "a reason")]
    let reason = DropReason::from_raw((found - 1) as u8);
    if policy(from).is_some_and(|policy| policy.checks & check_flag::ENFORCE != 0) {
        return refuse(skb, origin, reason);
    }
    // The parent's egress notes it.
    if !is_early {
        note(skb, from, reason, false);
        follow(skb, origin, reason, traced_flag::LOGGED);
    }
    0
}

/// Not 0 for a frame with a pending checksum that would be written over what was checked: one more than
/// [`DropReason::HiddenHeader`]. The kernel, or the NIC, writes it behind every check, where the sender has chosen: a
/// packet socket, a tap or tun device (`struct virtio_net_hdr`), or the owner of the link, who moves headers by
/// traffic control.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_checksum_hides(skb: *mut __sk_buff, from: u32) -> u32 {
    const HIDES: u32 = DropReason::HiddenHeader as u32 + 1;
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    let from = from as u16;
    if policy(from).is_none_or(|policy| !has_checked_headers(policy)) {
        return 0;
    }
    if !PendingChecksum::is_in(skb) {
        return 0;
    }
    let Some(place) = place(skb, from) else { return 0 };
    let (bytes, offset) = (SkbBytes(skb), u32::from(place.offset));
    let (protocol, at) = match place.extra {
        ETH_P_IPV4 => {
            let Some(header) = bytes.load::<10>(offset) else { return HIDES };
            // No kernel leaves a checksum pending in a fragment (`net/ipv4/ip_output.c`, `ip_do_fragment`).
            if header[6] & 0x1f | header[7] != 0 {
                return HIDES;
            }
            (header[9], offset + u32::from(header[0] & 0xf) * 4)
        }
        ETH_P_IPV6 => {
            let Some([next]) = bytes.load::<1>(offset + 6) else { return HIDES };
            match bytes.upper(offset, next) {
                Upper::At(header) => (header.protocol, header.offset),
                Upper::Elsewhere | Upper::Hidden => return HIDES,
            }
        }
        // Nothing inside is looked at.
        ETH_P_MPLS_UC => (IPPROTO_MPLS, offset),
        _ => return HIDES,
    };
    let least = match protocol {
        // Only the first of the messages would be looked into.
        UDP if Skb(skb).is_segmented() && is_dhcp(bytes, at) => return HIDES,
        TCP | UDP => CHECKSUM,
        // Looked into, and no kernel leaves a checksum of these to others.
        ICMP | IGMP | ICMPV6 | PIM => return HIDES,
        // Of a packet inside (GRE, IP), which is not looked at.
        _ => 0,
    };
    if is_of(PendingChecksum::of(skb), at, least) { 0 } else { HIDES }
}

/// Not 0 if the pending checksum of a plain frame is that of its transport header.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_plain_checksum(skb: *mut __sk_buff) -> u32 {
    is_of(PendingChecksum::of(skb), PLAIN_L4, CHECKSUM).into()
}

/// True for the pending checksum of a header that begins `at` that offset of the frame, of which the first
/// `least` bytes were checked.
#[inline(always)]
fn is_of(pending: PendingChecksum, at: u32, least: u32) -> bool {
    pending.start >= at && (at + least..=FARTHEST).contains(&pending.at)
}

/// True for a message of DHCP or DHCPv6, by the ports of UDP.
#[inline(always)]
fn is_dhcp(bytes: SkbBytes, at: u32) -> bool {
    let Some([a, b, c, d]) = bytes.load::<4>(at) else { return true };
    let is = |port: u16| dhcp::is_port(port) || dhcp::is_port6(port);
    is(u16::from_be_bytes([a, b])) || is(u16::from_be_bytes([c, d]))
}

/// True if headers are checked of what a port sends, and it may not use raw sockets.
#[inline(always)]
fn has_checked_headers(policy: &Policy) -> bool {
    policy.checks & ALWAYS != 0 && policy.checks & check_flag::RAW_SOCKET == 0
}

/// Where the checksum of UDP is (RFC 768). That of TCP comes later (RFC 9293, section 3.1). What is checked of
/// both, the ports, comes before.
const CHECKSUM: u32 = 6;

/// Where a pending checksum is at most. NICs that make any (`NETIF_F_HW_CSUM`) take its place in 8 bits
/// (`drivers/net/ethernet/intel/e1000/e1000_hw.h`, `struct e1000_context_desc`): one farther off comes out in a
/// header. The rest is room for the tags that are put in front later.
const FARTHEST: u32 = 240;

/// `IPPROTO_*` (`include/uapi/linux/in.h`).
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const PIM: u8 = 103;
const IPPROTO_MPLS: u8 = 137;

/// `ETH_P_MPLS_UC` (`include/uapi/linux/if_ether.h`).
const ETH_P_MPLS_UC: u16 = 0x8847;

/// Tells whoever traces of a frame that its port may not send.
#[inline(always)]
fn follow(skb: *mut __sk_buff, origin: Origin, reason: DropReason, flags: u8) {
    let origin = Origin { flags, ..origin };
    trace(skb, origin, Verdict::Drop(reason).pack(), Was::THE_SAME);
}

/// What a frame's addresses say of limits.
struct Limited {
    src: Mac,
    is_multicast: bool,
    limit: Limit,
}

#[inline(always)]
fn limited(skb: *mut __sk_buff) -> Option<Limited> {
    let [first, _, _, _, _, _, src @ ..] = SkbBytes(skb).load::<12>(0)?;
    let limit = if first == 0xff { Limit::Broadcast } else { Limit::Multicast };
    Some(Limited { src, is_multicast: first & 1 != 0, limit })
}

/// Drops a frame.
#[inline(always)]
pub(crate) fn refuse(skb: *mut __sk_buff, origin: Origin, reason: DropReason) -> i32 {
    maclane_drop(skb, Origin { flags: 0, ..origin }.pack(), reason as u32);
    1
}

/// Where the payload of a frame of a port is, its `EtherType` in `extra`; [`NOTHING`] for a frame that is
/// too short.
///
/// What comes back is a number that the verifier knows nothing of: it need not follow each form that a
/// tag can have to the end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_place(skb: *mut __sk_buff, from: u32) -> u64 {
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    let number = from as u16;
    let Some((frame, payload)) = SkbBytes(skb).frame() else { return NOTHING };
    let tagged = frame.tag.vlan();
    let is_access = |p: &Port| p.flags & port_flag::TRUNK == 0;
    let own = if is_child(number) { port(number).filter(is_access) } else { None };
    let vlan = own.map_or(tagged, |p| p.vlan);
    #[allow(clippy::cast_possible_truncation, reason = "14 or 18")]
    Place { port: number, vlan, offset: payload.offset as u16, extra: payload.ethertype }.pack()
}

/// No place.
const NOTHING: u64 = u64::MAX;

/// Where the payload of a frame of a port is, its `EtherType` in `extra`.
#[inline(always)]
pub(crate) fn place(skb: *mut __sk_buff, from: u16) -> Option<Place> {
    let word = maclane_place(skb, from.into());
    if word == NOTHING { None } else { Some(Place::unpack(word)) }
}

/// Port security: 0 if the frame may pass, else one more than the reason.
#[inline(always)]
fn inspect(skb: *mut __sk_buff, from: u16) -> u32 {
    // Again, and not from above: to keep it would take stack that Linux 6.1 does not have.
    let Some(at) = place(skb, from) else { return 0 };
    let Some(policy) = policy(from) else { return 0 };
    // It will be dropped: no station hears it, and nothing is learned from it.
    if maclane_forbidden(skb, from.into()) != 0 {
        return 0;
    }
    let hides = maclane_checksum_hides(skb, from.into());
    if hides != 0 {
        return hides;
    }
    let always = policy.checks & ALWAYS != 0;
    let messages = always || policy.checks & MESSAGES != 0;
    match at.extra {
        ETH_P_ARP if messages => maclane_arp(skb, at.pack()),
        ETH_P_IPV6 if messages => maclane_ipv6(skb, at.pack()),
        ETH_P_IPV4 if always => maclane_ipv4(skb, at.pack()),
        ETH_P_ARP | ETH_P_IPV6 | ETH_P_IPV4 => 0,
        _ if !always => 0,
        ETH_P_RARP => maclane_arp(skb, at.pack()),
        _ => maclane_other(skb, at.pack()),
    }
}

/// Not 0 for a frame that a child may not send, whoever is to get it: one more than the reason. What is
/// too short to be read is left to who decides.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_forbidden(skb: *mut __sk_buff, from: u32) -> u32 {
    let Some((frame, _)) = SkbBytes(skb).frame() else { return 0 };
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    let Some(own) = port(from as u16) else { return 0 };
    answer(forbidden(&frame, &own))
}

/// What is looked at, what keeps account, and where to look.
#[inline(always)]
fn sender(at: u64) -> Option<(Sender, Book, Payload)> {
    let at = Place::unpack(at);
    let (policy, port) = (policy(at.port)?, port(at.port)?);
    let sender = Sender { mac: port.mac, checks: policy.checks };
    let payload = Payload { ethertype: at.extra, offset: at.offset.into() };
    Some((sender, Book { port: at.port, vlan: at.vlan }, payload))
}

#[inline(always)]
fn answer(offence: Option<DropReason>) -> u32 {
    offence.map_or(0, |reason| reason as u32 + 1)
}

/// [`Sender::arp`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_arp(skb: *mut __sk_buff, at: u64) -> u32 {
    let Some((sender, book, payload)) = sender(at) else { return 0 };
    answer(sender.arp(&SkbBytes(skb), payload, &book))
}

/// [`Sender::ipv4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_ipv4(skb: *mut __sk_buff, at: u64) -> u32 {
    let Some((sender, book, payload)) = sender(at) else { return 0 };
    answer(sender.ipv4(&SkbBytes(skb), payload.offset, &book))
}

/// [`Sender::ipv6`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_ipv6(skb: *mut __sk_buff, at: u64) -> u32 {
    let Some((sender, book, payload)) = sender(at) else { return 0 };
    answer(sender.ipv6(&SkbBytes(skb), payload.offset, &book))
}

/// [`Sender::other`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_other(skb: *mut __sk_buff, at: u64) -> u32 {
    let Some((sender, _, payload)) = sender(at) else { return 0 };
    answer(sender.other(&SkbBytes(skb), payload))
}

/// The account of a child's addresses, kept in the maps.
#[derive(Clone, Copy)]
struct Book {
    port: u16,
    vlan: u16,
}

impl Account for Book {
    #[inline(always)]
    fn uses(&self, ip: Address, asks: bool) -> Use {
        let (first, last) = halves(ip);
        let Self { port, vlan } = *self;
        let place = Place { port, vlan, offset: 0, extra: asks.into() };
        Use::from_raw(maclane_uses(first, last, place.pack()))
    }
}

/// Whether a child may use the address of two halves, or, if `extra` of the place is not 0, ask for it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_uses(first: u64, last: u64, place: u64) -> u32 {
    let Place { port: number, vlan, extra, .. } = Place::unpack(place);
    let (Some(policy), Some(port)) = (policy(number), port(number)) else { return 0 };
    let key = NeighbourKey::new(join(first, last), vlan);
    let (child, now) = (Neighbour { port: number, mac: port.mac }, now());
    let right = right(&key, child, now, policy, &Rights);
    let checked = policy.checks & check_flag::ADDRESS != 0;
    let (use_, lasting) = settle(right, extra != 0, checked);
    if lasting && !remember(&key, child, policy.max_addresses, now) && checked {
        return Use::Full as u32;
    }
    use_ as u32
}

/// Sends a question of a child in bridge mode to the one station that can answer it: the kernel gives a
/// broadcast of such a child to all siblings in that mode before any other program of ours sees it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn maclane_ask_sibling(skb: *mut __sk_buff, from: u32) -> i32 {
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    let from = from as u16;
    let Some(at) = place(skb, from) else { return 0 };
    let Some(message) = message(&SkbBytes(skb), at.extra, at.offset.into()) else { return 0 };
    // Whether a probe of IPv6 is heard by all that may have the address is checked at the parent.
    let is_probe = message.kind as u8 == Kind::Probe as u8 && at.extra == ETH_P_IPV6;
    if !message.kind.asks() || is_probe {
        return 0;
    }
    let key = NeighbourKey::new(message.target, at.vlan);
    let Some(owner) = owner(&key, now(), &Rights) else { return 0 };
    let floods = is_child(owner.port)
        && policy(owner.port).is_some_and(|p| p.checks & check_flag::ARP_FLOOD != 0);
    if owner.port != from && !floods {
        // SAFETY: the address holds the six bytes.
        unsafe { bpf_skb_store_bytes(skb, 0, owner.mac.as_ptr().cast(), 6, 0) };
    }
    0
}
