//! `colony approve accept` and `reject`: what is decided, and what became of the task.
//!
//! ```text
//!   id, or options ─► question ─┬─ several, and this one is risky ─► left out, unless --risky
//!                               └─► Decide ─► what becomes of its task, for a few seconds
//! ```

use std::{collections::BTreeSet, time::Duration};

use colony_proto::v1::{
    Accepted, Approval, DecideRequest, Decision, Task, WatchRequest, decision::Kind,
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    super::{ids, retry::with_retry, tasks, watch::Watch},
    AFTERMATH_WAIT, decided, find, is_risky, list,
};
use crate::{
    args::{AcceptArgs, ApprovalFilterArgs, RejectArgs, RetryArgs},
    client::{Node, request_id, view},
    errors::Failure,
    output::{Output, clean},
};

/// The node's reason for refusing a second decision.
pub(super) const DECIDED: &str = "CLY0025";
/// The node's reason for refusing a label that memory does not know.
const UNKNOWN_LABEL: &str = "CLY0034";

/// Whether a risky question is decided where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Risky {
    /// It could do harm, and nobody has looked at it alone.
    LeftOut,
    /// That is meant; and to reject it does no harm.
    Taken,
}

pub(super) async fn accept(node: &Node, args: AcceptArgs, out: Output) -> Result<(), Failure> {
    let decision = accepting(args.label, !args.no_teach, args.decide.by);
    let risky = if args.risky {
        Risky::Taken
    } else {
        Risky::LeftOut
    };
    let batch = Batch::new(node, decision, args.decide.retry, args.new_label, out);
    if args.filter.is_open() {
        batch.by_ids(args.ids, risky).await
    } else {
        batch.by_options(args.filter, args.limit, risky).await
    }
}

pub(super) async fn reject(node: &Node, args: RejectArgs, out: Output) -> Result<(), Failure> {
    let decision = rejecting(args.reason, args.decide.by);
    let batch = Batch::new(node, decision, args.decide.retry, false, out);
    let filter = ApprovalFilterArgs::from(args.filter);
    if filter.is_open() {
        batch.by_ids(args.ids, Risky::Taken).await
    } else {
        batch.by_options(filter, args.limit, Risky::Taken).await
    }
}

/// The proposal is right, or the label is.
pub(super) fn accepting(label: Option<String>, teach: bool, by: String) -> Decision {
    let kind = label.map_or(Kind::Accept(Accepted {}), Kind::Correct);
    Decision {
        kind: Some(kind),
        teach: Some(teach),
        by,
    }
}

/// It must not be done; there is nothing to learn from it.
pub(super) fn rejecting(reason: String, by: String) -> Decision {
    Decision {
        kind: Some(Kind::Reject(reason)),
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

    async fn by_ids(mut self, ids: Vec<String>, risky: Risky) -> Result<(), Failure> {
        if ids.is_empty() {
            return Err(Failure::usage("which questions is not said").with_hint(
                "name ids, or what finds them: --type, --tenant, --search, --older-than, and the reason why a human is asked",
            ));
        }
        let several = ids.len() > 1;
        let mut seen = BTreeSet::new();
        for id in ids {
            match ids::approval(self.node, &id, self.retry, self.out).await {
                // Two beginnings may be those of one.
                Ok(approval) if !seen.insert(approval.id.clone()) => {}
                Ok(approval) if several && is_risky(&approval) && risky == Risky::LeftOut => {
                    let why = format!("{} is risky and was left out", approval.id);
                    let failure = Failure::refused(why).with_hint(
                        "`colony approve show ID` says why; accept it alone, or all with --risky",
                    );
                    self.failed(failure);
                }
                Ok(approval) => self.decide(&approval).await?,
                Err(failure) => self.failed(failure),
            }
        }
        self.end()
    }

    async fn by_options(
        mut self,
        filter: ApprovalFilterArgs,
        limit: usize,
        risky: Risky,
    ) -> Result<(), Failure> {
        let found = list(self.node, find(filter), limit).await?;
        let (left_out, taken): (Vec<_>, Vec<_>) = found
            .approvals
            .iter()
            .partition(|approval| is_risky(approval) && risky == Risky::LeftOut);
        for approval in &taken {
            self.decide(approval).await?;
        }
        let said = format!("{} risky left out", left_out.len());
        let hint =
            "look at them with `colony approve list --reason risky`, or take them with --risky";
        match (left_out.len(), taken.len()) {
            (0, 0) => self.out.note(found.nothing()),
            (0, _) => {}
            (_, 0) => self.failed(Failure::refused(said).with_hint(hint)),
            (_, _) => self.out.note(&format!("{said}; {hint}")),
        }
        if found.more {
            self.out.note(&format!(
                "… and more; --limit 0 takes all ({limit} looked at)"
            ));
        }
        self.end()
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
            if failure.code() == Some(UNKNOWN_LABEL) {
                // It is as unknown for the next one: to try on would say so once for each.
                if let Some(first) = self.failed.take() {
                    self.out.failure(&first);
                }
                return Err(failure.within(&approval.id));
            }
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
    let what = match &decision.kind {
        Some(Kind::Accept(_)) | None => "accepted".to_owned(),
        Some(Kind::Correct(label)) => format!("decided as {}", clean(label)),
        Some(Kind::Reject(_)) => "rejected".to_owned(),
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
