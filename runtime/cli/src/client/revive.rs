//! `colony task revive`: what has ended is made ready again.

use colony_proto::v1::{ReviveFilter, ReviveRequest, ReviveResponse, revive_request::Which};
use serde_json::json;

use super::{Node, ids, page_size, request_id, retry::with_retry, view};
use crate::{
    args::ReviveArgs,
    errors::Failure,
    output::{Output, clean},
};

pub(crate) async fn run(node: &Node, args: ReviveArgs, out: Output) -> Result<(), Failure> {
    let dry_run = args.dry_run;
    if !args.ids.is_empty() {
        return each(node, args, out).await;
    }
    let mut filter = ReviveFilter {
        tenant: args.tenant.unwrap_or_default(),
        agent_type: args.agent_type.unwrap_or_default(),
        states: args
            .states
            .into_iter()
            .map(|state| view::wire_state(state).into())
            .collect(),
        reason: args.reason.unwrap_or_default(),
        ..ReviveFilter::default()
    };
    let (mut revived, mut failed) = (0, 0);
    loop {
        filter.limit = page_size(args.limit, revived);
        let which = Some(Which::Filter(filter.clone()));
        // Not repeated here: a repeat might find other tasks, and more of them than were wanted.
        let ask = ReviveRequest {
            which,
            dry_run,
            request_id: None,
        };
        let answer = node.open(node.tasks().revive(node.ask(ask)).await)?;
        revived += answer.revived.len();
        failed += answer.not_revived.len();
        say(&answer, dry_run, out)?;
        filter.page_token = answer.next_page_token;
        if filter.page_token.is_empty() {
            break;
        }
        if page_size(args.limit, revived) == 0 {
            out.note(&format!(
                "… and maybe more; --limit 0 takes all ({revived} taken)"
            ));
            break;
        }
    }
    match (revived, failed) {
        (0, 0) => {
            out.note("nothing to revive");
            Ok(())
        }
        (_, 0) => Ok(()),
        (_, failed) => Err(Failure::failed(format!("{failed} tasks were not revived"))),
    }
}

async fn each(node: &Node, args: ReviveArgs, out: Output) -> Result<(), Failure> {
    let dry_run = args.dry_run;
    let mut failed = None;
    for id in &args.ids {
        match one(node, id, &args, out).await {
            Ok(answer) => say(&answer, dry_run, out)?,
            // The others may be revived all the same; the first failure gives the exit code.
            Err(failure) if failed.is_none() => failed = Some(failure),
            Err(failure) => out.failure(&failure),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn one(
    node: &Node,
    id: &str,
    args: &ReviveArgs,
    out: Output,
) -> Result<ReviveResponse, Failure> {
    let ask = ReviveRequest {
        which: Some(Which::TaskId(ids::task(node, id).await?)),
        dry_run: args.dry_run,
        request_id: Some(request_id()),
    };
    let answer = with_retry(args.retry_for, out, || {
        let (mut client, ask) = (node.tasks(), node.ask(ask.clone()));
        async move { client.revive(ask).await }
    });
    answer.await.map_err(|status| node.failure(&status))
}

fn say(answer: &ReviveResponse, dry_run: bool, out: Output) -> Result<(), Failure> {
    for task in &answer.revived {
        let was = view::state(task.was);
        let said = json!({
            "task_id": task.task_id,
            "revived": !dry_run,
            "was": was,
            "reason": task.reason,
            "why": null,
        });
        out.result(&said, || {
            let done = if dry_run {
                "would be ready again"
            } else {
                "is ready again"
            };
            format!(
                "{} {done} (it was {was}: {})",
                task.task_id,
                clean(&task.reason)
            )
        })?;
    }
    for task in &answer.not_revived {
        let said = json!({
            "task_id": task.task_id,
            "revived": false,
            "was": null,
            "reason": null,
            "why": task.why,
        });
        out.result(&said, || {
            format!("{} was not revived: {}", task.task_id, clean(&task.why))
        })?;
    }
    Ok(())
}
