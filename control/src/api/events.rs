//! `/v1/events`: what has happened, at once or as it happens.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::{App, Failure, http::Query};
use crate::{
    error::{Context, Result},
    events::{Event, EventKind, Filter, Follower, Heard},
};

/// After so long without an event a stream gets an empty line: a follower who has gone is found out
/// by what cannot be written to it.
const QUIET: Duration = Duration::from_secs(15);

/// Which events are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only of this parent, whether it is still there or not.
    parent: Option<String>,
    /// Only of these kinds, with commas between them.
    kind: Option<String>,
    /// Only those with a higher number than this. A stream begins with those that are kept if it is
    /// there, else with the next event.
    since: Option<u64>,
}

impl Wanted {
    fn filter(self) -> Result<Filter> {
        let Self { parent, kind, since } = self;
        let kinds = kind.iter().flat_map(|kinds| kinds.split(',')).map(EventKind::named);
        let kinds = kinds.collect::<Result<_>>().doing(|| "cannot understand the kind".into())?;
        Ok(Filter { parent, kinds, since })
    }
}

/// The last events that are kept, the oldest first.
#[utoipa::path(get, path = "/v1/events", params(Wanted), responses((status = OK, body = Vec<Event>), Failure))]
pub(super) async fn events(
    State(engine): App,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<Event>>> {
    let kept = engine.events().kept(&wanted.filter()?);
    Ok(Json(kept.into_iter().map(Arc::unwrap_or_clone).collect()))
}

/// Events as they happen, as JSON, one on each line, until the daemon stops. Whoever reads too slowly
/// gets a line `{"missed": N}` in place of N events. Empty lines only say that the daemon is there.
#[utoipa::path(get, path = "/v1/events/stream", params(Wanted), responses((status = OK, body = Event, content_type = "application/x-ndjson"), Failure))]
pub(super) async fn stream(State(engine): App, Query(wanted): Query<Wanted>) -> Result<Response> {
    let follower = engine.events().follow(wanted.filter()?)?;
    let lines = futures::stream::unfold(follower, |mut follower| async move {
        let line = next_line(&mut follower).await?;
        Some((Ok::<_, Infallible>(line), follower))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn next_line(follower: &mut Follower) -> Option<Bytes> {
    let Ok(heard) = timeout(QUIET, follower.next()).await else { return Some("\n".into()) };
    let line = match heard? {
        Heard::Event(event) => serde_json::to_string(&*event).unwrap_or_default(),
        Heard::Missed(missed) => serde_json::json!({ "missed": missed }).to_string(),
    };
    Some((line + "\n").into())
}

/// Takes lines out of what comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    rest: Vec<u8>,
    lines: VecDeque<String>,
}

impl Splitter {
    /// The next line that is complete and not empty.
    pub(super) fn next(&mut self) -> Option<String> {
        self.lines.pop_front()
    }

    /// Adds what has come in.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.rest.extend(piece);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            self.lines.extend(Some(line).filter(|line| !line.is_empty()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_words_with_commas_between_them() {
        let kinds = |text: &str| {
            let wanted = Wanted { parent: None, kind: Some(text.into()), since: None };
            wanted.filter().map(|filter| filter.kinds)
        };
        let both = vec![EventKind::PortUp, EventKind::Storm];
        assert_eq!(kinds("port_up,storm").unwrap(), both);
        for wrong in ["", "port_up,", "port-up"] {
            let error = kinds(wrong).unwrap_err().message;
            assert!(error.contains("cannot understand the kind: there is no kind"), "{error}");
        }
    }

    #[test]
    fn lines_come_out_whole() {
        let mut lines = Splitter::default();
        for piece in ["{\"a\"", ":1}\n\n{", "}\n{\"b\"", ":2}\n"] {
            lines.push(piece.as_bytes());
        }
        let all: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
        assert_eq!(all, ["{\"a\":1}", "{}", "{\"b\":2}"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_says_that_it_is_there() {
        let events = crate::events::Events::new();
        let mut follower = events.follow(Filter::default()).unwrap();
        assert_eq!(next_line(&mut follower).await.unwrap(), "\n");
        events.note(Event::new(EventKind::Storm, "eth0", "too much"));
        let line = next_line(&mut follower).await.unwrap();
        let event: Event = serde_json::from_slice(&line).unwrap();
        assert_eq!((event.kind, line.last()), (EventKind::Storm, Some(&b'\n')));
        events.end();
        assert_eq!(next_line(&mut follower).await, None);
    }
}
