//! Snapshots of components: what they keep in the ledger beside what it knows itself.
//!
//! A snapshot saves work at a start, and nothing rests on it: a component that finds none that it can read
//! does without. Each node has its own.

use std::sync::Arc;

use colony_core::id::NodeId;
use colony_store::{Ledger, LedgerError, Snapshot, SnapshotKey};
use serde::{Serialize, de::DeserializeOwned};

/// The snapshots of one node.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    ledger: Arc<dyn Ledger>,
    node: NodeId,
}

impl Snapshots {
    pub(crate) fn new(ledger: Arc<dyn Ledger>, node: NodeId) -> Self {
        Self { ledger, node }
    }

    /// What is kept under `name` in the layout `version`. None when there is nothing, and with a warning
    /// when it has another layout or cannot be read.
    ///
    /// # Errors
    /// Storage.
    pub(crate) async fn load<T: DeserializeOwned>(
        &self,
        name: &str,
        version: u32,
    ) -> Result<Option<T>, LedgerError> {
        let snapshot = match self.ledger.snapshot(&self.key(name)).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(None),
            Err(error @ LedgerError::Unreadable { .. }) => {
                tracing::warn!(name, %error, "snapshot not readable, doing without");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if snapshot.version != version {
            let found = snapshot.version;
            tracing::warn!(
                name,
                found,
                version,
                "snapshot of another layout, doing without"
            );
            return Ok(None);
        }
        match serde_json::from_slice(&snapshot.body) {
            Ok(body) => Ok(Some(body)),
            Err(error) => {
                tracing::warn!(name, %error, "snapshot not readable, doing without");
                Ok(None)
            }
        }
    }

    /// Keeps `body` under `name`; replaces what was kept there.
    ///
    /// # Errors
    /// Storage.
    pub(crate) async fn save<T: Serialize + Sync>(
        &self,
        name: &str,
        version: u32,
        body: &T,
    ) -> Result<(), LedgerError> {
        let body = serde_json::to_vec(body).map_err(|error| LedgerError::Storage {
            what: format!("snapshot {name}: {error}"),
        })?;
        let snapshot = Snapshot { version, body };
        self.ledger.save_snapshot(self.key(name), snapshot).await
    }

    fn key(&self, name: &str) -> SnapshotKey {
        SnapshotKey {
            node: self.node.clone(),
            name: name.to_owned(),
        }
    }
}
