//! Keys that nobody reads, with the nearest that somebody does.

use colony_core::text::nearest;
use serde_json::Value;

use super::{AgentType, Config, Model, Problem, Severity, layer::Layers};

pub(super) fn keys(layers: &Layers) -> Vec<Problem> {
    let known = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut problems = Vec::new();
    for (key, origin) in &layers.set {
        if let Some((at, what)) = unknown(&known, key) {
            problems.push(Problem {
                severity: Severity::Error,
                key: at,
                origin: origin.clone(),
                what,
            });
        }
    }
    problems
}

/// The first part of `key` that names nothing, and what to say about it.
fn unknown(known: &Value, key: &str) -> Option<(String, String)> {
    let mut table = known.clone();
    let mut above = Vec::new();
    for part in key.split('.') {
        let Value::Object(entries) = &table else {
            // Below a leaf: serde says what type was expected there.
            return None;
        };
        let next = match (above.as_slice(), part) {
            (["models"], _) => serde_json::to_value(Model::default()).ok(),
            (["agents"], _) => serde_json::to_value(AgentType::default()).ok(),
            (["agents", _, "settings", ..] | ["ledger", "tenant_weights"], _) => return None,
            _ => entries.get(part).cloned(),
        };
        let Some(next) = next else {
            let path = |name: &str| {
                let mut path = above.clone();
                path.push(name);
                path.join(".")
            };
            let what = match nearest(part, entries.keys().map(String::as_str)) {
                Some(near) => format!("unknown key; did you mean {:?}?", path(near)),
                None => {
                    let names: Vec<_> = entries.keys().map(String::as_str).collect();
                    format!("unknown key; there are: {}", names.join(", "))
                }
            };
            return Some((path(part), what));
        };
        table = next;
        above.push(part);
    }
    None
}
