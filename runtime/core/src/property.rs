//! What must hold at any moment, whatever happened before: numbered predicates.
//!
//! Property tests, the simulator and the engines' debug builds ([`check`]) call the same functions;
//! `docs/properties.md` lists the numbers and who calls which. Those over the ledger's snapshots and change
//! feed stand in `colony_store::property`, with the same numbers and the same [`Broken`].

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cycle::Step,
    id::{AgentId, Fence, TaskId},
    journal::{Entry, Note},
    ledger::{Stamp, TaskHead, Transition},
    task::State,
};

/// A property that does not hold, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("property {number} broken: {what}")]
pub struct Broken {
    /// The property's number.
    pub number: &'static str,
    /// What was seen.
    pub what: String,
}

fn broken(number: &'static str, what: String) -> Result<(), Broken> {
    Err(Broken { number, what })
}

/// Demands a property in debug builds; costs nothing in release builds.
///
/// # Panics
/// In debug builds, when the property does not hold: that is a bug of ours.
pub fn check(property: impl FnOnce() -> Result<(), Broken>) {
    if cfg!(debug_assertions)
        && let Err(broken) = property()
    {
        panic!("{broken}");
    }
}

/// P1, conservation: every accepted task is in exactly one state.
///
/// # Errors
/// [`Broken`] with the numbers.
pub fn conserved(accepted: u64, by_state: &BTreeMap<State, u64>) -> Result<(), Broken> {
    let sum: u64 = by_state.values().sum();
    if sum == accepted {
        return Ok(());
    }
    broken(
        "P1",
        format!("{accepted} accepted, {sum} in a state: {by_state:?}"),
    )
}

/// P2, fences rise: the claims of one task, in the order made, carry ever higher fences.
///
/// # Errors
/// [`Broken`] with the first pair that does not rise.
pub fn fences_rise(fences: &[Fence]) -> Result<(), Broken> {
    match fences.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => broken("P2", format!("fence {} after {}", pair[1].0, pair[0].0)),
        None => Ok(()),
    }
}

/// P3, one end: a task ends once, and nothing happens to it afterwards, but that a dead, cancelled or
/// expired one may be revived: then it is ready. `seen` are its states in the order it was in them.
///
/// # Errors
/// [`Broken`] with the state after the end.
pub fn ends_once(seen: &[State]) -> Result<(), Broken> {
    let leaves_its_end = |pair: &&[State]| match pair[0] {
        State::Ready | State::Claimed | State::Waiting => false,
        State::Done | State::Failed => true,
        State::Cancelled | State::Expired | State::Dead => pair[1] != State::Ready,
    };
    match seen.windows(2).find(leaves_its_end) {
        Some(pair) => broken("P3", format!("{} after {}", pair[1], pair[0])),
        None => Ok(()),
    }
}

/// P4, one task at a time: among the assignments under way no agent and no task stands twice.
///
/// # Errors
/// [`Broken`] with whom.
pub fn one_at_a_time<'a>(
    under_way: impl IntoIterator<Item = (&'a AgentId, TaskId)>,
) -> Result<(), Broken> {
    let (mut agents, mut tasks) = (BTreeSet::new(), BTreeSet::new());
    for (agent, task) in under_way {
        if !agents.insert(agent) {
            return broken(
                "P4",
                format!("agent {agent} holds two tasks, {task} is one"),
            );
        }
        if !tasks.insert(task) {
            return broken(
                "P4",
                format!("task {task} is with two agents, {agent} is one"),
            );
        }
    }
    Ok(())
}

/// P5, signals fade: readings of one cell, taken in order without a deposit or merge in between,
/// lie between 0 and 1 and never rise.
///
/// # Errors
/// [`Broken`] with the reading.
pub fn fades(readings: &[f64]) -> Result<(), Broken> {
    if let Some(reading) = readings.iter().find(|r| !(0.0..=1.0).contains(*r)) {
        return broken("P5", format!("reading {reading} is not between 0 and 1"));
    }
    match readings.windows(2).find(|pair| pair[0] < pair[1]) {
        Some(pair) => broken(
            "P5",
            format!("reading rose from {} to {}", pair[0], pair[1]),
        ),
        None => Ok(()),
    }
}

/// P6, the journal has no gaps: the entries of a task count from 0.
///
/// # Errors
/// [`Broken`] with the first entry out of place.
pub fn gapless(journal: &[Entry]) -> Result<(), Broken> {
    match (0..)
        .zip(journal)
        .find(|(due, entry)| entry.sequence != *due)
    {
        Some((due, entry)) => broken(
            "P6",
            format!("entry {} where {due} was due", entry.sequence),
        ),
        None => Ok(()),
    }
}

/// P7, the cycle is kept: the steps in a task's journal follow each other as the rules of the cycle has
/// them, each done once, except for what a human's decision or a correction has done again.
///
/// # Errors
/// [`Broken`] with the first step out of place.
pub fn cycle_kept(journal: &[Entry]) -> Result<(), Broken> {
    let mut last = None;
    for entry in journal {
        let Note::Output(output) = &entry.note else {
            continue;
        };
        let step = output.step();
        let allowed: &[Step] = match last {
            None => &[Step::Perceive],
            Some(Step::Perceive) => &[Step::Retrieve],
            Some(Step::Retrieve) => &[Step::Reason],
            Some(Step::Reason) => &[Step::Execute],
            Some(Step::Execute) => &[Step::Verify],
            Some(Step::Verify) => &[Step::Execute, Step::Verify, Step::Learn],
            Some(Step::Learn) => &[],
        };
        if !allowed.contains(&step) {
            let after = last.map_or("the start", Step::as_str);
            return broken(
                "P7",
                format!("{step} after {after} in entry {}", entry.sequence),
            );
        }
        last = Some(step);
    }
    Ok(())
}

/// P8, the holder is alone: nobody but the holder changes a head that stays claimed; others can only take
/// the claim away. Every write of a head raises its revision, and none lowers its fence.
///
/// # Errors
/// [`Broken`] with what the transition would do to the head.
pub fn holder_alone(before: &TaskHead, transition: &Transition) -> Result<(), Broken> {
    let id = before.id;
    let Some(after) = &transition.head else {
        // An append: only the holder writes a journal.
        return match transition.expect {
            Stamp::Held(_) => Ok(()),
            Stamp::Unchanged { .. } => broken("P8", format!("somebody else appends to task {id}")),
        };
    };
    if after.revision <= before.revision {
        let (was, is) = (before.revision, after.revision);
        return broken("P8", format!("task {id} goes from revision {was} to {is}"));
    }
    if after.fence < before.fence {
        let (was, is) = (before.fence.0, after.fence.0);
        return broken("P8", format!("task {id} goes from fence {was} to {is}"));
    }
    let stays = before.state == State::Claimed && after.state == State::Claimed;
    let by_holder = transition.expect == Stamp::Held(before.fence)
        && after.fence == before.fence
        && after.holder == before.holder;
    if stays && !by_holder {
        return broken(
            "P8",
            format!("somebody else changes task {id} while it is claimed"),
        );
    }
    Ok(())
}

/// P10, a head is whole: it has a holder exactly while it is claimed, something to wait for exactly while
/// it is waiting, an ending exactly when it has ended, and a moment to wait for only while it is ready.
///
/// # Errors
/// [`Broken`] with the state and what does not fit it.
pub fn head_whole(head: &TaskHead) -> Result<(), Broken> {
    let TaskHead { id, state, .. } = head;
    let fits = [
        (
            "holder",
            head.holder.is_some() == (*state == State::Claimed),
        ),
        ("wait", head.wait.is_some() == (*state == State::Waiting)),
        ("ending", head.ending.is_some() == state.is_final()),
        (
            "moment",
            head.not_before.is_none() || *state == State::Ready,
        ),
    ];
    match fits.iter().find(|(_, fits)| !fits) {
        Some((what, _)) => broken(
            "P10",
            format!("the {what} of task {id} does not fit {state}"),
        ),
        None => Ok(()),
    }
}

/// P2, P3, P8 and P10 of one transition: what an engine demands before it applies it to `before`.
///
/// # Errors
/// [`Broken`].
pub fn lawful(before: &TaskHead, transition: &Transition) -> Result<(), Broken> {
    holder_alone(before, transition)?;
    let Some(after) = &transition.head else {
        return Ok(());
    };
    if before.state != State::Claimed && after.state == State::Claimed {
        fences_rise(&[before.fence, after.fence])?;
    }
    ends_once(&[before.state, after.state])?;
    head_whole(after)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        cycle::{
            Decision, DecisionKind, ExecutionResult, Learning, Next, Output, Percept, Recall,
            Teaching, Thought, Verdict, Work,
        },
        id::{Incarnation, NodeId, TypeName},
        ledger::{Policy, claim, settle, submit},
        task::{Answer, Spec},
        unit::Timestamp,
    };

    fn number(result: Result<(), Broken>) -> Option<&'static str> {
        result.err().map(|broken| broken.number)
    }

    fn agent(ordinal: u32) -> AgentId {
        let agent_type = TypeName::new("triage").unwrap();
        AgentId {
            agent_type,
            ordinal,
        }
    }

    fn task(number: u8) -> TaskId {
        TaskId::new(Timestamp::default(), [number; 10])
    }

    fn entry(sequence: u32, output: Output) -> Entry {
        let note = Note::Output(output);
        Entry {
            sequence,
            at: Timestamp::default(),
            note,
        }
    }

    #[test]
    fn what_is_wrong_is_found() {
        let counts = BTreeMap::from([(State::Ready, 2), (State::Done, 3)]);
        assert_eq!(number(conserved(5, &counts)), None);
        assert_eq!(number(conserved(6, &counts)), Some("P1"));
        assert_eq!(number(fences_rise(&[Fence(1), Fence(2), Fence(9)])), None);
        assert_eq!(number(fences_rise(&[Fence(2), Fence(2)])), Some("P2"));
        assert_eq!(
            number(ends_once(&[State::Ready, State::Claimed, State::Done])),
            None
        );
        assert_eq!(number(ends_once(&[State::Done, State::Done])), Some("P3"));
        assert_eq!(number(ends_once(&[State::Done, State::Ready])), Some("P3"));
        assert_eq!(number(ends_once(&[State::Dead, State::Ready])), None);
        assert_eq!(
            number(ends_once(&[State::Dead, State::Claimed])),
            Some("P3")
        );
        let (one, two) = (agent(1), agent(2));
        assert_eq!(
            number(one_at_a_time([(&one, task(1)), (&two, task(2))])),
            None
        );
        assert_eq!(
            number(one_at_a_time([(&one, task(1)), (&one, task(2))])),
            Some("P4")
        );
        assert_eq!(
            number(one_at_a_time([(&one, task(1)), (&two, task(1))])),
            Some("P4")
        );
        assert_eq!(number(fades(&[1.0, 0.5, 0.5, 0.0])), None);
        assert_eq!(number(fades(&[0.5, 0.6])), Some("P5"));
        assert_eq!(number(fades(&[f64::NAN])), Some("P5"));
        let first = entry(0, Output::Perceive(Percept::default()));
        let gap = entry(2, Output::Retrieve(Recall::default()));
        assert_eq!(number(gapless(std::slice::from_ref(&first))), None);
        assert_eq!(number(gapless(&[first.clone(), gap])), Some("P6"));
        let skipped = entry(1, Output::Execute(ExecutionResult::default()));
        assert_eq!(number(cycle_kept(&[first, skipped])), Some("P7"));
    }

    #[test]
    #[should_panic(expected = "property P2 broken: fence 1 after 1")]
    fn a_broken_property_stops_a_debug_build() {
        check(|| fences_rise(&[Fence(1), Fence(1)]));
    }

    fn head() -> TaskHead {
        let spec = Arc::new(Spec::new(TypeName::new("triage").unwrap(), "x"));
        let new = submit::NewTask {
            id: task(1),
            spec,
            refusal: None,
        };
        let now = Timestamp::default();
        let planned = submit::plan(&[new], &[None], 0, &Policy::default(), now).unwrap();
        match planned.into_iter().next() {
            Some(submit::Planned::Write(head)) => *head,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_transition_against_the_law_is_found() {
        let now = Timestamp::default();
        let node = NodeId::new("n").unwrap();
        let ready = head();
        let claim = claim::take(&ready, &node, Incarnation(1), 1, now);
        assert_eq!(lawful(&ready, &claim), Ok(()));
        let claimed = claim.head.clone().unwrap();

        let mut same_fence = claim.clone();
        same_fence.head.as_mut().unwrap().fence = ready.fence;
        assert_eq!(number(lawful(&ready, &same_fence)), Some("P2"));
        let mut same_revision = claim.clone();
        same_revision.head.as_mut().unwrap().revision = ready.revision;
        assert_eq!(number(lawful(&ready, &same_revision)), Some("P8"));
        let mut unheld = claim;
        unheld.head.as_mut().unwrap().holder = None;
        assert_eq!(number(lawful(&ready, &unheld)), Some("P10"));
        // A second claim of a claimed task, and a stranger's append.
        let again = claim::take(&claimed, &node, Incarnation(1), 2, now);
        assert_eq!(number(lawful(&claimed, &again)), Some("P8"));
        let mut append = settle::lose(&claimed, now);
        append.head = None;
        assert_eq!(number(lawful(&claimed, &append)), Some("P8"));

        let expired = settle::expire(&ready, now).head.unwrap();
        assert_eq!(
            number(lawful(&expired, &settle::expire(&expired, now))),
            Some("P3")
        );
    }

    /// Does what the rules of the cycle asks for, with verdicts as given.
    fn journal_of(verdicts: &[u8]) -> Vec<Entry> {
        let mut verdicts = verdicts.iter();
        let (mut work, mut journal) = (Work::default(), Vec::new());
        loop {
            let answer = Answer::by_rule("a", "r");
            let output = match work.next() {
                Next::End(_) => return journal,
                Next::Wait { .. } => {
                    let (kind, teaching) = (DecisionKind::Accept, Teaching::Keep);
                    work.decide(Decision {
                        kind,
                        teaching,
                        by: "ann".into(),
                    });
                    continue;
                }
                Next::Do(Step::Perceive) => Output::Perceive(Percept::default()),
                Next::Do(Step::Retrieve) => Output::Retrieve(Recall::default()),
                Next::Do(Step::Reason) => Output::Reason(Thought {
                    answer,
                    escalation_reason: None,
                    model_calls: vec![],
                    findings: Vec::new(),
                }),
                Next::Do(Step::Execute) => Output::Execute(ExecutionResult::default()),
                Next::Do(Step::Verify) => Output::Verify(match verdicts.next() {
                    None | Some(0) => Verdict::Accept,
                    Some(1) => Verdict::Redo(answer),
                    Some(2) => Verdict::Reject {
                        reason: "no".into(),
                    },
                    Some(_) => {
                        let (escalation_reason, question) =
                            (crate::cycle::EscalationReason::New, "?".into());
                        Verdict::Ask {
                            escalation_reason,
                            question,
                        }
                    }
                }),
                Next::Do(Step::Learn) => Output::Learn(Learning::default()),
            };
            work.record(output.clone());
            journal.push(entry(u32::try_from(journal.len()).unwrap(), output));
        }
    }

    proptest! {
        /// P6 and P7 hold of every path through the rules of the cycle.
        #[test]
        fn the_cycle_keeps_its_order(verdicts in proptest::collection::vec(0_u8..4, 0..12)) {
            let journal = journal_of(&verdicts);
            prop_assert_eq!(gapless(&journal), Ok(()));
            prop_assert_eq!(cycle_kept(&journal), Ok(()));
        }
    }
}
