//! What is said to agents and to their supervisors.

use std::collections::BTreeMap;

use colony_core::{cycle::Output, id::TaskId, journal::Past};
use colony_store::{Committed, LedgerError, Track};
use ractor::{ActorRef, RpcReplyPort};

use super::job::StepFailure;
use crate::market::Assignment;

/// Said to one agent.
#[derive(Debug)]
pub(crate) enum AgentMessage {
    /// The market gave it a task. Never sent while it has one. If lost with the agent, the supervisor
    /// tells the market, which gives the claim back.
    Award(Box<Assignment>),
    /// The journal of its task was read. Late ones (of what was given up) are ignored by `round`.
    Past {
        /// What was waited for.
        round: u64,
        /// The past, or why it could not be read.
        past: Result<Box<Past>, LedgerError>,
    },
    /// A step has ended. Late ones are ignored by `round`.
    Stepped {
        /// What was waited for.
        round: u64,
        /// What the step gave.
        output: Result<Box<Output>, StepFailure>,
    },
    /// A commit has ended. Late ones are ignored by `round`.
    Committed {
        /// What was waited for.
        round: u64,
        /// Whether it is durable.
        result: Result<Committed, LedgerError>,
    },
    /// The task was cancelled: drop the work. Ignored when it has another task by now.
    Cancel(TaskId),
    /// Nobody needs it now: it ends and becomes a row. Ignored when it has a task after all.
    Passivate,
    /// Finish what can be given back at once, then end.
    Leave,
    /// Fail as an actor: what no step can do, for tests of the supervisor.
    #[cfg(test)]
    Fail,
}

/// Said to the supervisor of one agent type.
#[derive(Debug)]
pub(crate) enum SupervisorMessage {
    /// Start, or start again after a crash, the agent of this number.
    Start(u32),
    /// An agent that is a row was awarded a task: start it and pass the task on.
    Wake {
        /// Its number.
        ordinal: u32,
        /// The task.
        assignment: Box<Assignment>,
    },
    /// The agent of this number is idle for long: its actor ends, its row stays.
    Passivate(u32),
    /// An agent's track record changed; kept until the next save.
    Track {
        /// Its number.
        ordinal: u32,
        /// Its record now.
        track: Track,
    },
    /// Write changed records down.
    Save,
    /// A save has ended: the revisions that the rows have now, and whether what was to be saved was.
    Saved {
        /// By number.
        revisions: BTreeMap<u32, u64>,
        /// Members whose record is still to be saved.
        unsaved: Vec<u32>,
        /// The ledger did not take them.
        failed: bool,
    },
    /// Stop every agent, write records down, then end.
    Leave(RpcReplyPort<()>),
    /// Tells about every agent of the type.
    Observe(RpcReplyPort<Vec<super::AgentState>>),
    /// Makes the agent of this number fail as an actor.
    #[cfg(test)]
    Fail(u32),
}

/// The address of an agent.
pub(crate) type AgentRef = ActorRef<AgentMessage>;
