//! What the programs and the kernel do with a frame: verdicts carried out as `tc.rs` and `flood.rs`
//! of `dataplane-ebpf` do, and the parts of the kernel that a frame meets beside them.

use dataplane_common::{
    Frame, Mark, Tables, Verdict,
    abi::{GroupKey, Kind, PORT_HOST, PORT_WIRE},
    decide::{copy_for, decide},
    frame::{Mac, Tag},
    mark::NO_STAMP,
    sender::{Provenance, Sender, Socket, egress_port, ingress_port},
    topology::TableSet,
    verdict::{Copy, Delivery, Flood, IngressCopy},
};

use crate::model::{Child, Lan, Mode, PARENT};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Ingress,
    Egress,
    HostEnd,
}

/// A frame as it reached a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) port: u16,
    pub(crate) frame: Frame,
}

pub(crate) struct Machine<'a> {
    pub(crate) lan: &'a Lan,
    pub(crate) tables: &'a TableSet,
    /// Slots that a flood serves in one turn.
    pub(crate) turn: u16,
    pub(crate) received: Vec<Received>,
}

/// `Skb::set_tag`: one tag comes off, and one customer tag goes on.
fn retagged(frame: &Frame, have: Tag, want: Tag) -> Frame {
    assert_eq!(frame.tag, have, "another tag than the frame has");
    if have == want {
        return *frame;
    }
    assert!(!have.is_stacked(), "one of two tags was changed: {frame:?}");
    assert!(!want.is_stacked(), "a second tag was put on: {frame:?}");
    Frame { tag: if want.is_some() { Tag::one(want.tci()) } else { Tag::NONE }, ..*frame }
}

/// Of a frame that the kernel has made.
fn provenance(mark: Option<Mark>, stamp: Option<u16>, came_in: u32) -> Provenance {
    let stamp = stamp.unwrap_or(NO_STAMP);
    Provenance { mark, stamp, socket: Socket::NONE, came_in }
}

/// The kernel.
impl Machine<'_> {
    /// A port sends a frame.
    pub(crate) fn send(&mut self, frame: &Frame, from: u16) {
        match self.lan.child(from) {
            Some(child) if child.is_macvlan => self.macvlan_transmit(frame, child),
            Some(_) => self.act(Hook::HostEnd, frame, from),
            None if from == PORT_WIRE => self.arrived(frame, None),
            None => self.egress(frame, &provenance(None, None, 0), from),
        }
    }

    fn reach(&mut self, port: u16, frame: &Frame) {
        self.received.push(Received { port, frame: *frame });
    }

    /// `macvlan_queue_xmit` (`drivers/net/macvlan.c`).
    fn macvlan_transmit(&mut self, frame: &Frame, child: &Child) {
        if child.is_bridge() {
            let siblings = self.lan.macvlans().filter(|c| c.is_bridge());
            if frame.is_multicast() {
                for sibling in siblings.filter(|c| c.port != child.port) {
                    self.reach(sibling.port, frame);
                }
            } else if { siblings }.any(|c| c.mac == frame.dst) {
                // Into the parent's ingress; on the way between namespaces the mark is removed
                // (`net/core/skbuff.c`, `skb_scrub_packet`), the stamp is not.
                self.arrived(frame, child.guarded.then_some(child.port));
                return;
            }
        }
        let stamp = child.guarded.then_some(child.port);
        self.egress(frame, &provenance(None, stamp, 0), child.port);
    }

    /// The parent's ingress behind our program (`net/core/dev.c`, `__netif_receive_skb_core`).
    fn parent_receives(&mut self, frame: &Frame) {
        let (vid, stacked) = (frame.tag.tci() & 0xfff, frame.tag.is_stacked());
        // `vlan_do_receive` comes before the receive handler.
        if self.lan.host_vlans.contains_key(&vid) {
            return self.reach(PORT_HOST, frame);
        }
        if self.macvlan_receives(frame) {
            return;
        }
        // The parent's stack takes no frame of a VLAN without a sub-interface. What it does with
        // two tags is the host's business.
        if vid == 0 || stacked {
            self.reach(PORT_HOST, frame);
        }
    }

    /// `macvlan_handle_frame` (`drivers/net/macvlan.c`); true if it consumes the frame.
    fn macvlan_receives(&mut self, frame: &Frame) -> bool {
        let lan = self.lan;
        if !frame.is_multicast() {
            let by_mac = || lan.macvlans().find(|c| c.mac == frame.dst);
            let Some(child) = lan.passthru().or_else(by_mac) else { return false };
            self.reach(child.port, frame);
            return true;
        }
        let source = lan.macvlans().find(|c| c.mac == frame.src);
        let modes: &[Mode] = match source.map(|c| c.mode) {
            None => &[Mode::Private, Mode::Vepa, Mode::Passthru, Mode::Bridge],
            Some(Mode::Vepa) => &[Mode::Vepa, Mode::Bridge],
            Some(Mode::Bridge) => &[Mode::Vepa],
            Some(Mode::Private | Mode::Passthru) => {
                if let Some(child) = source {
                    self.reach(child.port, frame);
                }
                return true;
            }
        };
        let not_the_source = |c: &&Child| source.is_none_or(|s| s.port != c.port);
        for child in lan.macvlans().filter(not_the_source).filter(|c| modes.contains(&c.mode)) {
            self.reach(child.port, frame);
        }
        false
    }
}

/// The programs.
impl Machine<'_> {
    /// `maclane_ingress`, for a frame that no program has put there.
    fn arrived(&mut self, frame: &Frame, stamp: Option<u16>) {
        match ingress_port(frame, &provenance(None, stamp, 0), self.tables).sender() {
            Ok(Sender::Port(port)) => self.act(Hook::Ingress, frame, port),
            Ok(other) => panic!("without a socket it is {other:?}"),
            Err(_) => {}
        }
    }

    /// `maclane_egress`; `sender` is who it must take for the sender.
    fn egress(&mut self, frame: &Frame, provenance: &Provenance, sender: u16) {
        match egress_port(frame, provenance, self.tables).sender() {
            Ok(Sender::Transit) => self.reach(PORT_WIRE, frame),
            Ok(Sender::Port(port)) => {
                assert_eq!(port, sender, "taken for another sender");
                self.act(Hook::Egress, frame, port);
            }
            Ok(Sender::Unknown) => {
                assert_eq!(PORT_HOST, sender, "taken for the host");
                self.act(Hook::Egress, frame, PORT_HOST);
            }
            Ok(other) => panic!("without a socket it is {other:?}"),
            Err(_) => {}
        }
    }

    fn act(&mut self, hook: Hook, frame: &Frame, from: u16) {
        match decide(frame, from, self.tables) {
            Verdict::Deliver(delivery) => self.deliver(hook, frame, delivery, from),
            Verdict::Flood(plan) => self.flood(hook, frame, plan, 0),
            Verdict::Drop(_) => {}
            Verdict::Pass => match hook {
                Hook::Ingress => self.parent_receives(frame),
                Hook::Egress => self.reach(PORT_WIRE, frame),
                Hook::HostEnd => panic!("a child's frame was left to the stack of its host end"),
            },
        }
    }

    fn deliver(&mut self, hook: Hook, frame: &Frame, delivery: Delivery, from: u16) {
        let Delivery { port, kind, tag } = delivery;
        let frame = retagged(frame, frame.tag, tag);
        match (kind, hook) {
            (Kind::Macvlan | Kind::Host, _) => self.parent_receives(&frame),
            (Kind::Veth, _) => self.veth_receives(port, &frame),
            (Kind::Wire, Hook::Egress) => self.reach(PORT_WIRE, &frame),
            (Kind::Wire, Hook::HostEnd) => {
                let came_in = self.lan.child(from).map_or(0, Child::host_end);
                self.egress(&frame, &provenance(Some(Mark::Transit(from)), None, came_in), from);
            }
            (Kind::Wire, Hook::Ingress) => {
                let mark = Some(Mark::Hairpin);
                self.egress(&frame, &provenance(mark, None, PARENT), from);
            }
            (Kind::None, _) => panic!("delivered to nowhere"),
        }
    }

    fn veth_receives(&mut self, port: u16, frame: &Frame) {
        let ifindex = self.tables.port(port).expect("a port").ifindex;
        let child = self.lan.children.iter().find(|c| c.host_end() == ifindex && ifindex != 0);
        self.reach(child.expect("a host end").port, frame);
    }

    fn flood(&mut self, hook: Hook, frame: &Frame, plan: Flood, first: u16) {
        // As `maclane_flood` and `maclane_slot` get it.
        let (ports, rest) = plan.pack();
        let plan = Flood::unpack(ports, rest);
        let next = first + plan.slots.saturating_sub(first).min(self.turn);
        for slot in first..next {
            self.serve_slot(frame, &plan, slot);
        }
        if next < plan.slots {
            // `resume`, in the parent's ingress.
            match decide(frame, plan.from, self.tables) {
                Verdict::Flood(plan) => self.flood(Hook::Ingress, frame, plan, next),
                other => panic!("a flood went on as {other:?}"),
            }
        }
        if first == 0 {
            self.last_copies(hook, frame, &plan);
        }
    }

    fn serve_slot(&mut self, frame: &Frame, plan: &Flood, slot: u16) {
        let Some(member) = self.tables.groups.get(&GroupKey { vlan: plan.group, slot }) else {
            return;
        };
        let to = self.tables.port(member.port).expect("a member");
        let Some(Copy { to: delivery, unicast }) = copy_for(plan, member.port, &to) else {
            return;
        };
        let dst = if unicast { to.mac } else { frame.dst };
        let copy = Frame { dst, ..retagged(frame, plan.tag, delivery.tag) };
        if delivery.kind == Kind::Veth {
            self.veth_receives(delivery.port, &copy);
        } else {
            self.parent_receives(&copy);
        }
    }

    fn last_copies(&mut self, hook: Hook, frame: &Frame, plan: &Flood) {
        let host: Mac = self.tables.port(PORT_HOST).expect("the host").mac;
        let dst = if plan.ingress == IngressCopy::ToHost { host } else { frame.dst };
        if hook == Hook::Ingress {
            if plan.ingress != IngressCopy::None {
                self.parent_receives(&Frame { dst, ..retagged(frame, plan.tag, plan.tag) });
            }
            return;
        }
        let tag = plan.tag.for_port(plan.vlan, true);
        if plan.ingress != IngressCopy::None {
            self.parent_receives(&Frame { dst, ..retagged(frame, plan.tag, tag) });
        }
        if plan.wire {
            let wire = Delivery { port: PORT_WIRE, kind: Kind::Wire, tag };
            self.deliver(hook, frame, wire, plan.from);
        }
    }
}
