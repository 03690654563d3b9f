//! A whole node in this process: ledger, models, components, gRPC API and HTTP listener. Used by `colony node` and by the
//! demo, which therefore goes through the same API as everybody else.

use std::{net::SocketAddr, path::Path, sync::Arc};

use colony_core::port::Clock;
use colony_inference::{BatchObserver, ModelStore};
use colony_node::{
    Config, Dependencies, Node,
    config::StoreEngine,
    gateway, http,
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
    /// Where its HTTP listener is, if it has one.
    pub(crate) http: Option<SocketAddr>,
    node: Node,
    server: JoinHandle<()>,
    http_server: Option<JoinHandle<()>>,
    /// Closes the gRPC API, and then the HTTP listener: orchestrators may ask until the end.
    shut: oneshot::Sender<()>,
    shut_http: oneshot::Sender<()>,
    spans: Option<SdkTracerProvider>,
}

impl Running {
    /// Opens everything that `config` declares.
    pub(crate) async fn open(config: &Config, home: ModelStore) -> Result<Self, Failure> {
        let (listener, address) = bind(config.node.listen, "--listen").await?;
        let http = match config.http.listen {
            Some(listen) => Some(bind(listen, "--http-listen").await?),
            None => None,
        };
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
        let (shut_http, closed) = oneshot::channel();
        let http_address = http.as_ref().map(|(_, address)| *address);
        let http_server = http.map(|(listener, _)| {
            let serving = http::serve(node.handle(), listener, async {
                let _ = closed.await;
            });
            node.supervise("the HTTP listener", async move {
                serving.await;
                Ok(())
            })
        });
        Ok(Self {
            address,
            http: http_address,
            node,
            server,
            http_server,
            shut,
            shut_http,
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
            http_server,
            shut,
            shut_http,
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
        let _ = shut_http.send(());
        if let Some(http_server) = http_server {
            let _ = http_server.await;
        }
        if let Some(spans) = spans
            && let Err(error) = spans.shutdown()
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
        drained
    }
}

/// Listens on an address that `flag` sets.
async fn bind(listen: SocketAddr, flag: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error| Failure::failed(format!("cannot listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        failed(error).with_hint(format!(
            "another node may run; {flag} takes another address, port 0 any free one"
        ))
    })?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
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
