//! `colony.v1.Agents`.

use colony_core::id::AgentId;
use colony_proto::v1::{self, agents_server::Agents};
use tonic::{Request, Response, Status};

use super::{Door, page_size, refuse, tasks};
use crate::view::AgentView;

#[tonic::async_trait]
impl Agents for Door {
    async fn list(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let agent_type = match request.agent_type.as_str() {
            "" => None,
            name => Some(tasks::type_name(name, "agent_type")?),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(agent_id(token, "page_token")?),
        };
        let mut agents = self.rooms.agents().await;
        agents.retain(|agent| {
            agent_type
                .as_ref()
                .is_none_or(|wanted| agent.id.agent_type == *wanted)
                && after.as_ref().is_none_or(|after| agent.id > *after)
        });
        agents.sort_by(|a, b| a.id.cmp(&b.id));
        let limit = page_size(request.page_size) as usize;
        let is_last = agents.len() <= limit;
        agents.truncate(limit);
        let next_page_token = match agents.last() {
            Some(agent) if !is_last => agent.id.to_string(),
            Some(_) | None => String::new(),
        };
        let agents = agents.iter().map(agent_out).collect();
        Ok(Response::new(v1::ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetAgentRequest>,
    ) -> Result<Response<v1::GetAgentResponse>, Status> {
        let name = request.into_inner().agent_id;
        let id = agent_id(&name, "agent_id")?;
        let agents = self.rooms.agents().await;
        let found = agents.iter().find(|agent| agent.id == id);
        let agent = found
            .map(agent_out)
            .ok_or_else(|| refuse::nothing("agent", &name))?;
        Ok(Response::new(v1::GetAgentResponse { agent: Some(agent) }))
    }
}

/// Reads `triage/17`.
fn agent_id(text: &str, field: &str) -> Result<AgentId, Status> {
    let wrong = || refuse::argument(field, &"is no agent; write type and number, like triage/17");
    let (agent_type, ordinal) = text.split_once('/').ok_or_else(wrong)?;
    Ok(AgentId {
        agent_type: tasks::type_name(agent_type, field)?,
        ordinal: ordinal.parse().map_err(|_| wrong())?,
    })
}

fn agent_out(agent: &AgentView) -> v1::Agent {
    v1::Agent {
        id: agent.id.to_string(),
        agent_type: agent.id.agent_type.to_string(),
        kind: agent.kind.clone(),
        state: agent.state.to_owned(),
        task_id: agent.task.map(|task| task.to_string()),
        track: Some(v1::Track {
            tasks: agent.track.tasks,
            successes: agent.track.successes,
            escalations: agent.track.escalations,
            crashes: agent.track.crashes,
        }),
        version: agent.version,
    }
}
