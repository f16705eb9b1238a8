//! The sender of a frame at the parent: the port that the frame is attributed to.
//!
//! The owner of a macvlan child controls its link: a packet socket can skip the link's TC hooks
//! (`PACKET_QDISC_BYPASS`), and a qdisc on the link can rewrite a frame and its mark behind them.
//! So a frame is attributed by what its sender cannot write, in this order:
//!
//! 1. The *stamp* of `maclane_guard` in `skb->tc_index`. A new skb has none, and no qdisc, filter
//!    action or nftables statement writes one on kernels that have TCX (`dsmark` was the last qdisc
//!    that did, until Linux 6.3; `act_skbedit` and `nft meta set` have no such field).
//! 2. The host end of a veth child, by the interface that the frame came in through.
//! 3. The network namespace of the *socket* that sent the frame, by its cookie
//!    (`bpf_get_netns_cookie`, for TC since Linux 6.15). A child's namespace without a stamp means
//!    that the frame has bypassed the guard.
//! 4. The source MAC, for ports without a guard and for the host.

use crate::{
    abi::{Kind, PORT_HOST, PORT_WIRE, Tables, VLAN_ANY, port_flag, vlan_flag},
    frame::{Frame, Mac},
    mark::{Mark, NO_STAMP},
    verdict::DropReason,
};

/// The network namespace of the socket that sent a frame, as `maclane_netns` has it: a port in
/// that namespace, or one of the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket(pub u16);

impl Socket {
    /// No socket, one of the kernel's own, or no way to see it: a frame that a kernel made, forwarded, or
    /// received from a device, and every frame on a kernel without `bpf_get_netns_cookie` for TC.
    pub const NONE: Self = Self(0);

    /// The host's namespace.
    pub const HOST: Self = Self(PORT_HOST);

    /// A namespace in which no port is known to be.
    pub const FOREIGN: Self = Self(u16::MAX);

    /// True for the namespace of a child that is not the host's.
    #[must_use]
    #[inline(always)]
    pub const fn is_of_child(self) -> bool {
        self.0 > PORT_HOST && self.0 != Self::FOREIGN.0
    }
}

/// What the kernel knows of where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The frame's mark, if it is one of ours.
    pub mark: Option<Mark>,
    /// The port whose guard has stamped the frame, or [`NO_STAMP`].
    pub stamp: u16,
    /// The namespace of its socket.
    pub socket: Socket,
    /// The index of the interface that it came in through (`skb->skb_iif`), 0 if a socket or this
    /// kernel made it.
    pub came_in: u32,
}

impl Provenance {
    /// Of a frame that a kernel has made, or of which nothing is known.
    pub const KERNEL: Self = Self { mark: None, stamp: NO_STAMP, socket: Socket::NONE, came_in: 0 };
}

/// The sender of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// This port: the wire, the host or a child.
    Port(u16),
    /// A source MAC that the FDB does not have: the host, as far as forwarding goes.
    Unknown,
    /// A veth child, and the frame has been decided on at its host end.
    Transit,
    /// This child, around its guard.
    Bypass(u16),
    /// A socket of a namespace in which no port is known to be, or a kernel through a link that is not
    /// known, on a parent that is closed to such.
    Foreign,
}

/// A [`Sender`], or the reason to drop the frame, as one word: an enum with data has gaps, of which the
/// verifier accepts no reads where two ways meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribution(u32);

impl Attribution {
    const PORT: u32 = 0;
    const UNKNOWN: u32 = 1;
    const TRANSIT: u32 = 2;
    const BYPASS: u32 = 3;
    const FOREIGN: u32 = 4;
    const DROP: u32 = 5;

    #[inline(always)]
    const fn new(kind: u32, value: u32) -> Self {
        Self(kind << 16 | value)
    }

    #[inline(always)]
    const fn port(port: u16) -> Self {
        Self::new(Self::PORT, port as u32)
    }

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self::new(Self::DROP, reason as u32)
    }

    /// The word.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// The attribution of a [`Self::word`].
    #[must_use]
    #[inline(always)]
    pub const fn of(word: u32) -> Self {
        Self(word)
    }

    /// The sender.
    ///
    /// # Errors
    ///
    /// The reason to drop the frame.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "each is cut out at its width")]
    pub const fn sender(self) -> Result<Sender, DropReason> {
        let port = self.0 as u16;
        match self.0 >> 16 {
            Self::PORT => Ok(Sender::Port(port)),
            Self::UNKNOWN => Ok(Sender::Unknown),
            Self::TRANSIT => Ok(Sender::Transit),
            Self::BYPASS => Ok(Sender::Bypass(port)),
            Self::FOREIGN => Ok(Sender::Foreign),
            _ => Err(DropReason::from_raw(self.0 as u8)),
        }
    }
}

/// Attributes a frame in the parent's ingress that none of our programs has put there: to the wire, or
/// to a macvlan child in bridge mode.
///
/// The kernel puts a unicast frame between two macvlan children in bridge mode into the parent's
/// ingress (`drivers/net/macvlan.c`, `macvlan_queue_xmit`), with its mark removed on the way
/// between namespaces. Its stamp stays, and so does its socket; a frame that a device received has
/// neither. Where the sender has no guard, its source MAC and that both ends are in bridge mode is
/// all there is.
///
/// [`DropReason::SourceIsOurs`] if the source MAC is one of ours and the frame is from the wire.
#[must_use]
#[inline(always)]
pub fn ingress_port(frame: &Frame, provenance: &Provenance, tables: &impl Tables) -> Attribution {
    let Provenance { stamp, socket, .. } = *provenance;
    // By the stamp, whatever its destination: the kernel takes for a sibling's what has the MAC of one,
    // which may be a MAC that the sibling has no right to.
    if stamp != NO_STAMP && has_guard(stamp, tables) && !frame.is_multicast() {
        return Attribution::port(stamp);
    }
    if socket.is_of_child() && is_bridge_mac(frame.dst, tables) {
        return without_stamp(frame.src, socket, tables);
    }
    if !tables.may_be_ours(frame.src) {
        return Attribution::port(PORT_WIRE);
    }
    let Some(owner) = tables.fdb(frame.src, VLAN_ANY) else {
        return Attribution::port(PORT_WIRE);
    };
    let is = |flag| owner.flags & flag != 0;
    let proven = !is(port_flag::GUARDED) && !is(port_flag::SHARED_MAC);
    if proven && is(port_flag::BRIDGE) && is_bridge_mac(frame.dst, tables) {
        Attribution::port(owner.port)
    } else if is(port_flag::SHARED_MAC) {
        Attribution::port(PORT_WIRE)
    } else {
        Attribution::drop(DropReason::SourceIsOurs)
    }
}

/// Attributes a frame that is about to leave through the parent.
///
/// [`DropReason::SourceMac`] if the source MAC belongs to a child that did not send the frame.
#[must_use]
#[inline(always)]
pub fn egress_port(frame: &Frame, provenance: &Provenance, tables: &impl Tables) -> Attribution {
    let Provenance { mark, stamp, socket, came_in } = *provenance;
    if stamp != NO_STAMP && has_guard(stamp, tables) {
        return if contradicts(socket, stamp, tables) {
            without_stamp(frame.src, socket, tables)
        } else {
            Attribution::port(stamp)
        };
    }
    match mark {
        Some(Mark::Transit(port)) if is_host_end(port, came_in, tables) => {
            return Attribution::new(Attribution::TRANSIT, 0);
        }
        // An answer on behalf of a child, to a request from the wire.
        Some(Mark::Hairpin) if is_of_child(frame.src, came_in, tables) => {
            return Attribution::new(Attribution::TRANSIT, 0);
        }
        Some(Mark::Transit(_) | Mark::Hairpin | Mark::Flood { .. }) | None => {}
    }
    // What the host bridges keeps its socket, and has come in through an interface.
    if came_in == 0 && socket.is_of_child() {
        return without_stamp(frame.src, socket, tables);
    }
    if came_in == 0 && socket == Socket::FOREIGN && is_closed_to(frame, tables) {
        return Attribution::new(Attribution::FOREIGN, 0);
    }
    if tables.port(PORT_HOST).is_some_and(|host| host.mac == frame.src) {
        return Attribution::port(PORT_HOST);
    }
    let Some(owner) = tables.fdb(frame.src, VLAN_ANY) else {
        // A kernel sends it by itself (ARP, neighbour discovery) through a link that is not known yet, or bridges
        // it into one. The host bridges nothing untagged to a parent of macvlan links: that is no port of a
        // bridge (`net/core/dev.c`, `netdev_rx_handler_register`).
        let is_foreign = (came_in != 0 || socket == Socket::NONE) && is_closed_to(frame, tables);
        let kind = if is_foreign { Attribution::FOREIGN } else { Attribution::UNKNOWN };
        return Attribution::new(kind, 0);
    };
    match Kind::from_raw(owner.kind) {
        Kind::Host => Attribution::port(PORT_HOST),
        Kind::Macvlan if owner.flags & port_flag::GUARDED == 0 => Attribution::port(owner.port),
        Kind::Macvlan | Kind::Veth | Kind::Wire | Kind::None => {
            Attribution::drop(DropReason::SourceMac)
        }
    }
}

/// True if what is not known may not send this frame. In a VLAN in which the host has a sub-interface there may be
/// stations behind that: containers of a macvlan on it, ports of a bridge.
#[inline(always)]
fn is_closed_to(frame: &Frame, tables: &impl Tables) -> bool {
    let vlan = frame.tag.vlan();
    tables.is_closed() && (vlan == 0 || tables.vlan(vlan).flags & vlan_flag::HOST == 0)
}

/// The sender of a frame of a child's socket that no guard has stamped: the port in that namespace
/// that has its source MAC, or else the first one there.
#[inline(always)]
fn without_stamp(src: Mac, socket: Socket, tables: &impl Tables) -> Attribution {
    let port = match tables.fdb(src, VLAN_ANY) {
        Some(owner) if tables.netns(owner.port) == socket.0 => owner.port,
        Some(_) | None => socket.0,
    };
    let is_unguarded = tables
        .port(port)
        .is_some_and(|p| p.kind == Kind::Macvlan as u8 && p.flags & port_flag::GUARDED == 0);
    let kind = if is_unguarded { Attribution::PORT } else { Attribution::BYPASS };
    Attribution::new(kind, port.into())
}

/// True if a stamp cannot be that of this port's guard: the socket is in another child's namespace.
/// Asked only where a child's owner may have filters behind its guard, which can write a stamp
/// (`net/core/dev.c`, `tc_run`: the class of `TC_ACT_OK` becomes the index).
#[inline(always)]
fn contradicts(socket: Socket, port: u16, tables: &impl Tables) -> bool {
    tables.has_filters() && socket.is_of_child() && tables.netns(port) != socket.0
}

#[inline(always)]
fn has_guard(port: u16, tables: &impl Tables) -> bool {
    tables.port(port).is_some_and(|p| p.flags & port_flag::GUARDED != 0)
}

/// True for the MAC of a macvlan child in bridge mode.
#[inline(always)]
fn is_bridge_mac(mac: Mac, tables: &impl Tables) -> bool {
    tables.fdb(mac, VLAN_ANY).is_some_and(|to| to.flags & port_flag::BRIDGE != 0)
}

/// True for a MAC of a child on a frame that came in through the parent: only our programs turn such a
/// frame round.
#[inline(always)]
fn is_of_child(mac: Mac, came_in: u32, tables: &impl Tables) -> bool {
    tables.port(PORT_WIRE).is_some_and(|wire| wire.ifindex == came_in)
        && tables.fdb(mac, VLAN_ANY).is_some_and(|owner| owner.port > PORT_HOST)
}

#[inline(always)]
fn is_host_end(port: u16, ifindex: u32, tables: &impl Tables) -> bool {
    tables.port(port).is_some_and(|p| p.kind == Kind::Veth as u8 && p.ifindex == ifindex)
}
