//! Every setting with its value and its origin, for `colony config show`.

use std::{fmt, path::PathBuf};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Config, layer::Layers};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Its key path, such as `node.listen`.
    pub key: String,
    /// Its value; null when it is not set and has no default.
    pub value: Value,
    /// Where the value came from.
    pub origin: Origin,
}

pub(super) fn settings(config: &Config, layers: &Layers) -> Vec<Setting> {
    let leaves = leaves(config);
    leaves
        .into_iter()
        .map(|(key, value)| Setting {
            origin: layers.origin(&key),
            key,
            value,
        })
        .collect()
}

/// Key path and value of every leaf; lists and empty tables are leaves.
pub(super) fn leaves(config: &Config) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    // Plain data with text keys: this cannot fail.
    let whole = serde_json::to_value(config).unwrap_or_default();
    walk(whole, String::new(), &mut found);
    found
}

fn walk(value: Value, key: String, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (name, inner) in table {
                let below = match key.as_str() {
                    "" => name,
                    above => format!("{above}.{name}"),
                };
                walk(inner, below, found);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => found.push((key, value)),
    }
}
