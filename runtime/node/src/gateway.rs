//! The door: `colony.v1` over gRPC, with health and reflection.
//!
//! ```text
//!   connection ─► guard (room for one more? time limit) ─► tasks, agents, approvals, models, field, cluster
//!                   ◄── refuse: every error becomes a status with a stable code and details ◄── rooms
//! ```
//! Called by the `colony` binary with a TCP listener and by the simulator with a simulated one. Promises:
//! nothing is acknowledged that is not in the book; every refusal says what to change or when to come
//! back; when the node stops, requests in hand are answered and streams are closed with a cursor to go on
//! from. There is no authentication yet; the default address is a loopback one.

mod agents;
mod approvals;
mod cluster;
mod field;
mod guard;
mod models;
mod refuse;
mod tasks;
mod trace;
mod watch;

use std::{future::Future, io, sync::Arc, time::Duration};

use colony_core::id::Tenant;
use colony_proto::v1::{
    agents_server::AgentsServer, approvals_server::ApprovalsServer, cluster_server::ClusterServer,
    field_server::FieldServer, models_server::ModelsServer, tasks_server::TasksServer,
};
use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::server::{Connected, Server},
};

use crate::{Rooms, config::Gateway};

/// How long connections may take to end after the door was closed: streams end at once, requests in hand
/// take as long as a group commit.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest page, and the page of those who name no length.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 100;

/// Why the door could not be opened or had to be closed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC door failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of the interface are damaged: a defect of the build.
    #[error("the gRPC interface cannot describe itself")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What every service needs.
#[derive(Debug, Clone)]
struct Door {
    rooms: Arc<Rooms>,
    limits: Arc<Gateway>,
    watches: Arc<Semaphore>,
    closing: CancellationToken,
}

/// Serves connections until `shutdown` is ready, then answers what is in hand and returns.
///
/// Cancel-safe: dropped, all connections are cut; what was acknowledged stays acknowledged.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<I, IO>(
    rooms: Arc<Rooms>,
    limits: Gateway,
    incoming: I,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError>
where
    I: Stream<Item = io::Result<IO>> + Send,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let closing = CancellationToken::new();
    let door = Door {
        rooms,
        watches: Arc::new(Semaphore::new(limits.watches_max)),
        limits: Arc::new(limits),
        closing: closing.clone(),
    };
    let limits = Arc::clone(&door.limits);
    let bytes = limits.message_bytes_max;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TasksServer<Door>>().await;
    health.set_serving::<AgentsServer<Door>>().await;
    health.set_serving::<ApprovalsServer<Door>>().await;
    health.set_serving::<ModelsServer<Door>>().await;
    health.set_serving::<FieldServer<Door>>().await;
    health.set_serving::<ClusterServer<Door>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(colony_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;

    macro_rules! sized {
        ($server:ident) => {
            $server::new(door.clone())
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(bytes)
        };
    }
    let server = Server::builder()
        .max_concurrent_streams(limits.streams_max)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .layer(guard::GuardLayer::new(
            limits.requests_max,
            limits.request_timeout,
        ))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(sized!(TasksServer))
        .add_service(sized!(AgentsServer))
        .add_service(sized!(ApprovalsServer))
        .add_service(sized!(ModelsServer))
        .add_service(sized!(FieldServer))
        .add_service(sized!(ClusterServer));

    let stop = async {
        shutdown.await;
        closing.cancel();
        health.set_not_serving::<TasksServer<Door>>().await;
        health
            .set_service_status("", tonic_health::ServingStatus::NotServing)
            .await;
    };
    let closed = async {
        closing.cancelled().await;
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        served = server.serve_with_incoming_shutdown(incoming, stop) => Ok(served?),
        () = closed => {
            tracing::warn!("connections still open after the door was closed are cut");
            Ok(())
        }
    }
}

/// The length of a page, from what the caller asks for.
fn page_size(asked: u32) -> u32 {
    match asked {
        0 => PAGE_DEFAULT,
        n => n.min(PAGE_MAX),
    }
}

/// A tenant as callers write it: empty is the default one.
fn tenant(name: &str, field: &str) -> Result<Tenant, Status> {
    if name.is_empty() {
        return Ok(Tenant::default());
    }
    Tenant::new(name).map_err(|error| refuse::argument(field, &error))
}

/// A tenant to filter by: empty is all of them.
fn tenant_filter(name: &str) -> Result<Option<Tenant>, Status> {
    match name {
        "" => Ok(None),
        name => tenant(name, "tenant").map(Some),
    }
}
