//! `colony approve accept` and `reject`: what is decided, and what became of the task.
//!
//! ```text
//!   id, or options ─► question ─┬─ several, and this one is risky ─► left out, unless --risky
//!                               └─► Decide ─► what becomes of its task, for a few seconds
//! ```

use std::time::Duration;

use colony_proto::v1::{
    Accepted, Approval, DecideRequest, Decision, Task, WatchRequest, decision::Ruling,
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    super::{ids, retry::with_retry, tasks, watch::Watch},
    AFTERMATH_WAIT, decided, find, is_risky, list,
};
use crate::{
    args::{AcceptArgs, DecideArgs, RetryArgs},
    client::{Node, request_id, view},
    errors::Failure,
    output::{Output, clean},
};

/// The node's reason for refusing a second decision.
pub(super) const DECIDED: &str = "CLY0025";
/// The node's reason for refusing a label that memory does not know.
const UNKNOWN_LABEL: &str = "CLY0034";

pub(super) async fn accept(node: &Node, args: AcceptArgs, out: Output) -> Result<(), Failure> {
    let decision = accepting(args.label, !args.no_teach, args.decide.by);
    let several = args.ids.len() != 1;
    let mut batch = Batch::new(node, decision, args.decide.retry, args.new_label, out);
    if args.filter.is_open() {
        for id in args.ids {
            match ids::approval(node, &id, args.decide.retry, out).await {
                Ok(approval) if several && is_risky(&approval) && !args.risky => {
                    let why = format!("{} is risky and was left out", approval.id);
                    let failure = Failure::refused(why).with_hint(
                        "`colony approve show ID` says why; accept it alone, or all with --risky",
                    );
                    batch.failed(failure);
                }
                Ok(approval) => batch.decide(&approval).await?,
                Err(failure) => batch.failed(failure),
            }
        }
        return batch.end();
    }
    let found = list(node, find(args.filter), args.limit).await?;
    let (risky, others): (Vec<_>, Vec<_>) = found
        .approvals
        .iter()
        .partition(|approval| is_risky(approval) && !args.risky);
    for approval in &others {
        batch.decide(approval).await?;
    }
    let left_out = format!("{} risky left out", risky.len());
    let hint = "look at them with `colony approve list --reason risky`, or take them with --risky";
    match (risky.len(), others.len()) {
        (0, 0) => out.note("no question is like that"),
        (0, _) => {}
        (_, 0) => batch.failed(Failure::refused(left_out).with_hint(hint)),
        (_, _) => out.note(&format!("{left_out}; {hint}")),
    }
    if found.more {
        out.note(&format!(
            "… and more; --limit 0 takes all ({} looked at)",
            args.limit
        ));
    }
    batch.end()
}

pub(super) async fn reject(
    node: &Node,
    ids: Vec<String>,
    reason: String,
    args: DecideArgs,
    out: Output,
) -> Result<(), Failure> {
    let decision = rejecting(reason, args.by);
    let mut batch = Batch::new(node, decision, args.retry, false, out);
    for id in ids {
        match ids::approval(node, &id, args.retry, out).await {
            Ok(approval) => batch.decide(&approval).await?,
            Err(failure) => batch.failed(failure),
        }
    }
    batch.end()
}

/// The proposal is right, or the label is.
pub(super) fn accepting(label: Option<String>, teach: bool, by: String) -> Decision {
    let ruling = label.map_or(Ruling::Accept(Accepted {}), Ruling::Correct);
    Decision {
        ruling: Some(ruling),
        teach: Some(teach),
        by,
    }
}

/// It must not be done; there is nothing to learn from it.
pub(super) fn rejecting(reason: String, by: String) -> Decision {
    Decision {
        ruling: Some(Ruling::Reject(reason)),
        teach: Some(false),
        by,
    }
}

/// One decision on many questions.
struct Batch<'a> {
    node: &'a Node,
    decision: Decision,
    retry: RetryArgs,
    new_label: bool,
    out: Output,
    /// Time to see what becomes of the tasks, for all of them together.
    left: Duration,
    /// The first failure: it gives the exit code, and the others are said as they come.
    failed: Option<Failure>,
}

impl<'a> Batch<'a> {
    const fn new(
        node: &'a Node,
        decision: Decision,
        retry: RetryArgs,
        new_label: bool,
        out: Output,
    ) -> Self {
        Self {
            node,
            decision,
            retry,
            new_label,
            out,
            left: AFTERMATH_WAIT,
            failed: None,
        }
    }

    async fn decide(&mut self, approval: &Approval) -> Result<(), Failure> {
        let decision = &self.decision;
        let sent = send(
            self.node,
            approval,
            decision,
            self.new_label,
            self.retry,
            self.out,
        );
        if let Err(failure) = sent.await {
            self.failed(failure);
            return Ok(());
        }
        let began = Instant::now();
        let task = aftermath(self.node, &approval.task_id, self.left, self.out).await;
        self.left = self.left.saturating_sub(began.elapsed());
        // It is decided all the same.
        let task = task.unwrap_or_else(|failure| {
            self.out.failure(&failure);
            None
        });
        let task = task.unwrap_or_default();
        let json = json!({
            "approval_id": approval.id,
            "task_id": approval.task_id,
            "state": view::state(task.state),
            "decision": view::decision(decision),
            "answer": task.answer.as_ref().map(view::answer),
            "failure": task.failure,
        });
        // What is decided is decided: a reader who left is no reason to end as if all were done.
        let said = self.out.result(&json, || said(approval, decision, &task));
        said.map_err(Failure::out_loud)
    }

    fn failed(&mut self, failure: Failure) {
        match self.failed {
            None => self.failed = Some(failure),
            Some(_) => self.out.failure(&failure),
        }
    }

    fn end(self) -> Result<(), Failure> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// Sends a decision. When it returns well, the decision is on disk.
pub(super) async fn send(
    node: &Node,
    approval: &Approval,
    decision: &Decision,
    new_label: bool,
    retry: RetryArgs,
    out: Output,
) -> Result<(), Failure> {
    let ask = DecideRequest {
        approval_id: approval.id.clone(),
        decision: Some(decision.clone()),
        request_id: Some(request_id()),
        known_label_only: !new_label,
    };
    let answer = with_retry(retry.retry_for, out, || {
        let (mut client, ask) = (node.approvals(), node.ask(ask.clone()));
        async move { client.decide(ask).await }
    });
    let failure = match answer.await {
        Ok(_) => return Ok(()),
        Err(status) => node.failure(&status),
    };
    Err(match failure.code() {
        Some(UNKNOWN_LABEL) => with_new_label(failure),
        Some(DECIDED) => {
            // Who was first stands in the message; here is what it was.
            match super::show::get(node, approval.id.clone()).await {
                Ok(shown) => {
                    let first = decided(&shown.approval.unwrap_or_default());
                    let task = tasks::get(node, &approval.task_id).await;
                    let task = task.map_or_else(|_| String::new(), |task| became(&task));
                    failure.with_details([format!("{}: {first}; {task}", approval.id)])
                }
                Err(_) => failure,
            }
        }
        Some(_) | None => failure,
    })
}

/// Says how a label is taken that memory does not know.
pub(crate) fn with_new_label(failure: Failure) -> Failure {
    if failure.code() == Some(UNKNOWN_LABEL) {
        failure.with_hint("if the label is meant, add --new-label")
    } else {
        failure
    }
}

/// Where a decided task stands when it has ended or asks again, or else when the time is over.
pub(super) async fn aftermath(
    node: &Node,
    task: &str,
    limit: Duration,
    out: Output,
) -> Result<Option<Task>, Failure> {
    let until = Instant::now() + limit;
    let follow = async {
        let ask = WatchRequest {
            task_ids: vec![task.to_owned()],
            ..WatchRequest::default()
        };
        let mut watch = Watch::open(node, ask).await?;
        // The state at the beginning of the stream may be older than the decision only where the line broke.
        while let Some(change) = watch.next(node, out).await? {
            if view::is_final(change.state) || view::state(change.state) == "waiting" {
                break;
            }
        }
        Ok::<_, Failure>(())
    };
    if let Ok(followed) = timeout_at(until, follow).await {
        followed?;
    }
    tasks::get(node, task).await.map(Some)
}

/// What was done, and what became of the task.
pub(super) fn said(approval: &Approval, decision: &Decision, task: &Task) -> String {
    let what = match &decision.ruling {
        Some(Ruling::Accept(_)) | None => "accepted".to_owned(),
        Some(Ruling::Correct(label)) => format!("decided as {}", clean(label)),
        Some(Ruling::Reject(_)) => "rejected".to_owned(),
    };
    format!("{} is {what}; {}", approval.id, became(task))
}

fn became(task: &Task) -> String {
    let (id, state) = (&task.id, view::state(task.state));
    match (&task.answer, &task.failure, state) {
        (Some(answer), _, _) => format!("task {id} is {state}: {}", clean(&answer.text)),
        (None, Some(why), _) => format!("task {id} is {state}: {}", clean(why)),
        (None, None, "waiting") => format!("task {id} is waiting: it asks again"),
        (None, None, _) => format!("task {id} is {state}: an agent takes the decision up"),
    }
}

#[cfg(test)]
mod tests {
    use colony_proto::v1::{Answer, TaskState};

    use super::*;

    #[test]
    fn a_decision_says_what_became_of_the_task() {
        let approval = Approval {
            id: "q".to_owned(),
            ..Approval::default()
        };
        let task = |state: TaskState, answer: Option<&str>, failure: Option<&str>| Task {
            id: "t".to_owned(),
            state: state.into(),
            answer: answer.map(|text| Answer {
                text: text.to_owned(),
                ..Answer::default()
            }),
            failure: failure.map(str::to_owned),
            ..Task::default()
        };
        let no = rejecting("no".to_owned(), "ann".to_owned());
        let rejected = task(TaskState::Failed, None, Some("rejected by ann: no"));
        assert_eq!(
            said(&approval, &no, &rejected),
            "q is rejected; task t is failed: rejected by ann: no"
        );
        let yes = accepting(None, true, "ann".to_owned());
        assert_eq!(
            said(&approval, &yes, &task(TaskState::Done, Some("hr"), None)),
            "q is accepted; task t is done: hr"
        );
        assert_eq!(
            said(&approval, &yes, &task(TaskState::Ready, None, None)),
            "q is accepted; task t is ready: an agent takes the decision up"
        );
    }
}
