//! Feast's gRPC services: that of its Go and Java servers, and that of its Python server.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use weir_domain::Refusal;
use weir_feast::{Class, Frame, Raised, passed};
use weir_proto::encoded::{Encoded, GrpcFeatureServer, ServingService};
use weir_proto::feast::python::{PushRequest, PushResponse, WriteToOnlineStoreRequest, WriteToOnlineStoreResponse};
use weir_proto::feast::serving::{
    GetFeastServingInfoRequest, GetFeastServingInfoResponse, GetOnlineFeaturesRequest,
    get_online_features_request::Kind,
};
use weir_proto::feast::types::{RepeatedValue, Value};

use super::Served;
use super::serve::{self, Ask, Unanswered};
use super::write::{self, Through, To};
use crate::gate::Arrived;
use crate::pipeline::Arrival;
use crate::{refuse, telemetry};

/// The version of Feast whose answers these are.
const VERSION: &str = "0.67.0";

/// Both services.
#[derive(Clone)]
pub(crate) struct FeastGrpc(pub(crate) Served);

/// Which of the servers is stood in for.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    Go,
    Python,
}

#[tonic::async_trait]
impl ServingService for FeastGrpc {
    async fn get_feast_serving_info(
        &self,
        _: Request<GetFeastServingInfoRequest>,
    ) -> Result<Response<GetFeastServingInfoResponse>, Status> {
        Ok(Response::new(GetFeastServingInfoResponse { version: VERSION.to_owned() }))
    }

    async fn get_online_features(
        &self,
        request: Request<GetOnlineFeaturesRequest>,
    ) -> Result<Response<Encoded>, Status> {
        self.online(request, Server::Go).await
    }
}

#[tonic::async_trait]
impl GrpcFeatureServer for FeastGrpc {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        let until = self.until(&request)?;
        let PushRequest { features, stream_feature_view, to, typed_features, .. } = request.into_inner();
        let frame = one_row(&features, &typed_features)?;
        let pushed = async { write::push(&self.0.feast, &stream_feature_view, &frame?, To::parse(&to)?, until).await };
        pushed.await.map_err(|unanswered| match unanswered {
            Unanswered::Refused(refusal) => self.refused(&refusal),
            Unanswered::Raised(raised) => match raised.class {
                Class::Feast("PushSourceNotFoundException", _) => Status::invalid_argument(cut(raised.message)),
                _ => Status::internal(cut(raised.message)),
            },
        })?;
        Ok(Response::new(PushResponse { status: true }))
    }

    async fn write_to_online_store(
        &self,
        request: Request<WriteToOnlineStoreRequest>,
    ) -> Result<Response<WriteToOnlineStoreResponse>, Status> {
        let until = self.until(&request)?;
        let WriteToOnlineStoreRequest { features, feature_view_name, typed_features, .. } = request.into_inner();
        let frame = one_row(&features, &typed_features)?;
        let through = Through::Grpc;
        let written = async { write::write_to(&self.0.feast, &feature_view_name, &frame?, through, until).await };
        written.await.map_err(|unanswered| match unanswered {
            Unanswered::Refused(refusal) => self.refused(&refusal),
            Unanswered::Raised(raised) => Status::internal(cut(raised.message)),
        })?;
        Ok(Response::new(WriteToOnlineStoreResponse { status: true }))
    }

    async fn get_online_features(
        &self,
        request: Request<GetOnlineFeaturesRequest>,
    ) -> Result<Response<Encoded>, Status> {
        self.online(request, Server::Python).await
    }
}

/// The bytes of a status message, which is a header. gRPC's own library takes no more than 8 KiB of headers for sure, and
/// says that they were too many instead of what went wrong.
const MESSAGE_BYTES_MAX: usize = 6 << 10;

fn cut(message: String) -> String {
    refuse::cut(message, MESSAGE_BYTES_MAX)
}

/// The row of a write: texts, or typed values.
fn one_row<'a>(
    texts: &'a BTreeMap<String, String>,
    typed: &'a BTreeMap<String, Value>,
) -> Result<Result<Frame<'a>, Raised>, Status> {
    if !texts.is_empty() && !typed.is_empty() {
        return Err(Status::invalid_argument("Only one of features or typed_features may be set, not both"));
    }
    Ok(if typed.is_empty() {
        Frame::from_strings(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    } else {
        Frame::from_values(typed.iter().map(|(name, value)| (name.as_str(), value)))
    })
}

impl FeastGrpc {
    async fn online(
        &self,
        request: Request<GetOnlineFeaturesRequest>,
        server: Server,
    ) -> Result<Response<Encoded>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let headers = metadata.into_headers();
        let span = telemetry::request_span("feast grpc", &headers);
        let arrived = Arrived::of(&extensions);
        let answered = async { self.answer(request, arrived.with(&headers)?, server).await };
        answered.instrument(span).await.map(Response::new).map_err(|why| self.told(why))
    }

    async fn answer(
        &self,
        request: GetOnlineFeaturesRequest,
        arrival: Arrival,
        server: Server,
    ) -> Result<Encoded, Unanswered> {
        let GetOnlineFeaturesRequest { kind, entities, request_context, full_feature_names, .. } = request;
        let (features, service) = match kind {
            Some(Kind::FeatureService(name)) => (Vec::new(), Some(name)),
            Some(Kind::Features(list)) => (list.val, None),
            None => (Vec::new(), None),
        };
        let features: Vec<&str> = features.iter().map(String::as_str).collect();
        // The Python server does not look at the context.
        let request_context = if server == Server::Go { request_context } else { BTreeMap::new() };
        let names: Vec<String> = entities.keys().chain(request_context.keys()).cloned().collect();
        let given: Vec<RepeatedValue> = entities.into_values().chain(request_context.into_values()).collect();
        let ask = Ask {
            features: &features,
            service: service.as_deref(),
            full_names: full_feature_names,
            // Nor does the Python server hand this on.
            with_versions: server == Server::Go && request.include_feature_view_version_metadata,
            columns: given.len(),
            rows: given.iter().map(|column| column.val.len()).max().unwrap_or(0),
        };
        let columns = |lookup: &weir_feast::Lookup| -> Result<Vec<_>, Raised> {
            let columns = names.iter().zip(given);
            columns
                .map(|(name, given)| {
                    // What a transform computes from comes typed already.
                    let is_data = lookup.is_request_data(name);
                    let values = if is_data { given.val } else { passed(given.val, lookup.type_of(name))? };
                    Ok((name.as_str(), values))
                })
                .collect()
        };
        let (bytes, _) =
            serve::online(&self.0.gateway, &self.0.feast, arrival, &ask, columns, |answer| answer.to_proto()).await?;
        Ok(Encoded(bytes))
    }

    /// How long a write may wait for its turn.
    fn until<T>(&self, request: &Request<T>) -> Result<Instant, Status> {
        let headers = request.metadata().clone().into_headers();
        let until = Arrived::of(request.extensions()).until(&headers, write::PATIENCE);
        until.map_err(|refusal| self.refused(&refusal))
    }

    fn refused(&self, refusal: &Refusal) -> Status {
        self.0.gateway.metrics.refused(refusal);
        refuse::grpc(refusal)
    }

    fn told(&self, unanswered: Unanswered) -> Status {
        match unanswered {
            Unanswered::Refused(refusal) => self.refused(&refusal),
            Unanswered::Raised(raised) => match raised.class {
                Class::Feast("FeatureServiceNotFoundException", _) => Status::internal(cut(raised.message)),
                // What grpc makes of an exception that nobody catches.
                _ => Status::unknown(cut(format!("Exception calling application: {}", raised.message))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_a_header_does() {
        assert_eq!(cut("x".repeat(100)), "x".repeat(100));
        assert_eq!(cut("x".repeat(MESSAGE_BYTES_MAX + 1)), format!("{}...", "x".repeat(MESSAGE_BYTES_MAX)));
        assert_eq!(cut("é".repeat(MESSAGE_BYTES_MAX)).chars().count(), MESSAGE_BYTES_MAX / 6 + 3);
    }
}
