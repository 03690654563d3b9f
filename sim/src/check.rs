//! What must hold at the end of a run, over everything there is: the ledger, the sinks, what people were
//! told, and what a node remembers that is started once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use colony_core::{
    cycle::DecisionKind,
    id::TaskId,
    journal::{Entry, Note},
    property,
    task::{Ending, State},
};
use colony_proto::v1::decision;
use colony_store::{ApprovalFilter, Ledger, LedgerError, OutboxFilter, OutboxMessage, Record};

use crate::{
    facts::{Facts, Planned},
    recall,
    run::Failure,
    sinks::LETTERS,
    watch::{Broken, heads},
    workload::Matter,
    world::World,
};

/// Looks at everything. It leaves no line in the history.
pub(crate) fn at_end(world: &Arc<World>) -> Result<(), Failure> {
    world.calm();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| Failure::World(error.to_string()))?;
    let storage = |error: LedgerError| Failure::World(error.to_string());
    // Taken up as after a power cut: what counts is what is durable.
    let clock = runtime.block_on(async { world.clock() });
    let ledger = world.open_disk(clock);
    let contents = runtime.block_on(read(&ledger)).map_err(storage)?;
    let facts = world.facts.lock().clone();
    let end = End {
        world,
        facts: &facts,
        contents: &contents,
    };
    end.tasks()?;
    end.people()?;
    end.changes()?;
    for task in &contents.tasks {
        end.journal(task)?;
        end.attempts(task)?;
        end.effects(task)?;
        end.letters(task)?;
    }
    let verification = runtime.block_on(ledger.verify()).map_err(storage)?;
    if !verification.is_whole() {
        let what = format!("the ledger is not whole: {verification:?}");
        return Err(broken("P1", what).into());
    }
    runtime.block_on(recall::remembers(world, &facts, &contents.tasks))
}

pub(crate) fn broken(property: &str, what: String) -> Broken {
    Broken {
        property: property.to_owned(),
        what,
    }
}

/// What the ledger says at the end.
struct Contents {
    tasks: Vec<Kept>,
    letters: Vec<OutboxMessage>,
    /// What was decided, by question.
    decided: BTreeMap<String, DecisionKind>,
}

/// A task at the end.
pub(crate) struct Kept {
    pub(crate) record: Record,
    pub(crate) journal: Vec<Entry>,
}

impl Kept {
    pub(crate) fn id(&self) -> TaskId {
        self.record.head.id
    }

    pub(crate) fn key(&self) -> &str {
        self.record.spec.dedupe_key.as_deref().unwrap_or_default()
    }
}

async fn read(ledger: &colony_store::memory::MemoryLedger) -> Result<Contents, LedgerError> {
    let mut tasks = Vec::new();
    for record in heads(ledger, &[]) {
        let journal = ledger.journal(record.head.id).await?;
        tasks.push(Kept { record, journal });
    }
    let mut letters = Vec::new();
    let mut filter = OutboxFilter {
        destination: Some(LETTERS.to_owned()),
        acknowledged_too: true,
        ..OutboxFilter::default()
    };
    loop {
        let page = ledger.outbox(filter.clone()).await?;
        let Some(last) = page.items.last() else { break };
        filter.after = last.number;
        letters.extend(page.items.into_iter().map(|posted| posted.message));
    }
    let mut filter = ApprovalFilter {
        closed_too: true,
        ..ApprovalFilter::default()
    };
    let mut decided = BTreeMap::new();
    loop {
        let page = ledger.approvals(filter.clone()).await?;
        for approval in &page.items {
            if let Some(decision) = approval.state.decision() {
                let id = approval.question.id.to_string();
                decided.insert(id, decision.kind.clone());
            }
        }
        match page.items.last() {
            Some(last) if page.more => filter.after = Some(last.question.id),
            _ => break,
        }
    }
    Ok(Contents {
        tasks,
        letters,
        decided,
    })
}

struct End<'a> {
    world: &'a World,
    facts: &'a Facts,
    contents: &'a Contents,
}

impl End<'_> {
    /// S1, S2 and S9: what was acknowledged is there, under one key once, and has ended.
    fn tasks(&self) -> Result<(), Broken> {
        let ids: BTreeMap<&str, String> = self
            .contents
            .tasks
            .iter()
            .map(|task| (task.key(), task.id().to_string()))
            .collect();
        if ids.len() != self.contents.tasks.len() {
            let (keys, tasks) = (ids.len(), self.contents.tasks.len());
            return Err(broken("S2", format!("{tasks} tasks have {keys} keys")));
        }
        for (key, id) in &self.facts.acknowledged {
            if ids.get(key.as_str()) != Some(id) {
                let what = format!(
                    "{key} was acknowledged as {id} and is {:?}",
                    ids.get(key.as_str())
                );
                return Err(broken("S1", what));
            }
        }
        for task in &self.contents.tasks {
            let head = &task.record.head;
            if !head.state.is_final() {
                let what = format!("task {} is {} at the end", head.id, head.state);
                return Err(broken("S9", what));
            }
            let Some(planned) = self.facts.planned.get(task.key()) else {
                let what = format!("nobody has submitted task {}", head.id);
                return Err(broken("S1", what));
            };
            if self.facts.invalid.contains(task.key()) {
                let what = format!(
                    "task {} is there, and its client was told that it is invalid",
                    head.id
                );
                return Err(broken("S2", what));
            }
            let Planned { input, .. } = planned;
            if **input != *task.record.spec.input {
                let what = format!("task {} is not what was submitted", head.id);
                return Err(broken("S1", what));
            }
        }
        Ok(())
    }

    /// S10 and S11: an acknowledged cancellation or decision stands, and none is done twice.
    fn people(&self) -> Result<(), Broken> {
        let by_id: BTreeMap<String, &Kept> = self
            .contents
            .tasks
            .iter()
            .map(|task| (task.id().to_string(), task))
            .collect();
        for id in &self.facts.cancelled {
            let state = by_id.get(id).map(|task| task.record.head.state);
            if state != Some(State::Cancelled) {
                let what = format!("task {id} was cancelled and is {state:?}");
                return Err(broken("S10", what));
            }
        }
        for id in &self.facts.revived {
            let Some(task) = by_id.get(id) else { continue };
            // What was set aside is cancelled only here: see [`World::set_aside`].
            let set_aside = self.world.set_aside.lock().contains_key(&task.id());
            if task.record.head.state == State::Cancelled && !set_aside {
                let what =
                    format!("task {id} was revived, and is cancelled by a request from before");
                return Err(broken("S10", what));
            }
        }
        for (question, (id, told)) in &self.facts.decided {
            let kept = self.contents.decided.get(question);
            if !kept.is_some_and(|kept| same(kept, told)) {
                let what = format!("approval {question} was decided {told:?} and is {kept:?}");
                return Err(broken("S11", what));
            }
            let Some(task) = by_id.get(id) else { continue };
            let head = &task.record.head;
            let followed = match (told, head.state, &head.ending) {
                (decision::Kind::Accept(_), State::Done, _)
                | (decision::Kind::Reject(_), State::Failed, _) => true,
                (decision::Kind::Correct(text), State::Done, Some(Ending::Done(answer))) => {
                    answer.text == *text
                }
                (_, state, _) => matches!(state, State::Cancelled | State::Expired | State::Dead),
            };
            if !followed {
                let what = format!(
                    "{told:?} was decided for task {id}, which is {:?}",
                    head.ending
                );
                return Err(broken("S11", what));
            }
        }
        Ok(())
    }

    /// P3, over the whole stream of changes.
    fn changes(&self) -> Result<(), Broken> {
        self.world.watch.look(self.world);
        for (task, states) in self.world.watch.states() {
            property::ends_once(&states)
                .map_err(|error| broken(error.number, format!("task {task}: {}", error.what)))?;
        }
        self.world.watch.found().map_or(Ok(()), Err)
    }

    /// P6 and P7; one decision and one end of each step.
    fn journal(&self, task: &Kept) -> Result<(), Broken> {
        let kept =
            property::gapless(&task.journal).and_then(|()| property::cycle_kept(&task.journal));
        kept.map_err(|error| broken(error.number, format!("task {}: {}", task.id(), error.what)))?;
        let decisions = task
            .journal
            .iter()
            .filter(|e| matches!(e.note, Note::Decided(_)));
        let decisions = decisions.count();
        if decisions > 1 {
            let what = format!("task {} has taken {decisions} decisions", task.id());
            return Err(broken("S11", what));
        }
        Ok(())
    }

    /// S6: only a task's own failures count, and only those kill it.
    fn attempts(&self, task: &Kept) -> Result<(), Broken> {
        let head = &task.record.head;
        let own = self.world.watch.failed_attempts(head.id);
        if head.failed_attempts > own {
            let counted = head.failed_attempts;
            let what = format!(
                "task {} has failed {own} times, and {counted} are counted",
                head.id
            );
            return Err(broken("S6", what));
        }
        let planned = self.facts.planned.get(task.key());
        let poison = planned.is_some_and(|p| p.plan.matter == Matter::Poison);
        let failed = match head.state {
            State::Dead => !poison,
            // Only what a human has rejected.
            State::Failed => !task.journal.iter().any(|e| {
                matches!(&e.note, Note::Decided(decision) if matches!(decision.kind, DecisionKind::Reject { .. }))
            }),
            State::Ready
            | State::Claimed
            | State::Waiting
            | State::Done
            | State::Cancelled
            | State::Expired => false,
        };
        if failed {
            let what = format!("task {} is {}: {:?}", head.id, head.state, head.ending);
            return Err(broken("S6", what));
        }
        Ok(())
    }

    /// S3 and S4: effects are made once at most, all of them where the task is done, and what is written down
    /// is what the sink has answered.
    fn effects(&self, task: &Kept) -> Result<(), Broken> {
        let id = task.id();
        let done = task.record.head.state == State::Done;
        for number in 0..self.script(task).map_or(0, |script| script.effects) {
            let made = self.world.sinks.made(id, number.into());
            if made.len() > 1 || (done && made.is_empty()) {
                let property = if made.is_empty() { "S4" } else { "S3" };
                let what = format!("effect {number} of task {id} was made {} times", made.len());
                return Err(broken(property, what));
            }
        }
        let outcomes = task.journal.iter().filter_map(|entry| match &entry.note {
            Note::Outcome { value, .. } => Some(value),
            Note::Awarded { .. } | Note::Output(_) | Note::Intent { .. } | Note::Decided(_) => None,
        });
        for value in outcomes {
            let Some(number) = value["number"].as_u64() else {
                continue;
            };
            if self.world.sinks.made(id, number).first() != Some(value) {
                let what = format!("effect {number} of task {id} is written down and was not made");
                return Err(broken("S4", what));
            }
        }
        Ok(())
    }

    /// S5: messages of the outbox come once each, and all or none.
    fn letters(&self, task: &Kept) -> Result<(), Broken> {
        let Some(script) = self.script(task) else {
            return Ok(());
        };
        let id = task.id();
        let numbers: Vec<u64> = self
            .contents
            .letters
            .iter()
            .filter(|letter| letter.task == id)
            .filter_map(|letter| letter.payload["number"].as_u64())
            .collect();
        let different: BTreeSet<&u64> = numbers.iter().collect();
        let whole = numbers.len() == different.len() && numbers.len() == script.posts as usize;
        let none = numbers.is_empty() && task.record.head.state != State::Done;
        if whole || none {
            return Ok(());
        }
        let what = format!(
            "of {} messages of task {id} there are {numbers:?}",
            script.posts
        );
        Err(broken("S5", what))
    }

    fn script(&self, task: &Kept) -> Option<&crate::workload::Agents> {
        let name = task.record.spec.agent_type.as_str();
        let agents = self.world.workload.agents.get(name)?;
        (agents.kind == "scripted").then_some(agents)
    }
}

fn same(kept: &DecisionKind, told: &decision::Kind) -> bool {
    match (kept, told) {
        (DecisionKind::Accept, decision::Kind::Accept(_)) => true,
        (DecisionKind::Correct(kept), decision::Kind::Correct(told)) => kept == told,
        (DecisionKind::Reject { reason }, decision::Kind::Reject(told)) => reason == told,
        _ => false,
    }
}
