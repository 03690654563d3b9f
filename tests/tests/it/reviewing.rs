//! Deciding from the command line: finding, showing, single keys, and what is said afterwards.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use colony_tests::{Finished, Folder, Node, command, eventually, run_within};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::Value;

/// For a node on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);
const RISKY: &str = "please drop the production database";

/// Hands tickets in and waits for their questions, which come back in the order of the tickets.
fn asked(node: &Node, texts: &[&str]) -> Vec<Value> {
    let ids: Vec<String> = texts
        .iter()
        .map(|text| {
            let submitted = node.json(&["submit", text]).unwrap().remove(0);
            submitted["task_id"].as_str().unwrap().to_owned()
        })
        .collect();
    let questions = || -> Vec<Value> {
        let open = node.json(&["approve", "list"]).unwrap();
        let of = |id: &String| open.iter().find(|q| q["task_id"] == id.as_str()).cloned();
        ids.iter().filter_map(of).collect()
    };
    eventually("all questions", SOON, || Ok(questions().len() == ids.len())).unwrap();
    questions()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// A command as it prints on a terminal of 80 columns.
fn at_80_columns(node: &Node, args: &[&str]) -> Finished {
    let mut command = command(args).unwrap();
    command
        .args(["--address", node.address()])
        .env("COLUMNS", "80");
    run_within(SOON, command).unwrap()
}

#[test]
fn questions_are_found_shown_and_accepted_but_no_risky_one_by_accident() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let long = format!("the printer on floor 3 {}", "is out of paper ".repeat(20));
    let questions = asked(&node, &[RISKY, "my password is lost", &long]);
    let id = |at: usize| text(&questions[at], "id");

    let listed = at_80_columns(&node, &["approve", "list"]).good().unwrap();
    assert_eq!(listed.stdout.lines().count(), 4, "{}", listed.stdout);
    for line in listed.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
    }
    let totals = "3 questions: 2 new, 1 risky; the oldest was asked";
    assert!(listed.stderr.contains(totals), "{}", listed.stderr);
    // What the first column shows is enough for every command.
    for row in listed.stdout.lines().skip(1) {
        let short = row.split(' ').next().unwrap();
        assert!(short.len() < 36, "{row:?}");
        let shown = node.json(&["approve", "show", short]).unwrap().remove(0);
        assert!(text(&shown, "id").starts_with(short));
        let task = node
            .json(&["task", "get", text(&shown, "task_id")])
            .unwrap();
        assert_eq!(task[0]["question"]["id"], shown["id"]);
    }
    let found = |args: &[&str]| {
        let found = node.json(&[&["approve", "list"], args].concat()).unwrap();
        found
            .iter()
            .map(|q| text(q, "id").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&["--reason", "risky"]), [id(0)]);
    assert_eq!(found(&["--search", "PRINTER"]), [id(2)]);
    assert!(found(&["--older-than", "1d"]).is_empty());
    let unknown = node.run(&["approve", "list", "--type", "nosuch"]).unwrap();
    assert_eq!(unknown.code, Some(5), "{}", unknown.stderr);

    let shown = at_80_columns(&node, &["approve", "show", id(2)])
        .good()
        .unwrap();
    assert!(
        shown.stdout.contains(long.trim()),
        "the whole text: {}",
        shown.stdout
    );
    let risky = node.json(&["approve", "show", id(0)]).unwrap().remove(0);
    let words = text(&risky["evidence"]["findings"][0], "words");
    assert!(words.contains("database"), "{risky}");

    let several = ["approve", "accept", id(0), id(1), "--label", "access"];
    let refused = node.run(&several).unwrap();
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("is risky and was left out"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stdout.contains("decided as access"),
        "{}",
        refused.stdout
    );
    assert!(
        refused.stdout.contains("is done: access"),
        "{}",
        refused.stdout
    );
    let filter = ["approve", "accept", "--type", "triage", "--label", "acces"];
    let typo = node.run(&filter).unwrap();
    assert_eq!(typo.code, Some(4), "{}", typo.stderr);
    assert!(
        typo.stderr.contains("did you mean \"access\"?"),
        "{}",
        typo.stderr
    );
    let new = [&filter[..], &["--new-label"]].concat();
    let accepted = node.run(&new).unwrap().good().unwrap();
    assert!(
        accepted.stderr.contains("1 risky left out"),
        "{}",
        accepted.stderr
    );
    assert_eq!(found(&[]), [id(0)]);
    // Nothing at all was accepted: that is no success.
    let none = node.run(&new).unwrap();
    assert_eq!(none.code, Some(4), "{}", none.stderr);
    assert!(none.stderr.contains("1 risky left out"), "{}", none.stderr);

    let by = |who: &str| node.run(&["approve", "reject", id(0), "--reason", "no", "--by", who]);
    let rejected = by("ann").unwrap().good().unwrap();
    let became = "is failed: rejected by ann: no";
    assert!(rejected.stdout.contains(became), "{}", rejected.stdout);
    let lost = by("bob").unwrap();
    assert_eq!(lost.code, Some(4), "{}", lost.stderr);
    for part in ["decided by ann", "rejected by ann", became] {
        assert!(lost.stderr.contains(part), "{part}: {}", lost.stderr);
    }
}

#[test]
fn an_id_that_is_malformed_unknown_or_shared_has_its_own_error() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let questions = asked(&node, &["my password is lost", "the screen is broken"]);
    let shared = &text(&questions[0], "id")[..4];
    let commands: [&[&str]; 6] = [
        &["approve", "show"],
        &["approve", "accept"],
        &["approve", "reject"],
        &["task", "get"],
        &["task", "cancel"],
        &["task", "revive"],
    ];
    for command in commands {
        for (id, code, said) in [
            ("xyz", 2, "not the beginning of an id"),
            ("ffff", 5, "begins with ffff"),
            ("ffffffff-ffff-7fff-bfff-ffffffffffff", 5, "no "),
            (shared, 2, "more than one"),
        ] {
            let ended = node.run(&[command, &[id]].concat()).unwrap();
            assert_eq!(ended.code, Some(code), "{command:?} {id}: {}", ended.stderr);
            assert!(
                ended.stderr.contains(said),
                "{command:?} {id}: {}",
                ended.stderr
            );
        }
    }
}

/// A command on a terminal of 80 columns.
struct Terminal {
    child: Child,
    master: File,
    said: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(node: &Node, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            let name = name.to_str().unwrap();
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(name)
                .unwrap()
        };
        let mut command = command(args).unwrap();
        command
            .args(["--address", node.address()])
            .env_remove("COLUMNS");
        command
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()));
        let child = command.spawn().unwrap();
        let master = File::from(master);
        let said = Arc::new(Mutex::new(String::new()));
        let (mut reader, heard) = (master.try_clone().unwrap(), Arc::clone(&said));
        // Ends with the terminal.
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                heard.lock().unwrap().push_str(&text);
            }
        });
        Self {
            child,
            master,
            said,
        }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Presses keys and waits until `text` has been said since.
    fn press(&mut self, keys: &str, text: &str) {
        let before = self.said().len();
        self.master.write_all(keys.as_bytes()).unwrap();
        self.until(before, text);
    }

    fn until(&self, after: usize, text: &str) {
        let waited = eventually(text, SOON, || Ok(self.said()[after..].contains(text)));
        waited.unwrap_or_else(|error| panic!("{error}:\n{}", self.said()));
    }

    fn end(mut self) -> (Option<i32>, String) {
        eventually("the end", SOON, || Ok(self.child.try_wait()?.is_some())).unwrap();
        (self.child.wait().unwrap().code(), self.said())
    }
}

#[test]
fn a_review_decides_with_single_keys_and_takes_the_last_decision_back() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let texts = ["my password is lost", "the screen is broken", RISKY];
    let questions = asked(&node, &texts);
    let mut terminal = Terminal::open(&node, &["approve", "review", "--by", "ann"]);
    terminal.until(0, texts[0]);
    terminal.press("laccess\r", texts[1]);
    terminal.press("u", "undone");
    terminal.press("rno\r", texts[1]);
    // The decision that was taken back was never sent: this one is.
    terminal.press("lhardware\r", "rejected by ann: no");
    terminal.press("a", "press y");
    terminal.press("n", "not accepted");
    terminal.press("q", "is done: hardware");
    let (code, said) = terminal.end();
    assert_eq!(code, Some(0), "{said}");
    for line in said.split(['\n', '\r']) {
        let shown = line.trim_start_matches("\u{1b}[K");
        assert!(!shown.starts_with("error"), "{said}");
    }
    let left = node.json(&["approve", "list"]).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["id"], questions[2]["id"]);
    // Ctrl-C drops what is held.
    let mut terminal = Terminal::open(&node, &["approve", "review"]);
    terminal.until(0, texts[2]);
    terminal.press("r\r", "that was the last one");
    terminal.press("\u{3}", "was not sent");
    terminal.end();
    assert_eq!(node.json(&["approve", "list"]).unwrap().len(), 1);
    // Without a terminal it says what it needs.
    let refused = node.run(&["approve", "review"]).unwrap();
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}
