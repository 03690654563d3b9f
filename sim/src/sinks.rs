//! The world outside that effects are made in: it goes on when the node has crashed, and what was sent
//! arrives all the same, late perhaps.
//!
//! ```text
//!   tool ── send ──► on its way ──(latency)──► arrives: done, or refused ──(latency)──► answer
//! ```
//! An effect is known by what it means: the task and its number among the task's effects. Two keys for one
//! meaning are one effect made twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_agents::{
    CallContext as OnBehalf, EffectKind, OutboxMessage, PortError, Tool, ToolOutcome,
};
use colony_core::{
    id::{Fence, TaskId},
    journal::EffectKey,
};
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};

use crate::{
    workload::{Call, InFlight, OutageMode, Phase, Port},
    world::{Met, World},
};

/// One in so many requests is held up on its way, for [`HELD_UP`] times as long.
const HELD_UP_ONE_IN: u32 = 16;
/// See [`HELD_UP_ONE_IN`].
const HELD_UP: u32 = 20;

/// The sinks.
#[derive(Debug)]
pub(crate) struct Sinks(Mutex<State>);

#[derive(Debug)]
struct State {
    latency: Duration,
    rng: ChaCha12Rng,
    sent: u64,
    on_the_way: BTreeMap<(Duration, u64), Request>,
    answers: BTreeMap<u64, Answer>,
    /// What the sink that knows keys has answered.
    by_key: BTreeMap<EffectKey, Value>,
    /// The highest fences that the other sink has seen.
    fences: BTreeMap<TaskId, Fence>,
    made: BTreeMap<Meaning, Vec<Value>>,
}

/// What an effect means, whatever it is called.
type Meaning = (TaskId, u64);

#[derive(Debug, Clone)]
struct Request {
    meaning: Meaning,
    fence: Fence,
    ask: Ask,
}

#[derive(Debug, Clone)]
enum Ask {
    /// Do it, under this key.
    Do(EffectKey),
    /// What has been done?
    Read,
    /// Do it, if no higher fence was seen.
    Write,
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    /// It is done, and this came of it.
    Done(Value),
    /// It is not done.
    NotDone,
    /// A higher fence was seen.
    Fenced,
    /// Ask again later.
    Away,
    /// None will come.
    Silence,
}

impl Sinks {
    pub(crate) fn new(seed: u64, latency_ms: u64) -> Self {
        Self(Mutex::new(State {
            latency: Duration::from_millis(latency_ms),
            rng: ChaCha12Rng::seed_from_u64(seed ^ 0x51_4b5),
            sent: 0,
            on_the_way: BTreeMap::new(),
            answers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            fences: BTreeMap::new(),
            made: BTreeMap::new(),
        }))
    }

    /// How often what `task`'s effect `number` means was done, and what came of it.
    pub(crate) fn made(&self, task: TaskId, number: u64) -> Vec<Value> {
        let state = self.0.lock();
        state.made.get(&(task, number)).cloned().unwrap_or_default()
    }

    /// Sends a request; gives its number and when its answer is back.
    fn send(&self, request: Request, now: Duration) -> (u64, Duration) {
        let mut state = self.0.lock();
        state.sent += 1;
        let number = state.sent;
        let held_up = state.rng.random_ratio(1, HELD_UP_ONE_IN);
        let latency = state.latency * if held_up { HELD_UP } else { 1 };
        state.on_the_way.insert((now + latency, number), request);
        (number, latency * 2)
    }

    /// Lets everything arrive that is due.
    fn arrive(&self, world: &World) {
        let now = world.elapsed();
        let outage = world.outage(Port::Sink);
        let mut state = self.0.lock();
        while let Some(first) = state.on_the_way.first_entry() {
            if first.key().0 > now {
                return;
            }
            let ((_, number), request) = first.remove_entry();
            let (task, nth) = request.meaning;
            let answer = match outage {
                Some(OutageMode::Refuses) => Answer::Away,
                Some(OutageMode::Hangs) => {
                    state.execute(&request);
                    Answer::Silence
                }
                None => state.execute(&request),
            };
            world.note(format_args!("sink {task}/{nth} {answer:?}"));
            let times = state.made.get(&request.meaning).map_or(0, Vec::len);
            if times > 1 {
                let what = format!("effect {nth} of task {task} was made {times} times");
                world.watch.broken("S3", what);
            }
            state.answers.insert(number, answer);
        }
    }

    fn answer(&self, number: u64) -> Option<Answer> {
        self.0.lock().answers.remove(&number)
    }
}

impl State {
    fn execute(&mut self, request: &Request) -> Answer {
        let Request {
            meaning,
            fence,
            ref ask,
        } = *request;
        match ask {
            Ask::Do(key) => {
                if let Some(value) = self.by_key.get(key) {
                    return Answer::Done(value.clone());
                }
                let value = self.make(meaning);
                self.by_key.insert(key.clone(), value.clone());
                Answer::Done(value)
            }
            Ask::Read | Ask::Write => {
                let highest = self.fences.entry(meaning.0).or_insert(fence);
                if fence < *highest {
                    return Answer::Fenced;
                }
                *highest = fence;
                let done = self.made.get(&meaning).and_then(|made| made.first());
                match (ask, done) {
                    (Ask::Read, Some(value)) => Answer::Done(value.clone()),
                    (Ask::Read, None) => Answer::NotDone,
                    // It knows no keys: what it is told to do again, it does again.
                    (Ask::Write | Ask::Do(_), _) => Answer::Done(self.make(meaning)),
                }
            }
        }
    }

    fn make(&mut self, meaning: Meaning) -> Value {
        let made = self.made.entry(meaning).or_default();
        let value = json!({ "number": meaning.1, "time": made.len() });
        made.push(value.clone());
        value
    }
}

/// Lets the sinks go on while nobody waits for them.
pub(crate) fn arrive(world: &World) {
    world.sinks.arrive(world);
}

/// A tool that calls a sink outside.
#[derive(Debug)]
pub(crate) struct SinkTool {
    pub(crate) world: Arc<World>,
    pub(crate) name: &'static str,
    /// Whether the sink knows keys.
    pub(crate) keys: bool,
}

#[async_trait]
impl Tool for SinkTool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn effect_kind(&self) -> EffectKind {
        EffectKind::AtLeastOnce
    }

    async fn call(
        &self,
        arguments: &Value,
        key: &EffectKey,
        call: &OnBehalf,
    ) -> Result<ToolOutcome, PortError> {
        let number = arguments["number"].as_u64().unwrap_or_default();
        let request = |ask| Request {
            meaning: (call.task, number),
            fence: call.fence,
            ask,
        };
        let answer = if self.keys {
            self.ask(request(Ask::Do(key.clone())), call).await
        } else {
            match self.ask(request(Ask::Read), call).await {
                Answer::NotDone => self.ask(request(Ask::Write), call).await,
                other @ (Answer::Done(_) | Answer::Fenced | Answer::Away | Answer::Silence) => {
                    other
                }
            }
        };
        match answer {
            Answer::Done(value) => Ok(ToolOutcome {
                value,
                messages: vec![],
            }),
            Answer::Fenced => Err(PortError::Lost),
            Answer::NotDone | Answer::Away | Answer::Silence => Err(PortError::Busy {
                port: "sink",
                what: "the sink is away".to_owned(),
            }),
        }
    }
}

impl SinkTool {
    async fn ask(&self, request: Request, call: &OnBehalf) -> Answer {
        let world = &self.world;
        world.powered().await;
        let met = world.meets(Call::Sink);
        if let Met::Crash(Phase::Before, outage) = met {
            world.cut_power(InFlight::Dropped, outage);
            world.powered().await;
        }
        let (number, back_in) = world.sinks.send(request, world.elapsed());
        if let Met::Crash(Phase::Unsynced, outage) = met {
            world.cut_power(InFlight::Dropped, outage);
            world.powered().await;
        }
        tokio::time::sleep(back_in).await;
        arrive(world);
        let answer = world.sinks.answer(number).unwrap_or(Answer::Silence);
        if let Met::Crash(Phase::Unanswered, outage) = met {
            world.cut_power(InFlight::Dropped, outage);
        }
        world.powered().await;
        if answer == Answer::Silence {
            world.until(call.deadline).await;
        }
        answer
    }
}

/// A tool that posts messages to the outbox: `count` of them from one call.
#[derive(Debug)]
pub(crate) struct PostTool;

/// Where [`PostTool`] posts.
pub(crate) const LETTERS: &str = "letters";

#[async_trait]
impl Tool for PostTool {
    fn name(&self) -> &'static str {
        "post"
    }

    fn effect_kind(&self) -> EffectKind {
        EffectKind::Transactional
    }

    async fn call(
        &self,
        arguments: &Value,
        _: &EffectKey,
        call: &OnBehalf,
    ) -> Result<ToolOutcome, PortError> {
        let count = arguments["count"].as_u64().unwrap_or_default();
        let post = |number| OutboxMessage {
            queue: LETTERS.to_owned(),
            payload: json!({ "task": call.task.to_string(), "number": number }),
        };
        Ok(ToolOutcome {
            value: json!({ "posted": count }),
            messages: (0..count).map(post).collect(),
        })
    }
}
