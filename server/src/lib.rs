//! The HTTP side of `headworks serve`: whether it lives, whether it is ready, what it counts.
//!
//! The only crate that will have wire types; the API and the pages come later. Called by the CLI.

mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use engine::scheduler::Counters;
use engine::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the handlers share.
#[derive(Clone)]
pub struct Server {
    /// The state store.
    pub store: Arc<Store>,
    /// What the scheduler's chores have done.
    pub counters: Arc<Counters>,
    /// Fires when this process takes no more work.
    pub drain: CancellationToken,
}

/// Opens the socket; `port 0` takes a free one.
///
/// # Errors
/// The address is taken, or not this machine's.
pub async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves until `stop` fires.
///
/// # Errors
/// The socket failed.
pub async fn serve(listener: TcpListener, server: Server, stop: CancellationToken) -> std::io::Result<()> {
    let stopped = async move { stop.cancelled().await };
    axum::serve(listener, router(server)).with_graceful_shutdown(stopped).await
}

fn router(server: Server) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::render))
        .with_state(server)
}

/// Ready: the store answers, and this process takes work.
async fn ready(State(server): State<Server>) -> impl IntoResponse {
    if server.drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    match server.store.sessions().await {
        Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}
