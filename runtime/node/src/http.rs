//! The HTTP listener: what orchestrators, load balancers and Prometheus ask.
//!
//! ```text
//!   GET /healthz   200 while the process is worth keeping, 503 when the node has failed
//!   GET /readyz    200 while it takes tasks, 503 with the reason otherwise
//!   GET /metrics   Prometheus' text form: docs/reference/metrics.md
//! ```
//! As the gRPC API it translates [`NodeHandle`] and decides nothing. Connections are bounded, and so is the time that each has to
//! send a request and to take its answer. There is no authentication: the listener is off unless configured.

mod metrics;

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use crate::{Health, NodeHandle};

/// Most connections at once; beyond it a newcomer waits in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;
/// Time for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is older is closed: scrapers come again.
const AGE_MAX: Duration = Duration::from_secs(300);
/// Wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests in hand may take once the listener is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves connections until `shutdown` is ready, then answers what is in hand and returns.
///
/// Cancel-safe: dropped, all connections are cut.
pub async fn serve(node: NodeHandle, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let router = router(node);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let closing = GracefulShutdown::new();
    // Dropped with this future, it ends what it holds.
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(router.clone()),
            );
        let connection = closing.watch(connection);
        connections.spawn(async move {
            // How a connection ends is its client's business.
            let _ = tokio::time::timeout(AGE_MAX, connection).await;
            drop(place);
        });
    }
    // What takes longer is cut with the set.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

fn router(node: NodeHandle) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(node)
}

async fn healthz(State(node): State<NodeHandle>) -> Response {
    let health = node.health();
    let ended = health.has_changed().is_err();
    let now = health.borrow().clone();
    match now {
        Health::Failed(reason) => unavailable(&reason),
        _ if ended => unavailable("its root supervisor has ended"),
        Health::Starting | Health::Serving | Health::Stalled(_) | Health::Draining => {
            "ok\n".into_response()
        }
    }
}

async fn readyz(State(node): State<NodeHandle>) -> Response {
    let now = node.health().borrow().clone();
    match now {
        Health::Failed(reason) | Health::Stalled(reason) => unavailable(&reason),
        Health::Starting => unavailable("the node is starting"),
        Health::Draining => unavailable("the node is being stopped"),
        Health::Serving if !node.is_ready() => unavailable("its root supervisor has ended"),
        Health::Serving => "ok\n".into_response(),
    }
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn scrape(State(node): State<NodeHandle>) -> Response {
    match metrics::exposition(&node).await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(problem) => unavailable(&problem.to_string()),
    }
}
