//! A kind of agent of one's own, on a node in this process: `cargo run -p colony-node --example first_kind`.
//!
//! docs/guides/first-agent.md explains it line by line.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_agents::{
    CallContext, EffectKind, Kind, Kinds, PortError, StepContext, StepError, Tool, ToolOutcome,
    Tools,
};
use colony_core::{
    cycle::{Decision, DecisionKind, Effect, EscalationReason, ExecutionResult, Teaching, Thought},
    id::{RequestId, TypeName},
    journal::EffectKey,
    port::{Clock, RandomSource},
    task::{Answer, Ending, Spec, State},
};
use colony_node::{
    Config, Dependencies, Node,
    config::AgentType,
    ports::{SystemClock, SystemRandom},
};
use colony_store::{ApprovalFilter, Ledger, MemoryLedger, Policy, Submitted};
use serde_json::{Value, json};

// --8<-- kind
/// Decides whether a message is urgent, and pages somebody when it is.
#[derive(Debug)]
struct Pager;

#[async_trait]
impl Kind for Pager {
    fn name(&self) -> &'static str {
        "pager"
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        let text = context.spec.input.to_lowercase();
        let urgent = ["down", "outage", "smoke"]
            .iter()
            .any(|word| text.contains(word));
        let answer = if urgent { "urgent" } else { "normal" };
        Ok(Thought {
            answer: Answer::by_rule(answer, "looked for alarming words"),
            // Nobody is woken at night by a guess: a human agrees first.
            escalation_reason: text.contains("smoke").then_some(EscalationReason::Risky),
            model_calls: vec![],
            findings: Vec::new(),
        })
    }

    async fn execute(&self, context: &StepContext) -> Result<ExecutionResult, StepError> {
        // Only an answer that stands is acted on; while there is a reason to ask a human, verify asks first.
        let Some(answer) = context.standing().filter(|answer| answer.text == "urgent") else {
            return Ok(ExecutionResult::default());
        };
        let effect = Effect {
            tool: "pager.page".to_owned(),
            arguments: json!(answer.text),
        };
        let outcome = context.perform(effect.clone()).await?;
        Ok(ExecutionResult {
            effects: vec![(effect, outcome)],
        })
    }
}
// --8<-- kind

// --8<-- tool
/// Pages somebody. A real one would send `key` along, so that the other side can tell a repetition.
#[derive(Debug)]
struct Page;

#[async_trait]
impl Tool for Page {
    fn name(&self) -> &'static str {
        "pager.page"
    }

    fn effect_kind(&self) -> EffectKind {
        EffectKind::AtLeastOnce
    }

    async fn call(
        &self,
        arguments: &Value,
        key: &EffectKey,
        call: &CallContext,
    ) -> Result<ToolOutcome, PortError> {
        Ok(ToolOutcome {
            value: json!({ "paged": arguments, "key": key.as_str(), "by": call.agent.to_string() }),
            messages: vec![],
        })
    }
}
// --8<-- tool

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // --8<-- node
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let random: Arc<dyn RandomSource> = Arc::new(SystemRandom);
    let ledger: Arc<dyn Ledger> =
        Arc::new(MemoryLedger::new(Policy::default(), Arc::clone(&clock)));
    let mut dependencies = Dependencies::new(clock, random, ledger);
    dependencies.kinds = Kinds::builtin().with(Arc::new(Pager));
    dependencies.tools = Tools::builtin().with(Arc::new(Page));
    // The same as a table [agents.night-watch] in colony.toml.
    let declared = AgentType {
        kind: "pager".to_owned(),
        count: 3,
        ..AgentType::default()
    };
    let agents = BTreeMap::from([("night-watch".to_owned(), declared)]);
    let node = Node::start(
        &Config {
            agents,
            ..Config::default()
        },
        dependencies,
    )
    .await?;
    // --8<-- node

    let handle = node.handle();
    let watch = TypeName::new("night-watch")?;
    for text in [
        "the printer is out of paper",
        "the shop is down",
        "I smell smoke",
    ] {
        let submitted = handle
            .submit(vec![Spec::new(watch.clone(), text).into()], None)
            .await?;
        let Some(Submitted::Accepted(task)) = submitted.first() else {
            return Err(format!("not accepted: {submitted:?}").into());
        };
        let mut changes = handle.latest();
        let record = loop {
            let record = handle.task(*task).await?;
            if record.head.state == State::Waiting {
                for open in handle.approvals(ApprovalFilter::default()).await?.items {
                    say(&format!("a human is asked: {}", open.question.question));
                    let by = "example".to_owned();
                    let (kind, teaching) = (DecisionKind::Accept, Teaching::Keep);
                    handle
                        .decide(
                            open.question.id,
                            RequestId::new([7; 16]),
                            Decision { kind, teaching, by },
                        )
                        .await?;
                }
            }
            if record.head.state.is_final() {
                break record;
            }
            tokio::time::timeout(Duration::from_secs(10), changes.changed()).await??;
        };
        match record.head.ending {
            Some(Ending::Done(answer)) => say(&format!("{text:?} is {}", answer.text)),
            other => return Err(format!("{text:?} ended otherwise: {other:?}").into()),
        }
    }
    node.stop().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example talks")]
fn say(line: &str) {
    println!("{line}");
}
