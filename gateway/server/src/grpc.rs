//! The gRPC door: `weir.v1` with deadlines from `grpc-timeout` or `x-request-timeout-ms`.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use weir_domain::experiment::assign;
use weir_domain::{Refusal, Violation};
use weir_proto::encoded::{Encoded, FeatureService};
use weir_proto::v1;
use weir_proto::v1::experiment_service_server::ExperimentService;

use crate::decode::{self, NoRequest};
use crate::gate::Arrived;
use crate::gateway::Gateway;
use crate::pipeline;
use crate::{encode, refuse, telemetry};

/// Both services over one gateway.
#[derive(Clone)]
pub(crate) struct Grpc(pub(crate) Arc<Gateway>);

#[tonic::async_trait]
impl FeatureService for Grpc {
    async fn get_features(&self, request: Request<Bytes>) -> Result<Response<Encoded>, Status> {
        let arrived = Arrived::of(request.extensions());
        let (metadata, _, message) = request.into_parts();
        let headers = metadata.into_headers();
        let span = telemetry::request_span("grpc", &headers);
        let answered = async {
            let arrival = arrived.with(&headers)?;
            let request = decode::request(&message)?;
            Ok(pipeline::run(&self.0, request, arrival, encode::answer).await?)
        };
        match answered.instrument(span).await {
            Ok(bytes) => Ok(Response::new(Encoded(bytes))),
            Err(NoRequest::Malformed(text)) => Err(Status::invalid_argument(text)),
            Err(NoRequest::Refused(refusal)) => {
                self.0.metrics.refused(&refusal);
                Err(refuse::grpc(&refusal))
            }
        }
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
