//! `colony task`: list, get, watch, cancel, feedback; revive stands beside.

use colony_proto::v1::{
    Approval, CancelRequest, FeedbackRequest, GetTaskRequest, ListApprovalsRequest,
    ListTasksRequest, Task, TaskState, WatchRequest,
};
use serde_json::{Value, json};

use super::{
    Node, approve, ids, page_size, request_id, retry::with_retry, revive, types, view, watch::Watch,
};
use crate::{
    args::{RetryArgs, TaskCommand},
    errors::Failure,
    output::{Output, clean, sheet},
};

pub(crate) async fn run(node: &Node, command: TaskCommand, out: Output) -> Result<(), Failure> {
    match command {
        TaskCommand::List {
            states,
            agent_type,
            tenant,
            limit,
        } => {
            let ask = ListTasksRequest {
                tenant: tenant.unwrap_or_default(),
                states: states
                    .into_iter()
                    .map(|s| view::wire_state(s).into())
                    .collect(),
                agent_type: agent_type.unwrap_or_default(),
                ..ListTasksRequest::default()
            };
            list(node, ask, limit, out).await
        }
        TaskCommand::Get { id, journal } => show(node, &id, journal, out).await,
        TaskCommand::Watch {
            ids,
            until_ended,
            after,
        } => {
            let ask = WatchRequest {
                task_ids: ids::tasks(node, ids).await?,
                after_cursor: after,
                until_ended,
            };
            let mut watch = Watch::open(node, ask).await?;
            while let Some(change) = watch.next(node, out).await? {
                out.result(&view::change(&change, watch.cursor()), || {
                    let (at, state) = (view::time(change.at_us), view::state(change.state));
                    format!("{at}  {}  {state}  {}", change.task_id, watch.cursor())
                })?;
            }
            Ok(())
        }
        TaskCommand::Cancel { ids, retry } => cancel(node, ids, retry, out).await,
        TaskCommand::Revive(args) => revive::run(node, args, out).await,
        TaskCommand::Feedback {
            id,
            label,
            new_label,
        } => {
            let id = ids::task(node, &id).await?;
            let ask = node.ask(FeedbackRequest {
                task_id: id.clone(),
                label: label.clone(),
                known_label_only: !new_label,
            });
            let taught = node.open(node.tasks().feedback(ask).await);
            taught.map_err(approve::with_new_label)?;
            let said = json!({ "task_id": id, "label": label });
            out.result(&said, || format!("{id}: {} is learned", clean(&label)))
        }
    }
}

async fn list(
    node: &Node,
    mut ask: ListTasksRequest,
    limit: usize,
    out: Output,
) -> Result<(), Failure> {
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        ask.page_size = page_size(limit, tasks.len());
        let page = node.open(node.tasks().list(node.ask(ask.clone())).await)?;
        tasks.extend(page.tasks);
        ask.page_token = page.next_page_token;
        if ask.page_token.is_empty() || page_size(limit, tasks.len()) == 0 {
            break;
        }
    }
    // Tasks of a type that is declared no more are listed; a type that never was is a slip.
    if tasks.is_empty() && !ask.agent_type.is_empty() {
        types::check(node, &ask.agent_type).await?;
    }
    let rows = tasks
        .iter()
        .map(|task| (view::task(task), view::task_row(task)));
    out.results(&view::TASK_HEADER, rows, "no tasks")?;
    if !ask.page_token.is_empty() {
        out.note(&format!("… and more; --limit 0 lists all ({limit} shown)"));
    }
    Ok(())
}

/// A task.
pub(super) async fn get(node: &Node, id: &str) -> Result<Task, Failure> {
    let ask = GetTaskRequest {
        task_id: id.to_owned(),
        ..GetTaskRequest::default()
    };
    let answer = node.open(node.tasks().get(node.ask(ask)).await)?;
    Ok(answer.task.unwrap_or_default())
}

async fn show(node: &Node, id: &str, journal: bool, out: Output) -> Result<(), Failure> {
    let mut ask = GetTaskRequest {
        task_id: ids::task(node, id).await?,
        journal,
        journal_page_token: String::new(),
    };
    let mut entries = Vec::new();
    let task = loop {
        let answer = node.open(node.tasks().get(node.ask(ask.clone())).await)?;
        entries.extend(answer.journal);
        ask.journal_page_token = answer.next_journal_page_token;
        if ask.journal_page_token.is_empty() {
            break answer.task.unwrap_or_default();
        }
    };
    let question = question(node, &task).await?;
    let mut json = view::task(&task);
    if let Value::Object(fields) = &mut json {
        let question = question.as_ref().map(view::approval);
        fields.insert("question".to_owned(), question.into());
        if journal {
            let entries = entries.iter().map(view::journal_entry).collect();
            fields.insert("journal".to_owned(), Value::Array(entries));
        }
    }
    out.result(&json, || {
        let mut facts = view::task_sheet(&task);
        if let Some(question) = &question {
            facts.push(("asks a human".to_owned(), clean(&question.question)));
            let reason = view::escalation_reason(question.escalation_reason).to_owned();
            facts.push(("reason".to_owned(), reason));
            facts.push(("question".to_owned(), question.id.clone()));
            let next = format!("colony approve show {}", question.id);
            facts.push(("decide".to_owned(), next));
        }
        let mut text = sheet(facts);
        for entry in &entries {
            let what = [entry.kind.as_str(), entry.step.as_str()].join(" ");
            let (at, body) = (view::time(entry.at_us), clean(&entry.body_json));
            text.push_str(&format!(
                "\n{:>4}  {at}  {:<16}  {body}",
                entry.sequence,
                what.trim()
            ));
        }
        text
    })
}

/// What a waiting task waits for.
async fn question(node: &Node, task: &Task) -> Result<Option<Approval>, Failure> {
    if task.state() != TaskState::Waiting {
        return Ok(None);
    }
    let ask = ListApprovalsRequest {
        task_id: task.id.clone(),
        ..ListApprovalsRequest::default()
    };
    let page = node.open(node.approvals().list(node.ask(ask)).await)?;
    Ok(page.approvals.into_iter().next())
}

async fn cancel(
    node: &Node,
    ids: Vec<String>,
    retry: RetryArgs,
    out: Output,
) -> Result<(), Failure> {
    let mut failed = None;
    for id in ids {
        let id = match ids::task(node, &id).await {
            Ok(id) => id,
            Err(failure) if failed.is_none() => {
                failed = Some(failure);
                continue;
            }
            Err(failure) => {
                out.failure(&failure);
                continue;
            }
        };
        let ask = CancelRequest {
            task_id: id.clone(),
            request_id: Some(request_id()),
        };
        let answer = with_retry(retry.retry_for, out, || {
            let (mut client, ask) = (node.tasks(), node.ask(ask.clone()));
            async move { client.cancel(ask).await }
        });
        match answer.await.map_err(|status| node.failure(&status)) {
            Ok(answer) => {
                let was = view::state(answer.was);
                out.result(&json!({ "task_id": id, "was": was }), || {
                    format!("{id} is cancelled (it was {was})")
                })?;
            }
            // The others may still be there; the first failure gives the exit code.
            Err(failure) if failed.is_none() => failed = Some(failure),
            Err(failure) => out.failure(&failure),
        }
    }
    failed.map_or(Ok(()), Err)
}
