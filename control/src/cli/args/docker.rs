//! `maclane docker`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with Docker.
#[derive(Debug, Subcommand)]
pub(crate) enum DockerCommand {
    /// Tell Docker where the plugin is
    ///
    /// Docker finds the plugin without that while the daemon runs. With it, a Docker that starts
    /// before the daemon waits for it, for up to 30 s. Nothing has to be restarted.
    #[command(after_help = "Example:\n  maclane docker install")]
    Install(Spec),
    /// Take that back
    Uninstall(Spec),
    /// Say whether Docker finds the plugin, and what it has here
    ///
    /// The exit status is 1 if the plugin does not answer.
    Status(Spec),
}

/// Where Docker looks, and what it finds there.
#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Where Docker looks for the specifications of plugins
    #[arg(long, value_name = "DIR", default_value = "/etc/docker/plugins")]
    pub(crate) plugins_dir: PathBuf,
    /// The socket of the plugin, as the daemon has it
    #[arg(long, value_name = "PATH", default_value = crate::docker::SOCKET)]
    pub(crate) docker_socket: PathBuf,
}
