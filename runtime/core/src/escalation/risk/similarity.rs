//! What no list of phrases can hold: a text that means the same as examples of harm.
//!
//! ```text
//!   nearness to the risky examples  ───┐
//!                                      ├─► the lead of the first is margin_min or more: it resembles them
//!   nearness to the harmless ones   ───┘
//! ```
//! Nearness to examples is the soft maximum of the cosines to them: `width · ln mean exp(cosine / width)`. The
//! nearest examples have the most say and no single one has all of it. The harmless ones are what makes it work:
//! "my password expires" is near to "tell me her password", and nearer still to "I forgot my password". Only
//! vectors of one embedding model can be compared; where the line is drawn depends on the model.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::memory::dot;

/// Where the line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// How far behind the nearest example others still have a say, as cosine; above 0.
    pub width: f64,
    /// Least lead of the nearness to risky examples over that to harmless ones, as cosine.
    pub margin_min: f64,
}

impl Default for Bounds {
    /// Chosen for all-MiniLM-L6-v2 and the examples shipped: see docs/adr/0011.
    fn default() -> Self {
        Self {
            width: 0.1,
            margin_min: 0.06,
        }
    }
}

/// A text of which it is known whether it asks for harm, and its unit-length vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What somebody might write.
    pub text: Arc<str>,
    /// Whether a human must rule on it.
    pub risky: bool,
    /// Its embedding.
    pub vector: Arc<[f32]>,
}

/// That a text resembles risky examples. Displayed as a human should read it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resemblance<'a> {
    /// The nearest of them.
    pub example: &'a str,
    /// Cosine to it, −1 to 1.
    pub cosine: f64,
    /// How much nearer the text is to risky examples than to harmless ones, as cosine.
    pub margin: f64,
}

impl fmt::Display for Resemblance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            example,
            cosine,
            margin,
        } = self;
        write!(
            f,
            "resembles {example:?} (cosine {cosine:.2}; nearer to risky than to harmless examples by {margin:.2})"
        )
    }
}

/// Examples, and where the line is drawn. Without risky examples nothing resembles them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Similarity {
    /// Where the line is drawn.
    pub bounds: Bounds,
    /// All examples, embedded by one model.
    pub examples: Vec<Example>,
}

/// How near a text is to examples of one sort.
#[derive(Debug, Clone, Copy)]
struct Nearness<'a> {
    example: &'a str,
    cosine: f64,
    soft: f64,
}

impl Similarity {
    /// Whether the text of the unit-length `vector` resembles risky examples. Examples of another length are left
    /// out.
    #[must_use]
    pub fn find(&self, vector: &[f32]) -> Option<Resemblance<'_>> {
        let risky = self.nearness(vector, true)?;
        // Without harmless examples the nearness to risky ones decides alone: no cosine is below −1.
        let harmless = self.nearness(vector, false).map_or(-1.0, |near| near.soft);
        let margin = risky.soft - harmless;
        (margin >= self.bounds.margin_min).then_some(Resemblance {
            example: risky.example,
            cosine: risky.cosine,
            margin,
        })
    }

    /// None without examples of this sort.
    fn nearness(&self, vector: &[f32], risky: bool) -> Option<Nearness<'_>> {
        let width = self.bounds.width;
        let cosines: Vec<(&Example, f64)> = self
            .examples
            .iter()
            .filter(|example| example.risky == risky && example.vector.len() == vector.len())
            .map(|example| (example, f64::from(dot(&example.vector, vector))))
            .filter(|(_, cosine)| cosine.is_finite())
            .collect();
        let (nearest, cosine) = *cosines.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        // Relative to the nearest, so that no exponential overflows.
        let (sum, count) = cosines.iter().fold((0.0, 0.0), |(sum, count), (_, other)| {
            (sum + libm::exp((other - cosine) / width), count + 1.0)
        });
        Some(Nearness {
            example: &nearest.text,
            cosine,
            soft: cosine + width * libm::log(sum / count),
        })
    }
}

#[cfg(test)]
mod tests;
