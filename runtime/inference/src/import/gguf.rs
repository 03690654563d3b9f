//! Reading a GGUF file: typed metadata, checked dimensions, weights one tensor at a time.
//!
//! candle-core parses the container and knows the block formats; this file decides what is
//! acceptable before anything large is read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};

use super::ImportError;
use super::quantise::BLOCK;

/// Caps on what metadata may claim, far above any model this program could run, so that a
/// damaged file is refused by name instead of by memory exhaustion.
const LAYERS_MAX: usize = 512;
const WIDTH_MAX: usize = 1 << 16;
const CONTEXT_TOKENS_MAX: usize = 1 << 20;

/// An open GGUF file.
#[derive(Debug)]
pub(super) struct Gguf {
    reader: BufReader<File>,
    content: Content,
    file_bytes: u64,
}

/// Its key-value section.
#[derive(Debug)]
pub(super) struct Metadata<'a>(&'a Content);

/// The decoder's shape, from the metadata alone.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) ffn: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab: usize,
    pub(super) context_tokens_max: usize,
    pub(super) rope_theta: f32,
    pub(super) norm_epsilon: f32,
    /// Whether the output layer reuses the embedding.
    pub(super) tied: bool,
}

/// A weight's rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dims {
    Vector(usize),
    Matrix { rows: usize, columns: usize },
}

impl Gguf {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let unreadable = |source| ImportError::Read {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let file_bytes = file.metadata().map_err(unreadable)?.len();
        let mut reader = BufReader::new(file);
        // candle divides by the file's own alignment, which a damaged file may give as zero.
        let content = panic::catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)))
            .unwrap_or_else(|_| Err(candle_core::Error::Msg("the header is damaged".to_owned())))
            .map_err(|source| ImportError::NotGguf {
                path: path.into(),
                source,
            })?;
        Ok(Self {
            reader,
            content,
            file_bytes,
        })
    }

    pub(super) fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.content)
    }

    /// Reads the dimensions and checks every tensor against them: names, shapes, types, and that
    /// their bytes are in the file.
    pub(super) fn shape(&self) -> Result<Shape, ImportError> {
        let shape = Shape::read(&self.metadata(), &self.content)?;
        let wanted = shape.tensors();
        for (name, dims) in &wanted {
            self.check(name, *dims)?;
        }
        let wanted: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let present: BTreeSet<&str> = self
            .content
            .tensor_infos
            .keys()
            .map(String::as_str)
            .collect();
        match present.difference(&wanted).next() {
            Some(extra) => Err(ImportError::UnknownTensor {
                tensor: (*extra).to_owned(),
            }),
            None => Ok(shape),
        }
    }

    fn check(&self, name: &str, dims: Dims) -> Result<(), ImportError> {
        let Some(info) = self.content.tensor_infos.get(name) else {
            return Err(ImportError::MissingTensor {
                tensor: name.to_owned(),
            });
        };
        if info.shape.dims() != dims.list() {
            return Err(ImportError::TensorShape {
                tensor: name.to_owned(),
                found: info.shape.dims().to_vec(),
                wanted: dims.list(),
            });
        }
        if !readable(info.ggml_dtype) {
            return Err(ImportError::TensorType {
                tensor: name.to_owned(),
                found: format!("{:?}", info.ggml_dtype),
            });
        }
        let blocks = dims.count() / info.ggml_dtype.block_size();
        let bytes = (blocks * info.ggml_dtype.type_size()) as u64;
        let end = self
            .content
            .tensor_data_offset
            .saturating_add(info.offset)
            .saturating_add(bytes);
        if end > self.file_bytes {
            return Err(ImportError::Truncated {
                tensor: name.to_owned(),
                needs_bytes: end,
                has_bytes: self.file_bytes,
            });
        }
        Ok(())
    }

    /// A tensor's values in fp32, row by row.
    pub(super) fn weights(&mut self, name: &str) -> Result<Vec<f32>, ImportError> {
        let failed = |source| ImportError::Tensor {
            tensor: name.to_owned(),
            source,
        };
        let quantised = self
            .content
            .tensor(&mut self.reader, name, &Device::Cpu)
            .map_err(failed)?;
        let values = quantised
            .dequantize(&Device::Cpu)
            .and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>())
            .map_err(failed)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(ImportError::NotFinite {
                tensor: name.to_owned(),
                index,
            }),
            None => Ok(values),
        }
    }

    /// A query or key projection with its rows in the order that rotary embedding by halves
    /// wants. llama.cpp's converter interleaves the two halves of every head; this undoes it.
    pub(super) fn rotary_weights(
        &mut self,
        name: &str,
        shape: &Shape,
    ) -> Result<Vec<f32>, ImportError> {
        let values = self.weights(name)?;
        let mut ordered = Vec::with_capacity(values.len());
        for head in values.chunks_exact(shape.head_dim * shape.hidden) {
            for half in 0..2 {
                let rows = head.chunks_exact(shape.hidden).skip(half).step_by(2);
                rows.for_each(|row| ordered.extend_from_slice(row));
            }
        }
        Ok(ordered)
    }
}

impl Shape {
    fn read(metadata: &Metadata<'_>, content: &Content) -> Result<Self, ImportError> {
        let architecture = metadata.text("general.architecture")?;
        if architecture != "llama" {
            return Err(ImportError::Architecture {
                found: architecture.to_owned(),
            });
        }
        let scaling = metadata.optional_text("llama.rope.scaling.type")?;
        if let Some(scaling) = scaling.filter(|scaling| *scaling != "none") {
            return Err(ImportError::RopeScaling {
                found: scaling.to_owned(),
            });
        }
        let width = |key| metadata.size(key, WIDTH_MAX);
        let hidden = width("llama.embedding_length")?;
        let heads = width("llama.attention.head_count")?;
        let kv_heads = width("llama.attention.head_count_kv")?;
        let ffn = width("llama.feed_forward_length")?;
        let rotated = width("llama.rope.dimension_count")?;
        let head_dim = hidden / heads;
        let refuse = |reason: String| Err(ImportError::Dimensions { reason });
        if head_dim * heads != hidden || !heads.is_multiple_of(kv_heads) {
            return refuse(format!(
                "hidden width {hidden}, {heads} heads, {kv_heads} key-value heads do not divide"
            ));
        }
        if rotated != head_dim || !head_dim.is_multiple_of(8) {
            return refuse(format!(
                "rotary width {rotated} must be the head width {head_dim}, a multiple of 8"
            ));
        }
        if !hidden.is_multiple_of(BLOCK) || !ffn.is_multiple_of(BLOCK) {
            return refuse(format!(
                "widths {hidden} and {ffn} must be multiples of the block of {BLOCK} weights"
            ));
        }
        Ok(Self {
            layers: metadata.size("llama.block_count", LAYERS_MAX)?,
            hidden,
            ffn,
            heads,
            kv_heads,
            head_dim,
            vocab: metadata.texts("tokenizer.ggml.tokens")?.len(),
            context_tokens_max: metadata.size("llama.context_length", CONTEXT_TOKENS_MAX)?,
            rope_theta: metadata.float("llama.rope.freq_base")?,
            norm_epsilon: metadata.float("llama.attention.layer_norm_rms_epsilon")?,
            tied: !content.tensor_infos.contains_key("output.weight"),
        })
    }

    /// Every tensor of the file and what it must look like.
    fn tensors(&self) -> Vec<(String, Dims)> {
        let matrix = |rows, columns| Dims::Matrix { rows, columns };
        let (hidden, ffn, kv) = (self.hidden, self.ffn, self.kv_heads * self.head_dim);
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), matrix(self.vocab, hidden)),
            ("output_norm.weight".to_owned(), Dims::Vector(hidden)),
        ];
        if !self.tied {
            tensors.push(("output.weight".to_owned(), matrix(self.vocab, hidden)));
        }
        for layer in 0..self.layers {
            let rows = [
                ("attn_norm", Dims::Vector(hidden)),
                ("attn_q", matrix(hidden, hidden)),
                ("attn_k", matrix(kv, hidden)),
                ("attn_v", matrix(kv, hidden)),
                ("attn_output", matrix(hidden, hidden)),
                ("ffn_norm", Dims::Vector(hidden)),
                ("ffn_gate", matrix(ffn, hidden)),
                ("ffn_up", matrix(ffn, hidden)),
                ("ffn_down", matrix(hidden, ffn)),
            ];
            tensors.extend(rows.map(|(part, dims)| (block(layer, part), dims)));
        }
        tensors
    }
}

/// A block's tensor by GGUF's naming.
pub(super) fn block(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

impl Dims {
    fn list(self) -> Vec<usize> {
        match self {
            Self::Vector(length) => vec![length],
            Self::Matrix { rows, columns } => vec![rows, columns],
        }
    }

    fn count(self) -> usize {
        self.list().iter().product()
    }
}

impl<'a> Metadata<'a> {
    fn get(&self, key: &str) -> Result<&'a Value, ImportError> {
        self.0
            .metadata
            .get(key)
            .ok_or_else(|| ImportError::MissingKey {
                key: key.to_owned(),
            })
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, ImportError> {
        let value = self.get(key)?;
        value
            .to_string()
            .map(String::as_str)
            .map_err(|_| malformed(key, value))
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'a str>, ImportError> {
        if self.0.metadata.contains_key(key) {
            self.text(key).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<&'a str>, ImportError> {
        self.list(key, |value| value.to_string().ok().map(String::as_str))
    }

    pub(super) fn integers(&self, key: &str) -> Result<Vec<i64>, ImportError> {
        self.list(key, integer)
    }

    fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, ImportError> {
        let value = self.get(key)?;
        let values = value.to_vec().map_err(|_| malformed(key, value))?;
        let read = |value| read(value).ok_or_else(|| malformed(key, value));
        values.iter().map(read).collect()
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ImportError> {
        match self.0.metadata.get(key) {
            None => Ok(false),
            Some(value) => value.to_bool().map_err(|_| malformed(key, value)),
        }
    }

    /// A token id, if the file has one; it must be below `vocab`.
    pub(super) fn token(&self, key: &str, vocab: usize) -> Result<Option<u32>, ImportError> {
        let Some(value) = self.0.metadata.get(key) else {
            return Ok(None);
        };
        let id = integer(value).and_then(|id| u32::try_from(id).ok());
        match id.filter(|id| (*id as usize) < vocab) {
            Some(id) => Ok(Some(id)),
            None => Err(malformed(key, value)),
        }
    }

    fn size(&self, key: &str, max: usize) -> Result<usize, ImportError> {
        let value = self.get(key)?;
        let size = integer(value).and_then(|size| usize::try_from(size).ok());
        size.filter(|size| (1..=max).contains(size))
            .ok_or_else(|| malformed(key, value))
    }

    fn float(&self, key: &str) -> Result<f32, ImportError> {
        let value = self.get(key)?;
        let float = value
            .to_f32()
            .ok()
            .filter(|float| float.is_finite() && *float > 0.0);
        float.ok_or_else(|| malformed(key, value))
    }
}

fn integer(value: &Value) -> Option<i64> {
    value
        .to_u64()
        .ok()
        .and_then(|value| i64::try_from(value).ok())
        .or_else(|| {
            let small = value.to_i32().map(i64::from);
            small.or_else(|_| value.to_i64()).ok()
        })
}

fn malformed(key: &str, value: &Value) -> ImportError {
    /// Enough to recognise the value; arrays can be megabytes.
    const SHOWN_CHARS: usize = 60;
    let found = match value.to_vec() {
        Ok(values) => format!("an array of {} values", values.len()),
        Err(_) => format!("{value:?}"),
    };
    ImportError::Malformed {
        key: key.to_owned(),
        found: found.chars().take(SHOWN_CHARS).collect(),
    }
}

/// The types candle can turn into fp32.
fn readable(dtype: GgmlDType) -> bool {
    matches!(
        dtype,
        GgmlDType::F32
            | GgmlDType::F16
            | GgmlDType::BF16
            | GgmlDType::Q4_0
            | GgmlDType::Q4_1
            | GgmlDType::Q5_0
            | GgmlDType::Q5_1
            | GgmlDType::Q8_0
            | GgmlDType::Q2K
            | GgmlDType::Q3K
            | GgmlDType::Q4K
            | GgmlDType::Q5K
            | GgmlDType::Q6K
    )
}
