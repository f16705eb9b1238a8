//! `maclane top`.

use clap::Args;

use crate::{check, cli::values::text};

/// What to watch, and how often.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Only this parent
    #[arg(long, value_name = "IFACE", value_parser = text(check::iface))]
    pub(crate) parent: Option<String>,
    /// How often to look
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=30))]
    pub(crate) interval: u8,
}
