//! `/metrics`: on the socket of the API, and where else somebody wants it.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use super::{
    App, Failure,
    http::harden,
    server::{answer, finish},
};
use crate::{
    engine::Engine,
    error::{Context, Error, Result},
    metrics::{self, Address},
};

/// Metrics, as Prometheus reads them (text format 0.0.4).
#[utoipa::path(get, path = "/metrics", responses((status = OK, body = String, content_type = "text/plain"), Failure))]
pub(super) async fn metrics(State(engine): App) -> Result<Response> {
    let text = engine.scrape().await?.text()?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Metrics at a loopback address, and nothing else there.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl MetricsServer {
    /// Listens.
    pub(crate) async fn at(Address(address): Address) -> Result<Self> {
        let bound = TcpListener::bind(address).await;
        let listener = bound
            .map_err(|e| {
                let error = Error::from(e);
                Error { message: format!("{}; name another one", error.message), ..error }
            })
            .doing(|| format!("cannot listen on {address} for --metrics"))?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Where Prometheus finds it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Answers requests until `stop` is ready, then lets those under way end.
    pub(crate) async fn serve(self, engine: Arc<Engine>, stop: impl Future<Output = ()>) {
        let router = Router::new().route("/metrics", get(metrics)).with_state(engine);
        let connections = answer(&self.listener, harden(router), stop).await;
        drop(self.listener);
        finish(connections).await;
    }
}
