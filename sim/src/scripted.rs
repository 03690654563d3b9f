//! The simulator's own kind of agent: does what a table of the workload says, and what a task's first word
//! asks for.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use async_trait::async_trait;
use colony_agents::{Kind, StepContext, StepError, TypeSettings};
use colony_core::{
    cycle::{
        Effect, EscalationReason, ExecutionResult, Learning, Output, Percept, Recall, Step,
        Teaching, Thought, Verdict,
    },
    task::{Answer, Source},
    unit::Ratio,
};
use futures_util::future::try_join_all;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use serde_json::json;

use crate::{
    watch::Watch,
    workload::{Agents, Matter, SinkKind},
    world::World,
};

/// First word of a task that makes the agent tell what it remembers of the rest.
pub(crate) const RECALL: &str = "recall ";

impl Matter {
    /// The first word of a task's text.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Doubtful => "doubtful",
            Self::Poison => "poison",
        }
    }
}

/// The kind `scripted`.
#[derive(Debug)]
pub(crate) struct Scripted(pub(crate) Arc<World>);

fn script(context: &StepContext) -> Result<Agents, StepError> {
    let settings = context.settings.settings.clone();
    serde_json::from_value(settings).map_err(|error| StepError::Impossible(error.to_string()))
}

/// A share with more digits than print well, different for each text.
fn confidence(text: &str) -> f64 {
    let sum: u32 = text.bytes().map(u32::from).sum();
    1.0 / (1.1 + f64::from(sum % 997) / 997.0)
}

/// Lets others go first who are ready now, one after the other: a step's end has no fixed place among the events
/// of a moment.
async fn take_turns(step: Step, context: &StepContext) -> Result<(), StepError> {
    let most = script(context)?.turns;
    if most == 0 {
        return Ok(());
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    // Drawn from what the step is of, so that no step shifts the turns of another.
    let of = format!(
        "{}/{}/{}",
        context.call.task,
        context.call.fence.0,
        step.as_str()
    );
    let seed = of.bytes().fold(0, |seed: u64, byte| {
        seed.wrapping_mul(31).wrapping_add(byte.into())
    });
    let mut turns = ChaCha12Rng::seed_from_u64(seed).random_range(0..=most);
    // tokio's `yield_now` lets everybody go first; here one turn is one event.
    poll_fn(|context| {
        if turns == 0 {
            return Poll::Ready(());
        }
        turns -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    Ok(())
}

/// An agent at a step, while this lives.
struct AtWork<'a>(&'a Watch, &'a StepContext);

impl<'a> AtWork<'a> {
    fn begin(watch: &'a Watch, context: &'a StepContext) -> Self {
        watch.step_begins(&context.call.agent, context.call.task);
        Self(watch, context)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.step_ends(&self.1.call.agent, self.1.call.task);
    }
}

#[async_trait]
impl Kind for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn check(&self, _: &TypeSettings) -> Result<(), Vec<String>> {
        Ok(())
    }

    async fn step(&self, step: Step, context: &StepContext) -> Result<Output, StepError> {
        let _at_work = AtWork::begin(&self.0.watch, context);
        let output = match step {
            Step::Perceive => Output::Perceive(self.perceive(context).await?),
            Step::Retrieve => Output::Retrieve(self.retrieve(context).await?),
            Step::Reason => Output::Reason(self.reason(context).await?),
            Step::Execute => Output::Execute(self.execute(context).await?),
            Step::Verify => Output::Verify(self.verify(context).await?),
            Step::Learn => Output::Learn(self.learn(context).await?),
        };
        take_turns(step, context).await?;
        Ok(output)
    }

    async fn perceive(&self, context: &StepContext) -> Result<Percept, StepError> {
        let text = context.spec.input.strip_prefix(RECALL);
        let text = text.unwrap_or(&context.spec.input).to_owned();
        let vector = match context.settings.embedder {
            Some(_) => Some(context.embed(&text).await?),
            None => None,
        };
        Ok(Percept { text, vector })
    }

    async fn retrieve(&self, context: &StepContext) -> Result<Recall, StepError> {
        match &context.work.percept {
            Some(percept) if percept.vector.is_some() => Ok(context.recall(percept).await?),
            _ => Ok(Recall::default()),
        }
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        let input = &context.spec.input;
        if input.starts_with(Matter::Poison.word()) {
            self.0.watch.failed_attempt(context.call.task);
            // Without the panic hook, which would print it.
            std::panic::resume_unwind(Box::new("poison"));
        }
        let recalled = context.work.recall.as_ref();
        let text = match recalled.filter(|_| input.starts_with(RECALL)) {
            Some(recall) => json!({
                "neighbours": recall.neighbours,
                "verdict": recall.verdict,
            })
            .to_string(),
            None => format!("did {input}"),
        };
        let doubtful = input.starts_with(Matter::Doubtful.word());
        Ok(Thought {
            answer: Answer {
                text,
                confidence: Ratio::clamped(confidence(input)),
                source: Source::Rule,
                reason: "by its script".to_owned(),
            },
            escalation_reason: doubtful.then_some(EscalationReason::Uncertain),
            model_calls: vec![],
            findings: Vec::new(),
        })
    }

    async fn execute(&self, context: &StepContext) -> Result<ExecutionResult, StepError> {
        let script = script(context)?;
        let Some(answer) = context.standing() else {
            return Ok(ExecutionResult::default());
        };
        if context.spec.input.starts_with(RECALL) {
            return Ok(ExecutionResult::default());
        }
        let mut effects = Vec::new();
        if script.posts > 0 {
            let effect = Effect {
                tool: "post".to_owned(),
                arguments: json!({
                    "count": script.posts,
                    "confidence": answer.confidence.get(),
                }),
            };
            let value = context.perform(effect.clone()).await?;
            effects.push((effect, value));
        }
        if script.step_ms > 0 {
            tokio::time::sleep(Duration::from_millis(script.step_ms.into())).await;
        }
        let tool = match script.sink {
            SinkKind::Keys => "sink",
            SinkKind::Fences => "sink.fences",
        };
        // At once: several are announced before the first is made.
        let calls = (0..script.effects).map(|number| async move {
            let effect = Effect {
                tool: tool.to_owned(),
                arguments: json!({
                    "number": number,
                    "confidence": answer.confidence.get(),
                }),
            };
            let value = context.perform(effect.clone()).await?;
            Ok::<_, StepError>((effect, value))
        });
        effects.extend(try_join_all(calls).await?);
        Ok(ExecutionResult { effects })
    }

    async fn learn(&self, context: &StepContext) -> Result<Learning, StepError> {
        if script(context)?.learn_fails {
            return Err(StepError::Impossible("it cannot learn".to_owned()));
        }
        let answer = context.work.thought.as_ref().map(|thought| &thought.answer);
        let accepted = context.work.verdict == Some(Verdict::Accept);
        let ruled = context.work.decision.as_ref();
        let taught = ruled.is_some_and(|d| d.teaching == Teaching::Teach);
        let teach = answer.filter(|_| accepted && taught && context.settings.embedder.is_some());
        Ok(Learning {
            teach: teach.map(|answer| answer.text.clone()),
            deposit: Ratio::ONE,
        })
    }
}
