//! What writes to everything that is no task.

use rusqlite::params;

use super::{
    pen::Pen,
    row::{Id, Number, Stop},
};
use crate::{
    blob,
    ledger::{Agent, Episode},
};

impl Pen<'_> {
    pub(super) fn learn(&mut self, episodes: &[Episode]) -> Result<Vec<u64>, Stop> {
        let mut numbers = Vec::with_capacity(episodes.len());
        for episode in episodes {
            self.wrote = true;
            let number: Number = self
                .db
                .prepare_cached(
                    "INSERT OR REPLACE INTO episodes (task, tenant, type, at_us, body)
                     VALUES (?1, ?2, ?3, ?4, ?5) RETURNING number",
                )?
                .query_row(
                    params![
                        Id::from(episode.task),
                        episode.tenant.as_str(),
                        episode.agent_type.as_str(),
                        Number::from(episode.at),
                        blob::episode(&episode.text, &episode.label, &episode.vector)
                    ],
                    |row| row.get(0),
                )?;
            numbers.push(number.0);
        }
        Ok(numbers)
    }

    pub(super) fn save_agents(&mut self, agents: &[Agent]) -> Result<(), Stop> {
        for agent in agents {
            let track = agent.track;
            self.write(
                "INSERT OR REPLACE INTO agents (type, ordinal, version, tasks, successes,
                 escalations, crashes, updated_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    agent.id.agent_type.as_str(),
                    agent.id.ordinal,
                    agent.version,
                    Number(track.tasks),
                    Number(track.successes),
                    Number(track.escalations),
                    Number(track.crashes),
                    Number::from(agent.updated_at)
                ],
            )?;
        }
        Ok(())
    }

    pub(super) fn save_snapshot(&mut self, name: &str, blob: &[u8]) -> Result<(), Stop> {
        self.write(
            "INSERT OR REPLACE INTO snapshots (name, body) VALUES (?1, ?2)",
            params![name, blob],
        )?;
        Ok(())
    }
}
