//! The caller's trace: W3C `traceparent` in the metadata of a request.

use colony_core::task::TraceContext;
use tonic::metadata::MetadataMap;

use crate::telemetry::Telemetry;

/// The caller's span, if it names one. What is malformed is ignored, as the specification demands.
pub(super) fn parent(metadata: &MetadataMap) -> Option<TraceContext> {
    let value = metadata.get("traceparent")?.to_str().ok()?;
    Telemetry::parent(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_parent_is_ignored() {
        let mut metadata = MetadataMap::new();
        assert_eq!(parent(&metadata), None);
        metadata.insert("traceparent", "00-zz-1-01".parse().expect("ascii"));
        assert_eq!(parent(&metadata), None);
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        metadata.insert("traceparent", good.parse().expect("ascii"));
        let found = parent(&metadata).expect("a parent");
        assert_eq!(found.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(found.sampled);
    }
}
