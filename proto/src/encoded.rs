//! The serving side of the calls that answer with features, with replies that are already encoded.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::feast::serving::GetOnlineFeaturesRequest;

/// A reply, encoded.
#[derive(Clone, Debug)]
pub struct Encoded(pub Bytes);

/// Decodes requests with prost and passes finished replies through.
#[derive(Debug)]
pub struct EncodedCodec<Request>(PhantomData<fn() -> Request>);

/// Of Feast's `GetOnlineFeatures`, in either of its services.
pub type OnlineCodec = EncodedCodec<GetOnlineFeaturesRequest>;

impl<Request> Default for EncodedCodec<Request> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Request: Message + Default + 'static> Codec for EncodedCodec<Request> {
    type Encode = Encoded;
    type Decode = Request;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

impl<Request> Encoder for EncodedCodec<Request> {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, item: Encoded, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.0.len());
        out.put(item.0);
        Ok(())
    }
}

impl<Request: Message + Default> Decoder for EncodedCodec<Request> {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        // The text is prost's own ("invalid wire type: …"): it names the field and holds no value.
        Request::decode(buf).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// Of `weir.v1.FeatureService/GetFeatures`: passes requests through as well, for the gateway to read in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct FeaturesCodec;

impl Codec for FeaturesCodec {
    type Encode = Encoded;
    type Decode = Bytes;
    type Encoder = EncodedCodec<()>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        EncodedCodec::default()
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Decoder for FeaturesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
mod features {
    include!(concat!(env!("OUT_DIR"), "/weir.v1.FeatureService.rs"));
}

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
mod serving {
    include!(concat!(env!("OUT_DIR"), "/feast.serving.ServingService.rs"));
}

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
mod python {
    include!(concat!(env!("OUT_DIR"), "/.GrpcFeatureServer.rs"));
}

pub use features::feature_service_server::{FeatureService, FeatureServiceServer};
pub use python::grpc_feature_server_server::{GrpcFeatureServer, GrpcFeatureServerServer};
pub use serving::serving_service_server::{ServingService, ServingServiceServer};
