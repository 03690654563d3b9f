//! A kind of agent: the six steps as code.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use colony_core::{
    cycle::{
        DecisionKind, EscalationReason, ExecutionResult, Learning, Output, Percept, Recall, Step,
        Teaching, Thought, Verdict,
    },
    escalation::Due,
    id::TypeName,
    task::{Answer, Source},
    unit::Ratio,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    context::StepContext,
    kinds::{echo::Echo, triage::Triage},
    port::PortError,
};

/// The declaration of an agent type, as it stands in `colony.toml` under `[agents.NAME]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TypeSettings {
    /// The type's name.
    pub name: TypeName,
    /// The kind that does its steps.
    pub kind: String,
    /// Raised with every change of the declaration. A task under way keeps the steps written down under the
    /// former one and goes on under this one.
    pub version: u32,
    /// The language model, by its name in `[models]`.
    pub model: Option<String>,
    /// The embedding model, by its name in `[models]`.
    pub embedder: Option<String>,
    /// The system prompt.
    pub prompt: Option<String>,
    /// When the answers of humans to its questions are due.
    pub approvals: Due,
    /// Settings of the kind itself; each kind checks its own.
    pub settings: Value,
}

/// Why a step gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// A port did not answer; whether to try again is the port's word.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The task cannot be done, however often it is tried.
    #[error("{0}")]
    Impossible(String),
}

/// A kind of agent. Implement the steps you care about; the rest do the least that is right.
///
/// Steps may run again after a crash, from the last one written down: anything done to the world goes
/// through [`StepContext::perform`], which is written down first. A step is cancelled by dropping its future.
#[async_trait]
pub trait Kind: Send + Sync + fmt::Debug {
    /// The name that `kind = "…"` in `colony.toml` refers to.
    fn name(&self) -> &'static str;

    /// Checks the settings of a type of this kind when the node starts.
    ///
    /// # Errors
    /// One line per problem, each naming the key.
    fn check(&self, settings: &TypeSettings) -> Result<(), Vec<String>> {
        match without_settings(self.name(), settings) {
            problems if problems.is_empty() => Ok(()),
            problems => Err(problems),
        }
    }

    /// Takes the input in. Default: the text as it is.
    async fn perceive(&self, context: &StepContext) -> Result<Percept, StepError> {
        Ok(Percept {
            text: context.spec.input.to_string(),
            vector: None,
        })
    }

    /// Recalls what is like it. Default: nothing.
    async fn retrieve(&self, _context: &StepContext) -> Result<Recall, StepError> {
        Ok(Recall::default())
    }

    /// Decides. The one step without a default.
    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError>;

    /// Acts. Default: nothing.
    async fn execute(&self, _context: &StepContext) -> Result<ExecutionResult, StepError> {
        Ok(ExecutionResult::default())
    }

    /// Checks. Default: a human's decision stands; without one, a reason to ask a human asks, and a known answer is compared.
    async fn verify(&self, context: &StepContext) -> Result<Verdict, StepError> {
        Ok(verify_by_decision(context))
    }

    /// Learns: says what is to be remembered; it is written down with the end of the task, or not at all.
    /// Default: what a human corrected or confirmed, or the submitter expected, when the type has an
    /// embedder. A failure here does not undo the task: nothing is learned then.
    async fn learn(&self, context: &StepContext) -> Result<Learning, StepError> {
        Ok(lesson_of(context))
    }

    /// Does one step.
    ///
    /// # Errors
    /// Those of the step.
    async fn step(&self, step: Step, context: &StepContext) -> Result<Output, StepError> {
        Ok(match step {
            Step::Perceive => Output::Perceive(self.perceive(context).await?),
            Step::Retrieve => Output::Retrieve(self.retrieve(context).await?),
            Step::Reason => Output::Reason(self.reason(context).await?),
            Step::Execute => Output::Execute(self.execute(context).await?),
            Step::Verify => Output::Verify(self.verify(context).await?),
            Step::Learn => Output::Learn(self.learn(context).await?),
        })
    }
}

/// What is wrong with the settings of a type whose kind has none.
#[must_use]
pub(crate) fn without_settings(kind: &str, settings: &TypeSettings) -> Vec<String> {
    let keys = settings.settings.as_object().into_iter().flatten();
    keys.map(|(key, _)| format!("settings.{key}: kind {kind} has no settings"))
        .collect()
}

/// The settings of a kind that has some, those left out at their defaults.
///
/// # Errors
/// One line for each key that is unknown or holds something else than it should.
pub(crate) fn settings_of<T>(kind: &str, declared: &TypeSettings) -> Result<T, Vec<String>>
where
    T: Default + Serialize + DeserializeOwned,
{
    // Plain data with text keys: this cannot fail.
    let known = serde_json::to_value(T::default()).unwrap_or_default();
    let known: Vec<&String> = known.as_object().into_iter().flat_map(Map::keys).collect();
    let mut problems = Vec::new();
    for (key, value) in declared.settings.as_object().into_iter().flatten() {
        if !known.contains(&key) {
            let there: Vec<&str> = known.iter().map(|key| key.as_str()).collect();
            let there = there.join(", ");
            problems.push(format!(
                "settings.{key}: kind {kind} has no such setting; there are: {there}"
            ));
            continue;
        }
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = serde_json::from_value::<T>(Value::Object(alone)) {
            problems.push(format!("settings.{key}: {error}"));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    serde_json::from_value(declared.settings.clone())
        .map_err(|error| vec![format!("settings: {error}")])
}

/// The verdict that decisions, reasons to ask a human and a known answer lead to.
#[must_use]
pub(crate) fn verify_by_decision(context: &StepContext) -> Verdict {
    let Some(thought) = &context.work.thought else {
        return Verdict::Reject {
            reason: "there is nothing to verify".to_owned(),
        };
    };
    let ruled = thought.answer.source == Source::Human;
    if let Some(decision) = &context.work.decision {
        let by = &decision.by;
        let text = match &decision.kind {
            DecisionKind::Accept => &thought.answer.text,
            DecisionKind::Correct(text) => text,
            DecisionKind::Reject { reason } => {
                return Verdict::Reject {
                    reason: format!("rejected by {by}: {reason}"),
                };
            }
        };
        if ruled && *text == thought.answer.text {
            return Verdict::Accept;
        }
        return Verdict::Redo(Answer {
            text: text.clone(),
            confidence: Ratio::ONE,
            source: Source::Human,
            reason: format!("decided by {by}"),
        });
    }
    let answer = &thought.answer;
    if let Some(expected) = context
        .spec
        .expected
        .as_ref()
        .filter(|e| **e != answer.text)
    {
        let question = format!(
            "answered {:?} at confidence {:.2}, but the submitter expected {expected:?}",
            answer.text,
            answer.confidence.get()
        );
        return Verdict::Ask {
            escalation_reason: EscalationReason::Contradiction,
            question,
        };
    }
    match thought.escalation_reason {
        Some(escalation_reason) => {
            let question = format!(
                "{:?} at confidence {:.2}: {}",
                answer.text,
                answer.confidence.get(),
                answer.reason
            );
            Verdict::Ask {
                escalation_reason,
                question,
            }
        }
        None => Verdict::Accept,
    }
}

/// What there is to learn from an ended task.
#[must_use]
pub(crate) fn lesson_of(context: &StepContext) -> Learning {
    let accepted = context.work.verdict == Some(Verdict::Accept);
    let answer = context.work.thought.as_ref().map(|t| &t.answer);
    let taught = context
        .work
        .decision
        .as_ref()
        .is_some_and(|d| d.teaching == Teaching::Teach);
    let known = taught || context.spec.expected.is_some();
    let has_vector = context
        .work
        .percept
        .as_ref()
        .is_some_and(|p| p.vector.is_some());
    let teach = answer
        .filter(|_| accepted && known && has_vector)
        .map(|a| a.text.clone());
    let deposit = answer.map_or(Ratio::ZERO, |a| {
        if accepted { a.confidence } else { Ratio::ONE }
    });
    Learning { teach, deposit }
}

/// No kind of this name.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no agent kind {name:?}; there are: {}", known.join(", "))]
pub struct UnknownKind {
    /// The name asked for.
    pub name: String,
    /// The names there are.
    pub known: Vec<&'static str>,
}

/// The kinds a node knows, by name.
#[derive(Debug, Clone)]
pub struct Kinds(BTreeMap<&'static str, Arc<dyn Kind>>);

impl Kinds {
    /// The ready-made kinds.
    #[must_use]
    pub fn builtin() -> Self {
        Self(BTreeMap::new())
            .with(Arc::new(Echo))
            .with(Arc::new(Triage))
    }

    /// Adds a kind, or replaces the one of the same name.
    #[must_use]
    pub fn with(mut self, kind: Arc<dyn Kind>) -> Self {
        self.0.insert(kind.name(), kind);
        self
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// [`UnknownKind`] lists what there is.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Kind>, UnknownKind> {
        self.0.get(name).cloned().ok_or_else(|| UnknownKind {
            name: name.to_owned(),
            known: self.0.keys().copied().collect(),
        })
    }
}
