//! The commit against its definition: whom it obeys, which entries are new, what a repeat is.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    DAWN, Rows, claimed, entry, ready,
    settling::{decision, in_every_state, question, reference, release, request, settlements},
};
use crate::{
    id::{ApprovalId, TaskId},
    journal::Entry,
    ledger::{
        AttemptCounts, Commit, Policy, QuestionState, Refusal, Settlement, TaskHead,
        commit::{self, Outcome},
        settle,
    },
    property::{gapless, lawful},
    task::State,
};

fn outcome(head: &TaskHead, commit: &Commit, rows: &Rows) -> Result<Option<Outcome>, Refusal> {
    commit::outcome(
        head,
        commit,
        &mut rows.clone(),
        &Policy::default(),
        DAWN.after(Duration::from_secs(1)),
    )
}

/// Writes what an engine writes.
fn write(head: &mut TaskHead, rows: &mut Rows, commit: &Commit, outcome: Outcome) {
    lawful(head, &outcome.transition).unwrap();
    assert!(outcome.transition.expect.matches(head));
    let new = &commit.entries[outcome.append_from..];
    rows.journal.extend_from_slice(new);
    for (id, state) in outcome.taken {
        rows.questions.get_mut(&id).unwrap().1 = state;
    }
    if let Settlement::Wait(question) = &commit.settlement {
        let open = (head.id, QuestionState::Open);
        assert_eq!(rows.questions.insert(question.id, open), None);
    }
    if outcome.transition.ends() {
        for (task, state) in rows.questions.values_mut() {
            if *task == head.id {
                *state = settle::closed(state.clone());
            }
        }
    }
    if let Some(after) = outcome.transition.head {
        *head = after;
    }
}

fn settlement() -> impl Strategy<Value = Settlement> {
    let settling = (0..settlements().len()).prop_map(|index| settlements()[index].clone());
    prop_oneof![Just(Settlement::Continue), settling]
}

fn answered() -> QuestionState {
    QuestionState::Answered {
        decision: decision("ann"),
        request: request(1),
    }
}

/// Any state of a question, its own or another task's.
fn asked() -> impl Strategy<Value = (bool, QuestionState)> {
    let QuestionState::Answered { decision, request } = answered() else {
        unreachable!();
    };
    let taken = QuestionState::Taken { decision, request };
    let states = [
        QuestionState::Open,
        answered(),
        taken,
        QuestionState::Closed,
    ];
    (any::<bool>(), prop::sample::select(states.to_vec()))
}

fn of(own: bool) -> TaskId {
    if own {
        ready().id
    } else {
        super::new_task(1, super::spec()).id
    }
}

fn numbered(contents: &[u32], first: u32) -> Vec<Entry> {
    (first..)
        .zip(contents)
        .map(|(number, content)| entry(number, *content))
        .collect()
}

proptest! {
    /// A commit under the claim that stands. The entries follow each other, begin at most where the journal
    /// ends, and are the same where they overlap with it; the answers it takes are the task's own; its
    /// question is new. Sent once more it does nothing, however it ended.
    #[test]
    fn a_commit_is_written_once_or_refused(
        stored in prop::collection::vec(0..2_u32, 0..6),
        first in 0..8_u32,
        contents in prop::collection::vec(0..2_u32, 0..6),
        broken in prop::option::weighted(0.3, (0..6_usize, 0..8_u32)),
        asked in prop::collection::vec(asked(), 0..4),
        named in prop::collection::vec(0..6_u8, 0..4),
        settlement in settlement(),
    ) {
        let questions = (1..).zip(&asked).map(|(number, (own, state))| {
            (question(number).id, (of(*own), state.clone()))
        });
        let mut rows = Rows { journal: numbered(&stored, 0), questions: questions.collect() };
        let mut head = claimed();
        let mut commit = Commit::settling(reference(&head), settlement);
        commit.entries = numbered(&contents, first);
        if let Some((index, sequence)) = broken
            && let Some(entry) = commit.entries.get_mut(index)
        {
            entry.sequence = sequence;
        }
        commit.taken = named.iter().map(|number| question(*number).id).collect();

        let entries = &commit.entries;
        let next = u32::try_from(rows.journal.len()).unwrap();
        let follow = entries.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1);
        let starts = entries.first().is_none_or(|entry| entry.sequence <= next);
        let at = |n: u32| rows.journal.get(n as usize);
        let same = entries.iter().all(|e| at(e.sequence).is_none_or(|known| known == e));
        let continues = commit.settlement == Settlement::Continue;
        let asks_again = match &commit.settlement {
            Settlement::Wait(question) => rows.questions.contains_key(&question.id),
            Settlement::Continue | Settlement::End(_) | Settlement::Release { .. } => false,
        };
        let inbox = |id: &ApprovalId| {
            rows.questions.get(id).is_some_and(|(task, state)| {
                *task == head.id && *state == answered()
            })
        };
        match outcome(&head, &commit, &rows) {
            Ok(Some(done)) => {
                prop_assert!(follow && starts && same && !asks_again);
                let (known, new) = entries.split_at(done.append_from);
                prop_assert!(known.iter().all(|entry| entry.sequence < next));
                prop_assert!(new.iter().all(|entry| entry.sequence >= next));
                prop_assert_eq!(done.transition.head.is_none(), continues);
                let taken: Vec<_> = done.taken.iter().map(|(id, _)| *id).collect();
                let expected: Vec<_> = commit.taken.iter().copied().filter(inbox).collect();
                prop_assert_eq!(taken, expected);
                let decided = answered();
                for (_, state) in &done.taken {
                    let is_taken = matches!(state, QuestionState::Taken { .. });
                    prop_assert!(is_taken);
                    prop_assert_eq!(state.decision(), decided.decision());
                }
                write(&mut head, &mut rows, &commit, done);
                prop_assert_eq!(gapless(&rows.journal), Ok(()));
                match outcome(&head, &commit, &rows) {
                    // Nothing tells a commit without entries from its repeat, and nothing has to.
                    Ok(Some(again)) => {
                        prop_assert!(continues && commit.entries.is_empty());
                        prop_assert!(again.transition.head.is_none() && again.taken.is_empty());
                    }
                    again => prop_assert_eq!(again, Ok(None)),
                }
            }
            Ok(None) => {
                prop_assert!(follow && starts && same && continues);
                prop_assert!(!entries.is_empty() && entries.iter().all(|e| e.sequence < next));
            }
            Err(Refusal::Sequence { task, sequence, expected }) => {
                prop_assert!(!follow || !starts);
                prop_assert_ne!(sequence, expected);
                prop_assert_eq!(task, head.id);
            }
            Err(Refusal::Conflict { task, sequence }) => {
                let wrong = entries.iter().find(|entry| entry.sequence == sequence).unwrap();
                prop_assert!(at(sequence).is_some_and(|known| known != wrong));
                prop_assert_eq!(task, head.id);
            }
            Err(refusal) => {
                prop_assert!(follow && starts && same && asks_again);
                prop_assert_eq!(refusal, Refusal::RequestConflict { task: head.id });
            }
        }
    }
}

/// What is stored decides nothing for who has no claim.
#[test]
fn a_lost_claim_is_told_so_whatever_the_commit_holds() {
    let rows = Rows {
        journal: numbered(&[0, 0], 0),
        ..Rows::default()
    };
    for head in in_every_state() {
        let mut claim = reference(&head);
        claim.fence.0 += 1;
        for first in [0, 1, 2, 9] {
            let mut commit = Commit::settling(claim, Settlement::Continue);
            commit.entries = numbered(&[1, 1], first);
            let (task, fence, state) = (head.id, claim.fence, head.state);
            let lost = Err(Refusal::Lost { task, fence, state });
            assert_eq!(outcome(&head, &commit, &rows), lost);
        }
    }
}

/// The reply of a Continue is lost, and the holder settles with the same entries: they are there, and the
/// settlement is new.
#[test]
fn entries_that_are_known_do_not_stop_a_settlement() {
    let rows = Rows {
        journal: numbered(&[7, 8], 0),
        ..Rows::default()
    };
    let settlement = release(AttemptCounts::Not, Duration::ZERO);
    let mut commit = Commit::settling(reference(&claimed()), settlement);
    commit.entries = numbered(&[7, 8], 0);
    let outcome = outcome(&claimed(), &commit, &rows).unwrap().unwrap();
    assert_eq!(outcome.append_from, 2);
    assert_eq!(outcome.transition.to(), State::Ready);
}
