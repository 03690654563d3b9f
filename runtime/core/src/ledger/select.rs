//! Which tasks a verb is about: each selection stands here once, as a predicate and an order. An engine
//! writes it as one statement of its own, and its conformance suite holds the statement against these.

use super::TaskHead;
use crate::{
    id::{Incarnation, NodeId, QueueName, TaskId, Tenant},
    unit::Timestamp,
};

/// A selection of live tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select<'a> {
    /// Ready to be claimed: of this tenant, in this queue, in time.
    Claimable {
        /// Whose.
        tenant: &'a Tenant,
        /// Where.
        queue: &'a QueueName,
    },
    /// Ready, and its wait is over.
    Due,
    /// Live past its deadline.
    Expired,
    /// Held by a node that has begun another life.
    HeldBefore {
        /// The node.
        node: &'a NodeId,
        /// Its present life.
        incarnation: Incarnation,
    },
    /// Held by anybody else: what the only node of a ledger finds of nodes that were there before it.
    HeldByOthers {
        /// The only node.
        node: &'a NodeId,
    },
    /// Taken by this claim request and held still.
    HeldIn {
        /// The node.
        node: &'a NodeId,
        /// Its life.
        incarnation: Incarnation,
        /// The request.
        batch: u64,
    },
}

impl Select<'_> {
    /// Whether `head` is selected at `now`.
    #[must_use]
    pub fn matches(&self, head: &TaskHead, now: Timestamp) -> bool {
        let holder = head.holder.as_ref();
        match self {
            Self::Claimable { tenant, queue } => {
                head.is_queued()
                    && head.tenant == **tenant
                    && head.queue == **queue
                    && head.deadline.is_none_or(|deadline| deadline > now)
            }
            Self::Due => head.due_at().is_some_and(|due| due <= now),
            Self::Expired => head.expires_at().is_some_and(|deadline| deadline <= now),
            Self::HeldBefore { node, incarnation } => {
                holder.is_some_and(|h| h.node == **node && h.incarnation < *incarnation)
            }
            Self::HeldByOthers { node } => holder.is_some_and(|h| h.node != **node),
            Self::HeldIn {
                node,
                incarnation,
                batch,
            } => holder.is_some_and(|h| {
                h.node == **node && h.incarnation == *incarnation && h.batch == *batch
            }),
        }
    }

    /// Where `head` stands among those selected; the lowest comes first.
    #[must_use]
    pub fn order(&self, head: &TaskHead) -> (i64, TaskId) {
        let micros = |at: Option<Timestamp>| {
            at.map_or(i64::MAX, |at| {
                i64::try_from(at.as_micros()).unwrap_or(i64::MAX)
            })
        };
        let key = match self {
            Self::Claimable { .. } | Self::HeldIn { .. } => head.sort_key,
            Self::Due => micros(head.not_before),
            Self::Expired => micros(head.deadline),
            Self::HeldBefore { .. } | Self::HeldByOthers { .. } => 0,
        };
        (key, head.id)
    }
}
