//! `colony.v1.Agents`.

use colony_proto::v1::{self, agents_server::Agents};
use tonic::{Request, Response, Status};

use super::{
    GrpcServer,
    convert::{agent_to_wire, parse_agent_id, parse_optional, parse_page_size, parse_type},
    pages::{ANSWER_BYTES_MAX, fit, next_token},
    status,
};

#[tonic::async_trait]
impl Agents for GrpcServer {
    async fn list(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let agent_type =
            parse_optional(&request.agent_type, |name| parse_type(name, "agent_type"))?;
        let after = parse_optional(&request.page_token, |text| {
            parse_agent_id(text, "page_token")
        })?;
        let mut agents = self.node.agents().await?;
        agents.retain(|agent| {
            agent_type
                .as_ref()
                .is_none_or(|wanted| agent.id.agent_type == *wanted)
                && after.as_ref().is_none_or(|after| agent.id > *after)
        });
        agents.sort_by(|a, b| a.id.cmp(&b.id));
        let limit = parse_page_size(request.page_size) as usize;
        let more = agents.len() > limit;
        let agents = agents.iter().take(limit).map(agent_to_wire);
        let page = fit(agents, more, ANSWER_BYTES_MAX);
        Ok(Response::new(v1::ListAgentsResponse {
            next_page_token: next_token(&page, |agent| agent.id.clone()),
            agents: page.items,
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetAgentRequest>,
    ) -> Result<Response<v1::GetAgentResponse>, Status> {
        let name = request.into_inner().agent_id;
        let id = parse_agent_id(&name, "agent_id")?;
        let agents = self.node.agents().await?;
        let found = agents.iter().find(|agent| agent.id == id);
        let agent = found.ok_or_else(|| status::nothing("agent", &name))?;
        Ok(Response::new(v1::GetAgentResponse {
            agent: Some(agent_to_wire(agent)),
        }))
    }
}
