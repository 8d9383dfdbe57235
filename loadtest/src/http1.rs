//! `POST /v1/features` over HTTP/1.1: one request at a time on a connection, which is kept for the next.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::http::header::{CONTENT_TYPE, HOST};
use tonic::codegen::http::{Request, StatusCode};

/// One connection.
pub(crate) struct Connection {
    send: SendRequest<Full<Bytes>>,
    host: String,
    timeout_ms: Option<String>,
}

impl Connection {
    /// Connects. Must be called within a tokio runtime, whose task then drives the connection.
    pub(crate) async fn open(to: SocketAddr, timeout: Option<Duration>) -> Result<Self, crate::Failed> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; what breaks it also breaks the call on it, which says so.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { send, host: to.to_string(), timeout_ms: timeout.map(|t| t.as_millis().to_string()) })
    }

    /// Sends a body and reads the reply to its end.
    pub(crate) async fn call(&mut self, body: Bytes) -> Result<(StatusCode, Bytes), crate::Failed> {
        let mut request =
            Request::post("/v1/features").header(HOST, &self.host).header(CONTENT_TYPE, "application/json");
        if let Some(timeout_ms) = &self.timeout_ms {
            request = request.header("x-request-timeout-ms", timeout_ms);
        }
        self.send(request.body(Full::new(body))?).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), crate::Failed> {
        self.send.ready().await?;
        let reply = self.send.send_request(request).await?;
        let status = reply.status();
        Ok((status, reply.into_body().collect().await?.to_bytes()))
    }
}

/// One page, on a connection of its own.
pub(crate) async fn get(from: SocketAddr, path: &str) -> Result<Bytes, crate::Failed> {
    let mut connection = Connection::open(from, None).await?;
    let request = Request::get(path).header(HOST, &connection.host).body(Full::default())?;
    match connection.send(request).await? {
        (StatusCode::OK, page) => Ok(page),
        (status, _) => Err(format!("http://{from}{path}: {status}").into()),
    }
}
