//! The configuration: one struct per room, from four layers.
//!
//! ```text
//!   default ◄── file ◄── COLONY__SECTION__KEY ◄── flag      the later layer wins, key by key
//!      └──────────┴─────────────┴──────────────────┴──► Config::load ──► check ──► rooms
//! ```
//! `colony.toml` at the root of the repository holds every setting with its default, unit, range and
//! effect; a test compares it with [`Config::default`]. Nothing here is read again while the node runs.

mod check;
mod layer;
mod rooms;
mod show;
mod span;
mod unknown;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use figment::{Figment, providers::Serialized};
use serde::{Deserialize, Serialize};

pub use rooms::{
    Admission, AgentType, Engine, Field, Gateway, HalfLives, Inference, LedgerEngine, LedgerRules,
    Market, Memory, Model, ModelRole, Node, Risk, Roster, Telemetry,
};
pub use show::{Origin, Setting};

use layer::Layers;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this node is and where it listens.
    pub node: Node,
    /// The book and its rules.
    pub ledger: LedgerRules,
    /// What is let in.
    pub admission: Admission,
    /// How tasks meet agents.
    pub market: Market,
    /// How agents live.
    pub roster: Roster,
    /// How trails fade.
    pub field: Field,
    /// What is remembered.
    pub memory: Memory,
    /// How models are run.
    pub inference: Inference,
    /// Which models there are, by name.
    pub models: BTreeMap<String, Model>,
    /// Which agent types there are, by name.
    pub agents: BTreeMap<String, AgentType>,
    /// What needs a human.
    pub risk: Risk,
    /// What is reported, and where.
    pub telemetry: Telemetry,
    /// Limits of the gRPC door.
    pub gateway: Gateway,
}

/// Where a configuration comes from, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The process's environment; only names that begin with `COLONY__` are looked at. Section and key
    /// are parted by two underscores: `COLONY__NODE__LISTEN`.
    pub env: Vec<(String, String)>,
    /// Flags, as key path and value: `("node.listen", "0.0.0.0:7400")`.
    pub flags: Vec<(String, String)>,
}

/// A configuration together with where each value came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    layers: Layers,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key path, such as `node.listen`.
    pub key: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong with it and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.key, self.what, self.origin)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line} is not valid TOML: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        what: String,
    },
    /// Unknown keys and values that break a rule, all of them.
    #[error("{} in the configuration:{}", plural(problems.len()), lines(problems))]
    Problems {
        /// At least one.
        problems: Vec<Problem>,
    },
}

fn plural(count: usize) -> String {
    match count {
        1 => "1 problem".to_owned(),
        _ => format!("{count} problems"),
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

impl Config {
    /// Reads and checks all layers.
    ///
    /// # Errors
    /// [`ConfigError`]; of unknown keys and broken rules it lists all.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let layers = Layers::read(sources)?;
        let mut problems = unknown::keys(&layers);
        let merged = layers.merge_over(Figment::from(Serialized::defaults(Self::default())));
        let extracted = Self::extract(&merged);
        let broken = match &extracted {
            Ok(config) => config.validate(),
            Err(broken) => broken.clone(),
        };
        problems.extend(broken.into_iter().map(|(key, what)| Problem {
            origin: layers.origin(&key),
            key,
            what,
        }));
        // An unknown key is also a wrong one for serde; it is listed once, with its suggestion.
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.key.clone()));
        match extracted {
            Ok(config) if problems.is_empty() => Ok(Loaded { config, layers }),
            Ok(_) | Err(_) => Err(ConfigError::Problems { problems }),
        }
    }

    /// Every rule that the values break: (key path, what is wrong and what would be right).
    #[must_use]
    pub fn validate(&self) -> Vec<(String, String)> {
        check::problems(self)
    }

    /// All sections, or for each that does not fit its type the first reason.
    fn extract(merged: &Figment) -> Result<Self, Vec<(String, String)>> {
        let mut problems = Vec::new();
        let mut section = Sections {
            merged,
            problems: &mut problems,
        };
        let config = Self {
            node: section.take("node"),
            ledger: section.take("ledger"),
            admission: section.take("admission"),
            market: section.take("market"),
            roster: section.take("roster"),
            field: section.take("field"),
            memory: section.take("memory"),
            inference: section.take("inference"),
            models: section.take("models"),
            agents: section.take("agents"),
            risk: section.take("risk"),
            telemetry: section.take("telemetry"),
            gateway: section.take("gateway"),
        };
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }
}

/// Takes sections out one by one, so that one wrong value does not hide those of other sections.
struct Sections<'a> {
    merged: &'a Figment,
    problems: &'a mut Vec<(String, String)>,
}

impl Sections<'_> {
    fn take<T: for<'de> Deserialize<'de> + Default>(&mut self, name: &str) -> T {
        match self.merged.extract_inner(name) {
            Ok(section) => section,
            Err(errors) => {
                self.problems.extend(errors.into_iter().map(|error| {
                    // The path within the section, with the section itself at the end.
                    let mut path = error.path;
                    path.pop_if(|last| last == name);
                    path.insert(0, name.to_owned());
                    let path = path.join(".");
                    (path, error.kind.to_string())
                }));
                T::default()
            }
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: Node::default(),
            ledger: LedgerRules::default(),
            admission: Admission::default(),
            market: Market::default(),
            roster: Roster::default(),
            field: Field::default(),
            memory: Memory::default(),
            inference: Inference::default(),
            models: Model::defaults(),
            agents: AgentType::defaults(),
            risk: Risk::default(),
            telemetry: Telemetry::default(),
            gateway: Gateway::default(),
        }
    }
}

impl Loaded {
    /// Every setting with its value and where it came from, by key path.
    #[must_use]
    pub fn show(&self) -> Vec<Setting> {
        show::settings(&self.config, &self.layers)
    }
}

#[cfg(test)]
mod tests;
