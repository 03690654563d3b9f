//! Deciding questions: what humans decide, and what nobody has decided in time.

use std::{collections::BTreeMap, sync::Arc};

use colony_agents::TypeSettings;
use colony_core::{
    cycle::Decision,
    escalation::Due,
    id::{ApprovalId, RequestId, TypeName},
    span,
};
use colony_store::{ApprovalFilter, Decided, Ledger, LedgerError, Page};
use futures_util::future::join_all;

use crate::telemetry::{Telemetry, names};

/// Most questions decided at once: one group commit or a few.
const PAGE: u32 = 256;

/// Where questions are decided.
#[derive(Debug, Clone)]
pub(crate) struct Approvals {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) telemetry: Telemetry,
}

impl Approvals {
    /// Decides a question and tells its trace.
    pub(crate) async fn decide(
        &self,
        id: ApprovalId,
        request: RequestId,
        decision: Decision,
    ) -> Result<Decided, LedgerError> {
        let decided = self.ledger.decide(id, request, decision.clone()).await?;
        if self.telemetry.is_on() {
            self.trace(id, &decision).await;
        }
        Ok(decided)
    }

    async fn trace(&self, id: ApprovalId, decision: &Decision) {
        // What cannot be traced is decided all the same.
        let Ok(approval) = self.ledger.approval(id).await else {
            return;
        };
        let waited = self.ledger.now().since(approval.asked_at);
        let mut span = self
            .telemetry
            .since(approval.spec.trace, "approval", waited);
        if span.is_recording() {
            span.set(names::TASK_ID, approval.task.to_string());
            span.set(
                names::ESCALATION_REASON,
                approval.question.escalation_reason.as_str(),
            );
            span.set(names::DECISION, decision.kind.as_str());
            span.set(names::DECIDED_BY, decision.by.clone());
        }
    }
}

/// Looks for questions that are late, by the agent types that asked them.
#[derive(Debug, Clone)]
pub(crate) struct Overdue {
    approvals: Approvals,
    types: BTreeMap<TypeName, Due>,
    /// The last question of a type that was said to be late.
    told: BTreeMap<TypeName, ApprovalId>,
}

impl Overdue {
    pub(crate) fn new<'a>(
        approvals: Approvals,
        types: impl Iterator<Item = &'a Arc<TypeSettings>>,
    ) -> Self {
        let types = types.map(|settings| (settings.name.clone(), settings.approvals));
        Self {
            approvals,
            types: types.collect(),
            told: BTreeMap::new(),
        }
    }

    /// Says which questions have become late since the last look, and rejects those of types that want it so.
    pub(crate) async fn look(&mut self) {
        for (agent_type, due) in &self.types {
            let told = self.told.get(agent_type).copied();
            let looked = match due.decision() {
                None => wait(&self.approvals, agent_type, due, told).await,
                Some(decision) => reject(&self.approvals, agent_type, due, &decision).await,
            };
            let within = span::print(due.within);
            match looked {
                Ok(Late { questions: 0, .. }) => {}
                Ok(Late { questions, last }) => {
                    let rejected = due.decision().is_some();
                    tracing::warn!(%agent_type, questions, within, rejected, "questions are late");
                    self.told
                        .extend(last.map(|last| (agent_type.clone(), last)));
                }
                // What was not looked at is looked at the next time.
                Err(error) => tracing::warn!(%error, %agent_type, "late questions not looked for"),
            }
        }
    }
}

/// Questions that have become late.
#[derive(Debug, Default)]
struct Late {
    questions: usize,
    last: Option<ApprovalId>,
}

/// The questions of a type that are late, from the one after `after` on; none that are on the next page.
async fn late(
    approvals: &Approvals,
    agent_type: &TypeName,
    due: &Due,
    after: Option<ApprovalId>,
) -> Result<Page<ApprovalId>, LedgerError> {
    let Some(since) = due.late_since(approvals.ledger.now()) else {
        return Ok(Page::default());
    };
    let filter = ApprovalFilter {
        agent_type: Some(agent_type.clone()),
        asked_until: Some(since),
        after,
        limit: PAGE,
        ..ApprovalFilter::default()
    };
    let page = approvals.ledger.approvals(filter).await?;
    let ids = page.items.iter().map(|approval| approval.question.id);
    Ok(Page {
        items: ids.collect(),
        more: page.more,
    })
}

/// Those that were not late at the last look.
async fn wait(
    approvals: &Approvals,
    agent_type: &TypeName,
    due: &Due,
    told: Option<ApprovalId>,
) -> Result<Late, LedgerError> {
    let mut found = Late {
        questions: 0,
        last: told,
    };
    loop {
        let page = late(approvals, agent_type, due, found.last).await?;
        found.questions += page.items.len();
        found.last = page.items.last().copied().or(found.last);
        if !page.more {
            return Ok(found);
        }
    }
}

/// All of them: whoever is rejected waits no more.
async fn reject(
    approvals: &Approvals,
    agent_type: &TypeName,
    due: &Due,
    decision: &Decision,
) -> Result<Late, LedgerError> {
    let mut found = Late::default();
    loop {
        let page = late(approvals, agent_type, due, None).await?;
        let decided = page.items.iter().map(|id| {
            // The same request whenever it is made, so that a repeat is known for one.
            approvals.decide(*id, RequestId(id.0), decision.clone())
        });
        for decided in join_all(decided).await {
            match decided {
                Ok(_) => found.questions += 1,
                // Somebody has decided meanwhile, or the task has ended.
                Err(LedgerError::Decided { .. } | LedgerError::Closed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if !page.more {
            return Ok(found);
        }
    }
}
