//! `colony ledger verify`: whether what was written down is whole.

use std::{path::Path, sync::Arc};

use colony_core::unit::Timestamp;
use colony_node::ports::SystemClock;
use colony_proto::v1::VerifyLedgerRequest;
use colony_store::{Ledger as _, Policy, Quarantined, SqliteLedger, Verification};
use serde_json::json;
use tonic::Request;

use super::{Node, view};
use crate::{
    errors::{Failure, chain},
    node::running::LEDGER_FILE,
    output::{Output, clean, sheet},
};

/// What is wrong, with numbers of what is not shown.
struct Findings {
    found: Verification,
    quarantined_total: u64,
    problems_total: u64,
}

/// Asks a running node to verify its ledger. Takes as long as it takes.
pub(crate) async fn verify(node: &Node, out: Output) -> Result<(), Failure> {
    let ask = Request::new(VerifyLedgerRequest {});
    let answer = node.open(node.cluster().verify_ledger(ask).await)?;
    let quarantined = answer.quarantined.into_iter().map(|row| Quarantined {
        table: row.table,
        key: row.key,
        reason: row.reason,
        at: Timestamp::from_micros(row.at_us),
    });
    report(
        &Findings {
            found: Verification {
                rows: answer.rows,
                quarantined: quarantined.collect(),
                problems: answer.problems,
            },
            quarantined_total: answer.quarantined_total,
            problems_total: answer.problems_total,
        },
        out,
    )
}

/// Verifies the ledger of a node that does not run.
pub(crate) async fn verify_stopped(data_dir: &Path, out: Output) -> Result<(), Failure> {
    let path = data_dir.join(LEDGER_FILE);
    if !path.is_file() {
        let what = format!("there is no ledger {}", path.display());
        return Err(Failure::usage(what));
    }
    let opened = tokio::task::spawn_blocking(move || {
        SqliteLedger::open(&path, Policy::default(), Arc::new(SystemClock::start()))
    });
    let ledger = match opened.await {
        Ok(Ok(ledger)) => ledger,
        Ok(Err(error)) => {
            let hint = "if its node runs, leave --data-dir out and ask the node";
            return Err(Failure::failed(chain(&error)).with_hint(hint));
        }
        Err(panic) => {
            let what = format!("opening the ledger broke off: {panic}");
            return Err(Failure::failed(what));
        }
    };
    let found = ledger.verify().await;
    ledger.close().await;
    let found = found.map_err(|error| Failure::failed(chain(&error)))?;
    report(
        &Findings {
            quarantined_total: found.quarantined.len() as u64,
            problems_total: found.problems.len() as u64,
            found,
        },
        out,
    )
}

/// Prints what was found; a ledger that is not whole is a failure.
fn report(findings: &Findings, out: Output) -> Result<(), Failure> {
    let Findings {
        found,
        quarantined_total,
        problems_total,
    } = findings;
    let whole = found.is_whole();
    let quarantined = found.quarantined.iter().map(|row| {
        json!({
            "table": row.table,
            "key": row.key,
            "reason": row.reason,
            "at_us": row.at.as_micros(),
        })
    });
    let said = json!({
        "whole": whole,
        "rows": found.rows,
        "quarantined": quarantined.collect::<Vec<_>>(),
        "quarantined_total": quarantined_total,
        "problems": found.problems,
        "problems_total": problems_total,
    });
    out.result(&said, || describe(found))?;
    if whole {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "the ledger is not whole: {quarantined_total} rows cannot be read, {problems_total} other problems"
    )))
}

fn describe(found: &Verification) -> String {
    let rows = found.rows.iter();
    let mut text = sheet(rows.map(|(table, rows)| (clean(table), format!("{rows} rows"))));
    for row in &found.quarantined {
        let (at, table, key) = (
            view::time(row.at.as_micros()),
            clean(&row.table),
            clean(&row.key),
        );
        text.push_str(&format!(
            "\n{table} {key}: {} (found {at})",
            clean(&row.reason)
        ));
    }
    for problem in &found.problems {
        text.push('\n');
        text.push_str(&clean(problem));
    }
    if found.is_whole() {
        text.push_str("\nthe ledger is whole");
    }
    text
}
