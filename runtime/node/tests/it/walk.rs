//! One task's walk through a node in this process: ledger in memory, echo models.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_agents::{Kind, Kinds, StepContext, StepError};
use colony_core::{
    cycle::{Decision, DecisionKind, Output, Step, Teaching, Thought},
    id::{RequestId, TaskId, TypeName},
    journal::Note,
    market::gini,
    port::Clock,
    task::{Answer, Ending, Source, Spec, State},
};
use colony_inference::{EchoEmbedder, EchoGenerator};
use colony_node::{
    Config, Dependencies, Node, NodeHandle,
    config::AgentType,
    ports::{RuntimeClock, SeededRandom, SystemClock},
    telemetry::Telemetry,
    workers::Workers,
};
use colony_store::{ApprovalFilter, Ledger, OutboxFilter, Policy, Submitted, memory::MemoryLedger};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};

pub(crate) fn agent_type(name: &str) -> TypeName {
    TypeName::new(name).expect("a legal name")
}

pub(crate) fn config(types: &[(&str, u32)]) -> Config {
    let declared = types.iter().map(|(kind, count)| {
        let learned = *kind == "triage";
        let declared = AgentType {
            kind: (*kind).to_owned(),
            count: *count,
            embedder: learned.then(|| "minilm".to_owned()),
            model: learned.then(|| "smollm2".to_owned()),
            ..AgentType::default()
        };
        ((*kind).to_owned(), declared)
    });
    Config {
        agents: declared.collect(),
        ..Config::default()
    }
}

pub(crate) fn dependencies(ledger: Arc<dyn Ledger>) -> Dependencies {
    let clock = clock();
    let mut dependencies =
        Dependencies::new(Arc::clone(&clock), Arc::new(SeededRandom::new(7)), ledger);
    dependencies.workers = Workers {
        embedders: BTreeMap::from([(
            "minilm".to_owned(),
            Arc::new(EchoEmbedder::new(Arc::clone(&clock), None)) as _,
        )]),
        generators: BTreeMap::from([(
            "smollm2".to_owned(),
            Arc::new(EchoGenerator::new(clock, None)) as _,
        )]),
        engine: "echo",
    };
    dependencies
}

/// Today, and virtual where tokio's time is.
pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(RuntimeClock::at(SystemClock::start().now()))
}

pub(crate) fn request() -> RequestId {
    RequestId::new([7; 16])
}

pub(crate) fn ledger() -> Arc<dyn Ledger> {
    Arc::new(MemoryLedger::new(Policy::default(), clock()))
}

pub(crate) async fn submit(handle: &NodeHandle, specs: Vec<Spec>) -> Vec<TaskId> {
    let submissions = specs.into_iter().map(Into::into).collect();
    let submitted = handle.submit(submissions, None).await.expect("accepted");
    let ids = submitted.into_iter().map(|s| match s {
        Submitted::Accepted(id) => id,
        other @ (Submitted::Duplicate { .. } | Submitted::Conflict { .. }) => panic!("{other:?}"),
    });
    ids.collect()
}

/// Waits until every task is in one of `states`; panics after half a minute.
pub(crate) async fn until(handle: &NodeHandle, tasks: &[TaskId], states: &[State]) {
    let mut changes = handle.latest();
    let all = async {
        for task in tasks {
            while !states.contains(&handle.task(*task).await.expect("known").head.state) {
                changes.changed().await.expect("the ledger is open");
            }
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), all).await;
    assert!(waited.is_ok(), "tasks did not become {states:?} in 30 s");
}

/// Everything that was filed.
pub(crate) fn tickets() -> OutboxFilter {
    OutboxFilter {
        destination: Some("tickets".to_owned()),
        acknowledged_too: true,
        ..OutboxFilter::default()
    }
}

/// Waits until memory holds so many episodes: it follows what a commit has written.
pub(crate) async fn until_episodes(handle: &NodeHandle, episodes: usize) {
    let known = async {
        while handle.episodes() != episodes {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), known).await;
    assert!(
        waited.is_ok(),
        "{} episodes, not {episodes}, after 30 s",
        handle.episodes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_task_takes_the_six_steps_and_is_journalled() {
    let node = Node::start(&config(&[("echo", 3)]), dependencies(ledger()))
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("echo"), "hello")]).await;
    until(&handle, &ids, &[State::Done]).await;
    let record = handle.task(ids[0]).await.expect("known");
    let Some(Ending::Done(answer)) = record.head.ending else {
        panic!("{record:?}")
    };
    assert_eq!(answer.text, "hello");
    let journal = handle.journal(ids[0]).await.expect("readable");
    let steps: Vec<Step> = journal
        .iter()
        .filter_map(|entry| match &entry.note {
            Note::Output(output) => Some(Output::step(output)),
            Note::Awarded { .. }
            | Note::Intent { .. }
            | Note::Outcome { .. }
            | Note::Decided(_) => None,
        })
        .collect();
    assert_eq!(steps, Step::ALL);
    assert!(node.stop().await, "agents leave in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_shared_evenly_and_every_task_ends_once() {
    let ledger = MemoryLedger::new(Policy::default(), clock());
    let node = Node::start(
        &config(&[("echo", 20)]),
        dependencies(Arc::new(ledger.clone())),
    )
    .await
    .expect("starts");
    let handle = node.handle();
    let specs: Vec<Spec> = (0..1_000)
        .map(|i| Spec::new(agent_type("echo"), format!("task {i}")))
        .collect();
    let ids = submit(&handle, specs).await;
    until(&handle, &ids, &[State::Done]).await;
    let counts = handle.counts().await.expect("readable");
    assert_eq!(counts.by_state.values().sum::<u64>(), counts.accepted);
    assert_eq!(counts.by_state[&State::Done], 1_000);
    assert!(node.stop().await);
    // Closed by the stop: what it had is found by opening it again.
    let agents = ledger.crash().agents().await.expect("readable");
    let tasks: Vec<u64> = agents.iter().map(|agent| agent.track.tasks).collect();
    assert_eq!(tasks.len(), 20);
    assert!(gini(&tasks) < 0.3, "{tasks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_waits_for_a_human_and_is_filed_as_ruled() {
    let node = Node::start(&config(&[("triage", 2)]), dependencies(ledger()))
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(
        &handle,
        vec![Spec::new(agent_type("triage"), "my password is lost")],
    )
    .await;
    until(&handle, &ids, &[State::Waiting]).await;
    assert!(
        handle
            .outbox(tickets())
            .await
            .expect("readable")
            .items
            .is_empty()
    );
    let filter = ApprovalFilter {
        limit: 10,
        ..ApprovalFilter::default()
    };
    let open = handle.approvals(filter).await.expect("readable");
    let decision = Decision {
        kind: DecisionKind::Correct("password_reset".to_owned()),
        teaching: Teaching::Teach,
        by: "ann".to_owned(),
    };
    handle
        .decide(open.items[0].question.id, request(), decision)
        .await
        .expect("open");
    until(&handle, &ids, &[State::Done]).await;
    let record = handle.task(ids[0]).await.expect("known");
    let Some(Ending::Done(answer)) = record.head.ending else {
        panic!("{record:?}")
    };
    assert_eq!(
        (answer.text.as_str(), answer.source),
        ("password_reset", Source::Human)
    );
    let filed = handle.outbox(tickets()).await.expect("readable").items;
    assert_eq!(filed.len(), 1);
    assert_eq!(filed[0].message.payload["queue"], "password_reset");
    until_episodes(&handle, 1).await;
    node.stop().await;
}

/// Panics on the first delivery of a task that says so.
#[derive(Debug)]
struct Fragile;

#[async_trait]
impl Kind for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        assert!(&*context.spec.input != "poison", "poison");
        let answer = Answer::by_rule("fine", "it held");
        Ok(Thought {
            answer,
            escalation_reason: None,
            model_calls: vec![],
            findings: Vec::new(),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_task_dies_and_its_agents_live_on() {
    let policy = Policy {
        backoff_base: Duration::from_millis(1),
        ..Policy::default()
    };
    let mut dependencies = dependencies(Arc::new(MemoryLedger::new(policy, clock())));
    dependencies.kinds = Kinds::builtin().with(Arc::new(Fragile));
    let node = Node::start(&config(&[("fragile", 2)]), dependencies)
        .await
        .expect("starts");
    let handle = node.handle();
    let poison = submit(&handle, vec![Spec::new(agent_type("fragile"), "poison")]).await;
    let good: Vec<Spec> = (0..50)
        .map(|i| Spec::new(agent_type("fragile"), format!("good {i}")))
        .collect();
    let good = submit(&handle, good).await;
    until(&handle, &poison, &[State::Dead]).await;
    until(&handle, &good, &[State::Done]).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_sleeps_and_wakes_with_its_next_task() {
    let mut config = config(&[("echo", 2)]);
    config.roster.sleep_after = Duration::from_millis(100);
    let node = Node::start(&config, dependencies(ledger()))
        .await
        .expect("starts");
    let handle = node.handle();
    let asleep = async {
        while !handle
            .agents()
            .await
            .expect("the market answers")
            .iter()
            .all(|agent| agent.state == "asleep")
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asleep)
        .await
        .expect("they fall asleep");
    let ids = submit(&handle, vec![Spec::new(agent_type("echo"), "wake up")]).await;
    until(&handle, &ids, &[State::Done]).await;
    node.stop().await;
}

/// Every span that names a parent has it among the spans.
fn orphans(spans: &[SpanData]) -> Vec<String> {
    let known: Vec<_> = spans.iter().map(|s| s.span_context.span_id()).collect();
    let none = opentelemetry::SpanId::INVALID;
    let lost = spans
        .iter()
        .filter(|s| s.parent_span_id != none && !known.contains(&s.parent_span_id));
    lost.map(|s| s.name.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_one_trace_without_orphans() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let mut dependencies = dependencies(ledger());
    dependencies.telemetry = Telemetry::new(Some(&provider), 1.0, &SeededRandom::new(7));
    let node = Node::start(&config(&[("triage", 2)]), dependencies)
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(
        &handle,
        vec![Spec::new(agent_type("triage"), "my password is lost")],
    )
    .await;
    until(&handle, &ids, &[State::Waiting]).await;
    let filter = ApprovalFilter {
        limit: 10,
        ..ApprovalFilter::default()
    };
    let open = handle.approvals(filter).await.expect("readable");
    let decision = Decision {
        kind: DecisionKind::Accept,
        teaching: Teaching::Keep,
        by: "ann".to_owned(),
    };
    handle
        .decide(open.items[0].question.id, request(), decision)
        .await
        .expect("open");
    until(&handle, &ids, &[State::Done]).await;
    node.stop().await;
    let spans = exporter.get_finished_spans().expect("collected");
    assert_eq!(orphans(&spans), Vec::<String>::new());
    let root = spans.iter().find(|s| s.name == "submit").expect("a root");
    let own: Vec<&str> = spans
        .iter()
        .filter(|s| s.span_context.trace_id() == root.span_context.trace_id())
        .map(|s| &*s.name)
        .collect();
    for name in [
        "submit",
        "admission",
        "market.award",
        "perceive",
        "retrieve",
        "reason",
        "execute",
        "execute_tool ticket.file",
        "invoke_agent triage",
        "task",
        "verify",
        "learn",
        "approval",
        "embeddings echo",
    ] {
        assert!(own.contains(&name), "no span {name:?} among {own:?}");
    }
}
