//! `model.json`: what an engine must know about a model before it loads it.
//!
//! Written by `pull` and `import`, read by the engines. It sits beside the files it names.
//!
//! # How to call a `generate` model
//!
//! Inputs (`b` rows, `s` new tokens a row, `p` past positions, `t` = width of the mask):
//!
//! | input | type | meaning |
//! | --- | --- | --- |
//! | `input_ids` | i64 \[b, s\] | new tokens; short rows are padded on the RIGHT with any id |
//! | `attention_mask` | i64 \[b, t\] | row i starts with as many ones as it has valid positions, old and new together; then zeros |
//! | `past_key_values.{layer}.key`, `.value` | f32 \[b, kv_heads, p, head_dim\] | the cache; row i is valid up to its own length, the rest is ignored |
//!
//! Outputs: `logits` f32 \[b, vocab\], of each row's last valid position and nothing else, and
//! `present.{layer}.key`, `.value` f32 \[b, kv_heads, t, head_dim\].
//!
//! Three kinds of call are right; no others:
//!
//! 1. *Prefill*: `p = 0`, `t = s`, any `b`, rows of different length padded right.
//! 2. *Decode*: `s = 1`, any `b`. Rows may have pasts of different length: the new key and value
//!    go to each row's own end (the number of ones in its mask, less one), so `t` must be at
//!    least the longest row's length including the new token, and `t = p + 1` always is right.
//!    A row's logits are those of its one new token.
//! 3. *Continuation*: `b = 1`, any `s`, `t = p + s`, all ones: a prompt after a cached prefix.
//!
//! There is no `position_ids`: positions follow from the mask. A cache copied row by row into a
//! wider one (padding on the right of the position axis, content ignored) stays valid, which is
//! how rows join and leave a running batch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::chat::{self, ChatError, ChatMessage};

/// Version of this file's layout.
pub const SCHEMA: u32 = 1;

/// Its file name.
pub const FILE_NAME: &str = "model.json";

/// Everything known about one model on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// Layout of this file; always [`SCHEMA`].
    pub schema: u32,
    /// The name it is called by in colony.toml.
    pub name: String,
    /// What it does, with what only that kind has.
    pub kind: ModelKind,
    /// The package or file it was made from.
    pub source: Source,
    /// The files beside this one, by name.
    pub files: BTreeMap<String, FileDigest>,
}

/// What a model does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Continues token sequences.
    Generate(Box<Decoder>),
    /// FairQueue a text into a vector.
    Embed(Encoder),
}

/// A decoder's dimensions and vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    /// The family of networks, `llama`.
    pub architecture: String,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Number of tokens, and the width of `logits`.
    pub vocab: usize,
    /// Longest sequence, prompt and answer together, in tokens.
    pub context_tokens_max: usize,
    /// Any of these ends the answer.
    pub eos_tokens: Vec<u32>,
    /// To be put before a prompt; `None` where the model wants none.
    pub bos_token: Option<u32>,
    /// Harmless filler for short rows.
    pub pad_token: u32,
    /// Jinja source that fair_queue messages into a prompt; absent in base models.
    pub chat_template: Option<String>,
    /// Texts of the tokens that steer the model (`<|im_end|>` …): they must not come from users.
    pub control_tokens: Vec<String>,
    /// How weights are stored.
    pub precision: Precision,
    /// Version of the importer's graph; another value asks for a new import.
    pub graph: u32,
}

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 8-bit blocks of 32 with an fp32 scale each; what Colony runs.
    Int8,
    /// 32-bit floats: four times the size, for tests of the 8-bit graph.
    Fp32,
}

/// An embedding model's dimensions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Numbers a text.
    pub dimension: usize,
    /// Longer texts are cut here, in tokens.
    pub tokens_max: usize,
    /// How the token vectors become one.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length one.
    pub normalise: bool,
}

/// How token vectors become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean, weighted by the attention mask.
    Mean,
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Package and version, or file name.
    pub name: String,
    /// SHA-256 of that file, lower-case hex.
    pub sha256: String,
}

/// A file's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No such file, or it cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not the JSON it should be.
    #[error("{} is not a model manifest", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it went wrong.
        source: serde_json::Error,
    },
    /// Written by another version of Colony.
    #[error("{} has schema {found}, this program reads {SCHEMA}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The number in it.
        found: u32,
    },
    /// The model is of the other kind.
    #[error("model {name} is of kind {found}, not {wanted}")]
    Kind {
        /// The model.
        name: String,
        /// What was asked for.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
}

impl ModelManifest {
    /// Reads `model.json` in a model's folder.
    ///
    /// # Errors
    /// [`ManifestError`] names the file and what is wrong with it.
    pub fn load(model_dir: &Path) -> Result<Self, ManifestError> {
        let path = model_dir.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) => return Err(ManifestError::Unreadable { path, source }),
        };
        // The schema is read first, so that a newer file is refused by number and not by field.
        let value: serde_json::Value = match serde_json::from_slice(&text) {
            Ok(value) => value,
            Err(source) => return Err(ManifestError::Malformed { path, source }),
        };
        if let Some(found) = value.get("schema").and_then(serde_json::Value::as_u64)
            && found != u64::from(SCHEMA)
        {
            return Err(ManifestError::Schema {
                path,
                found: u32::try_from(found).unwrap_or(0),
            });
        }
        serde_json::from_value(value).map_err(|source| ManifestError::Malformed { path, source })
    }

    /// The file's content.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain data has a JSON form");
        text.push(b'\n');
        text
    }

    /// The decoder's facts.
    ///
    /// # Errors
    /// [`ManifestError::Kind`] on an embedding model.
    pub fn decoder(&self) -> Result<&Decoder, ManifestError> {
        match &self.kind {
            ModelKind::Generate(decoder) => Ok(decoder),
            ModelKind::Embed(_) => Err(ManifestError::Kind {
                name: self.name.clone(),
                wanted: "generate",
                found: "embed",
            }),
        }
    }

    /// The encoder's facts.
    ///
    /// # Errors
    /// [`ManifestError::Kind`] on a generating model.
    pub fn encoder(&self) -> Result<&Encoder, ManifestError> {
        match &self.kind {
            ModelKind::Embed(encoder) => Ok(encoder),
            ModelKind::Generate(_) => Err(ManifestError::Kind {
                name: self.name.clone(),
                wanted: "embed",
                found: "generate",
            }),
        }
    }

    /// The prompt for a conversation, in the model's own format, up to `end`. Control tokens
    /// inside messages are broken by a space, so that no message can speak for another role.
    ///
    /// # Errors
    /// [`ChatError`] when the model has no template or the template refuses the messages.
    pub fn render_chat(
        &self,
        messages: &[ChatMessage],
        end: chat::PromptEnd,
    ) -> Result<String, ChatError> {
        match &self.kind {
            ModelKind::Generate(decoder) => chat::render(decoder, messages, end),
            ModelKind::Embed(_) => Err(ChatError::NoTemplate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding() -> ModelManifest {
        ModelManifest {
            schema: SCHEMA,
            name: "minilm".into(),
            kind: ModelKind::Embed(Encoder {
                dimension: 384,
                tokens_max: 256,
                pooling: Pooling::Mean,
                normalise: true,
            }),
            source: Source {
                name: "package 1.0.0".into(),
                sha256: "00".into(),
            },
            files: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        fs::write(dir.path().join(FILE_NAME), embedding().to_json()).expect("written");
        assert_eq!(ModelManifest::load(dir.path()).expect("read"), embedding());
    }

    #[test]
    fn a_newer_schema_is_refused_by_number() {
        let dir = tempfile::tempdir().expect("temporary folder");
        fs::write(dir.path().join(FILE_NAME), r#"{"schema": 9, "new": 1}"#).expect("written");
        let error = ModelManifest::load(dir.path())
            .expect_err("refused")
            .to_string();
        assert!(
            error.ends_with("model.json has schema 9, this program reads 1"),
            "{error}"
        );
    }

    #[test]
    fn asking_for_the_other_kind_says_so() {
        let error = embedding().decoder().expect_err("refused").to_string();
        assert_eq!(error, "model minilm is of kind embed, not generate");
    }
}
