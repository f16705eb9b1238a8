//! `maclane_sockopt`: refuses sockets of a child's namespace the options by which frames get around
//! what the child's port is held to.

use aya_ebpf::{helpers::bpf_get_netns_cookie, macros::cgroup_sockopt, programs::SockoptContext};
use dataplane_common::abi::netns_flag;

use crate::provenance::NAMESPACES;

/// `include/linux/socket.h`.
const SOL_PACKET: i32 = 263;
const SOL_XDP: i32 = 283;

/// `include/uapi/linux/if_packet.h`.
const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_VNET_HDR_SZ: i32 = 24;

/// `include/uapi/linux/if_xdp.h`. An `AF_XDP` socket without it sends nothing; with it, it sends around
/// the hooks of its interface, and may have the kernel write a checksum (`XDP_TXMD_FLAGS_CHECKSUM`).
const XDP_TX_RING: i32 = 3;

/// As much of an option's value as the kernel hands to a program (`kernel/bpf/cgroup.c`,
/// `sockopt_alloc_buf`). Kernels before 6.5 refuse what is longer, unless a program says that it has
/// left it alone.
const SEEN: i32 = 4096;

/// The answers of a program to `BPF_CGROUP_SETSOCKOPT`.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

/// setsockopt(2) of every socket below the cgroup that it is attached to.
#[cgroup_sockopt(setsockopt)]
#[inline(always)]
fn maclane_sockopt(ctx: SockoptContext) -> i32 {
    // SAFETY: the program's context; the verifier rewrites the accesses.
    let (level, option, len) =
        unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname, (*ctx.sockopt).optlen) };
    let flags = match (level, option) {
        (SOL_PACKET, PACKET_QDISC_BYPASS) => netns_flag::BYPASS,
        (SOL_PACKET, PACKET_VNET_HDR | PACKET_VNET_HDR_SZ) => netns_flag::CHECKSUM,
        (SOL_XDP, XDP_TX_RING) => netns_flag::BYPASS | netns_flag::CHECKSUM,
        _ => 0,
    };
    if flags != 0 && refused(&ctx) & flags != 0 {
        return REFUSE;
    }
    if len > SEEN {
        // SAFETY: as above; 0 leaves the option to the kernel as it is.
        unsafe { (*ctx.sockopt).optlen = 0 };
    }
    ALLOW
}

/// The [`netns_flag`]s of the namespace of the socket.
#[inline(always)]
fn refused(ctx: &SockoptContext) -> u16 {
    // SAFETY: helper on the program's context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.sockopt.cast()) };
    // SAFETY: copied at once; the slot of an entry that is removed at this moment may already hold
    // another one, as it may a moment later.
    unsafe { NAMESPACES.get(cookie).map_or(0, |netns| netns.flags) }
}
