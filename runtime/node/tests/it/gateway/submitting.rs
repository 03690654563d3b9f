//! What goes in: accepted with its journal, or refused with a status, a code and a field.

use colony_proto::v1::{self, TaskState, submitted::Outcome};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::api::{Api, code, refused, submit, task, until, watch_to_the_end};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_watched_and_read_back_with_its_journal() {
    let api = Api::open().await;
    let mut new = task("echo", "hello");
    new.attributes.insert("ticket".to_owned(), "17".to_owned());
    new.dedupe_key = Some("first".to_owned());
    let mut request = Request::new(submit(new.clone()));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().expect("ascii"));
    let submitted = api
        .tasks()
        .submit(request)
        .await
        .expect("accepted")
        .into_inner();
    let submitted = submitted.submitted.expect("an answer");
    assert_eq!(submitted.outcome(), Outcome::Accepted);
    let id = submitted.task_id;

    let changes = watch_to_the_end(&api, vec![id.clone()]).await;
    assert_eq!(changes.last().expect("changes").state(), TaskState::Done);
    let ask = v1::GetTaskRequest {
        task_id: id.clone(),
        journal: true,
        journal_page_token: String::new(),
    };
    let got = api.tasks().get(ask).await.expect("known").into_inner();
    let got_task = got.task.expect("a task");
    assert_eq!(got_task.answer.expect("an answer").text, "hello");
    assert_eq!(got_task.attributes["ticket"], "17");
    let steps: Vec<&str> = got
        .journal
        .iter()
        .filter(|e| e.kind == "output")
        .map(|e| e.step.as_str())
        .collect();
    assert_eq!(
        steps,
        [
            "perceive", "retrieve", "reason", "execute", "verify", "learn"
        ]
    );
    for entry in &got.journal {
        serde_json::from_str::<serde_json::Value>(&entry.body_json).expect("JSON");
    }

    let again = api
        .tasks()
        .submit(submit(new.clone()))
        .await
        .expect("a duplicate");
    let again = again.into_inner().submitted.expect("an answer");
    assert_eq!((again.outcome(), again.task_id), (Outcome::Duplicate, id));
    new.input = "something else".to_owned();
    let (status, code, _) = refused(&api, new).await;
    assert_eq!((status, code.as_str()), (Code::AlreadyExists, "CLY0012"));
    api.conserves(1).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_submission_has_its_status_its_code_and_its_field() {
    use Code::InvalidArgument;
    let api = Api::open().await;
    let echo = || task("echo", "x");
    let big = "x".repeat(64 * 1024 + 1);
    let cases: Vec<(v1::NewTask, &str, &str)> = vec![
        (task("echo", ""), "CLY0001", "task.input"),
        (task("echo", " \u{feff}\0"), "CLY0001", "task.input"),
        (task("echo", &big), "CLY0002", "task.input"),
        (task("poet", "x"), "CLY0003", "task.agent_type"),
        (task("", "x"), "CLY0010", "task.agent_type"),
        (task("Not A Type", "x"), "CLY0010", "task.agent_type"),
        (
            v1::NewTask {
                id: Some("7".to_owned()),
                ..echo()
            },
            "CLY0010",
            "task.id",
        ),
        (
            // Version 4.
            v1::NewTask {
                id: Some("3f2504e0-4f89-41d3-9a0c-0305e82c3301".to_owned()),
                ..echo()
            },
            "CLY0010",
            "task.id",
        ),
        (
            v1::NewTask {
                tenant: "../etc".to_owned(),
                ..echo()
            },
            "CLY0010",
            "task.tenant",
        ),
        (
            v1::NewTask {
                tenant: "ä".to_owned(),
                ..echo()
            },
            "CLY0010",
            "task.tenant",
        ),
        (
            v1::NewTask {
                tenant: "a".repeat(65),
                ..echo()
            },
            "CLY0010",
            "task.tenant",
        ),
        (
            v1::NewTask {
                deadline_us: Some(1),
                ..echo()
            },
            "CLY0004",
            "task.deadline_us",
        ),
        (
            v1::NewTask {
                ttl_ms: Some(0),
                ..echo()
            },
            "CLY0004",
            "task.deadline_us",
        ),
        (
            v1::NewTask {
                ttl_ms: Some(1),
                deadline_us: Some(1),
                ..echo()
            },
            "CLY0010",
            "task.ttl_ms",
        ),
        (
            v1::NewTask {
                priority: 11,
                ..echo()
            },
            "CLY0010",
            "task.priority",
        ),
        (
            v1::NewTask {
                priority: u32::MAX,
                ..echo()
            },
            "CLY0010",
            "task.priority",
        ),
        (
            v1::NewTask {
                dedupe_key: Some(String::new()),
                ..echo()
            },
            "CLY0007",
            "task.dedupe_key",
        ),
        (
            v1::NewTask {
                expected: Some("a\0".to_owned()),
                ..echo()
            },
            "CLY0008",
            "task.expected",
        ),
        (
            v1::NewTask {
                attributes: [("k".to_owned(), "v".repeat(2_000))].into(),
                ..echo()
            },
            "CLY0006",
            "task.attributes",
        ),
        (
            v1::NewTask {
                attributes: (0..33).map(|i| (i.to_string(), String::new())).collect(),
                ..echo()
            },
            "CLY0005",
            "task.attributes",
        ),
    ];
    for (bad, expected, field) in cases {
        let shown = format!("{:.80}", format!("{bad:?}"));
        assert_eq!(
            refused(&api, bad).await,
            (InvalidArgument, expected.to_owned(), field.to_owned()),
            "{shown}"
        );
    }
    let none = api.tasks().submit(v1::SubmitRequest { task: None }).await;
    assert_eq!(code(&none.expect_err("nothing to do")), "CLY0010");

    let batch = |tasks| v1::SubmitBatchRequest { tasks };
    let one_bad = batch(vec![echo(), task("echo", ""), echo()]);
    let status = api
        .tasks()
        .submit_batch(one_bad)
        .await
        .expect_err("all or none");
    assert_eq!(code(&status), "CLY0001");
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("a field").field_violations;
    assert_eq!(violations[0].field, "tasks[1].input");
    let many = batch(vec![echo(); 1_001]);
    let status = api.tasks().submit_batch(many).await.expect_err("too many");
    assert_eq!(code(&status), "CLY0009");
    let huge = batch(vec![task("echo", &"x".repeat(60_000)); 100]);
    let status = api
        .tasks()
        .submit_batch(huge)
        .await
        .expect_err("too large for the API");
    assert_eq!(
        (status.code(), code(&status).as_str()),
        (InvalidArgument, "CLY0019")
    );
    api.conserves(0).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_made_by_the_client_is_known_again_with_the_state_of_its_task() {
    let api = Api::open().await;
    let id = "01890f3e-0000-7000-8000-000000000001";
    let new = v1::NewTask {
        id: Some(id.to_owned()),
        ..task("triage", "my password is lost")
    };
    assert_eq!(api.submit(new.clone()).await, id);
    until(&api, id, &[TaskState::Waiting]).await;
    let again = api.tasks().submit(submit(new.clone())).await;
    let again = again
        .expect("a duplicate")
        .into_inner()
        .submitted
        .expect("an answer");
    assert_eq!(
        (again.task_id.as_str(), again.outcome(), again.state()),
        (id, Outcome::Duplicate, TaskState::Waiting)
    );
    let other = v1::NewTask {
        input: "my phone is lost".to_owned(),
        ..new.clone()
    };
    let status = api.tasks().submit(submit(other.clone())).await;
    let status = status.expect_err("another payload");
    assert_eq!(
        (status.code(), code(&status).as_str()),
        (Code::AlreadyExists, "CLY0012")
    );
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("a field").field_violations;
    assert_eq!(violations[0].field, "task.id");
    let metadata = &details.error_info().expect("a reason").metadata;
    assert_eq!(
        (metadata["task_id"].as_str(), metadata["state"].as_str()),
        (id, "waiting")
    );
    // In a batch each has its outcome, and the new one is accepted.
    let tasks = vec![new, other, task("echo", "hello")];
    let batch = api
        .tasks()
        .submit_batch(v1::SubmitBatchRequest { tasks })
        .await;
    let outcomes = batch.expect("accepted").into_inner().submitted;
    let outcomes: Vec<_> = outcomes.iter().map(|s| (s.outcome(), s.state())).collect();
    assert_eq!(
        outcomes,
        [
            (Outcome::Duplicate, TaskState::Waiting),
            (Outcome::Conflict, TaskState::Waiting),
            (Outcome::Accepted, TaskState::Ready),
        ]
    );
    api.conserves(2).await;
    api.close().await;
}
