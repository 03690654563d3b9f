//! A node with its gRPC API open, and what every test of it says and asks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use colony_core::{
    id::{Incarnation, NodeId, QueueName},
    task::Spec,
};
use colony_node::{Config, Node, NodeHandle, gateway};
use colony_proto::v1::{self, tasks_client::TasksClient, watch_response::Event};
use colony_store::{Claim, ClaimRequest, Ledger, NewTask, Others, Submitted};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::walk::{agent_type, config, dependencies, ledger};

/// A node with its gRPC API open.
pub(super) struct Api {
    pub(super) node: Node,
    pub(super) handle: NodeHandle,
    pub(super) address: SocketAddr,
    pub(super) channel: Channel,
    shut: oneshot::Sender<()>,
    server: JoinHandle<Result<(), gateway::ServeError>>,
}

impl Api {
    pub(super) async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(ledger(), change).await
    }

    pub(super) async fn on(ledger: Arc<dyn Ledger>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(&[("echo", 4), ("triage", 2)]);
        change(&mut config);
        let node = Node::start(&config, dependencies(ledger)).await;
        let node = node.expect("starts");
        let handle = node.handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shut, shutdown) = oneshot::channel::<()>();
        let serve = gateway::serve(
            handle.clone(),
            config.gateway.clone(),
            TcpListenerStream::new(listener),
            async {
                shutdown.await.ok();
            },
        );
        #[expect(clippy::disallowed_methods, reason = "joined in Api::close")]
        let server = tokio::spawn(serve);
        let channel = connect(address).await;
        Self {
            node,
            handle,
            address,
            channel,
            shut,
            server,
        }
    }

    /// A client with the limits that clients have by default, but for requests.
    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// Hands one task in that is accepted; returns its id.
    pub(super) async fn submit(&self, task: v1::NewTask) -> String {
        let submitted = self.tasks().submit(submit(task)).await.expect("accepted");
        let submitted = submitted.into_inner().submitted.expect("an answer");
        assert_eq!(submitted.outcome(), v1::submitted::Outcome::Accepted);
        submitted.task_id
    }

    pub(super) async fn get(&self, id: &str) -> v1::Task {
        let ask = v1::GetTaskRequest {
            task_id: id.to_owned(),
            ..v1::GetTaskRequest::default()
        };
        let got = self.tasks().get(ask).await.expect("known").into_inner();
        got.task.expect("a task")
    }

    pub(super) async fn watch(&self, ask: v1::WatchRequest) -> Streaming<v1::WatchResponse> {
        let opened = self.tasks().watch(ask).await.expect("watched");
        opened.into_inner()
    }

    /// Accepted tasks are all somewhere, and as many as expected.
    pub(super) async fn conserves(&self, accepted: u64) {
        let counts = self.handle.counts().await.expect("readable");
        assert_eq!(counts.accepted, accepted);
        assert_eq!(counts.by_state.values().sum::<u64>(), accepted);
    }

    pub(super) async fn close(self) {
        self.shut.send(()).expect("the server runs");
        let closed = tokio::time::timeout(Duration::from_secs(30), self.server).await;
        closed
            .expect("closes in time")
            .expect("no panic")
            .expect("no error");
        assert!(self.node.stop().await, "agents leave in time");
    }
}

pub(super) async fn connect(address: SocketAddr) -> Channel {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
    channel
        .connect()
        .await
        .expect("the server takes connections")
}

pub(super) fn task(agent_type: &str, input: &str) -> v1::NewTask {
    v1::NewTask {
        agent_type: agent_type.to_owned(),
        input: input.to_owned(),
        ..v1::NewTask::default()
    }
}

pub(super) fn submit(task: v1::NewTask) -> v1::SubmitRequest {
    v1::SubmitRequest { task: Some(task) }
}

/// The stable code of a refusal.
pub(super) fn code(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "colony");
    assert!(status.message().starts_with(&info.reason), "{status:?}");
    info.reason.clone()
}

pub(super) async fn refused(api: &Api, task: v1::NewTask) -> (Code, String, String) {
    let status = api
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

/// Waits for the next message of a stream that goes on.
pub(super) async fn next(stream: &mut Streaming<v1::WatchResponse>) -> v1::WatchResponse {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
    let message = message.expect("a message in 30 s").expect("unbroken");
    message.expect("the stream goes on")
}

/// What a message tells of a task, whether it stands so or has become so.
pub(super) fn told(message: &v1::WatchResponse) -> Option<&v1::TaskChange> {
    match message.event.as_ref()? {
        Event::Present(change) | Event::Change(change) => Some(change),
    }
}

/// Follows tasks to their ends; returns everything that was told.
pub(super) async fn watch_to_the_end(api: &Api, ids: Vec<String>) -> Vec<v1::TaskChange> {
    let ask = v1::WatchRequest {
        task_ids: ids,
        after_cursor: None,
        until_ended: true,
    };
    let mut stream = api.watch(ask).await;
    let mut seen = Vec::new();
    let all = async {
        while let Some(message) = stream.message().await.expect("unbroken") {
            seen.extend(told(&message).cloned());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .expect("ends in 30 s");
    seen
}

/// Waits until a task is in one of the states.
pub(super) async fn until(api: &Api, id: &str, states: &[v1::TaskState]) {
    let ask = v1::WatchRequest {
        task_ids: vec![id.to_owned()],
        ..v1::WatchRequest::default()
    };
    let mut stream = api.watch(ask).await;
    while !told(&next(&mut stream).await).is_some_and(|told| states.contains(&told.state())) {}
}

/// Writes tasks to a ledger of which no agent knows the type, and claims them under another node's name.
pub(super) async fn claimed(ledger: &dyn Ledger, inputs: Vec<String>) -> Vec<Claim> {
    let type_of = agent_type("nobody");
    let mut ids = Vec::new();
    for (n, input) in inputs.into_iter().enumerate() {
        let n = u64::try_from(n).expect("few").to_be_bytes();
        let random = [0, 0, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]];
        let id = colony_core::id::TaskId::new(ledger.now(), random);
        let spec = Arc::new(Spec::new(type_of.clone(), input));
        let task = NewTask {
            id,
            spec,
            refusal: None,
        };
        let submitted = ledger.submit(vec![task]).await.expect("accepted");
        assert_eq!(submitted, [Submitted::Accepted(id)]);
        ids.push(id);
    }
    let node = NodeId::new("another").expect("a name");
    let registered = ledger.register(&node, Others::Nodes).await;
    assert_eq!(registered.expect("registered").incarnation, Incarnation(1));
    let total = u32::try_from(ids.len()).expect("few");
    let request = ClaimRequest {
        node,
        incarnation: Incarnation(1),
        batch: 1,
        free: [(QueueName::from(&type_of), total)].into(),
        total,
    };
    let claims = ledger.claim(request).await.expect("claimed").claims;
    assert_eq!(claims.len(), ids.len());
    claims
}
