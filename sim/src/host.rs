//! The node as a simulated host: starts anew after every crash, with what the ledger had synced.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use colony_agents::{Kinds, Tools};
use colony_core::{
    field::{Cell, Location},
    id::Tenant,
};
use colony_node::{Config, Dependencies, Node, NodeHandle, config::AgentType, ports::SeededRandom};
use colony_store::{Health, Ledger};
use turmoil::net::TcpListener;

use crate::{
    late,
    ledger::FaultyLedger,
    models::{self, EMBEDDER, GENERATOR},
    net,
    scripted::Scripted,
    sinks::{PostTool, SinkTool},
    workload::Workload,
    world::{FAILED, World, policy},
};

/// The port of the node's API.
pub(crate) const PORT: u16 = 7400;
/// The simulated host that the node is on.
pub(crate) const HOST: &str = "node";

/// How often each cell of the field is read in the end.
const READINGS: usize = 3;
/// Wait between two looks at something that has not happened yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Longest time that an agent needs to hear that its task is over: longer than a step, in which it may wait for
/// what does not answer.
const STEP_MAX: Duration = Duration::from_secs(5);

/// One life of the node: until the power goes, it is told to stop, or it fails.
pub(crate) async fn live(world: Arc<World>) -> turmoil::Result {
    let life = world.lives();
    let clock = world.clock();
    let engine = world.open_disk(Arc::clone(&clock));
    let ledger = Arc::new(FaultyLedger {
        world: Arc::clone(&world),
        engine,
        weights: policy(&world.workload).tenant_weights,
        answered: tokio::sync::watch::channel(0).0,
        promised: parking_lot::Mutex::default(),
        health: tokio::sync::watch::channel(Health::Working).0,
    });
    let node = match start(&world, life, clock, ledger).await {
        Ok(node) => node,
        // A disk that is away at the start: whoever runs the process tries again.
        Err(error) => {
            world.note(format_args!("not started: {error}"));
            world.node_ended();
            return Ok(());
        }
    };
    world.note(format_args!("life {life}"));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let stop = world.told_to_stop();
    let served = {
        let limits = colony_node::config::Gateway::default();
        let incoming = net::incoming(listener);
        colony_node::gateway::serve(node.handle(), limits, incoming, stop)
    };
    let mut served = pin!(served);
    tokio::select! {
        biased;
        served = &mut served => served?,
        reason = node.failed() => {
            if world.ledger_failed().is_none() {
                world.watch.broken("S13", format!("the node has failed: {reason}"));
                return Ok(());
            }
            world.note(format_args!("the node has failed: {reason}"));
            // The process ends as it does when it is told to.
            world.tell_to_stop(FAILED);
            served.await?;
        }
        () = late::deliver(&world) => {}
    }
    if world.is_calm() {
        all_free(&world, &node.handle()).await;
        fades(&world, &node.handle()).await;
        // Not stopped in order: what a node remembers that was, and one that was not, is compared afterwards (S7).
        world.stopped();
        world.powered().await;
    }
    node.stop().await;
    world.note(format_args!("stopped"));
    world.stopped();
    Ok(())
}

/// S15: when every task has ended, no agent is at one.
async fn all_free(world: &World, node: &NodeHandle) {
    let began = world.elapsed();
    while let Ok(agents) = node.agents().await {
        let Some(busy) = agents.iter().find(|agent| agent.state == "busy") else {
            return;
        };
        if world.elapsed() > began + STEP_MAX {
            let agent = &busy.id;
            let what = format!("every task has ended, and {agent} is busy {STEP_MAX:?} later");
            return world.watch.broken("S15", what);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// P5: with no agent at work nobody deposits, and no reading of the field rises.
async fn fades(world: &World, node: &NodeHandle) {
    let mut readings: BTreeMap<Cell, Vec<f64>> = BTreeMap::new();
    for _ in 0..READINGS {
        for (tenant, location) in places(world) {
            for (cell, reading) in node.sense_within(&tenant, &location) {
                readings.entry(cell).or_default().push(reading.get());
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    for of_a_cell in readings.values() {
        world.watch.readings(of_a_cell);
    }
}

/// Where agents leave something: at each type's place, for each tenant.
fn places(world: &World) -> Vec<(Tenant, Location)> {
    let clients = world.workload.clients.iter();
    let tenants: BTreeSet<Tenant> = clients
        .map(|client| Tenant::new(&client.tenant).unwrap_or_default())
        .collect();
    let types = world.workload.agents.keys();
    let locations = types.filter_map(|name| Location::new(name).ok());
    let of = |location: Location| tenants.iter().map(move |t| (t.clone(), location.clone()));
    locations.flat_map(of).collect()
}

/// Starts a node of this world.
pub(crate) async fn start(
    world: &Arc<World>,
    life: u64,
    clock: Arc<dyn colony_core::port::Clock>,
    ledger: Arc<dyn Ledger>,
) -> Result<Node, colony_node::StartError> {
    // The streams of one life are none of another's: an id drawn twice would name two tasks.
    let random = Arc::new(SeededRandom::new(world.seed ^ (life << 48)));
    let mut dependencies = Dependencies::new(Arc::clone(&clock), random, ledger);
    dependencies.workers = models::workers(world, &clock);
    dependencies.kinds = Kinds::builtin().with(Arc::new(Scripted(Arc::clone(world))));
    let sink = |name, keys| {
        Arc::new(SinkTool {
            world: Arc::clone(world),
            name,
            keys,
        })
    };
    dependencies.tools = Tools::builtin()
        .with(sink("sink", true))
        .with(sink("sink.fences", false))
        .with(Arc::new(PostTool));
    Node::start(&config(&world.workload), dependencies).await
}

/// The node's settings: short waits, so that a run is short, and no second net under a lost wake-up.
fn config(workload: &Workload) -> Config {
    let agents = workload.agents.iter().map(|(name, agents)| {
        let learns = agents.kind == "triage" || agents.learns;
        let asks = agents.kind == "triage";
        let scripted = agents.kind == "scripted";
        let settings = scripted.then(|| serde_json::to_value(agents).unwrap_or_default());
        let declared = AgentType {
            kind: agents.kind.clone(),
            count: agents.count,
            embedder: learns.then(|| EMBEDDER.to_owned()),
            model: asks.then(|| GENERATOR.to_owned()),
            settings: settings.unwrap_or_else(|| AgentType::default().settings),
            ..AgentType::default()
        };
        (name.clone(), declared)
    });
    let mut config = Config {
        agents: agents.collect(),
        ..Config::default()
    };
    let world = &workload.world;
    config.market.claim_max = world.claim_max;
    config.market.recheck_every = Duration::ZERO;
    config.roster.sleep_after = Duration::from_millis(world.sleep_after_ms);
    config.roster.step_timeout = Duration::from_secs(3);
    config.roster.drain_timeout = Duration::from_secs(2);
    config.breaker.hold = Duration::from_millis(200);
    config.breaker.hold_max = Duration::from_secs(2);
    config.memory.episodes_max = world.episodes_max;
    // Echo vectors mean nothing, and the examples would be most of what the models are asked.
    config.risk.similarity.enabled = false;
    config
}
