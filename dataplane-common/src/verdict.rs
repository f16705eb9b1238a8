//! The closed lists: what can become of a frame, and why it can be dropped.

use crate::{abi::Kind, frame::VID_MASK};

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

/// One frame for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where to.
    pub port: u16,
    /// What stands there.
    pub kind: Kind,
    /// What to do to the VLAN tag first.
    pub retag: Retag,
}

/// A change to a frame's VLAN tag: pop, then push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retag {
    /// Take the tag off.
    pub pop: bool,
    /// Put a tag with this tag control information on. 0: none; VLAN ID 0 is never pushed.
    pub push: u16,
}

impl Retag {
    /// The tag stays as it is.
    pub const KEEP: Self = Self { pop: false, push: 0 };

    /// What turns a frame with tag `have` into one of VLAN `vlan` for a port that sees VLANs
    /// tagged (`tagged`), or for one that sees no tags. A priority (PCP) is kept where the new
    /// form has a place for it; a tag of VLAN ID 0, which has only that, is left to ports that
    /// see tags.
    #[must_use]
    #[inline(always)]
    pub const fn new(have: Option<u16>, vlan: u16, tagged: bool) -> Self {
        match have {
            Some(tci) if tagged && tci & VID_MASK == vlan => Self::KEEP,
            Some(tci) if tagged && vlan != 0 => Self { pop: true, push: tci & !VID_MASK | vlan },
            Some(_) => Self { pop: true, push: 0 },
            None if tagged => Self { pop: false, push: vlan },
            None => Self::KEEP,
        }
    }

    /// The tag of a frame that had `have`, after the change.
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, have: Option<u16>) -> Option<u16> {
        match self {
            Self { push: 0, pop: true } => None,
            Self { push: 0, pop: false } => have,
            Self { push, .. } => Some(push),
        }
    }
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

/// What a flood leaves in the parent's ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngressCopy {
    /// Nothing: the host is not a member.
    None,
    /// The frame with the host's MAC as destination: for the host alone. A multicast destination
    /// would make the kernel flood it to every macvlan child
    /// (`drivers/net/macvlan.c`, `macvlan_handle_frame`).
    ToHost,
    /// The frame as it is: for the host, and for whom the kernel floods it to.
    AsIs,
}

/// A flood's copy for one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The member, and what to do to the tag.
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
    /// Two tags or a service tag, from or to a child.
    Stacked = 4, "stacked_tags";
    /// From a child with a source MAC that is not its own.
    SourceMac = 5, "source_mac";
    /// From a child with a tag of a VLAN that it is not in.
    VlanNotAllowed = 6, "vlan_not_allowed";
    /// From a child to 01:80:c2:00:00:00-0f, which no bridge forwards.
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
    fn retag_gives_each_port_its_form() {
        let (pop, keep) = (Retag { pop: true, push: 0 }, Retag::KEEP);
        let push = |tci| Retag { pop: false, push: tci };
        let swap = |tci| Retag { pop: true, push: tci };
        let cases = [
            ("untagged to untagged", None, 0, false, keep),
            ("untagged to access", None, 10, false, keep),
            ("untagged to trunk", None, 10, true, push(10)),
            ("untagged to trunk, VLAN 0", None, 0, true, keep),
            ("tagged to access", Some(10), 10, false, pop),
            ("tagged to trunk", Some(0x600a), 10, true, keep),
            ("priority tag to access", Some(0x6000), 0, false, pop),
            ("priority tag to trunk, VLAN 0", Some(0x6000), 0, true, keep),
            ("priority tag of an access port to trunk", Some(0x6000), 10, true, swap(0x600a)),
        ];
        for (name, have, vlan, tagged, want) in cases {
            assert_eq!(Retag::new(have, vlan, tagged), want, "{name}");
        }
    }
}
