//! What the people of a simulated world have been told, which must be true at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use colony_proto::v1::decision::Kind;

use crate::workload::Tasks;

/// A task as its client planned it.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) agent_type: String,
    pub(crate) tenant: String,
    pub(crate) input: String,
    /// When it expires, by its client's clock, in microseconds.
    pub(crate) deadline_us: Option<u64>,
    pub(crate) plan: Tasks,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Every task that was ever sent, by its deduplication key.
    pub(crate) planned: BTreeMap<String, Planned>,
    /// The id that a key was acknowledged with.
    pub(crate) acknowledged: BTreeMap<String, String>,
    /// Tasks whose cancellation was acknowledged, and whose client has not asked since to revive them.
    pub(crate) cancelled: BTreeSet<String>,
    /// Tasks whose client has had them revived, and has not cancelled them by another request.
    pub(crate) revived: BTreeSet<String>,
    /// Keys of tasks whose clients were told that what they ask is invalid.
    pub(crate) invalid: BTreeSet<String>,
    /// The decisions that were acknowledged, by question, with its task.
    pub(crate) decided: BTreeMap<String, (String, Kind)>,
    /// The feedback that was acknowledged, by task.
    pub(crate) feedback: BTreeMap<String, String>,
    /// Requests that had to be repeated.
    pub(crate) retries: u64,
    /// Tasks that their clients have seen the end of.
    pub(crate) ended: u64,
    /// When each client was done.
    pub(crate) clients_done: Vec<Duration>,
}
