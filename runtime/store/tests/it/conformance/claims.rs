use std::time::Duration;

use colony_core::{
    id::{Fence, Incarnation, TaskId, Tenant},
    task::{Priority, State},
};
use colony_store::{Claim, Claimed, Others, Settlement};

use crate::world::{World, done, give_up, hand_back, node, spec};

fn ids(claims: &[Claim]) -> Vec<TaskId> {
    claims.iter().map(|claim| claim.head.id).collect()
}

pub(crate) async fn priority_overtakes_within_its_head_start(w: World) {
    let first = w.submit(spec("t")).await;
    w.pass(Duration::from_secs(299));
    let mut critical = spec("t");
    critical.priority = Priority::CRITICAL;
    let overtakes = w.submit(critical.clone()).await;
    w.pass(Duration::from_secs(2));
    let too_late = w.submit(critical).await;
    let claims = w.claim_all(&[("t", 10)]).await;
    assert_eq!(ids(&claims), [overtakes, first, too_late]);
    w.check().await;
}

pub(crate) async fn a_claim_takes_what_is_free_in_each_queue(w: World) {
    let mut submitted = Vec::new();
    for agent_type in ["a", "b", "a", "a", "c"] {
        submitted.push(w.submit(spec(agent_type)).await);
    }
    let claims = w.claim_all(&[("a", 2), ("b", 5), ("x", 5), ("c", 0)]).await;
    assert_eq!(ids(&claims), submitted[..3]);
    assert!(w.claim_all(&[]).await.is_empty());
    let mut request = w.request("n1", 1, &[("a", 5), ("c", 5)]);
    request.total = 1;
    let claimed = w.ledger.claim(request).await.unwrap();
    assert_eq!(claimed.claims.len(), 1, "no more than in all");
    let counts = w.ledger.counts().await.unwrap();
    assert_eq!(counts.by_state[&State::Claimed], 4);
    assert_eq!(counts.by_state[&State::Ready], 1);
    w.check().await;
}

pub(crate) async fn tenants_share_by_weight(w: World) {
    for name in ["acme", "zoo"] {
        for _ in 0..10 {
            let mut spec = spec("t");
            spec.tenant = Tenant::new(name).unwrap();
            w.submit(spec).await;
        }
    }
    let mut served = Vec::new();
    for _ in 0..12 {
        served.extend(w.claim("t").await.map(|claim| claim.head.tenant));
    }
    for window in served.windows(4) {
        let zoo = window.iter().filter(|tenant| tenant.as_str() == "zoo");
        assert_eq!(zoo.count(), 3, "{served:?}");
    }
    w.check().await;
}

pub(crate) async fn a_repeated_claim_gets_what_it_holds_still(w: World) {
    for agent_type in ["b", "a", "b"] {
        w.submit(spec(agent_type)).await;
    }
    let request = w.request("n1", 1, &[("a", 2), ("b", 2)]);
    let first = w.ledger.claim(request.clone()).await.unwrap();
    assert_eq!(first.claims.len(), 3);
    w.submit(spec("a")).await;
    let again = w.ledger.claim(request.clone()).await.unwrap();
    assert_eq!(again, first, "the same answer, and nothing besides");

    w.settle(first.claims[0].reference(), done("x"))
        .await
        .unwrap();
    w.settle(first.claims[2].reference(), hand_back())
        .await
        .unwrap();
    let again = w.ledger.claim(request).await.unwrap();
    assert_eq!(again.claims, first.claims[1..2]);
    w.check().await;
}

pub(crate) async fn nobody_else_s_request_claims_anything(w: World) {
    assert_eq!(w.register("n1").await, Incarnation(2));
    let early = w.request("n1", 2, &[("t", 9)]);
    w.ask("n1", 2, &[("t", 9)]).await;
    w.submit(spec("t")).await;
    let nothing = Claimed::default();
    assert_eq!(
        w.ledger.claim(early).await.unwrap(),
        nothing,
        "an older batch"
    );
    assert_eq!(w.ask("n1", 1, &[("t", 9)]).await, nothing, "a former life");
    assert_eq!(
        w.ask("n1", 3, &[("t", 9)]).await,
        nothing,
        "a life not begun"
    );
    assert_eq!(
        w.ask("n9", 1, &[("t", 9)]).await,
        nothing,
        "an unknown node"
    );
    assert_eq!(w.ask("n1", 2, &[("t", 9)]).await.claims.len(), 1);
    w.check().await;
}

pub(crate) async fn a_new_life_loses_the_claims_of_the_former_ones(w: World) {
    assert_eq!(w.register("n2").await, Incarnation(1));
    let mine = w.claimed().await;
    let id = w.submit(spec("t")).await;
    let theirs = w.ask("n2", 1, &[("t", 1)]).await.claims.pop().unwrap();
    assert_eq!(theirs.head.id, id);

    let registered = w.ledger.register(&node("n1"), Others::Nodes).await.unwrap();
    assert_eq!(registered.incarnation, Incarnation(2));
    assert_eq!(registered.lost, [mine.task]);
    assert!(registered.adopted.is_empty() && registered.suspects.is_empty());
    let head = w.ledger.get(mine.task).await.unwrap().head;
    assert_eq!((head.state, head.node_losses), (State::Ready, 1));
    assert_eq!(head.failed_attempts, 0, "a node's death is no attempt");
    assert!(head.fence > mine.fence);
    assert!(w.settle(mine, done("x")).await.is_err());
    w.settle(theirs.reference(), Settlement::Continue)
        .await
        .unwrap();

    let again = w.ask("n1", 2, &[("t", 9)]).await.claims;
    assert_eq!(ids(&again), [mine.task], "at once, without a back-off");
    w.check().await;
}

pub(crate) async fn no_task_dies_of_its_nodes(w: World) {
    let id = w.submit(spec("t")).await;
    let mut fence = Fence(0);
    for life in 1..=20 {
        let claim = w.ask("n1", life, &[("t", 1)]).await.claims.pop().unwrap();
        assert!(claim.head.fence > fence);
        fence = claim.head.fence;
        let registered = w.ledger.register(&node("n1"), Others::Nodes).await.unwrap();
        let suspects: &[_] = if life < 3 { &[] } else { &[id] };
        assert_eq!(registered.suspects, suspects, "after {life} losses");
    }
    let head = w.ledger.get(id).await.unwrap().head;
    assert_eq!((head.state, head.node_losses), (State::Ready, 20));
    // A claim that its holder gives back is no loss: the count begins anew.
    let claim = w.ask("n1", 21, &[("t", 1)]).await.claims.pop().unwrap();
    w.settle(claim.reference(), hand_back()).await.unwrap();
    w.ask("n1", 21, &[("t", 1)]).await.claims.pop().unwrap();
    let registered = w.ledger.register(&node("n1"), Others::Nodes).await.unwrap();
    assert_eq!((registered.lost, registered.suspects), (vec![id], vec![]));
    w.check().await;
}

pub(crate) async fn the_only_node_adopts_what_it_finds(w: World) {
    w.register("n2").await;
    w.register("n3").await;
    let mut held = Vec::new();
    for name in ["n3", "n1", "n2", "n2"] {
        let id = w.submit(spec("t")).await;
        let claims = w.ask(name, 1, &[("t", 1)]).await.claims;
        assert_eq!(ids(&claims), [id]);
        held.push(id);
    }
    let registered = w
        .ledger
        .register(&node("n1"), Others::Nobody)
        .await
        .unwrap();
    assert_eq!(registered.lost, held);
    assert_eq!(registered.adopted, [node("n2"), node("n3")]);
    let claims = w.ask("n1", 2, &[("t", 9)]).await.claims;
    assert_eq!(ids(&claims), held);
    w.check().await;
}

pub(crate) async fn a_wait_is_over_when_its_time_has_come(w: World) {
    assert_eq!(w.ask("n1", 1, &[("t", 1)]).await.next_due, None);
    let claim = w.claimed().await;
    w.settle(claim, give_up()).await.unwrap();
    let wait = Duration::from_millis(100);
    let early = w.ask("n1", 1, &[("t", 1)]).await;
    assert_eq!((early.claims.len(), early.next_due), (0, Some(wait)));

    // Of whatever queue; a deadline is no such moment.
    let mut urgent = spec("t");
    urgent.deadline = Some(w.now().after(wait / 4));
    w.submit(urgent).await;
    w.pass(wait / 2);
    let elsewhere = w.ask("n1", 1, &[("x", 1)]).await;
    assert_eq!(elsewhere.next_due, Some(wait / 2));
    w.pass(wait / 2);
    let due = w.ask("n1", 1, &[("t", 9)]).await;
    assert_eq!(ids(&due.claims), [claim.task]);
    assert_eq!(due.next_due, None);
    w.check().await;
}

pub(crate) async fn whoever_waits_for_work_is_woken(w: World) {
    let mut wakes = w.ledger.ready_wakes();
    let mut woken = |by: &str| {
        assert!(wakes.has_changed().unwrap(), "not woken by {by}");
        wakes.mark_unchanged();
    };
    let id = w.submit(spec("t")).await;
    woken("submit");
    let claim = w.claim("t").await.unwrap().reference();
    w.settle(claim, hand_back()).await.unwrap();
    woken("release");
    let claim = w.claim("t").await.unwrap().reference();
    w.settle(claim, give_up()).await.unwrap();
    woken("release with a back-off");
    w.pass(Duration::from_secs(1));
    let claim = w.claim("t").await.unwrap().reference();
    let approval = w.wait(claim).await;
    let decision = crate::world::accept();
    w.ledger
        .decide(approval, w.request_id(), decision)
        .await
        .unwrap();
    woken("decide");
    w.claim("t").await.unwrap();
    w.register("n1").await;
    woken("register");
    w.ledger.cancel(id, w.request_id()).await.unwrap();
    w.ledger.revive(id, w.request_id()).await.unwrap();
    woken("revive");

    let quiet = w.ledger.ready_wakes();
    let claim = w.ask("n1", 2, &[("t", 1)]).await.claims.pop().unwrap();
    w.append(claim.reference(), [0]).await.unwrap();
    w.settle(claim.reference(), done("x")).await.unwrap();
    assert!(
        !quiet.has_changed().unwrap(),
        "nothing has become claimable"
    );
}
