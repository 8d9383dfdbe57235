//! The operators' door, on a port of its own: liveness, readiness, metrics and reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use crate::metrics;
use crate::reload::Reloader;

/// What the admin door shows and does.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) reloader: Arc<Reloader>,
    /// Cleared when the gateway begins to leave.
    pub(crate) ready: Arc<AtomicBool>,
}

/// Routes for operators.
pub(crate) fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/reload", post(reload))
        .with_state(admin)
}

/// Ready from the first snapshot until it begins to leave. A store that is down does not count: answers are
/// stale or defaults then, and taking every gateway out of rotation would turn that into none.
async fn ready(State(admin): State<Admin>) -> Response {
    if admin.ready.load(Ordering::Relaxed) {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "leaving\n").into_response()
    }
}

async fn scrape(State(admin): State<Admin>) -> Response {
    let text = metrics::scrape(admin.reloader.gateway());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

async fn reload(State(admin): State<Admin>) -> Response {
    match admin.reloader.reload().await {
        Ok(version) => axum::Json(json!({ "catalog_version": version })).into_response(),
        Err(mistakes) => {
            let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(json!({ "mistakes": lines }))).into_response()
        }
    }
}
