//! What a VLAN switch does: written from the design, without a look at the decision.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::{
    Frame,
    abi::{Kind, PORT_HOST, PORT_WIRE, local_flag, port_flag},
    frame::Mac,
    topology::{self, Membership, Rights, Topology},
};

/// What a child lets through, and what the kernel does for it. A veth child knows `Vepa` (nothing
/// special), `Private` and `Passthru` (it may send with any source MAC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Vepa,
    Bridge,
    Private,
    Passthru,
}

#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) port: u16,
    pub(crate) mac: Mac,
    pub(crate) is_macvlan: bool,
    pub(crate) mode: Mode,
    pub(crate) membership: Membership,
    pub(crate) guarded: bool,
    /// Nothing between it and the wire.
    pub(crate) internal: bool,
}

/// A parent, the host and the children.
#[derive(Clone, Debug)]
pub(crate) struct Lan {
    pub(crate) mac: Mac,
    pub(crate) host_vlans: BTreeMap<u16, Mac>,
    pub(crate) host_macs: BTreeSet<Mac>,
    /// Behind sub-interfaces of the host.
    pub(crate) beyond: BTreeSet<(u16, Mac)>,
    pub(crate) children: Vec<Child>,
}

/// Who has to receive a frame, with which tag: `None` is untagged, which VLAN ID 0 is too.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) receivers: BTreeMap<u16, Option<u16>>,
    /// Ports about which nothing is promised.
    pub(crate) unspecified: BTreeSet<u16>,
}

impl Child {
    /// The VLAN of a frame of this child with a tag of `vid` (0: no tag), if it is in it.
    fn vlan_of(&self, vid: u16) -> Option<u16> {
        match self.membership {
            Membership::Access(vlan) => (vid == 0).then_some(vlan),
            Membership::Trunk(_) | Membership::All => self.is_in(vid).then_some(vid),
        }
    }

    fn is_in(&self, vlan: u16) -> bool {
        match &self.membership {
            Membership::Access(own) => *own == vlan,
            Membership::Trunk(list) => list.contains(&vlan),
            Membership::All => true,
        }
    }

    fn is_access(&self) -> bool {
        matches!(self.membership, Membership::Access(_))
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.is_macvlan && self.mode == Mode::Bridge
    }
}

/// The index of the parent.
pub(crate) const PARENT: u32 = 50;

impl Lan {
    pub(crate) fn child(&self, port: u16) -> Option<&Child> {
        self.children.iter().find(|c| c.port == port)
    }

    pub(crate) fn macvlans(&self) -> impl Iterator<Item = &Child> {
        self.children.iter().filter(|c| c.is_macvlan)
    }

    /// The macvlan child that the kernel gives whatever the parent's stack would get. It has the
    /// parent's MAC, and the host's place in every VLAN without a sub-interface.
    pub(crate) fn passthru(&self) -> Option<&Child> {
        self.macvlans().find(|c| c.mode == Mode::Passthru)
    }

    /// Known limit: the kernel gives a tagged frame in the parent's ingress to the host's
    /// sub-interface of that VLAN, and never to macvlan. So a macvlan child that is a trunk of
    /// such a VLAN cannot receive it. The daemon refuses that for children that it makes; one
    /// that somebody else made loses just those VLANs.
    fn is_shadowed(&self, child: &Child, vlan: u16) -> bool {
        child.is_macvlan && !child.is_access() && self.host_vlans.contains_key(&vlan)
    }

    /// Everybody's MACs.
    pub(crate) fn macs(&self) -> BTreeSet<Mac> {
        let host = self.host_vlans.values().chain(&self.host_macs).chain([&self.mac]);
        let beyond = self.beyond.iter().map(|(_, mac)| mac);
        host.chain(beyond).chain(self.children.iter().map(|c| &c.mac)).copied().collect()
    }

    /// A MAC that a router elsewhere on the LAN may have as well.
    pub(crate) fn is_shared(mac: Mac) -> bool {
        mac[..5] == [0, 0, 0x5e, 0, 1] || mac[..5] == [0, 0, 0x5e, 0, 2]
    }

    fn host_is_in(&self, vlan: u16) -> bool {
        vlan == 0 || self.host_vlans.contains_key(&vlan)
    }

    fn host_has(&self, mac: Mac, vlan: u16) -> bool {
        if vlan == 0 {
            mac == self.mac && self.passthru().is_none() || self.host_macs.contains(&mac)
        } else {
            self.host_vlans.get(&vlan) == Some(&mac) || self.beyond.contains(&(vlan, mac))
        }
    }

    /// Who has to receive a frame; `None` where a known limit leaves that open.
    pub(crate) fn expected(&self, frame: &Frame, from: u16) -> Option<Expected> {
        if from == PORT_WIRE && self.macs().contains(&frame.src) && !Self::is_shared(frame.src) {
            return (!self.may_be_between_siblings(frame)).then(Expected::default);
        }
        if self.child(from).is_some_and(|c| self.is_like_the_wires(frame, c)) {
            return None;
        }
        // Without a tag all of it is zero.
        let (vid, pcp) = (frame.tag.tci() & 0xfff, frame.tag.tci() & 0xf000);
        if frame.tag.is_stacked() {
            return self.expected_stacked(frame, vid, from);
        }
        let vlan = match self.child(from) {
            None => vid,
            Some(child) => {
                let own_source = frame.src == child.mac || child.mode == Mode::Passthru;
                let may_send = own_source && !frame.is_reserved();
                let to_itself = |vlan| frame.dst == child.mac && !self.host_has(child.mac, vlan);
                match child.vlan_of(vid).filter(|vlan| may_send && !to_itself(*vlan)) {
                    Some(vlan) => vlan,
                    None => return Some(self.nobody(frame, from)),
                }
            }
        };
        let to = if frame.is_reserved() {
            self.reserved(from, vlan)
        } else if frame.is_multicast() {
            self.everybody_else(from, vlan)
        } else {
            self.one(frame.dst, from, vlan)?
        };
        let form = |port| {
            let access = self.child(port).is_some_and(Child::is_access);
            (port, (!access && vlan != 0).then_some(pcp | vlan))
        };
        let receivers = to.into_iter().map(form).collect();
        Some(Expected { receivers, ..Expected::default() })
    }

    /// Known limit: nothing but a guard tells a frame of a child in bridge mode to its sibling,
    /// which the kernel puts into the parent's ingress, from a forged one of the wire.
    fn may_be_between_siblings(&self, frame: &Frame) -> bool {
        let with = |mac| move |c: &&Child| c.is_bridge() && c.mac == mac;
        let unguarded = self.children.iter().find(with(frame.src)).is_some_and(|c| !c.guarded);
        unguarded && self.children.iter().any(|c| with(frame.dst)(&c))
    }

    /// Known limit: with another source MAC than its own, guard or no guard, such a frame looks
    /// like one of the wire. So does one with a virtual router's MAC, where there is no guard.
    fn is_like_the_wires(&self, frame: &Frame, sender: &Child) -> bool {
        let to_sibling = self.children.iter().any(|c| c.is_bridge() && c.mac == frame.dst);
        let own_source = frame.src == sender.mac && (sender.guarded || !Self::is_shared(frame.src));
        sender.is_bridge() && to_sibling && !own_source
    }

    /// A child's frame that the dataplane forwards to nobody.
    ///
    /// Known limit: the kernel gives a multicast frame of a macvlan child in bridge mode to its
    /// siblings before the dataplane sees it, whatever its tags and destination.
    fn nobody(&self, frame: &Frame, from: u16) -> Expected {
        let mut expected = Expected::default();
        if frame.is_multicast() && self.child(from).is_some_and(Child::is_bridge) {
            let siblings = self.macvlans().filter(|c| c.is_bridge());
            expected.unspecified.extend(siblings.map(|c| c.port));
        }
        expected
    }

    /// A frame with two tags reaches the host only, or, from the host, the wire.
    ///
    /// Known limits: the kernel would flood one with a multicast destination to all macvlan
    /// children, unless the host has a sub-interface of the outer VLAN, so that it is dropped; and
    /// what is for the parent's stack a passthru child takes.
    fn expected_stacked(&self, frame: &Frame, outer: u16, from: u16) -> Option<Expected> {
        let to = match from {
            PORT_HOST => PORT_WIRE,
            PORT_WIRE => {
                let taken = self.host_vlans.contains_key(&outer);
                if frame.is_multicast() {
                    if !taken && self.macvlans().next().is_some() {
                        return Some(Expected::default());
                    }
                } else if self.children.iter().any(|c| c.mac == frame.dst) {
                    let both = self.host_has(frame.dst, outer);
                    return (!both).then(Expected::default);
                } else if !taken && self.passthru().is_some() {
                    return None;
                }
                PORT_HOST
            }
            _ => return Some(self.nobody(frame, from)),
        };
        Some(Expected { receivers: BTreeMap::from([(to, None)]), ..Expected::default() })
    }

    /// 01:80:c2:00:00:00–0f: between the host and the wire only. A passthru child has the place of
    /// the host, and no more right to such a frame than any other child.
    fn reserved(&self, from: u16, vlan: u16) -> Vec<u16> {
        match from {
            PORT_HOST => vec![PORT_WIRE],
            PORT_WIRE if vlan == 0 && self.passthru().is_some() => vec![],
            PORT_WIRE if self.host_is_in(vlan) => vec![PORT_HOST],
            _ => vec![],
        }
    }

    fn everybody_else(&self, from: u16, vlan: u16) -> Vec<u16> {
        let sender = self.child(from);
        let is_private = |c: &Child| c.mode == Mode::Private;
        let mut to: Vec<u16> = self
            .children
            .iter()
            .filter(|c| c.port != from && c.is_in(vlan))
            .filter(|c| !sender.is_some_and(|s| is_private(s) || is_private(c)))
            .filter(|c| from != PORT_WIRE || !c.internal)
            .filter(|c| {
                // Bridge siblings get the frame when it is sent, not in the parent's ingress.
                let on_transmit = c.is_bridge() && sender.is_some_and(Child::is_bridge);
                on_transmit || !self.is_shadowed(c, vlan)
            })
            .map(|c| c.port)
            .collect();
        // What a child sends cannot reach the host past a passthru child; what comes from the wire
        // the kernel gives to both.
        let cut_off = vlan == 0 && self.passthru().is_some() && from != PORT_WIRE;
        if from != PORT_HOST && self.host_is_in(vlan) && !cut_off {
            to.push(PORT_HOST);
        }
        if from != PORT_WIRE && !sender.is_some_and(|s| s.internal) {
            to.push(PORT_WIRE);
        }
        to
    }

    fn one(&self, dst: Mac, from: u16, vlan: u16) -> Option<Vec<u16>> {
        if from != PORT_HOST && self.host_has(dst, vlan) {
            return Some(vec![PORT_HOST]);
        }
        if let Some(to) = self.children.iter().find(|c| c.mac == dst && c.is_in(vlan)) {
            if from == PORT_WIRE && to.internal {
                return Some(vec![]);
            }
            let Some(sender) = self.child(from) else {
                return (!self.is_shadowed(to, vlan)).then(|| vec![to.port]);
            };
            let apart = [sender, to].iter().any(|c| c.mode == Mode::Private);
            return if apart {
                Some(vec![])
            } else if self.is_shadowed(to, vlan) {
                None
            } else {
                Some(vec![to.port])
            };
        }
        Some(if self.child(from).is_some_and(|c| c.internal) {
            vec![]
        } else if from != PORT_WIRE {
            vec![PORT_WIRE]
        } else if self.children.iter().any(|c| c.mac == dst) {
            // Known in another VLAN only.
            vec![]
        } else if self.host_vlans.contains_key(&vlan) {
            vec![PORT_HOST]
        } else if let Some(child) = self.passthru() {
            vec![child.port]
        } else if vlan == 0 {
            vec![PORT_HOST]
        } else {
            vec![]
        })
    }

    /// The same as the daemon describes it.
    pub(crate) fn topology(&self) -> Topology {
        let children = self.children.iter().map(Child::described).collect();
        Topology {
            parent: PARENT,
            mac: self.mac,
            host_vlans: self.host_vlans.clone(),
            host_macs: self.host_macs.clone(),
            beyond: self.beyond.clone(),
            children,
            ..Topology::default()
        }
    }
}

impl Child {
    pub(crate) fn host_end(&self) -> u32 {
        if self.is_macvlan { 0 } else { 100 + u32::from(self.port) }
    }

    fn described(&self) -> topology::Child {
        let (mode, local) = match self.mode {
            Mode::Vepa => (0, 0),
            Mode::Bridge => (port_flag::BRIDGE, 0),
            Mode::Private => (port_flag::ISOLATED, 0),
            Mode::Passthru => (0, local_flag::ANY_SOURCE),
        };
        let guard = if self.guarded { port_flag::GUARDED } else { 0 };
        let internal = if self.internal { port_flag::INTERNAL } else { 0 };
        topology::Child {
            port: self.port,
            mac: self.mac,
            kind: if self.is_macvlan { Kind::Macvlan } else { Kind::Veth },
            membership: self.membership.clone(),
            host_end: self.host_end(),
            flags: mode | guard | internal,
            local,
            netns: 0,
            has_filters: false,
            takes_xdp: false,
            rights: Rights::default(),
        }
    }
}
