//! Logs, and traces over OTLP when configured. Without a collector a request opens no span at all.

use std::io::IsTerminal;

use axum::http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The standard variable that names an OTLP collector.
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flushes what telemetry still holds.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Installs logging (`RUST_LOG`, default `info`), and tracing if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Must
    /// run inside a tokio runtime.
    pub fn install(format: LogFormat) -> Result<Self, Box<dyn std::error::Error>> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let logs =
            tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        let logs = match format {
            LogFormat::Text => logs.with_target(false).boxed(),
            LogFormat::Json => logs.json().flatten_event(true).boxed(),
        };
        let provider = std::env::var(OTLP_ENDPOINT).ok().filter(|e| !e.is_empty()).map(exporter).transpose()?;
        let traces = provider.as_ref().map(|provider| {
            // The pipeline's spans are DEBUG so that logging alone never pays for them.
            let ours = Targets::new().with_target("weir", LevelFilter::DEBUG);
            tracing_opentelemetry::layer().with_tracer(provider.tracer("weir")).with_filter(ours)
        });
        tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init()?;
        Ok(Self { provider })
    }

    /// Sends what is left. The last thing a gateway does.
    pub fn flush(self) {
        if let Some(error) = self.provider.and_then(|p| p.shutdown().err()) {
            tracing::warn!(%error, "traces were lost at shutdown");
        }
    }
}

fn exporter(endpoint: String) -> Result<SdkTracerProvider, opentelemetry_otlp::ExporterBuildError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let resource = Resource::builder().with_service_name("weir").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The span of one request, a child of the caller's if it sent a W3C `traceparent`.
pub(crate) fn request_span(door: &'static str, headers: &HeaderMap) -> Span {
    let span = tracing::debug_span!("get_features", door);
    if !span.is_disabled() {
        let context = TraceContextPropagator::new().extract(&Headers(headers));
        // Fails only when no OpenTelemetry layer is installed: then there is no trace to belong to.
        let _ = span.set_parent(context);
    }
    span
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
