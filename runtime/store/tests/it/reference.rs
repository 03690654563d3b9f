//! A ledger made of nothing but the core's rules over a map of heads and full scans: too simple to be
//! wrong where the rules are right. Engines are held against it.

use std::{collections::BTreeMap, sync::Arc};

use colony_core::{
    cycle::Decision,
    id::{ApprovalId, Incarnation, NodeId, RequestId, TaskId, Tenant},
    journal::Entry,
    ledger::{
        ClientRequest, ClientVerb, Commit, Policy, QuestionState, ReadyGroup, Refusal, Select,
        Settlement, Shares, TaskHead, Transition,
        claim::{self, Asked},
        commit, plan_claim, settle,
        submit::{self, Full, Known, NewTask, Planned, Submitted},
    },
    property,
    task::{Spec, State},
    unit::Timestamp,
};
use colony_store::{
    Claim, ClaimRequest, Claimed, Decided, InboxItem, Others, Question, Registered,
};

/// Why a verb did nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum No {
    /// There is no such task or question.
    Unknown,
    /// Too many live tasks.
    Full(Full),
    /// A rule refused.
    Refused(Refusal),
}

impl From<submit::Error> for No {
    fn from(error: submit::Error) -> Self {
        match error {
            submit::Error::Full(full) => Self::Full(full),
            submit::Error::Refused { .. } => panic!("{error:?}"),
        }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task {
    pub(crate) head: TaskHead,
    pub(crate) spec: Arc<Spec>,
    pub(crate) journal: Vec<Entry>,
    requests: BTreeMap<RequestId, ClientVerb>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asking {
    pub(crate) question: Question,
    pub(crate) task: TaskId,
    pub(crate) state: QuestionState,
}

/// What a commit is about.
struct Stored<'a> {
    task: &'a Task,
    questions: &'a BTreeMap<ApprovalId, Asking>,
}

impl commit::Stored for Stored<'_> {
    type Error = No;

    fn next_sequence(&mut self) -> Result<u32, No> {
        Ok(u32::try_from(self.task.journal.len()).unwrap())
    }

    fn entry(&mut self, sequence: u32) -> Result<Option<Entry>, No> {
        Ok(self.task.journal.get(sequence as usize).cloned())
    }

    fn question(&mut self, id: ApprovalId) -> Result<Option<(TaskId, QuestionState)>, No> {
        let asking = self.questions.get(&id);
        Ok(asking.map(|asking| (asking.task, asking.state.clone())))
    }

    fn has_question(&mut self, id: ApprovalId) -> Result<bool, No> {
        Ok(self.questions.contains_key(&id))
    }
}

/// Everything; cloned and compared to see whether a call changed anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reference {
    policy: Policy,
    pub(crate) now: Timestamp,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) questions: BTreeMap<ApprovalId, Asking>,
    pub(crate) changes: Vec<(TaskId, State)>,
    /// How many times a task became claimable, now or at a known time, that was not before.
    pub(crate) wakes: u64,
    keys: BTreeMap<(Tenant, String), (TaskId, Timestamp)>,
    nodes: BTreeMap<NodeId, (Incarnation, Option<u64>)>,
    shares: Shares,
}

impl Reference {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// A selection, as it is defined.
    pub(crate) fn select(&self, select: Select<'_>) -> Vec<TaskId> {
        let heads = self.tasks.values().map(|task| &task.head);
        let mut found: Vec<_> = heads.filter(|h| select.matches(h, self.now)).collect();
        found.sort_by_key(|head| select.order(head));
        found.into_iter().map(|head| head.id).collect()
    }

    fn apply(&mut self, transition: Transition) {
        let task = self.tasks.get_mut(&transition.id).unwrap();
        property::lawful(&task.head, &transition).unwrap();
        assert!(transition.expect.matches(&task.head));
        if transition.from != transition.to() {
            self.changes.push((transition.id, transition.to()));
        }
        self.wakes += u64::from(transition.wakes());
        if transition.ends() {
            for asking in self.questions.values_mut() {
                if asking.task == transition.id {
                    asking.state = settle::closed(asking.state.clone());
                }
            }
        }
        if let Some(ClientRequest { id, verb }) = transition.request {
            assert_eq!(task.requests.insert(id, verb), None);
        }
        if let Some(head) = transition.head {
            task.head = head;
        }
    }

    pub(crate) fn live(&self) -> u64 {
        let heads = self.tasks.values().map(|task| &task.head);
        heads.filter(|head| !head.state.is_final()).count() as u64
    }

    pub(crate) fn register(&mut self, node: &NodeId, others: Others) -> Registered {
        let former = self
            .nodes
            .get(node)
            .map_or(0, |(incarnation, _)| incarnation.0);
        let incarnation = Incarnation(former + 1);
        self.nodes.insert(node.clone(), (incarnation, None));
        let theirs = match others {
            Others::Nobody => self.select(Select::HeldByOthers { node }),
            Others::Nodes => Vec::new(),
        };
        let holder = |id: &TaskId| self.tasks[id].head.holder.clone().unwrap().node;
        let mut adopted: Vec<_> = theirs.iter().map(holder).collect();
        adopted.sort();
        adopted.dedup();
        let mut lost = self.select(Select::HeldBefore { node, incarnation });
        lost.extend(theirs);
        lost.sort();
        for id in &lost {
            self.apply(settle::lose(&self.tasks[id].head, self.now));
        }
        let suspect = |id: &TaskId| self.tasks[id].head.is_suspect(&self.policy);
        Registered {
            incarnation,
            suspects: lost.iter().copied().filter(suspect).collect(),
            lost,
            adopted,
        }
    }

    pub(crate) fn submit(&mut self, batch: &[NewTask]) -> Result<Vec<Submitted>, No> {
        let known: Vec<_> = batch.iter().map(|task| self.known(task)).collect();
        let planned = submit::plan(batch, &known, self.live(), &self.policy, self.now)?;
        let mut answers = Vec::new();
        for (new, planned) in batch.iter().zip(planned) {
            answers.push(match planned {
                Planned::Answer(answer) => answer,
                Planned::Write(head) => {
                    self.write(new, *head);
                    Submitted::Accepted(new.id)
                }
            });
        }
        Ok(answers)
    }

    fn known(&self, new: &NewTask) -> Option<Known> {
        let by_key = || {
            let key = new.spec.dedupe_key.clone()?;
            let (id, until) = self.keys.get(&(new.spec.tenant.clone(), key))?;
            (*until > self.now).then(|| &self.tasks[id])
        };
        let task = self.tasks.get(&new.id).or_else(by_key)?;
        Some(Known {
            id: task.head.id,
            state: task.head.state,
            same_payload: task.spec.same_payload(&new.spec),
        })
    }

    fn write(&mut self, new: &NewTask, head: TaskHead) {
        if let Some(key) = &new.spec.dedupe_key {
            let key = (new.spec.tenant.clone(), key.clone());
            let until = self.now.after(self.policy.dedupe_ttl);
            self.keys.insert(key, (new.id, until));
        }
        self.changes.push((new.id, head.state));
        self.wakes += 1;
        let task = Task {
            head,
            spec: Arc::clone(&new.spec),
            journal: Vec::new(),
            requests: BTreeMap::new(),
        };
        self.tasks.insert(new.id, task);
    }

    pub(crate) fn claim(&mut self, request: &ClaimRequest) -> Claimed {
        let (node, incarnation, batch) = (&request.node, request.incarnation, request.batch);
        let known = self.nodes.get(node).copied();
        let taken = match claim::asked(known, incarnation, batch) {
            Asked::Stale => Vec::new(),
            Asked::Repeat => self.select(Select::HeldIn {
                node,
                incarnation,
                batch,
            }),
            Asked::Fresh => {
                self.nodes.insert(node.clone(), (incarnation, Some(batch)));
                for id in self.select(Select::Due) {
                    self.apply(claim::due(&self.tasks[&id].head));
                }
                self.take(request)
            }
        };
        let ready = self.tasks.values().filter(|t| t.head.state == State::Ready);
        let due = ready.filter_map(|task| task.head.not_before).min();
        Claimed {
            claims: taken.iter().map(|id| self.answer(*id)).collect(),
            next_due: due.map(|at| at.since(self.now)),
        }
    }

    fn take(&mut self, request: &ClaimRequest) -> Vec<TaskId> {
        let places = self.tasks.values().map(|task| &task.head);
        let mut places: Vec<_> = places
            .map(|h| (h.tenant.clone(), h.queue.clone()))
            .collect();
        places.sort();
        places.dedup();
        let claimable = |(tenant, queue)| {
            let select = Select::Claimable {
                tenant: &tenant,
                queue: &queue,
            };
            let count = self.select(select).len() as u64;
            ReadyGroup {
                tenant,
                queue,
                count,
            }
        };
        let groups: Vec<_> = places.into_iter().map(claimable).collect();
        let free = &request.free;
        let picks = plan_claim(&groups, free, &mut self.shares, request.total, &self.policy);
        let mut taken = Vec::new();
        for pick in picks {
            let select = Select::Claimable {
                tenant: &pick.tenant,
                queue: &pick.queue,
            };
            taken.extend(self.select(select).into_iter().take(pick.count as usize));
        }
        let (node, incarnation, batch) = (&request.node, request.incarnation, request.batch);
        for id in &taken {
            let head = &self.tasks[id].head;
            self.apply(claim::take(head, node, incarnation, batch, self.now));
        }
        self.select(Select::HeldIn {
            node,
            incarnation,
            batch,
        })
    }

    fn answer(&self, id: TaskId) -> Claim {
        let task = &self.tasks[&id];
        let answered = |asking: &Asking| match &asking.state {
            QuestionState::Answered { decision, .. } => Some(InboxItem {
                question: asking.question.id,
                decision: decision.clone(),
            }),
            QuestionState::Open | QuestionState::Taken { .. } | QuestionState::Closed => None,
        };
        let asked = self.questions.values().filter(|asking| asking.task == id);
        Claim {
            head: task.head.clone(),
            spec: Arc::clone(&task.spec),
            has_journal: !task.journal.is_empty(),
            inbox: asked.filter_map(answered).collect(),
        }
    }

    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<State, No> {
        let id = commit.claim.task;
        let task = self.tasks.get(&id).ok_or(No::Unknown)?;
        let mut stored = Stored {
            task,
            questions: &self.questions,
        };
        let outcome = commit::outcome(&task.head, commit, &mut stored, &self.policy, self.now)?;
        let Some(outcome) = outcome else {
            return Ok(task.head.state);
        };
        self.apply(outcome.transition);
        let task = self.tasks.get_mut(&id).unwrap();
        let new = &commit.entries[outcome.append_from..];
        task.journal.extend_from_slice(new);
        for (question, state) in outcome.taken {
            self.questions.get_mut(&question).unwrap().state = state;
        }
        if let Settlement::Wait(question) = &commit.settlement {
            let asking = Asking {
                question: (**question).clone(),
                task: id,
                state: QuestionState::Open,
            };
            self.questions.insert(question.id, asking);
        }
        Ok(task.head.state)
    }

    pub(crate) fn decide(
        &mut self,
        id: ApprovalId,
        request: RequestId,
        decision: &Decision,
    ) -> Result<Decided, No> {
        let asking = self.questions.get(&id).ok_or(No::Unknown)?;
        let task = asking.task;
        let head = &self.tasks[&task].head;
        let decided = settle::decide(
            &asking.question,
            &asking.state,
            head,
            decision,
            request,
            self.now,
        )?;
        if let Some(decided) = decided {
            self.questions.get_mut(&id).unwrap().state = decided.question;
            if let Some(transition) = decided.transition {
                self.apply(transition);
            }
        }
        let state = self.tasks[&task].head.state;
        Ok(Decided { task, state })
    }

    pub(crate) fn cancel(&mut self, id: TaskId, request: RequestId) -> Result<State, No> {
        let Task { head, requests, .. } = self.tasks.get(&id).ok_or(No::Unknown)?;
        let known = requests.get(&request).copied();
        let before = head.state;
        Ok(match settle::cancel(head, known, request, self.now)? {
            Some(transition) => {
                self.apply(transition);
                before
            }
            None => State::Cancelled,
        })
    }

    pub(crate) fn expire(&mut self, limit: u32) -> Vec<TaskId> {
        let mut expired = self.select(Select::Expired);
        expired.truncate(limit as usize);
        for id in &expired {
            self.apply(settle::expire(&self.tasks[id].head, self.now));
        }
        expired
    }

    pub(crate) fn revive(&mut self, id: TaskId, request: RequestId) -> Result<State, No> {
        let task = self.tasks.get(&id).ok_or(No::Unknown)?;
        let known = task.requests.get(&request).copied();
        let (head, spec) = (&task.head, &task.spec);
        let before = head.state;
        let revived = settle::revive(head, spec, known, request, &self.policy, self.now)?;
        let Some(transition) = revived else {
            return Ok(State::Ready);
        };
        submit::admits(self.live(), 1, &self.policy).map_err(No::Full)?;
        self.apply(transition);
        Ok(before)
    }
}
