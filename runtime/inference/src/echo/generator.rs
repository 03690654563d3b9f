//! Answers without a model: the last message back, or the first value its schema allows.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_core::port::Clock;
use tokio::sync::watch;

use super::{
    instance::first_instance,
    solo::{MODEL, Solo},
};
use crate::{
    batch_stats::{BatchKind, BatchObserver},
    error::InferenceError,
    generator::{FinishReason, GenerateRequest, Generated, Generator, GeneratorInfo, Prompt},
    stats::{Counters, WorkerState, WorkerStats},
};

/// Words in a prompt; the same order as real small models.
const CONTEXT_TOKENS_MAX: usize = 8_192;

/// A [`Generator`] that needs nothing. Its tokens are words.
#[derive(Debug)]
pub struct EchoGenerator(Solo);

impl EchoGenerator {
    /// One that answers at once, or after `latency`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, latency: Option<Duration>) -> Self {
        Self(Solo::new(clock, latency))
    }

    /// Tells `observer` of every request, as a batch of one.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn BatchObserver>) -> Self {
        self.0.observer = observer;
        self
    }

    fn answer(request: &GenerateRequest) -> Result<(String, FinishReason), InferenceError> {
        let last = match &request.prompt {
            Prompt::Chat(messages) => messages.last().map_or("", |message| &message.content),
            Prompt::Raw(text) => text,
        };
        let text = match &request.schema {
            Some(schema) => first_instance(schema, last)
                .map_err(|what| InferenceError::Schema { what })?
                .to_string(),
            None => last.to_owned(),
        };
        if let Some(end) = request.stop.iter().filter_map(|stop| text.find(stop)).min() {
            return Ok((text[..end].to_owned(), FinishReason::StopText));
        }
        if request.schema.is_some() {
            return Ok((text, FinishReason::Stop));
        }
        let tokens_max = usize::try_from(request.tokens_max).unwrap_or(usize::MAX);
        let cut = text.split_whitespace().nth(tokens_max).map(|word| {
            // The word is a part of the text, so this is where it begins.
            word.as_ptr().addr() - text.as_ptr().addr()
        });
        Ok(match cut {
            Some(cut) => (text[..cut].trim_end().to_owned(), FinishReason::Length),
            None => (text, FinishReason::Stop),
        })
    }
}

#[async_trait]
impl Generator for EchoGenerator {
    fn info(&self) -> GeneratorInfo {
        GeneratorInfo {
            model: MODEL.into(),
            context_tokens_max: CONTEXT_TOKENS_MAX,
        }
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generated, InferenceError> {
        request.check()?;
        let prompt_tokens = match &request.prompt {
            Prompt::Chat(messages) => messages.iter().map(|message| words(&message.content)).sum(),
            Prompt::Raw(text) => words(text),
        };
        if prompt_tokens > CONTEXT_TOKENS_MAX {
            return Err(InferenceError::TooLong {
                model: MODEL.into(),
                tokens: prompt_tokens,
                max: CONTEXT_TOKENS_MAX,
            });
        }
        let began = self.0.begin(request.deadline).await?;
        let (text, finish) = Self::answer(&request)?;
        let completion_tokens = words(&text);
        let Counters {
            prompt_tokens: read,
            completion_tokens: written,
            ..
        } = &self.0.counters;
        Counters::add(read, prompt_tokens);
        Counters::add(written, completion_tokens);
        let count = |tokens| u32::try_from(tokens).unwrap_or(u32::MAX);
        Ok(Generated {
            text,
            prompt_tokens: count(prompt_tokens),
            completion_tokens: count(completion_tokens),
            finish,
            logprob_sum: 0.0,
            logprob_mean: 0.0,
            stats: self
                .0
                .end(BatchKind::Decode, completion_tokens, began, request.trace),
        })
    }

    fn observe(&self) -> WorkerStats {
        self.0.observe()
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.0.state.subscribe()
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{ChatMessage, ChatRole};

    fn answer(request: &GenerateRequest) -> (String, FinishReason) {
        EchoGenerator::answer(request).expect("an answer")
    }

    #[test]
    fn the_last_message_comes_back_up_to_its_bound() {
        let message = |text: &str| ChatMessage::new(ChatRole::User, text);
        let mut request = GenerateRequest::chat(vec![message("before"), message("one  two three")]);
        assert_eq!(
            answer(&request),
            ("one  two three".into(), FinishReason::Stop)
        );
        request.tokens_max = 2;
        assert_eq!(answer(&request), ("one  two".into(), FinishReason::Length));
        request.stop = vec!["two".into()];
        assert_eq!(answer(&request), ("one  ".into(), FinishReason::StopText));
    }

    #[test]
    fn a_schema_is_kept() {
        let mut request = GenerateRequest::raw("my card was lost");
        let schema = serde_json::json!({"type": "object", "required": ["label"],
            "properties": {"label": {"enum": ["refund", "lost_card"]}}});
        request.schema = Some(Arc::new(schema));
        assert_eq!(
            answer(&request),
            (r#"{"label":"lost_card"}"#.into(), FinishReason::Stop)
        );
        request.schema = Some(Arc::new(serde_json::json!({"$ref": "#/x"})));
        assert!(matches!(
            EchoGenerator::answer(&request),
            Err(InferenceError::Schema { .. })
        ));
    }
}
