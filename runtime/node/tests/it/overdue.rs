//! Questions that nobody answers in time.

use std::time::Duration;

use colony_core::{
    cycle::{Decision, DecisionKind, Teaching},
    escalation::{DECIDED_BY, Due, Late},
    id::TaskId,
    ledger::QuestionState,
    task::{Spec, State},
};
use colony_node::{Node, NodeHandle};
use colony_store::{Approval, ApprovalFilter};

use crate::walk::{agent_type, config, dependencies, ledger, request, submit, until};

const WITHIN: Duration = Duration::from_secs(4 * 3_600);

async fn node(late: Late) -> Node {
    let mut config = config(&[("triage", 2)]);
    let declared = config.agents.get_mut("triage").expect("declared");
    declared.approvals = Due {
        within: WITHIN,
        late,
    };
    let started = Node::start(&config, dependencies(ledger())).await;
    started.expect("starts")
}

async fn ask(handle: &NodeHandle, input: &str) -> TaskId {
    let spec = Spec::new(agent_type("triage"), input);
    let ids = submit(handle, vec![spec]).await;
    until(handle, &ids, &[State::Waiting]).await;
    ids[0]
}

async fn question(handle: &NodeHandle, task: TaskId) -> Approval {
    let filter = ApprovalFilter {
        task: Some(task),
        closed_too: true,
        ..ApprovalFilter::default()
    };
    let mut found = handle.approvals(filter).await.expect("readable").items;
    found.remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_late_question_is_rejected_where_its_type_wants_it_so() {
    let node = node(Late::Reject).await;
    let handle = node.handle();
    let first = ask(&handle, "my badge is lost").await;
    let asked_at = question(&handle, first).await.asked_at;
    tokio::time::sleep(WITHIN / 2).await;
    let second = ask(&handle, "no heating").await;
    tokio::time::sleep(WITHIN / 2).await;
    until(&handle, &[first], &[State::Failed]).await;
    let late = question(&handle, first).await;
    assert_eq!(handle.due_at(&late), Some(asked_at.after(WITHIN)));
    let waited = handle.now().since(asked_at);
    let most = WITHIN + Duration::from_secs(60);
    assert!(waited >= WITHIN && waited < most, "{waited:?}");
    let decision = late.state.decision().expect("decided");
    let reason = "nobody decided within 4h".to_owned();
    assert_eq!(decision.kind, DecisionKind::Reject { reason });
    assert_eq!(decision.by, DECIDED_BY);
    // What is not late yet can still be decided.
    let open = question(&handle, second).await;
    assert_eq!(open.state, QuestionState::Open);
    let decision = Decision {
        kind: DecisionKind::Correct("building".to_owned()),
        teaching: Teaching::Keep,
        by: "ann".to_owned(),
    };
    let decided = handle.decide(open.question.id, request(), decision).await;
    decided.expect("open");
    until(&handle, &[second], &[State::Done]).await;
    tokio::time::sleep(WITHIN).await;
    let kept = question(&handle, second).await;
    assert_eq!(kept.state.decision().expect("decided").by, "ann");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_question_goes_on_waiting_unless_told_otherwise() {
    let node = node(Late::Wait).await;
    let handle = node.handle();
    let task = ask(&handle, "my badge is lost").await;
    tokio::time::sleep(3 * WITHIN).await;
    let late = question(&handle, task).await;
    assert_eq!(late.state, QuestionState::Open);
    assert!(handle.due_at(&late).expect("due") < handle.now());
    node.stop().await;
}
