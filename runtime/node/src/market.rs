//! The market: claimed tasks meet agents.
//!
//! ```text
//!                    claim (batch, as many as agents are free)
//!   ledger ◄──────────────────────────────────────────────── market ◄── Poke ── submit, decide, timer
//!          ── claims ──────────────────────────────────────►   │
//!                                   core::market::Book::award  │ Award
//!   agent ◄──────────────────────────────────────────────────── ┘
//!         ── freed ─────────────────────────────────────────► market
//! ```
//! Who wins a bid is decided in [`colony_core::market::score`]; this room only carries the law out. What it
//! promises: a claimed task is with exactly one agent, or on its way back to the book. Its mailbox is bounded
//! by what can be under way: one message per agent, one claim, and pokes, which are folded into one.

mod actor;
mod messages;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use colony_core::{
    id::{AgentId, Incarnation, NodeId, TaskId, TypeName},
    market::{Outcome, Rules},
    port::{Chance, Clock},
    unit::Share,
};
use colony_store::{Ledger, Track};
use ractor::{Actor, ActorRef, SpawnErr, rpc::CallResult};

use self::messages::Message;
use crate::{
    roster::{AgentRef, SupervisorMessage},
    telemetry::Telemetry,
};

/// Longest wait for the market's answer to a question.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How the market works.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The rules of the law.
    pub rules: Rules,
    /// Most tasks taken with one claim.
    pub claim_max: u32,
    /// An agent idle for this long goes to sleep; none = never.
    pub sleep_after: Option<Duration>,
}

/// What the market needs of the node.
#[derive(Debug)]
pub(crate) struct Needs {
    pub(crate) settings: Settings,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) telemetry: Telemetry,
}

/// Who holds what at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Tasks in the hands of agents.
    pub(crate) held: BTreeMap<TaskId, AgentId>,
    /// Free slots by type.
    pub(crate) free: BTreeMap<TypeName, u32>,
    /// Agents asleep.
    pub(crate) asleep: u64,
    /// Tasks awarded since the node started.
    pub(crate) awarded: u64,
}

/// The door to the market.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    market: ActorRef<Message>,
    poked: Arc<AtomicBool>,
}

impl Handle {
    /// Opens the market.
    pub(crate) async fn open(needs: Needs) -> Result<Self, SpawnErr> {
        let poked = Arc::new(AtomicBool::new(false));
        let rest = needs
            .settings
            .sleep_after
            .map(|idle| (idle / 4).max(Duration::from_millis(50)));
        let actor = actor::Market {
            needs,
            poked: Arc::clone(&poked),
        };
        let (market, _) = Actor::spawn(None, actor, ()).await?;
        if let Some(every) = rest {
            market.send_interval(every, || Message::Rest);
        }
        Ok(Self { market, poked })
    }

    /// There may be work: look. Many calls before the market gets to it count as one.
    pub(crate) fn poke(&self) {
        if !self.poked.swap(true, Ordering::AcqRel) {
            self.tell(Message::Poke);
        }
    }

    /// An agent is there and free.
    pub(crate) fn offer(
        &self,
        agent: AgentId,
        track: Track,
        address: AgentRef,
        supervisor: ActorRef<SupervisorMessage>,
    ) {
        self.tell(Message::Offer {
            agent,
            track,
            address,
            supervisor,
        });
    }

    /// A sleeping agent was woken.
    pub(crate) fn awake(&self, agent: AgentId, address: AgentRef) {
        self.tell(Message::Awake { agent, address });
    }

    /// An agent crashed.
    pub(crate) fn gone(&self, agent: AgentId) {
        self.tell(Message::Gone(agent));
    }

    /// An agent has laid its task down; `scent` is what the field says of it now.
    pub(crate) fn freed(&self, agent: AgentId, task: TaskId, outcome: Outcome, scent: Share) {
        self.tell(Message::Freed {
            agent,
            task,
            outcome,
            scent,
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

    /// Who holds what; empty when the market does not answer in time.
    pub(crate) async fn observe(&self) -> Observation {
        match self.market.call(Message::Observe, Some(ANSWER_WAIT)).await {
            Ok(CallResult::Success(observation)) => observation,
            Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => Observation::default(),
        }
    }

    fn tell(&self, message: Message) {
        // The market ends last of all rooms; a message after its end concerns a claim that the next life
        // of the node takes up.
        let _ = self.market.cast(message);
    }
}
