//! A language model in ONNX Runtime. See [`crate::manifest`] for the calls that are right.
//!
//! The running rows share one cache tensor for each layer's keys and values, `[rows, heads,
//! capacity, width]`, which is bound as `past` and as `present` at once: the engine appends in
//! place, and a step copies nothing. Only when rows join or leave, or when the capacity is used
//! up, the tensors are laid out anew.

use std::{borrow::Cow, sync::Arc};

use ort::{
    session::{IoBinding, Session, SessionInputValue},
    value::{DynValue, Tensor},
};

use super::{
    DecoderEngine, EngineError, TextCodec,
    hf_codec::HfTextCodec,
    ort_session::{Opened, chain, open},
};
use crate::{
    error::InferenceError, generator::GeneratorInfo, manifest::Decoder, model_store::ModelStore,
};

/// The capacity grows in steps of so many tokens. A layout copies the whole cache (some 10 ms for
/// 16 rows), an unused place costs memory only.
const CAPACITY_STEP: usize = 64;

/// A [`DecoderEngine`] over ONNX Runtime.
#[derive(Debug)]
pub struct OrtDecoder {
    info: GeneratorInfo,
    decoder: Decoder,
    codec: Arc<HfTextCodec>,
    session: Session,
    /// Names of cache inputs and outputs, keys and values of layer 0, then of layer 1.
    names: Vec<(String, String)>,
    running: Option<Running>,
}

/// What one row has read: a tensor `[1, heads, length, width]` for each name.
#[derive(Debug)]
pub struct OrtCache {
    tensors: Vec<DynValue>,
    length: usize,
}

#[derive(Debug)]
struct Running {
    binding: IoBinding,
    caches: Vec<Tensor<f32>>,
    logits: Tensor<f32>,
    lengths: Vec<usize>,
    capacity: usize,
}

impl OrtDecoder {
    /// Opens the model called `name` in `store`, with `threads` threads inside each call. Blocks
    /// for some tenths of a second.
    ///
    /// # Errors
    /// [`InferenceError::Model`] names the file and what is wrong with it.
    pub fn open(store: &ModelStore, name: &str, threads: usize) -> Result<Self, InferenceError> {
        let Opened {
            manifest,
            tokenizer,
            session,
        } = open(store, name, threads)?;
        let failed = |what: String| InferenceError::Model {
            model: name.to_owned(),
            what,
        };
        let decoder = manifest
            .decoder()
            .map_err(|error| failed(chain(&error)))?
            .clone();
        let codec = Arc::new(HfTextCodec::new(name, manifest, &decoder, tokenizer)?);
        let info = GeneratorInfo {
            model: name.to_owned(),
            context_tokens_max: decoder.context_tokens_max,
        };
        let layers = (0..decoder.layers).flat_map(|layer| {
            ["key", "value"].map(|part| {
                (
                    format!("past_key_values.{layer}.{part}"),
                    format!("present.{layer}.{part}"),
                )
            })
        });
        Ok(Self {
            info,
            codec,
            session,
            names: layers.collect(),
            decoder,
            running: None,
        })
    }

    fn cache_shape(&self, rows: usize, length: usize) -> [usize; 4] {
        [rows, self.decoder.kv_heads, length, self.decoder.head_dim]
    }

    /// Lays out the cache for rows taken from the running ones (`keep`) and from `join`.
    fn lay_out(&mut self, keep: &[usize], join: &[OrtCache]) -> Result<(), EngineError> {
        let old = self.running.take();
        let mut lengths: Vec<usize> = Vec::with_capacity(keep.len() + join.len());
        if let Some(old) = &old {
            lengths.extend(keep.iter().map(|row| old.lengths[*row]));
        }
        lengths.extend(join.iter().map(|cache| cache.length));
        let Some(longest) = lengths.iter().max() else {
            return Ok(());
        };
        let capacity = (longest + 1).next_multiple_of(CAPACITY_STEP);
        let rows = lengths.len();
        let (heads, width) = (self.decoder.kv_heads, self.decoder.head_dim);
        let mut caches = Vec::with_capacity(self.names.len());
        for number in 0..self.names.len() {
            let shape = self.cache_shape(rows, capacity);
            let mut tensor = Tensor::<f32>::new(self.session.allocator(), shape)?;
            let (_, to) = tensor.extract_tensor_mut();
            let mut to_heads = to.chunks_exact_mut(capacity * width);
            let mut copy = |from: &[f32], places: usize, length: usize| {
                let used = length * width;
                for from in from.chunks_exact(places * width) {
                    let to = to_heads
                        .next()
                        .expect("one place for each head of each row");
                    to[..used].copy_from_slice(&from[..used]);
                    // Never read, but it must not be left to chance what is not.
                    to[used..].fill(0.0);
                }
            };
            if let Some(old) = &old {
                let (_, from) = old.caches[number].extract_tensor();
                let per_row = heads * old.capacity * width;
                for row in keep {
                    copy(
                        &from[row * per_row..][..per_row],
                        old.capacity,
                        old.lengths[*row],
                    );
                }
            }
            for cache in join {
                let (_, from) = cache.tensors[number].try_extract_tensor::<f32>()?;
                copy(from, cache.length, cache.length);
            }
            caches.push(tensor);
        }
        drop(old);
        let mut logits = Tensor::<f32>::new(self.session.allocator(), [rows, self.decoder.vocab])?;
        let mut binding = self.session.create_binding()?;
        for ((past, present), cache) in self.names.iter().zip(&mut caches) {
            binding.bind_input(past.as_str(), cache)?;
            binding.bind_output(present.as_str(), &mut *cache)?;
        }
        binding.bind_output("logits", &mut logits)?;
        self.running = Some(Running {
            binding,
            caches,
            logits,
            lengths,
            capacity,
        });
        Ok(())
    }
}

impl DecoderEngine for OrtDecoder {
    type Cache = OrtCache;

    fn info(&self) -> GeneratorInfo {
        self.info.clone()
    }

    fn codec(&self) -> Arc<dyn TextCodec> {
        Arc::<HfTextCodec>::clone(&self.codec)
    }

    fn prefill(
        &mut self,
        before: Option<&OrtCache>,
        tokens: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<OrtCache, EngineError> {
        let length = before.map_or(0, |before| before.length) + tokens.len();
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let mask = vec![1_i64; length];
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            (
                "input_ids".into(),
                Tensor::from_array(([1, tokens.len()], ids))?.into(),
            ),
            (
                "attention_mask".into(),
                Tensor::from_array(([1, length], mask))?.into(),
            ),
        ];
        let empty = self.cache_shape(1, 0);
        for (number, (past, _)) in self.names.iter().enumerate() {
            let value = match before {
                Some(before) => (&before.tensors[number]).into(),
                None => Tensor::<f32>::new(self.session.allocator(), empty)?.into(),
            };
            inputs.push((past.as_str().into(), value));
        }
        let mut outputs = self.session.run(inputs)?;
        let (shape, numbers) = outputs["logits"].try_extract_tensor::<f32>()?;
        if numbers.len() != self.decoder.vocab {
            return Err(EngineError(format!(
                "logits of shape {shape:?} for one row"
            )));
        }
        logits.clear();
        logits.extend_from_slice(numbers);
        let mut tensors = Vec::with_capacity(self.names.len());
        for (_, present) in &self.names {
            let tensor = outputs.remove(present);
            tensors.push(tensor.ok_or_else(|| EngineError(format!("no output {present}")))?);
        }
        Ok(OrtCache { tensors, length })
    }

    fn regroup(&mut self, keep: &[usize], join: Vec<OrtCache>) -> Result<(), EngineError> {
        self.lay_out(keep, &join)
    }

    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        let full = |running: &Running| running.lengths.contains(&running.capacity);
        if self.running.as_ref().is_some_and(full) {
            let all: Vec<usize> = (0..tokens.len()).collect();
            self.lay_out(&all, &[])?;
        }
        let nobody = || EngineError("a step without running rows".into());
        let running = self.running.as_mut().ok_or_else(nobody)?;
        let rows = running.lengths.len();
        if rows != tokens.len() {
            return Err(EngineError(format!(
                "{} tokens for {rows} rows",
                tokens.len()
            )));
        }
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        // The mask must not be wider than the cache, else `present` would need another shape.
        let width = running.capacity;
        let mut mask = vec![0_i64; rows * width];
        for (row, length) in running.lengths.iter_mut().enumerate() {
            *length += 1;
            mask[row * width..][..*length].fill(1);
        }
        running
            .binding
            .bind_input("input_ids", &Tensor::from_array(([rows, 1], ids))?)?;
        running.binding.bind_input(
            "attention_mask",
            &Tensor::from_array(([rows, width], mask))?,
        )?;
        self.session.run_binding(&running.binding)?;
        let (_, numbers) = running.logits.extract_tensor();
        logits.clear();
        logits.extend_from_slice(numbers);
        Ok(())
    }

    fn clear(&mut self) {
        self.running = None;
    }
}
