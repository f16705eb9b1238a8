//! maclane: containers, VMs and network namespaces with their own place on the LAN.
//!
//! All of the binary `maclane`: a library, so that the fuzz targets can reach what takes input.

mod announce;
mod api;
mod backup;
mod check;
mod cli;
mod clock;
mod config;
mod daemon;
mod dataplane;
mod docker;
mod engine;
mod error;
mod ethtool;
mod events;
mod failpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod ipv6;
mod kernel;
mod log;
mod metrics;
mod model;
mod neighbour;
mod netlink;
mod netns;
mod plan;
mod probe;
mod process;
mod store;
mod subnet;
mod task;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::filter::LevelFilter;

use cli::{
    args::{Cli, Command},
    output::Output,
};

/// Netlink and the API wait far more than they compute.
const DAEMON_THREADS: usize = 2;

/// Runs the daemon or a command of its client, as the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let done = if let Command::Daemon(args) = command {
        log::start(&global, LevelFilter::INFO);
        let runtime =
            Builder::new_multi_thread().worker_threads(DAEMON_THREADS).enable_all().build();
        // On a worker, which runs a connection and whoever waits for it in turn. On this thread, each
        // answer would have to wake another one, and on a busy machine both wait for a CPU.
        let run = |runtime: Runtime| runtime.block_on(runtime.spawn(daemon::run(args)))?;
        runtime.map_err(Into::into).and_then(run).map(|()| ExitCode::SUCCESS)
    } else {
        log::start(&global, LevelFilter::WARN);
        let runtime = Builder::new_current_thread().enable_all().build();
        let run = cli::run(&global.socket, Output::new(&global), command);
        runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run))
    };
    done.unwrap_or_else(|e| cli::report(&e))
}
