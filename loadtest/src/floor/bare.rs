//! hyper and nothing else: the request is read to its end, nobody looks at it, and the reply is the same bytes for ever.
//! With HTTP/1.1 on request only after Redis has answered, whatever it says.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tonic::codegen::http::{Request, Response};

use super::Door;
use super::fetch::Asked;

/// Serves until killed.
pub(super) async fn serve(
    at: SocketAddr,
    door: Door,
    reply: Vec<u8>,
    first: Option<Asked>,
) -> Result<(), crate::Failed> {
    let listener = TcpListener::bind(at).await?;
    let reply = match door {
        Door::Http1 => Bytes::from(reply),
        Door::Hyper | Door::Tonic => crate::ask::framed(&reply),
    };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (io, reply, first) = (TokioIo::new(stream), reply.clone(), first.clone());
        tokio::spawn(async move {
            // How a connection ends is its client's affair.
            let _ = match door {
                Door::Http1 => {
                    let answer = service_fn(move |request| json(request, first.clone(), reply.clone()));
                    http1::Builder::new().pipeline_flush(true).serve_connection(io, answer).await
                }
                Door::Hyper | Door::Tonic => {
                    let answer = service_fn(move |request| grpc(request, reply.clone()));
                    http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await
                }
            };
        });
    }
}

async fn json(
    request: Request<Incoming>,
    first: Option<Asked>,
    reply: Bytes,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    request.into_body().collect().await?;
    if let Some(first) = first {
        first.answered().await?;
    }
    let mut response = Response::new(Full::new(reply));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

type WithTrailers =
    http_body_util::combinators::WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>;

async fn grpc(request: Request<Incoming>, reply: Bytes) -> Result<Response<WithTrailers>, hyper::Error> {
    request.into_body().collect().await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Full::new(reply).with_trailers(std::future::ready(Some(Ok(trailers)))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
