//! What the server promises to good, bad and slow clients, with two small routes behind it.

use std::time::Instant;

use axum::routing::{get, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::oneshot,
};

use super::*;
use crate::{
    api::{
        client::Client,
        http::{Name, Spec, harden},
    },
    error::{ErrorBody, ErrorKind},
    model::ParentSpec,
};

/// A server in a directory of its own.
struct Running {
    dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = oneshot::channel();
        let path = dir.path().to_owned();
        let ended = tokio::spawn(async move {
            let runtime = RuntimeDir::claim(&path).unwrap();
            let server = runtime.listen().unwrap();
            ready.send(()).unwrap();
            let slow = async || {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "\"slow\""
            };
            let router = Router::new()
                .route("/v1/parents", post(async |Spec(spec): Spec<ParentSpec>| axum::Json(spec)))
                .route("/v1/echo/{*name}", get(async |Name(name): Name| axum::Json(name)))
                .route("/v1/panic", get(async || -> String { panic!("on purpose") }))
                .route("/v1/slow", get(slow));
            server.serve(harden(router), async { stopped.await.unwrap() }).await;
        });
        listening.await.unwrap();
        Self { dir, stop, ended }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    /// Sends bytes as they are; everything that comes back until the server closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The status and the error of a request.
    async fn refusal(&self, line: &str, body: &str) -> (String, ErrorBody) {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.raw(head.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{line}: {e} in {body}")))
    }
}

#[tokio::test]
async fn every_refusal_has_one_shape() {
    let server = Running::start().await;
    let large = format!("{{\"iface\": \"{}\"}}", "x".repeat(1 << 20));
    let cases = [
        ("GET /v1/nowhere", "", "404", ErrorKind::NotFound),
        ("GET /", "", "404", ErrorKind::NotFound),
        ("PUT /v1/parents", "", "405", ErrorKind::Invalid),
        ("POST /v1/parents", "", "400", ErrorKind::Invalid),
        ("POST /v1/parents", "{", "400", ErrorKind::Invalid),
        ("POST /v1/parents", "\u{0}\u{1}", "400", ErrorKind::Invalid),
        ("POST /v1/parents", "{\"iface\": \"eth0\"} x", "400", ErrorKind::Invalid),
        ("POST /v1/parents", "{\"iface\": \"eth0\", \"colour\": 1}", "400", ErrorKind::Invalid),
        ("POST /v1/parents", "{\"iface\": \"eth0\", \"xdp\": \"fast\"}", "400", ErrorKind::Invalid),
        ("POST /v1/parents", "{\"iface\": \"1234567890123456\"}", "400", ErrorKind::Invalid),
        ("POST /v1/parents", &large, "413", ErrorKind::Invalid),
        ("GET /v1/echo/%ff", "", "400", ErrorKind::Invalid),
        ("GET /v1/panic", "", "500", ErrorKind::Failed),
    ];
    for (line, body, status, kind) in cases {
        let (found, refusal) = server.refusal(line, body).await;
        assert_eq!((found.as_str(), refusal.error.kind), (status, kind), "{line} {body:.40}");
        assert!(!refusal.error.message.is_empty());
    }
}

#[tokio::test]
async fn a_body_needs_no_content_type() {
    let server = Running::start().await;
    let request = "POST /v1/parents HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 17\r\n\r\n{\"iface\": \"eth0\"}";
    assert!(server.raw(request.as_bytes()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_name_may_hold_slashes() {
    let server = Running::start().await;
    for path in ["/v1/echo/eth0/02:00", "/v1/echo/eth0%2F02%3A00"] {
        assert_eq!(server.client().get(path).await.unwrap(), "eth0/02:00");
    }
}

#[tokio::test]
async fn garbage_does_not_hurt_the_next_client() {
    let server = Running::start().await;
    for garbage in [vec![0; 4096], vec![0xff; 1 << 20], b"GET".to_vec(), b"\r\n\r\n\r\n".to_vec()] {
        server.raw(&garbage).await;
    }
    assert_eq!(server.client().get("/v1/echo/on").await.unwrap(), "on");
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_closed() {
    let server = Running::start().await;
    let mut stream = UnixStream::connect(server.socket()).await.unwrap();
    stream.write_all(b"GET /v1/echo/a HTTP/1.1\r\nHost:").await.unwrap();
    let begin = tokio::time::Instant::now();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(begin.elapsed() <= HEAD_TIME + Duration::from_secs(1));
}

#[tokio::test]
async fn stopping_lets_requests_end_and_removes_the_socket() {
    let server = Running::start().await;
    let client = server.client();
    let (socket, begin) = (server.socket(), Instant::now());
    let request = tokio::spawn(async move { client.get("/v1/slow").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.send(()).unwrap();
    server.ended.await.unwrap();
    assert_eq!(request.await.unwrap().unwrap(), "slow");
    assert!(begin.elapsed() < STOP_TIME);
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_another_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    let runtime = RuntimeDir::claim(dir.path()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(runtime.listen().unwrap());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert_eq!(runtime.listen().unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_second_daemon_learns_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let _runtime = RuntimeDir::claim(dir.path()).unwrap();
    let error = RuntimeDir::claim(dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let start = format!("another maclane daemon (pid {}) runs with", std::process::id());
    assert!(error.message.starts_with(&start), "{error}");
}
