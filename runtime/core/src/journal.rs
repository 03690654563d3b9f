//! The journal of a task: what was done, in the order it was done.
//!
//! One entry per award, step, effect and decision, keyed by (task, sequence number). An effect's intent
//! is written before the call leaves and its outcome after; folding the entries rebuilds the
//! [`Work`], so a task is resumed at the exact step without calling again.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    cycle::{Decision, Deed, Effect, Output, Work},
    id::{AgentId, TaskId},
    unit::{Share, Timestamp},
};

/// Names one effect for ever: a sink that remembers it does the effect once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EffectKey(String);

impl EffectKey {
    /// The key of the effect that the entry `sequence` of `task` announces. The arguments are hashed in:
    /// a replay that would call with other arguments gets another key and is noticed.
    #[must_use]
    pub fn new(task: TaskId, sequence: u32, effect: &Effect) -> Self {
        let mut hash = Sha256::new();
        hash.update(effect.tool.as_bytes());
        hash.update([0]);
        hash.update(effect.arguments.to_string().as_bytes());
        let digest = hash.finalize();
        let short: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        Self(format!("{task}/{sequence}/{short}"))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for EffectKey {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for EffectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The market gave the task to an agent.
    Awarded {
        /// Who won.
        agent: AgentId,
        /// Its score.
        score: Share,
        /// How many bids were compared.
        bidders: u32,
    },
    /// A step was done.
    Output(Output),
    /// An effect is about to be made.
    Intent {
        /// Its name for ever.
        key: EffectKey,
        /// What will be called.
        effect: Effect,
    },
    /// The effect was made.
    Outcome {
        /// Which.
        key: EffectKey,
        /// What it returned.
        value: serde_json::Value,
    },
    /// A human decided.
    Decided(Decision),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 0 within the task, without gaps.
    pub sequence: u32,
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    pub note: Note,
}

/// A task's past, read back: the work so far and the effects already announced or made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// The outputs so far.
    pub work: Work,
    /// Effects made in an execute step that has not ended.
    pub made: Deed,
    /// An effect that was announced and whose outcome is unknown: it may have happened.
    pub unsure: Option<(EffectKey, Effect)>,
    /// The sequence number of the next entry.
    pub next_sequence: u32,
}

impl Past {
    /// Reads a journal, in order.
    #[must_use]
    pub fn from_entries(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut past = Self::default();
        for entry in entries {
            past.next_sequence = entry.sequence + 1;
            match entry.note {
                Note::Awarded { .. } => {}
                Note::Output(output) => {
                    past.made = Deed::default();
                    past.unsure = None;
                    past.work.record(output);
                }
                Note::Intent { key, effect } => past.unsure = Some((key, effect)),
                Note::Outcome { key, value } => {
                    if let Some((_, effect)) = past.unsure.take_if(|(known, _)| *known == key) {
                        past.made.effects.push((effect, value));
                    }
                }
                Note::Decided(decision) => past.work.decide(decision),
            }
        }
        past
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::{Next, Percept, Recall, Step, Thought};
    use crate::task::Answer;

    fn entry(sequence: u32, note: Note) -> Entry {
        Entry {
            sequence,
            at: Timestamp::default(),
            note,
        }
    }

    fn effect() -> Effect {
        Effect {
            tool: "ticket.file".into(),
            arguments: serde_json::json!({"queue": "it"}),
        }
    }

    #[test]
    fn a_crash_between_intent_and_outcome_is_seen() {
        let task = TaskId::new(Timestamp::default(), [7; 10]);
        let key = EffectKey::new(task, 3, &effect());
        let thought = Thought {
            answer: Answer::by_rule("it", "t"),
            doubt: None,
            model_calls: vec![],
        };
        let mut entries = vec![
            entry(0, Note::Output(Output::Perceive(Percept::default()))),
            entry(1, Note::Output(Output::Retrieve(Recall::default()))),
            entry(2, Note::Output(Output::Reason(thought))),
            entry(
                3,
                Note::Intent {
                    key: key.clone(),
                    effect: effect(),
                },
            ),
        ];
        let past = Past::from_entries(entries.clone());
        assert_eq!(past.unsure, Some((key.clone(), effect())));
        assert_eq!(past.work.next(), Next::Do(Step::Execute));
        assert_eq!(past.next_sequence, 4);

        entries.push(entry(
            4,
            Note::Outcome {
                key,
                value: serde_json::json!("ok"),
            },
        ));
        let past = Past::from_entries(entries);
        assert_eq!(past.unsure, None);
        assert_eq!(past.made.effects.len(), 1);
    }

    #[test]
    fn other_arguments_are_another_effect() {
        let task = TaskId::new(Timestamp::default(), [7; 10]);
        let mut other = effect();
        other.arguments = serde_json::json!({"queue": "hr"});
        assert_ne!(
            EffectKey::new(task, 1, &effect()),
            EffectKey::new(task, 1, &other)
        );
    }
}
