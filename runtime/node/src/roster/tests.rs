//! What a supervisor does with agents that fail as actors, and the root with whoever ends unasked.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use colony_core::{
    id::TypeName,
    port::Clock,
    task::{Spec, State},
    unit::Timestamp,
};
use colony_store::{MemoryLedger, Policy};

use super::{AgentStatus, messages::SupervisorMessage};
use crate::{
    Config, Dependencies, Health, Node,
    config::AgentType,
    ports::{RuntimeClock, SeededRandom},
};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

async fn node(agents: u32) -> Node {
    let echo = AgentType {
        count: agents,
        ..AgentType::default()
    };
    let mut config = Config {
        agents: [("echo".to_owned(), echo)].into(),
        ..Config::default()
    };
    config.roster.restarts_max = 2;
    config.roster.restart_window = Duration::from_secs(60);
    config.market.recheck_every = Duration::ZERO;
    let clock: std::sync::Arc<dyn Clock> = std::sync::Arc::new(RuntimeClock::at(
        Timestamp::from_micros(1_700_000_000_000_000),
    ));
    let ledger = MemoryLedger::new(Policy::default(), std::sync::Arc::clone(&clock));
    let random = std::sync::Arc::new(SeededRandom::new(7));
    let dependencies = Dependencies::new(clock, random, std::sync::Arc::new(ledger));
    Node::start(&config, dependencies).await.unwrap()
}

fn fail(node: &Node, ordinal: u32) {
    let handle = node.handle();
    let supervisor = handle.inner().roster.supervisors.values().next().unwrap();
    supervisor.cast(SupervisorMessage::Fail(ordinal)).unwrap();
}

/// Waits, in virtual time, until the only agent is as wanted; gives the time that took.
async fn until(node: &Node, wanted: AgentStatus) -> Duration {
    let begun = tokio::time::Instant::now();
    loop {
        if node.handle().inner().roster.states().await[0].status == wanted {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(3_600),
            "never {wanted:?}"
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// C9: an agent that crashed too often stayed down until the node's next start, and nothing tested it.
#[tokio::test(start_paused = true)]
async fn an_agent_that_crashes_too_often_stays_down_for_one_window_and_comes_back() {
    let node = node(1).await;
    for _ in 0..2 {
        until(&node, AgentStatus::Active).await;
        fail(&node, 1);
        until(&node, AgentStatus::Row).await;
    }
    until(&node, AgentStatus::Active).await;
    fail(&node, 1);
    until(&node, AgentStatus::Down).await;
    let handle = node.handle();
    assert_eq!(handle.agents().await.unwrap()[0].state, "down");
    assert_eq!(handle.status().await.unwrap().down, 1);
    let waited = until(&node, AgentStatus::Active).await;
    assert!(waited >= Duration::from_secs(59), "{waited:?}");
    // It is of use again.
    let spec = Spec::new(TypeName::new("echo").unwrap(), "hello");
    let id = handle.submit(vec![spec.into()], None).await.unwrap()[0].id();
    while handle.task(id).await.unwrap().head.state != State::Done {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let track = handle.agents().await.unwrap()[0].track;
    assert_eq!((track.crashes, track.tasks, track.successes), (3, 4, 1));
    assert!(node.stop().await);
}

/// C15: nobody watched the market; a node without one said ready and SERVING.
#[tokio::test(start_paused = true)]
async fn a_node_whose_market_ends_fails_as_a_whole() {
    let node = node(1).await;
    let handle = node.handle();
    assert_eq!(*handle.health().borrow(), Health::Serving);
    handle.inner().market.kill();
    let reason = node.failed().await;
    assert!(reason.starts_with("the market: "), "{reason}");
    assert!(!handle.is_ready());
}

/// C15, for the supervisors.
#[tokio::test(start_paused = true)]
async fn a_node_whose_supervisor_ends_fails_as_a_whole() {
    let node = node(1).await;
    let handle = node.handle();
    let supervisor = handle.inner().roster.supervisors.values().next().unwrap();
    supervisor.kill();
    let reason = node.failed().await;
    assert!(reason.starts_with("the supervisor of echo: "), "{reason}");
    assert!(!handle.is_ready());
}

/// C15, for an API server, which ends with an error or by a panic.
#[tokio::test(start_paused = true)]
async fn a_node_whose_api_server_ends_fails_as_a_whole() {
    let ended = node(1).await;
    ended.supervise("the API", async { Err("the socket is gone".to_owned()) });
    assert_eq!(ended.failed().await, "the API: the socket is gone");
    let panicked = node(1).await;
    panicked.supervise("the API", async { panic!("a bug") });
    let reason = panicked.failed().await;
    assert!(reason.contains("panic"), "{reason}");
}

/// A stop is no failure, although everything ends with it.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_stopped_has_not_failed() {
    let node = node(3).await;
    let health = node.handle().health();
    node.draining().await;
    // Known before anything ends: the root hears of ends before it reads its messages.
    assert_eq!(*health.borrow(), Health::Draining);
    assert!(node.stop().await);
    assert_eq!(*health.borrow(), Health::Draining);
}

/// A supervisor that left while the ledger was closed asked it again and again, without a pause.
#[tokio::test(start_paused = true)]
async fn a_node_whose_ledger_takes_nothing_more_stops_all_the_same() {
    let node = node(1).await;
    until(&node, AgentStatus::Active).await;
    // The crash changes its track record, which cannot be saved any more.
    fail(&node, 1);
    until(&node, AgentStatus::Row).await;
    node.handle().inner().ledger.close().await;
    let begun = tokio::time::Instant::now();
    node.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{begun:?}");
}
