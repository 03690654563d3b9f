//! Requests that carry an id are done once, however often they come.

use colony_proto::v1::{
    self, ApprovalState, TaskState, approvals_client::ApprovalsClient, decision::Kind,
    revive_request::Which,
};
use tonic::{Code, Status};

use super::api::{Api, code, task, until, watch_to_the_end};

const FIRST: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const SECOND: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3302";
const THIRD: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3303";

fn decide(approval_id: &str, by: &str, request_id: Option<&str>) -> v1::DecideRequest {
    v1::DecideRequest {
        approval_id: approval_id.to_owned(),
        decision: Some(v1::Decision {
            kind: Some(Kind::Correct("password_reset".to_owned())),
            teach: None,
            by: by.to_owned(),
        }),
        request_id: request_id.map(str::to_owned),
        known_label_only: false,
    }
}

async fn approvals(api: &Api, closed_too: bool) -> Vec<v1::Approval> {
    let ask = v1::ListApprovalsRequest {
        closed_too,
        ..v1::ListApprovalsRequest::default()
    };
    let listed = ApprovalsClient::new(api.channel.clone()).list(ask).await;
    listed.expect("listed").into_inner().approvals
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_decision_is_the_same_one_and_another_is_told_who_decided() {
    let api = Api::open().await;
    let id = api.submit(task("triage", "my password is lost")).await;
    until(&api, &id, &[TaskState::Waiting]).await;
    let open = approvals(&api, false).await;
    assert_eq!((open.len(), open[0].state()), (1, ApprovalState::Open));
    let question = open[0].id.as_str();
    let mut client = ApprovalsClient::new(api.channel.clone());
    let bad = client.decide(decide(question, "ann", Some("none"))).await;
    assert_eq!(code(&bad.expect_err("no UUID")), "CLY0010");
    for _ in 0..2 {
        let decided = client.decide(decide(question, "ann", Some(FIRST))).await;
        let decided = decided.expect("decided").into_inner();
        assert_eq!(decided.task_id, id);
        assert_ne!(decided.state(), TaskState::Waiting);
    }
    for other in [Some(SECOND), None] {
        let late = client.decide(decide(question, "bob", other)).await;
        let late = late.expect_err("ann was first");
        assert_eq!(
            (late.code(), code(&late).as_str()),
            (Code::FailedPrecondition, "CLY0025")
        );
        assert!(late.message().contains("decided by ann"), "{late:?}");
    }
    let changed = client.decide(decide(question, "bob", Some(FIRST))).await;
    let changed = changed.expect_err("the id is that of ann's decision");
    assert_eq!(
        (changed.code(), code(&changed).as_str()),
        (Code::AlreadyExists, "CLY0033")
    );
    watch_to_the_end(&api, vec![id]).await;
    assert_eq!(approvals(&api, false).await, []);
    let all = approvals(&api, true).await;
    assert_eq!(all[0].state(), ApprovalState::Taken);
    assert_eq!(all[0].decision.as_ref().expect("decided").by, "ann");
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_cancel_is_the_same_one() {
    let api = Api::open().await;
    let id = api.submit(task("triage", "my password is lost")).await;
    until(&api, &id, &[TaskState::Waiting]).await;
    let cancel = |request_id: Option<&str>| v1::CancelRequest {
        task_id: id.clone(),
        request_id: request_id.map(str::to_owned),
    };
    let bad = api.tasks().cancel(cancel(Some("7"))).await;
    assert_eq!(code(&bad.expect_err("no UUID")), "CLY0010");
    for was in [TaskState::Waiting, TaskState::Cancelled] {
        let cancelled = api.tasks().cancel(cancel(Some(FIRST))).await;
        assert_eq!(cancelled.expect("cancelled").into_inner().was(), was);
    }
    for other in [Some(SECOND), None] {
        let late = api.tasks().cancel(cancel(other)).await;
        assert_eq!(code(&late.expect_err("it has ended")), "CLY0014");
    }
    let all = approvals(&api, true).await;
    assert_eq!(
        (all[0].state(), &all[0].decision),
        (ApprovalState::Closed, &None)
    );
    let mut client = ApprovalsClient::new(api.channel.clone());
    let late = client.decide(decide(&all[0].id, "ann", None)).await;
    assert_eq!(code(&late.expect_err("closed with its task")), "CLY0014");
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_cancel_or_a_revival_does_nothing_whatever_became_of_the_task() {
    let api = Api::open().await;
    let id = api.submit(task("triage", "my password is lost")).await;
    until(&api, &id, &[TaskState::Waiting]).await;
    let cancel = async |request_id: &str| {
        let ask = v1::CancelRequest {
            task_id: id.clone(),
            request_id: Some(request_id.to_owned()),
        };
        api.tasks()
            .cancel(ask)
            .await
            .map(|told| told.into_inner().was())
    };
    let revive = async |request_id: &str| {
        let ask = v1::ReviveRequest {
            which: Some(Which::TaskId(id.clone())),
            dry_run: false,
            request_id: Some(request_id.to_owned()),
        };
        let told = api.tasks().revive(ask).await?.into_inner();
        Ok::<_, Status>(told.revived[0].was())
    };
    assert_eq!(cancel(FIRST).await.expect("cancelled"), TaskState::Waiting);
    assert_eq!(revive(SECOND).await.expect("revived"), TaskState::Cancelled);
    until(&api, &id, &[TaskState::Waiting]).await;
    assert_eq!(cancel(FIRST).await.expect("a copy"), TaskState::Cancelled);
    assert_eq!(revive(SECOND).await.expect("a copy"), TaskState::Ready);
    assert_eq!(api.get(&id).await.state(), TaskState::Waiting);
    let refused = cancel(SECOND).await.expect_err("the revival's id");
    assert_eq!(code(&refused), "CLY0033");
    assert_eq!(cancel(THIRD).await.expect("cancelled"), TaskState::Waiting);
    assert_eq!(revive(SECOND).await.expect("a copy"), TaskState::Ready);
    assert_eq!(api.get(&id).await.state(), TaskState::Cancelled);
    api.close().await;
}
