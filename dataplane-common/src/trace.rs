//! What is told of single frames to whoever traces them.
//!
//! While somebody traces a parent, its programs are ones that were loaded with
//! [`crate::abi::Settings::trace`]; others have no instruction for it. Which frames are told is one
//! function, [`Tracer::wants`], which the programs and the daemon share.

use crate::{
    Verdict,
    frame::{Mac, OffloadedTag},
    neighbour::word,
    verdict::NO_REASON,
};

/// The most bytes of a frame that are told: an Ethernet frame with two tags has 1,522.
pub const SNAP_BYTES: u32 = 2048;

/// Bytes of the `maclane_trace` ring buffer.
pub const TRACE_BYTES: u32 = 1 << 19;

/// Where a frame was when its fate was known: the program, by its name without `maclane_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hook {
    /// `maclane_ingress`, at the parent's TC ingress.
    Ingress = 0,
    /// `maclane_egress`, at the parent's TC egress.
    Egress = 1,
    /// `maclane_port`, at the TC ingress of a veth child's host end.
    Port = 2,
    /// `maclane_xdp`, in XDP on the parent.
    Xdp = 3,
    /// `maclane_macvlan`, at the TC egress of a macvlan child, behind its guard.
    Guard = 4,
}

impl Hook {
    /// The one with this number; [`Self::Ingress`] for a number that none has.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Egress,
            2 => Self::Port,
            3 => Self::Xdp,
            4 => Self::Guard,
            _ => Self::Ingress,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Port => "port",
            Self::Xdp => "xdp",
            Self::Guard => "guard",
        }
    }
}

/// Flags of a [`Traced`].
pub mod traced_flag {
    /// The verdict is to drop it, and it went on all the same: its port's security only counts.
    pub const LOGGED: u8 = 1;
    /// A question that maclane has answered on behalf of the child that it was for. The bytes are those of
    /// the answer.
    pub const ANSWERED: u8 = 1 << 1;
    /// The kernel keeps the outer tag beside the bytes ([`super::Traced::tag_tci`]).
    pub const TAG_ASIDE: u8 = 1 << 2;
}

/// What comes before the bytes of a frame in `maclane_trace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Traced {
    /// When, in nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// [`Verdict::pack`].
    pub verdict: u64,
    /// Bytes that the frame has.
    pub len: u32,
    /// The control information of a tag that is not in the bytes, host byte order.
    pub tag_tci: u16,
    /// The `EtherType` of that tag, host byte order.
    pub tag_proto: u16,
    /// The port that sent it.
    pub from: u16,
    /// The VLAN that it is in; 0 is untagged.
    pub vlan: u16,
    /// Bytes of it that follow.
    pub snapped: u16,
    /// A [`Hook`].
    pub hook: u8,
    /// [`traced_flag`]s.
    pub flags: u8,
}

impl Traced {
    /// The tag that the kernel keeps beside the bytes.
    #[must_use]
    pub const fn aside(&self) -> OffloadedTag {
        let present = self.flags & traced_flag::TAG_ASIDE != 0;
        OffloadedTag { present, proto: self.tag_proto, tci: self.tag_tci }
    }
}

/// Value of `maclane_snap`: where a program puts together what it tells.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Snap {
    /// What is known of it.
    pub traced: Traced,
    /// Its first bytes.
    pub bytes: [u8; SNAP_BYTES as usize],
}

/// Flags of a [`Tracer`].
pub mod trace_flag {
    /// Somebody traces.
    pub const ON: u16 = 1;
    /// Only frames from or to one child.
    pub const CHILD: u16 = 1 << 1;
    /// That child sees VLANs tagged: any flood may reach it.
    pub const TRUNK: u16 = 1 << 2;
    /// Only frames from or to one MAC.
    pub const MAC: u16 = 1 << 3;
    /// Only frames in one VLAN.
    pub const VLAN: u16 = 1 << 4;
    /// Only frames that are dropped, or would be.
    pub const DROPS: u16 = 1 << 5;
    /// Only those for one reason.
    pub const REASON: u16 = 1 << 6;
}

/// Value of `maclane_tracer`: which frames are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tracer {
    /// Frames that were to be told, and for which there was no room.
    pub lost: u64,
    /// [`trace_flag`]s.
    pub flags: u16,
    /// Bytes of each frame that are told, at most [`SNAP_BYTES`].
    pub snap: u16,
    /// A [`crate::DropReason`].
    pub reason: u16,
    /// A VLAN.
    pub vlan: u16,
    /// A MAC.
    pub mac: Mac,
    /// A child's port.
    pub port: u16,
    /// Its MAC.
    pub port_mac: Mac,
    /// The VLAN that it sees untagged.
    pub port_vlan: u16,
}

/// What is known of a frame that may be told.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The port that sent it.
    pub from: u16,
    /// Its VLAN.
    pub vlan: u16,
    /// Its destination, as a [`word`].
    pub dst: u64,
    /// Its source, as a [`word`].
    pub src: u64,
    /// What becomes of it ([`crate::Verdict::pack`]).
    pub verdict: u64,
}

impl Tracer {
    /// True for a frame that is to be told.
    #[must_use]
    #[inline(always)]
    pub fn wants(&self, seen: &Seen) -> bool {
        let asks = |flag: u16| self.flags & flag != 0;
        let is_of = |mac: Mac| seen.src == word(mac) || seen.dst == word(mac);
        let reason = Verdict::reason(seen.verdict);
        asks(trace_flag::ON)
            && (!asks(trace_flag::CHILD) || self.is_about_child(seen) || is_of(self.port_mac))
            && (!asks(trace_flag::MAC) || is_of(self.mac))
            && (!asks(trace_flag::VLAN) || seen.vlan == self.vlan)
            && (!asks(trace_flag::DROPS) || reason != NO_REASON)
            && (!asks(trace_flag::REASON) || reason == u32::from(self.reason))
    }

    /// True for a frame that the child has sent, or that is on its way to it.
    #[inline(always)]
    fn is_about_child(&self, seen: &Seen) -> bool {
        let is_trunk = self.flags & trace_flag::TRUNK != 0;
        seen.from == self.port
            || Verdict::target(seen.verdict) == u32::from(self.port)
            || Verdict::floods(seen.verdict) && (seen.vlan == self.port_vlan || is_trunk)
    }
}

// The sizes that the maps are created with. A change here is a new `VERSION` of `abi`.
const _: () = {
    assert!(size_of::<Traced>() == 32);
    assert!(size_of::<Snap>() == 32 + SNAP_BYTES as usize);
    assert!(size_of::<Tracer>() == 32);
    assert!(SNAP_BYTES.is_power_of_two());
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DropReason,
        abi::{Kind, PORT_HOST, PORT_WIRE},
        frame::Tag,
        verdict::{Delivery, Flood, IngressCopy},
    };
    use trace_flag::{CHILD as C, DROPS, MAC as M, ON, REASON, TRUNK, VLAN};

    const CHILD: Mac = [2, 0, 0, 0, 0, 2];
    const OTHER: Mac = [2, 0, 0, 0, 0, 3];
    const ROUTER: Mac = [2, 0, 0, 0, 0, 9];

    fn deliver(port: u16) -> Verdict {
        Verdict::Deliver(Delivery { port, kind: Kind::Macvlan, tag: Tag::NONE })
    }

    /// A frame to everybody in a VLAN.
    fn flood(vlan: u16) -> Seen {
        let flood = Verdict::Flood(Flood {
            from: PORT_WIRE,
            from_flags: 0,
            tag: Tag::NONE,
            vlan,
            group: vlan,
            slots: 3,
            veth_only: false,
            ingress: IngressCopy::AsIs,
            wire: false,
        });
        Seen { vlan, ..seen(flood) }
    }

    /// A frame from port 3 to the router, in VLAN 10, with another fate.
    fn seen(verdict: Verdict) -> Seen {
        Seen { from: 3, vlan: 10, dst: word(ROUTER), src: word(OTHER), verdict: verdict.pack() }
    }

    #[test]
    fn a_filter_takes_what_it_says_and_nothing_else() {
        let drop = |reason| Verdict::Drop(reason);
        let child = Tracer { port: 2, port_mac: CHILD, port_vlan: 10, ..Tracer::default() };
        let mac = Tracer { mac: CHILD, ..Tracer::default() };
        let vlan = Tracer { vlan: 10, ..Tracer::default() };
        let reason = Tracer { reason: DropReason::Storm as u16, ..Tracer::default() };
        let from_child = Seen { from: 2, src: word(CHILD), ..seen(deliver(PORT_WIRE)) };
        let forged = Seen { from: 2, ..seen(drop(DropReason::SourceMac)) };
        let to_child = Seen { dst: word(CHILD), ..seen(drop(DropReason::OtherVlan)) };
        let stranger = seen(deliver(PORT_HOST));
        let storm = seen(drop(DropReason::Storm));
        let untagged = Seen { vlan: 0, ..stranger };
        let cases = [
            ("nobody traces", 0, Tracer::default(), stranger, false),
            ("everything", ON, Tracer::default(), stranger, true),
            ("a child's", ON | C, child, from_child, true),
            ("a child's with another MAC", ON | C, child, forged, true),
            ("for a child's MAC, dropped", ON | C, child, to_child, true),
            ("delivered to a child", ON | C, child, seen(deliver(2)), true),
            ("delivered to another", ON | C, child, seen(deliver(4)), false),
            ("to everybody in its VLAN", ON | C, child, flood(10), true),
            ("to everybody in another", ON | C, child, flood(20), false),
            ("to everybody anywhere, for a trunk", ON | C | TRUNK, child, flood(20), true),
            ("another's", ON | C, child, stranger, false),
            ("from a MAC", ON | M, mac, from_child, true),
            ("to a MAC", ON | M, mac, to_child, true),
            ("another MAC's", ON | M, mac, forged, false),
            ("in a VLAN", ON | VLAN, vlan, stranger, true),
            ("in no VLAN", ON | VLAN, vlan, untagged, false),
            ("dropped", ON | DROPS, Tracer::default(), storm, true),
            ("not dropped", ON | DROPS, Tracer::default(), stranger, false),
            ("for the reason", ON | REASON, reason, storm, true),
            ("for another reason", ON | REASON, reason, forged, false),
            ("both", ON | C | DROPS, child, forged, true),
            ("one of both", ON | C | DROPS, child, storm, false),
        ];
        for (name, flags, tracer, seen, want) in cases {
            assert_eq!(Tracer { flags, ..tracer }.wants(&seen), want, "{name}");
        }
    }

    #[test]
    fn a_hook_is_its_number() {
        for hook in [Hook::Ingress, Hook::Egress, Hook::Port, Hook::Xdp, Hook::Guard] {
            assert_eq!(Hook::from_raw(hook as u8), hook);
            assert!(!hook.name().is_empty());
        }
    }
}
