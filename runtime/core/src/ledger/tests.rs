//! The rules against what must hold of any of their histories, without an engine.

#![allow(clippy::unwrap_used, reason = "tests")]

mod committing;
mod histories;
mod settling;
mod shares;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Policy, QuestionState, Refusal, TaskHead,
    commit::Stored,
    submit::{self, NewTask, Planned},
};
use crate::{
    id::{ApprovalId, Incarnation, NodeId, TaskId, Tenant, TypeName},
    journal::{Entry, Note},
    task::Spec,
    unit::Timestamp,
};

/// When histories begin.
const DAWN: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn node() -> NodeId {
    NodeId::new("n").unwrap()
}

fn tenant(name: &str) -> Tenant {
    Tenant::new(name).unwrap()
}

fn spec() -> Spec {
    Spec::new(TypeName::new("t").unwrap(), "the printer is on fire")
}

fn new_task(number: u16, spec: Spec) -> NewTask {
    let mut random = [0; 10];
    random[8..].copy_from_slice(&number.to_be_bytes());
    NewTask {
        id: TaskId::new(DAWN, random),
        spec: Arc::new(spec),
        refusal: None,
    }
}

/// The head of a task that was submitted at `DAWN`.
fn ready() -> TaskHead {
    let task = new_task(0, spec());
    let mut planned = submit::plan(&[task], &[None], 0, &Policy::default(), DAWN).unwrap();
    match planned.pop() {
        Some(Planned::Write(head)) => *head,
        other => panic!("{other:?}"),
    }
}

/// The same, claimed.
fn claimed() -> TaskHead {
    let taken = super::claim::take(&ready(), &node(), Incarnation(1), 1, DAWN);
    taken.head.unwrap()
}

fn entry(sequence: u32, content: u32) -> Entry {
    Entry {
        sequence,
        at: DAWN,
        note: Note::Decided(crate::cycle::Decision {
            kind: crate::cycle::DecisionKind::Accept,
            teaching: crate::cycle::Teaching::Keep,
            by: content.to_string(),
        }),
    }
}

/// What an engine has stored of what a commit is about.
#[derive(Debug, Clone, Default)]
struct Rows {
    journal: Vec<Entry>,
    questions: BTreeMap<ApprovalId, (TaskId, QuestionState)>,
}

impl Stored for Rows {
    type Error = Refusal;

    fn next_sequence(&mut self) -> Result<u32, Refusal> {
        Ok(u32::try_from(self.journal.len()).unwrap())
    }

    fn entry(&mut self, sequence: u32) -> Result<Option<Entry>, Refusal> {
        Ok(self.journal.get(sequence as usize).cloned())
    }

    fn question(&mut self, id: ApprovalId) -> Result<Option<(TaskId, QuestionState)>, Refusal> {
        Ok(self.questions.get(&id).cloned())
    }

    fn has_question(&mut self, id: ApprovalId) -> Result<bool, Refusal> {
        Ok(self.questions.contains_key(&id))
    }
}
