//! The one table from refusal to gRPC code and HTTP status, with the details each protocol has for it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};
use weir_domain::{Refusal, Violation};

/// The `domain` of our `google.rpc.ErrorInfo`.
const DOMAIN: &str = "weir";

/// gRPC's own library takes no more than 8 KiB of headers for sure, and says that they were too many instead of what
/// went wrong. Message and details, which are base64, share them.
const MESSAGE_BYTES_MAX: usize = 2 << 10;
const VIOLATIONS_BYTES_MAX: usize = 3 << 10;

const fn codes(refusal: &Refusal) -> (Code, &'static str, StatusCode) {
    match refusal {
        Refusal::UnknownService { .. } => (Code::NotFound, "NOT_FOUND", StatusCode::NOT_FOUND),
        Refusal::Invalid(_) => (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::BAD_REQUEST),
        Refusal::TooLarge(_) => (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::PAYLOAD_TOO_LARGE),
        Refusal::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", StatusCode::GATEWAY_TIMEOUT),
        Refusal::SlowBody { .. } => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", StatusCode::REQUEST_TIMEOUT),
        Refusal::Overloaded { .. } => (Code::ResourceExhausted, "RESOURCE_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS),
    }
}

/// The refusal as a gRPC status with ErrorInfo, BadRequest and RetryInfo.
pub(crate) fn grpc(refusal: &Refusal) -> tonic::Status {
    grpc_as(codes(refusal).0, refusal)
}

/// The same with another code, where the protocol has a word of its own for it.
pub(crate) fn grpc_as(code: Code, refusal: &Refusal) -> tonic::Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(refusal.reason(), DOMAIN, [] as [(String, String); 0]);
    let mut room = VIOLATIONS_BYTES_MAX;
    for Violation { field, description } in refusal.violations() {
        let Some(left) = room.checked_sub(field.len() + description.len()) else { break };
        room = left;
        details.add_bad_request_violation(field, description);
    }
    if let Refusal::Overloaded { retry_after } = refusal {
        details.set_retry_info(Some(*retry_after));
    }
    tonic::Status::with_error_details(code, cut(refusal.to_string(), MESSAGE_BYTES_MAX), details)
}

/// The beginning of a status message, as much as a header of so many bytes may hold.
pub(crate) fn cut(mut message: String, bytes_max: usize) -> String {
    // What is neither letter nor digit may be sent as `%xx`, byte by byte.
    let sent = |c: char| if c.is_ascii_alphanumeric() { 1 } else { 3 * c.len_utf8() };
    let mut total = 0;
    let mut fits = |(_, c): &(usize, char)| {
        total += sent(*c);
        total <= bytes_max
    };
    if let Some((end, _)) = message.char_indices().find(|at| !fits(at)) {
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// The refusal as an HTTP response with a JSON body of the same content.
pub(crate) fn http(refusal: &Refusal) -> Response {
    http_as(codes(refusal).2, refusal)
}

/// The same with another status, where the protocol has a word of its own for it.
pub(crate) fn http_as(status: StatusCode, refusal: &Refusal) -> Response {
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
        violations: Vec<Wrong<'a>>,
    }
    #[derive(Serialize)]
    struct Wrong<'a> {
        field: &'a str,
        description: &'a str,
    }
    let (_, name, _) = codes(refusal);
    let violations = refusal.violations().iter();
    let violations = violations.map(|v| Wrong { field: &v.field, description: &v.description }).collect();
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
