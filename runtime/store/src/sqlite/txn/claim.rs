//! Taking tasks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_core::{
    id::{Incarnation, NodeId, QueueName, Tenant},
    ledger::{
        Pick, TaskHead,
        claim::{self, Asked},
        plan_claim,
    },
    task::Spec,
};
use rusqlite::{ErrorCode, params};

use super::{Done, TxnError, WriteTxn};
use crate::{
    ledger::{Claim, ClaimRequest, Claimed, InboxItem},
    sqlite::{
        load::{self, missing_spec},
        ready::NodeRow,
        row,
        select::{CLAIMABLE, DUE, FIRST_DUE, HELD_IN, QUEUED_EXPIRED},
        tables::{APPROVALS, Damage, Found, LIVE, columns, select},
        value::{Id, Number},
    },
};

/// Where damage stands that is in no row.
const PAGES: &str = "pages";

/// What the holder of a task needs beside its head.
struct Needs {
    spec: Arc<Spec>,
    has_journal: bool,
    inbox: Vec<InboxItem>,
}

impl Needs {
    fn handed(self, head: TaskHead) -> Claim {
        let Self {
            spec,
            has_journal,
            inbox,
        } = self;
        Claim {
            head,
            spec,
            has_journal,
            inbox,
        }
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

/// What was written for a task before a claim.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// Nothing: it had never been claimed.
    Unclaimed,
    /// There may be a journal, and answers.
    Unknown,
}

/// How many tasks that are counted as ready nobody can have.
type Missing = BTreeMap<(Tenant, QueueName), u64>;

/// Most tasks whose wait is over that one claim puts into their queues: some milliseconds. What is left
/// is due at once, so the next claim comes for it.
const DUE_MAX: u32 = 1_000;

impl WriteTxn<'_> {
    pub(in crate::sqlite) fn claim(&mut self, request: &ClaimRequest) -> Done<Claimed> {
        let ClaimRequest {
            node,
            incarnation,
            batch,
            ..
        } = request;
        let row = self.cache.nodes.get(node);
        let known = row.map(|row| (row.incarnation, row.batch));
        let mut next_due = self.next_due()?;
        let claims = match claim::asked(known, *incarnation, *batch) {
            Asked::Stale => Vec::new(),
            Asked::Repeat => {
                let mut claims = Vec::new();
                for head in self.held_in(node, *incarnation, *batch)? {
                    claims.extend(self.handed(head)?);
                }
                claims
            }
            Asked::Fresh => {
                if next_due == Some(Duration::ZERO) {
                    self.end_waits()?;
                    next_due = self.next_due()?;
                }
                let claims = self.take(request)?;
                let row = NodeRow {
                    incarnation: *incarnation,
                    batch: Some(*batch),
                };
                self.cache.nodes.set(node, row);
                if !claims.is_empty() {
                    self.effects.claimants.insert(node.clone());
                }
                claims
            }
        };
        Ok(Claimed { claims, next_due })
    }

    fn end_waits(&mut self) -> Done<()> {
        let due = LIVE.all(
            self.db,
            DUE,
            params![Number::from(self.now), DUE_MAX],
            row::live,
        )?;
        for head in self.readable(due)? {
            self.apply(&head, &claim::due(&head))?;
        }
        Ok(())
    }

    /// The time until the first wait of a ready task is over.
    fn next_due(&self) -> Done<Option<Duration>> {
        let due: Option<Number> = self
            .db
            .prepare_cached(FIRST_DUE)?
            .query_row([], |row| row.get(0))?;
        Ok(due.map(|due| due.time().since(self.now)))
    }

    fn take(&mut self, request: &ClaimRequest) -> Done<Vec<Claim>> {
        let mut claims = Vec::new();
        let mut left = request.free.clone();
        let mut total = request.total;
        // What the counts promise and nobody can have: tasks past their deadline, and damage.
        let mut missing = self.overdue()?;
        loop {
            let picks = self.plan(&left, total, &missing);
            let mut short = false;
            for pick in picks {
                let heads = self.claimable(&pick)?;
                let count = u32::try_from(heads.len()).unwrap_or(u32::MAX);
                total -= count;
                if let Some(left) = left.get_mut(&pick.queue) {
                    *left -= count;
                }
                for head in heads {
                    claims.extend(self.take_one(&head, request)?);
                }
                if count < pick.count {
                    short = true;
                    self.effects.short = true;
                    missing.insert((pick.tenant, pick.queue), u64::MAX);
                }
            }
            if !short {
                break;
            }
        }
        claims.sort_unstable_by_key(|claim: &Claim| (claim.head.sort_key, claim.head.id));
        Ok(claims)
    }

    fn take_one(&mut self, head: &TaskHead, request: &ClaimRequest) -> Done<Option<Claim>> {
        let before = if head.fence.0 == 0 {
            Before::Unclaimed
        } else {
            Before::Unknown
        };
        if let Some(reason) = self.cache.unreadable.get(&head.id).cloned() {
            self.postpone(head, &reason)?;
            return Ok(None);
        }
        // Before it is taken: who cannot be given everything is given nothing.
        let needs = match self.needs(head, before) {
            Ok(Some(needs)) => needs,
            Ok(None) => return Ok(None),
            Err(TxnError::Failed(error)) if is_damage(&error) => {
                // SQLite lets nothing more be written in this transaction: the next one knows.
                self.cache.unreadable.insert(head.id, error.to_string());
                return Err(error.into());
            }
            Err(error) => return Err(error),
        };
        let ClaimRequest {
            node,
            incarnation,
            batch,
            ..
        } = request;
        let transition = claim::take(head, node, *incarnation, *batch, self.now);
        self.apply(head, &transition)?;
        Ok(transition.head.map(|taken| needs.handed(taken)))
    }

    /// Whole pages of the file cannot be read. Nobody knows whose they are, so that nothing is ended for it.
    fn postpone(&mut self, head: &TaskHead, reason: &str) -> Done<()> {
        self.note(&Damage {
            table: PAGES,
            key: head.id.to_string(),
            reason: format!("what the task needs cannot be read: {reason}"),
            owner: None,
        })?;
        self.apply(head, &claim::postpone(head, self.now))
    }

    /// Which groups are to be taken from, without the missing.
    fn plan(
        &mut self,
        free: &BTreeMap<QueueName, u32>,
        total: u32,
        missing: &Missing,
    ) -> Vec<Pick> {
        let shares = &mut self.cache.shares;
        let ready = self.cache.ready.groups();
        if missing.is_empty() {
            return plan_claim(ready, free, shares, total, self.policy);
        }
        let mut there = ready.to_vec();
        for group in &mut there {
            let key = (group.tenant.clone(), group.queue.clone());
            if let Some(missing) = missing.get(&key) {
                group.count = group.count.saturating_sub(*missing);
            }
        }
        plan_claim(&there, free, shares, total, self.policy)
    }

    /// Ready tasks past their deadline that have not ended yet: few, for they are swept.
    fn overdue(&self) -> Done<Missing> {
        let mut groups = Missing::new();
        let mut statement = self.db.prepare_cached(QUEUED_EXPIRED)?;
        let mut rows = statement.query([Number::from(self.now)])?;
        while let Some(row) = rows.next()? {
            let tenant = row.get_ref(0)?.as_str().ok().map(Tenant::new);
            let queue = row.get_ref(1)?.as_str().ok().map(QueueName::new);
            // Of a damaged row; it is found where it is claimed.
            if let (Some(Ok(tenant)), Some(Ok(queue))) = (tenant, queue) {
                let count = row.get::<_, Number>(2)?.0;
                groups.insert((tenant, queue), count);
            }
        }
        Ok(groups)
    }

    /// The first ones of a group.
    fn claimable(&mut self, pick: &Pick) -> Done<Vec<TaskHead>> {
        let mut heads = Vec::new();
        let mut damages = Vec::new();
        let mut statement = self.db.prepare_cached(CLAIMABLE)?;
        let mut rows = statement.query(params![
            pick.tenant.as_str(),
            pick.queue.as_str(),
            Number::from(self.now)
        ])?;
        while heads.len() < pick.count as usize
            && let Some(row) = rows.next()?
        {
            match LIVE.read(row, row::live) {
                Ok(head) => heads.push(head),
                Err(damage) => damages.push(damage),
            }
        }
        drop(rows);
        drop(statement);
        for damage in damages {
            self.set_aside(&damage)?;
        }
        Ok(heads)
    }

    /// What a claim request has taken and holds still.
    fn held_in(
        &mut self,
        node: &NodeId,
        incarnation: Incarnation,
        batch: u64,
    ) -> Done<Vec<TaskHead>> {
        let held = LIVE.all(
            self.db,
            HELD_IN,
            params![node.as_str(), Number(incarnation.0), Number(batch)],
            row::live,
        )?;
        self.readable(held)
    }

    /// Those that can be read; the others are set aside.
    pub(super) fn readable<T>(&mut self, found: Vec<Found<T>>) -> Done<Vec<T>> {
        let mut readable = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Ok(row) => readable.push(row),
                Err(damage) => self.set_aside(&damage)?,
            }
        }
        Ok(readable)
    }

    /// A claimed head with everything that its holder needs; none where the task ended for lack of some of it.
    fn handed(&mut self, head: TaskHead) -> Done<Option<Claim>> {
        let needs = self.needs(&head, Before::Unknown)?;
        Ok(needs.map(|needs| needs.handed(head)))
    }

    /// What the holder of a task needs. A task that lacks some of it ends here.
    fn needs(&mut self, head: &TaskHead, before: Before) -> Done<Option<Needs>> {
        let spec = match load::spec(self.db, head.id)? {
            Some(Ok(spec)) => spec,
            Some(Err(damage)) => {
                self.set_aside(&damage)?;
                return Ok(None);
            }
            None => {
                self.set_aside(&missing_spec(head.id))?;
                return Ok(None);
            }
        };
        let (has_journal, inbox) = match before {
            Before::Unclaimed => (false, Some(Vec::new())),
            Before::Unknown => {
                let has_journal = load::next_sequence(self.db, head.id)? > 0;
                (has_journal, self.inbox(head)?)
            }
        };
        Ok(inbox.map(|inbox| Needs {
            spec,
            has_journal,
            inbox,
        }))
    }

    /// Answers that the task's journal does not have yet; none when one cannot be read and the task has
    /// ended by it.
    fn inbox(&mut self, head: &TaskHead) -> Done<Option<Vec<InboxItem>>> {
        let found = APPROVALS.all(
            self.db,
            concat!(
                select!(approvals),
                " INDEXED BY approvals_task
                  WHERE task = ?1 AND state = 1 AND state < 2 ORDER BY id"
            ),
            [Id::from(head.id)],
            row::approval,
        )?;
        let mut answers = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Ok(row) => answers.push(row),
                Err(damage) => {
                    self.set_aside(&damage)?;
                    self.end_unreadable(head.id, &damage)?;
                    return Ok(None);
                }
            }
        }
        let items = answers.into_iter().filter_map(|row| {
            let decision = row.state.decision()?.clone();
            let question = row.question.id;
            Some(InboxItem { question, decision })
        });
        Ok(Some(items.collect()))
    }
}
