//! `colony.v1.Cluster`.

use colony_proto::v1::{self, cluster_server::Cluster};
use tonic::{Request, Response, Status};

use super::{Door, models::model_out, refuse, tasks::state_out};

#[tonic::async_trait]
impl Cluster for Door {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let status = self
            .rooms
            .status()
            .await
            .map_err(|error| refuse::ledger(&error))?;
        let tasks = status
            .counts
            .by_state
            .iter()
            .map(|(state, tasks)| v1::StateCount {
                state: state_out(*state).into(),
                tasks: *tasks,
            });
        let agents = status
            .agents
            .iter()
            .map(|(name, (total, busy))| v1::TypeCount {
                agent_type: name.to_string(),
                total: *total,
                busy: *busy,
            });
        let members = status.members.iter().map(|member| {
            let this_node = member.node == status.node;
            v1::Member {
                node: member.node.to_string(),
                address: member.address.clone(),
                incarnation: if this_node { status.incarnation.0 } else { 0 },
                state: if member.ready { "ready" } else { "draining" }.to_owned(),
                this_node,
            }
        });
        Ok(Response::new(v1::StatusResponse {
            node: status.node.to_string(),
            version: status.version.to_owned(),
            incarnation: status.incarnation.0,
            started_at_us: status.started_at.as_micros(),
            uptime_ms: u64::try_from(status.uptime.as_millis()).unwrap_or(u64::MAX),
            accepted: status.counts.accepted,
            tasks: tasks.collect(),
            agents: agents.collect(),
            models: self.rooms.models().iter().map(model_out).collect(),
            syncs: status.counts.syncs,
            members: members.collect(),
            ready: status.ready,
            episodes: status.episodes,
            awarded: status.awarded,
        }))
    }
}
