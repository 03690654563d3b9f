//! Making ended tasks ready again, many at once: what an operator does after what killed them is repaired.

use colony_core::{
    id::{RequestId, TaskId, Tenant, TypeName},
    task::{Ending, State},
};
use colony_store::{LedgerError, Record, TaskFilter};

use crate::{NodeHandle, Problem};

/// Most tasks that one call looks at: a caller with a time limit gets an answer, and goes on from there.
const LOOKED_AT_MAX: u32 = 10_000;

/// Which tasks to revive. Newest first.
#[derive(Debug, Clone)]
pub struct ReviveFilter {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only this type's.
    pub agent_type: Option<TypeName>,
    /// Only these states; those that cannot be revived find nothing. Empty = dead.
    pub states: Vec<State>,
    /// Only tasks that ended for a reason that holds this text.
    pub reason: String,
    /// Most tasks to revive.
    pub limit: usize,
    /// Only tasks with an id below this one: [`Revival::next`] of the call before.
    pub before: Option<TaskId>,
}

/// Whether it is done or only said what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// It is done, under the id of this request: once for each task.
    Real(RequestId),
    /// It is only said.
    Dry,
}

/// A task that is ready again, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revived {
    /// Which.
    pub id: TaskId,
    /// The state it was in; `Ready` where the request is a repeat.
    pub was: State,
    /// Why it had ended.
    pub reason: String,
}

/// What became of the tasks that a filter found.
#[derive(Debug, Default)]
pub struct Revival {
    /// Ready again.
    pub revived: Vec<Revived>,
    /// Not, and why.
    pub not_revived: Vec<(TaskId, Problem)>,
    /// Where to go on: some when there may be more.
    pub next: Option<TaskId>,
}

impl NodeHandle {
    /// Makes a dead, cancelled or expired task ready again.
    ///
    /// # Errors
    /// `NoTask`, `NotRevivable`, `Full`, `RequestConflict`, `Draining`, `Failed`, storage.
    pub async fn revive_one(&self, task: TaskId, run: Run) -> Result<Revived, Problem> {
        let record = self.task(task).await?;
        self.revive_record(record, run).await
    }

    /// Makes the tasks that `filter` finds ready again, each for itself. A call that looked at many tasks, or
    /// found no room for more live ones, ends early and says where to go on.
    ///
    /// # Errors
    /// `Full`, `Draining`, `Failed`, storage: none was revived.
    pub async fn revive_found(&self, filter: ReviveFilter, run: Run) -> Result<Revival, Problem> {
        let ReviveFilter {
            tenant,
            agent_type,
            mut states,
            reason,
            limit,
            mut before,
        } = filter;
        if states.is_empty() {
            states.push(State::Dead);
        }
        let mut revival = Revival::default();
        let mut left = LOOKED_AT_MAX;
        loop {
            let page = TaskFilter {
                id_prefix: None,
                tenant: tenant.clone(),
                states: states.clone(),
                agent_type: agent_type.clone(),
                before,
                limit: left,
            };
            let page = self.tasks(page).await?;
            for record in page.items {
                if revival.revived.len() >= limit {
                    revival.next = before;
                    return Ok(revival);
                }
                left = left.saturating_sub(1);
                let id = record.head.id;
                if why(&record).contains(&reason) {
                    match self.revive_record(record, run).await {
                        Ok(revived) => revival.revived.push(revived),
                        Err(problem) if is_about_the_task(&problem) => {
                            revival.not_revived.push((id, problem));
                        }
                        Err(problem) if revival.revived.is_empty() => return Err(problem),
                        Err(_) => {
                            revival.next = before;
                            return Ok(revival);
                        }
                    }
                }
                before = Some(id);
            }
            if !page.more {
                return Ok(revival);
            }
            if left == 0 {
                revival.next = before;
                return Ok(revival);
            }
        }
    }

    async fn revive_record(&self, record: Record, run: Run) -> Result<Revived, Problem> {
        let (id, state) = (record.head.id, record.head.state);
        let was = match run {
            Run::Real(request) => self.revive(id, request).await?,
            Run::Dry if state.is_revivable() => state,
            Run::Dry => return Err(LedgerError::NotRevivable { task: id, state }.into()),
        };
        Ok(Revived {
            id,
            was,
            reason: why(&record).to_owned(),
        })
    }
}

/// Why a task ended without an answer; empty when it has not.
fn why(record: &Record) -> &str {
    match &record.head.ending {
        Some(Ending::Failed { reason }) => reason,
        Some(Ending::Done(_)) | None => "",
    }
}

/// Whether other tasks may be revived all the same.
const fn is_about_the_task(problem: &Problem) -> bool {
    matches!(
        problem,
        Problem::Ledger(
            LedgerError::NoTask(_)
                | LedgerError::NotRevivable { .. }
                | LedgerError::RequestConflict { .. }
                | LedgerError::Unreadable { .. }
        )
    )
}
