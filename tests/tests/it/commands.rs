//! What the command line promises, where only the real binary can show it.

use std::{fs, net::TcpListener, process::Stdio, time::Duration};

use colony_tests::{Folder, Node, command, eventually, run, run_within};

/// For a command against a node of this machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

#[test]
fn submit_waits_for_a_node_that_is_away() {
    let folder = Folder::new().unwrap();
    // A port that was free a moment ago.
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let said = folder.path().join("submit.log");
    let ids = folder.path().join("submit.ids");
    let args = ["submit", "--address", &address, "--type", "echo", "hello"];
    let mut submit = command(&args)
        .unwrap()
        .args(["--retry-for", "2m"])
        .stdout(fs::File::create(&ids).unwrap())
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    eventually("the note that nobody answers", SOON, || {
        Ok(fs::read_to_string(&said)?.contains("trying again"))
    })
    .unwrap();
    let node = Node::start_at(&folder, &address, &[]).unwrap();
    eventually("the end of the submit", SOON, || {
        Ok(submit.try_wait()?.is_some())
    })
    .unwrap();
    let status = submit.wait().unwrap();
    assert!(status.success(), "{}", fs::read_to_string(&said).unwrap());
    let id = fs::read_to_string(&ids).unwrap();
    let task = node.json(&["task", "get", id.trim()]).unwrap().remove(0);
    assert_eq!(task["input"], "hello");
}

#[test]
fn a_port_that_says_nothing_is_given_up() {
    // Connections wait in its backlog, and nobody takes them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let args = [
        "submit",
        "hello",
        "--retry-for",
        "3s",
        "--address",
        &address,
    ];
    let ended = run(&args).unwrap();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("no answer within"),
        "{}",
        ended.stderr
    );
}

/// A configuration with a mistake of every sort: the keys, and the lines on which they stand.
const MISTAKES: &str = r#"
[market]
sampel = 8
sample = 0
[roster]
step_timeout = 30
[agents.mine]
kind = "ehco"
[models.mine]
kind = "embed"
source = "/no/such/folder"
[telemetry]
log = "inof"
[[risk.patterns]]
name = "fire"
why = "burns"
all = [["fire"]]
"#;

#[test]
fn config_check_finds_everything_in_one_go() {
    let folder = Folder::new().unwrap();
    let file = folder.file("colony.toml", MISTAKES).unwrap();
    let home = folder.path().join("home");
    let check = |more: &[&str]| {
        let args = ["config", "check", "--config", file.to_str().unwrap()];
        let mut command = command(&args).unwrap();
        command.args(more).env("COLONY_HOME", &home);
        run_within(SOON, command).unwrap()
    };
    let json = check(&["--json"]);
    assert_eq!(json.code, Some(2), "{}", json.stderr);
    let said = json.json().unwrap().remove(0);
    assert_eq!(said["ok"], false);
    let mut found: Vec<(String, String, Option<u64>)> = Vec::new();
    for problem in said["problems"].as_array().unwrap() {
        let text = |key: &str| problem[key].as_str().unwrap().to_owned();
        if !problem["line"].is_null() {
            assert_eq!(text("file"), file.to_str().unwrap());
        }
        found.push((text("severity"), text("key"), problem["line"].as_u64()));
    }
    let expected = [
        ("error", "market.sampel", Some(3)),
        ("error", "market.sample", Some(4)),
        ("error", "roster.step_timeout", Some(6)),
        ("error", "agents.mine.kind", Some(8)),
        ("error", "models.mine.source", Some(11)),
        ("error", "telemetry.log", Some(13)),
        ("warning", "risk.patterns", Some(14)),
        ("warning", "models.minilm.source", None),
        ("warning", "models.smollm2.source", None),
        ("warning", "inference.home", None),
    ];
    for (severity, key, line) in expected {
        let wanted = (severity.to_owned(), key.to_owned(), line);
        assert!(found.contains(&wanted), "{wanted:?} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    let text = check(&[]);
    assert_eq!(text.code, Some(2));
    for (severity, key, _) in expected {
        let line = text
            .stdout
            .lines()
            .find(|line| line.contains(&format!("{key}: ")));
        let line = line.unwrap_or_else(|| panic!("{key} is not in:\n{}", text.stdout));
        assert!(line.starts_with(severity), "{line}");
    }
    assert!(
        text.stderr.contains("6 errors, 4 warnings"),
        "{}",
        text.stderr
    );
    // A node is told the same before it starts, but for the files.
    let node = run(&["node", "--config", file.to_str().unwrap()]).unwrap();
    assert_eq!(node.code, Some(2));
    for key in ["market.sampel", "agents.mine.kind", "telemetry.log"] {
        assert!(node.stderr.contains(key), "{key}: {}", node.stderr);
    }
}

#[test]
fn config_check_names_the_line_that_is_no_toml() {
    let folder = Folder::new().unwrap();
    let file = folder.file("colony.toml", "[node]\nid = \n").unwrap();
    let args = [
        "config",
        "check",
        "--json",
        "--config",
        file.to_str().unwrap(),
    ];
    let ended = run(&args).unwrap();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let problem = &ended.json().unwrap()[0]["problems"][0];
    assert_eq!(problem["line"], 2, "{problem}");
    assert_eq!(problem["key"], serde_json::Value::Null, "{problem}");
}

#[test]
fn a_hangup_does_not_end_a_node_and_its_log_tells_its_life() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &["--log-format", "json"]).unwrap();
    let file = folder
        .file("many.jsonl", &"{\"text\":\"hello\"}\n".repeat(50))
        .unwrap();
    let submit = [
        "submit",
        "--type",
        "echo",
        "--wait",
        "--file",
        file.to_str().unwrap(),
    ];
    node.run(&submit).unwrap().good().unwrap();
    node.signal("HUP").unwrap();
    eventually("the line about SIGHUP", SOON, || {
        Ok(node.log().contains("SIGHUP"))
    })
    .unwrap();
    node.run(&["status"]).unwrap().good().unwrap();
    let (log, address) = (node.log_file().to_owned(), node.address().to_owned());
    assert!(node.stop().unwrap().success());
    let log = fs::read_to_string(log).unwrap();
    let mut told = Vec::new();
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        let message = line["fields"]["message"].as_str().unwrap().to_owned();
        if message == "node ready" {
            assert_eq!(line["fields"]["address"], address.as_str(), "{line}");
        }
        told.push(message);
    }
    let expected = [
        "model loaded",
        "model loaded",
        "node ready",
        "SIGHUP",
        "node stopping",
        "node stopped",
    ];
    assert_eq!(
        told.len(),
        expected.len(),
        "a line for each event of its life, none a task: {told:#?}"
    );
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told:?} is not {expected:?}");
    }
}

#[test]
fn a_log_in_a_file_has_no_colours() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    eventually("the ready line", SOON, || {
        Ok(node.log().contains("node ready"))
    })
    .unwrap();
    assert!(!node.log().contains('\u{1b}'), "{:?}", node.log());
}

/// What a terminal would obey rather than show.
fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\n')
}

fn accepted(node: &Node) -> u64 {
    let status = node.json(&["status"]).unwrap().remove(0);
    status["accepted"].as_u64().unwrap()
}

#[test]
fn submit_says_what_was_handed_in_when_its_output_goes_nowhere() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let file = folder
        .file(
            "three.jsonl",
            &"{\"text\":\"hello\",\"type\":\"echo\"}\n".repeat(3),
        )
        .unwrap();
    let file = file.to_str().unwrap();
    let submit = |stdout: Stdio, args: &[&str]| {
        let mut command = command(&["submit", "--address", node.address()]).unwrap();
        let child = command
            .args(args)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = child.wait_with_output().unwrap();
        (
            ended.status.code(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    };
    let full = || {
        Stdio::from(
            fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap(),
        )
    };
    // The reader of a pipe that has gone before the first id.
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let cases: [(Stdio, &[&str]); 4] = [
        (full(), &["--file", file, "--key", "a"]),
        (closed(), &["--file", file, "--key", "b"]),
        (full(), &["--file", file, "--key", "c", "--wait"]),
        (closed(), &["--file", file, "--key", "d", "--json"]),
    ];
    for (stdout, args) in cases {
        let before = accepted(&node);
        let (code, said) = submit(stdout, args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.contains("3 tasks were handed in"), "{args:?}: {said}");
        assert!(said.contains("standard output"), "{args:?}: {said}");
        assert_eq!(accepted(&node) - before, 3, "{args:?}");
    }
    let (code, said) = submit(closed(), &["--type", "echo", "one"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the task was handed in: "), "{said}");
}

#[test]
fn what_is_no_task_is_said_and_costs_little() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let submit = |name: &str, text: &str| {
        let file = folder.file(name, text).unwrap();
        node.run(&["submit", "--file", file.to_str().unwrap()])
            .unwrap()
    };
    let empty = submit("empty.jsonl", "\n\n");
    assert_eq!(empty.code, Some(0), "{}", empty.stderr);
    assert!(empty.stderr.contains("holds no tasks"), "{}", empty.stderr);
    let list = submit("list.jsonl", "[{\"text\":\"a\"},\n{\"text\":\"b\"}]\n");
    assert_eq!(list.code, Some(2), "{}", list.stderr);
    for part in [
        "list.jsonl, line 1: a list where an object",
        "nothing was handed in",
    ] {
        assert!(list.stderr.contains(part), "{}", list.stderr);
    }
    assert!(!list.stderr.contains("lines 1 to 0"), "{}", list.stderr);
    // 200 MB of zeros, with no room for them on the disk and none in the memory.
    let zeros = folder.path().join("zeros");
    fs::File::create(&zeros)
        .unwrap()
        .set_len(200_000_000)
        .unwrap();
    let zeros = zeros.to_str().unwrap();
    let readers: [&[&str]; 5] = [
        &["submit", "--address", node.address(), "--file", zeros],
        &["demo", "--engine", "echo", "--tasks", zeros],
        &["config", "check", "--config", zeros],
        &["node", "--config", zeros],
        &["sim", "run", zeros],
    ];
    for args in readers {
        let ended = run(args).unwrap();
        assert_eq!(ended.code, Some(2), "{args:?}: {:.200}", ended.stderr);
        let said = ended.stderr.len() + ended.stdout.len();
        assert!(said < 2_000, "{args:?} says {said} bytes");
    }
    assert_eq!(accepted(&node), 0);
}

#[test]
fn no_input_steers_the_terminal() {
    let evil = "e\u{1b}[2J\u{202e}\u{9b}31m\u{7}vil";
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let in_key = folder
        .file(
            "key.toml",
            &format!("[node]\n\"{}\" = 1\n", "e\\u001b[2J\\u202evil"),
        )
        .unwrap();
    let in_sim = folder
        .file(
            "sim.toml",
            &format!("\"{}\" = 1\n", "e\\u001b[2J\\u202evil"),
        )
        .unwrap();
    let lines = serde_json::json!({ "text": "a", evil: 1 }).to_string();
    let in_line = folder.file(&format!("{evil}.jsonl"), &lines).unwrap();
    let address = node.address();
    let cases: Vec<Vec<&str>> = vec![
        vec!["config", "check", "--config", in_key.to_str().unwrap()],
        vec!["config", "show", "--set", evil],
        vec!["config", "show", "--set", "node.id=\u{1b}[2J"],
        vec!["sim", "run", in_sim.to_str().unwrap()],
        vec!["sim", "run", evil],
        vec![
            "submit",
            "--address",
            address,
            "--file",
            in_line.to_str().unwrap(),
        ],
        vec!["submit", "--address", address, "--type", evil, "text"],
        vec!["submit", "--address", evil, "text"],
        vec![
            "submit",
            "--address",
            address,
            "--type",
            "echo",
            "--wait",
            evil,
        ],
        vec!["task", "get", "--address", address, evil],
        vec!["task", "list", "--address", address, "--state", evil],
        vec!["task", "list", "--address", address],
        vec!["task", "feedback", "--address", address, evil, evil],
        vec!["agent", "get", "--address", address, evil],
        vec!["model", "test", "--address", address, evil, evil],
        vec!["model", "pull", evil],
        vec!["demo", "--tasks", evil],
        vec![evil],
    ];
    for args in cases {
        for json in [&[][..], &["--json"]] {
            let ended = run(&[&args[..], json].concat()).unwrap();
            for said in [&ended.stdout, &ended.stderr] {
                assert!(!said.contains(steers), "{args:?} {json:?} says {said:?}");
            }
        }
    }
}

#[test]
fn a_name_that_nothing_has_is_an_error_that_names_what_there_is() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (
            &["task", "list", "--type", "nosuch"],
            5,
            "there are: echo, triage",
        ),
        (
            &["agent", "list", "--type", "nosuch"],
            5,
            "there are: echo, triage",
        ),
        (&["agent", "get", "nosuch/1"], 5, "there are: echo, triage"),
        (
            &["submit", "--type", "nosuch", "text"],
            5,
            "there are: echo, triage",
        ),
        (
            &["model", "test", "nosuch"],
            5,
            "there are: minilm, smollm2",
        ),
        (
            &["config", "show", "nosuch"],
            5,
            "there are: admission, agents, breaker, field",
        ),
        (
            &["task", "list", "--state", "nosuch"],
            2,
            "ready, claimed, waiting",
        ),
    ];
    for (args, code, said) in cases {
        let ended = node.run(args).unwrap();
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{args:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{args:?}");
    }
    // A type that is there and has nothing to show is none.
    node.run(&["task", "list", "--type", "echo"])
        .unwrap()
        .good()
        .unwrap();
}

#[test]
fn the_binary_explains_its_errors_and_settings_and_begins_a_configuration() {
    let page = run(&["explain", "cly0003"]).unwrap().good().unwrap();
    assert!(page.stdout.starts_with("# CLY0003: "), "{}", page.stdout);
    assert_eq!(run(&["explain", "CLY9999"]).unwrap().code, Some(2));
    let sample = run(&["config", "explain", "market.sample"])
        .unwrap()
        .good()
        .unwrap();
    assert!(
        sample.stdout.starts_with("market.sample = 8\n"),
        "{}",
        sample.stdout
    );
    let section = run(&["config", "explain", "market", "--json"])
        .unwrap()
        .good()
        .unwrap();
    assert!(section.json().unwrap().len() > 5, "{}", section.stdout);
    let nothing = run(&["config", "explain", "market.nothing"]).unwrap();
    assert_eq!(nothing.code, Some(5), "{}", nothing.stderr);
    let folder = Folder::new().unwrap();
    let file = folder.path().join("colony.toml");
    let init = ["config", "init", file.to_str().unwrap()];
    run(&init).unwrap().good().unwrap();
    let check = [
        "config",
        "check",
        "--set",
        "inference.engine=echo",
        "--config",
        file.to_str().unwrap(),
    ];
    run(&check).unwrap().good().unwrap();
    let written = fs::read(&file).unwrap();
    let again = run(&init).unwrap();
    assert_eq!(again.code, Some(2), "{}", again.stderr);
    assert_eq!(fs::read(&file).unwrap(), written);
}

#[test]
fn eighty_columns_are_enough_and_pipes_have_no_colours() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let long =
        "The printer on floor 3 is out of paper again and nobody knows where the paper is kept";
    node.run(&["submit", "--type", "echo", "--wait", long])
        .unwrap()
        .good()
        .unwrap();
    node.run(&["submit", long]).unwrap().good().unwrap();
    eventually("a question", SOON, || {
        Ok(!node.json(&["approve", "list"])?.is_empty())
    })
    .unwrap();
    let lists: [&[&str]; 7] = [
        &["status"],
        &["task", "list"],
        &["approve", "list", "--all"],
        &["agent", "list"],
        &["model", "list"],
        &["field", "sense"],
        &["config", "show"],
    ];
    for args in lists {
        let mut command = command(args).unwrap();
        command.env("COLUMNS", "80");
        if args[0] != "config" {
            command.args(["--address", node.address()]);
        }
        let shown = run_within(SOON, command).unwrap().good().unwrap();
        assert!(!shown.stdout.is_empty(), "{args:?}");
        for line in shown.stdout.lines() {
            assert!(line.chars().count() <= 80, "{args:?}: {line}");
        }
        assert!(
            !format!("{}{}", shown.stdout, shown.stderr).contains('\u{1b}'),
            "{args:?}"
        );
    }
    // Without a terminal nothing is cut: `grep` finds whole values.
    let piped = node.run(&["task", "list"]).unwrap().good().unwrap();
    assert!(
        piped
            .stdout
            .contains("The printer on floor 3 is out of paper again and nobody kno"),
        "{}",
        piped.stdout
    );
}

#[test]
fn every_exit_code_means_what_the_page_says() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let no_model = folder.file("no-model.gguf", "no GGUF").unwrap();
    let no_model = no_model.to_str().unwrap();
    // Connections wait in its backlog, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let whole = "ffffffff-ffff-7fff-bfff-ffffffffffff";
    let of_node: [(&[&str], i32, &str); 10] = [
        (&["outbox", "ack", "foo#0"], 5, "not there"),
        (&["status"], 0, ""),
        (
            &[
                "submit",
                "--wait",
                "--wait-for",
                "1s",
                "my password is lost",
            ],
            1,
            "1 of 1 tasks have not ended within --wait-for; they go on",
        ),
        (&["agent", "get", "bad"], 2, "CLY0010"),
        (&["task", "list", "--tenant", "No Name"], 2, "CLY0010"),
        (&["task", "get", "xyz"], 2, "not the beginning of an id"),
        (&["submit", "--type", "nosuch", "text"], 5, "CLY0003"),
        (&["task", "get", whole], 5, "CLY0013"),
        (&["approve", "show", whole], 5, "no question"),
        (&["model", "test", "nosuch"], 5, "CLY0013"),
    ];
    let alone: [(&[&str], i32, &str); 11] = [
        (
            &["approve", "accept", "--search", ""],
            2,
            "a value is required",
        ),
        (
            &["config", "explain", "memory.new_a"],
            5,
            "did you mean memory.new_at?",
        ),
        (&["task", "get", "xyz"], 2, "not the beginning of an id"),
        (
            &["model", "import", no_model],
            2,
            "not a readable GGUF file",
        ),
        (&["model", "import", "/no/such.gguf"], 2, "cannot read"),
        (
            &["demo", "--engine", "echo", "--agents", "0"],
            2,
            "somebody has to",
        ),
        (&["demo", "--engine", "echo", "--count", "0"], 2, "from 1"),
        (&["sim", "fuzz", "--seeds", "0"], 2, "--seeds"),
        (
            &["status", "--timeout", "500ms", "--address", &silent],
            3,
            "has not answered within --timeout",
        ),
        (&["model", "info", "nosuch"], 5, "no model"),
        (&["config", "explain", "no.such"], 5, "no setting"),
    ];
    let check = |args: &[&str], code: i32, said: &str, ended: colony_tests::Finished| {
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{args:?}: {}", ended.stderr);
    };
    for (args, code, said) in of_node {
        check(args, code, said, node.run(args).unwrap());
    }
    for (args, code, said) in alone {
        check(args, code, said, run(args).unwrap());
    }
}

#[test]
fn a_demo_that_nobody_reviews_leaves_what_waits() {
    let args = [
        "demo",
        "--engine",
        "echo",
        "--count",
        "10",
        "--agents",
        "2",
        "--reviewer",
        "none",
        "--json",
    ];
    let ended = run_within(SOON, command(&args).unwrap()).unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("10 tickets wait for a human"),
        "{}",
        ended.stderr
    );
    // What is said beside the results is JSON too.
    for line in ended.stderr.lines() {
        let said: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(said["note"].is_string(), "{line}");
    }
}

#[test]
fn a_fifo_is_waited_for_and_says_so() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let fifo = folder.path().join("tickets.fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let said = folder.path().join("fifo.log");
    let mut submit = command(&["submit", "--type", "echo", "--address", node.address()])
        .unwrap()
        .arg("--file")
        .arg(&fifo)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    eventually("the note", SOON, || {
        Ok(fs::read_to_string(&said)?.contains("is a FIFO"))
    })
    .unwrap();
    fs::write(&fifo, "{\"text\": \"hello\"}\n").unwrap();
    eventually("the end", SOON, || Ok(submit.try_wait()?.is_some())).unwrap();
    assert!(submit.wait().unwrap().success());
    assert_eq!(accepted(&node), 1);
}
