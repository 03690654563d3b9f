//! What docs/reference/cli.md says of `--json`, against what the binary prints.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use colony_tests::{Checkout, Folder, Node, command, eventually, run};
use serde_json::Value;

/// For a few tasks on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

type Keys = BTreeSet<String>;

/// The table of the page: a command without its arguments, as `task get --journal`, and its keys.
fn documented() -> BTreeMap<String, Keys> {
    let page = Checkout::here()
        .unwrap()
        .text("docs/reference/cli.md")
        .unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `colony "));
    let mut table: BTreeMap<String, Keys> = BTreeMap::new();
    for row in rows {
        let [_, command, keys, _] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        // Of a command that prints several objects the first one's.
        let keys = keys.split(';').next().unwrap();
        let mut found = Keys::new();
        for key in keys.split('`').skip(1).step_by(2) {
            match key.strip_prefix("colony ") {
                Some(other) => found.extend(table[&name(other)].clone()),
                None => {
                    found.insert(key.to_owned());
                }
            }
        }
        let command = command
            .trim()
            .trim_matches('`')
            .strip_prefix("colony ")
            .unwrap();
        table.insert(name(command), found);
    }
    table
}

fn name(command: &str) -> String {
    let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let words: Vec<&str> = command.split(' ').filter(is_word).collect();
    words.join(" ")
}

/// Compares what commands print with the page, and remembers which of its rows were looked at.
struct Page {
    documented: BTreeMap<String, Keys>,
    seen: BTreeSet<String>,
}

impl Page {
    fn check(&mut self, name: &str, printed: &[Value]) {
        let expected = &self.documented[name];
        assert!(!printed.is_empty(), "{name} printed nothing");
        let keys: Keys = printed[0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(&keys, expected, "colony {name}");
        self.seen.insert(name.to_owned());
    }
}

/// What a command that goes on prints first.
fn first_of(node: &Node, args: &[&str]) -> Vec<Value> {
    let mut command = command(args).unwrap();
    command.args(["--json", "--address", node.address()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    vec![serde_json::from_str(&line).unwrap()]
}

#[test]
fn the_keys_of_json_are_those_of_the_page() {
    let mut page = Page {
        documented: documented(),
        seen: BTreeSet::new(),
    };
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let of_node = |args: &[&str]| node.json(args).unwrap();
    let alone = |args: &[&str]| {
        let args = [args, &["--json"]].concat();
        run(&args).unwrap().good().unwrap().json().unwrap()
    };
    page.check(
        "submit --wait",
        &of_node(&["submit", "--type", "echo", "--wait", "hello"]),
    );
    let submitted = of_node(&["submit", "The printer on floor 3 is out of paper"]);
    page.check("submit", &submitted);
    let id = submitted[0]["task_id"].as_str().unwrap();
    let second = of_node(&["submit", "My password has expired"]);
    let second = second[0]["task_id"].as_str().unwrap();
    let questions = || of_node(&["approve", "list"]);
    eventually("two questions", SOON, || Ok(questions().len() == 2)).unwrap();
    page.check("approve list", &questions());
    let asked = questions()[0]["id"].as_str().unwrap().to_owned();
    page.check("approve show", &of_node(&["approve", "show", &asked]));
    page.check("task list", &of_node(&["task", "list"]));
    let of = |task: &str| {
        let asked = questions();
        let question = asked
            .iter()
            .find(|question| question["task_id"] == task)
            .unwrap();
        question["id"].as_str().unwrap().to_owned()
    };
    page.check(
        "approve accept",
        &of_node(&["approve", "accept", &of(id), "--label", "printing"]),
    );
    page.check(
        "approve reject",
        &of_node(&["approve", "reject", &of(second)]),
    );
    page.check(
        "task watch",
        &of_node(&["task", "watch", "--until-ended", id, second]),
    );
    page.check("task get", &of_node(&["task", "get", id]));
    page.check(
        "task get --journal",
        &of_node(&["task", "get", "--journal", id]),
    );
    page.check(
        "task feedback",
        &of_node(&["task", "feedback", id, "printing"]),
    );
    let third = of_node(&["submit", "The screen of my laptop is broken"]);
    let third = third[0]["task_id"].as_str().unwrap();
    eventually("a third question", SOON, || Ok(!questions().is_empty())).unwrap();
    page.check("task cancel", &of_node(&["task", "cancel", third]));
    page.check("task revive", &of_node(&["task", "revive", third]));
    page.check("approve watch", &first_of(&node, &["approve", "watch"]));
    page.check("agent list", &of_node(&["agent", "list"]));
    page.check("agent get", &of_node(&["agent", "get", "triage/1"]));
    let filed = || of_node(&["outbox", "list"]);
    eventually("a filed ticket", SOON, || Ok(!filed().is_empty())).unwrap();
    page.check("outbox list", &filed());
    let message = filed()[0]["id"].as_str().unwrap().to_owned();
    page.check("outbox ack", &of_node(&["outbox", "ack", &message]));
    page.check("field sense", &of_node(&["field", "sense"]));
    page.check("model list", &of_node(&["model", "list"]));
    page.check("model test", &of_node(&["model", "test", "minilm"]));
    page.check("status", &of_node(&["status"]));
    page.check("ledger verify", &of_node(&["ledger", "verify"]));
    let texts = folder
        .file(
            "texts.jsonl",
            "{\"text\": \"drop table customers\", \"risky\": true}",
        )
        .unwrap();
    let texts = texts.display().to_string();
    let echo = "inference.engine=echo";
    page.check(
        "risk eval",
        &alone(&["risk", "eval", &texts, "--set", echo]),
    );
    page.check(
        "model pull --dry-run",
        &alone(&["model", "pull", "--dry-run"]),
    );
    page.check("config show", &alone(&["config", "show"]));
    page.check(
        "config check",
        &alone(&["config", "check", "--set", "inference.engine=echo"]),
    );
    page.check(
        "config explain",
        &alone(&["config", "explain", "market.sample"]),
    );
    let init = folder.path().join("colony.toml");
    page.check(
        "config init",
        &alone(&["config", "init", init.to_str().unwrap()]),
    );
    page.check("explain", &alone(&["explain", "CLY0001"]));
    let workload = Checkout::here()
        .unwrap()
        .root()
        .join("sim/workloads/quickstart.toml");
    page.check(
        "sim run",
        &alone(&["sim", "run", workload.to_str().unwrap()]),
    );
    page.check("sim fuzz", &alone(&["sim", "fuzz", "--seeds", "1"]));
    page.check(
        "demo",
        &alone(&[
            "demo", "--engine", "echo", "--count", "20", "--agents", "20",
        ]),
    );
    let events = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let events = events.filter(|path| path.extension().is_some_and(|end| end == "out"));
    for out in events {
        let ready = fs::read_to_string(out).unwrap();
        page.check(
            "node",
            &[serde_json::from_str(ready.lines().next().unwrap()).unwrap()],
        );
    }
    let rows: BTreeSet<String> = page.documented.keys().cloned().collect();
    assert_eq!(
        page.seen, rows,
        "rows of the page that nothing was compared with"
    );
}
