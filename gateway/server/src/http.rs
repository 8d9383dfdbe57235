//! The HTTP door: JSON on the same port as gRPC, over HTTP/1.1 and HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{BoxError, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value as Json, json};
use tracing::Instrument;
use weir_domain::catalog::{Feature, RequestFeature, Scope, Service};
use weir_domain::experiment::assign;
use weir_domain::{Refusal, Violation};

use crate::doors;
use crate::gate::{ASSIGN, Arrived, FEATURES};
use crate::gateway::Gateway;
use crate::json::{self, value_to_json};
use crate::pipeline;
use crate::{refuse, telemetry};

/// Largest request body. 10,000 items of 300-byte keys fit; nobody's id list is longer.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;

/// Arms without a deadline of the caller's own have this long. They are a few hashes, and it is the machine that takes it.
pub(crate) const ASSIGN_PATIENCE: Duration = Duration::from_secs(5);

type App = State<Arc<Gateway>>;

/// Routes of the JSON API; anything else falls through to what is merged with them.
pub(crate) fn routes(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/", get(front))
        .route(FEATURES, post(features))
        .route(ASSIGN, post(assign_unit))
        .route("/v1/services", get(services))
        .route("/v1/services/{name}", get(service))
        .with_state(gateway)
}

/// `POST /v1/features`; also called without a router before it.
pub(crate) async fn features<B>(State(gateway): App, request: Request<B>) -> Response
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send,
{
    let (parts, body) = request.into_parts();
    let arrived = Arrived::of(&parts.extensions);
    let span = telemetry::request_span("http", &parts.headers);
    let answered = async {
        let arrival = arrived.with(&parts.headers)?;
        let request = json::decode(&read(body).await?)?;
        pipeline::run(&gateway, request, arrival, json::encode).await
    };
    match answered.instrument(span).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(refusal) => refused(&gateway, &refusal),
    }
}

async fn assign_unit(State(gateway): App, request: Request<axum::body::Body>) -> Response {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        unit: String,
        #[serde(default)]
        attributes: Map<String, Json>,
        service: Option<String>,
    }
    let (parts, body) = request.into_parts();
    let assigned = async {
        Arrived::of(&parts.extensions).until(&parts.headers, ASSIGN_PATIENCE)?;
        let invalid = |field: &str, what: String| Refusal::Invalid(vec![Violation::new(field, what)]);
        let body = read(body).await?;
        let body: Body = json::fields(&body)?;
        if body.unit.is_empty() {
            return Err(invalid("unit", "is empty: experiments split by it".to_owned()));
        }
        let snapshot = gateway.snapshot();
        let attributes = json::attributes(body.attributes)?;
        let mut assignment = assign(&snapshot.catalog.experiments, Some(&body.unit), &attributes);
        if let Some(service) = body.service {
            let plans = snapshot.plans.service(&service);
            plans.ok_or(Refusal::UnknownService { service })?.choose(&mut assignment);
        }
        let holdouts: Vec<&str> = assignment.holdouts.iter().map(|h| &**h).collect();
        Ok(json!({
            "unit": body.unit,
            "assignments": serde_json::to_value(json::Assignments(&assignment)).unwrap_or(Json::Null),
            "holdouts": holdouts,
            "catalog_version": &*snapshot.catalog.version,
        }))
    };
    match assigned.await {
        Ok(reply) => axum::Json(reply).into_response(),
        Err(refusal) => refused(&gateway, &refusal),
    }
}

async fn front() -> axum::Json<Json> {
    axum::Json(json!({
        "weir": env!("CARGO_PKG_VERSION"),
        "try": { "services": "GET /v1/services", "features": "POST /v1/features", "assign": "POST /v1/assign" },
        "grpc": ["weir.v1.FeatureService", "weir.v1.ExperimentService"],
    }))
}

/// Answers a path that leads nowhere.
pub(crate) fn nothing_at(path: &str) -> Response {
    let path: String = path.chars().take(64).collect();
    let message = format!("there is nothing at {path:?}; GET / says what there is");
    let error = json!({ "code": 404, "status": "NOT_FOUND", "reason": "UNKNOWN_PATH", "message": message });
    (StatusCode::NOT_FOUND, axum::Json(json!({ "error": error }))).into_response()
}

async fn services(State(gateway): App) -> axum::Json<Json> {
    let snapshot = gateway.snapshot();
    let names: Vec<_> = snapshot
        .catalog
        .services
        .iter()
        .map(|s| json!({ "name": &*s.doc.name, "description": s.doc.description, "owner": s.doc.owner }))
        .collect();
    axum::Json(json!({ "catalog_version": &*snapshot.catalog.version, "services": names }))
}

async fn service(State(gateway): App, Path(name): Path<String>) -> Response {
    let snapshot = gateway.snapshot();
    let service = snapshot.catalog.services.iter().find(|s| *s.doc.name == *name);
    match (service, snapshot.plans.service(&name)) {
        (Some(service), Some(plans)) => axum::Json(describe(service, plans.base())).into_response(),
        _ => refused(&gateway, &Refusal::UnknownService { service: name.chars().take(64).collect() }),
    }
}

/// Everything a caller needs to know to ask a service: keys, request features, outputs with their defaults.
fn describe(service: &Service, plan: &weir_domain::plan::Plan) -> Json {
    let keys = |scope: Scope| -> Json {
        let of = plan.keys.iter().filter(|k| k.scope == scope);
        of.map(|k| json!({ "name": &*k.key.name, "type": k.key.kind.name() })).collect()
    };
    let request = |r: &RequestFeature| {
        let Feature { name, of, default, description } = &r.feature;
        json!({
            "name": &**name,
            "type": of.to_string(),
            "scope": if r.scope == Scope::Context { "context" } else { "item" },
            "default": default.as_ref().map(value_to_json),
            "description": description,
        })
    };
    let output = |o: &weir_domain::plan::Output| json!({ "name": &*o.name, "type": o.of.to_string(), "default": o.default.as_ref().map(value_to_json) });
    json!({
        "name": &*service.doc.name,
        "owner": service.doc.owner,
        "description": service.doc.description,
        "budget_ms": service.budget.as_millis() as u64,
        "context": keys(Scope::Context),
        "items": keys(Scope::Item),
        "request_features": service.request.iter().map(request).collect::<Vec<_>>(),
        "features": plan.outputs.iter().map(output).collect::<Vec<_>>(),
    })
}

async fn read<B>(body: B) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>>,
{
    whole(body).await.map_err(|broken| match broken {
        Broken::Refused(refusal) => refusal,
        Broken::Off(why) => Refusal::Invalid(vec![Violation::new("body", why)]),
    })
}

/// Why a body is not there.
pub(crate) enum Broken {
    /// It is more than [`BODY_BYTES_MAX`], or did not come in time.
    Refused(Refusal),
    /// It broke off.
    Off(String),
}

/// All of a body. One that comes in one piece is not copied.
pub(crate) async fn whole<B>(body: B) -> Result<Bytes, Broken>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>>,
{
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Broken::Refused(too_large())),
        Err(error) => Err(match doors::refusal(&*error) {
            Some(refusal) => Broken::Refused(refusal.clone()),
            None => Broken::Off(error.to_string()),
        }),
    }
}

/// A body of more than [`BODY_BYTES_MAX`].
pub(crate) fn too_large() -> Refusal {
    Refusal::TooLarge(Violation::new("body", format!("more than the {BODY_BYTES_MAX} bytes of one request")))
}

fn refused(gateway: &Gateway, refusal: &Refusal) -> Response {
    gateway.metrics.refused(refusal);
    refuse::http(refusal)
}
