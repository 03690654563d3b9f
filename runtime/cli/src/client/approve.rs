//! `colony approve`: the humans' side of escalation.
//!
//! | command | module |
//! | --- | --- |
//! | `list` | here |
//! | `show` | [`show`] |
//! | `accept`, `reject` | [`decide`] |
//! | `review` | [`review`] |
//! | `watch` | [`watch`] |

mod decide;
mod review;
mod show;
mod watch;

use std::time::Duration;

use colony_proto::v1::{
    Approval, ApprovalState, ApprovalTotals, EscalationReason, ListApprovalsRequest, decision::Kind,
};

pub(crate) use self::decide::with_new_label;
use super::{Node, page_size, types, view};
use crate::{
    args::{ApprovalFilterArgs, ApproveCommand, EscalationReasonChoice},
    errors::Failure,
    output::{Output, cell},
};

pub(crate) async fn run(node: &Node, command: ApproveCommand, out: Output) -> Result<(), Failure> {
    match command {
        ApproveCommand::List { filter, all, limit } => {
            let ask = ListApprovalsRequest {
                closed_too: all,
                ..find(filter)
            };
            print(node, ask, limit, out).await
        }
        ApproveCommand::Show { id } => show::run(node, &id, out).await,
        ApproveCommand::Review {
            filter,
            limit,
            decide,
        } => review::run(node, find(filter), limit, decide, out).await,
        ApproveCommand::Watch { tenant, agent_type } => {
            watch::run(node, tenant, agent_type, out).await
        }
        ApproveCommand::Accept(args) => decide::accept(node, args, out).await,
        ApproveCommand::Reject(args) => decide::reject(node, args, out).await,
    }
}

/// Asks for what the options find.
fn find(filter: ApprovalFilterArgs) -> ListApprovalsRequest {
    let escalation_reasons = filter
        .escalation_reasons
        .into_iter()
        .map(|escalation_reason| match escalation_reason {
            EscalationReasonChoice::Uncertain => EscalationReason::Uncertain.into(),
            EscalationReasonChoice::New => EscalationReason::New.into(),
            EscalationReasonChoice::Risky => EscalationReason::Risky.into(),
            EscalationReasonChoice::Contradiction => EscalationReason::Contradiction.into(),
        });
    ListApprovalsRequest {
        tenant: filter.tenant.unwrap_or_default(),
        agent_type: filter.agent_type.unwrap_or_default(),
        escalation_reasons: escalation_reasons.collect(),
        older_than_ms: filter
            .older_than
            .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        search: filter.search.unwrap_or_default(),
        ..ListApprovalsRequest::default()
    }
}

async fn print(
    node: &Node,
    ask: ListApprovalsRequest,
    limit: usize,
    out: Output,
) -> Result<(), Failure> {
    let all = ask.closed_too;
    let found = list(node, ask, limit).await?;
    let mut header = vec!["id", "age", "reason", "proposal"];
    if all {
        header.push("decided");
    }
    header.push("input");
    let rows = found
        .approvals
        .iter()
        .map(|approval| (view::approval(approval), row(approval, all)));
    out.results(&header, rows, found.nothing())?;
    if !found.approvals.is_empty() {
        out.note(&totals(&found.totals));
    }
    if found.more {
        out.note(&format!("… and more; --limit 0 lists all ({limit} shown)"));
    }
    Ok(())
}

/// Questions that were found.
pub(crate) struct Found {
    pub(crate) approvals: Vec<Approval>,
    /// How many there are, whatever the limit.
    totals: ApprovalTotals,
    /// Whether there are more than the limit let in.
    more: bool,
    asked: Asked,
}

/// Which questions were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// All that ever were.
    Ever,
    /// All open ones.
    Open,
    /// Those like something.
    Some,
}

impl Found {
    /// What is said where there is none.
    const fn nothing(&self) -> &'static str {
        match self.asked {
            Asked::Ever => "nobody has asked a human yet",
            Asked::Open => "nothing waits for a human",
            Asked::Some => "no question is like that",
        }
    }
}

/// At most `limit` questions (0: all).
pub(crate) async fn list(
    node: &Node,
    mut ask: ListApprovalsRequest,
    limit: usize,
) -> Result<Found, Failure> {
    let every = |closed_too| ListApprovalsRequest {
        closed_too,
        ..ListApprovalsRequest::default()
    };
    let mut found = Found {
        approvals: Vec::new(),
        totals: ApprovalTotals::default(),
        more: false,
        asked: match &ask {
            ask if *ask == every(true) => Asked::Ever,
            ask if *ask == every(false) => Asked::Open,
            _ => Asked::Some,
        },
    };
    ask.with_totals = true;
    loop {
        ask.page_size = page_size(limit, found.approvals.len());
        let page = node.open(node.approvals().list(node.ask(ask.clone())).await)?;
        found.approvals.extend(page.approvals);
        if let Some(totals) = page.totals {
            found.totals = totals;
        }
        ask.with_totals = false;
        ask.page_token = page.next_page_token;
        found.more = !ask.page_token.is_empty();
        if !found.more || page_size(limit, found.approvals.len()) == 0 {
            break;
        }
    }
    // Questions of a type that is declared no more are listed; a type that never was is a slip.
    if found.approvals.is_empty() && !ask.agent_type.is_empty() {
        types::check(node, &ask.agent_type).await?;
    }
    Ok(found)
}

/// How many there are, why, and for how long the oldest has waited.
fn totals(totals: &ApprovalTotals) -> String {
    let by_escalation_reason: Vec<String> = totals
        .by_escalation_reason
        .iter()
        .map(|count| {
            format!(
                "{} {}",
                count.approvals,
                view::escalation_reason(count.escalation_reason)
            )
        })
        .collect();
    let questions = match totals.approvals {
        1 => "1 question".to_owned(),
        count => format!("{count} questions"),
    };
    let oldest = totals.oldest_age_ms.map_or_else(String::new, |age| {
        format!("; the oldest was asked {} ago", view::age(age))
    });
    format!("{questions}: {}{oldest}", by_escalation_reason.join(", "))
}

fn row(approval: &Approval, all: bool) -> Vec<String> {
    let mut cells = vec![
        approval.id.clone(),
        age(approval),
        view::escalation_reason(approval.escalation_reason).to_owned(),
        approval
            .proposal
            .as_ref()
            .map_or_else(|| "-".to_owned(), view::proposal),
    ];
    if all {
        cells.push(decided(approval));
    }
    cells.push(cell(&approval.input));
    cells
}

/// How long ago it was asked, and whether it is late.
fn age(approval: &Approval) -> String {
    let age = view::age(approval.age_ms);
    if view::is_late(approval) {
        format!("{age}, late")
    } else {
        age
    }
}

/// What was decided, and by whom.
fn decided(approval: &Approval) -> String {
    match approval.decision.as_ref().map(|d| (&d.kind, &d.by)) {
        Some((Some(Kind::Accept(_)), by)) => format!("accepted by {}", cell(by)),
        Some((Some(Kind::Correct(label)), by)) => format!("{} by {}", cell(label), cell(by)),
        Some((Some(Kind::Reject(_)), by)) => format!("rejected by {}", cell(by)),
        Some((None, _)) => "?".to_owned(),
        None if approval.state() == ApprovalState::Closed => "closed with its task".to_owned(),
        None => "-".to_owned(),
    }
}

/// Whether it could do harm.
fn is_risky(approval: &Approval) -> bool {
    approval.escalation_reason() == EscalationReason::Risky
}

/// How long a command waits to see what becomes of the tasks that it has decided, in all.
const AFTERMATH_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use colony_proto::v1::EscalationReasonCount;

    use super::*;

    #[test]
    fn totals_say_how_many_why_and_since_when() {
        let count = |escalation_reason: EscalationReason, approvals| EscalationReasonCount {
            escalation_reason: escalation_reason.into(),
            approvals,
        };
        let said = totals(&ApprovalTotals {
            approvals: 41,
            by_escalation_reason: vec![
                count(EscalationReason::New, 38),
                count(EscalationReason::Risky, 3),
            ],
            oldest_age_ms: Some(2 * 3_600_000),
        });
        assert_eq!(
            said,
            "41 questions: 38 new, 3 risky; the oldest was asked 2h ago"
        );
    }
}
