//! The simulated people who submit: each task as the workload has it, and what is done with it then.

use std::{sync::Arc, time::Duration};

use colony_core::{task::State, unit::Timestamp};
use colony_proto::v1::{
    CancelRequest, FeedbackRequest, GetTaskRequest, NewTask, ReviveRequest, SubmitRequest,
    Submitted, Task, TaskState, revive_request::Which, submitted::Outcome,
    tasks_client::TasksClient,
};
use colony_store::Ledger as _;
use futures_util::{FutureExt as _, future::join_all};
use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha12Rng;
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

use crate::{facts::Planned, host, net, reviewer::LABELS, workload::Client, world::World};

/// Wait between two looks at something that has not happened yet.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The simulated host that clients are on.
pub(crate) const HOST: &str = "clients";

const SUBJECTS: [&str; 4] = ["my password", "the printer", "my invoice", "the vpn"];
const TROUBLES: [&str; 4] = ["does not work", "is lost", "is slow", "was changed"];

/// Does what the workload's clients do, all at once; ends when each has seen everything end.
pub(crate) async fn submit_all(world: Arc<World>) -> turmoil::Result {
    let clients = world
        .workload
        .clients
        .iter()
        .flat_map(|client| (0..client.count()).map(move |_| client));
    // One line for all: several would break off at one moment in the order of a random number.
    let line = TasksClient::new(net::channel(host::HOST, host::PORT));
    let all = clients.zip(0..).map(|(client, number)| {
        let (world, line) = (&world, line.clone());
        async move {
            Person::new(world, client, number, line).live().await;
            world.facts.lock().clients_done.push(world.elapsed());
        }
    });
    join_all(all).await;
    Ok(())
}

/// One client.
struct Person<'a> {
    world: &'a World,
    client: &'a Client,
    number: u32,
    tasks: TasksClient<Channel>,
    rng: ChaCha12Rng,
}

/// A task that was acknowledged.
struct Pending {
    id: String,
    key: String,
    cancel_at: Option<Duration>,
    /// The request that cancels it, whenever that is sent.
    cancel_request: String,
    revive_request: String,
    revives: bool,
}

impl<'a> Person<'a> {
    fn new(world: &'a World, client: &'a Client, number: u32, tasks: TasksClient<Channel>) -> Self {
        let seed = world.seed ^ (u64::from(number) << 32) ^ 0x0c11_e475;
        Self {
            world,
            client,
            number,
            tasks,
            rng: ChaCha12Rng::seed_from_u64(seed),
        }
    }

    async fn live(&mut self) {
        let mut pending = Vec::new();
        for (number, mut planned) in self.plan() {
            let pause = self.rng.random_range(0..=self.client.pause_ms_max);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let key = format!("client{}/{number}", self.number);
            let deadline = planned.plan.deadline_ms.map(Duration::from_millis);
            let deadline = deadline.map(|after| self.world.wall().after(after));
            planned.deadline_us = deadline.map(Timestamp::as_micros);
            let facts = &self.world.facts;
            facts.lock().planned.insert(key.clone(), planned.clone());
            let Some(id) = self.submit(&key, &planned).await else {
                continue;
            };
            facts.lock().acknowledged.insert(key.clone(), id.clone());
            if planned.plan.repeats {
                self.repeat(&key, &planned, &id).await;
            }
            let cancel_after = planned.plan.cancel_after_ms;
            let cancel_at = cancel_after.map(|ms| self.world.elapsed() + Duration::from_millis(ms));
            let revives = planned.plan.revives;
            let request_id = |verb| request_id(self.number, number, verb);
            pending.push(Pending {
                id,
                key,
                cancel_at,
                cancel_request: request_id(1),
                revive_request: request_id(2),
                revives,
            });
            self.cancel_due(&mut pending).await;
        }
        for task in pending {
            if let Some(at) = task.cancel_at {
                tokio::time::sleep(at.saturating_sub(self.world.elapsed())).await;
                self.cancel(&task).await;
            }
            let mut ended = self.see_end(&task.id).await;
            self.is_named(&task.id, &ended);
            if task.revives && can_be_revived(ended.state()) {
                self.revive(&task).await;
                ended = self.see_end(&task.id).await;
                self.is_named(&task.id, &ended);
            }
            let planned = self.world.facts.lock().planned.get(&task.key).cloned();
            if let Some(planned) = planned.filter(|planned| planned.plan.repeats) {
                self.repeat(&task.key, &planned, &task.id).await;
            }
            self.world.facts.lock().ended += 1;
            self.give_feedback(&task, &ended).await;
        }
    }

    /// The tasks of this client, numbered.
    fn plan(&mut self) -> Vec<(u32, Planned)> {
        let types: Vec<String> = self.world.workload.agents.keys().cloned().collect();
        let groups = self.client.tasks.iter();
        let tasks = groups.flat_map(|tasks| (0..tasks.count()).map(move |_| tasks));
        let mut planned = Vec::new();
        for (plan, number) in tasks.zip(0..) {
            let agent_type = match plan.agent_type.as_str() {
                "" => types.choose(&mut self.rng).cloned().unwrap_or_default(),
                named => named.to_owned(),
            };
            let subject = SUBJECTS.choose(&mut self.rng).copied().unwrap_or_default();
            let trouble = TROUBLES.choose(&mut self.rng).copied().unwrap_or_default();
            // No two are alike, so that what is remembered of one can be told from all others.
            let word = plan.matter.word();
            let input = format!("{word} {subject} {trouble} c{}n{number}", self.number);
            let task = Planned {
                agent_type,
                tenant: self.client.tenant.clone(),
                input,
                deadline_us: None,
                plan: plan.clone(),
            };
            planned.push((number, task));
        }
        planned
    }

    /// Submits a task until it is acknowledged, unless its client walks away; gives its id.
    async fn submit(&mut self, key: &str, planned: &Planned) -> Option<String> {
        let mut patience = planned.plan.drop_after_ms.map(Duration::from_millis);
        loop {
            let request = self.request(key, planned, &planned.input);
            let mut tasks = self.tasks.clone();
            let answer = match patience.take() {
                None => tasks.submit(request).await,
                Some(patience) => {
                    match tokio::time::timeout(patience, tasks.submit(request)).await {
                        Ok(answer) => answer,
                        Err(_) => Err(Status::cancelled("given up")),
                    }
                }
            };
            match answer {
                Ok(answer) => {
                    let submitted = answer.into_inner().submitted.unwrap_or_default();
                    self.world
                        .note(format_args!("{key} is {}", submitted.task_id));
                    return Some(submitted.task_id);
                }
                Err(status) => {
                    self.refused(key, &status);
                    if status.code() == Code::InvalidArgument {
                        self.world.facts.lock().invalid.insert(key.to_owned());
                        return None;
                    }
                    if planned.plan.walks_away {
                        return None;
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    fn request(&self, key: &str, planned: &Planned, input: &str) -> SubmitRequest {
        let task = NewTask {
            tenant: planned.tenant.clone(),
            agent_type: planned.agent_type.clone(),
            input: input.to_owned(),
            priority: planned.plan.priority,
            ttl_ms: planned.plan.ttl_ms,
            deadline_us: planned.deadline_us,
            dedupe_key: Some(key.to_owned()),
            ..NewTask::default()
        };
        SubmitRequest { task: Some(task) }
    }

    fn refused(&self, what: &str, status: &Status) {
        self.world
            .note(format_args!("{what} refused {:?}", status.code()));
        self.world.facts.lock().retries += 1;
    }

    /// S2: the same once more is the same task, and something else under its key is refused.
    async fn repeat(&mut self, key: &str, planned: &Planned, id: &str) {
        let same = self.request(key, planned, &planned.input);
        let other = self.request(key, planned, "something else");
        match self.tasks.submit(same).await {
            Ok(answer) => {
                let Submitted {
                    task_id, outcome, ..
                } = answer.into_inner().submitted.unwrap_or_default();
                if task_id != id || outcome != Outcome::Duplicate as i32 {
                    let what = format!("{key} is task {id}, and when repeated {task_id}");
                    self.world.watch.broken("S2", what);
                }
            }
            Err(status) if status.code() == Code::InvalidArgument => {
                let what = format!("{key} is task {id}, and when repeated invalid: {status}");
                self.world.watch.broken("S2", what);
            }
            Err(status) => self.refused(key, &status),
        }
        match self.tasks.submit(other).await {
            Ok(answer) => {
                let submitted = answer.into_inner().submitted.unwrap_or_default();
                let what = format!(
                    "{key} is task {id}, and another payload under its key is {}",
                    submitted.task_id
                );
                self.world.watch.broken("S2", what);
            }
            Err(status) => self
                .world
                .note(format_args!("{key} again {:?}", status.code())),
        }
    }

    /// Cancels what is due to be.
    async fn cancel_due(&mut self, pending: &mut [Pending]) {
        for task in pending {
            if task.cancel_at.is_some_and(|at| at <= self.world.elapsed()) {
                task.cancel_at = None;
                self.cancel(task).await;
            }
        }
    }

    async fn cancel(&mut self, task: &Pending) {
        let id = &task.id;
        loop {
            match self.tasks.cancel(cancel_request(task)).await {
                Ok(_) => {
                    self.world.note(format_args!("{id} cancelled"));
                    self.world.facts.lock().cancelled.insert(id.clone());
                    return;
                }
                Err(status) if status.code() == Code::FailedPrecondition => return,
                Err(status) => {
                    self.must_be_known(id, &status);
                    self.refused(id, &status);
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// S1: nobody is told that there is no such task whose task was acknowledged.
    fn must_be_known(&self, id: &str, status: &Status) {
        if status.code() == Code::NotFound {
            let what = format!("task {id} was acknowledged, and is not there: {status}");
            self.world.watch.broken("S1", what);
        }
    }

    /// Asks until somebody says that it was done, or is no longer to be done. The request that had cancelled it comes
    /// once more, late: S10.
    async fn revive(&mut self, task: &Pending) {
        let id = &task.id;
        // From here on it may be revived, whatever its client is told.
        let had_cancelled = self.world.facts.lock().cancelled.remove(id);
        loop {
            let request = ReviveRequest {
                which: Some(Which::TaskId(id.clone())),
                dry_run: false,
                request_id: Some(task.revive_request.clone()),
            };
            match self.tasks.revive(request).await {
                Ok(_) => {
                    self.world.note(format_args!("{id} revived"));
                    break;
                }
                // It has been revived since, or cannot be read.
                Err(status)
                    if matches!(status.code(), Code::FailedPrecondition | Code::DataLoss) =>
                {
                    return;
                }
                Err(status) => self.refused(id, &status),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if had_cancelled {
            self.world.facts.lock().revived.insert(id.clone());
            match self.tasks.cancel(cancel_request(task)).await {
                Ok(_) => self.world.note(format_args!("{id} cancelled before")),
                Err(status) => self.refused(id, &status),
            }
        }
    }

    async fn see_end(&mut self, id: &str) -> Task {
        loop {
            let request = GetTaskRequest {
                task_id: id.to_owned(),
                ..GetTaskRequest::default()
            };
            match self.tasks.get(request).await {
                Ok(answer) => {
                    let task = answer.into_inner().task.unwrap_or_default();
                    if has_ended(task.state()) {
                        let state = task.state().as_str_name();
                        self.world.note(format_args!("{id} ended {state}"));
                        return task;
                    }
                }
                Err(status) => {
                    self.must_be_known(id, &status);
                    self.world
                        .note(format_args!("{id} not told {:?}", status.code()));
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// S16: a task with a row that cannot be read is dead, and says which row it is.
    fn is_named(&self, id: &str, ended: &Task) {
        let set_aside = self.world.set_aside.lock();
        let row = set_aside.iter().find(|(task, _)| task.to_string() == id);
        let Some((task, row)) = row else { return };
        // Still being set aside, and it may end otherwise before.
        let record = self.world.disk().get(*task).now_or_never();
        if !record.is_some_and(|record| record.is_ok_and(|r| r.head.state == State::Cancelled)) {
            return;
        }
        let told = ended.failure.as_deref().unwrap_or_default();
        if ended.state() != TaskState::Dead || told != row {
            let state = ended.state().as_str_name();
            let what = format!("{row}: its task {id} is {state}, {told:?}");
            self.world.watch.broken("S16", what);
        }
    }

    async fn give_feedback(&mut self, task: &Pending, ended: &Task) {
        let facts = &self.world.facts;
        let planned = facts.lock().planned.get(&task.key).cloned();
        let learns = |planned: &Planned| {
            let agents = self.world.workload.agents.get(&planned.agent_type);
            planned.plan.feedback && agents.is_some_and(|agents| agents.learns)
        };
        if !planned.is_some_and(|planned| learns(&planned)) || ended.state() != TaskState::Done {
            return;
        }
        let label = LABELS.choose(&mut self.rng).copied().unwrap_or_default();
        let label = label.to_owned();
        loop {
            let request = FeedbackRequest {
                task_id: task.id.clone(),
                label: label.clone(),
                ..FeedbackRequest::default()
            };
            match self.tasks.feedback(request).await {
                Ok(_) => {
                    self.world.note(format_args!("{} taught", task.id));
                    facts.lock().feedback.insert(task.id.clone(), label);
                    return;
                }
                Err(status) if status.code() == Code::FailedPrecondition => return,
                Err(status) => self.refused(&task.id, &status),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// A client's own UUID for what it asks of one of its tasks.
fn request_id(client: u32, task: u32, verb: u64) -> String {
    Uuid::from_u64_pair(u64::from(client), u64::from(task) << 8 | verb).to_string()
}

fn cancel_request(task: &Pending) -> CancelRequest {
    CancelRequest {
        task_id: task.id.clone(),
        request_id: Some(task.cancel_request.clone()),
    }
}

fn can_be_revived(state: TaskState) -> bool {
    match state {
        TaskState::Cancelled | TaskState::Expired | TaskState::Dead => true,
        TaskState::Unspecified
        | TaskState::Ready
        | TaskState::Claimed
        | TaskState::Waiting
        | TaskState::Done
        | TaskState::Failed => false,
    }
}

fn has_ended(state: TaskState) -> bool {
    match state {
        TaskState::Done
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Expired
        | TaskState::Dead => true,
        TaskState::Unspecified | TaskState::Ready | TaskState::Claimed | TaskState::Waiting => {
            false
        }
    }
}
