//! What can be read from the book in memory.

use std::sync::Arc;

use colony_core::{
    id::TaskId,
    journal::Entry,
    task::{Record, State},
    unit::Timestamp,
};

use super::book::{Book, Task};
use crate::{
    ledger::{
        Agent, Approval, ApprovalFilter, Change, Counts, Cursor, Episode, LedgerError,
        OutboxRecord, TaskFilter,
    },
    rules,
};

fn record(task: &Task) -> Record {
    Record {
        id: task.id,
        spec: Arc::clone(&task.spec),
        state: task.state,
        fence: task.fence,
        deliveries: task.deliveries,
        agent: task.agent.clone(),
        submitted_at: task.submitted_at,
        updated_at: task.updated_at,
        ending: task.ending.clone(),
    }
}

impl Book {
    pub(super) fn get(&self, id: TaskId) -> Result<Record, LedgerError> {
        self.task(id).map(record).ok_or(LedgerError::NoTask(id))
    }

    pub(super) fn journal(&self, id: TaskId) -> Result<Vec<Entry>, LedgerError> {
        self.task(id)
            .map(|t| t.journal.clone())
            .ok_or(LedgerError::NoTask(id))
    }

    /// Both maps from the newest id down, merged.
    pub(super) fn list(&self, filter: &TaskFilter) -> Vec<Record> {
        let before = filter.before.unwrap_or(TaskId(uuid::Uuid::max()));
        let all = filter.states.is_empty();
        let wanted = |state: State| all || filter.states.contains(&state);
        let live = all || filter.states.iter().any(|s| !s.is_final());
        let finished = all || filter.states.iter().any(|s| s.is_final());
        let fits = |task: &&Task| {
            wanted(task.state)
                && filter
                    .tenant
                    .as_ref()
                    .is_none_or(|t| task.spec.tenant == *t)
                && filter
                    .agent_type
                    .as_ref()
                    .is_none_or(|t| task.spec.agent_type == *t)
        };
        let down = |map: &'_ std::collections::BTreeMap<TaskId, Box<Task>>, take: bool| {
            map.range(..before)
                .rev()
                .take(if take { usize::MAX } else { 0 })
                .map(|(_, t)| &**t)
                .filter(fits)
                .take(rules::page(filter.limit))
                .map(record)
                .collect::<Vec<_>>()
        };
        let mut page = down(&self.live, live);
        page.extend(down(&self.finished, finished));
        page.sort_unstable_by_key(|record| std::cmp::Reverse(record.id));
        page.truncate(rules::page(filter.limit));
        page
    }

    pub(super) fn approvals(&self, filter: &ApprovalFilter) -> Vec<Approval> {
        self.approvals
            .iter()
            .filter(|(id, _)| filter.after.is_none_or(|after| **id > after))
            .map(|(_, asked)| asked)
            .filter(|a| filter.closed_too || !a.closed)
            .filter(|a| filter.tenant.as_ref().is_none_or(|t| a.spec.tenant == *t))
            .take(rules::page(filter.limit))
            .map(|asked| Approval {
                question: asked.question.clone(),
                task: asked.task,
                spec: Arc::clone(&asked.spec),
                asked_at: asked.asked_at,
                decision: asked.decision.clone(),
                closed: asked.closed,
            })
            .collect()
    }

    pub(super) fn counts(&self, syncs: u64) -> Counts {
        Counts {
            accepted: self.log.accepted,
            by_state: self.log.by_state.clone(),
            syncs,
        }
    }

    pub(super) fn changes(&self, after: Cursor, limit: u32) -> Vec<Change> {
        let oldest = self.log.changes.front().map_or(1, |c| c.cursor);
        let skip = (after + 1).saturating_sub(oldest);
        self.log
            .changes
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .take(rules::size(limit))
            .cloned()
            .collect()
    }

    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let after = (
            now.after(std::time::Duration::from_micros(1)),
            TaskId(uuid::Uuid::nil()),
        );
        let first = |set: &std::collections::BTreeSet<(Timestamp, TaskId)>| {
            set.range(after..).next().map(|(at, _)| *at)
        };
        [first(&self.waiting), first(&self.deadlines)]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn outbox(&self, queue: &str, after: u64, limit: u32) -> Vec<(u64, OutboxRecord)> {
        self.outbox
            .range(after.saturating_add(1)..)
            .filter(|(_, record)| record.queue == queue)
            .take(rules::size(limit))
            .map(|(row, record)| (*row, record.clone()))
            .collect()
    }

    pub(super) fn episodes(&self, after: u64, limit: u32) -> Vec<Episode> {
        self.episodes
            .range(after.saturating_add(1)..)
            .take(rules::size(limit))
            .map(|(_, episode)| episode.clone())
            .collect()
    }

    pub(super) fn agents(&self) -> Vec<Agent> {
        self.agents.values().cloned().collect()
    }
}
