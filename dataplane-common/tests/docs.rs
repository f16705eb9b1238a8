//! What the documents have to name, they name.

use std::fs;

use dataplane_common::{DropReason, abi::map};

#[test]
fn every_map_and_every_drop_reason_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/observability.md");
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
    for name in map::ALL {
        assert!(text.contains(&format!("\n### `{name}`\n")), "no chapter on the map {name}");
    }
    for reason in DropReason::ALL {
        let (number, name) = (*reason as u32, reason.name());
        assert!(
            text.contains(&format!("\n| {number} | `{name}` |")),
            "no line on {number}, {name}"
        );
    }
}
