//! Who wins a bid: see [`score`].
//!
//! ```text
//!   agents ── offer / withdraw / free ──►┌───────────┐
//!                                        │ OfferBook │── free_slots ──► what the node should claim
//!   claimed tasks ──────── award ───────►└───────────┘── Award ───────► the winning agent
//! ```
//! An auction is arithmetic, not a storm of messages: agents hold *standing offers* in the node's
//! [`OfferBook`], and a task is scored against a few of them. Wanted properties:
//!
//! - the better bid wins (load, history, field);
//! - newcomers get a chance, failing agents get less, equal agents get equal work (Gini < 0.3);
//! - an agent is never awarded more than the slots it offered;
//! - the cost of an award does not depend on the number of agents: `sample` free agents are drawn
//!   and the best of them wins (the power of choices), from a dense free list, without allocation.
//!
//! The same offers serve as plain first-in, first-out ([`Mode::Fifo`]), so the gain can be measured.
//! Not here: which node gets a task (a later stage, by gossiped offers), and durability: offers are
//! rebuilt from the living agents after a restart.

use std::collections::BTreeMap;

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::{
    id::{AgentId, TaskId, TypeName},
    task::Priority,
    unit::Ratio,
};

mod pool;

use pool::Pool;

/// How many free agents are compared for one task. Eight choices find an agent in the best tenth
/// more often than every second time, and more choices hardly even the load out further.
pub const SAMPLE_DEFAULT: u32 = 8;

/// How tasks meet agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Urgent tasks first, the best of a sample of bids wins.
    #[default]
    Auction,
    /// Tasks in the order given, to the agent that has been free longest. For comparison.
    Fifo,
}

/// How much each part of a bid counts. Only the proportions matter; none may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Weights {
    /// How little the agent had lately compared with its peers.
    pub load: f64,
    /// How well its tasks ended so far; see [`SuccessCount::ucb`]. Highest: a wrong agent is worse than a busy one.
    pub history: f64,
    /// How strongly the field draws this agent to this task.
    pub field: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            load: 0.20,
            history: 0.25,
            field: 0.10,
        }
    }
}

/// The rules of one market.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Auction or first-in, first-out.
    pub mode: Mode,
    /// Most free agents compared for one task; 0 counts as 1.
    pub sample: u32,
    /// What counts how much.
    pub weights: Weights,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mode: Mode::Auction,
            sample: SAMPLE_DEFAULT,
            weights: Weights::default(),
        }
    }
}

/// What one agent brings to one task; every part is better when larger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bid {
    /// Idleness, 1 = nothing lately.
    pub idleness: Ratio,
    /// What its track record lets hope for, 1 = as good as an unknown newcomer.
    pub history: Ratio,
    /// Draw of the field, 1 = strongest.
    pub field: Ratio,
}

/// Decides who wins a bid: the weighted mean of the bid's parts. The highest score wins; between
/// equal scores the agent that has had fewer tasks, then the one with the lower number.
#[must_use]
pub fn score(weights: &Weights, bid: &Bid) -> Ratio {
    let total = weights.load + weights.history + weights.field;
    let sum = weights.load * bid.idleness.get()
        + weights.history * bid.history.get()
        + weights.field * bid.field.get();
    Ratio::clamped(sum / total)
}

/// How an agent's tasks ended so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessCount {
    /// Tasks that ended by the agent's doing.
    pub tasks: u64,
    /// Those of them that ended well.
    pub successes: u64,
}

impl SuccessCount {
    /// Successes and failures every agent is credited with before its first task: Beta(3, 1), a
    /// newcomer is taken for good. With Beta(1, 1) the first success of an agent would raise its
    /// bound above that of all who had no task yet, and the rich would get richer.
    const PRIOR: (f64, f64) = (3.0, 1.0);
    /// The upper bound of a newcomer, `upper_bound(3, 1)`.
    const NEWCOMER: f64 = 1.137_298_334_620_741_8;
    /// Standard deviations that are credited to the agent.
    const CONFIDENCE_Z: f64 = 2.0;

    fn upper_bound(wins: f64, losses: f64) -> f64 {
        let all = wins + losses;
        let mean = wins / all;
        let deviation = libm::sqrt(mean * (1.0 - mean) / (all + 1.0));
        mean + Self::CONFIDENCE_Z * deviation
    }

    /// Upper confidence bound of its success rate, mean plus two standard deviations (as in bandit
    /// algorithms), relative to that of a newcomer, who has 1. EscalationReason shrinks with every task, so of two agents
    /// that never failed the one with fewer tasks has the higher bound.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact below 2^53 tasks, and a share needs no more"
    )]
    pub fn ucb(self) -> Ratio {
        let (wins, losses) = Self::PRIOR;
        let successes = self.successes.min(self.tasks);
        let failures = self.tasks - successes;
        let bound = Self::upper_bound(wins + successes as f64, losses + failures as f64);
        Ratio::clamped(bound / Self::NEWCOMER)
    }
}

/// An agent's standing offer: it holds until it is withdrawn or replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Who offers.
    pub agent: AgentId,
    /// How many tasks it takes at a time, busy ones included; usually 1.
    pub slots: u32,
    /// How its tasks ended so far.
    pub track: SuccessCount,
}

impl Offer {
    /// The offer of a new agent that takes one task at a time.
    #[must_use]
    pub const fn new(agent: AgentId) -> Self {
        Self {
            agent,
            slots: 1,
            track: SuccessCount {
                tasks: 0,
                successes: 0,
            },
        }
    }
}

/// What the market needs to know of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSummary {
    /// Which task.
    pub task: TaskId,
    /// Which agent type it wants.
    pub agent_type: TypeName,
    /// How urgent it is.
    pub priority: Priority,
}

/// A task given to an agent. The agent's slot is taken from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Award {
    /// Which task.
    pub task: TaskId,
    /// Who won.
    pub agent: AgentId,
    /// Its score; 0 under [`Mode::Fifo`], where nobody is compared.
    pub score: Ratio,
    /// How many bids were compared.
    pub bidders: u32,
}

/// How an awarded task left its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ended well.
    Success,
    /// It ended badly, and the agent had a part in it.
    Failure,
    /// It was parked, cancelled, handed back: says nothing about the agent.
    Neutral,
}

/// Why the offer book refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no offer of this agent.
    #[error("agent {0} has no standing offer")]
    Unknown(AgentId),
    /// It holds no task that could be freed.
    #[error("agent {0} holds no task")]
    NotBusy(AgentId),
}

/// The standing offers of one node.
#[derive(Debug, Default)]
pub struct OfferBook {
    rules: Rules,
    pools: BTreeMap<TypeName, Pool>,
    /// Order of the present batch; kept to save the allocation.
    order: Vec<usize>,
}

impl OfferBook {
    /// One without offers.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Enters an offer, or replaces the agent's former one. Tasks it holds stay with it; the track
    /// record is the offer's.
    pub fn offer(&mut self, offer: Offer) {
        self.pools
            .entry(offer.agent.agent_type.clone())
            .or_insert_with(|| Pool::new(self.rules.mode))
            .offer(offer);
    }

    /// Strikes an agent's offer out. Tasks it holds are nobody's business here any more. False when
    /// there was none.
    pub fn withdraw(&mut self, agent: &AgentId) -> bool {
        let Some(pool) = self.pools.get_mut(&agent.agent_type) else {
            return false;
        };
        let found = pool.withdraw(agent.ordinal);
        if pool.is_empty() {
            self.pools.remove(&agent.agent_type);
        }
        found
    }

    /// Takes a crashed agent out of the auctions until it offers itself again, and counts the crash as a
    /// failure. False when there was no offer of it.
    pub fn suspend(&mut self, agent: &AgentId) -> bool {
        let pool = self.pools.get_mut(&agent.agent_type);
        pool.is_some_and(|pool| pool.suspend(agent.ordinal))
    }

    /// Gives a slot back and notes how the task went.
    ///
    /// # Errors
    /// [`Error::Unknown`] when the offer was withdrawn meanwhile (normal), [`Error::NotBusy`] when
    /// the agent holds nothing (a bug of the caller).
    pub fn free(&mut self, agent: &AgentId, outcome: Outcome) -> Result<(), Error> {
        self.pool(agent)?.free(agent, outcome)
    }

    /// Free slots per type: what the node should claim at most. Types without one are left out.
    #[must_use]
    pub fn free_slots(&self) -> BTreeMap<TypeName, u32> {
        self.pools
            .iter()
            .map(|(agent_type, pool)| (agent_type.clone(), pool.free_slots()))
            .filter(|(_, free)| *free > 0)
            .collect()
    }

    /// Gives a batch of claimed tasks to agents. The result has one place per task, in the order of
    /// `tasks`; `None` where no agent of the type is free. `attraction` is the local field's draw of
    /// an agent to a task, 0 where there is none.
    pub fn award(
        &mut self,
        tasks: &[TaskSummary],
        attraction: &dyn Fn(&TaskSummary, &AgentId) -> Ratio,
        rng: &mut (impl RngCore + ?Sized),
    ) -> Vec<Option<Award>> {
        let mut awards = vec![None; tasks.len()];
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..tasks.len());
        if self.rules.mode == Mode::Auction {
            // Stable: equally urgent tasks keep the order in which they were claimed.
            order.sort_by_key(|i| std::cmp::Reverse(tasks[*i].priority));
        }
        for i in &order {
            let Some(pool) = self.pools.get_mut(&tasks[*i].agent_type) else {
                continue;
            };
            awards[*i] = match self.rules.mode {
                Mode::Auction => pool.auction(&self.rules, &tasks[*i], attraction, rng),
                Mode::Fifo => pool.next_in_line(&tasks[*i]),
            };
        }
        self.order = order;
        awards
    }

    /// How many tasks each agent of a type was awarded since it first offered, by number.
    #[must_use]
    pub fn awarded(&self, agent_type: &TypeName) -> Vec<(u32, u64)> {
        self.pools
            .get(agent_type)
            .map(|pool| pool.awarded().collect())
            .unwrap_or_default()
    }

    /// The track record of an agent with a standing offer.
    #[must_use]
    pub fn track(&self, agent: &AgentId) -> Option<SuccessCount> {
        self.pools.get(&agent.agent_type)?.track(agent.ordinal)
    }

    fn pool(&mut self, agent: &AgentId) -> Result<&mut Pool, Error> {
        self.pools
            .get_mut(&agent.agent_type)
            .ok_or_else(|| Error::Unknown(agent.clone()))
    }
}

/// The Gini coefficient: 0 when all have the same, towards 1 when one has everything. 0 for an empty
/// slice and where nobody has anything.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "exact below 2^53, and a share needs no more"
)]
pub fn gini(counts: &[u64]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let total: f64 = sorted.iter().map(|c| *c as f64).sum();
    if total <= 0.0 {
        return 0.0;
    }
    let n = sorted.len() as f64;
    let ranked: f64 = sorted
        .iter()
        .enumerate()
        .map(|(i, count)| (2.0 * (i as f64 + 1.0) - n - 1.0) * *count as f64)
        .sum();
    ranked / (n * total)
}

#[cfg(test)]
mod tests;
