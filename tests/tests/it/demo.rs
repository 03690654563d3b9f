//! The demo as a newcomer runs it, with the engine that needs no model, and with models where they can be.

use std::{
    fs::File,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use colony_tests::{Folder, command, eventually, offline, run_within, skipped};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// What the README promises for the whole demo; a small one takes seconds.
const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// What a script reads from `--json`.
const FIELDS: [&str; 22] = [
    "/engine",
    "/tickets",
    "/agents",
    "/states/done",
    "/all_ended",
    "/conserved",
    "/learning/accuracy_by_decile",
    "/learning/share_escalated",
    "/test/accuracy",
    "/test/share_escalated_in_scope",
    "/test/out_of_scope_recall",
    "/risky_caught",
    "/models/model_calls",
    "/models/memory_accuracy",
    "/models/model_accuracy",
    "/models/prompt_tokens",
    "/models/mean_batch_embed",
    "/speed/tasks_per_s",
    "/speed/latency_p50_ms",
    "/speed/latency_p99_ms",
    "/fairness",
    "/peak_rss_bytes",
];

/// Runs a demo to its end and gives its figures.
fn demo(args: &[&str]) -> Value {
    let mut all = vec!["demo", "--json"];
    all.extend(args);
    let ended = run_within(FIVE_MINUTES, command(&all).unwrap())
        .unwrap()
        .good()
        .unwrap();
    let mut lines = ended.json().unwrap();
    assert_eq!(lines.len(), 1, "one object: {}", ended.stdout);
    lines.remove(0)
}

fn assert_whole(figures: &Value, tickets: usize) {
    for field in FIELDS {
        assert!(figures.pointer(field).is_some(), "no {field} in {figures}");
    }
    assert_eq!(figures["tickets"], tickets, "{figures}");
    assert_eq!(figures["all_ended"], true, "{figures}");
    assert_eq!(figures["conserved"], true, "{figures}");
    assert_eq!(
        figures["learning"]["accuracy_by_decile"]
            .as_array()
            .map(Vec::len),
        Some(10)
    );
}

#[test]
fn the_demo_runs_without_models_and_prints_every_figure() {
    let figures = demo(&["--engine", "echo", "--count", "200"]);
    assert_whole(&figures, 200);
    assert_eq!(figures["engine"], "echo");
    assert_eq!(figures["agents"], 1_000);
    assert_eq!(figures["incarnation"], 1);
}

#[test]
fn the_demo_prints_a_table_for_people() {
    let args = [
        "demo", "--engine", "echo", "--count", "60", "--agents", "50",
    ];
    let ended = run_within(FIVE_MINUTES, command(&args).unwrap())
        .unwrap()
        .good()
        .unwrap();
    for word in ["tickets/s", "human", "memory"] {
        assert!(
            ended.stdout.contains(word),
            "no {word:?} in {}",
            ended.stdout
        );
    }
}

#[test]
fn the_demo_takes_anybodys_tickets() {
    let folder = Folder::new().unwrap();
    let mut text = String::new();
    for n in 0..60 {
        let (label, what) = [("printing", "printer"), ("network", "router")][n % 2];
        let split = if n < 40 { "train" } else { "test" };
        text.push_str(&format!(
            "{{\"text\":\"the {what} in room {n} is broken\",\"label\":\"{label}\",\"split\":\"{split}\"}}\n"
        ));
    }
    text.push_str("{\"text\":\"no label and no split\"}\n");
    let file = folder.file("tickets.jsonl", &text).unwrap();
    let figures = demo(&["--engine", "echo", "--tasks", file.to_str().unwrap()]);
    assert_whole(&figures, 61);
    assert_eq!(figures["learning"]["labelled"], 40);
    assert_eq!(figures["test"]["in_scope"], 20);
}

#[test]
fn a_demo_on_bad_tickets_names_the_line() {
    let folder = Folder::new().unwrap();
    for (text, word) in [
        ("{\"text\":\"good\"}\n{\"text\":7}\n", "line 2"),
        ("{\"text\":\"good\"}\nno json\n", "line 2"),
        ("{\"text\":\"good\",\"split\":\"exam\"}\n", "line 1"),
        ("", "no ticket"),
    ] {
        let file = folder.file("bad.jsonl", text).unwrap();
        let args = [
            "demo",
            "--engine",
            "echo",
            "--tasks",
            file.to_str().unwrap(),
        ];
        let ended = run_within(FIVE_MINUTES, command(&args).unwrap()).unwrap();
        assert_eq!(ended.code, Some(2), "{text:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{text:?}: {}", ended.stderr);
    }
}

/// A demo in the background, killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn in_background(folder: &Folder, args: &[&str]) -> Running {
    let log = File::create(folder.path().join("demo.log")).unwrap();
    let out = File::create(folder.path().join("demo.out")).unwrap();
    let child = command(args)
        .unwrap()
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

/// Tickets that have ended, as the ledger says; 0 while there is none.
fn ended(data: &Path) -> i64 {
    let path = data.join("colony.db");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let count = |ledger: Connection| {
        ledger.query_row("SELECT COUNT(*) FROM finished", [], |row| row.get(0))
    };
    ledger.and_then(count).unwrap_or(0)
}

#[test]
fn a_demo_killed_in_the_middle_goes_on_where_it_was() {
    let folder = Folder::new().unwrap();
    let data = folder.path().join("data");
    let dir = data.to_str().unwrap();
    let args = ["--engine", "echo", "--count", "1500", "--data-dir", dir];
    for life in 1..=3 {
        let mut all = vec!["demo", "--json"];
        all.extend(args);
        let before = ended(&data);
        let mut running = in_background(&folder, &all);
        eventually("some work in the ledger", FIVE_MINUTES, || {
            let left = running.0.try_wait()?.is_some();
            Ok(left || ended(&data) > before + 100)
        })
        .unwrap();
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        assert!(
            data.join("colony.db").is_file(),
            "life {life} left its ledger"
        );
    }
    let figures = demo(&args);
    assert_whole(&figures, 1_500);
    assert!(figures["incarnation"].as_u64() > Some(1), "{figures}");
}

#[test]
fn the_demo_with_models_learns() {
    if offline() {
        skipped("COLONY_OFFLINE is set");
        return;
    }
    let figures = demo(&["--count", "400", "--agents", "200"]);
    assert_whole(&figures, 400);
    assert_eq!(figures["engine"], "ort");
    let deciles = figures["learning"]["accuracy_by_decile"]
        .as_array()
        .unwrap();
    let decile = |n: usize| deciles[n].as_f64().unwrap();
    let late = (decile(7) + decile(8) + decile(9)) / 3.0;
    assert!(late > decile(0), "no rising curve: {deciles:?}");
    let peak = figures["peak_rss_bytes"].as_u64().unwrap();
    assert!(peak < 2 << 30, "{peak} bytes at the peak");
}

#[test]
fn without_pip_the_demo_says_so_in_one_line() {
    let folder = Folder::new().unwrap();
    let mut command = command(&["demo", "--count", "10"]).unwrap();
    // An empty home, and a path without python.
    command
        .env("COLONY_HOME", folder.path().join("home"))
        .env("PATH", folder.path());
    command.env_remove("COLONY_OFFLINE");
    let ended = run_within(FIVE_MINUTES, command).unwrap();
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("--engine echo"),
        "the way out: {}",
        ended.stderr
    );
    let lines = ended
        .stderr
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    assert!(lines <= 3, "{lines} lines: {}", ended.stderr);
}
