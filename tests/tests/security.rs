//! Port security against children that attack: raw frames from inside their namespaces, taps
//! everywhere else, and life as it has to go on beside them.

#[path = "security/addresses.rs"]
mod addresses;
#[path = "security/attacks.rs"]
mod attacks;
#[path = "security/attacks_headers.rs"]
mod attacks_headers;
#[path = "security/attacks_l2.rs"]
mod attacks_l2;
#[path = "security/attacks_v6.rs"]
mod attacks_v6;
#[path = "security/bypass.rs"]
mod bypass;
#[path = "security/checksum.rs"]
mod checksum;
#[path = "security/devices.rs"]
mod devices;
#[path = "security/floods.rs"]
mod floods;
#[path = "security/identity.rs"]
mod identity;
#[path = "security/life.rs"]
mod life;
#[path = "security/links.rs"]
mod links;
#[path = "security/memory.rs"]
mod memory;
#[path = "security/options.rs"]
mod options;
#[path = "security/origins.rs"]
mod origins;
#[path = "security/pinned.rs"]
mod pinned;
#[path = "security/site.rs"]
mod site;
#[path = "security/table.rs"]
mod table;
#[path = "security/ways.rs"]
mod ways;
