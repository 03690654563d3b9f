//! The first thing a request meets: is there room for one more, and is it done in time?
//!
//! A request holds a permit until its answer begins. Full: it is refused at once with a time to come back
//! (health checks are let through, or a busy node would be taken for a dead one). The transport's own
//! refusals (wrong UTF-8, too large) are turned into ours on the way out. A request keeps its connection in use
//! until its answer has been read.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use tokio::sync::Semaphore;
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
    connections::{InHand, RequestSource},
    status,
};

/// Paths that need no permit and have no time limit.
const ALWAYS_OPEN: &str = "/grpc.health.v1.Health/";
/// Takes as long as the ledger is large; the caller's own deadline counts.
const UNTIMED: &str = "/colony.v1.Cluster/VerifyLedger";

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
            return Box::pin(async move { Ok(tracked(answer.await?, in_hand)) });
        }
        let timeout = (path != UNTIMED).then_some(self.layer.timeout);
        let Ok(permit) = Arc::clone(&self.layer.requests).try_acquire_owned() else {
            let refusal = status::crowded("requests are being served", self.layer.requests_max);
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _permit = permit;
            let answered = match timeout {
                None => answer.await?,
                Some(limit) => match tokio::time::timeout(limit, answer).await {
                    Ok(answered) => answered?,
                    Err(_) => status::late(limit).into_http(),
                },
            };
            Ok(tracked(status::reworded(answered), in_hand))
        })
    }
}

/// An answer that keeps its request in hand until it has been read.
fn tracked(response: Response<Body>, in_hand: Option<InHand>) -> Response<Body> {
    response.map(|body| {
        Body::new(TrackedBody {
            body,
            _in_hand: in_hand,
        })
    })
}

struct TrackedBody {
    body: Body,
    _in_hand: Option<InHand>,
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
