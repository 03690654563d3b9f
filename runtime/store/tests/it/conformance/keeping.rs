use std::sync::Arc;

use colony_core::{
    id::{AgentId, Tenant},
    journal::EffectKey,
};
use colony_store::{Agent, Episode, LedgerError, OutboxRecord, Then, Track};

use crate::world::{World, done, kind, retry, spec};

pub(crate) async fn outbox_holds_each_key_once(mut w: World) {
    let id = w.submit(spec("t")).await;
    let record = |key: &str, queue: &str| OutboxRecord {
        key: EffectKey::from(key.to_owned()),
        task: id,
        queue: queue.into(),
        payload: serde_json::json!({"key": key}),
    };
    let claim = w.claim("t").await.unwrap().reference;
    let mut commit = w.bare(claim, retry());
    commit.outbox = vec![record("a", "tickets"), record("b", "mail")];
    w.book.commit(commit).await.unwrap();

    // A refused commit delivers nothing.
    let mut refused = w.bare(claim, Then::Continue);
    refused.outbox = vec![record("ghost", "tickets")];
    assert!(w.book.commit(refused).await.is_err());

    w.pass(std::time::Duration::from_secs(1));
    let claim = w.claim("t").await.unwrap().reference;
    let mut commit = w.bare(claim, done("x"));
    commit.outbox = vec![record("a", "tickets"), record("c", "tickets")];
    w.book.commit(commit).await.unwrap();

    let tickets = w.book.outbox("tickets", 0, 10).await.unwrap();
    let keys: Vec<_> = tickets.iter().map(|(_, r)| r.key.as_str()).collect();
    assert_eq!(keys, ["a", "c"]);
    assert_eq!(tickets[0].1, record("a", "tickets"));
    let rest = w.book.outbox("tickets", tickets[0].0, 10).await.unwrap();
    assert_eq!(rest, tickets[1..]);
    assert_eq!(w.book.outbox("tickets", 0, 1).await.unwrap(), tickets[..1]);
    assert!(w.book.outbox("nothing", 0, 10).await.unwrap().is_empty());
}

pub(crate) async fn the_last_episode_of_a_task_counts(w: World) {
    let episode = |task, label: &str| Episode {
        number: 0,
        tenant: Tenant::default(),
        agent_type: kind("t"),
        task,
        text: "printer fire".into(),
        label: label.into(),
        vector: Arc::from([0.5_f32, -0.25, 1.0e-8]),
        at: w.now,
    };
    let (one, two) = (w.task_id(), w.task_id());
    let numbers = w
        .book
        .learn(vec![episode(one, "a"), episode(two, "b")])
        .await
        .unwrap();
    assert_eq!(numbers, [1, 2]);
    let corrected = w.book.learn(vec![episode(one, "c")]).await.unwrap();
    assert_eq!(corrected, [3]);
    let all = w.book.episodes(0, 10).await.unwrap();
    let labels: Vec<_> = all.iter().map(|e| (e.number, e.label.as_str())).collect();
    assert_eq!(labels, [(2, "b"), (3, "c")]);
    let mut expected = episode(one, "c");
    expected.number = 3;
    assert_eq!(w.book.episodes(2, 10).await.unwrap(), [expected]);
    assert_eq!(w.book.episodes(0, 1).await.unwrap().len(), 1);
    assert!(w.book.episodes(3, 10).await.unwrap().is_empty());
}

pub(crate) async fn agents_and_snapshots_are_kept_as_they_are(w: World) {
    let agent = |name: &str, ordinal, tasks| Agent {
        id: AgentId {
            agent_type: kind(name),
            ordinal,
        },
        version: 3,
        track: Track {
            tasks,
            successes: 2,
            escalations: 1,
            crashes: 4,
        },
        updated_at: w.now,
    };
    w.book
        .save_agents(vec![agent("b", 1, 0), agent("a", 10, 0), agent("a", 2, 0)])
        .await
        .unwrap();
    w.book.save_agents(vec![agent("a", 2, 9)]).await.unwrap();
    let kept = w.book.agents().await.unwrap();
    assert_eq!(
        kept,
        [agent("a", 2, 9), agent("a", 10, 0), agent("b", 1, 0)]
    );

    assert_eq!(w.book.snapshot("field").await.unwrap(), None);
    w.book.save_snapshot("field", vec![1, 2]).await.unwrap();
    w.book.save_snapshot("field", vec![3]).await.unwrap();
    w.book.save_snapshot("empty", vec![]).await.unwrap();
    assert_eq!(w.book.snapshot("field").await.unwrap(), Some(vec![3]));
    assert_eq!(w.book.snapshot("empty").await.unwrap(), Some(vec![]));
}

pub(crate) async fn a_closed_book_is_shut(w: World) {
    let id = w.submit(spec("t")).await;
    w.book.close().await;
    assert!(matches!(
        w.try_submit(spec("t")).await,
        Err(LedgerError::Shut)
    ));
    assert!(matches!(w.book.get(id).await, Err(LedgerError::Shut)));
    assert!(matches!(w.book.counts().await, Err(LedgerError::Shut)));
    w.book.close().await;
}
