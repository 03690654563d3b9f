//! The readers: threads with a connection each, beside the writer and never in its way.
//!
//! Two lanes, so that whoever pages through everything does not delay an agent that needs one journal. A
//! read whose caller has left is not done.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc,
    thread,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    read::ReadTxn,
    schema,
    tables::Damage,
    txn::TxnError,
    writer::{failure, reason},
};
use crate::ledger::LedgerError;

/// Most reads that wait in a lane; beyond it the answer is `Busy`.
const QUEUE_MAX: usize = 1_024;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Which reads wait for each other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Of one row or one task: microseconds.
    Point,
    /// Of pages and whole tables.
    Scan,
}

/// What a read gives: its answer, and rows that could not be read and are not set aside yet.
pub(super) type Answer<T> = (Result<T, LedgerError>, Vec<Damage>);

/// The way in to the reader threads; they end when it is gone.
#[derive(Debug)]
pub(super) struct Readers {
    point: mpsc::SyncSender<Job>,
    scan: mpsc::SyncSender<Job>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Readers {
    pub(super) fn spawn(path: &Path) -> Result<Self, LedgerError> {
        let (point, point_thread) = spawn(path, "colony-reader-point")?;
        let (scan, scan_thread) = spawn(path, "colony-reader-scan")?;
        Ok(Self {
            point,
            scan,
            threads: vec![point_thread, scan_thread],
        })
    }

    /// Queues a read.
    pub(super) fn send<T: Send + 'static>(
        &self,
        lane: Lane,
        read: impl FnOnce(&mut ReadTxn<'_>) -> Result<T, TxnError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Answer<T>>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            if !reply.is_closed() {
                // A caller who has gone since needs no answer.
                let _ = reply.send(in_one_moment(db, read));
            }
        });
        let lane = match lane {
            Lane::Point => &self.point,
            Lane::Scan => &self.scan,
        };
        lane.try_send(job).map_err(|refused| match refused {
            mpsc::TrySendError::Full(_) => LedgerError::Busy { waiting: QUEUE_MAX },
            mpsc::TrySendError::Disconnected(_) => LedgerError::Shut,
        })?;
        Ok(answer)
    }

    /// Lets the threads go.
    pub(super) fn close(self) -> Vec<thread::JoinHandle<()>> {
        self.threads
    }
}

fn spawn(
    path: &Path,
    name: &str,
) -> Result<(mpsc::SyncSender<Job>, thread::JoinHandle<()>), LedgerError> {
    let mut db = schema::open_reader(path)?;
    let (queue, jobs) = mpsc::sync_channel::<Job>(QUEUE_MAX);
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            while let Ok(job) = jobs.recv() {
                job(&mut db);
            }
        })
        .map_err(|e| schema::open_error(path, format!("has no reader thread: {e}")))?;
    Ok((queue, thread))
}

/// One read, in one transaction. A panic is an error of this read and of no other.
fn in_one_moment<T>(
    db: &mut Connection,
    read: impl FnOnce(&mut ReadTxn<'_>) -> Result<T, TxnError>,
) -> Answer<T> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let moment = db.transaction()?;
        let mut txn = ReadTxn {
            db: &moment,
            damages: Vec::new(),
        };
        let outcome = read(&mut txn);
        let damages = txn.new_damages()?;
        Ok((outcome, damages))
    }));
    let refused = |error: TxnError| match error {
        TxnError::Refused(refusal) => refusal,
        TxnError::Failed(error) => failure(&error),
    };
    match outcome {
        Ok(Ok((outcome, damages))) => (outcome.map_err(refused), damages),
        Ok(Err(error)) => (Err(refused(TxnError::Failed(error))), Vec::new()),
        Err(panic) => {
            let what = format!("a read panicked: {}", reason(&*panic));
            tracing::error!(what, "a read of the ledger broke off");
            (Err(LedgerError::Storage { what }), Vec::new())
        }
    }
}
