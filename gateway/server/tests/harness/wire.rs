//! Callers who speak in their own way: any headers, any bytes, any pace.
#![allow(dead_code, unreachable_pub, reason = "every test uses another part of it")]

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, Request};

use crate::harness::PATIENCE;

pub const GET_FEATURES: &str = "/weir.v1.FeatureService/GetFeatures";

/// An HTTP/2 connection.
#[derive(Clone)]
pub struct Caller(SendRequest<Bytes>);

/// A whole response, trailers among the headers.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Caller {
    pub async fn to(address: SocketAddr) -> Self {
        Self::with(address, &client::Builder::new()).await
    }

    pub async fn with(address: SocketAddr, builder: &client::Builder) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        let (send, connection) = builder.handshake(stream).await.expect("a handshake");
        // Ends with its last request.
        tokio::spawn(connection);
        Self(send)
    }

    /// Whether it may ask for more: not once the gateway has said goodbye.
    pub async fn is_open(&self) -> bool {
        self.0.clone().ready().await.is_ok()
    }

    /// A POST whose headers are sent and whose body is the test's.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.0.clone().ready().await.expect("room for a stream");
        send.send_request(request.body(()).expect("a request"), false).expect("send the headers")
    }

    /// A whole POST.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let (response, mut stream) = self.open(path, headers).await;
        // Who is refused already is not listened to any more.
        let _ = stream.send_data(body.into(), true);
        read(response).await.expect("a response")
    }

    /// A whole gRPC call with these bytes for its message.
    pub async fn call(&self, headers: &[(&str, &str)], message: &[u8]) -> Reply {
        self.post(GET_FEATURES, &[GRPC, headers].concat(), framed(message)).await
    }
}

/// What makes a POST a gRPC call.
pub const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

/// A gRPC message with its prefix.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

pub async fn read(response: ResponseFuture) -> Result<Reply, h2::Error> {
    let (parts, mut body) = response.await?.into_parts();
    let mut reply = Reply { status: parts.status.as_u16(), headers: parts.headers, body: Vec::new() };
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                body.flow_control().release_capacity(data.len()).expect("it was received");
                reply.body.extend_from_slice(&data);
            }
            // "I have answered: keep the rest of your request."
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => return Ok(reply),
            Err(error) => return Err(error),
        }
    }
    if let Some(trailers) = body.trailers().await? {
        reply.headers.extend(trailers);
    }
    Ok(reply)
}

impl Reply {
    /// What gRPC says about it.
    pub fn grpc(&self) -> tonic::Status {
        assert_eq!(self.status, 200, "{self:?}");
        tonic::Status::from_header_map(&self.headers).unwrap_or_else(|| panic!("no gRPC status: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The message of a good gRPC reply.
    pub fn message<T: prost::Message + Default>(&self) -> T {
        assert_eq!(self.grpc().code(), tonic::Code::Ok, "{self:?}");
        T::decode(&self.body[5..]).expect("a message")
    }
}

/// Sends bytes over a connection of their own and nothing after them; whatever comes back until the gateway closes.
pub async fn send(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.expect("connect");
    // It may close while we still send.
    let _ = stream.write_all(bytes).await;
    let mut reply = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await;
    assert!(closed.is_ok(), "still open after {PATIENCE:?}: {:?}", String::from_utf8_lossy(bytes));
    reply
}

/// A field of a protobuf message that has a length.
pub fn field(number: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut bytes = Vec::with_capacity(content.len() + 10);
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// What every HTTP/2 connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_HEADERS: u8 = 4;

/// POST http / in the words of HPACK's static table.
pub const POST: &[u8] = &[0x83, 0x86, 0x84];

/// An HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Kind, stream and payload of each whole frame.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, &[u8])> {
    let mut frames = Vec::new();
    while let Some((&[a, b, c, kind, _, d, e, f, g], rest)) = bytes.split_first_chunk::<9>() {
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        if rest.len() < len {
            break;
        }
        frames.push((kind, u32::from_be_bytes([d, e, f, g]), &rest[..len]));
        bytes = &rest[len..];
    }
    frames
}
