//! Answers held to a JSON schema: llguidance over the model's vocabulary.

use std::{fmt, sync::Arc};

use llguidance::{Matcher, ParserFactory, api::TopLevelGrammar};
use parking_lot::Mutex;
use serde_json::{Value, json};
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::{engine::TextCodec, error::InferenceError};

/// Compiled schemas of one model, the last ones used.
pub(crate) struct Grammars {
    factory: ParserFactory,
    schemas_max: usize,
    /// Most recently used last.
    compiled: Mutex<Vec<(Arc<Value>, Matcher)>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars")
            .field("compiled", &self.compiled.lock().len())
            .finish()
    }
}

impl Grammars {
    pub(crate) fn new(
        model: &str,
        codec: &Arc<dyn TextCodec>,
        schemas_max: usize,
    ) -> Result<Self, InferenceError> {
        let failed = |what: String| InferenceError::Model {
            model: model.to_owned(),
            what,
        };
        let tokens: Vec<Vec<u8>> = (0..u32::try_from(codec.vocabulary_size()).unwrap_or(0))
            .map(|token| match codec.control_name(token) {
                Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
                None => codec.bytes(token).to_vec(),
            })
            .collect();
        let size = u32::try_from(tokens.len()).unwrap_or(0);
        let end = *codec
            .end_tokens()
            .first()
            .ok_or_else(|| failed("no end token".into()))?;
        let trie =
            TokTrie::from(&TokRxInfo::new(size, end), &tokens).with_eos_tokens(codec.end_tokens());
        let tokenizer: TokEnv = Arc::new(CodecTokenizer {
            codec: Arc::clone(codec),
            trie,
        });
        let mut factory = ParserFactory::new_simple(&tokenizer)
            .map_err(|error| failed(format!("no constrained answers: {error:#}")))?;
        factory.quiet();
        Ok(Self {
            factory,
            schemas_max,
            compiled: Mutex::new(Vec::new()),
        })
    }

    /// A matcher at the beginning of an answer that fits `schema`.
    pub(crate) fn matcher(&self, schema: &Arc<Value>) -> Result<Matcher, InferenceError> {
        let mut compiled = self.compiled.lock();
        if let Some(found) = compiled.iter().position(|(known, _)| known == schema) {
            let found = compiled.remove(found);
            let matcher = found.1.deep_clone();
            compiled.push(found);
            return Ok(matcher);
        }
        drop(compiled);
        let matcher = self.compile(schema)?;
        let mut compiled = self.compiled.lock();
        if compiled.len() >= self.schemas_max {
            compiled.remove(0);
        }
        compiled.push((Arc::clone(schema), matcher.deep_clone()));
        Ok(matcher)
    }

    fn compile(&self, schema: &Value) -> Result<Matcher, InferenceError> {
        let bad = |what: String| InferenceError::Schema { what };
        let mut schema = schema.clone();
        let object = schema
            .as_object_mut()
            .ok_or_else(|| bad("it is not an object".into()))?;
        // Legal white space without end would let an answer run to its bound without a value.
        // The separators are those most models have seen most.
        object.entry("x-guidance").or_insert_with(
            || json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}),
        );
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(bad(error)),
            None => Ok(matcher),
        }
    }
}

/// The codec as llguidance wants it.
struct CodecTokenizer {
    codec: Arc<dyn TextCodec>,
    trie: TokTrie,
}

impl TokenizerEnv for CodecTokenizer {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie
            .tokenize_with_greedy_fallback(bytes, |text| self.codec.text_tokens(text))
    }
}
