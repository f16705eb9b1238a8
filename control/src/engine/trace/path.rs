//! A frame that was told, explained: who sent it, which way it took, who gets it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dataplane_common::{
    DropReason, Frame, Verdict,
    abi::{GroupKey, Kind, NO_PORT, PORT_HOST, PORT_WIRE, Port, PortRef, local_flag, port_flag},
    decide::copy_for,
    frame::{OffloadedTag, Tag, head_of},
    neighbour::word,
    trace::{Hook, Seen, traced_flag},
    verdict::{Delivery, Flood, IngressCopy},
};

use crate::{
    clock,
    dataplane::TracedFrame,
    model::{Fate, Mac, TraceView},
};

/// How many ports a view names.
const NAMED: usize = 16;

/// Who stands at the ports of a parent.
#[derive(Debug, Default)]
pub(super) struct Scene {
    pub(super) names: BTreeMap<u16, String>,
    pub(super) ports: BTreeMap<u16, Port>,
    pub(super) groups: BTreeMap<GroupKey, PortRef>,
}

impl Scene {
    fn name(&self, port: u16) -> String {
        let unknown = || if port == NO_PORT { "?".into() } else { port.to_string() };
        self.names.get(&port).cloned().unwrap_or_else(unknown)
    }

    fn has(&self, port: u16, flag: impl Fn(&Port) -> bool) -> bool {
        self.ports.get(&port).is_some_and(flag)
    }

    /// The ports that get a copy of a flood, by maclane or by the kernel's macvlan.
    fn members(&self, flood: &Flood) -> Vec<u16> {
        // What the kernel gives to its macvlan children is no copy of ours.
        let plan = Flood { veth_only: false, ..*flood };
        let slots = (0..flood.slots).filter_map(|slot| {
            let port = self.groups.get(&GroupKey { vlan: flood.group, slot })?.port;
            copy_for(&plan, port, self.ports.get(&port)?).map(|copy| copy.to.port)
        });
        let mut members: Vec<u16> = slots.collect();
        if flood.ingress != IngressCopy::None && flood.from != PORT_HOST {
            members.push(PORT_HOST);
        }
        if flood.wire {
            members.push(PORT_WIRE);
        }
        members
    }
}

/// What the filters look at.
pub(super) fn seen(frame: &TracedFrame) -> Seen {
    let (dst, src) = addresses(frame);
    let traced = &frame.traced;
    let (dst, src) = (word(dst.0), word(src.0));
    Seen { from: traced.from, vlan: traced.vlan, dst, src, verdict: traced.verdict }
}

/// Destination and source; of what is cut off, zeroes.
fn addresses(frame: &TracedFrame) -> (Mac, Mac) {
    let byte = |at: usize| frame.bytes.get(at).copied().unwrap_or_default();
    (Mac(std::array::from_fn(byte)), Mac(std::array::from_fn(|at| byte(at + 6))))
}

/// The tag that a frame came with.
fn tag(frame: &TracedFrame) -> Tag {
    head_of(&frame.bytes).map_or(Tag::NONE, |head| Frame::parse(&head, frame.traced.aside()).tag)
}

/// The bytes as they were on the wire: a tag that the kernel keeps beside them is where it belongs.
fn whole(frame: &TracedFrame) -> Vec<u8> {
    let OffloadedTag { present, proto, tci } = frame.traced.aside();
    match frame.bytes.split_at_checked(12) {
        Some((addresses, rest)) if present => {
            [addresses, &proto.to_be_bytes(), &tci.to_be_bytes(), rest].concat()
        }
        _ => frame.bytes.clone(),
    }
}

/// When a frame was told, in UTC.
fn time(frame: &TracedFrame) -> SystemTime {
    let ago = clock::since_boot()
        .unwrap_or_default()
        .checked_sub(Duration::from_nanos(frame.traced.time));
    let now = SystemTime::now();
    now.checked_sub(ago.unwrap_or_default()).unwrap_or(now)
}

/// A frame, as users see it.
pub(super) fn view(iface: &str, frame: &TracedFrame, scene: &Scene) -> TraceView {
    let traced = &frame.traced;
    let hook = Hook::from_raw(traced.hook);
    let has = |flag: u8| traced.flags & flag != 0;
    let verdict = Verdict::unpack(traced.verdict, traced.from, tag(frame));
    let mut path = way_in(scene, traced.from, hook);
    let (fate, members, reason) = match verdict {
        Verdict::Pass => {
            let to = if hook == Hook::Egress { PORT_WIRE } else { PORT_HOST };
            (Fate::Pass, vec![to], None)
        }
        Verdict::Deliver(delivery) => {
            path.extend(way_out(scene, delivery, hook));
            let fate = if has(traced_flag::ANSWERED) { Fate::Answer } else { Fate::Deliver };
            (fate, vec![delivery.port], None)
        }
        Verdict::Flood(flood) => {
            path.push("flood".into());
            (Fate::Flood, scene.members(&flood), None)
        }
        Verdict::Drop(reason) => {
            let fate = if has(traced_flag::LOGGED) { Fate::Log } else { Fate::Drop };
            (fate, Vec::new(), Some(reason))
        }
    };
    let to: Vec<String> = members.iter().take(NAMED).map(|port| scene.name(*port)).collect();
    path.push(end(fate, &to, members.len(), reason));
    let (destination, source) = addresses(frame);
    let bytes = whole(frame);
    let aside = bytes.len() - frame.bytes.len();
    TraceView {
        time: humantime::format_rfc3339_nanos(time(frame)).to_string(),
        parent: iface.into(),
        from: scene.name(traced.from),
        vlan: traced.vlan,
        source,
        destination,
        length: traced.len + u32::try_from(aside).unwrap_or_default(),
        verdict: fate,
        to,
        copies: members.len(),
        reason: reason.map(|reason| reason.name().into()),
        path,
        frame: STANDARD.encode(bytes),
    }
}

/// From the port to the program that decided.
fn way_in(scene: &Scene, from: u16, hook: Hook) -> Vec<String> {
    let guarded = |port: &Port| port.flags & port_flag::GUARDED != 0;
    let mut way = vec![scene.name(from)];
    if hook != Hook::Guard && scene.has(from, guarded) {
        way.push(Hook::Guard.name().into());
    }
    way.push(hook.name().into());
    way
}

/// From the program that decided to where a frame is handed over.
fn way_out(scene: &Scene, delivery: Delivery, hook: Hook) -> Option<String> {
    let peer = |port: &Port| port.local & local_flag::PEER != 0;
    let way = match (delivery.kind, hook) {
        // It is where it has to be.
        (Kind::Macvlan | Kind::Host, Hook::Ingress | Hook::Xdp)
        | (Kind::Wire, Hook::Egress)
        | (Kind::None, _) => return None,
        (Kind::Macvlan | Kind::Host, Hook::Egress | Hook::Port | Hook::Guard) => "hairpin",
        (Kind::Veth, Hook::Ingress | Hook::Port) if scene.has(delivery.port, peer) => "peer",
        (Kind::Veth, _) => "redirect",
        (Kind::Wire, _) => "egress",
    };
    Some(way.into())
}

/// The end of a path, in a word or two.
fn end(fate: Fate, to: &[String], copies: usize, reason: Option<DropReason>) -> String {
    let reason = reason.map_or("", DropReason::name);
    match fate {
        Fate::Drop => format!("drop ({reason})"),
        Fate::Log => format!("logged ({reason})"),
        Fate::Flood if copies == 0 => "nobody".into(),
        Fate::Flood if copies > to.len() => {
            format!("{}, … ({copies})", to.join(", "))
        }
        Fate::Pass | Fate::Deliver | Fate::Answer | Fate::Flood => to.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::trace::Traced;

    use super::*;

    const WEB: u16 = 2;
    const DB: u16 = 3;
    const VM: u16 = 4;

    fn port(kind: Kind, flags: u8, local: u8) -> Port {
        Port {
            ifindex: 7,
            mac: [2, 0, 0, 0, 0, 1],
            vlan: 10,
            kind: kind as u8,
            flags,
            local,
            pad: 0,
        }
    }

    /// A wire, a host, two macvlan children and a veth child in VLAN 10.
    fn scene() -> Scene {
        let ports = [
            (PORT_WIRE, "wire", port(Kind::Wire, port_flag::TRUNK, 0)),
            (PORT_HOST, "host", port(Kind::Host, port_flag::TRUNK, 0)),
            (WEB, "web", port(Kind::Macvlan, port_flag::GUARDED, 0)),
            (DB, "db", port(Kind::Macvlan, 0, 0)),
            (VM, "vm", port(Kind::Veth, 0, local_flag::PEER)),
        ];
        let members = [WEB, DB, VM].into_iter().zip(0..);
        let group = |(port, slot)| (GroupKey { vlan: 10, slot }, PortRef { port, pad: 0 });
        Scene {
            names: ports.iter().map(|(number, name, _)| (*number, (*name).into())).collect(),
            ports: ports.into_iter().map(|(number, _, port)| (number, port)).collect(),
            groups: members.map(group).collect(),
        }
    }

    fn frame(from: u16, hook: Hook, verdict: Verdict, flags: u8) -> TracedFrame {
        let bytes = [[0xff; 6], [2, 0, 0, 0, 0, 9], [8, 6, 0, 1, 8, 0]].concat();
        let traced = Traced {
            time: 0,
            verdict: verdict.pack(),
            len: 42,
            tag_tci: 0x600a,
            tag_proto: 0x8100,
            from,
            vlan: 10,
            snapped: 18,
            hook: hook as u8,
            flags,
        };
        TracedFrame { traced, bytes }
    }

    fn deliver(port: u16, kind: Kind) -> Verdict {
        Verdict::Deliver(Delivery { port, kind, tag: Tag::NONE })
    }

    fn flood(from: u16, ingress: IngressCopy, wire: bool) -> Verdict {
        Verdict::Flood(Flood {
            from,
            from_flags: 0,
            tag: Tag::NONE,
            vlan: 10,
            group: 10,
            slots: 3,
            veth_only: true,
            ingress,
            wire,
        })
    }

    #[test]
    fn the_way_of_a_frame_is_told_from_port_to_port() {
        use Hook::{Egress, Guard, Ingress, Port, Xdp};
        let source_ip = Verdict::Drop(DropReason::SourceIp);
        let unknown = Verdict::Drop(DropReason::Unknown);
        let both = IngressCopy::AsIs;
        let cases = [
            (WEB, Egress, deliver(PORT_HOST, Kind::Host), 0, "web guard egress hairpin host"),
            (DB, Egress, deliver(WEB, Kind::Macvlan), 0, "db egress hairpin web"),
            (PORT_HOST, Egress, deliver(VM, Kind::Veth), 0, "host egress redirect vm"),
            (PORT_WIRE, Ingress, deliver(WEB, Kind::Macvlan), 0, "wire ingress web"),
            (PORT_WIRE, Ingress, deliver(VM, Kind::Veth), 0, "wire ingress peer vm"),
            (PORT_WIRE, Xdp, deliver(VM, Kind::Veth), 0, "wire xdp redirect vm"),
            (VM, Port, deliver(PORT_WIRE, Kind::Wire), 0, "vm port egress wire"),
            (WEB, Egress, deliver(PORT_WIRE, Kind::Wire), 0, "web guard egress wire"),
            (PORT_WIRE, Ingress, Verdict::Pass, 0, "wire ingress host"),
            (PORT_HOST, Egress, Verdict::Pass, 0, "host egress wire"),
            (WEB, Guard, source_ip, 0, "web guard drop (source_ip)"),
            (DB, Egress, source_ip, traced_flag::LOGGED, "db egress logged (source_ip)"),
            (PORT_WIRE, Xdp, unknown, 0, "wire xdp drop (unknown)"),
            (NO_PORT, Port, Verdict::Drop(DropReason::NoPort), 0, "? port drop (no_port)"),
            (VM, Port, flood(VM, both, true), 0, "vm port flood web, db, host, wire"),
            (
                PORT_WIRE,
                Ingress,
                flood(PORT_WIRE, both, false),
                0,
                "wire ingress flood web, db, vm, host",
            ),
            (
                PORT_HOST,
                Egress,
                flood(PORT_HOST, both, true),
                0,
                "host egress flood web, db, vm, wire",
            ),
        ];
        for (from, hook, verdict, flags, want) in cases {
            let view = view("eth0", &frame(from, hook, verdict, flags), &scene());
            assert_eq!(view.path.join(" "), want);
        }
    }

    #[test]
    fn a_tag_is_where_it_was_on_the_wire() {
        let shown = |flags| view("eth0", &frame(WEB, Hook::Egress, Verdict::Pass, flags), &scene());
        let untouched = shown(0);
        let tagged = shown(traced_flag::TAG_ASIDE);
        assert_eq!((untouched.length, tagged.length), (42, 46));
        let bytes = STANDARD.decode(&tagged.frame).unwrap();
        assert_eq!(bytes[12..18], [0x81, 0, 0x60, 10, 8, 6]);
        assert_eq!(STANDARD.decode(&untouched.frame).unwrap()[12..14], [8, 6]);
    }

    #[test]
    fn of_a_large_flood_some_are_named() {
        let mut scene = scene();
        for slot in 3..40 {
            scene.groups.insert(GroupKey { vlan: 10, slot }, PortRef { port: VM, pad: 0 });
        }
        let Verdict::Flood(plan) = flood(PORT_WIRE, IngressCopy::None, false) else {
            unreachable!()
        };
        let verdict = Verdict::Flood(Flood { slots: 40, ..plan });
        let view = view("eth0", &frame(PORT_WIRE, Hook::Ingress, verdict, 0), &scene);
        assert_eq!((view.copies, view.to.len()), (40, NAMED));
        assert!(view.path.last().unwrap().ends_with(", … (40)"), "{:?}", view.path);
    }
}
