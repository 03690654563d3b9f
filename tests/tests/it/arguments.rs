//! What is said of wrong arguments and wrong input, by the real binary.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::Duration,
};

use colony_tests::{Finished, Folder, Node, command, run, run_within};

/// For a command against a node of this machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

fn refused(ended: &Finished, code: i32, said: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    for part in said {
        assert!(ended.stderr.contains(part), "{part:?}: {}", ended.stderr);
    }
}

#[test]
fn a_wrong_argument_is_said_in_words_and_no_longer_than_need_be() {
    let long = "x".repeat(70_000);
    let cases: [(&[&str], &str); 10] = [
        (&["submit", "x", "--deadline", "0s"], "above 0"),
        (&["submit", "x", "--wait", "--wait-for", "0ms"], "above 0"),
        (&["submit", "x", "--deadline", "999999999999d"], "at most"),
        (&["submit", "x", "--tenant", ""], "it is empty"),
        (
            &["submit", "x", "--attribute", "a=1", "--attribute", "a=2"],
            "is there twice",
        ),
        (
            &["demo", "--engine", "echo", "--agents", "100001"],
            "from 1 to 100000",
        ),
        (
            &["config", "check", "--set", "market.sample=x"],
            "no node starts",
        ),
        (&["submit", "x", "--priority", &long], "--priority"),
        (&["explain", &long], "CODE"),
        (&["submit", "x", "--address", &long], "is not an address"),
    ];
    for (args, said) in cases {
        let ended = run(args).unwrap();
        refused(&ended, 2, &[said]);
        assert!(
            ended.stderr.len() < 2_000,
            "{} bytes: {:.100}",
            ended.stderr.len(),
            ended.stderr
        );
    }
    let check = run(&["config", "check", "--set", "market.sample=x"]).unwrap();
    assert!(
        check.stdout.contains("expected a whole number"),
        "{}",
        check.stdout
    );
    assert!(!check.stdout.contains("u32"), "{}", check.stdout);
}

#[test]
fn an_address_from_the_environment_is_not_shown_as_required() {
    let mut missing = command(&["task", "get"]).unwrap();
    missing
        .env("COLONY_ADDRESS", "127.0.0.1:1")
        .env("USER", "ann");
    let ended = run_within(SOON, missing).unwrap();
    refused(&ended, 2, &["<ID>"]);
    assert!(!ended.stderr.contains("--address"), "{}", ended.stderr);
    let mut asked = command(&["status"]).unwrap();
    asked.env("COLONY_ADDRESS", "127.0.0.1:1");
    let ended = run_within(SOON, asked).unwrap();
    refused(&ended, 3, &["127.0.0.1:1"]);
}

#[test]
fn what_is_wrong_with_a_task_has_the_exit_code_of_its_sort() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["submit", "--type", "nope", "x"], 5, "CLY0003"),
        (&["submit", " "], 2, "CLY0001"),
        (&["submit", "x", "--key", " "], 2, "CLY0007"),
        (&["submit", "x", "--key", "a\nb"], 2, "CLY0008"),
        (
            &["submit", "x", "--expected", &"k".repeat(2_000)],
            4,
            "CLY0006",
        ),
    ];
    for (args, code, said) in cases {
        refused(&node.run(args).unwrap(), code, &[said]);
    }
}

#[test]
fn a_port_that_another_program_holds_is_said_to_be_so_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Ends with the test's process.
    thread::spawn(move || {
        let mut streams = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1_024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            streams.push(stream);
        }
    });
    for args in [
        &["status", "--address", &address][..],
        // Longer than the test would wait.
        &["submit", "x", "--retry-for", "1h", "--address", &address],
    ] {
        // Whose one attempt met a connection that closed meanwhile says that it may be none.
        refused(&run(args).unwrap(), 3, &["no colony node"]);
    }
}

#[test]
fn a_silent_port_is_not_blamed_on_the_time_of_one_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let args = ["task", "cancel", "ffffffff-ffff-7fff-bfff-ffffffffffff"];
    let more = [
        "--timeout",
        "1s",
        "--retry-for",
        "3s",
        "--address",
        &address,
    ];
    let ended = run(&[&args[..], &more].concat()).unwrap();
    refused(&ended, 3, &["no answer within", "--retry-for"]);
    assert!(!ended.stderr.contains("--timeout"), "{}", ended.stderr);
}

#[test]
fn a_quiet_node_says_nothing_of_its_life() {
    let folder = Folder::new().unwrap();
    let data = folder.path().join("data").display().to_string();
    let listen = ["--listen", "127.0.0.1:0", "--engine", "echo", "--data-dir"];
    let args = [&["node", "--quiet", "--json"], &listen[..], &[&data]].concat();
    let mut node = command(&args).unwrap();
    let mut child = node
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It is ready when it prints that.
    let mut ready = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut ready).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    stdout.read_to_end(&mut Vec::new()).unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(said, "");
}

#[test]
fn a_closed_or_full_standard_output_loses_no_id() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let binary = command(&[]).unwrap();
    let shell = |line: &str| {
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", line])
            .env("COLONY", binary.get_program())
            .env("COLONY_ADDRESS", node.address());
        run_within(SOON, shell).unwrap()
    };
    let closed = shell("\"$COLONY\" submit --type echo one >&-");
    refused(&closed, 1, &["it is closed", "the task was handed in: "]);
    let full = shell("\"$COLONY\" --help > /dev/full");
    refused(&full, 1, &["cannot write to standard output"]);
    let nowhere = shell("\"$COLONY\" submit --type echo one > /dev/null");
    refused(&nowhere, 0, &[]);
}

#[test]
fn a_page_fits_the_terminal() {
    for args in [
        &["explain", "CLY0010"][..],
        &["config", "explain", "market"],
    ] {
        let mut explain = command(args).unwrap();
        explain.env("COLUMNS", "80");
        let page = run_within(SOON, explain).unwrap().good().unwrap().stdout;
        for line in page.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
