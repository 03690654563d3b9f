//! The tasks in memory: what lives apart from what has ended, so that what is under way is found among few.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use colony_core::{
    id::{ApprovalId, RequestId, TaskId},
    journal::Entry,
    ledger::ClientVerb,
    task::Spec,
};

use crate::ledger::TaskHead;

/// One task with everything that belongs to it.
#[derive(Debug)]
pub(super) struct TaskRow {
    pub(super) head: TaskHead,
    pub(super) spec: Arc<Spec>,
    pub(super) journal: Vec<Entry>,
    /// The questions it has asked.
    pub(super) approvals: Vec<ApprovalId>,
    /// What clients asked of it, by the ids of their requests.
    pub(super) requests: BTreeMap<RequestId, ClientVerb>,
}

type Rows = BTreeMap<TaskId, Box<TaskRow>>;

/// All tasks.
#[derive(Debug)]
pub(super) struct Tasks {
    live: Rows,
    ended: Rows,
    /// The order in which ended ones may be forgotten: (task, revision of its end).
    endings: VecDeque<(TaskId, u64)>,
    /// Most ended ones.
    ended_max: usize,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self {
            live: Rows::new(),
            ended: Rows::new(),
            endings: VecDeque::new(),
            ended_max: usize::MAX,
        }
    }

    pub(super) fn ended_max(&mut self, ended_max: usize) {
        self.ended_max = ended_max;
    }

    pub(super) fn len(&self) -> usize {
        self.live.len() + self.ended.len()
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&TaskRow> {
        let row = self.live.get(&id).or_else(|| self.ended.get(&id));
        row.map(|row| &**row)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut TaskRow> {
        let live = self.live.get_mut(&id);
        live.or_else(|| self.ended.get_mut(&id))
            .map(|row| &mut **row)
    }

    pub(super) fn insert(&mut self, row: TaskRow) {
        self.live.insert(row.head.id, Box::new(row));
    }

    /// A live task has ended.
    pub(super) fn end(&mut self, id: TaskId) {
        if let Some(row) = self.live.remove(&id) {
            self.endings.push_back((id, row.head.revision));
            self.ended.insert(id, row);
        }
    }

    /// Takes the oldest ended one out, where they are too many.
    pub(super) fn forget_one(&mut self) -> Option<Box<TaskRow>> {
        while self.ended.len() > self.ended_max {
            let (id, revision) = self.endings.pop_front()?;
            match self.ended.remove(&id) {
                Some(row) if row.head.revision == revision => return Some(row),
                // It was revived and has ended again since: it is not its turn.
                Some(row) => drop(self.ended.insert(id, row)),
                // It was revived and lives.
                None => {}
            }
        }
        None
    }

    /// An ended task lives again.
    pub(super) fn revive(&mut self, id: TaskId) {
        if let Some(row) = self.ended.remove(&id) {
            self.live.insert(id, row);
        }
    }

    /// All of them with an id below `before`, from the newest down.
    pub(super) fn newest_first(&self, before: TaskId) -> impl Iterator<Item = &TaskRow> {
        let mut live = self.live.range(..before).rev().peekable();
        let mut ended = self.ended.range(..before).rev().peekable();
        std::iter::from_fn(move || {
            let next = match (live.peek(), ended.peek()) {
                (Some((a, _)), Some((b, _))) if a < b => ended.next(),
                (Some(_), _) => live.next(),
                (None, _) => ended.next(),
            };
            next.map(|(_, row)| &**row)
        })
    }
}
