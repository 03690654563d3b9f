//! A node of one's own: a kind of agent that is not in this repository, the ledger in a file, the gRPC API.
//! `cargo run -p colony-node --example own_node -- ./data 127.0.0.1:7400`
//!
//! docs/guides/own-node.md explains it; a test runs [`OwnNode`].

use std::{collections::BTreeMap, error::Error, net::SocketAddr, path::Path, sync::Arc};

use async_trait::async_trait;
use colony_agents::{Kind, Kinds, StepContext, StepError};
use colony_core::{
    cycle::Thought,
    port::{Clock, RandomSource},
    task::Answer,
};
use colony_node::{
    Config, Dependencies, Node,
    config::AgentType,
    gateway,
    ports::{SystemClock, SystemRandom},
};
use colony_store::SqliteLedger;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;

type Failure = Box<dyn Error + Send + Sync>;

// --8<-- kind
/// Counts words.
#[derive(Debug)]
struct WordCount;

#[async_trait]
impl Kind for WordCount {
    fn name(&self) -> &'static str {
        "word-count"
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        let words = context.spec.input.split_whitespace().count();
        Ok(Thought {
            answer: Answer::by_rule(words.to_string(), "counted"),
            escalation_reason: None,
            model_calls: vec![],
            findings: vec![],
        })
    }
}
// --8<-- kind

// --8<-- node
/// A node that takes requests.
pub(crate) struct OwnNode {
    /// Where its API is.
    pub(crate) address: SocketAddr,
    node: Node,
    server: JoinHandle<()>,
    shut: oneshot::Sender<()>,
}

impl OwnNode {
    /// Opens the ledger in `folder`, starts the agents, and serves the API on `listen`.
    pub(crate) async fn open(folder: &Path, listen: &str) -> Result<Self, Failure> {
        let agents = AgentType {
            kind: "word-count".to_owned(),
            count: 3,
            ..AgentType::default()
        };
        let config = Config {
            agents: BTreeMap::from([("counter".to_owned(), agents)]),
            ..Config::default()
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let random: Arc<dyn RandomSource> = Arc::new(SystemRandom);
        let (file, policy) = (folder.join("colony.db"), config.ledger.clone());
        let ledger = SqliteLedger::open(&file, policy, Arc::clone(&clock))?;
        let mut dependencies = Dependencies::new(clock, random, Arc::new(ledger));
        dependencies.kinds = Kinds::builtin().with(Arc::new(WordCount));
        let node = Node::start(&config, dependencies).await?;

        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (shut, closed) = oneshot::channel();
        let serving = gateway::serve(
            node.handle(),
            config.gateway.clone(),
            TcpListenerStream::new(listener),
            async {
                // A dropped sender closes the API too.
                let _ = closed.await;
            },
        );
        // Should the API end by itself, the node fails, and `failed` says so.
        let server = node.supervise("the gRPC API", async move {
            serving.await.map_err(|error| error.to_string())
        });
        Ok(Self {
            address,
            node,
            server,
            shut,
        })
    }

    /// Waits until the node has failed for good; gives the reason.
    pub(crate) async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Takes nothing more, answers what is in hand, lets the agents give back, writes everything down.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.node.draining().await;
        let _ = self.shut.send(());
        self.server.await?;
        if self.node.stop().await {
            Ok(())
        } else {
            Err("some agents did not leave in time; the next start takes up what they held".into())
        }
    }
}
// --8<-- node

// --8<-- main
#[expect(clippy::print_stdout, reason = "an example talks")]
#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, listen] = arguments.as_slice() else {
        return Err("give the data folder and the address to listen on".into());
    };
    let node = OwnNode::open(Path::new(folder), listen).await?;
    println!("ready at {}", node.address);
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        // Exit, and let whatever runs the process start it again: nothing acknowledged is lost.
        reason = node.failed() => return Err(reason.into()),
    }
    node.stop().await
}
// --8<-- main
