//! S7: what a node remembers that was stopped in order and started again: everything that was taught, and
//! nothing that was corrected since or whose task was cancelled.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_core::{
    cycle::Neighbour,
    id::{TaskId, Tenant, TypeName},
    journal::Past,
    memory::MemoryVerdict,
    task::{Ending, Spec, State},
};
use colony_node::{Node, NodeHandle};
use colony_store::{EpisodeChange, Ledger, Submitted, memory::MemoryLedger};

use serde::Deserialize;

use crate::{
    check::{Kept, broken},
    facts::Facts,
    host,
    run::Failure,
    scripted::RECALL,
    watch::Broken,
    world::World,
};

/// Episodes read at once.
const PAGE: u32 = 1_000;
/// Most tasks asked for, so that a check takes no longer than a run.
const ASKED_MAX: usize = 40;
/// Longest wait for an answer, in simulated time.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// What was taught: the label of each task, by tenant and type.
type Taught = BTreeMap<(Tenant, TypeName), BTreeMap<TaskId, String>>;

/// Looks for S7.
pub(crate) async fn remembers(
    world: &Arc<World>,
    facts: &Facts,
    tasks: &[Kept],
) -> Result<(), Failure> {
    if !world.workload.agents.values().any(|agents| agents.learns) {
        return Ok(());
    }
    let taught = taught(world, facts, tasks);
    let failed = |what: &dyn std::fmt::Display| Failure::World(what.to_string());
    // One life that ends in order, and one that begins with what that left.
    let (node, _) = life(world).await.map_err(|error| failed(&error))?;
    let mut before = Vec::new();
    for task in asked(world, tasks) {
        before.push(ask(&node.handle(), task).await?);
    }
    node.stop().await;
    let (node, ledger) = life(world).await.map_err(|error| failed(&error))?;
    let live = episodes(&ledger).await.map_err(|error| failed(&error))?;
    for (group, labels) in &taught {
        for (task, label) in labels {
            let known = live.get(group).and_then(|episodes| episodes.get(task));
            if known.map(|(_, label)| label) != Some(label) {
                let what = format!("task {task} taught {label:?}, and the ledger has {known:?}");
                return Err(broken("S7", what).into());
            }
        }
    }
    // What the ready-made kinds learn from is their own affair.
    let scripted = |name: &TypeName| {
        let agents = world.workload.agents.get(name.as_str());
        agents.is_some_and(|agents| agents.learns)
    };
    for (group, episodes) in live.iter().filter(|((_, name), _)| scripted(name)) {
        let labels = taught.get(group);
        let unknown = episodes
            .iter()
            .find(|(task, _)| labels.is_none_or(|labels| !labels.contains_key(task)));
        if let Some((task, (_, label))) = unknown {
            let what = format!("nobody was to learn {label:?} from task {task}");
            return Err(broken("S7", what).into());
        }
    }
    for (task, before) in asked(world, tasks).zip(before) {
        let after = ask(&node.handle(), task).await?;
        compare(world, task, &after, &live)?;
        if before != after {
            let what = format!(
                "of task {} {before:?} was remembered before a restart in order, and {after:?} after it",
                task.id()
            );
            return Err(broken("S7", what).into());
        }
    }
    node.stop().await;
    Ok(())
}

/// The tasks whose agents are asked.
fn asked<'a>(world: &World, tasks: &'a [Kept]) -> impl Iterator<Item = &'a Kept> + use<'a> {
    let agents = &world.workload.agents;
    let learn = agents.iter().filter(|(_, agents)| agents.learns);
    let learn: Vec<String> = learn.map(|(name, _)| name.clone()).collect();
    let asked = tasks.iter().filter(move |task| {
        learn
            .iter()
            .any(|name| *name == *task.record.spec.agent_type.as_str())
    });
    asked.take(ASKED_MAX)
}

async fn life(world: &Arc<World>) -> Result<(Node, MemoryLedger), colony_node::StartError> {
    let life = world.switch_on();
    let clock = world.clock();
    let ledger = world.open_disk(Arc::clone(&clock));
    let node = host::start(world, life, clock, Arc::new(ledger.clone())).await?;
    Ok((node, ledger))
}

/// What was to be learned, by what people were told.
fn taught(world: &World, facts: &Facts, tasks: &[Kept]) -> Taught {
    let mut taught = Taught::new();
    for task in tasks {
        let spec = &task.record.spec;
        let agents = world.workload.agents.get(spec.agent_type.as_str());
        let Some(agents) = agents.filter(|agents| agents.learns) else {
            continue;
        };
        let id = task.id();
        let ruled = facts.decided.values().any(|(of, _)| *of == id.to_string())
            || Past::from_entries(task.journal.clone())
                .work
                .decision
                .is_some();
        let answer = match &task.record.head.ending {
            Some(Ending::Done(answer)) if ruled && !agents.learn_fails => Some(&answer.text),
            _ => None,
        };
        let label = facts.feedback.get(&id.to_string()).or(answer);
        if let Some(label) = label {
            let group = (spec.tenant.clone(), spec.agent_type.clone());
            taught.entry(group).or_default().insert(id, label.clone());
        }
    }
    taught
}

/// Live episodes, by tenant and type, by task: their number and label.
type Live = BTreeMap<(Tenant, TypeName), BTreeMap<TaskId, (u64, String)>>;

async fn episodes(ledger: &MemoryLedger) -> Result<Live, colony_store::LedgerError> {
    let mut live = Live::new();
    for stream in ledger.episode_streams().await? {
        let mut counting = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = ledger.episodes(&stream, after, PAGE).await?;
            for change in page.items {
                after = change.number();
                match change {
                    EpisodeChange::Learned(learned) => {
                        counting.insert(learned.number, (learned.task, learned.label));
                    }
                    EpisodeChange::Forgotten { episode, .. } => {
                        counting.remove(&episode);
                    }
                }
            }
            if !page.more {
                break;
            }
        }
        let by_task = counting.into_iter();
        let by_task = by_task.map(|(number, (task, label))| (task, (number, label)));
        live.insert((stream.tenant, stream.agent_type), by_task.collect());
    }
    Ok(live)
}

/// What an agent remembers.
#[derive(Debug, PartialEq, Deserialize)]
struct Remembered {
    /// The nearest first.
    neighbours: Vec<Neighbour>,
    verdict: Option<MemoryVerdict>,
}

/// Asks an agent of the task's type what it remembers of the task.
async fn ask(node: &NodeHandle, task: &Kept) -> Result<Remembered, Failure> {
    let failed = |what: String| Failure::World(format!("a node asked what it remembers: {what}"));
    let spec = &task.record.spec;
    let mut question = Spec::new(spec.agent_type.clone(), format!("{RECALL}{}", spec.input));
    question.tenant = spec.tenant.clone();
    let submitted = node.submit(vec![question.into()], None).await;
    let submitted = submitted.map_err(|problem| failed(problem.to_string()))?;
    let Some(Submitted::Accepted(id)) = submitted.first() else {
        return Err(failed(format!("{submitted:?}")));
    };
    let mut changes = node.latest();
    let ended = async {
        loop {
            let record = node.task(*id).await;
            let record = record.map_err(|problem| failed(problem.to_string()))?;
            if record.head.state.is_final() {
                return Ok::<_, Failure>(record);
            }
            let changed = changes.changed().await;
            changed.map_err(|error| failed(error.to_string()))?;
        }
    };
    let record = tokio::time::timeout(ANSWER_WAIT, ended).await;
    let record = record.map_err(|_| not_live(*id))??;
    match (record.head.state, record.head.ending) {
        (State::Done, Some(Ending::Done(answer))) => {
            serde_json::from_str(&answer.text).map_err(|error| failed(error.to_string()))
        }
        (state, ending) => Err(failed(format!("{state}: {ending:?}"))),
    }
}

/// Compares what is remembered of a task with what the ledger has.
fn compare(world: &World, task: &Kept, told: &Remembered, live: &Live) -> Result<(), Broken> {
    let spec = &task.record.spec;
    let group = (spec.tenant.clone(), spec.agent_type.clone());
    let episodes = live.get(&group);
    let newest = |number: u64| {
        let newer = episodes.into_iter().flat_map(BTreeMap::values);
        newer.filter(|(other, _)| *other > number).count() < world.workload.world.episodes_max
    };
    let expected = episodes
        .and_then(|episodes| episodes.get(&task.id()))
        .filter(|(number, _)| newest(*number))
        .map(|(_, label)| label);
    let own = |near: &&Neighbour| *near.text == *spec.input;
    let told = told.neighbours.iter().find(own).map(|near| &near.label);
    if told == expected {
        return Ok(());
    }
    let what = format!(
        "after a restart in order {told:?} is remembered of task {}, where {expected:?} is right",
        task.id()
    );
    Err(broken("S7", what))
}

fn not_live(task: TaskId) -> Failure {
    let broken: Broken = broken(
        "S9",
        format!("task {task} has not ended after a restart in order"),
    );
    broken.into()
}
