//! Numbers that are not counted per request but read where they are, at the moment of the scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Debug)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) points: Vec<(Option<(&'static str, &'static str)>, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Numbers read at the moment of the scrape.
#[derive(Debug)]
pub(super) struct Facts(pub(super) Vec<Fact>);

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for fact in &self.0 {
            let kind = match fact.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(fact.name, fact.help, None, kind)?;
            let encode = |m: MetricEncoder<'_>, value: u64| match fact.kind {
                Kind::Counter => ConstCounter::new(value).encode(m),
                Kind::Gauge => ConstGauge::new(value).encode(m),
            };
            match fact.points.as_slice() {
                // No family: one without labels is written `name{}`.
                [(None, value)] => encode(metric, *value)?,
                points => {
                    for (label, value) in points {
                        encode(metric.encode_family(&label.as_slice())?, *value)?;
                    }
                }
            }
        }
        Ok(())
    }
}
