//! The episodes of one tenant and agent type.

use std::collections::BTreeMap;

use colony_core::{
    cycle::{Neighbour, Recall},
    id::TaskId,
    memory::{Experience, Near, dot},
};
use colony_store::Episode;

use super::{Settings, TeachError};

/// Characters of an episode's text that are kept for prompts and explanations.
const TEXT_CHARS_MAX: usize = 200;
/// Nearest episodes handed to the law. It looks at 16 voters and the closest three of the best label;
/// 512 hold these unless a label is rarer than one in a hundred of its own neighbourhood.
const NEAR_MAX: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    dimensions: usize,
    /// Row-major, one row an episode.
    vectors: Vec<f32>,
    episodes: Vec<Kept>,
    by_task: BTreeMap<TaskId, usize>,
    experience: Experience,
    /// Episodes up to this number are in `experience` already: it was restored.
    resumed: u64,
    last: u64,
    lessons: u64,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    task: TaskId,
    label: String,
    text: String,
}

impl Shelf {
    pub(super) fn len(&self) -> usize {
        self.episodes.len()
    }

    pub(super) const fn lessons(&self) -> u64 {
        self.lessons
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    pub(super) const fn experience(&self) -> &Experience {
        &self.experience
    }

    /// Takes a former experience over; episodes up to `last` will only be put on the shelf.
    pub(super) fn resume(&mut self, experience: Experience, last: u64) {
        self.experience = experience;
        self.resumed = last;
    }

    pub(super) fn check(&self, vector: &[f32]) -> Result<(), TeachError> {
        if self.dimensions != 0 && vector.len() != self.dimensions {
            return Err(TeachError::WrongLength {
                given: vector.len(),
                known: self.dimensions,
            });
        }
        Ok(())
    }

    fn row(&self, place: usize) -> &[f32] {
        &self.vectors[place * self.dimensions..(place + 1) * self.dimensions]
    }

    /// Similarities to the nearest episodes, nearest first: (place, similarity).
    fn nearest(&self, query: &[f32]) -> Vec<(usize, f64)> {
        if query.len() != self.dimensions {
            return Vec::new();
        }
        let rows = self.vectors.chunks_exact(self.dimensions.max(1));
        let mut near: Vec<(usize, f64)> = rows
            .enumerate()
            .map(|(place, row)| (place, f64::from(dot(row, query))))
            .collect();
        let order = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if near.len() > NEAR_MAX {
            near.select_nth_unstable_by(NEAR_MAX, order);
            near.truncate(NEAR_MAX);
        }
        near.sort_unstable_by(order);
        near
    }

    pub(super) fn recall(&self, query: &[f32], settings: &Settings) -> Recall {
        let nearest = self.nearest(query);
        let near = labelled(&self.episodes, &nearest);
        let recollection = self.experience.recollect(query, &near, &settings.rule);
        let shown = nearest
            .iter()
            .take(settings.shown)
            .map(|(place, similarity)| {
                let kept = &self.episodes[*place];
                Neighbour {
                    episode: kept.number,
                    label: kept.label.clone(),
                    similarity: *similarity,
                    text: kept.text.clone(),
                }
            });
        Recall {
            neighbours: shown.collect(),
            recollection: Some(recollection),
        }
    }

    /// Puts an episode on the shelf and learns from it; replaces the task's former one.
    pub(super) fn put(&mut self, episode: Episode, settings: &Settings) -> Result<(), TeachError> {
        self.check(&episode.vector)?;
        if self.dimensions == 0 {
            self.dimensions = episode.vector.len();
        }
        if let Some(place) = self.by_task.get(&episode.task).copied() {
            self.remove(place);
        } else if self.episodes.len() >= settings.episodes_max {
            let oldest = self
                .episodes
                .iter()
                .enumerate()
                .min_by_key(|(_, kept)| kept.number);
            if let Some(place) = oldest.map(|(place, _)| place) {
                self.remove(place);
            }
        }
        if episode.number > self.resumed {
            let nearest = self.nearest(&episode.vector);
            let near = labelled(&self.episodes, &nearest);
            let taught =
                self.experience
                    .teach(&episode.vector, &near, &episode.label, &settings.rule);
            taught.map_err(|_| TeachError::WrongLength {
                given: episode.vector.len(),
                known: self.dimensions,
            })?;
        }
        self.lessons += 1;
        self.last = self.last.max(episode.number);
        self.by_task.insert(episode.task, self.episodes.len());
        self.vectors.extend_from_slice(&episode.vector);
        self.episodes.push(Kept {
            number: episode.number,
            task: episode.task,
            label: episode.label,
            text: episode.text.chars().take(TEXT_CHARS_MAX).collect(),
        });
        Ok(())
    }

    /// Takes an episode off the shelf; the last one moves into its place.
    fn remove(&mut self, place: usize) {
        let row = self.row(place).to_vec();
        let kept = self.episodes.swap_remove(place);
        self.experience.untie(&row, &kept.label);
        self.by_task.remove(&kept.task);
        let last = self.episodes.len();
        let (start, end) = (place * self.dimensions, last * self.dimensions);
        self.vectors.copy_within(end.., start);
        self.vectors.truncate(end);
        if let Some(moved) = self.episodes.get(place) {
            self.by_task.insert(moved.task, place);
        }
    }
}

fn labelled<'a>(episodes: &'a [Kept], nearest: &[(usize, f64)]) -> Vec<Near<'a>> {
    let near = |(place, similarity): &(usize, f64)| Near {
        label: &episodes[*place].label,
        similarity: *similarity,
    };
    nearest.iter().map(near).collect()
}
