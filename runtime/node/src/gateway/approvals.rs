//! `colony.v1.Approvals`.

mod watch;

use std::time::Duration;

use colony_core::{cycle::DecisionKind, id::ApprovalId, unit::Timestamp};
use colony_proto::v1::{self, approvals_server::Approvals};
use colony_store::ApprovalFilter;
use tonic::{Request, Response, Status};

use super::{
    GrpcServer,
    convert::{
        approval_to_wire, evidence_to_wire, parse_approval_id, parse_decision,
        parse_escalation_reason, parse_id_prefix, parse_optional, parse_page_size,
        parse_page_token, parse_task_id, parse_tenant_filter, parse_type, state_to_wire,
        totals_to_wire,
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
        let now = self.node.now();
        let filter = parse_filter(&request, now)?;
        let totals = if request.with_totals {
            let totals = self.node.count_approvals(filter.clone()).await?;
            Some(totals_to_wire(&totals, now))
        } else {
            None
        };
        let page = self.node.approvals(filter).await?;
        let approvals = page.items.iter();
        let approvals = approvals.map(|approval| approval_to_wire(&self.node, approval));
        let page = fit(approvals, page.more, ANSWER_BYTES_MAX);
        Ok(Response::new(v1::ListApprovalsResponse {
            next_page_token: next_token(&page, |approval| approval.id.clone()),
            approvals: page.items,
            totals,
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetApprovalRequest>,
    ) -> Result<Response<v1::GetApprovalResponse>, Status> {
        let id = parse_approval_id(&request.into_inner().approval_id, "approval_id")?;
        let approval = self.node.approval(id).await?;
        Ok(Response::new(v1::GetApprovalResponse {
            approval: Some(approval_to_wire(&self.node, &approval)),
            evidence: Some(evidence_to_wire(&approval.question.evidence)),
            known_labels: self.node.known_labels(&approval.spec),
        }))
    }

    type WatchStream = watch::Events;

    async fn watch(
        &self,
        request: Request<v1::WatchApprovalsRequest>,
    ) -> Result<Response<watch::Events>, Status> {
        watch::open(self, &request.into_inner()).map(Response::new)
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
        if request.known_label_only
            && let DecisionKind::Correct(label) = &decision.kind
        {
            let approval = self.node.approval(id).await?;
            self.node.check_label(&approval.spec, label)?;
        }
        let request = self.request_id(request.request_id.as_deref())?;
        let decided = self.node.decide(id, request, decision).await?;
        Ok(Response::new(v1::DecideResponse {
            task_id: decided.task.to_string(),
            state: state_to_wire(decided.state).into(),
        }))
    }
}

fn parse_filter(
    request: &v1::ListApprovalsRequest,
    now: Timestamp,
) -> Result<ApprovalFilter, Status> {
    let age = Duration::from_millis(request.older_than_ms);
    Ok(ApprovalFilter {
        tenant: parse_tenant_filter(&request.tenant)?,
        closed_too: request.closed_too,
        agent_type: parse_optional(&request.agent_type, |name| parse_type(name, "agent_type"))?,
        escalation_reasons: request
            .escalation_reasons
            .iter()
            .map(|escalation_reason| parse_escalation_reason(*escalation_reason))
            .collect::<Result<_, _>>()?,
        asked_until: (!age.is_zero()).then(|| now.before(age)),
        search: parse_optional(&request.search, |text| Ok(text.to_owned()))?,
        task: parse_optional(&request.task_id, |id| parse_task_id(id, "task_id"))?,
        id_prefix: parse_id_prefix(&request.id_prefix)?,
        after: parse_page_token(&request.page_token, "page_token", ApprovalId::parse)?,
        limit: parse_page_size(request.page_size),
    })
}

#[cfg(test)]
mod tests {
    use colony_core::{cycle::EscalationReason, id::TaskId};

    use super::*;

    #[test]
    fn every_field_of_a_list_is_read_or_refused_by_name() {
        let now = Timestamp::from_micros(5_000_000);
        let id = TaskId::new(now, [0; 10]);
        let request = v1::ListApprovalsRequest {
            agent_type: "triage".to_owned(),
            escalation_reasons: vec![v1::EscalationReason::Risky.into()],
            older_than_ms: 2_000,
            search: "Printer".to_owned(),
            task_id: id.to_string(),
            id_prefix: "019a".to_owned(),
            ..v1::ListApprovalsRequest::default()
        };
        let filter = parse_filter(&request, now).expect("legal");
        assert_eq!(filter.escalation_reasons, [EscalationReason::Risky]);
        assert_eq!(filter.asked_until, Some(Timestamp::from_micros(3_000_000)));
        assert_eq!(filter.search.as_deref(), Some("Printer"));
        assert_eq!((filter.task, filter.closed_too), (Some(id), false));
        assert!(filter.agent_type.is_some() && filter.id_prefix.is_some());
        let spoiled = |field: &str, text: &str| {
            let mut request = request.clone();
            match field {
                "agent_type" => request.agent_type = text.to_owned(),
                "task_id" => request.task_id = text.to_owned(),
                "id_prefix" => request.id_prefix = text.to_owned(),
                _ => request.escalation_reasons = vec![99],
            }
            request
        };
        for (field, text) in [
            ("agent_type", "No Name"),
            ("task_id", "7"),
            ("id_prefix", "xyz"),
            ("escalation_reasons", ""),
        ] {
            let refused = parse_filter(&spoiled(field, text), now).expect_err(field);
            assert!(refused.message().contains(field), "{refused:?}");
        }
    }
}
