//! What the components tell of themselves, for the APIs to show.

use std::{collections::BTreeMap, time::Duration};

use colony_core::{
    cycle::EscalationReason,
    id::{AgentId, Incarnation, NodeId, TaskId, TypeName},
    unit::Timestamp,
};
use colony_inference::WorkerStats;
use colony_store::{Counts, Track};

pub use crate::breakers::OpenPort;
use crate::ports::Member;

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Who.
    pub id: AgentId,
    /// The kind that does its steps.
    pub kind: String,
    /// The version of its type's declaration.
    pub version: u32,
    /// `busy`, `idle`, `asleep`, or `down` where it crashed too often.
    pub state: &'static str,
    /// What it works on.
    pub task: Option<TaskId>,
    /// What it has done.
    pub track: Track,
}

/// One model and what its worker has done.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelView {
    /// Its name in `[models]`.
    pub name: String,
    /// `embed` or `generate`.
    pub role: &'static str,
    /// `ort` or `echo`.
    pub engine: &'static str,
    /// Numbers in a vector; 0 for a language model.
    pub dimensions: usize,
    /// Longest text, or context, in tokens.
    pub tokens_max: usize,
    /// The worker's counters.
    pub figures: WorkerStats,
}

/// How many questions there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApprovalTotals {
    /// By the reason for which they were asked, those that occur.
    pub by_escalation_reason: BTreeMap<EscalationReason, u64>,
    /// When the oldest was asked.
    pub oldest: Option<Timestamp>,
}

/// One request through a model, as `colony model test` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTest {
    /// Time in the engine.
    pub computed: Duration,
    /// Tokens read (embedding) or written (generation).
    pub tokens: u32,
    /// The head of the result.
    pub preview: String,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Its name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Version of the program.
    pub version: &'static str,
    /// When this life began.
    pub started_at: Timestamp,
    /// How long it has lasted.
    pub uptime: Duration,
    /// Tasks by state.
    pub counts: Counts,
    /// Agents by type: all, and those at work.
    pub agents: BTreeMap<TypeName, (u64, u64)>,
    /// Agents that crashed too often and are not started for a while.
    pub down: u64,
    /// Ports that are taken for away: their agents claim nothing.
    pub open_ports: Vec<OpenPort>,
    /// Episodes in memory.
    pub episodes: u64,
    /// Tasks awarded in this life.
    pub awarded: u64,
    /// Whether it takes tasks.
    pub ready: bool,
    /// The members of the colony.
    pub members: Vec<Member>,
}
