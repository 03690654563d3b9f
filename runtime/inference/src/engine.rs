//! What a worker needs from the thing that computes.
//!
//! An engine is owned by one worker thread, holds one model and knows nothing of requests,
//! priorities or deadlines: it gets rows of tokens and gives back numbers.

mod hf_codec;
mod ort_decoder;
mod ort_encoder;
mod ort_session;

use std::{fmt, sync::Arc};

pub use ort_decoder::{OrtCache, OrtDecoder};
pub use ort_encoder::OrtEncoder;

use crate::{
    embedder::EmbedderInfo,
    error::InferenceError,
    generator::{GeneratorInfo, Prompt},
};

/// Why an engine call gave nothing: what the engine said, for the log and the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// FairQueue rows of tokens into vectors.
pub trait EncoderEngine: Send + 'static {
    /// What the model is.
    fn info(&self) -> EmbedderInfo;

    /// How texts become tokens; used on the callers' threads.
    fn tokenizer(&self) -> Arc<dyn TextTokenizer>;

    /// One vector of length one for each row; rows are never empty.
    ///
    /// # Errors
    /// [`EngineError`]; all rows share it.
    fn encode(&mut self, rows: &[&[u32]]) -> Result<Vec<Arc<[f32]>>, EngineError>;
}

/// Splits a text into an encoder's tokens.
pub trait TextTokenizer: Send + Sync + fmt::Debug {
    /// The tokens of `text`, special ones included, cut at the model's longest text.
    ///
    /// # Errors
    /// [`EngineError`] when the tokenizer refuses the text.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, EngineError>;
}

/// Continues rows of tokens, all rows by one token a call.
///
/// The running rows are numbered from 0 in the order they joined. [`DecoderEngine::regroup`] is
/// the only call that changes who runs.
pub trait DecoderEngine: Send + 'static {
    /// What the model has understood of one row so far.
    type Cache: Send;

    /// What the model is.
    fn info(&self) -> GeneratorInfo;

    /// How prompts become tokens and tokens text; used on the callers' threads too.
    fn codec(&self) -> Arc<dyn TextCodec>;

    /// Reads `tokens` (at least one) after what `before` has read, and writes the scores of
    /// every possible next token into `logits`.
    ///
    /// # Errors
    /// [`EngineError`]; the running rows are not touched.
    fn prefill(
        &mut self,
        before: Option<&Self::Cache>,
        tokens: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<Self::Cache, EngineError>;

    /// Keeps the running rows whose numbers are in `keep` (ascending) and adds `join` after them.
    ///
    /// # Errors
    /// [`EngineError`]; nobody runs afterwards.
    fn regroup(&mut self, keep: &[usize], join: Vec<Self::Cache>) -> Result<(), EngineError>;

    /// Appends one token to each running row, and writes the scores of the next ones into
    /// `logits`, row after row.
    ///
    /// # Errors
    /// [`EngineError`]; the rows must not be continued afterwards.
    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<(), EngineError>;

    /// Forgets all running rows, whatever state a failure or panic has left.
    fn clear(&mut self);
}

/// A decoder's vocabulary and prompt format: text to tokens and back.
pub trait TextCodec: Send + Sync + fmt::Debug {
    /// Number of tokens.
    fn vocabulary_size(&self) -> usize;

    /// Tokens that end an answer.
    fn end_tokens(&self) -> &[u32];

    /// The bytes a token stands for; none for control tokens.
    fn bytes(&self, token: u32) -> &[u8];

    /// Name of a control token, such as `<|im_end|>`; none for ordinary ones.
    fn control_name(&self, token: u32) -> Option<&str>;

    /// The tokens of a text in the midst of an answer, nothing added.
    fn text_tokens(&self, text: &str) -> Vec<u32>;

    /// The tokens of a prompt, and where its shared beginning ends.
    ///
    /// # Errors
    /// [`InferenceError::Model`] when the model has no chat template,
    /// [`InferenceError::Request`] when its template or tokenizer refuses the prompt.
    fn prompt(&self, prompt: &Prompt) -> Result<PromptTokens, InferenceError>;
}

/// A prompt ready to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTokens {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// How many of the first ones other prompts are likely to share; less than all.
    pub shared: usize,
}
