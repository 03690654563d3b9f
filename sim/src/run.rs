//! One run: a workload and a seed in, a history and its hash out.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc, time::Duration};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use serde::Serialize;

use crate::{
    check, clients,
    history::hash,
    host, reviewer, sinks,
    watch::{Broken, heads},
    workload::{Fault, Workload},
    world::{Outage, World},
};

use colony_core::task::State;

/// How often the time that messages take is drawn anew.
const WEATHER_EVERY: Duration = Duration::from_millis(10);
/// How often the ledger is looked at from outside.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// SHA-256 over the history, in hexadecimal: equal for equal seeds.
    pub history_hash: String,
    /// Lines of the history.
    pub events: usize,
    /// Tasks acknowledged.
    pub acknowledged: u64,
    /// Tasks that ended, each seen by its client.
    pub ended: u64,
    /// Requests that had to be repeated, or were given up.
    pub retries: u64,
    /// Faults that were met.
    pub faults: usize,
    /// Lives of the node.
    pub lives: u64,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// The history itself, a line an event, for stepping through a failure.
    #[serde(skip)]
    pub history: Vec<String>,
}

/// Why a run failed. The seed and the workload repeat it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// A property does not hold.
    #[error("{broken}")]
    Unsafe {
        /// Which, and how.
        broken: Broken,
        /// What happened before, a line an event.
        history: Vec<String>,
    },
    /// The world itself failed.
    #[error("the simulation failed: {what}")]
    World {
        /// Its words.
        what: String,
    },
}

impl RunError {
    /// What failed, short enough to compare two failures by: a property's number.
    #[must_use]
    pub fn property(&self) -> &str {
        match self {
            Self::Unsafe { broken, .. } => &broken.property,
            Self::World { .. } => "world",
        }
    }
}

/// Runs a workload with a seed.
///
/// # Errors
/// [`RunError`]; the same seed gives the same one again.
///
/// # Panics
/// When the node or a client of the simulated world panics: a bug, which the same seed shows again.
pub fn run(workload: &Workload, seed: u64) -> Result<Report, RunError> {
    let world = World::new(workload.clone(), seed);
    let broken = match simulate(&world) {
        Ok(()) => check::at_end(&world).err(),
        Err(error) => Some(error),
    };
    let history = world.history.take();
    match broken {
        Some(Failure::Broken(broken)) => return Err(RunError::Unsafe { broken, history }),
        Some(Failure::World(what)) => return Err(RunError::World { what }),
        None => {}
    }
    let facts = world.facts.lock();
    Ok(Report {
        history_hash: hash(&history),
        events: history.len(),
        acknowledged: facts.acknowledged.len() as u64,
        ended: facts.ended,
        retries: facts.retries,
        faults: world.faults_met(),
        lives: world.lives(),
        simulated_ms: u64::try_from(world.elapsed().as_millis()).unwrap_or(u64::MAX),
        history,
    })
}

/// Why a run stops.
#[derive(Debug)]
pub(crate) enum Failure {
    Broken(Broken),
    World(String),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Lets the world go on until everything has ended and no fault is left; then the node is looked at.
fn simulate(world: &Arc<World>) -> Result<(), Failure> {
    let of = &world.workload.world;
    let most = Duration::from_secs(world.workload.seconds_max);
    let mut sim = turmoil::Builder::new()
        .rng_seed(world.seed)
        .enable_random_order()
        .simulation_duration(most * 2)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(of.latency_ms_min))
        .max_message_latency(Duration::from_millis(of.latency_ms_max))
        .tcp_capacity(1 << 16)
        .build();
    {
        let world = Arc::clone(world);
        sim.host(host::HOST, move || host::live(Arc::clone(&world)));
    }
    sim.client(clients::HOST, clients::submit_all(Arc::clone(world)));
    sim.client(reviewer::HOST, reviewer::review(Arc::clone(world)));
    let people: u32 = world.workload.clients.iter().map(|c| c.count()).sum();
    let mut schedule = Schedule::new(&world.workload.faults);
    let mut looked = Duration::ZERO;
    world.switch_on();
    let mut weather = Weather::new(world);
    loop {
        if world.is_calm() && world.off().is_some() {
            return world
                .watch
                .found()
                .map_or(Ok(()), |broken| Err(broken.into()));
        }
        world.set_elapsed(sim.elapsed());
        weather.turn(&sim);
        schedule.apply(&mut sim, world);
        sim.step()
            .map_err(|error| Failure::World(error.to_string()))?;
        world.set_elapsed(sim.elapsed());
        sinks::arrive(world);
        let now = sim.elapsed();
        if now >= looked + LOOK_EVERY {
            looked = now;
            world.watch.look(world);
            let done = world.facts.lock().clients_done.len() == people as usize;
            if done
                && schedule.is_over()
                && world.late.is_empty()
                && world.off().is_none()
                && world.ledger_failed().is_none()
                && is_idle(world)
                && !world.is_calm()
            {
                world.calm();
                world.tell_to_stop(Outage {
                    for_ms: 0,
                    clock_step_ms: 0,
                });
            }
        }
        if let Some(broken) = world.watch.found() {
            return Err(broken.into());
        }
        if now >= most {
            return Err(not_live(world).into());
        }
    }
}

/// S9: everything has ended when the faults are over.
fn not_live(world: &World) -> Broken {
    let live = heads(
        &world.disk(),
        &[State::Ready, State::Claimed, State::Waiting],
    );
    let shown: Vec<String> = live
        .iter()
        .take(3)
        .map(|record| format!("{} is {}", record.head.id, record.head.state))
        .collect();
    let facts = world.facts.lock();
    let what = format!(
        "after {} simulated seconds {} of {} tasks have ended; {}",
        world.workload.seconds_max,
        facts.ended,
        facts.acknowledged.len(),
        shown.join(", ")
    );
    Broken {
        property: "S9".to_owned(),
        what,
    }
}

fn is_idle(world: &World) -> bool {
    heads(
        &world.disk(),
        &[State::Ready, State::Claimed, State::Waiting],
    )
    .is_empty()
}

/// How long messages take. All on one line take the same time, and that changes every few milliseconds: a
/// time drawn for each message would depend on which of two connections speaks first at one moment, which
/// tokio leaves to a random number of its own.
struct Weather {
    rng: ChaCha12Rng,
    latency_ms: RangeInclusive<u64>,
    turns_at: Duration,
}

impl Weather {
    fn new(world: &World) -> Self {
        let of = &world.workload.world;
        Self {
            rng: ChaCha12Rng::seed_from_u64(world.seed ^ 0x3ea7_4e12),
            latency_ms: of.latency_ms_min..=of.latency_ms_max,
            turns_at: Duration::ZERO,
        }
    }

    fn turn(&mut self, sim: &turmoil::Sim<'_>) {
        if sim.elapsed() < self.turns_at {
            return;
        }
        self.turns_at = sim.elapsed() + WEATHER_EVERY;
        for who in [clients::HOST, reviewer::HOST] {
            let latency = self.rng.random_range(self.latency_ms.clone());
            sim.set_link_latency(who, host::HOST, Duration::from_millis(latency));
        }
    }
}

/// The faults still to come and still to heal.
struct Schedule {
    /// (when, fault, whether it begins) in order of time.
    moments: VecDeque<(Duration, Fault, bool)>,
    /// When the node is back, while it is away.
    back_at: Option<Duration>,
    /// The clients' line is cut.
    is_cut: bool,
}

impl Schedule {
    fn new(faults: &[Fault]) -> Self {
        let mut moments = Vec::new();
        for fault in faults {
            let at = |ms| Duration::from_millis(ms);
            match fault {
                Fault::Cut { at_ms, for_ms } => {
                    moments.push((at(*at_ms), *fault, true));
                    moments.push((at(at_ms + for_ms), *fault, false));
                }
                Fault::Crash { at_ms, .. } | Fault::Restart { at_ms, .. } => {
                    moments.push((at(*at_ms), *fault, true));
                }
                // These are over by themselves; the run goes on until then.
                Fault::SlowDisk { at_ms, for_ms, .. } | Fault::Outage { at_ms, for_ms, .. } => {
                    moments.push((at(at_ms + for_ms), *fault, false));
                }
                Fault::CrashAtCall { .. }
                | Fault::Storage { .. }
                | Fault::Unknown { .. }
                | Fault::Unreadable { .. }
                | Fault::Copy { .. } => {}
            }
        }
        moments.sort_by_key(|(at, ..)| *at);
        Self {
            moments: moments.into(),
            back_at: None,
            is_cut: false,
        }
    }

    fn is_over(&self) -> bool {
        self.moments.is_empty() && self.back_at.is_none()
    }

    fn apply(&mut self, sim: &mut turmoil::Sim<'_>, world: &World) {
        let now = world.elapsed();
        while let Some((_, fault, begins)) = self.moments.pop_front_if(|(at, ..)| *at <= now) {
            world.note(format_args!(
                "{fault:?} {}",
                if begins { "begins" } else { "ends" }
            ));
            match fault {
                Fault::Cut { .. } => {
                    self.is_cut = begins;
                    self.wire(sim);
                }
                Fault::Crash {
                    for_ms,
                    in_flight,
                    clock_step_ms,
                    ..
                } => world.cut_power(
                    in_flight,
                    Outage {
                        for_ms,
                        clock_step_ms,
                    },
                ),
                Fault::Restart {
                    for_ms,
                    clock_step_ms,
                    ..
                } => world.tell_to_stop(Outage {
                    for_ms,
                    clock_step_ms,
                }),
                Fault::SlowDisk { .. }
                | Fault::Outage { .. }
                | Fault::CrashAtCall { .. }
                | Fault::Storage { .. }
                | Fault::Unknown { .. }
                | Fault::Unreadable { .. }
                | Fault::Copy { .. } => {}
            }
        }
        match (world.off(), self.back_at) {
            (Some(outage), None) => {
                self.back_at = Some(now + Duration::from_millis(outage.for_ms));
                self.wire(sim);
                sim.crash(host::HOST);
                world.step_clock(outage.clock_step_ms);
            }
            (Some(_), Some(at)) if at <= now => {
                self.back_at = None;
                sim.bounce(host::HOST);
                self.wire(sim);
                world.switch_on();
            }
            _ => {}
        }
    }

    /// Lets through who can be heard. A node that has lost power says no goodbye: its connections end in the
    /// order in which a runtime drops its tasks, which is not the same in two runs.
    fn wire(&self, sim: &turmoil::Sim<'_>) {
        let is_off = self.back_at.is_some();
        for (who, is_cut) in [
            (clients::HOST, self.is_cut || is_off),
            (reviewer::HOST, is_off),
        ] {
            if is_cut {
                sim.partition(who, host::HOST);
            } else {
                sim.repair(who, host::HOST);
            }
        }
    }
}
