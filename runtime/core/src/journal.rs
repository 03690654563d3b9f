//! The journal of a task: what was done, in the order it was done.
//!
//! One entry per award, step, effect and decision, keyed by (task, sequence number). An effect's intent
//! is written before the call leaves and its outcome after; folding the entries rebuilds the
//! [`Work`] and the [`EffectLog`], so a task is resumed at the exact step without calling again.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    cycle::{Decision, Effect, Output, Work},
    id::{AgentId, TaskId},
    unit::{Ratio, Timestamp},
};

/// Names one effect for ever: a sink that remembers it does the effect once.
///
/// Made of what a replay finds again: the task, the number of the step among the task's steps, what is
/// called with which arguments, and how many times this step has asked for the very same before. A step
/// that is done again after a crash names its effects by the same keys, in whatever order it asks for
/// them; one that would call with other arguments gets another key and is noticed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EffectKey(String);

impl EffectKey {
    /// The key of `effect`, asked for in the step after `steps` others, `nth` (from 0) among the same.
    #[must_use]
    pub fn new(task: TaskId, steps: u32, effect: &Effect, nth: u32) -> Self {
        let short = effect.digest();
        Self(format!("{task}/{steps}/{short}/{nth}"))
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

impl Effect {
    /// A hash of the tool and its arguments, short enough for a key. The order of an object's keys does not
    /// matter, and numbers are read back as they were written.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.tool.as_bytes());
        hash.update([0]);
        canonical(&self.arguments, &mut hash);
        let digest = hash.finalize();
        digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
    }
}

/// Feeds JSON to a hash with the keys of its objects in order.
fn canonical(value: &serde_json::Value, hash: &mut Sha256) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            hash.update(b"{");
            for (key, value) in sorted {
                hash.update(Value::from(key.as_str()).to_string());
                hash.update(b":");
                canonical(value, hash);
                hash.update(b",");
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            for item in items {
                canonical(item, hash);
                hash.update(b",");
            }
            hash.update(b"]");
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            hash.update(value.to_string());
        }
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
        score: Ratio,
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

/// What became of an effect that was announced.
#[derive(Debug, Clone, PartialEq)]
pub enum EffectState {
    /// Its intent is written, its outcome is not: it may have happened.
    InDoubt,
    /// It was made, and this came of it.
    Made(serde_json::Value),
}

/// The effects of the step under way, by key. The one fold of intents and outcomes: the journal is read
/// back through it, and every note that is written passes it too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EffectLog {
    /// Steps that have ended.
    steps: u32,
    effects: BTreeMap<EffectKey, EffectState>,
}

impl EffectLog {
    /// Takes a note in.
    pub fn record(&mut self, note: &Note) {
        match note {
            Note::Output(_) => {
                self.steps += 1;
                self.effects.clear();
            }
            Note::Intent { key, .. } => {
                let state = self.effects.entry(key.clone());
                state.or_insert(EffectState::InDoubt);
            }
            Note::Outcome { key, value } => {
                let made = EffectState::Made(value.clone());
                self.effects.insert(key.clone(), made);
            }
            Note::Awarded { .. } | Note::Decided(_) => {}
        }
    }

    /// Steps that have ended: what names the effects of the next one.
    #[must_use]
    pub const fn steps(&self) -> u32 {
        self.steps
    }

    /// What is known of an effect of the step under way; none: it was never announced.
    #[must_use]
    pub fn get(&self, key: &EffectKey) -> Option<&EffectState> {
        self.effects.get(key)
    }
}

/// A task's past, read back: the work so far and the effects already announced or made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// The outputs so far.
    pub work: Work,
    /// Effects of the step that had not ended.
    pub effects: EffectLog,
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
            past.effects.record(&entry.note);
            match entry.note {
                Note::Output(output) => past.work.record(output),
                Note::Decided(decision) => past.work.decide(decision),
                Note::Awarded { .. } | Note::Intent { .. } | Note::Outcome { .. } => {}
            }
        }
        past
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

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

    fn after_reason() -> Vec<Entry> {
        let thought = Thought {
            answer: Answer::by_rule("it", "t"),
            escalation_reason: None,
            model_calls: vec![],
            findings: Vec::new(),
        };
        vec![
            entry(0, Note::Output(Output::Perceive(Percept::default()))),
            entry(1, Note::Output(Output::Retrieve(Recall::default()))),
            entry(2, Note::Output(Output::Reason(thought))),
        ]
    }

    #[test]
    fn several_effects_may_be_in_doubt_at_once() {
        let task = TaskId::new(Timestamp::default(), [7; 10]);
        let keys: Vec<_> = (0..3)
            .map(|nth| EffectKey::new(task, 3, &effect(), nth))
            .collect();
        let mut entries = after_reason();
        for (sequence, key) in (3..).zip(&keys) {
            let (key, effect) = (key.clone(), effect());
            entries.push(entry(sequence, Note::Intent { key, effect }));
        }
        entries.push(entry(
            6,
            Note::Outcome {
                key: keys[1].clone(),
                value: serde_json::json!("ok"),
            },
        ));
        let past = Past::from_entries(entries);
        assert_eq!(past.work.next(), Next::Do(Step::Execute));
        assert_eq!((past.next_sequence, past.effects.steps()), (7, 3));
        for key in [&keys[0], &keys[2]] {
            assert_eq!(past.effects.get(key), Some(&EffectState::InDoubt));
        }
        let made = EffectState::Made(serde_json::json!("ok"));
        assert_eq!(past.effects.get(&keys[1]), Some(&made));
    }

    #[test]
    fn the_end_of_a_step_forgets_its_effects() {
        let task = TaskId::new(Timestamp::default(), [7; 10]);
        let key = EffectKey::new(task, 3, &effect(), 0);
        let mut log = Past::from_entries(after_reason()).effects;
        let (value, of) = (serde_json::json!(1), effect());
        log.record(&Note::Intent {
            key: key.clone(),
            effect: of,
        });
        log.record(&Note::Outcome {
            key: key.clone(),
            value,
        });
        log.record(&Note::Output(Output::Execute(
            crate::cycle::ExecutionResult::default(),
        )));
        assert_eq!((log.get(&key), log.steps()), (None, 4));
    }

    #[test]
    fn keys_name_the_step_the_arguments_and_the_repetition() {
        let task = TaskId::new(Timestamp::default(), [7; 10]);
        let mut other = effect();
        other.arguments = serde_json::json!({"queue": "hr"});
        let key = EffectKey::new(task, 1, &effect(), 0);
        for different in [
            EffectKey::new(task, 1, &other, 0),
            EffectKey::new(task, 2, &effect(), 0),
            EffectKey::new(task, 1, &effect(), 1),
        ] {
            assert_ne!(key, different);
        }
        assert_eq!(key, EffectKey::new(task, 1, &effect(), 0));
    }

    #[test]
    fn the_order_of_keys_does_not_name_another_effect() {
        let of = |text: &str| Effect {
            tool: "t".into(),
            arguments: serde_json::from_str(text).unwrap(),
        };
        assert_eq!(
            of(r#"{"a":1,"b":[{"c":2,"d":3}]}"#).digest(),
            of(r#"{"b":[{"d":3,"c":2}],"a":1}"#).digest()
        );
        assert_ne!(of(r#"{"a":1}"#).digest(), of(r#"{"a":2}"#).digest());
        assert_ne!(of(r#"["a","b"]"#).digest(), of(r#"["a,b"]"#).digest());
    }

    proptest::proptest! {
        /// An effect that went through the journal has the key it had before, whatever its numbers.
        #[test]
        fn numbers_survive_the_journal(confidence in proptest::num::f64::NORMAL) {
            let mut effect = effect();
            effect.arguments = serde_json::json!({ "confidence": confidence });
            let text = serde_json::to_string(&effect).unwrap();
            let read: Effect = serde_json::from_str(&text).unwrap();
            proptest::prop_assert_eq!(read.digest(), effect.digest());
        }
    }
}
