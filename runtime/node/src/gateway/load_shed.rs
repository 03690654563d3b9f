//! The first thing a request meets: is there room for one more, and is it done in time?
//!
//! A request holds a permit until its answer has been read: every piece of the answer carries the permit through
//! the transport's own buffers, so that clients who never read cannot fill the memory. Full: it is refused at once
//! with a time to come back (health checks are let through, or a busy node would be taken for a dead one). The
//! answer must begin within the time limit, and end within the same again once it has begun. A piece that
//! its reader does not take in that time costs him the connection ([`super::connections`]).
//!
//! Streams named `Watch` end when their reader wants it, and each kind has a bound of its own: they hold the
//! permit until they begin, and only the pieces have a time limit.
//!
//! The transport's own refusals (wrong UTF-8, too large) are turned into ours on the way out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Bytes,
        http::{Request, Response},
    },
};
use tower::{Layer, Service};

use super::{
    connections::{InHand, RequestSource, Unread},
    status,
};

/// Paths that need no permit and have no time limit.
const ALWAYS_OPEN: &str = "/grpc.health.v1.Health/";
/// Takes as long as the ledger is large; the caller's own deadline counts.
const UNTIMED: &str = "/colony.v1.Cluster/VerifyLedger";
/// How the paths of streams end that may go on for ever.
const ENDLESS: &str = "/Watch";

/// Puts a [`LoadShed`] before a service.
#[derive(Debug, Clone)]
pub(super) struct LoadShedLayer {
    requests: Arc<Semaphore>,
    requests_max: usize,
    timeout: Duration,
}

impl LoadShedLayer {
    pub(super) fn new(requests_max: usize, timeout: Duration) -> Self {
        let requests = Arc::new(Semaphore::new(requests_max));
        Self {
            requests,
            requests_max,
            timeout,
        }
    }
}

impl<S> Layer<S> for LoadShedLayer {
    type Service = LoadShed<S>;
    fn layer(&self, inner: S) -> LoadShed<S> {
        LoadShed {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service that takes no more requests than there is room for.
#[derive(Debug, Clone)]
pub(super) struct LoadShed<S> {
    inner: S,
    layer: LoadShedLayer,
}

impl<S> Service<Request<Body>> for LoadShed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let in_hand = request.extensions().get().map(RequestSource::begin);
        let path = request.uri().path();
        if path.starts_with(ALWAYS_OPEN) {
            let answer = self.inner.call(request);
            return Box::pin(async move {
                let held = Held {
                    _permit: None,
                    in_hand,
                };
                Ok(tracked(answer.await?, held, None))
            });
        }
        let limit = self.layer.timeout;
        let timeout = (path != UNTIMED).then_some(limit);
        let endless = path.ends_with(ENDLESS);
        let Ok(permit) = Arc::clone(&self.layer.requests).try_acquire_owned() else {
            let refusal = status::crowded("requests are being served", self.layer.requests_max);
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answered = match timeout {
                None => answer.await?,
                Some(limit) => match tokio::time::timeout(limit, answer).await {
                    Ok(answered) => answered?,
                    Err(_) => status::late(limit).into_http(),
                },
            };
            let held = Held {
                _permit: (!endless).then_some(permit),
                in_hand,
            };
            let limit = (!endless).then_some(limit);
            Ok(tracked(status::reworded(answered), held, limit))
        })
    }
}

/// What a request holds until its answer has been read.
struct Held {
    _permit: Option<OwnedSemaphorePermit>,
    in_hand: Option<InHand>,
}

/// An answer that keeps what its request holds until it has been read, and ends within `limit`.
fn tracked(response: Response<Body>, held: Held, limit: Option<Duration>) -> Response<Body> {
    response.map(|body| {
        Body::new(TrackedBody {
            body,
            held: Arc::new(held),
            limit,
            timer: None,
        })
    })
}

struct TrackedBody {
    body: Body,
    held: Arc<Held>,
    limit: Option<Duration>,
    /// Set when the answer is waited for after it has begun, which few are.
    timer: Option<Pin<Box<Sleep>>>,
}

impl TrackedBody {
    /// Ready when the answer should have ended.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| status::late(limit))
    }

    /// A piece of the answer that keeps what the request holds.
    fn piece(&self, bytes: Bytes) -> Bytes {
        let in_hand = self.held.in_hand.as_ref();
        Bytes::from_owner(Piece {
            bytes,
            _unread: in_hand.map(InHand::unread),
            _held: Arc::clone(&self.held),
        })
    }
}

/// A piece of an answer, on its way through the transport's buffers.
struct Piece {
    bytes: Bytes,
    _unread: Option<Unread>,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_late(cx).map(|late| {
                self.body = Body::empty();
                let trailers = late.into_http::<Body>().into_parts().0.headers;
                Some(Ok(Frame::trailers(trailers)))
            });
        };
        let tracked = |frame: Frame<Bytes>| frame.map_data(|bytes| self.piece(bytes));
        Poll::Ready(next.map(|frame| frame.map(tracked)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
