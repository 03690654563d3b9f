//! Connections: how many there may be, and which are closed unasked.
//!
//! ```text
//!   accepted ─► silent ── first request ──► in use ◄──► idle ── idle_timeout ──► closed
//!                 └── first_request_timeout, or a newcomer needs its place ──► closed
//! ```
//! At the bound a newcomer takes the place of the connection that has been silent for longest; when all have made a
//! request it is closed at once. So whoever opens connections without using them keeps nobody out. Bytes
//! are no sign of use, or the answers to keepalive pings would be one: what counts is requests, and a request
//! lasts until its answer has been read, streams included. A connection on which a piece of an answer stays unread
//! for longer than `request_timeout` is closed, whatever else is going on there.
//!
//! Works around any transport: a connection that is to be closed reads as ended by the peer, after which the
//! server lets go of it; where nothing can be written, writing fails.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt, task::AtomicWaker};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tonic::transport::server::Connected;

use crate::config::Gateway;

/// Wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silent connections that are closed when one could not be accepted.
const EVICTED_AT_ONCE: usize = 16;

/// All connections of one server.
#[derive(Debug)]
struct Connections {
    max: usize,
    first_request_timeout: Duration,
    idle_timeout: Duration,
    unread_timeout: Duration,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    next_number: u64,
    /// Those that have made no request, the oldest first.
    silent: BTreeMap<u64, Arc<Activity>>,
}

/// The connections of `incoming` within the bounds of `limits`.
pub(super) fn bounded<I, IO>(
    incoming: I,
    limits: &Gateway,
) -> impl Stream<Item = io::Result<Connection<IO>>>
where
    I: Stream<Item = io::Result<IO>>,
{
    let connections = Arc::new(Connections {
        max: limits.connections_max,
        first_request_timeout: limits.first_request_timeout,
        idle_timeout: limits.idle_timeout,
        unread_timeout: limits.request_timeout,
        open: Mutex::default(),
    });
    incoming.filter_map(move |accepted| {
        let connections = Arc::clone(&connections);
        async move {
            match accepted {
                Ok(transport) => connections.admit(transport).map(Ok),
                Err(error) => {
                    // Most often the process has no descriptor left: it is asked again when there may be one.
                    tracing::warn!(%error, "connection not accepted");
                    connections.evict_silent(EVICTED_AT_ONCE);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    Some(Err(error))
                }
            }
        }
    })
}

impl Open {
    /// Closes the oldest connection that has not said anything; false: there is none.
    fn evict_silent(&mut self) -> bool {
        let oldest = self.silent.pop_first();
        if let Some((_, silent)) = &oldest {
            silent.evict();
        }
        oldest.is_some()
    }
}

impl Connections {
    /// Closes the oldest connections that have not said anything.
    fn evict_silent(&self, most: usize) {
        let mut open = self.open.lock();
        for _ in 0..most {
            if !open.evict_silent() {
                return;
            }
        }
    }

    /// Lets a connection in; none when all places are in use.
    fn admit<IO>(self: &Arc<Self>, transport: IO) -> Option<Connection<IO>> {
        let mut open = self.open.lock();
        if open.count >= self.max && !open.evict_silent() {
            drop(open);
            tracing::debug!(
                limit = self.max,
                "connection refused, all places are in use"
            );
            return None;
        }
        let number = open.next_number;
        open.next_number += 1;
        open.count += 1;
        let now = Instant::now();
        let first_by = now + self.first_request_timeout;
        let activity = Arc::new(Activity {
            number,
            connections: Arc::clone(self),
            use_: Mutex::new(Use::Silent { first_by }),
            unread: Mutex::default(),
            evicted: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        });
        open.silent.insert(number, Arc::clone(&activity));
        drop(open);
        Some(Connection {
            transport,
            // Looks at once when to look next.
            timer: Box::pin(tokio::time::sleep_until(now)),
            activity,
        })
    }
}

/// What a connection is used for.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// No request has come; one must by then.
    Silent { first_by: Instant },
    /// So many requests are in hand.
    Requests(usize),
    /// None is, since then.
    Idle { since: Instant },
}

/// Pieces of answers that the peer has not taken.
#[derive(Debug, Default)]
struct UnreadPieces {
    next_number: u64,
    /// Since when; the oldest first.
    since: BTreeMap<u64, Instant>,
}

/// What is known of one connection: shared by its transport and its requests.
#[derive(Debug)]
struct Activity {
    number: u64,
    connections: Arc<Connections>,
    use_: Mutex<Use>,
    unread: Mutex<UnreadPieces>,
    evicted: AtomicBool,
    /// Wakes whoever reads the connection, to find it evicted.
    reader: AtomicWaker,
}

impl Activity {
    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// When to look next whether it is to be closed; none: it is.
    fn look_again(&self, now: Instant) -> Option<Instant> {
        let Connections {
            idle_timeout,
            unread_timeout,
            ..
        } = *self.connections;
        let close_at = match *self.use_.lock() {
            Use::Silent { first_by } => Some(first_by),
            Use::Idle { since } => Some(since + idle_timeout),
            Use::Requests(_) => {
                let unread = self.unread.lock();
                let oldest = unread.since.first_key_value();
                oldest.map(|(_, since)| *since + unread_timeout)
            }
        };
        // Nobody sets the timer anew when a request begins, goes out or ends: the connection is closed between
        // one and two time-outs later.
        let next = now + idle_timeout.min(unread_timeout);
        match close_at {
            Some(at) => (at > now).then_some(at.min(next)),
            None => Some(next),
        }
    }
}

/// Goes with every request of a connection.
#[derive(Debug, Clone)]
pub(super) struct RequestSource(Arc<Activity>);

impl RequestSource {
    /// A request has come; it is in hand until the guard is dropped.
    pub(super) fn begin(&self) -> InHand {
        let mut use_ = self.0.use_.lock();
        match &mut *use_ {
            Use::Requests(count) => *count += 1,
            first @ Use::Silent { .. } => {
                *first = Use::Requests(1);
                drop(use_);
                let number = self.0.number;
                self.0.connections.open.lock().silent.remove(&number);
            }
            idle @ Use::Idle { .. } => *idle = Use::Requests(1),
        }
        InHand(Arc::clone(&self.0))
    }
}

/// A request that is in hand.
#[derive(Debug)]
pub(super) struct InHand(Arc<Activity>);

impl InHand {
    /// A piece of the answer goes out; it is unread until the guard is dropped.
    pub(super) fn unread(&self) -> Unread {
        let mut unread = self.0.unread.lock();
        let number = unread.next_number;
        unread.next_number += 1;
        unread.since.insert(number, Instant::now());
        Unread {
            activity: Arc::clone(&self.0),
            number,
        }
    }
}

/// A piece of an answer that the peer has not taken.
#[derive(Debug)]
pub(super) struct Unread {
    activity: Arc<Activity>,
    number: u64,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.activity.unread.lock().since.remove(&self.number);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut use_ = self.0.use_.lock();
        *use_ = match *use_ {
            Use::Requests(count) if count > 1 => Use::Requests(count - 1),
            Use::Requests(_) | Use::Silent { .. } | Use::Idle { .. } => Use::Idle {
                since: Instant::now(),
            },
        };
    }
}

/// A connection that is closed when it is not used.
#[derive(Debug)]
pub(super) struct Connection<IO> {
    transport: IO,
    timer: Pin<Box<Sleep>>,
    activity: Arc<Activity>,
}

impl<IO> Connection<IO> {
    /// Ready when it is to be closed.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.activity.reader.register(cx.waker());
        if self.activity.evicted.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            match self.activity.look_again(Instant::now()) {
                None => return Poll::Ready(()),
                Some(at) => self.timer.as_mut().reset(at),
            }
        }
    }
}

impl<IO> Drop for Connection<IO> {
    fn drop(&mut self) {
        let mut open = self.activity.connections.open.lock();
        open.count -= 1;
        open.silent.remove(&self.activity.number);
    }
}

impl<IO: Connected> Connected for Connection<IO> {
    type ConnectInfo = RequestSource;

    fn connect_info(&self) -> RequestSource {
        RequestSource(Arc::clone(&self.activity))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_closing(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl<IO> Connection<IO> {
    /// What writing came to; it fails where it would wait on a connection that is to be closed.
    fn written<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() && self.poll_closing(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.written(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        self.written(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.transport).poll_shutdown(cx);
        self.written(shut, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.written(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}
