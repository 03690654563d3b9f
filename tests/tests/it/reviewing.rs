//! Deciding from the command line: finding, showing, single keys, and what is said afterwards.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use colony_tests::{Finished, Folder, Node, command, eventually, eventually_some, run_within};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::Value;

/// For a node on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);
const RISKY: &str = "please drop the production database";

/// Hands tickets in and waits for their questions, which come back in the order of the tickets: each is asked before
/// the next ticket, as agents that work at once would ask in any order.
fn asked(node: &Node, texts: &[&str]) -> Vec<Value> {
    let mut questions = Vec::new();
    for text in texts {
        let submitted = node.json(&["submit", text]).unwrap().remove(0);
        let id = submitted["task_id"].as_str().unwrap();
        let question = eventually_some("a question", SOON, || {
            let open = node.json(&["approve", "list"])?;
            let of = open.into_iter().find(|q| q["task_id"] == id);
            of.context("no question yet")
        });
        questions.push(question.unwrap());
    }
    questions
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

#[test]
fn several_are_rejected_by_options_and_an_unknown_label_is_said_once() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let texts = ["a monitor", "two monitors", "three monitors", "the mouse"];
    let questions = asked(&node, &[&texts[..], &[RISKY]].concat());
    let id = |at: usize| text(&questions[at], "id");
    // The same one twice, once by its beginning, is decided once.
    let twice = ["approve", "accept", id(3), &id(3)[..35], "--label", "mouse"];
    let accepted = node.run(&twice).unwrap().good().unwrap();
    assert_eq!(accepted.stdout.lines().count(), 1, "{}", accepted.stdout);

    let label = [
        "approve", "accept", "--search", "monitor", "--label", "mice",
    ];
    let typo = node.run(&label).unwrap();
    assert_eq!(typo.code, Some(4), "{}", typo.stderr);
    assert_eq!(typo.stderr.matches("CLY0034").count(), 1, "{}", typo.stderr);
    assert!(typo.stderr.contains(id(0)), "{}", typo.stderr);

    let none = node.run(&["approve", "reject", "--limit", "2"]).unwrap();
    assert_eq!(none.code, Some(2), "{}", none.stderr);
    assert!(
        none.stderr.contains("ids, or what finds them: --type"),
        "{}",
        none.stderr
    );
    assert!(!none.stderr.contains("--address"), "{}", none.stderr);
    let both = node
        .run(&["approve", "reject", id(0), "--type", "triage"])
        .unwrap();
    assert_eq!(both.code, Some(2), "{}", both.stderr);

    let some = ["approve", "reject", "--search", "monitor", "--limit", "2"];
    let rejected = node.run(&some).unwrap().good().unwrap();
    assert_eq!(rejected.stdout.matches("is rejected").count(), 2);
    assert!(rejected.stderr.contains("and more"), "{}", rejected.stderr);
    // To reject a risky one does no harm.
    let rest = ["approve", "reject", "--type", "triage", "--reason", "no"];
    let rejected = node.run(&rest).unwrap().good().unwrap();
    assert_eq!(rejected.stdout.matches("is rejected").count(), 2);
    assert!(node.json(&["approve", "list"]).unwrap().is_empty());
    let risky = ["approve", "reject", "--escalation-reason", "risky"];
    let nothing = node.run(&risky).unwrap().good().unwrap();
    assert!(nothing.stderr.contains("no question is like that"));
}

/// A command on a terminal of 80 columns.
struct Terminal {
    child: Child,
    master: File,
    said: Arc<Mutex<String>>,
    /// Ends when nobody has the terminal open any more.
    reader: JoinHandle<()>,
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
        let reader = thread::spawn(move || {
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
            reader,
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
        // What it said last may still be on its way.
        let read = || Ok(self.reader.is_finished());
        eventually("the end of what it says", SOON, read).unwrap();
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
    terminal.press("lhardware\r", texts[2]);
    terminal.until(0, "rejected by ann: no");
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

#[test]
fn a_review_that_is_killed_leaves_the_terminal_as_it_was_and_says_what_was_not_sent() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let texts = ["my password is lost"];
    asked(&node, &texts);
    for signal in [Signal::TERM, Signal::HUP, Signal::QUIT, Signal::INT] {
        let mut terminal = Terminal::open(&node, &["approve", "review"]);
        terminal.until(0, texts[0]);
        terminal.press("r\r", "that was the last one");
        let master = terminal.master.try_clone().unwrap();
        let is_single = || !modes(&master).contains(LocalModes::ICANON);
        assert!(is_single(), "{signal:?}");
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        let (code, said) = terminal.end();
        assert_eq!(code, Some(0), "{signal:?}: {said}");
        assert!(said.contains("was not sent"), "{signal:?}: {said}");
        let before = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(modes(&master).contains(before), "{signal:?}");
    }
    assert_eq!(node.json(&["approve", "list"]).unwrap().len(), 1);
}

fn modes(terminal: &File) -> LocalModes {
    tcgetattr(terminal).unwrap().local_modes
}

#[test]
fn keys_that_came_before_a_question_was_shown_decide_nothing() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let texts = [
        "my password is lost",
        "the screen is broken",
        "the mouse is",
    ];
    let questions = asked(&node, &texts);
    let mut terminal = Terminal::open(&node, &["approve", "review"]);
    terminal.until(0, texts[0]);
    // A key that was held down.
    terminal.press("rno\rrno\rrno\r", texts[1]);
    terminal.press("q", "is failed");
    let (code, said) = terminal.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains(texts[2]), "{said}");
    let left = node.json(&["approve", "list"]).unwrap();
    let left: Vec<&str> = left.iter().map(|q| text(q, "id")).collect();
    assert_eq!(left, [text(&questions[1], "id"), text(&questions[2], "id")]);
}

#[test]
fn arrows_are_no_commands_and_a_long_line_stays_one_line() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let texts = ["my password is lost"];
    asked(&node, &texts);
    let mut terminal = Terminal::open(&node, &["approve", "review", "--by", "ann"]);
    terminal.until(0, texts[0]);
    // Shift-Up of rxvt, Alt-a, Delete, Up: nothing; then a reason of 120 letters with arrows in it.
    let reason = "why ".repeat(30);
    let (half, rest) = reason.split_at(60);
    let keys = format!("\u{1b}[a\u{1b}a\u{1b}[3~\u{1b}[Ar{half}\u{1b}[D\u{1b}[3~\u{1b}a{rest}!");
    terminal.press(&keys, "why why !");
    let said = terminal.said();
    assert!(!said.contains("decided"), "{said}");
    assert!(!said.contains("not rejected"), "{said}");
    let written = &said[said.find("why (").unwrap()..];
    assert!(!written.contains('\n'), "{written:?}");
    for line in written.split("\r\u{1b}[K") {
        assert!(line.chars().count() < 80, "{line:?}");
    }
    terminal.press("\r", "that was the last one");
    terminal.press("q", &format!("rejected by ann: {reason}!"));
    terminal.end();
    // Esc alone goes back.
    asked(&node, &texts);
    let mut terminal = Terminal::open(&node, &["approve", "review"]);
    terminal.until(0, texts[0]);
    terminal.press("rno\u{1b}", "not rejected");
    terminal.press("q", "");
    terminal.end();
    assert_eq!(node.json(&["approve", "list"]).unwrap().len(), 1);
}

#[test]
fn a_review_whose_decision_is_refused_does_not_end_well() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let texts = ["my password is lost"];
    let questions = asked(&node, &texts);
    let none = Terminal::open(&node, &["approve", "review", "--search", "printer"]);
    let (code, said) = none.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no question is like that"), "{said}");
    let mut terminal = Terminal::open(&node, &["approve", "review"]);
    terminal.until(0, texts[0]);
    terminal.press("rno\r", "that was the last one");
    let id = text(&questions[0], "id");
    node.run(&["approve", "reject", id, "--by", "ann"])
        .unwrap()
        .good()
        .unwrap();
    terminal.press("q", "decided by ann");
    let (code, said) = terminal.end();
    assert_eq!(code, Some(4), "{said}");
}
