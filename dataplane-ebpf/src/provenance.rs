//! Where a frame at the parent comes from, as far as the kernel knows.

use aya_ebpf::{btf_maps::HashMap, helpers::bpf_get_netns_cookie, macros::btf_map};
use dataplane_common::{
    Mark, Tables as _,
    abi::{NETNS, Netns},
    mark::{NO_STAMP, stamped},
    sender::{Provenance, Socket},
};

use crate::{
    maps::{Maps, settings},
    skb::Skb,
};

#[btf_map(name = "maclane_netns")]
pub(crate) static NAMESPACES: HashMap<u64, Netns, { NETNS as usize }> = HashMap::new();

/// The provenance of a frame. The socket of one that a guard has stamped matters only where a child's
/// owner may have filters behind the guard.
#[inline(always)]
pub(crate) fn provenance(skb: Skb) -> Provenance {
    let stamp = if settings().guards == 0 { NO_STAMP } else { stamped(skb.tc_index()) };
    let socket = if stamp != NO_STAMP && !Maps.has_filters() { Socket::NONE } else { socket(skb) };
    Provenance { mark: Mark::decode(skb.mark()), stamp, socket, came_in: skb.came_in() }
}

/// The namespace of the socket that sent a frame.
#[inline(always)]
pub(crate) fn socket(skb: Skb) -> Socket {
    let settings = settings();
    if settings.netns == 0 || !skb.has_socket() {
        return Socket::NONE;
    }
    // SAFETY: helper on the program's context.
    let cookie = unsafe { bpf_get_netns_cookie(skb.0.cast()) };
    if cookie == settings.host {
        return Socket::HOST;
    }
    #[allow(clippy::cast_possible_truncation, reason = "a port")]
    Socket(maclane_socket(cookie) as u16)
}

/// The [`Socket`] of a namespace, by its cookie. A global function, which the verifier looks at once
/// (`Documentation/bpf/verifier.rst`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn maclane_socket(cookie: u64) -> u32 {
    // Without the helper there is no cookie: the verifier need not look at the rest.
    if settings().netns == 0 {
        return Socket::NONE.0.into();
    }
    // SAFETY: copied at once; the slot of an entry that is removed at this moment may already hold
    // another one, as it may a moment later.
    let port = unsafe { NAMESPACES.get(cookie).map(|netns| netns.port) };
    if let Some(port) = port {
        return port.into();
    }
    // What the kernel sends by sockets of its own, ICMP and TCP resets, has the initial namespace as soon
    // as it has waited for a neighbour (`net/ipv4/icmp.c`, `icmp_xmit_unlock`).
    let socket = if cookie == initial() { Socket::NONE } else { Socket::FOREIGN };
    socket.0.into()
}

/// The cookie of the initial namespace.
#[inline(always)]
fn initial() -> u64 {
    // SAFETY: without a context the helper returns the cookie of the initial namespace.
    unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) }
}
