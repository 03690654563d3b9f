//! The agent types that a node has, for messages that name what there is.

use super::{Node, status};
use crate::errors::Failure;

/// The names of the declared types.
pub(crate) async fn declared(node: &Node) -> Result<Vec<String>, Failure> {
    let status = status::ask(node).await?;
    Ok(status
        .agents
        .into_iter()
        .map(|count| count.agent_type)
        .collect())
}

/// Refuses a name that no type has.
pub(super) async fn check(node: &Node, name: &str) -> Result<(), Failure> {
    let declared = declared(node).await?;
    if declared.iter().any(|known| known == name) {
        return Ok(());
    }
    Err(Failure::not_found(format!("no agent type {name:?}")).with_details([listed(&declared)]))
}

/// Adds the names of the types to a failure, if the node still answers.
pub(super) async fn listed_below(node: &Node, failure: Failure) -> Failure {
    match declared(node).await {
        Ok(declared) => failure.with_details([listed(&declared)]),
        Err(_) => failure,
    }
}

fn listed(declared: &[String]) -> String {
    format!("there are: {}", declared.join(", "))
}
