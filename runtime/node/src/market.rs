//! The market: claimed tasks meet agents.
//!
//! ```text
//!            ready_wakes ─────────────┐      ┌── the timer (next_due, a breaker's hold, the re-check)
//!                                     ▼      ▼
//!   ledger ◄── claim (as many as agents are free, as far as breakers allow) ── market ◄── Released ──┐
//!          ── claims ──────────────────────────────────────────────────────────► │                   │
//!                                              core::market::OfferBook::award    │ Bidder::award     │
//!   agent ◄──────────────────────────────────────────────────────────────────────┘                   │
//!         ───────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Who wins a bid is decided in [`colony_core::market::score`], what is claimed in
//! [`colony_core::ledger::plan_claim`]; this component only carries the rules out. What it promises: a
//! claimed task is with exactly one agent, or on its way back to the ledger; a task that is claimable is
//! claimed as soon as an agent of its type is free, whoever made it so and whether or not they are still
//! there. Its mailbox is bounded by what can be under way: one message per agent, one claim, one wake-up
//! each of ledger, breakers and timer.

mod actor;
mod messages;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use colony_core::{
    id::{AgentId, Incarnation, NodeId, TaskId, TypeName},
    ledger::Trouble,
    market::{Award, Outcome, Rules},
    port::{Clock, RandomSource},
    span,
    unit::Ratio,
};
use colony_store::{Claim, Ledger, Track};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr, rpc::CallResult};
use serde::{Deserialize, Serialize};

use self::messages::Message;
use crate::{breakers::Breakers, telemetry::Telemetry};

/// Longest wait for the market's answer to a question.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How tasks meet agents: `[market]` of colony.toml.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The rules.
    #[serde(flatten)]
    pub rules: Rules,
    /// Most tasks taken with one claim.
    pub claim_max: u32,
    /// How often an idle market looks for work though nobody woke it; zero = never. A second net: what
    /// makes a task claimable also wakes the market.
    #[serde(with = "span")]
    pub recheck_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            claim_max: 256,
            recheck_every: Duration::from_secs(30),
        }
    }
}

/// A task given to an agent.
#[derive(Debug)]
pub(crate) struct Assignment {
    /// The task in hand.
    pub(crate) claim: Claim,
    /// How it was won.
    pub(crate) award: Award,
}

/// Where an agent's tasks are sent: stable for as long as the agent is declared, whether it is an actor or
/// a row, crashes or is started again.
pub(crate) trait Bidder: Send + Sync + fmt::Debug {
    /// Sends it a task; wakes it on the way. False when it cannot be reached: the task was not sent.
    fn award(&self, assignment: Box<Assignment>) -> bool;

    /// Tells it to drop a task, if it has it still.
    fn cancel(&self, task: TaskId);

    /// Lets it become a row. Tasks awarded afterwards reach it all the same. False when it is one.
    fn passivate(&self) -> bool;

    /// Whether it is an actor at present.
    fn is_active(&self) -> bool;
}

/// What the market needs of the node.
#[derive(Debug)]
pub(crate) struct Needs {
    pub(crate) settings: Settings,
    /// An agent idle for this long becomes a row.
    pub(crate) passivate_after: Duration,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) breakers: Breakers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn RandomSource>,
    pub(crate) telemetry: Telemetry,
}

/// Who holds what at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Tasks in the hands of agents.
    pub(crate) held: BTreeMap<TaskId, AgentId>,
    /// Free slots by type.
    pub(crate) free: BTreeMap<TypeName, u32>,
    /// Agents that are rows.
    pub(crate) asleep: u64,
    /// Tasks awarded since the node started.
    pub(crate) awarded: u64,
}

/// The market does not answer: it has ended, or is far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the market does not answer within {ANSWER_WAIT:?}")]
pub(crate) struct Silent;

/// The way into the market.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    market: ActorRef<Message>,
}

impl Handle {
    /// Opens the market under `supervisor`.
    pub(crate) async fn open(needs: Needs, supervisor: ActorCell) -> Result<Self, SpawnErr> {
        let passivate = (needs.passivate_after / 4).max(Duration::from_millis(50));
        let actor = actor::Market { needs };
        let (market, _) = Actor::spawn_linked(None, actor, (), supervisor).await?;
        market.send_interval(passivate, || Message::Passivate);
        Ok(Self { market })
    }

    /// Which actor it is, for its supervisor.
    pub(crate) fn actor(&self) -> ractor::ActorId {
        self.market.get_id()
    }

    /// An agent is there and free.
    pub(crate) fn offer(&self, agent: AgentId, track: Track, bidder: Arc<dyn Bidder>) {
        self.tell(Message::Offer {
            agent,
            track,
            bidder,
        });
    }

    /// An agent is gone, and the task that it held is released for `trouble`.
    pub(crate) fn terminated(&self, agent: AgentId, trouble: Trouble) {
        self.tell(Message::Terminated { agent, trouble });
    }

    /// An agent has let its task go; `attraction` is what the field says of it now.
    pub(crate) fn released(
        &self,
        agent: AgentId,
        task: TaskId,
        outcome: Outcome,
        attraction: Ratio,
    ) {
        self.tell(Message::Released {
            agent,
            task,
            outcome,
            attraction,
        });
    }

    /// Whoever works on `task` shall stop.
    pub(crate) fn cancel(&self, task: TaskId) {
        self.tell(Message::Cancel(task));
    }

    /// Claims nothing more. Waits at most `wait` for a claim under way.
    pub(crate) async fn close(&self, wait: Duration) {
        // A market that does not answer claims nothing either.
        let _ = self.market.call(Message::Close, Some(wait)).await;
    }

    /// Ends the market.
    pub(crate) fn stop(&self) {
        self.market.stop(None);
    }

    /// Ends the market as a bug would.
    #[cfg(test)]
    pub(crate) fn kill(&self) {
        self.market.kill();
    }

    /// Who holds what.
    ///
    /// # Errors
    /// [`Silent`].
    pub(crate) async fn observe(&self) -> Result<Observation, Silent> {
        match self.market.call(Message::Observe, Some(ANSWER_WAIT)).await {
            Ok(CallResult::Success(observation)) => Ok(observation),
            Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => Err(Silent),
        }
    }

    fn tell(&self, message: Message) {
        // The market ends last of all components; a message after its end concerns a claim that the next
        // life of the node takes up.
        let _ = self.market.cast(message);
    }
}
