//! Hostile text everywhere: data where text belongs, refused everywhere else.

use std::path::PathBuf;

use colony_proto::v1::{
    self, TaskState, agents_client::AgentsClient, approvals_client::ApprovalsClient,
    decision::Kind, field_client::FieldClient, models_client::ModelsClient,
};
use prost::Message;
use tonic::{Code, Request, Status, codegen::http::uri::PathAndQuery};

use super::api::{Api, code, submit, task, watch_to_the_end};

/// `SubmitRequest` with bytes where the interface has text.
#[derive(Clone, PartialEq, Message)]
struct RawSubmit {
    #[prost(message, optional, tag = "1")]
    task: Option<RawTask>,
}

#[derive(Clone, PartialEq, Message)]
struct RawTask {
    #[prost(string, tag = "2")]
    agent_type: String,
    #[prost(bytes = "vec", tag = "3")]
    input: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_is_refused_by_name() {
    let api = Api::open().await;
    let mut client = tonic::client::Grpc::new(api.channel.clone());
    client.ready().await.expect("connected");
    let task = RawTask {
        agent_type: "echo".to_owned(),
        input: b"caf\xe9".to_vec(),
    };
    let codec = tonic_prost::ProstCodec::<RawSubmit, v1::SubmitResponse>::default();
    let path = PathAndQuery::from_static("/colony.v1.Tasks/Submit");
    let request = Request::new(RawSubmit { task: Some(task) });
    let status = client
        .unary(request, path, codec)
        .await
        .expect_err("not text");
    assert_eq!(
        (status.code(), code(&status).as_str()),
        (Code::InvalidArgument, "CLY0011")
    );
    assert!(status.message().contains("NewTask.input"), "{status:?}");
    api.conserves(0).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn naughty_strings_are_data() {
    let folder = std::env::var_os("COLONY_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let Ok(text) = std::fs::read_to_string(folder.join("json-suites/blns.json")) else {
        eprintln!(
            "skipped: no json-suites/blns.json in {} (COLONY_DATA)",
            folder.display()
        );
        return;
    };
    let naughty: Vec<String> = serde_json::from_str(&text).expect("a list of texts");
    let api = Api::open().await;
    let (mut ids, mut refused) = (Vec::new(), 0);
    for (index, text) in naughty.iter().enumerate() {
        let mut new = task(["echo", "triage"][index % 2], text);
        new.attributes.insert("as value".to_owned(), text.clone());
        match api.tasks().submit(submit(new)).await {
            Ok(accepted) => {
                let id = accepted.into_inner().submitted.expect("an answer").task_id;
                let ask = v1::GetTaskRequest {
                    task_id: id.clone(),
                    ..v1::GetTaskRequest::default()
                };
                let kept = api.tasks().get(ask).await.expect("kept").into_inner();
                assert_eq!(&kept.task.expect("a task").input, text);
                ids.push((id, index));
            }
            Err(status) => {
                assert_eq!(
                    (status.code(), code(&status).as_str()),
                    (Code::InvalidArgument, "CLY0001"),
                    "{text:?}"
                );
                refused += 1;
            }
        }
        // The same text wherever else a text may be given.
        for status in other_fields(&api, text).await {
            let fine = matches!(status.code(), Code::InvalidArgument | Code::NotFound);
            assert!(fine, "{text:?}: {status:?}");
            code(&status);
        }
    }
    assert_eq!(ids.len() + refused, naughty.len());
    assert!(
        ids.len() > 400,
        "{} of {} accepted",
        ids.len(),
        naughty.len()
    );
    api.conserves(ids.len() as u64).await;
    let echoed: Vec<String> = ids
        .iter()
        .filter(|(_, index)| index % 2 == 0)
        .map(|(id, _)| id.clone())
        .collect();
    let changes = watch_to_the_end(&api, echoed.clone()).await;
    for id in &echoed {
        let last = changes.iter().rfind(|c| c.task_id == *id).expect("seen");
        assert_eq!(last.state(), TaskState::Done, "{id}");
    }
    api.conserves(ids.len() as u64).await;
    api.close().await;
}

/// Refusals of requests that hold `text` where an id or a name belongs. None of them changes anything.
async fn other_fields(api: &Api, text: &str) -> Vec<Status> {
    let id = || text.to_owned();
    let mut tasks = api.tasks();
    let mut found = Vec::new();
    let ask = v1::GetTaskRequest {
        task_id: id(),
        journal: true,
        journal_page_token: String::new(),
    };
    found.extend(tasks.get(ask).await.err());
    found.extend(
        tasks
            .cancel(v1::CancelRequest {
                task_id: id(),
                request_id: None,
            })
            .await
            .err(),
    );
    let feedback = v1::FeedbackRequest {
        task_id: id(),
        label: id(),
        ..v1::FeedbackRequest::default()
    };
    found.extend(tasks.feedback(feedback).await.err());
    let watch = v1::WatchRequest {
        task_ids: vec![id()],
        ..v1::WatchRequest::default()
    };
    found.extend(tasks.watch(watch).await.err());
    let mut agents = AgentsClient::new(api.channel.clone());
    found.extend(
        agents
            .get(v1::GetAgentRequest { agent_id: id() })
            .await
            .err(),
    );
    let mut approvals = ApprovalsClient::new(api.channel.clone());
    let decision = v1::Decision {
        kind: Some(Kind::Correct(id())),
        teach: None,
        by: id(),
    };
    let decide = v1::DecideRequest {
        approval_id: id(),
        decision: Some(decision),
        ..v1::DecideRequest::default()
    };
    found.extend(approvals.decide(decide).await.err());
    let mut models = ModelsClient::new(api.channel.clone());
    let test = v1::TestModelRequest {
        model: id(),
        text: "x".to_owned(),
    };
    found.extend(models.test(test).await.err());
    assert_eq!(found.len(), 7, "{text:?} was taken for an id or a name");
    // A short lower-case word is a legal tenant, type and place; then the answer is empty.
    let list = v1::ListTasksRequest {
        page_token: id(),
        tenant: id(),
        ..Default::default()
    };
    found.extend(tasks.list(list).await.err());
    let mut field = FieldClient::new(api.channel.clone());
    let sense = v1::SenseRequest {
        location_prefix: id(),
        tenant: id(),
        ..Default::default()
    };
    found.extend(field.sense(sense).await.err());
    found
}
