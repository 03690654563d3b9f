//! What is said to the market.

use std::sync::Arc;

use colony_core::{
    id::{AgentId, TaskId},
    ledger::Trouble,
    market::Outcome,
    unit::Ratio,
};
use colony_store::{Claimed, LedgerError, Track};
use ractor::RpcReplyPort;
use tokio::sync::watch;

use super::Bidder;

/// Said to the market actor.
#[derive(Debug)]
pub(crate) enum Message {
    /// An agent is there and free. Replaces an older offer of the same agent.
    Offer {
        /// Who.
        agent: AgentId,
        /// What it has done.
        track: Track,
        /// Where its tasks are sent.
        bidder: Arc<dyn Bidder>,
    },
    /// An agent ended without having been asked to: what it held goes back. Doubled: ignored.
    Terminated {
        /// Who.
        agent: AgentId,
        /// Whether the task it held is charged.
        trouble: Trouble,
    },
    /// An agent has let its task go. Lost with a crashed agent, for which `Terminated` follows.
    Released {
        /// Who.
        agent: AgentId,
        /// Which task.
        task: TaskId,
        /// How it went.
        outcome: Outcome,
        /// How the field draws tasks to it now.
        attraction: Ratio,
    },
    /// A task may be claimable, or an agent is free. Sent by the market to itself, at most one at a time.
    Look,
    /// The ledger has made tasks claimable: its wake-ups, to be listened to again.
    Ready(watch::Receiver<u64>),
    /// A port is back: the breakers' wake-ups, to be listened to again.
    PortBack(watch::Receiver<u64>),
    /// The timer has run out.
    TimedOut,
    /// The answer to the claim under way.
    Claimed(Result<Claimed, LedgerError>),
    /// A claim was given back, or cannot be any more.
    GivenBack,
    /// A task was cancelled: whoever works on it shall stop.
    Cancel(TaskId),
    /// Let agents that have long been idle become rows.
    Passivate,
    /// Claim nothing more; answered when nothing is being claimed.
    Close(RpcReplyPort<()>),
    /// Tells who holds what.
    Observe(RpcReplyPort<super::Observation>),
}
