//! The book in memory and what writes to it. Ordered throughout: the same calls give the same book.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use colony_core::{
    cycle::Decision,
    id::{AgentId, ApprovalId, Fence, Incarnation, NodeId, TaskId, Tenant, TypeName},
    journal::{EffectKey, Entry, Note},
    task::{Ending, Spec, State},
    unit::Timestamp,
};

use crate::{
    ledger::{
        Agent, CHANGES_KEPT, Change, Claim, ClaimRef, ClaimRequest, Commit, Cursor, Episode,
        LedgerError, NewTask, OutboxRecord, Policy, Question, Submitted, Then,
    },
    rules::{self, Fate},
};

/// One task with everything that belongs to it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) spec: Arc<Spec>,
    pub(super) state: State,
    pub(super) fence: Fence,
    pub(super) deliveries: u32,
    pub(super) agent: Option<AgentId>,
    pub(super) submitted_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) ending: Option<Ending>,
    pub(super) journal: Vec<Entry>,
    approvals: Vec<ApprovalId>,
    /// While claimed.
    holder: Option<(NodeId, Incarnation)>,
    /// While ready and waiting for a backoff to pass; then it is not in its type's queue.
    waits_until: Option<Timestamp>,
    sort_key: i64,
}

impl Task {
    fn next_sequence(&self) -> u32 {
        self.journal.last().map_or(0, |e| e.sequence + 1)
    }
}

/// A question as it stands.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) task: TaskId,
    pub(super) spec: Arc<Spec>,
    pub(super) asked_at: Timestamp,
    pub(super) decision: Option<Decision>,
    pub(super) closed: bool,
}

#[derive(Debug)]
struct Remembered {
    task: TaskId,
    spec: Arc<Spec>,
    until: Timestamp,
}

type DedupeKey = (Tenant, String);

/// Everything.
#[derive(Debug)]
pub(super) struct Book {
    policy: Policy,
    finished_max: usize,
    // Tasks, and the order in which the finished ones may be forgotten.
    pub(super) live: BTreeMap<TaskId, Box<Task>>,
    pub(super) finished: BTreeMap<TaskId, Box<Task>>,
    finished_order: VecDeque<TaskId>,
    // Where ready tasks wait: due ones by sort key, others by the time they become due.
    queues: BTreeMap<TypeName, BTreeSet<(i64, TaskId)>>,
    pub(super) waiting: BTreeSet<(Timestamp, TaskId)>,
    pub(super) deadlines: BTreeSet<(Timestamp, TaskId)>,
    // What outlives tasks.
    dedupe: BTreeMap<DedupeKey, Remembered>,
    dedupe_ends: BTreeSet<(Timestamp, DedupeKey)>,
    pub(super) approvals: BTreeMap<ApprovalId, Asked>,
    pub(super) outbox: BTreeMap<u64, OutboxRecord>,
    outbox_keys: BTreeSet<EffectKey>,
    pub(super) episodes: BTreeMap<u64, Episode>,
    episode_of: BTreeMap<TaskId, u64>,
    episode_last: u64,
    pub(super) agents: BTreeMap<AgentId, Agent>,
    pub(super) snapshots: BTreeMap<String, Vec<u8>>,
    incarnations: BTreeMap<NodeId, Incarnation>,
    // What happened.
    pub(super) log: Log,
}

/// Changes and counts.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) changes: VecDeque<Change>,
    pub(super) cursor: Cursor,
    pub(super) accepted: u64,
    pub(super) by_state: BTreeMap<State, u64>,
}

impl Log {
    fn entered(&mut self, task: TaskId, state: State, at: Timestamp) {
        *self.by_state.entry(state).or_default() += 1;
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

    fn moved(&mut self, task: &mut Task, to: State, at: Timestamp) {
        if let Some(count) = self.by_state.get_mut(&task.state) {
            *count -= 1;
        }
        task.state = to;
        task.updated_at = at;
        self.entered(task.id, to, at);
    }
}

impl Book {
    pub(super) fn new(policy: Policy, finished_max: usize) -> Self {
        Self {
            policy,
            finished_max,
            live: BTreeMap::new(),
            finished: BTreeMap::new(),
            finished_order: VecDeque::new(),
            queues: BTreeMap::new(),
            waiting: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            dedupe: BTreeMap::new(),
            dedupe_ends: BTreeSet::new(),
            approvals: BTreeMap::new(),
            outbox: BTreeMap::new(),
            outbox_keys: BTreeSet::new(),
            episodes: BTreeMap::new(),
            episode_of: BTreeMap::new(),
            episode_last: 0,
            agents: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            log: Log {
                by_state: State::ALL.into_iter().map(|s| (s, 0)).collect(),
                ..Log::default()
            },
        }
    }

    pub(super) fn finished_max(&mut self, finished_max: usize) {
        self.finished_max = finished_max;
    }

    pub(super) fn begin(&mut self, node: &NodeId, now: Timestamp) -> Incarnation {
        let life = self
            .incarnations
            .entry(node.clone())
            .or_insert(Incarnation(0));
        life.0 += 1;
        let life = *life;
        let lost: Vec<TaskId> = self
            .live
            .values()
            .filter(|t| {
                t.holder
                    .as_ref()
                    .is_some_and(|(n, i)| n == node && *i < life)
            })
            .map(|t| t.id)
            .collect();
        for id in lost {
            self.retry(id, rules::RESTARTED, now);
        }
        life
    }

    pub(super) fn submit(&mut self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        let live = self.live.len() as u64;
        let limit = self.policy.live_max;
        if live + tasks.len() as u64 > limit && live + self.fresh(&tasks) > limit {
            return Err(LedgerError::Full { live, limit });
        }
        Ok(tasks.into_iter().map(|t| self.submit_one(t)).collect())
    }

    /// How many of these would be accepted.
    fn fresh(&self, tasks: &[NewTask]) -> u64 {
        let mut ids = BTreeSet::new();
        let mut keys = BTreeSet::new();
        let fresh = tasks.iter().filter(|t| {
            self.known(t).is_none()
                && ids.insert(t.id)
                && t.spec
                    .dedupe_key
                    .as_ref()
                    .is_none_or(|k| keys.insert((&t.spec.tenant, k)))
        });
        fresh.count() as u64
    }

    /// The answer to a task that was submitted before.
    fn known(&self, task: &NewTask) -> Option<Submitted> {
        let answer = |id, spec: &Spec| {
            if spec.same_payload(&task.spec) {
                Submitted::Duplicate(id)
            } else {
                Submitted::Conflict(id)
            }
        };
        if let Some(old) = self.task(task.id) {
            return Some(answer(task.id, &old.spec));
        }
        let key = task.spec.dedupe_key.as_ref()?;
        let old = self.dedupe.get(&(task.spec.tenant.clone(), key.clone()))?;
        (old.until > task.now).then(|| answer(old.task, &old.spec))
    }

    fn submit_one(&mut self, task: NewTask) -> Submitted {
        if let Some(answer) = self.known(&task) {
            return answer;
        }
        let NewTask { id, spec, now } = task;
        self.forget_keys(now);
        if let Some(key) = &spec.dedupe_key {
            let key = (spec.tenant.clone(), key.clone());
            let until = rules::remembered_until(now, self.policy.dedupe_ttl);
            let remembered = Remembered {
                task: id,
                spec: Arc::clone(&spec),
                until,
            };
            self.dedupe.insert(key.clone(), remembered);
            self.dedupe_ends.insert((until, key));
        }
        if let Some(deadline) = spec.deadline {
            self.deadlines.insert((deadline, id));
        }
        let sort_key = rules::sort_key(&spec, now, &self.policy);
        enqueue(&mut self.queues, &spec.agent_type, sort_key, id);
        let task = Task {
            id,
            spec,
            state: State::Ready,
            fence: Fence(0),
            deliveries: 0,
            agent: None,
            submitted_at: now,
            updated_at: now,
            ending: None,
            journal: Vec::new(),
            approvals: Vec::new(),
            holder: None,
            waits_until: None,
            sort_key,
        };
        self.live.insert(id, Box::new(task));
        self.log.accepted += 1;
        self.log.entered(id, State::Ready, now);
        Submitted::Accepted(id)
    }

    fn forget_keys(&mut self, now: Timestamp) {
        while let Some((until, _)) = self.dedupe_ends.first() {
            if *until > now {
                return;
            }
            if let Some((_, key)) = self.dedupe_ends.pop_first()
                && self.dedupe.get(&key).is_some_and(|r| r.until <= now)
            {
                self.dedupe.remove(&key);
            }
        }
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Vec<Claim> {
        let known = self.incarnations.get(&request.node);
        if known.is_some_and(|life| request.incarnation < *life) {
            return Vec::new();
        }
        self.promote(request.now);
        let mut claims = Vec::new();
        for (agent_type, wanted) in &request.wanted {
            let Some(queue) = self.queues.get_mut(agent_type) else {
                continue;
            };
            let mut left = rules::size(*wanted);
            let mut too_late = Vec::new();
            while left > 0 {
                let Some((sort_key, id)) = queue.pop_first() else {
                    break;
                };
                let Some(task) = self.live.get_mut(&id) else {
                    continue;
                };
                if task.spec.deadline.is_some_and(|d| d <= request.now) {
                    too_late.push((sort_key, id));
                    continue;
                }
                left -= 1;
                task.fence.0 += 1;
                task.holder = Some((request.node.clone(), request.incarnation));
                self.log.moved(task, State::Claimed, request.now);
                claims.push(Claim {
                    reference: ClaimRef {
                        task: id,
                        fence: task.fence,
                    },
                    spec: Arc::clone(&task.spec),
                    submitted_at: task.submitted_at,
                    deliveries: task.deliveries,
                    has_journal: !task.journal.is_empty(),
                });
            }
            queue.extend(too_late);
        }
        claims
    }

    /// Moves tasks whose wait is over into their queues.
    fn promote(&mut self, now: Timestamp) {
        while let Some(&(due, id)) = self.waiting.first() {
            if due > now {
                return;
            }
            self.waiting.pop_first();
            if let Some(task) = self.live.get_mut(&id) {
                task.waits_until = None;
                enqueue(&mut self.queues, &task.spec.agent_type, task.sort_key, id);
            }
        }
    }

    pub(super) fn commit(&mut self, commit: Commit) -> Result<(), LedgerError> {
        let ClaimRef { task: id, fence } = commit.claim;
        let Some(task) = self.live.get_mut(&id) else {
            return Err(self.lost(id, fence));
        };
        if task.state != State::Claimed || task.fence != fence {
            return Err(self.lost(id, fence));
        }
        for (expected, entry) in (task.next_sequence()..).zip(&commit.entries) {
            if entry.sequence != expected {
                return Err(LedgerError::Sequence {
                    task: id,
                    sequence: entry.sequence,
                    expected,
                });
            }
        }
        if let Then::Park(question) = &commit.then
            && self.approvals.contains_key(&question.id)
        {
            let what = format!("approval {} is there already", question.id);
            return Err(LedgerError::Storage { what });
        }
        task.journal.extend(commit.entries);
        if commit.agent.is_some() {
            task.agent = commit.agent;
        }
        for record in commit.outbox {
            if self.outbox_keys.insert(record.key.clone()) {
                let row = self.outbox.last_key_value().map_or(0, |(row, _)| *row) + 1;
                self.outbox.insert(row, record);
            }
        }
        let now = commit.now;
        match commit.then {
            Then::Continue => {}
            Then::Park(question) => {
                task.holder = None;
                task.approvals.push(question.id);
                let asked = Asked {
                    task: id,
                    spec: Arc::clone(&task.spec),
                    asked_at: now,
                    decision: None,
                    closed: false,
                    question: *question,
                };
                self.approvals.insert(asked.question.id, asked);
                self.log.moved(task, State::Parked, now);
            }
            Then::End(ending) => {
                let state = match ending {
                    Ending::Done(_) => State::Done,
                    Ending::Failed { .. } => State::Failed,
                };
                self.end(id, state, ending, now);
            }
            Then::HandBack => {
                task.holder = None;
                enqueue(&mut self.queues, &task.spec.agent_type, task.sort_key, id);
                self.log.moved(task, State::Ready, now);
            }
            Then::Retry { reason } => self.retry(id, &reason, now),
        }
        Ok(())
    }

    fn lost(&self, task: TaskId, fence: Fence) -> LedgerError {
        self.task(task)
            .map_or(LedgerError::NoTask(task), |t| LedgerError::Lost {
                task,
                fence,
                state: t.state,
            })
    }

    /// A claim ended abnormally.
    fn retry(&mut self, id: TaskId, reason: &str, now: Timestamp) {
        let Some(task) = self.live.get_mut(&id) else {
            return;
        };
        task.deliveries += 1;
        match rules::fate(task.deliveries, now, &self.policy) {
            Fate::Dead => self.end(id, State::Dead, rules::without_answer(reason), now),
            Fate::Again(due) => {
                task.holder = None;
                task.waits_until = Some(due);
                self.waiting.insert((due, id));
                self.log.moved(task, State::Ready, now);
            }
        }
    }

    /// Ends a live task, whatever its state.
    fn end(&mut self, id: TaskId, state: State, ending: Ending, now: Timestamp) {
        let Some(mut task) = self.live.remove(&id) else {
            return;
        };
        if task.state == State::Ready {
            match task.waits_until.take() {
                Some(due) => {
                    self.waiting.remove(&(due, id));
                }
                None => {
                    if let Some(queue) = self.queues.get_mut(&task.spec.agent_type) {
                        queue.remove(&(task.sort_key, id));
                    }
                }
            }
        }
        if let Some(deadline) = task.spec.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        for approval in &task.approvals {
            if let Some(asked) = self.approvals.get_mut(approval) {
                asked.closed = true;
            }
        }
        task.holder = None;
        task.ending = Some(ending);
        self.log.moved(&mut task, state, now);
        self.finished.insert(id, task);
        self.finished_order.push_back(id);
        while self.finished_order.len() > self.finished_max {
            if let Some(oldest) = self.finished_order.pop_front()
                && let Some(task) = self.finished.remove(&oldest)
            {
                for approval in &task.approvals {
                    self.approvals.remove(approval);
                }
            }
        }
    }

    pub(super) fn decide(
        &mut self,
        id: ApprovalId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<TaskId, LedgerError> {
        let asked = self
            .approvals
            .get_mut(&id)
            .ok_or(LedgerError::NoApproval(id))?;
        let task_id = asked.task;
        let task = self
            .live
            .get_mut(&task_id)
            .filter(|t| !asked.closed && t.state == State::Parked);
        let Some(task) = task else {
            let state = self.task(task_id).map_or(State::Done, |t| t.state);
            return Err(LedgerError::Closed {
                id,
                task: task_id,
                state,
            });
        };
        asked.closed = true;
        asked.decision = Some(decision.clone());
        task.journal.push(Entry {
            sequence: task.next_sequence(),
            at: now,
            note: Note::Decided(decision),
        });
        enqueue(
            &mut self.queues,
            &task.spec.agent_type,
            task.sort_key,
            task_id,
        );
        self.log.moved(task, State::Ready, now);
        Ok(task_id)
    }

    pub(super) fn cancel(&mut self, id: TaskId, now: Timestamp) -> Result<State, LedgerError> {
        let task = self.task(id).ok_or(LedgerError::NoTask(id))?;
        let state = task.state;
        if state.is_final() {
            return Err(LedgerError::Ended { task: id, state });
        }
        let ending = rules::without_answer(rules::CANCELLED);
        self.end(id, State::Cancelled, ending, now);
        Ok(state)
    }

    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<TaskId> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let ending = rules::without_answer(rules::EXPIRED);
            self.end(id, State::Expired, ending, now);
            expired.push(id);
        }
        expired
    }

    pub(super) fn learn(&mut self, episodes: Vec<Episode>) -> Vec<u64> {
        let mut numbers = Vec::with_capacity(episodes.len());
        for mut episode in episodes {
            self.episode_last += 1;
            episode.number = self.episode_last;
            numbers.push(episode.number);
            if let Some(old) = self.episode_of.insert(episode.task, episode.number) {
                self.episodes.remove(&old);
            }
            self.episodes.insert(episode.number, episode);
        }
        numbers
    }

    /// A task, live or ended.
    pub(super) fn task(&self, id: TaskId) -> Option<&Task> {
        self.live
            .get(&id)
            .or_else(|| self.finished.get(&id))
            .map(|t| &**t)
    }
}

fn enqueue(
    queues: &mut BTreeMap<TypeName, BTreeSet<(i64, TaskId)>>,
    agent_type: &TypeName,
    sort_key: i64,
    id: TaskId,
) {
    if let Some(queue) = queues.get_mut(agent_type) {
        queue.insert((sort_key, id));
    } else {
        queues.insert(agent_type.clone(), BTreeSet::from([(sort_key, id)]));
    }
}
