//! The outbox from the command line: filed tickets are read, delivered and acknowledged, also across a kill.

use std::time::Duration;

use anyhow::Context as _;
use colony_tests::{Folder, Node, command, eventually_some, run_within};
use serde_json::Value;

/// For a node on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

/// Lets a ticket be filed in `queue`, by a human's word.
fn file(node: &Node, text: &str, queue: &str) {
    let submitted = node.json(&["submit", "--type", "triage", text]).unwrap();
    let id = submitted[0]["task_id"].as_str().unwrap();
    let question = eventually_some("a question", SOON, || {
        let open = node.json(&["approve", "list"])?;
        open.into_iter().next().context("no question yet")
    })
    .unwrap();
    let question = question["id"].as_str().unwrap();
    let decide = ["approve", "accept", question, "--label", queue];
    let decided = node.run(&[&decide[..], &["--no-teach", "--by", "ann"]].concat());
    decided.unwrap().good().unwrap();
    node.json(&["task", "watch", "--until-ended", id]).unwrap();
}

fn listed(node: &Node, more: &[&str]) -> Vec<Value> {
    node.json(&[&["outbox", "list"], more].concat()).unwrap()
}

#[test]
fn filed_tickets_are_listed_in_eighty_columns() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    file(&node, "my badge does not open the gate", "badges");
    let id = listed(&node, &[])[0]["id"].as_str().unwrap().to_owned();
    for more in [&[][..], &["--all"]] {
        let mut command = command(&[&["outbox", "list"], more].concat()).unwrap();
        command
            .args(["--address", node.address()])
            .env("COLUMNS", "80");
        let shown = run_within(SOON, command).unwrap().good().unwrap().stdout;
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.contains("PAYLOAD") || !more.is_empty(), "{shown}");
        assert!(shown.contains("tick"), "{shown}");
        // What acknowledges it is whole.
        assert!(shown.contains(&id), "{shown}");
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

#[test]
fn a_filed_ticket_is_delivered_until_it_is_acknowledged() {
    let folder = Folder::new().unwrap();
    let mut node = Node::start(&folder, &[]).unwrap();
    let address = node.address().to_owned();
    file(&node, "my badge does not open the gate", "badges");
    file(&node, "no heating on floor two", "building");
    let tickets = listed(&node, &["--to", "tickets"]);
    assert_eq!(tickets.len(), 2, "{tickets:?}");
    assert_eq!(tickets[0]["payload"]["queue"], "badges");
    assert_eq!(tickets[0]["payload"]["task"], tickets[0]["task_id"]);
    assert_eq!(listed(&node, &["--to", "mail"]), Vec::<Value>::new());

    // Acknowledged twice, and once after a kill: the same.
    let id = tickets[0]["id"].as_str().unwrap();
    for _repeat in 0..2 {
        let said = node.json(&["outbox", "ack", id]).unwrap();
        assert_eq!(said[0]["acknowledged"], true, "{said:?}");
    }
    node.kill().unwrap();
    node = Node::start_at(&folder, &address, &[]).unwrap();
    assert_eq!(listed(&node, &[]), tickets[1..]);
    let all = listed(&node, &["--all"]);
    assert_eq!(all.len(), 2);
    assert!(all[0]["acknowledged_at_us"].is_u64(), "{all:?}");
    let nothing = node.run(&["outbox", "ack", "nothing#0"]).unwrap();
    assert_eq!(nothing.code, Some(5), "{}", nothing.stderr);
    assert!(
        nothing.stdout.contains("nothing#0 is not there"),
        "{}",
        nothing.stdout
    );
    let wrong = node.run(&["outbox", "ack", "nothing"]).unwrap();
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    assert!(node.stop().unwrap().success());
}

#[test]
fn a_watch_of_the_outbox_outlives_its_node_and_goes_on_from_its_cursor() {
    let folder = Folder::new().unwrap();
    let mut node = Node::start(&folder, &[]).unwrap();
    let address = node.address().to_owned();
    file(&node, "my badge does not open the gate", "badges");
    let seen = folder.path().join("seen.jsonl");
    let errors = std::fs::File::create(folder.path().join("watch.log")).unwrap();
    let mut watch = colony_tests::command(&["outbox", "watch", "--to", "tickets", "--json"])
        .unwrap()
        .args(["--address", &address])
        .stdout(std::fs::File::create(&seen).unwrap())
        .stderr(errors)
        .spawn()
        .unwrap();
    let told = |count: usize| {
        eventually_some("messages", SOON, || {
            let text = std::fs::read_to_string(&seen)?;
            let lines: Vec<Value> = text
                .lines()
                .map_while(|line| serde_json::from_str(line).ok())
                .collect();
            (lines.len() >= count).then_some(lines).context("not yet")
        })
        .unwrap()
    };
    assert_eq!(told(1)[0]["payload"]["queue"], "badges");
    node.kill().unwrap();
    node = Node::start_at(&folder, &address, &[]).unwrap();
    file(&node, "no heating on floor two", "building");
    let lines = told(2);
    watch.kill().unwrap();
    watch.wait().unwrap();
    // Not acknowledged, and yet it comes once: the watch has gone on from its cursor.
    let queues: Vec<_> = lines.iter().map(|line| &line["payload"]["queue"]).collect();
    assert_eq!(queues, ["badges", "building"]);
    let cursor = lines[0]["cursor"].as_str().unwrap();
    assert!(cursor.starts_with("outbox:"), "{cursor}");
    assert!(node.stop().unwrap().success());
}
