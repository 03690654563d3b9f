//! The ledger as the simulated node sees it: the engine in memory behind faults, and somebody watching.
//!
//! ```text
//!   call ─► counted ─► slow disk ─► engine ─► answer
//!             │ storage error          │ crash: before the call, with the call unsynced, synced but unanswered
//!             ├───────► answer         ├────► no answer, ever: the node is off
//!             └ row not readable: its  └ sync fails: outcome unknown, and no more answers from this life's ledger
//!               task ends
//! ```

use std::{collections::BTreeMap, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use async_trait::async_trait;
use colony_core::{
    cycle::{Decision, Output},
    id::{AgentId, ApprovalId, NodeId, RequestId, TaskId, Tenant},
    journal::{Entry, Note},
    ledger::submit::{self, Known, Planned},
    mutant,
    task::{Ending, Spec, State},
    unit::{Ratio, Timestamp},
};
use colony_store::{
    Agent, Approval, ApprovalFilter, Change, ClaimRequest, Claimed, Commit, Committed, Counts,
    Cursor, Decided, Episode, EpisodeChange, EpisodeStream, Health, Ledger, LedgerError, MessageId,
    NewTask, Others, OutboxFilter, Page, Policy, Posted, Record, Registered, Snapshot, SnapshotKey,
    Submitted, TaskFilter, Verification, memory::MemoryLedger,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    late::Request,
    watch::heads,
    workload::{Call, Fault, InFlight, Phase},
    world::{Met, World},
};

/// See the module. One for each life of the node.
#[derive(Debug)]
pub(crate) struct FaultyLedger {
    pub(crate) world: Arc<World>,
    pub(crate) engine: MemoryLedger,
    /// What each tenant's claims weigh.
    pub(crate) weights: BTreeMap<Tenant, u32>,
    /// Rises with every answer that somebody waits for: what wakes the market under [`Mutant::C2`].
    ///
    /// [`Mutant::C2`]: colony_core::mutants::Mutant::C2
    pub(crate) answered: watch::Sender<u64>,
    /// What was acknowledged in this life and may not be synced yet, under [`Mutant::AckBeforeSync`].
    ///
    /// [`Mutant::AckBeforeSync`]: colony_core::mutants::Mutant::AckBeforeSync
    pub(crate) promised: Mutex<Vec<NewTask>>,
    /// Whether its disk has failed in this life.
    pub(crate) health: watch::Sender<Health>,
}

impl FaultyLedger {
    /// A call that is about no task in particular.
    async fn through<T>(
        &self,
        call: Call,
        copy: Option<Request>,
        run: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        self.about(call, None, copy, run).await
    }

    /// A call, with what it meets; `task` is the one that it is about, if there is such a one.
    async fn about<T>(
        &self,
        call: Call,
        task: Option<TaskId>,
        copy: Option<Request>,
        run: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let world = &self.world;
        world.powered().await;
        let mut run = pin!(run);
        let has_failed = self.has_failed();
        let met = match world.meets(call) {
            Met::Unknown(_) if has_failed => Met::Nothing,
            Met::Unreadable => match task {
                Some(task) if self.set_aside(call, task).await => Met::Unreadable,
                Some(_) | None => Met::Nothing,
            },
            met @ (Met::Nothing
            | Met::Error
            | Met::Unknown(_)
            | Met::Copied(_)
            | Met::Crash(..)) => met,
        };
        if let (Met::Copied(after), Some(copy)) = (met, copy) {
            world.late.keep(world.elapsed() + after, copy);
        }
        match met {
            Met::Nothing | Met::Copied(_) => {
                let delay = world.disk_delay();
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                    world.powered().await;
                }
                let answer = run.await;
                world.powered().await;
                let asked = [
                    Call::Submit,
                    Call::Decide,
                    Call::Commit,
                    Call::Cancel,
                    Call::Revive,
                ];
                if asked.contains(&call) {
                    self.answered.send_modify(|answers| *answers += 1);
                }
                if let Some(task) = task {
                    world.watch.task_touched(&self.engine, task);
                }
                match answer {
                    // It waited for the sync that has failed.
                    Err(LedgerError::Shut) if call.writes() && !has_failed && self.has_failed() => {
                        Err(unknown())
                    }
                    answer => answer,
                }
            }
            Met::Error => {
                world.note(format_args!("{call:?} fails"));
                let what = "the disk is away".to_owned();
                Err(LedgerError::Storage { what })
            }
            Met::Unknown(in_flight) => {
                // Queued, and its sync not over; where a write takes no time, it is done or is not.
                let takes_no_time = world.workload.world.sync_ms == 0;
                if !(takes_no_time && in_flight == InFlight::Dropped) {
                    poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_ready())).await;
                }
                world.note(format_args!("the sync of a {call:?} fails, {in_flight:?}"));
                world.fail_ledger(in_flight);
                self.health.send_replace(Health::Failed(FAILED.to_owned()));
                Err(unknown())
            }
            Met::Unreadable => Err(LedgerError::Unreadable {
                what: what_is_damaged(call).to_owned(),
            }),
            Met::Crash(phase, outage) => {
                match phase {
                    Phase::Before => {}
                    Phase::Unsynced => {
                        // Once: it is queued, and its sync not over, unless there is none.
                        poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_ready())).await;
                    }
                    Phase::Unanswered => drop(run.await),
                }
                world.note(format_args!("crash at {call:?}, {phase:?}"));
                world.cut_power(InFlight::Dropped, outage);
                std::future::pending().await
            }
        }
    }
}

/// What the disk says when a sync fails.
const FAILED: &str = "the disk has dropped what was written";

fn unknown() -> LedgerError {
    let what = FAILED.to_owned();
    LedgerError::Unknown { what }
}

/// The row of a task that a call did not find readable.
fn what_is_damaged(call: Call) -> &'static str {
    if matches!(call, Call::Journal | Call::Commit) {
        "journal cannot be read: a bit has flipped"
    } else if call == Call::Decide {
        "approvals cannot be read: a bit has flipped"
    } else {
        "live cannot be read: a bit has flipped"
    }
}

impl FaultyLedger {
    fn has_failed(&self) -> bool {
        *self.health.borrow() != Health::Working
    }

    /// Ends a live task of which a row cannot be read; false: it has ended before.
    async fn set_aside(&self, call: Call, task: TaskId) -> bool {
        let what = what_is_damaged(call);
        let set_aside = &self.world.set_aside;
        let live = self.engine.get(task).await;
        if !live.is_ok_and(|record| !record.head.state.is_final()) {
            return false;
        }
        set_aside.lock().insert(task, what.to_owned());
        let cancelled = self.engine.cancel(task, RequestId(task.0)).await;
        if cancelled.is_err() {
            set_aside.lock().remove(&task);
            return false;
        }
        self.world.note(format_args!("task {task}: {what}"));
        true
    }

    /// What a ledger on a disk says of a task that was set aside: see [`World::set_aside`].
    fn as_read(&self, mut record: Record) -> Record {
        let set_aside = self.world.set_aside.lock();
        if let Some(row) = set_aside.get(&record.head.id)
            && record.head.state == State::Cancelled
        {
            record.head.state = State::Dead;
            let reason = row.clone();
            record.head.ending = Some(Ending::Failed { reason });
        }
        record
    }

    /// The first task that the claim would get.
    fn first_of(&self, request: &ClaimRequest) -> Option<TaskId> {
        let mut faults = self.world.workload.faults.iter();
        if !faults.any(|fault| matches!(fault, Fault::Unreadable { .. })) {
            return None;
        }
        let ready = heads(&self.engine, &[State::Ready]);
        let wanted = |record: &Record| request.free.get(&record.head.queue).is_some_and(|n| *n > 0);
        let first = ready.iter().rev().find(|record| wanted(record));
        first.map(|record| record.head.id)
    }

    /// Answers a submit as the rules have it, and lets it reach the disk when it may: [`Mutant::AckBeforeSync`].
    ///
    /// [`Mutant::AckBeforeSync`]: colony_core::mutants::Mutant::AckBeforeSync
    async fn promise(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        let answers = {
            let mut promised = self.promised.lock();
            let known = self.known(&tasks, &promised);
            let live = known.len() as u64;
            let planned = submit::plan(&tasks, &known, live, &Policy::default(), self.now())?;
            let answers = planned.into_iter().map(|planned| match planned {
                Planned::Write(head) => Submitted::Accepted(head.id),
                Planned::Answer(answer) => answer,
            });
            promised.extend(tasks.iter().cloned());
            answers.collect()
        };
        let engine = self.engine.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody sees it end: that is the fault"
        )]
        tokio::spawn(async move { engine.submit(tasks).await });
        Ok(answers)
    }

    /// What was written down, or promised in this life, of each of these.
    fn known(&self, tasks: &[NewTask], promised: &[NewTask]) -> Vec<Option<Known>> {
        let written = heads(&self.engine, &[]);
        let written = written
            .iter()
            .map(|record| (record.head.id, record.head.state, &record.spec));
        let promised = promised.iter().map(|new| (new.id, State::Ready, &new.spec));
        let all: Vec<(TaskId, State, &Arc<Spec>)> = written.chain(promised).collect();
        let known = tasks.iter().map(|task| {
            let spec = &task.spec;
            let (id, state, known) = all.iter().find(|(id, _, known)| {
                let same_key = known.dedupe_key.is_some() && known.dedupe_key == spec.dedupe_key;
                *id == task.id || same_key && known.tenant == spec.tenant
            })?;
            let (id, state, same_payload) = (*id, *state, known.same_payload(spec));
            Some(Known {
                id,
                state,
                same_payload,
            })
        });
        known.collect()
    }
}

/// What a journal does to numbers that is written with fewer digits than they have.
fn lose_last_digit(entry: &mut Entry) {
    if let Note::Output(Output::Reason(thought)) = &mut entry.note {
        let confidence = &mut thought.answer.confidence;
        *confidence = Ratio::clamped(f64::from_bits(confidence.get().to_bits().saturating_sub(1)));
    }
}

#[async_trait]
impl Ledger for FaultyLedger {
    fn id(&self) -> Uuid {
        self.engine.id()
    }

    fn now(&self) -> Timestamp {
        self.engine.now()
    }

    fn ready_wakes(&self) -> watch::Receiver<u64> {
        if mutant!(C2) {
            return self.answered.subscribe();
        }
        self.engine.ready_wakes()
    }

    fn latest(&self) -> watch::Receiver<Cursor> {
        self.engine.latest()
    }

    fn posted(&self) -> watch::Receiver<u64> {
        self.engine.posted()
    }

    fn health(&self) -> watch::Receiver<Health> {
        if mutant!(DeafNode) {
            return self.engine.health();
        }
        self.health.subscribe()
    }

    async fn register(&self, node: &NodeId, others: Others) -> Result<Registered, LedgerError> {
        let register = self.engine.register(node, others);
        self.through(Call::Register, None, register).await
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        let copy = Some(Request::Submit(tasks.clone()));
        if mutant!(AckBeforeSync) {
            let promise = self.promise(tasks);
            return self.through(Call::Submit, copy, promise).await;
        }
        let submit = self.engine.submit(tasks);
        self.through(Call::Submit, copy, submit).await
    }

    async fn claim(&self, mut request: ClaimRequest) -> Result<Claimed, LedgerError> {
        if mutant!(IdleSlots) {
            let mut left = request.total;
            for free in request.free.values_mut() {
                *free = left.min(*free);
                left -= *free;
            }
        }
        let before = self.world.watch.claimable(&self.engine, &request);
        let claim = self.engine.claim(request.clone());
        let copy = Some(Request::Claim(request.clone()));
        let first = self.first_of(&request);
        let claimed = match self.about(Call::Claim, first, copy, claim).await {
            // What was set aside is left out.
            Err(LedgerError::Unreadable { .. }) => {
                let claim = self.engine.claim(request.clone());
                self.through(Call::Claim, None, claim).await?
            }
            claimed => claimed?,
        };
        self.world.note(format_args!(
            "claim {} gets {}",
            request.batch,
            claimed.claims.len()
        ));
        let weights = &self.weights;
        self.world
            .watch
            .claimed(&request, &before, &claimed, weights);
        Ok(claimed)
    }

    async fn commit(&self, mut commit: Commit) -> Result<Committed, LedgerError> {
        if mutant!(C14) {
            self.engine
                .learn(std::mem::take(&mut commit.episodes))
                .await?;
        }
        let (claim, agent) = (commit.claim, commit.agent.clone());
        let copy = Some(Request::Commit(commit.clone()));
        let commit = self.engine.commit(commit);
        let task = Some(claim.task);
        let committed = self.about(Call::Commit, task, copy, commit).await;
        let state = committed.as_ref().map(|committed| committed.state);
        self.world.note(format_args!(
            "commit {} fence {} by {agent:?}: {state:?}",
            claim.task, claim.fence.0
        ));
        committed
    }

    async fn decide(
        &self,
        id: ApprovalId,
        request: RequestId,
        decision: Decision,
    ) -> Result<Decided, LedgerError> {
        let copy = Some(Request::Decide(id, request, decision.clone()));
        let decide = self.engine.decide(id, request, decision);
        let asked = self.engine.approval(id).await.ok();
        let task = asked.map(|approval| approval.task);
        self.about(Call::Decide, task, copy, decide).await
    }

    async fn cancel(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        let cancel = self.engine.cancel(task, request);
        let copy = Some(Request::Cancel(task, request));
        self.about(Call::Cancel, Some(task), copy, cancel).await
    }

    async fn expire(&self, limit: u32) -> Result<Vec<TaskId>, LedgerError> {
        self.through(Call::Expire, None, self.engine.expire(limit))
            .await
    }

    async fn revive(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        if let Some(row) = self.world.set_aside.lock().get(&task) {
            let what = row.clone();
            return Err(LedgerError::Unreadable { what });
        }
        let revive = self.engine.revive(task, request);
        let copy = Some(Request::Revive(task, request));
        self.through(Call::Revive, copy, revive).await
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        let record = self.engine.get(task);
        let record = match self.about(Call::Get, Some(task), None, record).await {
            // What is left of the task says so.
            Err(LedgerError::Unreadable { .. }) => {
                let record = self.engine.get(task);
                self.through(Call::Get, None, record).await
            }
            record => record,
        };
        record.map(|record| self.as_read(record))
    }

    async fn list(&self, filter: TaskFilter) -> Result<Page<Record>, LedgerError> {
        let page = self.engine.list(filter);
        let page = self.through(Call::List, None, page).await?;
        let items = page.items.into_iter();
        Ok(Page {
            items: items.map(|record| self.as_read(record)).collect(),
            more: page.more,
        })
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        let journal = self.engine.journal(task);
        let journal = self.about(Call::Journal, Some(task), None, journal);
        let mut journal = journal.await?;
        if mutant!(C12) {
            journal.iter_mut().for_each(lose_last_digit);
        }
        Ok(journal)
    }

    async fn approval(&self, id: ApprovalId) -> Result<Approval, LedgerError> {
        let approval = self.engine.approval(id);
        let asked = self.engine.approval(id).await.ok();
        let task = asked.map(|approval| approval.task);
        self.about(Call::Get, task, None, approval).await
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Page<Approval>, LedgerError> {
        let page = self.engine.approvals(filter);
        self.through(Call::List, None, page).await
    }

    async fn counts(&self) -> Result<Counts, LedgerError> {
        let counts = self.engine.counts();
        self.through(Call::List, None, counts).await
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        let changes = self.engine.changes(after, limit);
        let mut changes = self.through(Call::List, None, changes).await?;
        let set_aside = self.world.set_aside.lock();
        for change in &mut changes {
            if change.state == State::Cancelled && set_aside.contains_key(&change.task) {
                change.state = State::Dead;
            }
        }
        Ok(changes)
    }

    async fn outbox(&self, filter: OutboxFilter) -> Result<Page<Posted>, LedgerError> {
        let page = self.engine.outbox(filter);
        self.through(Call::List, None, page).await
    }

    async fn acknowledge(&self, messages: Vec<MessageId>) -> Result<Vec<MessageId>, LedgerError> {
        let unknown = self.engine.acknowledge(messages);
        self.through(Call::Commit, None, unknown).await
    }

    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError> {
        self.through(Call::Learn, None, self.engine.learn(episodes))
            .await
    }

    async fn episode_streams(&self) -> Result<Vec<EpisodeStream>, LedgerError> {
        let streams = self.engine.episode_streams();
        self.through(Call::Load, None, streams).await
    }

    async fn episodes(
        &self,
        stream: &EpisodeStream,
        after: u64,
        limit: u32,
    ) -> Result<Page<EpisodeChange>, LedgerError> {
        let page = self.engine.episodes(stream, after, limit);
        self.through(Call::Load, None, page).await
    }

    async fn episodes_floor(&self, stream: &EpisodeStream, live: u32) -> Result<u64, LedgerError> {
        let floor = self.engine.episodes_floor(stream, live);
        self.through(Call::Load, None, floor).await
    }

    async fn save_agents(&self, agents: Vec<Agent>) -> Result<Vec<AgentId>, LedgerError> {
        self.through(Call::Save, None, self.engine.save_agents(agents))
            .await
    }

    async fn agents(&self) -> Result<Vec<Agent>, LedgerError> {
        let agents = self.engine.agents();
        self.through(Call::Load, None, agents).await
    }

    async fn save_snapshot(&self, key: SnapshotKey, snapshot: Snapshot) -> Result<(), LedgerError> {
        self.through(Call::Save, None, self.engine.save_snapshot(key, snapshot))
            .await
    }

    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Snapshot>, LedgerError> {
        let snapshot = self.engine.snapshot(key);
        self.through(Call::Load, None, snapshot).await
    }

    async fn verify(&self) -> Result<Verification, LedgerError> {
        self.engine.verify().await
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}
