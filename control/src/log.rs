//! The log: standard error, in the manner of whoever reads it.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::cli::args::Global;

/// Begins to log what is at least as important as `usual`, or what `MACLANE_LOG`, `-v` and `-q`
/// say.
pub(crate) fn start(global: &Global, usual: LevelFilter) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => usual,
        (false, 1) => usual.max(LevelFilter::DEBUG),
        (false, _) => LevelFilter::TRACE,
    };
    let mut filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var("MACLANE_LOG")
        .from_env_lossy();
    // aya tells how it relocates each instruction: that is for `-vv`.
    if level < LevelFilter::TRACE {
        for library in ["aya", "aya_obj"] {
            let quiet = format!("{library}=info").parse();
            filter = quiet.into_iter().fold(filter, EnvFilter::add_directive);
        }
    }
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(terminal)
        .with_target(false);
    // The journal has its own clock.
    if !terminal && std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}
