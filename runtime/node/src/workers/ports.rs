//! The models as agents see them: a call with a span, refusals in the agents' words.

use std::sync::Arc;

use async_trait::async_trait;
use colony_agents::{Call, Embed, Form, Generate, PortError, Prompt, Reply};
use colony_core::unit::Share;
use colony_inference::{
    ChatMessage, ChatRole, EmbedRequest, Embedder, GenerateRequest, Generator, InferenceError, Ride,
};

use crate::telemetry::{Span, Telemetry, names};

/// An embedding model behind the port `embed`.
#[derive(Debug)]
pub(crate) struct EmbedPort {
    pub(crate) embedder: Arc<dyn Embedder>,
    pub(crate) telemetry: Telemetry,
}

/// A language model behind the port `generate`.
#[derive(Debug)]
pub(crate) struct GeneratePort {
    pub(crate) generator: Arc<dyn Generator>,
    pub(crate) telemetry: Telemetry,
}

/// A request that was late was late for its step, not for its task: it waited too long in the queue, and
/// may be asked again. A worker that gave up may be opened again, by the next start at the latest.
fn refusal(port: &'static str, error: &InferenceError) -> PortError {
    let what = error.to_string();
    let passes = matches!(
        error,
        InferenceError::DeadlinePassed { .. } | InferenceError::Shut { .. }
    );
    if passes || error.is_retryable() {
        PortError::Busy { port, what }
    } else {
        PortError::Refused { port, what }
    }
}

fn note(span: &mut Span, ride: &Ride, read: u32) {
    if span.is_recording() {
        span.set(
            names::BATCH_ID,
            i64::try_from(ride.batch).unwrap_or(i64::MAX),
        );
        span.set(names::BATCH_ROWS, i64::from(ride.batch_size));
        span.set(names::GEN_AI_INPUT_TOKENS, i64::from(read));
    }
}

fn begin(telemetry: &Telemetry, call: &Call, operation: &'static str, model: &str) -> Span {
    if !call.trace.sampled {
        return Span::untraced(call.trace);
    }
    let mut span = telemetry.call(call.trace, format!("{operation} {model}"));
    span.set(names::GEN_AI_OPERATION, operation);
    span.set(names::GEN_AI_MODEL, model.to_owned());
    span
}

#[async_trait]
impl Embed for EmbedPort {
    async fn embed(&self, text: &str, call: &Call) -> Result<Arc<[f32]>, PortError> {
        let mut span = begin(
            &self.telemetry,
            call,
            "embeddings",
            &self.embedder.info().model,
        );
        let mut request = EmbedRequest::new(text);
        request.tenant = call.tenant.clone();
        request.priority = call.priority;
        request.deadline = call.deadline;
        request.trace = span.context();
        match self.embedder.embed(request).await {
            Ok(embedded) => {
                note(&mut span, &embedded.ride, embedded.tokens);
                Ok(embedded.vector)
            }
            Err(error) => {
                span.fail(&error.to_string());
                Err(refusal("embed", &error))
            }
        }
    }
}

#[async_trait]
impl Generate for GeneratePort {
    async fn generate(&self, prompt: Prompt, call: &Call) -> Result<Reply, PortError> {
        let model = self.generator.info().model;
        let mut span = begin(&self.telemetry, call, "chat", &model);
        let mut request = match prompt.form {
            Form::Chat => GenerateRequest::chat(vec![
                ChatMessage::new(ChatRole::System, prompt.system.as_ref()),
                ChatMessage::new(ChatRole::User, prompt.user),
            ]),
            // A ticket that contains a control token must not speak as one.
            Form::Completion => {
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
        match self.generator.generate(request).await {
            Ok(generated) => {
                note(&mut span, &generated.ride, generated.prompt_tokens);
                span.set(
                    names::GEN_AI_OUTPUT_TOKENS,
                    i64::from(generated.completion_tokens),
                );
                Ok(Reply {
                    model,
                    text: generated.text,
                    prompt_tokens: generated.prompt_tokens,
                    completion_tokens: generated.completion_tokens,
                    likelihood: Share::clamped(generated.logprob_sum.exp()),
                })
            }
            Err(error) => {
                span.fail(&error.to_string());
                Err(refusal("generate", &error))
            }
        }
    }
}
