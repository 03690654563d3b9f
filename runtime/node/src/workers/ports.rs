//! The models as agents see them: a call with a span, refusals in the agents' words.

use std::sync::Arc;

use async_trait::async_trait;
use colony_agents::{CallContext, Embed, Generate, PortError, Prompt, PromptFormat, Reply};
use colony_core::unit::Ratio;
use colony_inference::{
    BatchStats, ChatMessage, ChatRole, EmbedRequest, Embedder, FinishReason, GenerateRequest,
    Generator, InferenceError,
};
use opentelemetry::{Array, Value};

use crate::{
    breakers::Breakers,
    telemetry::{
        Span, Telemetry,
        names::{self, operation},
    },
};

/// An embedding model behind the port `embed`.
#[derive(Debug)]
pub(crate) struct EmbedPort {
    pub(crate) embedder: Arc<dyn Embedder>,
    /// What runs it: the provider in the call's span.
    pub(crate) engine: &'static str,
    pub(crate) port: String,
    pub(crate) breakers: Breakers,
    pub(crate) telemetry: Telemetry,
}

/// A language model behind the port `generate`.
#[derive(Debug)]
pub(crate) struct GeneratePort {
    pub(crate) generator: Arc<dyn Generator>,
    /// What runs it: the provider in the call's span.
    pub(crate) engine: &'static str,
    pub(crate) port: String,
    pub(crate) breakers: Breakers,
    pub(crate) telemetry: Telemetry,
}

/// What the state of the worker was to blame for may be asked again: a request that was late was late for its
/// step, not for its task, and a worker that is closed is open again by the next start at the latest.
fn refusal(port: &'static str, error: &InferenceError) -> PortError {
    let what = error.to_string();
    if error.is_infrastructure() {
        PortError::Busy { port, what }
    } else if error.is_retryable() {
        PortError::Failed { port, what }
    } else {
        PortError::Refused { port, what }
    }
}

/// Tells the breakers how a call ended: a model that answers, if only to refuse, is there. A full queue says
/// nothing about the engine behind it, and neither does a task that was about to expire.
fn report<T>(
    breakers: &Breakers,
    port: &str,
    call: &CallContext,
    result: &Result<T, InferenceError>,
) {
    match result {
        Err(InferenceError::Full { .. }) => {}
        Err(InferenceError::DeadlinePassed { .. }) if call.deadline == call.task_deadline => {}
        Err(error) if error.is_infrastructure() => breakers.failure(port, &error.to_string()),
        Ok(_) | Err(_) => breakers.success(port),
    }
}

fn note(span: &mut Span, stats: &BatchStats, read: u32) {
    if span.is_recording() {
        span.set(
            names::BATCH_ID,
            i64::try_from(stats.batch).unwrap_or(i64::MAX),
        );
        span.set(names::BATCH_ROWS, i64::from(stats.batch_size));
        span.set(names::GEN_AI_INPUT_TOKENS, i64::from(read));
    }
}

/// The span of a call to `model`, which `engine` runs.
fn begin(
    telemetry: &Telemetry,
    call: &CallContext,
    operation: &'static str,
    (engine, model): (&'static str, &str),
) -> Span {
    let mut span = telemetry.call(call.trace, operation, model);
    if span.is_recording() {
        span.set(names::GEN_AI_PROVIDER, engine);
        span.set(names::GEN_AI_MODEL, model.to_owned());
    }
    span
}

/// Why the model stopped, in the words of the conventions: a stop text is a stop.
const fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop | FinishReason::StopText => "stop",
        FinishReason::Length => "length",
    }
}

#[async_trait]
impl Embed for EmbedPort {
    async fn embed(&self, text: &str, call: &CallContext) -> Result<Arc<[f32]>, PortError> {
        let model = self.embedder.info().model;
        let by = (self.engine, model.as_str());
        let mut span = begin(&self.telemetry, call, operation::EMBEDDINGS, by);
        let mut request = EmbedRequest::new(text);
        request.tenant = call.tenant.clone();
        request.priority = call.priority;
        request.deadline = call.deadline;
        request.trace = span.context();
        let embedded = self.embedder.embed(request).await;
        report(&self.breakers, &self.port, call, &embedded);
        match embedded {
            Ok(embedded) => {
                note(&mut span, &embedded.stats, embedded.tokens);
                Ok(embedded.vector)
            }
            Err(error) => {
                let refused = refusal("embed", &error);
                span.fail(refused.kind(), &error.to_string());
                Err(refused)
            }
        }
    }
}

#[async_trait]
impl Generate for GeneratePort {
    async fn generate(&self, prompt: Prompt, call: &CallContext) -> Result<Reply, PortError> {
        let model = self.generator.info().model;
        let by = (self.engine, model.as_str());
        let mut span = begin(&self.telemetry, call, operation::CHAT, by);
        if span.is_recording() {
            let output = if prompt.schema.is_some() {
                "json"
            } else {
                "text"
            };
            span.set(names::GEN_AI_OUTPUT_TYPE, output);
            span.set(names::GEN_AI_MAX_TOKENS, i64::from(prompt.tokens_max));
        }
        let mut request = match prompt.format {
            PromptFormat::Chat => GenerateRequest::chat(vec![
                ChatMessage::new(ChatRole::System, prompt.system.as_ref()),
                ChatMessage::new(ChatRole::User, prompt.user),
            ]),
            // A ticket that contains a control token must not speak as one.
            PromptFormat::Completion => {
                let text = prompt.user.replace("<|", "< |");
                GenerateRequest::raw(format!("{}{text}", prompt.system))
            }
        };
        request.schema = prompt.schema.map(Arc::new);
        request.tokens_max = prompt.tokens_max;
        request.tenant = call.tenant.clone();
        request.priority = call.priority;
        request.deadline = call.deadline;
        request.trace = span.context();
        let generated = self.generator.generate(request).await;
        report(&self.breakers, &self.port, call, &generated);
        match generated {
            Ok(generated) => {
                note(&mut span, &generated.stats, generated.prompt_tokens);
                if span.is_recording() {
                    let written = i64::from(generated.completion_tokens);
                    span.set(names::GEN_AI_OUTPUT_TOKENS, written);
                    let reasons = vec![finish_reason(generated.finish).into()];
                    let reasons = Value::Array(Array::String(reasons));
                    span.set(names::GEN_AI_FINISH_REASONS, reasons);
                }
                Ok(Reply {
                    model,
                    text: generated.text,
                    prompt_tokens: generated.prompt_tokens,
                    completion_tokens: generated.completion_tokens,
                    likelihood: Ratio::clamped(generated.logprob_sum.exp()),
                })
            }
            Err(error) => {
                let refused = refusal("generate", &error);
                span.fail(refused.kind(), &error.to_string());
                Err(refused)
            }
        }
    }
}
