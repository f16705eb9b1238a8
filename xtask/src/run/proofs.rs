//! The proofs: what maclane promises, in the order of the table.

/// One promise. Stations go by the names that they have in the drawing of [`run`](super).
pub(super) enum Proof {
    /// Both reach each other, by ping in IPv4.
    Ping(&'static str, &'static str),
    /// Both reach each other, by ping in IPv6.
    Ping6(&'static str, &'static str),
    /// Each takes a TCP connection of the other and sends back what it receives.
    Tcp(&'static str, &'static str),
    /// A child answers an ARP request that comes from the wire with the child's tag, with that
    /// tag.
    Arp(&'static str),
    /// One does not reach the others, although they are in its subnet.
    Silence(&'static str, [&'static str; 2]),
    /// A frame of a child to the MAC of a child in another VLAN leaves on the wire with the
    /// sender's tag, and no child receives it.
    ForeignMac(&'static str, &'static str),
    /// A frame from the wire to the MAC of a child in a VLAN that is not the child's is received
    /// by nobody.
    ForeignTag(u16, &'static str),
    /// What the members of a VLAN send arrives at the router with the tag of that VLAN.
    Tags(u16),
    /// A broadcast in a VLAN is received by each other member once, and by nobody else.
    Broadcast(&'static str, u16),
}

use Proof::{Arp, Broadcast, ForeignMac, ForeignTag, Ping, Ping6, Silence, Tags, Tcp};

/// All of them.
pub(super) const PROOFS: &[Proof] = &[
    Ping("host", "adopted"),
    Ping6("host", "adopted"),
    Tcp("host", "adopted"),
    Ping("host", "macvlan-0"),
    Ping6("host", "macvlan-0"),
    Tcp("host", "macvlan-0"),
    Ping("host", "veth-0"),
    Ping6("host", "veth-0"),
    Tcp("host", "veth-0"),
    Ping("adopted", "macvlan-0"),
    Ping("adopted", "veth-0"),
    Ping("macvlan-10a", "macvlan-10b"),
    Tcp("macvlan-10a", "macvlan-10b"),
    Ping("macvlan-10a", "veth-10a"),
    Tcp("macvlan-10a", "veth-10a"),
    Ping("veth-10a", "veth-10b"),
    Tcp("veth-10a", "veth-10b"),
    Ping("router", "adopted"),
    Ping("router", "macvlan-0"),
    Ping("router", "veth-0"),
    Arp("macvlan-10a"),
    Arp("veth-10a"),
    Silence("macvlan-10a", ["macvlan-20", "veth-20"]),
    Silence("veth-10a", ["macvlan-20", "veth-20"]),
    Silence("host", ["macvlan-10a", "veth-10a"]),
    ForeignMac("macvlan-10a", "macvlan-20"),
    ForeignMac("macvlan-10a", "veth-20"),
    ForeignMac("veth-10a", "macvlan-20"),
    ForeignMac("veth-10a", "veth-20"),
    ForeignTag(20, "macvlan-10a"),
    ForeignTag(20, "veth-10a"),
    Tags(0),
    Tags(10),
    Tags(20),
    Broadcast("macvlan-10a", 10),
    Broadcast("veth-10a", 10),
    Broadcast("router", 10),
    Broadcast("router", 0),
    Broadcast("host", 0),
    Broadcast("adopted", 0),
    Broadcast("macvlan-0", 0),
    Broadcast("veth-0", 0),
];

impl Proof {
    /// What is proved.
    pub(super) fn title(&self) -> String {
        match self {
            Ping(a, b) => format!("{a} ↔ {b}, IPv4"),
            Ping6(a, b) => format!("{a} ↔ {b}, IPv6"),
            Tcp(a, b) => format!("{a} ↔ {b}, TCP"),
            Arp(child) => format!("wire ↔ {child}, ARP"),
            Silence(from, [a, b]) => format!("{from} does not reach {a}, {b}"),
            ForeignMac(from, to) => format!("{from} does not reach the MAC of {to}"),
            ForeignTag(vlan, to) => format!("wire in VLAN {vlan} does not reach {to}"),
            Tags(vlan) => format!("VLAN {vlan} on the wire"),
            Broadcast("router", vlan) => format!("broadcast from the wire, VLAN {vlan}"),
            Broadcast(from, vlan) => format!("broadcast of {from}, VLAN {vlan}"),
        }
    }

    /// What is sent to prove it.
    pub(super) fn sent(&self) -> String {
        match self {
            Ping(..) | Ping6(..) => "5 pings each way".to_owned(),
            Tcp(..) => "1 MiB to an echo, each way".to_owned(),
            Arp(_) => "a request with the child's tag".to_owned(),
            Silence(..) => "2 pings to each".to_owned(),
            ForeignMac(..) => "a unicast frame".to_owned(),
            ForeignTag(vlan, _) => format!("a frame tagged {vlan}, one with its tag"),
            Tags(_) => "a frame of each member to the router".to_owned(),
            Broadcast("router", 1..) => "a tagged datagram".to_owned(),
            Broadcast(..) => "an untagged datagram".to_owned(),
        }
    }
}
