//! The stream of questions.
//!
//! ```text
//!   what is open, page by page ─► caught up ─► changes of tasks ─► wait for `latest` ─┐
//!                                                ▲                                    │
//!                                                └────────────────────────────────────┘
//! ```
//! A level, not an edge: every stream begins with all that is open, so a broken one is opened anew and nothing was
//! missed. What happens to questions is told by the changes of their tasks: one that waits has asked, and when it
//! goes on its question is decided or closed. The stream of changes is read from where it stood before the first
//! page, so that nothing falls in between.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
};

use colony_core::{
    id::{ApprovalId, TaskId},
    task::State,
};
use colony_proto::v1::{self, watch_approvals_response::Event};
use colony_store::{Approval, ApprovalFilter, Change, Cursor, LedgerError, QuestionState};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    super::{GrpcServer, status},
    approval_to_wire, parse_optional, parse_tenant_filter, parse_type,
};
use crate::{NodeHandle, Problem};

/// Questions, and changes, read at once.
const PAGE: u32 = 256;

/// What goes out.
pub(crate) type Events =
    Pin<Box<dyn Stream<Item = Result<v1::WatchApprovalsResponse, Status>> + Send>>;

struct Watch {
    node: NodeHandle,
    latest: watch::Receiver<Cursor>,
    closing: CancellationToken,
    _permit: OwnedSemaphorePermit,

    // What it looks for.
    filter: ApprovalFilter,

    // Where it stands.
    caught_up: bool,
    after: Cursor,
    /// The open questions that were told of.
    open: BTreeMap<TaskId, ApprovalId>,
    ready: VecDeque<Event>,
}

pub(super) fn open(
    server: &GrpcServer,
    request: &v1::WatchApprovalsRequest,
) -> Result<Events, Status> {
    let permit = Arc::clone(&server.watches)
        .try_acquire_owned()
        .map_err(|_| status::crowded("watch streams are open", server.limits.watches_max))?;
    let filter = ApprovalFilter {
        tenant: parse_tenant_filter(&request.tenant)?,
        agent_type: parse_optional(&request.agent_type, |name| parse_type(name, "agent_type"))?,
        limit: PAGE,
        ..ApprovalFilter::default()
    };
    let mut latest = server.node.latest();
    // Read before the questions: what happens in between is looked at again rather than never.
    let after = *latest.borrow_and_update();
    let watch = Watch {
        node: server.node.clone(),
        latest,
        closing: server.closing.clone(),
        _permit: permit,
        filter,
        caught_up: false,
        after,
        open: BTreeMap::new(),
        ready: VecDeque::new(),
    };
    Ok(Box::pin(stream::try_unfold(watch, Watch::next)))
}

impl Watch {
    async fn next(mut self) -> Result<Option<(v1::WatchApprovalsResponse, Self)>, Status> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                let response = v1::WatchApprovalsResponse { event: Some(event) };
                return Ok(Some((response, self)));
            }
            if self.closing.is_cancelled() {
                return Err(status::stopping());
            }
            if self.caught_up {
                self.follow().await?;
            } else {
                self.read_open().await?;
            }
        }
    }

    /// Reads the next page of what is open.
    async fn read_open(&mut self) -> Result<(), Status> {
        let page = self.node.approvals(self.filter.clone()).await?;
        for approval in &page.items {
            self.tell_open(approval);
        }
        self.filter.after = page.items.last().map(|approval| approval.question.id);
        if !page.more {
            self.filter.after = None;
            self.caught_up = true;
            self.ready.push_back(Event::CaughtUp(v1::CaughtUp {}));
        }
        Ok(())
    }

    /// Reads the next page of changes, or waits for one.
    async fn follow(&mut self) -> Result<(), Status> {
        // Seen before the page is read, so that a change in between wakes it again.
        self.latest.mark_unchanged();
        let page = self.node.changes(self.after, PAGE).await?;
        for change in &page {
            self.take(change).await?;
            self.after = change.cursor;
        }
        if page.is_empty() {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {}
                changed = self.latest.changed() => {
                    changed.map_err(|_| status::stopping())?;
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, change: &Change) -> Result<(), Status> {
        if let Some(known) = self.open.get(&change.task) {
            match self.node.approval(*known).await {
                // A change that led to the question may come after it.
                Ok(approval) if approval.state == QuestionState::Open => return Ok(()),
                Ok(approval) => {
                    let settled = approval_to_wire(&self.node, &approval);
                    self.ready.push_back(Event::Settled(settled));
                }
                // It was set aside, and its task is dead: the others are told of all the same.
                Err(Problem::Ledger(LedgerError::Unreadable { .. })) => {}
                Err(problem) => return Err(problem.into()),
            }
            self.open.remove(&change.task);
        }
        if change.state == State::Waiting {
            let filter = ApprovalFilter {
                task: Some(change.task),
                ..self.filter.clone()
            };
            let page = self.node.approvals(filter).await?;
            for approval in &page.items {
                self.tell_open(approval);
            }
        }
        Ok(())
    }

    fn tell_open(&mut self, approval: &Approval) {
        self.open.insert(approval.task, approval.question.id);
        let open = approval_to_wire(&self.node, approval);
        self.ready.push_back(Event::Open(open));
    }
}
