//! Domain ↔ wire, for all services.
//!
//! `parse_*` reads what a caller has sent, or refuses it with the field at fault; only what does not fit the
//! types is refused here, rules stand in core. `*_to_wire` writes what the node says.

use std::{fmt::Display, time::Duration};

use colony_core::{
    cycle::{Decision, DecisionKind, EscalationReason, Output, Teaching},
    escalation::Evidence,
    field::{Cell, Signal},
    id::{AgentId, ApprovalId, IdPrefix, RequestId, TaskId, Tenant, TypeName},
    journal::{EffectKey, Entry, Note},
    task::{Answer, Ending, Priority, Source, Spec, State},
    text::steers,
    unit::{Ratio, Timestamp},
};
use colony_inference::WorkerState;
use colony_proto::v1::{self, decision, submitted::Outcome};
use colony_store::{Approval, MessageId, Posted, QuestionState, Record, Submitted, Verification};
use tonic::Status;
use uuid::Uuid;

use super::status;
use crate::{
    Health, NodeHandle, Submission,
    revive::{Revival, Revived},
    view::{self, AgentView, ApprovalTotals, ModelView},
};

/// Longest page, and the page of those who name no length.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 100;
/// Longest text of one journal entry that goes out, in bytes: it leaves room for others in an answer.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Most rows and most problems of a verification that go out; how many there are is said beside them.
const FINDINGS_MAX: usize = 1_000;

// Wire to domain.

/// The length of a page, from what the caller asks for.
pub(super) fn parse_page_size(asked: u32) -> u32 {
    match asked {
        0 => PAGE_DEFAULT,
        n => n.min(PAGE_MAX),
    }
}

/// A text that may be left empty.
pub(super) fn parse_optional<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, Status>,
) -> Result<Option<T>, Status> {
    match text {
        "" => Ok(None),
        text => parse(text).map(Some),
    }
}

/// A tenant as callers write it: empty is the default one.
pub(super) fn parse_tenant(name: &str, field: &str) -> Result<Tenant, Status> {
    let named = parse_optional(name, |name| {
        Tenant::new(name).map_err(|error| status::argument(field, &error))
    })?;
    Ok(named.unwrap_or_default())
}

/// A tenant to filter by: empty is all of them.
pub(super) fn parse_tenant_filter(name: &str) -> Result<Option<Tenant>, Status> {
    parse_optional(name, |name| parse_tenant(name, "tenant"))
}

pub(super) fn parse_type(text: &str, field: &str) -> Result<TypeName, Status> {
    TypeName::new(text).map_err(|error| status::argument(field, &error))
}

pub(super) fn parse_task_id(text: &str, field: &str) -> Result<TaskId, Status> {
    TaskId::parse(text).map_err(|error| status::argument(field, &error))
}

/// An id that a client made for its task.
fn parse_new_task_id(text: &str, field: &str) -> Result<TaskId, Status> {
    let id = parse_task_id(text, field)?;
    match id.0.get_version_num() {
        7 => Ok(id),
        version => {
            let why = format!("is a UUID of version {version}; task ids are of version 7");
            Err(status::argument(field, &why))
        }
    }
}

pub(super) fn parse_approval_id(text: &str, field: &str) -> Result<ApprovalId, Status> {
    ApprovalId::parse(text).map_err(|error| status::argument(field, &error))
}

pub(super) fn parse_request_id(text: &str) -> Result<RequestId, Status> {
    let id = Uuid::parse_str(text).map_err(|error| status::argument("request_id", &error))?;
    Ok(RequestId::new(id.into_bytes()))
}

/// Reads `triage/17`.
pub(super) fn parse_agent_id(text: &str, field: &str) -> Result<AgentId, Status> {
    let wrong = || status::argument(field, &"is no agent; write type and number, like triage/17");
    let (agent_type, ordinal) = text.split_once('/').ok_or_else(wrong)?;
    Ok(AgentId {
        agent_type: parse_type(agent_type, field)?,
        ordinal: ordinal.parse().map_err(|_| wrong())?,
    })
}

/// A token that an earlier page gave.
pub(super) fn parse_page_token<T, E>(
    text: &str,
    field: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Status> {
    parse_optional(text, |text| {
        let why = "is none that this service gave; start without one";
        parse(text).map_err(|_| status::argument(field, &why))
    })
}

pub(super) fn parse_message_id(id: v1::MessageId, field: &str) -> Result<MessageId, Status> {
    if id.effect_key.is_empty() {
        return Err(status::argument(
            &format!("{field}.effect_key"),
            &"must be given",
        ));
    }
    Ok(MessageId {
        key: EffectKey::from(id.effect_key),
        index: id.index,
    })
}

/// A label, name or reason: neither blank nor endless.
pub(super) fn parse_line(text: String, field: &str) -> Result<String, Status> {
    const BYTES_MAX: usize = colony_core::task::ATTRIBUTE_BYTES_MAX;
    let refused = |why: &dyn Display| Err(status::argument(field, &why));
    if text.trim().is_empty() {
        return refused(&"must not be blank");
    }
    if text.len() > BYTES_MAX {
        return refused(&format!(
            "{} bytes are more than {BYTES_MAX} bytes",
            text.len()
        ));
    }
    match text.chars().find(|c| steers(*c)) {
        Some(c) if c.is_control() => refused(&format!("holds the control character {c:?}")),
        Some(c) => {
            let why = "holds a character that is not seen or turns the direction of writing";
            refused(&format!("{why}, {}", c.escape_unicode()))
        }
        None => Ok(text),
    }
}

/// The beginning of an id; empty is all ids.
pub(super) fn parse_id_prefix(text: &str) -> Result<Option<IdPrefix>, Status> {
    parse_optional(text, |text| {
        IdPrefix::parse(text).map_err(|error| status::argument("id_prefix", &error))
    })
}

/// One number of `escalation_reasons`. One that is not known is refused: left out, it would find more than was asked for.
pub(super) fn parse_escalation_reason(number: i32) -> Result<EscalationReason, Status> {
    Ok(match v1::EscalationReason::try_from(number) {
        Ok(v1::EscalationReason::Unspecified) | Err(_) => {
            let why = "holds a reason that this node does not know";
            return Err(status::argument("escalation_reasons", &why));
        }
        Ok(v1::EscalationReason::Uncertain) => EscalationReason::Uncertain,
        Ok(v1::EscalationReason::New) => EscalationReason::New,
        Ok(v1::EscalationReason::Risky) => EscalationReason::Risky,
        Ok(v1::EscalationReason::Contradiction) => EscalationReason::Contradiction,
    })
}

/// A task handed in at `now`; `path` is what the caller calls it.
pub(super) fn parse_submission(
    task: v1::NewTask,
    path: &str,
    now: Timestamp,
) -> Result<Submission, Status> {
    let at = |field: &str| format!("{path}.{field}");
    let priority = match task.priority {
        0 => Priority::NORMAL,
        n => u8::try_from(n)
            .ok()
            .and_then(|n| Priority::new(n).ok())
            .ok_or_else(|| {
                let why = format!("{n} is not between 1 and 10 (or 0 for normal)");
                status::argument(&at("priority"), &why)
            })?,
    };
    let deadline = match (task.deadline_us, task.ttl_ms) {
        (Some(_), Some(_)) => {
            let why = "give a deadline or a time to live, not both";
            return Err(status::argument(&at("ttl_ms"), &why));
        }
        (Some(micros), None) => Some(Timestamp::from_micros(micros)),
        (None, Some(millis)) => Some(now.after(Duration::from_millis(millis))),
        (None, None) => None,
    };
    let id = task.id.map(|id| parse_new_task_id(&id, &at("id")));
    let spec = Spec {
        tenant: parse_tenant(&task.tenant, &at("tenant"))?,
        attributes: task.attributes,
        priority,
        deadline,
        dedupe_key: task.dedupe_key,
        expected: task.expected,
        ..Spec::new(parse_type(&task.agent_type, &at("agent_type"))?, task.input)
    };
    Ok(Submission {
        id: id.transpose()?,
        spec,
    })
}

/// One number of `states`. One that is not known is refused: left out, it would find more than was asked for.
pub(super) fn parse_state(number: i32) -> Result<State, Status> {
    Ok(match v1::TaskState::try_from(number) {
        Ok(v1::TaskState::Unspecified) | Err(_) => {
            let why = "holds a state that this node does not know";
            return Err(status::argument("states", &why));
        }
        Ok(v1::TaskState::Ready) => State::Ready,
        Ok(v1::TaskState::Claimed) => State::Claimed,
        Ok(v1::TaskState::Waiting) => State::Waiting,
        Ok(v1::TaskState::Done) => State::Done,
        Ok(v1::TaskState::Failed) => State::Failed,
        Ok(v1::TaskState::Cancelled) => State::Cancelled,
        Ok(v1::TaskState::Expired) => State::Expired,
        Ok(v1::TaskState::Dead) => State::Dead,
    })
}

pub(super) fn parse_signal(number: i32) -> Result<Option<Signal>, Status> {
    let unknown = |_| status::argument("signal", &"is one that this node does not know");
    Ok(match v1::SignalType::try_from(number).map_err(unknown)? {
        v1::SignalType::Unspecified => None,
        v1::SignalType::Task => Some(Signal::Task),
        v1::SignalType::Resource => Some(Signal::Resource),
        v1::SignalType::Danger => Some(Signal::Danger),
        v1::SignalType::Success => Some(Signal::Success),
        v1::SignalType::Capability => Some(Signal::Capability),
        v1::SignalType::LoadBalancing => Some(Signal::LoadBalancing),
        v1::SignalType::Coordination => Some(Signal::Coordination),
    })
}

pub(super) fn parse_decision(decision: v1::Decision) -> Result<Decision, Status> {
    let kind = match decision.kind {
        None => {
            let why = "must be accept, correct or reject";
            return Err(status::argument("decision.kind", &why));
        }
        Some(decision::Kind::Accept(v1::Accepted {})) => DecisionKind::Accept,
        Some(decision::Kind::Correct(label)) => {
            DecisionKind::Correct(parse_line(label, "decision.correct")?)
        }
        Some(decision::Kind::Reject(reason)) => {
            let reason = parse_line(reason, "decision.reject")?;
            DecisionKind::Reject { reason }
        }
    };
    let teaching = match decision.teach {
        None | Some(true) => Teaching::Teach,
        Some(false) => Teaching::Keep,
    };
    Ok(Decision {
        kind,
        teaching,
        by: parse_line(decision.by, "decision.by")?,
    })
}

// Domain to wire.

pub(super) const fn state_to_wire(state: State) -> v1::TaskState {
    match state {
        State::Ready => v1::TaskState::Ready,
        State::Claimed => v1::TaskState::Claimed,
        State::Waiting => v1::TaskState::Waiting,
        State::Done => v1::TaskState::Done,
        State::Failed => v1::TaskState::Failed,
        State::Cancelled => v1::TaskState::Cancelled,
        State::Expired => v1::TaskState::Expired,
        State::Dead => v1::TaskState::Dead,
    }
}

pub(super) fn submitted_to_wire(submitted: &Submitted) -> v1::Submitted {
    let (outcome, state) = match submitted {
        Submitted::Accepted(_) => (Outcome::Accepted, State::Ready),
        Submitted::Duplicate { state, .. } => (Outcome::Duplicate, *state),
        Submitted::Conflict { state, .. } => (Outcome::Conflict, *state),
    };
    v1::Submitted {
        task_id: submitted.id().to_string(),
        outcome: outcome.into(),
        state: state_to_wire(state).into(),
    }
}

pub(super) fn answer_to_wire(answer: &Answer) -> v1::Answer {
    let source = match answer.source {
        Source::Rule => v1::Source::Rule,
        Source::Memory => v1::Source::Memory,
        Source::Model => v1::Source::Model,
        Source::Human => v1::Source::Human,
    };
    v1::Answer {
        text: answer.text.clone(),
        confidence: answer.confidence.get(),
        source: source.into(),
        reason: answer.reason.clone(),
    }
}

pub(super) fn task_to_wire(record: &Record) -> v1::Task {
    let Record { head, spec } = record;
    let (answer, failure) = match &head.ending {
        Some(Ending::Done(answer)) => (Some(answer_to_wire(answer)), None),
        Some(Ending::Failed { reason }) => (None, Some(reason.clone())),
        None => (None, None),
    };
    let trace_id = match spec.trace.trace_id {
        0 => String::new(),
        id => format!("{id:032x}"),
    };
    v1::Task {
        id: head.id.to_string(),
        tenant: spec.tenant.to_string(),
        agent_type: spec.agent_type.to_string(),
        input: spec.input.to_string(),
        attributes: spec.attributes.clone(),
        priority: spec.priority.get().into(),
        deadline_us: head.deadline.map(Timestamp::as_micros),
        dedupe_key: spec.dedupe_key.clone(),
        expected: spec.expected.clone(),
        state: state_to_wire(head.state).into(),
        failed_attempts: head.failed_attempts,
        agent: head.agent.as_ref().map(ToString::to_string),
        submitted_at_us: head.submitted_at.as_micros(),
        updated_at_us: head.updated_at.as_micros(),
        answer,
        failure,
        trace_id,
        node_losses: head.node_losses,
        not_before_us: head.not_before.map(Timestamp::as_micros),
        fence: head.fence.0,
    }
}

pub(super) fn entry_to_wire(entry: Entry) -> v1::JournalEntry {
    let mut step = "";
    let (kind, body) = match entry.note {
        Note::Awarded {
            agent,
            score,
            bidders,
        } => {
            let body = serde_json::json!({
                "agent": agent.to_string(), "score": score.get(), "bidders": bidders,
            });
            ("awarded", body.to_string())
        }
        Note::Output(mut output) => {
            step = output.step().as_str();
            if let Output::Perceive(percept) = &mut output {
                percept.vector = None;
            }
            ("output", inner_json(&output, "output"))
        }
        Note::Intent { key, effect } => {
            let body = serde_json::json!({
                "key": key.as_str(), "tool": effect.tool, "arguments": effect.arguments,
            });
            ("intent", body.to_string())
        }
        Note::Outcome { key, value } => {
            let body = serde_json::json!({ "key": key.as_str(), "value": value });
            ("outcome", body.to_string())
        }
        Note::Decided(decision) => ("decided", json(&decision)),
    };
    let body_bytes = body.len() as u64;
    let body_json = if body.len() > ENTRY_BYTES_MAX {
        String::new()
    } else {
        body
    };
    v1::JournalEntry {
        sequence: entry.sequence,
        at_us: entry.at.as_micros(),
        kind: kind.to_owned(),
        step: step.to_owned(),
        body_json,
        body_bytes,
    }
}

/// Plain data with text keys: this cannot fail, and if it did the entry would be empty, not the answer.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The member `name` of what `value` serialises to.
fn inner_json(value: &impl serde::Serialize, name: &str) -> String {
    let whole = serde_json::to_value(value).unwrap_or_default();
    whole.get(name).map(ToString::to_string).unwrap_or_default()
}

pub(super) fn revived_to_wire(revived: Revived) -> v1::RevivedTask {
    v1::RevivedTask {
        task_id: revived.id.to_string(),
        was: state_to_wire(revived.was).into(),
        reason: revived.reason,
    }
}

pub(super) fn revival_to_wire(revival: Revival) -> v1::ReviveResponse {
    let not_revived = revival.not_revived.into_iter().map(|(id, why)| {
        let (task_id, why) = (id.to_string(), why.to_string());
        v1::UnrevivedTask { task_id, why }
    });
    v1::ReviveResponse {
        revived: revival.revived.into_iter().map(revived_to_wire).collect(),
        not_revived: not_revived.collect(),
        next_page_token: revival.next.map(|id| id.to_string()).unwrap_or_default(),
    }
}

const fn reason_to_wire(escalation_reason: EscalationReason) -> v1::EscalationReason {
    match escalation_reason {
        EscalationReason::Uncertain => v1::EscalationReason::Uncertain,
        EscalationReason::New => v1::EscalationReason::New,
        EscalationReason::Risky => v1::EscalationReason::Risky,
        EscalationReason::Contradiction => v1::EscalationReason::Contradiction,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn totals_to_wire(totals: &ApprovalTotals, now: Timestamp) -> v1::ApprovalTotals {
    let by_escalation_reason = totals.by_escalation_reason.iter();
    let by_escalation_reason =
        by_escalation_reason.map(|(escalation_reason, approvals)| v1::EscalationReasonCount {
            escalation_reason: reason_to_wire(*escalation_reason).into(),
            approvals: *approvals,
        });
    v1::ApprovalTotals {
        approvals: totals.by_escalation_reason.values().sum(),
        by_escalation_reason: by_escalation_reason.collect(),
        oldest_age_ms: totals.oldest.map(|oldest| millis(now.since(oldest))),
    }
}

pub(super) fn evidence_to_wire(evidence: &Evidence) -> v1::Evidence {
    let findings = evidence.findings.iter().map(|finding| v1::Finding {
        why: finding.why.clone(),
        words: finding.words.clone(),
    });
    let candidates = evidence.candidates.iter().map(|candidate| v1::Candidate {
        label: candidate.label.clone(),
        share: candidate.share,
    });
    let neighbours = evidence.neighbours.iter().map(|neighbour| v1::Neighbour {
        label: neighbour.label.clone(),
        similarity: neighbour.similarity,
        text: neighbour.text.clone(),
    });
    v1::Evidence {
        findings: findings.collect(),
        candidates: candidates.collect(),
        neighbours: neighbours.collect(),
    }
}

pub(super) fn approval_to_wire(node: &NodeHandle, approval: &Approval) -> v1::Approval {
    let question = &approval.question;
    let escalation_reason = reason_to_wire(question.escalation_reason);
    let state = match &approval.state {
        QuestionState::Open => v1::ApprovalState::Open,
        QuestionState::Answered { .. } => v1::ApprovalState::Answered,
        QuestionState::Taken { .. } => v1::ApprovalState::Taken,
        QuestionState::Closed => v1::ApprovalState::Closed,
    };
    v1::Approval {
        id: question.id.to_string(),
        task_id: approval.task.to_string(),
        tenant: approval.spec.tenant.to_string(),
        agent_type: approval.spec.agent_type.to_string(),
        input: approval.spec.input.to_string(),
        escalation_reason: escalation_reason.into(),
        question: question.question.clone(),
        proposal: Some(answer_to_wire(&question.proposal)),
        asked_at_us: approval.asked_at.as_micros(),
        state: state.into(),
        decision: approval.state.decision().map(decision_to_wire),
        age_ms: millis(node.now().since(approval.asked_at)),
        due_at_us: node.due_at(approval).map(Timestamp::as_micros),
    }
}

fn decision_to_wire(decision: &Decision) -> v1::Decision {
    let kind = match &decision.kind {
        DecisionKind::Accept => decision::Kind::Accept(v1::Accepted {}),
        DecisionKind::Correct(label) => decision::Kind::Correct(label.clone()),
        DecisionKind::Reject { reason } => decision::Kind::Reject(reason.clone()),
    };
    v1::Decision {
        kind: Some(kind),
        teach: Some(decision.teaching == Teaching::Teach),
        by: decision.by.clone(),
    }
}

pub(super) fn message_to_wire(posted: &Posted) -> v1::OutboxMessage {
    let message = &posted.message;
    v1::OutboxMessage {
        id: Some(v1::MessageId {
            effect_key: message.key.to_string(),
            index: message.index,
        }),
        task_id: message.task.to_string(),
        destination: message.destination.clone(),
        payload_json: message.payload.to_string(),
        posted_at_us: posted.posted_at.as_micros(),
        acknowledged_at_us: posted.acknowledged_at.map(Timestamp::as_micros),
    }
}

pub(super) fn agent_to_wire(agent: &AgentView) -> v1::Agent {
    v1::Agent {
        id: agent.id.to_string(),
        agent_type: agent.id.agent_type.to_string(),
        kind: agent.kind.clone(),
        state: agent.state.to_owned(),
        task_id: agent.task.map(|task| task.to_string()),
        track: Some(v1::Track {
            tasks: agent.track.tasks,
            successes: agent.track.successes,
            escalations: agent.track.escalations,
            crashes: agent.track.crashes,
        }),
        version: agent.version,
    }
}

pub(super) fn model_to_wire(model: &ModelView) -> v1::Model {
    let figures = &model.figures;
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let kind = match model.role {
        "embed" => v1::ModelKind::Embed,
        _ => v1::ModelKind::Generate,
    };
    let (state, reason, away_since_us) = match &figures.state {
        WorkerState::Ready => (v1::ModelState::Ready, String::new(), 0),
        WorkerState::Reopening { since, reason, .. } => {
            (v1::ModelState::Reopening, reason.clone(), since.as_micros())
        }
        WorkerState::Closed => (v1::ModelState::Closed, String::new(), 0),
    };
    v1::Model {
        name: model.name.clone(),
        kind: kind.into(),
        engine: model.engine.to_owned(),
        source: figures.model.clone(),
        dimensions: size(model.dimensions),
        context_tokens: size(model.tokens_max),
        requests: figures.requests,
        batches: figures.batches,
        rows: figures.rows,
        mean_batch: figures.mean_batch_size(),
        prompt_tokens: figures.prompt_tokens,
        completion_tokens: figures.completion_tokens,
        state: state.into(),
        reason,
        away_since_us,
        panics: figures.panics,
        poisoned: figures.poisoned,
    }
}

pub(super) fn pheromone_to_wire(cell: &Cell, strength: Ratio) -> v1::Pheromone {
    let signal = match cell.signal {
        Signal::Task => v1::SignalType::Task,
        Signal::Resource => v1::SignalType::Resource,
        Signal::Danger => v1::SignalType::Danger,
        Signal::Success => v1::SignalType::Success,
        Signal::Capability => v1::SignalType::Capability,
        Signal::LoadBalancing => v1::SignalType::LoadBalancing,
        Signal::Coordination => v1::SignalType::Coordination,
    };
    v1::Pheromone {
        location: cell.location.as_str().to_owned(),
        signal: signal.into(),
        subject: cell.subject.as_str().to_owned(),
        strength: strength.get(),
    }
}

/// How the node stands, with its models; `failed` says why it is about to stop.
pub(super) fn status_to_wire(
    status: &view::Status,
    models: &[ModelView],
    health: Health,
) -> v1::StatusResponse {
    let (failed, stalled) = match health {
        Health::Failed(reason) => (Some(reason), None),
        Health::Stalled(reason) => (None, Some(reason)),
        Health::Starting | Health::Serving | Health::Draining => (None, None),
    };
    let counts = &status.counts;
    let tasks = counts.by_state.iter().map(|(state, tasks)| v1::StateCount {
        state: state_to_wire(*state).into(),
        tasks: *tasks,
    });
    let agents = status
        .agents
        .iter()
        .map(|(name, (total, busy))| v1::TypeCount {
            agent_type: name.to_string(),
            total: *total,
            busy: *busy,
        });
    let members = status.members.iter().map(|member| {
        let this_node = member.node == status.node;
        v1::Member {
            node: member.node.to_string(),
            address: member.address.clone(),
            incarnation: if this_node { status.incarnation.0 } else { 0 },
            state: if member.ready { "ready" } else { "draining" }.to_owned(),
            this_node,
        }
    });
    let open_ports = status.open_ports.iter().map(|open| v1::OpenPort {
        port: open.port.clone(),
        retry_at_us: open.until.map(Timestamp::as_micros),
    });
    v1::StatusResponse {
        node: status.node.to_string(),
        version: status.version.to_owned(),
        incarnation: status.incarnation.0,
        started_at_us: status.started_at.as_micros(),
        uptime_ms: millis(status.uptime),
        accepted: counts.accepted,
        tasks: tasks.collect(),
        agents: agents.collect(),
        models: models.iter().map(model_to_wire).collect(),
        syncs: counts.syncs,
        members: members.collect(),
        ready: status.ready,
        episodes: status.episodes,
        awarded: status.awarded,
        open_ports: open_ports.collect(),
        agents_down: status.down,
        quarantined: counts.quarantined,
        failed,
        stalled,
    }
}

pub(super) fn verification_to_wire(found: Verification) -> v1::VerifyLedgerResponse {
    let whole = found.is_whole();
    let quarantined_total = found.quarantined.len() as u64;
    let problems_total = found.problems.len() as u64;
    let rows = found.quarantined.into_iter().take(FINDINGS_MAX);
    let quarantined = rows.map(|row| v1::QuarantinedRow {
        table: row.table,
        key: row.key,
        reason: row.reason,
        at_us: row.at.as_micros(),
    });
    v1::VerifyLedgerResponse {
        whole,
        rows: found.rows,
        quarantined: quarantined.collect(),
        quarantined_total,
        problems: found.problems.into_iter().take(FINDINGS_MAX).collect(),
        problems_total,
    }
}
