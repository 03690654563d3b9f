//! The tables in memory and the one way in which a head changes: [`Tables::apply`]. Ordered throughout:
//! the same calls give the same tables.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use colony_core::{
    id::{AgentId, ApprovalId, Incarnation, NodeId, QueueName, TaskId, Tenant},
    ledger::{ClientRequest, ReadyGroup, Shares, Transition, settle},
    property::{check, lawful},
    task::{Spec, State},
    unit::Timestamp,
};

use super::tasks::{TaskRow, Tasks};
use crate::ledger::{
    Agent, CHANGES_KEPT, Change, Cursor, EpisodeChange, EpisodeStream, MessageId, Policy, Posted,
    Question, QuestionState, Snapshot, SnapshotKey, TaskHead,
};

/// A question as it stands.
#[derive(Debug)]
pub(super) struct ApprovalRow {
    pub(super) question: Question,
    pub(super) task: TaskId,
    pub(super) spec: Arc<Spec>,
    pub(super) asked_at: Timestamp,
    pub(super) state: QuestionState,
}

/// What a deduplication key stands for.
#[derive(Debug)]
pub(super) struct DedupeEntry {
    pub(super) task: TaskId,
    pub(super) spec: Arc<Spec>,
    pub(super) until: Timestamp,
    /// How the task ended, once its row is forgotten.
    pub(super) ended: Option<State>,
}

pub(super) type DedupeKey = (Tenant, String);

/// What is known of a node.
#[derive(Debug)]
pub(super) struct NodeRow {
    pub(super) incarnation: Incarnation,
    /// The highest batch that was executed for this life.
    pub(super) batch: Option<u64>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) policy: Policy,
    pub(super) tasks: Tasks,
    pub(super) index: Index,
    // What outlives tasks.
    pub(super) dedupe: BTreeMap<DedupeKey, DedupeEntry>,
    pub(super) dedupe_ends: BTreeSet<(Timestamp, DedupeKey)>,
    pub(super) approvals: BTreeMap<ApprovalId, ApprovalRow>,
    pub(super) outbox: BTreeMap<u64, Posted>,
    pub(super) outbox_numbers: BTreeMap<MessageId, u64>,
    pub(super) outbox_last: u64,
    pub(super) episodes: BTreeMap<EpisodeStream, BTreeMap<u64, EpisodeChange>>,
    /// The episode of each task that counts.
    pub(super) episode_of: BTreeMap<TaskId, (EpisodeStream, u64)>,
    pub(super) episode_last: u64,
    pub(super) agents: BTreeMap<AgentId, Agent>,
    pub(super) snapshots: BTreeMap<SnapshotKey, Snapshot>,
    pub(super) nodes: BTreeMap<NodeId, NodeRow>,
    // What happened.
    pub(super) log: Log,
    // What a power cut takes: whether a task has become claimable that nobody was told of, and who had
    // how much of the claims.
    woken: bool,
    pub(super) shares: Shares,
}

/// Live tasks in the orders in which [`colony_core::ledger::Select`] wants them.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Claimable ones by sort key.
    pub(super) ready: BTreeMap<QueueName, BTreeMap<Tenant, BTreeSet<(i64, TaskId)>>>,
    /// Ready ones that wait for a moment.
    pub(super) due: BTreeSet<(Timestamp, TaskId)>,
    pub(super) deadlines: BTreeSet<(Timestamp, TaskId)>,
    pub(super) held: BTreeSet<HeldKey>,
}

/// A claim request, and a task that is held under it.
pub(super) type HeldKey = (NodeId, Incarnation, u64, TaskId);

/// Changes and counts.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) changes: VecDeque<Change>,
    pub(super) cursor: Cursor,
    pub(super) accepted: u64,
    by_state: [u64; State::ALL.len()],
    /// The highest time written.
    highest: Timestamp,
}

impl Log {
    fn entered(&mut self, task: TaskId, state: State, at: Timestamp) {
        self.by_state[state as usize] += 1;
        self.cursor += 1;
        if self.changes.len() as u64 >= CHANGES_KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(Change {
            cursor: self.cursor,
            task,
            state,
            at,
        });
    }

    pub(super) fn count(&self, state: State) -> u64 {
        self.by_state[state as usize]
    }
}

impl Index {
    /// Moves a task's entries from where `before` had them to where `after` has them.
    fn follow(&mut self, before: Option<&TaskHead>, after: &TaskHead) {
        let (was, is) = (before.and_then(place), place(after));
        if was != is {
            if let Some(was) = was {
                self.leave(after, was);
            }
            if let Some(is) = is {
                self.enter(after, is);
            }
        }
        moved(&mut self.due, before.and_then(due), due(after));
        moved(
            &mut self.deadlines,
            before.and_then(deadline),
            deadline(after),
        );
        moved(&mut self.held, before.and_then(held), held(after));
    }

    fn enter(&mut self, head: &TaskHead, place: (i64, TaskId)) {
        let tenants = match self.ready.get_mut(&head.queue) {
            Some(tenants) => tenants,
            None => self.ready.entry(head.queue.clone()).or_default(),
        };
        let tasks = match tenants.get_mut(&head.tenant) {
            Some(tasks) => tasks,
            None => tenants.entry(head.tenant.clone()).or_default(),
        };
        tasks.insert(place);
    }

    fn leave(&mut self, head: &TaskHead, place: (i64, TaskId)) {
        let Some(tenants) = self.ready.get_mut(&head.queue) else {
            return;
        };
        let Some(tasks) = tenants.get_mut(&head.tenant) else {
            return;
        };
        tasks.remove(&place);
        if tasks.is_empty() {
            tenants.remove(&head.tenant);
        }
        if tenants.is_empty() {
            self.ready.remove(&head.queue);
        }
    }
}

fn moved<K: Ord>(set: &mut BTreeSet<K>, before: Option<K>, after: Option<K>) {
    if before == after {
        return;
    }
    if let Some(key) = before {
        set.remove(&key);
    }
    if let Some(key) = after {
        set.insert(key);
    }
}

/// Its place among the claimable tasks of its tenant and queue.
fn place(head: &TaskHead) -> Option<(i64, TaskId)> {
    head.is_queued().then_some((head.sort_key, head.id))
}

/// Its place among the ready tasks that wait for a moment.
fn due(head: &TaskHead) -> Option<(Timestamp, TaskId)> {
    Some((head.due_at()?, head.id))
}

/// Its place among the live tasks with a deadline.
fn deadline(head: &TaskHead) -> Option<(Timestamp, TaskId)> {
    Some((head.expires_at()?, head.id))
}

/// Its place among the held ones.
fn held(head: &TaskHead) -> Option<HeldKey> {
    let holder = head.holder.as_ref()?;
    let node = holder.node.clone();
    Some((node, holder.incarnation, holder.batch, head.id))
}

impl Tables {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            tasks: Tasks::new(),
            index: Index::default(),
            dedupe: BTreeMap::new(),
            dedupe_ends: BTreeSet::new(),
            approvals: BTreeMap::new(),
            outbox: BTreeMap::new(),
            outbox_numbers: BTreeMap::new(),
            outbox_last: 0,
            episodes: BTreeMap::new(),
            episode_of: BTreeMap::new(),
            episode_last: 0,
            agents: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            nodes: BTreeMap::new(),
            log: Log::default(),
            woken: false,
            shares: Shares::default(),
        }
    }

    /// Drops what a power cut takes although it was applied.
    pub(super) fn forget_volatile(&mut self) {
        self.woken = false;
        self.shares = Shares::default();
    }

    pub(super) fn cursor(&self) -> Cursor {
        self.log.cursor
    }

    /// The highest time written.
    pub(super) fn highest(&self) -> Timestamp {
        self.log.highest
    }

    /// Notes that a group is written under this stamp.
    pub(super) fn stamped(&mut self, now: Timestamp) {
        self.log.highest = self.log.highest.max(now);
    }

    /// Whether a task has become claimable since this was asked last.
    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn live(&self) -> u64 {
        let live = State::ALL.into_iter().filter(|state| !state.is_final());
        live.map(|state| self.log.count(state)).sum()
    }

    /// Writes a new task down.
    pub(super) fn insert(&mut self, head: TaskHead, spec: Arc<Spec>) {
        self.index.follow(None, &head);
        self.log.accepted += 1;
        self.log.entered(head.id, head.state, head.submitted_at);
        self.woken = true;
        let row = TaskRow {
            head,
            spec,
            journal: Vec::new(),
            approvals: Vec::new(),
            requests: BTreeMap::new(),
        };
        self.tasks.insert(row);
    }

    /// Applies a transition if its stamp matches; otherwise does nothing and says so.
    pub(super) fn apply(&mut self, transition: Transition) -> bool {
        let (wakes, ends) = (transition.wakes(), transition.ends());
        let id = transition.id;
        let Some(row) = self.tasks.get_mut(id) else {
            return false;
        };
        if !transition.expect.matches(&row.head) {
            return false;
        }
        check(|| lawful(&row.head, &transition));
        if let Some(ClientRequest { id, verb }) = transition.request {
            row.requests.insert(id, verb);
        }
        let Some(after) = transition.head else {
            return true;
        };
        self.index.follow(Some(&row.head), &after);
        if after.state != row.head.state {
            self.log.by_state[row.head.state as usize] -= 1;
            self.log.entered(after.id, after.state, after.updated_at);
        }
        self.woken |= wakes;
        let revived = row.head.state.is_final();
        row.head = after;
        if ends {
            for approval in &row.approvals {
                if let Some(approval) = self.approvals.get_mut(approval) {
                    let state = std::mem::replace(&mut approval.state, QuestionState::Closed);
                    approval.state = settle::closed(state);
                }
            }
            self.tasks.end(id);
            while let Some(row) = self.tasks.forget_one() {
                self.forget(&row);
            }
        } else if revived {
            self.tasks.revive(id);
        }
        true
    }

    /// Forgets what belongs to an ended task that is forgotten; what its deduplication key stands for stays.
    fn forget(&mut self, row: &TaskRow) {
        for approval in &row.approvals {
            self.approvals.remove(approval);
        }
        if let Some(key) = row.spec.dedupe_key.clone()
            && let Some(entry) = self.dedupe.get_mut(&(row.spec.tenant.clone(), key))
            && entry.task == row.head.id
        {
            entry.ended = Some(row.head.state);
        }
    }

    /// The groups of claimable tasks, with how many are in each.
    pub(super) fn ready_groups(&self, now: Timestamp) -> Vec<ReadyGroup> {
        let mut groups = Vec::new();
        for (queue, tenants) in &self.index.ready {
            for (tenant, tasks) in tenants {
                groups.push(ReadyGroup {
                    tenant: tenant.clone(),
                    queue: queue.clone(),
                    count: tasks.len() as u64,
                });
            }
        }
        // What has expired and was not swept yet is in the index still.
        for (_, id) in self
            .index
            .deadlines
            .range(..=(now, TaskId(uuid::Uuid::max())))
        {
            let Some(head) = self.tasks.get(*id).map(|row| &row.head) else {
                continue;
            };
            let group = groups
                .iter_mut()
                .find(|group| group.queue == head.queue && group.tenant == head.tenant);
            if let Some(group) = group
                && head.is_queued()
            {
                group.count -= 1;
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use colony_core::{
        id::{Fence, TypeName},
        ledger::{
            Stamp, claim,
            submit::{NewTask, Submitted},
        },
    };

    use super::*;

    /// A transition that is late, by any of its stamps, changes no table and says so.
    #[test]
    fn a_wrong_stamp_changes_nothing() {
        let now = Timestamp::from_micros(1);
        let mut tables = Tables::new(Policy::default());
        let id = TaskId::new(now, [1; 10]);
        let spec = Arc::new(Spec::new(TypeName::new("t").unwrap(), "x"));
        let submitted = tables
            .submit(
                vec![NewTask {
                    id,
                    spec,
                    refusal: None,
                }],
                now,
            )
            .unwrap();
        assert_eq!(submitted, [Submitted::Accepted(id)]);
        let ready = tables.tasks.get(id).unwrap().head.clone();
        let (node, life) = (NodeId::new("n").unwrap(), Incarnation(1));
        let take = claim::take(&ready, &node, life, 1, now);
        assert!(tables.apply(take.clone()));
        let claimed = tables.tasks.get(id).unwrap().head.clone();

        let lost = settle::lose(&claimed, now);
        let other_fence = Stamp::Held(Fence(claimed.fence.0 + 1));
        let other_revision = Stamp::Unchanged {
            state: State::Claimed,
            revision: claimed.revision + 1,
        };
        let mut late = vec![take, settle::expire(&ready, now)];
        for expect in [other_fence, other_revision] {
            late.push(Transition {
                expect,
                ..lost.clone()
            });
        }
        late.push(Transition {
            id,
            expect: other_fence,
            from: State::Claimed,
            head: None,
            request: None,
        });
        let before = format!("{tables:?}");
        for transition in late {
            assert!(!tables.apply(transition));
            assert_eq!(format!("{tables:?}"), before);
        }
        assert!(tables.apply(lost));
    }
}
