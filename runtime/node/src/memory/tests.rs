#![allow(clippy::unwrap_used, reason = "tests")]

use colony_core::{port::Clock, unit::Timestamp};
use colony_store::{MemoryLedger, Policy, Snapshot, SnapshotKey};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// Time stands still: nothing here depends on it.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_000_000)
    }
}

fn node() -> NodeId {
    NodeId::new("node-1").unwrap()
}

fn triage() -> EpisodeStream {
    stream(&Tenant::default(), &TypeName::new("triage").unwrap())
}

fn task(number: u128) -> TaskId {
    TaskId(Uuid::from_u128(number))
}

/// A percept in the direction of `axis`, a little off it.
fn percept(axis: usize, wobble: u8) -> Percept {
    let mut vector = [0.0_f32; 8];
    vector[axis] = 1.0;
    vector[7] = f32::from(wobble) / 512.0;
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    Percept {
        text: format!("axis {axis}, off by {wobble}"),
        vector: Some(vector.iter().map(|v| v / norm).collect()),
    }
}

/// A ledger, and the memory of the node that runs on it.
struct World {
    ledger: MemoryLedger,
    settings: Settings,
    memory: Memory,
}

impl World {
    async fn new(episodes_max: usize) -> Self {
        let ledger = MemoryLedger::new(Policy::default(), Arc::new(Still));
        let settings = Settings {
            episodes_max,
            ..Settings::default()
        };
        let memory = open(&ledger, settings).await;
        Self {
            ledger,
            settings,
            memory,
        }
    }

    async fn teach(&self, number: u128, percept: &Percept, label: &str) {
        let EpisodeStream { tenant, agent_type } = triage();
        let taught = self
            .memory
            .teach(&tenant, &agent_type, task(number), percept, label);
        taught.await.unwrap();
    }

    /// A lesson of which nobody tells memory.
    async fn write(&self, stream: &EpisodeStream, number: u128, percept: &Percept, label: &str) {
        let EpisodeStream { tenant, agent_type } = stream;
        let episode = self
            .memory
            .episode(tenant, agent_type, task(number), percept, label);
        self.ledger.learn(vec![episode.unwrap()]).await.unwrap();
    }

    fn recall(&self, percept: &Percept) -> Recall {
        let EpisodeStream { tenant, agent_type } = triage();
        self.memory.recall(&tenant, &agent_type, percept)
    }

    fn label(&self, percept: &Percept) -> Option<String> {
        let verdict = self.recall(percept).verdict?;
        Some(verdict.candidates.first()?.label.clone())
    }

    async fn stop(&self) {
        self.memory.save_all().await.unwrap();
    }

    /// A next life: what was not saved is learned again.
    async fn restart(&mut self) {
        self.ledger = self.ledger.crash();
        self.memory = open(&self.ledger, self.settings).await;
    }

    fn checkpoint(&self, stream: &EpisodeStream) -> Option<Checkpoint> {
        let index = self.memory.index(stream)?;
        Some(index.read().checkpoint())
    }

    /// What the checkpoint of a stream looks like in the ledger.
    async fn saved(&self, stream: &EpisodeStream) -> Checkpoint {
        let snapshots = &self.memory.inner.snapshots;
        let name = checkpoint_name(stream);
        let saved = snapshots.load(&name, CHECKPOINT_VERSION).await;
        saved.unwrap().unwrap()
    }
}

async fn open(ledger: &MemoryLedger, settings: Settings) -> Memory {
    let memory = Memory::open(settings, node(), Arc::new(ledger.clone()));
    memory.await.unwrap()
}

const LABELS: [&str; 5] = ["bill", "leave", "mail", "printer", "vpn"];

#[tokio::test]
async fn a_full_memory_knows_its_labels_after_a_stop() {
    let mut world = World::new(10).await;
    for i in 0..100_u8 {
        let axis = usize::from(i) % LABELS.len();
        world
            .teach(u128::from(i), &percept(axis, i), LABELS[axis])
            .await;
    }
    world.stop().await;
    world.restart().await;
    for (axis, label) in LABELS.iter().enumerate() {
        assert_eq!(world.label(&percept(axis, 0)).as_deref(), Some(*label));
    }
}

#[tokio::test]
async fn what_was_corrected_does_not_come_back_after_a_kill() {
    let mut world = World::new(100).await;
    for i in 0..10_u8 {
        world.teach(u128::from(i), &percept(0, i), "mistake").await;
    }
    world.stop().await;
    for i in 0..10_u8 {
        world.teach(u128::from(i), &percept(0, i), "bill").await;
    }
    world.restart().await;
    let candidates = world.recall(&percept(0, 0)).verdict.unwrap().candidates;
    assert_eq!(candidates.len(), 1, "{candidates:?}");
    assert_eq!(candidates[0].label, "bill");
}

#[tokio::test]
async fn of_two_lessons_of_a_task_the_higher_number_counts_whoever_tells_first() {
    let world = World::new(100).await;
    for label in ["mistake", "bill"] {
        world.write(&triage(), 1, &percept(0, 0), label).await;
    }
    // Whoever wrote the second tells first; the other one tells of what is known already.
    for _ in 0..2 {
        world.memory.follow(&triage()).await.unwrap();
        let recall = world.recall(&percept(0, 0));
        assert_eq!(recall.neighbours.len(), 1);
        assert_eq!(recall.neighbours[0].label, "bill");
        assert_eq!(recall.verdict.unwrap().candidates.len(), 1);
    }
}

#[tokio::test]
async fn what_nobody_told_of_is_seen_with_the_next_lesson() {
    let world = World::new(100).await;
    world.write(&triage(), 1, &percept(0, 0), "bill").await;
    assert_eq!(world.memory.episodes(), 0);
    world.teach(2, &percept(1, 0), "leave").await;
    assert_eq!(world.memory.episodes(), 2);
    let elsewhere = stream(&Tenant::new("acme").unwrap(), &triage().agent_type);
    world.write(&elsewhere, 3, &percept(0, 0), "bill").await;
    world.memory.follow_all().await.unwrap();
    assert_eq!(world.memory.episodes(), 3);
}

#[tokio::test]
async fn an_unreadable_checkpoint_costs_a_new_look_at_the_newest_episodes() {
    let mut world = World::new(10).await;
    for i in 0..40_u8 {
        let axis = usize::from(i) % LABELS.len();
        world
            .teach(u128::from(i), &percept(axis, i), LABELS[axis])
            .await;
    }
    world.stop().await;
    let known = world.checkpoint(&triage()).unwrap();
    let key = SnapshotKey {
        node: node(),
        name: checkpoint_name(&triage()),
    };
    for (version, body) in [(CHECKPOINT_VERSION, "{"), (CHECKPOINT_VERSION + 1, "{}")] {
        let body = body.as_bytes().to_vec();
        let snapshot = Snapshot { version, body };
        let saved = world.ledger.save_snapshot(key.clone(), snapshot);
        saved.await.unwrap();
        world.restart().await;
        let again = world.checkpoint(&triage()).unwrap();
        assert_eq!((again.last, again.floor), (known.last, known.floor));
        for (axis, label) in LABELS.iter().enumerate() {
            assert_eq!(world.label(&percept(axis, 0)).as_deref(), Some(*label));
        }
    }
}

/// What a start reads lies after the floor of the checkpoint.
#[tokio::test]
async fn a_start_reads_no_more_than_an_index_holds() {
    let world = World::new(10).await;
    for i in 0..200_u8 {
        world.teach(u128::from(i), &percept(0, i), "bill").await;
    }
    world.stop().await;
    let floor = world.saved(&triage()).await.floor;
    let read = world.ledger.episodes(&triage(), floor, PAGE_MAX).await;
    assert_eq!(read.unwrap().items.len(), 10);
}

#[tokio::test]
async fn a_vector_of_another_length_is_refused_and_left_out() {
    let mut world = World::new(10).await;
    world.teach(1, &percept(0, 0), "bill").await;
    let EpisodeStream { tenant, agent_type } = triage();
    let short = Percept {
        vector: Some(Arc::from([1.0_f32, 0.0])),
        ..percept(0, 0)
    };
    let refused = world
        .memory
        .episode(&tenant, &agent_type, task(2), &short, "bill");
    assert!(matches!(
        refused,
        Err(TeachError::WrongLength { given: 2, known: 8 })
    ));
    // Written all the same, as by a node with another model.
    let mut episode = world
        .memory
        .episode(&tenant, &agent_type, task(2), &percept(0, 0), "bill")
        .unwrap();
    episode.vector = Arc::from([1.0_f32, 0.0]);
    world.ledger.learn(vec![episode]).await.unwrap();
    world.teach(3, &percept(1, 0), "leave").await;
    assert_eq!(world.memory.episodes(), 2);
    for save in [false, true] {
        if save {
            world.stop().await;
        }
        world.restart().await;
        assert_eq!(world.memory.episodes(), 2);
    }
}

/// What happens to a memory.
#[derive(Debug, Clone)]
enum Event {
    /// A task teaches; one that has taught corrects itself, perhaps in another stream.
    Learning {
        told: bool,
        stream: usize,
        task: u128,
        axis: usize,
        wobble: u8,
        label: usize,
    },
    /// The sweep writes checkpoints.
    Save,
    /// Clean stop and start.
    Stop,
    /// `kill -9` and start.
    Kill,
}

fn event() -> impl Strategy<Value = Event> {
    let learning = (
        prop::bool::weighted(0.8),
        0_usize..2,
        0_u128..12,
        0_usize..3,
        any::<u8>(),
        0_usize..3,
    );
    let learning = learning.prop_map(
        |(told, stream, task, axis, wobble, label)| Event::Learning {
            told,
            stream,
            task,
            axis,
            wobble,
            label,
        },
    );
    prop_oneof![
        12 => learning,
        1 => Just(Event::Save),
        1 => Just(Event::Stop),
        1 => Just(Event::Kill),
    ]
}

/// Answers to the same questions, and what was learned, to the last bit.
async fn seen(world: &World, streams: &[EpisodeStream]) -> Vec<(Option<Checkpoint>, Vec<Recall>)> {
    world.memory.follow_all().await.unwrap();
    let look = |stream: &EpisodeStream| {
        let EpisodeStream { tenant, agent_type } = stream;
        let questions = (0..3).flat_map(|axis| [0, 100].map(|wobble| percept(axis, wobble)));
        let recalls = questions.map(|q| world.memory.recall(tenant, agent_type, &q));
        (world.checkpoint(stream), recalls.collect())
    };
    streams.iter().map(look).collect()
}

proptest! {
    /// P: a restart gives the index and the experience that a node has which never stopped.
    #[test]
    fn a_restart_changes_nothing(
        episodes_max in 1_usize..8,
        events in prop::collection::vec(event(), 0..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(episodes_max).await;
            let steady = World::new(episodes_max).await;
            let streams = ["triage", "router"]
                .map(|name| stream(&Tenant::default(), &TypeName::new(name).unwrap()));
            // Before its first checkpoint a memory is learned from its newest episodes; with few of them
            // from all, so that also a kill before it changes nothing.
            for (number, stream) in (100..).zip(&streams) {
                for world in [&world, &steady] {
                    world.write(stream, number, &percept(0, 0), "bill").await;
                    world.memory.follow(stream).await.unwrap();
                }
            }
            world.stop().await;
            for event in events {
                match event {
                    Event::Learning { told, stream, task, axis, wobble, label } => {
                        let stream = &streams[stream];
                        for world in [&world, &steady] {
                            let percept = percept(axis, wobble);
                            world.write(stream, task, &percept, LABELS[label]).await;
                            if told {
                                world.memory.follow(stream).await.unwrap();
                            }
                        }
                        continue;
                    }
                    Event::Save => world.stop().await,
                    Event::Stop => {
                        world.stop().await;
                        world.restart().await;
                    }
                    Event::Kill => world.restart().await,
                }
                let (now, never_stopped) = (seen(&world, &streams).await, seen(&steady, &streams).await);
                prop_assert_eq!(now, never_stopped);
            }
            Ok(())
        })?;
    }
}
