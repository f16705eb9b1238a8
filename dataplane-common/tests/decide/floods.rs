//! Frames for everybody, and those that are forwarded to nobody.

use fixtures::floods;

use crate::check;

#[test]
fn a_broadcast_from_the_wire_is_left_to_the_kernel_where_its_flood_is_right() {
    floods::wire_floods().iter().for_each(check);
}

#[test]
fn the_hosts_broadcast_reaches_children_and_wire_and_not_the_host() {
    floods::host_floods().iter().for_each(check);
}

#[test]
fn a_childs_broadcast_reaches_the_others_the_host_and_the_wire() {
    floods::child_floods().iter().for_each(check);
    floods::floods_apart().iter().for_each(check);
}

#[test]
fn reserved_groups_and_two_tags_are_never_forwarded() {
    floods::never_forwarded().iter().for_each(check);
}
