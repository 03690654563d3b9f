//! Watch streams: every message can be gone on from, no gap is passed over, and there are not too many.

use std::{path::Path, sync::Arc};

use colony_core::{id::TaskId, task::Spec};
use colony_proto::v1::{self, TaskState, watch_response::Event};
use colony_store::{CHANGES_KEPT, Ledger, NewTask, Policy, SqliteLedger};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::api::{Api, code, next, submit, task, told, until, watch_to_the_end};
use crate::walk::{agent_type, clock, ledger};

fn watch(task_ids: &[&str], after_cursor: Option<&str>) -> v1::WatchRequest {
    v1::WatchRequest {
        task_ids: task_ids.iter().map(|id| (*id).to_owned()).collect(),
        after_cursor: after_cursor.map(str::to_owned),
        until_ended: false,
    }
}

/// Everything that a stream tells until one task is done, with the cursor of the first message.
async fn until_done(api: &Api, ask: v1::WatchRequest) -> (String, Vec<v1::WatchResponse>) {
    let mut stream = api.watch(ask).await;
    let first = next(&mut stream).await;
    assert_eq!(first.event, None, "the first message is a cursor alone");
    let mut seen = Vec::new();
    loop {
        let message = next(&mut stream).await;
        let done = told(&message).expect("a change").state() == TaskState::Done;
        seen.push(message);
        if done {
            return (first.cursor, seen);
        }
    }
}

fn states(seen: &[v1::WatchResponse]) -> Vec<TaskState> {
    let states = seen.iter().map(|m| told(m).expect("a change").state());
    states.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_before_its_first_change_is_taken_up_without_a_gap() {
    let api = Api::open().await;
    let mut broken = api.watch(watch(&[], None)).await;
    let first = next(&mut broken).await;
    drop(broken);
    let id = api.submit(task("echo", "one")).await;
    watch_to_the_end(&api, vec![id.clone()]).await;
    let (_, seen) = until_done(&api, watch(&[], Some(&first.cursor))).await;
    use TaskState::{Claimed, Done, Ready};
    assert_eq!(states(&seen), [Ready, Claimed, Done]);
    // And from the middle.
    let (from, rest) = until_done(&api, watch(&[], Some(&seen[0].cursor))).await;
    assert_eq!((from, &rest[..]), (seen[0].cursor.clone(), &seen[1..]));
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_present_state_comes_first_with_the_cursor_to_go_on_from() {
    let api = Api::open().await;
    let mut stream = api.watch(watch(&[], None)).await;
    let begin = next(&mut stream).await.cursor;
    let id = api.submit(task("echo", "one")).await;
    watch_to_the_end(&api, vec![id.clone()]).await;
    for after in [None, Some(begin.as_str())] {
        let mut stream = api.watch(watch(&[&id], after)).await;
        let first = next(&mut stream).await;
        let present = next(&mut stream).await;
        assert_eq!(present.cursor, first.cursor);
        let Some(Event::Present(change)) = &present.event else {
            panic!("{present:?}")
        };
        assert_eq!((&change.task_id, change.state()), (&id, TaskState::Done));
        if after.is_some() {
            // The present state is no reason to keep quiet of what led there.
            assert_eq!(first.cursor, begin);
            let change = next(&mut stream).await;
            assert!(matches!(change.event, Some(Event::Change(_))), "{change:?}");
            assert_eq!(states(&[change]), [TaskState::Ready]);
        }
    }
    // It also says of a task that had ended before the cursor how it ended.
    let ask = v1::WatchRequest {
        until_ended: true,
        ..watch(&[&id], None)
    };
    let mut stream = api.watch(ask).await;
    next(&mut stream).await;
    assert_eq!(states(&[next(&mut stream).await]), [TaskState::Done]);
    assert_eq!(stream.message().await.expect("unbroken"), None);
    api.close().await;
}

async fn out_of_range(api: &Api, cursor: &str) -> Status {
    let ask = watch(&[], Some(cursor));
    let refused = api.tasks().watch(ask).await.expect_err("out of range");
    assert_eq!(
        (refused.code(), code(&refused).as_str()),
        (Code::OutOfRange, "CLY0027"),
        "{refused:?}"
    );
    refused
}

/// The cursor that a refusal says is good.
fn oldest(refused: &Status) -> String {
    let info = refused.get_details_error_info().expect("a reason");
    let oldest = info.metadata["oldest_cursor"].clone();
    assert!(refused.message().contains(&oldest), "{refused:?}");
    oldest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_the_future_and_of_another_ledger_is_refused_with_a_good_one() {
    let api = Api::open().await;
    let id = api.submit(task("echo", "one")).await;
    watch_to_the_end(&api, vec![id]).await;
    let ledger = api.handle.ledger_id();
    let future = format!("{ledger}:1000000");
    let farthest = format!("{ledger}:{}", u64::MAX);
    let foreign = "00000000-0000-7000-8000-000000000000:1".to_owned();
    for cursor in [future, farthest, foreign] {
        let good = oldest(&out_of_range(&api, &cursor).await);
        let (_, seen) = until_done(&api, watch(&[], Some(&good))).await;
        assert_eq!(seen.len(), 3, "all there is: {seen:?}");
    }
    for none in [
        "",
        "7",
        "7:7",
        ":",
        &format!("{ledger}:-1"),
        &format!("{ledger}:"),
    ] {
        let refused = api.tasks().watch(watch(&[], Some(none))).await;
        assert_eq!(
            code(&refused.expect_err("no cursor")),
            "CLY0010",
            "{none:?}"
        );
    }
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_whose_changes_are_forgotten_is_refused_with_the_oldest() {
    let ledger = ledger();
    let nobody = agent_type("nobody");
    let (mut tasks, mut number) = (Vec::new(), 0_u64);
    while number <= CHANGES_KEPT {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        tasks.push(NewTask {
            id: TaskId::new(ledger.now(), random),
            spec: Arc::new(Spec::new(nobody.clone(), "x")),
            refusal: None,
        });
        number += 1;
    }
    while !tasks.is_empty() {
        let batch = tasks.split_off(tasks.len().saturating_sub(10_000));
        ledger.submit(batch).await.expect("accepted");
    }
    let api = Api::on(Arc::clone(&ledger), |_| {}).await;
    let begin = format!("{}:0", ledger.id());
    let good = oldest(&out_of_range(&api, &begin).await);
    assert_eq!(good, format!("{}:1", ledger.id()));
    let mut stream = api.watch(watch(&[], Some(&good))).await;
    assert_eq!(next(&mut stream).await.cursor, good);
    let change = next(&mut stream).await;
    assert!(change.cursor.starts_with(&format!("{}:2:", ledger.id())));
    api.close().await;
}

fn in_file(path: &Path) -> Arc<dyn Ledger> {
    Arc::new(SqliteLedger::open(path, Policy::default(), clock()).expect("opened"))
}

/// The cursor's ledger and place are right, and what was seen there is not what is there now.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_a_life_that_a_restored_backup_forgot_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, backup) = (folder.path().join("l.db"), folder.path().join("backup.db"));
    let api = Api::on(in_file(&path), |_| {}).await;
    let id = api.submit(task("echo", "before")).await;
    watch_to_the_end(&api, vec![id]).await;
    let begin = format!("{}:0", api.handle.ledger_id());
    let (_, seen) = until_done(&api, watch(&[], Some(&begin))).await;
    let before = seen.last().expect("told").cursor.clone();
    api.close().await;
    std::fs::copy(&path, &backup).expect("copied");

    let api = Api::on(in_file(&path), |_| {}).await;
    let id = api.submit(task("echo", "forgotten")).await;
    watch_to_the_end(&api, vec![id]).await;
    let (_, seen) = until_done(&api, watch(&[], Some(&before))).await;
    api.close().await;

    std::fs::copy(&backup, &path).expect("copied");
    std::fs::remove_file(folder.path().join("l.db.mark")).expect("moved away");
    let api = Api::on(in_file(&path), |_| {}).await;
    for input in ["another", "and another"] {
        let id = api.submit(task("echo", input)).await;
        watch_to_the_end(&api, vec![id]).await;
    }
    for message in &seen {
        out_of_range(&api, &message.cursor).await;
    }
    // What was before the backup is still so.
    let (_, seen) = until_done(&api, watch(&[], Some(&before))).await;
    assert_eq!(states(&seen).first(), Some(&TaskState::Ready));
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_names_tasks_that_exist_and_is_closed_with_the_server() {
    let api = Api::open().await;
    let bad = v1::WatchRequest {
        until_ended: true,
        ..watch(&[], None)
    };
    let refused = api.tasks().watch(bad).await.expect_err("without ids");
    assert_eq!(code(&refused), "CLY0010");
    let nothing = watch(&["00000000-0000-7000-8000-000000000000"], None);
    let refused = api.tasks().watch(nothing).await.expect_err("no such task");
    assert_eq!(code(&refused), "CLY0013");
    let mut open = api.watch(watch(&[], None)).await;
    next(&mut open).await;
    api.close().await;
    let end = open.message().await.expect_err("the server is closed");
    assert_eq!(
        (end.code(), code(&end).as_str()),
        (Code::Unavailable, "CLY0018")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_is_followed_past_its_wait() {
    let api = Api::open().await;
    let id = api.submit(task("triage", "my password is lost")).await;
    until(&api, &id, &[TaskState::Waiting]).await;
    let ask = v1::CancelRequest {
        task_id: id.clone(),
        request_id: None,
    };
    api.tasks().cancel(ask).await.expect("it lives");
    let seen = watch_to_the_end(&api, vec![id]).await;
    assert_eq!(seen.last().expect("told").state(), TaskState::Cancelled);
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_streams_are_told_when_to_come_back() {
    let api = Api::with(|config| config.gateway.watches_max = 1).await;
    let held = api.watch(watch(&[], None)).await;
    let full = api.tasks().watch(watch(&[], None)).await;
    let full = full.expect_err("the second does not fit");
    assert_eq!(
        (full.code(), code(&full).as_str()),
        (Code::Unavailable, "CLY0017")
    );
    assert!(full.get_error_details().retry_info().is_some());
    drop(held);
    api.tasks()
        .submit(submit(task("echo", "x")))
        .await
        .expect("requests are not streams");
    api.close().await;
}
