//! From a GGUF vocabulary to a `tokenizer.json`.
//!
//! GGUF names the way texts are split before byte-pair merging (`tokenizer.ggml.pre`). Each name
//! stands for a regular expression inside llama.cpp; guessing wrong gives tokens that are right
//! for most texts and wrong for some, so every name but the verified one is refused.

use ahash::AHashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use super::ImportError;
use super::gguf::Metadata;

/// `tokenizer.ggml.token_type` of ordinary text.
const NORMAL: i64 = 1;
/// The type of tokens that steer the model and never stand for text.
const CONTROL: i64 = 3;

/// What the vocabulary yields.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// Content of `tokenizer.json`.
    pub(super) json: String,
    /// Number of tokens.
    pub(super) tokens: usize,
    /// Texts of the control tokens, in order of id.
    pub(super) control_tokens: Vec<String>,
}

pub(super) fn read(metadata: &Metadata) -> Result<Vocabulary, ImportError> {
    let model = metadata.text("tokenizer.ggml.model")?;
    let split = metadata.text("tokenizer.ggml.pre")?;
    if model != "gpt2" || split != "smollm" {
        return Err(ImportError::Tokenizer {
            model: model.into(),
            split: split.into(),
        });
    }
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let kinds = metadata.integers("tokenizer.ggml.token_type")?;
    if tokens.len() != kinds.len() {
        return Err(ImportError::Malformed {
            key: "tokenizer.ggml.token_type".into(),
            found: format!("{} types for {} tokens", kinds.len(), tokens.len()),
        });
    }
    let mut vocabulary = AHashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        let id = u32::try_from(id).expect("the reader bounds arrays to 2^30 elements");
        if vocabulary.insert((*token).to_owned(), id).is_some() {
            return Err(ImportError::Malformed {
                key: "tokenizer.ggml.tokens".into(),
                found: format!("token {token:?} twice"),
            });
        }
    }
    let merges = metadata
        .texts("tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(ImportError::Malformed {
                key: "tokenizer.ggml.merges".into(),
                found: format!("merge {merge:?} without a space"),
            }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let built = |source| ImportError::Vocabulary { source };
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .build()
        .map_err(built)?;
    let mut tokenizer = Tokenizer::new(bpe);
    // `smollm`: every digit alone, then GPT-2's byte-level splitting.
    let byte_level = ByteLevel::new(false, true, true);
    let steps = vec![Digits::new(true).into(), byte_level.into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(byte_level));
    let added = |wanted: fn(i64) -> bool| {
        tokens
            .iter()
            .zip(&kinds)
            .filter(move |(_, kind)| wanted(**kind))
            .map(|(token, _)| *token)
    };
    let special: Vec<AddedToken> = added(|kind| kind == CONTROL)
        .map(|token| AddedToken::from(token, true))
        .collect();
    let whole: Vec<AddedToken> = added(|kind| kind != NORMAL && kind != CONTROL)
        .map(|token| AddedToken::from(token, false))
        .collect();
    tokenizer.add_special_tokens(&special);
    tokenizer.add_tokens(&whole);
    Ok(Vocabulary {
        json: tokenizer.to_string(false).map_err(built)?,
        tokens: tokens.len(),
        control_tokens: added(|kind| kind == CONTROL).map(str::to_owned).collect(),
    })
}
