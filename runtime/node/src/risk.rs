//! What is risky on this node: the patterns of `[risk]`, and examples embedded by each type's own model.
//!
//! ```text
//!   start: examples are read (shipped, or risk.similarity.examples)
//!   task:  reason ──► words: core::escalation::risk ── none found ──► Port ──► core::escalation::risk::similarity
//!                                                                      └ first: embeds the examples, in batches
//! ```
//! They are embedded when the first task is compared, not at the start: a node starts while its model is away.
//! A type without an embedder has the patterns only.

use std::{
    fs,
    future::Future,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use colony_agents::{
    CallContext, Embed, PortError, normalise,
    tickets::{self, LineError},
};
use colony_core::{
    escalation::risk::similarity::{Bounds, Example, Similarity},
    task::TraceContext,
};
use colony_inference::EmbedLimits;
use futures_util::{StreamExt, stream};
use tokio::sync::Mutex;

use crate::config::{Finding, Risk};

/// The examples shipped.
const EXAMPLES: &str = include_str!("config/risk_examples.jsonl");
/// Largest file of examples, in bytes: some 50,000 texts, each of which is compared with every task.
const EXAMPLES_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What is wrong with a file of examples.
#[derive(Debug, thiserror::Error)]
pub enum ExamplesError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A line is no example.
    #[error("{}: {error}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The first such line.
        error: LineError,
    },
    /// It holds nothing risky.
    #[error(
        "{} holds no risky line; write {{\"text\": \"…\", \"risky\": true}}, or set risk.similarity.enabled = false",
        path.display()
    )]
    NothingRisky {
        /// The file.
        path: PathBuf,
    },
}

/// Examples, embedded as they are needed.
#[derive(Debug)]
pub struct Examples {
    labelled: Labelled,
    /// Those embedded so far: the first of `labelled`.
    embedded: Mutex<Similarity>,
    /// How many are embedded at once.
    at_once: usize,
}

impl Examples {
    /// None of them embedded yet; later as many at once as fill a batch of a worker with these limits.
    #[must_use]
    pub fn new(labelled: Labelled, limits: &EmbedLimits) -> Self {
        let bounds = labelled.bounds;
        let embedded = Mutex::new(Similarity {
            bounds,
            examples: Vec::new(),
        });
        Self {
            labelled,
            embedded,
            at_once: limits.batch_rows_max.min(limits.waiting_max).max(1),
        }
    }

    /// What a human should read when the text of `vector` resembles risky examples. The first call embeds all of
    /// them; the others wait for it.
    ///
    /// Cancel-safe: what was embedded is kept, and the next call goes on from there.
    ///
    /// # Errors
    /// The first of `embed`.
    pub async fn resembled<E, F>(
        &self,
        vector: &[f32],
        embed: impl Fn(String) -> F,
    ) -> Result<Option<String>, E>
    where
        F: Future<Output = Result<Arc<[f32]>, E>>,
    {
        let mut embedded = self.embedded.lock().await;
        let missing = &self.labelled.texts[embedded.examples.len()..];
        let texts: Vec<String> = missing.iter().map(|(text, _)| normalise(text)).collect();
        let mut vectors = stream::iter(texts.into_iter().map(embed)).buffered(self.at_once);
        for (text, risky) in missing {
            let Some(vector) = vectors.next().await else {
                break;
            };
            let (text, risky, vector) = (Arc::clone(text), *risky, vector?);
            embedded.examples.push(Example {
                text,
                risky,
                vector,
            });
        }
        drop(vectors);
        Ok(embedded.find(vector).map(|found| found.to_string()))
    }
}

/// The examples of types with one embedding model, as agents ask them.
#[derive(Debug)]
pub(crate) struct Port {
    examples: Examples,
    embed: Arc<dyn Embed>,
}

impl Port {
    pub(crate) fn new(labelled: Labelled, embed: &Arc<dyn Embed>, limits: &EmbedLimits) -> Self {
        Self {
            examples: Examples::new(labelled, limits),
            embed: Arc::clone(embed),
        }
    }
}

#[async_trait]
impl colony_agents::Examples for Port {
    async fn resembled(
        &self,
        vector: &[f32],
        call: &CallContext,
    ) -> Result<Option<String>, PortError> {
        // The examples are no part of the task's trace.
        let call = &CallContext {
            trace: TraceContext::default(),
            ..call.clone()
        };
        let embed = |text: String| async move { self.embed.embed(&text, call).await };
        self.examples.resembled(vector, embed).await
    }
}

/// What is wrong with the examples that would be compared with, if anything.
#[must_use]
pub fn check(settings: &Risk) -> Option<Finding> {
    let error = examples(settings).err()?;
    Some(Finding::error(
        "risk.similarity.examples",
        error.to_string(),
    ))
}

/// Texts of which it is known whether they are risky, and where the line is drawn.
#[derive(Debug, Clone)]
pub struct Labelled {
    texts: Arc<[(Arc<str>, bool)]>,
    bounds: Bounds,
}

/// The examples that tasks are compared with; none when they are not.
///
/// # Errors
/// [`ExamplesError`].
pub fn examples(settings: &Risk) -> Result<Option<Labelled>, ExamplesError> {
    let settings = &settings.similarity;
    if !settings.enabled {
        return Ok(None);
    }
    let (path, lines) = match settings.examples.clone() {
        None => (PathBuf::from("risk_examples.jsonl"), EXAMPLES.into()),
        Some(path) => match read(&path) {
            Ok(lines) => (path, lines),
            Err(error) => return Err(ExamplesError::Read { path, error }),
        },
    };
    let parsed = tickets::parse(&lines);
    if let Some(error) = parsed.errors.into_iter().next() {
        return Err(ExamplesError::Line { path, error });
    }
    if !parsed.tickets.iter().any(|ticket| ticket.risky) {
        return Err(ExamplesError::NothingRisky { path });
    }
    let texts = parsed.tickets.into_iter();
    Ok(Some(Labelled {
        texts: texts
            .map(|ticket| (ticket.text.into(), ticket.risky))
            .collect(),
        bounds: settings.bounds(),
    }))
}

/// A whole file, if it is one and not too large.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut lines = Vec::new();
    let file = fs::File::open(path)?;
    file.take(EXAMPLES_BYTES_MAX + 1).read_to_end(&mut lines)?;
    if lines.len() as u64 > EXAMPLES_BYTES_MAX {
        let why = format!("it is larger than {EXAMPLES_BYTES_MAX} bytes");
        return Err(io::Error::other(why));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn examples_are_embedded_once_and_a_failure_loses_none() {
        let labelled = examples(&Risk::default())
            .expect("a test reads this file")
            .expect("on by default");
        let count = labelled.texts.len();
        let limits = EmbedLimits {
            batch_rows_max: 4,
            ..EmbedLimits::default()
        };
        let examples = Examples::new(labelled, &limits);
        let calls = AtomicUsize::new(0);
        let embed = |_| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                if call == 10 {
                    return Err("away");
                }
                Ok(Arc::from([1.0]))
            }
        };
        assert_eq!(examples.resembled(&[1.0], embed).await, Err("away"));
        for _ in 0..3 {
            // As near to the risky ones as to the others.
            assert_eq!(examples.resembled(&[1.0], embed).await, Ok(None));
        }
        // The tenth failed, and of those asked with it up to three were asked again.
        let calls = calls.load(Ordering::Relaxed);
        assert!((count + 1..=count + 4).contains(&calls), "{calls}");
    }
}
