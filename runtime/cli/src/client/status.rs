//! `colony status`: how the node is.

use colony_proto::v1::{StatusRequest, StatusResponse};
use serde_json::{Map, Value, json};

use super::{Node, view};
use crate::{
    errors::Failure,
    output::{Output, clean, sheet, table},
};

pub(crate) async fn run(node: &Node, out: Output) -> Result<(), Failure> {
    let status = ask(node).await?;
    out.result(&to_json(&status), || describe(&status))
}

pub(crate) async fn ask(node: &Node) -> Result<StatusResponse, Failure> {
    node.open(node.cluster().status(node.ask(StatusRequest {})).await)
}

/// Tasks in all states together; equals `accepted` when nothing is lost.
pub(crate) fn sum_of_states(status: &StatusResponse) -> u64 {
    status.tasks.iter().map(|count| count.tasks).sum()
}

fn to_json(status: &StatusResponse) -> Value {
    let tasks: Map<String, Value> = status
        .tasks
        .iter()
        .map(|count| (view::state(count.state).to_owned(), count.tasks.into()))
        .collect();
    let agents: Vec<Value> = status
        .agents
        .iter()
        .map(|count| {
            json!({ "agent_type": count.agent_type, "total": count.total, "busy": count.busy })
        })
        .collect();
    let members: Vec<Value> = status
        .members
        .iter()
        .map(|member| {
            json!({
                "node": member.node,
                "address": member.address,
                "incarnation": member.incarnation,
                "state": member.state,
                "this_node": member.this_node,
            })
        })
        .collect();
    let open_ports: Vec<Value> = status
        .open_ports
        .iter()
        .map(|open| json!({ "port": open.port, "retry_at_us": open.retry_at_us }))
        .collect();
    json!({
        "node": status.node,
        "version": status.version,
        "incarnation": status.incarnation,
        "started_at_us": status.started_at_us,
        "uptime_ms": status.uptime_ms,
        "accepted": status.accepted,
        "conserved": sum_of_states(status) == status.accepted,
        "tasks": tasks,
        "agents": agents,
        "models": status.models.iter().map(view::model).collect::<Vec<_>>(),
        "syncs": status.syncs,
        "members": members,
        "open_ports": open_ports,
        "agents_down": status.agents_down,
        "quarantined": status.quarantined,
        "failed": status.failed,
        "stalled": status.stalled,
    })
}

fn describe(status: &StatusResponse) -> String {
    let states: Vec<String> = status
        .tasks
        .iter()
        .filter(|count| count.tasks > 0)
        .map(|count| format!("{} {}", count.tasks, view::state(count.state)))
        .collect();
    let balance = match sum_of_states(status) {
        sum if sum == status.accepted => "all accounted for".to_owned(),
        sum => format!("BUT THE STATES SUM TO {sum}: please report this"),
    };
    let agents: Vec<String> = status
        .agents
        .iter()
        .map(|count| {
            format!(
                "{} {} ({} busy)",
                count.total,
                clean(&count.agent_type),
                count.busy
            )
        })
        .collect();
    let mut troubles = Vec::new();
    if let Some(reason) = &status.failed {
        troubles.push(("FAILED", clean(reason)));
    }
    if let Some(reason) = &status.stalled {
        troubles.push(("STALLED", clean(reason)));
    }
    for open in &status.open_ports {
        let retry = open.retry_at_us.map_or_else(
            || "being tried again".to_owned(),
            |at| format!("tried again at {}", view::time(at)),
        );
        troubles.push(("away", format!("{}, {retry}", clean(&open.port))));
    }
    if status.agents_down > 0 {
        let down = format!("{}, after too many crashes", status.agents_down);
        troubles.push(("agents down", down));
    }
    if status.quarantined > 0 {
        let rows = format!("{} rows, see `colony ledger verify`", status.quarantined);
        troubles.push(("unreadable", rows));
    }
    let facts = [
        (
            "node",
            format!(
                "{}, version {}",
                clean(&status.node),
                clean(&status.version)
            ),
        ),
        ("started", view::time(status.started_at_us)),
        ("incarnation", status.incarnation.to_string()),
        ("accepted", format!("{} tasks, {balance}", status.accepted)),
        ("tasks", or_none(&states)),
        ("agents", or_none(&agents)),
        ("group commits", status.syncs.to_string()),
    ];
    let mut text = sheet(facts.into_iter().chain(troubles));
    if !status.models.is_empty() {
        let rows = status.models.iter().map(view::model_row).collect();
        text.push_str("\n\n");
        text.push_str(&table(&view::MODEL_HEADER, rows));
    }
    if !status.members.is_empty() {
        let rows = status.members.iter().map(|member| {
            let here = if member.this_node { "this one" } else { "" };
            vec![
                clean(&member.node),
                clean(&member.address),
                clean(&member.state),
                here.to_owned(),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(&["member", "address", "state", ""], rows.collect()));
    }
    text
}

fn or_none(words: &[String]) -> String {
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}
