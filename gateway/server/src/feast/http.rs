//! Feast's HTTP endpoints: bodies, statuses and errors as its Python server gives them.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Request, State};
use axum::handler::Handler;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{BoxError, Router};
use tracing::Instrument;
use weir_feast::{
    Frame, JsonValue, OnlineRequest, Raised, check_frame, encodable_values, field, flag, object, parse, string,
    unprocessable, values,
};

use super::Feast;
use super::serve::{self, Ask, Unanswered};
use super::write::{self, Through, To};
use crate::gate::Arrived;
use crate::gateway::Gateway;
use crate::http::{Broken, whole};
use crate::pipeline::Arrival;
use crate::{refuse, telemetry};

/// The path that everybody asks all the time.
pub(crate) const ONLINE: &str = "/get-online-features";
/// Says how much of an answer was not read from the store for it, by provenance; absent when everything was.
const PROVENANCE: HeaderName = HeaderName::from_static("x-weir-provenance");

type App = State<Served>;

/// What the routes need.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) feast: Arc<Feast>,
}

const PUSH: &str = "/push";
const WRITE: &str = "/write-to-online-store";
const SEARCH: &str = "/search";
const OLD_SEARCH: &str = "/retrieve-online-documents";
/// What has a body and asks for no features.
pub(crate) const OTHERS: [&str; 4] = [PUSH, WRITE, SEARCH, OLD_SEARCH];
const HEALTH: &str = "/health";
const VECTOR_STORES: &str = "/v1/vector_stores";
/// What may be asked with one slash too many: Feast sends such callers to the right place.
const PATHS: [&str; 7] = [ONLINE, PUSH, WRITE, SEARCH, OLD_SEARCH, HEALTH, VECTOR_STORES];

/// Feast's endpoints.
pub(crate) fn routes(served: Served) -> Router {
    Router::new()
        .route(ONLINE, post(online))
        .route(PUSH, post(push))
        .route(WRITE, post(write_to_online_store))
        .route(SEARCH, post(search))
        .route(OLD_SEARCH, post(search))
        .route(HEALTH, only_get(|| async { StatusCode::OK.into_response() }))
        .route(VECTOR_STORES, only_get(|| async { json(StatusCode::OK, r#"{"object":"list","data":[]}"#) }))
        .route("/v1/vector_stores/{id}", only_get(no_vector_store))
        .route("/v1/vector_stores/{id}/search", post(no_vector_store))
        .method_not_allowed_fallback(|| async { not_allowed() })
        .with_state(served)
}

/// `get` alone would answer HEAD too, which Feast's server does not.
fn only_get<H, T>(handler: H) -> MethodRouter<Served>
where
    H: Handler<T, Served>,
    T: 'static,
{
    let only = || async { ([(header::ALLOW, "GET")], not_allowed()) };
    get(handler).head(only).fallback(only)
}

fn not_allowed() -> Response {
    json(StatusCode::METHOD_NOT_ALLOWED, r#"{"detail":"Method Not Allowed"}"#)
}

/// Redis keeps no vectors that could be searched.
async fn no_vector_store(Path(id): Path<String>) -> Response {
    let message = format!("No vector store found with id '{id}'");
    let error = serde_json::json!({ "error": { "message": message, "type": "not_found_error" } });
    json(StatusCode::NOT_FOUND, error.to_string())
}

impl Served {
    /// Answers a path that leads nowhere, or almost.
    pub(crate) fn nowhere(uri: &Uri, headers: &HeaderMap) -> Response {
        let path = uri.path().trim_end_matches('/');
        if path == uri.path() || !PATHS.contains(&path) {
            return json(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#);
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| uri.authority().map(Authority::as_str));
        let host = host.map(|host| format!("http://{host}")).unwrap_or_default();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("{host}{path}{query}"))]).into_response()
    }
}

/// `POST /get-online-features`; also called without a router before it.
pub(crate) async fn online<B>(State(Served { gateway, feast }): App, request: Request<B>) -> Response
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send,
{
    let (parts, body) = request.into_parts();
    let arrived = Arrived::of(&parts.extensions);
    let span = telemetry::request_span("feast http", &parts.headers);
    let answered = async {
        let arrival = arrived.with(&parts.headers)?;
        let body = read(&parts.headers, body).await?;
        answer(&gateway, &feast, &body, arrival).await
    };
    match answered.instrument(span).await {
        Ok(response) => response,
        Err(unanswered) => told(&gateway, unanswered),
    }
}

async fn answer(gateway: &Gateway, feast: &Feast, body: &[u8], arrival: Arrival) -> Result<Response, Unanswered> {
    let body = parse(body)?;
    let request = OnlineRequest::read(&body.json)?;
    let ask = Ask {
        features: &request.features,
        service: request.service.as_deref(),
        full_names: request.full_names,
        with_versions: request.with_versions,
        columns: request.entities.len(),
        rows: request.entities.iter().map(|(_, values)| values.len()).max().unwrap_or(0),
    };
    let columns = |lookup: &weir_feast::Lookup| -> Result<Vec<_>, Raised> {
        let columns = request.entities.iter().map(|(name, given)| {
            let values = values(given, lookup.type_of(name))?;
            if body.has_halves {
                encodable_values(&values)?;
            }
            Ok((*name, values))
        });
        columns.collect()
    };
    let (bytes, real) = serve::online(gateway, feast, arrival, &ask, columns, |answer| answer.to_json()).await?;
    let mut response = json(StatusCode::OK, bytes);
    if let Ok(exceptions) = real.exceptions().parse::<axum::http::HeaderValue>()
        && !exceptions.is_empty()
    {
        response.headers_mut().insert(PROVENANCE, exceptions);
    }
    Ok(response)
}

async fn push(State(Served { gateway, feast }): App, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let pushed = async {
        let until = Arrived::of(&parts.extensions).until(&parts.headers, write::PATIENCE)?;
        let body = read(&parts.headers, body).await?;
        let body = parse(&body)?;
        let fields = object(&body.json)?;
        let source = string(required(&fields, "push_source_name")?, "push_source_name")?;
        let df = df_of(&fields)?;
        let to = field(&fields, "to").map_or(Ok("online"), |to| string(to, "to"))?;
        check_frame(df)?;
        let frame = Frame::from_json(df)?;
        let frame = if body.has_halves { frame.with_halves(df) } else { frame };
        write::push(&feast, source, &frame, To::parse(to)?, until).await?;
        Ok(StatusCode::OK.into_response())
    };
    pushed.await.unwrap_or_else(|unanswered| told(&gateway, unanswered))
}

async fn write_to_online_store(State(Served { gateway, feast }): App, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let written = async {
        let until = Arrived::of(&parts.extensions).until(&parts.headers, write::PATIENCE)?;
        let body = read(&parts.headers, body).await?;
        let body = parse(&body)?;
        let fields = object(&body.json)?;
        let view = string(required(&fields, "feature_view_name")?, "feature_view_name")?;
        let df = df_of(&fields)?;
        check_frame(df)?;
        let frame = Frame::from_json(df)?;
        let frame = if body.has_halves { frame.with_halves(df) } else { frame };
        write::write_to(&feast, view, &frame, Through::Http, until).await?;
        Ok(json(StatusCode::OK, "null"))
    };
    written.await.unwrap_or_else(|unanswered| told(&gateway, unanswered))
}

/// The flags of a write are checked though they change nothing here: the registry is always the one read last, and
/// nothing is transformed.
fn df_of<'v, 'j>(fields: &[(&'v str, &'v JsonValue<'j>)]) -> Result<&'v JsonValue<'j>, Raised> {
    for name in ["allow_registry_cache", "transform_on_write"] {
        flag(field(fields, name), name, true)?;
    }
    match required(fields, "df")? {
        df @ JsonValue::Object(_) => Ok(df),
        _ => Err(unprocessable("df: Input should be a valid dictionary")),
    }
}

fn required<'v, 'j>(fields: &[(&'v str, &'v JsonValue<'j>)], name: &str) -> Result<&'v JsonValue<'j>, Raised> {
    field(fields, name).ok_or_else(|| unprocessable(format!("{name}: Field required")))
}

async fn search(State(Served { gateway, feast }): App, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let asked = async {
        let body = read(&parts.headers, body).await?;
        let current = feast.current();
        Ok(weir_feast::search(&current.registry, &parse(&body)?.json, &current.options))
    };
    told(&gateway, asked.await.map_or_else(|unanswered| unanswered, Unanswered::Raised))
}

/// The whole body, if it is JSON by name and not too large.
async fn read<B>(headers: &HeaderMap, body: B) -> Result<Bytes, Unanswered>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>>,
{
    if !is_json(headers) {
        return Err(unprocessable("Input should be a valid dictionary or object to extract fields from").into());
    }
    whole(body).await.map_err(|broken| match broken {
        Broken::Refused(refusal) => Unanswered::Refused(refusal),
        Broken::Off(why) => unprocessable(why).into(),
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let of = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = of.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// What a caller hears instead of an answer.
fn told(gateway: &Gateway, unanswered: Unanswered) -> Response {
    match unanswered {
        Unanswered::Raised(raised) => {
            let status = StatusCode::from_u16(raised.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(header::CONTENT_TYPE, raised.content_type())], raised.body()).into_response()
        }
        Unanswered::Refused(refusal) => {
            gateway.metrics.refused(&refusal);
            refuse::http(&refusal)
        }
    }
}
