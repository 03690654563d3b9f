//! The market actor: turns messages into calls of the law and awards into sends. It holds no policy.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use colony_core::{
    id::{AgentId, TaskId},
    market::{Book, Digest, Offer, Outcome, Track},
    unit::{Share, Timestamp},
};
use colony_store::{Claim, ClaimRef, ClaimRequest, Commit, LedgerError, Then};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use rand::RngCore;
use tokio::task::AbortHandle;

use super::{Needs, Observation, messages::Message};
use crate::{
    aside::aside,
    field::NO_SCENT,
    roster::{AgentMessage, AgentRef, Assignment, SupervisorMessage},
    telemetry::names,
};

/// Wait before the next claim after the book has failed.
const CLAIM_RETRY: Duration = Duration::from_millis(200);

/// The behaviour of the market.
#[derive(Debug)]
pub(crate) struct Market {
    pub(super) needs: Needs,
    pub(super) poked: Arc<AtomicBool>,
}

/// Where an agent's tasks are sent.
#[derive(Debug)]
struct Address {
    /// None while it sleeps.
    agent: Option<AgentRef>,
    supervisor: ActorRef<SupervisorMessage>,
    idle_since: Timestamp,
}

/// What the market holds.
pub(crate) struct State {
    // What it knows.
    book: Book,
    addresses: BTreeMap<AgentId, Address>,
    held: BTreeMap<TaskId, (AgentId, ClaimRef)>,
    by_agent: BTreeMap<AgentId, TaskId>,
    /// What the field said of each agent when it laid its last task down.
    scents: BTreeMap<AgentId, Share>,
    rng: Box<dyn RngCore + Send>,
    awarded: u64,
    // What it waits for.
    claiming: bool,
    again: bool,
    alarm: Option<AbortHandle>,
    closing: Option<RpcReplyPort<()>>,
    closed: bool,
}

impl State {
    /// Takes a claim out of an agent's hands, unless the task is in another's by now.
    fn let_go(&mut self, agent: &AgentId, task: &TaskId) -> Option<ClaimRef> {
        if self
            .held
            .get(task)
            .is_none_or(|(holder, _)| holder != agent)
        {
            return None;
        }
        self.held.remove(task).map(|(_, claim)| claim)
    }
}

impl Actor for Market {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State {
            book: Book::new(self.needs.settings.rules),
            addresses: BTreeMap::new(),
            held: BTreeMap::new(),
            by_agent: BTreeMap::new(),
            scents: BTreeMap::new(),
            rng: self.needs.chance.stream("market", 0),
            awarded: 0,
            claiming: false,
            again: false,
            alarm: None,
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
                address,
                supervisor,
            } => {
                let track = Track {
                    tasks: track.tasks,
                    successes: track.successes,
                };
                state.book.offer(Offer {
                    track,
                    ..Offer::new(agent.clone())
                });
                let idle_since = self.needs.clock.now();
                let address = Address {
                    agent: Some(address),
                    supervisor,
                    idle_since,
                };
                state.addresses.insert(agent, address);
                self.claim(&me, state);
            }
            Message::Awake { agent, address } => {
                if let Some(known) = state.addresses.get_mut(&agent) {
                    known.agent = Some(address);
                }
            }
            Message::Gone(agent) => {
                state.book.withdraw(&agent);
                state.addresses.remove(&agent);
                if let Some(task) = state.by_agent.remove(&agent)
                    && let Some(claim) = state.let_go(&agent, &task)
                {
                    self.give_back(
                        &me,
                        claim,
                        Then::Retry {
                            reason: format!("{agent} crashed"),
                        },
                    );
                }
            }
            Message::Freed {
                agent,
                task,
                outcome,
                scent,
            } => {
                if state.by_agent.get(&agent) == Some(&task) {
                    state.by_agent.remove(&agent);
                    state.let_go(&agent, &task);
                    self.free(&agent, outcome, state);
                    state.scents.insert(agent, scent);
                    // Look again once every message already in the mailbox has been heard: many agents
                    // that end together are served by one claim.
                    self.poke(&me);
                }
            }
            Message::Poke => {
                self.poked.store(false, Ordering::Release);
                self.claim(&me, state);
            }
            Message::Claimed(claimed) => self.claimed(&me, claimed, state),
            Message::Cancel(task) => {
                if let Some((agent, _)) = state.held.get(&task)
                    && let Some(address) = state.addresses.get(agent)
                    && let Some(address) = &address.agent
                {
                    // Gone meanwhile: then `Gone` follows.
                    let _ = address.cast(AgentMessage::Cancel(task));
                }
            }
            Message::Rest => self.rest(state),
            Message::Close(reply) => {
                state.closed = true;
                if let Some(alarm) = state.alarm.take() {
                    alarm.abort();
                }
                if state.claiming {
                    state.closing = Some(reply);
                } else {
                    let _ = reply.send(());
                }
            }
            Message::Observe(reply) => {
                let held = state
                    .held
                    .iter()
                    .map(|(task, (agent, _))| (*task, agent.clone()));
                let asleep = state
                    .addresses
                    .values()
                    .filter(|a| a.agent.is_none())
                    .count();
                let observation = Observation {
                    held: held.collect(),
                    free: state.book.free_slots(),
                    asleep: asleep as u64,
                    awarded: state.awarded,
                };
                let _ = reply.send(observation);
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(alarm) = state.alarm.take() {
            alarm.abort();
        }
        Ok(())
    }
}

impl Market {
    fn poke(&self, me: &ActorRef<Message>) {
        if !self.poked.swap(true, Ordering::AcqRel) {
            // The actor is handling a message: its mailbox is open.
            let _ = me.cast(Message::Poke);
        }
    }

    fn free(&self, agent: &AgentId, outcome: Outcome, state: &mut State) {
        if let Err(error) = state.book.free(agent, outcome) {
            tracing::debug!(%error, "freed an agent whose offer was withdrawn");
        }
        if self.needs.settings.sleep_after.is_some()
            && let Some(address) = state.addresses.get_mut(agent)
        {
            address.idle_since = self.needs.clock.now();
        }
    }

    /// Claims as many tasks as agents are free, one claim at a time.
    fn claim(&self, me: &ActorRef<Message>, state: &mut State) {
        if state.closed {
            return;
        }
        if state.claiming {
            state.again = true;
            return;
        }
        let mut left = self.needs.settings.claim_max;
        let mut wanted = BTreeMap::new();
        for (agent_type, free) in state.book.free_slots() {
            let some = free.min(left);
            left -= some;
            if some > 0 {
                wanted.insert(agent_type, some);
            }
        }
        if wanted.is_empty() {
            return;
        }
        state.claiming = true;
        let request = ClaimRequest {
            node: self.needs.node.clone(),
            incarnation: self.needs.incarnation,
            wanted,
            now: self.needs.clock.now(),
        };
        let ledger = Arc::clone(&self.needs.ledger);
        let claim = async move { Message::Claimed(ledger.claim(request).await) };
        aside(me, claim);
    }

    fn claimed(
        &self,
        me: &ActorRef<Message>,
        claimed: Result<Vec<Claim>, LedgerError>,
        state: &mut State,
    ) {
        state.claiming = false;
        let claims = match claimed {
            Ok(claims) => claims,
            Err(error) => {
                tracing::warn!(%error, "claim failed, trying again");
                self.set_alarm(me, CLAIM_RETRY, state);
                Vec::new()
            }
        };
        if state.closed {
            for claim in claims {
                self.give_back(me, claim.reference, Then::HandBack);
            }
            if let Some(reply) = state.closing.take() {
                let _ = reply.send(());
            }
            return;
        }
        if claims.is_empty() {
            if std::mem::take(&mut state.again) {
                self.poke(me);
            } else {
                self.look_ahead(me, state);
            }
            return;
        }
        self.award(me, claims, state);
        state.again = false;
        self.poke(me);
    }

    fn award(&self, me: &ActorRef<Message>, claims: Vec<Claim>, state: &mut State) {
        let digests: Vec<Digest> = claims.iter().map(digest).collect();
        let scents = &state.scents;
        let scent = |_: &Digest, agent: &AgentId| -> Share {
            scents.get(agent).copied().unwrap_or(NO_SCENT)
        };
        let awards = state.book.award(&digests, &scent, &mut *state.rng);
        for (claim, award) in claims.into_iter().zip(awards) {
            let Some(award) = award else {
                self.give_back(me, claim.reference, Then::HandBack);
                continue;
            };
            let mut span = self.needs.telemetry.child(claim.trace(), "market.award");
            if span.is_recording() {
                span.set(names::TASK_ID, claim.reference.task.to_string());
                span.set(names::AGENT_ID, award.agent.to_string());
                span.set(names::SCORE, award.score.get());
                span.set(names::BIDDERS, i64::from(award.bidders));
            }
            state.awarded += 1;
            let (agent, reference) = (award.agent.clone(), claim.reference);
            state
                .held
                .insert(reference.task, (agent.clone(), reference));
            state.by_agent.insert(agent.clone(), reference.task);
            let assignment = Box::new(Assignment { claim, award });
            if !send(&agent, assignment, state) {
                state.by_agent.remove(&agent);
                state.held.remove(&reference.task);
                self.give_back(me, reference, Then::HandBack);
            }
        }
    }

    /// Nothing is ready now: looks again when the next delayed task is due.
    fn look_ahead(&self, me: &ActorRef<Message>, state: &mut State) {
        if let Some(alarm) = state.alarm.take() {
            alarm.abort();
        }
        let (ledger, clock) = (
            Arc::clone(&self.needs.ledger),
            Arc::clone(&self.needs.clock),
        );
        state.alarm = aside(me, async move {
            let now = clock.now();
            match ledger.next_due(now).await {
                Ok(Some(due)) => tokio::time::sleep(due.since(now)).await,
                Ok(None) => std::future::pending().await,
                Err(_) => tokio::time::sleep(CLAIM_RETRY).await,
            }
            Message::Poke
        });
    }

    fn set_alarm(&self, me: &ActorRef<Message>, wait: Duration, state: &mut State) {
        if let Some(alarm) = state.alarm.take() {
            alarm.abort();
        }
        state.alarm = aside(me, async move {
            tokio::time::sleep(wait).await;
            Message::Poke
        });
    }

    /// Gives a claim back. Tries until the book takes it: an unreturned claim would wait for the node's
    /// next life.
    fn give_back(&self, me: &ActorRef<Message>, claim: ClaimRef, then: Then) {
        let (ledger, clock) = (
            Arc::clone(&self.needs.ledger),
            Arc::clone(&self.needs.clock),
        );
        aside(me, async move {
            loop {
                let commit = Commit {
                    claim,
                    agent: None,
                    entries: Vec::new(),
                    outbox: Vec::new(),
                    then: then.clone(),
                    now: clock.now(),
                };
                match ledger.commit(commit).await {
                    Err(error) if error.is_retryable() => tokio::time::sleep(CLAIM_RETRY).await,
                    Ok(()) | Err(_) => return Message::Poke,
                }
            }
        });
    }

    fn rest(&self, state: &mut State) {
        let Some(limit) = self.needs.settings.sleep_after else {
            return;
        };
        let now = self.needs.clock.now();
        for (agent, address) in &mut state.addresses {
            let idle = !state.by_agent.contains_key(agent);
            let tired = idle && now.since(address.idle_since) >= limit;
            if tired && address.agent.take().is_some() {
                // Through the supervisor: it hears of sleep and of the next wake-up in this order.
                let sleep = SupervisorMessage::Sleep(agent.ordinal);
                let _ = address.supervisor.cast(sleep);
            }
        }
    }
}

fn digest(claim: &Claim) -> Digest {
    Digest {
        task: claim.reference.task,
        agent_type: claim.spec.agent_type.clone(),
        priority: claim.spec.priority,
        session: None,
    }
}

fn send(agent: &AgentId, assignment: Box<Assignment>, state: &State) -> bool {
    let Some(address) = state.addresses.get(agent) else {
        return false;
    };
    match &address.agent {
        Some(awake) => awake.cast(AgentMessage::Award(assignment)).is_ok(),
        None => {
            let wake = SupervisorMessage::Wake {
                ordinal: agent.ordinal,
                assignment,
            };
            address.supervisor.cast(wake).is_ok()
        }
    }
}
