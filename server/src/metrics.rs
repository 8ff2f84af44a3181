//! `/metrics` in the OpenMetrics text format: gauges are read from the store at each scrape.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::store::StoreError;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::Server;

pub(crate) async fn render(State(server): State<Server>) -> Response {
    match text(&server).await {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn text(server: &Server) -> Result<String, StoreError> {
    let load = server.store.load().await?;
    let mut registry = Registry::with_prefix("headworks");
    let counters = [
        ("commits", "Transactions that this process has committed", server.store.commits()),
        (
            "attempts_lost",
            "Attempts given up because their worker was gone",
            server.counters.lost.load(Ordering::Relaxed),
        ),
        ("reconciler_repairs", "Runs that the reconciler had to move", server.counters.repairs.load(Ordering::Relaxed)),
    ];
    let counters = counters.into_iter().chain([
        ("runs_fired", "Runs that came due and were made", server.counters.fired.load(Ordering::Relaxed)),
        ("runs_started", "Queued runs that were started", server.counters.started.load(Ordering::Relaxed)),
    ]);
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    let gauges = [
        ("sessions", "Sessions in force", load.sessions),
        ("sessions_expired", "Sessions whose lease has ended and that are not reaped yet", load.expired),
        ("tasks_ready", "Task instances that wait for a slot", load.ready),
        ("tasks_running", "Attempts under way", load.running),
        ("tasks_in_retry_wait", "Task instances that wait for a retry", load.retry_wait),
        ("runs_open", "Runs that have not ended", load.open_runs),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }
    let mut text = String::new();
    // Writing to a String does not fail.
    encode(&mut text, &registry).ok();
    Ok(text)
}
