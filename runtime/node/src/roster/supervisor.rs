//! The supervisor of one agent type.
//!
//! ```text
//!   roster ─► supervisor of `triage` ─► triage/1, triage/2, …
//!          ─► supervisor of `echo`   ─► echo/1, …
//! ```
//! Policy: a supervisor never dies of its children. An agent that ends with an error is started again after
//! a wait that doubles with each crash; one that crashed [`Restarts::crashes_max`] times within
//! [`Restarts::window`] stays down until the node starts again, and its offer is withdrawn. A poison task
//! cannot kill a type: the task's own deliveries run out first.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use colony_core::{id::AgentId, port::Chance, unit::Timestamp};
use colony_store::{Agent as AgentRow, Track};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{
    Standing,
    agent::{Agent, Beginning},
    job::Hands,
    messages::{AgentMessage, AgentRef, Assignment, SupervisorMessage},
};

/// How often a crashed agent is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restarts {
    /// Crashes within the window after which an agent stays down.
    pub(crate) crashes_max: u32,
    /// The window.
    pub(crate) window: Duration,
    /// Wait before the first restart; doubles with each crash in the window.
    pub(crate) wait: Duration,
}

/// The behaviour of a supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) hands: Arc<Hands>,
    pub(crate) restarts: Restarts,
    pub(crate) chance: Arc<dyn Chance>,
}

/// One member of the type.
#[derive(Debug, Default)]
struct Member {
    address: Option<AgentRef>,
    track: Track,
    crashes: VecDeque<Timestamp>,
}

/// What a supervisor holds.
#[derive(Debug, Default)]
pub(crate) struct State {
    members: BTreeMap<u32, Member>,
    by_actor: BTreeMap<ActorId, u32>,
    /// Members whose record changed since the last save.
    unsaved: BTreeSet<u32>,
    /// Counts starts, so that each life of an agent draws its own stream.
    starts: u64,
    leaving: Option<ractor::RpcReplyPort<()>>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = State;
    /// The members, by number, with their records.
    type Arguments = BTreeMap<u32, Track>;

    async fn pre_start(
        &self,
        _: ActorRef<SupervisorMessage>,
        members: Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let members = members
            .into_iter()
            .map(|(ordinal, track)| {
                (
                    ordinal,
                    Member {
                        track,
                        ..Member::default()
                    },
                )
            })
            .collect();
        Ok(State {
            members,
            ..State::default()
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<SupervisorMessage>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let ordinals: Vec<u32> = state.members.keys().copied().collect();
        for ordinal in ordinals {
            self.start(&me, ordinal, state).await?;
        }
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Start(ordinal) => self.start(&me, ordinal, state).await?,
            SupervisorMessage::Wake {
                ordinal,
                assignment,
            } => {
                self.wake(&me, ordinal, assignment, state).await?;
            }
            SupervisorMessage::Sleep(ordinal) => {
                let member = state.members.get_mut(&ordinal);
                if let Some(address) = member.and_then(|member| member.address.take()) {
                    // Gone already: then its end is on its way to us.
                    let _ = address.cast(AgentMessage::Sleep);
                }
            }
            SupervisorMessage::Track { ordinal, track } => {
                if let Some(member) = state.members.get_mut(&ordinal) {
                    member.track = track;
                    state.unsaved.insert(ordinal);
                }
            }
            SupervisorMessage::Save => self.save(state).await,
            SupervisorMessage::Leave(reply) => {
                for address in state.members.values().filter_map(|m| m.address.as_ref()) {
                    // Gone already: its end is on its way to us.
                    let _ = address.cast(AgentMessage::Leave);
                }
                state.leaving = Some(reply);
                self.leave_if_alone(&me, state).await;
            }
            SupervisorMessage::Observe(reply) => {
                let standing = state.members.iter().map(|(ordinal, member)| Standing {
                    id: self.id(*ordinal),
                    awake: member.address.is_some(),
                    track: member.track,
                });
                let _ = reply.send(standing.collect());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, crash) = match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                (actor.get_id(), Some(error.to_string()))
            }
            SupervisionEvent::ActorTerminated(actor, _, _) => (actor.get_id(), None),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {
                return Ok(());
            }
        };
        let Some(ordinal) = state.by_actor.remove(&actor) else {
            return Ok(());
        };
        let Some(member) = state.members.get_mut(&ordinal) else {
            return Ok(());
        };
        let id = self.id(ordinal);
        if member.address.as_ref().is_some_and(|a| a.get_id() == actor) {
            member.address = None;
        }
        let Some(crash) = crash else {
            // Asleep, or left: the market knows it from the message that ended it.
            self.leave_if_alone(&me, state).await;
            return Ok(());
        };
        self.hands.market.gone(id.clone());
        let now = self.hands.clock.now();
        member.track.crashes += 1;
        state.unsaved.insert(ordinal);
        member.crashes.push_back(now);
        while member
            .crashes
            .front()
            .is_some_and(|at| now.since(*at) > self.restarts.window)
        {
            member.crashes.pop_front();
        }
        let crashes = u32::try_from(member.crashes.len()).unwrap_or(u32::MAX);
        if state.leaving.is_some() {
            self.leave_if_alone(&me, state).await;
        } else if crashes > self.restarts.crashes_max {
            tracing::error!(agent = %id, crashes, %crash, "agent stays down: it crashed too often");
        } else {
            let wait = self
                .restarts
                .wait
                .saturating_mul(1 << crashes.saturating_sub(1).min(10));
            tracing::warn!(agent = %id, crashes, %crash, ?wait, "agent crashed, starting it again");
            me.send_after(wait, move || SupervisorMessage::Start(ordinal));
        }
        Ok(())
    }
}

impl Supervisor {
    fn id(&self, ordinal: u32) -> AgentId {
        AgentId {
            agent_type: self.hands.settings.name.clone(),
            ordinal,
        }
    }

    async fn spawn(
        &self,
        me: &ActorRef<SupervisorMessage>,
        ordinal: u32,
        state: &mut State,
    ) -> Result<Option<AgentRef>, ActorProcessingErr> {
        let Some(member) = state.members.get_mut(&ordinal) else {
            return Ok(None);
        };
        if member.address.is_some() || state.leaving.is_some() {
            return Ok(None);
        }
        let id = self.id(ordinal);
        state.starts += 1;
        let rng = self.chance.stream(&format!("agent/{id}"), state.starts);
        let agent = Agent {
            hands: Arc::clone(&self.hands),
            supervisor: me.clone(),
        };
        let beginning = Beginning {
            id,
            track: member.track,
        };
        let (address, _) =
            Actor::spawn_linked(None, agent, (beginning, rng), me.get_cell()).await?;
        state.by_actor.insert(address.get_id(), ordinal);
        member.address = Some(address.clone());
        Ok(Some(address))
    }

    async fn start(
        &self,
        me: &ActorRef<SupervisorMessage>,
        ordinal: u32,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(address) = self.spawn(me, ordinal, state).await? {
            let track = state
                .members
                .get(&ordinal)
                .map(|m| m.track)
                .unwrap_or_default();
            self.hands
                .market
                .offer(self.id(ordinal), track, address, me.clone());
        }
        Ok(())
    }

    async fn wake(
        &self,
        me: &ActorRef<SupervisorMessage>,
        ordinal: u32,
        assignment: Box<Assignment>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let awake = state.members.get(&ordinal).and_then(|m| m.address.clone());
        let address = match awake {
            Some(address) => Some(address),
            None => self.spawn(me, ordinal, state).await?,
        };
        let told = address.is_some_and(|address| {
            self.hands.market.awake(self.id(ordinal), address.clone());
            address.cast(AgentMessage::Award(assignment)).is_ok()
        });
        if !told {
            self.hands.market.gone(self.id(ordinal));
        }
        Ok(())
    }

    async fn save(&self, state: &mut State) {
        let unsaved = std::mem::take(&mut state.unsaved);
        if unsaved.is_empty() {
            return;
        }
        let now = self.hands.clock.now();
        let rows = unsaved.iter().filter_map(|ordinal| {
            let member = state.members.get(ordinal)?;
            let version = self.hands.settings.version;
            Some(AgentRow {
                id: self.id(*ordinal),
                version,
                track: member.track,
                updated_at: now,
            })
        });
        if let Err(error) = self.hands.ledger.save_agents(rows.collect()).await {
            tracing::warn!(%error, "track records not saved, trying again with the next save");
            state.unsaved.extend(unsaved);
        }
    }

    async fn leave_if_alone(&self, me: &ActorRef<SupervisorMessage>, state: &mut State) {
        if state.members.values().any(|m| m.address.is_some()) {
            return;
        }
        if let Some(reply) = state.leaving.take() {
            self.save(state).await;
            let _ = reply.send(());
            me.stop(None);
        }
    }
}
