//! What an agent has done and not yet written down.
//!
//! Entries and outbox records wait here for the next commit. An *external* effect does not wait: its
//! intent is made durable before the call leaves, and its outcome rides with the next commit. After a
//! crash, an effect whose outcome is known is not made again; one whose outcome is unknown is made again
//! under the same key, which its sink recognises.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use colony_agents::{Call, Effects, Manner, PortError};
use colony_core::{
    cycle::{Deed, Effect},
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
    /// Effects of the present execute step made before a crash, oldest first.
    made: Deed,
    /// The effect of the present execute step whose outcome a crash has swallowed.
    unsure: Option<(EffectKey, Effect)>,
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
        pages.made = past.made.clone();
        pages.unsure.clone_from(&past.unsure);
    }

    /// Writes a note; it becomes durable with the next commit.
    pub(crate) fn write(&self, note: Note) {
        let at = self.hands.clock.now();
        let mut pages = self.pages.lock();
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

    async fn flush(&self) -> Result<(), PortError> {
        self.hands
            .ledger
            .commit(self.commit(Then::Continue))
            .await
            .map_err(|error| {
                if matches!(error, LedgerError::Lost { .. }) {
                    return PortError::Lost;
                }
                PortError::Busy {
                    port: "journal",
                    what: error.to_string(),
                }
            })
    }

    /// The outcome of `effect`, if a former life of this task has made it.
    fn known(&self, effect: &Effect) -> Option<Value> {
        let mut pages = self.pages.lock();
        let place = pages
            .made
            .effects
            .iter()
            .position(|(made, _)| made == effect)?;
        Some(pages.made.effects.remove(place).1)
    }

    /// Announces `effect`, under its former key if a former life announced it without an outcome.
    fn announce(&self, effect: &Effect, call: &Call) -> EffectKey {
        let unsure = self
            .pages
            .lock()
            .unsure
            .take_if(|(_, announced)| announced == effect);
        if let Some((key, _)) = unsure {
            return key;
        }
        let sequence = self.pages.lock().sequence;
        let key = EffectKey::new(call.task, sequence, effect);
        self.write(Note::Intent {
            key: key.clone(),
            effect: effect.clone(),
        });
        key
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
        let posts = outcome.posts.into_iter().map(|post| OutboxRecord {
            key: key.clone(),
            task: call.task,
            queue: post.queue,
            payload: post.payload,
        });
        self.pages.lock().outbox.extend(posts);
        self.write(Note::Outcome {
            key,
            value: outcome.value.clone(),
        });
        Ok(outcome.value)
    }
}
