//! `cargo xtask run`: maclane at work on a small LAN of namespaces.

use anyhow::{Result, bail};

/// Makes the LAN, starts the daemon in it and proves with real traffic what it promises.
pub(crate) fn proof() -> Result<()> {
    bail!("cannot prove maclane: the laboratory is not there yet; run `cargo xtask test`")
}
