//! The floor: bare tonic that answers every GetFeatures with the same message. It decodes the request and encodes
//! the reply with prost, on the runtime and the allocator that `weir` uses, and does nothing else. The message is
//! shared, not cloned: a floor that wastes time would flatter whoever stands on it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use clap::Args;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use weir_proto::v1::{GetFeaturesRequest, GetFeaturesResponse};

/// `weir-loadtest floor`
#[derive(Args, Debug)]
pub(crate) struct Floor {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    listen: SocketAddr,
    /// The reply: an encoded GetFeaturesResponse, as `call --reply` writes it.
    #[arg(long, value_name = "FILE")]
    reply: PathBuf,
}

impl Floor {
    /// Serves until killed.
    #[tokio::main]
    pub(crate) async fn run(self) -> Result<(), crate::Failed> {
        let bytes = std::fs::read(&self.reply).map_err(|e| format!("{}: {e}", self.reply.display()))?;
        let service = Fixed { reply: Arc::new(GetFeaturesResponse::decode(&*bytes)?) };
        Server::builder().tcp_nodelay(true).add_service(service).serve(self.listen).await?;
        Ok(())
    }
}

#[derive(Clone)]
struct Fixed {
    reply: Arc<GetFeaturesResponse>,
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
        Box::pin(async move { Ok(Grpc::new(Prost).unary(fixed, request).await) })
    }
}

impl UnaryService<GetFeaturesRequest> for Fixed {
    type Response = Arc<GetFeaturesResponse>;
    type Future = Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, _: Request<GetFeaturesRequest>) -> Self::Future {
        ready(Ok(Response::new(Arc::clone(&self.reply))))
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
