//! What is simulated: plain data, a TOML file without its seed.
//!
//! ```text
//!   seed ─► Workload::random ─┐                      ┌─► run
//!   file ─► Workload::read ───┴─► Workload ──────────┼─► simpler (shrinking a failure)
//!                                                    └─► to_toml ─► sim/regressions
//! ```

mod bounds;
mod fault;
mod random;
mod shrink;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

pub use self::fault::{Call, Fault, InFlight, OutageMode, Phase, Port};

/// Longest file read, in bytes; workloads have a few KB. A wrong file must not fill the memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Longest simulated time, in seconds; a run that has not ended by then has failed.
    pub seconds_max: u64,
    /// Where the file comes from, if a run with it once failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// Disk, network and the node's settings.
    #[serde(default)]
    pub world: World,
    /// What reviewers decide.
    #[serde(default)]
    pub reviewer: Reviewer,
    /// Agent types by name.
    pub agents: BTreeMap<String, Agents>,
    /// Who submits.
    pub clients: Vec<Client>,
    /// What goes wrong, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// How a failure was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The seed that failed.
    pub seed: u64,
    /// The commit it failed at.
    pub commit: String,
    /// What failed.
    pub broken: String,
}

/// Disk, network and the node's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct World {
    /// Time of one sync of the ledger, in milliseconds; 0: every write is durable at once.
    pub sync_ms: u64,
    /// Shortest time of a message between client and node, in milliseconds.
    pub latency_ms_min: u64,
    /// Longest time of a message, in milliseconds.
    pub latency_ms_max: u64,
    /// Time of one model call, in milliseconds.
    pub model_ms: u64,
    /// Time until a request reaches a sink outside, and again until its answer is back, in milliseconds.
    pub sink_ms: u64,
    /// `market.claim_max`.
    pub claim_max: u32,
    /// `ledger.attempts_max`.
    pub attempts_max: u32,
    /// `roster.sleep_after`, in milliseconds.
    pub sleep_after_ms: u64,
    /// `memory.episodes_max`.
    pub episodes_max: usize,
    /// `ledger.tenant_weights`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenant_weights: BTreeMap<String, u32>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            sync_ms: 2,
            latency_ms_min: 1,
            latency_ms_max: 20,
            model_ms: 3,
            sink_ms: 2,
            claim_max: 256,
            attempts_max: 5,
            sleep_after_ms: 300_000,
            episodes_max: 20_000,
            tenant_weights: BTreeMap::new(),
        }
    }
}

/// What reviewers decide: of `accept + correct + reject` questions so many each way, drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reviewer {
    /// How often a proposal is accepted.
    pub accept: u32,
    /// How often it is corrected.
    pub correct: u32,
    /// How often it is rejected.
    pub reject: u32,
    /// The decision's request is given up after so many milliseconds, the first time, and not repeated
    /// for two seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_after_ms: Option<u64>,
}

impl Default for Reviewer {
    fn default() -> Self {
        Self {
            accept: 1,
            correct: 0,
            reject: 0,
            drop_after_ms: None,
        }
    }
}

/// One agent type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agents {
    /// `echo`, `triage`, or `scripted`: the simulator's own, which does what the rest of this table says.
    pub kind: String,
    /// How many.
    pub count: u32,
    /// Calls to a sink outside in each task's execute step.
    #[serde(skip_serializing_if = "is_zero")]
    pub effects: u32,
    /// What the sink goes by.
    #[serde(skip_serializing_if = "is_default")]
    pub sink: SinkKind,
    /// Messages to the outbox, from one call of a tool.
    #[serde(skip_serializing_if = "is_zero")]
    pub posts: u32,
    /// Time of the execute step beside its calls, in milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub step_ms: u32,
    /// Each of its steps takes a millisecond, and then up to so many turns of the scheduler, drawn for each: its end
    /// meets whatever else happens in that millisecond, once before it and once after it.
    #[serde(skip_serializing_if = "is_zero")]
    pub turns: u32,
    /// Whether it remembers what it is taught.
    #[serde(skip_serializing_if = "is_default")]
    pub learns: bool,
    /// Whether its learn step always fails.
    #[serde(skip_serializing_if = "is_default")]
    pub learn_fails: bool,
}

/// What a sink outside goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// It knows the idempotency keys it has seen: a repeat does nothing and gets the same answer.
    #[default]
    Keys,
    /// It knows no keys. It keeps the highest fence it has seen for each task, also from a read, and
    /// refuses lower ones; whoever writes reads first.
    Fences,
}

/// Somebody who submits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// So many like this one.
    #[serde(skip_serializing_if = "is_one")]
    pub count: Option<u32>,
    /// Its tenant; empty: `default`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// Longest pause between two submissions, in milliseconds; drawn each time.
    pub pause_ms_max: u64,
    /// Its tasks, in order.
    pub tasks: Vec<Tasks>,
}

/// Tasks that a client submits one after the other, and what it does with each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tasks {
    /// So many like this one.
    #[serde(skip_serializing_if = "is_one")]
    pub count: Option<u32>,
    /// The agent type; empty: drawn for each.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent_type: String,
    /// What the agents of a scripted type find in it.
    #[serde(skip_serializing_if = "is_default")]
    pub matter: Matter,
    /// 1 to 10; 0: 5.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// Expires after so many milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Expires so many milliseconds after its client first submits it: the same moment in every repeat, also in those
    /// that come after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The request is given up after so many milliseconds, the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_after_ms: Option<u64>,
    /// A request that was given up or refused is not repeated.
    #[serde(skip_serializing_if = "is_default")]
    pub walks_away: bool,
    /// It is submitted again after it was acknowledged, and once more after its end: with the same key, and with
    /// another payload.
    #[serde(skip_serializing_if = "is_default")]
    pub repeats: bool,
    /// It is cancelled so many milliseconds after it was acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_after_ms: Option<u64>,
    /// The client says afterwards that another answer would have been right.
    #[serde(skip_serializing_if = "is_default")]
    pub feedback: bool,
    /// Where it has ended dead, cancelled or expired, its client revives it, once, and repeats the request that had
    /// cancelled it.
    #[serde(skip_serializing_if = "is_default")]
    pub revives: bool,
}

/// What agents of a scripted type find in a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matter {
    /// Nothing special.
    #[default]
    Plain,
    /// Something that a human has to decide.
    Doubtful,
    /// Something that makes their code panic.
    Poison,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    clippy::ref_option,
    reason = "serde calls it"
)]
fn is_one(value: &Option<u32>) -> bool {
    matches!(value, None | Some(1))
}

impl Client {
    /// How many like this one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.unwrap_or(1)
    }
}

impl Tasks {
    /// How many like this one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.unwrap_or(1)
    }
}

/// Why there is no workload.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The file cannot be read.
    #[error("cannot read workload {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not a workload.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, with its line.
        what: String,
    },
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "longer than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

impl Workload {
    /// Reads a workload.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn read(path: &Path) -> Result<Self, WorkloadError> {
        let shown = path.display().to_string();
        let text = text_of(path).map_err(|source| WorkloadError::Read {
            path: shown.clone(),
            source,
        })?;
        let workload: Self = toml::from_str(&text).map_err(|error| {
            let before = error.span().map_or("", |span| &text[..span.start]);
            let line = before.matches('\n').count() + 1;
            WorkloadError::Invalid {
                path: shown.clone(),
                what: format!("line {line}: {}", error.message()),
            }
        })?;
        match workload.problem() {
            Some(what) => Err(WorkloadError::Invalid { path: shown, what }),
            None => Ok(workload),
        }
    }

    /// The workload as a file: [`Workload::read`] gives it back.
    ///
    /// # Panics
    /// Never: everything in it has a form in TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("tables, numbers and words are legal TOML")
    }

    /// Tasks over all clients.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        let of = |client: &Client| {
            let own: u64 = client.tasks.iter().map(|t| u64::from(t.count())).sum();
            own * u64::from(client.count())
        };
        self.clients.iter().map(of).sum()
    }

    /// Milliseconds after which every fault that has a time is over.
    pub(crate) fn faults_end_ms(&self) -> u64 {
        self.faults.iter().map(Fault::ends_ms).max().unwrap_or(0)
    }

    pub(crate) fn problem(&self) -> Option<String> {
        if let Some(what) = bounds::problem(self) {
            return Some(what);
        }
        let world = &self.world;
        if world.latency_ms_min > world.latency_ms_max {
            return Some("world: latency_ms_min is above latency_ms_max".to_owned());
        }
        if self.tasks() == 0 || self.agents.values().all(|agents| agents.count == 0) {
            return Some("there must be a client, a task and an agent".to_owned());
        }
        let Reviewer {
            accept,
            correct,
            reject,
            ..
        } = self.reviewer;
        if accept == 0 && correct == 0 && reject == 0 {
            return Some("reviewer: one of accept, correct and reject must be above 0".to_owned());
        }
        if let Some(what) = self.faults.iter().find_map(Fault::problem) {
            return Some(format!("faults: {what}"));
        }
        let named: BTreeSet<&String> = self
            .clients
            .iter()
            .flat_map(|client| &client.tasks)
            .map(|tasks| &tasks.agent_type)
            .filter(|name| !name.is_empty())
            .collect();
        let unknown = named.into_iter().find(|name| {
            self.agents
                .get(*name)
                .is_none_or(|agents| agents.count == 0)
        });
        if let Some(name) = unknown {
            return Some(format!("clients: there are no agents of type {name:?}"));
        }
        let kinds = ["echo", "triage", "scripted"];
        let unknown = self
            .agents
            .iter()
            .find(|(_, agents)| !kinds.contains(&agents.kind.as_str()));
        unknown.map(|(name, agents)| {
            let kind = &agents.kind;
            format!(
                "agents.{name}: no kind {kind:?}; there are: {}",
                kinds.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_workload_is_legal_and_survives_its_file() {
        for seed in 0..200 {
            let workload = Workload::random(seed);
            assert_eq!(workload.problem(), None, "seed {seed}");
            let read: Workload = toml::from_str(&workload.to_toml()).expect("legal TOML");
            assert_eq!(read, workload, "seed {seed}");
            assert_eq!(workload, Workload::random(seed), "seed {seed}");
        }
    }

    #[test]
    fn a_fault_that_would_do_nothing_is_refused() {
        let with = |fault| Workload {
            faults: vec![fault],
            ..Workload::random(1)
        };
        let (nth, times, after_ms) = (1, 1, 5);
        for call in Call::ALL {
            let storage = with(Fault::Storage { call, nth, times });
            let outside = matches!(call, Call::Sink | Call::Embed | Call::Generate);
            assert_eq!(storage.problem().is_some(), outside, "{call:?}");
        }
        for call in Call::ALL {
            let in_flight = InFlight::Written;
            let unknown = with(Fault::Unknown {
                call,
                nth,
                in_flight,
            });
            assert_eq!(unknown.problem().is_none(), call.writes(), "{call:?}");
            let unreadable = with(Fault::Unreadable { call, nth });
            let of_a_task = call.needs_a_task();
            assert_eq!(unreadable.problem().is_none(), of_a_task, "{call:?}");
        }
        let copy = |call| {
            with(Fault::Copy {
                call,
                nth,
                times,
                after_ms,
            })
        };
        assert_eq!(copy(Call::Revive).problem(), None);
        assert!(copy(Call::Sink).problem().is_some());
        assert!(copy(Call::Expire).problem().is_some());
    }
}
