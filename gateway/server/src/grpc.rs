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

use crate::decode;
use crate::doors::Prompt;
use crate::gate::Arrived;
use crate::gateway::Gateway;
use crate::http::ASSIGN_PATIENCE;
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
            pipeline::run(&self.0, request, arrival, encode::answer).await
        };
        answered.instrument(telemetry::request_span("grpc", headers)).await.map_err(|refusal| self.refused(&refusal))
    }

    fn refused(&self, refusal: &Refusal) -> Status {
        self.0.metrics.refused(refusal);
        refuse::grpc(refusal)
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
        let (metadata, extensions, request) = request.into_parts();
        let arrived = Arrived::of(&extensions);
        let assigned = arrived.until(&metadata.into_headers(), ASSIGN_PATIENCE).and_then(|_| self.assigned(request));
        assigned.map(Response::new).map_err(|refusal| self.refused(&refusal))
    }
}

impl Grpc {
    fn assigned(&self, request: v1::AssignRequest) -> Result<v1::AssignResponse, Refusal> {
        let v1::AssignRequest { unit, attributes, service } = request;
        if unit.is_empty() {
            return Err(Refusal::Invalid(vec![Violation::new("unit", "missing: experiments split by it")]));
        }
        let snapshot = self.0.snapshot();
        let attributes = decode::attributes(attributes);
        let mut assignment = assign(&snapshot.catalog.experiments, Some(&unit), &attributes);
        if !service.is_empty() {
            let plans = snapshot.plans.service(&service);
            plans.ok_or(Refusal::UnknownService { service })?.choose(&mut assignment);
        }
        Ok(v1::AssignResponse {
            assignments: assignment.arms.iter().map(encode::assignment).collect(),
            holdouts: assignment.holdouts.iter().map(ToString::to_string).collect(),
            catalog_version: snapshot.catalog.version.to_string(),
        })
    }
}
