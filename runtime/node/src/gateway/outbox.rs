//! `colony.v1.Outbox`: messages for the world outside.
//!
//! ```text
//!   cursor ─► messages after it that nobody has acknowledged, page by page ─► wait for `posted` ─┐
//!                     ▲                                                                          │
//!                     └──────────────────────────────────────────────────────────────────────────┘
//! ```
//! Like the stream of state changes (`watch`), it reads the ledger by cursor, and nothing is buffered for a slow reader. A cursor
//! of the outbox is one of state changes with a prefix, so that neither is taken for the other.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use colony_proto::v1::{self, outbox_server::Outbox};
use colony_store::{OutboxFilter, Posted};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    GrpcServer,
    convert::{message_to_wire, parse_message_id, parse_page_size, parse_page_token},
    cursor::{WatchCursor, parse_cursor},
    pages::{ANSWER_BYTES_MAX, fit, next_token},
    status,
};
use crate::NodeHandle;

/// What a cursor of the outbox begins with.
const PREFIX: &str = "outbox:";
/// Most messages acknowledged at once.
const IDS_MAX: usize = 1_000;

/// What goes out.
type Messages = Pin<Box<dyn Stream<Item = Result<v1::WatchOutboxResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Outbox for GrpcServer {
    async fn list(
        &self,
        request: Request<v1::ListOutboxRequest>,
    ) -> Result<Response<v1::ListOutboxResponse>, Status> {
        let request = request.into_inner();
        let after = parse_page_token(&request.page_token, "page_token", str::parse::<u64>)?;
        let page = self
            .node
            .outbox(OutboxFilter {
                destination: destination(&request.destination),
                acknowledged_too: request.acknowledged_too,
                after: after.unwrap_or(0),
                limit: parse_page_size(request.page_size),
            })
            .await?;
        let messages = page.items.iter().map(message_to_wire);
        let numbers: Vec<u64> = page.items.iter().map(|posted| posted.number).collect();
        let page = fit(messages, page.more, ANSWER_BYTES_MAX);
        let last = page.items.len().saturating_sub(1);
        Ok(Response::new(v1::ListOutboxResponse {
            next_page_token: next_token(&page, |_| numbers[last].to_string()),
            messages: page.items,
        }))
    }

    type WatchStream = Messages;

    async fn watch(
        &self,
        request: Request<v1::WatchOutboxRequest>,
    ) -> Result<Response<Messages>, Status> {
        let permit = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| status::crowded("watch streams are open", self.limits.watches_max))?;
        let request = request.into_inner();
        let posted = self.node.posted();
        let newest = *posted.borrow();
        let cursor = match &request.after_cursor {
            None => cursor(&self.node, None),
            Some(text) => own(&self.node, text, newest).await?,
        };
        let mut watch = Watch {
            node: self.node.clone(),
            posted,
            closing: self.closing.clone(),
            _permit: permit,
            destination: destination(&request.destination),
            after: cursor.place,
            ready: VecDeque::new(),
        };
        watch.tell(cursor, None);
        Ok(Response::new(Box::pin(stream::try_unfold(
            watch,
            Watch::next,
        ))))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let ids = request.into_inner().ids;
        if ids.len() > IDS_MAX {
            let why = format!("{} ids are more than {IDS_MAX}", ids.len());
            return Err(status::argument("ids", &why));
        }
        let ids = ids.into_iter().enumerate();
        let ids = ids.map(|(index, id)| parse_message_id(id, &format!("ids[{index}]")));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let unknown = self.node.acknowledge(ids).await?.into_iter();
        let unknown = unknown.map(|id| v1::MessageId {
            effect_key: id.key.to_string(),
            index: id.index,
        });
        Ok(Response::new(v1::AcknowledgeResponse {
            unknown: unknown.collect(),
        }))
    }
}

struct Watch {
    node: NodeHandle,
    posted: watch::Receiver<u64>,
    closing: CancellationToken,
    _permit: OwnedSemaphorePermit,

    // What it looks for.
    destination: Option<String>,

    // Where it stands.
    after: u64,
    ready: VecDeque<v1::WatchOutboxResponse>,
}

impl Watch {
    async fn next(mut self) -> Result<Option<(v1::WatchOutboxResponse, Self)>, Status> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(Some((response, self)));
            }
            if self.closing.is_cancelled() {
                return Err(status::stopping());
            }
            // Seen before the page is read, so that a message in between wakes it again.
            self.posted.mark_unchanged();
            if self.read().await? {
                continue;
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {}
                changed = self.posted.changed() => {
                    changed.map_err(|_| status::stopping())?;
                }
            }
        }
    }

    /// Reads the next page; whether there was anything on it.
    async fn read(&mut self) -> Result<bool, Status> {
        let filter = OutboxFilter {
            destination: self.destination.clone(),
            acknowledged_too: false,
            after: self.after,
            limit: 0,
        };
        let page = self.node.outbox(filter).await?;
        for posted in &page.items {
            self.after = posted.number;
            self.tell(cursor(&self.node, Some(posted)), Some(posted));
        }
        Ok(!page.items.is_empty())
    }

    fn tell(&mut self, cursor: WatchCursor, posted: Option<&Posted>) {
        self.ready.push_back(v1::WatchOutboxResponse {
            cursor: to_wire(cursor),
            message: posted.map(message_to_wire),
        });
    }
}

fn destination(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The cursor behind a message, or before all of them.
fn cursor(node: &NodeHandle, posted: Option<&Posted>) -> WatchCursor {
    WatchCursor {
        ledger: node.ledger_id(),
        place: posted.map_or(0, |posted| posted.number),
        seen: posted.map(Posted::fingerprint),
    }
}

fn to_wire(cursor: WatchCursor) -> String {
    format!("{PREFIX}{cursor}")
}

/// A cursor of this very outbox, whose message is the one that it saw.
async fn own(node: &NodeHandle, text: &str, newest: u64) -> Result<WatchCursor, Status> {
    let rest = text.strip_prefix(PREFIX).ok_or_else(|| {
        let why = "is no cursor of the outbox; give back one that a watch has told";
        status::argument("after_cursor", &why)
    })?;
    let told = parse_cursor(rest)?;
    // What was acknowledged and is forgotten leaves no gap that anybody waits for: the beginning is always good.
    let begin = cursor(node, None);
    let refuse = |why: &str| status::out_of_range(&why, &to_wire(begin));
    told.is_of(begin.ledger).map_err(refuse)?;
    if told.place > newest {
        let why = format!("the cursor lies in the future: {newest} messages were posted");
        return Err(refuse(&why));
    }
    if told.seen.is_none() {
        return Ok(told);
    }
    let filter = OutboxFilter {
        acknowledged_too: true,
        after: told.place.saturating_sub(1),
        limit: 1,
        ..OutboxFilter::default()
    };
    let page = node.outbox(filter).await?;
    let Some(there) = page.items.iter().find(|posted| posted.number == told.place) else {
        // Forgotten, and nobody can say any more whether it was the one that this watcher saw: what nobody has acknowledged is
        // told twice rather than never.
        return Ok(begin);
    };
    told.has_seen(Some(there.fingerprint())).map_err(refuse)?;
    Ok(told)
}
