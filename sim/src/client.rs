//! The simulated people: clients that submit and wait, and a reviewer that decides.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use colony_proto::v1::{
    Accepted, DecideRequest, Decision, GetTaskRequest, ListApprovalsRequest, NewTask,
    SubmitRequest, TaskState, approvals_client::ApprovalsClient, decision::Ruling,
    tasks_client::TasksClient,
};
use rand::{RngCore, SeedableRng, seq::IndexedRandom as _};
use rand_chacha::ChaCha12Rng;

use crate::{host, net, workload::Workload};

/// Wait between two looks at something that has not happened yet.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What happened, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Vec<String>>>);

impl History {
    /// Notes what a simulated host does now.
    pub(crate) fn note(&self, what: &str) {
        self.note_at(turmoil::sim_elapsed().unwrap_or_default(), what);
    }

    /// Notes what the world does, which is on no host.
    pub(crate) fn note_at(&self, at: Duration, what: &str) {
        let mut lines = self.0.lock().expect("no panics while it is held");
        lines.push(format!("{} {what}", at.as_micros()));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no panics while it is held").clone()
    }
}

/// Tasks that were acknowledged, and how many have been seen to end.
#[derive(Debug, Default)]
pub(crate) struct Score {
    pub(crate) acknowledged: Vec<String>,
    pub(crate) ended: u64,
    pub(crate) retries: u64,
}

pub(crate) type Scores = Arc<Mutex<Score>>;

const SUBJECTS: [&str; 4] = ["my password", "the printer", "my invoice", "the vpn"];
const TROUBLES: [&str; 4] = ["does not work", "is lost", "is slow", "was changed"];

/// Submits `tasks` tasks, each until it is acknowledged, and waits for each to end.
pub(crate) async fn submit_all(
    number: u32,
    seed: u64,
    workload: Arc<Workload>,
    history: History,
    scores: Scores,
) -> turmoil::Result {
    let mut rng = ChaCha12Rng::seed_from_u64(seed ^ (u64::from(number) << 32) ^ 0x0c11_e475);
    let mut tasks = TasksClient::new(net::channel("node", host::PORT));
    let types: Vec<&String> = workload.agents.keys().collect();
    let mut ids = Vec::new();
    for count in 0..workload.clients.tasks {
        let pause = rng.next_u64() % (workload.clients.pause_ms_max + 1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let subject = SUBJECTS.choose(&mut rng).copied().unwrap_or_default();
        let trouble = TROUBLES.choose(&mut rng).copied().unwrap_or_default();
        let key = format!("client{number}/{count}");
        let task = NewTask {
            agent_type: types
                .choose(&mut rng)
                .map(|t| (*t).clone())
                .unwrap_or_default(),
            input: format!("{subject} {trouble}"),
            dedupe_key: Some(key.clone()),
            ..NewTask::default()
        };
        let id = loop {
            match tasks
                .submit(SubmitRequest {
                    task: Some(task.clone()),
                })
                .await
            {
                Ok(reply) => {
                    let submitted = reply.into_inner().submitted.unwrap_or_default();
                    history.note(&format!("{key} is {}", submitted.task_id));
                    break submitted.task_id;
                }
                Err(status) => {
                    history.note(&format!("{key} refused {:?}", status.code()));
                    scores.lock().expect("no panics while it is held").retries += 1;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        };
        scores
            .lock()
            .expect("no panics while it is held")
            .acknowledged
            .push(id.clone());
        ids.push(id);
    }
    for id in ids {
        loop {
            let request = GetTaskRequest {
                task_id: id.clone(),
                journal: false,
            };
            let state = match tasks.get(request).await {
                Ok(reply) => reply.into_inner().task.unwrap_or_default().state(),
                Err(status) => {
                    history.note(&format!("{id} not told {:?}", status.code()));
                    TaskState::Unspecified
                }
            };
            if matches!(state, TaskState::Done | TaskState::Failed | TaskState::Dead) {
                history.note(&format!("{id} ended {}", state.as_str_name()));
                scores.lock().expect("no panics while it is held").ended += 1;
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Accepts every proposal, until all tasks have ended.
pub(crate) async fn review(total: u64, history: History, scores: Scores) -> turmoil::Result {
    let mut approvals = ApprovalsClient::new(net::channel("node", host::PORT));
    while scores.lock().expect("no panics while it is held").ended < total {
        let request = ListApprovalsRequest {
            page_size: 50,
            ..ListApprovalsRequest::default()
        };
        let open = match approvals.list(request).await {
            Ok(reply) => reply.into_inner().approvals,
            Err(_) => Vec::new(),
        };
        for approval in open {
            let decision = Decision {
                ruling: Some(Ruling::Accept(Accepted {})),
                teach: Some(true),
                by: "reviewer".to_owned(),
            };
            let id = approval.id;
            let request = DecideRequest {
                approval_id: id.clone(),
                decision: Some(decision),
            };
            let ruled = match approvals.decide(request).await {
                Ok(_) => "accepted".to_owned(),
                Err(status) => format!("{:?}", status.code()),
            };
            history.note(&format!("approval {id} {ruled}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
