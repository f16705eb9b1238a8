//! Docker's plugins: the network driver and the IPAM driver `maclane`.
//!
//! The protocol is that of Docker's `libnetwork` (`docs/remote.md`, `docs/ipam.md`, and what its client
//! does): POST of JSON to `/DRIVER.Method`, without a content type and, where there is nothing to say,
//! without a body. An answer is 200 with JSON; a refusal has the text in `Err`, or, for IPAM, in
//! `Error`. The client waits for as long as it takes, and dockerd with it: so every answer comes within
//! a bound, and what is done later than that is undone.

mod driver;
mod ipam;
mod message;
mod options;

use std::{fs, os::unix::net::UnixStream, path::Path, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{FromRequest, Request},
    http::{StatusCode, Uri},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    api::{
        Body, detach,
        server::{Caller, Server, Users},
    },
    engine::Engine,
    error::{Context as _, Error, ErrorKind, Result},
    failpoint,
};

/// Where dockerd looks for the socket of the plugin `maclane`.
pub(crate) const SOCKET: &str = "/run/docker/plugins/maclane.sock";

/// The largest body that is read; dockerd's are below a hundredth of it.
const BODY_MAX: usize = 1 << 20;

/// How long a call may take.
const BOUND: Duration = Duration::from_secs(30);

/// What is answered where a handler panics.
const BUG: &str = "maclane has a bug here; its log says more";

/// What a handler has at hand.
type Context = (Extension<Arc<Engine>>, Extension<Caller>);

/// Listens where Docker looks for the plugin.
pub(crate) fn listen(path: &Path) -> Result<Server<'static>> {
    let doing = || "cannot be Docker's plugin".to_owned();
    if UnixStream::connect(path).is_ok() {
        return Err(Error::conflict(format!(
            "another process is it, on {}; stop that one, or give this one another --docker-socket",
            path.display()
        )))
        .doing(doing);
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)
            .doing(|| format!("cannot make the folder {}", dir.display()))
            .doing(doing)?;
    }
    Server::at(path, Users::Root).doing(doing)
}

/// The plugin over an engine.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    let router = Router::new()
        .route("/Plugin.Activate", post(activate))
        .merge(driver::routes())
        .merge(ipam::routes())
        .method_not_allowed_fallback(async |uri: Uri| {
            let message = format!("{} is to be called by POST", uri.path());
            refusal(StatusCode::METHOD_NOT_ALLOWED, &message)
        })
        .fallback(async |uri: Uri| {
            refusal(StatusCode::NOT_FOUND, &format!("maclane has no method {}", uri.path()))
        });
    let detach = from_fn(async |request: Request, next: Next| {
        let bug = || refusal(StatusCode::INTERNAL_SERVER_ERROR, BUG);
        detach(request, next, bug).await
    });
    router.layer(detach).layer(Extension(engine))
}

async fn activate() -> Reply<impl Serialize> {
    Reply(Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })))
}

/// What a method has done.
struct Reply<T>(Result<T>);

/// An answer without anything to say.
#[derive(Debug, Serialize)]
struct Done {}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(answer) => Json(answer).into_response(),
            Err(e) => {
                // 404 would say that there is no such method.
                let status = match e.kind {
                    ErrorKind::Invalid => StatusCode::BAD_REQUEST,
                    ErrorKind::NotFound | ErrorKind::Conflict => StatusCode::CONFLICT,
                    ErrorKind::Failed | ErrorKind::NoDaemon => StatusCode::INTERNAL_SERVER_ERROR,
                };
                tracing::warn!("Docker is told: {}", e.message);
                refusal(status, &e.message)
            }
        }
    }
}

fn refusal(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "Err": message, "Error": message }))).into_response()
}

/// The arguments of a method.
struct Call<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Call<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let path = request.uri().path().to_owned();
        let Body(body) =
            Body::<BODY_MAX>::from_request(request, state).await.map_err(|refused| {
                refusal(refused.status(), &format!("cannot read the body of {path}"))
            })?;
        let body = if body.is_empty() { b"{}".as_slice() } else { &body };
        // A list would be taken for the fields in their order.
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        let read = match serde_json::from_slice(body) {
            Ok(_) if !is_object => Err("it is no object".to_owned()),
            Ok(call) => Ok(Self(call)),
            Err(e) => Err(e.to_string()),
        };
        read.map_err(|e| {
            refusal(StatusCode::BAD_REQUEST, &format!("cannot understand the body of {path}: {e}"))
        })
    }
}

/// Waits for what is done for a call, but not for longer than the bound: what is done after that is
/// undone.
async fn within_bound<T, U>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    undo: impl FnOnce(T) -> U + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    U: Future<Output = Result<()>> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(Ok(unheard)) = sender.send(work.await)
            && let Err(e) = undo(unheard).await
        {
            tracing::error!("cannot undo what Docker did not wait for: {e}");
        }
    });
    match timeout(failpoint::patience(BOUND), receiver).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Error::failed(BUG)),
        Err(_) => Err(Error::failed(format!(
            "maclane has not done it within {} s, and gives up; its log says what it waits for",
            BOUND.as_secs()
        ))),
    }
}

/// For what need not be undone, as it may be done again.
async fn nothing_to_undo<T>(_: T) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_done_too_late_is_undone() {
        let undone = Arc::new(AtomicU32::new(0));
        let heard = undone.clone();
        let undo = move |what: u32| async move {
            heard.store(what, Ordering::Relaxed);
            Ok(())
        };
        let work = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(7)
        };
        assert_eq!(within_bound(work(29), undo.clone()).await.unwrap(), 7);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(undone.load(Ordering::Relaxed), 0, "it was heard");
        let late = within_bound(work(31), undo).await.unwrap_err();
        assert!(late.message.contains("30 s"), "{late}");
        assert_eq!(undone.load(Ordering::Relaxed), 0, "it is not done yet");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(undone.load(Ordering::Relaxed), 7);
    }
}
