//! What is ordinary: the familiarity of the queries whose label was learned lately.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Scores kept; older ones are forgotten. At 512 the share asked about wavers by about one point.
pub(super) const SCORES_MAX: usize = 512;
/// Scores below which nothing can be called ordinary.
const SCORES_MIN: usize = 24;

/// The last [`SCORES_MAX`] scores, which tell how unusual a new one is.
///
/// Only the scores of what turned out to be in scope belong here, whether a human was asked or not: the
/// share of them at or below a score is then the share of ordinary queries lost by drawing the line there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<f64>", into = "Vec<f64>")]
pub(super) struct Calibrator {
    /// Oldest first, finite.
    scores: VecDeque<f64>,
}

impl Calibrator {
    /// Keeps `score` and forgets the oldest one beyond the bound. Not-a-number and infinities are left out.
    pub(super) fn observe(&mut self, score: f64) {
        if !score.is_finite() {
            return;
        }
        if self.scores.len() >= SCORES_MAX {
            self.scores.pop_front();
        }
        self.scores.push_back(score);
    }

    /// The share of the kept scores that are at or below `score`, 0 to 1 (a conformal p-value); 0 while there
    /// are fewer than [`SCORES_MIN`], and for not-a-number.
    pub(super) fn typicality(&self, score: f64) -> f64 {
        if self.scores.len() < SCORES_MIN {
            return 0.0;
        }
        let below = self.scores.iter().filter(|&&kept| kept <= score).count();
        share(below, self.scores.len() + 1)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below SCORES_MAX")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

impl From<Vec<f64>> for Calibrator {
    fn from(scores: Vec<f64>) -> Self {
        let mut calibrator = Self::default();
        for score in scores {
            calibrator.observe(score);
        }
        calibrator
    }
}

impl From<Calibrator> for Vec<f64> {
    fn from(calibrator: Calibrator) -> Self {
        calibrator.scores.into()
    }
}
