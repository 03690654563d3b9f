//! The selections of the rules as statements: each stands here once, beside the name of what it mirrors, and the
//! test below holds it against that.
//!
//! A statement names its index, for the plan is part of the promise: a claim walks what it takes. Parameters are
//! those of the selection, in its order; then `now`; then a limit. States are written as their numbers, and SQLite
//! knows that a partial index is good for a statement where that repeats its condition.

use colony_core::task::State;

use super::{
    tables::{columns, select},
    value::code,
};

const _: () = assert!(code(State::Ready) == 0 && code(State::Claimed) == 1);

/// Conditions that several statements share.
macro_rules! condition {
    // TaskHead::is_queued.
    (queued) => {
        "state = 0 AND not_before_us IS NULL"
    };
    // TaskHead::due_at is some.
    (delayed) => {
        "state = 0 AND not_before_us IS NOT NULL"
    };
}

/// [`Select::Claimable`](colony_core::ledger::Select::Claimable).
pub(super) const CLAIMABLE: &str = concat!(
    select!(live),
    " INDEXED BY live_claimable WHERE tenant = ?1 AND queue = ?2 AND ",
    condition!(queued),
    " AND (deadline_us IS NULL OR deadline_us > ?3) ORDER BY sort_key, id"
);

/// [`Select::Due`](colony_core::ledger::Select::Due).
pub(super) const DUE: &str = concat!(
    select!(live),
    " INDEXED BY live_due WHERE ",
    condition!(delayed),
    " AND not_before_us <= ?1 ORDER BY not_before_us, id LIMIT ?2"
);

/// [`Select::Expired`](colony_core::ledger::Select::Expired).
pub(super) const EXPIRED: &str = concat!(
    select!(live),
    " INDEXED BY live_deadline WHERE deadline_us <= ?1 ORDER BY deadline_us, id LIMIT ?2"
);

/// [`Select::HeldBefore`](colony_core::ledger::Select::HeldBefore).
pub(super) const HELD_BEFORE: &str = concat!(
    select!(live),
    " WHERE state = 1 AND node = ?1 AND incarnation < ?2 ORDER BY id"
);

/// [`Select::HeldByOthers`](colony_core::ledger::Select::HeldByOthers).
pub(super) const HELD_BY_OTHERS: &str =
    concat!(select!(live), " WHERE state = 1 AND node <> ?1 ORDER BY id");

/// [`Select::HeldIn`](colony_core::ledger::Select::HeldIn).
pub(super) const HELD_IN: &str = concat!(
    select!(live),
    " WHERE state = 1 AND node = ?1 AND incarnation = ?2 AND batch = ?3 ORDER BY sort_key, id"
);

/// How many are queued, by tenant and queue: [`ReadyGroup`](colony_core::ledger::ReadyGroup)s, and what is past its
/// deadline.
pub(super) const QUEUED: &str = concat!(
    "SELECT tenant, queue, count(*) FROM live INDEXED BY live_claimable WHERE ",
    condition!(queued),
    " GROUP BY queue, tenant"
);

/// How many of these are past their deadline and have not ended yet.
pub(super) const QUEUED_EXPIRED: &str = concat!(
    "SELECT tenant, queue, count(*) FROM live INDEXED BY live_deadline WHERE deadline_us <= ?1 AND ",
    condition!(queued),
    " GROUP BY tenant, queue"
);

/// When the first delayed task is due.
pub(super) const FIRST_DUE: &str = concat!(
    "SELECT min(not_before_us) FROM live INDEXED BY live_due WHERE ",
    condition!(delayed)
);

/// The last life of a node that holds something.
pub(super) const LAST_LIFE: &str =
    "SELECT max(incarnation) FROM live WHERE state = 1 AND node = ?1";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::{collections::BTreeMap, sync::Arc};

    use colony_core::{
        id::{ApprovalId, Incarnation, NodeId, QueueName, TaskId, Tenant, TypeName},
        ledger::{
            Holder, Policy, Select, TaskHead, Wait,
            submit::{self, NewTask, Planned},
        },
        property::head_whole,
        task::Spec,
        unit::Timestamp,
    };
    use proptest::{prelude::*, test_runner::TestRunner};
    use rusqlite::{Connection, Params, params};

    use super::{
        super::{
            counters::Counters,
            ready::WriterCache,
            row, schema,
            tables::LIVE,
            txn::{Effects, WriteTxn},
            value::Number,
        },
        *,
    };

    const NOW: Timestamp = Timestamp::from_micros(1_000);
    const NAMES: [&str; 2] = ["a", "b"];

    /// A moment before, at or after now.
    fn moment() -> impl Strategy<Value = Timestamp> {
        (998..1_003_u64).prop_map(Timestamp::from_micros)
    }

    /// A live task of a few tenants, queues and nodes.
    fn head() -> impl Strategy<Value = TaskHead> {
        let state = prop::sample::select(vec![State::Ready, State::Claimed, State::Waiting]);
        let places = (0..2_usize, 0..2_usize, 0..2_usize, 0..4_i64);
        let holder = (1..3_u64, 1..3_u64);
        let moments = (prop::option::of(moment()), prop::option::of(moment()));
        (state, places, holder, moments).prop_map(
            |(state, (tenant, queue, node, sort_key), (life, batch), (not_before, deadline))| {
                let holder = Holder {
                    node: NodeId::new(NAMES[node]).unwrap(),
                    incarnation: Incarnation(life),
                    batch,
                };
                TaskHead {
                    tenant: Tenant::new(NAMES[tenant]).unwrap(),
                    queue: QueueName::new(NAMES[queue]).unwrap(),
                    state,
                    holder: (state == State::Claimed).then_some(holder),
                    not_before: not_before.filter(|_| state == State::Ready),
                    deadline,
                    sort_key,
                    wait: (state == State::Waiting)
                        .then(|| Wait::Human(ApprovalId::new(NOW, [1; 10]))),
                    ..submitted()
                }
            },
        )
    }

    fn submitted() -> TaskHead {
        let task = NewTask {
            id: TaskId::new(NOW, [0; 10]),
            spec: Arc::new(Spec::new(TypeName::new("t").unwrap(), "x")),
            refusal: None,
        };
        let planned = submit::plan(&[task], &[None], 0, &Policy::default(), NOW).unwrap();
        match planned.into_iter().next() {
            Some(Planned::Write(head)) => *head,
            other => panic!("{other:?}"),
        }
    }

    /// Puts these, and no others, into the table, under ids that do not rise with their places.
    fn fill(db: &Connection, heads: &mut [TaskHead]) {
        db.execute("DELETE FROM live", []).unwrap();
        let (policy, mut cache) = (Policy::default(), WriterCache::default());
        let mut txn = WriteTxn {
            db,
            policy: &policy,
            now: NOW,
            counters: Counters::default(),
            cache: &mut cache,
            effects: Effects::default(),
        };
        for (number, head) in (0_u8..).zip(heads) {
            head.id = TaskId::new(NOW, [number.wrapping_mul(97); 10]);
            head_whole(head).unwrap();
            txn.insert_live(head).unwrap();
        }
    }

    /// What the statement finds is what the rule selects, in its order.
    fn holds(db: &Connection, sql: &str, params: impl Params, select: Select<'_>, of: &[TaskHead]) {
        let found = LIVE.all(db, sql, params, row::live).unwrap();
        let found: Vec<TaskHead> = found.into_iter().map(Result::unwrap).collect();
        let selected = of.iter().filter(|head| select.matches(head, NOW));
        let mut selected: Vec<TaskHead> = selected.cloned().collect();
        selected.sort_by_key(|head| select.order(head));
        assert_eq!(found, selected, "{select:?}");
    }

    /// The statements that count, against the same predicates.
    fn counts(db: &Connection, heads: &[TaskHead]) {
        let counted = |sql: &str, params: &[Number]| -> BTreeMap<(String, String), u64> {
            let mut statement = db.prepare(sql).unwrap();
            let rows = statement.query_map(rusqlite::params_from_iter(params), |row| {
                Ok(((row.get(0)?, row.get(1)?), row.get::<_, Number>(2)?.0))
            });
            rows.unwrap().map(Result::unwrap).collect()
        };
        let expected = |expired_only: bool| {
            let mut groups = BTreeMap::new();
            for head in heads.iter().filter(|head| head.is_queued()) {
                if !expired_only || Select::Expired.matches(head, NOW) {
                    let group = (head.tenant.to_string(), head.queue.to_string());
                    *groups.entry(group).or_default() += 1;
                }
            }
            groups
        };
        assert_eq!(counted(QUEUED, &[]), expected(false));
        assert_eq!(
            counted(QUEUED_EXPIRED, &[Number::from(NOW)]),
            expected(true)
        );
        let first = |sql: &str, params: &[&str]| {
            let params = rusqlite::params_from_iter(params);
            let found = db.query_row(sql, params, |row| row.get::<_, Option<Number>>(0));
            found.unwrap().map(|found| found.0)
        };
        let due = heads.iter().filter_map(TaskHead::due_at).min();
        assert_eq!(first(FIRST_DUE, &[]), due.map(Timestamp::as_micros));
        for name in NAMES {
            let holders = heads.iter().filter_map(|head| head.holder.as_ref());
            let lives = holders.filter(|holder| holder.node.as_str() == name);
            let last = lives.map(|holder| holder.incarnation.0).max();
            assert_eq!(first(LAST_LIFE, &[name]), last);
        }
    }

    #[test]
    fn every_statement_selects_what_the_rule_selects() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open_writer(&folder.path().join("ledger.db"), None)
            .unwrap()
            .db;
        let (now, all) = (Number::from(NOW), u32::MAX);
        let tables = prop::collection::vec(head(), 0..60);
        let run = |mut heads: Vec<TaskHead>| {
            let heads = &mut heads[..];
            db.execute_batch("BEGIN").unwrap();
            fill(&db, heads);
            for (tenant, queue) in [("a", "a"), ("a", "b"), ("b", "a")] {
                let select = Select::Claimable {
                    tenant: &Tenant::new(tenant).unwrap(),
                    queue: &QueueName::new(queue).unwrap(),
                };
                holds(&db, CLAIMABLE, params![tenant, queue, now], select, heads);
            }
            holds(&db, DUE, params![now, all], Select::Due, heads);
            holds(&db, EXPIRED, params![now, all], Select::Expired, heads);
            let (node, incarnation, batch) = (&NodeId::new("a").unwrap(), Incarnation(2), 1);
            let before = Select::HeldBefore { node, incarnation };
            holds(&db, HELD_BEFORE, params!["a", 2], before, heads);
            let others = Select::HeldByOthers { node };
            holds(&db, HELD_BY_OTHERS, params!["a"], others, heads);
            let held = Select::HeldIn {
                node,
                incarnation,
                batch,
            };
            holds(&db, HELD_IN, params!["a", 2, 1], held, heads);
            counts(&db, heads);
            db.execute_batch("ROLLBACK").unwrap();
            Ok(())
        };
        TestRunner::default().run(&tables, run).unwrap();
    }
}
