//! The lock file: one process at a time.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
    time::Duration,
};

use super::files::{beside, private};
use super::schema::open_error;
use crate::ledger::LedgerError;

/// How often a held lock is asked for again.
const LOCK_TRIES: u32 = 40;
/// Time between two of them: two seconds in all.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Holds the file against other processes for as long as it lives. The operating system lets go of it
/// when the process dies, however it dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, LedgerError> {
        let lock_path = beside(path, ".lock");
        let mut file = private()
            .read(true)
            .open(&lock_path)
            .map_err(|e| open_error(&lock_path, format!("cannot be opened: {e}")))?;
        match wait_for(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let pid = if known { holder.trim() } else { "unknown" };
                let what = format!(
                    "is open in another process (pid {pid}); stop it or choose another data directory"
                );
                return Err(open_error(path, what));
            }
            Err(TryLockError::Error(e)) => {
                return Err(open_error(&lock_path, format!("cannot be locked: {e}")));
            }
        }
        // The pid is for people; that it cannot be written is no reason not to work.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(Self { _file: file })
    }
}

/// Takes the lock, with patience for a process that was just killed: the system lets go of its files a
/// moment after whoever killed it goes on.
#[expect(
    clippy::disallowed_methods,
    reason = "opening blocks anyway, and there is no condition to wait for"
)]
fn wait_for(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    file.try_lock()
}
