//! The node as a simulated host: starts anew after every crash, with what the ledger had synced.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use colony_core::{port::Clock, unit::Timestamp};
use colony_inference::{EchoEmbedder, EchoGenerator};
use colony_node::{
    Colony, Config, World,
    config::AgentType,
    ports::{SeededChance, SystemClock},
    workers::Workers,
};
use colony_store::memory::MemoryLedger;
use turmoil::net::TcpListener;

use crate::{net, workload::Workload};

/// The port of the node's door.
pub(crate) const PORT: u16 = 7400;
/// Simulated time begins here: 2026-01-01T00:00:00Z.
const EPOCH_MICROS: u64 = 1_767_225_600_000_000;
/// Time of one call of a simulated model.
const MODEL_LATENCY: std::time::Duration = std::time::Duration::from_millis(3);

/// The present moment of the simulated world.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(EPOCH_MICROS).after(turmoil::sim_elapsed().unwrap_or_default())
}

/// The book that outlives the node.
pub(crate) type Disk = Arc<Mutex<MemoryLedger>>;

/// One life of the node.
pub(crate) async fn live(workload: Arc<Workload>, seed: u64, disk: Disk) -> turmoil::Result {
    let ledger = {
        let mut disk = disk.lock().expect("no panics while it is held");
        // The power was off, or this is the first life: nothing is lost by the latter.
        *disk = disk.crash();
        disk.clone()
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::at(now()));
    let chance = Arc::new(SeededChance::new(seed));
    let mut world = World::new(Arc::clone(&clock), chance, Arc::new(ledger));
    let embedder = EchoEmbedder::new(Arc::clone(&clock), Some(MODEL_LATENCY));
    let generator = EchoGenerator::new(clock, Some(MODEL_LATENCY));
    world.workers = Workers {
        embedders: BTreeMap::from([("minilm".to_owned(), Arc::new(embedder) as _)]),
        generators: BTreeMap::from([("smollm2".to_owned(), Arc::new(generator) as _)]),
        engine: "echo",
    };
    let config = config(&workload);
    let colony = Colony::start(&config, world).await?;
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let incoming = net::incoming(listener);
    let forever = std::future::pending();
    colony_node::gateway::serve(colony.rooms(), config.gateway.clone(), incoming, forever).await?;
    Ok(())
}

fn config(workload: &Workload) -> Config {
    let agents = workload.agents.iter().map(|(name, agents)| {
        let learns = agents.kind == "triage";
        let declared = AgentType {
            kind: agents.kind.clone(),
            count: agents.count,
            embedder: learns.then(|| "minilm".to_owned()),
            model: learns.then(|| "smollm2".to_owned()),
            ..AgentType::default()
        };
        (name.clone(), declared)
    });
    Config {
        agents: agents.collect(),
        ..Config::default()
    }
}
