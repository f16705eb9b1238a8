//! The daemon: from the first check to the last message to systemd.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::geteuid,
};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{debug, error, info, warn};

use crate::{
    api::{self, MetricsServer, server::RuntimeDir},
    cli::args::DaemonArgs,
    config::ConfigFile,
    docker,
    engine::{Engine, Settings},
    task::Task,
};

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: DaemonArgs) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        bail!(
            "maclane daemon must run as root: it makes interfaces and loads programs into the kernel; use sudo or the systemd service"
        );
    }
    let DaemonArgs {
        config,
        state_dir,
        runtime_dir,
        bpffs,
        lease_grace,
        docker,
        docker_socket,
        metrics,
        tc,
    } = args;
    let lease_grace = Duration::from_secs(lease_grace.into());
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut stop = std::pin::pin!(async {
        tokio::select! {
            _ = term.recv() => info!("stopping on SIGTERM"),
            _ = int.recv() => info!("stopping on SIGINT"),
        }
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    });
    // From here on a hang-up does not end the process.
    let hangups = signal(SignalKind::hangup())?;
    raise_descriptors();

    let runtime = RuntimeDir::claim(&runtime_dir)?;
    tell(&[NotifyState::Status("reconciling links and maps")]);
    let config = ConfigFile::new(config);
    // What is wrong with the file the engine says.
    let at_start = config.read().unwrap_or_default();
    let docker = docker || at_start.docker;
    let metrics = metrics.or(at_start.metrics);
    let start = Engine::start(Settings { state_dir, bpffs, tc, config, lease_grace });
    let engine = tokio::select! {
        engine = start => engine?,
        // Every step may be cut short and done again.
        () = &mut stop => return Ok(()),
    };
    // First: whoever reaches the daemon finds the plugin, too.
    let plugin = docker.then(|| docker::listen(&docker_socket)).transpose()?;
    let metrics = match metrics {
        Some(address) => Some(MetricsServer::at(address).await?),
        None => None,
    };
    let server = runtime.listen()?;
    let sockets = [Some(&server), plugin.as_ref()].into_iter().flatten();
    let places: Vec<String> = sockets
        .map(|server| server.path().display().to_string())
        .chain(metrics.as_ref().map(MetricsServer::url))
        .collect();
    let listening = format!("listening on {}", places.join(" and "));
    info!("maclane {} {listening}", env!("CARGO_PKG_VERSION"));
    tell(&[NotifyState::Ready, NotifyState::Status(&listening)]);
    let _reloads = Task::spawn(reload_on(hangups, engine.clone()));
    let (stopping, stopped) = watch::channel(false);
    let stopped = || {
        let mut stopped = stopped.clone();
        async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    };
    let serve_plugin = async {
        if let Some(plugin) = plugin {
            let ahead = engine.clone();
            let _ahead = Task::spawn(async move { ahead.look_ahead_everywhere().await });
            plugin.serve(docker::router(engine.clone()), stopped()).await;
        }
    };
    let serve_metrics = async {
        if let Some(metrics) = metrics {
            metrics.serve(engine.clone(), stopped()).await;
        }
    };
    let serve = server.serve(api::router(engine.clone()), stopped());
    tokio::join!(serve, serve_plugin, serve_metrics, async {
        stop.await;
        engine.end_streams().await;
        let _ = stopping.send(true);
    });
    engine.end_store().await;
    info!("stopped; traffic goes on");
    Ok(())
}

/// What is pinned is held open as well, which takes a descriptor for each child, and many shells and
/// service managers give 1,024.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        warn!(
            "cannot raise the limit of open files: {}; hundreds of children may be too many",
            e.desc()
        );
    }
}

/// Reads the configuration file again with each hang-up.
async fn reload_on(mut hangups: Signal, engine: Arc<Engine>) {
    while hangups.recv().await.is_some() {
        match engine.reload(false).await {
            Ok(steps) => info!(steps = steps.len(), "SIGHUP: everything is as declared"),
            Err(e) => error!("SIGHUP: {e}"),
        }
    }
}

/// Tells systemd, if it started this process.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        debug!("cannot notify systemd: {e}");
    }
}
