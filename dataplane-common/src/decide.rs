//! The rules: where a frame goes.
//!
//! The only code of maclane that decides it. One FDB lookup serves a known unicast frame; a
//! second one follows only for a MAC that is unknown in its VLAN, and for a source that may be one
//! of ours.

use crate::{
    abi::{
        FdbValue, Kind, PORT_HOST, PORT_WIRE, Port, Tables, VLAN_ANY, Vlan, local_flag, port_flag,
        vlan_flag,
    },
    frame::{Frame, Mac, Tag},
    verdict::{Copy, Delivery, DropReason, Flood, IngressCopy, Verdict},
};

/// Which members of a VLAN a frame to everybody is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Audience {
    /// All.
    Everybody = 0,
    /// The host and the wire, and no child.
    HostAndWire = 1,
    /// The host.
    Host = 2,
    /// The wire.
    Wire = 3,
}

impl Audience {
    /// The audience with this number; [`Self::Everybody`] for a number that none has.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::HostAndWire,
            2 => Self::Host,
            3 => Self::Wire,
            _ => Self::Everybody,
        }
    }

    /// Whether children are in it.
    #[must_use]
    #[inline(always)]
    pub const fn has_children(self) -> bool {
        matches!(self, Self::Everybody)
    }

    #[inline(always)]
    const fn has_host(self) -> bool {
        !matches!(self, Self::Wire)
    }

    #[inline(always)]
    const fn has_wire(self) -> bool {
        !matches!(self, Self::Host)
    }
}

/// Where the frame that came in at port `from` goes.
#[must_use]
#[inline(always)]
pub fn decide(frame: &Frame, from: u16, tables: &impl Tables) -> Verdict {
    decide_among(frame, from, Audience::Everybody, tables)
}

/// Where the frame that came in at port `from` goes; of those whom one to everybody would reach, to
/// this audience only.
#[must_use]
#[inline(always)]
pub fn decide_among(frame: &Frame, from: u16, audience: Audience, tables: &impl Tables) -> Verdict {
    match from {
        PORT_WIRE => from_wire(frame, audience, tables),
        PORT_HOST => from_host(frame, audience, tables),
        child => from_child(frame, child, audience, tables),
    }
}

/// What becomes of a frame too short to be read. The kernel knows what to do with one of the
/// wire's or the host's; a child has no business sending it.
#[must_use]
#[inline(always)]
pub const fn runt(from: u16) -> Verdict {
    match from {
        PORT_WIRE | PORT_HOST => Verdict::Pass,
        _ => Verdict::Drop(DropReason::Runt),
    }
}

/// What the member at port `to` gets of a flood.
#[must_use]
#[inline(always)]
pub fn copy_for(flood: &Flood, to: u16, member: &Port) -> Option<Copy> {
    let kind = Kind::from_raw(member.kind);
    let macvlan = match kind {
        Kind::Macvlan => true,
        Kind::Veth => false,
        Kind::Wire | Kind::Host | Kind::None => return None,
    };
    let both = flood.from_flags & member.flags;
    let either = flood.from_flags | member.flags;
    let from_sibling = flood.from != PORT_WIRE && flood.from != PORT_HOST;
    if to == flood.from
        || macvlan && flood.veth_only
        // The kernel has served bridge siblings when the frame was sent (`macvlan_queue_xmit`).
        || both & port_flag::BRIDGE != 0
        || from_sibling && either & port_flag::ISOLATED != 0
        || flood.from == PORT_WIRE && member.flags & port_flag::INTERNAL != 0
    {
        return None;
    }
    let tag = flood.tag.for_port(flood.vlan, member.flags & port_flag::TRUNK != 0);
    Some(Copy { to: Delivery { port: to, kind, tag }, unicast: macvlan })
}

/// The member of `vlan` that has `mac`: by an entry of its own, or as a trunk of every VLAN. Such
/// a trunk has an entry of its own in VLAN 0.
#[inline(always)]
fn member_with(mac: Mac, vlan: u16, tables: &impl Tables) -> Option<FdbValue> {
    let own = tables.fdb(mac, vlan);
    if own.is_some() || vlan == 0 {
        return own;
    }
    // No closure: one that looks into tables is too large to be inlined, and the kernel takes no
    // functions that get references.
    let owner = tables.fdb(mac, VLAN_ANY)?;
    if owner.flags & port_flag::ALL_VLANS == 0 { None } else { Some(owner) }
}

/// The group that serves a VLAN, and its number.
#[inline(always)]
pub(crate) fn group_of(vlan: u16, tables: &impl Tables) -> (u16, Vlan) {
    let own = tables.vlan(vlan);
    if own.flags & vlan_flag::DEFINED != 0 {
        (vlan, own)
    } else {
        (VLAN_ANY, tables.vlan(VLAN_ANY))
    }
}

/// What the parent's ingress gets, so that of all that is behind it the host alone gets a frame.
#[inline(always)]
const fn copy_for_host(group: Vlan, vlan: u16) -> IngressCopy {
    if group.flags & vlan_flag::HOST == 0 {
        IngressCopy::None
    } else if vlan == 0 {
        IngressCopy::ToHost
    } else {
        // The kernel gives a tagged frame to the host's sub-interface before macvlan sees it
        // (`net/core/dev.c`, `vlan_do_receive` before `rx_handler`).
        IngressCopy::AsIs
    }
}

#[inline(always)]
fn deliver(entry: FdbValue, tag: Tag, vlan: u16) -> Verdict {
    let tag = tag.for_port(vlan, entry.flags & port_flag::TRUNK != 0);
    Verdict::Deliver(Delivery { port: entry.port, kind: Kind::from_raw(entry.kind), tag })
}

#[inline(always)]
fn to_wire(tag: Tag) -> Verdict {
    Verdict::Deliver(Delivery { port: PORT_WIRE, kind: Kind::Wire, tag })
}

#[inline(always)]
fn from_wire(frame: &Frame, audience: Audience, tables: &impl Tables) -> Verdict {
    let vlan = frame.tag.vlan();
    if frame.tag.is_stacked() {
        return stacked_from_wire(frame, vlan, tables);
    }
    if frame.is_multicast() {
        return multicast_from_wire(frame, vlan, audience, tables);
    }
    let entry = match tables.fdb(frame.dst, vlan) {
        Some(entry) => entry,
        None => match tables.fdb(frame.dst, VLAN_ANY) {
            Some(owner)
                if owner.kind == Kind::Host as u8 || owner.flags & port_flag::ALL_VLANS != 0 =>
            {
                owner
            }
            Some(_) => return Verdict::Drop(DropReason::OtherVlan),
            None if tables.drop_unknown() => return Verdict::Drop(DropReason::Unknown),
            None => return Verdict::Pass,
        },
    };
    match Kind::from_raw(entry.kind) {
        Kind::Macvlan | Kind::Veth if entry.flags & port_flag::INTERNAL != 0 => {
            Verdict::Drop(DropReason::Internal)
        }
        Kind::Macvlan | Kind::Veth => deliver(entry, frame.tag, vlan),
        Kind::Host | Kind::Wire | Kind::None => Verdict::Pass,
    }
}

/// A frame with two tags reaches the host only; passed, the kernel's macvlan would give it to a
/// child by its MAC, or to all of them.
#[inline(always)]
fn stacked_from_wire(frame: &Frame, outer: u16, tables: &impl Tables) -> Verdict {
    let host_alone = if frame.is_multicast() {
        let (_, group) = group_of(outer, tables);
        group.flags & vlan_flag::NO_MACVLAN != 0 || outer != 0 && group.flags & vlan_flag::HOST != 0
    } else {
        tables.fdb(frame.dst, VLAN_ANY).is_none_or(|e| e.kind == Kind::Host as u8)
    };
    if host_alone { Verdict::Pass } else { Verdict::Drop(DropReason::Stacked) }
}

/// True for the MAC of a macvlan child.
#[inline(always)]
fn is_of_macvlan(mac: Mac, tables: &impl Tables) -> bool {
    if !tables.may_be_ours(mac) {
        return false;
    }
    let Some(owner) = tables.fdb(mac, VLAN_ANY) else { return false };
    owner.kind == Kind::Macvlan as u8
}

#[inline(always)]
fn multicast_from_wire(
    frame: &Frame,
    vlan: u16,
    audience: Audience,
    tables: &impl Tables,
) -> Verdict {
    let (number, group) = group_of(vlan, tables);
    let flag = |flag| group.flags & flag != 0;
    // In VLAN 0 a passthru child may have the host's place: what is for the host is for it.
    let members =
        !frame.is_reserved() && (audience.has_children() || vlan == 0 && !flag(vlan_flag::HOST));
    // The kernel would take a source that a macvlan child has, too, for that child, and leave it
    // out (`drivers/net/macvlan.c`, `macvlan_handle_frame`).
    let floods = flag(vlan_flag::KERNEL_FROM_WIRE) && !is_of_macvlan(frame.src, tables);
    let kernel = flag(vlan_flag::NO_MACVLAN) || members && floods;
    if kernel && (group.veth == 0 || !members) {
        return Verdict::Pass;
    }
    let ingress = if kernel { IngressCopy::AsIs } else { copy_for_host(group, vlan) };
    let slots = if members { group.slots } else { 0 };
    if slots == 0 && ingress == IngressCopy::None {
        return Verdict::Drop(DropReason::NoMember);
    }
    Verdict::Flood(Flood {
        from: PORT_WIRE,
        from_flags: 0,
        tag: frame.tag,
        vlan,
        group: number,
        slots,
        veth_only: kernel,
        ingress,
        wire: false,
    })
}

#[inline(always)]
fn from_host(frame: &Frame, audience: Audience, tables: &impl Tables) -> Verdict {
    if frame.tag.is_stacked() || frame.is_reserved() {
        return to_wire(frame.tag);
    }
    let vlan = frame.tag.vlan();
    if frame.is_multicast() {
        let (number, group) = group_of(vlan, tables);
        if group.slots == 0 || !audience.has_children() {
            return to_wire(frame.tag);
        }
        // The host's own broadcast must not come back to it, so the kernel's flood is no help.
        return Verdict::Flood(Flood {
            from: PORT_HOST,
            from_flags: 0,
            tag: frame.tag,
            vlan,
            group: number,
            slots: group.slots,
            veth_only: false,
            ingress: IngressCopy::None,
            wire: true,
        });
    }
    match member_with(frame.dst, vlan, tables) {
        Some(entry) if entry.kind != Kind::Host as u8 => deliver(entry, frame.tag, vlan),
        Some(_) | None => to_wire(frame.tag),
    }
}

/// Why a child may not send a frame, whoever is to get it: what can be said without the tables, where
/// the kernel gives it to others before they are asked.
#[must_use]
#[inline(always)]
pub fn forbidden(frame: &Frame, port: &Port) -> Option<DropReason> {
    let any_mac = local_flag::ANY_SOURCE | local_flag::ANY_MAC;
    if port.mac != frame.src && port.local & any_mac == 0 {
        return Some(DropReason::SourceMac);
    }
    if frame.tag.is_stacked() {
        return Some(DropReason::Stacked);
    }
    if port.flags & port_flag::TRUNK == 0 && frame.tag.vlan() != 0 {
        return Some(DropReason::VlanNotAllowed);
    }
    let reaches_bridges =
        port.local & local_flag::RESERVED != 0 && port.flags & port_flag::INTERNAL == 0;
    if frame.is_reserved() && !reaches_bridges { Some(DropReason::Reserved) } else { None }
}

#[inline(always)]
fn from_child(frame: &Frame, from: u16, audience: Audience, tables: &impl Tables) -> Verdict {
    let Some(port) = tables.port(from).filter(|p| p.kind != Kind::None as u8) else {
        return Verdict::Drop(DropReason::NoPort);
    };
    if let Some(reason) = forbidden(frame, &port) {
        return Verdict::Drop(reason);
    }
    let Some(vlan) = vlan_of_child(frame, &port, from, tables) else {
        return Verdict::Drop(DropReason::VlanNotAllowed);
    };
    if frame.is_reserved() {
        return to_wire(frame.tag.for_port(vlan, true));
    }
    if frame.is_multicast() {
        return multicast_from_child(frame, &port, (from, vlan), audience, tables);
    }
    let Some(entry) = member_with(frame.dst, vlan, tables) else {
        return if port.flags & port_flag::INTERNAL == 0 {
            to_wire(frame.tag.for_port(vlan, true))
        } else {
            Verdict::Drop(DropReason::Internal)
        };
    };
    if entry.port == from {
        return Verdict::Drop(DropReason::SamePort);
    }
    if entry.kind != Kind::Host as u8 && (entry.flags | port.flags) & port_flag::ISOLATED != 0 {
        return Verdict::Drop(DropReason::Isolated);
    }
    deliver(entry, frame.tag, vlan)
}

/// The VLAN of a child's frame: an access port sends untagged, a trunk port in its VLANs.
#[inline(always)]
fn vlan_of_child(frame: &Frame, port: &Port, from: u16, tables: &impl Tables) -> Option<u16> {
    let vlan = frame.tag.vlan();
    if port.flags & port_flag::TRUNK == 0 {
        return if vlan == 0 { Some(port.vlan) } else { None };
    }
    let allowed = port.flags & port_flag::ALL_VLANS != 0
        // By its own MAC: the frame may have another source, if it may send with any.
        || tables.fdb(port.mac, vlan).is_some_and(|e| e.port == from);
    if allowed { Some(vlan) } else { None }
}

#[inline(always)]
fn multicast_from_child(
    frame: &Frame,
    port: &Port,
    (from, vlan): (u16, u16),
    audience: Audience,
    tables: &impl Tables,
) -> Verdict {
    let (number, group) = group_of(vlan, tables);
    let flag = |flag| group.flags & flag != 0;
    let children = audience.has_children();
    let kernel = children && vlan == 0 && flag(vlan_flag::KERNEL_FROM_CHILD);
    let wire = audience.has_wire() && port.flags & port_flag::INTERNAL == 0;
    let ingress = if !audience.has_host() {
        IngressCopy::None
    } else if kernel || vlan == 0 && flag(vlan_flag::NO_MACVLAN) {
        IngressCopy::AsIs
    } else {
        copy_for_host(group, vlan)
    };
    Verdict::Flood(Flood {
        from,
        from_flags: port.flags,
        tag: frame.tag,
        vlan,
        group: number,
        slots: if !children || kernel && group.veth == 0 { 0 } else { group.slots },
        veth_only: kernel,
        ingress,
        wire,
    })
}
