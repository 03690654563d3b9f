//! What comes out: approvals, lists, models, the status.

use colony_proto::v1::{
    self, TaskState, agents_client::AgentsClient, approvals_client::ApprovalsClient,
    cluster_client::ClusterClient, decision::Kind, models_client::ModelsClient,
};
use tonic::Code;

use super::api::{Api, code, task, until, watch_to_the_end};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_human_is_listed_decided_once_and_taught() {
    let api = Api::open().await;
    let id = api.submit(task("triage", "my password is lost")).await;
    until(&api, &id, &[TaskState::Waiting]).await;

    let mut approvals = ApprovalsClient::new(api.channel.clone());
    let open = approvals
        .list(v1::ListApprovalsRequest::default())
        .await
        .expect("listed");
    let open = open.into_inner().approvals;
    assert_eq!(open.len(), 1);
    assert_eq!(
        (open[0].task_id.as_str(), open[0].escalation_reason()),
        (id.as_str(), v1::EscalationReason::New)
    );
    let decide = |kind, by: &str| v1::DecideRequest {
        approval_id: open[0].id.clone(),
        decision: Some(v1::Decision {
            kind,
            teach: None,
            by: by.to_owned(),
        }),
        ..v1::DecideRequest::default()
    };
    let correct = || Some(Kind::Correct("password_reset".to_owned()));
    for bad in [
        decide(None, "ann"),
        decide(correct(), " "),
        decide(Some(Kind::Correct(String::new())), "ann"),
    ] {
        assert_eq!(
            code(&approvals.decide(bad).await.expect_err("incomplete")),
            "CLY0010"
        );
    }
    let decided = approvals
        .decide(decide(correct(), "ann"))
        .await
        .expect("decided");
    assert_eq!(decided.into_inner().task_id, id);
    let again = approvals
        .decide(decide(correct(), "bob"))
        .await
        .expect_err("closed");
    assert_eq!(
        (again.code(), code(&again).as_str()),
        (Code::FailedPrecondition, "CLY0025")
    );
    watch_to_the_end(&api, vec![id.clone()]).await;
    let cancel = api
        .tasks()
        .cancel(v1::CancelRequest {
            task_id: id.clone(),
            request_id: None,
        })
        .await;
    assert_eq!(code(&cancel.expect_err("it has ended")), "CLY0014");
    let feedback = v1::FeedbackRequest {
        task_id: id,
        label: "password_reset".to_owned(),
        ..v1::FeedbackRequest::default()
    };
    api.tasks().feedback(feedback).await.expect("learned");
    api.conserves(1).await;
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_to_the_end_without_gaps() {
    let api = Api::open().await;
    let tasks: Vec<_> = (0..25)
        .map(|i| task("echo", &format!("task {i}")))
        .collect();
    let submitted = api
        .tasks()
        .submit_batch(v1::SubmitBatchRequest { tasks })
        .await;
    let submitted = submitted.expect("accepted").into_inner().submitted;
    let mut expected: Vec<String> = submitted.into_iter().map(|s| s.task_id).collect();
    let (mut found, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let list = v1::ListTasksRequest {
            page_size: 10,
            page_token,
            ..Default::default()
        };
        let page = api.tasks().list(list).await.expect("listed").into_inner();
        found.extend(page.tasks.into_iter().map(|t| t.id));
        page_token = page.next_page_token;
        pages += 1;
        if page_token.is_empty() {
            break;
        }
    }
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!((found, pages), (expected, 3));

    let mut agents = AgentsClient::new(api.channel.clone());
    let list = v1::ListAgentsRequest {
        page_size: 4,
        ..Default::default()
    };
    let first = agents.list(list).await.expect("listed").into_inner();
    assert_eq!(first.agents[0].id, "echo/1");
    assert_eq!(first.next_page_token, "echo/4");
    let list = v1::ListAgentsRequest {
        page_token: first.next_page_token,
        ..Default::default()
    };
    let rest = agents.list(list).await.expect("listed").into_inner();
    let ids: Vec<_> = rest.agents.iter().map(|a| a.id.as_str()).collect();
    assert_eq!(
        (ids, rest.next_page_token.as_str()),
        (vec!["triage/1", "triage/2"], "")
    );
    let one = v1::GetAgentRequest {
        agent_id: "triage/2".to_owned(),
    };
    assert_eq!(
        agents
            .get(one)
            .await
            .expect("there")
            .into_inner()
            .agent
            .expect("one")
            .kind,
        "triage"
    );
    let none = v1::GetAgentRequest {
        agent_id: "triage/3".to_owned(),
    };
    assert_eq!(
        code(&agents.get(none).await.expect_err("there is none")),
        "CLY0013"
    );
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_status_show_the_work() {
    let api = Api::open().await;
    let mut models = ModelsClient::new(api.channel.clone());
    for name in ["minilm", "smollm2"] {
        let test = v1::TestModelRequest {
            model: name.to_owned(),
            text: "hello".to_owned(),
        };
        let answer = models.test(test).await.expect("answers").into_inner();
        assert!(!answer.preview.is_empty(), "{answer:?}");
    }
    let test = v1::TestModelRequest {
        model: "minilm".to_owned(),
        text: "x".repeat(9_000),
    };
    assert_eq!(
        code(&models.test(test).await.expect_err("too long")),
        "CLY0010"
    );
    let listed = models
        .list(v1::ListModelsRequest {})
        .await
        .expect("listed")
        .into_inner()
        .models;
    assert_eq!(listed.len(), 2);
    assert!(
        listed
            .iter()
            .all(|model| model.engine == "echo" && model.requests == 1),
        "{listed:?}"
    );

    let id = api.submit(task("echo", "hello")).await;
    watch_to_the_end(&api, vec![id]).await;
    let mut cluster = ClusterClient::new(api.channel.clone());
    let status = cluster
        .status(v1::StatusRequest {})
        .await
        .expect("stands")
        .into_inner();
    assert_eq!(
        (status.node.as_str(), status.accepted, status.ready),
        ("node-1", 1, true)
    );
    assert_eq!((status.agents_down, status.quarantined), (0, 0));
    assert_eq!((status.open_ports, status.failed), (vec![], None));
    let done = status
        .tasks
        .iter()
        .find(|t| t.state() == TaskState::Done)
        .expect("a state");
    assert_eq!(done.tasks, 1);
    let echo = status
        .agents
        .iter()
        .find(|a| a.agent_type == "echo")
        .expect("a type");
    assert_eq!(echo.total, 4);
    assert!(status.members[0].this_node);
    api.close().await;
}
