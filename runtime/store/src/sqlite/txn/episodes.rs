//! What was learned: a stream in which the last episode of a task counts.
//!
//! An episode is learned at one number and may be forgotten at a later one; both are places in the
//! stream of its tenant and agent type, and its row stands at both. A reader is told of all places, so
//! that it undoes what it has done, and does again what was undone since.

use colony_core::id::TaskId;
use rusqlite::params;

use super::{Done, WriteTxn};
use crate::{
    codec,
    ledger::Episode,
    sqlite::{
        row,
        tables::{EPISODES, columns, insert, select},
        value::{Id, Number},
    },
};

impl WriteTxn<'_> {
    /// Each at a number of its own; what its task taught before is forgotten.
    pub(in crate::sqlite) fn learn(&mut self, episodes: &[Episode]) -> Done<Vec<u64>> {
        let mut numbers = Vec::with_capacity(episodes.len());
        for episode in episodes {
            if let Some(before) = self.last_episode(episode.task)? {
                if before.teaches_same(episode) {
                    numbers.push(before.number);
                    continue;
                }
                self.forget(&before)?;
            }
            self.counters.episodes += 1;
            let number = self.counters.episodes;
            self.write_episode(
                insert!(episodes, "?, ?, ?, ?, ?, ?, ?, ?"),
                &Episode {
                    number,
                    at: self.now,
                    ..episode.clone()
                },
                None,
            )?;
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// The live episode of a task. One that cannot be read is set aside and counts no more.
    fn last_episode(&mut self, task: TaskId) -> Done<Option<Episode>> {
        let sql = concat!(
            select!(episodes),
            " INDEXED BY episodes_task WHERE task = ?1 AND forgotten IS NULL
              ORDER BY number DESC LIMIT 1"
        );
        match EPISODES.one(self.db, sql, [Id::from(task)], row::episode)? {
            Some(Ok((episode, _))) => Ok(Some(episode)),
            Some(Err(damage)) => {
                self.note(&damage)?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Keeps of it what a reader needs to do and undo it.
    fn forget(&mut self, episode: &Episode) -> Done<()> {
        self.counters.episodes += 1;
        let forgotten = self.counters.episodes;
        let bare = Episode {
            text: String::new(),
            ..episode.clone()
        };
        let sql = "UPDATE episodes SET forgotten = ?6, body = ?7, checksum = ?8 WHERE number = ?1";
        self.write_episode(sql, &bare, Some(forgotten))
    }

    fn write_episode(&mut self, sql: &str, episode: &Episode, forgotten: Option<u64>) -> Done<()> {
        let row = params![
            Number(episode.number),
            Id::from(episode.task),
            episode.tenant.as_str(),
            episode.agent_type.as_str(),
            Number::from(episode.at),
            forgotten.map(Number),
            codec::episode(&episode.text, &episode.label, &episode.vector)
        ];
        self.put(&EPISODES, sql, row)?;
        Ok(())
    }

    /// The numbers under which what a repeated request teaches is known.
    pub(super) fn numbers_of(&mut self, episodes: &[Episode]) -> Done<Vec<u64>> {
        let mut numbers = Vec::with_capacity(episodes.len());
        for episode in episodes {
            let last = self.last_episode(episode.task)?;
            numbers.extend(last.map(|episode| episode.number));
        }
        Ok(numbers)
    }
}
