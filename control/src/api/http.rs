//! What every request passes: bounds on its size and its time, one shape for every error.

use std::{net::IpAddr, time::Duration};

use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, Request},
    http::{Method, StatusCode, Uri, request::Parts},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use tracing::{debug, error};

use crate::{
    check::Check,
    error::{Error, ErrorBody, ErrorDetail, ErrorKind},
};

/// The largest body that is read: a child with a thousand addresses has less than a tenth of it.
const BODY_MAX: usize = 1 << 20;

/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(10);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Failed | ErrorKind::NoDaemon => StatusCode::INTERNAL_SERVER_ERROR,
        };
        refuse(status, self)
    }
}

fn refuse(status: StatusCode, Error { kind, message, .. }: Error) -> Response {
    (status, Json(ErrorBody { error: ErrorDetail { kind, message } })).into_response()
}

/// A body, whatever its `Content-Type`.
pub(crate) struct Body<const MAX: usize>(pub(crate) Bytes);

impl<S: Send + Sync, const MAX: usize> FromRequest<S> for Body<MAX> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let read = tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), MAX));
        let Ok(read) = read.await else {
            let late = format!("the body was not complete after {} s", BODY_TIME.as_secs());
            return Err(refuse(StatusCode::REQUEST_TIMEOUT, Error::invalid(late)));
        };
        let body = read.map_err(|e| {
            let source = std::error::Error::source(&e);
            if source.is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) {
                let large = format!("the body is larger than {MAX} bytes");
                refuse(StatusCode::PAYLOAD_TOO_LARGE, Error::invalid(large))
            } else {
                Error::invalid(format!("cannot read the body: {e}")).into_response()
            }
        })?;
        Ok(Self(body))
    }
}

/// A specification from a body, parsed and checked.
pub(crate) struct Spec<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Check> FromRequest<S> for Spec<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let Body(body) = Body::<BODY_MAX>::from_request(request, state).await?;
        let spec: T = serde_json::from_slice(&body).map_err(|e| {
            Error::invalid(format!("cannot understand the body: {e}; see /v1/openapi.json"))
                .into_response()
        })?;
        spec.check().map_err(IntoResponse::into_response)?;
        Ok(Self(spec))
    }
}

/// The one parameter of a path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Path(name) = Path::from_request_parts(parts, state)
            .await
            .map_err(|e| Error::invalid(format!("cannot understand the path: {e}")))?;
        Ok(Self(name))
    }
}

/// The two parameters of a path that ends with an address.
pub(super) struct NameAndIp(pub(super) String, pub(super) IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for NameAndIp {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Path((name, ip)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|e| Error::invalid(format!("cannot understand the path: {e}")))?;
        let ip = ip.parse().map_err(|_| {
            Error::invalid(format!(
                "cannot understand the path: \"{}\" is not an address; write 192.168.50.1 or fd00:50::1",
                ip.escape_debug()
            ))
        })?;
        Ok(Self(name, ip))
    }
}

/// The parameters after a path.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let AxumQuery(parameters) = AxumQuery::from_request_parts(parts, state)
            .await
            .map_err(|e| Error::invalid(format!("cannot understand the parameters: {e}")))?;
        Ok(Self(parameters))
    }
}

/// Gives unknown paths and methods the shape of other errors, and lets every request run to its
/// end.
pub(crate) fn harden(router: Router) -> Router {
    router
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let message = format!("{} does not take {method}; see /v1/openapi.json", uri.path());
            refuse(StatusCode::METHOD_NOT_ALLOWED, Error::invalid(message))
        })
        .fallback(async |uri: Uri| {
            Error::not_found(format!("there is no {}; see /v1/openapi.json", uri.path()))
        })
        .layer(from_fn(async |request: Request, next: Next| {
            let bug = || Error::failed(BUG).into_response();
            detach(request, next, bug).await
        }))
}

/// What is answered where a handler panics.
const BUG: &str = "the daemon has a bug here; its log says more";

/// A client that goes away does not stop what it began, and a panic is an answer.
pub(crate) async fn detach(
    request: Request,
    next: Next,
    bug: impl FnOnce() -> Response,
) -> Response {
    let name = format!("{} {}", request.method(), request.uri());
    let task = tokio::spawn(next.run(request));
    let response = task.await.unwrap_or_else(|e| {
        error!("{name}: {e}");
        bug()
    });
    debug!("{name}: {}", response.status());
    response
}
