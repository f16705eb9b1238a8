//! The runtime directory: who may use it, and the socket in it.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use nix::{errno::Errno, unistd::Group};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream},
};
use tracing::{debug, info, warn};

use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
    process::ProcessId,
};

/// The socket in the runtime directory.
pub(crate) const SOCKET: &str = "maclane.sock";

/// The group whose members may talk to the daemon.
pub(crate) const GROUP: &str = "maclane";

const LOCK: &str = "maclane.lock";

/// How long a client may take to send the head of a request, or be idle between two.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How long requests may take to end when the daemon stops.
const STOP_TIME: Duration = Duration::from_secs(5);

/// How long to wait when no more connections can be accepted (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A runtime directory that no other daemon uses.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    path: PathBuf,
    _lock: File,
}

impl RuntimeDir {
    /// Makes the directory if it is not there, and locks it until the process ends.
    pub(crate) fn claim(path: &Path) -> Result<Self> {
        let doing = || format!("cannot use runtime directory {}", path.display());
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o755).create(path).doing(doing)?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(path.join(LOCK)).doing(doing)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Err(Error::from(e).context(doing())),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                return Err(Error::conflict(format!(
                    "another maclane daemon (pid {}) runs with runtime directory {}; stop it or give this one another --runtime-dir",
                    pid.trim(),
                    path.display()
                )));
            }
        }
        lock.set_len(0).doing(doing)?;
        writeln!(lock, "{}", std::process::id()).doing(doing)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Listens on the socket. It appears under its name with its final mode and owner, in place of
    /// one that a killed daemon left.
    pub(crate) fn listen(&self) -> Result<Server<'_>> {
        let server = Server::at(&self.path.join(SOCKET), Users::Group)?;
        failpoint!("runtime.listening");
        Ok(Server { _dir: Some(self), ..server })
    }
}

/// Who may connect, beside root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Users {
    /// Nobody.
    Root,
    /// The group [`GROUP`], if there is one.
    Group,
}

impl Server<'static> {
    /// Listens on a socket that nobody else listens on. It appears under its name with its final mode
    /// and owner, in place of one that a killed daemon left.
    pub(crate) fn at(path: &Path, users: Users) -> Result<Self> {
        let doing = || format!("cannot listen on {}", path.display());
        let begun = path.with_extension("sock.new");
        for place in [path, &begun] {
            match fs::symlink_metadata(place) {
                Ok(found) if !found.file_type().is_socket() => {
                    let error = Error::conflict(format!(
                        "{} is there and not a socket; move it away",
                        place.display()
                    ));
                    return Err(error.context(doing()));
                }
                _ => {}
            }
        }
        let listener = open_socket(&begun, users).doing(doing)?;
        fs::rename(&begun, path).doing(doing)?;
        Ok(Self { listener, path: path.to_owned(), _dir: None })
    }
}

fn open_socket(path: &Path, users: Users) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    failpoint!("runtime.bound");
    // Nobody can connect before `listen`.
    let mode = if users == Users::Root { 0o600 } else { 0o660 };
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    if users == Users::Group {
        let group = match Group::from_name(GROUP) {
            // A system without /etc/group has no groups.
            Err(Errno::ENOENT) => None,
            group => group?,
        };
        if let Some(group) = group {
            chown(path, None, Some(group.gid.as_raw()))?;
        } else {
            info!("there is no group \"{GROUP}\": the socket serves root alone");
        }
    }
    Ok(socket.listen(128)?)
}

/// The listening socket, in a directory that is held.
#[derive(Debug)]
pub(crate) struct Server<'dir> {
    listener: UnixListener,
    path: PathBuf,
    _dir: Option<&'dir RuntimeDir>,
}

/// The process at the other end of a connection; absent where it cannot be seen from here.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Option<ProcessId>);

impl Caller {
    fn of(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
        Self(pid.and_then(|pid| ProcessId::of(pid.try_into().ok()?)))
    }
}

impl Server<'_> {
    /// Where clients connect.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers requests until `stop` is ready, then lets those under way end, and removes the
    /// socket.
    pub(crate) async fn serve(self, router: Router, stop: impl Future<Output = ()>) {
        let connections = answer(&self.listener, router, stop).await;
        drop(self.listener);
        if let Err(e) = fs::remove_file(&self.path) {
            warn!("cannot remove {}: {e}", self.path.display());
        }
        finish(connections).await;
    }
}

/// Where connections come from.
pub(super) trait Door: Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Caller)>> + Send;
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Caller)> {
        let (stream, _) = self.accept().await?;
        let caller = Caller::of(&stream);
        Ok((stream, caller))
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Caller)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, Caller(None)))
    }
}

/// Answers requests until `stop` is ready; returns the connections that are still there.
pub(super) async fn answer(
    door: &impl Door,
    router: Router,
    stop: impl Future<Output = ()>,
) -> GracefulShutdown {
    let mut stop = pin!(stop);
    let connections = GracefulShutdown::new();
    loop {
        let (stream, caller) = tokio::select! {
            () = &mut stop => return connections,
            next = door.next() => match next {
                Ok(next) => next,
                Err(e) => {
                    warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let router = router.clone().layer(Extension(caller));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            // A client that has said all it has to say still wants its answer.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                debug!("a connection ended early: {e}");
            }
        });
    }
}

/// Lets the requests that are under way end.
pub(super) async fn finish(connections: GracefulShutdown) {
    if tokio::time::timeout(STOP_TIME, connections.shutdown()).await.is_err() {
        warn!("stopped with requests under way");
    }
}

#[cfg(test)]
mod tests;
