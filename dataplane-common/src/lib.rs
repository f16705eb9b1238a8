//! The decision where a frame goes, and the tables that it is taken from.
//!
//! Everything here is pure and `no_std`: the programs in the kernel, the daemon and the tests on
//! the host share it. The kernel side hands in its BPF maps as [`Tables`], a test hands in
//! `HashMap`s; [`decide()`] is the same.
//!
//! | module | holds |
//! | --- | --- |
//! | [`frame`] | the view of a frame: addresses and VLAN tag |
//! | [`abi`] | keys and values of the maps, their names and sizes |
//! | [`mark`] | what `skb->mark` says between two of our programs |
//! | [`verdict`] | the closed lists: verdicts and drop reasons |
//! | [`mod@decide`] | the rules |
//! | [`sender`] | the port that a frame at the parent is attributed to |
//! | [`packet`] | what a frame carries |
//! | [`neighbour`] | who has an address, who asks for it, and whom that is for |
//! | [`answer`] | answers on behalf of a child |
//! | [`pinned`] | what may be heard of an address that is pinned to a station |
//! | [`llc`] | what a frame with a length instead of an `EtherType` carries |
//! | [`security`] | what a child may send |
//! | [`dhcp`] | who is given which address |
//! | [`trace`] | what is told of single frames, and of which |
//! | `topology` | the tables that a parent and its children make (feature `user`, with `std`) |
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod abi;
pub mod answer;
pub mod decide;
pub mod dhcp;
pub mod frame;
pub mod llc;
pub mod mark;
pub mod neighbour;
pub mod packet;
pub mod pinned;
pub mod security;
pub mod sender;
#[cfg(any(test, feature = "user"))]
pub mod topology;
pub mod trace;
pub mod verdict;

pub use abi::Tables;
pub use decide::decide;
pub use frame::Frame;
pub use mark::Mark;
pub use sender::{egress_port, ingress_port};
pub use verdict::{DropReason, Verdict};
