//! The bounds that every engine keeps.

use colony_core::{
    ledger::Record,
    task::{Answer, Ending, Spec},
};

use crate::ledger::{Approval, EpisodeChange, OutboxMessage, PAGE_BYTES_MAX, PAGE_MAX, Page};

/// Most writes that wait for the disk; beyond it the answer is `Busy`. 64 submitters of 64 tasks each.
pub(crate) const QUEUE_MAX: usize = 4_096;

/// The length of a page that was asked for.
pub(crate) fn page(limit: u32) -> usize {
    let limit = if limit == 0 { PAGE_MAX } else { limit };
    size(limit.min(PAGE_MAX))
}

/// A count as the platform counts.
pub(crate) fn size(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Fills a page in order until it is full by number or by bytes.
#[derive(Debug)]
pub(crate) struct PageFiller<T> {
    page: Page<T>,
    limit: usize,
    bytes: usize,
}

impl<T> PageFiller<T> {
    /// For a page of the length that was asked for ([`page`]).
    pub(crate) fn new(limit: u32) -> Self {
        Self::up_to(page(limit))
    }

    /// For a page of at most `limit` items, however many these are.
    pub(crate) fn up_to(limit: usize) -> Self {
        Self {
            page: Page::default(),
            limit,
            bytes: 0,
        }
    }

    /// Puts one more item on the page; false when it is full and the item was left for the next one.
    pub(crate) fn put(&mut self, item: T, bytes: usize) -> bool {
        let empty = self.page.items.is_empty();
        let fits = self.page.items.len() < self.limit && self.bytes + bytes <= PAGE_BYTES_MAX;
        if !empty && !fits {
            self.page.more = true;
            return false;
        }
        self.bytes += bytes;
        self.page.items.push(item);
        true
    }

    pub(crate) fn finish(self) -> Page<T> {
        self.page
    }
}

/// Bytes of payload in a task.
pub(crate) fn record_bytes(record: &Record) -> usize {
    let ending = record
        .head
        .ending
        .as_ref()
        .map_or(0, |ending| match ending {
            Ending::Done(answer) => answer_bytes(answer),
            Ending::Failed { reason } => reason.len(),
        });
    spec_bytes(&record.spec) + ending
}

/// Bytes of payload in a question.
pub(crate) fn approval_bytes(approval: &Approval) -> usize {
    let question = &approval.question;
    spec_bytes(&approval.spec)
        + question.question.len()
        + answer_bytes(&question.proposal)
        + question.evidence.bytes()
}

/// Bytes of payload in a message of the outbox.
pub(crate) fn message_bytes(message: &OutboxMessage) -> usize {
    message.payload.to_string().len()
}

/// About what a change of a stream of episodes takes.
pub(crate) fn change_bytes(change: &EpisodeChange) -> usize {
    match change {
        EpisodeChange::Learned(episode) => {
            size_of_val(&*episode.vector) + episode.text.len() + episode.label.len()
        }
        EpisodeChange::Forgotten { .. } => size_of::<EpisodeChange>(),
    }
}

fn spec_bytes(spec: &Spec) -> usize {
    let attributes: usize = spec.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
    spec.input.len() + attributes
}

fn answer_bytes(answer: &Answer) -> usize {
    answer.text.len() + answer.reason.len()
}
