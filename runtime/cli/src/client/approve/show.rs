//! `colony approve show`: everything that a person who decides may want to see.

use std::time::Duration;

use colony_proto::v1::{Approval, Evidence, GetApprovalRequest, GetApprovalResponse};
use serde_json::{Value, json};

use super::{super::ids, decided};
use crate::{
    args::RetryArgs,
    client::{Node, view},
    errors::Failure,
    output::{Output, clean, clean_lines, clean_within, sheet},
};

/// Most characters of a solved task's text: about two lines.
const NEIGHBOUR_CHARS_MAX: usize = 120;
/// Most labels that are listed to people; `--json` has all.
const LABELS_MAX: usize = 30;

/// A look is not repeated.
const ONCE: RetryArgs = RetryArgs {
    retry_for: Duration::ZERO,
};

pub(super) async fn run(node: &Node, id: &str, out: Output) -> Result<(), Failure> {
    let id = ids::approval(node, id, ONCE, out).await?.id;
    let shown = get(node, id).await?;
    let approval = shown.approval.clone().unwrap_or_default();
    let mut json = view::approval(&approval);
    if let Value::Object(fields) = &mut json {
        let evidence = shown.evidence.as_ref().map(evidence);
        fields.insert("evidence".to_owned(), evidence.into());
        let labels = shown.known_labels.clone();
        fields.insert("known_labels".to_owned(), labels.into());
    }
    out.result(&json, || text(&shown))
}

pub(super) async fn get(node: &Node, approval_id: String) -> Result<GetApprovalResponse, Failure> {
    let ask = node.ask(GetApprovalRequest { approval_id });
    node.open(node.approvals().get(ask).await)
}

fn evidence(evidence: &Evidence) -> Value {
    let findings = evidence.findings.iter();
    let findings = findings.map(|f| json!({ "why": f.why, "words": f.words }));
    let candidates = evidence.candidates.iter();
    let candidates = candidates.map(|c| json!({ "label": c.label, "share": c.share }));
    let neighbours = evidence.neighbours.iter();
    let neighbours =
        neighbours.map(|n| json!({ "label": n.label, "similarity": n.similarity, "text": n.text }));
    json!({
        "findings": findings.collect::<Vec<_>>(),
        "candidates": candidates.collect::<Vec<_>>(),
        "neighbours": neighbours.collect::<Vec<_>>(),
    })
}

/// All of it, as wide as the terminal; the task's whole text below.
pub(super) fn text(shown: &GetApprovalResponse) -> String {
    let approval = shown.approval.clone().unwrap_or_default();
    let mut facts = vec![
        ("question", approval.id.clone()),
        ("task", approval.task_id.clone()),
        ("tenant", clean(&approval.tenant)),
        ("type", clean(&approval.agent_type)),
        (
            "asked",
            format!(
                "{}, {} ago",
                view::time(approval.asked_at_us),
                view::age(approval.age_ms)
            ),
        ),
    ];
    if let Some(due) = approval.due_at_us {
        let late = if view::is_late(&approval) {
            ", late"
        } else {
            ""
        };
        facts.push(("due", format!("{}{late}", view::time(due))));
    }
    facts.extend(what_is_asked(shown));
    if approval.decision.is_some() || view::is_closed(&approval) {
        facts.push(("decided", decided(&approval)));
    }
    format!("{}\n\n{}", sheet(facts), clean_lines(&approval.input))
}

/// What there is to decide, and what speaks for it.
pub(super) fn what_is_asked(shown: &GetApprovalResponse) -> Vec<(&'static str, String)> {
    let default = Approval::default();
    let approval = shown.approval.as_ref().unwrap_or(&default);
    let mut facts = vec![(
        "reason",
        view::escalation_reason(approval.escalation_reason).to_owned(),
    )];
    if let Some(proposal) = &approval.proposal {
        facts.push(("proposal", view::answer_in_short(proposal)));
        facts.push(("because", clean(&proposal.reason)));
    }
    let evidence = shown.evidence.clone().unwrap_or_default();
    // One line each, the name before the first.
    let mut lines = |name: &'static str, lines: Vec<String>| {
        let names = std::iter::once(name).chain(std::iter::repeat(""));
        facts.extend(names.zip(lines));
    };
    let findings = evidence
        .findings
        .iter()
        .map(|found| match found.words.as_str() {
            "" => clean(&found.why),
            words => format!("{:?}: {}", clean(words), clean(&found.why)),
        });
    lines("found", findings.collect());
    let likely = evidence.candidates.iter().map(|candidate| {
        let share = candidate.share * 100.0;
        format!("{:>3.0} %  {}", share, clean(&candidate.label))
    });
    lines("likely", likely.collect());
    let alike = evidence.neighbours.iter().map(|neighbour| {
        let text = clean_within(NEIGHBOUR_CHARS_MAX, &neighbour.text);
        format!(
            "{:.2}  {}: {text}",
            neighbour.similarity,
            clean(&neighbour.label)
        )
    });
    lines("alike", alike.collect());
    facts.push(("labels", labels(&shown.known_labels)));
    facts
}

fn labels(known: &[String]) -> String {
    if known.is_empty() {
        return "none is known yet".to_owned();
    }
    let listed: Vec<String> = known
        .iter()
        .take(LABELS_MAX)
        .map(|label| clean(label))
        .collect();
    let listed = listed.join(", ");
    match known.len().saturating_sub(LABELS_MAX) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use colony_proto::v1::{Answer, Candidate, EscalationReason, Finding, Neighbour};

    use super::*;

    #[test]
    fn everything_is_shown_and_nothing_steers() {
        let shown = GetApprovalResponse {
            approval: Some(Approval {
                id: "the-id".to_owned(),
                escalation_reason: EscalationReason::Risky.into(),
                input: "first line\nsecond \u{1b}[2Jline".to_owned(),
                proposal: Some(Answer {
                    text: "databases".to_owned(),
                    ..Answer::default()
                }),
                ..Approval::default()
            }),
            evidence: Some(Evidence {
                findings: vec![Finding {
                    why: "deletes data".to_owned(),
                    words: "drop … database".to_owned(),
                }],
                candidates: vec![Candidate {
                    label: "databases".to_owned(),
                    share: 0.75,
                }],
                neighbours: vec![Neighbour {
                    label: "databases".to_owned(),
                    similarity: 0.5,
                    text: "restore the database".to_owned(),
                }],
            }),
            known_labels: vec!["databases".to_owned(), "hr".to_owned()],
        };
        let text = text(&shown);
        for part in [
            "the-id",
            "risky",
            "\"drop … database\": deletes data",
            " 75 %  databases",
            "0.50  databases: restore the database",
            "databases, hr",
            "first line\nsecond \\u{1b}[2Jline",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}
