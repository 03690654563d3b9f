//! Commands that talk to a running node over gRPC `colony.v1`.
//!
//! Each module below is one noun of the command line. All go through [`Node`], which knows the address
//! and how long to wait; refusals become a [`Failure`] in one place.

pub(crate) mod agents;
pub(crate) mod approve;
pub(crate) mod field;
mod ids;
pub(crate) mod ledger;
pub(crate) mod models;
pub(crate) mod outbox;
mod retry;
pub(crate) mod revive;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod tasks;
pub(crate) mod types;
pub(crate) mod view;
pub(crate) mod watch;

use std::time::Duration;

use colony_core::{id::RequestId, port::RandomSource as _};
use colony_node::ports::SystemRandom;
use colony_proto::v1::{
    agents_client::AgentsClient, approvals_client::ApprovalsClient, cluster_client::ClusterClient,
    field_client::FieldClient, models_client::ModelsClient, outbox_client::OutboxClient,
    tasks_client::TasksClient,
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::errors::Failure;

/// Longest wait for the first handshake; a node on another continent answers in a tenth of it.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// A frozen node is noticed after keepalive interval and timeout together.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Largest answer taken. Pages stay below 4 MiB; a single task may be as large as a node is set to let in.
const ANSWER_BYTES_MAX: usize = 80 * 1024 * 1024;
/// Most characters of a wrong address that are repeated; a name of a host has 253 at most.
const ADDRESS_CHARS_MAX: usize = 260;
/// Longest page that the node gives.
pub(crate) const PAGE_MAX: usize = 1_000;

/// A node, reached at the first call; one that went away is reached again at the next.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    address: String,
    timeout: Duration,
    channel: Channel,
}

impl Node {
    /// The node at `address`, such as `127.0.0.1:7400`. Nothing is asked of it yet.
    pub(crate) fn at(address: &str, timeout: Duration) -> Result<Self, Failure> {
        let bare = address.strip_prefix("http://").unwrap_or(address);
        let bare = bare.trim_end_matches('/');
        let endpoint = Endpoint::from_shared(format!("http://{bare}"))
            .ok()
            .filter(|endpoint| endpoint.uri().port().is_some())
            .ok_or_else(|| {
                let quoted: String = address.chars().take(ADDRESS_CHARS_MAX).collect();
                Failure::usage(format!("{quoted:?} is not an address; write HOST:PORT"))
            })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_WAIT.min(timeout))
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true);
        Ok(Self {
            address: bare.to_owned(),
            timeout,
            channel: endpoint.connect_lazy(),
        })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What is left of an answer: its content, or why there is none.
    pub(crate) fn open<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.failure(&status)),
        }
    }

    /// What a refusal of this node means.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, &self.address)
    }

    /// A request with the deadline of this command.
    pub(crate) fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    pub(crate) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn agents(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn approvals(&self) -> ApprovalsClient<Channel> {
        ApprovalsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn outbox(&self) -> OutboxClient<Channel> {
        OutboxClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn models(&self) -> ModelsClient<Channel> {
        ModelsClient::new(self.channel.clone())
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub(crate) fn field(&self) -> FieldClient<Channel> {
        FieldClient::new(self.channel.clone())
    }
}

/// An id for a request that changes something: drawn once for a command, and the same when it is repeated.
pub(crate) fn request_id() -> String {
    let mut random = [0; 16];
    SystemRandom.stream("request", 0).fill_bytes(&mut random);
    RequestId::new(random).to_string()
}

/// How many to ask for on the next page of a list of at most `limit` (0: no limit), after `taken`.
pub(crate) fn page_size(limit: usize, taken: usize) -> u32 {
    let left = match limit {
        0 => PAGE_MAX,
        _ => limit.saturating_sub(taken).min(PAGE_MAX),
    };
    u32::try_from(left).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_at_the_limit() {
        assert_eq!(page_size(0, 5_000), 1_000);
        assert_eq!(page_size(2_500, 0), 1_000);
        assert_eq!(page_size(2_500, 2_000), 500);
        assert_eq!(page_size(2_500, 2_500), 0);
    }
}
