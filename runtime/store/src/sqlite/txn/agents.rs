//! Agents as data.

use colony_core::id::AgentId;
use rusqlite::params;

use super::{Done, WriteTxn};
use crate::{
    ledger::Agent,
    sqlite::{
        row,
        tables::{AGENTS, columns, select},
        value::Number,
    },
};

impl WriteTxn<'_> {
    /// Those that were not saved: somebody else has saved them since.
    pub(in crate::sqlite) fn save_agents(&mut self, agents: &[Agent]) -> Done<Vec<AgentId>> {
        let mut refused = Vec::new();
        for agent in agents {
            let known = self.agent(&agent.id)?;
            match agent.saved_over(known.as_ref()) {
                Some(saved) => self.write_agent(&saved)?,
                None => refused.push(agent.id.clone()),
            }
        }
        Ok(refused)
    }

    /// A row that cannot be read is none: it is not listed either, so nobody shows its revision.
    fn agent(&mut self, id: &AgentId) -> Done<Option<Agent>> {
        let sql = concat!(select!(agents), " WHERE agent_type = ?1 AND ordinal = ?2");
        let key = params![id.agent_type.as_str(), id.ordinal];
        match AGENTS.one(self.db, sql, key, row::agent)? {
            Some(Ok(agent)) => Ok(Some(agent)),
            Some(Err(damage)) => {
                self.note(&damage)?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn write_agent(&mut self, agent: &Agent) -> Done<()> {
        let track = agent.track;
        let row = params![
            agent.id.agent_type.as_str(),
            agent.id.ordinal,
            Number(agent.revision),
            agent.version,
            Number(track.tasks),
            Number(track.successes),
            Number(track.escalations),
            Number(track.crashes),
            Number::from(agent.updated_at)
        ];
        let sql = concat!(
            "INSERT OR REPLACE INTO agents (",
            columns!(agents),
            ", checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        );
        self.put(&AGENTS, sql, row)?;
        Ok(())
    }
}
