//! The roster: who works here.
//!
//! ```text
//!   colony ── open ──► roster ──► one supervisor per agent type ──► agents
//!   market ── Award ─────────────────────────────────────────────►   │
//!   market ◄─ freed ──────────────────────────────────────────────── ┘
//! ```
//! An agent is data first: a row with its type, number and track record. Only an awake agent is an actor. The
//! roster starts the supervisors with the rows of the book, saves changed records every [`SAVE_EVERY`],
//! and lets everyone leave in order when the node stops. Deliberately absent: which agent gets which task
//! (the market) and what comes next in a task (`colony_core::cycle`).

mod agent;
mod job;
mod messages;
mod notebook;
mod supervisor;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_core::{
    id::{AgentId, TypeName},
    port::Chance,
};
use colony_store::{LedgerError, Track};
use ractor::{Actor, ActorRef, SpawnErr, rpc::CallResult};

pub(crate) use self::supervisor::Restarts;
pub(crate) use self::{
    job::Hands,
    messages::{AgentMessage, AgentRef, Assignment, SupervisorMessage},
};

/// How often changed track records are written down. A crash forgets at most this much of them; tasks
/// themselves lose nothing.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a supervisor's answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// One agent as the roster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Who.
    pub(crate) id: AgentId,
    /// Whether it is an actor at present, or a row.
    pub(crate) awake: bool,
    /// What it has done.
    pub(crate) track: Track,
}

/// A type as the roster starts it.
#[derive(Debug)]
pub(crate) struct Troop {
    /// What the agents share.
    pub(crate) hands: Arc<Hands>,
    /// How many there are.
    pub(crate) count: u32,
}

/// The door to the roster.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    supervisors: Arc<BTreeMap<TypeName, ActorRef<SupervisorMessage>>>,
}

/// Why the roster could not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The book could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The actor system refused.
    #[error("a supervisor could not start: {0}")]
    Spawn(#[from] SpawnErr),
}

impl Roster {
    /// Starts the supervisors and their agents, with the records the book has of them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn open(
        troops: Vec<Troop>,
        restarts: Restarts,
        chance: Arc<dyn Chance>,
    ) -> Result<Self, Error> {
        let mut known: BTreeMap<AgentId, Track> = BTreeMap::new();
        if let Some(troop) = troops.first() {
            let rows = troop.hands.ledger.agents().await?;
            known = rows.into_iter().map(|row| (row.id, row.track)).collect();
        }
        let mut supervisors = BTreeMap::new();
        for troop in troops {
            let agent_type = troop.hands.settings.name.clone();
            let members = (1..=troop.count).map(|ordinal| {
                let id = AgentId {
                    agent_type: agent_type.clone(),
                    ordinal,
                };
                (ordinal, known.get(&id).copied().unwrap_or_default())
            });
            let members = members.collect();
            let supervisor = supervisor::Supervisor {
                hands: troop.hands,
                restarts,
                chance: Arc::clone(&chance),
            };
            let (address, _) = Actor::spawn(None, supervisor, members).await?;
            address.send_interval(SAVE_EVERY, || SupervisorMessage::Save);
            supervisors.insert(agent_type, address);
        }
        Ok(Self {
            supervisors: Arc::new(supervisors),
        })
    }

    /// Every agent, by type and number. A supervisor that does not answer in time is left out.
    pub(crate) async fn standings(&self) -> Vec<Standing> {
        let mut all = Vec::new();
        for supervisor in self.supervisors.values() {
            let answer = supervisor
                .call(SupervisorMessage::Observe, Some(ANSWER_WAIT))
                .await;
            if let Ok(CallResult::Success(mut standings)) = answer {
                all.append(&mut standings);
            }
        }
        all
    }

    /// Lets everyone hand back what they hold and end, for at most `wait`. True when all did.
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
