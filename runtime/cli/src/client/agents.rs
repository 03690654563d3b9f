//! `colony agent`: list and get.

use colony_proto::v1::{Agent, GetAgentRequest, ListAgentsRequest};

use super::{Node, page_size, types, view};
use crate::{
    args::AgentCommand,
    errors::Failure,
    output::{Output, clean, sheet},
};

pub(crate) async fn run(node: &Node, command: AgentCommand, out: Output) -> Result<(), Failure> {
    match command {
        AgentCommand::List { agent_type, limit } => {
            let agent_type = agent_type.unwrap_or_default();
            let (agents, more) = list(node, agent_type.clone(), limit).await?;
            if agents.is_empty() && !agent_type.is_empty() {
                types::check(node, &agent_type).await?;
            }
            let header = [
                "id",
                "kind",
                "state",
                "task",
                "tasks",
                "successes",
                "escalations",
                "crashes",
            ];
            let rows = agents.iter().map(|agent| (view::agent(agent), row(agent)));
            out.results(&header, rows, "no agents")?;
            if more {
                out.note(&format!("… and more; --limit 0 lists all ({limit} shown)"));
            }
            Ok(())
        }
        AgentCommand::Get { id } => {
            let answer = node
                .agents()
                .get(node.ask(GetAgentRequest { agent_id: id }))
                .await;
            let agent = match node.open(answer) {
                Ok(answer) => answer.agent.unwrap_or_default(),
                Err(failure) if failure.is_not_found() => {
                    let failure =
                        failure.with_hint("`colony agent list --type TYPE` shows those of a type");
                    return Err(types::listed_below(node, failure).await);
                }
                Err(failure) => return Err(failure),
            };
            out.result(&view::agent(&agent), || sheet(facts(&agent)))
        }
    }
}

/// At most `limit` agents (0: all), and whether there are more.
pub(crate) async fn list(
    node: &Node,
    agent_type: String,
    limit: usize,
) -> Result<(Vec<Agent>, bool), Failure> {
    let mut ask = ListAgentsRequest {
        agent_type,
        ..ListAgentsRequest::default()
    };
    let mut agents = Vec::new();
    loop {
        ask.page_size = page_size(limit, agents.len());
        let page = node.open(node.agents().list(node.ask(ask.clone())).await)?;
        agents.extend(page.agents);
        ask.page_token = page.next_page_token;
        if ask.page_token.is_empty() || page_size(limit, agents.len()) == 0 {
            return Ok((agents, !ask.page_token.is_empty()));
        }
    }
}

fn row(agent: &Agent) -> Vec<String> {
    let track = agent.track.unwrap_or_default();
    vec![
        clean(&agent.id),
        clean(&agent.kind),
        clean(&agent.state),
        agent.task_id.clone().unwrap_or_else(|| "-".to_owned()),
        track.tasks.to_string(),
        track.successes.to_string(),
        track.escalations.to_string(),
        track.crashes.to_string(),
    ]
}

fn facts(agent: &Agent) -> Vec<(&'static str, String)> {
    let track = agent.track.unwrap_or_default();
    vec![
        ("agent", clean(&agent.id)),
        ("type", clean(&agent.agent_type)),
        ("kind", clean(&agent.kind)),
        ("version", agent.version.to_string()),
        ("state", clean(&agent.state)),
        (
            "task",
            agent.task_id.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("tasks ended", track.tasks.to_string()),
        ("of these successes", track.successes.to_string()),
        ("escalations", track.escalations.to_string()),
        ("crashes", track.crashes.to_string()),
    ]
}
