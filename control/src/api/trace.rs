//! `/v1/trace`: frames as they pass.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{App, Failure, http::Query};
use crate::{
    engine::Trace,
    error::Result,
    model::{TraceSpec, TraceView},
};

/// After so long without a frame a stream gets an empty line: whoever has gone is found out by what cannot be
/// written to it, and until then the programs tell of frames that nobody looks at.
const QUIET: Duration = Duration::from_secs(1);

/// Frames as they pass, with what becomes of each, as JSON, one on each line. Where they come too fast, a line
/// `{"missed": N}` stands for N of them. Empty lines only say that the daemon is there. Programs that tell
/// of frames are in the kernel as long as somebody listens.
#[utoipa::path(get, path = "/v1/trace", params(TraceSpec), responses((status = OK, body = TraceView, content_type = "application/x-ndjson"), Failure))]
pub(super) async fn trace(State(engine): App, Query(spec): Query<TraceSpec>) -> Result<Response> {
    let trace = engine.trace(spec).await?;
    let lines = futures::stream::unfold(trace, |mut trace| async move {
        let line = next_line(&mut trace).await?;
        Some((Ok::<_, Infallible>(line), trace))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn next_line(trace: &mut Trace) -> Option<Bytes> {
    let missed = trace.missed();
    if missed != 0 {
        return Some((serde_json::json!({ "missed": missed }).to_string() + "\n").into());
    }
    let Ok(frame) = timeout(QUIET, trace.next()).await else { return Some("\n".into()) };
    Some((serde_json::to_string(&frame?).unwrap_or_default() + "\n").into())
}
