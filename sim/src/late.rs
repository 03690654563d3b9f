//! Copies of requests that reach the ledger late: after their sender was answered, and in another life of
//! the node perhaps. Nothing may come of them.

use std::time::Duration;

use colony_core::{
    cycle::Decision,
    id::{ApprovalId, RequestId, TaskId},
    ledger::LastRequest,
    task::State,
};
use colony_store::{ClaimRef, ClaimRequest, Commit, Ledger, NewTask, TaskHead};
use parking_lot::Mutex;

use crate::world::World;

/// How often it is looked whether a copy is due.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A request as it was sent.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Submit(Vec<NewTask>),
    Claim(ClaimRequest),
    Commit(Commit),
    Decide(ApprovalId, RequestId, Decision),
    Cancel(TaskId, RequestId),
    Revive(TaskId, RequestId),
}

/// Copies on their way.
#[derive(Debug, Default)]
pub(crate) struct Late(Mutex<Vec<(Duration, Request)>>);

impl Late {
    /// Keeps a copy back until this moment.
    pub(crate) fn keep(&self, until: Duration, request: Request) {
        self.0.lock().push((until, request));
    }

    fn due(&self, now: Duration) -> Vec<Request> {
        let mut kept = self.0.lock();
        let due = kept.extract_if(.., |(until, _)| *until <= now);
        due.map(|(_, request)| request).collect()
    }

    /// Whether none is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// Delivers copies as they are due, as long as the node is up. Never returns.
pub(crate) async fn deliver(world: &World) {
    loop {
        let now = world.elapsed();
        // A ledger that has failed takes nothing; the next life's may.
        let due = match world.ledger_failed() {
            Some(_) => Vec::new(),
            None => world.late.due(now),
        };
        for request in due {
            let ledger = world.disk();
            let what = match request {
                Request::Submit(tasks) => format!("{:?}", ledger.submit(tasks).await),
                Request::Claim(claim) => {
                    let claimed = ledger.claim(claim).await;
                    format!("{:?}", claimed.map(|claimed| claimed.claims.len()))
                }
                Request::Commit(commit) => {
                    let claim = commit.claim;
                    let before = ledger.get(claim.task).await;
                    let committed = ledger.commit(commit).await;
                    let after = ledger.get(claim.task).await;
                    if let (Ok(before), Ok(after)) = (before, after) {
                        taken_away(world, claim, &before.head, &after.head);
                    }
                    format!("{:?}", committed.map(|committed| committed.state))
                }
                Request::Decide(id, request, decision) => {
                    format!("{:?}", ledger.decide(id, request, decision).await)
                }
                Request::Cancel(task, request) => {
                    format!("{:?}", ledger.cancel(task, request).await)
                }
                Request::Revive(task, request) => {
                    format!("{:?}", ledger.revive(task, request).await)
                }
            };
            world.note(format_args!("a late copy is answered {what}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// S14: whoever held a task before has not settled it while another one holds it.
fn taken_away(world: &World, copy: ClaimRef, before: &TaskHead, after: &TaskHead) {
    let fence = after.last_request.map(|last| match last {
        LastRequest::Waited(fence) | LastRequest::Ended(fence) | LastRequest::Released(fence) => {
            fence
        }
    });
    let held = before.state == State::Claimed && before.fence > copy.fence;
    let others = matches!(
        after.state,
        State::Claimed | State::Cancelled | State::Expired
    );
    if held && !others && fence == Some(copy.fence) {
        let (was, is) = (before.fence.0, copy.fence.0);
        let what = format!(
            "task {} was held under fence {was} and is settled under {is}",
            copy.task
        );
        world.watch.broken("S14", what);
    }
}
