//! What a trace tells of its task: how it ended, who decided, which model and which tool were asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_agents::{Kind, Kinds, Prompt, PromptFormat, StepContext, StepError};
use colony_core::{
    cycle::{Decision, DecisionKind, Teaching, Thought},
    id::TaskId,
    task::{Answer, Spec, State},
};
use colony_inference::{BatchObserver, EchoEmbedder, EchoGenerator};
use colony_node::{
    Config, Dependencies, Node, NodeHandle,
    config::AgentType,
    ports::SeededRandom,
    telemetry::{Telemetry, names},
    workers::BatchSpans,
};
use colony_store::{ApprovalFilter, Policy, memory::MemoryLedger};
use opentelemetry::{
    Array, Value,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};

use crate::walk::{agent_type, clock, config, dependencies, request, submit, until};

/// A node whose spans are kept, and its spans once it has stopped.
struct Traced {
    node: Node,
    exporter: InMemorySpanExporter,
}

impl Traced {
    async fn start(config: &Config, adjust: impl FnOnce(&mut Dependencies)) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let policy = Policy {
            backoff_base: Duration::from_millis(1),
            ..Policy::default()
        };
        let mut dependencies = dependencies(Arc::new(MemoryLedger::new(policy, clock())));
        let telemetry = Telemetry::new(Some(&provider), 1.0, &SeededRandom::new(7));
        let batches: Arc<dyn BatchObserver> = Arc::new(BatchSpans(telemetry.clone()));
        let embedder = EchoEmbedder::new(clock(), None).observed_by(Arc::clone(&batches));
        let generator = EchoGenerator::new(clock(), None).observed_by(batches);
        let workers = &mut dependencies.workers;
        workers.embedders = BTreeMap::from([("minilm".to_owned(), Arc::new(embedder) as _)]);
        workers.generators = BTreeMap::from([("smollm2".to_owned(), Arc::new(generator) as _)]);
        dependencies.telemetry = telemetry;
        adjust(&mut dependencies);
        let node = Node::start(config, dependencies).await.expect("starts");
        Self { node, exporter }
    }

    fn handle(&self) -> NodeHandle {
        self.node.handle()
    }

    async fn stop(self) -> Vec<SpanData> {
        assert!(self.node.stop().await, "agents leave in time");
        self.exporter.get_finished_spans().expect("collected")
    }
}

/// A triage task is asked about, and decided by ann.
async fn decided(kind: DecisionKind, ends: State) -> Vec<SpanData> {
    let traced = Traced::start(&config(&[("triage", 2)]), |_| {}).await;
    let handle = traced.handle();
    let spec = Spec::new(agent_type("triage"), "my password is lost");
    let ids = submit(&handle, vec![spec]).await;
    until(&handle, &ids, &[State::Waiting]).await;
    let open = handle.approvals(ApprovalFilter::default()).await;
    let decision = Decision {
        kind,
        teaching: Teaching::Keep,
        by: "ann".to_owned(),
    };
    let id = open.expect("readable").items[0].question.id;
    handle.decide(id, request(), decision).await.expect("open");
    until(&handle, &ids, &[ends]).await;
    traced.stop().await
}

fn named<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    let found = spans.iter().find(|span| span.name == name);
    found.unwrap_or_else(|| {
        let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
        panic!("no span {name:?} among {names:?}")
    })
}

fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.clone())
}

fn text(span: &SpanData, key: &str) -> String {
    attribute(span, key).map_or_else(String::new, |value| value.to_string())
}

fn failure(span: &SpanData) -> Option<String> {
    match &span.status {
        Status::Error { description } => Some(description.to_string()),
        Status::Unset | Status::Ok => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_task_names_its_label_its_source_and_who_decided() {
    let spans = decided(
        DecisionKind::Correct("password_reset".to_owned()),
        State::Done,
    )
    .await;
    let end = named(&spans, "task");
    assert_eq!(text(end, names::OUTCOME), "done");
    assert_eq!(text(end, names::ANSWER_LABEL), "password_reset");
    assert_eq!(text(end, names::ANSWER_SOURCE), "human");
    assert!(matches!(
        attribute(end, names::ANSWER_CONFIDENCE),
        Some(Value::F64(_))
    ));
    assert_eq!(text(end, names::DECISION), "correct");
    assert_eq!(text(end, names::DECIDED_BY), "ann");
    assert_eq!(failure(end), None);
    let approval = named(&spans, "approval");
    assert_eq!(text(approval, names::DECISION), "correct");
    assert_eq!(text(approval, names::DECIDED_BY), "ann");
    // It spans the whole task: from before the first step to after the last.
    let root = named(&spans, "submit");
    assert_eq!(end.parent_span_id, root.span_context.span_id());
    let learn = named(&spans, "learn");
    assert!(end.start_time <= learn.start_time);
    assert!(end.start_time <= end.end_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_human_rejects_is_an_error_that_names_them() {
    let reason = "not ours".to_owned();
    let spans = decided(DecisionKind::Reject { reason }, State::Failed).await;
    let end = named(&spans, "task");
    assert_eq!(text(end, names::OUTCOME), "rejected");
    assert_eq!(text(end, names::ERROR_TYPE), "rejected");
    assert_eq!(text(end, names::DECISION), "reject");
    assert_eq!(text(end, names::DECIDED_BY), "ann");
    let failure = failure(end).expect("an error");
    assert!(failure.contains("not ours"), "{failure}");
    assert_eq!(attribute(end, names::ANSWER_LABEL), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_expires_and_one_that_is_cancelled_say_so() {
    // Nobody answers: both wait for a human until they end.
    let traced = Traced::start(&config(&[("triage", 2)]), |_| {}).await;
    let handle = traced.handle();
    let mut expires = Spec::new(agent_type("triage"), "my badge does not open the gate");
    expires.deadline = Some(handle.now().after(Duration::from_secs(1)));
    let kept = Spec::new(agent_type("triage"), "my password is lost");
    let ids = submit(&handle, vec![expires, kept]).await;
    until(&handle, &ids[1..], &[State::Waiting]).await;
    handle.cancel(ids[1], request()).await.expect("live");
    until(&handle, &ids[..1], &[State::Expired]).await;
    let spans = traced.stop().await;
    let end = |id: TaskId| {
        let mut ends = spans.iter().filter(|span| span.name == "task");
        ends.find(|span| text(span, names::TASK_ID) == id.to_string())
            .expect("its end")
    };
    assert_eq!(text(end(ids[0]), names::OUTCOME), "expired");
    assert_eq!(failure(end(ids[0])).as_deref(), Some("its deadline passed"));
    assert_eq!(text(end(ids[1]), names::OUTCOME), "cancelled");
    assert_eq!(failure(end(ids[1])), None, "whoever cancels has no error");
}

/// Panics over every task.
#[derive(Debug)]
struct Broken;

#[async_trait]
impl Kind for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        panic!("over {}", context.spec.input.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_task_shows_each_attempt_and_why_it_failed() {
    let traced = Traced::start(&config(&[("broken", 2)]), |dependencies| {
        dependencies.kinds = Kinds::builtin().with(Arc::new(Broken));
    })
    .await;
    let handle = traced.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("broken"), "four")]).await;
    until(&handle, &ids, &[State::Dead]).await;
    let spans = traced.stop().await;
    let end = named(&spans, "task");
    assert_eq!(text(end, names::OUTCOME), "dead");
    let attempts_max = i64::from(Policy::default().attempts_max);
    assert_eq!(
        attribute(end, names::FAILED_ATTEMPTS),
        Some(Value::I64(attempts_max))
    );
    let why = failure(end).expect("an error");
    assert!(why.contains("over 4"), "{why}");
    let attempts: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "invoke_agent broken")
        .collect();
    assert_eq!(attempts.len(), usize::try_from(attempts_max).expect("few"));
    for attempt in attempts {
        assert_eq!(text(attempt, names::SETTLEMENT), "release");
        assert_eq!(text(attempt, names::ERROR_TYPE), "failed");
        assert!(failure(attempt).is_some(), "{attempt:?}");
    }
    let step = named(&spans, "reason");
    assert_eq!(text(step, names::ERROR_TYPE), "panic");
}

/// Asks the model and answers with its words.
#[derive(Debug)]
struct Asker;

#[async_trait]
impl Kind for Asker {
    fn name(&self) -> &'static str {
        "asker"
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        let prompt = Prompt {
            format: PromptFormat::Chat,
            system: Arc::from("answer"),
            user: context.spec.input.to_string(),
            schema: None,
            tokens_max: 2,
        };
        let reply = context.ask(prompt).await?;
        Ok(Thought {
            answer: Answer::by_rule(reply.text, "the model said so"),
            escalation_reason: None,
            model_calls: vec![],
            findings: vec![],
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_call_speaks_the_words_of_the_conventions_and_rides_in_a_batch() {
    let asker = AgentType {
        kind: "asker".to_owned(),
        count: 1,
        model: Some("smollm2".to_owned()),
        ..AgentType::default()
    };
    let config = Config {
        agents: BTreeMap::from([("asker".to_owned(), asker)]),
        ..Config::default()
    };
    let traced = Traced::start(&config, |dependencies| {
        dependencies.kinds = Kinds::builtin().with(Arc::new(Asker));
    })
    .await;
    let handle = traced.handle();
    let ids = submit(
        &handle,
        vec![Spec::new(agent_type("asker"), "one two three")],
    )
    .await;
    until(&handle, &ids, &[State::Done]).await;
    let spans = traced.stop().await;
    let call = named(&spans, "chat echo");
    assert_eq!(call.span_kind, SpanKind::Client);
    assert_eq!(text(call, names::GEN_AI_OPERATION), "chat");
    assert_eq!(text(call, names::GEN_AI_PROVIDER), "echo");
    assert_eq!(text(call, names::GEN_AI_MODEL), "echo");
    assert_eq!(text(call, names::GEN_AI_OUTPUT_TYPE), "text");
    assert_eq!(
        attribute(call, names::GEN_AI_FINISH_REASONS),
        Some(Value::Array(Array::String(vec!["length".into()])))
    );
    assert_eq!(
        attribute(call, names::GEN_AI_OUTPUT_TOKENS),
        Some(Value::I64(2))
    );
    let batch = named(&spans, "batch decode echo");
    assert_eq!(text(batch, names::BATCH_KIND), "decode");
    assert_eq!(attribute(batch, names::BATCH_TOKENS), Some(Value::I64(2)));
    let links: Vec<_> = batch
        .links
        .iter()
        .map(|link| link.span_context.span_id())
        .collect();
    assert_eq!(links, [call.span_context.span_id()]);
    // What a rule answers may repeat the task: it is no label, and stays at home.
    let end = named(&spans, "task");
    assert_eq!(text(end, names::ANSWER_SOURCE), "rule");
    assert_eq!(attribute(end, names::ANSWER_LABEL), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_and_its_tools_are_named_as_the_conventions_name_them() {
    let spans = decided(
        DecisionKind::Correct("password_reset".to_owned()),
        State::Done,
    )
    .await;
    let mut invocations: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "invoke_agent triage")
        .collect();
    // The one that ends first need not be exported first.
    invocations.sort_by_key(|span| span.start_time);
    // Until it asks, and after it was answered.
    let settlements: Vec<_> = invocations
        .iter()
        .map(|span| text(span, names::SETTLEMENT))
        .collect();
    assert_eq!(settlements, ["wait", "end"]);
    for invocation in &invocations {
        assert_eq!(text(invocation, names::GEN_AI_OPERATION), "invoke_agent");
        assert_eq!(text(invocation, names::GEN_AI_PROVIDER), "colony");
        assert_eq!(text(invocation, names::GEN_AI_AGENT_NAME), "triage");
        assert!(text(invocation, names::GEN_AI_AGENT_ID).starts_with("triage/"));
        assert_eq!(text(invocation, names::GEN_AI_AGENT_VERSION), "1");
    }
    let tool = named(&spans, "execute_tool ticket.file");
    assert_eq!(text(tool, names::GEN_AI_OPERATION), "execute_tool");
    assert_eq!(text(tool, names::GEN_AI_TOOL), "ticket.file");
    assert!(!text(tool, names::GEN_AI_TOOL_CALL_ID).is_empty());
    // The tool is called in a step, the step belongs to the agent's work, that to the task.
    let parent = |span: &SpanData| {
        spans
            .iter()
            .find(|other| other.span_context.span_id() == span.parent_span_id)
            .expect("its parent is among the spans")
            .clone()
    };
    let step = parent(tool);
    assert_eq!(step.name, "execute");
    let invocation = parent(&step);
    assert_eq!(invocation.name, "invoke_agent triage");
    assert_eq!(parent(&invocation).name, "submit");
}
