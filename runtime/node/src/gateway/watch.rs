//! The stream of state changes.
//!
//! ```text
//!   cursor ─► present states of the given tasks ─► changes after the cursor, page by page ─► wait for `latest` ─┐
//!                                                    ▲                                                          │
//!                                                    └──────────────────────────────────────────────────────────┘
//! ```
//! Reading the ledger by cursor rather than listening to events: nothing is buffered for a slow watcher, and a
//! broken stream is taken up again from its last cursor. Every message carries one, the first one nothing else.
//! A present state carries the cursor that the stream began at: whoever goes on from there misses none of the
//! changes that led to it. A cursor names its ledger and the change that was seen last. One of another ledger, one
//! whose changes are not kept any more or have not happened, and one that saw another change there, as after a
//! backup was put back, is refused with the oldest cursor that is good: gaps are never passed over.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
};

use colony_core::id::TaskId;
use colony_proto::v1::{self, watch_response::Event};
use colony_store::{Change, Cursor, LedgerError};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    GrpcServer,
    convert::{parse_task_id, state_to_wire},
    cursor::{WatchCursor, parse_cursor},
    status,
};
use crate::{NodeHandle, Problem};

/// Most tasks watched by name in one stream: each is looked up once at the start.
const IDS_MAX: usize = 10_000;
/// Changes read at once.
const PAGE: u32 = 512;

/// What goes out.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

struct Watch {
    ledger: Ledger,
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
    ready: VecDeque<v1::WatchResponse>,
}

pub(super) async fn open(server: &GrpcServer, request: v1::WatchRequest) -> Result<Events, Status> {
    let permit = Arc::clone(&server.watches)
        .try_acquire_owned()
        .map_err(|_| status::crowded("watch streams are open", server.limits.watches_max))?;
    if request.task_ids.len() > IDS_MAX {
        let why = format!("{} ids are more than {IDS_MAX}", request.task_ids.len());
        return Err(status::argument("task_ids", &why));
    }
    if request.until_ended && request.task_ids.is_empty() {
        return Err(status::argument("until_ended", &"needs task_ids"));
    }
    let ids = request.task_ids.iter();
    let ids = ids.map(|id| parse_task_id(id, "task_ids"));
    let ids = ids.collect::<Result<BTreeSet<_>, _>>()?;
    let ledger = Ledger(server.node.clone());
    let mut latest = server.node.latest();
    // Read before the states: a change in between is seen twice rather than never.
    let newest = *latest.borrow_and_update();
    let cursor = match &request.after_cursor {
        None => ledger.cursor_at(newest).await?,
        Some(text) => ledger.own(parse_cursor(text)?).await?,
    };
    let mut watch = Watch {
        ledger,
        latest,
        closing: server.closing.clone(),
        _permit: permit,
        wanted: None,
        until_ended: request.until_ended,
        after: cursor.place,
        open: BTreeSet::new(),
        caught_up: false,
        ready: VecDeque::new(),
    };
    watch.tell(cursor, None);
    for id in &ids {
        let head = server.node.task(*id).await?.head;
        if !head.state.is_final() {
            watch.open.insert(*id);
        }
        let present = v1::TaskChange {
            task_id: id.to_string(),
            state: state_to_wire(head.state).into(),
            at_us: head.updated_at.as_micros(),
        };
        watch.tell(cursor, Some(Event::Present(present)));
    }
    if !ids.is_empty() {
        watch.wanted = Some(ids);
    }
    // A cursor that is no good is refused before the stream begins.
    watch.read().await?;
    Ok(Box::pin(stream::try_unfold(watch, Watch::next)))
}

impl Watch {
    async fn next(mut self) -> Result<Option<(v1::WatchResponse, Self)>, Status> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(Some((response, self)));
            }
            if self.until_ended && self.open.is_empty() && self.caught_up {
                return Ok(None);
            }
            if self.closing.is_cancelled() {
                return Err(status::stopping());
            }
            // Seen before the page is read, so that a change in between wakes it again.
            self.latest.mark_unchanged();
            let read_none = self.read().await? == 0;
            if read_none && !(self.until_ended && self.open.is_empty()) {
                tokio::select! {
                    biased;
                    () = self.closing.cancelled() => {}
                    changed = self.latest.changed() => {
                        changed.map_err(|_| status::stopping())?;
                    }
                }
            }
        }
    }

    /// Reads the next page of changes; returns how many there were.
    async fn read(&mut self) -> Result<usize, Status> {
        let page = self.ledger.changes(self.after, PAGE).await?;
        self.caught_up = page.len() < PAGE as usize;
        for change in &page {
            self.after = change.cursor;
            let wanted = self.wanted.as_ref();
            if wanted.is_none_or(|ids| ids.contains(&change.task)) {
                self.take(change);
            }
        }
        Ok(page.len())
    }

    fn take(&mut self, change: &Change) {
        if change.state.is_final() {
            self.open.remove(&change.task);
        } else if self.wanted.is_some() {
            // Revived, or its earlier states are told after the present one.
            self.open.insert(change.task);
        }
        let told = v1::TaskChange {
            task_id: change.task.to_string(),
            state: state_to_wire(change.state).into(),
            at_us: change.at.as_micros(),
        };
        self.tell(self.ledger.cursor_behind(change), Some(Event::Change(told)));
    }

    fn tell(&mut self, cursor: WatchCursor, event: Option<Event>) {
        let cursor = cursor.to_string();
        self.ready.push_back(v1::WatchResponse { cursor, event });
    }
}

/// The ledger as a watcher sees it: cursors name it.
struct Ledger(NodeHandle);

impl Ledger {
    fn cursor(&self, place: Cursor, seen: Option<u32>) -> WatchCursor {
        WatchCursor {
            ledger: self.0.ledger_id(),
            place,
            seen,
        }
    }

    fn cursor_behind(&self, change: &Change) -> WatchCursor {
        self.cursor(change.cursor, Some(change.fingerprint()))
    }

    /// The cursor behind the change at `place`; where that is not there, of one who saw nothing.
    async fn cursor_at(&self, place: Cursor) -> Result<WatchCursor, Status> {
        if place == 0 {
            return Ok(self.cursor(0, None));
        }
        let page = match self.0.changes(before(place), 1).await {
            Ok(page) => page,
            Err(Problem::Ledger(LedgerError::OutOfRange { .. })) => Vec::new(),
            Err(problem) => return Err(problem.into()),
        };
        let seen = page.first().map(Change::fingerprint);
        Ok(self.cursor(place, seen))
    }

    /// A cursor of this very ledger, whose changes are those that led to it.
    async fn own(&self, cursor: WatchCursor) -> Result<WatchCursor, Status> {
        let fits = match cursor.is_of(self.0.ledger_id()) {
            Ok(()) if cursor.seen.is_some() => {
                let page = self.changes(before(cursor.place), 1).await?;
                cursor.has_seen(page.first().map(Change::fingerprint))
            }
            fits => fits,
        };
        match fits {
            Ok(()) => Ok(cursor),
            Err(why) => Err(status::out_of_range(&why, &self.oldest().await?)),
        }
    }

    /// The cursor before all changes that are kept.
    async fn oldest(&self) -> Result<String, Status> {
        let place = match self.0.changes(0, 1).await {
            Ok(_) => 0,
            Err(Problem::Ledger(LedgerError::OutOfRange { oldest, .. })) => before(oldest),
            Err(problem) => return Err(problem.into()),
        };
        Ok(self.cursor(place, None).to_string())
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, Status> {
        self.0.changes(after, limit).await.map_err(|problem| {
            let Problem::Ledger(LedgerError::OutOfRange { oldest, .. }) = problem else {
                return problem.into();
            };
            let oldest = self.cursor(before(oldest), None);
            status::out_of_range(&problem, &oldest.to_string())
        })
    }
}

/// The cursor after which `change` is the first.
const fn before(change: Cursor) -> Cursor {
    change.saturating_sub(1)
}
