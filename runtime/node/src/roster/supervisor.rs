//! The supervisor of one agent type.
//!
//! ```text
//!   root ─► supervisor of `triage` ─► triage/1, triage/2, …
//!        ─► supervisor of `echo`   ─► echo/1, …
//! ```
//! Policy: a supervisor never ends with its children. A step that panics is caught by its agent and charged
//! to the task; an agent that ends as an actor all the same is started again after a wait that doubles with
//! each crash. One that crashed more than [`Restarts::crashes_max`] times within [`Restarts::window`] stays
//! down until that window has passed, and then begins with a clean slate. An agent that cannot be started
//! is tried again in the same way. No handler waits for the disk: records are saved beside it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use colony_core::{id::AgentId, ledger::Trouble, mutant, port::RandomSource, unit::Timestamp};
use colony_store::{Agent as AgentRow, Ledger, LedgerError, Track};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{
    AgentState, AgentStatus,
    agent::{Agent, AgentArgs},
    bidder::AgentBidder,
    job::AgentDeps,
    messages::{AgentMessage, AgentRef, SupervisorMessage},
};
use crate::{market::Assignment, pipe::pipe_to_self};

/// How often a crashed agent is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restarts {
    /// Crashes within the window after which an agent stays down until the window has passed.
    pub(crate) crashes_max: u32,
    /// The window.
    pub(crate) window: Duration,
    /// Wait before the first restart; doubles with each crash in the window.
    pub(crate) wait: Duration,
}

/// The behaviour of a supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) deps: Arc<AgentDeps>,
    pub(crate) restarts: Restarts,
    pub(crate) random: Arc<dyn RandomSource>,
}

/// One member as its row has it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MemberRow {
    pub(crate) track: Track,
    /// Of the row; 0: there is none.
    pub(crate) revision: u64,
}

/// One member of the type.
#[derive(Debug)]
struct Member {
    bidder: AgentBidder,
    /// None while it is a row.
    agent: Option<AgentRef>,
    row: MemberRow,
    crashes: VecDeque<Timestamp>,
    /// Crashed too often: not started before the window has passed.
    down: bool,
}

/// What a supervisor holds.
#[derive(Debug, Default)]
pub(crate) struct State {
    members: BTreeMap<u32, Member>,
    by_actor: BTreeMap<ActorId, u32>,
    /// Members whose record changed since the last save.
    unsaved: BTreeSet<u32>,
    saving: bool,
    /// The last save failed.
    save_failed: bool,
    /// Counts starts, so that each life of an agent draws its own stream.
    starts: u64,
    leaving: Option<ractor::RpcReplyPort<()>>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = State;
    /// The members, by number, with their records.
    type Arguments = BTreeMap<u32, MemberRow>;

    async fn pre_start(
        &self,
        me: ActorRef<SupervisorMessage>,
        rows: Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let member = |(ordinal, row)| {
            let member = Member {
                bidder: AgentBidder::new(ordinal, me.clone()),
                agent: None,
                row,
                crashes: VecDeque::new(),
                down: false,
            };
            (ordinal, member)
        };
        Ok(State {
            members: rows.into_iter().map(member).collect(),
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
            self.start(&me, ordinal, state).await;
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
            SupervisorMessage::Start(ordinal) => self.start(&me, ordinal, state).await,
            SupervisorMessage::Wake {
                ordinal,
                assignment,
            } => self.wake(&me, ordinal, assignment, state).await,
            SupervisorMessage::Passivate(ordinal) => {
                let member = state.members.get_mut(&ordinal);
                if let Some(agent) = member.and_then(|member| member.agent.take()) {
                    // Gone already: then its end is on its way to us.
                    let _ = agent.cast(AgentMessage::Passivate);
                }
            }
            SupervisorMessage::Track { ordinal, track } => {
                if let Some(member) = state.members.get_mut(&ordinal) {
                    member.row.track = track;
                    state.unsaved.insert(ordinal);
                }
            }
            SupervisorMessage::Save => self.save(&me, state),
            SupervisorMessage::Saved {
                revisions,
                unsaved,
                failed,
            } => {
                state.saving = false;
                state.save_failed = failed;
                state.unsaved.extend(unsaved);
                for (ordinal, revision) in revisions {
                    if let Some(member) = state.members.get_mut(&ordinal) {
                        member.row.revision = revision;
                    }
                }
                self.leave_if_alone(&me, state);
            }
            SupervisorMessage::Leave(reply) => {
                for agent in state.members.values().filter_map(|m| m.agent.as_ref()) {
                    // Gone already: its end is on its way to us.
                    let _ = agent.cast(AgentMessage::Leave);
                }
                state.leaving = Some(reply);
                self.save(&me, state);
                self.leave_if_alone(&me, state);
            }
            SupervisorMessage::Observe(reply) => {
                let states = state.members.iter().map(|(ordinal, member)| AgentState {
                    id: self.id(*ordinal),
                    status: match (&member.agent, member.down) {
                        (Some(_), _) => AgentStatus::Active,
                        (None, true) => AgentStatus::Down,
                        (None, false) => AgentStatus::Row,
                    },
                    track: member.row.track,
                });
                let _ = reply.send(states.collect());
            }
            #[cfg(test)]
            SupervisorMessage::Fail(ordinal) => {
                let member = state.members.get(&ordinal);
                if let Some(agent) = member.and_then(|member| member.agent.as_ref()) {
                    let _ = agent.cast(AgentMessage::Fail);
                }
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
        if member.agent.as_ref().is_some_and(|a| a.get_id() == actor) {
            member.agent = None;
            member.bidder.set(None);
        }
        if let Some(crash) = crash {
            let id = self.id(ordinal);
            self.deps.market.terminated(id, Trouble::AgentCrashed);
            // A failed task too: what brings an actor down must not leave its record spotless.
            member.row.track.crashes += 1;
            member.row.track.tasks += 1;
            state.unsaved.insert(ordinal);
            self.start_again(&me, ordinal, &crash, state);
        }
        self.leave_if_alone(&me, state);
        Ok(())
    }
}

impl Supervisor {
    fn id(&self, ordinal: u32) -> AgentId {
        AgentId {
            agent_type: self.deps.settings.name.clone(),
            ordinal,
        }
    }

    /// Plans the next start of an agent that crashed or could not start.
    fn start_again(
        &self,
        me: &ActorRef<SupervisorMessage>,
        ordinal: u32,
        reason: &str,
        state: &mut State,
    ) {
        let Some(member) = state.members.get_mut(&ordinal) else {
            return;
        };
        if state.leaving.is_some() {
            return;
        }
        let now = self.deps.clock.now();
        let window = self.restarts.window;
        member.crashes.push_back(now);
        member.crashes.retain(|at| now.since(*at) <= window);
        let crashes = u32::try_from(member.crashes.len()).unwrap_or(u32::MAX);
        let id = self.id(ordinal);
        let wait = if crashes > self.restarts.crashes_max {
            tracing::error!(agent = %id, crashes, reason, wait = ?window, "agent crashed too often and stays down for a while");
            member.down = true;
            member.crashes.clear();
            if mutant!(C9) {
                return;
            }
            window
        } else {
            let doublings = crashes.saturating_sub(1).min(10);
            let wait = self.restarts.wait.saturating_mul(1 << doublings);
            tracing::warn!(agent = %id, crashes, reason, ?wait, "agent crashed, starting it again");
            wait
        };
        me.send_after(wait, move || SupervisorMessage::Start(ordinal));
    }

    /// Makes an actor of a row. None when it is one, or the type leaves.
    async fn spawn(
        &self,
        me: &ActorRef<SupervisorMessage>,
        ordinal: u32,
        state: &mut State,
    ) -> Result<Option<AgentRef>, ractor::SpawnErr> {
        let Some(member) = state.members.get_mut(&ordinal) else {
            return Ok(None);
        };
        if member.agent.is_some() || state.leaving.is_some() {
            return Ok(None);
        }
        let id = self.id(ordinal);
        state.starts += 1;
        let rng = self.random.stream(&format!("agent/{id}"), state.starts);
        let agent = Agent {
            deps: Arc::clone(&self.deps),
            supervisor: me.clone(),
        };
        let args = AgentArgs {
            id,
            track: member.row.track,
            rng,
        };
        let (agent, _) = Actor::spawn_linked(None, agent, args, me.get_cell()).await?;
        state.by_actor.insert(agent.get_id(), ordinal);
        member.down = false;
        member.bidder.set(Some(agent.clone()));
        member.agent = Some(agent.clone());
        Ok(Some(agent))
    }

    async fn start(&self, me: &ActorRef<SupervisorMessage>, ordinal: u32, state: &mut State) {
        match self.spawn(me, ordinal, state).await {
            // Also when a task has woken it before: the market has forgotten its offer.
            Ok(_) => {
                if let Some(member) = state.members.get(&ordinal)
                    && member.agent.is_some()
                {
                    let bidder = Arc::new(member.bidder.clone());
                    let track = member.row.track;
                    self.deps.market.offer(self.id(ordinal), track, bidder);
                }
            }
            Err(error) => self.start_again(me, ordinal, &error.to_string(), state),
        }
    }

    async fn wake(
        &self,
        me: &ActorRef<SupervisorMessage>,
        ordinal: u32,
        assignment: Box<Assignment>,
        state: &mut State,
    ) {
        let failed = self.spawn(me, ordinal, state).await.err();
        let agent = state.members.get(&ordinal).and_then(|m| m.agent.as_ref());
        let told = agent.is_some_and(|a| a.cast(AgentMessage::Award(assignment)).is_ok());
        if !told {
            let id = self.id(ordinal);
            self.deps.market.terminated(id, Trouble::NoAgent);
        }
        if let Some(error) = failed {
            self.start_again(me, ordinal, &error.to_string(), state);
        }
    }

    /// Writes changed records down, one save at a time.
    fn save(&self, me: &ActorRef<SupervisorMessage>, state: &mut State) {
        if state.saving || state.unsaved.is_empty() {
            return;
        }
        let now = self.deps.clock.now();
        let unsaved = std::mem::take(&mut state.unsaved);
        let rows = unsaved.iter().filter_map(|ordinal| {
            let row = state.members.get(ordinal)?.row;
            Some(AgentRow {
                id: self.id(*ordinal),
                revision: row.revision,
                version: self.deps.settings.version,
                track: row.track,
                updated_at: now,
            })
        });
        let rows: Vec<AgentRow> = rows.collect();
        state.saving = true;
        let ledger = Arc::clone(&self.deps.ledger);
        pipe_to_self(me, async move {
            match save(&*ledger, rows).await {
                Ok((revisions, stale)) => SupervisorMessage::Saved {
                    revisions,
                    unsaved: stale,
                    failed: false,
                },
                Err(error) => {
                    tracing::warn!(%error, "track records not saved, trying again with the next save");
                    SupervisorMessage::Saved {
                        revisions: BTreeMap::new(),
                        unsaved: unsaved.into_iter().collect(),
                        failed: true,
                    }
                }
            }
        });
    }

    fn leave_if_alone(&self, me: &ActorRef<SupervisorMessage>, state: &mut State) {
        if state.leaving.is_none() || state.saving || !state.by_actor.is_empty() {
            return;
        }
        // Once more: the last agents have changed their records while they left. A ledger that takes nothing
        // is not asked again and again meanwhile.
        if !state.unsaved.is_empty() && !state.save_failed {
            return self.save(me, state);
        }
        if let Some(reply) = state.leaving.take() {
            let _ = reply.send(());
            me.stop(None);
        }
    }
}

/// Saves rows; gives the revisions they have now, and whose were not saved for having had another one.
async fn save(
    ledger: &dyn Ledger,
    rows: Vec<AgentRow>,
) -> Result<(BTreeMap<u32, u64>, Vec<u32>), LedgerError> {
    let asked: BTreeMap<u32, u64> = rows
        .iter()
        .map(|row| (row.id.ordinal, row.revision + 1))
        .collect();
    let stale = ledger.save_agents(rows).await?;
    let Some(first) = stale.first() else {
        return Ok((asked, Vec::new()));
    };
    // An earlier save reached the disk although it was answered with an error: go on from there.
    let mut revisions = asked;
    let agent_type = first.agent_type.clone();
    let stale: Vec<u32> = stale.into_iter().map(|id| id.ordinal).collect();
    for row in ledger.agents().await? {
        if row.id.agent_type == agent_type && stale.contains(&row.id.ordinal) {
            revisions.insert(row.id.ordinal, row.revision);
        }
    }
    Ok((revisions, stale))
}
