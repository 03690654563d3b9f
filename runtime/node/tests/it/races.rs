//! Each race inside a node, at every moment of a task's life: one side acts, the other acts so many virtual
//! milliseconds and so many turns of the scheduler later. One thread and paused time: a moment that fails, fails
//! again. Races inside the ledger are in `runtime/store/tests/it/conformance/races.rs`.
//!
//! | race | what is true after |
//! |---|---|
//! | cancel × award, step, commit | the task has ended, its agent takes the next one |
//! | wake × cancel | the same, for an agent that was asleep |
//! | expire × award, step, commit | the same, for a deadline |
//! | passivate × award | the task is done, whether its agent was just being put to sleep or not |
//! | award × crash, and step, commit × crash | the next life does every task, and charges none for it |
//! | drain × claim, award, step, commit | the node stops in time and holds no claim |

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_agents::{Kind, Kinds, StepContext, StepError};
use colony_core::{
    cycle::{Percept, Recall, Thought},
    id::TaskId,
    port::{Clock, RandomSource},
    task::{Answer, Spec, State},
};
use colony_node::{
    Config, Dependencies, Node, NodeHandle, Problem, Submission, ports::SeededRandom,
};
use colony_store::{
    Counts, Ledger, LedgerError, MemoryLedger, Policy, Submitted, memory::InFlight,
};
use futures_util::FutureExt as _;
use rand::RngCore;

use crate::walk::{agent_type, clock, config, dependencies, request, submit, until};

/// How long a sync takes, and each of the slow steps.
const TICK: Duration = Duration::from_millis(2);
/// Moments of the second action: longer than a whole walk, which takes some 12 ms.
const MILLISECONDS: Range<u64> = 0..18;
/// Turns of the scheduler after each of these moments.
const TURNS: Range<u32> = 0..6;
/// A day of virtual time is more than every wait in a node.
const DAY: Duration = Duration::from_secs(86_400);

/// Takes its time: two of its steps take a tick, and each of the first three as many turns of the scheduler
/// more as the task says.
#[derive(Debug)]
struct Slow;

#[async_trait]
impl Kind for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn perceive(&self, context: &StepContext) -> Result<Percept, StepError> {
        wait(TICK, turns(context)).await;
        Ok(Percept {
            text: context.spec.input.to_string(),
            vector: None,
        })
    }

    async fn retrieve(&self, context: &StepContext) -> Result<Recall, StepError> {
        wait(Duration::ZERO, turns(context)).await;
        Ok(Recall::default())
    }

    async fn reason(&self, context: &StepContext) -> Result<Thought, StepError> {
        wait(TICK, turns(context)).await;
        Ok(Thought {
            answer: Answer::by_rule("fine", "slowly"),
            escalation_reason: None,
            model_calls: Vec::new(),
            findings: Vec::new(),
        })
    }
}

fn turns(context: &StepContext) -> u32 {
    context.spec.input.parse().expect("a number of turns")
}

struct World {
    node: Node,
    handle: NodeHandle,
    ledger: MemoryLedger,
}

impl World {
    /// A node with this many agents that sleep when they were idle for so long.
    async fn new(agents: u32, sleep_after: Duration) -> Self {
        Self::with(agents, sleep_after, |_| {}).await
    }

    /// The same with other settings.
    async fn with(agents: u32, sleep_after: Duration, set: impl FnOnce(&mut Config)) -> Self {
        let clock = clock();
        let ledger = MemoryLedger::with_sync_delay(Policy::default(), Arc::clone(&clock), TICK);
        Self::on(ledger, clock, agents, sleep_after, set).await
    }

    /// The same on a ledger that there is.
    async fn on(
        ledger: MemoryLedger,
        clock: Arc<dyn Clock>,
        agents: u32,
        sleep_after: Duration,
        set: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config: Config = config(&[("slow", agents)]);
        config.roster.sleep_after = sleep_after;
        config.market.recheck_every = Duration::ZERO;
        set(&mut config);
        let dependencies = Dependencies {
            clock,
            kinds: Kinds::builtin().with(Arc::new(Slow)),
            ..dependencies(Arc::new(ledger.clone()))
        };
        let node = Node::start(&config, dependencies).await.expect("starts");
        let handle = node.handle();
        Self {
            node,
            handle,
            ledger,
        }
    }

    /// The power goes, and is back at once: the next life of the node, on what the disk has.
    async fn crash(self, in_flight: InFlight, agents: u32) -> Self {
        let ledger = self.ledger.crash_with(in_flight);
        let next = Self::on(ledger, clock(), agents, AWAKE, |_| {}).await;
        // What is left of the former life has a ledger that answers nothing any more.
        self.node.stop().await;
        next
    }

    /// A task whose steps take so many turns.
    fn task(turns: u32) -> Spec {
        Spec::new(agent_type("slow"), turns.to_string())
    }

    /// Waits until every agent is a row.
    async fn asleep(&self) {
        let asleep = async {
            while self
                .handle
                .agents()
                .await
                .expect("answers")
                .iter()
                .any(|agent| agent.state != "asleep")
            {
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::time::timeout(DAY, asleep)
            .await
            .expect("they fall asleep");
    }

    /// Cancels a task that may have ended.
    async fn cancel(&self, task: TaskId) {
        match self.handle.cancel(task, request()).await {
            Ok(_) | Err(Problem::Ledger(LedgerError::Ended { .. })) => {}
            Err(problem) => panic!("{problem:?}"),
        }
        let state = self.handle.task(task).await.expect("known").head.state;
        assert!(state.is_final(), "{state:?}");
    }

    /// The agents are of use: as many tasks as there are agents are done, and the node stops in order.
    async fn works(self, agents: usize, moment: &str) {
        let rest = (0..agents).map(|_| Self::task(0)).collect();
        let works = async {
            let ids = submit(&self.handle, rest).await;
            until(&self.handle, &ids, &[State::Done]).await;
        };
        let works = tokio::time::timeout(DAY, works).await;
        assert!(works.is_ok(), "{moment}: agents do not come back");
        self.stops(moment).await;
    }

    /// The node stops in time; gives what its ledger counts then.
    async fn stops(self, moment: &str) -> Counts {
        assert!(self.node.stop().await, "{moment}: agents did not leave");
        let counts = self.ledger.crash().counts().await.expect("readable");
        let claimed = counts.by_state.get(&State::Claimed);
        assert_eq!(
            claimed.copied().unwrap_or(0),
            0,
            "{moment}: a claim is held"
        );
        counts
    }
}

/// Every moment: milliseconds and turns until the second action, turns that steps take, and all this in words.
fn moments() -> impl Iterator<Item = (Duration, u32, u32, String)> {
    let turns = || TURNS.flat_map(|after| TURNS.map(move |of_steps| (after, of_steps)));
    MILLISECONDS.flat_map(move |ms| {
        turns().map(move |(after, of_steps)| {
            let moment = format!("after {ms} ms and {after} turns, with steps of {of_steps} turns");
            (Duration::from_millis(ms), after, of_steps, moment)
        })
    })
}

async fn wait(time: Duration, turns: u32) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

const AWAKE: Duration = DAY;

#[tokio::test(start_paused = true)]
async fn cancel_beside_award_step_and_commit() {
    for (time, turns, of_steps, moment) in moments() {
        let world = World::new(1, AWAKE).await;
        let ids = submit(&world.handle, vec![World::task(of_steps)]).await;
        wait(time, turns).await;
        world.cancel(ids[0]).await;
        world.works(1, &moment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cancel_beside_wake() {
    for (time, turns, of_steps, moment) in moments() {
        let world = World::new(1, 10 * TICK).await;
        world.asleep().await;
        let ids = submit(&world.handle, vec![World::task(of_steps)]).await;
        wait(time, turns).await;
        world.cancel(ids[0]).await;
        world.works(1, &moment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn expiry_beside_award_step_and_commit() {
    // The sweep ends what is due each half second.
    for (time, _, of_steps, moment) in moments().step_by(TURNS.len()) {
        let world = World::new(1, AWAKE).await;
        tokio::time::sleep(Duration::from_millis(500) - time).await;
        let mut first = World::task(of_steps);
        first.deadline = Some(world.ledger.now().after(TICK));
        submit(&world.handle, vec![first]).await;
        world.works(1, &moment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn award_beside_passivate() {
    for (time, turns, of_steps, moment) in moments() {
        let world = World::new(2, 4 * TICK).await;
        // Each task frees its agent, which is put to sleep a few ticks later: about when the next comes.
        for _ in 0..4 {
            let ids = submit(&world.handle, vec![World::task(of_steps)]).await;
            until(&world.handle, &ids, &[State::Done]).await;
            wait(time, turns).await;
        }
        world.works(2, &moment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn drain_beside_claim_award_step_and_commit() {
    for sleep_after in [AWAKE, 10 * TICK] {
        for (time, turns, of_steps, moment) in moments() {
            let world = World::new(2, sleep_after).await;
            if sleep_after != AWAKE {
                world.asleep().await;
            }
            let tasks = (0..5).map(|_| World::task(of_steps)).collect();
            submit(&world.handle, tasks).await;
            wait(time, turns).await;
            let counts = world.stops(&moment).await;
            let by_state = &counts.by_state;
            let of = |state| by_state.get(&state).copied().unwrap_or(0);
            assert_eq!(
                of(State::Ready) + of(State::Done),
                5,
                "{moment}: {by_state:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_beside_award_step_and_commit() {
    let mut lost = 0;
    for (time, turns, of_steps, moment) in moments() {
        let in_flight = if turns.is_multiple_of(2) {
            InFlight::Dropped
        } else {
            InFlight::Written
        };
        let world = World::new(2, AWAKE).await;
        let tasks = (0..3).map(|_| World::task(of_steps)).collect();
        let ids = submit(&world.handle, tasks).await;
        wait(time, turns).await;
        let world = world.crash(in_flight, 2).await;
        until(&world.handle, &ids, &[State::Done]).await;
        for id in ids {
            let head = world.handle.task(id).await.expect("known").head;
            assert_eq!(head.failed_attempts, 0, "{moment}: {head:?}");
            lost += head.node_losses;
        }
        world.works(2, &moment).await;
    }
    assert!(lost > 0, "no crash has met a claim");
}

/// Gives chance to everybody but the market.
#[derive(Debug)]
struct NoneForTheMarket(SeededRandom);

impl RandomSource for NoneForTheMarket {
    fn stream(&self, purpose: &str, number: u64) -> Box<dyn RngCore + Send> {
        assert_ne!(purpose, "market", "there is no chance left");
        self.0.stream(purpose, number)
    }
}

/// A child that cannot start, at the only place where a port lets one fail: an agent, a supervisor and the sweep ask
/// nobody anything before they have started.
#[tokio::test(start_paused = true)]
async fn a_node_whose_market_cannot_start_does_not_start_and_the_next_one_does() {
    let ledger = MemoryLedger::with_sync_delay(Policy::default(), clock(), TICK);
    let dependencies = Dependencies {
        random: Arc::new(NoneForTheMarket(SeededRandom::new(7))),
        kinds: Kinds::builtin().with(Arc::new(Slow)),
        ..dependencies(Arc::new(ledger.clone()))
    };
    let refused = Node::start(&config(&[("slow", 1)]), dependencies).await;
    let error = refused.map(drop).expect_err("has no market");
    assert!(error.to_string().contains("no chance left"), "{error}");
    let world = World::on(ledger, clock(), 1, AWAKE, |_| {}).await;
    world.works(1, "afterwards").await;
}

/// The permit of a submit was freed when its caller left, while the write still waited for the disk.
#[tokio::test(start_paused = true)]
async fn a_submit_whose_caller_leaves_counts_until_it_is_written() {
    let world = World::with(1, AWAKE, |config| {
        config.admission.submits_in_flight_max = 1
    })
    .await;
    let submit = || world.handle.submit(vec![World::task(0).into()], None);
    assert_eq!(
        submit().now_or_never().map(drop),
        None,
        "waits for the disk"
    );
    let second = submit().now_or_never().expect("is answered at once");
    assert!(matches!(second, Err(Problem::Busy { .. })), "{second:?}");
    let again = async {
        while submit().await.is_err() {
            tokio::time::sleep(TICK).await;
        }
    };
    let again = tokio::time::timeout(DAY, again).await;
    again.expect("there is room again");
    world.works(1, "afterwards").await;
}

/// The repeat of an accepted task was refused once its deadline had passed, and its whole batch with it.
#[tokio::test(start_paused = true)]
async fn the_repeat_of_a_submit_is_answered_also_after_its_deadline() {
    let world = World::new(1, AWAKE).await;
    let mut spec = World::task(0);
    spec.deadline = Some(world.ledger.now().after(50 * TICK));
    spec.dedupe_key = Some("order-7".to_owned());
    let id = Some(TaskId::new(world.ledger.now(), [7; 10]));
    let submit = async |id| {
        let spec = spec.clone();
        world
            .handle
            .submit(vec![Submission { id, spec }], None)
            .await
    };
    let first = submit(id).await.expect("accepted");
    tokio::time::sleep(100 * TICK).await;
    // By its id, and by its deduplication key under another one.
    for id in [id, None] {
        let again = submit(id).await.expect("answered");
        assert_eq!(again[0].id(), first[0].id());
        assert!(matches!(again[0], Submitted::Duplicate { .. }), "{again:?}");
    }
    world.works(1, "afterwards").await;
}
