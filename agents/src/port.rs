//! The ports of an agent: everything it may ask of the world.
//!
//! Agents define what they need; the node plugs its components in (and the simulator its own). A type whose
//! declaration names no model has a port that answers [`PortError::Unconfigured`].

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use colony_core::{
    cycle::{Effect, Percept, Recall},
    id::{AgentId, Fence, TaskId, Tenant, TypeName},
    task::{Priority, TraceContext},
    unit::{Ratio, Timestamp},
};

/// On whose behalf a port is called; travels with every call.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The task at work.
    pub task: TaskId,
    /// The claim's fence: a sink that checks fences refuses older ones.
    pub fence: Fence,
    /// Whose task it is.
    pub tenant: Tenant,
    /// The agent's type: memory is shared within (tenant, type).
    pub agent_type: TypeName,
    /// The agent at work.
    pub agent: AgentId,
    /// The task's urgency.
    pub priority: Priority,
    /// After this moment the answer is of no use: the end of the step, or of the task if that is earlier.
    pub deadline: Option<Timestamp>,
    /// After this moment the task has expired. A port that was not given more time has not failed.
    pub task_deadline: Option<Timestamp>,
    /// The step's span, parent of the call's.
    pub trace: TraceContext,
}

/// Why a port did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PortError {
    /// The type's declaration plugs nothing in here.
    #[error("{port} is not plugged in: {missing}")]
    Unconfigured {
        /// The port.
        port: &'static str,
        /// What to declare.
        missing: &'static str,
    },
    /// The other side is full, restarting or slow: the same call may succeed later.
    #[error("{port} is busy: {what}")]
    Busy {
        /// The port.
        port: &'static str,
        /// Its words.
        what: String,
    },
    /// The other side is there and failed over this call: the attempt has failed.
    #[error("{port} failed: {what}")]
    Failed {
        /// The port.
        port: &'static str,
        /// Its words.
        what: String,
    },
    /// The same call will fail again.
    #[error("{port} refused: {what}")]
    Refused {
        /// The port.
        port: &'static str,
        /// Its words.
        what: String,
    },
    /// The claim is lost: stop, another agent has the task.
    #[error("the claim is lost")]
    Lost,
}

impl PortError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// What kind of error it is, in one word: `error.type` of the call's span.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unconfigured { .. } => "unconfigured",
            Self::Busy { .. } => "busy",
            Self::Failed { .. } => "failed",
            Self::Refused { .. } => "refused",
            Self::Lost => "lost",
        }
    }
}

/// Turns text into a vector.
#[async_trait]
pub trait Embed: Send + Sync + fmt::Debug {
    /// A unit-length vector for `text`.
    ///
    /// # Errors
    /// [`PortError`].
    async fn embed(&self, text: &str, call: &CallContext) -> Result<Arc<[f32]>, PortError>;
}

/// How a prompt is put to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptFormat {
    /// As a conversation: system message, user message, in the model's own format.
    Chat,
    /// As a text to be continued, without the model's chat format. Small models follow examples better than
    /// instructions.
    Completion,
}

/// A question to a language model.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// How it is put.
    pub format: PromptFormat,
    /// The part that many prompts share; kept first so that its prefill is shared.
    pub system: Arc<str>,
    /// The part of this task.
    pub user: String,
    /// The JSON schema that the reply must fit, if any.
    pub schema: Option<serde_json::Value>,
    /// Longest reply, in tokens.
    pub tokens_max: u32,
}

/// What a language model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The model.
    pub model: String,
    /// Its text.
    pub text: String,
    /// Tokens read.
    pub prompt_tokens: u32,
    /// Tokens written.
    pub completion_tokens: u32,
    /// How likely this reply was among those that the schema allowed.
    pub likelihood: Ratio,
}

/// Asks a language model.
#[async_trait]
pub trait Generate: Send + Sync + fmt::Debug {
    /// The model's answer to `prompt`.
    ///
    /// # Errors
    /// [`PortError`].
    async fn generate(&self, prompt: Prompt, call: &CallContext) -> Result<Reply, PortError>;
}

/// The node's memory of solved episodes.
#[async_trait]
pub trait MemoryPort: Send + Sync + fmt::Debug {
    /// What comes to mind at `percept`.
    ///
    /// # Errors
    /// [`PortError`].
    async fn recall(&self, percept: &Percept, call: &CallContext) -> Result<Recall, PortError>;
}

/// Examples of requests that do harm.
#[async_trait]
pub trait Examples: Send + Sync + fmt::Debug {
    /// What a human should read when the text of `vector` resembles risky examples, else none. The vector is the
    /// type's embedding model's.
    ///
    /// # Errors
    /// [`PortError`].
    async fn resembled(
        &self,
        vector: &[f32],
        call: &CallContext,
    ) -> Result<Option<String>, PortError>;
}

/// Makes effects: writes the intent down, calls the tool, writes the outcome down.
#[async_trait]
pub trait Effects: Send + Sync + fmt::Debug {
    /// Makes `effect`, or returns the outcome it had when it was made before a crash.
    ///
    /// # Errors
    /// [`PortError`]; `Refused` for an unknown tool or arguments it does not take.
    async fn perform(
        &self,
        effect: Effect,
        call: &CallContext,
    ) -> Result<serde_json::Value, PortError>;
}

/// The ports of one agent type.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Its embedding model.
    pub embed: Arc<dyn Embed>,
    /// Its language model.
    pub generate: Arc<dyn Generate>,
    /// Its memory.
    pub memory: Arc<dyn MemoryPort>,
    /// What does harm by its meaning; what does by its words is in [`StepContext::risk`](crate::StepContext::risk).
    pub examples: Arc<dyn Examples>,
}

/// A port with nothing behind it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unconfigured;

#[async_trait]
impl Embed for Unconfigured {
    async fn embed(&self, _: &str, _: &CallContext) -> Result<Arc<[f32]>, PortError> {
        let missing = "name an embedding model with `embedder` in the agent type's table";
        Err(PortError::Unconfigured {
            port: "embed",
            missing,
        })
    }
}

#[async_trait]
impl Generate for Unconfigured {
    async fn generate(&self, _: Prompt, _: &CallContext) -> Result<Reply, PortError> {
        let missing = "name a generation model with `model` in the agent type's table";
        Err(PortError::Unconfigured {
            port: "generate",
            missing,
        })
    }
}

#[async_trait]
impl MemoryPort for Unconfigured {
    async fn recall(&self, _: &Percept, _: &CallContext) -> Result<Recall, PortError> {
        Ok(Recall::default())
    }
}

#[async_trait]
impl Examples for Unconfigured {
    async fn resembled(&self, _: &[f32], _: &CallContext) -> Result<Option<String>, PortError> {
        Ok(None)
    }
}
