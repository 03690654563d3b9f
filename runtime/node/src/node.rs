//! A node, whole: the components, plugged together, from start to stop.
//!
//! ```text
//!   start: root ► ledger.register ► field, memory ► market ► roster (agents offer themselves) ► sweep
//!   stop:  gateway refuses ► market claims nothing more ► agents give back ► endings traced ► memory, field saved ► ledger
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use colony_agents::{
    Embed, Generate, Kinds, MemoryPort, Ports, Tools, TypeSettings, Unconfigured, UnknownKind,
};
use colony_core::{
    field::Origin,
    id::{NodeId, QueueName, TypeName},
    ledger::Holder,
    port::{Clock, RandomSource},
    task::State,
};
use colony_store::{Ledger, LedgerError, Others, Registered, TaskFilter};
use opentelemetry_sdk::trace::SdkTracerProvider;
use ractor::SpawnErr;
use tokio::sync::Semaphore;

use crate::{
    approvals::{Approvals, Overdue},
    breakers::{Breakers, model_port},
    config::{Config, Finding},
    field::Field,
    handle::{self, Ids, NodeHandle},
    market,
    memory::{self, Memory},
    ports::{Alone, Member, Membership},
    risk,
    root::{self, Health},
    roster::{self, AgentDeps, AgentGroup, Restarts, Roster},
    sweep::SweepArgs,
    telemetry::{
        Telemetry,
        endings::{self, Endings},
    },
    workers::{EmbedPort, GeneratePort, Workers},
};

/// Wait before a crashed agent is started again; doubles with each crash.
const RESTART_WAIT: Duration = Duration::from_millis(100);

/// Everything of the outside that a node is given.
#[derive(Debug)]
pub struct Dependencies {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn RandomSource>,
    /// The ledger.
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

impl Dependencies {
    /// Those of a node without models, with the ready-made kinds and tools.
    #[must_use]
    pub fn new(
        clock: Arc<dyn Clock>,
        random: Arc<dyn RandomSource>,
        ledger: Arc<dyn Ledger>,
    ) -> Self {
        let telemetry = Telemetry::new(None::<&SdkTracerProvider>, 0.0, &*random);
        Self {
            clock,
            random,
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
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An agent type names a kind that does not exist.
    #[error("agents.{agent_type}.kind: {error}")]
    Kind {
        /// The type.
        agent_type: TypeName,
        /// What there is.
        error: UnknownKind,
    },
    /// Agent types with names that are none, of kinds that do not exist, or with settings that do not suit these.
    #[error("{}", lines(problems))]
    Settings {
        /// All of them.
        problems: Vec<Finding>,
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
    Risk(#[from] colony_core::escalation::risk::Error),
    /// Examples of harm that cannot be read.
    #[error("risk.similarity.examples: {0}")]
    Examples(#[from] risk::ExamplesError),
    /// The actor system refused.
    #[error("a component could not start: {0}")]
    Spawn(#[from] SpawnErr),
    /// The roster.
    #[error(transparent)]
    Roster(#[from] roster::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    handle: NodeHandle,
    /// Traces how tasks end; none when spans go nowhere.
    endings: Option<endings::Handle>,
    drain: Duration,
}

impl Node {
    /// Starts a node: takes up what former lives have left in the ledger and begins to work.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: &Config, dependencies: Dependencies) -> Result<Self, StartError> {
        let types = declared(config, &dependencies.kinds)
            .map_err(|problems| StartError::Settings { problems })?;
        let clock = Arc::clone(&dependencies.clock);
        let root = root::Handle::start(&dependencies.ledger, clock).await?;
        let endings = Endings::of(&dependencies.ledger, &dependencies.telemetry);
        match Self::assemble(config, dependencies, types, &root).await {
            Ok(handle) => {
                let endings = endings.map(|endings| endings.start(&root));
                root.started().await;
                Ok(Self {
                    handle,
                    endings,
                    drain: config.roster.drain_timeout,
                })
            }
            Err(error) => {
                // Whatever was started is a child of the root, and ends with it.
                root.stopping().await;
                root.stop();
                Err(error)
            }
        }
    }

    async fn assemble(
        config: &Config,
        dependencies: Dependencies,
        types: Declared,
        root: &root::Handle,
    ) -> Result<NodeHandle, StartError> {
        let Dependencies {
            clock,
            random,
            ledger,
            workers,
            kinds,
            tools,
            telemetry,
            membership,
        } = dependencies;
        let node: NodeId = config.node.id.clone();
        let registered = ledger.register(&node, Others::Nobody).await?;
        say(&registered);
        let incarnation = registered.incarnation;
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
        let memory = Memory::open(config.memory, node.clone(), Arc::clone(&ledger)).await?;
        let breakers = Breakers::new(config.breaker, needs(&types), Arc::clone(&clock));
        let market = market::Handle::open(
            market::Needs {
                settings: config.market.clone(),
                passivate_after: config.roster.sleep_after,
                node: node.clone(),
                incarnation,
                ledger: Arc::clone(&ledger),
                breakers: breakers.clone(),
                clock: Arc::clone(&clock),
                random: Arc::clone(&random),
                telemetry: telemetry.clone(),
            },
            root.cell(),
        )
        .await?;
        let tools = Arc::new(tools);
        let risk = Arc::new(config.risk.policy()?);
        let examples = risk::examples(&config.risk)?;
        let mut embedded = BTreeMap::new();
        let mut groups = Vec::new();
        for (count, settings) in types.values() {
            let embedder = settings.embedder.as_ref();
            if let Some(embedder) = embedder.and_then(|name| workers.embedders.get(name)) {
                memory.bind(&settings.name, &embedder.info().model).await?;
            }
            let mut ports = ports(settings, &workers, &memory, &breakers, &telemetry)?;
            // Types with the same embedding model share its vectors.
            if let (Some(name), Some(examples)) = (&settings.embedder, &examples) {
                let port = embedded.entry(name.clone()).or_insert_with(|| {
                    let limits = &config.inference.embed;
                    Arc::new(risk::Port::new(examples.clone(), &ports.embed, limits))
                });
                ports.examples = Arc::clone(port) as _;
            }
            let kind = kinds
                .get(&settings.kind)
                .map_err(|error| StartError::Kind {
                    agent_type: settings.name.clone(),
                    error,
                })?;
            let deps = AgentDeps {
                kind,
                settings: Arc::clone(settings),
                ports: Arc::new(ports),
                tools: Arc::clone(&tools),
                risk: Arc::clone(&risk),
                ledger: Arc::clone(&ledger),
                market: market.clone(),
                field: field.clone(),
                memory: memory.clone(),
                breakers: breakers.clone(),
                clock: Arc::clone(&clock),
                telemetry: telemetry.clone(),
                step_timeout: config.roster.step_timeout,
            };
            groups.push(AgentGroup {
                deps: Arc::new(deps),
                count: *count,
            });
        }
        let restarts = Restarts {
            crashes_max: config.roster.restarts_max,
            window: config.roster.restart_window,
            wait: RESTART_WAIT,
        };
        let roster = Roster::open(groups, restarts, Arc::clone(&random), root.cell()).await?;
        let mut watched: BTreeMap<_, _> = roster
            .actors()
            .map(|(actor, name)| (actor, format!("the supervisor of {name}")))
            .collect();
        watched.insert(market.actor(), "the market".to_owned());
        root.watch(watched);
        let ended = workers.ended();
        root.supervise("the models", async move {
            Err(format!("the worker of {} has ended", ended.await))
        });
        let approvals = Approvals {
            ledger: Arc::clone(&ledger),
            telemetry: telemetry.clone(),
        };
        root.sweep(SweepArgs {
            ledger: Arc::clone(&ledger),
            market: market.clone(),
            field: field.clone(),
            memory: memory.clone(),
            root: root.clone(),
            overdue: Overdue::new(
                approvals.clone(),
                types.values().map(|(_, settings)| settings),
            ),
        });
        let membership = membership.unwrap_or_else(|| {
            let address = config.node.listen.to_string();
            Arc::new(Alone(Member {
                node: node.clone(),
                address,
                ready: true,
            }))
        });
        Ok(NodeHandle::new(handle::Inner {
            node,
            incarnation,
            started_at: ledger.now(),
            ids: Ids(parking_lot::Mutex::new(random.stream("ids", incarnation.0))),
            types: types.into_values().map(|(_, settings)| settings).collect(),
            admission: config.admission,
            submits: Arc::new(Semaphore::new(config.admission.submits_in_flight_max)),
            ledger,
            approvals,
            market,
            roster,
            root: root.clone(),
            breakers,
            field,
            memory,
            workers,
            telemetry,
            membership,
        }))
    }

    /// The way in, for APIs.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Runs an API server beside the node; should it end before [`Node::stop`], the node fails.
    pub fn supervise(
        &self,
        name: &str,
        server: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.handle.inner().root.supervise(name, server)
    }

    /// Waits until the node has failed for good; gives the reason. Never returns while it works.
    ///
    /// Cancel-safe.
    pub async fn failed(&self) -> String {
        let mut health = self.handle.health();
        match health
            .wait_for(|health| matches!(health, Health::Failed(_)))
            .await
        {
            Ok(health) => match &*health {
                Health::Failed(reason) => reason.clone(),
                Health::Starting | Health::Serving | Health::Stalled(_) | Health::Draining => {
                    String::new()
                }
            },
            Err(_) => "its root supervisor has ended".to_owned(),
        }
    }

    /// Takes no more work: what ends once this has returned ends because it was asked to. [`Node::stop`] follows.
    ///
    /// Cancel-safe.
    pub async fn draining(&self) {
        self.handle.inner().root.stopping().await;
    }

    /// Stops in order: nothing new, agents give back what they hold, everything is written down. True when
    /// all agents left in time and everything was given back; what was not, the next life takes up.
    ///
    /// Not cancel-safe: dropped before it returns, the node is left half stopped; the ledger is whole all the
    /// same.
    pub async fn stop(mut self) -> bool {
        self.draining().await;
        let node = self.handle.inner();
        node.market.close(self.drain).await;
        let all = node.roster.leave(self.drain).await;
        node.market.stop();
        if let Some(endings) = self.endings.take() {
            endings.finish(self.drain).await;
        }
        if let Err(error) = node.memory.save_all().await {
            tracing::warn!(%error, "memory not saved, it is learned again at the next start");
        }
        if let Err(error) = node.field.save().await {
            tracing::warn!(%error, "field not saved");
        }
        let given_back = self.has_given_back().await;
        let node = self.handle.inner();
        node.ledger.close().await;
        node.root.stop();
        all && given_back
    }

    /// Whether the ledger says that this life of the node holds nothing: a full disk takes no claim back.
    async fn has_given_back(&self) -> bool {
        let node = self.handle.inner();
        let mut filter = TaskFilter {
            states: vec![State::Claimed],
            ..TaskFilter::default()
        };
        let mut held = 0_usize;
        loop {
            let page = match node.ledger.list(filter.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "whether all tasks were given back is not known");
                    return false;
                }
            };
            let holders = page
                .items
                .iter()
                .filter_map(|task| task.head.holder.as_ref());
            let ours = |holder: &&Holder| {
                holder.node == node.node && holder.incarnation == node.incarnation
            };
            held += holders.filter(ours).count();
            filter.before = page.items.last().map(|task| task.head.id);
            if !page.more {
                break;
            }
        }
        if held > 0 {
            tracing::error!(
                held,
                "tasks could not be given back; they stay claimed until the node starts again"
            );
        }
        held == 0
    }
}

/// What a start finds of former lives, for whoever reads the log.
fn say(registered: &Registered) {
    let Registered {
        incarnation,
        lost,
        adopted,
        suspects,
    } = registered;
    let lost = lost.len();
    if lost > 0 {
        tracing::info!(
            incarnation = incarnation.0,
            lost,
            "tasks of a former life are ready again"
        );
    }
    for name in adopted {
        tracing::warn!(former = %name, "this ledger's node had another name; what it held is taken over");
    }
    for task in suspects {
        tracing::warn!(%task, "the last claims of this task all ended with the death of the node: it may be what kills it");
    }
}

/// The ports without which the agents of each type can do nothing.
fn needs(types: &Declared) -> BTreeMap<QueueName, BTreeSet<String>> {
    let needs = types.values().map(|(_, settings)| {
        let models = [&settings.model, &settings.embedder];
        let ports = models.into_iter().flatten().map(|name| model_port(name));
        (QueueName::from(&settings.name), ports.collect())
    });
    needs.collect()
}

/// Whether the declared agent types name kinds that exist and suit them: everything that a start would refuse,
/// without starting.
#[must_use]
pub fn check_agents(config: &Config, kinds: &Kinds) -> Vec<Finding> {
    match declared(config, kinds) {
        Ok(_) => Vec::new(),
        Err(findings) => findings,
    }
}

type Declared = BTreeMap<TypeName, (u32, Arc<TypeSettings>)>;

/// The declared agent types, checked by their kinds; or all that is wrong with them.
fn declared(config: &Config, kinds: &Kinds) -> Result<Declared, Vec<Finding>> {
    let mut types = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, declared) in &config.agents {
        let key = format!("agents.{name}");
        let name = match TypeName::new(name) {
            Ok(name) => name,
            Err(error) => {
                problems.push(Finding::error(key, error.to_string()));
                continue;
            }
        };
        let settings = TypeSettings {
            name: name.clone(),
            kind: declared.kind.clone(),
            version: declared.version,
            model: declared.model.clone(),
            embedder: declared.embedder.clone(),
            prompt: declared.prompt.clone(),
            approvals: declared.approvals,
            settings: declared.settings.clone(),
        };
        match kinds.get(&settings.kind) {
            Ok(kind) => {
                let found = kind.check(&settings).err().into_iter().flatten();
                // A line begins with the key that it is about.
                problems.extend(found.map(|line| match line.split_once(": ") {
                    Some((below, what)) => Finding::error(format!("{key}.{below}"), what),
                    None => Finding::error(key.clone(), line),
                }));
            }
            Err(error) => problems.push(Finding::error(format!("{key}.kind"), error.to_string())),
        }
        types.insert(name, (declared.count, Arc::new(settings)));
    }
    if problems.is_empty() {
        Ok(types)
    } else {
        Err(problems)
    }
}

fn lines(problems: &[Finding]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.key, problem.what))
        .collect();
    lines.join("; ")
}

fn ports(
    settings: &TypeSettings,
    workers: &Workers,
    memory: &Memory,
    breakers: &Breakers,
    telemetry: &Telemetry,
) -> Result<Ports, StartError> {
    let unknown = |key, model: &str, known: Vec<String>| StartError::Model {
        agent_type: settings.name.clone(),
        key,
        model: model.to_owned(),
        known,
    };
    let embed: Arc<dyn Embed> = match &settings.embedder {
        None => Arc::new(Unconfigured),
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
                engine: workers.engine,
                port: model_port(name),
                breakers: breakers.clone(),
                telemetry: telemetry.clone(),
            })
        }
    };
    let generate: Arc<dyn Generate> = match &settings.model {
        None => Arc::new(Unconfigured),
        Some(name) => {
            let generator = workers.generators.get(name).cloned().ok_or_else(|| {
                unknown("model", name, workers.generators.keys().cloned().collect())
            })?;
            Arc::new(GeneratePort {
                generator,
                engine: workers.engine,
                port: model_port(name),
                breakers: breakers.clone(),
                telemetry: telemetry.clone(),
            })
        }
    };
    let memory: Arc<dyn MemoryPort> = match &settings.embedder {
        None => Arc::new(Unconfigured),
        Some(_) => Arc::new(memory.clone()),
    };
    Ok(Ports {
        embed,
        generate,
        memory,
        examples: Arc::new(Unconfigured),
    })
}
