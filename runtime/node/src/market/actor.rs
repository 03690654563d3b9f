//! The market actor: turns messages into calls of the rules and awards into sends. It holds no policy.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_core::{
    id::{AgentId, QueueName, TaskId},
    ledger::Trouble,
    market::{Offer, OfferBook, Outcome, SuccessCount, TaskSummary},
    mutant,
    unit::{Ratio, Timestamp},
};
use colony_store::{Claim, ClaimRef, ClaimRequest, Claimed, Commit, LedgerError, Settlement};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use rand::RngCore;
use tokio::sync::watch;

use super::{Assignment, Bidder, Needs, Observation, messages::Message};
use crate::{
    breakers::Allowed,
    field::NEUTRAL,
    pipe::{Running, pipe_to_self},
    telemetry::names,
};

/// Wait before a claim, or the return of one, is tried again after the ledger has failed.
const LEDGER_RETRY: Duration = Duration::from_millis(200);

/// Refusals in a row, for reasons that do not pass, after which the market gives the ledger up: five seconds.
const REFUSALS_MAX: u32 = 25;

/// The behaviour of the market.
#[derive(Debug)]
pub(crate) struct Market {
    pub(super) needs: Needs,
}

/// An agent with a standing offer.
#[derive(Debug)]
struct Address {
    bidder: Arc<dyn Bidder>,
    idle_since: Timestamp,
    /// What the field said of it when it let its last task go.
    attraction: Ratio,
}

/// What the market holds.
pub(crate) struct State {
    // What it knows.
    offers: OfferBook,
    addresses: BTreeMap<AgentId, Address>,
    held: BTreeMap<TaskId, (AgentId, ClaimRef)>,
    by_agent: BTreeMap<AgentId, TaskId>,
    rng: Box<dyn RngCore + Send>,
    awarded: u64,
    // What it waits for.
    /// The number of the last claim.
    batch: u64,
    claiming: Claiming,
    /// A `Look` is in the mailbox.
    looking: bool,
    /// Something may have become claimable, or an agent free, since the claim under way was made up. A
    /// repeat asks for what its first sending asked for, so it does not answer this.
    again: bool,
    /// Claims in a row that the ledger refused for good.
    refused: u32,
    /// Claims in a row that failed, for whatever reason.
    failures: u32,
    timer: Running,
    closing: Option<RpcReplyPort<()>>,
    closed: bool,
}

/// Where the one claim stands.
enum Claiming {
    /// None is under way.
    No,
    /// This one is.
    UnderWay(Box<ClaimRequest>, Allowed),
    /// This one was not answered; it is repeated, under its number, when the timer runs out.
    Unanswered(Box<ClaimRequest>, Allowed),
}

impl State {
    /// Takes a claim out of an agent's hands, unless the task is in another's by now.
    fn let_go(&mut self, agent: &AgentId, task: &TaskId) -> Option<ClaimRef> {
        let (holder, _) = self.held.get(task)?;
        if holder != agent {
            return None;
        }
        self.held.remove(task).map(|(_, claim)| claim)
    }
}

impl Actor for Market {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        listen(&me, self.needs.ledger.ready_wakes(), Message::Ready);
        listen(&me, self.needs.breakers.changes(), Message::PortBack);
        Ok(State {
            offers: OfferBook::new(self.needs.settings.rules),
            addresses: BTreeMap::new(),
            held: BTreeMap::new(),
            by_agent: BTreeMap::new(),
            rng: self.needs.random.stream("market", 0),
            awarded: 0,
            batch: 0,
            claiming: Claiming::No,
            looking: false,
            again: false,
            refused: 0,
            failures: 0,
            timer: Running::default(),
            closing: None,
            closed: false,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Offer {
                agent,
                track,
                bidder,
            } => {
                let track = SuccessCount {
                    tasks: track.tasks,
                    successes: track.successes,
                };
                state.offers.offer(Offer {
                    track,
                    ..Offer::new(agent.clone())
                });
                let address = Address {
                    bidder,
                    idle_since: self.needs.clock.now(),
                    attraction: NEUTRAL,
                };
                state.addresses.insert(agent, address);
                look(&me, state);
            }
            Message::Terminated { agent, trouble } => {
                self.terminated(&me, &agent, trouble, state);
            }
            Message::Released {
                agent,
                task,
                outcome,
                attraction,
            } => {
                if state.by_agent.get(&agent) == Some(&task) {
                    state.by_agent.remove(&agent);
                    state.let_go(&agent, &task);
                    self.free(&agent, outcome, attraction, state);
                    // Looks once every message already in the mailbox has been heard: many agents that end
                    // together are served by one claim.
                    look(&me, state);
                }
            }
            Message::Look => {
                state.looking = false;
                self.claim(&me, state);
            }
            Message::Ready(wakes) => {
                self.claim(&me, state);
                listen(&me, wakes, Message::Ready);
            }
            Message::PortBack(wakes) => {
                self.claim(&me, state);
                listen(&me, wakes, Message::PortBack);
            }
            Message::TimedOut => {
                state.timer.stop();
                self.repeat_or_claim(&me, state);
            }
            Message::Claimed(claimed) => return self.claimed(&me, claimed, state),
            Message::GivenBack => {}
            Message::Cancel(task) => {
                if let Some((agent, _)) = state.held.get(&task)
                    && let Some(address) = state.addresses.get(agent)
                {
                    address.bidder.cancel(task);
                }
            }
            Message::Passivate => self.passivate(state),
            Message::Close(reply) => {
                state.closed = true;
                state.timer.stop();
                match state.claiming {
                    Claiming::UnderWay(..) => state.closing = Some(reply),
                    Claiming::No | Claiming::Unanswered(..) => {
                        let _ = reply.send(());
                    }
                }
            }
            Message::Observe(reply) => {
                let _ = reply.send(observe(state));
            }
        }
        Ok(())
    }
}

/// Waits for the next wake-up.
fn listen(
    me: &ActorRef<Message>,
    mut wakes: watch::Receiver<u64>,
    message: impl FnOnce(watch::Receiver<u64>) -> Message + Send + 'static,
) {
    pipe_to_self(me, async move {
        if wakes.changed().await.is_err() {
            // Whatever woke us is gone, and the node with it.
            std::future::pending::<()>().await;
        }
        message(wakes)
    });
}

/// Looks for work when the messages before are done with.
fn look(me: &ActorRef<Message>, state: &mut State) {
    if !std::mem::replace(&mut state.looking, true) {
        // The actor is handling a message: its mailbox is open.
        let _ = me.cast(Message::Look);
    }
}

impl Market {
    /// Claims as many tasks as agents are free, one claim at a time.
    fn claim(&self, me: &ActorRef<Message>, state: &mut State) {
        match state.claiming {
            _ if state.closed => {}
            Claiming::No => {
                let free = state.offers.free_slots();
                let free = free.iter().map(|(name, n)| (QueueName::from(name), *n));
                let allowed = self.needs.breakers.plan(free.collect());
                if allowed.free.is_empty() {
                    // Every agent is busy: the first that lets its task go looks again.
                    if allowed.look_again.is_some() || !state.timer.is_set() {
                        self.set_timer(me, allowed.look_again, None, state);
                    }
                    return;
                }
                state.batch += 1;
                state.again = false;
                let request = ClaimRequest {
                    node: self.needs.node.clone(),
                    incarnation: self.needs.incarnation,
                    batch: state.batch,
                    free: allowed.free.clone(),
                    total: self.needs.settings.claim_max,
                };
                self.send(me, Box::new(request), allowed, state);
            }
            // The repeat comes first, when the timer says so: the ledger may have executed it.
            Claiming::UnderWay(..) | Claiming::Unanswered(..) => state.again = !mutant!(C4),
        }
    }

    fn repeat_or_claim(&self, me: &ActorRef<Message>, state: &mut State) {
        match std::mem::replace(&mut state.claiming, Claiming::No) {
            Claiming::Unanswered(request, allowed) if !state.closed => {
                self.send(me, request, allowed, state);
            }
            Claiming::Unanswered(..) => {}
            other @ (Claiming::No | Claiming::UnderWay(..)) => {
                state.claiming = other;
                self.claim(me, state);
            }
        }
    }

    fn send(
        &self,
        me: &ActorRef<Message>,
        request: Box<ClaimRequest>,
        allowed: Allowed,
        state: &mut State,
    ) {
        let ledger = Arc::clone(&self.needs.ledger);
        let asked = (*request).clone();
        state.claiming = Claiming::UnderWay(request, allowed);
        pipe_to_self(
            me,
            async move { Message::Claimed(ledger.claim(asked).await) },
        );
    }

    fn claimed(
        &self,
        me: &ActorRef<Message>,
        claimed: Result<Claimed, LedgerError>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Claiming::UnderWay(request, allowed) =
            std::mem::replace(&mut state.claiming, Claiming::No)
        else {
            return Ok(());
        };
        let Claimed { claims, next_due } = match claimed {
            Ok(claimed) => {
                state.refused = 0;
                state.failures = 0;
                claimed
            }
            Err(error) => {
                state.failures += 1;
                // Five a second: those after the first are counted.
                if state.failures.is_power_of_two() {
                    tracing::warn!(%error, failures = state.failures, "claims fail, trying again");
                }
                if !error.is_retryable() && !state.closed {
                    // A ledger that cannot be claimed from is no ledger: the node fails, and says so.
                    state.refused += 1;
                    if state.refused > REFUSALS_MAX {
                        return Err(error.into());
                    }
                }
                state.claiming = Claiming::Unanswered(request, allowed);
                if let Some(reply) = state.closing.take() {
                    let _ = reply.send(());
                }
                let retry = self.needs.clock.now().after(LEDGER_RETRY);
                if mutant!(C3) {
                    state.claiming = Claiming::No;
                    state.timer.stop();
                    return Ok(());
                }
                self.set_timer(me, Some(retry), None, state);
                return Ok(());
            }
        };
        if state.closed {
            for claim in claims {
                self.give_back(me, claim.reference(), Trouble::NodeStops, "the node stops");
            }
            if let Some(reply) = state.closing.take() {
                let _ = reply.send(());
            }
            return Ok(());
        }
        let found = !claims.is_empty();
        self.award(me, claims, &allowed, state);
        if found || std::mem::take(&mut state.again) {
            look(me, state);
        } else {
            self.set_timer(me, allowed.look_again, next_due, state);
        }
        Ok(())
    }

    fn award(
        &self,
        me: &ActorRef<Message>,
        claims: Vec<Claim>,
        allowed: &Allowed,
        state: &mut State,
    ) {
        let summaries: Vec<TaskSummary> = claims.iter().map(summary).collect();
        let addresses = &state.addresses;
        let attraction = |_: &TaskSummary, agent: &AgentId| -> Ratio {
            addresses.get(agent).map_or(NEUTRAL, |a| a.attraction)
        };
        let awards = state.offers.award(&summaries, &attraction, &mut *state.rng);
        for (claim, award) in claims.into_iter().zip(awards) {
            let reference = claim.reference();
            let Some(award) = award else {
                self.give_back(me, reference, Trouble::NoAgent, "no agent is free");
                continue;
            };
            let queue = &claim.head.queue;
            let admits = || self.needs.breakers.admits_queue(queue, reference.task);
            if allowed.probes.contains(queue) && !admits() {
                // A task of another queue is the probe.
                if let Err(error) = state.offers.free(&award.agent, Outcome::Neutral) {
                    tracing::debug!(%error, "freed an agent whose offer was withdrawn");
                }
                self.give_back(me, reference, Trouble::PortAway, "its model is away");
                continue;
            }
            let mut span = self.needs.telemetry.child(claim.trace(), "market.award");
            if span.is_recording() {
                span.set(names::TASK_ID, reference.task.to_string());
                span.set(names::GEN_AI_AGENT_ID, award.agent.to_string());
                span.set(names::SCORE, award.score.get());
                span.set(names::BIDDERS, i64::from(award.bidders));
            }
            state.awarded += 1;
            let agent = award.agent.clone();
            state
                .held
                .insert(reference.task, (agent.clone(), reference));
            state.by_agent.insert(agent.clone(), reference.task);
            let assignment = Box::new(Assignment { claim, award });
            let bidder = state.addresses.get(&agent).map(|a| &a.bidder);
            if !bidder.is_some_and(|bidder| bidder.award(assignment)) {
                state.by_agent.remove(&agent);
                state.held.remove(&reference.task);
                self.give_back(me, reference, Trouble::NoAgent, "its agent has ended");
            }
        }
    }

    fn free(&self, agent: &AgentId, outcome: Outcome, attraction: Ratio, state: &mut State) {
        if let Err(error) = state.offers.free(agent, outcome) {
            tracing::debug!(%error, "freed an agent whose offer was withdrawn");
        }
        self.needs
            .breakers
            .probed(&QueueName::from(&agent.agent_type));
        if let Some(address) = state.addresses.get_mut(agent) {
            address.attraction = attraction;
            address.idle_since = self.needs.clock.now();
        }
    }

    /// An agent is gone: it bids no more until it offers itself again, and its task goes back; uncounted
    /// when the node stops anyway.
    fn terminated(
        &self,
        me: &ActorRef<Message>,
        agent: &AgentId,
        trouble: Trouble,
        state: &mut State,
    ) {
        state.offers.suspend(agent);
        let Some(task) = state.by_agent.remove(agent) else {
            return;
        };
        if let Some(claim) = state.let_go(agent, &task) {
            let trouble = if state.closed {
                Trouble::NodeStops
            } else {
                trouble
            };
            self.give_back(me, claim, trouble, &format!("{agent} ended with it"));
        }
    }

    /// Looks again at the earliest of a moment, a span of time, and the re-check.
    fn set_timer(
        &self,
        me: &ActorRef<Message>,
        at: Option<Timestamp>,
        within: Option<Duration>,
        state: &mut State,
    ) {
        let now = self.needs.clock.now();
        let recheck = self.needs.settings.recheck_every;
        let recheck = (!recheck.is_zero()).then_some(recheck);
        let waits = [at.map(|at| at.since(now)), within, recheck];
        let Some(wait) = waits.into_iter().flatten().min() else {
            return state.timer.stop();
        };
        state.timer.set(pipe_to_self(me, async move {
            tokio::time::sleep(wait).await;
            Message::TimedOut
        }));
    }

    /// Gives a claim back. Tries until the ledger takes it: an unreturned claim would wait for the node's
    /// next life.
    fn give_back(&self, me: &ActorRef<Message>, claim: ClaimRef, trouble: Trouble, reason: &str) {
        let ledger = Arc::clone(&self.needs.ledger);
        let task = claim.task;
        tracing::debug!(%task, ?trouble, reason, "task released");
        let settlement = Settlement::release(trouble, reason);
        pipe_to_self(me, async move {
            loop {
                let commit = Commit::settling(claim, settlement.clone());
                match ledger.commit(commit).await {
                    Err(error) if error.is_retryable() => tokio::time::sleep(LEDGER_RETRY).await,
                    Ok(_) | Err(_) => return Message::GivenBack,
                }
            }
        });
    }

    fn passivate(&self, state: &mut State) {
        let now = self.needs.clock.now();
        for (agent, address) in &state.addresses {
            let idle = !state.by_agent.contains_key(agent);
            if idle && now.since(address.idle_since) >= self.needs.passivate_after {
                address.bidder.passivate();
            }
        }
    }
}

fn observe(state: &State) -> Observation {
    let held = state
        .held
        .iter()
        .map(|(task, (agent, _))| (*task, agent.clone()));
    let asleep = state.addresses.values().filter(|a| !a.bidder.is_active());
    Observation {
        held: held.collect(),
        free: state.offers.free_slots(),
        asleep: asleep.count() as u64,
        awarded: state.awarded,
    }
}

fn summary(claim: &Claim) -> TaskSummary {
    TaskSummary {
        task: claim.head.id,
        agent_type: claim.spec.agent_type.clone(),
        priority: claim.spec.priority,
    }
}
