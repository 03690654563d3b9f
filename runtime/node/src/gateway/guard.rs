//! The first thing a request meets: is there room for one more, and is it done in time?
//!
//! A request holds a permit until its answer begins. Full: it is refused at once with a time to come back
//! (health checks are let through, or a busy node would be taken for a dead one). The transport's own
//! refusals (wrong UTF-8, too large) are turned into ours on the way out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::Semaphore;
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};

use super::refuse;

/// Paths that need no permit.
const ALWAYS_OPEN: &str = "/grpc.health.v1.Health/";

/// Puts a [`Guard`] before a service.
#[derive(Debug, Clone)]
pub(super) struct GuardLayer {
    requests: Arc<Semaphore>,
    requests_max: usize,
    timeout: Duration,
}

impl GuardLayer {
    pub(super) fn new(requests_max: usize, timeout: Duration) -> Self {
        let requests = Arc::new(Semaphore::new(requests_max));
        Self {
            requests,
            requests_max,
            timeout,
        }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;
    fn layer(&self, inner: S) -> Guard<S> {
        Guard {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service with a guard before it.
#[derive(Debug, Clone)]
pub(super) struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S> Service<Request<Body>> for Guard<S>
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
        if request.uri().path().starts_with(ALWAYS_OPEN) {
            return Box::pin(self.inner.call(request));
        }
        let Ok(permit) = Arc::clone(&self.layer.requests).try_acquire_owned() else {
            let response = refuse::crowded(self.layer.requests_max).into_http();
            return Box::pin(std::future::ready(Ok(response)));
        };
        let answer = self.inner.call(request);
        let timeout = self.layer.timeout;
        Box::pin(async move {
            let _permit = permit;
            match tokio::time::timeout(timeout, answer).await {
                Ok(answered) => answered.map(refuse::reworded),
                Err(_) => Ok(refuse::late(timeout).into_http()),
            }
        })
    }
}
