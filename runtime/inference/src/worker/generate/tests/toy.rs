//! A language model of bytes whose scores are a hash of everything the row has read.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex},
};

use crate::{
    engine::{DecoderEngine, EngineError, PromptTokens, TextCodec},
    error::InferenceError,
    generator::{GeneratorInfo, Prompt},
    worker::{WARM_UP_TEXT, testing::Gate},
};

const END: u32 = 256;

#[derive(Debug, Clone, Default)]
pub(super) struct Toy {
    endless: bool,
    rows: Vec<Vec<u32>>,
    read: Arc<Mutex<Vec<String>>>,
    /// Decode steps wait in front of it.
    pub(super) gate: Gate,
}

impl Toy {
    /// One whose answers go on to their bound.
    pub(super) fn endless() -> Self {
        Self {
            endless: true,
            ..Self::default()
        }
    }

    /// The texts that were read in prefills, in order.
    pub(super) fn read(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }

    fn scores(&self, row: &[u32], logits: &mut Vec<f32>) {
        let end = if self.endless { f32::NEG_INFINITY } else { 5.5 };
        for token in 0..END {
            let mut hasher = DefaultHasher::new();
            (row, token).hash(&mut hasher);
            let letter = u8::try_from(token).unwrap().is_ascii_lowercase();
            let bonus = if letter { 2.0 } else { 0.0 };
            let random = u16::try_from(hasher.finish() % 4_096).unwrap();
            logits.push(bonus + f32::from(random) / 1_024.0);
        }
        logits.push(end);
    }
}

impl DecoderEngine for Toy {
    type Cache = Vec<u32>;

    fn info(&self) -> GeneratorInfo {
        GeneratorInfo {
            model: "toy".into(),
            context_tokens_max: 100_000,
        }
    }

    fn codec(&self) -> Arc<dyn TextCodec> {
        Arc::new(Bytes)
    }

    fn prefill(
        &mut self,
        before: Option<&Vec<u32>>,
        tokens: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<Vec<u32>, EngineError> {
        let text: String = tokens
            .iter()
            .filter_map(|token| char::from_u32(*token))
            .collect();
        assert_ne!(text, "!panic in prefill", "as asked");
        if text == "!fail" {
            return Err(EngineError("as asked".into()));
        }
        if text != WARM_UP_TEXT {
            self.read.lock().unwrap().push(text);
        }
        let row = [before.map_or(&[][..], Vec::as_slice), tokens].concat();
        logits.clear();
        self.scores(&row, logits);
        Ok(row)
    }

    fn regroup(&mut self, keep: &[usize], join: Vec<Vec<u32>>) -> Result<(), EngineError> {
        let kept = keep.iter().map(|number| self.rows[*number].clone());
        self.rows = kept.chain(join).collect();
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        self.gate.pass();
        assert_eq!(tokens.len(), self.rows.len(), "a token for each row");
        logits.clear();
        for (row, token) in self.rows.iter_mut().zip(tokens) {
            row.push(*token);
        }
        let doomed: Vec<u32> = "!panic in step".bytes().map(u32::from).collect();
        assert!(
            !self.rows.iter().any(|row| row.starts_with(&doomed)),
            "as asked"
        );
        for row in &self.rows {
            self.scores(row, logits);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.rows.clear();
    }
}

#[derive(Debug)]
struct Bytes;

/// The bytes as tokens stand for them.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut byte = 0_u8;
    while byte < u8::MAX {
        bytes[byte as usize] = byte;
        byte += 1;
    }
    bytes[255] = 255;
    bytes
};

impl TextCodec for Bytes {
    fn vocabulary_size(&self) -> usize {
        257
    }

    fn end_tokens(&self) -> &[u32] {
        &[END]
    }

    fn bytes(&self, token: u32) -> &[u8] {
        BYTES
            .get(token as usize..=token as usize)
            .unwrap_or_default()
    }

    fn control_name(&self, token: u32) -> Option<&str> {
        (token == END).then_some("<|end|>")
    }

    fn text_tokens(&self, text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn prompt(&self, prompt: &Prompt) -> Result<PromptTokens, InferenceError> {
        Ok(match prompt {
            Prompt::Raw(text) => PromptTokens {
                tokens: self.text_tokens(text),
                shared: 0,
            },
            Prompt::Chat(messages) => {
                let line = |it: &crate::ChatMessage| format!("{}\n", it.content);
                let lines: Vec<String> = messages.iter().map(line).collect();
                let shared = lines[..lines.len() - 1].concat().len();
                PromptTokens {
                    tokens: self.text_tokens(&lines.concat()),
                    shared,
                }
            }
        })
    }
}
