//! Frames for one port, and those for nobody.

use fixtures::unicast;

use crate::check;

#[test]
fn a_frame_from_the_wire_reaches_its_port_in_its_vlan_only() {
    check(&unicast::from_wire());
    check(&unicast::from_wire_beside_the_rules());
}

#[test]
fn frames_for_nobody_are_dropped_where_that_is_asked_for() {
    check(&unicast::unknown_is_dropped());
}

#[test]
fn the_host_reaches_children_of_its_vlans_and_the_wire() {
    check(&unicast::from_host());
}

#[test]
fn an_access_port_sends_and_receives_untagged() {
    check(&unicast::from_access());
}

#[test]
fn a_trunk_port_sends_and_receives_tagged() {
    check(&unicast::from_trunk());
}

#[test]
fn a_child_sends_as_itself_and_in_its_vlans_only() {
    check(&unicast::not_allowed());
}

#[test]
fn a_private_child_reaches_the_host_and_the_wire_and_no_child() {
    check(&unicast::isolation());
}

#[test]
fn adopted_children_reach_each_other_and_the_host_in_any_vlan() {
    check(&unicast::siblings());
}

#[test]
fn a_passthru_child_has_the_parents_mac_and_sends_with_any() {
    check(&unicast::passthru_child());
}

#[test]
fn a_vlan_id_has_all_its_bits_and_the_other_bits_of_a_tag_are_kept() {
    check(&unicast::last_vlan());
}

#[test]
fn a_child_with_any_source_stays_in_its_vlans() {
    check(&unicast::any_source());
}

#[test]
fn a_trunk_stays_in_its_vlans_though_another_child_has_its_mac_there() {
    check(&unicast::one_mac_twice());
}

#[test]
fn two_tags_reach_the_host_only() {
    check(&unicast::stacked());
}

#[test]
fn a_source_of_ours_does_not_come_from_the_wire_but_for_a_virtual_router() {
    unicast::loops().iter().for_each(check);
}
