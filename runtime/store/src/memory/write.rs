//! What writes to the tables: each verb selects, asks the rules, and applies what they say.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use colony_core::{
    cycle::Decision,
    id::{AgentId, ApprovalId, Incarnation, NodeId, RequestId, TaskId},
    journal,
    ledger::{
        Episode, Select, Settlement,
        claim::{self, Asked},
        commit, plan_claim, settle,
        submit::{self, Known, Planned},
    },
    property::{check, gapless},
    task::{Spec, State},
    unit::Timestamp,
};
use uuid::Uuid;

use super::{
    tables::{ApprovalRow, DedupeEntry, HeldKey, NodeRow, Tables},
    tasks::TaskRow,
};
use crate::{
    ledger::{
        Agent, Claim, ClaimRequest, Claimed, Commit, Committed, Decided, EpisodeChange,
        EpisodeStream, InboxItem, LedgerError, MessageId, NewTask, Others, OutboxMessage, Posted,
        Question, QuestionState, Registered, Snapshot, SnapshotKey, Submitted,
    },
    limits::size,
};

/// What the tables have of what a commit is about.
struct Stored<'a> {
    journal: &'a [journal::Entry],
    approvals: &'a BTreeMap<ApprovalId, ApprovalRow>,
}

impl commit::Stored for Stored<'_> {
    type Error = LedgerError;

    fn next_sequence(&mut self) -> Result<u32, LedgerError> {
        Ok(u32::try_from(self.journal.len()).unwrap_or(u32::MAX))
    }

    fn entry(&mut self, sequence: u32) -> Result<Option<journal::Entry>, LedgerError> {
        Ok(self.journal.get(size(sequence)).cloned())
    }

    fn question(&mut self, id: ApprovalId) -> Result<Option<(TaskId, QuestionState)>, LedgerError> {
        let found = self.approvals.get(&id);
        Ok(found.map(|approval| (approval.task, approval.state.clone())))
    }

    fn has_question(&mut self, id: ApprovalId) -> Result<bool, LedgerError> {
        Ok(self.approvals.contains_key(&id))
    }
}

impl Tables {
    pub(super) fn register(&mut self, node: &NodeId, others: Others, now: Timestamp) -> Registered {
        let former = self.nodes.get(node).map_or(0, |row| row.incarnation.0);
        let incarnation = Incarnation(former + 1);
        let row = NodeRow {
            incarnation,
            batch: None,
        };
        self.nodes.insert(node.clone(), row);
        let mine = Select::HeldBefore { node, incarnation };
        let theirs = Select::HeldByOthers { node };
        let mut registered = Registered {
            incarnation,
            lost: Vec::new(),
            adopted: Vec::new(),
            suspects: Vec::new(),
        };
        let mut found: Vec<(TaskId, NodeId)> = Vec::new();
        for (holder, _, _, id) in &self.index.held {
            let Some(row) = self.tasks.get(*id) else {
                continue;
            };
            let adopted = others == Others::Nobody && theirs.matches(&row.head, now);
            if adopted || mine.matches(&row.head, now) {
                found.push((*id, holder.clone()));
            }
            if adopted && registered.adopted.last() != Some(holder) {
                registered.adopted.push(holder.clone());
            }
        }
        found.sort_unstable();
        for (id, _) in found {
            let Some(row) = self.tasks.get(id) else {
                continue;
            };
            let lost = settle::lose(&row.head, now);
            let suspect = lost
                .head
                .as_ref()
                .is_some_and(|h| h.is_suspect(&self.policy));
            if self.apply(lost) {
                registered.lost.push(id);
                if suspect {
                    registered.suspects.push(id);
                }
            }
        }
        registered
    }

    pub(super) fn submit(
        &mut self,
        batch: Vec<NewTask>,
        now: Timestamp,
    ) -> Result<Vec<Submitted>, LedgerError> {
        let known: Vec<_> = batch.iter().map(|task| self.known(task, now)).collect();
        let planned = submit::plan(&batch, &known, self.live(), &self.policy, now)?;
        self.forget_keys(now);
        let mut answers = Vec::with_capacity(batch.len());
        for (task, planned) in batch.into_iter().zip(planned) {
            answers.push(match planned {
                Planned::Answer(answer) => answer,
                Planned::Write(head) => {
                    self.remember_key(task.id, &task.spec, now);
                    self.insert(*head, task.spec);
                    Submitted::Accepted(task.id)
                }
            });
        }
        Ok(answers)
    }

    /// What there is for a submitted task: by id, else by deduplication key.
    fn known(&self, task: &NewTask, now: Timestamp) -> Option<Known> {
        let known = |id, state, spec: &Arc<Spec>| Known {
            id,
            state,
            same_payload: spec.same_payload(&task.spec),
        };
        if let Some(row) = self.tasks.get(task.id) {
            return Some(known(task.id, row.head.state, &row.spec));
        }
        let key = task.spec.dedupe_key.as_ref()?;
        let entry = self
            .dedupe
            .get(&(task.spec.tenant.clone(), key.clone()))
            .filter(|entry| entry.until > now)?;
        let row = self.tasks.get(entry.task);
        let state = row.map(|row| row.head.state).or(entry.ended)?;
        Some(known(entry.task, state, &entry.spec))
    }

    fn remember_key(&mut self, task: TaskId, spec: &Arc<Spec>, now: Timestamp) {
        let Some(key) = spec.dedupe_key.clone() else {
            return;
        };
        let key = (spec.tenant.clone(), key);
        let entry = DedupeEntry {
            task,
            spec: Arc::clone(spec),
            until: now.after(self.policy.dedupe_ttl),
            ended: None,
        };
        self.dedupe_ends.insert((entry.until, key.clone()));
        self.dedupe.insert(key, entry);
    }

    /// Forgets the deduplication keys whose time is over.
    fn forget_keys(&mut self, now: Timestamp) {
        while self
            .dedupe_ends
            .first()
            .is_some_and(|(until, _)| *until <= now)
        {
            if let Some((_, key)) = self.dedupe_ends.pop_first() {
                self.dedupe.remove(&key);
            }
        }
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest, now: Timestamp) -> Claimed {
        let ClaimRequest {
            node,
            incarnation,
            batch,
            ..
        } = request;
        let known = self.nodes.get(node).map(|row| (row.incarnation, row.batch));
        let claims = match claim::asked(known, *incarnation, *batch) {
            Asked::Stale => Vec::new(),
            Asked::Repeat => self.held_in(node, *incarnation, *batch),
            Asked::Fresh => {
                if let Some(row) = self.nodes.get_mut(node) {
                    row.batch = Some(*batch);
                }
                self.end_waits(now);
                self.take(request, now)
            }
        };
        let next_due = self.index.due.first().map(|(at, _)| at.since(now));
        Claimed { claims, next_due }
    }

    /// Ends the waits of ready tasks that are over.
    fn end_waits(&mut self, now: Timestamp) {
        while let Some((_, id)) = self.index.due.first().copied() {
            let Some(row) = self.tasks.get(id) else {
                return;
            };
            if !Select::Due.matches(&row.head, now) || !self.apply(claim::due(&row.head)) {
                return;
            }
        }
    }

    fn take(&mut self, request: &ClaimRequest, now: Timestamp) -> Vec<Claim> {
        let groups = self.ready_groups(now);
        let picks = plan_claim(
            &groups,
            &request.free,
            &mut self.shares,
            request.total,
            &self.policy,
        );
        let mut taken = Vec::new();
        for pick in &picks {
            let select = Select::Claimable {
                tenant: &pick.tenant,
                queue: &pick.queue,
            };
            let tenants = self.index.ready.get(&pick.queue);
            let tasks = tenants.and_then(|tenants| tenants.get(&pick.tenant));
            let rows = tasks
                .into_iter()
                .flatten()
                .filter_map(|(_, id)| self.tasks.get(*id));
            let claimable = rows.filter(|row| select.matches(&row.head, now));
            taken.reserve(size(pick.count));
            taken.extend(claimable.take(size(pick.count)).map(|row| {
                let (node, incarnation) = (&request.node, request.incarnation);
                claim::take(&row.head, node, incarnation, request.batch, now)
            }));
        }
        for transition in taken {
            self.apply(transition);
        }
        self.held_in(&request.node, request.incarnation, request.batch)
    }

    /// What a claim request has taken and holds still.
    fn held_in(&self, node: &NodeId, incarnation: Incarnation, batch: u64) -> Vec<Claim> {
        let key = |id| -> HeldKey { (node.clone(), incarnation, batch, TaskId(id)) };
        let held = self.index.held.range(key(Uuid::nil())..=key(Uuid::max()));
        let rows = held.filter_map(|(.., id)| self.tasks.get(*id));
        let mut claims: Vec<_> = rows.map(|row| self.answer(row)).collect();
        claims.sort_unstable_by_key(|claim| (claim.head.sort_key, claim.head.id));
        claims
    }

    fn answer(&self, row: &TaskRow) -> Claim {
        let questions = row.approvals.iter().filter_map(|id| self.approvals.get(id));
        let answered = questions.filter_map(|approval| match &approval.state {
            QuestionState::Answered { decision, .. } => Some(InboxItem {
                question: approval.question.id,
                decision: decision.clone(),
            }),
            QuestionState::Open | QuestionState::Taken { .. } | QuestionState::Closed => None,
        });
        Claim {
            head: row.head.clone(),
            spec: Arc::clone(&row.spec),
            has_journal: !row.journal.is_empty(),
            inbox: answered.collect(),
        }
    }

    pub(super) fn commit(
        &mut self,
        mut commit: Commit,
        now: Timestamp,
    ) -> Result<Committed, LedgerError> {
        let id = commit.claim.task;
        let row = self.tasks.get_mut(id).ok_or(LedgerError::NoTask(id))?;
        let mut stored = Stored {
            journal: &row.journal,
            approvals: &self.approvals,
        };
        let outcome = commit::outcome(&row.head, &commit, &mut stored, &self.policy, now)?;
        let Some(outcome) = outcome else {
            return Ok(Committed {
                state: Some(row.head.state),
                episodes: self.numbers(&commit.episodes),
            });
        };
        row.journal
            .extend(commit.entries.drain(outcome.append_from..));
        check(|| gapless(&row.journal));
        let state = Some(outcome.transition.to());
        self.apply(outcome.transition);
        for (question, state) in outcome.taken {
            if let Some(approval) = self.approvals.get_mut(&question) {
                approval.state = state;
            }
        }
        if let Settlement::Wait(question) = commit.settlement {
            self.ask(id, *question, now);
        }
        for message in commit.outbox {
            self.post(message, now);
        }
        let episodes = self.learn(commit.episodes, now);
        Ok(Committed { episodes, state })
    }

    /// Once per effect and place.
    fn post(&mut self, message: OutboxMessage, now: Timestamp) {
        let Entry::Vacant(vacant) = self.outbox_numbers.entry(message.id()) else {
            return;
        };
        self.outbox_last += 1;
        let number = *vacant.insert(self.outbox_last);
        let posted = Posted {
            number,
            posted_at: now,
            acknowledged_at: None,
            message,
        };
        self.outbox.insert(number, posted);
    }

    /// Returns those that are not there.
    pub(super) fn acknowledge(
        &mut self,
        messages: Vec<MessageId>,
        now: Timestamp,
    ) -> Vec<MessageId> {
        let mut unknown = Vec::new();
        for id in messages {
            let number = self.outbox_numbers.get(&id);
            match number.and_then(|number| self.outbox.get_mut(number)) {
                Some(posted) => {
                    posted.acknowledged_at.get_or_insert(now);
                }
                None => unknown.push(id),
            }
        }
        let horizon = self.policy.outbox_horizon(now);
        let (tasks, numbers) = (&self.tasks, &mut self.outbox_numbers);
        self.outbox.retain(|_, posted| {
            let live = tasks
                .get(posted.message.task)
                .is_some_and(|row| !row.head.state.is_final());
            let forgotten = !live && posted.acknowledged_at.is_some_and(|at| at <= horizon);
            if forgotten {
                numbers.remove(&posted.message.id());
            }
            !forgotten
        });
        unknown
    }

    fn ask(&mut self, task: TaskId, question: Question, now: Timestamp) {
        let Some(row) = self.tasks.get_mut(task) else {
            return;
        };
        row.approvals.push(question.id);
        let approval = ApprovalRow {
            task,
            spec: Arc::clone(&row.spec),
            asked_at: now,
            state: QuestionState::Open,
            question,
        };
        self.approvals.insert(approval.question.id, approval);
    }

    pub(super) fn decide(
        &mut self,
        id: ApprovalId,
        request: RequestId,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<Decided, LedgerError> {
        let approval = self
            .approvals
            .get_mut(&id)
            .ok_or(LedgerError::NoApproval(id))?;
        let task = approval.task;
        let head = self.tasks.get(task).map(|row| &row.head);
        let head = head.ok_or(LedgerError::NoTask(task))?;
        let decided = settle::decide(
            &approval.question,
            &approval.state,
            head,
            decision,
            request,
            now,
        )?;
        let mut state = head.state;
        if let Some(decided) = decided {
            approval.state = decided.question;
            if let Some(transition) = decided.transition {
                state = transition.to();
                self.apply(transition);
            }
        }
        Ok(Decided { task, state })
    }

    fn task(&self, id: TaskId) -> Result<&TaskRow, LedgerError> {
        self.tasks.get(id).ok_or(LedgerError::NoTask(id))
    }

    pub(super) fn cancel(
        &mut self,
        id: TaskId,
        request: RequestId,
        now: Timestamp,
    ) -> Result<State, LedgerError> {
        let TaskRow { head, requests, .. } = self.task(id)?;
        let known = requests.get(&request).copied();
        let Some(transition) = settle::cancel(head, known, request, now)? else {
            return Ok(State::Cancelled);
        };
        let was = transition.from;
        self.apply(transition);
        Ok(was)
    }

    pub(super) fn expire(&mut self, limit: u32, now: Timestamp) -> Vec<TaskId> {
        let mut expired = Vec::new();
        while expired.len() < size(limit)
            && let Some((_, id)) = self.index.deadlines.first().copied()
            && let Some(row) = self.tasks.get(id)
            && Select::Expired.matches(&row.head, now)
            && self.apply(settle::expire(&row.head, now))
        {
            expired.push(id);
        }
        expired
    }

    pub(super) fn revive(
        &mut self,
        id: TaskId,
        request: RequestId,
        now: Timestamp,
    ) -> Result<State, LedgerError> {
        let row = self.task(id)?;
        let known = row.requests.get(&request).copied();
        let revived = settle::revive(&row.head, &row.spec, known, request, &self.policy, now)?;
        let Some(transition) = revived else {
            return Ok(State::Ready);
        };
        submit::admits(self.live(), 1, &self.policy)?;
        let was = transition.from;
        self.apply(transition);
        Ok(was)
    }

    pub(super) fn learn(&mut self, episodes: Vec<Episode>, now: Timestamp) -> Vec<u64> {
        episodes
            .into_iter()
            .map(|episode| self.learn_one(episode, now))
            .collect()
    }

    fn learn_one(&mut self, mut episode: Episode, now: Timestamp) -> u64 {
        if let Some((stream, number)) = self.episode_of.get(&episode.task).cloned() {
            let changes = self.episodes.entry(stream).or_default();
            if let Some(EpisodeChange::Learned(old)) = changes.get_mut(&number) {
                if old.teaches_same(&episode) {
                    return number;
                }
                old.text.clear();
            }
            self.episode_last += 1;
            let forgotten = EpisodeChange::Forgotten {
                number: self.episode_last,
                episode: number,
            };
            changes.insert(self.episode_last, forgotten);
        }
        self.episode_last += 1;
        let number = self.episode_last;
        (episode.number, episode.at) = (number, now);
        let stream = EpisodeStream::of(&episode);
        self.episode_of
            .insert(episode.task, (stream.clone(), number));
        let changes = self.episodes.entry(stream).or_default();
        changes.insert(number, EpisodeChange::Learned(episode));
        number
    }

    /// The numbers under which what a repeated request teaches is known.
    fn numbers(&self, episodes: &[Episode]) -> Vec<u64> {
        let number = |episode: &Episode| Some(self.episode_of.get(&episode.task)?.1);
        episodes.iter().filter_map(number).collect()
    }

    pub(super) fn save_agents(&mut self, agents: Vec<Agent>) -> Vec<AgentId> {
        let mut refused = Vec::new();
        for agent in agents {
            match agent.saved_over(self.agents.get(&agent.id)) {
                Some(saved) => {
                    self.agents.insert(saved.id.clone(), saved);
                }
                None => refused.push(agent.id),
            }
        }
        refused
    }

    pub(super) fn save_snapshot(&mut self, key: SnapshotKey, snapshot: Snapshot) {
        self.snapshots.insert(key, snapshot);
    }
}
