//! Bad input at every door: a specific error, the right exit or status code, and nothing lost.

use std::{collections::BTreeMap, fs};

use colony_proto::v1::{
    GetTaskRequest, NewTask, SubmitBatchRequest, SubmitRequest, SubmitResponse, WatchRequest,
    tasks_client::TasksClient,
};
use colony_tests::{Folder, Node, data_file, run, skipped};
use serde_json::Value;
use tonic::{Code, Request, transport::Channel};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn channel(node: &Node) -> Channel {
    let address = format!("http://{}", node.address());
    Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn echo(input: &str) -> NewTask {
    NewTask {
        agent_type: "echo".to_owned(),
        input: input.to_owned(),
        ..NewTask::default()
    }
}

/// The stable code of a refusal, from the ErrorInfo among its details.
fn code_of(status: &tonic::Status) -> String {
    let text = String::from_utf8_lossy(status.details()).into_owned();
    let start = text
        .find("CLY")
        .unwrap_or_else(|| panic!("no code in {status:?}"));
    text[start..].chars().take(7).collect()
}

/// A submit whose text is not UTF-8, as a broken client sends it.
#[derive(Clone, PartialEq, prost::Message)]
struct RawTask {
    #[prost(string, tag = "2")]
    agent_type: String,
    #[prost(bytes = "vec", tag = "3")]
    input: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawSubmit {
    #[prost(message, optional, tag = "1")]
    task: Option<RawTask>,
}

#[test]
fn bad_requests_get_specific_statuses_and_nothing_is_kept() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let long = "x".repeat(70_000);
    let key = "k".repeat(2_000);
    let many: BTreeMap<String, String> =
        (0..40).map(|n| (format!("k{n}"), String::new())).collect();
    let cases: Vec<(&str, NewTask, Code)> = vec![
        ("no text", echo(""), Code::InvalidArgument),
        ("blank text", echo(" \n\u{200b}"), Code::InvalidArgument),
        ("oversized text", echo(&long), Code::InvalidArgument),
        (
            "no type",
            NewTask {
                agent_type: String::new(),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "unknown type",
            NewTask {
                agent_type: "nobody".into(),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "bad type",
            NewTask {
                agent_type: "No Body!".into(),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "bad tenant",
            NewTask {
                tenant: "a/b".into(),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "past deadline",
            NewTask {
                deadline_us: Some(1),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "priority 11",
            NewTask {
                priority: 11,
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "many attributes",
            NewTask {
                attributes: many.into_iter().collect(),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "long key",
            NewTask {
                dedupe_key: Some(key),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
        (
            "empty answer",
            NewTask {
                expected: Some(String::new()),
                ..echo("a")
            },
            Code::InvalidArgument,
        ),
    ];
    runtime().block_on(async {
        let mut tasks = TasksClient::new(channel(&node).await);
        for (what, task, code) in cases {
            let refused = tasks
                .submit(SubmitRequest {
                    task: Some(task.clone()),
                })
                .await;
            let refused = refused.expect_err(what);
            assert_eq!(refused.code(), code, "{what}: {refused:?}");
            assert!(!refused.message().is_empty(), "{what}");
            code_of(&refused);
            // One bad task refuses its batch, and is named.
            let batch = SubmitBatchRequest {
                tasks: vec![echo("good"), task],
            };
            let refused = tasks.submit_batch(batch).await.expect_err(what);
            assert!(
                refused.message().contains('1'),
                "{what}: which one? {refused:?}"
            );
        }
        let refused = tasks
            .submit(SubmitRequest { task: None })
            .await
            .expect_err("no task");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let refused = tasks
            .submit_batch(SubmitBatchRequest {
                tasks: vec![echo("a"); 1_001],
            })
            .await;
        assert_eq!(refused.expect_err("too many").code(), Code::InvalidArgument);
        for id in ["", "7", "00000000-0000-0000-0000-00000000000g"] {
            let ask = GetTaskRequest {
                task_id: id.to_owned(),
                ..GetTaskRequest::default()
            };
            assert_eq!(
                tasks.get(ask).await.expect_err(id).code(),
                Code::InvalidArgument,
                "{id:?}"
            );
        }
        let nobody = "01900000-0000-7000-8000-000000000000".to_owned();
        let ask = GetTaskRequest {
            task_id: nobody.clone(),
            ..GetTaskRequest::default()
        };
        assert_eq!(
            tasks.get(ask).await.expect_err("no such task").code(),
            Code::NotFound
        );
        let ask = WatchRequest {
            task_ids: vec![nobody],
            ..WatchRequest::default()
        };
        assert_eq!(
            tasks.watch(ask).await.expect_err("no such task").code(),
            Code::NotFound
        );
        // A key that is taken by another payload.
        let first = NewTask {
            dedupe_key: Some("order-1".into()),
            ..echo("a")
        };
        let again = tasks
            .submit(SubmitRequest {
                task: Some(first.clone()),
            })
            .await
            .unwrap();
        let repeated = tasks
            .submit(SubmitRequest {
                task: Some(first.clone()),
            })
            .await
            .unwrap();
        assert_eq!(
            again.into_inner().submitted.unwrap().task_id,
            repeated.into_inner().submitted.unwrap().task_id
        );
        let other = NewTask {
            input: "b".into(),
            ..first
        };
        let refused = tasks
            .submit(SubmitRequest { task: Some(other) })
            .await
            .expect_err("conflict");
        assert_eq!(refused.code(), Code::AlreadyExists);
    });
    let status = node.json(&["status"]).unwrap().remove(0);
    assert_eq!(status["accepted"], 1, "only the good one is kept: {status}");
}

#[test]
fn text_that_is_not_utf8_is_refused_by_name() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    runtime().block_on(async {
        let mut grpc = tonic::client::Grpc::new(channel(&node).await);
        grpc.ready().await.unwrap();
        let raw = RawSubmit {
            task: Some(RawTask {
                agent_type: "echo".into(),
                input: vec![0x66, 0xff, 0xfe, 0x66],
            }),
        };
        let codec = tonic_prost::ProstCodec::<RawSubmit, SubmitResponse>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/colony.v1.Tasks/Submit");
        let refused = grpc
            .unary(Request::new(raw), path, codec)
            .await
            .expect_err("not UTF-8");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert_eq!(code_of(&refused), "CLY0011");
    });
}

#[test]
fn naughty_strings_come_back_as_they_went_in() {
    let file = match data_file("json-suites/blns.json") {
        Ok(file) => file,
        Err(why) => {
            skipped(format!("{why:#}"));
            return;
        }
    };
    let strings: Vec<String> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert!(strings.len() > 400);
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    runtime().block_on(async {
        let mut tasks = TasksClient::new(channel(&node).await);
        let mut sent = Vec::new();
        for text in &strings {
            let task = NewTask {
                attributes: [("note".to_owned(), text.chars().take(200).collect())].into(),
                ..echo(text)
            };
            match tasks.submit(SubmitRequest { task: Some(task) }).await {
                Ok(answer) => sent.push((answer.into_inner().submitted.unwrap().task_id, text)),
                // Nothing to see is the one reason to refuse a text.
                Err(refused) => assert_eq!(code_of(&refused), "CLY0001", "{text:?}: {refused:?}"),
            }
        }
        assert!(
            sent.len() > strings.len() - 40,
            "{} of {}",
            sent.len(),
            strings.len()
        );
        let ids = sent.iter().map(|(id, _)| id.clone()).collect();
        let ask = WatchRequest {
            task_ids: ids,
            after_cursor: None,
            until_ended: true,
        };
        let mut changes = tasks.watch(ask).await.unwrap().into_inner();
        while changes.message().await.unwrap().is_some() {}
        for (id, text) in sent {
            let ask = GetTaskRequest {
                task_id: id,
                journal: true,
                ..GetTaskRequest::default()
            };
            let task = tasks.get(ask).await.unwrap().into_inner().task.unwrap();
            assert_eq!(&task.input, text);
            assert_eq!(
                &task.answer.unwrap().text,
                text,
                "echo answers with its input"
            );
        }
    });
    // The same through the command line: tables cannot be forged, JSON lines stay one line each.
    let table = node
        .run(&["task", "list", "--limit", "0"])
        .unwrap()
        .good()
        .unwrap();
    let escape = table.stdout.chars().any(|c| c.is_control() && c != '\n');
    assert!(!escape, "a task's text steers the terminal");
    let listed = node.json(&["task", "list", "--limit", "0"]).unwrap();
    assert!(listed.len() > 400);
    let lines: String = strings
        .iter()
        .map(|text| serde_json::json!({ "text": text, "type": "triage" }).to_string() + "\n")
        .collect();
    let file = folder.file("naughty.jsonl", &lines).unwrap();
    // Blank ones stop the file with their line; the rest has been handed in up to there.
    let ended = node
        .run(&["submit", "--file", file.to_str().unwrap()])
        .unwrap();
    assert!(
        ended.stderr.contains("line 1"),
        "the first string is empty: {}",
        ended.stderr
    );
    assert!(
        node.stop().unwrap().success(),
        "the node is none the worse for it"
    );
}

#[test]
fn triage_survives_naughty_strings() {
    let file = match data_file("json-suites/blns.json") {
        Ok(file) => file,
        Err(why) => {
            skipped(format!("{why:#}"));
            return;
        }
    };
    let strings: Vec<String> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let visible: Vec<&String> = strings
        .iter()
        .filter(|text| text.chars().any(char::is_alphanumeric))
        .collect();
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let lines: String = visible
        .iter()
        .map(|text| serde_json::json!({ "text": text }).to_string() + "\n")
        .collect();
    let file = folder.file("naughty.jsonl", &lines).unwrap();
    let ended = node
        .run(&["submit", "--file", file.to_str().unwrap()])
        .unwrap()
        .good()
        .unwrap();
    let ids: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(ids.len(), visible.len());
    colony_tests::eventually(
        "an end or a question for each",
        std::time::Duration::from_secs(90),
        || {
            let status = node.json(&["status"])?.remove(0);
            let count = |state: &str| status["tasks"][state].as_u64().unwrap_or_default();
            assert_eq!(count("dead") + count("failed"), 0, "{status}");
            Ok(count("ready") + count("claimed") == 0)
        },
    )
    .unwrap();
    let open = node
        .run(&["approve", "list", "--limit", "0"])
        .unwrap()
        .good()
        .unwrap();
    assert!(!open.stdout.chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn wrong_arguments_and_settings_are_named() {
    let folder = Folder::new().unwrap();
    let config = folder
        .file(
            "colony.toml",
            "[market]\nsampel = 8\n[node]\nlisten = \"here\"\n",
        )
        .unwrap();
    let config = config.to_str().unwrap();
    let syntax = folder.file("syntax.toml", "[market\n").unwrap();
    let syntax = syntax.to_str().unwrap();
    let missing = folder.path().join("nowhere.toml");
    let missing = missing.to_str().unwrap();
    let cases: [(&[&str], i32, &[&str]); 9] = [
        (&["node", "--config", config], 2, &["sampel", "node.listen"]),
        (&["node", "--config", syntax], 2, &["syntax.toml"]),
        (&["node", "--config", missing], 2, &["nowhere.toml"]),
        (&["node", "--set", "market.sample=0"], 2, &["market.sample"]),
        (
            &[
                "submit",
                "hello",
                "--address",
                "127.0.0.1:9",
                "--retry-for",
                "1ms",
            ],
            3,
            &["127.0.0.1:9"],
        ),
        (
            &["submit", "--file", "/nowhere.jsonl"],
            2,
            &["/nowhere.jsonl"],
        ),
        (&["submit"], 2, &["--file"]),
        (&["dance"], 2, &["dance"]),
        (&["sim", "run", "/nowhere.toml"], 2, &["/nowhere.toml"]),
    ];
    for (args, code, words) in cases {
        let ended = run(args).unwrap();
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        for word in words {
            assert!(
                ended.stderr.contains(word),
                "{args:?} does not name {word}: {}",
                ended.stderr
            );
        }
        assert!(
            !ended.stderr.contains("panicked"),
            "{args:?}: {}",
            ended.stderr
        );
    }
}

#[test]
fn a_node_without_its_models_names_the_missing_file() {
    let folder = Folder::new().unwrap();
    let home = folder.path().join("home");
    let home = format!("inference.home={:?}", home.to_str().unwrap());
    let data = folder.path().join("data");
    let args = [
        "node",
        "--engine",
        "ort",
        "--listen",
        "127.0.0.1:0",
        "--set",
        &home,
    ];
    let ended = run(&[&args[..], &["--data-dir", data.to_str().unwrap()]].concat()).unwrap();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("colony model pull"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("libonnxruntime") || ended.stderr.contains("model."),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_bad_line_in_a_file_is_named_and_the_good_ones_before_it_are_kept() {
    let folder = Folder::new().unwrap();
    let node = Node::start(&folder, &[]).unwrap();
    let good = "{\"text\":\"good\",\"type\":\"echo\"}\n";
    for bad in [
        "{\"text\":\"typo\",\"prioirty\":3}\n".to_owned(),
        "not json\n".to_owned(),
        "{\"text\":\"\",\"type\":\"echo\"}\n".to_owned(),
        format!(
            "{{\"text\":\"{}\",\"type\":\"echo\"}}\n",
            "x".repeat(70_000)
        ),
        "{\"text\":\"who\",\"type\":\"nobody\"}\n".to_owned(),
    ] {
        let before = accepted(&node);
        let file = folder
            .file("mixed.jsonl", &format!("{}{bad}{good}", good.repeat(3)))
            .unwrap();
        let ended = node
            .run(&["submit", "--file", file.to_str().unwrap()])
            .unwrap();
        assert_ne!(ended.code, Some(0), "{bad:.60}");
        assert!(
            ended.stderr.contains("line 4"),
            "{bad:.60}: {}",
            ended.stderr
        );
        assert_eq!(
            ended.stdout.lines().count(),
            3,
            "{bad:.60}: {}",
            ended.stdout
        );
        assert_eq!(accepted(&node) - before, 3, "{bad:.60}");
    }
}

fn accepted(node: &Node) -> u64 {
    let status: Value = node.json(&["status"]).unwrap().remove(0);
    status["accepted"].as_u64().unwrap()
}
