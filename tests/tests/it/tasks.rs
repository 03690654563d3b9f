//! Tasks and the ledger from the command line: following, reviving, verifying.

use std::time::Duration;

use colony_tests::{Folder, Node, eventually, run};
use serde_json::Value;

/// For a node on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

fn submit(node: &Node, agent_type: &str, text: &str) -> String {
    let lines = node.json(&["submit", "--type", agent_type, text]).unwrap();
    lines[0]["task_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_watch_goes_on_from_its_cursor_and_no_gap_is_passed_over() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let id = submit(&node, "echo", "hello");
    let watch = |more: &[&str]| {
        let args = [&["task", "watch", &id, "--until-ended", "--json"], more].concat();
        node.run(&args).unwrap()
    };
    let told = watch(&[]).good().unwrap().json().unwrap();
    let last = told.last().unwrap();
    assert_eq!(
        (&last["task_id"], &last["state"]),
        (&Value::from(&*id), &"done".into())
    );
    let cursor = last["cursor"].as_str().unwrap();
    let again = watch(&["--after", cursor]).good().unwrap().json().unwrap();
    assert_eq!(
        again.last().unwrap()["state"],
        "done",
        "where it stands is said all the same"
    );
    let (ledger, _) = cursor.split_once(':').unwrap();
    let future = format!("{ledger}:1000000");
    let foreign = "00000000-0000-7000-8000-000000000000:1";
    for bad in [future.as_str(), foreign] {
        let refused = watch(&["--after", bad]);
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        assert!(refused.stderr.contains("CLY0027"), "{}", refused.stderr);
        let oldest = format!("{ledger}:0");
        assert!(refused.stderr.contains(&oldest), "{}", refused.stderr);
    }
}

#[test]
fn cancelled_tasks_are_revived_by_a_filter_and_by_their_ids() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let ids: Vec<String> = (0..2)
        .map(|n| submit(&node, "triage", &format!("my password is lost {n}")))
        .collect();
    let all_wait = || {
        eventually("questions of all", SOON, || {
            Ok(node.json(&["approve", "list"])?.len() == ids.len())
        })
        .unwrap();
    };
    let cancel = || node.json(&["task", "cancel", &ids[0], &ids[1]]).unwrap();
    let filter = [
        "task",
        "revive",
        "--state",
        "cancelled",
        "--reason",
        "cancel",
    ];
    all_wait();
    cancel();
    let would = node.json(&[&filter[..], &["--dry-run"]].concat()).unwrap();
    assert_eq!((would.len(), &would[0]["revived"]), (2, &false.into()));
    let revived = node.json(&filter).unwrap();
    assert_eq!((revived.len(), &revived[0]["revived"]), (2, &true.into()));
    all_wait();
    let again = node.run(&["task", "revive", &ids[0]]).unwrap();
    assert_eq!(again.code, Some(4), "{}", again.stderr);
    assert!(again.stderr.contains("CLY0026"), "{}", again.stderr);
    cancel();
    assert_eq!(
        node.json(&["task", "revive", &ids[0], &ids[1]])
            .unwrap()
            .len(),
        2
    );
    all_wait();
}

#[test]
fn a_ledger_is_verified_while_its_node_runs_and_when_it_is_stopped() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    node.run(&["submit", "--type", "echo", "--wait", "hello"])
        .unwrap()
        .good()
        .unwrap();
    let running = node.json(&["ledger", "verify"]).unwrap().remove(0);
    assert_eq!(
        (&running["whole"], &running["problems_total"]),
        (&true.into(), &0.into())
    );
    let data = folder.path().join("data");
    let stopped = [
        "ledger",
        "verify",
        "--json",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let open = run(&stopped).unwrap();
    assert_eq!(open.code, Some(1), "its node has it: {}", open.stderr);
    assert!(node.stop().unwrap().success());
    let found = run(&stopped)
        .unwrap()
        .good()
        .unwrap()
        .json()
        .unwrap()
        .remove(0);
    assert_eq!(found["whole"], true);
    assert!(
        found["rows"]
            .as_object()
            .unwrap()
            .values()
            .any(|rows| rows.as_u64() > Some(0))
    );
    let nothing = folder.path().join("nothing");
    let missing = run(&["ledger", "verify", "--data-dir", nothing.to_str().unwrap()]).unwrap();
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
}

/// C5 and C19: one changed bit is named by table and key, to whoever asks, and everything else goes on.
#[test]
fn a_damaged_row_is_named_by_the_node_and_without_it_and_the_rest_goes_on() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let done = node
        .json(&["submit", "--type", "echo", "--wait", "hello"])
        .unwrap();
    let id = done[0]["id"].as_str().unwrap().to_owned();
    let address = node.address().to_owned();
    assert!(node.stop().unwrap().success());
    let path = folder.path().join("data/colony.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    let changed = db
        .execute("UPDATE finished SET fence = fence + 1", [])
        .unwrap();
    assert_eq!(changed, 1);
    drop(db);
    let data = folder.path().join("data");
    let stopped = run(&[
        "ledger",
        "verify",
        "--json",
        "--data-dir",
        data.to_str().unwrap(),
    ])
    .unwrap();
    let node = Node::start_at(&folder, &address, &[]).unwrap();
    let running = node.run(&["ledger", "verify", "--json"]).unwrap();
    for found in [&stopped, &running] {
        assert_eq!(found.code, Some(1), "{}", found.stderr);
        let said = found.json().unwrap().remove(0);
        assert_eq!(said["whole"], false);
        assert_eq!(said["quarantined_total"], 1, "{said}");
        let row = &said["quarantined"][0];
        assert_eq!(row["table"], "finished", "{said}");
        assert!(row["key"].as_str().unwrap().contains(&id), "{said}");
    }
    let asked = node.run(&["task", "get", &id]).unwrap();
    assert_ne!(asked.code, Some(0), "it cannot be read: {}", asked.stdout);
    let rest = node.run(&["submit", "--type", "echo", "--wait", "the rest goes on"]);
    assert!(rest.unwrap().good().unwrap().stdout.contains("done"));
}
