//! What has ended is made ready again, one or many.

use colony_proto::v1::{self, TaskState, revive_request::Which};
use tonic::Code;

use super::api::{Api, code, task, until, watch_to_the_end};

fn one(id: &str, dry_run: bool) -> v1::ReviveRequest {
    v1::ReviveRequest {
        which: Some(Which::TaskId(id.to_owned())),
        dry_run,
        request_id: None,
    }
}

fn found(filter: v1::ReviveFilter, dry_run: bool) -> v1::ReviveRequest {
    v1::ReviveRequest {
        which: Some(Which::Filter(filter)),
        dry_run,
        request_id: None,
    }
}

fn cancelled() -> v1::ReviveFilter {
    v1::ReviveFilter {
        states: vec![TaskState::Cancelled.into()],
        ..v1::ReviveFilter::default()
    }
}

/// Tasks that wait for a human and are cancelled, in the order of their ids.
async fn cancelled_tasks(api: &Api, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let id = api
            .submit(task("triage", &format!("my password is lost {n}")))
            .await;
        until(api, &id, &[TaskState::Waiting]).await;
        let cancel = v1::CancelRequest {
            task_id: id.clone(),
            request_id: None,
        };
        api.tasks().cancel(cancel).await.expect("it lives");
        ids.push(id);
    }
    ids.sort_unstable();
    ids
}

fn ids(response: &v1::ReviveResponse) -> Vec<&str> {
    let revived = response.revived.iter().rev();
    revived.map(|revived| revived.task_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_is_revived_once_and_under_another_fence() {
    let api = Api::open().await;
    let id = cancelled_tasks(&api, 1).await.remove(0);
    let before = api.get(&id).await;
    let would = api
        .tasks()
        .revive(one(&id, true))
        .await
        .expect("it could be")
        .into_inner();
    assert_eq!(would.revived[0].was(), TaskState::Cancelled);
    assert_eq!(
        would.revived[0].reason,
        before.failure.clone().expect("a reason")
    );
    assert_eq!(api.get(&id).await, before, "a dry run changes nothing");
    let revived = api
        .tasks()
        .revive(one(&id, false))
        .await
        .expect("it is")
        .into_inner();
    assert_eq!(ids(&revived), [id.as_str()]);
    let after = api.get(&id).await;
    assert!(after.fence > before.fence, "{after:?}");
    until(&api, &id, &[TaskState::Waiting]).await;
    for dry_run in [true, false] {
        let again = api
            .tasks()
            .revive(one(&id, dry_run))
            .await
            .expect_err("it lives");
        assert_eq!(
            (again.code(), code(&again).as_str()),
            (Code::FailedPrecondition, "CLY0026")
        );
    }
    let nothing = one("00000000-0000-7000-8000-000000000000", false);
    let refused = api.tasks().revive(nothing).await.expect_err("no such task");
    assert_eq!(code(&refused), "CLY0013");
    api.conserves(1).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_finds_many_within_its_limit_and_goes_on_from_its_token() {
    let api = Api::open().await;
    let all = cancelled_tasks(&api, 5).await;
    let done = api.submit(task("echo", "hello")).await;
    watch_to_the_end(&api, vec![done]).await;
    let revive = async |filter, dry_run| {
        let revived = api.tasks().revive(found(filter, dry_run)).await;
        revived.expect("found").into_inner()
    };
    assert_eq!(revive(cancelled(), true).await.revived.len(), 5);
    // Dead is what a filter means that names no states.
    let dead = revive(v1::ReviveFilter::default(), false).await;
    assert_eq!((dead.revived.len(), dead.next_page_token.as_str()), (0, ""));
    for filter in [
        v1::ReviveFilter {
            agent_type: "echo".to_owned(),
            ..cancelled()
        },
        v1::ReviveFilter {
            tenant: "acme".to_owned(),
            ..cancelled()
        },
        v1::ReviveFilter {
            reason: "out of memory".to_owned(),
            ..cancelled()
        },
    ] {
        assert_eq!(ids(&revive(filter, false).await), Vec::<&str>::new());
    }
    let reason = v1::ReviveFilter {
        agent_type: "triage".to_owned(),
        tenant: "default".to_owned(),
        reason: "cancelled".to_owned(),
        limit: 3,
        ..cancelled()
    };
    let first = revive(reason.clone(), false).await;
    assert_eq!(ids(&first), all[2..]);
    let second = revive(
        v1::ReviveFilter {
            page_token: first.next_page_token,
            ..reason
        },
        false,
    )
    .await;
    assert_eq!(ids(&second), all[..2]);
    assert_eq!(
        (second.next_page_token.as_str(), second.not_revived.len()),
        ("", 0)
    );
    api.conserves(6).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused() {
    let api = Api::open().await;
    let neither = v1::ReviveRequest::default();
    let lives = v1::ReviveFilter {
        states: vec![TaskState::Ready.into()],
        ..v1::ReviveFilter::default()
    };
    let token = v1::ReviveFilter {
        page_token: "x".to_owned(),
        ..v1::ReviveFilter::default()
    };
    for bad in [
        neither,
        one("x", false),
        found(lives, false),
        found(token, false),
    ] {
        let refused = api.tasks().revive(bad).await.expect_err("unreadable");
        assert_eq!(code(&refused), "CLY0010");
    }
    api.close().await;
}
