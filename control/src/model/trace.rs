//! What is asked for, and shown, of single frames.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Mac;

/// Which frames are told. What is left out is not looked at.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TraceSpec {
    /// Only those of this parent.
    pub(crate) parent: Option<String>,
    /// Only those from or to this child.
    pub(crate) child: Option<String>,
    /// Only those from or to this MAC.
    #[param(value_type = Option<String>)]
    pub(crate) mac: Option<Mac>,
    /// Only those in this VLAN; 0 is untagged.
    pub(crate) vlan: Option<u16>,
    /// Only those that are dropped for this reason, or would be.
    pub(crate) reason: Option<String>,
    /// Only those that are dropped, or would be.
    #[serde(default)]
    pub(crate) drops: bool,
    /// How many bytes of each frame are told, at most 2048; 128 if it is left out.
    pub(crate) snaplen: Option<u16>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    /// The kernel has it, as it would without maclane.
    Pass,
    /// To one port.
    Deliver,
    /// To every other member of its VLAN.
    Flood,
    /// To nobody.
    Drop,
    /// It would have been dropped if its port's policy did more than count.
    Log,
    /// maclane has answered it on behalf of a child.
    Answer,
}

/// A frame, and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TraceView {
    /// When, in UTC with nanoseconds (RFC 3339).
    pub(crate) time: String,
    /// The parent.
    pub(crate) parent: String,
    /// The port that sent it: `wire`, `host`, or a child.
    pub(crate) from: String,
    /// The VLAN that it is in; 0 is untagged.
    pub(crate) vlan: u16,
    /// Its source.
    #[schema(value_type = String)]
    pub(crate) source: Mac,
    /// Its destination, as it came.
    #[schema(value_type = String)]
    pub(crate) destination: Mac,
    /// Bytes that it has, with its tag.
    pub(crate) length: u32,
    /// What became of it.
    pub(crate) verdict: Fate,
    /// The ports that get it, at most sixteen of them.
    pub(crate) to: Vec<String>,
    /// How many ports get it.
    pub(crate) copies: usize,
    /// Why it is dropped.
    pub(crate) reason: Option<String>,
    /// The way that it took: the port, programs (`xdp`, `ingress`, `egress`, `port`, `guard`), what was done
    /// with it (`hairpin`, `redirect`, `flood`), and where it ended.
    pub(crate) path: Vec<String>,
    /// Its first bytes, with its tag, in base64.
    pub(crate) frame: String,
}
