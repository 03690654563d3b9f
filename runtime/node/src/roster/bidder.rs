//! Where one agent's tasks are sent, as long as the agent is declared.
//!
//! ```text
//!   market ── award ──► bidder ─┬─ an actor ─► AgentMessage::Award
//!                               └─ a row ────► SupervisorMessage::Wake ─► (started) ─► Award
//! ```
//! The market holds one bidder per agent and never hears of restarts and wake-ups; only the supervisor
//! changes what stands behind it.

use std::sync::Arc;

use colony_core::id::TaskId;
use parking_lot::RwLock;
use ractor::ActorRef;

use super::messages::{AgentMessage, AgentRef, SupervisorMessage};
use crate::market::{Assignment, Bidder};

/// See the module. Clones are handles on the same agent.
#[derive(Debug, Clone)]
pub(super) struct AgentBidder {
    ordinal: u32,
    supervisor: ActorRef<SupervisorMessage>,
    /// None while it is a row.
    agent: Arc<RwLock<Option<AgentRef>>>,
}

impl AgentBidder {
    pub(super) fn new(ordinal: u32, supervisor: ActorRef<SupervisorMessage>) -> Self {
        Self {
            ordinal,
            supervisor,
            agent: Arc::default(),
        }
    }

    /// The agent is this actor now, or a row.
    pub(super) fn set(&self, agent: Option<AgentRef>) {
        *self.agent.write() = agent;
    }
}

impl Bidder for AgentBidder {
    fn award(&self, assignment: Box<Assignment>) -> bool {
        let active = self.agent.read().clone();
        match active {
            // An actor that has just ended takes nothing more; its supervisor tells the market.
            Some(agent) => agent.cast(AgentMessage::Award(assignment)).is_ok(),
            None => {
                let ordinal = self.ordinal;
                let wake = SupervisorMessage::Wake {
                    ordinal,
                    assignment,
                };
                self.supervisor.cast(wake).is_ok()
            }
        }
    }

    fn cancel(&self, task: TaskId) {
        if let Some(agent) = &*self.agent.read() {
            // Gone meanwhile: then the task goes back, and is cancelled there.
            let _ = agent.cast(AgentMessage::Cancel(task));
        }
    }

    fn passivate(&self) -> bool {
        // From here on awards go to the supervisor, behind this message.
        let was_active = self.agent.write().take().is_some();
        if was_active {
            let _ = self
                .supervisor
                .cast(SupervisorMessage::Passivate(self.ordinal));
        }
        was_active
    }

    fn is_active(&self) -> bool {
        self.agent.read().is_some()
    }
}
