//! A node with its door open, and what every test of the door says and asks.

use std::time::Duration;

use colony_node::{Colony, gateway};
use colony_proto::v1::{self, tasks_client::TasksClient};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::walk::{book, config, world};

/// A node with its door open.
pub(super) struct House {
    pub(super) colony: Colony,
    pub(super) channel: Channel,
    shut: oneshot::Sender<()>,
    door: JoinHandle<Result<(), gateway::ServeError>>,
}

impl House {
    pub(super) async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut colony_node::Config)) -> Self {
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

    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    /// Accepted tasks are all somewhere, and as many as expected.
    pub(super) async fn conserves(&self, accepted: u64) {
        let counts = self.colony.rooms().ledger.counts().await.expect("readable");
        assert_eq!(counts.accepted, accepted);
        assert_eq!(counts.by_state.values().sum::<u64>(), accepted);
    }

    pub(super) async fn close(self) {
        self.shut.send(()).expect("the door is open");
        let closed = tokio::time::timeout(Duration::from_secs(10), self.door).await;
        closed
            .expect("closes in time")
            .expect("no panic")
            .expect("no error");
        assert!(self.colony.stop().await, "agents leave in time");
    }
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

pub(super) async fn refused(house: &House, task: v1::NewTask) -> (Code, String, String) {
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
pub(super) async fn watch_to_the_end(house: &House, ids: Vec<String>) -> Vec<v1::TaskChange> {
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
