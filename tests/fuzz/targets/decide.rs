//! A frame of any bytes, on a parent with any children, goes where it may and nowhere else.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Arbitrary;
use dataplane_common::{
    Frame, Mark, Tables, Verdict,
    abi::{Kind, PORT_FIRST_CHILD, PORT_HOST, PORT_WIRE, port_flag},
    decide::{copy_for, decide},
    frame::{Mac, OffloadedTag, Tag, head_of},
    mark::NO_STAMP,
    sender::{Provenance, Sender, Socket, egress_port, ingress_port},
    topology::{Child, Membership, Rights, TableSet, Topology},
};
use libfuzzer_sys::fuzz_target;

/// A MAC of few, so that frames meet children.
#[derive(Arbitrary, Debug)]
enum Station {
    Child(u8),
    Host,
    Group(u8),
    Any(Mac),
}

#[derive(Arbitrary, Debug)]
enum In {
    Access(u16),
    Trunk(Vec<u16>),
    All,
}

#[derive(Arbitrary, Debug)]
struct Input {
    children: Vec<(bool, In, u8)>,
    sub_interfaces: Vec<u16>,
    dst: Station,
    src: Station,
    rest: [u8; 6],
    offloaded: Option<(bool, u16)>,
    from: u16,
    mark: u32,
    came_in: u32,
    stamp: Option<u16>,
    socket: Option<u8>,
}

const HOST: Mac = [2, 0, 0, 0, 0, 1];

fn mac(station: &Station) -> Mac {
    match *station {
        Station::Child(n) => [2, 0, 0, 0, 1, n % 16],
        Station::Host => HOST,
        Station::Group(last) => [0x01, 0x80, 0xc2, 0, 0, last],
        Station::Any(mac) => mac,
    }
}

fn vlan(number: u16) -> u16 {
    number % 4095
}

fn topology(input: &Input) -> Topology {
    let children = input.children.iter().take(16).zip(PORT_FIRST_CHILD..);
    let child = |((veth, membership, flags), port): (&(bool, In, u8), u16)| {
        let last = u8::try_from(port - PORT_FIRST_CHILD).expect("a few");
        let own = port_flag::ISOLATED | port_flag::INTERNAL;
        let of_macvlan = port_flag::BRIDGE | port_flag::GUARDED;
        let some = |list: &[u16]| list.iter().take(8).map(|v| vlan(*v)).collect::<BTreeSet<_>>();
        Child {
            port,
            mac: [2, 0, 0, 0, 1, last],
            kind: if *veth { Kind::Veth } else { Kind::Macvlan },
            membership: match membership {
                In::Access(v) => Membership::Access(vlan(*v)),
                In::Trunk(vlans) => Membership::Trunk(some(vlans)),
                In::All => Membership::All,
            },
            host_end: if *veth { 100 + u32::from(port) } else { 0 },
            flags: flags & if *veth { own } else { own | of_macvlan },
            local: flags >> 6,
            // Two in each namespace.
            netns: 100 + u64::from(port / 2),
            has_filters: flags & 1 != 0,
            takes_xdp: false,
            rights: Rights::default(),
        }
    };
    Topology {
        parent: 50,
        mac: HOST,
        host_vlans: input.sub_interfaces.iter().map(|v| (vlan(*v).max(1), HOST)).collect(),
        children: children.map(child).collect(),
        ..Topology::default()
    }
}

fn is_in(child: &Child, vlan: u16) -> bool {
    match &child.membership {
        Membership::Access(own) => *own == vlan,
        Membership::Trunk(list) => list.contains(&vlan),
        Membership::All => true,
    }
}

/// The VLAN that a frame is in when `from` sends it.
fn vlan_of(topology: &Topology, frame: &Frame, from: u16) -> u16 {
    let sender = topology.children.iter().find(|child| child.port == from);
    match sender.map(|child| &child.membership) {
        Some(Membership::Access(own)) => *own,
        _ => frame.tag.vlan(),
    }
}

fn check(topology: &Topology, tables: &TableSet, frame: &Frame, from: u16) {
    let verdict = decide(frame, from, tables);
    let child = |port: u16| topology.children.iter().find(|child| child.port == port);
    let vlan = vlan_of(topology, frame, from);
    let mut reached: Vec<(u16, Tag)> = Vec::new();
    match verdict {
        Verdict::Pass => assert_eq!(from, PORT_WIRE, "only the wire's frames are the kernel's"),
        Verdict::Drop(_) => {}
        Verdict::Deliver(to) => {
            let internal = |port| child(port).is_some_and(|c| c.flags & port_flag::INTERNAL != 0);
            let by_wire = from == PORT_WIRE && internal(to.port);
            assert!(
                !by_wire && (to.port != PORT_WIRE || !internal(from)),
                "internal, and on the wire"
            );
            assert_ne!(to.port, from, "back to its sender");
            assert!(
                from == PORT_WIRE
                    || to.port != PORT_WIRE
                    || child(from).is_some()
                    || from == PORT_HOST
            );
            reached.push((to.port, to.tag));
        }
        Verdict::Flood(plan) => {
            assert!(frame.is_multicast(), "a frame for one is flooded");
            assert_eq!(plan.vlan, vlan);
            assert!(plan.slots == 0 || !frame.is_reserved(), "reserved groups are not forwarded");
            for port in tables.ports.keys() {
                let entry = tables.port(*port).expect("it is there");
                if let Some(copy) = copy_for(&plan, *port, &entry)
                    && tables.groups.iter().any(|(key, member)| {
                        key.vlan == plan.group && key.slot < plan.slots && member.port == *port
                    })
                {
                    assert_ne!(*port, from, "a copy for its sender");
                    reached.push((*port, copy.to.tag));
                }
            }
        }
    }
    for (port, tag) in reached {
        let Some(to) = child(port) else { continue };
        assert!(!frame.tag.is_stacked(), "two tags reach a child");
        assert!(is_in(to, vlan), "VLAN {vlan} reaches port {port}");
        match to.membership {
            Membership::Access(_) => assert!(!tag.is_some(), "an access port sees a tag"),
            Membership::Trunk(_) | Membership::All => assert_eq!(tag.vlan(), vlan),
        }
        if let Some(sender) = child(from) {
            let private = (to.flags | sender.flags) & port_flag::ISOLATED != 0;
            assert!(!private, "a private child and another reach each other");
        }
    }
}

fuzz_target!(|input: Input| {
    let topology = topology(&input);
    let tables = topology.tables(&BTreeMap::new());
    let bytes = [mac(&input.dst), mac(&input.src), input.rest].concat();
    let head = head_of(&bytes).expect("18 bytes");
    let offloaded = input.offloaded.map_or(OffloadedTag::NONE, |(service, tci)| OffloadedTag {
        present: true,
        proto: if service { 0x88a8 } else { 0x8100 },
        tci,
    });
    let frame = Frame::parse(&head, offloaded);
    assert!(frame.tag.is_stacked() || frame.tag.vlan() < 4095);
    let sockets: Vec<_> = tables.netns.values().map(|lowest| Socket(lowest.port)).collect();
    let socket = match input.socket.map(usize::from) {
        None => Socket::NONE,
        Some(n) => sockets.get(n).copied().unwrap_or(Socket::FOREIGN),
    };
    let (mark, came_in) = (Mark::decode(input.mark), input.came_in);
    let stamp = input.stamp.unwrap_or(NO_STAMP);
    let provenance = Provenance { mark, stamp, socket, came_in };
    let _ = ingress_port(&frame, &provenance, &tables);
    let sender = egress_port(&frame, &provenance, &tables).sender();
    if let Ok(Sender::Port(port)) = sender {
        assert_ne!(port, PORT_WIRE);
        check(&topology, &tables, &frame, port);
    }
    if socket.is_of_child() && stamp == NO_STAMP && mark.is_none() && came_in == 0 {
        let Ok(Sender::Port(port) | Sender::Bypass(port)) = sender else {
            panic!("a child's socket sends as {sender:?}");
        };
        assert_eq!(tables.netns(port), socket.0, "another namespace's port");
    }
    let ports = u16::try_from(topology.children.len()).expect("a few") + PORT_FIRST_CHILD + 1;
    check(&topology, &tables, &frame, input.from % ports);
});
