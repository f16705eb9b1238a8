//! The closed lists: what can become of a frame, and why it can be dropped.

use crate::{abi::Kind, frame::Tag};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// From the wire to the host, or not ours to judge: the kernel has it, untouched.
    Pass,
    /// To one port.
    Deliver(Delivery),
    /// To every other member of a VLAN.
    Flood(Flood),
    /// To nobody.
    Drop(DropReason),
}

/// The number of no [`DropReason`].
pub const NO_REASON: u32 = u32::MAX;

/// The number of no port.
pub const NO_TARGET: u32 = u32::MAX;

impl Verdict {
    const PASS: u64 = 0;
    const DELIVER: u64 = 1;
    const FLOOD: u64 = 2;
    const DROP: u64 = 3;

    /// The verdict about a frame as one word, to hand it from one function of a program to another that
    /// the verifier looks at by itself: such a function returns a number.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        match self {
            Self::Pass => Self::PASS,
            Self::Deliver(Delivery { port, kind, tag }) => {
                Self::DELIVER
                    | (port as u64) << 8
                    | (kind as u64) << 24
                    | (tag.to_raw() as u64) << 32
            }
            Self::Flood(flood) => {
                Self::FLOOD
                    | (flood.from_flags as u64) << 8
                    | (flood.ingress as u64) << 16
                    | (flood.veth_only as u64) << 18
                    | (flood.wire as u64) << 19
                    | (flood.vlan as u64) << 20
                    | (flood.group as u64) << 32
                    | (flood.slots as u64) << 48
            }
            Self::Drop(reason) => Self::DROP | (reason as u64) << 8,
        }
    }

    /// True for the word of a verdict that drops the frame.
    #[must_use]
    #[inline(always)]
    pub const fn drops(word: u64) -> bool {
        word & 3 == Self::DROP
    }

    /// True for the word of a flood.
    #[must_use]
    #[inline(always)]
    pub const fn floods(word: u64) -> bool {
        word & 3 == Self::FLOOD
    }

    /// The number of the reason in the word of a verdict, [`NO_REASON`] if that drops nothing.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "a reason is a byte")]
    pub const fn reason(word: u64) -> u32 {
        if Self::drops(word) { (word >> 8) as u32 } else { NO_REASON }
    }

    /// The one port in the word of a verdict, [`NO_TARGET`] if there is none.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "cut out at its width")]
    pub const fn target(word: u64) -> u32 {
        if word & 3 == Self::DELIVER { (word >> 8) as u32 & 0xffff } else { NO_TARGET }
    }

    /// The verdict of a word that [`Self::pack`] gave, about a frame with this tag of this port.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    pub const fn unpack(word: u64, from: u16, tag: Tag) -> Self {
        match word & 3 {
            Self::PASS => Self::Pass,
            Self::DELIVER => Self::Deliver(Delivery {
                port: (word >> 8) as u16,
                kind: Kind::from_raw((word >> 24) as u8),
                tag: Tag::from_raw((word >> 32) as u32),
            }),
            Self::FLOOD => Self::Flood(Flood {
                from,
                from_flags: (word >> 8) as u8,
                tag,
                vlan: (word >> 20) as u16 & 0xfff,
                group: (word >> 32) as u16,
                slots: (word >> 48) as u16,
                veth_only: word >> 18 & 1 != 0,
                ingress: IngressCopy::from_raw(word >> 16),
                wire: word >> 19 & 1 != 0,
            }),
            _ => Self::Drop(DropReason::from_raw((word >> 8) as u8)),
        }
    }
}

/// One frame for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where to.
    pub port: u16,
    /// What stands there.
    pub kind: Kind,
    /// The tag that it has there.
    pub tag: Tag,
}

/// One frame for every other member of a VLAN.
///
/// Members stand in the slots of a group, and [`crate::decide::copy_for`] says for each whether it
/// gets a copy. The host and the kernel's own macvlan flood are served by one more copy in the
/// parent's ingress, the wire by one more through its egress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// The port that sent the frame.
    pub from: u16,
    /// Its [`crate::abi::port_flag`]s; 0 for the wire and the host.
    pub from_flags: u8,
    /// The tag that the frame came with.
    pub tag: Tag,
    /// The VLAN.
    pub vlan: u16,
    /// The group whose slots hold the members: the VLAN, or [`crate::abi::VLAN_ANY`].
    pub group: u16,
    /// How many slots to walk.
    pub slots: u16,
    /// The kernel serves the macvlan members: copies for veth members only.
    pub veth_only: bool,
    /// What the parent's ingress gets.
    pub ingress: IngressCopy,
    /// The wire gets a copy.
    pub wire: bool,
}

impl Flood {
    /// The flood as two words, to hand it from one function of a program to another that the
    /// verifier looks at by itself: such a function takes numbers only.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> (u64, u64) {
        let ports = self.from as u64
            | (self.vlan as u64) << 16
            | (self.group as u64) << 32
            | (self.slots as u64) << 48;
        let rest = self.tag.to_raw() as u64
            | (self.from_flags as u64) << 32
            | (self.ingress as u64) << 40
            | (self.veth_only as u64) << 48
            | (self.wire as u64) << 49;
        (ports, rest)
    }

    /// The flood that was packed into two words.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    pub const fn unpack(ports: u64, rest: u64) -> Self {
        Self {
            from: ports as u16,
            from_flags: (rest >> 32) as u8,
            tag: Tag::from_raw(rest as u32),
            vlan: (ports >> 16) as u16,
            group: (ports >> 32) as u16,
            slots: (ports >> 48) as u16,
            veth_only: rest >> 48 & 1 != 0,
            ingress: IngressCopy::from_raw(rest >> 40),
            wire: rest >> 49 & 1 != 0,
        }
    }
}

/// What a flood leaves in the parent's ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IngressCopy {
    /// Nothing: the host is not a member.
    None = 0,
    /// The frame with the host's MAC as destination: for the host alone. A multicast destination
    /// would make the kernel flood it to every macvlan child
    /// (`drivers/net/macvlan.c`, `macvlan_handle_frame`).
    ToHost = 1,
    /// The frame as it is: for the host, and for whom the kernel floods it to.
    AsIs = 2,
}

impl IngressCopy {
    /// The one whose number is in the lowest two bits.
    #[inline(always)]
    const fn from_raw(raw: u64) -> Self {
        match raw & 3 {
            1 => Self::ToHost,
            2 => Self::AsIs,
            _ => Self::None,
        }
    }
}

/// A flood's copy for one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The member, and the tag.
    pub to: Delivery,
    /// The destination MAC of the copy: the child's own for macvlan, because the kernel delivers
    /// to one macvlan child by its MAC only; for veth the frame's own.
    pub unicast: bool,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $name:literal;)+) => {
        /// Why a frame was dropped: the index into `maclane_drops`. Closed and append-only: a
        /// number never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $code,)+
        }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name, as the command line and the documents print it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The reason with this number; [`Self::Refused`] for a number that no reason has.
            #[must_use]
            #[inline(always)]
            pub const fn from_raw(raw: u8) -> Self {
                match raw { $($code => Self::$variant,)+ _ => Self::Refused }
            }

            /// What it means, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

drop_reasons! {
    /// From the wire for a MAC that is ours in another VLAN only.
    OtherVlan = 0, "other_vlan";
    /// From the wire for a MAC that nobody here has, with `--unknown drop`.
    Unknown = 1, "unknown";
    /// From the wire with a source MAC of ours: a loop, or a forged frame.
    SourceIsOurs = 2, "source_is_ours";
    /// From the wire to everybody in a VLAN that has no member here.
    NoMember = 3, "no_member";
    /// Two tags, a service tag or the reserved VLAN ID 4095, from or to a child.
    Stacked = 4, "stacked_tags";
    /// From a child with a source MAC that is not its own.
    SourceMac = 5, "source_mac";
    /// From a child with a tag of a VLAN that it is not in.
    VlanNotAllowed = 6, "vlan_not_allowed";
    /// From a child to 01:80:c2:00:00:00-0f, which no bridge forwards, or, with security, CDP and the like.
    Reserved = 7, "reserved_multicast";
    /// Between two children of which one is private.
    Isolated = 8, "isolated";
    /// To the port that it came from.
    SamePort = 9, "same_port";
    /// From a child, shorter than its header.
    Runt = 10, "runt";
    /// From a port that the table does not know.
    NoPort = 11, "no_port";
    /// The kernel refused to change or to take a copy: no memory, a full queue, a device down.
    Refused = 12, "refused";
    /// Between the wire and a child of an internal network.
    Internal = 13, "internal";
    /// From the wire, a question for an address that nobody here has, with `--unknown drop`.
    Stranger = 14, "stranger";
    /// More than the port's storm control allows.
    Storm = 15, "storm";
    /// From a child with a source IP address that is not its own.
    SourceIp = 16, "source_ip";
    /// From a child, ARP or neighbour discovery that claims an address or a MAC that is not its own.
    NeighbourClaim = 17, "neighbour_claim";
    /// ARP or neighbour discovery that claims an address which is pinned to another station.
    Pinned = 18, "pinned";
    /// From a child, a message of a DHCP or RARP server.
    DhcpServer = 19, "dhcp_server";
    /// From a child, a router's advertisement or redirect.
    Router = 20, "router";
    /// With headers that are cut off, fragmented, chained or wrapped so that it cannot be seen what it is.
    HiddenHeader = 21, "hidden_header";
    /// From a child that has taken as many addresses as it may.
    AddressLimit = 22, "address_limit";
    /// From a socket in a child's namespace, around the child's guard.
    GuardBypass = 23, "guard_bypass";
    /// From a child, a multicast router's message: a query of IGMP or MLD, PIM.
    MulticastRouter = 24, "multicast_router_guard";
}

impl DropReason {
    /// True for what somebody sends who wants to be somebody else, or to be where he is not.
    #[must_use]
    #[inline(always)]
    pub const fn is_offence(self) -> bool {
        match self {
            Self::SourceIsOurs
            | Self::Stacked
            | Self::SourceMac
            | Self::VlanNotAllowed
            | Self::SourceIp
            | Self::NeighbourClaim
            | Self::Pinned
            | Self::DhcpServer
            | Self::Router
            | Self::HiddenHeader
            | Self::AddressLimit
            | Self::GuardBypass
            | Self::MulticastRouter => true,
            Self::OtherVlan
            | Self::Unknown
            | Self::NoMember
            | Self::Reserved
            | Self::Isolated
            | Self::SamePort
            | Self::Runt
            | Self::NoPort
            | Self::Refused
            | Self::Internal
            | Self::Stranger
            | Self::Storm => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_reason_is_its_place_in_the_list() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place, "{}", reason.name());
            assert!(!reason.meaning().is_empty());
        }
    }

    #[test]
    fn a_verdict_survives_packing() {
        let deliver = |port, kind, tag| Verdict::Deliver(Delivery { port, kind, tag });
        let drops = DropReason::ALL.iter().map(|reason| Verdict::Drop(*reason));
        let verdicts = [
            Verdict::Pass,
            deliver(0, Kind::Wire, Tag::one(0xe00a)),
            deliver(1, Kind::Host, Tag::NONE),
            deliver(1025, Kind::Macvlan, Tag::stacked(10)),
            deliver(2, Kind::Veth, Tag::one(4094)),
        ];
        for verdict in verdicts.into_iter().chain(drops) {
            assert_eq!(Verdict::unpack(verdict.pack(), 7, Tag::one(9)), verdict);
            let word = verdict.pack();
            assert_eq!(Verdict::drops(word), matches!(verdict, Verdict::Drop(_)));
            let (reason, target) = match verdict {
                Verdict::Drop(reason) => (reason as u32, NO_TARGET),
                Verdict::Deliver(delivery) => (NO_REASON, u32::from(delivery.port)),
                Verdict::Pass | Verdict::Flood(_) => (NO_REASON, NO_TARGET),
            };
            assert_eq!((Verdict::reason(word), Verdict::target(word)), (reason, target));
            assert!(!Verdict::floods(word));
        }
    }

    #[test]
    fn a_flood_survives_packing() {
        for ingress in [IngressCopy::None, IngressCopy::ToHost, IngressCopy::AsIs] {
            for (veth_only, wire) in [(false, true), (true, false)] {
                let flood = Flood {
                    from: 1025,
                    from_flags: 0xa5,
                    tag: Tag::one(0xe00a),
                    vlan: 10,
                    group: 4095,
                    slots: 1024,
                    veth_only,
                    ingress,
                    wire,
                };
                let (ports, rest) = flood.pack();
                assert_eq!(Flood::unpack(ports, rest), flood);
                let word = Verdict::Flood(flood).pack();
                assert_eq!(Verdict::unpack(word, flood.from, flood.tag), Verdict::Flood(flood));
                assert!(Verdict::floods(word) && !Verdict::drops(word));
            }
        }
    }
}
