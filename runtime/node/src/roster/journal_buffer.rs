//! What an agent has done and not yet written down.
//!
//! Entries and outbox messages wait here for the next commit. An *external* effect does not wait: its
//! intent is made durable before the call leaves, and its outcome travels with the next commit. Effects
//! are known by key ([`EffectKey`]), in one fold with those read back after a crash ([`EffectLog`]): one
//! whose outcome is known is not made again; one in doubt is made again under the same key, which its
//! sink recognises.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use colony_agents::{CallContext, EffectKind, Effects, PortError, ToolOutcome};
use colony_core::{
    cycle::{Decision, Effect},
    id::{AgentId, ApprovalId},
    journal::{EffectKey, EffectLog, EffectState, Entry, Note, Past},
    mutant,
};
use colony_store::{ClaimRef, Commit, LedgerError, OutboxMessage, Settlement};
use parking_lot::Mutex;
use serde_json::Value;

use super::job::AgentDeps;
use crate::telemetry::names::{self, operation};

/// Shortest time a tool is given, however late it is: the call has left, and its answer is worth having.
const CALL_MIN: Duration = Duration::from_millis(10);

/// The journal of one assignment, from where it is durable.
pub(crate) struct JournalBuffer {
    claim: ClaimRef,
    agent: AgentId,
    deps: Arc<AgentDeps>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    /// Number of the next entry.
    sequence: u32,
    // Not yet durable.
    entries: Vec<Entry>,
    outbox: Vec<OutboxMessage>,
    taken: Vec<ApprovalId>,
    /// Answers that are durable in the journal: the inbox has them no more.
    written: BTreeSet<ApprovalId>,
    // What is known, durable or not.
    effects: EffectLog,
    /// How often this try of the step has asked for each effect.
    asked: BTreeMap<String, u32>,
}

impl Pending {
    fn write(&mut self, note: Note, at: colony_core::unit::Timestamp) {
        self.effects.record(&note);
        let sequence = self.sequence;
        self.sequence += 1;
        self.entries.push(Entry { sequence, at, note });
    }
}

impl fmt::Debug for JournalBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalBuffer")
            .field("claim", &self.claim)
            .finish_non_exhaustive()
    }
}

impl JournalBuffer {
    pub(crate) fn new(claim: ClaimRef, agent: AgentId, deps: Arc<AgentDeps>) -> Self {
        Self {
            claim,
            agent,
            deps,
            pending: Mutex::default(),
        }
    }

    /// Goes on where the journal ends. What waits to be written follows it.
    pub(crate) fn resume(&self, past: &Past) {
        let mut pending = self.pending.lock();
        pending.sequence = past.next_sequence + u32::try_from(pending.entries.len()).unwrap_or(0);
        for (entry, sequence) in pending.entries.iter_mut().zip(past.next_sequence..) {
            entry.sequence = sequence;
        }
        pending.effects = past.effects.clone();
        pending.asked.clear();
    }

    /// A try of a step begins: what it asks for is counted anew, so that it finds what earlier tries have
    /// made.
    pub(crate) fn rewind(&self) {
        self.pending.lock().asked.clear();
    }

    /// Writes a note; it becomes durable with the next commit.
    pub(crate) fn write(&self, note: Note) {
        let at = self.deps.clock.now();
        self.pending.lock().write(note, at);
    }

    /// Writes a human's answer down: the commit that makes it durable takes it from the inbox.
    pub(crate) fn take(&self, question: ApprovalId, decision: Decision) {
        let at = self.deps.clock.now();
        let mut pending = self.pending.lock();
        pending.write(Note::Decided(decision), at);
        pending.taken.push(question);
    }

    /// Whether the answer to `question` is durable in the journal.
    pub(crate) fn has_taken(&self, question: ApprovalId) -> bool {
        self.pending.lock().written.contains(&question)
    }

    /// A commit is durable.
    pub(crate) fn written(&self, commit: &Commit) {
        self.pending.lock().written.extend(&commit.taken);
    }

    /// Everything written so far, as a commit that settles the claim. That a task was awarded and put off,
    /// and nothing else, is not worth an entry: it may be for days.
    pub(crate) fn commit(&self, settlement: Settlement) -> Commit {
        let mut pending = self.pending.lock();
        let idle = matches!(settlement, Settlement::Release { .. })
            && pending
                .entries
                .iter()
                .all(|entry| matches!(entry.note, Note::Awarded { .. }));
        if idle {
            pending.entries.clear();
        }
        Commit {
            claim: self.claim,
            agent: Some(self.agent.clone()),
            entries: std::mem::take(&mut pending.entries),
            outbox: std::mem::take(&mut pending.outbox),
            episodes: Vec::new(),
            taken: std::mem::take(&mut pending.taken),
            settlement,
        }
    }

    /// Throws away what is not durable: it does not fit the journal.
    pub(crate) fn discard(&self) {
        let mut pending = self.pending.lock();
        pending.entries.clear();
        pending.outbox.clear();
        pending.taken.clear();
    }

    /// Makes everything written so far durable. What could not be is kept for the next commit.
    async fn flush(&self) -> Result<(), PortError> {
        let commit = self.commit(Settlement::Continue);
        let Err(error) = self.deps.ledger.commit(commit.clone()).await else {
            self.written(&commit);
            return Ok(());
        };
        if matches!(error, LedgerError::Lost { .. }) {
            return Err(PortError::Lost);
        }
        let mut pending = self.pending.lock();
        pending.entries.splice(0..0, commit.entries);
        pending.outbox.splice(0..0, commit.outbox);
        pending.taken.splice(0..0, commit.taken);
        Err(PortError::Busy {
            port: "journal",
            what: error.to_string(),
        })
    }

    /// Names `effect`, and tells what is known of it. An effect that is not known is announced.
    fn announce(&self, effect: &Effect, call: &CallContext) -> (EffectKey, Option<Value>) {
        let at = self.deps.clock.now();
        let mut pending = self.pending.lock();
        let asked = pending.asked.entry(effect.digest()).or_default();
        let nth = *asked;
        *asked += 1;
        let mut key = EffectKey::new(call.task, pending.effects.steps(), effect, nth);
        if mutant!(C11) {
            key = EffectKey::from(format!("{key}/{}", pending.sequence));
        }
        match pending.effects.get(&key) {
            Some(EffectState::Made(value)) => {
                let value = value.clone();
                return (key, Some(value));
            }
            Some(EffectState::InDoubt) => {}
            None => {
                let (key, effect) = (key.clone(), effect.clone());
                pending.write(Note::Intent { key, effect }, at);
            }
        }
        (key, None)
    }

    /// Writes down what came of an effect.
    fn conclude(&self, key: EffectKey, outcome: ToolOutcome, call: &CallContext) {
        let at = self.deps.clock.now();
        let ToolOutcome { value, messages } = outcome;
        let messages = (0..).zip(messages).map(|(index, message)| OutboxMessage {
            key: key.clone(),
            index: if mutant!(C24) { 0 } else { index },
            task: call.task,
            destination: message.queue,
            payload: message.payload,
        });
        let mut pending = self.pending.lock();
        pending.outbox.extend(messages);
        pending.write(Note::Outcome { key, value }, at);
    }
}

#[async_trait]
impl Effects for JournalBuffer {
    async fn perform(&self, effect: Effect, call: &CallContext) -> Result<Value, PortError> {
        let Some(tool) = self.deps.tools.get(&effect.tool) else {
            let known: Vec<_> = self.deps.tools.names().collect();
            let what = format!("no tool {:?}; there are: {}", effect.tool, known.join(", "));
            return Err(PortError::Refused { port: "tool", what });
        };
        let (key, made) = self.announce(&effect, call);
        if let Some(value) = made {
            return Ok(value);
        }
        let external = tool.effect_kind() == EffectKind::AtLeastOnce;
        let port = external.then(|| format!("tool/{}", tool.name()));
        if let Some(port) = port
            .as_ref()
            .filter(|p| !self.deps.breakers.admits(p, call.task))
        {
            let what = format!("{port} has failed too often and is not asked for a while");
            return Err(PortError::Busy { port: "tool", what });
        }
        let telemetry = &self.deps.telemetry;
        let mut span = telemetry.operation(call.trace, operation::EXECUTE_TOOL, tool.name());
        if span.is_recording() {
            span.set(names::GEN_AI_TOOL, tool.name());
            span.set(names::GEN_AI_TOOL_CALL_ID, key.as_str().to_owned());
        }
        if external {
            self.flush().await?;
        }
        let outcome = match call.deadline.filter(|_| external) {
            Some(deadline) => {
                // What hangs is away, and its effect in doubt: it is made again under the same key.
                let limit = deadline.since(self.deps.clock.now());
                let asked = tool.call(&effect.arguments, &key, call);
                let answered = tokio::time::timeout(limit.max(CALL_MIN), asked).await;
                answered.unwrap_or_else(|_| {
                    let what = format!("{} does not answer", tool.name());
                    Err(PortError::Busy { port: "tool", what })
                })
            }
            None => tool.call(&effect.arguments, &key, call).await,
        };
        if let Some(port) = &port {
            match &outcome {
                Err(error) if error.is_retryable() => {
                    self.deps.breakers.failure(port, &error.to_string());
                }
                Ok(_) | Err(_) => self.deps.breakers.success(port),
            }
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                span.fail(error.kind(), &error.to_string());
                return Err(error);
            }
        };
        let value = outcome.value.clone();
        self.conclude(key, outcome, call);
        Ok(value)
    }
}
