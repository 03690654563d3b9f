//! Tools: what an agent can do to the world.
//!
//! A tool is either *transactional*: what it does becomes visible with the task's next commit, once, or
//! not at all (it posts to the outbox); or *at least once*: its intent is written down before the call
//! leaves, and it must be safe to call again with the same key.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use colony_core::journal::EffectKey;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::port::{CallContext, PortError};

/// How a tool's effect becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectKind {
    /// It rides with the task's next commit.
    Transactional,
    /// It happens outside, before the commit.
    AtLeastOnce,
}

/// A delivery to a named queue of the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxMessage {
    /// The queue.
    pub queue: String,
    /// What is delivered.
    pub payload: Value,
}

/// What a tool did.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOutcome {
    /// What the agent gets to see.
    pub value: Value,
    /// What rides with the next commit.
    pub messages: Vec<OutboxMessage>,
}

/// One tool.
#[async_trait]
pub trait Tool: Send + Sync + fmt::Debug {
    /// Its name, such as `ticket.file`.
    fn name(&self) -> &'static str;

    /// How its effect becomes durable.
    fn effect_kind(&self) -> EffectKind;

    /// Does it. `key` names this effect for ever.
    ///
    /// # Errors
    /// [`PortError::Refused`] for arguments it does not take.
    async fn call(
        &self,
        arguments: &Value,
        key: &EffectKey,
        call: &CallContext,
    ) -> Result<ToolOutcome, PortError>;
}

/// The tools of a node, by name.
#[derive(Debug, Clone, Default)]
pub struct Tools(BTreeMap<&'static str, Arc<dyn Tool>>);

impl Tools {
    /// The ready-made tools.
    #[must_use]
    pub fn builtin() -> Self {
        Self::default().with(Arc::new(FileTicket))
    }

    /// Adds a tool, or replaces the one of the same name.
    #[must_use]
    pub fn with(mut self, tool: Arc<dyn Tool>) -> Self {
        self.0.insert(tool.name(), tool);
        self
    }

    /// The tool of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.0.get(name)
    }

    /// Every name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied()
    }
}

/// `ticket.file`: files a ticket in the queue of its label. Other systems read it from the outbox queue
/// `tickets`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileTicket;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTicketArguments {
    queue: String,
    confidence: f64,
}

#[async_trait]
impl Tool for FileTicket {
    fn name(&self) -> &'static str {
        "ticket.file"
    }

    fn effect_kind(&self) -> EffectKind {
        EffectKind::Transactional
    }

    async fn call(
        &self,
        arguments: &Value,
        key: &EffectKey,
        call: &CallContext,
    ) -> Result<ToolOutcome, PortError> {
        let filed =
            FileTicketArguments::deserialize(arguments).map_err(|error| PortError::Refused {
                port: "ticket.file",
                what: error.to_string(),
            })?;
        let payload = json!({
            "task": call.task.to_string(),
            "queue": filed.queue,
            "confidence": filed.confidence,
            "agent": call.agent.to_string(),
        });
        let message = OutboxMessage {
            queue: "tickets".to_owned(),
            payload,
        };
        Ok(ToolOutcome {
            value: json!({ "filed": key.as_str() }),
            messages: vec![message],
        })
    }
}
