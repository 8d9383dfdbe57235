//! The floors: servers that answer every request with the same reply and do as little as possible before: what a gateway
//! cannot beat by much. They stand on the runtime and the allocator that `weir` uses.

mod bare;
mod fetch;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use clap::{Args, ValueEnum};
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use weir_proto::v1::{GetFeaturesRequest, GetFeaturesResponse};

use fetch::{Asked, Fetch};

/// `weir-loadtest floor`
#[derive(Args, Debug)]
pub(crate) struct Floor {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    listen: SocketAddr,
    /// The reply: an encoded GetFeaturesResponse, as `call --reply` writes it; any text for `http1`.
    #[arg(long, value_name = "FILE")]
    reply: PathBuf,
    /// What answers.
    #[arg(long, value_enum, default_value_t = Door::Tonic)]
    door: Door,
    /// Before it answers, tonic reads the rows of the request from this Redis over a bare multiplexer; `http1` sends it
    /// the same commands for every request.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    redis: Option<SocketAddr>,
    /// The commands that `http1` sends, encoded; one reply is awaited for each.
    #[arg(long, value_name = "FILE", requires = "redis")]
    commands: Option<PathBuf>,
    /// What the keys of these rows begin with.
    #[arg(long, value_name = "PREFIX", default_value = "bench:rows@1:")]
    prefix: String,
    /// The reply has the numbers of these rows: without it, rows are only counted.
    #[arg(long, requires = "redis")]
    columns: bool,
}

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Door {
    /// tonic: the request is decoded and the reply encoded with prost.
    Tonic,
    /// hyper with HTTP/2: the request is read, and the reply sent as it is.
    Hyper,
    /// hyper with HTTP/1.1: the same, as JSON.
    Http1,
}

impl Floor {
    /// Serves until killed.
    #[tokio::main]
    pub(crate) async fn run(self) -> Result<(), crate::Failed> {
        let bytes = std::fs::read(&self.reply).map_err(|e| format!("{}: {e}", self.reply.display()))?;
        if self.door != Door::Tonic {
            let first = match (self.redis, &self.commands, self.door) {
                (None, ..) => None,
                (Some(redis), Some(commands), Door::Http1) => Some(Asked::of(redis, commands).await?),
                _ => return Err("--redis is for --door tonic, and with --commands for --door http1".into()),
            };
            return bare::serve(self.listen, self.door, bytes, first).await;
        }
        let reply = Arc::new(GetFeaturesResponse::decode(&*bytes)?);
        let fetch = match self.redis {
            Some(redis) => Some(Fetch::connect(redis, self.prefix, self.columns).await?),
            None => None,
        };
        Server::builder().tcp_nodelay(true).add_service(Fixed { reply, fetch }).serve(self.listen).await?;
        Ok(())
    }
}

/// The message is shared, not cloned: a floor that wastes time would flatter whoever stands on it.
#[derive(Clone)]
struct Fixed {
    reply: Arc<GetFeaturesResponse>,
    fetch: Option<Fetch>,
}

impl NamedService for Fixed {
    const NAME: &'static str = "weir.v1.FeatureService";
}

impl Service<http::Request<Body>> for Fixed {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let fixed = self.clone();
        Box::pin(async move {
            Ok(match fixed.fetch {
                None => Grpc::new(Prost).unary(Same(fixed.reply), request).await,
                Some(fetch) => Grpc::new(Prost).unary(Fetched { reply: fixed.reply, fetch }, request).await,
            })
        })
    }
}

/// Answers at once.
struct Same(Arc<GetFeaturesResponse>);

impl UnaryService<GetFeaturesRequest> for Same {
    type Response = Arc<GetFeaturesResponse>;
    type Future = std::future::Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, _: Request<GetFeaturesRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new(Arc::clone(&self.0))))
    }
}

/// Answers once the rows are there.
struct Fetched {
    reply: Arc<GetFeaturesResponse>,
    fetch: Fetch,
}

impl UnaryService<GetFeaturesRequest> for Fetched {
    type Response = Arc<GetFeaturesResponse>;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<GetFeaturesRequest>) -> Self::Future {
        let (reply, fetch) = (Arc::clone(&self.reply), self.fetch.clone());
        Box::pin(async move {
            let reply = fetch.answer(request.get_ref(), reply).await;
            reply.map(Response::new).map_err(|e| Status::internal(e.to_string()))
        })
    }
}

/// tonic's own prost codec, but for a message that is shared.
struct Prost;

impl Codec for Prost {
    type Encode = Arc<GetFeaturesResponse>;
    type Decode = GetFeaturesRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Prost {
    type Item = Arc<GetFeaturesResponse>;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|e| Status::internal(e.to_string()))
    }
}

impl Decoder for Prost {
    type Item = GetFeaturesRequest;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        GetFeaturesRequest::decode(buf).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}
