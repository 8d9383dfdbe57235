//! A gRPC client that does as little as it can: whatever it spends on a reply is missing from the load it makes.
//! It reads every reply to its end and its `grpc-status`, and leaves the message's bytes as they are.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use tokio::net::TcpStream;
use tonic::codegen::http::header::{HeaderValue, TE};
use tonic::codegen::http::{HeaderMap, Method, Request, Uri, header::CONTENT_TYPE};

/// Window of a stream and of a connection: the client never makes the server wait.
const WINDOW_BYTES: u32 = 1 << 30;
const GET_FEATURES: &str = "/weir.v1.FeatureService/GetFeatures";

/// One HTTP/2 connection. Clones are streams of the same one.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    uri: Uri,
    headers: HeaderMap,
}

/// A reply that is not an answer.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The number in `grpc-status`; -1 when there was none.
    pub(crate) code: i32,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused with grpc-status {}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refused {}

impl Connection {
    /// Connects. Must be called within a tokio runtime, whose task then drives the connection.
    pub(crate) async fn open(to: SocketAddr) -> Result<Self, crate::Failed> {
        Self::open_with_timeout(to, None).await
    }

    /// Connects; every call says that its caller waits this long.
    pub(crate) async fn open_with_timeout(to: SocketAddr, timeout: Option<Duration>) -> Result<Self, crate::Failed> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES).enable_push(false);
        let (send, connection) = builder.handshake(stream).await?;
        // Ends with the last clone; what breaks it also breaks the calls on it, and they say so.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let uri = Uri::builder().scheme("http").authority(to.to_string()).path_and_query(GET_FEATURES).build()?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = timeout {
            headers.insert("grpc-timeout", format!("{}m", timeout.as_millis()).try_into()?);
        }
        Ok(Self { send, uri, headers })
    }

    /// Waits until the server takes another stream; fails when it will take none on this connection.
    pub(crate) async fn ready(&mut self) -> Result<(), h2::Error> {
        std::future::poll_fn(|context| self.send.poll_ready(context)).await
    }

    /// Calls GetFeatures with a framed message; hands the pieces of the framed reply to `take`.
    pub(crate) async fn call(&mut self, frame: Bytes, mut take: impl FnMut(Bytes)) -> Result<(), crate::Failed> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        self.ready().await?;
        let (response, mut body) = self.send.send_request(request, false)?;
        body.send_data(frame, true)?;
        let (head, mut body) = response.await?.into_parts();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            take(chunk);
        }
        let trailers = trailers(&mut body).await?;
        // A refusal may come as headers alone.
        accepted(trailers.as_ref().unwrap_or(&head.headers))
    }
}

async fn trailers(body: &mut RecvStream) -> Result<Option<HeaderMap>, h2::Error> {
    match body.trailers().await {
        // An answer that is complete although the server had no use for the rest of the request.
        Err(error) if error.reason() == Some(Reason::NO_ERROR) => Ok(None),
        other => other,
    }
}

fn accepted(headers: &HeaderMap) -> Result<(), crate::Failed> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("nothing");
    match text("grpc-status") {
        "0" => Ok(()),
        code => Err(Refused { code: code.parse().unwrap_or(-1), message: text("grpc-message").to_owned() }.into()),
    }
}
