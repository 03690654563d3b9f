//! The outbox: what was posted comes until it is acknowledged, in order, and from every cursor that was told.

use std::{sync::Arc, time::Duration};

use colony_core::{
    cycle::{Decision, DecisionKind, Teaching},
    task::{Spec, State},
};
use colony_proto::v1::{self, outbox_client::OutboxClient};
use colony_store::{ApprovalFilter, MemoryLedger, Policy};
use tonic::{Code, Streaming, transport::Channel};
use tonic_types::StatusExt;

use super::api::{Api, code};
use crate::walk::{agent_type, clock, submit, until};

fn client(api: &Api) -> OutboxClient<Channel> {
    OutboxClient::new(api.channel.clone())
}

/// Lets a ticket be filed in `queue`, by a human's word.
async fn file(api: &Api, input: &str, queue: &str) {
    let spec = Spec::new(agent_type("triage"), input);
    let ids = submit(&api.handle, vec![spec]).await;
    until(&api.handle, &ids, &[State::Waiting]).await;
    let open = api.handle.approvals(ApprovalFilter::default()).await;
    let decision = Decision {
        kind: DecisionKind::Correct(queue.to_owned()),
        teaching: Teaching::Keep,
        by: "ann".to_owned(),
    };
    let question = open.expect("readable").items[0].question.id;
    let request = api.handle.draw_request();
    let decided = api.handle.decide(question, request, decision).await;
    decided.expect("open");
    until(&api.handle, &ids, &[State::Done]).await;
}

async fn list(api: &Api, ask: v1::ListOutboxRequest) -> v1::ListOutboxResponse {
    let page = client(api).list(ask).await.expect("readable");
    page.into_inner()
}

async fn watch(api: &Api, after: Option<&str>) -> Streaming<v1::WatchOutboxResponse> {
    let ask = v1::WatchOutboxRequest {
        destination: "tickets".to_owned(),
        after_cursor: after.map(str::to_owned),
    };
    let opened = client(api).watch(ask).await.expect("watched");
    opened.into_inner()
}

async fn next(stream: &mut Streaming<v1::WatchOutboxResponse>) -> v1::WatchOutboxResponse {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
    let message = message.expect("a message in 30 s").expect("unbroken");
    message.expect("the stream goes on")
}

/// The queue that a message files its ticket in.
fn queue(message: &v1::OutboxMessage) -> String {
    let payload: serde_json::Value =
        serde_json::from_str(&message.payload_json).expect("a payload is JSON");
    payload["queue"].as_str().expect("a queue").to_owned()
}

async fn acknowledge(api: &Api, ids: Vec<v1::MessageId>) -> Vec<v1::MessageId> {
    let ask = v1::AcknowledgeRequest { ids };
    let answer = client(api).acknowledge(ask).await.expect("written");
    answer.into_inner().unknown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_comes_until_it_is_acknowledged() {
    let api = Api::open().await;
    file(&api, "my badge is lost", "badges").await;
    file(&api, "no heating", "building").await;
    let all = list(&api, v1::ListOutboxRequest::default()).await.messages;
    let queues: Vec<_> = all.iter().map(queue).collect();
    assert_eq!(queues, ["badges", "building"]);
    let first = all[0].id.clone().expect("an id");

    let ghost = v1::MessageId {
        effect_key: "ghost".to_owned(),
        index: 0,
    };
    for _repeat in 0..2 {
        let ids = vec![first.clone(), ghost.clone()];
        assert_eq!(acknowledge(&api, ids).await, std::slice::from_ref(&ghost));
    }
    let waiting = list(&api, v1::ListOutboxRequest::default()).await.messages;
    assert_eq!(waiting, all[1..]);
    let mut stream = watch(&api, None).await;
    assert_eq!(next(&mut stream).await.message, None, "a cursor alone");
    assert_eq!(next(&mut stream).await.message.as_ref(), Some(&all[1]));

    // Page by page, with what was acknowledged.
    let mut ask = v1::ListOutboxRequest {
        destination: "tickets".to_owned(),
        acknowledged_too: true,
        page_size: 1,
        ..v1::ListOutboxRequest::default()
    };
    let page = list(&api, ask.clone()).await;
    assert_eq!(page.messages[0].id.as_ref(), Some(&first));
    assert!(page.messages[0].acknowledged_at_us.is_some());
    ask.page_token = page.next_page_token;
    let page = list(&api, ask).await;
    assert_eq!(
        (page.messages.as_slice(), page.next_page_token.as_str()),
        (&all[1..], "")
    );
    let elsewhere = v1::ListOutboxRequest {
        destination: "mail".to_owned(),
        ..v1::ListOutboxRequest::default()
    };
    assert_eq!(list(&api, elsewhere).await.messages, []);
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_taken_up_behind_any_message() {
    let api = Api::open().await;
    let mut stream = watch(&api, None).await;
    let begin = next(&mut stream).await;
    // It waits already when the message is posted.
    file(&api, "my badge is lost", "badges").await;
    let badges = next(&mut stream).await;
    assert_eq!(queue(badges.message.as_ref().expect("a message")), "badges");
    drop(stream);
    file(&api, "no heating", "building").await;

    let mut again = watch(&api, Some(&badges.cursor)).await;
    assert_eq!(next(&mut again).await.cursor, badges.cursor);
    let building = next(&mut again).await.message.expect("a message");
    assert_eq!(queue(&building), "building");
    let mut again = watch(&api, Some(&begin.cursor)).await;
    next(&mut again).await;
    assert_eq!(next(&mut again).await, badges);
    api.close().await;
}

/// An older copy of the ledger may have been put back since, and the message that the cursor stands behind may be another than the one
/// that the watcher saw: whoever cannot be sure is told again what nobody has acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_behind_a_forgotten_message_skips_nothing() {
    let policy = Policy {
        outbox_ttl: Duration::from_millis(1),
        ..Policy::default()
    };
    let ledger = Arc::new(MemoryLedger::new(policy, clock()));
    let api = Api::on(ledger, |_| {}).await;
    file(&api, "my badge is lost", "badges").await;
    file(&api, "no heating", "building").await;
    let mut stream = watch(&api, None).await;
    next(&mut stream).await;
    let badges = next(&mut stream).await;
    let building = next(&mut stream).await;
    let id = building.message.and_then(|message| message.id);
    acknowledge(&api, vec![id.expect("an id")]).await;
    let all = v1::ListOutboxRequest {
        acknowledged_too: true,
        ..v1::ListOutboxRequest::default()
    };
    // Forgetting goes with any write.
    while list(&api, all.clone()).await.messages.len() > 1 {
        let ghost = v1::MessageId {
            effect_key: "ghost".to_owned(),
            index: 0,
        };
        acknowledge(&api, vec![ghost]).await;
    }
    let mut again = watch(&api, Some(&building.cursor)).await;
    next(&mut again).await;
    assert_eq!(next(&mut again).await.message, badges.message);
    api.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_not_of_this_outbox_is_refused() {
    let api = Api::open().await;
    file(&api, "my badge is lost", "badges").await;
    let ledger = api.handle.ledger_id();
    let foreign = "outbox:00000000-0000-7000-8000-000000000000:0".to_owned();
    // As if an older copy of the ledger had been put back, and had gone on with other messages.
    let another = format!("outbox:{ledger}:1:00000000");
    for cursor in [format!("outbox:{ledger}:2"), foreign, another] {
        let ask = v1::WatchOutboxRequest {
            after_cursor: Some(cursor),
            ..v1::WatchOutboxRequest::default()
        };
        let refused = client(&api).watch(ask).await.expect_err("out of range");
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        assert_eq!(code(&refused), "CLY0027");
        let info = refused.get_details_error_info().expect("a reason");
        let mut stream = watch(&api, Some(&info.metadata["oldest_cursor"])).await;
        next(&mut stream).await;
        assert!(next(&mut stream).await.message.is_some());
    }
    // One of state changes is none of the outbox.
    for none in ["", "7", &format!("{ledger}:0"), "outbox:7"] {
        let ask = v1::WatchOutboxRequest {
            after_cursor: Some(none.to_owned()),
            ..v1::WatchOutboxRequest::default()
        };
        let refused = client(&api).watch(ask).await.expect_err("no cursor");
        assert_eq!(code(&refused), "CLY0010", "{none:?}");
    }
    let nameless = v1::AcknowledgeRequest {
        ids: vec![v1::MessageId::default()],
    };
    let refused = client(&api).acknowledge(nameless).await;
    assert_eq!(code(&refused.expect_err("no key")), "CLY0010");
    let many = v1::AcknowledgeRequest {
        ids: vec![v1::MessageId::default(); 1_001],
    };
    let refused = client(&api).acknowledge(many).await;
    assert_eq!(code(&refused.expect_err("too many")), "CLY0010");
    api.close().await;
}
