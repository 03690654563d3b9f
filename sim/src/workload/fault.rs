//! What can go wrong.

use serde::{Deserialize, Serialize};

/// Something that goes wrong. Times are milliseconds of simulated time from the start; a call's number
/// counts from 1 over the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Clients and node do not hear each other; the reviewer is on another line.
    Cut {
        /// When it begins.
        at_ms: u64,
        /// How long it lasts.
        for_ms: u64,
    },
    /// The node loses power, and what it had not synced.
    Crash {
        /// When.
        at_ms: u64,
        /// How long it is down.
        for_ms: u64,
        /// What becomes of the sync under way.
        #[serde(default)]
        in_flight: InFlight,
        /// How far the wall clock has moved when it is back.
        #[serde(default, skip_serializing_if = "is_zero")]
        clock_step_ms: i64,
    },
    /// The node loses power at a call of one of its ports.
    CrashAtCall {
        /// Which port call.
        call: Call,
        /// The how-manieth of its kind.
        nth: u64,
        /// At which point of it.
        phase: Phase,
        /// How long the node is down.
        for_ms: u64,
        /// How far the wall clock has moved when it is back.
        #[serde(default, skip_serializing_if = "is_zero")]
        clock_step_ms: i64,
    },
    /// The node is stopped in order and started again.
    Restart {
        /// When it is told to stop.
        at_ms: u64,
        /// How long it is down after that.
        for_ms: u64,
        /// How far the wall clock has moved when it is back.
        #[serde(default, skip_serializing_if = "is_zero")]
        clock_step_ms: i64,
    },
    /// The ledger answers these calls with a storage error; nothing of them is done.
    Storage {
        /// Which calls.
        call: Call,
        /// The first that fails.
        nth: u64,
        /// How many fail, one after the other.
        times: u64,
    },
    /// The sync with this write in it fails: whoever waits for it is told that its outcome is unknown, and the ledger
    /// does nothing more before it is opened again.
    Unknown {
        /// Which call. Only one that writes.
        call: Call,
        /// The how-manieth of its kind.
        nth: u64,
        /// What became of the sync.
        #[serde(default)]
        in_flight: InFlight,
    },
    /// A row that this call needs cannot be read: it is set aside, and its task, if it is live, ends.
    Unreadable {
        /// Which call. Only one about a task: `claim`, `journal`, `commit`, `decide`, `cancel` and `get`.
        call: Call,
        /// The how-manieth of its kind.
        nth: u64,
    },
    /// These calls are executed once more, late: the copy of a request that a network kept back, after its
    /// sender has long been answered, or has died. Only submits, claims, commits, decisions,
    /// cancellations and revivals.
    Copy {
        /// Which calls.
        call: Call,
        /// The first that is copied.
        nth: u64,
        /// How many are, one after the other.
        times: u64,
        /// How late the copies are.
        after_ms: u64,
    },
    /// Every call of the ledger takes longer.
    SlowDisk {
        /// When it begins.
        at_ms: u64,
        /// How long it lasts.
        for_ms: u64,
        /// By how much.
        delay_ms: u64,
    },
    /// Something outside is away.
    Outage {
        /// What.
        port: Port,
        /// When it begins.
        at_ms: u64,
        /// How long it lasts.
        for_ms: u64,
        /// How that shows.
        manner: OutageMode,
    },
}

/// A call of one of the node's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `Ledger::register`.
    Register,
    /// `Ledger::submit`.
    Submit,
    /// `Ledger::claim`.
    Claim,
    /// `Ledger::commit` and `acknowledge`.
    Commit,
    /// `Ledger::decide`.
    Decide,
    /// `Ledger::cancel`.
    Cancel,
    /// `Ledger::revive`.
    Revive,
    /// `Ledger::expire`.
    Expire,
    /// `Ledger::learn`.
    Learn,
    /// `Ledger::journal`.
    Journal,
    /// `Ledger::save_agents` and `Ledger::save_snapshot`.
    Save,
    /// What people ask for one by one: `Ledger::get` and `Ledger::approval`.
    Get,
    /// What people ask for in pages and sums: `Ledger::list`, `approvals`, `changes`, `outbox` and `counts`.
    List,
    /// What a node takes up: `Ledger::agents`, `snapshot`, `episode_streams`, `episodes` and `episodes_floor`.
    Load,
    /// A call of a tool to a sink outside.
    Sink,
    /// A call of the embedding model.
    Embed,
    /// A call of the language model.
    Generate,
}

impl Call {
    /// Every call.
    pub const ALL: [Self; 17] = [
        Self::Register,
        Self::Submit,
        Self::Claim,
        Self::Commit,
        Self::Decide,
        Self::Cancel,
        Self::Revive,
        Self::Expire,
        Self::Learn,
        Self::Journal,
        Self::Save,
        Self::Get,
        Self::List,
        Self::Load,
        Self::Sink,
        Self::Embed,
        Self::Generate,
    ];

    /// Whether it is a call of the ledger, and not of something outside.
    #[must_use]
    pub const fn is_of_ledger(self) -> bool {
        !matches!(self, Self::Sink | Self::Embed | Self::Generate)
    }

    /// Whether it writes to the ledger, so that a sync can fail under it.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Register
            | Self::Submit
            | Self::Claim
            | Self::Commit
            | Self::Decide
            | Self::Cancel
            | Self::Revive
            | Self::Expire
            | Self::Learn
            | Self::Save => true,
            Self::Journal
            | Self::Get
            | Self::List
            | Self::Load
            | Self::Sink
            | Self::Embed
            | Self::Generate => false,
        }
    }

    /// Whether a row of a task that it needs can be damaged.
    #[must_use]
    pub const fn needs_a_task(self) -> bool {
        matches!(
            self,
            Self::Claim | Self::Journal | Self::Commit | Self::Decide | Self::Cancel | Self::Get
        )
    }

    /// Whether a late copy of it can be executed.
    #[must_use]
    pub const fn can_be_copied(self) -> bool {
        matches!(
            self,
            Self::Submit | Self::Claim | Self::Commit | Self::Decide | Self::Cancel | Self::Revive
        )
    }
}

/// A point of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing has left the node.
    Before,
    /// It was written but not synced; to a sink or model: it has left and will arrive.
    Unsynced,
    /// It was done whole, and the answer did not come back.
    Unanswered,
}

/// What becomes of the sync that is under way at a crash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InFlight {
    /// It had not reached the disk.
    #[default]
    Dropped,
    /// It had, but the answers did not leave.
    Written,
}

/// Something outside that the node calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// The embedding model.
    Embed,
    /// The language model.
    Generate,
    /// The sinks of effects.
    Sink,
}

/// How an outage shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutageMode {
    /// It says so.
    Refuses,
    /// It does not answer before the call's deadline. A sink: what is asked is done all the same.
    Hangs,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl Fault {
    /// Why it would do nothing, if it would.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Storage { call, .. } if !call.is_of_ledger() => {
                Some(format!("storage: {call:?} is no call of the ledger"))
            }
            Self::Copy { call, .. } if !call.can_be_copied() => {
                Some(format!("copy: no late copy of {call:?} can be executed"))
            }
            Self::Unknown { call, .. } if !call.writes() => {
                Some(format!("unknown: {call:?} writes nothing"))
            }
            Self::Unreadable { call, .. } if !call.needs_a_task() => {
                Some(format!("unreadable: {call:?} needs no row of a task"))
            }
            Self::Storage { .. }
            | Self::Unknown { .. }
            | Self::Unreadable { .. }
            | Self::Copy { .. }
            | Self::Cut { .. }
            | Self::Crash { .. }
            | Self::CrashAtCall { .. }
            | Self::Restart { .. }
            | Self::SlowDisk { .. }
            | Self::Outage { .. } => None,
        }
    }

    /// When it is over; 0 for those that wait for a call.
    pub(crate) fn ends_ms(&self) -> u64 {
        match self {
            Self::Cut { at_ms, for_ms }
            | Self::Crash { at_ms, for_ms, .. }
            | Self::Restart { at_ms, for_ms, .. }
            | Self::SlowDisk { at_ms, for_ms, .. }
            | Self::Outage { at_ms, for_ms, .. } => at_ms + for_ms,
            Self::CrashAtCall { .. }
            | Self::Storage { .. }
            | Self::Unknown { .. }
            | Self::Unreadable { .. }
            | Self::Copy { .. } => 0,
        }
    }
}
