//! A whole node in this process: book, models, rooms and door. Used by `colony node` and by the demo,
//! which therefore goes through the same door as everybody else.

use std::{net::SocketAddr, path::Path, sync::Arc};

use colony_inference::{BatchObserver, Home};
use colony_node::{
    Colony, Config, World,
    config::LedgerEngine,
    gateway,
    ports::{SystemChance, SystemClock},
    telemetry::Telemetry,
    workers::{self, BatchSpans},
};
use colony_store::{Ledger, MemoryLedger, SqliteLedger};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::server::TcpIncoming;

use super::spans;
use crate::errors::{Failure, chain};

/// How long requests in hand may take before the book is closed under them.
const DOOR_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
/// File of the book inside the data folder.
const BOOK_FILE: &str = "colony.db";

/// A node that takes requests.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where its door is.
    pub(crate) address: SocketAddr,
    colony: Colony,
    door: JoinHandle<Result<(), String>>,
    shut: oneshot::Sender<()>,
    spans: Option<SdkTracerProvider>,
}

impl Running {
    /// Opens everything that `config` declares.
    pub(crate) async fn open(config: &Config, home: Home) -> Result<Self, Failure> {
        let listen = config.node.listen;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            Failure::failed(format!("cannot listen on {listen}: {error}")).with_hint(
                "another node may run; --listen takes another address, port 0 any free one",
            )
        })?;
        let address = listener
            .local_addr()
            .map_err(|error| Failure::failed(format!("cannot listen on {listen}: {error}")))?;
        let mut config = config.clone();
        config.node.listen = address;
        let clock = Arc::new(SystemClock::start());
        let chance = Arc::new(SystemChance);
        let spans = spans::provider(&config)?;
        let telemetry = Telemetry::new(spans.as_ref(), config.telemetry.sample_ratio, &*chance);
        let ledger = ledger(&config).await?;
        let mut world = World::new(clock.clone(), chance, ledger);
        let observer: Arc<dyn BatchObserver> = Arc::new(BatchSpans(telemetry.clone()));
        world.telemetry = telemetry;
        let settings = config.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let clock: Arc<dyn colony_core::port::Clock> = clock;
            workers::open(&settings, &home, &clock, &observer)
        });
        world.workers = match opened.await {
            Ok(Ok(workers)) => workers,
            Ok(Err(error)) => {
                return Err(Failure::usage(chain(&error)));
            }
            Err(panic) => {
                return Err(Failure::failed(format!(
                    "opening the models broke off: {panic}"
                )));
            }
        };
        let colony = Colony::start(&config, world)
            .await
            .map_err(|error| Failure::usage(chain(&error)))?;
        let (shut, closed) = oneshot::channel();
        // Answers are small and awaited: never held back to fill a packet.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = gateway::serve(colony.rooms(), config.gateway.clone(), incoming, async {
            // A dropped sender closes the door too.
            let _ = closed.await;
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "its end is awaited in Running::stop"
        )]
        let door = tokio::spawn(async move { serving.await.map_err(|error| chain(&error)) });
        Ok(Self {
            address,
            colony,
            door,
            shut,
            spans,
        })
    }

    /// Lets requests under way end, drains the agents, writes everything down. True when all agents left in
    /// time.
    pub(crate) async fn stop(self) -> bool {
        let Self {
            colony,
            mut door,
            shut,
            spans,
            ..
        } = self;
        let _ = shut.send(());
        let early = tokio::time::timeout(DOOR_PATIENCE, &mut door).await;
        let drained = colony.stop().await;
        let closed = match early {
            Ok(closed) => closed,
            // Streams of watchers end with the book.
            Err(_) => door.await,
        };
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the door did not close well");
        }
        if let Some(spans) = spans
            && let Err(error) = spans.shutdown()
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
        drained
    }
}

async fn ledger(config: &Config) -> Result<Arc<dyn Ledger>, Failure> {
    let policy = config.ledger.policy();
    let path = config.node.data_dir.join(BOOK_FILE);
    match config.ledger.engine {
        LedgerEngine::Memory => Ok(Arc::new(MemoryLedger::new(policy))),
        LedgerEngine::Sqlite => {
            let opened =
                tokio::task::spawn_blocking(move || SqliteLedger::open(&path, policy)).await;
            match opened {
                Ok(Ok(ledger)) => Ok(Arc::new(ledger)),
                Ok(Err(error)) => Err(Failure::failed(chain(&error))),
                Err(panic) => Err(Failure::failed(format!(
                    "opening the book broke off: {panic}"
                ))),
            }
        }
    }
}

/// Whether a book lies in `data_dir`.
pub(crate) fn has_book(data_dir: &Path) -> bool {
    data_dir.join(BOOK_FILE).is_file()
}
