//! The other end of the API.

use std::{
    io::ErrorKind as Io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{events::Splitter, server::GROUP};
use crate::{
    error::{Error, ErrorBody, ErrorKind, Result},
    task::Task,
};

/// What stays as it is in a part of a path (RFC 3986, "unreserved").
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as one segment of a path or one value of a parameter.
pub(crate) fn quote(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// Speaks to the daemon behind a socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at `socket`; connects when it is asked something.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// What is at `path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// What is at `path`, line by line, as long as the daemon goes on.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?))
            .await
            .map_err(|e| self.broke_off(&e))?;
        let connection = Task::spawn(async move {
            // What goes wrong ends the body, too.
            let _ = connection.await;
        });
        let request = request(Method::GET, path, Bytes::new())?;
        let response = sender.send_request(request).await.map_err(|e| self.broke_off(&e))?;
        let (status, body) = (response.status(), response.into_body());
        if !status.is_success() {
            let bytes = body.collect().await.map_err(|e| self.broke_off(&e))?.to_bytes();
            return Err(self.refused(&bytes));
        }
        Ok(Lines { body, splitter: Splitter::default(), _connection: connection })
    }

    /// Asks for something new below `path`; what became of it.
    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.send(Method::POST, path, json(body)?).await
    }

    /// The same with a body that is JSON already, or empty.
    pub(crate) async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Result<Value> {
        self.send(Method::POST, path, body.into()).await
    }

    /// Puts something at `path`; what became of it.
    pub(crate) async fn put(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.send(Method::PUT, path, json(body)?).await
    }

    /// Changes what is at `path`; what became of it.
    pub(crate) async fn patch(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.send(Method::PATCH, path, json(body)?).await
    }

    /// Removes what is at `path`.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.send(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Value> {
        let stream = self.connect().await?;
        let request = request(method, path, body)?;
        let (status, bytes) = exchange(stream, request).await.map_err(|e| self.broke_off(&e))?;
        if status.is_success() {
            let body = if bytes.is_empty() { b"null".as_slice() } else { &bytes };
            return serde_json::from_slice(body).map_err(|e| self.stranger(&e));
        }
        Err(self.refused(&bytes))
    }

    async fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket).await.map_err(|e| self.no_daemon(&e))
    }

    fn refused(&self, bytes: &[u8]) -> Error {
        match serde_json::from_slice::<ErrorBody>(bytes) {
            Ok(body) => Error::new(body.error.kind, body.error.message),
            Err(e) => self.stranger(&e),
        }
    }

    fn broke_off(&self, cause: &hyper::Error) -> Error {
        Error::failed(format!(
            "the daemon at {} broke off: {cause}; its log says why",
            self.socket.display()
        ))
    }

    fn no_daemon(&self, cause: &std::io::Error) -> Error {
        let socket = self.socket.display();
        let start = "start it with \"maclane daemon\", or name its socket with --socket";
        let message = match cause.kind() {
            Io::NotFound => format!("no maclane daemon: there is no socket {socket}; {start}"),
            Io::ConnectionRefused => {
                format!("no maclane daemon: nobody listens on {socket}; {start}")
            }
            Io::PermissionDenied => format!(
                "cannot reach the maclane daemon: no permission to use {socket}; run as root or as a member of group {GROUP} (\"usermod -aG {GROUP} USER\", then log in again)"
            ),
            _ => format!("cannot reach the maclane daemon at {socket}: {cause}; {start}"),
        };
        Error::new(ErrorKind::NoDaemon, message)
    }

    fn stranger(&self, cause: &serde_json::Error) -> Error {
        Error::failed(format!(
            "what answers on {} is not a maclane daemon: {cause}; name the right socket with --socket",
            self.socket.display()
        ))
    }
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "maclane")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| Error::invalid(format!("cannot ask for {path}: {e}")))
}

/// An answer that goes on.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    splitter: Splitter,
    _connection: Task,
}

impl Lines {
    /// Waits for the next line; `None` when the daemon has ended.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.splitter.next() {
                return Some(line);
            }
            if let Ok(piece) = self.body.frame().await?.ok()?.into_data() {
                self.splitter.push(&piece);
            }
        }
    }
}

fn json(body: &impl Serialize) -> Result<Bytes> {
    let bytes = serde_json::to_vec(body)
        .map_err(|e| Error::failed(format!("cannot write the request as JSON: {e}")))?;
    Ok(bytes.into())
}

/// Sends one request on a connection of its own; the status and the body of the answer.
pub(crate) async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> hyper::Result<(hyper::StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    // The connection moves the bytes; it ends after the answer does, or with an error that the
    // answer has too.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_paths() {
        assert_eq!(quote("eth0.50"), "eth0.50");
        assert_eq!(quote("eth0/02:00"), "eth0%2F02%3A00");
        assert_eq!(quote("a b?c#d%"), "a%20b%3Fc%23d%25");
    }

    #[tokio::test]
    async fn no_daemon_says_which_socket_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, stale) = (dir.path().join("a.sock"), dir.path().join("b.sock"));
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        for (socket, why) in [(missing, "there is no socket"), (stale, "nobody listens")] {
            let error = Client::new(&socket).get("/v1/version").await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::NoDaemon);
            assert!(error.message.contains(why), "{error}");
            assert!(error.message.contains(&socket.display().to_string()), "{error}");
        }
    }
}
