//! What a frame may cost on its way to a child.

use std::cell::Cell;

use dataplane_common::{
    Frame,
    abi::{FdbValue, Port, Tables, Vlan},
    frame::{Mac, Tag},
    topology::TableSet,
};

use crate::{
    THE_HOST, WIRE,
    common::{HOST, STRANGER, frame, mac, tables, untagged},
    verdict,
};

const NONE: Tag = Tag::NONE;

/// Tables that count lookups in the FDB.
struct Counting(TableSet, Cell<u32>);

impl Tables for Counting {
    fn fdb(&self, mac: Mac, vlan: u16) -> Option<FdbValue> {
        self.1.set(self.1.get() + 1);
        self.0.fdb(mac, vlan)
    }
    fn port(&self, port: u16) -> Option<Port> {
        self.0.port(port)
    }
    fn vlan(&self, vlan: u16) -> Vlan {
        self.0.vlan(vlan)
    }
    fn may_be_ours(&self, mac: Mac) -> bool {
        self.0.may_be_ours(mac)
    }
    fn drop_unknown(&self) -> bool {
        false
    }
}

#[test]
fn a_known_unicast_frame_takes_one_lookup() {
    let counting = Counting(tables(&untagged()), Cell::new(0));
    let cases: [(&str, Frame, u16); 5] = [
        ("wire to macvlan", frame(mac(2), STRANGER, NONE), WIRE),
        ("wire to veth", frame(mac(4), STRANGER, NONE), WIRE),
        ("wire to the host", frame(HOST, STRANGER, NONE), WIRE),
        ("host to macvlan", frame(mac(2), HOST, NONE), THE_HOST),
        ("veth to macvlan", frame(mac(2), mac(4), NONE), 4),
    ];
    for (name, frame, from) in cases {
        counting.1.set(0);
        let _ = verdict(&frame, from, &counting);
        assert_eq!(counting.1.get(), 1, "{name}");
    }
}
