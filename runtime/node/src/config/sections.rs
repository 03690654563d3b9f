//! One struct per section. Units are in the types and names; ranges and effects stand in `colony.toml`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::LazyLock, time::Duration};

use colony_core::{
    escalation::{
        Due,
        risk::{self, similarity::Bounds},
    },
    field,
    id::NodeId,
    span,
};
use colony_inference::{EmbedLimits, GenerateLimits};
use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::{Deserialize, Serialize};

pub use crate::{market::Settings as Market, memory::Settings as Memory};

/// Who this node is and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Its name, unique in the colony.
    pub id: NodeId,
    /// Address of the gRPC API. There is no authentication yet, hence the loopback default.
    pub listen: SocketAddr,
    /// Folder of everything durable.
    pub data_dir: PathBuf,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: NodeId::new("node-1").expect("a legal name"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            data_dir: PathBuf::from("colony-data"),
        }
    }
}

/// What keeps the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreEngine {
    /// A file in the data folder.
    #[default]
    Sqlite,
    /// Nothing survives the process: for benches and demos.
    Memory,
}

/// Where the ledger is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// What keeps it.
    pub engine: StoreEngine,
}

/// How agents live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roster {
    /// A step that takes longer is given up, and charged to its task as a failed attempt.
    #[serde(with = "span")]
    pub step_timeout: Duration,
    /// How long a stopping node waits for work in hand.
    #[serde(with = "span")]
    pub drain_timeout: Duration,
    /// Restarts of one agent within `restart_window` after which it stays down.
    pub restarts_max: u32,
    /// The window of `restarts_max`.
    #[serde(with = "span")]
    pub restart_window: Duration,
    /// An agent idle for so long becomes a row instead of an actor.
    #[serde(with = "span")]
    pub sleep_after: Duration,
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            step_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            restarts_max: 5,
            restart_window: Duration::from_secs(60),
            sleep_after: Duration::from_secs(300),
        }
    }
}

/// How pheromones fade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Field {
    /// Time in which a pheromone loses half its strength, by signal type.
    pub half_lives: HalfLives,
    /// Most cells kept; beyond it the faintest are dropped.
    pub cells_max: usize,
}

/// Half-life of each signal that something in the node leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HalfLives {
    /// Something went wrong here.
    #[serde(with = "span")]
    pub danger: Duration,
    /// Something went well here.
    #[serde(with = "span")]
    pub success: Duration,
}

impl Default for Field {
    fn default() -> Self {
        Self {
            half_lives: HalfLives::default(),
            cells_max: 100_000,
        }
    }
}

impl Default for HalfLives {
    fn default() -> Self {
        let law = field::HalfLives::default();
        Self {
            danger: law.danger,
            success: law.success,
        }
    }
}

impl Field {
    /// The half-lives as the rules take them.
    #[must_use]
    pub fn half_lives(&self) -> field::HalfLives {
        field::HalfLives {
            danger: self.half_lives.danger,
            success: self.half_lives.success,
            ..field::HalfLives::default()
        }
    }
}

/// What runs the models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// ONNX Runtime.
    #[default]
    Ort,
    /// Deterministic stand-ins that need no files, for tests and first steps.
    Echo,
}

impl Engine {
    /// The name in the configuration and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::Echo => "echo",
        }
    }
}

/// How models are run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inference {
    /// What runs the models.
    pub engine: Engine,
    /// Folder of models and runtime; none: `$COLONY_HOME`, or the user's cache folder.
    pub home: Option<PathBuf>,
    /// Limits of each embedding worker.
    pub embed: EmbedLimits,
    /// Limits of each generating worker.
    pub generate: GenerateLimits,
}

/// What a model does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelRole {
    /// Text to a vector.
    #[default]
    Embed,
    /// Prompt to text.
    Generate,
}

/// One model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What it does.
    pub kind: ModelRole,
    /// A name of the catalog, or a folder that holds `model.json`.
    pub source: String,
}

impl Model {
    pub(super) fn defaults() -> BTreeMap<String, Self> {
        let model = |name: &str, kind| {
            let source = name.to_owned();
            (name.to_owned(), Self { kind, source })
        };
        BTreeMap::from([
            model("minilm", ModelRole::Embed),
            model("smollm2", ModelRole::Generate),
        ])
    }
}

/// One agent type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentType {
    /// The kind that does its steps.
    pub kind: String,
    /// How many agents there are of it.
    #[serde(default = "AgentType::default_count")]
    pub count: u32,
    /// Raised with every change of the declaration.
    #[serde(default = "AgentType::default_version")]
    pub version: u32,
    /// The language model, by its name in `[models]`.
    #[serde(default)]
    pub model: Option<String>,
    /// The embedding model, by its name in `[models]`.
    #[serde(default)]
    pub embedder: Option<String>,
    /// The system prompt; none: the kind's own.
    #[serde(default)]
    pub prompt: Option<String>,
    /// When the answers of humans to its questions are due.
    #[serde(default)]
    pub approvals: Due,
    /// Settings of the kind itself.
    #[serde(default = "AgentType::no_settings")]
    pub settings: serde_json::Value,
}

impl Default for AgentType {
    fn default() -> Self {
        Self {
            kind: "echo".to_owned(),
            count: Self::default_count(),
            version: Self::default_version(),
            model: None,
            embedder: None,
            prompt: None,
            approvals: Due::default(),
            settings: Self::no_settings(),
        }
    }
}

impl AgentType {
    const fn default_count() -> u32 {
        10
    }

    const fn default_version() -> u32 {
        1
    }

    fn no_settings() -> serde_json::Value {
        serde_json::Value::Object(serde_json::Map::new())
    }

    pub(super) fn defaults() -> BTreeMap<String, Self> {
        let triage = Self {
            kind: "triage".to_owned(),
            count: 100,
            model: Some("smollm2".to_owned()),
            embedder: Some("minilm".to_owned()),
            ..Self::default()
        };
        BTreeMap::from([
            ("triage".to_owned(), triage),
            ("echo".to_owned(), Self::default()),
        ])
    }
}

/// What needs a human.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Risk {
    /// What the words of a request cannot say.
    pub similarity: RiskSimilarity,
    /// Requests that could do harm, the gravest first.
    pub patterns: Vec<risk::Pattern>,
}

/// Requests that mean the same as an example of harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RiskSimilarity {
    /// Whether requests are compared with examples at all.
    pub enabled: bool,
    /// JSON lines of examples; none: those shipped.
    pub examples: Option<PathBuf>,
    /// How far behind the nearest example others still have a say.
    pub width: f64,
    /// Least lead of the nearness to risky examples over that to harmless ones.
    pub margin_min: f64,
}

impl Default for RiskSimilarity {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self {
            enabled: true,
            examples: None,
            width: bounds.width,
            margin_min: bounds.margin_min,
        }
    }
}

impl RiskSimilarity {
    /// The bounds as the rules take them.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        Bounds {
            width: self.width,
            margin_min: self.margin_min,
        }
    }
}

impl Risk {
    /// The patterns, ready to match.
    ///
    /// # Errors
    /// The first thing wrong with them.
    pub fn policy(&self) -> Result<risk::Patterns, risk::Error> {
        risk::Patterns::new(self.patterns.clone())
    }
}

impl Default for Risk {
    fn default() -> Self {
        static PATTERNS: LazyLock<Vec<risk::Pattern>> = LazyLock::new(|| {
            Figment::from(Toml::string(include_str!("risk.toml")))
                .extract_inner("patterns")
                .expect("a test reads this file")
        });
        Self {
            similarity: RiskSimilarity::default(),
            patterns: PATTERNS.clone(),
        }
    }
}

/// What is reported, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Address of an OTLP receiver over gRPC; none: no spans are sent.
    pub otlp_endpoint: Option<String>,
    /// The share of tasks that are traced, 0 to 1.
    pub sample_ratio: f64,
    /// The name the node reports itself under.
    pub service_name: String,
    /// What is logged: a level, or directives such as `info,colony_node=debug`.
    pub log: String,
    /// The form of a log line.
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sample_ratio: 1.0,
            service_name: "colony".to_owned(),
            log: "info".to_owned(),
            log_format: LogFormat::default(),
        }
    }
}

/// Limits of the gRPC API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Largest message of a request, in bytes. Answers are cut into pages that clients take by default.
    pub message_bytes_max: usize,
    /// Most connections at once.
    pub connections_max: usize,
    /// Most requests at once on one connection.
    pub streams_max: u32,
    /// Most requests at once on all connections; one counts until its answer has been read.
    pub requests_max: usize,
    /// Most watch streams at once.
    pub watches_max: usize,
    /// A request that takes longer is given up; watch streams are exempt. A connection on which a piece of an
    /// answer stays unread for longer is closed.
    #[serde(with = "span")]
    pub request_timeout: Duration,
    /// How often a silent connection is asked whether it is there.
    #[serde(with = "span")]
    pub keepalive_interval: Duration,
    /// A connection that does not answer for so long is closed.
    #[serde(with = "span")]
    pub keepalive_timeout: Duration,
    /// A connection without a first request after so long is closed.
    #[serde(with = "span")]
    pub first_request_timeout: Duration,
    /// A connection without a request in hand for so long is closed.
    #[serde(with = "span")]
    pub idle_timeout: Duration,
    /// A connection that is older takes no new requests and is closed when it has none; 0 = never.
    #[serde(with = "span")]
    pub connection_age_max: Duration,
}

/// The HTTP listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Its address; none: there is no HTTP listener.
    pub listen: Option<SocketAddr>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            // A batch of a thousand ordinary tasks fits.
            message_bytes_max: 4 * 1024 * 1024,
            connections_max: 1_024,
            streams_max: 256,
            requests_max: 1_024,
            watches_max: 256,
            request_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            first_request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            connection_age_max: Duration::ZERO,
        }
    }
}
