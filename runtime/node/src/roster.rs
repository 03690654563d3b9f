//! The roster: who works here.
//!
//! ```text
//!   root ── open ──► roster ──► one supervisor per agent type ──► agents
//!   market ── Bidder::award ──────────────────────────────────────►   │
//!   market ◄─ released ───────────────────────────────────────────────┘
//! ```
//! An agent is data first: a row with its type, number and track record. Only an active agent is an actor. The
//! roster starts the supervisors with the rows of the ledger, saves changed records every [`SAVE_EVERY`],
//! and lets everyone leave in order when the node stops. Deliberately absent: which agent gets which task
//! (the market) and what comes next in a task (`colony_core::cycle`).

mod agent;
mod bidder;
mod job;
mod journal_buffer;
mod messages;
mod supervisor;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_core::{
    id::{AgentId, TypeName},
    port::RandomSource,
};
use colony_store::{LedgerError, Track};
use ractor::{Actor, ActorCell, ActorId, ActorRef, SpawnErr, rpc::CallResult};

pub(crate) use self::{job::AgentDeps, supervisor::Restarts};
use self::{messages::SupervisorMessage, supervisor::MemberRow};

/// How often changed track records are written down. A crash forgets at most this much of them; tasks
/// themselves lose nothing.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a supervisor's answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentStatus {
    /// An actor.
    Active,
    /// A row, started by its next task.
    Row,
    /// It crashed too often and is not started for a while.
    Down,
}

/// One agent as the roster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentState {
    /// Who.
    pub(crate) id: AgentId,
    /// How it is.
    pub(crate) status: AgentStatus,
    /// What it has done.
    pub(crate) track: Track,
}

/// The agents of a type as the roster starts them.
#[derive(Debug)]
pub(crate) struct AgentGroup {
    /// What they share.
    pub(crate) deps: Arc<AgentDeps>,
    /// How many there are.
    pub(crate) count: u32,
}

/// The way into the roster.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    supervisors: Arc<BTreeMap<TypeName, ActorRef<SupervisorMessage>>>,
}

/// Why the roster could not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The actor system refused.
    #[error("a supervisor could not start: {0}")]
    Spawn(#[from] SpawnErr),
}

impl Roster {
    /// Starts the supervisors under `root`, and their agents, with the records the ledger has of them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn open(
        groups: Vec<AgentGroup>,
        restarts: Restarts,
        random: Arc<dyn RandomSource>,
        root: ActorCell,
    ) -> Result<Self, Error> {
        let mut known: BTreeMap<AgentId, MemberRow> = BTreeMap::new();
        if let Some(group) = groups.first() {
            for row in group.deps.ledger.agents().await? {
                let (track, revision) = (row.track, row.revision);
                known.insert(row.id, MemberRow { track, revision });
            }
        }
        let mut supervisors = BTreeMap::new();
        for group in groups {
            let agent_type = group.deps.settings.name.clone();
            let members = (1..=group.count).map(|ordinal| {
                let id = AgentId {
                    agent_type: agent_type.clone(),
                    ordinal,
                };
                (ordinal, known.get(&id).copied().unwrap_or_default())
            });
            let members = members.collect();
            let supervisor = supervisor::Supervisor {
                deps: group.deps,
                restarts,
                random: Arc::clone(&random),
            };
            let (address, _) = Actor::spawn_linked(None, supervisor, members, root.clone()).await?;
            address.send_interval(SAVE_EVERY, || SupervisorMessage::Save);
            supervisors.insert(agent_type, address);
        }
        Ok(Self {
            supervisors: Arc::new(supervisors),
        })
    }

    /// Which actors its supervisors are, for the root.
    pub(crate) fn actors(&self) -> impl Iterator<Item = (ActorId, &TypeName)> {
        self.supervisors
            .iter()
            .map(|(name, supervisor)| (supervisor.get_id(), name))
    }

    /// Every agent, by type and number. A supervisor that does not answer in time is left out.
    pub(crate) async fn states(&self) -> Vec<AgentState> {
        let mut all = Vec::new();
        for supervisor in self.supervisors.values() {
            let answer = supervisor
                .call(SupervisorMessage::Observe, Some(ANSWER_WAIT))
                .await;
            if let Ok(CallResult::Success(mut states)) = answer {
                all.append(&mut states);
            }
        }
        all
    }

    /// Lets everyone give back what they hold and end, for at most `wait`. True when all did.
    pub(crate) async fn leave(&self, wait: Duration) -> bool {
        let leaving = self
            .supervisors
            .values()
            .map(|supervisor| supervisor.call(SupervisorMessage::Leave, Some(wait)));
        let answers = futures_util::future::join_all(leaving).await;
        for supervisor in self.supervisors.values() {
            supervisor.stop(None);
        }
        answers
            .iter()
            .all(|answer| matches!(answer, Ok(CallResult::Success(()))))
    }
}
