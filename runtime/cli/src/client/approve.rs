//! `colony approve`: the humans' side of escalation.

use colony_proto::v1::{
    Accepted, Approval, ApprovalState, DecideRequest, Decision, ListApprovalsRequest,
    decision::Ruling,
};
use serde_json::json;

use super::{Node, page_size, request_id, retry::with_retry, view};
use crate::{
    args::{ApproveCommand, RetryArgs},
    errors::Failure,
    output::{Output, cell, clean_within},
};

/// Most characters of a question in the list: enough for a proposal and the harm a request could do.
const QUESTION_CHARS_MAX: usize = 120;

pub(crate) async fn run(node: &Node, command: ApproveCommand, out: Output) -> Result<(), Failure> {
    match command {
        ApproveCommand::List { all, tenant, limit } => {
            let ask = ListApprovalsRequest {
                tenant: tenant.unwrap_or_default(),
                closed_too: all,
                ..ListApprovalsRequest::default()
            };
            let (approvals, more) = list(node, ask, limit).await?;
            let header = ["id", "doubt", "question", "decided", "input"];
            let rows = approvals
                .iter()
                .map(|approval| (view::approval(approval), row(approval)));
            out.results(&header, rows, "nothing waits for a human")?;
            if more {
                out.note(&format!("… and more; --limit 0 lists all ({limit} shown)"));
            }
            Ok(())
        }
        ApproveCommand::Accept {
            ids,
            label,
            no_teach,
            by,
            retry,
        } => {
            let ruling = label.map_or(Ruling::Accept(Accepted {}), Ruling::Correct);
            let decision = Decision {
                ruling: Some(ruling),
                teach: Some(!no_teach),
                by,
            };
            decide(node, ids, &decision, retry, out).await
        }
        ApproveCommand::Reject {
            ids,
            reason,
            by,
            retry,
        } => {
            let decision = Decision {
                ruling: Some(Ruling::Reject(reason)),
                teach: Some(false),
                by,
            };
            decide(node, ids, &decision, retry, out).await
        }
    }
}

/// At most `limit` questions (0: all), and whether there are more.
pub(crate) async fn list(
    node: &Node,
    mut ask: ListApprovalsRequest,
    limit: usize,
) -> Result<(Vec<Approval>, bool), Failure> {
    let mut approvals = Vec::new();
    loop {
        ask.page_size = page_size(limit, approvals.len());
        let page = node.open(node.approvals().list(node.ask(ask.clone())).await)?;
        approvals.extend(page.approvals);
        ask.page_token = page.next_page_token;
        if ask.page_token.is_empty() || page_size(limit, approvals.len()) == 0 {
            return Ok((approvals, !ask.page_token.is_empty()));
        }
    }
}

async fn decide(
    node: &Node,
    ids: Vec<String>,
    decision: &Decision,
    retry: RetryArgs,
    out: Output,
) -> Result<(), Failure> {
    let mut failed = None;
    for id in ids {
        let ask = DecideRequest {
            approval_id: id.clone(),
            decision: Some(decision.clone()),
            request_id: Some(request_id()),
        };
        let answer = with_retry(retry.retry_for, out, || {
            let (mut client, ask) = (node.approvals(), node.ask(ask.clone()));
            async move { client.decide(ask).await }
        });
        match answer.await.map_err(|status| node.failure(&status)) {
            Ok(answer) => {
                let (task, state) = (answer.task_id, view::state(answer.state));
                let said = json!({
                    "approval_id": id,
                    "task_id": task,
                    "state": state,
                    "decision": view::decision(decision),
                });
                out.result(&said, || format!("{id} is decided; task {task} is {state}"))?;
            }
            // The others may still be open; the first failure gives the exit code.
            Err(failure) if failed.is_none() => failed = Some(failure),
            Err(failure) => out.failure(&failure),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn row(approval: &Approval) -> Vec<String> {
    let decided = match approval.decision.as_ref().map(|d| (&d.ruling, &d.by)) {
        Some((Some(Ruling::Accept(_)), by)) => format!("accepted by {}", cell(by)),
        Some((Some(Ruling::Correct(label)), by)) => format!("{} by {}", cell(label), cell(by)),
        Some((Some(Ruling::Reject(_)), by)) => format!("rejected by {}", cell(by)),
        Some((None, _)) => "?".to_owned(),
        None if approval.state() == ApprovalState::Closed => "closed".to_owned(),
        None => "-".to_owned(),
    };
    vec![
        approval.id.clone(),
        view::doubt(approval.doubt).to_owned(),
        clean_within(QUESTION_CHARS_MAX, &approval.question),
        decided,
        cell(&approval.input),
    ]
}
