//! The stream of state changes.
//!
//! ```text
//!   present states of the given tasks ─► changes after the cursor, page by page ─► wait for `latest` ─┐
//!                                          ▲                                                          │
//!                                          └──────────────────────────────────────────────────────────┘
//! ```
//! Reading the book by cursor rather than listening to events: nothing is buffered for a slow watcher, a
//! broken stream is taken up again from its last cursor, and none of the last 100,000 is missed. What was seen
//! just before the present states were read may be seen again.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
};

use colony_core::id::TaskId;
use colony_proto::v1;
use colony_store::{Change, Cursor, Ledger};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Door, refuse, tasks};

/// Most tasks watched by name in one stream: each is looked up once at the start.
const IDS_MAX: usize = 10_000;
/// Changes read at once.
const PAGE: u32 = 512;

/// Changes as they go out.
pub(super) type Changes = Pin<Box<dyn Stream<Item = Result<v1::TaskChange, Status>> + Send>>;

struct Watch {
    ledger: Arc<dyn Ledger>,
    latest: watch::Receiver<Cursor>,
    closing: CancellationToken,
    _permit: OwnedSemaphorePermit,

    // What it looks for.
    wanted: Option<BTreeSet<TaskId>>,
    until_ended: bool,

    // Where it stands.
    after: Cursor,
    open: BTreeSet<TaskId>,
    caught_up: bool,
    ready: VecDeque<v1::TaskChange>,
}

pub(super) async fn open(door: &Door, request: v1::WatchRequest) -> Result<Changes, Status> {
    let permit = Arc::clone(&door.watches)
        .try_acquire_owned()
        .map_err(|_| refuse::crowded(door.limits.watches_max))?;
    if request.task_ids.len() > IDS_MAX {
        let why = format!("{} ids are more than {IDS_MAX}", request.task_ids.len());
        return Err(refuse::argument("task_ids", &why));
    }
    if request.until_ended && request.task_ids.is_empty() {
        return Err(refuse::argument("until_ended", &"needs task_ids"));
    }
    let ids = request.task_ids.iter().map(|id| tasks::task_id(id));
    let ids = ids.collect::<Result<BTreeSet<_>, _>>()?;
    let ledger = Arc::clone(&door.rooms.ledger);
    let mut latest = ledger.latest();
    // Read before the states: a change in between is seen twice rather than never.
    let newest = *latest.borrow_and_update();
    let after = request.after_cursor.unwrap_or(newest);
    let mut open = BTreeSet::new();
    let mut ready = VecDeque::new();
    for id in &ids {
        let record = ledger
            .get(*id)
            .await
            .map_err(|error| refuse::ledger(&error))?;
        if !record.state.is_final() {
            open.insert(*id);
        }
        if request.after_cursor.is_none() {
            ready.push_back(v1::TaskChange {
                cursor: after,
                task_id: id.to_string(),
                state: tasks::state_out(record.state).into(),
                at_us: record.updated_at.as_micros(),
            });
        }
    }
    let watch = Watch {
        ledger,
        latest,
        closing: door.closing.clone(),
        _permit: permit,
        wanted: (!ids.is_empty()).then_some(ids),
        until_ended: request.until_ended,
        after,
        open,
        caught_up: false,
        ready,
    };
    Ok(Box::pin(stream::try_unfold(watch, Watch::next)))
}

impl Watch {
    async fn next(mut self) -> Result<Option<(v1::TaskChange, Self)>, Status> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(Some((change, self)));
            }
            if self.until_ended && self.open.is_empty() && self.caught_up {
                return Ok(None);
            }
            // Seen before the page is read, so that a change in between wakes it again.
            self.latest.mark_unchanged();
            let page = self.ledger.changes(self.after, PAGE).await;
            let page = page.map_err(|error| refuse::ledger(&error))?;
            self.caught_up = page.len() < PAGE as usize;
            let is_empty = page.is_empty();
            page.into_iter().for_each(|change| self.take(&change));
            if is_empty && !(self.until_ended && self.open.is_empty()) {
                tokio::select! {
                    biased;
                    () = self.closing.cancelled() => return Err(refuse::stopping()),
                    changed = self.latest.changed() => {
                        changed.map_err(|_| refuse::stopping())?;
                    }
                }
            }
        }
    }

    fn take(&mut self, change: &Change) {
        self.after = self.after.max(change.cursor);
        if self
            .wanted
            .as_ref()
            .is_some_and(|ids| !ids.contains(&change.task))
        {
            return;
        }
        if change.state.is_final() {
            self.open.remove(&change.task);
        }
        self.ready.push_back(v1::TaskChange {
            cursor: change.cursor,
            task_id: change.task.to_string(),
            state: tasks::state_out(change.state).into(),
            at_us: change.at.as_micros(),
        });
    }
}
