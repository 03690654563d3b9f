//! Texts to vectors by hashing: words, pairs of words and letter trigrams, each thrown onto a few
//! of 384 axes with a sign. Texts that share words come out similar, which is enough to learn by.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_core::port::Clock;
use tokio::sync::watch;

use super::{
    fnv,
    solo::{MODEL, Solo},
};
use crate::{
    batch_stats::{BatchKind, BatchObserver},
    embedder::{EmbedRequest, Embedded, Embedder, EmbedderInfo},
    error::InferenceError,
    stats::{Counters, WorkerState, WorkerStats},
};

/// As many as minilm has, so that one can stand in for the other.
const DIMENSIONS: usize = 384;
/// Words that are read; the rest of a text is ignored, as models do with long texts.
const WORDS_MAX: usize = 256;
/// Axes that one feature touches. One would make two features that collide indistinguishable.
const AXES: u64 = 4;
/// Weights of the features. Words carry the meaning; pairs tell "not paid" from "paid"; trigrams
/// join "refund" and "refunded".
const WORD: f32 = 1.0;
const PAIR: f32 = 0.5;
const TRIGRAM: f32 = 0.25;
/// Factor for words that say little about what a text wants.
const COMMON: f32 = 0.15;
const COMMON_WORDS: [&str; 58] = [
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do",
    "does", "for", "from", "had", "has", "have", "hello", "hi", "i", "if", "in", "is", "it", "its",
    "just", "me", "my", "of", "on", "or", "our", "please", "so", "some", "thanks", "that", "the",
    "their", "there", "they", "this", "to", "up", "was", "we", "what", "when", "which", "will",
    "with", "would", "you", "your", "am",
];

/// An [`Embedder`] that needs nothing.
#[derive(Debug)]
pub struct EchoEmbedder(Solo);

impl EchoEmbedder {
    /// One that answers at once, or after `latency`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, latency: Option<Duration>) -> Self {
        Self(Solo::new(clock, latency))
    }

    /// Tells `observer` of every request, as a batch of one.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn BatchObserver>) -> Self {
        self.0.observer = observer;
        self
    }
}

#[async_trait]
impl Embedder for EchoEmbedder {
    fn info(&self) -> EmbedderInfo {
        EmbedderInfo {
            model: MODEL.into(),
            dimensions: DIMENSIONS,
            tokens_max: WORDS_MAX,
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embedded, InferenceError> {
        let began = self.0.begin(request.deadline).await?;
        let (vector, words) = vector(&request.text);
        Counters::add(&self.0.counters.prompt_tokens, words);
        Ok(Embedded {
            vector,
            tokens: u32::try_from(words).unwrap_or(u32::MAX),
            stats: self.0.end(BatchKind::Embed, words, began, request.trace),
        })
    }

    fn observe(&self) -> WorkerStats {
        self.0.observe()
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.0.state.subscribe()
    }
}

fn vector(text: &str) -> (Arc<[f32]>, usize) {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(WORDS_MAX)
        .collect();
    let mut sum = [0.0_f32; DIMENSIONS];
    // A constant share keeps texts without any word away from the zero vector.
    throw(&mut sum, fnv(&[b"text"]), COMMON);
    for word in &words {
        let weight = if COMMON_WORDS.contains(word) {
            COMMON
        } else {
            1.0
        };
        throw(&mut sum, fnv(&[b"word", word.as_bytes()]), WORD * weight);
        let letters: Vec<char> = std::iter::once(' ')
            .chain(word.chars())
            .chain([' '])
            .collect();
        for trigram in letters.windows(3) {
            let trigram: String = trigram.iter().collect();
            throw(
                &mut sum,
                fnv(&[b"trigram", trigram.as_bytes()]),
                TRIGRAM * weight,
            );
        }
    }
    for pair in words.windows(2) {
        throw(
            &mut sum,
            fnv(&[b"pair", pair[0].as_bytes(), pair[1].as_bytes()]),
            PAIR * COMMON,
        );
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    (sum.iter().map(|x| x / length).collect(), words.len())
}

/// Adds a feature to the axes its hash points at, with the signs its hash says.
fn throw(sum: &mut [f32; DIMENSIONS], hash: u64, weight: f32) {
    let mut state = hash;
    for _ in 0..AXES {
        // The increment and mixer of splitmix64: FNV's low bits alone are too regular.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let axis = usize::try_from(mixed % DIMENSIONS as u64).expect("below 384");
        sum[axis] += if mixed >> 63 == 0 { weight } else { -weight };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        vector(a)
            .0
            .iter()
            .zip(vector(b).0.iter())
            .map(|(x, y)| x * y)
            .sum()
    }

    #[test]
    fn every_vector_has_length_one() {
        for text in ["", "…", "a", "I cannot log in", "日本語のテキスト"] {
            assert!((cosine(text, text) - 1.0).abs() < 1e-5, "{text:?}");
        }
    }

    #[test]
    fn texts_about_the_same_thing_are_closer() {
        let near = cosine(
            "I want a refund for my order",
            "please refund the order I made",
        );
        let far = cosine(
            "I want a refund for my order",
            "the app crashes when I open settings",
        );
        assert!(near > 0.5 && far < 0.25, "near {near}, far {far}");
    }

    #[test]
    fn the_vector_never_changes_between_versions() {
        let (vector, words) = vector("hello colony");
        let bits: Vec<Vec<u8>> = vector.iter().map(|x| x.to_le_bytes().to_vec()).collect();
        let hash = fnv(&bits.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!((words, hash), (2, 13785213464469686031));
    }
}
