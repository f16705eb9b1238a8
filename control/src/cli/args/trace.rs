//! `maclane trace`.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use dataplane_common::{DropReason, trace::SNAP_BYTES};

use crate::{
    check,
    cli::values::{station, text, vlan},
    model::{Mac, TraceSpec},
};

/// Which frames to show, and where to.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Only those of this parent
    #[arg(long, value_name = "IFACE", value_parser = text(check::iface))]
    parent: Option<String>,
    /// Only those from or to this child
    #[arg(long, value_name = "NAME")]
    child: Option<String>,
    /// Only those from or to this MAC
    #[arg(long, value_name = "MAC", value_parser = station)]
    mac: Option<Mac>,
    /// Only those in this VLAN; 0 is untagged
    #[arg(long, value_name = "ID", value_parser = vlan)]
    vlan: Option<u16>,
    /// Only those that are dropped for this reason, or would be if the port's policy did more than count
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    reason: Option<String>,
    /// Only those that are dropped, or would be
    #[arg(long)]
    drops: bool,
    /// Write the frames to this file, too, as pcapng, each with its path and verdict as a comment; "-" is
    /// standard output, and nothing else is written there
    #[arg(long, value_name = "FILE|-", conflicts_with = "output")]
    pub(crate) pcap: Option<PathBuf>,
    /// How many bytes of each frame are taken; 128, or all that there can be with --pcap
    #[arg(long, value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(SNAP_BYTES)))]
    snaplen: Option<u16>,
    /// End after so many frames
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// The names of drop reasons.
fn reasons() -> impl clap::builder::TypedValueParser<Value = String> {
    PossibleValuesParser::new(DropReason::ALL.iter().map(|reason| reason.name())).map(|name| name)
}

impl TraceArgs {
    /// What the daemon is asked for.
    pub(crate) fn spec(&self) -> TraceSpec {
        let all = self.pcap.is_some().then_some(u16::try_from(SNAP_BYTES).unwrap_or(u16::MAX));
        TraceSpec {
            parent: self.parent.clone(),
            child: self.child.clone(),
            mac: self.mac,
            vlan: self.vlan,
            reason: self.reason.clone(),
            drops: self.drops,
            snaplen: self.snaplen.or(all),
        }
    }
}
