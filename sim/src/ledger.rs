//! The ledger as the simulated node sees it: the engine in memory behind faults, and somebody watching.
//!
//! ```text
//!   call ─► counted ─► slow disk ─► engine ─► answer
//!             │ storage error          │ crash: before the call, with the call unsynced, synced but unanswered
//!             └───────► answer         └────► no answer, ever: the node is off
//! ```

use std::{collections::BTreeMap, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use async_trait::async_trait;
use colony_core::{
    cycle::{Decision, Output},
    id::{AgentId, ApprovalId, NodeId, RequestId, TaskId, Tenant},
    journal::{Entry, Note},
    ledger::submit::{self, Known, Planned},
    mutant,
    task::{Spec, State},
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
    workload::{Call, InFlight, Phase},
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
}

impl FaultyLedger {
    async fn through<T>(
        &self,
        call: Call,
        copy: Option<Request>,
        run: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let world = &self.world;
        world.powered().await;
        let mut run = pin!(run);
        let met = world.meets(call);
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
                answer
            }
            Met::Error => {
                world.note(format_args!("{call:?} fails"));
                let what = "the disk is away".to_owned();
                Err(LedgerError::Storage { what })
            }
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

impl FaultyLedger {
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
        self.engine.health()
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

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, LedgerError> {
        let before = self.world.watch.claimable(&self.engine, &request);
        let claim = self.engine.claim(request.clone());
        let copy = Some(Request::Claim(request.clone()));
        let claimed = self.through(Call::Claim, copy, claim).await?;
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
        let committed = self.through(Call::Commit, copy, commit).await;
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
        self.through(Call::Decide, copy, decide).await
    }

    async fn cancel(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        let cancel = self.engine.cancel(task, request);
        let copy = Some(Request::Cancel(task, request));
        self.through(Call::Cancel, copy, cancel).await
    }

    async fn expire(&self, limit: u32) -> Result<Vec<TaskId>, LedgerError> {
        self.through(Call::Expire, None, self.engine.expire(limit))
            .await
    }

    async fn revive(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        let revive = self.engine.revive(task, request);
        let copy = Some(Request::Revive(task, request));
        self.through(Call::Revive, copy, revive).await
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        let record = self.engine.get(task);
        self.through(Call::Get, None, record).await
    }

    async fn list(&self, filter: TaskFilter) -> Result<Page<Record>, LedgerError> {
        let page = self.engine.list(filter);
        self.through(Call::List, None, page).await
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        let journal = self.engine.journal(task);
        let mut journal = self.through(Call::Journal, None, journal).await?;
        if mutant!(C12) {
            journal.iter_mut().for_each(lose_last_digit);
        }
        Ok(journal)
    }

    async fn approval(&self, id: ApprovalId) -> Result<Approval, LedgerError> {
        let approval = self.engine.approval(id);
        self.through(Call::Get, None, approval).await
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
        self.through(Call::List, None, changes).await
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
