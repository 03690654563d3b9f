//! The simulated people who decide what agents ask.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_proto::v1::{
    Accepted, Approval, DecideRequest, Decision, ListApprovalsRequest,
    approvals_client::ApprovalsClient, decision::Kind,
};
use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha12Rng;
use tonic::{Code, Status, transport::Channel};

use crate::{host, net, workload::Reviewer, world::World};

/// Wait between two looks at what is open.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a question is left alone whose decision was given up: whoever decided thinks it is done.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// One in so many questions is decided twice, by people who do not know of each other.
const TWICE_ONE_IN: u32 = 4;
/// What is right when it is not what was proposed: few, so that many tasks teach the same.
pub(crate) const LABELS: [&str; 3] = ["it", "hr", "finance"];
/// The simulated host that reviewers are on.
pub(crate) const HOST: &str = "reviewer";

/// Decides every question, until the run ends.
pub(crate) async fn review(world: Arc<World>) -> turmoil::Result {
    let mut person = Person {
        world: &world,
        approvals: ApprovalsClient::new(net::channel(host::HOST, host::PORT)),
        rng: ChaCha12Rng::seed_from_u64(world.seed ^ 0x0ec1_de00),
        left_alone: BTreeMap::new(),
    };
    loop {
        let request = ListApprovalsRequest {
            page_size: 50,
            ..ListApprovalsRequest::default()
        };
        let open = match person.approvals.list(request).await {
            Ok(answer) => answer.into_inner().approvals,
            Err(_) => Vec::new(),
        };
        for approval in open {
            let until = person.left_alone.get(&approval.id);
            if until.is_none_or(|until| *until <= world.elapsed()) {
                person.decide(&approval).await;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

struct Person<'a> {
    world: &'a World,
    approvals: ApprovalsClient<Channel>,
    rng: ChaCha12Rng,
    left_alone: BTreeMap<String, Duration>,
}

impl Person<'_> {
    async fn decide(&mut self, approval: &Approval) {
        let Reviewer {
            accept,
            correct,
            reject,
            drop_after_ms,
        } = self.world.workload.reviewer;
        let drawn = self.rng.random_range(0..accept + correct + reject);
        let kind = if drawn < accept {
            Kind::Accept(Accepted {})
        } else if drawn < accept + correct {
            let label = LABELS.choose(&mut self.rng).copied().unwrap_or_default();
            Kind::Correct(label.to_owned())
        } else {
            Kind::Reject("it must not be done".to_owned())
        };
        let id = &approval.id;
        let known = self.left_alone.contains_key(id);
        let patience = drop_after_ms.filter(|_| !known).map(Duration::from_millis);
        let decided = match patience {
            None => self.send(id, &kind).await,
            Some(patience) => match tokio::time::timeout(patience, self.send(id, &kind)).await {
                Ok(answer) => answer,
                Err(_) => {
                    let until = self.world.elapsed() + LEFT_ALONE;
                    self.left_alone.insert(id.clone(), until);
                    Err(Status::cancelled("given up"))
                }
            },
        };
        let code = decided.as_ref().map_or_else(Status::code, |()| Code::Ok);
        self.world.note(format_args!("approval {id} {code:?}"));
        if decided.is_err() {
            return;
        }
        let fact = (approval.task_id.clone(), kind);
        self.world.facts.lock().decided.insert(id.clone(), fact);
        if self.rng.random_ratio(1, TWICE_ONE_IN) {
            let other = Kind::Correct("something else".to_owned());
            if self.send(id, &other).await.is_ok() {
                let what = format!("approval {id} was decided twice");
                self.world.watch.broken("S11", what);
            }
        }
    }

    async fn send(&self, id: &str, kind: &Kind) -> Result<(), Status> {
        let decision = Decision {
            kind: Some(kind.clone()),
            teach: Some(true),
            by: "reviewer".to_owned(),
        };
        let request = DecideRequest {
            approval_id: id.to_owned(),
            decision: Some(decision),
            ..DecideRequest::default()
        };
        self.approvals.clone().decide(request).await.map(drop)
    }
}
