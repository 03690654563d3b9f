//! Kills at default settings, under mixed load: no acknowledged task dies of them, and none waits for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    process::{Child, Stdio},
    time::Duration,
};

use colony_tests::{Folder, Node, command, eventually};
use serde_json::Value;

/// For a few thousand small tasks on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(180);
const KILLS: usize = 30;
const CLIENTS: usize = 200;

/// A client process that is killed, or ends by itself.
struct Client(Child);

impl Client {
    fn start(node: &str, args: &[&str]) -> Self {
        Self::telling(node, args, Stdio::null())
    }

    fn telling(node: &str, args: &[&str], stdout: Stdio) -> Self {
        let mut args = args.to_vec();
        args.extend(["--address", node]);
        let child = command(&args)
            .unwrap()
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_state(node: &Node) -> BTreeMap<String, u64> {
    let status = node.json(&["status"]).unwrap().remove(0);
    let states = status["tasks"].as_object().unwrap();
    states
        .iter()
        .map(|(state, count)| (state.clone(), count.as_u64().unwrap()))
        .collect()
}

/// JSON lines of tasks of both kinds, some with a key that comes twice.
fn mixed(folder: &Folder, round: usize) -> String {
    let lines: String = (0..60)
        .map(|n| {
            let ticket = n / 2;
            let kind = if ticket % 3 == 0 { "triage" } else { "echo" };
            // The first two lines of ten are the same request.
            let key = if n % 10 < 2 {
                format!("round-{round}/{ticket}")
            } else {
                format!("round-{round}/line-{n}")
            };
            format!("{{\"text\":\"ticket {ticket} of round {round}\",\"type\":\"{kind}\",\"key\":\"{key}\"}}\n")
        })
        .collect();
    let name = format!("mixed-{round}.jsonl");
    let path = folder.file(&name, &lines).unwrap();
    path.to_str().unwrap().to_owned()
}

/// C6: node deaths counted towards `dead`, and 25 kills made 337 of 2,000 tasks dead at default settings.
#[test]
fn thirty_kills_under_mixed_load_leave_no_task_dead() {
    let folder = Folder::new().unwrap();
    let mut node = Node::start(&folder, &[]).unwrap();
    let address = node.address().to_owned();
    let acknowledged = folder.file("acknowledged", "").unwrap();
    for round in 0..KILLS {
        let file = mixed(&folder, round);
        let submit = ["submit", "--file", &file, "--retry-for", "2m"];
        let ids = File::options().append(true).open(&acknowledged).unwrap();
        let submitter = Client::telling(&address, &submit, ids.into());
        eventually("work in hand", SOON, || {
            let counts = by_state(&node);
            Ok(counts.values().sum::<u64>() >= (round as u64) * 40 + 10)
        })
        .unwrap();
        // A person and a submitter are at work too; what they began may be lost with the node.
        let waiting = node.json(&["approve", "list"]).unwrap_or_default();
        let _people: Vec<Client> = waiting
            .iter()
            .take(3)
            .filter_map(|approval| approval["id"].as_str())
            .map(|id| Client::start(&address, &["approve", "accept", id]))
            .collect();
        let tasks = node
            .json(&["task", "list", "--limit", "2"])
            .unwrap_or_default();
        let _cancels: Vec<Client> = tasks
            .iter()
            .filter_map(|task| task["id"].as_str())
            .map(|id| Client::start(&address, &["task", "cancel", id]))
            .collect();
        node.kill().unwrap();
        node = Node::start_at(&folder, &address, &[]).unwrap();
        let mut submitter = submitter;
        eventually("the submitter's end", SOON, || {
            Ok(submitter.0.try_wait()?.is_some())
        })
        .unwrap();
    }
    eventually("everything ends or waits for a human", SOON, || {
        let counts = by_state(&node);
        Ok(counts["ready"] == 0 && counts["claimed"] == 0)
    })
    .unwrap();
    let counts = by_state(&node);
    assert_eq!((counts["dead"], counts["failed"]), (0, 0), "{counts:?}");
    let status = node.json(&["status"]).unwrap().remove(0);
    let accepted = status["accepted"].as_u64().unwrap();
    assert_eq!(counts.values().sum::<u64>(), accepted, "{counts:?}");
    // Every id that a submitter was given is there, and the kills have met work in hand.
    let tasks = node.json(&["task", "list", "--limit", "0"]).unwrap();
    let known: BTreeSet<&str> = tasks
        .iter()
        .filter_map(|task| task["id"].as_str())
        .collect();
    let acknowledged = fs::read_to_string(acknowledged).unwrap();
    let lost: Vec<&str> = acknowledged
        .lines()
        .filter(|id| !known.contains(id))
        .collect();
    assert_eq!(lost, Vec::<&str>::new());
    assert!(acknowledged.lines().count() > KILLS * 40);
    let losses: u64 = tasks.iter().filter_map(|t| t["node_losses"].as_u64()).sum();
    assert!(losses > 0, "no kill met a task in hand");
    assert!(node.stop().unwrap().success());
}

/// C2: 7 of 200 killed clients left a ready task on an idle node. The market's re-check, which would hide it,
/// is off.
#[test]
fn two_hundred_killed_clients_leave_nothing_ready_on_an_idle_node() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &["--set", "market.recheck_every=\"0ms\""]).unwrap();
    for number in 0..CLIENTS {
        let text = format!("client {number}");
        let mut client = Client::start(node.address(), &["submit", "--type", "echo", &text]);
        // Some before they connect, most in the middle, some after their answer.
        let before = by_state(&node).values().sum::<u64>();
        let limit = Duration::from_millis(u64::try_from(number % 20).unwrap());
        let _ = eventually("an end or an accepted task", limit, || {
            let accepted = by_state(&node).values().sum::<u64>() > before;
            Ok(accepted || client.0.try_wait()?.is_some())
        });
        drop(client);
    }
    eventually("an idle node with nothing ready", SOON, || {
        let counts = by_state(&node);
        Ok(counts["ready"] == 0 && counts["claimed"] == 0)
    })
    .unwrap();
    let counts = by_state(&node);
    assert!(counts["done"] > 0, "{counts:?}");
    assert_eq!(counts["done"], counts.values().sum::<u64>(), "{counts:?}");
    let said: Vec<Value> = node.json(&["task", "list", "--state", "dead"]).unwrap();
    assert_eq!(said, Vec::<Value>::new());
}
