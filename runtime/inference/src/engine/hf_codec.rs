//! A decoder's vocabulary and prompt format, from `tokenizer.json` and `model.json`.

use tokenizers::Tokenizer;

use super::{PromptTokens, TextCodec};
use crate::{
    chat::{ChatError, PromptEnd},
    error::InferenceError,
    generator::Prompt,
    manifest::{Decoder, ModelManifest},
};

/// A [`TextCodec`] over a byte-level tokenizer.
#[derive(Debug)]
pub(super) struct HfTextCodec {
    model: String,
    manifest: ModelManifest,
    tokenizer: Tokenizer,
    end_tokens: Vec<u32>,
    bos_token: Option<u32>,
    words: Vec<Word>,
}

#[derive(Debug)]
enum Word {
    Text(Vec<u8>),
    Control(String),
}

impl HfTextCodec {
    pub(super) fn new(
        model: &str,
        manifest: ModelManifest,
        decoder: &Decoder,
        tokenizer: Tokenizer,
    ) -> Result<Self, InferenceError> {
        let failed = |what: String| InferenceError::Model {
            model: model.to_owned(),
            what,
        };
        let size = u32::try_from(decoder.vocab)
            .map_err(|_| failed(format!("a vocabulary of {} tokens", decoder.vocab)))?;
        if let Some(beyond) = decoder.eos_tokens.iter().find(|token| **token >= size) {
            return Err(failed(format!(
                "end token {beyond} in a vocabulary of {size}"
            )));
        }
        if decoder.eos_tokens.is_empty() {
            return Err(failed("no token ends an answer".to_owned()));
        }
        let added = tokenizer.get_added_tokens_decoder();
        let words = (0..size)
            .map(|id| match (added.get(&id), tokenizer.id_to_token(id)) {
                (Some(token), _) if token.special => Word::Control(token.content.clone()),
                (Some(token), _) => Word::Text(token.content.clone().into_bytes()),
                // Padding of the vocabulary to a round number: never chosen, means nothing.
                (None, None) => Word::Control(format!("<|unused {id}|>")),
                (None, Some(text)) => Word::Text(from_byte_level(&text)),
            })
            .collect();
        Ok(Self {
            model: model.to_owned(),
            end_tokens: decoder.eos_tokens.clone(),
            bos_token: decoder.bos_token,
            manifest,
            tokenizer,
            words,
        })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, InferenceError> {
        let encoding =
            self.tokenizer
                .encode_fast(text, false)
                .map_err(|error| InferenceError::Request {
                    what: format!("the tokenizer refuses the text: {error}"),
                })?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl TextCodec for HfTextCodec {
    fn vocabulary_size(&self) -> usize {
        self.words.len()
    }

    fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    fn bytes(&self, token: u32) -> &[u8] {
        match self.words.get(token as usize) {
            Some(Word::Text(bytes)) => bytes,
            Some(Word::Control(_)) | None => &[],
        }
    }

    fn control_name(&self, token: u32) -> Option<&str> {
        match self.words.get(token as usize) {
            Some(Word::Control(name)) => Some(name),
            Some(Word::Text(_)) | None => None,
        }
    }

    fn text_tokens(&self, text: &str) -> Vec<u32> {
        self.encode(text).unwrap_or_default()
    }

    fn prompt(&self, prompt: &Prompt) -> Result<PromptTokens, InferenceError> {
        match prompt {
            Prompt::Raw(text) => {
                let mut tokens: Vec<u32> = self.bos_token.into_iter().collect();
                tokens.extend(self.encode(text)?);
                Ok(PromptTokens { tokens, shared: 0 })
            }
            Prompt::Chat(messages) => {
                let render = |messages, end| {
                    self.manifest
                        .render_chat(messages, end)
                        .map_err(|error| match error {
                            ChatError::NoTemplate => InferenceError::Model {
                                model: self.model.clone(),
                                what: error.to_string(),
                            },
                            ChatError::Template { ref source, .. } => InferenceError::Request {
                                what: format!("{error}: {source}"),
                            },
                        })
                };
                let tokens = self.encode(&render(messages, PromptEnd::OpensAnswer)?)?;
                let before = &messages[..messages.len().saturating_sub(1)];
                let shared = if before.is_empty() {
                    0
                } else {
                    let shared = self.encode(&render(before, PromptEnd::ClosesMessages)?)?;
                    // A template may treat a conversation's end in its own way: then nothing is
                    // shared, which costs time and nothing else.
                    let is_beginning = shared.len() < tokens.len() && tokens.starts_with(&shared);
                    if is_beginning { shared.len() } else { 0 }
                };
                Ok(PromptTokens { tokens, shared })
            }
        }
    }
}

/// The bytes behind a token of a byte-level vocabulary. GPT-2 writes every byte as a printable
/// character: printable ones as themselves, the other 68 as the characters from U+0100 on.
fn from_byte_level(text: &str) -> Vec<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u8> = (0..=u8::MAX).filter(|byte| !printable(*byte)).collect();
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        let code = u32::from(character);
        let shifted = code
            .checked_sub(0x100)
            .and_then(|at| hidden.get(at as usize));
        match (u8::try_from(code), shifted) {
            (Ok(byte), _) if printable(byte) => bytes.push(byte),
            (_, Some(byte)) => bytes.push(*byte),
            // Not of the byte-level alphabet: it stands for itself.
            _ => bytes.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_words_become_bytes() {
        assert_eq!(from_byte_level("Ġthe"), b" the");
        assert_eq!(from_byte_level("Ċ"), b"\n");
        assert_eq!(from_byte_level("Ã©"), "é".as_bytes());
        assert_eq!(from_byte_level("łĢ"), [0xa0, 0x80]);
    }
}
