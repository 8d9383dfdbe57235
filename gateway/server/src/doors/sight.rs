//! What is refused at the sight of its headers, before a byte of its body is read or room is made for it.

use axum::body::HttpBody;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use tonic::Code;
use weir_domain::{Refusal, Violation};

use crate::http::{BODY_BYTES_MAX, too_large};
use crate::metrics::Metrics;
use crate::refuse;

/// What gRPC puts before a message: whether it is compressed, and its length.
const GRPC_PREFIX_BYTES: u64 = 5;
const GRPC: &[u8] = b"application/grpc";

/// Whether a request wants to be answered in gRPC.
pub(crate) fn is_grpc<B>(request: &Request<B>) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(GRPC))
}

/// Refuses a body that announces itself as too large, or in an encoding that nobody here undoes: inflated it could be
/// of any size. gRPC says in a header of its own how its messages are compressed, and tonic reads that.
pub(super) fn refused<B: HttpBody>(request: &Request<B>, metrics: &Metrics) -> Option<Response> {
    if request.body().size_hint().lower() > BODY_BYTES_MAX as u64 {
        return announced(request, metrics);
    }
    let encoding = request.headers().get(header::CONTENT_ENCODING)?;
    if encoding.as_bytes().eq_ignore_ascii_case(b"identity") || is_grpc(request) {
        return None;
    }
    let violation = Violation::new("content-encoding", "bodies are taken as they are: send it without an encoding");
    let refusal = Refusal::Invalid(vec![violation]);
    metrics.refused(&refusal);
    let mut response = refuse::http_as(StatusCode::UNSUPPORTED_MEDIA_TYPE, &refusal);
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Some(response)
}

fn announced<B: HttpBody>(request: &Request<B>, metrics: &Metrics) -> Option<Response> {
    let refusal = too_large();
    let response = if !is_grpc(request) {
        refuse::http(&refusal)
    } else if request.body().size_hint().lower() > BODY_BYTES_MAX as u64 + GRPC_PREFIX_BYTES {
        // What tonic says to a message that turns out to be too large.
        refuse::grpc_as(Code::OutOfRange, &refusal).into_http()
    } else {
        return None;
    };
    metrics.refused(&refusal);
    Some(response)
}
