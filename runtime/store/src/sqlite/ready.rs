//! What the writer remembers beside the file: how many tasks are claimable where, and who claimed last.
//!
//! Hints and repeats: after a crash the counts are read anew, and what nodes had asked without getting
//! anything is forgotten with the calls that nobody waits for.

use std::collections::BTreeMap;

use colony_core::{
    id::{Incarnation, NodeId, QueueName, TaskId, Tenant},
    ledger::{ReadyGroup, Shares, TaskHead},
};
use rusqlite::Connection;

use super::{
    row,
    select::QUEUED,
    tables::{NODES, columns, select},
    value::Number,
};

/// What the writer remembers.
#[derive(Debug, Default)]
pub(super) struct WriterCache {
    pub(super) ready: ReadyGroups,
    pub(super) shares: Shares,
    pub(super) nodes: Nodes,
    /// Tasks that a claim of this group could not be given, for pages of the file cannot be read, and why.
    pub(super) unreadable: BTreeMap<TaskId, String>,
}

impl WriterCache {
    /// As the file has it.
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            ready: ReadyGroups::read(db)?,
            shares: Shares::default(),
            nodes: Nodes::read(db)?,
            unreadable: BTreeMap::new(),
        })
    }

    /// The transaction is durable.
    pub(super) fn keep(&mut self) {
        self.ready.undo.clear();
        self.nodes.before.clear();
        self.unreadable.clear();
    }

    /// The transaction was taken back.
    pub(super) fn take_back(&mut self) {
        self.ready.take_back();
        self.nodes.take_back();
    }
}

/// How many tasks are queued of each tenant in each queue.
#[derive(Debug, Default)]
pub(super) struct ReadyGroups {
    /// By tenant and queue. Those that are empty stay until the vector is read anew: they are few, and
    /// come back.
    groups: Vec<ReadyGroup>,
    /// What the transaction under way has added.
    undo: Vec<(Tenant, QueueName, i64)>,
}

impl ReadyGroups {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        let mut ready = Self::default();
        let mut statement = db.prepare(QUEUED)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let tenant = row.get_ref(0)?.as_str().ok().map(Tenant::new);
            let queue = row.get_ref(1)?.as_str().ok().map(QueueName::new);
            // Of a damaged row; found by whoever claims.
            if let (Some(Ok(tenant)), Some(Ok(queue))) = (tenant, queue) {
                let count = i64::try_from(row.get::<_, Number>(2)?.0).unwrap_or(i64::MAX);
                ready.add(&tenant, &queue, count);
            }
        }
        ready.undo.clear();
        Ok(ready)
    }

    pub(super) fn groups(&self) -> &[ReadyGroup] {
        &self.groups
    }

    /// A head was replaced by another.
    pub(super) fn replaced(&mut self, before: Option<&TaskHead>, after: &TaskHead) {
        let was_queued = before.is_some_and(TaskHead::is_queued);
        let delta = i64::from(after.is_queued()) - i64::from(was_queued);
        if delta != 0 {
            self.add(&after.tenant, &after.queue, delta);
            let key = (after.tenant.clone(), after.queue.clone(), delta);
            self.undo.push(key);
        }
    }

    fn add(&mut self, tenant: &Tenant, queue: &QueueName, delta: i64) {
        let place = self
            .groups
            .binary_search_by(|group| (&group.tenant, &group.queue).cmp(&(tenant, queue)));
        let index = place.unwrap_or_else(|index| {
            let (tenant, queue) = (tenant.clone(), queue.clone());
            let count = 0;
            self.groups.insert(
                index,
                ReadyGroup {
                    tenant,
                    queue,
                    count,
                },
            );
            index
        });
        let count = &mut self.groups[index].count;
        *count = count.saturating_add_signed(delta);
    }

    fn take_back(&mut self) {
        for (tenant, queue, delta) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.add(&tenant, &queue, -delta);
        }
    }
}

/// A node as claims see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeRow {
    pub(super) incarnation: Incarnation,
    /// The highest batch that was answered, also with nothing.
    pub(super) batch: Option<u64>,
}

/// Every node that has registered.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    rows: BTreeMap<NodeId, NodeRow>,
    /// What the transaction under way has replaced.
    before: Vec<(NodeId, Option<NodeRow>)>,
}

impl Nodes {
    /// Those that can be read; of the others is said when they register.
    fn read(db: &Connection) -> rusqlite::Result<Self> {
        let found = NODES.all(db, select!(nodes), [], row::node)?;
        let rows = found.into_iter().flatten();
        Ok(Self {
            rows: rows
                .map(|(node, incarnation, batch)| (node, NodeRow { incarnation, batch }))
                .collect(),
            before: Vec::new(),
        })
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<NodeRow> {
        self.rows.get(node).copied()
    }

    pub(super) fn set(&mut self, node: &NodeId, row: NodeRow) {
        let before = self.rows.insert(node.clone(), row);
        self.before.push((node.clone(), before));
    }

    fn take_back(&mut self) {
        for (node, before) in std::mem::take(&mut self.before).into_iter().rev() {
            match before {
                Some(row) => self.rows.insert(node, row),
                None => self.rows.remove(&node),
            };
        }
    }
}
