//! `colony.v1.Tasks`.

use colony_core::{
    cycle::Output,
    id::{TaskId, TypeName},
    journal::{Entry, Note},
    task::{Answer, Ending, Priority, Record, Source, Spec, State},
    unit::Timestamp,
};
use colony_proto::v1::{self, submitted::Outcome, tasks_server::Tasks};
use colony_store::{Submitted, TaskFilter};
use tonic::{Request, Response, Status};

use super::{Door, page_size, refuse, tenant, tenant_filter, trace, watch};

#[tonic::async_trait]
impl Tasks for Door {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let parent = trace::parent(request.metadata());
        let task = request.into_inner().task;
        let task = task.ok_or_else(|| refuse::argument("task", &"must be given"))?;
        let spec = self.spec(task, "task")?;
        let submitted = self.rooms.submit(vec![spec], parent).await;
        let submitted = submitted.map_err(|error| refuse::submit(error, false))?;
        match submitted.first() {
            Some(Submitted::Conflict(task)) => Err(refuse::conflict(*task)),
            Some(submitted) => Ok(Response::new(v1::SubmitResponse {
                submitted: Some(submitted_out(submitted)),
            })),
            None => Err(Status::internal("the ledger gave no answer for the task")),
        }
    }

    async fn submit_batch(
        &self,
        request: Request<v1::SubmitBatchRequest>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        let parent = trace::parent(request.metadata());
        let tasks = request.into_inner().tasks;
        if tasks.is_empty() {
            return Ok(Response::new(v1::SubmitBatchResponse::default()));
        }
        let specs = tasks.into_iter().enumerate();
        let specs = specs.map(|(index, task)| self.spec(task, &format!("tasks[{index}]")));
        let specs = specs.collect::<Result<Vec<_>, _>>()?;
        let submitted = self.rooms.submit(specs, parent).await;
        let submitted = submitted.map_err(|error| refuse::submit(error, true))?;
        let submitted = submitted.iter().map(submitted_out).collect();
        Ok(Response::new(v1::SubmitBatchResponse { submitted }))
    }

    async fn get(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        let request = request.into_inner();
        let id = task_id(&request.task_id)?;
        let record = self
            .rooms
            .ledger
            .get(id)
            .await
            .map_err(|e| refuse::ledger(&e))?;
        let journal = if request.journal {
            self.rooms
                .ledger
                .journal(id)
                .await
                .map_err(|e| refuse::ledger(&e))?
        } else {
            Vec::new()
        };
        Ok(Response::new(v1::GetTaskResponse {
            task: Some(task_out(&record)),
            journal: journal.into_iter().map(entry_out).collect(),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let agent_type = match request.agent_type.as_str() {
            "" => None,
            name => Some(type_name(name, "agent_type")?),
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(page_token(token)?),
        };
        let states = request.states().map(state_in).collect::<Result<_, _>>()?;
        let limit = page_size(request.page_size);
        let filter = TaskFilter {
            tenant: tenant_filter(&request.tenant)?,
            states,
            agent_type,
            before,
            limit,
        };
        let page = self
            .rooms
            .ledger
            .list(filter)
            .await
            .map_err(|e| refuse::ledger(&e))?;
        let is_last = page.len() < limit as usize;
        let next_page_token = match page.last() {
            Some(record) if !is_last => record.id.to_string(),
            Some(_) | None => String::new(),
        };
        let tasks = page.iter().map(task_out).collect();
        Ok(Response::new(v1::ListTasksResponse {
            tasks,
            next_page_token,
        }))
    }

    type WatchStream = watch::Changes;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<watch::Changes>, Status> {
        watch::open(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let id = task_id(&request.into_inner().task_id)?;
        let was = self
            .rooms
            .cancel(id)
            .await
            .map_err(|e| refuse::ledger(&e))?;
        Ok(Response::new(v1::CancelResponse {
            was: state_out(was).into(),
        }))
    }

    async fn feedback(
        &self,
        request: Request<v1::FeedbackRequest>,
    ) -> Result<Response<v1::FeedbackResponse>, Status> {
        let request = request.into_inner();
        let id = task_id(&request.task_id)?;
        let label = short_text(&request.label, "label")?;
        self.rooms
            .feedback(id, label)
            .await
            .map_err(|e| refuse::feedback(&e))?;
        Ok(Response::new(v1::FeedbackResponse {}))
    }
}

impl Door {
    /// A task as the rooms take it. Rules of admission are checked there; here only what does not fit
    /// the types.
    fn spec(&self, task: v1::NewTask, path: &str) -> Result<Spec, Status> {
        let at = |field: &str| format!("{path}.{field}");
        let agent_type = type_name(&task.agent_type, &at("agent_type"))?;
        let priority = match task.priority {
            0 => Priority::NORMAL,
            n => u8::try_from(n)
                .ok()
                .and_then(|n| Priority::new(n).ok())
                .ok_or_else(|| {
                    let why = format!("{n} is not between 1 and 10 (or 0 for normal)");
                    refuse::argument(&at("priority"), &why)
                })?,
        };
        let deadline = match (task.deadline_us, task.ttl_ms) {
            (Some(_), Some(_)) => {
                let why = "give a deadline or a time to live, not both";
                return Err(refuse::argument(&at("ttl_ms"), &why));
            }
            (Some(micros), None) => Some(Timestamp::from_micros(micros)),
            (None, Some(millis)) => {
                let ttl = std::time::Duration::from_millis(millis);
                Some(self.rooms.clock.now().after(ttl))
            }
            (None, None) => None,
        };
        Ok(Spec {
            tenant: tenant(&task.tenant, &at("tenant"))?,
            attributes: task.attributes,
            priority,
            deadline,
            dedupe_key: task.dedupe_key,
            expected: task.expected,
            ..Spec::new(agent_type, task.input)
        })
    }
}

/// A label, name or reason: neither blank nor endless.
pub(super) fn short_text<'a>(text: &'a str, field: &str) -> Result<&'a str, Status> {
    const BYTES_MAX: usize = colony_core::task::ATTRIBUTE_BYTES_MAX;
    if text.trim().is_empty() {
        return Err(refuse::argument(field, &"must not be blank"));
    }
    if text.len() > BYTES_MAX {
        let why = format!("{} bytes are more than {BYTES_MAX} bytes", text.len());
        return Err(refuse::argument(field, &why));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(refuse::argument(
            field,
            &format!("holds the control character {c:?}"),
        )),
        None => Ok(text),
    }
}

pub(super) fn task_id(text: &str) -> Result<TaskId, Status> {
    TaskId::parse(text).map_err(|error| refuse::argument("task_id", &error))
}

fn page_token(text: &str) -> Result<TaskId, Status> {
    TaskId::parse(text).map_err(|_| {
        refuse::argument(
            "page_token",
            &"is none that this service gave; start without one",
        )
    })
}

pub(super) fn type_name(text: &str, field: &str) -> Result<TypeName, Status> {
    TypeName::new(text).map_err(|error| refuse::argument(field, &error))
}

fn submitted_out(submitted: &Submitted) -> v1::Submitted {
    let (task, outcome) = match submitted {
        Submitted::Accepted(task) => (task, Outcome::Accepted),
        Submitted::Duplicate(task) => (task, Outcome::Duplicate),
        Submitted::Conflict(task) => (task, Outcome::Conflict),
    };
    v1::Submitted {
        task_id: task.to_string(),
        outcome: outcome.into(),
    }
}

pub(super) const fn state_out(state: State) -> v1::TaskState {
    match state {
        State::Ready => v1::TaskState::Ready,
        State::Claimed => v1::TaskState::Claimed,
        State::Parked => v1::TaskState::Parked,
        State::Done => v1::TaskState::Done,
        State::Failed => v1::TaskState::Failed,
        State::Cancelled => v1::TaskState::Cancelled,
        State::Expired => v1::TaskState::Expired,
        State::Dead => v1::TaskState::Dead,
    }
}

fn state_in(state: v1::TaskState) -> Result<State, Status> {
    Ok(match state {
        v1::TaskState::Unspecified => {
            return Err(refuse::argument(
                "states",
                &"holds a state that this node does not know",
            ));
        }
        v1::TaskState::Ready => State::Ready,
        v1::TaskState::Claimed => State::Claimed,
        v1::TaskState::Parked => State::Parked,
        v1::TaskState::Done => State::Done,
        v1::TaskState::Failed => State::Failed,
        v1::TaskState::Cancelled => State::Cancelled,
        v1::TaskState::Expired => State::Expired,
        v1::TaskState::Dead => State::Dead,
    })
}

pub(super) fn answer_out(answer: &Answer) -> v1::Answer {
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

fn task_out(record: &Record) -> v1::Task {
    let spec = &record.spec;
    let (answer, failure) = match &record.ending {
        Some(Ending::Done(answer)) => (Some(answer_out(answer)), None),
        Some(Ending::Failed { reason }) => (None, Some(reason.clone())),
        None => (None, None),
    };
    let trace_id = match spec.trace.trace_id {
        0 => String::new(),
        id => format!("{id:032x}"),
    };
    v1::Task {
        id: record.id.to_string(),
        tenant: spec.tenant.to_string(),
        agent_type: spec.agent_type.to_string(),
        input: spec.input.to_string(),
        attributes: spec.attributes.clone(),
        priority: spec.priority.get().into(),
        deadline_us: spec.deadline.map(Timestamp::as_micros),
        dedupe_key: spec.dedupe_key.clone(),
        expected: spec.expected.clone(),
        state: state_out(record.state).into(),
        deliveries: record.deliveries,
        agent: record.agent.as_ref().map(ToString::to_string),
        submitted_at_us: record.submitted_at.as_micros(),
        updated_at_us: record.updated_at.as_micros(),
        answer,
        failure,
        trace_id,
    }
}

fn entry_out(entry: Entry) -> v1::JournalEntry {
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
    v1::JournalEntry {
        sequence: entry.sequence,
        at_us: entry.at.as_micros(),
        kind: kind.to_owned(),
        step: step.to_owned(),
        body_json: body,
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
