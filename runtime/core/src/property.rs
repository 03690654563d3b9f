//! What must hold at any moment, whatever happened before: numbered predicates.
//!
//! Property tests and the simulator call the same functions; `docs/properties.md` lists the numbers and
//! who calls which. The ledger's own, over its snapshots and change feed, stand in `colony_store::property`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cycle::Step,
    id::{AgentId, Fence, TaskId},
    journal::{Entry, Note},
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

/// P3, one end: a task ends once, and nothing happens to it afterwards. `seen` are its states in
/// the order in which anybody was told of them.
///
/// # Errors
/// [`Broken`] with the state after the end.
pub fn ends_once(seen: &[State]) -> Result<(), Broken> {
    match seen.windows(2).find(|pair| pair[0].is_final()) {
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

/// P7, the cycle is kept: the steps in a task's journal follow each other as the law of the cycle has
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::{
        cycle::{
            Decision, Deed, Lesson, Next, Output, Percept, Recall, Ruling, Teaching, Thought,
            Verdict, Work,
        },
        id::TypeName,
        task::{Answer, Event},
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
        let skipped = entry(1, Output::Execute(Deed::default()));
        assert_eq!(number(cycle_kept(&[first, skipped])), Some("P7"));
    }

    #[test]
    #[should_panic(expected = "property P2 broken: fence 1 after 1")]
    fn a_broken_property_stops_a_debug_build() {
        check(|| fences_rise(&[Fence(1), Fence(1)]));
    }

    const EVENTS: [Event; 10] = [
        Event::Claim,
        Event::HandBack,
        Event::Lose,
        Event::Park,
        Event::Decide,
        Event::Complete,
        Event::Fail,
        Event::Exhaust,
        Event::Cancel,
        Event::Expire,
    ];

    /// Does what the law of the cycle asks for, with verdicts as given.
    fn journal_of(verdicts: &[u8]) -> Vec<Entry> {
        let mut verdicts = verdicts.iter();
        let (mut work, mut journal) = (Work::default(), Vec::new());
        loop {
            let answer = Answer::by_rule("a", "r");
            let output = match work.next() {
                Next::End(_) => return journal,
                Next::Park { .. } => {
                    let (ruling, teaching) = (Ruling::Accept, Teaching::Keep);
                    work.decide(Decision {
                        ruling,
                        teaching,
                        by: "ann".into(),
                    });
                    continue;
                }
                Next::Do(Step::Perceive) => Output::Perceive(Percept::default()),
                Next::Do(Step::Retrieve) => Output::Retrieve(Recall::default()),
                Next::Do(Step::Reason) => Output::Reason(Thought {
                    answer,
                    doubt: None,
                    model_calls: vec![],
                }),
                Next::Do(Step::Execute) => Output::Execute(Deed::default()),
                Next::Do(Step::Verify) => Output::Verify(match verdicts.next() {
                    None | Some(0) => Verdict::Accept,
                    Some(1) => Verdict::Redo(answer),
                    Some(2) => Verdict::Reject {
                        reason: "no".into(),
                    },
                    Some(_) => {
                        let (doubt, question) = (crate::cycle::Doubt::New, "?".into());
                        Verdict::Ask { doubt, question }
                    }
                }),
                Next::Do(Step::Learn) => Output::Learn(Lesson::default()),
            };
            work.record(output.clone());
            journal.push(entry(u32::try_from(journal.len()).unwrap(), output));
        }
    }

    proptest! {
        /// P3 holds of every path through the law of the task's states.
        #[test]
        fn a_task_ends_once(events in proptest::collection::vec(0_usize..10, 0..30)) {
            let mut seen = vec![State::Ready];
            for event in events {
                if let Ok(state) = seen[seen.len() - 1].after(EVENTS[event]) {
                    seen.push(state);
                }
            }
            prop_assert_eq!(ends_once(&seen), Ok(()));
        }

        /// P6 and P7 hold of every path through the law of the cycle.
        #[test]
        fn the_cycle_keeps_its_order(verdicts in proptest::collection::vec(0_u8..4, 0..12)) {
            let journal = journal_of(&verdicts);
            prop_assert_eq!(gapless(&journal), Ok(()));
            prop_assert_eq!(cycle_kept(&journal), Ok(()));
        }
    }
}
