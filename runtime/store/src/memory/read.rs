//! What can be read from the tables in memory.

use std::{collections::BTreeMap, sync::Arc};

use colony_core::{
    id::{ApprovalId, TaskId},
    journal::Entry,
    ledger::Record,
    property::check,
    task::State,
};
use uuid::Uuid;

use super::{
    tables::{ApprovalRow, Tables},
    tasks::TaskRow,
};
use crate::{
    ledger::{
        Agent, Approval, ApprovalFilter, Change, Counts, Cursor, EpisodeChange, EpisodeStream,
        LedgerError, OutboxFilter, Page, Posted, Snapshot, SnapshotKey, TaskFilter, Verification,
    },
    limits::{PageFiller, approval_bytes, change_bytes, message_bytes, record_bytes, size},
    property::{conservation, gapless},
};

fn record(row: &TaskRow) -> Record {
    Record {
        head: row.head.clone(),
        spec: Arc::clone(&row.spec),
    }
}

fn approval(row: &ApprovalRow) -> Approval {
    Approval {
        question: row.question.clone(),
        task: row.task,
        spec: Arc::clone(&row.spec),
        asked_at: row.asked_at,
        state: row.state.clone(),
    }
}

impl Tables {
    pub(super) fn get(&self, id: TaskId) -> Result<Record, LedgerError> {
        let row = self.tasks.get(id).ok_or(LedgerError::NoTask(id))?;
        Ok(record(row))
    }

    pub(super) fn journal(&self, id: TaskId) -> Result<Vec<Entry>, LedgerError> {
        let row = self.tasks.get(id).ok_or(LedgerError::NoTask(id))?;
        Ok(row.journal.clone())
    }

    pub(super) fn list(&self, filter: &TaskFilter) -> Page<Record> {
        let before = filter.before.unwrap_or(TaskId(Uuid::max()));
        let fits = |row: &TaskRow| {
            let (tenant, agent_type) = (&filter.tenant, &filter.agent_type);
            (filter.states.is_empty() || filter.states.contains(&row.head.state))
                && tenant.as_ref().is_none_or(|t| row.spec.tenant == *t)
                && agent_type
                    .as_ref()
                    .is_none_or(|t| row.spec.agent_type == *t)
                && filter
                    .id_prefix
                    .is_none_or(|prefix| prefix.begins(row.head.id.0))
        };
        let mut page = PageFiller::new(filter.limit);
        for row in self.tasks.newest_first(before) {
            if !fits(row) {
                continue;
            }
            let record = record(row);
            let bytes = record_bytes(&record);
            if !page.put(record, bytes) {
                break;
            }
        }
        page.finish()
    }

    pub(super) fn approval(&self, id: ApprovalId) -> Result<Approval, LedgerError> {
        let row = self.approvals.get(&id).ok_or(LedgerError::NoApproval(id))?;
        Ok(approval(row))
    }

    pub(super) fn approvals(&self, filter: &ApprovalFilter) -> Page<Approval> {
        let mut page = PageFiller::new(filter.limit);
        for (id, row) in &self.approvals {
            if filter.after.is_some_and(|after| *id <= after) {
                continue;
            }
            let approval = approval(row);
            if !filter.matches(&approval) {
                continue;
            }
            let bytes = approval_bytes(&approval);
            if !page.put(approval, bytes) {
                break;
            }
        }
        page.finish()
    }

    pub(super) fn counts(&self, syncs: u64) -> Counts {
        let counted = |state| (state, self.log.count(state));
        let counts = Counts {
            accepted: self.log.accepted,
            by_state: State::ALL.into_iter().map(counted).collect(),
            syncs,
            quarantined: 0,
        };
        check(|| conservation(&counts));
        counts
    }

    pub(super) fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        let newest = self.log.cursor;
        let oldest = self.log.changes.front().map_or(newest + 1, |c| c.cursor);
        if after > newest || after.saturating_add(1) < oldest {
            return Err(LedgerError::OutOfRange {
                cursor: after,
                oldest,
                newest,
            });
        }
        let skip = usize::try_from(after + 1 - oldest).unwrap_or(usize::MAX);
        let changes = self.log.changes.iter().skip(skip).take(size(limit));
        let changes: Vec<_> = changes.cloned().collect();
        check(|| gapless(after, &changes));
        Ok(changes)
    }

    pub(super) fn outbox(&self, filter: &OutboxFilter) -> Page<Posted> {
        let mut page = PageFiller::new(filter.limit);
        let after = self.outbox.range(filter.after.saturating_add(1)..);
        for (_, posted) in after {
            let to = filter.destination.as_ref();
            if to.is_some_and(|to| *to != posted.message.destination)
                || (posted.acknowledged_at.is_some() && !filter.acknowledged_too)
            {
                continue;
            }
            if !page.put(posted.clone(), message_bytes(&posted.message)) {
                break;
            }
        }
        page.finish()
    }

    pub(super) fn episode_streams(&self) -> Vec<EpisodeStream> {
        self.episodes.keys().cloned().collect()
    }

    pub(super) fn episodes(
        &self,
        stream: &EpisodeStream,
        after: u64,
        limit: u32,
    ) -> Page<EpisodeChange> {
        let mut page = PageFiller::new(limit);
        let changes = self.episodes.get(stream);
        for (_, change) in changes
            .into_iter()
            .flat_map(|changes| changes.range(after.saturating_add(1)..))
        {
            if !page.put(change.clone(), change_bytes(change)) {
                break;
            }
        }
        page.finish()
    }

    pub(super) fn episodes_floor(&self, stream: &EpisodeStream, live: u32) -> u64 {
        let changes = self.episodes.get(stream);
        let newest_first = changes
            .into_iter()
            .flat_map(BTreeMap::values)
            .rev()
            .filter_map(|change| match change {
                EpisodeChange::Learned(episode) => Some((episode.task, episode.number)),
                EpisodeChange::Forgotten { .. } => None,
            });
        let counts = |(task, number): &(TaskId, u64)| {
            let last = self.episode_of.get(task);
            last.is_some_and(|(_, last)| last == number)
        };
        let beyond = newest_first.filter(counts).nth(size(live));
        beyond.map_or(0, |(_, number)| number)
    }

    pub(super) fn agents(&self) -> Vec<Agent> {
        self.agents.values().cloned().collect()
    }

    pub(super) fn snapshot(&self, key: &SnapshotKey) -> Option<Snapshot> {
        self.snapshots.get(key).cloned()
    }

    /// Nothing in memory rots; what is left to compare is the counters.
    pub(super) fn verify(&self) -> Verification {
        let tables = [
            ("tasks", self.tasks.len()),
            ("approvals", self.approvals.len()),
            ("outbox", self.outbox.len()),
            ("episodes", self.episodes.values().map(BTreeMap::len).sum()),
            ("agents", self.agents.len()),
            ("snapshots", self.snapshots.len()),
            ("nodes", self.nodes.len()),
        ];
        let mut problems = Vec::new();
        if let Err(broken) = conservation(&self.counts(0)) {
            problems.push(broken.to_string());
        }
        let mut recount: BTreeMap<State, u64> = BTreeMap::new();
        for row in self.tasks.newest_first(TaskId(Uuid::max())) {
            *recount.entry(row.head.state).or_default() += 1;
        }
        // Ended tasks may have been forgotten.
        for state in State::ALL.into_iter().filter(|state| !state.is_final()) {
            let (counted, there) = (
                self.log.count(state),
                recount.get(&state).copied().unwrap_or(0),
            );
            if counted != there {
                problems.push(format!("{counted} tasks are counted {state}, {there} are"));
            }
        }
        Verification {
            rows: tables
                .into_iter()
                .map(|(name, rows)| (name.to_owned(), rows as u64))
                .collect(),
            quarantined: Vec::new(),
            problems,
        }
    }
}
