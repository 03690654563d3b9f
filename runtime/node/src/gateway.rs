//! The gRPC API: `colony.v1`, with health and reflection.
//!
//! ```text
//!   connections (bounded, closed when unused) ─► load_shed (room for one more? time limit) ─► services ─► NodeHandle
//!                 ◄── status: every problem becomes a status with a stable code and details ◄──────────────┘
//! ```
//! The services (tasks, agents, approvals, outbox, models, field, cluster) translate, by `convert`, and decide nothing.
//! Called by the `colony` binary with a TCP listener and by the simulator with a simulated one. Promises:
//! nothing is acknowledged that is not in the ledger; every refusal says what to change or when to come
//! back; a list is cut into pages that clients take by default; when the node stops, requests in hand are
//! answered and streams are closed, with a cursor to go on from. There is no authentication yet; the default
//! address is a loopback one.

mod agents;
mod approvals;
mod cluster;
mod connections;
mod convert;
mod cursor;
mod field;
mod health;
mod load_shed;
mod models;
mod outbox;
mod pages;
mod status;
mod tasks;
mod trace;
mod watch;

use std::{future::Future, io, sync::Arc, time::Duration};

use colony_proto::v1::{
    agents_server::AgentsServer, approvals_server::ApprovalsServer, cluster_server::ClusterServer,
    field_server::FieldServer, models_server::ModelsServer, outbox_server::OutboxServer,
    tasks_server::TasksServer,
};
use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, Server};

use crate::{NodeHandle, config::Gateway};

/// How long connections may take to end after the server was closed: streams end at once, requests in hand
/// take as long as a group commit.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams that a client has reset before the server took them up, after which the connection is closed: h2's
/// own default, said here because it is the answer to a rapid-reset attack (CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 20;
/// Streams that the server has reset because the client broke the protocol, after which the connection is
/// closed: hyper's own default.
const ERROR_STREAMS_MAX: usize = 1_024;
/// Longest metadata of a request, in bytes: a hundred times a `traceparent`.
const METADATA_BYTES_MAX: u32 = 16 * 1024;

/// Why the API could not be opened or had to be closed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of the interface are damaged: a defect of the build.
    #[error("the gRPC interface cannot describe itself")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// All services, and what they need.
#[derive(Debug, Clone)]
struct GrpcServer {
    node: NodeHandle,
    limits: Arc<Gateway>,
    watches: Arc<Semaphore>,
    /// A verification reads the whole ledger: one at a time.
    verifications: Arc<Semaphore>,
    closing: CancellationToken,
}

/// Serves connections until `shutdown` is ready, then answers what is in hand and returns.
///
/// Cancel-safe: dropped, all connections are cut; what was acknowledged stays acknowledged.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<I, IO>(
    node: NodeHandle,
    limits: Gateway,
    incoming: I,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError>
where
    I: Stream<Item = io::Result<IO>> + Send,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let closing = CancellationToken::new();
    let server = GrpcServer {
        node,
        watches: Arc::new(Semaphore::new(limits.watches_max)),
        verifications: Arc::new(Semaphore::new(1)),
        limits: Arc::new(limits),
        closing: closing.clone(),
    };
    let limits = Arc::clone(&server.limits);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(colony_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    macro_rules! with_limits {
        ($service:ident) => {
            $service::new(server.clone()).max_decoding_message_size(limits.message_bytes_max)
        };
    }
    let mut builder = Server::builder()
        .max_concurrent_streams(limits.streams_max)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_STREAMS_MAX))
        .http2_max_header_list_size(METADATA_BYTES_MAX)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout));
    if !limits.connection_age_max.is_zero() {
        builder = builder.max_connection_age(limits.connection_age_max);
    }
    let router = builder
        .layer(load_shed::LoadShedLayer::new(
            limits.requests_max,
            limits.request_timeout,
        ))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(with_limits!(TasksServer))
        .add_service(with_limits!(AgentsServer))
        .add_service(with_limits!(ApprovalsServer))
        .add_service(with_limits!(OutboxServer))
        .add_service(with_limits!(ModelsServer))
        .add_service(with_limits!(FieldServer))
        .add_service(with_limits!(ClusterServer));

    let incoming = connections::bounded(incoming, &limits);
    let stop = async {
        shutdown.await;
        closing.cancel();
    };
    let closed = async {
        closing.cancelled().await;
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        served = router.serve_with_incoming_shutdown(incoming, stop) => Ok(served?),
        never = health::follow(&server.node, reporter, &closing) => match never {},
        () = closed => {
            tracing::warn!("connections still open after the server was closed are cut");
            Ok(())
        }
    }
}
