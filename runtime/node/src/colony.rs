//! A node, whole: the rooms, plugged together, from start to stop.
//!
//! ```text
//!   start: ledger.begin ► field, memory ► workers ► market ► roster (agents offer themselves)
//!   stop:  gateway refuses ► market claims nothing more ► agents hand back ► memory, field saved ► ledger
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_agents::{
    Embed, Generate, Kinds, Missing, Ports, Recollect, Tools, TypeSettings, UnknownKind,
};
use colony_core::{
    escalation::risk,
    field::Origin,
    id::{NameError, NodeId, TypeName},
    port::{Chance, Clock},
};
use colony_store::{Ledger, LedgerError};
use opentelemetry_sdk::trace::SdkTracerProvider;
use ractor::SpawnErr;

use crate::{
    config::Config,
    field::Field,
    market,
    memory::{self, Memory, MemoryPort},
    ports::{Alone, Member, Membership},
    rooms::{Ids, Rooms},
    roster::{self, Hands, Restarts, Roster, Troop},
    telemetry::Telemetry,
    workers::{EmbedPort, GeneratePort, Workers},
};

/// Wait before a crashed agent is started again; doubles with each crash.
const RESTART_WAIT: Duration = Duration::from_millis(100);

/// Everything of the outside that a node is given.
#[derive(Debug)]
pub struct World {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// The book.
    pub ledger: Arc<dyn Ledger>,
    /// The models.
    pub workers: Workers,
    /// The kinds of agents there are.
    pub kinds: Kinds,
    /// The tools agents may use.
    pub tools: Tools,
    /// Spans.
    pub telemetry: Telemetry,
    /// Who else is there; none = alone.
    pub membership: Option<Arc<dyn Membership>>,
}

impl World {
    /// A world without models, with the ready-made kinds and tools.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, chance: Arc<dyn Chance>, ledger: Arc<dyn Ledger>) -> Self {
        let telemetry = Telemetry::new(None::<&SdkTracerProvider>, 0.0, &*chance);
        Self {
            clock,
            chance,
            ledger,
            workers: Workers::default(),
            kinds: Kinds::builtin(),
            tools: Tools::builtin(),
            telemetry,
            membership: None,
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The book.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A name in the configuration.
    #[error("{key}: {error}")]
    Name {
        /// The key path.
        key: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// An agent type names a kind that does not exist.
    #[error("agents.{agent_type}.kind: {error}")]
    Kind {
        /// The type.
        agent_type: TypeName,
        /// What there is.
        error: UnknownKind,
    },
    /// An agent type's settings do not suit its kind.
    #[error("{}", problems.join("; "))]
    Settings {
        /// One line each, with the key path.
        problems: Vec<String>,
    },
    /// An agent type names a model that is not declared.
    #[error("agents.{agent_type}.{key} = {model:?} names no model of that role in [models]; there are: {}", known.join(", "))]
    Model {
        /// The type.
        agent_type: TypeName,
        /// `model` or `embedder`.
        key: &'static str,
        /// What it names.
        model: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A type's memory does not suit its embedding model.
    #[error(transparent)]
    Memory(#[from] memory::BindError),
    /// A risk pattern that makes no sense.
    #[error("risk.patterns: {0}")]
    Risk(#[from] risk::Error),
    /// The actor system refused.
    #[error("the market could not start: {0}")]
    Spawn(#[from] SpawnErr),
    /// The roster.
    #[error(transparent)]
    Roster(#[from] roster::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Colony {
    rooms: Arc<Rooms>,
    drain: Duration,
    sweep: tokio::task::JoinHandle<()>,
}

impl Colony {
    /// Starts a node: takes up what former lives have left in the book and begins to work.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: &Config, world: World) -> Result<Self, StartError> {
        let World {
            clock,
            chance,
            ledger,
            workers,
            kinds,
            tools,
            telemetry,
            membership,
        } = world;
        let types = declared(config, &kinds)?;
        let node: NodeId = config.node.id.clone();
        let incarnation = ledger.begin(&node, clock.now()).await?;
        let field = Field::open(
            config.field.half_lives(),
            config.field.cells_max,
            Origin {
                node: node.clone(),
                incarnation,
            },
            Arc::clone(&ledger),
            Arc::clone(&clock),
        )
        .await?;
        let memory = Memory::open(
            config.memory.settings(),
            Arc::clone(&ledger),
            Arc::clone(&clock),
        )
        .await?;
        let market = market::Handle::open(market::Needs {
            settings: config.market.settings(&config.roster),
            node: node.clone(),
            incarnation,
            ledger: Arc::clone(&ledger),
            clock: Arc::clone(&clock),
            chance: Arc::clone(&chance),
            telemetry: telemetry.clone(),
        })
        .await?;
        let tools = Arc::new(tools);
        let risk = Arc::new(config.risk.policy()?);
        let mut troops = Vec::new();
        for (count, settings) in types.values() {
            let embedder = settings.embedder.as_ref();
            if let Some(embedder) = embedder.and_then(|name| workers.embedders.get(name)) {
                memory.bind(&settings.name, &embedder.info().model).await?;
            }
            let ports = ports(settings, &workers, &memory, &telemetry)?;
            let kind = kinds
                .get(&settings.kind)
                .map_err(|error| StartError::Kind {
                    agent_type: settings.name.clone(),
                    error,
                })?;
            let hands = Hands {
                kind,
                settings: Arc::clone(settings),
                ports: Arc::new(ports),
                tools: Arc::clone(&tools),
                risk: Arc::clone(&risk),
                ledger: Arc::clone(&ledger),
                market: market.clone(),
                field: field.clone(),
                clock: Arc::clone(&clock),
                telemetry: telemetry.clone(),
                step_timeout: config.roster.step_timeout,
            };
            troops.push(Troop {
                hands: Arc::new(hands),
                count: *count,
            });
        }
        let restarts = Restarts {
            crashes_max: config.roster.restarts_max,
            window: config.roster.restart_window,
            wait: RESTART_WAIT,
        };
        let roster = Roster::open(troops, restarts, Arc::clone(&chance)).await?;
        let membership = membership.unwrap_or_else(|| {
            let address = config.node.listen.to_string();
            Arc::new(Alone(Member {
                node: node.clone(),
                address,
                ready: true,
            }))
        });
        let rooms = Arc::new(Rooms {
            node,
            incarnation,
            started_at: clock.now(),
            ids: Ids(parking_lot::Mutex::new(chance.stream("ids", incarnation.0))),
            types: types.into_values().map(|(_, settings)| settings).collect(),
            admission: config.admission.limits(),
            submits: tokio::sync::Semaphore::new(config.admission.submits_in_flight_max),
            draining: std::sync::atomic::AtomicBool::new(false),
            clock,
            ledger,
            market,
            roster,
            field,
            memory,
            workers,
            telemetry,
            membership,
        });
        let sweep = sweep(Arc::clone(&rooms));
        Ok(Self {
            rooms,
            drain: config.roster.drain_timeout,
            sweep,
        })
    }

    /// The rooms, for the doors.
    #[must_use]
    pub fn rooms(&self) -> Arc<Rooms> {
        Arc::clone(&self.rooms)
    }

    /// Stops in order: nothing new, agents hand back what they hold, everything is written down. True when
    /// all agents left in time; what they did not hand back the next life takes up.
    ///
    /// Not cancel-safe: dropped before it returns, the node is left half stopped; the book is whole all the
    /// same.
    pub async fn stop(self) -> bool {
        let rooms = &self.rooms;
        rooms
            .draining
            .store(true, std::sync::atomic::Ordering::Release);
        self.sweep.abort();
        rooms.market.close(self.drain).await;
        let all = rooms.roster.leave(self.drain).await;
        rooms.market.stop();
        if let Err(error) = rooms.memory.save_all().await {
            tracing::warn!(%error, "memory not saved, it is learned again at the next start");
        }
        if let Err(error) = rooms.field.save().await {
            tracing::warn!(%error, "field not saved");
        }
        rooms.ledger.close().await;
        all
    }
}

/// Whether the declared agent types name kinds that exist and suit them: what a start would refuse, without
/// starting.
///
/// # Errors
/// [`StartError`].
pub fn check_agents(config: &Config, kinds: &Kinds) -> Result<(), StartError> {
    declared(config, kinds).map(drop)
}

type Declared = BTreeMap<TypeName, (u32, Arc<TypeSettings>)>;

/// The declared agent types, checked by their kinds.
fn declared(config: &Config, kinds: &Kinds) -> Result<Declared, StartError> {
    let mut types = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, declared) in &config.agents {
        let name = TypeName::new(name).map_err(|error| StartError::Name {
            key: format!("agents.{name}"),
            error,
        })?;
        let settings = TypeSettings {
            name: name.clone(),
            kind: declared.kind.clone(),
            version: declared.version,
            model: declared.model.clone(),
            embedder: declared.embedder.clone(),
            prompt: declared.prompt.clone(),
            settings: declared.settings.clone(),
        };
        let kind = kinds
            .get(&settings.kind)
            .map_err(|error| StartError::Kind {
                agent_type: name.clone(),
                error,
            })?;
        if let Err(found) = kind.check(&settings) {
            problems.extend(found.into_iter().map(|p| format!("agents.{name}.{p}")));
        }
        types.insert(name, (declared.count, Arc::new(settings)));
    }
    if problems.is_empty() {
        Ok(types)
    } else {
        Err(StartError::Settings { problems })
    }
}

fn ports(
    settings: &TypeSettings,
    workers: &Workers,
    memory: &Memory,
    telemetry: &Telemetry,
) -> Result<Ports, StartError> {
    let unknown = |key, model: &str, known: Vec<String>| StartError::Model {
        agent_type: settings.name.clone(),
        key,
        model: model.to_owned(),
        known,
    };
    let embed: Arc<dyn Embed> = match &settings.embedder {
        None => Arc::new(Missing),
        Some(name) => {
            let embedder = workers.embedders.get(name).cloned().ok_or_else(|| {
                unknown(
                    "embedder",
                    name,
                    workers.embedders.keys().cloned().collect(),
                )
            })?;
            Arc::new(EmbedPort {
                embedder,
                telemetry: telemetry.clone(),
            })
        }
    };
    let generate: Arc<dyn Generate> = match &settings.model {
        None => Arc::new(Missing),
        Some(name) => {
            let generator = workers.generators.get(name).cloned().ok_or_else(|| {
                unknown("model", name, workers.generators.keys().cloned().collect())
            })?;
            Arc::new(GeneratePort {
                generator,
                telemetry: telemetry.clone(),
            })
        }
    };
    let memory: Arc<dyn Recollect> = match &settings.embedder {
        None => Arc::new(Missing),
        Some(_) => Arc::new(MemoryPort(memory.clone())),
    };
    Ok(Ports {
        embed,
        generate,
        memory,
    })
}

/// Housekeeping: deadlines and faded trails.
fn sweep(rooms: Arc<Rooms>) -> tokio::task::JoinHandle<()> {
    /// Deadlines are met to this precision; trails fade much slower.
    const EVERY: Duration = Duration::from_millis(500);
    /// Sweeps between two compactions of the field.
    const COMPACT_EVERY: u32 = 60;
    #[expect(
        clippy::disallowed_methods,
        reason = "aborted by Colony::stop, which holds the handle"
    )]
    tokio::spawn(async move {
        for round in 1_u32.. {
            tokio::time::sleep(EVERY).await;
            match rooms.ledger.expire(rooms.clock.now()).await {
                Ok(expired) => {
                    for task in expired {
                        rooms.market.cancel(task);
                    }
                }
                Err(LedgerError::Shut) => return,
                Err(error) => tracing::warn!(%error, "deadlines not checked, trying again"),
            }
            if round.is_multiple_of(COMPACT_EVERY) {
                rooms.field.compact();
            }
        }
    })
}

impl From<memory::TeachError> for crate::rooms::FeedbackError {
    fn from(error: memory::TeachError) -> Self {
        match error {
            memory::TeachError::Ledger(error) => Self::Ledger(error),
            memory::TeachError::NoVector | memory::TeachError::WrongLength { .. } => {
                Self::NotLearnable {
                    why: error.to_string(),
                }
            }
        }
    }
}
