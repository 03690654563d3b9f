//! What outlives the node: the disk, the wall clock, the sinks outside, and what was seen.
//!
//! Everything here is shared by the simulated hosts and the loop that drives them, all on one thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use colony_core::{
    id::{TaskId, Tenant},
    port::Clock,
    task::State,
    unit::Timestamp,
};
use colony_node::ports::RuntimeClock;
use colony_store::{
    Ledger as _, Policy,
    memory::{self, MemoryLedger},
};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    facts::Facts,
    history::History,
    late::Late,
    sinks::Sinks,
    watch::Watch,
    workload::{Call, Fault, InFlight, OutageMode, Phase, Port, Workload},
};

/// Simulated time begins here: 2026-01-01T00:00:00Z.
const EPOCH_MICROS: u64 = 1_767_225_600_000_000;
/// Most calls of ports at one moment: the tasks of a random world, each with its six steps, are a tenth.
const CALLS_AT_ONCE_MAX: u32 = 20_000;
/// How long a node stays away that has failed by itself: whoever runs the process starts it again.
pub(crate) const FAILED: Outage = Outage {
    for_ms: 100,
    clock_step_ms: 0,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) workload: Workload,
    pub(crate) seed: u64,
    pub(crate) history: History,
    pub(crate) watch: Watch,
    pub(crate) sinks: Sinks,
    pub(crate) facts: Mutex<Facts>,
    pub(crate) late: Late,
    /// Tasks with a row that cannot be read, and what was said of it. The engine in memory sets no rows aside: they are
    /// cancelled in it, which any live task can be, and whoever reads is told what a ledger on a disk says.
    pub(crate) set_aside: Mutex<BTreeMap<TaskId, String>>,
    disk: Mutex<MemoryLedger>,
    power: Mutex<Power>,
    /// Whether the node is told to stop in order.
    stopping: watch::Sender<Option<Outage>>,
    /// Where simulated time stands outside of all hosts, in microseconds.
    elapsed: AtomicU64,
    /// How far the wall clock is off, in milliseconds.
    clock_off_ms: AtomicI64,
    /// The clock of the node's present life.
    node_clock: Mutex<Arc<dyn Clock>>,
}

/// Whether the node runs, and what its calls meet.
#[derive(Debug, Default)]
struct Power {
    /// The node is off, for so long.
    off: Option<Outage>,
    /// When the ledger of this life has failed.
    ledger_failed: Option<Duration>,
    calls: BTreeMap<Call, u64>,
    /// Faults at calls that have happened, by their place in the workload.
    spent: BTreeSet<usize>,
    /// When something last went wrong.
    disturbed: Duration,
    /// Nothing goes wrong any more.
    calm: bool,
    /// When the last call was, and how many there were at that moment.
    circles: (Duration, u32),
    lives: u64,
}

/// The node is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) for_ms: u64,
    pub(crate) clock_step_ms: i64,
}

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// Nothing.
    Nothing,
    /// A storage error.
    Error,
    /// Its sync fails, and this became of that.
    Unknown(InFlight),
    /// A row that it needs cannot be read.
    Unreadable,
    /// It is executed once more, so much later.
    Copied(Duration),
    /// The power goes at this point of it.
    Crash(Phase, Outage),
}

impl World {
    pub(crate) fn new(workload: Workload, seed: u64) -> Arc<Self> {
        let clock: Arc<dyn Clock> = Arc::new(StandingClock);
        let sync = Duration::from_millis(workload.world.sync_ms);
        let disk = MemoryLedger::with_sync_delay(policy(&workload), clock, sync);
        Arc::new(Self {
            sinks: Sinks::new(seed, workload.world.sink_ms),
            workload,
            seed,
            history: History::default(),
            watch: Watch::default(),
            facts: Mutex::default(),
            late: Late::default(),
            set_aside: Mutex::default(),
            disk: Mutex::new(disk),
            power: Mutex::default(),
            stopping: watch::channel(None).0,
            elapsed: AtomicU64::new(0),
            clock_off_ms: AtomicI64::new(0),
            node_clock: Mutex::new(Arc::new(StandingClock)),
        })
    }

    // Time.

    /// Simulated time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        turmoil::sim_elapsed()
            .unwrap_or_else(|| Duration::from_micros(self.elapsed.load(Ordering::Relaxed)))
    }

    /// Sets the time for whoever is on no host.
    pub(crate) fn set_elapsed(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.elapsed.store(micros, Ordering::Relaxed);
    }

    /// What the right time is: people know it, and nodes may not.
    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_micros(EPOCH_MICROS).after(self.elapsed())
    }

    /// Begins the clock of a life of the node: read once from the wall clock, whatever that says.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        let off = self.clock_off_ms.load(Ordering::Relaxed);
        let wall = self.wall();
        let moved = i64::try_from(wall.as_micros())
            .unwrap_or(i64::MAX)
            .saturating_add(off.saturating_mul(1_000));
        let wall = Timestamp::from_micros(u64::try_from(moved).unwrap_or(0));
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock::at(wall));
        *self.node_clock.lock() = Arc::clone(&clock);
        clock
    }

    /// Waits until a moment of the node's present clock; for ever where there is none.
    pub(crate) async fn until(&self, deadline: Option<Timestamp>) {
        let Some(deadline) = deadline else {
            return std::future::pending().await;
        };
        let now = self.node_clock.lock().now();
        tokio::time::sleep(deadline.since(now)).await;
    }

    /// Moves the wall clock.
    pub(crate) fn step_clock(&self, by_ms: i64) {
        self.clock_off_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        self.history.note(self.elapsed(), what);
    }

    // The disk.

    /// The ledger as it is now, for looking at.
    pub(crate) fn disk(&self) -> MemoryLedger {
        self.disk.lock().clone()
    }

    /// The ledger as the next life of the node opens it.
    pub(crate) fn open_disk(&self, clock: Arc<dyn Clock>) -> MemoryLedger {
        let mut disk = self.disk.lock();
        *disk = disk.crash().on_clock(clock);
        let cancelled = |task| {
            let record = disk.get(task).now_or_never();
            record.is_some_and(|record| record.is_ok_and(|r| r.head.state == State::Cancelled))
        };
        // What was being set aside when the power went, and is not, is found again if it is damaged again.
        self.set_aside.lock().retain(|task, _| cancelled(*task));
        disk.clone()
    }

    /// The sync under way fails: the ledger of this life does nothing more.
    pub(crate) fn fail_ledger(&self, in_flight: InFlight) {
        let mut power = self.power.lock();
        if power.off.is_none() && power.ledger_failed.is_none() {
            self.lose_unsynced(in_flight);
            power.ledger_failed = Some(self.elapsed());
            power.disturbed = self.elapsed();
        }
    }

    /// Since when the ledger of this life has failed.
    pub(crate) fn ledger_failed(&self) -> Option<Duration> {
        self.power.lock().ledger_failed
    }

    fn lose_unsynced(&self, in_flight: InFlight) {
        let mut disk = self.disk.lock();
        *disk = disk.crash_with(match in_flight {
            InFlight::Dropped => memory::InFlight::Dropped,
            InFlight::Written => memory::InFlight::Written,
        });
    }

    // The power.

    /// A life begins; counts them from 1.
    pub(crate) fn switch_on(&self) -> u64 {
        let mut power = self.power.lock();
        power.off = None;
        self.stopping.send_replace(None);
        power.lives += 1;
        power.disturbed = self.elapsed();
        power.lives
    }

    /// The node is off from here on, and what was not synced is gone.
    pub(crate) fn cut_power(&self, in_flight: InFlight, outage: Outage) {
        let mut power = self.power.lock();
        if power.off.is_none() {
            self.lose_unsynced(in_flight);
            power.off = Some(outage);
            power.ledger_failed = None;
            power.disturbed = self.elapsed();
        }
    }

    /// Tells the node to stop in order.
    pub(crate) fn tell_to_stop(&self, outage: Outage) {
        self.power.lock().disturbed = self.elapsed();
        self.stopping.send_replace(Some(outage));
    }

    /// Whether the node is told to stop.
    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.stopping.borrow().is_some()
    }

    /// Returns when the node is told to stop.
    pub(crate) async fn told_to_stop(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender is in `self`: it is not gone before us.
        let _ = stopping.wait_for(Option::is_some).await;
    }

    /// The node has stopped in order.
    pub(crate) fn stopped(&self) {
        if let Some(outage) = *self.stopping.borrow() {
            self.cut_power(InFlight::Dropped, outage);
        }
    }

    /// The node has ended by itself.
    pub(crate) fn node_ended(&self) {
        self.cut_power(InFlight::Dropped, FAILED);
    }

    /// Lives of the node so far.
    pub(crate) fn lives(&self) -> u64 {
        self.power.lock().lives
    }

    /// Whether the node is off, and for how long.
    pub(crate) fn off(&self) -> Option<Outage> {
        self.power.lock().off
    }

    /// Returns at once while the node is on, and never when it is off.
    pub(crate) async fn powered(&self) {
        if self.off().is_some() {
            std::future::pending::<()>().await;
        }
    }

    /// How long nothing has gone wrong.
    pub(crate) fn undisturbed(&self) -> Duration {
        let ends = self.workload.faults_end_ms();
        let disturbed = self.power.lock().disturbed;
        let since = disturbed.max(Duration::from_millis(ends));
        self.elapsed().saturating_sub(since)
    }

    /// Counts a call of a port and tells what it meets.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "one kind of fault is looked for among all"
    )]
    pub(crate) fn meets(&self, call: Call) -> Met {
        let mut power = self.power.lock();
        if power.calm {
            return Met::Nothing;
        }
        if self.goes_in_circles(&mut power) {
            let nothing = Outage {
                for_ms: 1_000,
                clock_step_ms: 0,
            };
            return Met::Crash(Phase::Before, nothing);
        }
        let count = power.calls.entry(call).or_default();
        *count += 1;
        let count = *count;
        for (place, fault) in self.workload.faults.iter().enumerate() {
            match *fault {
                Fault::CrashAtCall {
                    call: at,
                    nth,
                    phase,
                    for_ms,
                    clock_step_ms,
                } if at == call && nth == count => {
                    power.spent.insert(place);
                    return Met::Crash(
                        phase,
                        Outage {
                            for_ms,
                            clock_step_ms,
                        },
                    );
                }
                Fault::Storage {
                    call: at,
                    nth,
                    times,
                } if at == call && (nth..nth + times).contains(&count) => {
                    power.spent.insert(place);
                    power.disturbed = self.elapsed();
                    return Met::Error;
                }
                Fault::Unknown {
                    call: at,
                    nth,
                    in_flight,
                } if at == call && nth == count => {
                    power.spent.insert(place);
                    return Met::Unknown(in_flight);
                }
                Fault::Unreadable { call: at, nth } if at == call && nth == count => {
                    power.spent.insert(place);
                    return Met::Unreadable;
                }
                Fault::Copy {
                    call: at,
                    nth,
                    times,
                    after_ms,
                } if at == call && (nth..nth + times).contains(&count) => {
                    power.spent.insert(place);
                    return Met::Copied(Duration::from_millis(after_ms));
                }
                _ => {}
            }
        }
        Met::Nothing
    }

    /// S9: calls follow each other while no time passes. The power has to go, or none ever would.
    fn goes_in_circles(&self, power: &mut Power) -> bool {
        let now = self.elapsed();
        let (at, calls) = power.circles;
        power.circles = (now, if at == now { calls + 1 } else { 1 });
        let circles = power.circles.1 > CALLS_AT_ONCE_MAX;
        if circles {
            let what = format!("more than {CALLS_AT_ONCE_MAX} calls at one moment");
            self.watch.broken("S9", what);
        }
        circles
    }

    /// Faults that have not happened by now will not: the run is over, and only looked at.
    pub(crate) fn calm(&self) {
        self.power.lock().calm = true;
    }

    /// Whether the run is over.
    pub(crate) fn is_calm(&self) -> bool {
        self.power.lock().calm
    }

    /// How many faults have happened.
    pub(crate) fn faults_met(&self) -> usize {
        let timed = |fault: &&Fault| {
            fault.ends_ms() > 0 && Duration::from_millis(fault.ends_ms()) <= self.elapsed()
        };
        let timed = self.workload.faults.iter().filter(timed).count();
        timed + self.power.lock().spent.len()
    }

    /// By how much a write is late now.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "one kind of fault is looked for among all"
    )]
    pub(crate) fn disk_delay(&self) -> Duration {
        let now = self.elapsed();
        let delays = self.workload.faults.iter().filter_map(|fault| match fault {
            Fault::SlowDisk {
                at_ms,
                for_ms,
                delay_ms,
            } if within(*at_ms, *for_ms, now) => Some(*delay_ms),
            _ => None,
        });
        Duration::from_millis(delays.max().unwrap_or(0))
    }

    /// Whether something outside is away now, and how that shows.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "one kind of fault is looked for among all"
    )]
    pub(crate) fn outage(&self, of: Port) -> Option<OutageMode> {
        let now = self.elapsed();
        self.workload.faults.iter().find_map(|fault| match fault {
            Fault::Outage {
                port,
                at_ms,
                for_ms,
                manner,
            } if *port == of && within(*at_ms, *for_ms, now) => Some(*manner),
            _ => None,
        })
    }
}

fn within(at_ms: u64, for_ms: u64, now: Duration) -> bool {
    let begin = Duration::from_millis(at_ms);
    (begin..begin + Duration::from_millis(for_ms)).contains(&now)
}

/// The rules of a workload's ledger: short waits, so that a run is short.
pub(crate) fn policy(workload: &Workload) -> Policy {
    let weights = workload.world.tenant_weights.iter();
    let weights = weights.filter_map(|(name, weight)| Tenant::new(name).ok().map(|t| (t, *weight)));
    Policy {
        attempts_max: workload.world.attempts_max,
        backoff_base: Duration::from_millis(20),
        backoff_max: Duration::from_secs(1),
        tenant_weights: weights.collect(),
        ..Policy::default()
    }
}

/// The clock of a disk that no node has opened.
#[derive(Debug)]
struct StandingClock;

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(EPOCH_MICROS)
    }
}
