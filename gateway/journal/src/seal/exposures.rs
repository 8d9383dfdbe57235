//! The `exposures` dataset: who was under which arm, first seen when. Within a segment one row stands for all
//! requests of one unit under one arm; readers that want one row over all time take the earliest.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use weir_domain::RequestId;
use weir_domain::experiment::Reason;

use super::column::timestamp;
use crate::record::Served;
use crate::schema::Schema as Shape;

/// The earliest exposure of each (experiment, unit, arm).
#[derive(Debug, Default)]
pub(super) struct Exposures(BTreeMap<(String, Option<String>, String), Exposure>);

#[derive(Debug)]
struct Exposure {
    /// Time, then id: the same row comes first whatever order the records are seen in.
    first: (i64, RequestId),
    bucket: u32,
    reason: Reason,
    service: String,
    catalog: String,
    fallback_model: Option<String>,
    delivered: bool,
    requests: i64,
    weight: f64,
}

impl Exposures {
    pub(super) fn append(&mut self, served: &Served, schema: &Shape) {
        let first = (served.served_at_us, served.request_id);
        for arm in &served.arms {
            let key = (arm.experiment.clone(), served.unit.clone(), arm.arm.clone());
            let (mut requests, mut delivered, mut weight) = (1, arm.delivered, schema.weight);
            if let Some(seen) = self.0.get_mut(&key) {
                // Samples hold each other: a unit is in the larger one for certain.
                seen.weight = seen.weight.min(weight);
                seen.requests += 1;
                seen.delivered |= arm.delivered;
                if seen.first <= first {
                    continue;
                }
                (requests, delivered, weight) = (seen.requests, seen.delivered, seen.weight);
            }
            let exposure = Exposure {
                first,
                bucket: arm.bucket,
                reason: if arm.forced { Reason::Forced } else { Reason::Split },
                service: schema.service.clone(),
                catalog: schema.catalog.clone(),
                fallback_model: served.fallback_model.clone(),
                delivered,
                requests,
                weight,
            };
            self.0.insert(key, exposure);
        }
    }

    /// One batch for each hour (since the epoch) of first exposures.
    pub(super) fn batches(&self) -> Result<Vec<HourOfExposures>, ArrowError> {
        let mut hours: BTreeMap<i64, Vec<Row<'_>>> = BTreeMap::new();
        for row in &self.0 {
            hours.entry(super::hour(row.1.first.0)).or_default().push(row);
        }
        let batch = |(hour, rows): (i64, Vec<Row<'_>>)| {
            let at = || rows.iter().map(|(_, e)| e.first.0);
            let times_us = (at().min().unwrap_or_default(), at().max().unwrap_or_default());
            Ok(HourOfExposures { hour, times_us, rows: rows_to_batch(&rows)? })
        };
        hours.into_iter().map(batch).collect()
    }
}

/// What goes into one file.
pub(super) struct HourOfExposures {
    /// Since the epoch.
    pub(super) hour: i64,
    /// The earliest and the latest time.
    pub(super) times_us: (i64, i64),
    pub(super) rows: RecordBatch,
}

type Row<'a> = (&'a (String, Option<String>, String), &'a Exposure);

fn rows_to_batch(rows: &[Row<'_>]) -> Result<RecordBatch, ArrowError> {
    let mut request_id = StringBuilder::new();
    let mut exposed_at = TimestampMicrosecondBuilder::new().with_timezone("UTC");
    let (mut experiment, mut unit, mut arm) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut bucket, mut reason) = (Int32Builder::new(), StringBuilder::new());
    let (mut delivered, mut requests) = (BooleanBuilder::new(), Int64Builder::new());
    let (mut service, mut catalog) = (StringBuilder::new(), StringBuilder::new());
    let (mut fallback_model, mut weight) = (StringBuilder::new(), Float64Builder::new());
    for (key, exposure) in rows {
        request_id.append_value(exposure.first.1.to_string());
        exposed_at.append_value(exposure.first.0);
        experiment.append_value(&key.0);
        unit.append_option(key.1.as_deref());
        arm.append_value(&key.2);
        bucket.append_value(exposure.bucket as i32);
        reason.append_value(exposure.reason.name());
        delivered.append_value(exposure.delivered);
        requests.append_value(exposure.requests);
        service.append_value(&exposure.service);
        catalog.append_value(&exposure.catalog);
        fallback_model.append_option(exposure.fallback_model.as_deref());
        weight.append_value(exposure.weight);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(request_id.finish()),
        Arc::new(exposed_at.finish()),
        Arc::new(experiment.finish()),
        Arc::new(unit.finish()),
        Arc::new(arm.finish()),
        Arc::new(bucket.finish()),
        Arc::new(reason.finish()),
        Arc::new(delivered.finish()),
        Arc::new(requests.finish()),
        Arc::new(service.finish()),
        Arc::new(catalog.finish()),
        Arc::new(fallback_model.finish()),
        Arc::new(weight.finish()),
    ];
    RecordBatch::try_new(schema(), columns)
}

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("request_id", DataType::Utf8, false),
        Field::new("exposed_at", timestamp(), false),
        Field::new("experiment", DataType::Utf8, false),
        Field::new("unit", DataType::Utf8, true),
        Field::new("arm", DataType::Utf8, false),
        Field::new("bucket", DataType::Int32, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("delivered", DataType::Boolean, false),
        Field::new("exposures", DataType::Int64, false),
        Field::new("service", DataType::Utf8, false),
        Field::new("catalog_version", DataType::Utf8, false),
        Field::new("fallback_model", DataType::Utf8, true),
        Field::new("weight", DataType::Float64, false),
    ]))
}
