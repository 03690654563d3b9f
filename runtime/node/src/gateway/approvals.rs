//! `colony.v1.Approvals`.

use colony_core::id::ApprovalId;
use colony_proto::v1::{self, approvals_server::Approvals};
use colony_store::ApprovalFilter;
use tonic::{Request, Response, Status};

use super::{
    GrpcServer,
    convert::{
        approval_to_wire, parse_approval_id, parse_decision, parse_page_size, parse_page_token,
        parse_tenant_filter, state_to_wire,
    },
    pages::{ANSWER_BYTES_MAX, fit, next_token},
    status,
};

#[tonic::async_trait]
impl Approvals for GrpcServer {
    async fn list(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        let request = request.into_inner();
        let page = self
            .node
            .approvals(ApprovalFilter {
                tenant: parse_tenant_filter(&request.tenant)?,
                closed_too: request.closed_too,
                after: parse_page_token(&request.page_token, "page_token", ApprovalId::parse)?,
                limit: parse_page_size(request.page_size),
            })
            .await?;
        let approvals = page.items.iter().map(approval_to_wire);
        let page = fit(approvals, page.more, ANSWER_BYTES_MAX);
        Ok(Response::new(v1::ListApprovalsResponse {
            next_page_token: next_token(&page, |approval| approval.id.clone()),
            approvals: page.items,
        }))
    }

    async fn decide(
        &self,
        request: Request<v1::DecideRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let request = request.into_inner();
        let id = parse_approval_id(&request.approval_id, "approval_id")?;
        let decision = request
            .decision
            .ok_or_else(|| status::argument("decision", &"must be given"))?;
        let decision = parse_decision(decision)?;
        let request = self.request_id(request.request_id.as_deref())?;
        let decided = self.node.decide(id, request, decision).await?;
        Ok(Response::new(v1::DecideResponse {
            task_id: decided.task.to_string(),
            state: state_to_wire(decided.state).into(),
        }))
    }
}
