//! The one table from refusal to gRPC code and HTTP status, with the details each protocol has for it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};
use weir_domain::Refusal;

/// The `domain` of our `google.rpc.ErrorInfo`.
const DOMAIN: &str = "weir";

const fn codes(refusal: &Refusal) -> (Code, &'static str, StatusCode) {
    match refusal {
        Refusal::UnknownService { .. } => (Code::NotFound, "NOT_FOUND", StatusCode::NOT_FOUND),
        Refusal::Invalid(_) => (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::BAD_REQUEST),
        Refusal::TooLarge(_) => (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::PAYLOAD_TOO_LARGE),
        Refusal::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", StatusCode::GATEWAY_TIMEOUT),
        Refusal::Overloaded { .. } => (Code::ResourceExhausted, "RESOURCE_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS),
    }
}

/// The refusal as a gRPC status with ErrorInfo, BadRequest and RetryInfo.
pub(crate) fn grpc(refusal: &Refusal) -> tonic::Status {
    let (code, ..) = codes(refusal);
    let mut details = ErrorDetails::new();
    details.set_error_info(refusal.reason(), DOMAIN, [] as [(String, String); 0]);
    for violation in refusal.violations() {
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    if let Refusal::Overloaded { retry_after } = refusal {
        details.set_retry_info(Some(*retry_after));
    }
    tonic::Status::with_error_details(code, refusal.to_string(), details)
}

/// The refusal as an HTTP response with a JSON body of the same content.
pub(crate) fn http(refusal: &Refusal) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Error<'a>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        code: u16,
        status: &'a str,
        reason: &'a str,
        message: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        violations: Vec<Violation<'a>>,
    }
    #[derive(Serialize)]
    struct Violation<'a> {
        field: &'a str,
        description: &'a str,
    }
    let (_, name, status) = codes(refusal);
    let violations = refusal.violations().iter();
    let violations = violations.map(|v| Violation { field: &v.field, description: &v.description }).collect();
    let message = refusal.to_string();
    let error = Error { code: status.as_u16(), status: name, reason: refusal.reason(), message, violations };
    let mut response = (status, axum::Json(Body { error })).into_response();
    if let Refusal::Overloaded { retry_after } = refusal {
        // Whole seconds are all HTTP has; half a second of patience rounds up to one.
        let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
