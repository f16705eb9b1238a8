//! What `skb->mark` says between two of our programs.
//!
//! ```text
//!  31      24 23 22 21        11 10         0
//! ┌──────────┬─────┬────────────┬────────────┐
//! │   0xe5   │ tag │    slot    │    port    │
//! └──────────┴─────┴────────────┴────────────┘
//! ```
//!
//! Every other value belongs to the host's own rules and is left alone. A mark of ours never
//! leaves the parent: it is cleared before a frame reaches a stack or the wire. The owner of a
//! macvlan child can set any mark, so a mark says nothing of a frame that a guard has stamped.
//!
//! What a guard says of the sender is the *stamp* in `skb->tc_index`, which a child's owner cannot
//! write ([`crate::sender`]).
//!
//! What one program says to the next one of the same hook is in `skb->cb`: [`Guarded`].

/// The upper byte that makes a mark ours.
const MAGIC: u32 = 0xe5;

const FIELD: u32 = (1 << 11) - 1;

/// The bit that makes a stamp ours.
const STAMP: u16 = 1 << 15;

/// What `skb->tc_index` says of a frame that TC has sent round once to get its MAC header back.
pub const MENDED: u16 = 1 << 14;

/// The stamp of a port: what `maclane_guard` writes into `skb->tc_index`. The parent's programs
/// remove it.
#[must_use]
#[inline(always)]
pub const fn stamp(port: u16) -> u16 {
    STAMP | port
}

/// What [`stamped`] says of a frame that no guard has stamped: the wire's port, which has no guard.
pub const NO_STAMP: u16 = 0;

/// The port that `skb->tc_index` holds, if a guard has stamped the frame, or [`NO_STAMP`].
///
/// A number and not an `Option`: the verifier accepts no reads of what one of two ways left unset.
#[must_use]
#[inline(always)]
pub const fn stamped(tc_index: u32) -> u16 {
    // A field of 16 bits in a place of 32.
    let stamp = (tc_index & 0xffff) as u16;
    if stamp & STAMP == 0 { NO_STAMP } else { stamp & !(STAMP | MENDED) }
}

/// What `maclane_guard` says to `maclane_macvlan`, in the first word of `skb->cb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// The port of the child that it sits on.
    pub port: u16,
    /// What comes after it on the child does not run.
    pub last: bool,
}

impl Guarded {
    const LAST: u32 = 1 << 16;

    /// The word.
    #[must_use]
    #[inline(always)]
    pub const fn encode(self) -> u32 {
        self.port as u32 | if self.last { Self::LAST } else { 0 }
    }

    /// Undoes [`Self::encode`].
    #[must_use]
    #[inline(always)]
    pub const fn decode(word: u32) -> Self {
        Self { port: (word & 0xffff) as u16, last: word & Self::LAST != 0 }
    }
}

/// A mark of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// On its way into the parent's ingress, already decided: let it through once.
    Hairpin,
    /// On its way from the host end of this veth port to the wire, already decided. Believed only
    /// where the frame came in through that host end.
    Transit(u16),
    /// A flood, sent by this port, that goes on at this slot of its group.
    Flood {
        /// The port that sent the frame.
        port: u16,
        /// The first slot that has not been served.
        slot: u16,
    },
}

impl Mark {
    /// The value for `skb->mark`.
    #[must_use]
    #[inline(always)]
    pub const fn encode(self) -> u32 {
        let (tag, slot, port) = match self {
            Self::Hairpin => (1, 0, 0),
            Self::Transit(port) => (2, 0, port),
            Self::Flood { port, slot } => (3, slot, port),
        };
        MAGIC << 24 | tag << 22 | (slot as u32 & FIELD) << 11 | port as u32 & FIELD
    }

    /// The mark that `skb->mark` holds, if it is one of ours.
    #[must_use]
    #[inline(always)]
    pub const fn decode(mark: u32) -> Option<Self> {
        if mark >> 24 != MAGIC {
            return None;
        }
        let slot = (mark >> 11 & FIELD) as u16;
        let port = (mark & FIELD) as u16;
        Some(match mark >> 22 & 3 {
            1 => Self::Hairpin,
            2 => Self::Transit(port),
            3 => Self::Flood { port, slot },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{GROUP_SLOTS, PORTS};

    #[test]
    fn marks_survive_the_trip() {
        let last = u16::try_from(PORTS - 1).unwrap();
        let slot = u16::try_from(GROUP_SLOTS).unwrap();
        for mark in [Mark::Hairpin, Mark::Transit(last), Mark::Flood { port: last, slot }] {
            assert_eq!(Mark::decode(mark.encode()), Some(mark));
        }
    }

    #[test]
    fn what_a_guard_says_survives_the_trip() {
        let all = [0, u16::MAX].map(|port| [false, true].map(|last| Guarded { port, last }));
        for guarded in all.concat() {
            assert_eq!(Guarded::decode(guarded.encode()), guarded);
        }
    }

    #[test]
    fn stamps_survive_the_trip() {
        let last = u16::try_from(PORTS - 1).unwrap();
        for port in [2, last] {
            let of_guard = u32::from(stamp(port));
            assert_eq!(stamped(of_guard), port);
            assert_eq!(stamped(of_guard | u32::from(MENDED)), port, "sent round once");
            // By this bit TC tells what it has sent round once.
            assert_eq!(of_guard & u32::from(MENDED), 0, "port {port} looks mended");
        }
    }

    #[test]
    fn what_no_guard_has_stamped_names_no_port() {
        for tc_index in [0, 2, u32::from(MENDED), u32::from(MENDED) | 2, 0x7fff, 1 << 31 | 2] {
            assert_eq!(stamped(tc_index), NO_STAMP, "{tc_index:#x}");
        }
    }

    #[test]
    fn marks_of_the_host_are_not_ours() {
        for mark in [0, 1, 0x4000, 0x8000, 0x0f00, 0xffff_ffff, 0xe500_0002] {
            assert_eq!(Mark::decode(mark), None, "{mark:#x}");
        }
    }
}
