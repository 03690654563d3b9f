//! The node of docs/guides/own-node.md, as it stands there.

use colony_proto::v1::{self, tasks_client::TasksClient};
use tonic::transport::Channel;

#[expect(dead_code, reason = "its main is not called from here")]
#[path = "../../examples/own_node.rs"]
mod example;

async fn client(node: &example::OwnNode) -> TasksClient<Channel> {
    let address = format!("http://{}", node.address);
    TasksClient::connect(address).await.expect("it listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_ones_own_serves_its_kind_and_keeps_its_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = example::OwnNode::open(folder.path(), "127.0.0.1:0").await;
    let node = node.expect("opens");
    let mut tasks = client(&node).await;
    let task = v1::NewTask {
        agent_type: "counter".to_owned(),
        input: "three words here".to_owned(),
        ..v1::NewTask::default()
    };
    let submitted = tasks.submit(v1::SubmitRequest { task: Some(task) }).await;
    let submitted = submitted.expect("accepted").into_inner().submitted;
    let task_id = submitted.expect("an answer").task_id;
    let ask = v1::WatchRequest {
        task_ids: vec![task_id.clone()],
        until_ended: true,
        ..v1::WatchRequest::default()
    };
    let mut changes = tasks.watch(ask).await.expect("watched").into_inner();
    while changes.message().await.expect("unbroken").is_some() {}
    node.stop().await.expect("everybody leaves in time");

    // The answer is there in the next life.
    let node = example::OwnNode::open(folder.path(), "127.0.0.1:0").await;
    let node = node.expect("opens again");
    let ask = v1::GetTaskRequest {
        task_id,
        ..v1::GetTaskRequest::default()
    };
    let known = client(&node).await.get(ask).await.expect("known");
    let task = known.into_inner().task.expect("a task");
    assert_eq!(task.answer.expect("it is done").text, "3");
    node.stop().await.expect("everybody leaves in time");
}
