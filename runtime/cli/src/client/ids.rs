//! Ids as people type them: whole, or a beginning that only one thing has.

use colony_core::id::IdPrefix;
use colony_proto::v1::{Approval, ListApprovalsRequest, ListTasksRequest, Task};

use super::{Node, retry::with_retry, view};
use crate::{
    args::RetryArgs,
    errors::Failure,
    output::{Output, cell},
};

/// Digits and hyphens of a whole id.
const WHOLE: usize = 36;
/// Things listed where a beginning is not enough.
const LISTED_MAX: u32 = 5;

/// The whole id of a task. A whole one is taken as it is.
pub(super) async fn task(node: &Node, text: &str) -> Result<String, Failure> {
    readable(text)?;
    if text.len() == WHOLE {
        return Ok(text.to_owned());
    }
    let ask = ListTasksRequest {
        id_prefix: text.to_owned(),
        page_size: LISTED_MAX,
        ..ListTasksRequest::default()
    };
    let mut found = node.open(node.tasks().list(node.ask(ask)).await)?.tasks;
    match found.len() {
        0 => Err(Failure::not_found(format!("no task id begins with {text}"))),
        1 => Ok(found.remove(0).id),
        _ => Err(several(text, "task", found.iter().map(task_line))),
    }
}

/// The whole ids of tasks, in order.
pub(super) async fn tasks(node: &Node, texts: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::with_capacity(texts.len());
    for text in texts {
        ids.push(task(node, &text).await?);
    }
    Ok(ids)
}

/// A question: an open one, or where there is none, one that is not open any more.
pub(super) async fn approval(
    node: &Node,
    text: &str,
    retry: RetryArgs,
    out: Output,
) -> Result<Approval, Failure> {
    readable(text)?;
    for closed_too in [false, true] {
        let ask = ListApprovalsRequest {
            id_prefix: text.to_owned(),
            page_size: LISTED_MAX,
            closed_too,
            ..ListApprovalsRequest::default()
        };
        let answer = with_retry(retry.retry_for, out, || {
            let (mut client, ask) = (node.approvals(), node.ask(ask.clone()));
            async move { client.list(ask).await }
        });
        let answer = answer.await.map_err(|status| node.failure(&status))?;
        let mut found = answer.approvals;
        match found.len() {
            0 => {}
            1 => return Ok(found.remove(0)),
            _ => return Err(several(text, "question", found.iter().map(approval_line))),
        }
    }
    let what = match text.len() {
        WHOLE => format!("no question {text}"),
        _ => format!("no question's id begins with {text}"),
    };
    Err(Failure::not_found(what).with_hint("`colony approve list --all` shows all"))
}

/// Refuses what is no beginning of an id, before anything is asked of a node.
fn readable(text: &str) -> Result<(), Failure> {
    match IdPrefix::parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(format!(
            "{text:?} is not the beginning of an id: {error}"
        ))),
    }
}

fn several(text: &str, what: &str, lines: impl Iterator<Item = String>) -> Failure {
    Failure::usage(format!("{text} begins the id of more than one {what}"))
        .with_details(lines)
        .with_hint("write more of it")
}

fn task_line(task: &Task) -> String {
    let state = view::state(task.state);
    format!("{}  {state}  {}", task.id, cell(&task.input))
}

fn approval_line(approval: &Approval) -> String {
    let escalation_reason = view::escalation_reason(approval.escalation_reason);
    format!(
        "{}  {escalation_reason}  {}",
        approval.id,
        cell(&approval.input)
    )
}
