//! The rules of memory: what is known, how sure, and whether it is new.
//!
//! ```text
//!   similarities to solved episodes ─┐
//!                                    ├─► affinity of each label ─► best label, its share ─┐
//!   similarity to label centroids ───┘                          └► familiarity            ├─► confidence
//!                                                                    │                    │   certainty
//!   familiarity of what turned out in scope ─► calibrator ───────────┴─► typicality ──────┘
//! ```
//! A label is near when its closest episodes are near (soft nearest neighbour) and when its centroid is;
//! the softmax of these affinities is the probability of each label, *given* that the query is of a kind
//! seen before. Whether it is, is a second question: its familiarity is compared with that of the queries
//! whose label was learned lately. The share of these that were no more familiar (a conformal p-value) is
//! its typicality, so that a fixed limit asks a human about a fixed share of ordinary queries, whatever
//! the data.

mod calibrator;
mod prototype;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use calibrator::Calibrator;
use prototype::Prototypes;
pub use prototype::WrongLength;

/// How fast an episode's say falls with its distance behind the nearest one, as cosine.
const VOTE_WIDTH: f64 = 0.05;
/// The say of a label without an episode among the nearest, relative to the nearest episode's.
const VOTE_FLOOR: f64 = 0.01;
/// Affinity that multiplies a label's odds by e.
const SHARE_WIDTH: f64 = 0.1;
/// Episodes of the best label whose mean similarity counts for familiarity.
const CLOSEST: usize = 3;
/// Weight of that mean in familiarity, beside the centroid's 1.
const CLOSEST_WEIGHT: f64 = 0.5;
/// Weight of the best label's share in familiarity.
const SHARE_WEIGHT: f64 = 0.1;
/// Typicality at which confidence is half the share: about the prior odds of something new.
const TYPICALITY_HALF: f64 = 0.01;
/// Candidates named at most.
const CANDIDATES_MAX: usize = 4;

/// Labels that say "none of the labels", in lower case without separators.
const OUT_OF_SCOPE: [&str; 8] = [
    "oos",
    "ood",
    "outofscope",
    "outofdomain",
    "none",
    "null",
    "unknown",
    "nomatch",
];

/// Whether `label` says that the query belongs to no label: `oos`, `out_of_scope`, `Out-of-scope`, …
#[must_use]
pub fn is_out_of_scope(label: &str) -> bool {
    let letters = label.chars().filter(|c| c.is_alphanumeric());
    let folded: String = letters.flat_map(char::to_lowercase).collect();
    OUT_OF_SCOPE.contains(&folded.as_str())
}

/// An episode near the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near<'a> {
    /// The label learned for it.
    pub label: &'a str,
    /// Cosine similarity to the query, −1 to 1.
    pub similarity: f64,
}

/// Where the lines are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Episodes that vote, 1 or more.
    pub neighbours: usize,
    /// New at this typicality or below, 0 to 1: about the share of ordinary queries that a human sees.
    pub new_at: f64,
    /// Unsure below this share of the best label, 0 to 1.
    pub unsure_below: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            neighbours: 16,
            new_at: 0.055,
            unsure_below: 0.6,
        }
    }
}

/// What to do with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Of a known kind, and one label stands out.
    Sure,
    /// Of a known kind, but several labels fit: worth a second opinion among the candidates.
    Unsure,
    /// Unlike what was learned, or like what belongs to no label: a human should see it.
    New,
}

/// A label that fits, and how well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The label.
    pub label: String,
    /// Its probability if the query is of a known kind, 0 to 1; those of all labels add up to 1.
    pub share: f64,
}

/// What memory makes of a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryVerdict {
    /// Best first, at most four; empty when nothing was learned yet.
    pub candidates: Vec<Candidate>,
    /// How near the query is to the best label, by that label's own standard. Only comparable with
    /// other familiarities of the same memory.
    pub familiarity: f64,
    /// The share of ordinary queries that were no more familiar, 0 to 1; 0 while there are too few to tell.
    pub typicality: f64,
    /// Probability that the best label is right, 0 to 1, that the query is new included.
    pub confidence: f64,
    /// What to do.
    #[serde(alias = "verdict")]
    pub certainty: Certainty,
}

impl MemoryVerdict {
    /// Nothing comes to mind.
    #[must_use]
    pub const fn blank() -> Self {
        Self {
            candidates: Vec::new(),
            familiarity: f64::MIN,
            typicality: 0.0,
            confidence: 0.0,
            certainty: Certainty::New,
        }
    }
}

/// Everything memory knows beside the episodes: bounded by the number of labels.
///
/// It is a function of the lessons in their order. Keep it with the episodes, or build it again by
/// teaching them in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Experience {
    /// What the labels look like.
    prototypes: Prototypes,
    /// How familiar ordinary queries are.
    calibrator: Calibrator,
}

impl Experience {
    /// What comes to mind at the unit-length `query`, with `near` all episodes or the nearest of them,
    /// in any order. Episodes of labels without a prototype and similarities that are not finite are
    /// left out.
    #[must_use]
    pub fn judge(&self, query: &[f32], near: &[Near<'_>], rule: &Rule) -> MemoryVerdict {
        let voters = self.nearest(near, rule.neighbours.max(1));
        let top = voters.first().map_or(0.0, |nearest| nearest.similarity);
        let votes = votes(&voters, top);
        let cosines = self.prototypes.cosines(query);
        let affinity = |(label, cosine): &(&str, f64)| {
            let vote = votes.get(label).copied().unwrap_or(0.0);
            top + VOTE_WIDTH * libm::log(vote + VOTE_FLOOR) + cosine
        };
        let mut ranking: Vec<(&str, f64)> = cosines.iter().map(|c| (c.0, affinity(c))).collect();
        // Ties go to the label that sorts first: the sort is stable and `cosines` is in label order.
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
        let Some(&(best, highest)) = ranking.first() else {
            return MemoryVerdict::blank();
        };
        let odds = |affinity: f64| libm::exp((affinity - highest) / SHARE_WIDTH);
        let total: f64 = ranking.iter().map(|r| odds(r.1)).sum();
        let share = 1.0 / total;

        let cosine = cosines.iter().find(|c| c.0 == best).map_or(0.0, |c| c.1);
        let familiarity = cosine - self.prototypes.typical(best)
            + CLOSEST_WEIGHT * closest_mean(near, best)
            + SHARE_WEIGHT * share;
        let typicality = self.calibrator.typicality(familiarity);

        let candidates = ranking.iter().take(CANDIDATES_MAX).map(|r| Candidate {
            label: r.0.to_owned(),
            share: odds(r.1) / total,
        });
        MemoryVerdict {
            candidates: candidates.collect(),
            familiarity,
            typicality,
            confidence: share * typicality / (typicality + TYPICALITY_HALF),
            certainty: certainty(best, share, typicality, rule),
        }
    }

    /// Learns that `label` is right for `query`; `near` are the episodes without this one.
    ///
    /// # Errors
    /// [`WrongLength`] when `query` is not as long as those learned before; nothing is learned then.
    pub fn learn(
        &mut self,
        query: &[f32],
        near: &[Near<'_>],
        label: &str,
        rule: &Rule,
    ) -> Result<(), WrongLength> {
        // A label's first lesson is new by nature, and what is out of scope should look new.
        let ordinary = self.prototypes.get(label).is_some() && !is_out_of_scope(label);
        let familiarity = ordinary.then(|| self.judge(query, near, rule).familiarity);
        self.prototypes.learn(query, label)?;
        if let Some(score) = familiarity {
            self.calibrator.observe(score);
        }
        Ok(())
    }

    /// The labels that were learned and not taken back, in order.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.prototypes.labels()
    }

    /// Takes a lesson back, as when `query` gets another label.
    pub fn unlearn(&mut self, query: &[f32], label: &str) {
        self.prototypes.unlearn(query, label);
    }

    /// The `count` nearest episodes of known labels, nearest first; equal ones in label order, so that the
    /// order of `near` cannot matter.
    fn nearest<'a>(&self, near: &[Near<'a>], count: usize) -> Vec<Near<'a>> {
        let known =
            |n: &&Near<'_>| n.similarity.is_finite() && self.prototypes.get(n.label).is_some();
        let order = |a: &Near<'_>, b: &Near<'_>| -> Ordering {
            let by_similarity = b.similarity.total_cmp(&a.similarity);
            by_similarity.then_with(|| a.label.cmp(b.label))
        };
        let mut nearest: Vec<Near<'a>> = near.iter().filter(known).copied().collect();
        if count < nearest.len() {
            nearest.select_nth_unstable_by(count, order);
            nearest.truncate(count);
        }
        nearest.sort_unstable_by(order);
        nearest
    }
}

/// Mean similarity of the closest episodes of `label`, or 0 without any.
fn closest_mean(near: &[Near<'_>], label: &str) -> f64 {
    let mut closest: Vec<f64> = Vec::with_capacity(CLOSEST + 1);
    for n in near
        .iter()
        .filter(|n| n.label == label && n.similarity.is_finite())
    {
        let rank = closest.partition_point(|&kept| kept >= n.similarity);
        if rank < CLOSEST {
            closest.insert(rank, n.similarity);
            closest.truncate(CLOSEST);
        }
    }
    let (sum, count) = closest
        .iter()
        .fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

/// The say of each label among the nearest: episodes at `top` count 1, those behind it less.
fn votes<'a>(voters: &[Near<'a>], top: f64) -> BTreeMap<&'a str, f64> {
    let mut votes = BTreeMap::new();
    for voter in voters {
        let say = libm::exp((voter.similarity - top) / VOTE_WIDTH);
        *votes.entry(voter.label).or_insert(0.0) += say;
    }
    votes
}

fn certainty(best: &str, share: f64, typicality: f64, rule: &Rule) -> Certainty {
    if typicality <= rule.new_at || is_out_of_scope(best) {
        Certainty::New
    } else if share < rule.unsure_below {
        Certainty::Unsure
    } else {
        Certainty::Sure
    }
}

/// The dot product of two vectors of one length: the cosine when both have unit length. Sums in eight
/// lanes, in a fixed order, so that the result is the same in every build and fast in all of them.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<8>();
    let (b_lanes, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
