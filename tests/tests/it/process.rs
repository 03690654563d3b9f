//! Real nodes, real kills: what was acknowledged is there and ends once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use colony_tests::{Folder, Node, command, eventually, skipped};
use rusqlite::{Connection, OpenFlags};

/// For a few thousand small tasks on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

/// JSON lines of tasks for the kind that answers with its input.
fn lines(folder: &Folder, name: &str, count: usize) -> PathBuf {
    let text: String = (0..count)
        .map(|n| format!("{{\"text\":\"{name} {n}\",\"type\":\"echo\"}}\n"))
        .collect();
    folder.file(&format!("{name}.jsonl"), &text).unwrap()
}

/// A `colony submit --file` that goes on while its node is killed and comes back.
struct Submitter {
    child: Child,
    out: PathBuf,
    said: PathBuf,
}

impl Submitter {
    fn start(folder: &Folder, address: &str, name: &str, count: usize) -> Self {
        let file = lines(folder, name, count);
        let out = folder.path().join(format!("{name}.ids"));
        let said = folder.path().join(format!("{name}.log"));
        let args = [
            "submit",
            "--address",
            address,
            "--retry-for",
            "2m",
            "--file",
            file.to_str().unwrap(),
        ];
        let child = command(&args)
            .unwrap()
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&said).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, out, said }
    }

    /// The ids acknowledged so far.
    fn ids(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.out).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    fn finish(mut self) -> Vec<String> {
        eventually("a submitter's end", SOON, || {
            Ok(self.child.try_wait()?.is_some())
        })
        .unwrap();
        let status = self.child.wait().unwrap();
        let said = fs::read_to_string(&self.said).unwrap();
        assert!(status.success(), "{status}: {said}");
        self.ids()
    }
}

impl Drop for Submitter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cursor from before anything that a test does: that of a first task's end.
fn beginning(node: &Node) -> String {
    let submitted = node.json(&["submit", "--type", "echo", "first"]).unwrap();
    let id = submitted[0]["task_id"].as_str().unwrap();
    let told = node.json(&["task", "watch", "--until-ended", id]).unwrap();
    told.last().unwrap()["cursor"].as_str().unwrap().to_owned()
}

/// Follows tasks to their ends; each has to become done, once, in the changes after `cursor`.
fn assert_each_done_once(node: &Node, cursor: &str, ids: &[String]) {
    let mut done = BTreeMap::new();
    // Command lines have limits.
    for ids in ids.chunks(1_000) {
        let mut args = vec!["task", "watch", "--until-ended", "--timeout", "2m"];
        args.extend(ids.iter().map(String::as_str));
        node.json(&args).unwrap();
        let mut args = vec!["task", "watch", "--until-ended", "--after", cursor];
        args.extend(ids.iter().map(String::as_str));
        let told = node.json(&args).unwrap();
        // Where each stands comes first, then what happened.
        for change in told.iter().skip(ids.len()) {
            let id = change["task_id"].as_str().unwrap().to_owned();
            match change["state"].as_str().unwrap() {
                "done" => *done.entry(id).or_insert(0) += 1,
                "failed" | "dead" | "expired" | "cancelled" => panic!("{change}"),
                _ => {}
            }
        }
    }
    for id in ids {
        assert_eq!(done.get(id), Some(&1), "task {id} became done that often");
    }
}

fn status(node: &Node) -> serde_json::Value {
    node.json(&["status"]).unwrap().remove(0)
}

/// The ledger of a node that has stopped.
fn ledger(folder: &Folder) -> Connection {
    let path = folder.path().join("data/colony.db");
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

#[test]
fn acknowledged_tasks_survive_five_kills_and_complete_once() {
    let folder = Folder::new().unwrap();
    let mut node = Node::start(&folder, &[]).unwrap();
    let cursor = beginning(&node);
    let address = node.address().to_owned();
    let mut ids = Vec::new();
    for round in 0..5 {
        let submitters: Vec<_> = (0..2)
            .map(|n| Submitter::start(&folder, &address, &format!("round-{round}-{n}"), 500))
            .collect();
        eventually("the first acknowledgements", SOON, || {
            Ok(submitters
                .iter()
                .any(|submitter| !submitter.ids().is_empty()))
        })
        .unwrap();
        node.kill().unwrap();
        let acknowledged: Vec<String> = submitters.iter().flat_map(Submitter::ids).collect();
        assert!(!acknowledged.is_empty());
        node = Node::start_at(&folder, &address, &[]).unwrap();
        let last = acknowledged.last().unwrap();
        let task = node.json(&["task", "get", last]).unwrap().remove(0);
        assert_eq!(task["id"], last.as_str(), "round {round}");
        ids.extend(submitters.into_iter().flat_map(Submitter::finish));
    }
    let unique: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(unique.len(), 5_000, "every line has a task of its own");
    assert_each_done_once(&node, &cursor, &ids);
    let status = status(&node);
    // The first task is there too.
    assert_eq!(status["accepted"], 5_001, "{status}");
    assert_eq!(status["tasks"]["done"], 5_001, "{status}");
    assert_eq!(status["conserved"], true, "{status}");
    assert!(
        status["incarnation"].as_u64().unwrap() >= 6,
        "six lives: {status}"
    );
    assert!(node.stop().unwrap().success());
    // The answers are those of the questions, after all the kills.
    let journal = ledger(&folder);
    let tasks: i64 = journal
        .query_row(
            "SELECT COUNT(*) FROM (SELECT 1 FROM finished GROUP BY id)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(tasks, 5_001);
}

#[test]
fn a_ticket_is_filed_once_though_its_node_is_killed_while_humans_decide() {
    const TICKETS: usize = 60;
    /// The tickets, and the task of [`beginning`].
    const TASKS: usize = TICKETS + 1;
    let folder = Folder::new().unwrap();
    let mut node = Node::start(&folder, &[]).unwrap();
    let cursor = beginning(&node);
    let address = node.address().to_owned();
    let text: String = (0..TICKETS)
        .map(|n| {
            format!(
                "{{\"text\":\"printer {n} on floor {} is out of paper\"}}\n",
                n % 7
            )
        })
        .collect();
    let file = folder.file("tickets.jsonl", &text).unwrap();
    let printed = node
        .run(&["submit", "--file", file.to_str().unwrap()])
        .unwrap()
        .good()
        .unwrap();
    let ids: Vec<String> = printed.stdout.lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), TICKETS);
    for round in 0.. {
        assert!(round < 100, "questions do not come to an end");
        let open = node.json(&["approve", "list", "--limit", "0"]).unwrap();
        let mut args = vec!["approve", "accept", "--by", "tester", "--label", "printing"];
        args.extend(open.iter().map(|question| question["id"].as_str().unwrap()));
        if open.is_empty() {
            let counts = status(&node);
            if counts["tasks"]["done"] == TASKS {
                break;
            }
            // Tasks are under way between two questions.
            eventually("a question or the end", SOON, || {
                let counts = status(&node);
                let done = counts["tasks"]["done"].as_u64() == Some(TASKS as u64);
                Ok(done || counts["tasks"]["waiting"].as_u64() > Some(0))
            })
            .unwrap();
            continue;
        }
        if round % 2 == 0 && round < 8 {
            // The decisions are under way when the power goes.
            let decider = command(&args)
                .unwrap()
                .args(["--address", &address])
                .spawn();
            let mut decider = decider.unwrap();
            eventually("the first decision", SOON, || {
                let left = node.json(&["approve", "list", "--limit", "0"])?.len();
                Ok(left < open.len() || decider.try_wait()?.is_some())
            })
            .unwrap();
            node.kill().unwrap();
            decider.wait().unwrap();
            node = Node::start_at(&folder, &address, &[]).unwrap();
        } else {
            // A question may be closed by now: the tests of the ending are below.
            node.run(&args).unwrap();
        }
    }
    assert_each_done_once(&node, &cursor, &ids);
    assert!(node.stop().unwrap().success());
    let ledger = ledger(&folder);
    let count = |sql: &str| -> i64 { ledger.query_row(sql, [], |row| row.get(0)).unwrap() };
    let tickets = i64::try_from(TICKETS).unwrap();
    assert_eq!(
        count("SELECT COUNT(*) FROM outbox WHERE destination = 'tickets'"),
        tickets
    );
    assert_eq!(
        count("SELECT COUNT(DISTINCT task) FROM outbox"),
        tickets,
        "one for each task"
    );
    assert_eq!(
        count("SELECT COUNT(*) FROM episodes"),
        tickets,
        "one learning for each decision"
    );
}

#[test]
fn a_second_node_on_the_same_folder_is_refused() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let second = Node::start(&folder, &[]).expect_err("two nodes on one book");
    let said = format!("{second:#}");
    assert!(said.contains("exit status: 1"), "{said}");
    assert!(
        said.contains("colony.db"),
        "the message names the ledger: {said}"
    );
    // The first one is none the worse for it.
    let ended = node
        .run(&["submit", "--type", "echo", "--wait", "still here"])
        .unwrap();
    assert!(ended.good().unwrap().stdout.contains("done"));
}

#[test]
fn sigterm_drains_and_keeps_what_was_not_done() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let cursor = beginning(&node);
    let address = node.address().to_owned();
    let file = lines(&folder, "drain", 2_000);
    let printed = node
        .run(&["submit", "--file", file.to_str().unwrap()])
        .unwrap()
        .good()
        .unwrap();
    let ids: Vec<String> = printed.stdout.lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), 2_000);
    let exit = node.stop().unwrap();
    assert!(exit.success(), "{exit}");
    let node = Node::start_at(&folder, &address, &[]).unwrap();
    assert_each_done_once(&node, &cursor, &ids);
    let tasks = node
        .json(&["task", "list", "--type", "echo", "--limit", "0"])
        .unwrap();
    assert!(
        tasks.iter().all(|task| task["failed_attempts"] == 0),
        "a drain is no delivery"
    );
}

#[test]
fn a_frozen_client_and_a_gone_client_harm_nobody() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let mut watcher = command(&["task", "watch", "--address", node.address()])
        .unwrap()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let file = lines(&folder, "crowd", 1_000);
    let wait = ["submit", "--wait", "--file", file.to_str().unwrap()];
    let done = node.json(&wait).unwrap();
    assert_eq!(done.len(), 1_000, "nobody reads the watcher's pipe");
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    let done = node
        .json(&["submit", "--type", "echo", "--wait", "after it left"])
        .unwrap();
    assert_eq!(done[0]["answer"]["text"], "after it left");
}

/// Runs `mount`, for a disk of so many MiB. A message when it is not allowed here.
fn small_disk(at: &Path, size: u32) -> Result<(), String> {
    fs::create_dir_all(at).map_err(|error| error.to_string())?;
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={size}m"), "tmpfs"])
        .arg(at)
        .output()
        .map_err(|error| error.to_string())?;
    if mounted.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned())
}

/// Somebody makes room on a small disk.
fn make_room(at: &Path) {
    let grown = std::process::Command::new("mount")
        .args(["-o", "remount,size=300m"])
        .arg(at)
        .status()
        .unwrap();
    assert!(grown.success());
}

/// Unmounts when the test ends, however it does.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let folder = Folder::new().unwrap();
    let data = folder.path().join("data");
    // Room for the log that a ledger begins with (16 MiB), and a little.
    if let Err(why) = small_disk(&data, 20) {
        skipped(format!("cannot mount a small disk: {why}"));
        return;
    }
    let _mounted = Mounted(data.clone());
    let node = Node::start(&folder, &[]).unwrap();
    let cursor = beginning(&node);
    let address = node.address().to_owned();
    let text = "x".repeat(60_000);
    let line = format!("{{\"text\":\"{text}\",\"type\":\"echo\"}}\n");
    let file = folder.file("large.jsonl", &line.repeat(400)).unwrap();
    let submit = [
        "submit",
        "--retry-for",
        "1s",
        "--file",
        file.to_str().unwrap(),
    ];
    let refused = node.run(&submit).unwrap();
    assert_ne!(
        refused.code,
        Some(0),
        "24 MB do not fit into 20 with their log"
    );
    assert!(!refused.stderr.is_empty());
    let ids: Vec<String> = refused.stdout.lines().map(str::to_owned).collect();
    node.kill().ok();
    make_room(&data);
    let node = Node::start_at(&folder, &address, &[]).unwrap();
    assert_each_done_once(&node, &cursor, &ids);
    let ended = node
        .run(&["submit", "--type", "echo", "--wait", "room again"])
        .unwrap();
    assert!(ended.good().unwrap().stdout.contains("done"));
}

/// A log that could not be moved into the file for want of room stopped the node, and kept it from starting.
#[test]
fn a_disk_without_room_for_the_log_in_the_file_stops_nothing() {
    let folder = Folder::new().unwrap();
    let data = folder.path().join("data");
    // Room for a log that is about to be moved (64 MiB), and for a third of it twice.
    if let Err(why) = small_disk(&data, 84) {
        skipped(format!("cannot mount a small disk: {why}"));
        return;
    }
    let _mounted = Mounted(data.clone());
    let node = Node::start(&folder, &[]).unwrap();
    let cursor = beginning(&node);
    let line = format!(
        "{{\"text\":\"{}\",\"type\":\"echo\"}}\n",
        "x".repeat(60_000)
    );
    let file = folder.file("large.jsonl", &line.repeat(1_500)).unwrap();
    let file = file.to_str().unwrap();
    let refused = node
        .run(&["submit", "--retry-for", "1s", "--file", file])
        .unwrap();
    assert_ne!(refused.code, Some(0), "90 MB do not fit");
    let ids: Vec<String> = refused.stdout.lines().map(str::to_owned).collect();
    make_room(&data);
    let ended = node
        .run(&["submit", "--type", "echo", "--wait", "room again"])
        .unwrap();
    assert!(ended.good().unwrap().stdout.contains("done"));
    assert_each_done_once(&node, &cursor, &ids);
}

/// Shells and service managers begin with few open files.
/// The node, as a shell starts it in a script.
fn in_shell(node: &Command, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .arg(node.get_program())
        .args(node.get_args());
    for (name, value) in node.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// The first line of its log ended the node.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let folder = Folder::new().unwrap();
    for script in [
        "exec \"$0\" \"$@\" 2>/dev/full",
        // Whoever reads it leaves after the first line.
        "mkfifo log; head -n 1 <log >first & exec \"$0\" \"$@\" 2>log",
    ] {
        let node = Node::start_as(&folder, "127.0.0.1:0", &[], |node| in_shell(&node, script));
        let node = node.unwrap();
        // Ignored, with a line in the log.
        let _ = node.signal("HUP");
        let submit = ["submit", "--type", "echo", "--wait", "hello"];
        node.run(&submit).unwrap().good().unwrap();
        drop(node);
    }
}

#[test]
fn a_node_raises_its_limit_of_open_files_and_says_when_it_is_low() {
    let folder = Folder::new().unwrap();
    let limits = "ulimit -Sn 64; ulimit -Hn 500; exec \"$0\" \"$@\"";
    let node = Node::start_as(&folder, "127.0.0.1:0", &[], |node| in_shell(&node, limits)).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(files, ["500", "500"]);
    let log = node.log();
    assert!(log.contains("gateway.connections_max needs"), "{log}");
}
