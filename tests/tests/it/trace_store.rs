//! Traces in a real trace store: Phoenix, from its package. A task's spans are asked back from it, as a person at
//! its page sees them.
//!
//! ```text
//!   colony node ── OTLP over gRPC, loopback ──► Phoenix ── HTTP, JSON ──► this test
//! ```
//! Phoenix rather than Jaeger: it comes with pip, and nothing of Jaeger does. Both take the same protocol.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use colony_tests::{Folder, Node, Packages, eventually_some, skipped};
use serde_json::Value;

/// The package, pinned: its answers are read below.
const PHOENIX: [&str; 1] = ["arize-phoenix==20.26.1"];
/// pip fetches 300 MB; measured: a minute and a half. What takes longer is not waited for.
const FETCH_WITHIN: Duration = Duration::from_secs(240);
/// For the store to open, and for a few spans to arrive: the exporter sends every five seconds, and once more
/// when it stops.
const SOON: Duration = Duration::from_secs(90);

/// A running trace store.
struct Store {
    child: Child,
    /// Where it takes spans.
    endpoint: String,
    /// Where it is asked.
    address: String,
}

impl Store {
    fn start(folder: &Folder, phoenix: &Packages) -> Result<Self> {
        let free = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        let (grpc, http) = (free()?, free()?);
        let log = File::create(folder.path().join("phoenix.log"))?;
        let child = phoenix
            .python(&[])
            .args(["-m", "phoenix.server.main", "serve"])
            .env("PHOENIX_WORKING_DIR", folder.path())
            .env("PHOENIX_HOST", "127.0.0.1")
            .env("PHOENIX_PORT", http.to_string())
            .env("PHOENIX_GRPC_PORT", grpc.to_string())
            // It talks to nobody but this test.
            .env("PHOENIX_TELEMETRY_ENABLED", "false")
            .env("HOME", folder.path())
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()?;
        let mut store = Self {
            child,
            endpoint: format!("http://127.0.0.1:{grpc}"),
            address: format!("127.0.0.1:{http}"),
        };
        let opened = eventually_some("the store's door", SOON, || {
            // One that has ended will not open: there is nothing to wait for.
            match store.child.try_wait()? {
                Some(status) => Ok(Err(anyhow!("the store has ended: {status}"))),
                None => store.get("/v1/projects").map(Ok),
            }
        })?;
        opened?;
        Ok(store)
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
            self.address
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.contains(" 200 "), "{path}: {status}: {body}");
        serde_json::from_str(body).with_context(|| format!("not JSON: {body}"))
    }

    /// The spans of a task's trace, once `last` is among them.
    fn trace(&self, task: &Value, last: &str) -> Vec<Value> {
        let trace = task["trace_id"].as_str().unwrap();
        let path = format!("/v1/projects/default/spans?limit=1000&trace_id={trace}");
        eventually_some("the spans of a task", SOON, || {
            let spans = self.get(&path)?["data"].clone();
            let spans = spans.as_array().context("no list of spans")?.clone();
            let names: Vec<_> = spans.iter().map(|span| span["name"].to_string()).collect();
            let there = spans.iter().any(|span| span["name"] == last);
            ensure!(there, "no span {last:?} among {names:?}");
            Ok(spans)
        })
        .unwrap()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hands a ticket in and lets a human decide it; returns the task after its end.
fn decided(node: &Node, text: &str, decide: &[&str]) -> Value {
    let submitted = node.json(&["submit", "--type", "triage", text]).unwrap();
    let id = submitted[0]["task_id"].as_str().unwrap();
    let question = eventually_some("a question", SOON, || {
        let open = node.json(&["approve", "list"])?;
        open.into_iter().next().context("no question yet")
    })
    .unwrap();
    let (verb, more) = decide.split_first().unwrap();
    let question = question["id"].as_str().unwrap();
    let args = [&["approve", verb, question, "--by", "ann"], more].concat();
    node.run(&args).unwrap().good().unwrap();
    node.json(&["task", "watch", "--until-ended", id]).unwrap();
    node.json(&["task", "get", id]).unwrap().remove(0)
}

fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let found = spans.iter().find(|span| span["name"] == name);
    found.unwrap_or_else(|| panic!("no span {name:?} in {spans:#?}"))
}

#[test]
fn a_trace_store_shows_how_a_task_ended_and_who_decided() {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let phoenix = match Packages::fetch(kept, "phoenix", &PHOENIX, FETCH_WITHIN) {
        Ok(phoenix) => phoenix,
        Err(why) => {
            skipped(format!("no trace store: {why:#}"));
            return;
        }
    };
    let folder = Folder::new().unwrap();
    let store = Store::start(&folder, &phoenix).unwrap();
    let endpoint = format!("telemetry.otlp_endpoint={}", store.endpoint);
    let node = Node::start(&folder, &["--set", &endpoint]).unwrap();
    let done = decided(
        &node,
        "a pink elephant sits on my desk",
        &["accept", "--label", "zoo"],
    );
    let rejected = decided(
        &node,
        "please delete all mail of my colleague",
        &["reject", "--reason", "not yours"],
    );
    assert!(
        node.stop().unwrap().success(),
        "the last spans leave with the node"
    );

    let spans = store.trace(&done, "task");
    let end = named(&spans, "task");
    let said = |key: &str| end["attributes"][key].clone();
    assert_eq!(said("colony.task.outcome"), "done", "{end:#}");
    assert_eq!(said("colony.task.id"), done["id"]);
    assert_eq!(said("colony.answer.label"), "zoo");
    assert_eq!(said("colony.answer.source"), "human");
    assert_eq!(said("colony.approval.decided_by"), "ann");
    assert_ne!(end["status_code"], "ERROR");
    // The tool is called in a step, in an agent's work, below the submit that began the trace.
    let mut path = Vec::new();
    let mut span = named(&spans, "execute_tool ticket.file");
    loop {
        path.push(span["name"].as_str().unwrap());
        let parent = &span["parent_id"];
        let Some(found) = spans
            .iter()
            .find(|span| span["context"]["span_id"] == *parent)
        else {
            assert!(parent.is_null(), "an orphan: {span:#}");
            break;
        };
        span = found;
    }
    let names = [
        "execute_tool ticket.file",
        "execute",
        "invoke_agent triage",
        "submit",
    ];
    assert_eq!(path, names);

    let spans = store.trace(&rejected, "task");
    let end = named(&spans, "task");
    assert_eq!(
        end["attributes"]["colony.task.outcome"], "rejected",
        "{end:#}"
    );
    assert_eq!(end["status_code"], "ERROR", "{end:#}");
    assert!(
        end["status_message"]
            .as_str()
            .unwrap()
            .contains("not yours")
    );
}
