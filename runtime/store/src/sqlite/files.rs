//! The files: private to the user who runs the node, in a folder that survives a power cut, with a log
//! that is as large as it will be.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::mark;

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};

/// The write-ahead log is written full of zeros once, so that commits overwrite blocks that exist: a
/// sync then need not allocate. 16 MiB: reached by a busy node within seconds, no burden for an idle one.
pub(super) const PREALLOCATE_BYTES: u64 = 16 * 1024 * 1024;

/// What tasks say is nobody else's business.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// The path of a file beside the ledger's.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a file for writing, for its owner only where it is new.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    options.mode(FILE_MODE);
    options
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// Creates the folder of the ledger where it is missing, for its owner only.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(FOLDER_MODE);
    builder.create(folder)?;
    // Each new folder's name lies in the one above it.
    missing
        .into_iter()
        .try_for_each(|folder| sync_folder(folder_of(folder)))
}

/// Creates the ledger's file where it is missing, and takes from others what they could read of an old
/// one. SQLite gives the files that it makes beside it the same rights. True: there is a ledger in it.
pub(super) fn create_file(path: &Path) -> io::Result<bool> {
    let file = private().open(path)?;
    #[cfg(unix)]
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        for suffix in ["", "-wal", "-shm", ".lock", mark::SUFFIX] {
            let path = beside(path, suffix);
            if path.exists() {
                std::fs::set_permissions(&path, Permissions::from_mode(FILE_MODE))?;
            }
        }
    }
    Ok(file.metadata()?.len() > 0)
}

/// Makes the names of new files durable. Until then a power cut may take a file away whose content was
/// synced.
pub(super) fn sync_names(path: &Path) -> io::Result<()> {
    sync_folder(folder_of(path))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Bytes of the log's index: of as many pages as the log has, before it is checkpointed.
const INDEX_BYTES: usize = 64 * 1024;

/// Makes room for the log's index, which SQLite would make while it commits: on a full disk nobody could say then whether the
/// commit had been made.
pub(super) fn preallocate_index(path: &Path) -> io::Result<()> {
    let index = beside(path, "-shm");
    let mut file = private().append(true).open(index)?;
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    file.write_all(&vec![0; INDEX_BYTES.saturating_sub(there)])
}

/// Writes the log's file full of zeros where there is no log. SQLite takes a log without a valid header
/// for an empty one, but deletes any that lies beside an empty ledger: so this comes after its first page.
pub(super) fn preallocate(path: &Path) -> io::Result<()> {
    let log = beside(path, "-wal");
    if log.exists() {
        return Ok(());
    }
    let mut file = private().open(&log)?;
    let zeros = vec![0_u8; 1024 * 1024];
    let mut written = 0;
    while written < PREALLOCATE_BYTES {
        file.write_all(&zeros)?;
        written += zeros.len() as u64;
    }
    file.sync_all()
}
