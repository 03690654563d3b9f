//! What is said to the market.

use colony_core::{
    id::{AgentId, TaskId},
    market::Outcome,
    unit::Share,
};
use colony_store::{Claim, LedgerError, Track};
use ractor::{ActorRef, RpcReplyPort};

use crate::roster::{AgentRef, SupervisorMessage};

/// Said to the market actor.
#[derive(Debug)]
pub(crate) enum Message {
    /// An agent is there and free. Replaces an older offer of the same agent.
    Offer {
        /// Who.
        agent: AgentId,
        /// What it has done.
        track: Track,
        /// Where to send its tasks.
        address: AgentRef,
        /// Who wakes it when it sleeps.
        supervisor: ActorRef<SupervisorMessage>,
    },
    /// A sleeping agent was woken for its task.
    Awake {
        /// Who.
        agent: AgentId,
        /// Where to send its next tasks.
        address: AgentRef,
    },
    /// An agent ended without having been asked to: what it held goes back. Doubled: ignored.
    Gone(AgentId),
    /// An agent has laid its task down. Lost with a crashed agent, for which `Gone` follows.
    Freed {
        /// Who.
        agent: AgentId,
        /// Which task.
        task: TaskId,
        /// How it went.
        outcome: Outcome,
        /// How the field draws tasks to it now.
        scent: Share,
    },
    /// There may be work in the book. Losing one delays work until the next; `Handle::poke` folds many
    /// into one.
    Poke,
    /// The answer to a claim.
    Claimed(Result<Vec<Claim>, LedgerError>),
    /// A task was cancelled: whoever works on it shall stop.
    Cancel(TaskId),
    /// Send agents to sleep that have long been idle.
    Rest,
    /// Claim nothing more; answered when nothing is being claimed.
    Close(RpcReplyPort<()>),
    /// Tells who holds what.
    Observe(RpcReplyPort<super::Observation>),
}
