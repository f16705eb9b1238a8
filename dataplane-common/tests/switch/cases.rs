//! Any parent, and any frame of a port that may send it.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::{
    Frame,
    abi::{PORT_FIRST_CHILD, PORT_HOST, PORT_WIRE},
    frame::{Mac, Tag},
    topology::Membership,
};
use proptest::{collection, option, prelude::*, sample};

use crate::model::{Child, Lan, Mode};

const VLANS: [u16; 5] = [0, 10, 20, 30, 40];
const PARENT: Mac = [2, 0, 0, 0, 0, 1];
const BRIDGE: Mac = [2, 0, 0, 0, 0, 0xbb];
const STRANGER: Mac = [2, 0, 0, 0, 0, 0xee];
const NOBODY: Mac = [2, 0, 0, 0, 0, 0xef];
const BROADCAST: Mac = [0xff; 6];
const GROUP: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A frame, and the port that sends it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) lan: Lan,
    pub(crate) from: u16,
    pub(crate) frame: Frame,
    /// Slots that a flood serves in one turn.
    pub(crate) turn: u16,
}

/// What the macvlan children of a parent have in common.
#[derive(Clone, Debug)]
enum Macvlans {
    None,
    /// Each in VEPA or private mode, with VLANs of its own.
    Apart,
    /// Some in bridge mode: the daemon has that only where all have the same VLANs.
    Bridge(Membership),
    /// One alone, with the parent's MAC.
    ///
    /// It is there as somebody else's macvlan link is: in every VLAN, because the kernel gives it
    /// every frame that the parent's stack would get. And it has a guard: without one nothing
    /// tells its frames from the host's.
    Passthru,
}

fn membership() -> impl Strategy<Value = Membership> {
    prop_oneof![
        3 => sample::select(&VLANS[..]).prop_map(Membership::Access),
        2 => collection::btree_set(sample::select(&VLANS[..]), 1..4).prop_map(Membership::Trunk),
        2 => Just(Membership::All),
    ]
}

fn macvlans() -> impl Strategy<Value = Macvlans> {
    prop_oneof![
        1 => Just(Macvlans::None),
        4 => Just(Macvlans::Apart),
        2 => membership().prop_map(Macvlans::Bridge),
        1 => Just(Macvlans::Passthru),
    ]
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn on its own")]
struct AnyChild {
    is_macvlan: bool,
    mode: Mode,
    membership: Membership,
    guarded: bool,
    is_router: bool,
    internal: bool,
}

fn child() -> impl Strategy<Value = AnyChild> {
    let mode = prop_oneof![
        4 => Just(Mode::Vepa),
        3 => Just(Mode::Bridge),
        2 => Just(Mode::Private),
        1 => Just(Mode::Passthru),
    ];
    let router = prop::bool::weighted(0.3);
    let internal = prop::bool::weighted(0.2);
    (any::<bool>(), mode, membership(), any::<bool>(), router, internal).prop_map(
        |(is_macvlan, mode, membership, guarded, is_router, internal)| AnyChild {
            is_macvlan,
            mode,
            membership,
            guarded,
            is_router,
            internal,
        },
    )
}

/// Makes one child of a parent whose macvlan children are `macvlans`.
fn place(any: AnyChild, port: u16, macvlans: &mut Macvlans) -> Child {
    let low = port.to_be_bytes()[1];
    let mut child = Child {
        port,
        mac: if any.is_router { [0, 0, 0x5e, 0, 1, low] } else { [2, 0, 0, 0, 1, low] },
        is_macvlan: any.is_macvlan && !matches!(macvlans, Macvlans::None),
        mode: any.mode,
        membership: any.membership,
        guarded: any.guarded,
        internal: any.internal,
    };
    match (child.is_macvlan, &macvlans) {
        (true, Macvlans::Passthru) => {
            child.mac = PARENT;
            child.mode = Mode::Passthru;
            child.membership = Membership::All;
            child.guarded = true;
            // The kernel gives it what the host would get of the wire.
            child.internal = false;
            // No other macvlan child fits on the parent.
            *macvlans = Macvlans::None;
        }
        (true, Macvlans::Bridge(shared)) => {
            child.membership = shared.clone();
            if child.mode == Mode::Passthru {
                child.mode = Mode::Bridge;
            }
        }
        (true, Macvlans::Apart | Macvlans::None) => {
            if child.mode != Mode::Private {
                child.mode = Mode::Vepa;
            }
        }
        (false, _) => {
            child.guarded = false;
            if child.mode == Mode::Bridge {
                child.mode = Mode::Vepa;
            }
        }
    }
    child
}

fn lan() -> impl Strategy<Value = Lan> {
    let host_vlans = collection::btree_map(sample::select(&VLANS[1..]), any::<bool>(), 0..3);
    let children = collection::vec(child(), 0..=8);
    (host_vlans, any::<(bool, bool)>(), macvlans(), children).prop_map(
        |(host_vlans, (in_bridge, in_sub_interface), mut macvlans, children)| {
            let own = |vlan: u16| [2, 0, 0, 0, 2, vlan.to_be_bytes()[1]];
            let mac = |(vlan, has_own)| (vlan, if has_own { own(vlan) } else { PARENT });
            let host_vlans: BTreeMap<u16, Mac> = host_vlans.into_iter().map(mac).collect();
            let children: Vec<Child> = (PORT_FIRST_CHILD..)
                .zip(children)
                .map(|(port, any)| place(any, port, &mut macvlans))
                .collect();
            // The port of a bridge cannot be the parent of a macvlan link.
            let in_bridge = in_bridge && !children.iter().any(|c| c.is_macvlan);
            let host_macs = in_bridge.then_some(BRIDGE).into_iter().collect();
            // Children of other parents, which are these sub-interfaces.
            let behind = |vlan: &u16| (*vlan, [2, 0, 0, 0, 3, vlan.to_be_bytes()[1]]);
            let beyond = host_vlans.keys().filter(|_| in_sub_interface).map(behind).collect();
            Lan { mac: PARENT, host_vlans, host_macs, beyond, children }
        },
    )
}

fn tag() -> impl Strategy<Value = Tag> {
    let vlan = || sample::select(&VLANS[1..]);
    // 50: a VLAN that nothing here names.
    let tci = (0..8u16, prop_oneof![9 => vlan(), 1 => Just(50)]).prop_map(|(p, v)| p << 13 | v);
    prop_oneof![
        5 => Just(Tag::NONE),
        1 => (0..8u16).prop_map(|priority| Tag::one(priority << 13)),
        6 => tci.prop_map(Tag::one),
        1 => prop_oneof![vlan(), Just(50), Just(0)].prop_map(Tag::stacked),
    ]
}

/// How to choose one of the two addresses: one of those known, or this one.
type Choice = (Option<Mac>, sample::Index);

fn dst() -> impl Strategy<Value = Choice> {
    let last = 0..16u8;
    let other = prop_oneof![
        4 => Just(BROADCAST),
        2 => Just(GROUP),
        1 => Just(NOBODY),
        1 => last.prop_map(|last| [0x01, 0x80, 0xc2, 0, 0, last]),
    ];
    (option::of(other), any::<sample::Index>())
}

fn src() -> impl Strategy<Value = Choice> {
    (option::weighted(0.7, Just(STRANGER)), any::<sample::Index>())
}

/// The source of a frame of port `from`. Only ports whose frames cannot be mistaken for another
/// port's may take any: the wire, a veth child, and a macvlan child with a guard.
fn source(lan: &Lan, from: u16, tag: Tag, (other, index): Choice, honest: bool) -> Mac {
    let known: Vec<Mac> = lan.macs().into_iter().collect();
    let any = other.unwrap_or_else(|| known[index.index(known.len())]);
    match (from, lan.child(from)) {
        (PORT_WIRE, _) => any,
        (_, Some(child)) => {
            let proven = child.guarded || !child.is_macvlan;
            if honest || !proven { child.mac } else { any }
        }
        (_, None) => {
            let vid = if tag.is_stacked() { 0 } else { tag.tci() & 0xfff };
            let own = lan.host_vlans.get(&vid).copied().unwrap_or(lan.mac);
            // A host that bridges or routes may send with a MAC that nobody knows.
            if honest { own } else { STRANGER }
        }
    }
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let honest = prop::bool::weighted(0.9);
    (lan(), any::<sample::Index>(), dst(), src(), tag(), honest, 1..10u16).prop_map(
        |(lan, from, dst, src, tag, honest, turn)| {
            let mut senders: BTreeSet<u16> = lan.children.iter().map(|c| c.port).collect();
            senders.extend([PORT_WIRE, PORT_HOST]);
            let senders: Vec<u16> = senders.into_iter().collect();
            let from = senders[from.index(senders.len())];
            let known: Vec<Mac> = lan.macs().into_iter().collect();
            let dst = dst.0.unwrap_or_else(|| known[dst.1.index(known.len())]);
            let src = source(&lan, from, tag, src, honest);
            Case { lan, from, frame: Frame { dst, src, tag }, turn }
        },
    )
}
