//! The readers: threads with a connection each, beside the writer and never in its way.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::schema;
use crate::ledger::LedgerError;

/// Reads are short, and the writer is what the machine is for.
const THREADS: usize = 2;
/// Most reads that wait; beyond it the answer is `Busy`.
const QUEUE_MAX: usize = 1_024;

pub(super) type Read = Box<dyn FnOnce(&mut Connection) + Send>;

/// A door to the reader threads; they end when the last door is gone.
#[derive(Debug)]
pub(super) struct Readers {
    queue: mpsc::SyncSender<Read>,
    pub(super) threads: Vec<thread::JoinHandle<()>>,
}

impl Readers {
    pub(super) fn spawn(path: &Path) -> Result<Self, LedgerError> {
        let (queue, reads) = mpsc::sync_channel::<Read>(QUEUE_MAX);
        let reads = Arc::new(Mutex::new(reads));
        let mut threads = Vec::new();
        for number in 1..=THREADS {
            let mut db = schema::open_reader(path)?;
            let reads = Arc::clone(&reads);
            let thread = thread::Builder::new()
                .name(format!("colony-reader-{number}"))
                .spawn(move || {
                    // The lock is held while waiting: the next reader waits for the lock instead.
                    while let Ok(read) = { reads.lock().recv() } {
                        read(&mut db);
                    }
                })
                .map_err(|e| schema::open_error(path, format!("has no reader thread: {e}")))?;
            threads.push(thread);
        }
        Ok(Self { queue, threads })
    }

    /// Queues a read.
    pub(super) fn send(&self, read: Read) -> Result<(), LedgerError> {
        self.queue.try_send(read).map_err(|refused| match refused {
            mpsc::TrySendError::Full(_) => LedgerError::Busy { waiting: QUEUE_MAX },
            mpsc::TrySendError::Disconnected(_) => LedgerError::Shut,
        })
    }

    /// Lets the threads go.
    pub(super) fn close(self) -> Vec<thread::JoinHandle<()>> {
        self.threads
    }
}
