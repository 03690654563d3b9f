//! An embedding model in ONNX Runtime.

use std::sync::Arc;

use ort::{session::Session, value::Tensor};
use tokenizers::Tokenizer;

use super::{
    EncoderEngine, EngineError, TextTokenizer,
    ort_session::{Opened, chain, open},
};
use crate::{
    embedder::EmbedderInfo,
    error::InferenceError,
    manifest::{Encoder, Pooling},
    model_store::ModelStore,
};

/// Bytes of text a token is taken to have at most. Only decides where an overlong text is cut
/// before the tokenizer sees it, so that a hostile one costs no time; words this long are rare
/// and are one unknown token anyway.
const TOKEN_BYTES_MAX: usize = 64;

/// An [`EncoderEngine`] over ONNX Runtime.
#[derive(Debug)]
pub struct OrtEncoder {
    info: EmbedderInfo,
    encoder: Encoder,
    session: Session,
    tokenizer: Arc<CuttingTokenizer>,
    /// BERT exports want a third input of zeros; others do not know it.
    wants_types: bool,
}

impl OrtEncoder {
    /// Opens the model called `name` in `store`, with `threads` threads inside each call. Blocks
    /// for some tenths of a second.
    ///
    /// # Errors
    /// [`InferenceError::Model`] names the file and what is wrong with it.
    pub fn open(store: &ModelStore, name: &str, threads: usize) -> Result<Self, InferenceError> {
        let Opened {
            manifest,
            mut tokenizer,
            session,
        } = open(store, name, threads)?;
        let failed = |what: String| InferenceError::Model {
            model: name.to_owned(),
            what,
        };
        let encoder = manifest
            .encoder()
            .map_err(|error| failed(chain(&error)))?
            .clone();
        // Batches are padded here and texts are cut here; the file's own settings are others.
        tokenizer.with_padding(None);
        let truncation = tokenizers::TruncationParams {
            max_length: encoder.tokens_max,
            ..tokenizers::TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| failed(format!("tokenizer: {error}")))?;
        let info = EmbedderInfo {
            model: name.to_owned(),
            dimensions: encoder.dimension,
            tokens_max: encoder.tokens_max,
        };
        let bytes_max = encoder.tokens_max.saturating_mul(TOKEN_BYTES_MAX);
        let tokenizer = Arc::new(CuttingTokenizer {
            tokenizer,
            bytes_max,
        });
        let wants_types = session
            .inputs()
            .iter()
            .any(|input| input.name() == "token_type_ids");
        Ok(Self {
            info,
            encoder,
            session,
            tokenizer,
            wants_types,
        })
    }
}

impl EncoderEngine for OrtEncoder {
    fn info(&self) -> EmbedderInfo {
        self.info.clone()
    }

    fn tokenizer(&self) -> Arc<dyn TextTokenizer> {
        Arc::<CuttingTokenizer>::clone(&self.tokenizer)
    }

    fn encode(&mut self, rows: &[&[u32]]) -> Result<Vec<Arc<[f32]>>, EngineError> {
        let width = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let mut ids = vec![0_i64; rows.len() * width];
        let mut mask = vec![0_i64; rows.len() * width];
        for (number, row) in rows.iter().enumerate() {
            for (place, token) in row.iter().enumerate() {
                ids[number * width + place] = i64::from(*token);
                mask[number * width + place] = 1;
            }
        }
        let shape = [rows.len(), width];
        let mut inputs = ort::inputs![
            "input_ids" => Tensor::from_array((shape, ids))?,
            "attention_mask" => Tensor::from_array((shape, mask))?,
        ];
        if self.wants_types {
            let types = Tensor::from_array((shape, vec![0_i64; rows.len() * width]))?;
            inputs.push(("token_type_ids".into(), types.into()));
        }
        let outputs = self.session.run(inputs)?;
        let (shape, numbers) = outputs[0].try_extract_tensor::<f32>()?;
        let size = self.encoder.dimension;
        let per_row = if shape.len() == 3 { width * size } else { size };
        if numbers.len() != rows.len() * per_row {
            return Err(EngineError(format!(
                "output of shape {shape:?} for {} rows",
                rows.len()
            )));
        }
        let pooled = rows
            .iter()
            .zip(numbers.chunks_exact(per_row))
            .map(|(row, numbers)| {
                let mut vector = match self.encoder.pooling {
                    // A model that pools by itself gives one vector a row: the mean of one.
                    Pooling::Mean => mean(numbers, size, row.len().min(per_row / size)),
                };
                if self.encoder.normalise {
                    normalise(&mut vector);
                }
                Arc::from(vector)
            });
        Ok(pooled.collect())
    }
}

/// The mean of the first `count` vectors of `size` numbers.
#[expect(
    clippy::cast_precision_loss,
    reason = "texts have a few hundred tokens"
)]
fn mean(numbers: &[f32], size: usize, count: usize) -> Vec<f32> {
    let mut sum = vec![0.0; size];
    for token in numbers.chunks_exact(size).take(count) {
        for (sum, number) in sum.iter_mut().zip(token) {
            *sum += number;
        }
    }
    sum.iter_mut().for_each(|sum| *sum /= count as f32);
    sum
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

#[derive(Debug)]
struct CuttingTokenizer {
    tokenizer: Tokenizer,
    bytes_max: usize,
}

impl TextTokenizer for CuttingTokenizer {
    fn tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let text = &text[..text.floor_char_boundary(self.bytes_max)];
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|error| EngineError(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }
}
