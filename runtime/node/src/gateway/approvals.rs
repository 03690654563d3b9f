//! `colony.v1.Approvals`.

use colony_core::{
    cycle::{Decision, Doubt, Ruling, Teaching},
    id::ApprovalId,
};
use colony_proto::v1::{self, approvals_server::Approvals, decision};
use colony_store::{Approval, ApprovalFilter};
use tonic::{Request, Response, Status};

use super::{Door, page_size, refuse, tasks, tenant_filter};

#[tonic::async_trait]
impl Approvals for Door {
    async fn list(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(approval_id(token, "page_token")?),
        };
        let limit = page_size(request.page_size);
        let filter = ApprovalFilter {
            tenant: tenant_filter(&request.tenant)?,
            closed_too: request.closed_too,
            after,
            limit,
        };
        let page = self
            .rooms
            .ledger
            .approvals(filter)
            .await
            .map_err(|e| refuse::ledger(&e))?;
        let is_last = page.len() < limit as usize;
        let next_page_token = match page.last() {
            Some(approval) if !is_last => approval.question.id.to_string(),
            Some(_) | None => String::new(),
        };
        let approvals = page.iter().map(approval_out).collect();
        Ok(Response::new(v1::ListApprovalsResponse {
            approvals,
            next_page_token,
        }))
    }

    async fn decide(
        &self,
        request: Request<v1::DecideRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let request = request.into_inner();
        let id = approval_id(&request.approval_id, "approval_id")?;
        let decision = request
            .decision
            .ok_or_else(|| refuse::argument("decision", &"must be given"))?;
        let decision = decision_in(decision)?;
        let task = self
            .rooms
            .decide(id, decision)
            .await
            .map_err(|e| refuse::ledger(&e))?;
        Ok(Response::new(v1::DecideResponse {
            task_id: task.to_string(),
        }))
    }
}

fn decision_in(decision: v1::Decision) -> Result<Decision, Status> {
    let ruling = match decision.ruling {
        None => {
            let why = "must be accept, correct or reject";
            return Err(refuse::argument("decision.ruling", &why));
        }
        Some(decision::Ruling::Accept(v1::Accepted {})) => Ruling::Accept,
        Some(decision::Ruling::Correct(label)) => {
            Ruling::Correct(tasks::short_text(&label, "decision.correct")?.to_owned())
        }
        Some(decision::Ruling::Reject(reason)) => {
            let reason = tasks::short_text(&reason, "decision.reject")?.to_owned();
            Ruling::Reject { reason }
        }
    };
    let teaching = match decision.teach {
        None | Some(true) => Teaching::Teach,
        Some(false) => Teaching::Keep,
    };
    let by = tasks::short_text(&decision.by, "decision.by")?.to_owned();
    Ok(Decision {
        ruling,
        teaching,
        by,
    })
}

fn approval_id(text: &str, field: &str) -> Result<ApprovalId, Status> {
    ApprovalId::parse(text).map_err(|error| refuse::argument(field, &error))
}

fn approval_out(approval: &Approval) -> v1::Approval {
    let question = &approval.question;
    let doubt = match question.doubt {
        Doubt::Uncertain => v1::Doubt::Uncertain,
        Doubt::New => v1::Doubt::New,
        Doubt::Risky => v1::Doubt::Risky,
        Doubt::Contradiction => v1::Doubt::Contradiction,
    };
    v1::Approval {
        id: question.id.to_string(),
        task_id: approval.task.to_string(),
        tenant: approval.spec.tenant.to_string(),
        agent_type: approval.spec.agent_type.to_string(),
        input: approval.spec.input.to_string(),
        doubt: doubt.into(),
        question: question.question.clone(),
        proposal: Some(tasks::answer_out(&question.proposal)),
        asked_at_us: approval.asked_at.as_micros(),
        closed: approval.closed,
        decision: approval.decision.as_ref().map(decision_out),
    }
}

fn decision_out(decision: &Decision) -> v1::Decision {
    let ruling = match &decision.ruling {
        Ruling::Accept => decision::Ruling::Accept(v1::Accepted {}),
        Ruling::Correct(label) => decision::Ruling::Correct(label.clone()),
        Ruling::Reject { reason } => decision::Ruling::Reject(reason.clone()),
    };
    v1::Decision {
        ruling: Some(ruling),
        teach: Some(decision.teaching == Teaching::Teach),
        by: decision.by.clone(),
    }
}
