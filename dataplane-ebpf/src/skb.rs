//! An skb, as the TC programs see it: reading its head, changing its tag, sending it somewhere.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::{
        bpf_clone_redirect, bpf_redirect, bpf_redirect_peer, bpf_skb_change_head,
        bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_pull_data,
        bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push, generated::bpf_probe_read_kernel,
    },
};
use dataplane_common::{
    Frame, Mark,
    abi::SkbLayout,
    dhcp,
    frame::{ETH_HLEN, ETH_P_8021Q, HEAD_LEN, Head, Mac, OffloadedTag, Tag, VLAN_HLEN},
    mark::MENDED,
    packet::{ETH_P_IPV4, ICMPV6, Payload, UDP, may_be_icmpv6},
};

use crate::{count::Size, maps::skb_layout};

/// Go on: with the next program, the next filter, the kernel (`TCX_NEXT`, `TC_ACT_UNSPEC`).
pub(crate) const NEXT: i32 = -1;

/// The frame ends here (`TCX_DROP`, `TC_ACT_SHOT`). TCX takes `TC_ACT_STOLEN` for "go on"
/// (`net/core/dev.c`, `tcx_action_code`), so this also ends frames of which copies were sent.
pub(crate) const END: i32 = 2;

/// `BPF_HDR_START_MAC` (`include/uapi/linux/bpf.h`).
const BPF_HDR_START_MAC: u32 = 0;

/// Where IPv6's next header is in a frame without a tag (RFC 8200, section 3).
const NEXT_HEADER: usize = ETH_HLEN + 6;

/// Where IPv4's protocol is in a frame without a tag (RFC 791, section 3.1).
const IPV4_PROTOCOL: usize = ETH_HLEN + 9;

/// Where UDP's source port is behind IPv4 without options.
const UDP_PORTS: usize = ETH_HLEN + 20;

/// `PACKET_HOST` (`include/uapi/linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// The kernel refused: no memory, a full queue, a device that is down.
pub(crate) struct Refused;

/// The frame that a TC program was called for.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

macro_rules! field {
    ($($(#[doc = $doc:literal])+ $method:ident: $name:ident;)+) => {
        $(
            $(#[doc = $doc])+
            #[inline(always)]
            pub(crate) fn $method(self) -> u32 {
                // SAFETY: the program's context; the verifier rewrites the access.
                unsafe { (*self.0).$name }
            }
        )+
    };
}

/// True (1) for a frame whose data begins behind its MAC header. A function of its own, so that its stack
/// is not below that of others.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_misplaced(skb: *mut __sk_buff) -> i32 {
    i32::from(Skb(skb).begins_late())
}

/// Puts a frame's MAC header back ([`Skb::mend`]); negative if that is refused.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_mend(skb: *mut __sk_buff, ifindex: u32) -> i32 {
    Skb(skb).put_header_back(ifindex).unwrap_or(-1)
}

/// The raw [`Tag`] of a frame in the lower half, and above it its [`Payload`]; 0 for one that is too short.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_parse(skb: *mut __sk_buff) -> u64 {
    let Some((frame, payload)) = Skb(skb).seen() else { return 0 };
    u64::from(frame.tag.to_raw())
        | u64::from(payload.ethertype) << 32
        | u64::from(payload.offset) << 48
}

/// Turns the tag of a frame from one raw [`Tag`] into another, wherever it is; 0 if that was done. A
/// function of its own, so that the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_retag(skb: *mut __sk_buff, have: u32, want: u32) -> i32 {
    i32::from(Skb(skb).retag(Tag::from_raw(have), Tag::from_raw(want)).is_err())
}

/// Copies all of a frame into its linear part; 0 if that was done. A function of its own, so that the
/// verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_gather(skb: *mut __sk_buff) -> i32 {
    // SAFETY: helper on the program's context; the verifier rewrites the access.
    unsafe { bpf_skb_pull_data(skb, (*skb).len) as i32 }
}

/// The same of as much of it as is looked into.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_gather_more(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context; the verifier rewrites the accesses.
    let (data, end, len) = unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).len) };
    let wanted = if len < LOOKED_INTO { len } else { LOOKED_INTO };
    if end - data >= wanted as usize {
        return 0;
    }
    // SAFETY: helper on the program's context. What is refused is read where it is.
    unsafe { bpf_skb_pull_data(skb, wanted) as i32 }
}

/// As much of a frame as is read of a plain one: Ethernet, IPv4 without options, the ports.
pub(crate) const PLAIN_LEN: usize = 38;

/// Bytes of a frame that are looked into at most, but for headers that lie behind others.
const LOOKED_INTO: u32 = 2048;

/// The least length of a plain packet of TCP or UDP.
pub(crate) const PLAIN_IP: u16 = 28;

/// Where TCP or UDP is in a plain frame.
pub(crate) const PLAIN_L4: u32 = 34;

/// `CHECKSUM_PARTIAL` (`include/linux/skbuff.h`).
const PARTIAL: u8 = 3;

/// A pending checksum (`CHECKSUM_PARTIAL`), which the kernel, or the NIC, computes and writes into a frame when it
/// sends it (`net/core/dev.c`, `skb_checksum_help`). Both offsets are in bytes from the frame's start; 0 for what
/// lies before it.
#[derive(Clone, Copy)]
pub(crate) struct PendingChecksum {
    /// From where on bytes are summed (`csum_start`), or where the transport header is said to be, if that comes
    /// first: there are NICs that put the checksum where it stands behind the transport header (r8169, sky2).
    pub(crate) start: u32,
    /// Where the checksum is written.
    pub(crate) at: u32,
}

impl PendingChecksum {
    /// What cannot be read counts as pending before the frame.
    const HIDDEN: Self = Self { start: 0, at: 0 };

    /// True for a frame that has one; false for each on a kernel of which the layout of an skb is not known.
    #[inline(always)]
    pub(crate) fn is_in(skb: *mut __sk_buff) -> bool {
        let layout = skb_layout();
        // Without the layout the verifier need not look at the rest: a kernel that is locked down has no such
        // helper.
        if layout.csum_start == 0 {
            return false;
        }
        let mut summed = MaybeUninit::<u8>::uninit();
        let is_hidden = !in_kernel(skb, layout.ip_summed, &mut summed);
        // SAFETY: the helper has written it.
        let summed = unsafe { summed.assume_init() };
        // Not one after the other: the verifier would follow each way to the end.
        is_hidden | (summed >> layout.shift & 3 == PARTIAL)
    }

    /// That of a frame that [has one](Self::is_in), read as the memory of the kernel that it is: a program's context is
    /// the skb itself, of which BPF does not show these fields.
    #[inline(always)]
    pub(crate) fn of(skb: *mut __sk_buff) -> Self {
        let layout = skb_layout();
        if layout.csum_start == 0 {
            return Self::HIDDEN;
        }
        let mut sum = MaybeUninit::<[u16; 2]>::uninit();
        let mut place = MaybeUninit::<[u64; SkbLayout::PLACE / 8]>::uninit();
        if !in_kernel(skb, layout.csum_start, &mut sum) || !in_kernel(skb, layout.place, &mut place)
        {
            return Self::HIDDEN;
        }
        // SAFETY: the helper has written both.
        let (sum, place) = unsafe { (sum.assume_init(), place.assume_init_ref()) };
        let ([start, offset], [.., head, data]) = (sum, *place);
        let at = usize::from(layout.transport_header);
        if at > SkbLayout::HEAD - 2 {
            return Self::HIDDEN;
        }
        // SAFETY: both bytes were checked to be inside; any alignment will do.
        let transport =
            unsafe { place.as_ptr().cast::<u8>().add(at).cast::<u16>().read_unaligned() };
        let ahead = data - head;
        // One that was not set is the greatest number.
        let first = if transport < start { transport } else { start };
        #[allow(clippy::cast_possible_truncation, reason = "within 128 KiB")]
        let within = |at: u64| at.saturating_sub(ahead) as u32;
        let at = u64::from(start) + u64::from(offset);
        Self { start: within(first.into()), at: within(at) }
    }
}

/// Reads what the kernel has at `offset` of an skb into integers; zeros and false if it cannot be read.
#[inline(always)]
fn in_kernel<T: Copy>(skb: *mut __sk_buff, offset: u16, to: &mut MaybeUninit<T>) -> bool {
    // SAFETY: the helper writes all of `to`, zeros if it fails (`kernel/trace/bpf_trace.c`,
    // `bpf_probe_read_kernel_common`), and any are a value of the integers that are read here.
    unsafe {
        let from = skb.cast::<u8>().add(offset.into());
        bpf_probe_read_kernel(to.as_mut_ptr().cast(), size_of::<T>() as u32, from.cast()) == 0
    }
}

impl Skb {
    /// Copies a frame whose headers are not in its linear part there, all of it. To be called before
    /// anything is read of it.
    ///
    /// What a kernel makes has its headers there. Only a sender that shares its memory with the kernel has
    /// not (`net/packet/af_packet.c`, `tpacket_fill_skb`), and could change what was checked.
    #[inline(always)]
    pub(crate) fn gather(self) {
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if data + PLAIN_LEN > end {
            // What is refused remains too short to be read.
            maclane_gather(self.0);
        }
    }

    /// Copies what is looked into of a frame into its linear part, which no sender shares (`MSG_ZEROCOPY`, packet
    /// rings). To be called before anything is read that is checked.
    #[inline(always)]
    pub(crate) fn gather_more(self) {
        maclane_gather_more(self.0);
    }

    /// How many frames it will be cut into at most (`net/core/gso.c`).
    #[inline(always)]
    pub(crate) fn segments(self) -> u32 {
        // SAFETY: the verifier rewrites the accesses.
        let (size, len) = unsafe { ((*self.0).gso_size, (*self.0).len) };
        if size == 0 { 1 } else { len / size + 1 }
    }

    /// True for a frame that will be cut into several.
    #[inline(always)]
    pub(crate) fn is_segmented(self) -> bool {
        // SAFETY: the verifier rewrites the access.
        unsafe { (*self.0).gso_size != 0 }
    }

    field! {
        /// The mark.
        mark: mark;
        /// The `tc_index`, which a guard stamps.
        tc_index: tc_index;
        /// What the kernel takes the frame for, in network byte order; what a packet socket sends
        /// has what its sender chose, or nothing that is true (`ETH_P_ALL`).
        protocol: protocol;
        /// 1 if the kernel keeps a tag beside the bytes.
        tag_is_offloaded: vlan_present;
        /// The index of the interface whose hook the program sits on.
        ifindex: ifindex;
        /// The index of the interface that the frame came in through, 0 if it began here.
        came_in: ingress_ifindex;
    }

    /// True for a frame that a socket on this machine has sent.
    #[inline(always)]
    pub(crate) fn has_socket(self) -> bool {
        // SAFETY: the program's context; the verifier rewrites the access to a pointer that may be
        // null (`net/core/filter.c`, `bpf_skb_is_valid_access`).
        unsafe { !(*self.0).__bindgen_anon_2.sk.is_null() }
    }

    /// Removes what the guard, the child's owner or the host have written beside the frame.
    #[inline(always)]
    pub(crate) fn clear_stamp(self) {
        // SAFETY: the program's context; the verifier rewrites the access.
        unsafe { (*self.0).tc_index = 0 };
    }

    /// What is counted of it.
    #[inline(always)]
    pub(crate) fn size(self) -> Size {
        Size::of_skb(self.0)
    }

    /// The one bounds check: the head of the frame; `None` if it is too short.
    #[inline(always)]
    fn head(self) -> Option<Head> {
        match self.linear_head() {
            // A short frame, or one whose payload is not in the linear part.
            None => self.load_head(),
            head => head,
        }
    }

    /// The head of the frame, if it is in the linear part.
    #[inline(always)]
    fn linear_head(self) -> Option<Head> {
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if data + HEAD_LEN > end {
            return None;
        }
        // SAFETY: the bytes were checked to be inside the frame, which begins at an even address.
        Some(unsafe { *(data as *const Head) })
    }

    /// The head of the frame from its MAC header on, wherever its data begins.
    #[inline(always)]
    fn load_head(self) -> Option<Head> {
        let mut head = MaybeUninit::<Head>::uninit();
        let to = head.as_mut_ptr().cast();
        let len = HEAD_LEN as u32;
        // SAFETY: helper on the program's context; `head` holds as many bytes.
        let read =
            unsafe { bpf_skb_load_bytes_relative(self.0.cast(), 0, to, len, BPF_HDR_START_MAC) };
        // SAFETY: the helper has written all of it.
        if read == 0 { Some(unsafe { head.assume_init() }) } else { None }
    }

    /// True if the frame's data begins behind its MAC header. Linux 6.18 does that after generic
    /// XDP has copied an skb: the copy has no `mac_len` (`net/core/skbuff.c`, `skb_pp_cow_data`),
    /// which is how far the TC hook moves back (`net/core/dev.c`, `sch_handle_ingress`).
    #[inline(always)]
    pub(crate) fn is_misplaced(self) -> bool {
        maclane_misplaced(self.0) != 0
    }

    #[inline(always)]
    fn begins_late(self) -> bool {
        let mut begin = MaybeUninit::<Head>::uninit();
        let to = begin.as_mut_ptr().cast();
        // SAFETY: helper on the program's context; `begin` holds as many bytes.
        let read = unsafe { bpf_skb_load_bytes(self.0.cast(), 0, to, HEAD_LEN as u32) };
        if read != 0 {
            return true;
        }
        // SAFETY: the helper has written all of it.
        let begin = unsafe { begin.assume_init() };
        // Word by word: a comparison of arrays calls `memcmp`, a function with pointers, which
        // kernels before 6.8 do not accept from libbpf.
        let differs =
            |head: Head| head.iter().zip(&begin).fold(0, |all, (a, b)| all | (a ^ b)) != 0;
        self.load_head().is_some_and(differs)
    }

    /// Puts the MAC header back in front of the data, and the frame back into the ingress of
    /// `ifindex`: there the kernel finds it again. Refused for one that has been round already.
    #[inline(always)]
    pub(crate) fn mend(self, ifindex: u32) -> Result<i32, Refused> {
        match maclane_mend(self.0, ifindex) {
            refused if refused < 0 => Err(Refused),
            action => Ok(action),
        }
    }

    #[inline(always)]
    fn put_header_back(self, ifindex: u32) -> Result<i32, Refused> {
        let Some(header) = self.load_head() else { return Err(Refused) };
        if self.tc_index() & u32::from(MENDED) != 0 {
            return Err(Refused);
        }
        // SAFETY: helpers on the program's context; `header` holds as many bytes.
        unsafe {
            if bpf_skb_change_head(self.0, ETH_HLEN as u32, 0) != 0 {
                return Err(Refused);
            }
            let from = header.as_ptr().cast();
            if bpf_skb_store_bytes(self.0, 0, from, ETH_HLEN as u32, 0) != 0 {
                return Err(Refused);
            }
            (*self.0).tc_index = self.tc_index() | u32::from(MENDED);
        }
        Ok(self.to_ingress(ifindex))
    }

    /// The frame, as the decision sees it; `None` if it is too short.
    #[inline(always)]
    pub(crate) fn frame(self) -> Option<Frame> {
        Some(self.parsed()?.0)
    }

    /// The frame, and what it carries; `None` if it is too short.
    #[inline(always)]
    pub(crate) fn parsed(self) -> Option<(Frame, Payload)> {
        self.tagged(&self.seen()?.0)
    }

    /// [`Self::parsed`], of a frame that was [gathered](Self::gather).
    #[inline(always)]
    pub(crate) fn gathered(self) -> Option<(Frame, Payload)> {
        self.tagged(&self.linear()?.0)
    }

    /// A frame of which the tag is read again, and what it carries.
    #[inline(always)]
    fn tagged(self, &Frame { dst, src, .. }: &Frame) -> Option<(Frame, Payload)> {
        // What comes back is a number that the verifier knows nothing of: it need not follow each form
        // that a tag can have to the end.
        let word = maclane_parse(self.0);
        #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
        let (tag, ethertype, offset) = (word as u32, (word >> 32) as u16, (word >> 48) as u32);
        Some((Frame { dst, src, tag: Tag::from_raw(tag) }, Payload { ethertype, offset }))
    }

    #[inline(always)]
    fn seen(self) -> Option<(Frame, Payload)> {
        Some(self.parse(&self.head()?))
    }

    /// The frame, and what it carries, if its head is in the linear part.
    #[inline(always)]
    pub(crate) fn linear(self) -> Option<(Frame, Payload)> {
        Some(self.parse(&self.linear_head()?))
    }

    #[inline(always)]
    fn parse(self, head: &Head) -> (Frame, Payload) {
        (Frame::parse(head, self.offloaded_tag()), Payload::of(head))
    }

    /// What an IPv6 packet carries: [`ICMPV6`], too, where that may stand behind extension headers, or where the
    /// frame's first bytes do not reach that far.
    #[inline(always)]
    pub(crate) fn next_header(self, payload: Payload) -> u8 {
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if data + NEXT_HEADER + VLAN_HLEN + 1 > end {
            return ICMPV6;
        }
        let at = if payload.is_first() { 0 } else { VLAN_HLEN };
        // SAFETY: the byte was checked to be inside the frame.
        let first = unsafe { *((data + NEXT_HEADER + at) as *const u8) };
        if may_be_icmpv6(first) { ICMPV6 } else { first }
    }

    /// True for what a DHCP server says, or is told, in IPv4 without options.
    #[inline(always)]
    pub(crate) fn is_dhcp(self, payload: Payload) -> bool {
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if payload.ethertype != ETH_P_IPV4 || data + UDP_PORTS + VLAN_HLEN + 4 > end {
            return false;
        }
        let at = if payload.is_first() { 0 } else { VLAN_HLEN };
        // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
        let (protocol, [a, b, c, d]) = unsafe {
            let protocol = *((data + IPV4_PROTOCOL + at) as *const u8);
            (protocol, *((data + UDP_PORTS + at) as *const [u8; 4]))
        };
        protocol == UDP
            && (u16::from_be_bytes([a, b]) == dhcp::SERVER_PORT
                || u16::from_be_bytes([c, d]) == dhcp::SERVER_PORT)
    }

    #[inline(always)]
    fn offloaded_tag(self) -> OffloadedTag {
        let present = self.tag_is_offloaded();
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (proto, tci) = unsafe { ((*self.0).vlan_proto, (*self.0).vlan_tci) };
        #[allow(clippy::cast_possible_truncation, reason = "16-bit fields in 32-bit places")]
        OffloadedTag { present: present != 0, proto: u16::from_be(proto as u16), tci: tci as u16 }
    }

    /// Sets the mark to one of ours.
    #[inline(always)]
    pub(crate) fn set_mark(self, mark: Mark) {
        // SAFETY: the program's context; the mark may be written.
        unsafe { (*self.0).mark = mark.encode() };
    }

    /// Removes our mark.
    #[inline(always)]
    pub(crate) fn clear_mark(self) {
        // SAFETY: the program's context; the mark may be written.
        unsafe { (*self.0).mark = 0 };
    }

    /// Turns tag `have` into `want`, wherever the tag is: in the bytes or in the metadata.
    #[inline(always)]
    pub(crate) fn set_tag(self, have: Tag, want: Tag) -> Result<(), Refused> {
        if have == want {
            return Ok(());
        }
        // The most common change, without a call.
        if !want.is_some() && self.tag_is_offloaded() != 0 {
            return self.pop_known_tag();
        }
        match maclane_retag(self.0, have.to_raw(), want.to_raw()) {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    /// [`Self::set_tag`], here and now.
    #[inline(always)]
    pub(crate) fn retag(self, have: Tag, want: Tag) -> Result<(), Refused> {
        if have == want {
            return Ok(());
        }
        if have.is_some() {
            self.pop_tag()?;
        }
        if want.is_some() { self.push_tag(want.tci()) } else { Ok(()) }
    }

    #[inline(always)]
    fn push_tag(self, tci: u16) -> Result<(), Refused> {
        // SAFETY: helper on the program's context.
        match unsafe { bpf_skb_vlan_push(self.0, ETH_P_8021Q.to_be(), tci) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    /// Takes the tag off, wherever it is: in the bytes or in the metadata.
    ///
    /// The kernel looks for one in the bytes only where `skb->protocol` says that there is one, and else
    /// reports success (`net/core/skbuff.c`, `skb_vlan_pop`).
    #[inline(always)]
    fn pop_tag(self) -> Result<(), Refused> {
        let is_known =
            self.tag_is_offloaded() != 0 || self.protocol() == u32::from(ETH_P_8021Q.to_be());
        if is_known { self.pop_known_tag() } else { self.pop_unknown_tag() }
    }

    /// The second of two more tags moves the first one into the bytes, and `skb->protocol` tells the
    /// truth from there on; then each goes again.
    #[inline(always)]
    fn pop_unknown_tag(self) -> Result<(), Refused> {
        self.push_tag(0)?;
        self.push_tag(0)?;
        self.pop_known_tag()?;
        self.pop_known_tag()?;
        self.pop_known_tag()
    }

    #[inline(always)]
    fn pop_known_tag(self) -> Result<(), Refused> {
        // SAFETY: helper on the program's context.
        match unsafe { bpf_skb_vlan_pop(self.0) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    /// Writes the destination MAC.
    #[inline(always)]
    pub(crate) fn set_dst(self, dst: Mac) -> Result<(), Refused> {
        // SAFETY: `dst` holds the six bytes.
        match unsafe { bpf_skb_store_bytes(self.0, 0, dst.as_ptr().cast(), 6, 0) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    /// Puts the frame into the ingress of an interface of this namespace.
    #[inline(always)]
    pub(crate) fn to_ingress(self, ifindex: u32) -> i32 {
        // SAFETY: the helper has no preconditions.
        (unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) }) as i32
    }

    /// Sends the frame out of an interface of this namespace.
    #[inline(always)]
    pub(crate) fn to_egress(self, ifindex: u32) -> i32 {
        // SAFETY: the helper has no preconditions.
        (unsafe { bpf_redirect(ifindex, 0) }) as i32
    }

    /// Gives the frame to the other end of a veth whose end here is `ifindex`; from ingress only.
    #[inline(always)]
    pub(crate) fn to_peer(self, ifindex: u32) -> i32 {
        // Until Linux 6.15 the packet type stays what it was here, "for another host"
        // (`net/core/filter.c`, `skb_do_redirect`).
        // SAFETY: helpers on the program's context.
        unsafe {
            bpf_skb_change_type(self.0, PACKET_HOST);
            bpf_redirect_peer(ifindex, 0) as i32
        }
    }

    /// Puts a copy of the frame into the ingress of an interface.
    #[inline(always)]
    pub(crate) fn copy_to_ingress(self, ifindex: u32) -> Result<(), Refused> {
        self.copy_to(ifindex, u64::from(BPF_F_INGRESS))
    }

    /// Sends a copy of the frame out of an interface.
    #[inline(always)]
    pub(crate) fn copy_to_egress(self, ifindex: u32) -> Result<(), Refused> {
        self.copy_to(ifindex, 0)
    }

    #[inline(always)]
    fn copy_to(self, ifindex: u32, flags: u64) -> Result<(), Refused> {
        // SAFETY: helper on the program's context.
        match unsafe { bpf_clone_redirect(self.0, ifindex, flags) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }
}
