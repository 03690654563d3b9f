//! Housekeeping: deadlines, late questions, faded pheromones, what memory has to write down.
//!
//! Keeps no state but counts, so the root restarts it when it fails. Nothing waits for the disk: each tick
//! begins what is due, and hears of its end by message. As it writes in the ledger all the time, it is the first
//! to notice that nothing comes back.

use std::{sync::Arc, time::Duration};

use colony_core::id::TaskId;
use colony_store::{Ledger, LedgerError};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::{approvals::Overdue, field::Field, market, memory::Memory, pipe::pipe_to_self, root};

/// Deadlines are met to this precision; pheromones fade much slower.
const EVERY: Duration = Duration::from_millis(500);
/// Most tasks ended by one transaction.
const EXPIRE_MAX: u32 = 256;
/// Ticks without an answer after which the ledger has stalled: ten seconds, where a sync of a good disk takes milliseconds.
const STALLED: u64 = 20;
/// Ticks between two compactions of the field, two looks for late questions, and two for what nobody told memory of: half a
/// minute.
const SELDOM: u64 = 60;

/// What the sweep needs of the node.
#[derive(Debug, Clone)]
pub(crate) struct SweepArgs {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) market: market::Handle,
    pub(crate) field: Field,
    pub(crate) memory: Memory,
    pub(crate) root: root::Handle,
    pub(crate) overdue: Overdue,
}

/// Said to the sweep.
#[derive(Debug)]
pub(crate) enum Message {
    /// It is time.
    Tick,
    /// Tasks have expired, or could not be looked for.
    Expired(Result<Vec<TaskId>, LedgerError>),
    /// Late questions have been looked for.
    Looked(Overdue),
    /// Memory has followed the ledger and written down what was due, or could not.
    KeptUp(Result<(), LedgerError>),
}

/// The behaviour of the sweep.
#[derive(Debug)]
pub(crate) struct Sweep;

#[derive(Debug)]
pub(crate) struct State {
    args: SweepArgs,
    ticks: u64,
    expiring: bool,
    /// Ticks since the ledger has answered last; those that come in a burst, as after a pause of the process, are one.
    unanswered: u64,
    ticked_at: Instant,
    keeping_up: bool,
    /// None while it looks.
    overdue: Option<Overdue>,
}

impl Actor for Sweep {
    type Msg = Message;
    type State = State;
    type Arguments = SweepArgs;

    async fn pre_start(
        &self,
        me: ActorRef<Message>,
        args: SweepArgs,
    ) -> Result<State, ActorProcessingErr> {
        me.send_interval(EVERY, || Message::Tick);
        // What the one before has said is looked at anew.
        args.root.stalled(None);
        Ok(State {
            overdue: Some(args.overdue.clone()),
            args,
            ticks: 0,
            expiring: false,
            unanswered: 0,
            ticked_at: Instant::now(),
            keeping_up: false,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Tick => {
                state.ticks += 1;
                look_for_stall(state);
                let seldom = state.ticks.is_multiple_of(SELDOM);
                expire(&me, state);
                if !std::mem::replace(&mut state.keeping_up, true) {
                    let memory = state.args.memory.clone();
                    pipe_to_self(&me, async move {
                        Message::KeptUp(keep_up(&memory, seldom).await)
                    });
                }
                if seldom {
                    state.args.field.compact();
                    if let Some(mut overdue) = state.overdue.take() {
                        pipe_to_self(&me, async move {
                            overdue.look().await;
                            Message::Looked(overdue)
                        });
                    }
                }
            }
            Message::Expired(Ok(expired)) => {
                state.expiring = false;
                answered(state);
                let more = expired.len() >= EXPIRE_MAX as usize;
                for task in expired {
                    state.args.market.cancel(task);
                }
                if more {
                    expire(&me, state);
                }
            }
            Message::Expired(Err(LedgerError::Shut)) => me.stop(None),
            Message::Expired(Err(error)) => {
                state.expiring = false;
                // A queue that is full says nothing of whether it moves.
                if !matches!(error, LedgerError::Busy { .. }) {
                    answered(state);
                }
                tracing::warn!(%error, "deadlines not checked, trying again");
            }
            Message::Looked(overdue) => state.overdue = Some(overdue),
            Message::KeptUp(kept_up) => {
                state.keeping_up = false;
                if let Err(error) = kept_up {
                    tracing::warn!(%error, "memory has not kept up, trying again");
                }
            }
        }
        Ok(())
    }
}

fn look_for_stall(state: &mut State) {
    if state.ticked_at.elapsed() < EVERY / 2 {
        return;
    }
    state.ticked_at = Instant::now();
    state.unanswered += 1;
    if state.unanswered == STALLED {
        let since = EVERY * u32::try_from(STALLED).unwrap_or(u32::MAX);
        state.args.root.stalled(Some(since));
    }
}

fn answered(state: &mut State) {
    if std::mem::take(&mut state.unanswered) >= STALLED {
        state.args.root.stalled(None);
    }
}

fn expire(me: &ActorRef<Message>, state: &mut State) {
    if !std::mem::replace(&mut state.expiring, true) {
        let ledger = Arc::clone(&state.args.ledger);
        pipe_to_self(me, async move {
            Message::Expired(ledger.expire(EXPIRE_MAX).await)
        });
    }
}

/// Memory follows what it was not told of, if it is time, and writes down what is due.
async fn keep_up(memory: &Memory, follows: bool) -> Result<(), LedgerError> {
    if follows {
        memory.follow_all().await?;
    }
    memory.save_due().await
}
