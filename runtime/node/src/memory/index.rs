//! The episodes of one stream, and the experience made of them.

use std::collections::BTreeMap;

use colony_core::{
    cycle::{Neighbour, Recall},
    memory::{Experience, Near, dot},
    mutant,
};
use colony_store::{Episode, EpisodeChange};
use serde::{Deserialize, Serialize};

use super::{Settings, TeachError};

/// Characters of an episode's text that are kept for prompts and explanations.
const TEXT_CHARS_MAX: usize = 200;
/// Nearest episodes handed to the rules. They look at 16 voters and the closest three of the best label;
/// 512 hold these unless a label is rarer than one in a hundred of its own neighbourhood.
const NEAR_MAX: usize = 512;

/// A pure fold over a stream of episodes: the same changes in the same order give the same index, to the
/// last bit. It holds the newest episodes that count still; the oldest make room for new ones.
#[derive(Debug, Default)]
pub(super) struct EpisodeIndex {
    dimensions: usize,
    /// Row-major, one row an episode.
    vectors: Vec<f32>,
    /// The episodes, in the order of the rows.
    episodes: Vec<StoredEpisode>,
    /// The row of each episode, by its number.
    rows: BTreeMap<u64, usize>,
    experience: Experience,
    /// How far it has followed the stream.
    last: u64,
    /// Changes that no checkpoint holds.
    unsaved: u64,
}

/// An episode without its vector.
#[derive(Debug)]
struct StoredEpisode {
    number: u64,
    label: String,
    text: String,
}

/// What a start needs beside the stream to have the index again as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// How far the index had followed the stream.
    pub(super) last: u64,
    /// Of the episodes up to `last` it held those after this one that still counted: they lie in the
    /// stream, and the older ones had made room.
    pub(super) floor: u64,
    /// What it had learned up to `last`.
    pub(super) experience: Experience,
}

impl EpisodeIndex {
    /// Begins after this place of the stream, with nothing.
    pub(super) fn after(number: u64) -> Self {
        Self {
            last: number,
            ..Self::default()
        }
    }

    /// Begins where a checkpoint was taken; what it held is to be [put back](Self::put_back).
    pub(super) fn resume(checkpoint: Checkpoint) -> Self {
        Self {
            experience: checkpoint.experience,
            ..Self::after(checkpoint.last)
        }
    }

    /// Puts back what a change had done up to the checkpoint: the experience has it already.
    pub(super) fn put_back(
        &mut self,
        change: EpisodeChange,
        settings: &Settings,
    ) -> Result<(), TeachError> {
        match change {
            EpisodeChange::Learned(episode) => {
                self.check(&episode.vector)?;
                if mutant!(C13) {
                    self.make_room(settings);
                }
                self.insert(episode);
            }
            EpisodeChange::Forgotten { episode, .. } => {
                self.remove(episode);
            }
        }
        Ok(())
    }

    /// Follows the stream by one change; one that it has followed already does nothing.
    pub(super) fn apply(
        &mut self,
        change: EpisodeChange,
        settings: &Settings,
    ) -> Result<(), TeachError> {
        if change.number() <= self.last {
            return Ok(());
        }
        self.last = change.number();
        self.unsaved += 1;
        match change {
            EpisodeChange::Learned(episode) => self.learn(episode, settings),
            EpisodeChange::Forgotten { episode, .. } => {
                self.forget(episode);
                Ok(())
            }
        }
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        let oldest = self.rows.keys().next();
        Checkpoint {
            last: self.last,
            floor: oldest.map_or(self.last, |oldest| oldest - 1),
            experience: self.experience.clone(),
        }
    }

    /// So many changes are in a checkpoint now.
    pub(super) fn saved(&mut self, changes: u64) {
        self.unsaved = self.unsaved.saturating_sub(changes);
    }

    pub(super) const fn unsaved(&self) -> u64 {
        self.unsaved
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        self.experience.labels()
    }

    pub(super) fn len(&self) -> usize {
        self.episodes.len()
    }

    /// Whether a vector can be compared with those in the index.
    pub(super) fn check(&self, vector: &[f32]) -> Result<(), TeachError> {
        if self.dimensions != 0 && vector.len() != self.dimensions {
            return Err(TeachError::WrongLength {
                given: vector.len(),
                known: self.dimensions,
            });
        }
        Ok(())
    }

    /// What comes to mind at a vector.
    pub(super) fn recall(&self, query: &[f32], settings: &Settings) -> Recall {
        let nearest = self.nearest(query);
        let near = labelled(&self.episodes, &nearest);
        let verdict = self.experience.judge(query, &near, &settings.rule);
        let shown = nearest
            .iter()
            .take(settings.shown)
            .map(|&(row, similarity)| {
                let episode = &self.episodes[row];
                Neighbour {
                    episode: episode.number,
                    label: episode.label.clone(),
                    similarity,
                    text: episode.text.clone(),
                }
            });
        Recall {
            neighbours: shown.collect(),
            verdict: Some(verdict),
        }
    }

    fn learn(&mut self, episode: Episode, settings: &Settings) -> Result<(), TeachError> {
        self.check(&episode.vector)?;
        self.make_room(settings);
        let nearest = self.nearest(&episode.vector);
        let near = labelled(&self.episodes, &nearest);
        let taught = self
            .experience
            .learn(&episode.vector, &near, &episode.label, &settings.rule);
        taught.map_err(|wrong| TeachError::WrongLength {
            given: wrong.got,
            known: wrong.want,
        })?;
        self.insert(episode);
        Ok(())
    }

    /// The oldest episodes make room for a new one.
    fn make_room(&mut self, settings: &Settings) {
        while self.len() >= settings.episodes_max.max(1)
            && let Some(oldest) = self.rows.keys().next().copied()
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some((episode, vector)) = self.remove(number) {
            self.experience.unlearn(&vector, &episode.label);
        }
    }

    fn insert(&mut self, episode: Episode) {
        self.dimensions = episode.vector.len();
        self.rows.insert(episode.number, self.episodes.len());
        self.vectors.extend_from_slice(&episode.vector);
        self.episodes.push(StoredEpisode {
            number: episode.number,
            label: episode.label,
            text: episode.text.chars().take(TEXT_CHARS_MAX).collect(),
        });
    }

    /// Takes an episode out, if it is there; the last row moves into its place.
    fn remove(&mut self, number: u64) -> Option<(StoredEpisode, Vec<f32>)> {
        let row = self.rows.remove(&number)?;
        let episode = self.episodes.swap_remove(row);
        let (start, end) = (row * self.dimensions, self.episodes.len() * self.dimensions);
        let vector = self.vectors[start..start + self.dimensions].to_vec();
        self.vectors.copy_within(end.., start);
        self.vectors.truncate(end);
        if let Some(moved) = self.episodes.get(row) {
            self.rows.insert(moved.number, row);
        }
        Some((episode, vector))
    }

    /// The nearest episodes, nearest first and equal ones by number: (row, similarity). Rows are not in
    /// the order of their numbers, and may lie elsewhere after a restart.
    fn nearest(&self, query: &[f32]) -> Vec<(usize, f64)> {
        if query.len() != self.dimensions {
            return Vec::new();
        }
        let rows = self.vectors.chunks_exact(self.dimensions.max(1));
        let similarity = |row: &[f32]| f64::from(dot(row, query));
        let mut near: Vec<_> = rows.map(similarity).enumerate().collect();
        let number = |row: usize| self.episodes[row].number;
        let order = |a: &(usize, f64), b: &(usize, f64)| {
            b.1.total_cmp(&a.1)
                .then_with(|| number(a.0).cmp(&number(b.0)))
        };
        if near.len() > NEAR_MAX {
            near.select_nth_unstable_by(NEAR_MAX, order);
            near.truncate(NEAR_MAX);
        }
        near.sort_unstable_by(order);
        near
    }
}

fn labelled<'a>(episodes: &'a [StoredEpisode], nearest: &[(usize, f64)]) -> Vec<Near<'a>> {
    let near = |&(row, similarity): &(usize, f64)| Near {
        label: &episodes[row].label,
        similarity,
    };
    nearest.iter().map(near).collect()
}
