//! Components' snapshots.

use rusqlite::params;

use super::{Done, WriteTxn};
use crate::{
    codec,
    ledger::{Snapshot, SnapshotKey},
    sqlite::tables::{SNAPSHOTS, columns},
};

impl WriteTxn<'_> {
    pub(in crate::sqlite) fn save_snapshot(
        &mut self,
        key: &SnapshotKey,
        snapshot: &Snapshot,
    ) -> Done<()> {
        let row = params![
            key.node.as_str(),
            key.name,
            snapshot.version,
            codec::snapshot(&snapshot.body)
        ];
        let sql = concat!(
            "INSERT OR REPLACE INTO snapshots (",
            columns!(snapshots),
            ", checksum) VALUES (?, ?, ?, ?, ?)"
        );
        self.put(&SNAPSHOTS, sql, row)?;
        Ok(())
    }
}
