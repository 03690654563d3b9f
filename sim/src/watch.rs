//! Who watches a run: the properties that are looked for while it goes on (docs/properties.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use colony_core::{
    id::{AgentId, Fence, Incarnation, QueueName, TaskId, Tenant},
    ledger::{Select, Stamp, TaskHead, Transition},
    property,
    task::State,
};
use colony_store::{
    Change, ClaimRequest, Claimed, Cursor, Ledger, Record, TaskFilter, memory::MemoryLedger,
    property as store_property,
};
use futures_util::FutureExt as _;
use parking_lot::Mutex;

use crate::world::World;

/// Longest time in which a task may be claimable, its agents idle and nothing wrong: the longest back-off,
/// hold of a breaker or wait for another try in a simulated node is two seconds.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Longest time in which nothing changes in a ledger that has live tasks, with nothing wrong and nobody to
/// wait for: a reviewer leaves a question alone for two seconds.
const STILL_AFTER: Duration = Duration::from_secs(15);
/// Longest time until a node has failed whose ledger has: the sweep, which asks twice a second, would notice later.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// Longest time in which a node has to stop whose ledger has failed: it waits for its agents for two seconds.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// Changes read at once.
const CHANGES: u32 = 1_000;

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{property} broken: {what}")]
pub struct Broken {
    /// The property, as docs/properties.md numbers it.
    pub property: String,
    /// What was seen.
    pub what: String,
}

impl From<property::Broken> for Broken {
    fn from(broken: property::Broken) -> Self {
        Self {
            property: broken.number.to_owned(),
            what: broken.what,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    broken: Option<Broken>,
    /// The claims of each task, in order: fence, life of the node, claim request.
    claims: BTreeMap<TaskId, Vec<(Fence, Incarnation, u64)>>,
    /// Agents at a step.
    at_work: Vec<(AgentId, TaskId)>,
    /// Attempts that failed by the task's own doing.
    failed: BTreeMap<TaskId, u32>,
    /// The head of each task as it was seen last.
    heads: BTreeMap<TaskId, TaskHead>,
    changes: Vec<Change>,
    /// When the last of them was seen.
    changed: Duration,
    /// Tasks given to others since this tenant's queue was last served, though it could have been, and the
    /// longest turn in that time.
    hungry: BTreeMap<Group, (u64, u64)>,
    last_claim: Option<(Incarnation, u64)>,
    /// Since when a queue has claimable tasks and idle agents.
    idle_since: BTreeMap<QueueName, Duration>,
}

/// A tenant's tasks in a queue.
type Group = (Tenant, QueueName);

impl Watch {
    /// A property does not hold; the first one counts.
    pub(crate) fn broken(&self, property: &str, what: String) {
        self.report(Err(Broken {
            property: property.to_owned(),
            what,
        }));
    }

    fn report<E: Into<Broken>>(&self, result: Result<(), E>) {
        if let Err(broken) = result {
            self.0.lock().broken.get_or_insert_with(|| broken.into());
        }
    }

    /// P8 and P10: a head was seen.
    pub(crate) fn head_seen(&self, head: &TaskHead) {
        let seen = self.0.lock().head_seen(head);
        self.report(seen);
    }

    /// P8 and P10: a call about a task was answered.
    pub(crate) fn task_touched(&self, engine: &MemoryLedger, task: TaskId) {
        if let Some(Ok(record)) = engine.get(task).now_or_never() {
            self.head_seen(&record.head);
        }
    }

    /// P5: readings of the field, one after the other, that nobody has deposited in between.
    pub(crate) fn readings(&self, of_a_cell: &[f64]) {
        self.report(property::fades(of_a_cell));
    }

    /// What was found first.
    pub(crate) fn found(&self) -> Option<Broken> {
        self.0.lock().broken.clone()
    }

    /// P4: an agent begins a step.
    pub(crate) fn step_begins(&self, agent: &AgentId, task: TaskId) {
        let mut seen = self.0.lock();
        seen.at_work.push((agent.clone(), task));
        let under_way = seen.at_work.iter().map(|(agent, task)| (agent, *task));
        let one = property::one_at_a_time(under_way);
        drop(seen);
        self.report(one);
    }

    /// The step has ended, or was given up.
    pub(crate) fn step_ends(&self, agent: &AgentId, task: TaskId) {
        let mut seen = self.0.lock();
        let place = seen
            .at_work
            .iter()
            .position(|(a, t)| a == agent && *t == task);
        if let Some(place) = place {
            seen.at_work.swap_remove(place);
        }
    }

    /// An attempt fails by the task's own doing.
    pub(crate) fn failed_attempt(&self, task: TaskId) {
        *self.0.lock().failed.entry(task).or_default() += 1;
    }

    /// How many attempts of `task` failed by its own doing.
    pub(crate) fn failed_attempts(&self, task: TaskId) -> u32 {
        self.0.lock().failed.get(&task).copied().unwrap_or(0)
    }

    /// The groups that a claim could serve, as it is sent.
    pub(crate) fn claimable(
        &self,
        engine: &MemoryLedger,
        request: &ClaimRequest,
    ) -> BTreeSet<Group> {
        let ready = heads(engine, &[State::Ready]);
        let now = engine.now();
        let served = ready.into_iter().filter_map(|record| {
            let head = record.head;
            let group = (head.tenant.clone(), head.queue.clone());
            let select = Select::Claimable {
                tenant: &group.0,
                queue: &group.1,
            };
            let free = request.free.get(&group.1).copied().unwrap_or(0) > 0;
            (free && select.matches(&head, now)).then_some(group)
        });
        served.collect()
    }

    /// P2 and S8: a claim was answered.
    pub(crate) fn claimed(
        &self,
        request: &ClaimRequest,
        before: &BTreeSet<Group>,
        claimed: &Claimed,
        weights: &BTreeMap<Tenant, u32>,
    ) {
        // As they were when they were claimed: a cancellation of the same sync may have been seen before.
        for claim in &claimed.claims {
            self.report(property::head_whole(&claim.head));
        }
        let mut seen = self.0.lock();
        let this = (request.incarnation, request.batch);
        for claim in &claimed.claims {
            let claims = seen.claims.entry(claim.head.id).or_default();
            let entry = (claim.head.fence, this.0, this.1);
            if claims.last() == Some(&entry) {
                continue;
            }
            claims.push(entry);
            let fences: Vec<Fence> = claims.iter().map(|(fence, ..)| *fence).collect();
            let rise = property::fences_rise(&fences);
            if let Err(broken) = rise {
                seen.broken.get_or_insert_with(|| broken.into());
            }
        }
        let repeat = seen.last_claim == Some(this);
        if seen.last_claim.is_none_or(|(life, _)| life != this.0) {
            seen.hungry.clear();
        }
        seen.last_claim = Some(this);
        if repeat {
            return;
        }
        let mut served: BTreeMap<Group, u64> = BTreeMap::new();
        let mut by_queue: BTreeMap<&QueueName, u32> = BTreeMap::new();
        for claim in &claimed.claims {
            let head = &claim.head;
            *served
                .entry((head.tenant.clone(), head.queue.clone()))
                .or_default() += 1;
            *by_queue.entry(&head.queue).or_default() += 1;
            seen.idle_since.remove(&head.queue);
        }
        let given = claimed.claims.len() as u64;
        let full = given >= u64::from(request.total);
        // A group may have become claimable after `before` was looked up, and have been served at once.
        let groups = || before.iter().chain(served.keys());
        let queues: BTreeSet<&QueueName> = groups().map(|(_, queue)| queue).collect();
        let tenants: BTreeSet<&Tenant> = groups().map(|(tenant, _)| tenant).collect();
        let weight = |tenant: &Tenant| u64::from(weights.get(tenant).copied().unwrap_or(1));
        let total: u64 = tenants.iter().map(|tenant| weight(tenant)).sum();
        seen.hungry.retain(|group, _| before.contains(group));
        for group in before {
            let free = request.free.get(&group.1).copied().unwrap_or(0);
            let taken = by_queue.get(&group.1).copied().unwrap_or(0);
            if served.contains_key(group) || !full || taken >= free {
                seen.hungry.remove(group);
                continue;
            }
            let turn = total.div_ceil(weight(&group.0)) * queues.len() as u64;
            let (hungry, longest) = seen.hungry.entry(group.clone()).or_default();
            *hungry += given;
            *longest = turn.max(*longest);
            // A turn of everybody, one more to come in behind all others, one for turns that begin anew.
            let (hungry, most) = (*hungry, 3 * *longest + given);
            if hungry > most {
                let (tenant, queue) = group;
                let what = format!(
                    "{queue} of {tenant} has tasks and free agents, and {hungry} others were claimed before; {most} may be"
                );
                seen.broken.get_or_insert_with(|| Broken {
                    property: "S8".to_owned(),
                    what,
                });
            }
        }
    }

    /// Looks at the ledger from outside: P1, P8, P9, P10, S9 and S12; and at a node without one: S13.
    pub(crate) fn look(&self, world: &World) {
        if let Some(since) = world.ledger_failed() {
            let (within, what) = if world.is_told_to_stop() {
                (STOPS_WITHIN, "the node has not stopped")
            } else {
                (HEARD_WITHIN, "the node goes on")
            };
            if world.elapsed() > since + within {
                let what = format!("the ledger has failed, and {within:?} later {what}");
                self.broken("S13", what);
            }
        }
        let engine = world.disk();
        let Some(Ok(counts)) = engine.counts().now_or_never() else {
            return;
        };
        self.report(store_property::conservation(&counts));
        self.read_changes(&engine, world.elapsed());
        let live = |(state, count): (&State, &u64)| !state.is_final() && *count > 0;
        if counts.by_state.iter().any(live) {
            self.look_for_idle(world, &engine);
            self.look_for_stillness(world);
        }
    }

    fn look_for_stillness(&self, world: &World) {
        let still = world.elapsed().saturating_sub(self.0.lock().changed);
        if still.min(world.undisturbed()) > STILL_AFTER {
            let what = format!("nothing has changed for {STILL_AFTER:?}, and tasks are live");
            self.broken("S9", what);
        }
    }

    fn read_changes(&self, engine: &MemoryLedger, now: Duration) {
        let mut seen = self.0.lock();
        loop {
            let after: Cursor = seen.changes.last().map_or(0, |change| change.cursor);
            let Some(Ok(page)) = engine.changes(after, CHANGES).now_or_never() else {
                return;
            };
            if let Err(broken) = store_property::gapless(after, &page) {
                seen.broken.get_or_insert_with(|| broken.into());
                return;
            }
            let stamps = seen.changes.last().into_iter().chain(&page);
            let stamps: Vec<_> = stamps.map(|change| change.at).collect();
            if let Some(pair) = stamps.windows(2).find(|pair| pair[0] > pair[1]) {
                let what = format!("a change at {:?} follows one at {:?}", pair[1], pair[0]);
                seen.broken.get_or_insert_with(|| Broken {
                    property: "S12".to_owned(),
                    what,
                });
                return;
            }
            let more = page.len() >= CHANGES as usize;
            if !page.is_empty() {
                seen.changed = now;
            }
            for task in page.iter().map(|change| change.task) {
                let record = engine.get(task).now_or_never();
                if let Some(Ok(record)) = record
                    && let Err(broken) = seen.head_seen(&record.head)
                {
                    seen.broken.get_or_insert_with(|| broken.into());
                }
            }
            seen.changes.extend(page);
            if !more {
                return;
            }
        }
    }

    /// Every change that was read, by task.
    pub(crate) fn states(&self) -> BTreeMap<TaskId, Vec<State>> {
        let seen = self.0.lock();
        let mut states: BTreeMap<TaskId, Vec<State>> = BTreeMap::new();
        for change in &seen.changes {
            states.entry(change.task).or_default().push(change.state);
        }
        states
    }

    fn look_for_idle(&self, world: &World, engine: &MemoryLedger) {
        let undisturbed = world.undisturbed();
        let now = world.elapsed();
        let records = heads(engine, &[State::Ready, State::Claimed]);
        let stamp = engine.now();
        let mut busy: BTreeMap<&QueueName, u32> = BTreeMap::new();
        let mut claimable: BTreeMap<&QueueName, TaskId> = BTreeMap::new();
        for Record { head, .. } in &records {
            let select = Select::Claimable {
                tenant: &head.tenant,
                queue: &head.queue,
            };
            // One whose back-off is over waits for a claim as well: nobody else ends it.
            let due = Select::Due.matches(head, stamp)
                && head.deadline.is_none_or(|deadline| deadline > stamp);
            if head.state == State::Claimed {
                *busy.entry(&head.queue).or_default() += 1;
            } else if due || select.matches(head, stamp) {
                claimable.entry(&head.queue).or_insert(head.id);
            }
        }
        let mut seen = self.0.lock();
        seen.idle_since
            .retain(|queue, _| claimable.contains_key(queue));
        for (queue, task) in claimable {
            let agents = world.workload.agents.get(queue.as_str());
            let agents = agents.map_or(0, |agents| agents.count);
            if busy.get(queue).copied().unwrap_or(0) >= agents {
                seen.idle_since.remove(queue);
                continue;
            }
            let since = *seen.idle_since.entry(queue.clone()).or_insert(now);
            if undisturbed.min(now - since) > STUCK_AFTER {
                let what = format!(
                    "task {task} is claimable and agents of {queue} are idle for {STUCK_AFTER:?}, with nothing wrong"
                );
                seen.broken.get_or_insert_with(|| Broken {
                    property: "S9".to_owned(),
                    what,
                });
            }
        }
    }
}

impl Seen {
    fn head_seen(&mut self, head: &TaskHead) -> Result<(), property::Broken> {
        property::head_whole(head)?;
        let Some(before) = self.heads.insert(head.id, head.clone()) else {
            return Ok(());
        };
        if before == *head {
            return Ok(());
        }
        // What came between the two is not seen: under another fence it was released, and taken again.
        let expect = if before.fence == head.fence {
            Stamp::Held(before.fence)
        } else {
            Stamp::of(&before)
        };
        let taken_away = before.fence != head.fence && before.state == State::Claimed;
        let from = if taken_away {
            State::Ready
        } else {
            before.state
        };
        let id = head.id;
        let transition = Transition {
            id,
            expect,
            from,
            head: Some(head.clone()),
            request: None,
        };
        property::holder_alone(
            &TaskHead {
                state: from,
                ..before
            },
            &transition,
        )
    }
}

/// Every record in one of these states.
pub(crate) fn heads(engine: &MemoryLedger, states: &[State]) -> Vec<Record> {
    let mut filter = TaskFilter {
        states: states.to_vec(),
        ..TaskFilter::default()
    };
    let mut records: Vec<Record> = Vec::new();
    // The engine in memory answers readers at once; one that is being taken out answers nothing.
    while let Some(Ok(page)) = engine.list(filter.clone()).now_or_never() {
        records.extend(page.items);
        match records.last() {
            Some(last) if page.more => filter.before = Some(last.head.id),
            _ => break,
        }
    }
    records
}
