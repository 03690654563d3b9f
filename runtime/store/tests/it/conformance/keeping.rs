use std::{sync::Arc, time::Duration};

use colony_core::{
    id::{TaskId, Tenant},
    journal::EffectKey,
};
use colony_store::{
    Agent, Commit, Episode, EpisodeChange, EpisodeStream, LedgerError, MessageId, OutboxFilter,
    OutboxMessage, Policy, Settlement, Snapshot, SnapshotKey, Track,
};

use crate::world::{World, agent, done, entries, give_up, kind, node, spec};

pub(crate) async fn the_outbox_holds_each_message_once(w: World) {
    let claim = w.claimed().await;
    let message = |key: &str, index, destination: &str| OutboxMessage {
        key: EffectKey::from(key.to_owned()),
        index,
        task: claim.task,
        destination: destination.into(),
        payload: serde_json::json!({"key": key, "index": index}),
    };
    let mut commit = Commit::settling(claim, give_up());
    commit.outbox = vec![
        message("a", 0, "tickets"),
        message("b", 0, "mail"),
        message("a", 1, "tickets"),
    ];
    w.ledger.commit(commit.clone()).await.unwrap();
    w.ledger.commit(commit).await.unwrap();

    // A refused commit delivers nothing.
    let mut refused = Commit::settling(claim, Settlement::Continue);
    refused.outbox = vec![message("ghost", 0, "tickets")];
    assert!(w.ledger.commit(refused).await.is_err());

    // Nor does a second attempt at the same effect.
    w.pass(Duration::from_secs(1));
    let claim = w.claim("t").await.unwrap().reference();
    let mut commit = Commit::settling(claim, done("x"));
    commit.outbox = vec![message("a", 1, "tickets"), message("c", 0, "tickets")];
    w.ledger.commit(commit).await.unwrap();

    let tickets = w.outbox("tickets", 0).await;
    let messages: Vec<_> = tickets
        .iter()
        .map(|posted| posted.message.clone())
        .collect();
    let once = [("a", 0), ("a", 1), ("c", 0)].map(|(key, index)| message(key, index, "tickets"));
    assert_eq!(messages, once);
    assert_eq!(w.outbox("tickets", tickets[0].number).await, tickets[1..]);
    assert!(w.outbox("nothing", 0).await.is_empty());
    let first = OutboxFilter {
        limit: 1,
        ..OutboxFilter::default()
    };
    let page = w.ledger.outbox(first).await.unwrap();
    assert_eq!((page.items.as_slice(), page.more), (&tickets[..1], true));
    w.check().await;
}

/// Posts messages by their keys, ends the task if that is wanted, and returns the claim's task.
async fn posting(w: &World, keys: &[&str], settlement: Settlement) -> TaskId {
    let claim = w.claimed().await;
    let mut commit = Commit::settling(claim, settlement);
    let messages = keys.iter().map(|key| OutboxMessage {
        key: EffectKey::from((*key).to_owned()),
        index: 0,
        task: claim.task,
        destination: "tickets".into(),
        payload: serde_json::json!({ "key": key }),
    });
    commit.outbox = messages.collect();
    w.ledger.commit(commit).await.unwrap();
    claim.task
}

fn message_id(key: &str) -> MessageId {
    MessageId {
        key: EffectKey::from(key.to_owned()),
        index: 0,
    }
}

/// The keys of what waits to be delivered.
async fn pending(w: &World) -> Vec<String> {
    let page = w.ledger.outbox(OutboxFilter::default()).await.unwrap();
    let keys = page
        .items
        .iter()
        .map(|posted| posted.message.key.to_string());
    keys.collect()
}

pub(crate) async fn an_acknowledged_message_waits_no_more(w: World) {
    let mut posted = w.ledger.posted();
    posting(&w, &["a", "b", "c"], done("x")).await;
    assert!(posted.has_changed().unwrap());
    assert_eq!(*posted.borrow_and_update(), 3);
    assert_eq!(pending(&w).await, ["a", "b", "c"]);

    w.pass(Duration::from_secs(1));
    let at = w.now();
    let ids = vec![message_id("b"), message_id("ghost")];
    let unknown = w.ledger.acknowledge(ids.clone()).await.unwrap();
    assert_eq!(unknown, [message_id("ghost")]);
    assert_eq!(pending(&w).await, ["a", "c"]);
    // The repeat does nothing: it was delivered when it was acknowledged first.
    w.pass(Duration::from_secs(1));
    assert_eq!(w.ledger.acknowledge(ids).await.unwrap(), unknown);
    let all = w.outbox("tickets", 0).await;
    let times: Vec<_> = all.iter().map(|posted| posted.acknowledged_at).collect();
    assert_eq!(times, [None, Some(at), None]);
    assert!(!posted.has_changed().unwrap(), "nothing new was posted");
    w.check().await;
}

pub(crate) async fn an_acknowledged_message_is_forgotten_in_its_time(w: World) {
    let ttl = Policy::default().outbox_ttl;
    posting(&w, &["a", "b"], done("x")).await;
    let live = posting(&w, &["c"], Settlement::Continue).await;
    let acknowledge = async |key: &str| w.ledger.acknowledge(vec![message_id(key)]).await.unwrap();
    for key in ["a", "c"] {
        assert_eq!(acknowledge(key).await, []);
    }
    w.pass(ttl - Duration::from_secs(1));
    acknowledge("ghost").await;
    assert_eq!(w.outbox("tickets", 0).await.len(), 3, "not yet");
    w.pass(Duration::from_secs(1));
    acknowledge("ghost").await;
    let kept = w.outbox("tickets", 0).await;
    let numbers: Vec<_> = kept.iter().map(|posted| posted.number).collect();
    // Nobody has acknowledged the second; the third belongs to a task that lives.
    assert_eq!(numbers, [2, 3]);
    assert_eq!(acknowledge("a").await, [message_id("a")]);
    w.ledger.cancel(live, w.request_id()).await.unwrap();
    acknowledge("ghost").await;
    assert_eq!(pending(&w).await, ["b"]);
    assert_eq!(w.outbox("tickets", 0).await.len(), 1);
    // A number that was given is not given again.
    posting(&w, &["d"], done("x")).await;
    assert_eq!(w.outbox("tickets", 0).await[1].number, 4);
    w.check().await;
}

fn episode(task: TaskId, label: &str) -> Episode {
    Episode {
        number: 0,
        tenant: Tenant::default(),
        agent_type: kind("t"),
        task,
        text: "printer fire".into(),
        label: label.into(),
        vector: Arc::from([0.5_f32, -0.25, 1.0e-8]),
        at: crate::world::DAWN,
    }
}

fn stream(name: &str) -> EpisodeStream {
    EpisodeStream {
        tenant: Tenant::default(),
        agent_type: kind(name),
    }
}

async fn read(w: &World, stream: &EpisodeStream, after: u64) -> Vec<EpisodeChange> {
    let page = w.ledger.episodes(stream, after, 10).await.unwrap();
    assert!(!page.more);
    page.items
}

pub(crate) async fn the_last_episode_of_a_task_counts(w: World) {
    let (one, two) = (w.task_id(), w.task_id());
    w.pass(Duration::from_secs(1));
    let t = stream("t");
    let learn = async |task, label| w.ledger.learn(vec![episode(task, label)]).await.unwrap();
    let both = vec![episode(one, "a"), episode(two, "b")];
    assert_eq!(w.ledger.learn(both.clone()).await.unwrap(), [1, 2]);
    assert_eq!(
        w.ledger.learn(both).await.unwrap(),
        [1, 2],
        "the same is not learned twice"
    );
    let learned = |number, task, label, text: &str| {
        EpisodeChange::Learned(Episode {
            number,
            at: w.now(),
            text: text.into(),
            ..episode(task, label)
        })
    };
    let fire = "printer fire";
    let first = [learned(1, one, "a", fire), learned(2, two, "b", fire)];
    assert_eq!(read(&w, &t, 0).await, first);

    // A correction is told as what it undoes and what it does.
    assert_eq!(learn(one, "c").await, [4]);
    let number = 3;
    let undone = EpisodeChange::Forgotten { number, episode: 1 };
    let news = [undone, learned(4, one, "c", fire)];
    assert_eq!(read(&w, &t, 2).await, news);

    // Nothing is left out of the story but the text of what was forgotten.
    let mut all = vec![learned(1, one, "a", ""), first[1].clone()];
    all.extend(news);
    assert_eq!(read(&w, &t, 0).await, all);
    for (after, change) in (0..).zip(&all) {
        let page = w.ledger.episodes(&t, after, 1).await.unwrap();
        assert_eq!(page.items, std::slice::from_ref(change));
        assert_eq!(page.more, after < 3);
    }
    assert!(read(&w, &t, 4).await.is_empty());
    w.check().await;
}

pub(crate) async fn each_tenant_and_type_has_a_stream_of_its_own(w: World) {
    let (one, two) = (w.task_id(), w.task_id());
    assert!(w.ledger.episode_streams().await.unwrap().is_empty());
    let other = |task, label: &str| Episode {
        agent_type: kind("u"),
        ..episode(task, label)
    };
    let learned = vec![episode(one, "a"), other(two, "b")];
    w.ledger.learn(learned).await.unwrap();
    let both = [stream("t"), stream("u")];
    assert_eq!(w.ledger.episode_streams().await.unwrap(), both);
    assert_eq!(read(&w, &both[0], 0).await.len(), 1);

    // What a task taught in one stream is forgotten there when it teaches in another.
    w.ledger.learn(vec![other(one, "c")]).await.unwrap();
    let number = 3;
    let undone = EpisodeChange::Forgotten { number, episode: 1 };
    assert_eq!(read(&w, &both[0], 1).await, [undone]);
    let news = read(&w, &both[1], 1).await;
    let numbers: Vec<_> = news.iter().map(EpisodeChange::number).collect();
    assert_eq!(numbers, [2, 4]);
    assert!(read(&w, &stream("v"), 0).await.is_empty());
    w.check().await;
}

pub(crate) async fn the_newest_episodes_that_count_lie_after_a_floor(w: World) {
    let tasks: Vec<_> = (0..5).map(|_| w.task_id()).collect();
    let learned = tasks.iter().map(|task| episode(*task, "a")).collect();
    w.ledger.learn(learned).await.unwrap();
    // Numbers 2 and 4 are forgotten at 6 and 8, and learned again at 7 and 9.
    for task in [tasks[1], tasks[3]] {
        w.ledger.learn(vec![episode(task, "b")]).await.unwrap();
    }
    let t = stream("t");
    let counts = [9, 7, 5, 3, 1];
    for (live, floor) in (0..).zip(counts) {
        assert_eq!(w.ledger.episodes_floor(&t, live).await.unwrap(), floor);
    }
    for (stream, live) in [(&t, 5), (&t, u32::MAX), (&stream("u"), 0)] {
        assert_eq!(w.ledger.episodes_floor(stream, live).await.unwrap(), 0);
    }
    w.check().await;
}

pub(crate) async fn a_commit_teaches_once(w: World) {
    let claim = w.claimed().await;
    let mut commit = Commit::settling(claim, done("x"));
    commit.entries = entries([0]);
    commit.episodes = vec![episode(claim.task, "it")];
    let committed = w.ledger.commit(commit.clone()).await.unwrap();
    assert_eq!(committed.episodes, [1]);
    assert_eq!(w.ledger.commit(commit.clone()).await.unwrap(), committed);

    // A copy that comes after a human has taught better changes nothing.
    let better = w
        .ledger
        .learn(vec![episode(claim.task, "hr")])
        .await
        .unwrap();
    w.ledger.commit(commit).await.unwrap();
    let all = read(&w, &stream("t"), 0).await;
    assert_eq!(all.last().map(EpisodeChange::number), Some(better[0]));
    assert_eq!(all.len(), 3);
    w.check().await;
}

pub(crate) async fn agents_are_saved_by_who_read_them_last(w: World) {
    let row = |name: &str, ordinal, revision, tasks| Agent {
        id: agent(name, ordinal),
        revision,
        version: 3,
        track: Track {
            tasks,
            successes: 2,
            escalations: 1,
            crashes: 4,
        },
        updated_at: w.now(),
    };
    let save = async |agents| w.ledger.save_agents(agents).await.unwrap();
    let new = vec![row("b", 1, 0, 0), row("a", 10, 0, 0), row("a", 2, 0, 0)];
    assert!(save(new.clone()).await.is_empty());
    assert!(save(new).await.is_empty(), "a repeat is no other save");
    let refused = save(vec![
        row("a", 2, 0, 9),
        row("a", 10, 1, 5),
        row("c", 1, 7, 0),
    ])
    .await;
    assert_eq!(refused, [agent("a", 2), agent("c", 1)]);
    let kept = w.ledger.agents().await.unwrap();
    assert_eq!(
        kept,
        [row("a", 2, 1, 0), row("a", 10, 2, 5), row("b", 1, 1, 0)]
    );
    w.check().await;
}

pub(crate) async fn snapshots_are_kept_by_node_and_name(w: World) {
    let key = |node_name: &str, name: &str| SnapshotKey {
        node: node(node_name),
        name: name.into(),
    };
    let snapshot = |version, body: &[u8]| Snapshot {
        version,
        body: body.to_vec(),
    };
    let save = async |key, snapshot| w.ledger.save_snapshot(key, snapshot).await.unwrap();
    let read = async |key| w.ledger.snapshot(&key).await.unwrap();
    assert_eq!(read(key("n1", "field")).await, None);
    save(key("n1", "field"), snapshot(1, &[1, 2])).await;
    save(key("n2", "field"), snapshot(1, &[9])).await;
    save(key("n1", "field"), snapshot(2, &[3])).await;
    save(key("n1", "empty"), snapshot(1, &[])).await;
    assert_eq!(read(key("n1", "field")).await, Some(snapshot(2, &[3])));
    assert_eq!(read(key("n2", "field")).await, Some(snapshot(1, &[9])));
    assert_eq!(read(key("n1", "empty")).await, Some(snapshot(1, &[])));
    w.check().await;
}

pub(crate) async fn a_closed_ledger_is_shut(w: World) {
    let id = w.submit(spec("t")).await;
    w.ledger.close().await;
    assert!(matches!(
        w.try_submit(spec("t")).await,
        Err(LedgerError::Shut)
    ));
    assert!(matches!(w.ledger.get(id).await, Err(LedgerError::Shut)));
    assert!(matches!(w.ledger.counts().await, Err(LedgerError::Shut)));
    w.ledger.close().await;
}
