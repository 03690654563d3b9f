//! Following changes through a broken line: the stream is taken up again from its last cursor.

use std::time::Duration;

use colony_proto::v1::{TaskChange, WatchRequest};
use tonic::{Code, Streaming};

use super::Node;
use crate::{
    errors::{Failure, is_broken_line},
    output::Output,
};

/// Waits between attempts to take a stream up again: a node restarts in seconds.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts before giving up: a minute.
const ATTEMPTS_MAX: u32 = 120;

/// A stream of changes.
#[derive(Debug)]
pub(crate) struct Watch {
    ask: WatchRequest,
    stream: Streaming<TaskChange>,
}

impl Watch {
    /// Opens it.
    pub(crate) async fn open(node: &Node, ask: WatchRequest) -> Result<Self, Failure> {
        let stream = node.open(node.tasks().watch(ask.clone()).await)?;
        Ok(Self { ask, stream })
    }

    /// The next change; none when the stream is complete. A change may come twice, none of the last 100,000 is missed.
    pub(crate) async fn next(
        &mut self,
        node: &Node,
        out: Output,
    ) -> Result<Option<TaskChange>, Failure> {
        loop {
            match self.stream.message().await {
                Ok(Some(change)) => {
                    self.ask.after_cursor = Some(change.cursor);
                    return Ok(Some(change));
                }
                Ok(None) if self.ask.until_ended => return Ok(None),
                // A node that drains closes its streams.
                Ok(None) => self.reopen(node, out).await?,
                Err(status) if is_break(status.code()) => self.reopen(node, out).await?,
                Err(status) => return node.open(Err(status)),
            }
        }
    }

    async fn reopen(&mut self, node: &Node, out: Output) -> Result<(), Failure> {
        out.note("the stream broke; taking it up again");
        let mut attempt = 0;
        loop {
            match node.tasks().watch(self.ask.clone()).await {
                Ok(response) => {
                    self.stream = response.into_inner();
                    return Ok(());
                }
                Err(status)
                    if attempt < ATTEMPTS_MAX
                        && (status.code() == Code::Unavailable || is_broken_line(&status)) =>
                {
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => return node.open(Err(status)),
            }
        }
    }
}

/// Whether the line broke, rather than the request being wrong.
fn is_break(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted
    )
}
