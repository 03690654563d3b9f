//! The API of language models: messages in, an answer out, many callers in one batch.
//!
//! Callers hold an `Arc<dyn Generator>` and do not know which engine answers.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use colony_core::{
    id::Tenant,
    task::{Priority, TraceContext},
    unit::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    batch_stats::BatchStats,
    chat::ChatMessage,
    error::InferenceError,
    stats::{WorkerState, WorkerStats},
};

/// Continues prompts.
#[async_trait]
pub trait Generator: Send + Sync + fmt::Debug {
    /// What the model is.
    fn info(&self) -> GeneratorInfo;

    /// The answer to one prompt.
    ///
    /// Cancel-safe: dropping the future cancels the request; a row that is being decoded is
    /// freed before its next token.
    ///
    /// # Errors
    /// [`InferenceError`]; `Full` at once when the queue has no place.
    async fn generate(&self, request: GenerateRequest) -> Result<Generated, InferenceError>;

    /// Counters since the start, what waits now, and the state.
    fn observe(&self) -> WorkerStats;

    /// The state, and a wake-up when it changes.
    fn watch_state(&self) -> watch::Receiver<WorkerState>;

    /// The state at this moment; cheap.
    fn state(&self) -> WorkerState {
        self.watch_state().borrow().clone()
    }
}

/// What a language model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratorInfo {
    /// Its name in colony.toml.
    pub model: String,
    /// Longest prompt and answer together, in tokens.
    pub context_tokens_max: usize,
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, put into the model's own format. All messages but the last are the shared
    /// beginning: requests that agree in them read them once (see [`crate::GenerateLimits`]).
    Chat(Vec<ChatMessage>),
    /// Text as it is. Control tokens in it count as control: never put users' words here.
    Raw(String),
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 takes the likeliest token; higher flattens the odds. 0 to 4.
    pub temperature: f32,
    /// Draw only among the likeliest tokens that have this share together. Above 0, to 1.
    pub top_p: f32,
    /// The same seed, prompt and model give the same answer, whatever else is in the batch.
    pub seed: u64,
}

impl Default for Sampling {
    /// The likeliest token, always.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// One prompt to continue.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// A JSON schema that the answer is held to, token by token. Bound its strings and arrays
    /// (`maxLength`, `maxItems`) and make `tokens_max` large enough: an answer cut off is no JSON.
    pub schema: Option<Arc<serde_json::Value>>,
    /// Longest answer, in tokens.
    pub tokens_max: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The answer ends before the first of these texts.
    pub stop: Vec<String>,
    /// On whose behalf; tenants share a full worker evenly.
    pub tenant: Tenant,
    /// How urgent.
    pub priority: Priority,
    /// After this moment nobody wants the answer.
    pub deadline: Option<Timestamp>,
    /// The span of the caller that the batches are linked to.
    pub trace: TraceContext,
}

impl GenerateRequest {
    /// A conversation to be answered with the likeliest tokens, 128 at most; default tenant,
    /// normal priority, no schema, deadline or trace.
    #[must_use]
    pub fn chat(messages: Vec<ChatMessage>) -> Self {
        Self::new(Prompt::Chat(messages))
    }

    /// The same for raw text.
    #[must_use]
    pub fn raw(text: impl Into<String>) -> Self {
        Self::new(Prompt::Raw(text.into()))
    }

    fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            schema: None,
            tokens_max: 128,
            sampling: Sampling::default(),
            stop: Vec::new(),
            tenant: Tenant::default(),
            priority: Priority::default(),
            deadline: None,
            trace: TraceContext::default(),
        }
    }

    /// What is wrong with it, whatever the model.
    pub(crate) fn check(&self) -> Result<(), InferenceError> {
        let bad = |what: String| Err(InferenceError::Request { what });
        let Sampling {
            temperature, top_p, ..
        } = self.sampling;
        if !(0.0..=4.0).contains(&temperature) {
            return bad(format!("temperature {temperature} is not between 0 and 4"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return bad(format!("top_p {top_p} is not above 0 and at most 1"));
        }
        if self.tokens_max == 0 {
            return bad("tokens_max is 0".to_owned());
        }
        if self.stop.len() > STOPS_MAX || self.stop.iter().any(String::is_empty) {
            return bad(format!("more than {STOPS_MAX} stop texts, or an empty one"));
        }
        match &self.prompt {
            Prompt::Chat(messages) if messages.is_empty() => bad("no messages".to_owned()),
            Prompt::Raw(text) if text.is_empty() => bad("empty prompt".to_owned()),
            Prompt::Chat(_) | Prompt::Raw(_) => Ok(()),
        }
    }
}

/// Most stop texts of a request; each is searched for after every token.
const STOPS_MAX: usize = 8;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model closed its turn, or the schema was complete.
    Stop,
    /// One of the request's stop texts appeared.
    StopText,
    /// `tokens_max` was reached.
    Length,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The answer, without the token or text that ended it.
    pub text: String,
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Why it ended.
    pub finish: FinishReason,
    /// Natural logarithm of the probability of this answer among the allowed ones, at temperature
    /// 1: 0 is certainty. For a label out of an enum, `exp` of it is the label's share.
    pub logprob_sum: f64,
    /// The same as a mean over the tokens that had an alternative.
    pub logprob_mean: f64,
    /// How it was batched.
    pub stats: BatchStats,
}
