//! Random workloads: a seed makes everything.

use std::collections::BTreeMap;

use rand::{
    Rng as _, SeedableRng as _,
    seq::{IndexedMutRandom as _, IndexedRandom as _},
};
use rand_chacha::ChaCha12Rng;

use super::{
    Agents, Call, Client, Fault, InFlight, Matter, OutageMode, Phase, Port, Reviewer, SinkKind,
    Tasks, Workload, World,
};

/// Longest simulated time of a random run: its faults are over after ten seconds, and the rest is
/// back-offs of at most a second, breakers of at most two, deadlines of at most five. The longest of 1,500 took 24.
const SECONDS_MAX: u64 = 60;
/// The same of a crowded run: its busiest client sees up to 120 tasks end one after the other, some of them revived,
/// which takes most of a second each.
const CROWDED_SECONDS_MAX: u64 = 300;
/// Milliseconds in which random faults begin.
const FAULTS_WITHIN_MS: u64 = 6_000;
/// One world in so many is a quick one: see [`hasten`].
const QUICK_ONE_IN: u32 = 5;
/// One world in so many is a crowded one: see [`crowd`].
const CROWDED_ONE_IN: u32 = 8;
/// A day: what a wrong time zone or a dead battery makes of a clock.
const DAY_MS: i64 = 86_400_000;

impl Workload {
    /// The random workload of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed ^ 0x00f0_220a_d000);
        let rng = &mut rng;
        let agents = agents(rng);
        let tenants = ["", "acme", "beta"];
        let tenants = &tenants[..rng.random_range(1..=tenants.len())];
        let names: Vec<String> = agents.keys().cloned().collect();
        let clients = (0..rng.random_range(1..=3))
            .map(|_| client(rng, &names, tenants))
            .collect();
        let faults = (0..rng.random_range(0..=5)).map(|_| fault(rng)).collect();
        let mut workload = Self {
            seconds_max: SECONDS_MAX,
            found: None,
            world: world(rng, tenants),
            reviewer: Reviewer {
                accept: 3,
                correct: rng.random_range(0..=3),
                reject: rng.random_range(0..=1),
                drop_after_ms: rng.random_bool(0.3).then(|| rng.random_range(1..60)),
            },
            agents,
            clients,
            faults,
        };
        if rng.random_ratio(1, QUICK_ONE_IN) {
            hasten(rng, &mut workload);
        }
        limit(
            &mut ChaCha12Rng::seed_from_u64(seed ^ 0x00de_ad11_4e00),
            &mut workload,
        );
        damage(
            &mut ChaCha12Rng::seed_from_u64(seed ^ 0x00ba_dd15_c000),
            &mut workload,
        );
        let rng = &mut ChaCha12Rng::seed_from_u64(seed ^ 0x00c4_0bd0_0000);
        if rng.random_ratio(1, CROWDED_ONE_IN) {
            crowd(rng, &mut workload);
        }
        workload
    }
}

/// Makes the types large and adds some that nobody asks for, before and behind the others: more agents are idle than a
/// claim has slots. With a generator of its own, as [`limit`].
fn crowd(rng: &mut ChaCha12Rng, workload: &mut Workload) {
    workload.seconds_max = CROWDED_SECONDS_MAX;
    let idle = ["abel", "bess", "cleo", "dirk", "zeno"];
    for agents in workload.agents.values_mut() {
        agents.count = size(rng);
    }
    for name in &idle[..rng.random_range(1..=idle.len())] {
        let idle = Agents {
            kind: "scripted".to_owned(),
            count: size(rng),
            ..Agents::default()
        };
        workload.agents.insert((*name).to_owned(), idle);
    }
    // One client comes with a whole day's work.
    if let Some(tasks) = workload
        .clients
        .choose_mut(rng)
        .and_then(|c| c.tasks.first_mut())
    {
        tasks.count = Some(rng.random_range(20..=120));
    }
}

/// How many agents a type has in a crowded world.
fn size(rng: &mut ChaCha12Rng) -> u32 {
    *[2, 16, 64, 256].choose(rng).unwrap_or(&2)
}

/// Lets a disk fail and rows be damaged in some worlds. With a generator of its own, as [`limit`].
fn damage(rng: &mut ChaCha12Rng, workload: &mut Workload) {
    let nth = |rng: &mut ChaCha12Rng| {
        let most = *[8, 40].choose(rng).unwrap_or(&8);
        rng.random_range(1..=most)
    };
    if rng.random_bool(0.2) {
        let call = Some(call(rng)).filter(|call| call.writes());
        workload.faults.push(Fault::Unknown {
            call: call.unwrap_or(Call::Commit),
            nth: nth(rng),
            in_flight: in_flight(rng),
        });
    }
    let rows = rng.random_range(1..=3);
    for _ in 0..if rng.random_bool(0.2) { rows } else { 0 } {
        let call = Some(call(rng)).filter(|call| call.needs_a_task());
        workload.faults.push(Fault::Unreadable {
            call: call.unwrap_or(Call::Journal),
            nth: nth(rng),
        });
    }
}

fn in_flight(rng: &mut ChaCha12Rng) -> InFlight {
    if rng.random_bool(0.5) {
        InFlight::Dropped
    } else {
        InFlight::Written
    }
}

/// Makes everything take a millisecond or two, and clients cancel what is in hand: what seldom meets in one moment
/// elsewhere often does here.
fn hasten(rng: &mut ChaCha12Rng, workload: &mut Workload) {
    let world = &mut workload.world;
    world.sync_ms = rng.random_range(0..=1);
    world.latency_ms_min = 1;
    world.latency_ms_max = 2;
    world.model_ms = 1;
    world.sink_ms = 1;
    for agents in workload.agents.values_mut() {
        if agents.kind == "scripted" {
            agents.step_ms = 0;
            agents.turns = rng.random_range(1..=8);
        }
    }
    for client in &mut workload.clients {
        client.pause_ms_max = rng.random_range(0..=3);
        for tasks in &mut client.tasks {
            tasks.cancel_after_ms = Some(rng.random_range(0..12));
        }
    }
}

/// Gives some tasks a moment at which they expire. With a generator of its own, so that a seed's world is otherwise
/// the one it was before there was this.
fn limit(rng: &mut ChaCha12Rng, workload: &mut Workload) {
    let clients = workload.clients.iter_mut();
    for tasks in clients.flat_map(|client| &mut client.tasks) {
        if tasks.ttl_ms.is_none() && rng.random_bool(0.15) {
            tasks.deadline_ms = Some(rng.random_range(20..3_000));
        }
    }
}

fn world(rng: &mut ChaCha12Rng, tenants: &[&str]) -> World {
    let latency_ms_min = rng.random_range(1..=3);
    let mut tenant_weights = BTreeMap::new();
    for tenant in tenants {
        if !tenant.is_empty() && rng.random_bool(0.5) {
            tenant_weights.insert((*tenant).to_owned(), rng.random_range(1..=4));
        }
    }
    World {
        sync_ms: *[0, 1, 3, 10, 30].choose(rng).unwrap_or(&1),
        latency_ms_min,
        latency_ms_max: latency_ms_min + rng.random_range(0..=15),
        model_ms: rng.random_range(1..=20),
        sink_ms: rng.random_range(1..=20),
        claim_max: *[1, 2, 5, 256].choose(rng).unwrap_or(&256),
        attempts_max: rng.random_range(2..=5),
        sleep_after_ms: *[100, 1_000, 300_000].choose(rng).unwrap_or(&1_000),
        episodes_max: *[3, 8, 20_000].choose(rng).unwrap_or(&20_000),
        tenant_weights,
    }
}

fn agents(rng: &mut ChaCha12Rng) -> BTreeMap<String, Agents> {
    let names = ["anna", "bert", "carl", "dora", "emil"];
    let mut agents = BTreeMap::new();
    for name in &names[..rng.random_range(1..=names.len())] {
        let kind = *["scripted", "scripted", "scripted", "triage", "echo"]
            .choose(rng)
            .unwrap_or(&"scripted");
        let mut of = Agents {
            kind: kind.to_owned(),
            count: rng.random_range(1..=6),
            ..Agents::default()
        };
        if kind == "scripted" {
            of.effects = rng.random_range(0..=3);
            of.posts = rng.random_range(0..=3);
            of.step_ms = *[0, 5, 50, 300].choose(rng).unwrap_or(&0);
            of.turns = *[0, 4, 16].choose(rng).unwrap_or(&0);
            of.learns = rng.random_bool(0.5);
            of.learn_fails = rng.random_bool(0.2);
            if rng.random_bool(0.4) {
                of.sink = SinkKind::Fences;
            }
        }
        agents.insert((*name).to_owned(), of);
    }
    agents
}

fn client(rng: &mut ChaCha12Rng, names: &[String], tenants: &[&str]) -> Client {
    let tenant = tenants.choose(rng).copied().unwrap_or_default();
    let groups = rng.random_range(1..=4);
    Client {
        count: None,
        tenant: tenant.to_owned(),
        pause_ms_max: *[0, 5, 50, 400].choose(rng).unwrap_or(&5),
        tasks: (0..groups).map(|_| tasks(rng, names)).collect(),
    }
}

fn tasks(rng: &mut ChaCha12Rng, names: &[String]) -> Tasks {
    let agent_type = names.choose(rng).cloned().unwrap_or_default();
    let matter = match rng.random_range(0..10) {
        0 => Matter::Poison,
        1..=4 => Matter::Doubtful,
        _ => Matter::Plain,
    };
    let drop_after_ms = rng.random_bool(0.3).then(|| rng.random_range(1..80));
    Tasks {
        count: Some(rng.random_range(1..=12)).filter(|count| *count > 1),
        agent_type,
        matter,
        priority: *[0, 0, 1, 10].choose(rng).unwrap_or(&0),
        ttl_ms: rng.random_bool(0.15).then(|| rng.random_range(50..5_000)),
        deadline_ms: None,
        drop_after_ms,
        walks_away: rng.random_bool(0.4),
        repeats: rng.random_bool(0.2),
        cancel_after_ms: rng.random_bool(0.3).then(|| {
            // Soon: while it is in hand.
            let within = *[15, 60, 300].choose(rng).unwrap_or(&15);
            rng.random_range(0..within)
        }),
        feedback: rng.random_bool(0.3),
        revives: rng.random_bool(0.3),
    }
}

fn fault(rng: &mut ChaCha12Rng) -> Fault {
    // Early rather than late: most of the work is done in the first second.
    let within = *[300, 1_000, 3_000, FAULTS_WITHIN_MS]
        .choose(rng)
        .unwrap_or(&FAULTS_WITHIN_MS);
    let at_ms = rng.random_range(20..within);
    let most = *[8, 40].choose(rng).unwrap_or(&8);
    let nth = rng.random_range(1..=most);
    let most = *[3, 12].choose(rng).unwrap_or(&3);
    let times = rng.random_range(1..=most);
    let for_ms = *[1, 20, 300, 1_500].choose(rng).unwrap_or(&20);
    let clock_step_ms = match rng.random_range(0..6) {
        0 => -DAY_MS,
        1 => DAY_MS,
        2 => -300,
        _ => 0,
    };
    match rng.random_range(0..14) {
        0 => Fault::Cut { at_ms, for_ms },
        1 | 2 => Fault::Crash {
            at_ms,
            for_ms,
            in_flight: in_flight(rng),
            clock_step_ms,
        },
        3..=5 => Fault::CrashAtCall {
            call: call(rng),
            nth,
            phase: *[Phase::Before, Phase::Unsynced, Phase::Unanswered]
                .choose(rng)
                .unwrap_or(&Phase::Before),
            for_ms,
            clock_step_ms,
        },
        6 | 7 => Fault::Restart {
            at_ms,
            for_ms,
            clock_step_ms,
        },
        8 => Fault::Storage {
            call: ledger_call(rng),
            nth,
            times,
        },
        9 | 10 => Fault::Copy {
            call: *[
                Call::Submit,
                Call::Claim,
                Call::Commit,
                Call::Decide,
                Call::Cancel,
            ]
            .choose(rng)
            .unwrap_or(&Call::Commit),
            nth,
            times: rng.random_range(1..=20),
            after_ms: *[5, 20, 150, 600, 2_000].choose(rng).unwrap_or(&20),
        },
        11 => Fault::SlowDisk {
            at_ms,
            for_ms,
            delay_ms: rng.random_range(5..=200),
        },
        _ => Fault::Outage {
            port: *[Port::Embed, Port::Generate, Port::Sink, Port::Sink]
                .choose(rng)
                .unwrap_or(&Port::Sink),
            at_ms,
            for_ms: *[200, 1_500, 4_000].choose(rng).unwrap_or(&200),
            manner: if rng.random_bool(0.5) {
                OutageMode::Refuses
            } else {
                OutageMode::Hangs
            },
        },
    }
}

/// Most calls of a run are commits and claims.
fn call(rng: &mut ChaCha12Rng) -> Call {
    match rng.random_range(0..8) {
        0..=2 => Call::Commit,
        3 => Call::Claim,
        _ => *Call::ALL.choose(rng).unwrap_or(&Call::Commit),
    }
}

/// One of the ledger's: only those can fail by the disk. A call of something outside becomes one of what is most of a
/// run, without another draw.
fn ledger_call(rng: &mut ChaCha12Rng) -> Call {
    let call = call(rng);
    if call.is_of_ledger() {
        call
    } else {
        Call::Commit
    }
}
