//! One rule at a time: retries, repeats, and what others may do.

use std::time::Duration;

use proptest::prelude::*;

use super::{DAWN, Rows, claimed, node, ready, spec};
use crate::{
    cycle::{Decision, DecisionKind, EscalationReason, Teaching},
    escalation::Evidence,
    id::{ApprovalId, Fence, Incarnation, RequestId},
    ledger::{
        AttemptCounts, ClaimRef, ClientRequest, ClientVerb, Commit, Policy, Question,
        QuestionState, Refusal, Settlement, Stamp, TaskHead, Transition, claim, commit,
        retry::{self, Disposition, RetryDecision, Trouble},
        settle,
    },
    property::{head_whole, lawful},
    task::{Answer, Ending, State},
    unit::Timestamp,
};

pub(super) fn reference(head: &TaskHead) -> ClaimRef {
    ClaimRef {
        task: head.id,
        fence: head.fence,
    }
}

pub(super) fn release(counts: AttemptCounts, delay: Duration) -> Settlement {
    let reason = "it crashed".into();
    Settlement::Release {
        counts,
        delay,
        reason,
    }
}

pub(super) fn question(number: u8) -> Question {
    Question {
        id: ApprovalId::new(DAWN, [number; 10]),
        escalation_reason: EscalationReason::Risky,
        question: "shall I?".into(),
        proposal: Answer::by_rule("yes", "a test"),
        evidence: Evidence::default(),
    }
}

pub(super) fn request(number: u8) -> RequestId {
    RequestId::new([number; 16])
}

pub(super) fn decision(by: &str) -> Decision {
    Decision {
        kind: DecisionKind::Accept,
        teaching: Teaching::Keep,
        by: by.into(),
    }
}

/// The settlements that settle, one of each kind.
pub(super) fn settlements() -> [Settlement; 5] {
    let failed = Ending::Failed {
        reason: "no".into(),
    };
    [
        Settlement::Wait(Box::new(question(1))),
        Settlement::End(Ending::Done(Answer::by_rule("x", "a test"))),
        Settlement::End(failed),
        release(AttemptCounts::Failed, Duration::ZERO),
        release(AttemptCounts::Not, Duration::ZERO),
    ]
}

fn commit(head: &TaskHead, settlement: Settlement) -> Result<Option<Transition>, Refusal> {
    let commit = Commit::settling(reference(head), settlement);
    transition(head, &commit, &Policy::default())
}

/// What becomes of a head with a commit of a task that has nothing else.
fn transition(
    head: &TaskHead,
    commit: &Commit,
    policy: &Policy,
) -> Result<Option<Transition>, Refusal> {
    let outcome = commit::outcome(head, commit, &mut Rows::default(), policy, DAWN)?;
    Ok(outcome.map(|outcome| outcome.transition))
}

/// The head afterwards, of a transition that is lawful.
fn after(head: &TaskHead, transition: Transition) -> TaskHead {
    lawful(head, &transition).unwrap();
    assert!(transition.expect.matches(head));
    transition.head.unwrap()
}

fn settled(head: &TaskHead, settlement: Settlement) -> TaskHead {
    after(head, commit(head, settlement).unwrap().unwrap())
}

fn claimed_again(head: &TaskHead, batch: u64) -> TaskHead {
    after(
        head,
        claim::take(head, &node(), Incarnation(1), batch, DAWN),
    )
}

/// A task in each state, as the rules lead there.
pub(super) fn in_every_state() -> Vec<TaskHead> {
    let held = claimed();
    let [wait, done, failed, ..] = settlements();
    let mut last = held.clone();
    last.failed_attempts = Policy::default().attempts_max - 1;
    let heads = vec![
        ready(),
        settled(&held, wait),
        settled(&held, done),
        settled(&held, failed),
        after(
            &held,
            settle::cancel(&held, None, request(9), DAWN)
                .unwrap()
                .unwrap(),
        ),
        after(&held, settle::expire(&held, DAWN)),
        settled(&last, release(AttemptCounts::Failed, Duration::ZERO)),
        held,
    ];
    let mut states: Vec<_> = heads.iter().map(|head| head.state).collect();
    states.sort();
    assert_eq!(states, State::ALL);
    heads
}

#[test]
fn back_off_doubles_up_to_its_limit_and_attempts_end() {
    let policy = Policy::default();
    let waits: Vec<_> = (1..5).map(|failed| retry::retry(failed, &policy)).collect();
    let after = |ms| RetryDecision::After(Duration::from_millis(ms));
    assert_eq!(waits, [100, 200, 400, 800].map(after));
    assert_eq!(retry::retry(5, &policy), RetryDecision::Dead);
    let patient = Policy {
        attempts_max: u32::MAX,
        ..policy
    };
    let longest = RetryDecision::After(patient.backoff_max);
    assert_eq!(retry::retry(1_000_000, &patient), longest);
}

/// Only a task's own doing counts; what is in the way is waited for, and then the agent is let go.
#[test]
fn a_task_is_charged_for_its_own_doing_only() {
    use Trouble::{AgentCrashed, Impossible, LedgerAway, NoAgent, NodeStops, OwnFailure, PortAway};
    for trouble in [OwnFailure, Impossible, AgentCrashed] {
        assert_eq!(
            retry::charge(trouble).0,
            AttemptCounts::Failed,
            "{trouble:?}"
        );
    }
    for trouble in [PortAway, LedgerAway, NoAgent, NodeStops] {
        assert_eq!(retry::charge(trouble).0, AttemptCounts::Not, "{trouble:?}");
    }
    let tries = |trouble, learning| {
        let again = |tries: &u32| {
            matches!(
                retry::after(trouble, learning, *tries),
                Disposition::Again(_)
            )
        };
        let tries = (0..100).take_while(again).count();
        (tries, retry::after(trouble, learning, 100))
    };
    assert_eq!(tries(PortAway, false), (5, Disposition::Release));
    assert_eq!(tries(LedgerAway, false), (16, Disposition::Release));
    assert_eq!(tries(OwnFailure, false), (0, Disposition::Release));
    assert_eq!(tries(Impossible, false), (0, Disposition::Fail));
    // What is done stays done.
    assert_eq!(tries(PortAway, true), (5, Disposition::Skip));
    assert_eq!(tries(OwnFailure, true), (0, Disposition::Skip));
    assert_eq!(tries(Impossible, true), (0, Disposition::Skip));
    assert_eq!(tries(NodeStops, true), (0, Disposition::Release));
    let waits = (1..9).map(retry::wait_before).map(|wait| wait.as_millis());
    assert_eq!(
        waits.collect::<Vec<_>>(),
        [20, 40, 80, 160, 320, 640, 1_280, 2_000]
    );
}

/// How a claim ends without ending the task.
#[derive(Debug, Clone)]
enum Setback {
    Failed(u64),
    NotCounted(u64),
    NodeLost,
}

fn setbacks() -> impl Strategy<Value = Vec<Setback>> {
    let one = prop_oneof![
        (0..5_000_u64).prop_map(Setback::Failed),
        (0..5_000_u64).prop_map(Setback::NotCounted),
        Just(Setback::NodeLost),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    /// Only the task's own failures kill it, and the last one of those it is allowed does. Nothing else
    /// counts or delays it, however often it happens. Suspect is whose last claims all ended with their nodes.
    #[test]
    fn only_failed_attempts_kill(setbacks in setbacks(), attempts_max in 1..8_u32) {
        let policy = Policy { attempts_max, ..Policy::default() };
        let (mut head, mut failed, mut lost) = (ready(), 0, 0);
        for (batch, setback) in (1..).zip(setbacks) {
            let held = claimed_again(&head, batch);
            let settle = |settlement| {
                let commit = Commit::settling(reference(&held), settlement);
                transition(&held, &commit, &policy).unwrap().unwrap()
            };
            let delay = |ms: u64| (ms > 0).then(|| DAWN.after(Duration::from_millis(ms)));
            head = match setback {
                Setback::NodeLost => {
                    lost += 1;
                    let head = after(&held, settle::lose(&held, DAWN));
                    prop_assert_eq!(head.not_before, None);
                    prop_assert_eq!(head.is_suspect(&policy), lost >= policy.suspect_losses);
                    prop_assert!(head.fence > held.fence);
                    head
                }
                Setback::NotCounted(ms) => {
                    lost = 0;
                    let delay_asked = Duration::from_millis(ms);
                    let head = after(&held, settle(release(AttemptCounts::Not, delay_asked)));
                    prop_assert_eq!(head.not_before, delay(ms));
                    head
                }
                Setback::Failed(ms) => {
                    (failed, lost) = (failed + 1, 0);
                    let delay_asked = Duration::from_millis(ms);
                    let head = after(&held, settle(release(AttemptCounts::Failed, delay_asked)));
                    if failed == attempts_max {
                        prop_assert_eq!(head.state, State::Dead);
                        return Ok(());
                    }
                    let backoff = 100 << (failed - 1);
                    prop_assert_eq!(head.not_before, delay(ms.max(backoff)));
                    head
                }
            };
            prop_assert_eq!(head.state, State::Ready);
            prop_assert_eq!((head.failed_attempts, head.node_losses), (failed, lost));
            head.not_before = None;
        }
    }
}

#[test]
fn a_settlement_is_recognised_until_the_next_one() {
    for settlement in settlements() {
        let held = claimed();
        let first = Commit::settling(reference(&held), settlement.clone());
        let repeat = |head: &TaskHead| transition(head, &first, &Policy::default());
        let mut head = settled(&held, settlement);
        assert_eq!(repeat(&head), Ok(None));
        if head.state == State::Waiting {
            let (question, open) = (question(1), QuestionState::Open);
            let decided =
                settle::decide(&question, &open, &head, &decision("ann"), request(1), DAWN);
            head = after(&head, decided.unwrap().unwrap().transition.unwrap());
            assert_eq!(repeat(&head), Ok(None));
        }
        if head.state == State::Ready {
            let due = after(&head, claim::due(&head));
            assert_eq!(repeat(&due), Ok(None), "its back-off is over");
            let again = claimed_again(&due, 2);
            assert_eq!(repeat(&again), Ok(None), "claimed again");
            let forgotten = settled(&again, release(AttemptCounts::Not, Duration::ZERO));
            let ClaimRef { task, fence } = first.claim;
            let state = State::Ready;
            assert_eq!(
                repeat(&forgotten),
                Err(Refusal::Lost { task, fence, state })
            );
        }
    }
}

#[test]
fn only_the_claim_that_stands_is_obeyed() {
    let anything = || settlements().into_iter().chain([Settlement::Continue]);
    for head in in_every_state() {
        for fence in [head.fence.0 - u64::from(head.fence.0 > 0), head.fence.0 + 1] {
            let claim = ClaimRef {
                task: head.id,
                fence: Fence(fence),
            };
            let stands = head.state == State::Claimed && Fence(fence) == head.fence;
            assert_eq!(Stamp::Held(Fence(fence)).matches(&head), stands);
            for settlement in anything() {
                let commit = Commit::settling(claim, settlement);
                match transition(&head, &commit, &Policy::default()) {
                    Ok(None) => assert!(head.last_request.is_some()),
                    Ok(Some(_)) => assert!(stands),
                    Err(refusal) => {
                        let (task, state, fence) = (head.id, head.state, Fence(fence));
                        assert_eq!(refusal, Refusal::Lost { task, fence, state });
                    }
                }
            }
        }
        // Under the present fence, but not claimed: nothing is new to it.
        if head.state != State::Claimed {
            for settlement in anything() {
                assert!(!matches!(commit(&head, settlement), Ok(Some(_))));
            }
        }
    }
}

#[test]
fn others_can_only_take_a_claim_away() {
    let held = claimed();
    let (open, ask) = (QuestionState::Open, question(1));
    let by = decision("ann");
    let decided = settle::decide(&ask, &open, &held, &by, request(1), DAWN).unwrap();
    assert_eq!(
        decided.unwrap().transition,
        None,
        "an answer leaves the head alone"
    );
    let others = [
        settle::lose(&held, DAWN),
        settle::cancel(&held, None, request(1), DAWN)
            .unwrap()
            .unwrap(),
        settle::expire(&held, DAWN),
        settle::quarantine(&held, "unreadable", DAWN),
    ];
    for transition in others {
        assert_eq!(transition.expect, Stamp::of(&held));
        assert_ne!(after(&held, transition).state, State::Claimed);
    }
    let spec = spec();
    let revived = settle::revive(&held, &spec, None, request(1), &Policy::default(), DAWN);
    assert!(revived.is_err());
}

#[test]
fn a_question_is_answered_once_in_any_live_state() {
    let by = decision("ann");
    for head in in_every_state() {
        let decide = |state: &QuestionState, number| {
            settle::decide(&question(1), state, &head, &by, request(number), DAWN)
        };
        let (id, task, state) = (question(1).id, head.id, head.state);
        let closed = Err(Refusal::Closed { id, task, state });
        assert_eq!(decide(&QuestionState::Closed, 1), closed);
        if state.is_final() {
            assert_eq!(decide(&QuestionState::Open, 1), closed);
            continue;
        }
        let decided = decide(&QuestionState::Open, 1).unwrap().unwrap();
        let waits = state == State::Waiting;
        assert_eq!(decided.transition.is_some(), waits, "{state}");
        if let Some(transition) = decided.transition {
            assert_eq!(after(&head, transition).state, State::Ready);
        }
        let taken = QuestionState::Taken {
            decision: by.clone(),
            request: request(1),
        };
        for answered in [decided.question, taken] {
            assert_eq!(decide(&answered, 1), Ok(None));
            let other = decision("bob");
            let changed = settle::decide(&question(1), &answered, &head, &other, request(1), DAWN);
            assert_eq!(changed, Err(Refusal::RequestConflict { task }));
            let by = "ann".into();
            assert_eq!(
                decide(&answered, 2),
                Err(Refusal::Decided {
                    id,
                    task,
                    state,
                    by
                })
            );
            assert_eq!(settle::closed(answered.clone()), answered);
        }
    }
    // A task that waits for another question goes on waiting.
    let waiting = settled(&claimed(), Settlement::Wait(Box::new(question(2))));
    let open = QuestionState::Open;
    let decided = settle::decide(&question(1), &open, &waiting, &by, request(1), DAWN);
    assert_eq!(decided.unwrap().unwrap().transition, None);
}

#[test]
fn a_clients_request_is_done_once_in_any_state() {
    let (spec, policy, id) = (spec(), Policy::default(), request(1));
    for head in in_every_state() {
        let (task, state) = (head.id, head.state);
        let cancel = |known| settle::cancel(&head, known, id, DAWN);
        let revive = |known| settle::revive(&head, &spec, known, id, &policy, DAWN);
        let kept = |done: Option<Transition>| done.unwrap().request.unwrap();
        let conflict = Err(Refusal::RequestConflict { task });

        assert_eq!(cancel(Some(ClientVerb::Cancel)), Ok(None));
        assert_eq!(cancel(Some(ClientVerb::Revive)), conflict);
        let verb = ClientVerb::Cancel;
        match cancel(None) {
            Ok(done) => assert_eq!(kept(done), ClientRequest { id, verb }),
            Err(refusal) => assert_eq!(refusal, Refusal::Ended { task, state }),
        }

        assert_eq!(revive(Some(ClientVerb::Revive)), Ok(None));
        assert_eq!(revive(Some(ClientVerb::Cancel)), conflict);
        let verb = ClientVerb::Revive;
        match revive(None) {
            Ok(done) => assert_eq!(kept(done), ClientRequest { id, verb }),
            Err(refusal) => assert_eq!(refusal, Refusal::NotRevivable { task, state }),
        }
    }
}

#[test]
fn what_ended_without_a_verdict_may_be_revived() {
    let (mut spec, policy) = (spec(), Policy::default());
    let later = DAWN.after(Duration::from_secs(60));
    for mut head in in_every_state() {
        head.failed_attempts = 4;
        head.node_losses = 7;
        for deadline in [None, Some(DAWN), Some(later.after(Duration::from_secs(1)))] {
            spec.deadline = deadline;
            head.deadline = deadline;
            let revived = settle::revive(&head, &spec, None, request(1), &policy, later);
            let (task, state) = (head.id, head.state);
            if !matches!(state, State::Dead | State::Cancelled | State::Expired) {
                assert_eq!(revived, Err(Refusal::NotRevivable { task, state }));
                continue;
            }
            let again = after(&head, revived.unwrap().unwrap());
            assert_eq!(again.state, State::Ready);
            assert!(again.fence > head.fence);
            assert_eq!((again.failed_attempts, again.node_losses), (0, 0));
            assert!(again.sort_key > head.sort_key, "at the end of its line");
            let still_ahead = |at: &Timestamp| *at > later;
            assert_eq!(again.deadline, deadline.filter(still_ahead));
        }
    }
}

#[test]
fn what_is_written_off_is_dead_and_above_whoever_held_it() {
    let (spec, policy) = (spec(), Policy::default());
    let held = claimed();
    let later = DAWN.after(Duration::from_secs(1));
    for known in [Some(&spec), None] {
        let head = settle::write_off(held.id, known, "unreadable", &policy, later);
        head_whole(&head).unwrap();
        assert_eq!((head.id, head.state), (held.id, State::Dead));
        assert!(head.fence > held.fence && head.revision > held.revision);
        assert_eq!(head.submitted_at, held.submitted_at);
        let as_submitted = (head.queue == held.queue, head.tenant == held.tenant);
        assert_eq!(as_submitted, (known.is_some(), true));
        let lost = commit(&head, Settlement::Continue);
        assert!(matches!(lost, Err(Refusal::Lost { .. })), "{lost:?}");
        let revived = settle::revive(&head, &spec, None, request(1), &policy, later);
        let again = after(&head, revived.unwrap().unwrap());
        assert!(again.fence > held.fence);
    }
}
