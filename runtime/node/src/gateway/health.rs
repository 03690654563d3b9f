//! `grpc.health.v1`: as healthy as the node.

use std::convert::Infallible;

use colony_proto::v1::{
    agents_server::SERVICE_NAME as AGENTS, approvals_server::SERVICE_NAME as APPROVALS,
    cluster_server::SERVICE_NAME as CLUSTER, field_server::SERVICE_NAME as FIELD,
    models_server::SERVICE_NAME as MODELS, outbox_server::SERVICE_NAME as OUTBOX,
    tasks_server::SERVICE_NAME as TASKS,
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{Health, NodeHandle};

/// All services, and the server as a whole.
const SERVICES: [&str; 8] = ["", TASKS, AGENTS, APPROVALS, MODELS, FIELD, CLUSTER, OUTBOX];

/// What a node in this state says to those who ask.
const fn serving(health: &Health) -> ServingStatus {
    match health {
        Health::Serving => ServingStatus::Serving,
        Health::Starting | Health::Stalled(_) | Health::Draining | Health::Failed(_) => {
            ServingStatus::NotServing
        }
    }
}

/// Says how the node is, at first and at every change, until the server closes. A node that nothing watches over
/// any more has failed. Never returns.
pub(super) async fn follow(
    node: &NodeHandle,
    mut reporter: HealthReporter,
    closing: &CancellationToken,
) -> Infallible {
    let mut health = node.health();
    loop {
        let now = serving(&health.borrow_and_update());
        say(&reporter, now).await;
        tokio::select! {
            biased;
            () = closing.cancelled() => break,
            changed = health.changed() => if changed.is_err() { break },
        }
    }
    say(&reporter, ServingStatus::NotServing).await;
    closing.cancelled().await;
    // Streams of watchers end when they have heard it.
    for service in SERVICES {
        reporter.clear_service_status(service).await;
    }
    std::future::pending().await
}

async fn say(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
