//! The configuration: one struct per section, from four layers.
//!
//! ```text
//!   default ◄── file ◄── COLONY__SECTION__KEY ◄── flag      the later layer wins, key by key
//!      └──────────┴─────────────┴──────────────────┴──► Config::load ──► check ──► components
//! ```
//! `colony.toml` at the root of the repository holds every setting with its default, unit, range and
//! effect; a test compares it with [`Config::default`]. Nothing here is read again while the node runs.

mod check;
mod layer;
mod sections;
mod show;
mod unknown;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use colony_core::{admission, breaker, ledger};
use figment::{Figment, providers::Serialized, value::Value};
use serde::{Deserialize, Serialize};

pub use sections::{
    AgentType, Engine, Field, Gateway, HalfLives, Http, Inference, LogFormat, Market, Memory,
    Model, ModelRole, Node, Risk, RiskSimilarity, Roster, Store, StoreEngine, Telemetry,
};
pub use show::{Origin, Setting};

use layer::Layers;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this node is and where it listens.
    pub node: Node,
    /// Where the ledger is kept.
    pub store: Store,
    /// The rules of the ledger.
    pub ledger: ledger::Policy,
    /// What is let in.
    pub admission: admission::Limits,
    /// How tasks meet agents.
    pub market: Market,
    /// How agents live.
    pub roster: Roster,
    /// When something outside that fails is left alone.
    pub breaker: breaker::Settings,
    /// How pheromones fade.
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
    /// Limits of the gRPC API.
    pub gateway: Gateway,
    /// Where health and metrics are told over HTTP.
    pub http: Http,
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
    /// What is allowed, and probably not meant.
    pub warnings: Vec<Problem>,
    layers: Layers,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// No node starts with it.
    Error,
    /// It is allowed, and probably not meant.
    Warning,
}

/// What a check says about a key; [`Config::load_checked`] adds where its value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The key path, such as `node.listen`.
    pub key: String,
    /// What is wrong with the value and what would be right.
    pub what: String,
}

impl Finding {
    /// A value that no node starts with.
    pub fn error(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            key: key.into(),
            what: what.into(),
        }
    }

    /// A value that is allowed, and probably not meant.
    pub fn warning(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(key, what)
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The key path, such as `node.listen`.
    pub key: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong with it and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
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
    /// Unknown keys and values that break a rule, all of them, and the warnings beside them.
    #[error("{} in the configuration:{}", errors(problems), lines(problems))]
    Problems {
        /// At least one is an error.
        problems: Vec<Problem>,
    },
}

fn errors(problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|p| p.severity == Severity::Error);
    match errors.count() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
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
        Self::load_checked(sources, |_| Vec::new())
    }

    /// The same with the rules of those who know more: which kinds there are, which files lie where. `more` sees
    /// the values that could be read, and defaults in place of the others.
    ///
    /// # Errors
    /// As for [`Config::load`]; what `more` finds is in the same list.
    pub fn load_checked(
        sources: &Sources,
        more: impl FnOnce(&Self) -> Vec<Finding>,
    ) -> Result<Loaded, ConfigError> {
        let layers = Layers::read(sources)?;
        let mut problems = unknown::keys(&layers);
        let merged = layers.merge_over(Figment::from(Serialized::defaults(Self::default())));
        let (config, unread) = Self::extract(&merged);
        let models_unread = unread.iter().any(|(key, _)| key.starts_with("models."));
        let as_errors = |found: Vec<(String, String)>| {
            let findings = found.into_iter();
            findings.map(|(key, what)| Finding::error(key, what))
        };
        let found = as_errors(unread)
            .chain(as_errors(config.validate()))
            .chain(check::warnings(&config, &layers))
            .chain(more(&config));
        problems.extend(found.map(|finding| Problem {
            severity: finding.severity,
            origin: layers.origin(&finding.key),
            key: finding.key,
            what: finding.what,
        }));
        // An unknown key is also a wrong one for serde, and an unread one has its default for the checks: what is
        // said first is the cause.
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.key.clone()));
        if models_unread {
            problems.retain(|problem| !is_model_use(&problem.key));
        }
        if problems.iter().any(|p| p.severity == Severity::Error) {
            return Err(ConfigError::Problems { problems });
        }
        Ok(Loaded {
            config,
            warnings: problems,
            layers,
        })
    }

    /// Every rule that the values break: (key path, what is wrong and what would be right).
    #[must_use]
    pub fn validate(&self) -> Vec<(String, String)> {
        check::problems(self)
    }

    /// All sections, and what could not be read of them: its key and why. In its place stands the default.
    fn extract(merged: &Figment) -> (Self, Vec<(String, String)>) {
        let mut problems = Vec::new();
        let mut section = Sections {
            merged,
            problems: &mut problems,
        };
        let config = Self {
            node: section.take("node"),
            store: section.take("store"),
            ledger: section.take("ledger"),
            admission: section.take("admission"),
            market: section.take("market"),
            roster: section.take("roster"),
            breaker: section.take("breaker"),
            field: section.take("field"),
            memory: section.take("memory"),
            inference: section.take("inference"),
            models: section.take("models"),
            agents: section.take("agents"),
            risk: section.take("risk"),
            telemetry: section.take("telemetry"),
            gateway: section.take("gateway"),
            http: section.take("http"),
        };
        (config, problems)
    }
}

/// Whether `key` says which model an agent type uses.
fn is_model_use(key: &str) -> bool {
    let last = key.rsplit('.').next();
    key.starts_with("agents.") && matches!(last, Some("model" | "embedder"))
}

/// Takes sections out one by one and leaves out what cannot be read, so that one wrong value does not hide others.
struct Sections<'a> {
    merged: &'a Figment,
    problems: &'a mut Vec<(String, String)>,
}

impl Sections<'_> {
    fn take<T: for<'de> Deserialize<'de> + Default>(&mut self, name: &str) -> T {
        let Ok(mut section) = self.merged.find_value(name) else {
            return T::default();
        };
        loop {
            let errors =
                match Figment::from(Serialized::default(name, &section)).extract_inner(name) {
                    Ok(taken) => return taken,
                    Err(errors) => errors,
                };
            let mut removed = false;
            for error in errors {
                // The path within the section, with the section itself at the end.
                let mut path = error.path;
                path.pop_if(|last| last == name);
                removed |= remove(&mut section, &path);
                path.insert(0, name.to_owned());
                let key = path.join(".");
                // That a field is missing follows, if it was just taken out.
                let below = format!("{key}.");
                if !self
                    .problems
                    .iter()
                    .any(|(known, _)| known.starts_with(&below))
                {
                    self.problems.push((key, reworded(&error.kind)));
                }
            }
            if !removed {
                return T::default();
            }
        }
    }
}

/// What serde says, in words that say what to write.
fn reworded(kind: &figment::error::Kind) -> String {
    let said = kind.to_string();
    match said.as_str() {
        "invalid socket address syntax" => {
            "no address; write IP:PORT, such as 127.0.0.1:7400 or [::1]:7400".to_owned()
        }
        _ => said,
    }
}

/// Takes the value at `path` out of `table`, or the list or text that the path leads into.
fn remove(table: &mut Value, path: &[String]) -> bool {
    let (Value::Dict(_, entries), [first, rest @ ..]) = (table, path) else {
        return false;
    };
    match entries.get_mut(first) {
        Some(inner @ Value::Dict(..)) if !rest.is_empty() => remove(inner, rest),
        Some(_) => entries.remove(first).is_some(),
        None => false,
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: Node::default(),
            store: Store::default(),
            ledger: ledger::Policy::default(),
            admission: admission::Limits::default(),
            market: Market::default(),
            roster: Roster::default(),
            breaker: breaker::Settings::default(),
            field: Field::default(),
            memory: Memory::default(),
            inference: Inference::default(),
            models: Model::defaults(),
            agents: AgentType::defaults(),
            risk: Risk::default(),
            telemetry: Telemetry::default(),
            gateway: Gateway::default(),
            http: Http::default(),
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
