//! The gRPC door: `weir.v1` with deadlines from `grpc-timeout` or `x-request-timeout-ms`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use weir_domain::experiment::{Attributes, assign};
use weir_domain::{Blob, Column, FeatureType, Kind, Lists, Named, Refusal, Value, Violation};
use weir_proto::encoded::{Encoded, FeatureService};
use weir_proto::v1;
use weir_proto::v1::experiment_service_server::ExperimentService;

use crate::gateway::Gateway;
use crate::pipeline::{self, Arrival};
use crate::{encode, refuse, telemetry, timeout};

/// Both services over one gateway.
#[derive(Clone)]
pub(crate) struct Grpc(pub(crate) Arc<Gateway>);

#[tonic::async_trait]
impl FeatureService for Grpc {
    async fn get_features(&self, request: Request<v1::GetFeaturesRequest>) -> Result<Response<Encoded>, Status> {
        let at = request.extensions().get::<timeout::ArrivedAt>().map_or_else(Instant::now, |a| a.0);
        let (metadata, _, message) = request.into_parts();
        let headers = metadata.into_headers();
        let span = telemetry::request_span("grpc", &headers);
        let answered = async {
            let timeout = timeout::read(&headers)?;
            let request = decode(message)?;
            pipeline::run(&self.0, request, Arrival { at, timeout }, encode::answer).await
        };
        match answered.instrument(span).await {
            Ok(bytes) => Ok(Response::new(Encoded(bytes))),
            Err(refusal) => {
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
        let attributes = decode_attributes(attributes);
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

fn decode(message: v1::GetFeaturesRequest) -> Result<weir_domain::Request, Refusal> {
    let v1::GetFeaturesRequest { service, context, items, features, max_staleness, unit, attributes } = message;
    let max_stale = match max_staleness {
        None => None,
        Some(d) => Some(Duration::try_from(d).map_err(|_| {
            Refusal::Invalid(vec![Violation::new("max_staleness", "is negative: a row cannot be younger than now")])
        })?),
    };
    Ok(weir_domain::Request {
        service,
        context: decode_columns("context", context)?,
        items: decode_columns("items", items)?,
        features: decode_columns("features", features)?,
        max_stale,
        unit: Some(unit).filter(|u| !u.is_empty()),
        attributes: decode_attributes(attributes),
    })
}

fn decode_attributes(attributes: std::collections::HashMap<String, v1::Attribute>) -> Attributes {
    use v1::attribute::Value as Wire;
    let decode = |value| match value {
        Wire::BoolValue(b) => Value::Bool(b),
        Wire::Int64Value(i) => Value::I64(i),
        Wire::DoubleValue(f) => Value::F64(f),
        Wire::StringValue(s) => Value::String(s),
    };
    Attributes(attributes.into_iter().filter_map(|(name, a)| a.value.map(|v| (name, decode(v)))).collect())
}

fn decode_columns(group: &str, columns: Vec<v1::Column>) -> Result<Vec<Named>, Refusal> {
    let wrong = |name: &str, what: &str| Refusal::Invalid(vec![Violation::new(format!("{group}.{name}"), what)]);
    let mut named: Vec<Named> = Vec::with_capacity(columns.len());
    for v1::Column { name, values } in columns {
        let Some(values) = values else { return Err(wrong(&name, "has no values")) };
        if named.iter().any(|n| n.name == name) {
            return Err(wrong(&name, "is there twice"));
        }
        let column = decode_values(values).map_err(|what| wrong(&name, what))?;
        named.push(Named { name, column });
    }
    Ok(named)
}

fn decode_values(values: v1::Values) -> Result<Column, &'static str> {
    use v1::values::Kind as Wire;
    Ok(match values.kind.ok_or("has no values")? {
        Wire::Bools(v) => Column::Bool(v.values),
        Wire::Int64s(v) => Column::I64(v.values),
        Wire::Doubles(v) => Column::F64(v.values),
        Wire::Floats(v) => Column::F32(v.values),
        Wire::Strings(v) => Column::String(blob(v.values.iter().map(String::as_bytes))),
        Wire::Blobs(v) => Column::Bytes(blob(v.values.iter().map(Vec::as_slice))),
        Wire::Timestamps(v) => Column::Timestamp(v.values),
        Wire::Lists(v) => {
            let items = match v.items {
                Some(items) => decode_values(*items)?,
                None => Column::with_capacity(FeatureType::One(Kind::F64), 0),
            };
            let rising = v.ends.windows(2).all(|w| w[0] <= w[1]);
            if !rising || v.ends.last().copied().unwrap_or(0) as usize != items.len() {
                return Err("the lists' ends do not rise to the number of items");
            }
            if matches!(items, Column::List(_)) {
                return Err("lists of lists are not a feature type");
            }
            Column::List(Box::new(Lists { ends: v.ends, items }))
        }
    })
}

fn blob<'a>(values: impl Iterator<Item = &'a [u8]>) -> Blob {
    let mut blob = Blob::default();
    values.for_each(|v| blob.push(v));
    blob
}
