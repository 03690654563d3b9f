//! A whole node in this process: ledger, models, components and gRPC API. Used by `colony node` and by the
//! demo, which therefore goes through the same API as everybody else.

use std::{net::SocketAddr, path::Path, sync::Arc};

use colony_core::port::Clock;
use colony_inference::{BatchObserver, ModelStore};
use colony_node::{
    Config, Dependencies, Node,
    config::StoreEngine,
    gateway,
    ports::{SystemClock, SystemRandom},
    telemetry::Telemetry,
    workers::{self, BatchSpans},
};
use colony_store::{Ledger, MemoryLedger, SqliteLedger};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::server::TcpIncoming;

use super::{privacy::private_folder, spans};
use crate::errors::{Failure, chain};

/// How long requests in hand may take before the ledger is closed under them.
const REQUESTS_WAIT: std::time::Duration = std::time::Duration::from_secs(1);
/// File of the ledger inside the data folder.
pub(crate) const LEDGER_FILE: &str = "colony.db";

/// A node that takes requests.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where its gRPC API is.
    pub(crate) address: SocketAddr,
    node: Node,
    server: JoinHandle<()>,
    shut: oneshot::Sender<()>,
    spans: Option<SdkTracerProvider>,
}

impl Running {
    /// Opens everything that `config` declares.
    pub(crate) async fn open(config: &Config, home: ModelStore) -> Result<Self, Failure> {
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
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let random = Arc::new(SystemRandom);
        let spans = spans::provider(&config)?;
        let telemetry = Telemetry::new(spans.as_ref(), config.telemetry.sample_ratio, &*random);
        let ledger = ledger(&config, Arc::clone(&clock)).await?;
        let mut dependencies = Dependencies::new(Arc::clone(&clock), random, ledger);
        let observer: Arc<dyn BatchObserver> = Arc::new(BatchSpans(telemetry.clone()));
        dependencies.telemetry = telemetry;
        let settings = config.clone();
        let opened =
            tokio::task::spawn_blocking(move || workers::open(&settings, &home, &clock, &observer));
        dependencies.workers = match opened.await {
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
        for model in dependencies.workers.views() {
            let engine = model.engine;
            tracing::info!(
                model = model.name,
                role = model.role,
                engine,
                "model loaded"
            );
        }
        let node = Node::start(&config, dependencies)
            .await
            .map_err(|error| Failure::usage(chain(&error)))?;
        let (shut, closed) = oneshot::channel();
        // Answers are small and awaited: never held back to fill a packet.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = gateway::serve(node.handle(), config.gateway.clone(), incoming, async {
            // A dropped sender closes the API too.
            let _ = closed.await;
        });
        let server = node.supervise("the gRPC API", async move {
            serving.await.map_err(|error| chain(&error))
        });
        Ok(Self {
            address,
            node,
            server,
            shut,
            spans,
        })
    }

    /// Waits until the node has failed for good; gives the reason.
    pub(crate) async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Lets requests under way end, drains the agents, writes everything down. True when all agents left in
    /// time.
    pub(crate) async fn stop(self) -> bool {
        let Self {
            node,
            mut server,
            shut,
            spans,
            ..
        } = self;
        node.draining().await;
        let _ = shut.send(());
        let early = tokio::time::timeout(REQUESTS_WAIT, &mut server).await;
        let drained = node.stop().await;
        if early.is_err() {
            // Streams of watchers end with the ledger.
            let _ = server.await;
        }
        if let Some(spans) = spans
            && let Err(error) = spans.shutdown()
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
        drained
    }
}

async fn ledger(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<dyn Ledger>, Failure> {
    let policy = config.ledger.clone();
    let path = config.node.data_dir.join(LEDGER_FILE);
    match config.store.engine {
        StoreEngine::Memory => Ok(Arc::new(MemoryLedger::new(policy, clock))),
        StoreEngine::Sqlite => {
            let folder = &config.node.data_dir;
            private_folder(folder).map_err(|error| {
                Failure::failed(format!("cannot make {}: {error}", folder.display()))
            })?;
            let opened =
                tokio::task::spawn_blocking(move || SqliteLedger::open(&path, policy, clock)).await;
            match opened {
                Ok(Ok(ledger)) => Ok(Arc::new(ledger)),
                Ok(Err(error)) => Err(Failure::failed(chain(&error))),
                Err(panic) => Err(Failure::failed(format!(
                    "opening the ledger broke off: {panic}"
                ))),
            }
        }
    }
}

/// Whether a ledger lies in `data_dir`.
pub(crate) fn has_ledger(data_dir: &Path) -> bool {
    data_dir.join(LEDGER_FILE).is_file()
}
