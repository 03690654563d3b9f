//! Remembering which files were verified, so that a start does not hash 200 MB.
//!
//! A stamp is a file's hash with the size and the modification time it had then. Whoever changes
//! the file without changing these two is not noticed until `verify`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::{PullError, wheel};
use crate::digest::digest_file;
use crate::model_store::ModelStore;

const FILE_NAME: &str = "verified.json";

/// All stamps of a model store. Places are relative to it.
#[derive(Debug)]
pub(super) struct Stamps {
    root: PathBuf,
    files: BTreeMap<PathBuf, Stamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    bytes: u64,
    modified_ns: u64,
}

impl Stamps {
    /// What is remembered; nothing if the file is missing or unreadable, which costs one hashing.
    pub(super) fn load(store: &ModelStore) -> Self {
        let root = store.root().to_path_buf();
        let text = fs::read(root.join(FILE_NAME)).unwrap_or_default();
        Self {
            root,
            files: serde_json::from_slice(&text).unwrap_or_default(),
        }
    }

    /// Whether the file at `place` is the one that was verified to have this hash.
    pub(super) fn holds(&self, place: &Path, sha256: &str) -> bool {
        let Some(stamp) = self.files.get(place) else {
            return false;
        };
        stamp.sha256 == sha256
            && self.look(place).is_some_and(|(bytes, modified_ns)| {
                stamp.bytes == bytes && stamp.modified_ns == modified_ns
            })
    }

    /// Whether a file of this size is at `place`.
    pub(super) fn has_size(&self, place: &Path, bytes: u64) -> bool {
        self.look(place).is_some_and(|(found, _)| found == bytes)
    }

    /// Stamps a file that its writer has just verified.
    pub(super) fn record(&mut self, place: &Path, sha256: &str) -> Result<(), PullError> {
        if let Some((bytes, modified_ns)) = self.look(place) {
            let stamp = Stamp {
                sha256: sha256.to_owned(),
                bytes,
                modified_ns,
            };
            self.files.insert(place.to_owned(), stamp);
        }
        self.save()
    }

    /// Hashes the file at `place` and stamps it if it is the right one.
    pub(super) fn adopt(&mut self, place: &Path, sha256: &str) -> Result<(), PullError> {
        let path = self.root.join(place);
        let found = digest_file(&path).map_err(|source| PullError::files(&path, source))?;
        if found.sha256 == sha256 {
            self.record(place, sha256)
        } else {
            Ok(())
        }
    }

    /// Forgets a file by its full path.
    pub(super) fn forget(&mut self, path: &Path) -> Result<(), PullError> {
        let place = path.strip_prefix(&self.root).unwrap_or(path);
        match self.files.remove(place) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    fn look(&self, place: &Path) -> Option<(u64, u64)> {
        let found = fs::metadata(self.root.join(place)).ok()?;
        let modified = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((found.len(), u64::try_from(modified.as_nanos()).ok()?))
    }

    fn save(&self) -> Result<(), PullError> {
        let path = self.root.join(FILE_NAME);
        let text = serde_json::to_vec_pretty(&self.files).expect("plain data has a JSON form");
        wheel::write_whole(&path, &text).map_err(|source| PullError::files(&path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_ends_with_any_change_of_the_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = ModelStore::new(dir.path());
        let place = Path::new("file");
        fs::write(dir.path().join(place), "one").expect("written");
        let mut stamps = Stamps::load(&store);
        stamps.record(place, "hash").expect("stamped");
        let stamps = Stamps::load(&store);
        assert!(stamps.holds(place, "hash"));
        assert!(!stamps.holds(place, "other"));
        fs::write(dir.path().join(place), "longer").expect("written");
        assert!(!stamps.holds(place, "hash"));
        fs::remove_file(dir.path().join(place)).expect("removed");
        assert!(!stamps.holds(place, "hash"));
    }

    #[test]
    fn a_file_put_there_by_hand_is_adopted_only_with_the_right_hash() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let place = Path::new("file");
        fs::write(dir.path().join(place), "one").expect("written");
        let mut stamps = Stamps::load(&ModelStore::new(dir.path()));
        stamps.adopt(place, "wrong").expect("hashed");
        assert!(!stamps.holds(place, "wrong"));
        let right = digest_file(&dir.path().join(place)).expect("hashed").sha256;
        stamps.adopt(place, &right).expect("hashed");
        assert!(stamps.holds(place, &right));
    }
}
