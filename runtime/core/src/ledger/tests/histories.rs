//! Random histories of a few tasks, made by the rules alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::{DAWN, Rows, entry, new_task, node, spec};
use crate::{
    cycle::{Decision, DecisionKind, EscalationReason, Teaching},
    escalation::Evidence,
    id::{ApprovalId, Fence, Incarnation, RequestId, TaskId},
    journal::Entry,
    ledger::{
        AttemptCounts, ClaimRef, ClientRequest, ClientVerb, Commit, Policy, Question,
        QuestionState, Refusal, Select, Settlement, TaskHead, Transition, claim, commit, settle,
        submit::{self, Planned},
    },
    property::{conserved, ends_once, fences_rise, gapless, lawful},
    task::{Answer, Ending, Spec, State},
    unit::Timestamp,
};

#[derive(Debug, Clone, Copy)]
enum Op {
    Submit {
        deadline_ms: Option<u64>,
    },
    Claim,
    /// Under any claim that was ever given.
    Commit {
        claim: usize,
        first: u32,
        entries: u32,
        settlement: u8,
    },
    Decide {
        question: usize,
        request: u8,
    },
    Cancel {
        task: usize,
        request: u8,
    },
    Expire,
    Lose,
    Quarantine {
        task: usize,
    },
    Revive {
        task: usize,
        request: u8,
    },
    Pass {
        ms: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = 0..1_000_usize;
    let op = prop_oneof![
        3 => prop::option::weighted(0.3, 1..3_000_u64)
            .prop_map(|deadline_ms| Op::Submit { deadline_ms }),
        6 => Just(Op::Claim),
        8 => (index.clone(), 0..4_u32, 0..3_u32, 0..8_u8).prop_map(
            |(claim, first, entries, settlement)| Op::Commit { claim, first, entries, settlement }
        ),
        2 => (index.clone(), 0..3_u8).prop_map(|(question, request)| Op::Decide { question, request }),
        1 => (index.clone(), 0..3_u8).prop_map(|(task, request)| Op::Cancel { task, request }),
        1 => Just(Op::Expire),
        1 => Just(Op::Lose),
        1 => index.clone().prop_map(|task| Op::Quarantine { task }),
        2 => (index, 0..3_u8).prop_map(|(task, request)| Op::Revive { task, request }),
        3 => (1..2_000_u64).prop_map(|ms| Op::Pass { ms }),
    ];
    prop::collection::vec(op, 1..150)
}

/// A task and all that has become of it.
struct Task {
    head: TaskHead,
    spec: Spec,
    journal: Vec<Entry>,
    states: Vec<State>,
    /// The fence of each of its claims.
    fences: Vec<Fence>,
    failed_since_revival: u32,
    /// What clients asked, by id.
    requests: BTreeMap<RequestId, ClientVerb>,
}

#[derive(Default)]
struct History {
    policy: Policy,
    now: Timestamp,
    accepted: u64,
    tasks: BTreeMap<TaskId, Task>,
    questions: Vec<(Question, TaskId, QuestionState)>,
    claims: Vec<ClaimRef>,
}

/// Who makes a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Holder,
    Others,
}

impl History {
    fn step(&mut self, op: Op) {
        match op {
            Op::Submit { deadline_ms } => self.submit(deadline_ms),
            Op::Claim => self.claim(),
            Op::Commit {
                claim,
                first,
                entries,
                settlement,
            } => self.commit(claim, first, entries, settlement),
            Op::Decide { question, request } => self.decide(question, request),
            Op::Cancel { task, request } => {
                let request = RequestId::new([request; 16]);
                if let Some(head) = self.any(task)
                    && let known = self.tasks[&head.id].requests.get(&request).copied()
                    && let Ok(Some(transition)) = settle::cancel(head, known, request, self.now)
                {
                    self.apply(transition, By::Others);
                }
            }
            Op::Expire => {
                for id in self.select(Select::Expired) {
                    self.apply(settle::expire(&self.tasks[&id].head, self.now), By::Others);
                }
            }
            Op::Lose => {
                let (node, incarnation) = (node(), Incarnation(2));
                let node = &node;
                for id in self.select(Select::HeldBefore { node, incarnation }) {
                    let lost = settle::lose(&self.tasks[&id].head, self.now);
                    assert_eq!(lost.to(), State::Ready, "no task dies of its nodes");
                    self.apply(lost, By::Others);
                }
            }
            Op::Quarantine { task } => {
                if let Some(head) = self.any(task)
                    && !head.state.is_final()
                {
                    self.apply(settle::quarantine(head, "unreadable", self.now), By::Others);
                }
            }
            Op::Revive { task, request } => {
                let request = RequestId::new([request; 16]);
                if let Some(id) = self.any(task).map(|head| head.id)
                    && let Task {
                        head,
                        spec,
                        requests,
                        ..
                    } = &self.tasks[&id]
                    && let known = requests.get(&request).copied()
                    && let Ok(Some(revived)) =
                        settle::revive(head, spec, known, request, &self.policy, self.now)
                {
                    self.apply(revived, By::Others);
                    self.tasks.get_mut(&id).unwrap().failed_since_revival = 0;
                }
            }
            Op::Pass { ms } => self.now = self.now.after(Duration::from_millis(ms)),
        }
    }

    fn any(&self, task: usize) -> Option<&TaskHead> {
        let task = self.tasks.values().nth(task % self.tasks.len().max(1));
        task.map(|task| &task.head)
    }

    fn select(&self, select: Select<'_>) -> Vec<TaskId> {
        let heads = self.tasks.values().map(|task| &task.head);
        let mut found: Vec<_> = heads.filter(|h| select.matches(h, self.now)).collect();
        found.sort_by_key(|head| select.order(head));
        found.into_iter().map(|head| head.id).collect()
    }

    /// Applies a transition, and holds P2, P3, P8 and P10 of it.
    fn apply(&mut self, transition: Transition, by: By) {
        let task = self.tasks.get_mut(&transition.id).unwrap();
        lawful(&task.head, &transition).unwrap();
        assert!(transition.expect.matches(&task.head));
        assert_eq!(transition.from, task.head.state);
        let (id, moves, ends) = (
            transition.id,
            transition.from != transition.to(),
            transition.ends(),
        );
        if let Some(ClientRequest { id, verb }) = transition.request {
            assert_eq!(task.requests.insert(id, verb), None, "done twice");
        }
        let Some(after) = transition.head else {
            assert_eq!(by, By::Holder);
            return;
        };
        // P8 in so many words: a head that stays claimed was changed by nobody else.
        assert!(
            by == By::Holder || after.state != State::Claimed || task.head.state == State::Ready
        );
        if after.state == State::Claimed {
            task.fences.push(after.fence);
        }
        if moves {
            task.states.push(after.state);
        }
        if ends {
            for (_, asked_by, state) in &mut self.questions {
                if *asked_by == id {
                    *state = settle::closed(state.clone());
                }
            }
        }
        task.head = after;
    }

    fn submit(&mut self, deadline_ms: Option<u64>) {
        let mut spec = spec();
        spec.deadline = deadline_ms.map(|ms| self.now.after(Duration::from_millis(ms)));
        let number = u16::try_from(self.tasks.len()).unwrap();
        let new = new_task(number, spec.clone());
        let live = self.tasks.len() as u64;
        let planned = submit::plan(&[new], &[None], live, &self.policy, self.now).unwrap();
        for planned in planned {
            let Planned::Write(head) = planned else {
                panic!("{planned:?} for a new task");
            };
            self.accepted += 1;
            let task = Task {
                states: vec![head.state],
                spec: spec.clone(),
                journal: vec![],
                fences: vec![],
                failed_since_revival: 0,
                requests: BTreeMap::new(),
                head: *head,
            };
            self.tasks.insert(task.head.id, task);
        }
    }

    fn claim(&mut self) {
        for id in self.select(Select::Due) {
            self.apply(claim::due(&self.tasks[&id].head), By::Others);
        }
        let Some(head) = self.tasks.values().map(|task| &task.head).next().cloned() else {
            return;
        };
        let (tenant, queue) = (&head.tenant, &head.queue);
        let claimable = self.select(Select::Claimable { tenant, queue });
        if let Some(id) = claimable.first() {
            let batch = self.claims.len() as u64;
            let head = &self.tasks[id].head;
            let taken = claim::take(head, &node(), Incarnation(1), batch, self.now);
            self.apply(taken, By::Others);
            let fence = self.tasks[id].head.fence;
            self.claims.push(ClaimRef { task: *id, fence });
        }
    }

    fn commit(&mut self, claim: usize, first: u32, entries: u32, settlement: u8) {
        let Some(claim) = self.claims.get(claim % self.claims.len().max(1)).copied() else {
            return;
        };
        let number = u8::try_from(self.questions.len() % 256).unwrap();
        let question = Question {
            id: ApprovalId::new(self.now, [number; 10]),
            escalation_reason: EscalationReason::Risky,
            question: "shall I?".into(),
            proposal: Answer::by_rule("yes", "a test"),
            evidence: Evidence::default(),
        };
        let reason = "no".to_owned();
        let settlement = match settlement {
            0..=2 => Settlement::Continue,
            3 => Settlement::Wait(Box::new(question.clone())),
            4 => Settlement::End(Ending::Done(Answer::by_rule("x", "a test"))),
            5 => Settlement::End(Ending::Failed { reason }),
            other => Settlement::Release {
                counts: if other == 6 {
                    AttemptCounts::Not
                } else {
                    AttemptCounts::Failed
                },
                delay: Duration::ZERO,
                reason,
            },
        };
        let counted = matches!(
            settlement,
            Settlement::Release {
                counts: AttemptCounts::Failed,
                ..
            }
        );
        let mut commit = Commit::settling(claim, settlement);
        let task = &self.tasks[&claim.task];
        let begin = u32::try_from(task.journal.len())
            .unwrap()
            .saturating_sub(first);
        commit.entries = (begin..begin + entries).map(|n| entry(n, n)).collect();
        let asked = self.questions.iter();
        let mut rows = Rows {
            journal: task.journal.clone(),
            questions: asked
                .map(|(question, task, state)| (question.id, (*task, state.clone())))
                .collect(),
        };
        let outcome = match commit::outcome(&task.head, &commit, &mut rows, &self.policy, self.now)
        {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return,
            // Entries that follow the journal are placed.
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Lost { .. }), "{refusal:?}");
                assert!(task.head.state != State::Claimed || task.head.fence != claim.fence);
                return;
            }
        };
        let transition = outcome.transition;
        if transition.to() == State::Waiting {
            let open = QuestionState::Open;
            self.questions.push((question, claim.task, open));
        }
        let dies = transition.to() == State::Dead;
        self.apply(transition, By::Holder);
        let task = self.tasks.get_mut(&claim.task).unwrap();
        task.journal
            .extend_from_slice(&commit.entries[outcome.append_from..]);
        task.failed_since_revival += u32::from(counted);
        assert_eq!(
            dies,
            counted && task.failed_since_revival == self.policy.attempts_max
        );
    }

    fn decide(&mut self, question: usize, request: u8) {
        let count = self.questions.len().max(1);
        let Some((question, id, state)) = self.questions.get_mut(question % count) else {
            return;
        };
        let by = Decision {
            kind: DecisionKind::Accept,
            teaching: Teaching::Keep,
            by: request.to_string(),
        };
        let request = RequestId::new([request; 16]);
        let head = &self.tasks[id].head;
        let before = state.decision().cloned();
        if let Ok(Some(decided)) = settle::decide(question, state, head, &by, request, self.now) {
            assert_eq!(before, None, "a question is answered once");
            *state = decided.question;
            if let Some(transition) = decided.transition {
                self.apply(transition, By::Others);
            }
        }
    }

    /// P1, P2, P3 and P6 of the whole history, and that everything that waits can be woken.
    fn check(&self) {
        let mut by_state = BTreeMap::new();
        let mut open = BTreeSet::new();
        for (question, _, state) in &self.questions {
            if *state == QuestionState::Open {
                open.insert(question.id);
            }
        }
        for task in self.tasks.values() {
            *by_state.entry(task.head.state).or_default() += 1;
            fences_rise(&task.fences).unwrap();
            ends_once(&task.states).unwrap();
            gapless(&task.journal).unwrap();
            if let Some(crate::ledger::Wait::Human(question)) = task.head.wait {
                assert!(open.contains(&question), "it waits for a closed question");
            }
        }
        conserved(self.accepted, &by_state).unwrap();
    }
}

proptest! {
    #[test]
    fn every_history_keeps_the_properties(ops in ops()) {
        let mut history = History {
            policy: Policy { attempts_max: 3, ..Policy::default() },
            now: DAWN,
            ..History::default()
        };
        for op in ops {
            history.step(op);
            history.check();
        }
    }
}
