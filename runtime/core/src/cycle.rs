//! The six steps of an agent: Perceive → Retrieve → Reason → Execute → Verify → Learn.
//!
//! ```text
//!   perceive ► retrieve ► reason ► execute ► verify ► learn ► end
//!                                     ▲  │      │ │
//!                        redo (once   │  │      │ └─ reject ─► learn ─► end (failed)
//!                        per human    └──┼──────┤
//!                        decision)       └ ask ─┴─► waiting ─► (decision) ─► the step that asked
//! ```
//! The rules decide what comes next; it does no step. [`Work`] is everything an agent knows of its task:
//! the outputs of the steps so far, rebuilt from the journal by [`Work::record`], so that any agent of
//! the type resumes at the exact step without repeating a call.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    escalation::Finding,
    memory::MemoryVerdict,
    task::{Answer, Ending, Source},
    unit::Ratio,
};

/// How often verify may send the work back to execute. Each human decision may correct the answer
/// once; more would be a quarrel, not a correction.
pub const REDOS_MAX: u8 = 3;

/// One of the six.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Take the input in: normalise, embed.
    Perceive,
    /// Recall what is like it.
    Retrieve,
    /// Decide.
    Reason,
    /// Act through tools.
    Execute,
    /// Check what was done; ask a human when needed.
    Verify,
    /// Keep what was learned.
    Learn,
}

impl Step {
    /// All six, in order.
    pub const ALL: [Self; 6] = [
        Self::Perceive,
        Self::Retrieve,
        Self::Reason,
        Self::Execute,
        Self::Verify,
        Self::Learn,
    ];

    /// The name used in spans, the journal and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Perceive => "perceive",
            Self::Retrieve => "retrieve",
            Self::Reason => "reason",
            Self::Execute => "execute",
            Self::Verify => "verify",
            Self::Learn => "learn",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What perceive gives: the input as the agent will use it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Percept {
    /// Normalised text.
    pub text: String,
    /// Its embedding, unit length; none when the agent needs none.
    pub vector: Option<Arc<[f32]>>,
}

/// An episode that came to mind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The episode's number.
    pub episode: u64,
    /// What its answer was.
    pub label: String,
    /// Cosine similarity to the percept, −1 to 1.
    pub similarity: f64,
    /// Its text, shortened, for prompts and explanations.
    pub text: String,
}

/// What retrieve gives: the nearest solved episodes, nearest first, and what memory makes of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Nearest first.
    pub neighbours: Vec<Neighbour>,
    /// What memory makes of them; none when the agent has no memory.
    #[serde(alias = "recollection")]
    pub verdict: Option<MemoryVerdict>,
}

/// A call to a model, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCall {
    /// The model's name.
    pub model: String,
    /// What it answered, before any use was made of it.
    pub reply: String,
    /// Tokens read.
    pub prompt_tokens: u32,
    /// Tokens written.
    pub completion_tokens: u32,
    /// What the agent understood: the label chosen, for a choice among labels.
    #[serde(default)]
    pub choice: Option<String>,
    /// Probability of the reply among all that were allowed.
    #[serde(default)]
    pub likelihood: Ratio,
}

/// What reason gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thought {
    /// The answer the agent would give now.
    pub answer: Answer,
    /// Why a human should look before it counts, if so.
    #[serde(alias = "doubt")]
    pub escalation_reason: Option<EscalationReason>,
    /// Model calls made on the way.
    pub model_calls: Vec<ModelCall>,
    /// What gives harm away, the gravest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// Why a human is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EscalationReason {
    /// The agent is not sure enough.
    Uncertain,
    /// Unlike anything known.
    New,
    /// Could do harm.
    Risky,
    /// The submitter expected something else.
    Contradiction,
}

impl EscalationReason {
    /// The name used on the wire and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uncertain => "uncertain",
            Self::New => "new",
            Self::Risky => "risky",
            Self::Contradiction => "contradiction",
        }
    }
}

/// A tool call to be made: it is written down before it leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The tool's name.
    pub tool: String,
    /// Its arguments, JSON.
    pub arguments: serde_json::Value,
}

/// What execute gives: the effects wanted and, once made, what they returned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecutionResult {
    /// Each effect with its outcome.
    pub effects: Vec<(Effect, serde_json::Value)>,
}

/// What verify gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// What was done stands.
    Accept,
    /// A human has to decide.
    Ask {
        /// Why.
        #[serde(alias = "doubt")]
        escalation_reason: EscalationReason,
        /// What the human reads: one line.
        question: String,
    },
    /// The answer was corrected; execute again with this one.
    Redo(Answer),
    /// The task ends without an answer.
    Reject {
        /// One line on why.
        reason: String,
    },
}

/// What learn gives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// The label to remember this percept under, if it is known to be right.
    pub teach: Option<String>,
    /// Strength to deposit in the field, 0 to 1, as success (accepted) or danger (rejected).
    pub deposit: Ratio,
}

/// The output of one step, as it is journalled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step", content = "output")]
pub enum Output {
    /// Of perceive.
    Perceive(Percept),
    /// Of retrieve.
    Retrieve(Recall),
    /// Of reason.
    Reason(Thought),
    /// Of execute.
    Execute(ExecutionResult),
    /// Of verify.
    Verify(Verdict),
    /// Of learn.
    Learn(Learning),
}

impl Output {
    /// The step that gave it.
    #[must_use]
    pub const fn step(&self) -> Step {
        match self {
            Self::Perceive(_) => Step::Perceive,
            Self::Retrieve(_) => Step::Retrieve,
            Self::Reason(_) => Step::Reason,
            Self::Execute(_) => Step::Execute,
            Self::Verify(_) => Step::Verify,
            Self::Learn(_) => Step::Learn,
        }
    }
}

/// Whether a decision becomes an episode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teaching {
    /// The agent's memory keeps it.
    #[default]
    Teach,
    /// It counts for this task only.
    Keep,
}

/// A human's decision on a task that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What was decided.
    #[serde(alias = "ruling")]
    pub kind: DecisionKind,
    /// Whether memory learns from it.
    pub teaching: Teaching,
    /// Who decided.
    pub by: String,
}

/// What a human can decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    /// The proposal is right.
    Accept,
    /// The proposal is wrong and this is right.
    Correct(String),
    /// It must not be done.
    Reject {
        /// One line on why.
        reason: String,
    },
}

impl DecisionKind {
    /// The name used in traces.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Correct(_) => "correct",
            Self::Reject { .. } => "reject",
        }
    }
}

/// Everything an agent knows of its task.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    /// From perceive.
    pub percept: Option<Percept>,
    /// From retrieve.
    pub recall: Option<Recall>,
    /// From reason, or as corrected by a redo.
    pub thought: Option<Thought>,
    /// From execute.
    pub execution: Option<ExecutionResult>,
    /// From verify.
    pub verdict: Option<Verdict>,
    /// From learn.
    pub learning: Option<Learning>,
    /// From a human, once there is one.
    pub decision: Option<Decision>,
    redos: u8,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Do this step.
    Do(Step),
    /// Let the task wait, and put the question to a human.
    Wait {
        /// Why.
        escalation_reason: EscalationReason,
        /// What the human reads.
        question: String,
    },
    /// It is over.
    End(Ending),
}

impl Work {
    /// Takes the output of a step in. Folding the journal through this rebuilds the work.
    pub fn record(&mut self, output: Output) {
        match output {
            Output::Perceive(percept) => self.percept = Some(percept),
            Output::Retrieve(recall) => self.recall = Some(recall),
            Output::Reason(thought) => self.thought = Some(thought),
            Output::Execute(execution) => self.execution = Some(execution),
            Output::Verify(verdict) => {
                if let Verdict::Redo(answer) = &verdict {
                    self.redos = self.redos.saturating_add(1);
                    self.execution = None;
                    if let Some(thought) = &mut self.thought {
                        thought.answer = answer.clone();
                    }
                }
                self.verdict = Some(verdict);
            }
            Output::Learn(learning) => self.learning = Some(learning),
        }
    }

    /// Takes a human's decision in; the step that asked will be done again and sees it.
    pub fn decide(&mut self, decision: Decision) {
        self.decision = Some(decision);
        if matches!(self.verdict, Some(Verdict::Ask { .. })) {
            self.verdict = None;
        }
    }

    /// How often the answer was corrected.
    #[must_use]
    pub const fn redos(&self) -> u8 {
        self.redos
    }

    /// What comes next, from what is known. A pure function of the record: the same journal gives the
    /// same next step on any node.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.percept.is_none() {
            return Next::Do(Step::Perceive);
        }
        if self.recall.is_none() {
            return Next::Do(Step::Retrieve);
        }
        let Some(thought) = &self.thought else {
            return Next::Do(Step::Reason);
        };
        if self.execution.is_none() {
            if self.redos > REDOS_MAX {
                let reason = format!("corrected more than {REDOS_MAX} times");
                return Next::End(Ending::Failed { reason });
            }
            return Next::Do(Step::Execute);
        }
        match &self.verdict {
            None | Some(Verdict::Redo(_)) => Next::Do(Step::Verify),
            Some(Verdict::Ask {
                escalation_reason,
                question,
            }) => Next::Wait {
                escalation_reason: *escalation_reason,
                question: question.clone(),
            },
            Some(Verdict::Accept | Verdict::Reject { .. }) if self.learning.is_none() => {
                Next::Do(Step::Learn)
            }
            Some(Verdict::Accept) => Next::End(Ending::Done(thought.answer.clone())),
            Some(Verdict::Reject { reason }) => Next::End(Ending::Failed {
                reason: reason.clone(),
            }),
        }
    }
}

impl Answer {
    /// An answer by rule, with full confidence.
    #[must_use]
    pub fn by_rule(text: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            confidence: Ratio::ONE,
            source: Source::Rule,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thought() -> Thought {
        Thought {
            answer: Answer::by_rule("a", "test"),
            escalation_reason: None,
            model_calls: vec![],
            findings: Vec::new(),
        }
    }

    fn until_verify() -> Work {
        let mut work = Work::default();
        work.record(Output::Perceive(Percept::default()));
        work.record(Output::Retrieve(Recall::default()));
        work.record(Output::Reason(thought()));
        work.record(Output::Execute(ExecutionResult::default()));
        work
    }

    #[test]
    fn the_six_steps_come_in_order() {
        let mut work = Work::default();
        for output in [
            Output::Perceive(Percept::default()),
            Output::Retrieve(Recall::default()),
            Output::Reason(thought()),
            Output::Execute(ExecutionResult::default()),
            Output::Verify(Verdict::Accept),
            Output::Learn(Learning::default()),
        ] {
            assert_eq!(work.next(), Next::Do(output.step()));
            work.record(output);
        }
        assert_eq!(
            work.next(),
            Next::End(Ending::Done(Answer::by_rule("a", "test")))
        );
    }

    #[test]
    fn a_question_parks_and_a_correction_executes_again() {
        let mut work = until_verify();
        let ask = Verdict::Ask {
            escalation_reason: EscalationReason::New,
            question: "?".into(),
        };
        work.record(Output::Verify(ask));
        assert!(matches!(
            work.next(),
            Next::Wait {
                escalation_reason: EscalationReason::New,
                ..
            }
        ));
        work.decide(Decision {
            kind: DecisionKind::Correct("b".into()),
            teaching: Teaching::Teach,
            by: "ann".into(),
        });
        assert_eq!(work.next(), Next::Do(Step::Verify));
        work.record(Output::Verify(Verdict::Redo(Answer::by_rule(
            "b",
            "corrected",
        ))));
        assert_eq!(work.next(), Next::Do(Step::Execute));
        work.record(Output::Execute(ExecutionResult::default()));
        assert_eq!(work.next(), Next::Do(Step::Verify));
        work.record(Output::Verify(Verdict::Accept));
        work.record(Output::Learn(Learning::default()));
        assert_eq!(
            work.next(),
            Next::End(Ending::Done(Answer::by_rule("b", "corrected")))
        );
    }

    #[test]
    fn a_quarrel_ends() {
        let mut work = until_verify();
        for _ in 0..=REDOS_MAX {
            work.record(Output::Execute(ExecutionResult::default()));
            work.record(Output::Verify(Verdict::Redo(Answer::by_rule("c", "again"))));
        }
        assert!(matches!(work.next(), Next::End(Ending::Failed { .. })));
    }

    #[test]
    fn a_rejected_task_still_learns_and_then_fails() {
        let mut work = until_verify();
        work.record(Output::Verify(Verdict::Reject {
            reason: "no".into(),
        }));
        assert_eq!(work.next(), Next::Do(Step::Learn));
        work.record(Output::Learn(Learning::default()));
        assert_eq!(
            work.next(),
            Next::End(Ending::Failed {
                reason: "no".into()
            })
        );
    }
}
