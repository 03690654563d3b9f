//! What an agent has done and not yet written down.
//!
//! Entries and outbox records wait here for the next commit. An *external* effect does not wait: its
//! intent is made durable before the call leaves, and its outcome rides with the next commit. After a
//! crash, and when a step is tried again because a port was busy, an effect whose outcome is known is not
//! made again; one whose outcome is unknown is made again under the same key, which its sink recognises.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use colony_agents::{Call, Effects, Manner, PortError, ToolOutcome};
use colony_core::{
    cycle::Effect,
    id::AgentId,
    journal::{EffectKey, Entry, Note, Past},
};
use colony_store::{ClaimRef, Commit, LedgerError, OutboxRecord, Then};
use parking_lot::Mutex;
use serde_json::Value;

use super::job::Hands;
use crate::telemetry::names;

/// The notebook of one assignment.
pub(crate) struct Notebook {
    claim: ClaimRef,
    agent: AgentId,
    hands: Arc<Hands>,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// Number of the next entry.
    sequence: u32,
    /// Not yet durable.
    entries: Vec<Entry>,
    /// Not yet durable.
    outbox: Vec<OutboxRecord>,
    /// Effects made in the present step, by this try, an earlier one or a former life, oldest first.
    made: Vec<Made>,
    /// Effects of the present step that were announced and have no outcome: they may have happened.
    unsure: Vec<(EffectKey, Effect)>,
}

#[derive(Debug)]
struct Made {
    effect: Effect,
    value: Value,
    /// This try of the step has asked for it: the same effect asked for once more is another one.
    taken: bool,
}

impl fmt::Debug for Notebook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notebook")
            .field("claim", &self.claim)
            .finish_non_exhaustive()
    }
}

impl Notebook {
    pub(crate) fn new(claim: ClaimRef, agent: AgentId, hands: Arc<Hands>) -> Self {
        Self {
            claim,
            agent,
            hands,
            pages: Mutex::default(),
        }
    }

    /// Goes on where the journal ends.
    pub(crate) fn resume(&self, past: &Past) {
        let mut pages = self.pages.lock();
        pages.sequence = past.next_sequence + u32::try_from(pages.entries.len()).unwrap_or(0);
        for (entry, sequence) in pages.entries.iter_mut().zip(past.next_sequence..) {
            entry.sequence = sequence;
        }
        let made = past.made.effects.iter().cloned();
        pages.made = made
            .map(|(effect, value)| Made::before(effect, value))
            .collect();
        pages.unsure = past.unsure.iter().cloned().collect();
    }

    /// A try of a step begins: what earlier tries of it have made is not made again.
    pub(crate) fn rewind(&self) {
        for made in &mut self.pages.lock().made {
            made.taken = false;
        }
    }

    /// Writes a note; it becomes durable with the next commit.
    pub(crate) fn write(&self, note: Note) {
        let at = self.hands.clock.now();
        let mut pages = self.pages.lock();
        if matches!(note, Note::Output(_)) {
            pages.made.clear();
            pages.unsure.clear();
        }
        let sequence = pages.sequence;
        pages.sequence += 1;
        pages.entries.push(Entry { sequence, at, note });
    }

    /// Everything written so far, as a commit that leaves the claim as `then` says.
    pub(crate) fn commit(&self, then: Then) -> Commit {
        let now = self.hands.clock.now();
        let mut pages = self.pages.lock();
        Commit {
            claim: self.claim,
            agent: Some(self.agent.clone()),
            entries: std::mem::take(&mut pages.entries),
            outbox: std::mem::take(&mut pages.outbox),
            then,
            now,
        }
    }

    /// Tears everything out that is not durable.
    pub(crate) fn discard(&self) {
        let mut pages = self.pages.lock();
        pages.entries.clear();
        pages.outbox.clear();
    }

    /// Makes everything written so far durable. What could not be is kept for the next commit.
    async fn flush(&self) -> Result<(), PortError> {
        let commit = self.commit(Then::Continue);
        let Err(error) = self.hands.ledger.commit(commit.clone()).await else {
            return Ok(());
        };
        if matches!(error, LedgerError::Lost { .. }) {
            return Err(PortError::Lost);
        }
        let mut pages = self.pages.lock();
        pages.entries.splice(0..0, commit.entries);
        pages.outbox.splice(0..0, commit.outbox);
        Err(PortError::Busy {
            port: "journal",
            what: error.to_string(),
        })
    }

    /// The outcome of `effect`, if an earlier try or a former life of this task has made it.
    fn known(&self, effect: &Effect) -> Option<Value> {
        let mut pages = self.pages.lock();
        let made = pages
            .made
            .iter_mut()
            .find(|made| !made.taken && made.effect == *effect)?;
        made.taken = true;
        Some(made.value.clone())
    }

    /// Announces `effect`, under its former key if it was announced before and has no outcome.
    fn announce(&self, effect: &Effect, call: &Call) -> EffectKey {
        let pages = self.pages.lock();
        let unsure = pages.unsure.iter().find(|(_, known)| known == effect);
        if let Some((key, _)) = unsure {
            return key.clone();
        }
        let key = EffectKey::new(call.task, pages.sequence, effect);
        drop(pages);
        self.write(Note::Intent {
            key: key.clone(),
            effect: effect.clone(),
        });
        let unsure = (key.clone(), effect.clone());
        self.pages.lock().unsure.push(unsure);
        key
    }

    /// Writes down what came of an effect.
    fn conclude(&self, key: EffectKey, effect: Effect, outcome: ToolOutcome, call: &Call) {
        let ToolOutcome { value, posts } = outcome;
        let posts = posts.into_iter().map(|post| OutboxRecord {
            key: key.clone(),
            task: call.task,
            queue: post.queue,
            payload: post.payload,
        });
        let mut pages = self.pages.lock();
        pages.outbox.extend(posts);
        pages.unsure.retain(|(known, _)| *known != key);
        pages.made.push(Made {
            effect,
            value: value.clone(),
            taken: true,
        });
        drop(pages);
        self.write(Note::Outcome { key, value });
    }
}

impl Made {
    const fn before(effect: Effect, value: Value) -> Self {
        Self {
            effect,
            value,
            taken: false,
        }
    }
}

#[async_trait]
impl Effects for Notebook {
    async fn perform(&self, effect: Effect, call: &Call) -> Result<Value, PortError> {
        if let Some(value) = self.known(&effect) {
            return Ok(value);
        }
        let Some(tool) = self.hands.tools.get(&effect.tool) else {
            let known: Vec<_> = self.hands.tools.names().collect();
            let what = format!("no tool {:?}; there are: {}", effect.tool, known.join(", "));
            return Err(PortError::Refused { port: "tool", what });
        };
        let mut span = self.hands.telemetry.call(call.trace, "execute_tool");
        span.set(names::GEN_AI_OPERATION, "execute_tool");
        span.set(names::GEN_AI_TOOL, tool.name());
        let key = self.announce(&effect, call);
        if tool.manner() == Manner::External {
            self.flush().await?;
        }
        let outcome = match tool.call(&effect.arguments, &key, call).await {
            Ok(outcome) => outcome,
            Err(error) => {
                span.fail(&error.to_string());
                return Err(error);
            }
        };
        let value = outcome.value.clone();
        self.conclude(key, effect, outcome, call);
        Ok(value)
    }
}
