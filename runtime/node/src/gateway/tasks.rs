//! `colony.v1.Tasks`.

use colony_core::id::{RequestId, TaskId};
use colony_proto::v1::{self, revive_request::Which, tasks_server::Tasks};
use colony_store::{Page, Submitted, TaskFilter};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    GrpcServer,
    convert::{
        entry_to_wire, parse_id_prefix, parse_line, parse_optional, parse_page_size,
        parse_page_token, parse_request_id, parse_state, parse_submission, parse_task_id,
        parse_tenant_filter, parse_type, revival_to_wire, revived_to_wire, state_to_wire,
        submitted_to_wire, task_to_wire,
    },
    pages::{ANSWER_BYTES_MAX, fit, next_token},
    status::{self, Submitting},
    trace, watch,
};
use crate::revive::{ReviveFilter, Run};

#[tonic::async_trait]
impl Tasks for GrpcServer {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let parent = trace::parent(request.metadata());
        let task = request.into_inner().task;
        let task = task.ok_or_else(|| status::argument("task", &"must be given"))?;
        let submission = parse_submission(task, "task", self.node.now())?;
        let id = submission.id;
        let submitted = self.node.submit(vec![submission], parent).await;
        let submitted = submitted.map_err(|problem| Submitting::One.refused(problem))?;
        match submitted.first() {
            Some(Submitted::Conflict { id: known, state }) => {
                let field = if id == Some(*known) {
                    "id"
                } else {
                    "dedupe_key"
                };
                Err(status::conflict(*known, *state, field))
            }
            Some(submitted) => Ok(Response::new(v1::SubmitResponse {
                submitted: Some(submitted_to_wire(submitted)),
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
        let now = self.node.now();
        let tasks = tasks.into_iter().enumerate();
        let tasks =
            tasks.map(|(index, task)| parse_submission(task, &format!("tasks[{index}]"), now));
        let tasks = tasks.collect::<Result<Vec<_>, _>>()?;
        let submitted = self.node.submit(tasks, parent).await;
        let submitted = submitted.map_err(|problem| Submitting::Batch.refused(problem))?;
        let submitted = submitted.iter().map(submitted_to_wire).collect();
        Ok(Response::new(v1::SubmitBatchResponse { submitted }))
    }

    async fn get(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        let request = request.into_inner();
        let id = parse_task_id(&request.task_id, "task_id")?;
        let token = &request.journal_page_token;
        let after = parse_page_token(token, "journal_page_token", str::parse::<u32>)?;
        let task = task_to_wire(&self.node.task(id).await?);
        let mut page = Page::default();
        if request.journal {
            let entries = self.node.journal(id).await?.into_iter();
            let entries = entries.filter(|entry| after.is_none_or(|after| entry.sequence > after));
            let bytes_left = ANSWER_BYTES_MAX.saturating_sub(task.encoded_len());
            page = fit(entries.map(entry_to_wire), false, bytes_left);
        }
        Ok(Response::new(v1::GetTaskResponse {
            task: Some(task),
            next_journal_page_token: next_token(&page, |entry| entry.sequence.to_string()),
            journal: page.items,
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let states = request.states.iter().map(|state| parse_state(*state));
        let states = states.collect::<Result<_, _>>()?;
        let page = self
            .node
            .tasks(TaskFilter {
                tenant: parse_tenant_filter(&request.tenant)?,
                states,
                agent_type: parse_optional(&request.agent_type, |name| {
                    parse_type(name, "agent_type")
                })?,
                id_prefix: parse_id_prefix(&request.id_prefix)?,
                before: parse_page_token(&request.page_token, "page_token", TaskId::parse)?,
                limit: parse_page_size(request.page_size),
            })
            .await?;
        let page = fit(
            page.items.iter().map(task_to_wire),
            page.more,
            ANSWER_BYTES_MAX,
        );
        Ok(Response::new(v1::ListTasksResponse {
            next_page_token: next_token(&page, |task| task.id.clone()),
            tasks: page.items,
        }))
    }

    type WatchStream = watch::Events;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<watch::Events>, Status> {
        watch::open(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let request = request.into_inner();
        let id = parse_task_id(&request.task_id, "task_id")?;
        let request = self.request_id(request.request_id.as_deref())?;
        let was = self.node.cancel(id, request).await?;
        Ok(Response::new(v1::CancelResponse {
            was: state_to_wire(was).into(),
        }))
    }

    async fn revive(
        &self,
        request: Request<v1::ReviveRequest>,
    ) -> Result<Response<v1::ReviveResponse>, Status> {
        let request = request.into_inner();
        let run = if request.dry_run {
            Run::Dry
        } else {
            Run::Real(self.request_id(request.request_id.as_deref())?)
        };
        let response = match request.which {
            None => {
                let why = "give a task_id or a filter";
                return Err(status::argument("which", &why));
            }
            Some(Which::TaskId(text)) => {
                let id = parse_task_id(&text, "task_id")?;
                let revived = self.node.revive_one(id, run).await?;
                v1::ReviveResponse {
                    revived: vec![revived_to_wire(revived)],
                    ..v1::ReviveResponse::default()
                }
            }
            Some(Which::Filter(filter)) => {
                let filter = revive_filter(filter)?;
                revival_to_wire(self.node.revive_found(filter, run).await?)
            }
        };
        Ok(Response::new(response))
    }

    async fn feedback(
        &self,
        request: Request<v1::FeedbackRequest>,
    ) -> Result<Response<v1::FeedbackResponse>, Status> {
        let request = request.into_inner();
        let id = parse_task_id(&request.task_id, "task_id")?;
        let label = parse_line(request.label, "label")?;
        if request.known_label_only {
            let record = self.node.task(id).await?;
            self.node.check_label(&record.spec, &label)?;
        }
        self.node.feedback(id, &label).await?;
        Ok(Response::new(v1::FeedbackResponse {}))
    }
}

impl GrpcServer {
    /// The id of a request, or one that is drawn for it.
    pub(super) fn request_id(&self, given: Option<&str>) -> Result<RequestId, Status> {
        match given {
            Some(text) => parse_request_id(text),
            None => Ok(self.node.draw_request()),
        }
    }
}

fn revive_filter(filter: v1::ReviveFilter) -> Result<ReviveFilter, Status> {
    let states = filter.states.iter().map(|state| parse_state(*state));
    let states = states.collect::<Result<Vec<_>, _>>()?;
    if let Some(state) = states.iter().find(|state| !state.is_revivable()) {
        let why = format!("{state} tasks cannot be revived; dead, cancelled and expired ones can");
        return Err(status::argument("filter.states", &why));
    }
    Ok(ReviveFilter {
        tenant: parse_tenant_filter(&filter.tenant)?,
        agent_type: parse_optional(&filter.agent_type, |name| {
            parse_type(name, "filter.agent_type")
        })?,
        states,
        limit: parse_page_size(filter.limit) as usize,
        before: parse_page_token(&filter.page_token, "filter.page_token", TaskId::parse)?,
        reason: filter.reason,
    })
}
