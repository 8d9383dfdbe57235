//! Feast's HTTP endpoints: bodies, statuses and errors as its Python server gives them.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tracing::Instrument;
use weir_domain::{Refusal, Violation};
use weir_feast::{OnlineRequest, Raised, parse, unprocessable, values};

use super::Feast;
use super::serve::{self, Ask, Unanswered};
use crate::gateway::Gateway;
use crate::http::BODY_BYTES_MAX;
use crate::pipeline::Arrival;
use crate::timeout::ArrivedAt;
use crate::{refuse, telemetry, timeout};

/// The path that everybody asks all the time.
pub(crate) const ONLINE: &str = "/get-online-features";
/// Says how much of an answer was not read from the store for it, by provenance; absent when everything was.
const PROVENANCE: HeaderName = HeaderName::from_static("x-weir-provenance");

type App = State<(Arc<Gateway>, Arc<Feast>)>;

/// Everything but [`ONLINE`].
pub(crate) fn routes(gateway: Arc<Gateway>, feast: Arc<Feast>) -> Router {
    Router::new()
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/search", post(search))
        .route("/retrieve-online-documents", post(search))
        .with_state((gateway, feast))
}

/// `POST /get-online-features`, without a router before it.
pub(crate) async fn online(gateway: &Gateway, feast: &Feast, request: hyper::Request<Incoming>) -> Response {
    let (parts, body) = request.into_parts();
    let at = parts.extensions.get::<ArrivedAt>().map_or_else(tokio::time::Instant::now, |arrived| arrived.0);
    let span = telemetry::request_span("feast http", &parts.headers);
    let answered = async {
        let timeout = timeout::read(&parts.headers)?;
        let body = read(&parts.headers, body).await?;
        answer(gateway, feast, &body, Arrival { at, timeout }).await
    };
    match answered.instrument(span).await {
        Ok(response) => response,
        Err(unanswered) => told(gateway, unanswered),
    }
}

async fn answer(gateway: &Gateway, feast: &Feast, body: &[u8], arrival: Arrival) -> Result<Response, Unanswered> {
    let body = parse(body)?;
    let request = OnlineRequest::read(&body)?;
    let ask = Ask {
        features: &request.features,
        service: request.service.as_deref(),
        full_names: request.full_names,
        with_versions: request.with_versions,
    };
    let columns = |lookup: &weir_feast::Lookup| -> Result<Vec<_>, Raised> {
        request.entities.iter().map(|(name, given)| Ok((*name, values(given, lookup.type_of(name))?))).collect()
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

/// The whole body, if it is JSON by name and not too large.
async fn read(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Unanswered> {
    if !is_json(headers) {
        return Err(unprocessable("Input should be a valid dictionary or object to extract fields from").into());
    }
    let announced = hyper::body::Body::size_hint(&body).lower();
    let too_large = || {
        let text = format!("more than the {BODY_BYTES_MAX} bytes of one request");
        Unanswered::Refused(Refusal::TooLarge(Violation::new("body", text)))
    };
    if announced > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(error) => Err(unprocessable(error.to_string()).into()),
    }
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
            json(StatusCode::from_u16(raised.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), raised.body())
        }
        Unanswered::Refused(refusal) => {
            gateway.metrics.refused(&refusal);
            refuse::http(&refusal)
        }
    }
}

/// Redis keeps no vectors to search among.
async fn search(State((gateway, _)): App) -> Response {
    told(&gateway, Unanswered::Raised(Raised::value("there is no search")))
}
