//! One answer on its way: which token comes next, and whether it was the last.
//!
//! A row knows its request and the vocabulary, but not the engine: scores in, tokens out.

use std::{collections::VecDeque, sync::Arc};

use llguidance::Matcher;

use crate::{
    engine::TextCodec,
    generator::{FinishReason, Sampling},
    sample::choose,
};

/// The growing answer of one request.
pub(super) struct Row {
    codec: Arc<dyn TextCodec>,
    matcher: Option<Matcher>,
    sampling: Sampling,
    stop: Vec<String>,
    tokens_max: usize,
    text: Vec<u8>,
    tokens: usize,
    /// Tokens of the answer that the engine has not read yet.
    unread: VecDeque<u32>,
    /// Tokens chosen by their scores; the others were forced by the schema.
    choices: u64,
    /// Those among them that had an alternative.
    free_choices: u32,
    logprob_sum: f64,
    finish: Option<FinishReason>,
}

/// What a finished row has come to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) tokens: usize,
    pub(super) finish: FinishReason,
    pub(super) logprob_sum: f64,
    pub(super) logprob_mean: f64,
}

impl Row {
    /// A row before its first token. What its schema forces at the beginning is written at once.
    pub(super) fn new(
        codec: Arc<dyn TextCodec>,
        matcher: Option<Matcher>,
        sampling: Sampling,
        stop: Vec<String>,
        tokens_max: usize,
    ) -> Result<Self, String> {
        let mut row = Self {
            codec,
            matcher,
            sampling,
            stop,
            tokens_max,
            text: Vec::new(),
            tokens: 0,
            unread: VecDeque::new(),
            choices: 0,
            free_choices: 0,
            logprob_sum: 0.0,
            finish: None,
        };
        row.write_forced()?;
        row.end_if_full();
        Ok(row)
    }

    /// A copy that shares nothing with this row: the copies of a row go their own ways.
    pub(super) fn fork(&self) -> Self {
        Self {
            codec: Arc::clone(&self.codec),
            matcher: self.matcher.as_ref().map(Matcher::deep_clone),
            stop: self.stop.clone(),
            text: self.text.clone(),
            unread: self.unread.clone(),
            ..*self
        }
    }

    /// Everything written that the engine has not read; for the call that reads the prompt.
    pub(super) fn take_unread(&mut self) -> Vec<u32> {
        self.unread.drain(..).collect()
    }

    /// The next token to be read, for a decode step.
    pub(super) fn next_unread(&mut self) -> Option<u32> {
        self.unread.pop_front()
    }

    /// Goes on with the scores of the token after everything read. Does nothing while forced
    /// tokens are still unread, or after the end.
    pub(super) fn advance(&mut self, logits: &[f32]) -> Result<(), String> {
        if !self.unread.is_empty() || self.finish.is_some() {
            return Ok(());
        }
        let mask = match &mut self.matcher {
            Some(matcher) => Some(
                matcher
                    .compute_mask()
                    .map_err(|error| format!("{error:#}"))?,
            ),
            None => None,
        };
        let choice = choose(logits, mask.as_ref(), &self.sampling, self.choices)
            .ok_or("the model's scores are not numbers")?;
        self.choices += 1;
        self.logprob_sum += choice.logprob;
        self.free_choices += u32::from(choice.free);
        if self.codec.end_tokens().contains(&choice.token) {
            self.finish = Some(FinishReason::Stop);
            return Ok(());
        }
        if let Some(matcher) = &mut self.matcher {
            matcher
                .consume_token(choice.token)
                .map_err(|error| format!("{error:#}"))?;
        }
        self.write(choice.token);
        self.write_forced()?;
        self.end_if_full();
        Ok(())
    }

    /// Writes what the schema leaves no choice about, and notices its end.
    fn write_forced(&mut self) -> Result<(), String> {
        if self.finish.is_some() {
            return Ok(());
        }
        let Some(matcher) = &mut self.matcher else {
            return Ok(());
        };
        let forced = if matcher.is_stopped() {
            Vec::new()
        } else {
            matcher.consume_ff_tokens()
        };
        let (stopped, error) = (matcher.is_stopped(), matcher.get_error());
        if let Some(error) = error {
            return Err(error);
        }
        for token in forced {
            if self.finish.is_none() && !self.codec.end_tokens().contains(&token) {
                self.write(token);
            }
        }
        if stopped && self.finish.is_none() {
            self.finish = Some(FinishReason::Stop);
        }
        Ok(())
    }

    fn end_if_full(&mut self) {
        if self.finish.is_none() && self.tokens >= self.tokens_max {
            self.finish = Some(FinishReason::Length);
        }
    }

    fn write(&mut self, token: u32) {
        if self.tokens == self.tokens_max {
            // Only what is forced gets here: choices end with the bound.
            self.finish = Some(FinishReason::Length);
            return;
        }
        let bytes = self.codec.bytes(token);
        let before = self.text.len();
        self.text.extend_from_slice(bytes);
        self.tokens += 1;
        self.unread.push_back(token);
        let found = self.stop.iter().filter_map(|stop| {
            let from = before.saturating_sub(stop.len() - 1);
            let mut places = self.text[from..].windows(stop.len());
            places
                .position(|place| place == stop.as_bytes())
                .map(|place| from + place)
        });
        if let Some(end) = found.min() {
            self.text.truncate(end);
            self.finish = Some(FinishReason::StopText);
        }
    }

    /// The answer, once there is no more to come.
    pub(super) fn answer(&self) -> Option<Answer> {
        let finish = self.finish?;
        // A character whose last bytes were not written any more is left out.
        let whole = match std::str::from_utf8(&self.text) {
            Err(error) if error.error_len().is_none() => &self.text[..error.valid_up_to()],
            _ => &self.text,
        };
        let free = f64::from(self.free_choices.max(1));
        Some(Answer {
            text: String::from_utf8_lossy(whole).into_owned(),
            tokens: self.tokens,
            finish,
            logprob_sum: self.logprob_sum,
            logprob_mean: self.logprob_sum / free,
        })
    }
}
