//! What is simulated: a TOML file, without its seed.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

/// A workload.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Longest simulated time, in seconds; a run that has not ended by then has failed.
    pub seconds_max: u64,
    /// Time of one sync of the ledger, in milliseconds.
    pub sync_ms: u64,
    /// The network between clients and the node.
    pub network: Network,
    /// Agent types: name to number and kind.
    pub agents: BTreeMap<String, Agents>,
    /// Who submits.
    pub clients: Clients,
    /// What goes wrong, and when.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// The network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Shortest time of a message, in milliseconds.
    pub latency_ms_min: u64,
    /// Longest time of a message, in milliseconds.
    pub latency_ms_max: u64,
}

/// One agent type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agents {
    /// `echo` or `triage`.
    pub kind: String,
    /// How many.
    pub count: u32,
}

/// Clients that submit tasks one by one and wait for their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// How many.
    pub count: u32,
    /// Tasks each submits.
    pub tasks: u32,
    /// Longest pause between two submissions, in milliseconds.
    pub pause_ms_max: u64,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When it begins, in milliseconds from the start.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds.
    pub for_ms: u64,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The first client and the node do not hear each other.
    Cut,
    /// The node loses power, and what it had not synced.
    Crash,
}

/// Why there is no workload.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The file cannot be read.
    #[error("cannot read workload {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not a workload.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, with its line.
        what: String,
    },
}

impl Workload {
    /// Reads a workload.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn read(path: &Path) -> Result<Self, WorkloadError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| WorkloadError::Read {
            path: shown.clone(),
            source,
        })?;
        let workload: Self = toml::from_str(&text).map_err(|error| WorkloadError::Invalid {
            path: shown.clone(),
            what: error.to_string(),
        })?;
        match workload.problem() {
            Some(what) => Err(WorkloadError::Invalid { path: shown, what }),
            None => Ok(workload),
        }
    }

    fn problem(&self) -> Option<String> {
        if self.network.latency_ms_min > self.network.latency_ms_max {
            return Some("network: latency_ms_min is above latency_ms_max".to_owned());
        }
        if self.clients.count == 0 || self.clients.tasks == 0 || self.agents.is_empty() {
            return Some("there must be a client, a task and an agent".to_owned());
        }
        let mut crashes: Vec<_> = self
            .faults
            .iter()
            .filter(|f| f.kind == FaultKind::Crash)
            .collect();
        crashes.sort_by_key(|fault| fault.at_ms);
        let overlap = crashes
            .windows(2)
            .any(|pair| pair[0].at_ms + pair[0].for_ms > pair[1].at_ms);
        overlap.then(|| "faults: two crashes overlap".to_owned())
    }
}
