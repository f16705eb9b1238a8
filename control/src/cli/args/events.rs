//! `maclane events`.

use clap::Args;

use crate::{check, cli::values::text, events::EventKind};

/// Which events to show, and how.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens, until Ctrl-C
    ///
    /// The exit status is 4 if the daemon ends before that.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only those of this parent, whether it is still there or not
    #[arg(long, value_name = "IFACE", value_parser = text(check::iface))]
    pub(crate) parent: Option<String>,
    /// Only those of this kind; may be repeated
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub(crate) kind: Vec<EventKind>,
}
