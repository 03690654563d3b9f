//! Where spans go: to a receiver of OTLP over gRPC, when `telemetry.otlp_endpoint` names one.

use colony_node::config::Config;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

use crate::errors::{Failure, chain};

/// A provider that sends spans in batches; none when nothing is to be sent. Which tasks are traced is the
/// node's decision, so every span that reaches it is sent.
pub(super) fn provider(config: &Config) -> Result<Option<SdkTracerProvider>, Failure> {
    let Some(endpoint) = &config.telemetry.otlp_endpoint else {
        return Ok(None);
    };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| Failure::usage(format!("telemetry.otlp_endpoint: {}", chain(&error))))?;
    let resource = Resource::builder()
        .with_service_name(config.telemetry.service_name.clone())
        .with_attribute(KeyValue::new(
            "service.instance.id",
            config.node.id.to_string(),
        ))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(Some(
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build(),
    ))
}
