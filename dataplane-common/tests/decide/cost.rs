//! What a frame may cost on its way to a child.

use dataplane_common::{Frame, frame::Tag};

use fixtures::{
    THE_HOST, WIRE,
    lan::{HOST, Probe, STRANGER, frame, mac, tables, untagged},
};

use crate::verdict;

const NONE: Tag = Tag::NONE;

#[test]
fn a_known_unicast_frame_takes_one_lookup() {
    let probe = Probe::new(tables(&untagged()), false);
    let cases: [(&str, Frame, u16); 5] = [
        ("wire to macvlan", frame(mac(2), STRANGER, NONE), WIRE),
        ("wire to veth", frame(mac(4), STRANGER, NONE), WIRE),
        ("wire to the host", frame(HOST, STRANGER, NONE), WIRE),
        ("host to macvlan", frame(mac(2), HOST, NONE), THE_HOST),
        ("veth to macvlan", frame(mac(2), mac(4), NONE), 4),
    ];
    for (name, frame, from) in cases {
        probe.lookups.set(0);
        let _ = verdict(&frame, from, &probe);
        assert_eq!(probe.lookups.get(), 1, "{name}");
    }
}
