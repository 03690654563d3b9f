//! Following changes through a broken line: the stream is taken up again from its last cursor.

use std::time::Duration;

use colony_proto::v1::{TaskChange, WatchRequest, WatchResponse, watch_response::Event};
use tonic::{Code, Status, Streaming};

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
    /// Where to go on from.
    cursor: String,
    stream: Streaming<WatchResponse>,
    /// Whether it was taken up again: where the tasks stood then is told by changes too.
    resumed: bool,
}

impl Watch {
    /// Opens it. From here on no change is missed.
    pub(crate) async fn open(node: &Node, ask: WatchRequest) -> Result<Self, Failure> {
        let (stream, cursor) = match begin(node, ask.clone()).await {
            Ok(begun) => begun,
            Err(status) => return Err(node.failure(&status)),
        };
        Ok(Self {
            ask,
            cursor,
            stream,
            resumed: false,
        })
    }

    /// Where another watch can go on from, after what was told last.
    pub(crate) fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The next change, or where a task of the request stands at the beginning; none when the stream is
    /// complete. A change may come twice.
    pub(crate) async fn next(
        &mut self,
        node: &Node,
        out: Output,
    ) -> Result<Option<TaskChange>, Failure> {
        loop {
            match self.stream.message().await {
                Ok(Some(WatchResponse { cursor, event })) => {
                    self.cursor = cursor;
                    match event {
                        Some(Event::Change(change)) => return Ok(Some(change)),
                        Some(Event::Present(change)) if !self.resumed => return Ok(Some(change)),
                        Some(Event::Present(_)) | None => {}
                    }
                }
                Ok(None) if self.ask.until_ended => return Ok(None),
                // A node that drains closes its streams.
                Ok(None) => self.reopen(node, out).await?,
                Err(status) if is_break(status.code()) => self.reopen(node, out).await?,
                Err(status) => return Err(node.failure(&status)),
            }
        }
    }

    async fn reopen(&mut self, node: &Node, out: Output) -> Result<(), Failure> {
        out.note("the stream broke; taking it up again");
        self.ask.after_cursor = Some(self.cursor.clone());
        self.resumed = true;
        let begun = patiently(|| begin(node, self.ask.clone())).await;
        (self.stream, _) = begun.map_err(|status| node.failure(&status))?;
        Ok(())
    }
}

/// Opens a stream as soon as the node is back.
pub(super) async fn patiently<T, Fut>(open: impl Fn() -> Fut) -> Result<T, Status>
where
    Fut: Future<Output = Result<T, Status>>,
{
    let mut attempt = 0;
    loop {
        match open().await {
            Err(status)
                if attempt < ATTEMPTS_MAX
                    && (status.code() == Code::Unavailable || is_broken_line(&status)) =>
            {
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Opens a stream and reads its first message: where it goes on from if it breaks.
async fn begin(
    node: &Node,
    ask: WatchRequest,
) -> Result<(Streaming<WatchResponse>, String), Status> {
    let mut stream = node.tasks().watch(ask).await?.into_inner();
    match stream.message().await? {
        Some(first) => Ok((stream, first.cursor)),
        None => Err(Status::unavailable("the stream ended before it began")),
    }
}

/// Whether the line broke, rather than the request being wrong.
pub(super) fn is_break(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted
    )
}
