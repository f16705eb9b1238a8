//! Errors, as a user sees them: what was being done, to what, why it failed, what to do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A result of the daemon.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it was; the command line turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorKind {
    /// What was asked for makes no sense, whatever the state.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// What was asked for stands against what is there.
    Conflict,
    /// It should have worked and did not.
    Failed,
    /// No daemon answers.
    NoDaemon,
}

/// A failure with everything that a user needs to act on it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    /// What sort of failure.
    pub(crate) kind: ErrorKind,
    /// Operation, object, cause and way out, in one sentence.
    pub(crate) message: String,
    /// What the kernel said, if it was the kernel: a way out can depend on it.
    pub(crate) errno: Option<nix::errno::Errno>,
}

impl Error {
    /// An error of any kind.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }

    /// The same failure, with a way out behind it, if the kernel said `errno`.
    #[must_use]
    pub(crate) fn way_out(self, errno: nix::errno::Errno, way: &str) -> Self {
        if self.errno != Some(errno) {
            return self;
        }
        Self { message: format!("{}; {way}", self.message), ..self }
    }

    /// What was asked for makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// What was named does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// What was asked for stands against what is there.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// It should have worked and did not.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// The same failure, with what was being done before it: `cannot create child "web": …`.
    #[must_use]
    pub(crate) fn context(self, doing: impl std::fmt::Display) -> Self {
        Self { message: format!("{doing}: {}", self.message), ..self }
    }
}

/// Puts what was being done before an error.
pub(crate) trait Context<T> {
    /// `cannot create child "web": …`; an error of another type becomes `Failed`.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.into().context(doing()))
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let errno = e.raw_os_error().map(nix::errno::Errno::from_raw);
        // "File exists", without Rust's "(os error 17)".
        let message = errno.map_or_else(|| e.to_string(), |errno| errno.desc().to_owned());
        Self { errno, ..Self::failed(message) }
    }
}

impl From<nix::Error> for Error {
    fn from(e: nix::Error) -> Self {
        Self { errno: Some(e), ..Self::failed(e.desc()) }
    }
}

/// An error on the wire of the API.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    pub(crate) error: ErrorDetail,
}

/// The fields of an error on the wire of the API.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// What sort of failure.
    pub(crate) kind: ErrorKind,
    /// Operation, object, cause and way out, in one sentence.
    pub(crate) message: String,
}
