//! The serving side of `FeatureService` with replies that are already encoded.

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::v1::GetFeaturesRequest;

/// A `GetFeaturesResponse`, encoded.
#[derive(Clone, Debug)]
pub struct Encoded(pub Bytes);

/// Decodes requests with prost and passes finished replies through.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Encoded;
    type Decode = GetFeaturesRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        *self
    }
}

impl Encoder for EncodedCodec {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, item: Encoded, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.0.len());
        out.put(item.0);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = GetFeaturesRequest;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<GetFeaturesRequest>, Status> {
        // The text is prost's own ("invalid wire type: …"): it names the field and holds no value.
        GetFeaturesRequest::decode(buf).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/weir.v1.FeatureService.rs"));
}

pub use generated::feature_service_server::{FeatureService, FeatureServiceServer};
