//! What runs on every LAN, and has to go on running behind port security: the programs themselves, as
//! Debian has them, in a router on the wire and in children that are kept to their rights.

#[path = "real_life/dhcp.rs"]
mod dhcp;
#[path = "real_life/dhcp6.rs"]
mod dhcp6;
#[path = "real_life/guest.rs"]
mod guest;
#[path = "real_life/mdns.rs"]
mod mdns;
#[path = "real_life/nested.rs"]
mod nested;
#[path = "real_life/programs.rs"]
mod programs;
#[path = "real_life/relay.rs"]
mod relay;
#[path = "real_life/rogue.rs"]
mod rogue;
#[path = "real_life/site.rs"]
mod site;
#[path = "real_life/slaac.rs"]
mod slaac;
#[path = "real_life/tools.rs"]
mod tools;
#[path = "real_life/vrrp.rs"]
mod vrrp;
#[path = "real_life/wireguard.rs"]
mod wireguard;
