//! From a GGUF file to an ONNX decoder with its tokenizer and manifest, without Python.
//!
//! ```text
//! FILE.gguf ─ gguf ─┬─ tokenizer ─────────────► tokenizer.json
//!                   ├─ graph ─ quantise ─ blob ► model.onnx, model.onnx.data
//!                   └──────────────────────────► model.json   (crate::manifest)
//! ```
//!
//! Called by `pull` after a fetch and by `colony model import`. Weights stream through memory one
//! tensor at a time, so the peak is a few times the largest tensor, not the model. The folder is
//! written beside its final place and renamed into it when everything is on disk: a reader sees
//! the old model, none, or the new one, never a mixture.
//!
//! Deliberately absent: other architectures than `llama`, other tokenizers than `smollm`'s, and
//! sampling settings. Each is refused by name.

mod blob;
mod gguf;
mod graph;
mod onnx;
mod quantise;
mod tokenizer;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use self::blob::Blob;
use self::gguf::{Gguf, Shape};
use crate::digest::{self, digest_bytes};
use crate::manifest::{
    self, Decoder, FileDigest, ModelKind, ModelManifest, Precision, SCHEMA, Source,
};

/// Version of the graph that [`import`] writes. Raised when callers or weights see a difference;
/// a model of another version is imported again.
pub const GRAPH_VERSION: u32 = 1;

const GRAPH_FILE: &str = "model.onnx";
const WEIGHTS_FILE: &str = "model.onnx.data";
const TOKENIZER_FILE: &str = "tokenizer.json";

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// Layers written.
    pub layers_done: usize,
    /// Layers in all.
    pub layers: usize,
}

/// What an import made.
#[derive(Debug, Clone)]
pub struct ImportReport {
    /// The manifest, as written to `model.json`.
    pub manifest: ModelManifest,
    /// Size of the whole folder's files.
    pub bytes: u64,
}

/// Why a GGUF file was not imported. Nothing is left behind in any case.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The GGUF file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not GGUF, or its header is damaged.
    #[error("{} is not a readable GGUF file", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Where it went wrong.
        source: candle_core::Error,
    },
    /// A network this importer has no graph for.
    #[error("architecture {found:?} is not supported, only \"llama\"")]
    Architecture {
        /// `general.architecture`.
        found: String,
    },
    /// A stretched context.
    #[error("rope scaling {found:?} is not supported, only \"none\"")]
    RopeScaling {
        /// `llama.rope.scaling.type`.
        found: String,
    },
    /// Widths that do not fit together or that no operator takes.
    #[error("unsupported dimensions: {reason}")]
    Dimensions {
        /// Which, and what they should be.
        reason: String,
    },
    /// A vocabulary this importer cannot rebuild exactly.
    #[error(
        "tokenizer {model:?} with splitting {split:?} is not supported, only \"gpt2\" with \"smollm\""
    )]
    Tokenizer {
        /// `tokenizer.ggml.model`.
        model: String,
        /// `tokenizer.ggml.pre`.
        split: String,
    },
    /// The vocabulary and its merges contradict each other.
    #[error("the vocabulary cannot be rebuilt")]
    Vocabulary {
        /// What the tokenizer library says.
        source: tokenizers::Error,
    },
    /// Metadata that every model needs.
    #[error("metadata key {key} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// Metadata of the wrong type or out of range.
    #[error("metadata key {key} holds {found}")]
    Malformed {
        /// The key.
        key: String,
        /// The start of its value.
        found: String,
    },
    /// A weight that the architecture needs.
    #[error("tensor {tensor} is missing")]
    MissingTensor {
        /// Its name.
        tensor: String,
    },
    /// A weight that this importer would silently drop, such as a bias.
    #[error("tensor {tensor} has no place in this architecture")]
    UnknownTensor {
        /// Its name.
        tensor: String,
    },
    /// A weight whose shape contradicts the metadata.
    #[error("tensor {tensor} has shape {found:?}, expected {wanted:?}")]
    TensorShape {
        /// Its name.
        tensor: String,
        /// Rows and columns in the file.
        found: Vec<usize>,
        /// Rows and columns by the metadata.
        wanted: Vec<usize>,
    },
    /// A number format that cannot be read.
    #[error("tensor {tensor} has type {found}, which is not supported")]
    TensorType {
        /// Its name.
        tensor: String,
        /// The format.
        found: String,
    },
    /// The file ends too early.
    #[error("the file ends within tensor {tensor}: it has {has_bytes} of {needs_bytes} bytes")]
    Truncated {
        /// The first tensor that is not complete.
        tensor: String,
        /// Bytes up to the tensor's end.
        needs_bytes: u64,
        /// Bytes in the file.
        has_bytes: u64,
    },
    /// A tensor's bytes could not be read or decoded.
    #[error("cannot read tensor {tensor}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// Why.
        source: candle_core::Error,
    },
    /// An infinite or undefined weight: the file is damaged.
    #[error("tensor {tensor} holds a value that is not finite, at index {index}")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// Place of the first such value.
        index: usize,
    },
    /// The new model cannot be written; `source` says why, a full disk for example.
    #[error("cannot write the imported model")]
    Write {
        /// Why.
        source: io::Error,
    },
}

impl ImportError {
    fn write(source: io::Error) -> Self {
        Self::Write { source }
    }
}

/// Makes the model folder `out_dir` from the file `gguf`, replacing what was there. The model is
/// called by the folder's name. Blocks for seconds; `progress` hears of every layer.
///
/// # Errors
/// [`ImportError`]; `out_dir` is then as it was.
pub fn import(
    gguf: &Path,
    out_dir: &Path,
    precision: Precision,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<ImportReport, ImportError> {
    let mut file = Gguf::open(gguf)?;
    let shape = file.shape()?;
    let vocabulary = tokenizer::read(&file.metadata())?;
    let decoder = decoder(&file, &shape, &vocabulary, precision)?;
    let source = Source {
        name: gguf
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        sha256: digest::digest_file(gguf)
            .map_err(|source| ImportError::Read {
                path: gguf.into(),
                source,
            })?
            .sha256,
    };

    let staging = Staging::create(out_dir).map_err(ImportError::write)?;
    let mut blob = Blob::create(&staging.dir, WEIGHTS_FILE).map_err(ImportError::write)?;
    let model = graph::build(
        &mut file,
        &shape,
        precision,
        &mut blob,
        &mut |layers_done| {
            progress(ImportProgress {
                layers_done,
                layers: shape.layers,
            });
        },
    )?;
    let written = || -> io::Result<BTreeMap<String, FileDigest>> {
        Ok(BTreeMap::from([
            (WEIGHTS_FILE.to_owned(), blob.finish()?),
            (
                GRAPH_FILE.to_owned(),
                staging.write(GRAPH_FILE, &model.encode_to_vec())?,
            ),
            (
                TOKENIZER_FILE.to_owned(),
                staging.write(TOKENIZER_FILE, vocabulary.json.as_bytes())?,
            ),
        ]))
    };
    let files = written().map_err(ImportError::write)?;
    let bytes = files.values().map(|file| file.bytes).sum();
    let name = out_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let kind = ModelKind::Generate(Box::new(decoder));
    let manifest = ModelManifest {
        schema: SCHEMA,
        name,
        kind,
        source,
        files,
    };
    staging
        .write(manifest::FILE_NAME, &manifest.to_json())
        .and_then(|_| staging.publish(out_dir))
        .map_err(ImportError::write)?;
    Ok(ImportReport { manifest, bytes })
}

fn decoder(
    file: &Gguf,
    shape: &Shape,
    vocabulary: &tokenizer::Vocabulary,
    precision: Precision,
) -> Result<Decoder, ImportError> {
    let metadata = file.metadata();
    let token = |key| metadata.token(key, vocabulary.tokens);
    let end = token("tokenizer.ggml.eos_token_id")?.ok_or_else(|| ImportError::MissingKey {
        key: "tokenizer.ggml.eos_token_id".into(),
    })?;
    let mut eos_tokens = vec![end];
    eos_tokens.extend(token("tokenizer.ggml.eot_token_id")?.filter(|turn| *turn != end));
    let bos_token = if metadata.flag("tokenizer.ggml.add_bos_token")? {
        token("tokenizer.ggml.bos_token_id")?
    } else {
        None
    };
    Ok(Decoder {
        architecture: "llama".to_owned(),
        layers: shape.layers,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        hidden: shape.hidden,
        vocab: shape.vocab,
        context_tokens_max: shape.context_tokens_max,
        pad_token: token("tokenizer.ggml.padding_token_id")?.unwrap_or(end),
        eos_tokens,
        bos_token,
        chat_template: metadata
            .optional_text("tokenizer.chat_template")?
            .map(str::to_owned),
        control_tokens: vocabulary.control_tokens.clone(),
        precision,
        graph: GRAPH_VERSION,
    })
}

/// A folder beside the final one; removed again unless it is published.
#[derive(Debug)]
struct Staging {
    dir: PathBuf,
}

impl Staging {
    fn create(out_dir: &Path) -> io::Result<Self> {
        let name = out_dir.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{name}.partial-");
        let parent = match out_dir.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent)?;
        for entry in fs::read_dir(parent)?.flatten() {
            let found = entry.file_name();
            let owner = found.to_str().and_then(|found| found.strip_prefix(&prefix));
            if owner.is_some_and(|process| !is_running_elsewhere(process)) {
                remove_if_there(&entry.path())?;
            }
        }
        let dir = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self { dir })
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<FileDigest> {
        let mut file = fs::File::create_new(self.dir.join(name))?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(digest_bytes(content))
    }

    /// Renames the folder into place. Folders cannot be swapped atomically: a crash between the
    /// two renames leaves no model, which the next pull repairs, and never half a model.
    fn publish(self, out_dir: &Path) -> io::Result<()> {
        let old = self.dir.with_extension("old");
        remove_if_there(&old)?;
        match fs::rename(out_dir, &old) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::rename(&self.dir, out_dir)?;
        remove_if_there(&old)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` there is nothing here; after an error nobody could do more about it.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether another live process has this number; its half-written import is then left alone.
fn is_running_elsewhere(process: &str) -> bool {
    process != std::process::id().to_string() && Path::new("/proc").join(process).exists()
}

fn remove_if_there(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
