//! What the labels look like: one centroid each, and how close its members usually are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Lessons after which a label's usual closeness follows the newest ones only.
const FORGET_AFTER: f64 = 32.0;
/// Lessons of its own at which a label's usual closeness counts as much as that of all labels.
const SHRINK: f64 = 4.0;

/// A vector that cannot be compared with those learned before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a vector of {got} numbers cannot be learned: this memory holds vectors of {want}")]
pub struct WrongLength {
    /// Its length.
    pub got: usize,
    /// The length of those learned.
    pub want: usize,
}

/// What one label looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Prototype {
    /// Sum of its members: their centroid but for the length.
    sum: Vec<f64>,
    /// Members.
    count: u64,
    /// Running mean of the cosine of each new member to the centroid of those before it.
    closeness: f64,
    /// Weight of that mean: lessons it is made of, at most [`FORGET_AFTER`].
    lessons: f64,
}

impl Prototype {
    fn new(length: usize) -> Self {
        Self {
            sum: vec![0.0; length],
            count: 0,
            closeness: 0.0,
            lessons: 0.0,
        }
    }

    /// Cosine of the unit-length `query` to the centroid, −1 to 1; 0 where it has no direction or the
    /// lengths differ.
    fn cosine(&self, query: &[f32]) -> f64 {
        if query.len() != self.sum.len() {
            return 0.0;
        }
        let (mut dot, mut square) = (0.0, 0.0);
        for (sum, q) in self.sum.iter().zip(query) {
            dot += sum * f64::from(*q);
            square += sum * sum;
        }
        let cosine = dot / libm::sqrt(square);
        if cosine.is_finite() {
            cosine.clamp(-1.0, 1.0)
        } else {
            0.0
        }
    }
}

/// What all labels look like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Prototypes {
    by_label: BTreeMap<String, Prototype>,
    /// Sum of the closeness of all lessons but each label's first.
    closeness: f64,
    /// How many these are.
    lessons: f64,
}

impl Prototypes {
    /// What `label` looks like, if an episode was learned for it.
    pub(super) fn get(&self, label: &str) -> Option<&Prototype> {
        self.by_label.get(label)
    }

    /// Their names, in order.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        self.by_label.keys().map(String::as_str)
    }

    /// Cosine of `query` to each label's centroid, in label order.
    pub(super) fn cosines(&self, query: &[f32]) -> Vec<(&str, f64)> {
        let labels = self.by_label.iter();
        labels
            .map(|(label, p)| (label.as_str(), p.cosine(query)))
            .collect()
    }

    /// The closeness to expect of a member of `label`: its own mean, drawn to that of all labels while
    /// it has few lessons. 0 before any label has two episodes.
    pub(super) fn typical(&self, label: &str) -> f64 {
        let all = if self.lessons > 0.0 {
            self.closeness / self.lessons
        } else {
            0.0
        };
        let (own, lessons) = self
            .get(label)
            .map_or((0.0, 0.0), |p| (p.closeness, p.lessons));
        (own * lessons + all * SHRINK) / (lessons + SHRINK)
    }

    /// Adds a member to `label`.
    pub(super) fn learn(&mut self, query: &[f32], label: &str) -> Result<(), WrongLength> {
        let want = self
            .by_label
            .values()
            .next()
            .map_or(query.len(), |p| p.sum.len());
        if query.len() != want {
            let got = query.len();
            return Err(WrongLength { got, want });
        }
        let new = || Prototype::new(query.len());
        let prototype = self.by_label.entry(label.to_owned()).or_insert_with(new);
        if prototype.count > 0 {
            let closeness = prototype.cosine(query);
            prototype.lessons = (prototype.lessons + 1.0).min(FORGET_AFTER);
            prototype.closeness += (closeness - prototype.closeness) / prototype.lessons;
            self.closeness += closeness;
            self.lessons += 1.0;
        }
        for (sum, q) in prototype.sum.iter_mut().zip(query) {
            *sum += f64::from(*q);
        }
        prototype.count += 1;
        Ok(())
    }

    /// Takes a member from `label`; its past part in what is usual stays. Nothing happens where there is
    /// no such label or the lengths differ.
    pub(super) fn unlearn(&mut self, query: &[f32], label: &str) {
        let Some(prototype) = self.by_label.get_mut(label) else {
            return;
        };
        if prototype.sum.len() != query.len() {
            return;
        }
        for (sum, q) in prototype.sum.iter_mut().zip(query) {
            *sum -= f64::from(*q);
        }
        prototype.count = prototype.count.saturating_sub(1);
        if prototype.count == 0 {
            self.by_label.remove(label);
        }
    }
}
