//! The gRPC door: `weir.v1` with deadlines from `grpc-timeout` or `x-request-timeout-ms`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{self, Extensions, HeaderMap};
use bytes::Bytes;
use tonic::{Request, Response, Status};
use tower::Service;
use tracing::Instrument;
use weir_domain::experiment::assign;
use weir_domain::{Refusal, Violation};
use weir_proto::encoded::{Encoded, FeatureService, FeatureServiceServer};
use weir_proto::v1;
use weir_proto::v1::experiment_service_server::ExperimentService;

use crate::decode::{self, NoRequest};
use crate::doors::Prompt;
use crate::gate::Arrived;
use crate::gateway::Gateway;
use crate::pipeline;
use crate::unary::{self, Call, PREFIX_BYTES};
use crate::{encode, refuse, telemetry};

/// Both services over one gateway.
#[derive(Clone)]
pub(crate) struct Grpc(pub(crate) Arc<Gateway>);

impl Grpc {
    /// The call that everybody makes all the time. Its reply has the prefix of a message.
    async fn features(&self, extensions: &Extensions, headers: &HeaderMap, message: &[u8]) -> Result<Bytes, Status> {
        let answered = async {
            let arrival = Arrived::of(extensions).with(headers)?;
            let request = decode::request(message)?;
            Ok(pipeline::run(&self.0, request, arrival, encode::answer).await?)
        };
        answered.instrument(telemetry::request_span("grpc", headers)).await.map_err(|error| match error {
            NoRequest::Malformed(text) => Status::invalid_argument(text),
            NoRequest::Refused(refusal) => {
                self.0.metrics.refused(&refusal);
                refuse::grpc(&refusal)
            }
        })
    }

    /// The same, straight from the connection where it can be.
    pub(crate) async fn call(
        &self,
        request: http::Request<Prompt>,
        tonic: &FeatureServiceServer<Self>,
    ) -> http::Response<Body> {
        match Call::of(request).await {
            Call::Whole(head, message) => match self.features(head.extensions(), head.headers(), &message).await {
                Ok(reply) => unary::reply(reply),
                Err(status) => status.into_http(),
            },
            Call::Other(request) => match tonic.clone().call(request).await {
                Ok(response) => response.map(Body::new),
                Err(never) => match never {},
            },
        }
    }
}

#[tonic::async_trait]
impl FeatureService for Grpc {
    async fn get_features(&self, request: Request<Bytes>) -> Result<Response<Encoded>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let mut reply = self.features(&extensions, &metadata.into_headers(), &message).await?;
        Ok(Response::new(Encoded(reply.split_off(PREFIX_BYTES))))
    }
}

#[tonic::async_trait]
impl ExperimentService for Grpc {
    async fn assign(&self, request: Request<v1::AssignRequest>) -> Result<Response<v1::AssignResponse>, Status> {
        let v1::AssignRequest { unit, attributes, service } = request.into_inner();
        if unit.is_empty() {
            let violation = Violation::new("unit", "missing: experiments split by it");
            return Err(refuse::grpc(&Refusal::Invalid(vec![violation])));
        }
        let snapshot = self.0.snapshot();
        let attributes = decode::attributes(attributes);
        let mut assignment = assign(&snapshot.catalog.experiments, Some(&unit), &attributes);
        if !service.is_empty() {
            let plans = snapshot.plans.service(&service);
            let plans = plans.ok_or_else(|| refuse::grpc(&Refusal::UnknownService { service }))?;
            plans.choose(&mut assignment);
        }
        Ok(Response::new(v1::AssignResponse {
            assignments: assignment.arms.iter().map(encode::assignment).collect(),
            holdouts: assignment.holdouts.iter().map(ToString::to_string).collect(),
            catalog_version: snapshot.catalog.version.to_string(),
        }))
    }
}
