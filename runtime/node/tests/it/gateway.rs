//! The gRPC door of a node in this process, over a real socket: every bad request has its status and its
//! code, and nothing is lost or made up.

use std::{path::PathBuf, time::Duration};

use colony_node::{Colony, gateway};
use colony_proto::v1::{
    self, TaskState, agents_client::AgentsClient, approvals_client::ApprovalsClient,
    cluster_client::ClusterClient, decision::Ruling, field_client::FieldClient,
    models_client::ModelsClient, submitted::Outcome, tasks_client::TasksClient,
};
use prost::Message;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Status, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_types::StatusExt;

use crate::walk::{book, config, world};

/// A node with its door open.
struct House {
    colony: Colony,
    channel: Channel,
    shut: oneshot::Sender<()>,
    door: JoinHandle<Result<(), gateway::ServeError>>,
}

impl House {
    async fn open() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut colony_node::Config)) -> Self {
        let mut config = config(&[("echo", 4), ("triage", 2)]);
        change(&mut config);
        let colony = Colony::start(&config, world(book())).await.expect("starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shut, shutdown) = oneshot::channel::<()>();
        let serve = gateway::serve(
            colony.rooms(),
            config.gateway.clone(),
            TcpListenerStream::new(listener),
            async {
                shutdown.await.ok();
            },
        );
        #[expect(clippy::disallowed_methods, reason = "joined in House::close")]
        let door = tokio::spawn(serve);
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
        let channel = channel.connect().await.expect("the door is open");
        Self {
            colony,
            channel,
            shut,
            door,
        }
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    /// Accepted tasks are all somewhere, and as many as expected.
    async fn conserves(&self, accepted: u64) {
        let counts = self.colony.rooms().ledger.counts().await.expect("readable");
        assert_eq!(counts.accepted, accepted);
        assert_eq!(counts.by_state.values().sum::<u64>(), accepted);
    }

    async fn close(self) {
        self.shut.send(()).expect("the door is open");
        let closed = tokio::time::timeout(Duration::from_secs(10), self.door).await;
        closed
            .expect("closes in time")
            .expect("no panic")
            .expect("no error");
        assert!(self.colony.stop().await, "agents leave in time");
    }
}

fn task(agent_type: &str, input: &str) -> v1::NewTask {
    v1::NewTask {
        agent_type: agent_type.to_owned(),
        input: input.to_owned(),
        ..v1::NewTask::default()
    }
}

fn submit(task: v1::NewTask) -> v1::SubmitRequest {
    v1::SubmitRequest { task: Some(task) }
}

/// The stable code of a refusal.
fn code(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "colony");
    assert!(status.message().starts_with(&info.reason), "{status:?}");
    info.reason.clone()
}

async fn refused(house: &House, task: v1::NewTask) -> (Code, String, String) {
    let status = house
        .tasks()
        .submit(submit(task))
        .await
        .expect_err("must be refused");
    let details = status.get_error_details();
    let field = details
        .bad_request()
        .map(|b| b.field_violations[0].field.clone());
    (status.code(), code(&status), field.unwrap_or_default())
}

/// Follows tasks to their ends; returns the last state of each change.
async fn watch_to_the_end(house: &House, ids: Vec<String>) -> Vec<v1::TaskChange> {
    let request = v1::WatchRequest {
        task_ids: ids,
        after_cursor: None,
        until_ended: true,
    };
    let mut stream = house
        .tasks()
        .watch(request)
        .await
        .expect("watched")
        .into_inner();
    let mut seen = Vec::new();
    let all = async {
        while let Some(change) = stream.message().await.expect("unbroken") {
            seen.push(change);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .expect("ends in 30 s");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_watched_and_read_back_with_its_journal() {
    let house = House::open().await;
    let mut new = task("echo", "hello");
    new.attributes.insert("ticket".to_owned(), "17".to_owned());
    new.dedupe_key = Some("first".to_owned());
    let mut request = Request::new(submit(new.clone()));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().expect("ascii"));
    let submitted = house
        .tasks()
        .submit(request)
        .await
        .expect("accepted")
        .into_inner();
    let submitted = submitted.submitted.expect("an answer");
    assert_eq!(submitted.outcome(), Outcome::Accepted);
    let id = submitted.task_id;

    let changes = watch_to_the_end(&house, vec![id.clone()]).await;
    assert_eq!(changes.last().expect("changes").state(), TaskState::Done);
    let ask = v1::GetTaskRequest {
        task_id: id.clone(),
        journal: true,
    };
    let got = house.tasks().get(ask).await.expect("known").into_inner();
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

    let again = house
        .tasks()
        .submit(submit(new.clone()))
        .await
        .expect("a duplicate");
    let again = again.into_inner().submitted.expect("an answer");
    assert_eq!((again.outcome(), again.task_id), (Outcome::Duplicate, id));
    new.input = "something else".to_owned();
    let (status, code, _) = refused(&house, new).await;
    assert_eq!((status, code.as_str()), (Code::AlreadyExists, "CLY0012"));
    house.conserves(1).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_submission_has_its_status_its_code_and_its_field() {
    use Code::InvalidArgument;
    let house = House::open().await;
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
            refused(&house, bad).await,
            (InvalidArgument, expected.to_owned(), field.to_owned()),
            "{shown}"
        );
    }
    let none = house.tasks().submit(v1::SubmitRequest { task: None }).await;
    assert_eq!(code(&none.expect_err("nothing to do")), "CLY0010");

    let batch = |tasks| v1::SubmitBatchRequest { tasks };
    let one_bad = batch(vec![echo(), task("echo", ""), echo()]);
    let status = house
        .tasks()
        .submit_batch(one_bad)
        .await
        .expect_err("all or none");
    assert_eq!(code(&status), "CLY0001");
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("a field").field_violations;
    assert_eq!(violations[0].field, "tasks[1].input");
    let many = batch(vec![echo(); 1_001]);
    let status = house
        .tasks()
        .submit_batch(many)
        .await
        .expect_err("too many");
    assert_eq!(code(&status), "CLY0009");
    let huge = batch(vec![task("echo", &"x".repeat(60_000)); 100]);
    let status = house
        .tasks()
        .submit_batch(huge)
        .await
        .expect_err("too large for the door");
    assert_eq!(
        (status.code(), code(&status).as_str()),
        (InvalidArgument, "CLY0019")
    );
    house.conserves(0).await;
    house.close().await;
}

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
    let house = House::open().await;
    let mut client = tonic::client::Grpc::new(house.channel.clone());
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
    house.conserves(0).await;
    house.close().await;
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
    let house = House::open().await;
    let (mut ids, mut refused) = (Vec::new(), 0);
    for (index, text) in naughty.iter().enumerate() {
        let mut new = task(["echo", "triage"][index % 2], text);
        new.attributes.insert("as value".to_owned(), text.clone());
        match house.tasks().submit(submit(new)).await {
            Ok(accepted) => {
                let id = accepted.into_inner().submitted.expect("an answer").task_id;
                let ask = v1::GetTaskRequest {
                    task_id: id.clone(),
                    journal: false,
                };
                let kept = house.tasks().get(ask).await.expect("kept").into_inner();
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
        // The same text at every other text door.
        for status in other_doors(&house, text).await {
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
    house.conserves(ids.len() as u64).await;
    let echoed: Vec<String> = ids
        .iter()
        .filter(|(_, index)| index % 2 == 0)
        .map(|(id, _)| id.clone())
        .collect();
    let changes = watch_to_the_end(&house, echoed.clone()).await;
    for id in &echoed {
        let last = changes.iter().rfind(|c| c.task_id == *id).expect("seen");
        assert_eq!(last.state(), TaskState::Done, "{id}");
    }
    house.conserves(ids.len() as u64).await;
    house.close().await;
}

/// Refusals of requests that hold `text` where an id or a name belongs. None of them changes anything.
async fn other_doors(house: &House, text: &str) -> Vec<Status> {
    let id = || text.to_owned();
    let mut tasks = house.tasks();
    let mut found = Vec::new();
    let ask = v1::GetTaskRequest {
        task_id: id(),
        journal: true,
    };
    found.extend(tasks.get(ask).await.err());
    found.extend(
        tasks
            .cancel(v1::CancelRequest { task_id: id() })
            .await
            .err(),
    );
    let feedback = v1::FeedbackRequest {
        task_id: id(),
        label: id(),
    };
    found.extend(tasks.feedback(feedback).await.err());
    let watch = v1::WatchRequest {
        task_ids: vec![id()],
        ..v1::WatchRequest::default()
    };
    found.extend(tasks.watch(watch).await.err());
    let mut agents = AgentsClient::new(house.channel.clone());
    found.extend(
        agents
            .get(v1::GetAgentRequest { agent_id: id() })
            .await
            .err(),
    );
    let mut approvals = ApprovalsClient::new(house.channel.clone());
    let decision = v1::Decision {
        ruling: Some(Ruling::Correct(id())),
        teach: None,
        by: id(),
    };
    let decide = v1::DecideRequest {
        approval_id: id(),
        decision: Some(decision),
    };
    found.extend(approvals.decide(decide).await.err());
    let mut models = ModelsClient::new(house.channel.clone());
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
    let mut field = FieldClient::new(house.channel.clone());
    let sense = v1::SenseRequest {
        location_prefix: id(),
        tenant: id(),
        ..Default::default()
    };
    found.extend(field.sense(sense).await.err());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_human_is_listed_decided_once_and_taught() {
    let house = House::open().await;
    let submitted = house
        .tasks()
        .submit(submit(task("triage", "my password is lost")))
        .await;
    let id = submitted
        .expect("accepted")
        .into_inner()
        .submitted
        .expect("an answer")
        .task_id;
    let watch = v1::WatchRequest {
        task_ids: vec![id.clone()],
        ..v1::WatchRequest::default()
    };
    let mut changes = house
        .tasks()
        .watch(watch)
        .await
        .expect("watched")
        .into_inner();
    while changes
        .message()
        .await
        .expect("unbroken")
        .expect("open")
        .state()
        != TaskState::Parked
    {}

    let mut approvals = ApprovalsClient::new(house.channel.clone());
    let open = approvals
        .list(v1::ListApprovalsRequest::default())
        .await
        .expect("listed");
    let open = open.into_inner().approvals;
    assert_eq!(open.len(), 1);
    assert_eq!(
        (open[0].task_id.as_str(), open[0].doubt()),
        (id.as_str(), v1::Doubt::New)
    );
    let decide = |ruling, by: &str| v1::DecideRequest {
        approval_id: open[0].id.clone(),
        decision: Some(v1::Decision {
            ruling,
            teach: None,
            by: by.to_owned(),
        }),
    };
    let correct = || Some(Ruling::Correct("password_reset".to_owned()));
    for bad in [
        decide(None, "ann"),
        decide(correct(), " "),
        decide(Some(Ruling::Correct(String::new())), "ann"),
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
        (Code::FailedPrecondition, "CLY0014")
    );
    watch_to_the_end(&house, vec![id.clone()]).await;
    let cancel = house
        .tasks()
        .cancel(v1::CancelRequest {
            task_id: id.clone(),
        })
        .await;
    assert_eq!(code(&cancel.expect_err("it has ended")), "CLY0014");
    let feedback = v1::FeedbackRequest {
        task_id: id,
        label: "password_reset".to_owned(),
    };
    house.tasks().feedback(feedback).await.expect("learned");
    house.conserves(1).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_to_the_end_without_gaps() {
    let house = House::open().await;
    let tasks: Vec<_> = (0..25)
        .map(|i| task("echo", &format!("task {i}")))
        .collect();
    let submitted = house
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
        let page = house.tasks().list(list).await.expect("listed").into_inner();
        found.extend(page.tasks.into_iter().map(|t| t.id));
        page_token = page.next_page_token;
        pages += 1;
        if page_token.is_empty() {
            break;
        }
    }
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!((found, pages), (expected, 3));

    let mut agents = AgentsClient::new(house.channel.clone());
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
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_status_show_the_work() {
    let house = House::open().await;
    let mut models = ModelsClient::new(house.channel.clone());
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

    let submitted = house.tasks().submit(submit(task("echo", "hello"))).await;
    let id = submitted
        .expect("accepted")
        .into_inner()
        .submitted
        .expect("an answer")
        .task_id;
    watch_to_the_end(&house, vec![id]).await;
    let mut cluster = ClusterClient::new(house.channel.clone());
    let status = cluster
        .status(v1::StatusRequest {})
        .await
        .expect("stands")
        .into_inner();
    assert_eq!(
        (status.node.as_str(), status.accepted, status.ready),
        ("node-1", 1, true)
    );
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
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_taken_up_from_its_cursor_and_closed_with_the_door() {
    let house = House::open().await;
    let all = v1::WatchRequest {
        after_cursor: Some(0),
        ..Default::default()
    };
    let mut first = house
        .tasks()
        .watch(all)
        .await
        .expect("watched")
        .into_inner();
    let new = submit(task("echo", "one"));
    house.tasks().submit(new).await.expect("accepted");
    let mut seen = Vec::new();
    while seen.last() != Some(&TaskState::Done) {
        seen.push(
            first
                .message()
                .await
                .expect("unbroken")
                .expect("open")
                .state(),
        );
    }
    assert_eq!(seen[0], TaskState::Ready);
    let all = v1::WatchRequest {
        after_cursor: Some(0),
        ..Default::default()
    };
    let mut second = house
        .tasks()
        .watch(all)
        .await
        .expect("watched")
        .into_inner();
    for state in &seen {
        let change = second.message().await.expect("unbroken").expect("open");
        assert_eq!(change.state(), *state);
    }
    let bad = v1::WatchRequest {
        until_ended: true,
        ..Default::default()
    };
    assert_eq!(
        code(&house.tasks().watch(bad).await.expect_err("without ids")),
        "CLY0010"
    );
    let none = uuid_of_nothing();
    let bad = v1::WatchRequest {
        task_ids: vec![none],
        ..Default::default()
    };
    assert_eq!(
        code(&house.tasks().watch(bad).await.expect_err("no such task")),
        "CLY0013"
    );
    house.close().await;
    let end = first.message().await.expect_err("the door is closed");
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
}

fn uuid_of_nothing() -> String {
    "00000000-0000-7000-8000-000000000000".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_door_says_when_to_come_back_and_health_stays_open() {
    let house = House::with(|config| config.gateway.watches_max = 1).await;
    let watch = v1::WatchRequest::default;
    let _held = house.tasks().watch(watch()).await.expect("the first fits");
    let full = house
        .tasks()
        .watch(watch())
        .await
        .expect_err("the second does not");
    assert_eq!(
        (full.code(), code(&full).as_str()),
        (Code::Unavailable, "CLY0017")
    );
    assert!(full.get_error_details().retry_info().is_some());
    let mut health = tonic_health::pb::health_client::HealthClient::new(house.channel.clone());
    for service in ["", "colony.v1.Tasks", "colony.v1.Cluster"] {
        let check = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(check).await.expect("healthy").into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
    drop(_held);
    house.close().await;
}
