//! A unary gRPC call whose message came in one piece, as nearly all do, without a codec in between: the request is
//! read where it arrived and the reply is sent from where it was encoded. tonic's codec would copy both. Whatever is
//! not as simple as that goes to tonic, put together again as it came.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};

use crate::doors::Prompt;

/// Before each message: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// A call as it came.
pub(crate) enum Call {
    /// With its one message.
    Whole(Request<()>, Bytes),
    /// For tonic.
    Other(Request<Body>),
}

impl Call {
    /// Reads on until it is known which. What is too large is known by its prefix, before the rest is read.
    pub(crate) async fn of(request: Request<Prompt>) -> Self {
        let (head, mut body) = request.into_parts();
        let is_plain = head.headers.get(GRPC_ENCODING).is_none_or(|encoding| encoding == "identity");
        let mut message = None;
        let odd = loop {
            let Some(frame) = body.frame().await else { break None };
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) if message.is_none() && is_plain && is_whole(&data) => message = Some(data),
                Ok(Ok(data)) if data.is_empty() => {}
                Ok(Ok(data)) => break Some(Ok(data)),
                // What trails a request is nothing to us.
                Ok(Err(_)) => {}
                Err(error) => break Some(Err(error)),
            }
        };
        match (message, odd) {
            (Some(message), None) => Self::Whole(Request::from_parts(head, ()), message.slice(PREFIX_BYTES..)),
            (message, odd) => {
                let begun = message.map(Ok).into_iter().chain(odd).collect();
                Self::Other(Request::from_parts(head, Body::new(Again { begun, rest: body })))
            }
        }
    }
}

/// One message that is not compressed and of the length it says.
fn is_whole(data: &[u8]) -> bool {
    match data.split_first_chunk::<PREFIX_BYTES>() {
        Some(([0, length @ ..], message)) => u32::from_be_bytes(*length) as usize == message.len(),
        _ => false,
    }
}

/// The prefix of a message of this length.
pub(crate) fn prefix(length: usize) -> [u8; PREFIX_BYTES] {
    // Replies are bounded by the items of a request, far below 4 GiB.
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [0, a, b, c, d]
}

/// The reply to a call that went well: a message with its prefix.
pub(crate) fn reply(message: Bytes) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    let mut response = Response::new(Body::new(Reply { message: Some(message), trailers: Some(trailers) }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

struct Reply {
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let message = self.message.take().map(Frame::data);
        Poll::Ready(message.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }
}

/// A body of which something was read already.
struct Again {
    begun: VecDeque<Result<Bytes, BoxError>>,
    rest: Prompt,
}

impl HttpBody for Again {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.begun.pop_front() {
            Some(begun) => Poll::Ready(Some(begun.map(Frame::data))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}
