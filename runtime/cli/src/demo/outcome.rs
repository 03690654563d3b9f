//! What became of one ticket, read from its task and journal.

use colony_proto::v1::{GetTaskResponse, JournalEntry, Source};
use serde_json::Value;

use crate::client::view;

/// What became of one ticket. All of it is in the ledger, so a demo that was killed knows it again.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outcome {
    /// The state it ended in.
    pub(super) state: &'static str,
    /// What the agent itself would have answered, before any human.
    pub(super) proposal: String,
    /// Whether memory or the model gave the proposal.
    pub(super) source: ProposalSource,
    /// Memory's first choice, whoever decided.
    pub(super) memory_choice: Option<String>,
    /// What the language model chose, whoever decided; none when it was not asked.
    pub(super) model_choice: Option<String>,
    /// Why a human was asked, if one was.
    pub(super) escalation_reason: Option<String>,
    /// Whether a human's decision taught memory.
    pub(super) taught: bool,
    /// Calls of the language model.
    pub(super) model_calls: u64,
    /// Tokens these calls read.
    pub(super) prompt_tokens: u64,
    /// Tokens these calls wrote.
    pub(super) completion_tokens: u64,
    /// From acknowledgement to end, humans included, in microseconds.
    pub(super) latency_us: u64,
}

/// Who gave the agent's own answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ProposalSource {
    /// Similar solved tickets.
    Memory,
    /// The language model.
    Model,
    /// Neither: the kind's rule, or there was no answer.
    #[default]
    Other,
}

impl Outcome {
    /// Reads a task with its journal.
    pub(super) fn read(response: &GetTaskResponse) -> Self {
        let task = response.task.clone().unwrap_or_default();
        let mut outcome = Self {
            state: view::state(task.state),
            latency_us: task.updated_at_us.saturating_sub(task.submitted_at_us),
            ..Self::default()
        };
        let (mut retrieved, mut reasoned) = (false, false);
        for entry in &response.journal {
            let body = body(entry);
            match (entry.kind.as_str(), entry.step.as_str()) {
                // The first one is the agent's own; a later one follows a crash or a decision.
                ("output", "reason") if !reasoned => {
                    reasoned = true;
                    outcome.reason(&body);
                }
                ("output", "retrieve") if !retrieved => {
                    retrieved = true;
                    outcome.memory_choice = body["verdict"]["candidates"][0]["label"]
                        .as_str()
                        .map(str::to_owned);
                }
                ("output", "verify") => {
                    if let Some(escalation_reason) = body["ask"]["escalation_reason"].as_str() {
                        outcome
                            .escalation_reason
                            .get_or_insert_with(|| escalation_reason.to_owned());
                    }
                }
                ("decided", _) => outcome.taught |= body["teaching"] == "teach",
                _ => {}
            }
        }
        if !reasoned && let Some(answer) = task.answer {
            outcome.proposal = answer.text;
            outcome.source = match Source::try_from(answer.source) {
                Ok(Source::Memory) => ProposalSource::Memory,
                Ok(Source::Model) => ProposalSource::Model,
                Ok(Source::Rule | Source::Human | Source::Unspecified) | Err(_) => {
                    ProposalSource::Other
                }
            };
        }
        outcome
    }

    /// Whether a human was asked.
    pub(super) fn is_escalated(&self) -> bool {
        self.escalation_reason.is_some()
    }

    fn reason(&mut self, body: &Value) {
        let answer = &body["answer"];
        self.proposal = answer["text"].as_str().unwrap_or_default().to_owned();
        self.source = match answer["source"].as_str() {
            Some("memory") => ProposalSource::Memory,
            Some("model") => ProposalSource::Model,
            Some(_) | None => ProposalSource::Other,
        };
        for call in body["model_calls"].as_array().into_iter().flatten() {
            self.model_calls += 1;
            self.model_choice = call["choice"].as_str().map(str::to_owned);
            self.prompt_tokens += call["prompt_tokens"].as_u64().unwrap_or_default();
            self.completion_tokens += call["completion_tokens"].as_u64().unwrap_or_default();
        }
    }
}

/// The entry's content: the output of a step, a decision.
fn body(entry: &JournalEntry) -> Value {
    let mut body: Value = serde_json::from_str(&entry.body_json).unwrap_or_default();
    // The wrapping that a note has in the ledger: {"output": {"step": …, "output": …}}, {"decided": …}.
    for layer in [entry.kind.as_str(), "output"] {
        if let Some(inner) = body.get_mut(layer) {
            body = inner.take();
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use colony_proto::v1::{Task, TaskState};
    use serde_json::json;

    use super::*;

    fn entry(kind: &str, step: &str, body: &Value) -> JournalEntry {
        JournalEntry {
            kind: kind.to_owned(),
            step: step.to_owned(),
            body_json: body.to_string(),
            ..JournalEntry::default()
        }
    }

    #[test]
    fn the_first_thought_is_the_agents_own() {
        let thought = |label: &str| {
            json!({
                "answer": { "text": label, "confidence": 0.4, "source": "model", "reason": "" },
                "escalation_reason": "uncertain",
                "model_calls": [{ "model": "m", "reply": "", "prompt_tokens": 90, "completion_tokens": 7, "choice": label }],
            })
        };
        let response = GetTaskResponse {
            task: Some(Task {
                state: TaskState::Done.into(),
                submitted_at_us: 1_000,
                updated_at_us: 4_500,
                ..Task::default()
            }),
            next_journal_page_token: String::new(),
            journal: vec![
                entry("awarded", "", &json!({})),
                entry(
                    "output",
                    "retrieve",
                    &json!({ "verdict": { "candidates": [{ "label": "printer" }] } }),
                ),
                entry("output", "reason", &thought("network")),
                entry(
                    "output",
                    "verify",
                    &json!({ "ask": { "escalation_reason": "uncertain", "question": "?" } }),
                ),
                entry(
                    "decided",
                    "",
                    &json!({ "kind": { "correct": "vpn" }, "teaching": "teach", "by": "x" }),
                ),
                entry("output", "reason", &thought("vpn")),
            ],
        };
        let outcome = Outcome::read(&response);
        assert_eq!(outcome.proposal, "network");
        assert_eq!(outcome.source, ProposalSource::Model);
        assert_eq!(outcome.memory_choice.as_deref(), Some("printer"));
        assert_eq!(outcome.model_choice.as_deref(), Some("network"));
        assert_eq!(outcome.escalation_reason.as_deref(), Some("uncertain"));
        assert!(outcome.taught);
        assert_eq!((outcome.model_calls, outcome.prompt_tokens), (1, 90));
        assert_eq!(outcome.latency_us, 3_500);
    }

    #[test]
    fn a_wrapped_body_is_unwrapped() {
        let wrapped =
            json!({ "output": { "step": "reason", "output": { "answer": { "text": "a" } } } });
        assert_eq!(
            body(&entry("output", "reason", &wrapped))["answer"]["text"],
            "a"
        );
    }
}
