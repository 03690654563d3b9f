//! How the words of the wire look: as JSON with the field names of `colony.v1`, and to people.

use colony_proto::v1::{
    Agent, Answer, Approval, ApprovalState, Decision, EscalationReason, Model, ModelKind,
    ModelState, Pheromone, SignalType, Source, TaskChange, TaskState, decision::Kind,
};
use colony_proto::v1::{JournalEntry, Task};
use serde_json::{Value, json};

use crate::output::{cell, clean};

pub(crate) fn state(state: i32) -> &'static str {
    match TaskState::try_from(state) {
        Ok(TaskState::Ready) => "ready",
        Ok(TaskState::Claimed) => "claimed",
        Ok(TaskState::Waiting) => "waiting",
        Ok(TaskState::Done) => "done",
        Ok(TaskState::Failed) => "failed",
        Ok(TaskState::Cancelled) => "cancelled",
        Ok(TaskState::Expired) => "expired",
        Ok(TaskState::Dead) => "dead",
        Ok(TaskState::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) fn is_final(state: i32) -> bool {
    match TaskState::try_from(state) {
        Ok(TaskState::Ready | TaskState::Claimed | TaskState::Waiting | TaskState::Unspecified) => {
            false
        }
        Ok(
            TaskState::Done
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired
            | TaskState::Dead,
        ) => true,
        Err(_) => false,
    }
}

pub(crate) fn wire_state(state: colony_core::task::State) -> TaskState {
    use colony_core::task::State;
    match state {
        State::Ready => TaskState::Ready,
        State::Claimed => TaskState::Claimed,
        State::Waiting => TaskState::Waiting,
        State::Done => TaskState::Done,
        State::Failed => TaskState::Failed,
        State::Cancelled => TaskState::Cancelled,
        State::Expired => TaskState::Expired,
        State::Dead => TaskState::Dead,
    }
}

pub(crate) fn source(source: i32) -> &'static str {
    match Source::try_from(source) {
        Ok(Source::Rule) => "rule",
        Ok(Source::Memory) => "memory",
        Ok(Source::Model) => "model",
        Ok(Source::Human) => "human",
        Ok(Source::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) fn escalation_reason(escalation_reason: i32) -> &'static str {
    match EscalationReason::try_from(escalation_reason) {
        Ok(EscalationReason::Uncertain) => "uncertain",
        Ok(EscalationReason::New) => "new",
        Ok(EscalationReason::Risky) => "risky",
        Ok(EscalationReason::Contradiction) => "contradiction",
        Ok(EscalationReason::Unspecified) | Err(_) => "unknown",
    }
}

fn approval_state(state: i32) -> &'static str {
    match ApprovalState::try_from(state) {
        Ok(ApprovalState::Open) => "open",
        Ok(ApprovalState::Answered) => "answered",
        Ok(ApprovalState::Taken) => "taken",
        Ok(ApprovalState::Closed) => "closed",
        Ok(ApprovalState::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) fn signal(signal: i32) -> &'static str {
    match SignalType::try_from(signal) {
        Ok(SignalType::Task) => "task",
        Ok(SignalType::Resource) => "resource",
        Ok(SignalType::Danger) => "danger",
        Ok(SignalType::Success) => "success",
        Ok(SignalType::Capability) => "capability",
        Ok(SignalType::LoadBalancing) => "load_balancing",
        Ok(SignalType::Coordination) => "coordination",
        Ok(SignalType::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) fn model_kind(kind: i32) -> &'static str {
    match ModelKind::try_from(kind) {
        Ok(ModelKind::Embed) => "embed",
        Ok(ModelKind::Generate) => "generate",
        Ok(ModelKind::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) fn answer(answer: &Answer) -> Value {
    json!({
        "text": answer.text,
        "confidence": answer.confidence,
        "source": source(answer.source),
        "reason": answer.reason,
    })
}

pub(crate) fn task(task: &Task) -> Value {
    json!({
        "id": task.id,
        "tenant": task.tenant,
        "agent_type": task.agent_type,
        "state": state(task.state),
        "input": task.input,
        "attributes": task.attributes,
        "priority": task.priority,
        "deadline_us": task.deadline_us,
        "dedupe_key": task.dedupe_key,
        "expected": task.expected,
        "failed_attempts": task.failed_attempts,
        "node_losses": task.node_losses,
        "not_before_us": task.not_before_us,
        "fence": task.fence,
        "agent": task.agent,
        "submitted_at_us": task.submitted_at_us,
        "updated_at_us": task.updated_at_us,
        "answer": task.answer.as_ref().map(answer),
        "failure": task.failure,
        "trace_id": (!task.trace_id.is_empty()).then_some(&task.trace_id),
    })
}

pub(crate) const TASK_HEADER: [&str; 6] = ["id", "type", "state", "agent", "answer", "input"];

pub(crate) fn task_row(task: &Task) -> Vec<String> {
    vec![
        task.id.clone(),
        cell(&task.agent_type),
        state(task.state).to_owned(),
        task.agent.clone().unwrap_or_else(|| "-".to_owned()),
        outcome(task).unwrap_or_else(|| "-".to_owned()),
        cell(&task.input),
    ]
}

/// An answer, in a few words.
pub(crate) fn answer_in_short(answer: &Answer) -> String {
    let (text, source) = (cell(&answer.text), source(answer.source));
    format!("{text} ({source}, {:.2})", answer.confidence)
}

/// An answer and how sure its agent was.
pub(crate) fn proposal(answer: &Answer) -> String {
    format!("{} {:.2}", cell(&answer.text), answer.confidence)
}

/// What came out of a task, in a few words.
pub(crate) fn outcome(task: &Task) -> Option<String> {
    match (&task.answer, &task.failure) {
        (Some(answer), _) => Some(answer_in_short(answer)),
        (None, Some(failure)) => Some(cell(failure)),
        (None, None) => None,
    }
}

pub(crate) fn task_sheet(task: &Task) -> Vec<(String, String)> {
    let mut facts = vec![
        ("task", task.id.clone()),
        ("tenant", clean(&task.tenant)),
        ("type", clean(&task.agent_type)),
        ("state", state(task.state).to_owned()),
        (
            "agent",
            task.agent.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("priority", task.priority.to_string()),
        ("submitted", time(task.submitted_at_us)),
        ("updated", time(task.updated_at_us)),
    ];
    if task.failed_attempts > 0 {
        facts.push(("failed attempts", task.failed_attempts.to_string()));
    }
    if task.node_losses > 0 {
        facts.push(("node losses", task.node_losses.to_string()));
    }
    if let Some(not_before) = task.not_before_us {
        facts.push(("not before", time(not_before)));
    }
    if let Some(deadline) = task.deadline_us {
        facts.push(("deadline", time(deadline)));
    }
    if let Some(key) = &task.dedupe_key {
        facts.push(("key", clean(key)));
    }
    if let Some(expected) = &task.expected {
        facts.push(("expected", clean(expected)));
    }
    let mut facts: Vec<(String, String)> = facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for (key, value) in &task.attributes {
        facts.push((format!("attribute {}", clean(key)), clean(value)));
    }
    if !task.trace_id.is_empty() {
        facts.push(("trace".to_owned(), task.trace_id.clone()));
    }
    facts.push(("input".to_owned(), clean(&task.input)));
    if let Some(answer) = &task.answer {
        facts.push(("answer".to_owned(), clean(&answer.text)));
        let given = format!(
            "{}, confidence {:.2}",
            source(answer.source),
            answer.confidence
        );
        facts.push(("given by".to_owned(), given));
        facts.push(("because".to_owned(), clean(&answer.reason)));
    }
    if let Some(failure) = &task.failure {
        facts.push(("no answer".to_owned(), clean(failure)));
    }
    facts
}

pub(crate) fn journal_entry(entry: &JournalEntry) -> Value {
    let body: Value =
        serde_json::from_str(&entry.body_json).unwrap_or_else(|_| entry.body_json.clone().into());
    json!({
        "sequence": entry.sequence,
        "at_us": entry.at_us,
        "kind": entry.kind,
        "step": entry.step,
        "body": body,
        "body_bytes": entry.body_bytes,
    })
}

pub(crate) fn change(change: &TaskChange, cursor: &str) -> Value {
    json!({
        "cursor": cursor,
        "task_id": change.task_id,
        "state": state(change.state),
        "at_us": change.at_us,
    })
}

pub(crate) fn agent(agent: &Agent) -> Value {
    let track = agent.track.unwrap_or_default();
    json!({
        "id": agent.id,
        "agent_type": agent.agent_type,
        "kind": agent.kind,
        "state": agent.state,
        "task_id": agent.task_id,
        "version": agent.version,
        "track": {
            "tasks": track.tasks,
            "successes": track.successes,
            "escalations": track.escalations,
            "crashes": track.crashes,
        },
    })
}

pub(crate) fn decision(decision: &Decision) -> Value {
    let kind = match &decision.kind {
        Some(Kind::Accept(_)) => json!({ "accept": {} }),
        Some(Kind::Correct(label)) => json!({ "correct": label }),
        Some(Kind::Reject(reason)) => json!({ "reject": reason }),
        None => Value::Null,
    };
    json!({ "kind": kind, "teach": decision.teach.unwrap_or(true), "by": decision.by })
}

/// Whether its answer was due before now, by the node's clock.
pub(crate) fn is_late(approval: &Approval) -> bool {
    let now_us = approval
        .asked_at_us
        .saturating_add(approval.age_ms.saturating_mul(1_000));
    let open = approval.state() == ApprovalState::Open;
    open && approval.due_at_us.is_some_and(|due| due <= now_us)
}

pub(crate) fn approval(approval: &Approval) -> Value {
    json!({
        "id": approval.id,
        "task_id": approval.task_id,
        "tenant": approval.tenant,
        "agent_type": approval.agent_type,
        "input": approval.input,
        "escalation_reason": escalation_reason(approval.escalation_reason),
        "question": approval.question,
        "proposal": approval.proposal.as_ref().map(answer),
        "asked_at_us": approval.asked_at_us,
        "age_ms": approval.age_ms,
        "due_at_us": approval.due_at_us,
        "late": is_late(approval),
        "state": approval_state(approval.state),
        "decision": approval.decision.as_ref().map(decision),
    })
}

pub(crate) fn model(model: &Model) -> Value {
    json!({
        "name": model.name,
        "kind": model_kind(model.kind),
        "engine": model.engine,
        "source": model.source,
        "dimensions": model.dimensions,
        "context_tokens": model.context_tokens,
        "requests": model.requests,
        "batches": model.batches,
        "rows": model.rows,
        "mean_batch": model.mean_batch,
        "prompt_tokens": model.prompt_tokens,
        "completion_tokens": model.completion_tokens,
        "state": model_state(model.state),
        "reason": (!model.reason.is_empty()).then_some(&model.reason),
        "away_since_us": (model.away_since_us > 0).then_some(model.away_since_us),
        "panics": model.panics,
        "poisoned": model.poisoned,
    })
}

fn model_state(state: i32) -> &'static str {
    match ModelState::try_from(state) {
        Ok(ModelState::Ready) => "ready",
        Ok(ModelState::Reopening) => "reopening",
        Ok(ModelState::Closed) => "closed",
        Ok(ModelState::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) const MODEL_HEADER: [&str; 9] = [
    "name",
    "kind",
    "state",
    "engine",
    "source",
    "requests",
    "batch",
    "tokens in",
    "tokens out",
];

pub(crate) fn model_row(model: &Model) -> Vec<String> {
    vec![
        cell(&model.name),
        model_kind(model.kind).to_owned(),
        model_state(model.state).to_owned(),
        cell(&model.engine),
        cell(&model.source),
        model.requests.to_string(),
        format!("{:.1}", model.mean_batch),
        model.prompt_tokens.to_string(),
        model.completion_tokens.to_string(),
    ]
}

pub(crate) fn pheromone(pheromone: &Pheromone) -> Value {
    json!({
        "location": pheromone.location,
        "signal": signal(pheromone.signal),
        "subject": pheromone.subject,
        "strength": pheromone.strength,
    })
}

/// Whether its task ended before anybody answered.
pub(crate) fn is_closed(approval: &Approval) -> bool {
    approval.state() == ApprovalState::Closed
}

/// A length of time in its largest unit, as `--older-than` takes it.
pub(crate) fn age(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m")];
    let unit = units.into_iter().find(|(length, _)| ms >= *length);
    let (length, name) = unit.unwrap_or((1_000, "s"));
    format!("{}{name}", ms / length)
}

/// Microseconds since the epoch as RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(us: u64) -> String {
    let (days, rest) = (us / 86_400_000_000, us % 86_400_000_000);
    let (year, month, day) = civil(days);
    let ms = rest / 1_000;
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let (seconds, ms) = (ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
}

/// The Gregorian date `days` after 1970-01-01 (Hinnant's algorithm: eras of 400 years from March).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (ms, said) in [
            (0, "0s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (7_200_000, "2h"),
            (3 * 86_400_000, "3d"),
        ] {
            assert_eq!(age(ms), said);
        }
    }

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_399_999_000), "2000-02-28T23:59:59.999Z");
        assert_eq!(time(951_782_400_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_262_400_000_000), "2026-11-21T12:00:00.000Z");
    }
}
