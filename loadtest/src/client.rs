//! A gRPC client that does as little as it can: whatever it spends on a reply is missing from the load it makes.
//! It reads every reply to its end and its `grpc-status`, and leaves the message's bytes as they are.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, Request, Uri};

/// Window of a stream and of a connection: the client never makes the server wait.
const WINDOW_BYTES: u32 = 1 << 30;
const GET_FEATURES: &str = "/weir.v1.FeatureService/GetFeatures";

/// One HTTP/2 connection. Clones are streams of the same one.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    uri: Uri,
}

/// A reply that is not an answer.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused with {}", self.0)
    }
}

impl std::error::Error for Refused {}

impl Connection {
    /// Connects. Must be called within a tokio runtime, whose task then drives the connection.
    pub(crate) async fn open(to: SocketAddr) -> Result<Self, crate::Failed> {
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
        Ok(Self { send, uri })
    }

    /// Calls GetFeatures with a framed message; hands the pieces of the framed reply to `take`.
    pub(crate) async fn call(&mut self, frame: Bytes, mut take: impl FnMut(Bytes)) -> Result<(), crate::Failed> {
        let request = Request::post(self.uri.clone()).header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(())?;
        std::future::poll_fn(|context| self.send.poll_ready(context)).await?;
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
        code => Err(Refused(format!("grpc-status {code}: {}", text("grpc-message"))).into()),
    }
}
