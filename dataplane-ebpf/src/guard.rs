//! `maclane_guard`, the program that sits on a macvlan child: an object of its own, because it is
//! loaded once for each child.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod admit;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod licence;
#[cfg(target_arch = "bpf")]
mod offence;
#[cfg(target_arch = "bpf")]
mod place;
#[cfg(target_arch = "bpf")]
mod rights;
#[cfg(target_arch = "bpf")]
mod trace;

/// For the host there is nothing to run: `cargo clippy --workspace` may look at it all the same.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod guard {
    use aya_ebpf::{
        Global,
        bindings::{__sk_buff, TC_ACT_OK},
        macros::classifier,
        programs::TcContext,
    };
    use dataplane_common::{
        DropReason, Mark,
        abi::port_flag,
        frame::{ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q},
        mark::stamp,
    };

    use crate::{
        admit::{admit, maclane_ask_sibling, maclane_forbidden, refuse},
        count::{self, Size},
        rights,
    };

    /// The port of the child that this instance sits on; set when it is loaded.
    #[unsafe(no_mangle)]
    static GUARD_PORT: Global<u32> = Global::new(0);

    /// 1: what comes after it does not run.
    #[unsafe(no_mangle)]
    static GUARD_LAST: Global<u32> = Global::new(0);

    /// Go on with what comes after it (`TCX_NEXT`).
    const NEXT: i32 = -1;

    /// The frame ends here (`TCX_DROP`).
    const END: i32 = 2;

    /// True for broadcast and multicast.
    #[inline(always)]
    fn is_multicast(skb: *mut __sk_buff) -> bool {
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
        // SAFETY: the byte was checked to be inside the frame.
        data + ETH_HLEN <= end && unsafe { *(data as *const u8) } & 1 != 0
    }

    /// True for a frame that the kernel gives to siblings before any other program of ours sees it, and
    /// that is no plain unicast frame with the child's own MAC.
    #[inline(always)]
    fn is_suspect(skb: *mut __sk_buff, from: u16) -> bool {
        let Some(own) = rights::port(from).filter(|own| own.flags & port_flag::BRIDGE != 0) else {
            return false;
        };
        // SAFETY: the program's context; the verifier rewrites the accesses.
        let (data, end, tagged) =
            unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).vlan_present != 0) };
        if data + ETH_HLEN > end || tagged {
            return true;
        }
        // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
        let head = unsafe { &*(data as *const [u8; ETH_HLEN]) };
        let [d0, _, _, _, _, _, s0, s1, s2, s3, s4, s5, high, low] = *head;
        let ethertype = u16::from_be_bytes([high, low]);
        d0 & 1 != 0
            || [s0, s1, s2, s3, s4, s5] != own.mac
            || ethertype == ETH_P_8021Q
            || ethertype == ETH_P_8021AD
    }

    /// Refuses a frame that the child may not send, whoever is to get it; true if it was dropped.
    #[inline(always)]
    fn forbid(skb: *mut __sk_buff, from: u16) -> bool {
        let found = maclane_forbidden(skb, from.into());
        #[allow(clippy::cast_possible_truncation, reason = "a reason")]
        let reason = DropReason::from_raw(found.wrapping_sub(1) as u8);
        found != 0 && refuse(skb, from, reason) != 0
    }

    /// TC egress of a macvlan child: proves which child sent a frame, and lets through what it may
    /// send.
    ///
    /// On a child that maclane made it ends with `TC_ACT_OK`, not with "go on": the filters that
    /// the child's owner may add run after TCX (`net/core/dev.c`, `sch_handle_egress`) and must
    /// not write the mark again. A child that somebody else made keeps its filters.
    #[classifier]
    #[inline(always)]
    fn maclane_guard(ctx: TcContext) -> i32 {
        #[allow(clippy::cast_possible_truncation, reason = "a port is below 1,026")]
        let port = GUARD_PORT.load() as u16;
        let skb = ctx.skb.skb;
        count::rx(port, Size::of_skb(skb));
        if !admit(skb, port) {
            return END;
        }
        if is_suspect(skb, port) && forbid(skb, port) {
            return END;
        }
        if is_multicast(skb) {
            maclane_ask_sibling(skb, port.into());
        }
        ctx.set_mark(Mark::From(port).encode());
        let stamp = u32::from(stamp(port));
        // SAFETY: the program's context; with `TC_ACT_OK` the kernel makes the class the index.
        unsafe {
            (*ctx.skb.skb).tc_index = stamp;
            (*ctx.skb.skb).tc_classid = stamp;
        }
        if GUARD_LAST.load() == 0 { NEXT } else { TC_ACT_OK }
    }
}
