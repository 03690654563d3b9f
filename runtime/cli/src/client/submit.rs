//! `colony submit`: one task, or a file of them.
//!
//! ```text
//!   lines ─► parse ─► batches of 256 ─► SubmitBatch ─► one id a line
//!                                          ├─ away or full: again, with the same keys, so nothing doubles
//!                                          └─ refused: one by one up to the line at fault, which is named
//! ```
//! Every task goes out with a deduplication key: the user's, or one drawn for this run. An answer lost on
//! the way therefore costs a repetition, never a second task.

mod lines;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Read as _, stdin},
    path::Path,
    time::Duration,
};

use colony_core::port::Chance as _;
use colony_node::ports::SystemChance;
use colony_proto::v1::{
    NewTask, SubmitBatchRequest, SubmitRequest, Submitted, Task, WatchRequest, submitted::Outcome,
};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use self::lines::{Defaults, Lines};
use super::{Node, view, watch::Watch};
use crate::{
    args::SubmitArgs,
    errors::{Failure, is_broken_line},
    output::Output,
};

/// Tasks in one request: large enough to fill a group commit, small enough that a repetition is cheap.
const BATCH_TASKS: usize = 256;
/// First wait before trying again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest wait before trying again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is handed in.
enum Input {
    Text(String),
    Lines { name: String, lines: Lines },
}

impl Input {
    /// Opens it. A file that cannot be read is found here, before anything is asked of a node.
    fn open(args: &SubmitArgs) -> Result<Self, Failure> {
        match (&args.text, &args.file) {
            (Some(text), _) if text == "-" => read_text().map(Self::Text),
            (Some(text), _) => Ok(Self::Text(text.clone())),
            (None, Some(path)) if path == Path::new("-") => Ok(Self::Lines {
                name: "standard input".to_owned(),
                lines: Lines::new(Box::new(BufReader::new(stdin()))),
            }),
            (None, Some(path)) => {
                let name = path.display().to_string();
                match File::open(path) {
                    Ok(file) => Ok(Self::Lines {
                        name,
                        lines: Lines::new(Box::new(BufReader::new(file))),
                    }),
                    Err(error) => Err(Failure::usage(format!("cannot read {name}: {error}"))),
                }
            }
            (None, None) => Err(Failure::usage("give a text or --file")),
        }
    }
}

/// `node` is connected to when the input is open: what is wrong with the input is said first.
pub(crate) async fn run(
    node: impl Future<Output = Result<Node, Failure>>,
    args: SubmitArgs,
    out: Output,
) -> Result<(), Failure> {
    let defaults = Defaults::from_args(&args, run_key())?;
    let input = Input::open(&args)?;
    let node = node.await?;
    let mut sender = Sender {
        node: &node,
        out,
        retry_for: args.retry_for,
        wait: args.wait,
        accepted: Vec::new(),
    };
    match input {
        Input::Text(text) => {
            let task = defaults.single(text);
            sender
                .batch(vec![(0, task)])
                .await
                .map_err(|stop| stop.failure)?;
        }
        Input::Lines { name, lines } => file_lines(&mut sender, &name, lines, &defaults).await?,
    }
    sender.finish().await
}

async fn file_lines(
    sender: &mut Sender<'_>,
    name: &str,
    mut lines: Lines,
    defaults: &Defaults,
) -> Result<(), Failure> {
    let mut batch = Vec::new();
    let trouble = loop {
        match lines.next_task(defaults) {
            Ok(Some(numbered)) => batch.push(numbered),
            Ok(None) => break None,
            Err(bad) => {
                break Some(Stop {
                    line: bad.line,
                    failure: Failure::usage(bad.what),
                });
            }
        }
        if batch.len() == BATCH_TASKS
            && let Err(stop) = sender.batch(std::mem::take(&mut batch)).await
        {
            break Some(stop);
        }
    };
    // What was read before a bad line is good, and is handed in.
    let trouble = match sender.batch(batch).await {
        Ok(()) => trouble,
        Err(stop) => Some(stop),
    };
    let Some(Stop { line, failure }) = trouble else {
        return Ok(());
    };
    let before = line.saturating_sub(1);
    let key = &defaults.key;
    let hint = format!(
        "lines 1 to {before} were handed in ({} tasks), nothing from line {line} on; put it right and run \
         the same file again with --key {key}: what is there is not handed in twice",
        sender.accepted.len()
    );
    Err(failure
        .within(format!("{name}, line {line}"))
        .with_hint(hint))
}

/// A line that cannot be handed in, and why. All lines before it were.
struct Stop {
    line: usize,
    failure: Failure,
}

struct Sender<'a> {
    node: &'a Node,
    out: Output,
    retry_for: Duration,
    wait: bool,
    /// Ids in order; each with its line.
    accepted: Vec<String>,
}

impl Sender<'_> {
    /// Hands a batch in and prints its ids.
    async fn batch(&mut self, batch: Vec<(usize, NewTask)>) -> Result<(), Stop> {
        let Some(&(first, _)) = batch.first() else {
            return Ok(());
        };
        if batch.len() > 1 {
            let tasks: Vec<NewTask> = batch.iter().map(|(_, task)| task.clone()).collect();
            let answer = self
                .patiently(|| {
                    let mut client = self.node.tasks();
                    let ask = self.node.ask(SubmitBatchRequest {
                        tasks: tasks.clone(),
                    });
                    async move { client.submit_batch(ask).await }
                })
                .await;
            match answer {
                Ok(answer) => {
                    for ((line, task), submitted) in batch.iter().zip(answer.submitted) {
                        self.accept(*line, task, submitted)?;
                    }
                    return Ok(());
                }
                // One of them is at fault: hand them in one by one, up to that one.
                Err(status) if is_fault(&status) => {}
                Err(status) => {
                    let failure = self.refusal(&status);
                    return Err(Stop {
                        line: first,
                        failure,
                    });
                }
            }
        }
        for (line, task) in batch {
            let answer = self
                .patiently(|| {
                    let mut client = self.node.tasks();
                    let ask = self.node.ask(SubmitRequest {
                        task: Some(task.clone()),
                    });
                    async move { client.submit(ask).await }
                })
                .await;
            match answer {
                Ok(answer) => self.accept(line, &task, answer.submitted.unwrap_or_default())?,
                Err(status) => {
                    return Err(Stop {
                        line,
                        failure: self.refusal(&status),
                    });
                }
            }
        }
        Ok(())
    }

    fn refusal(&self, status: &Status) -> Failure {
        match self.node.open::<()>(Err(status.clone())) {
            Ok(()) => Failure::failed("no answer"),
            Err(failure) => failure,
        }
    }

    fn accept(&mut self, line: usize, task: &NewTask, submitted: Submitted) -> Result<(), Stop> {
        let id = submitted.task_id;
        let outcome = match Outcome::try_from(submitted.outcome) {
            Ok(Outcome::Accepted | Outcome::Unspecified) | Err(_) => "accepted",
            Ok(Outcome::Duplicate) => "duplicate",
            Ok(Outcome::Conflict) => {
                let key = task.dedupe_key.as_deref().unwrap_or_default();
                let what =
                    format!("key {key:?} belongs to task {id}, which asks for something else");
                return Err(Stop {
                    line,
                    failure: Failure::refused(what),
                });
            }
        };
        if !self.wait {
            let said = json!({
                "task_id": id,
                "outcome": outcome,
                "line": (line > 0).then_some(line),
            });
            let printed = self.out.result(&said, || id.clone());
            printed.map_err(|failure| Stop {
                line: line + 1,
                failure,
            })?;
        }
        self.accepted.push(id);
        Ok(())
    }

    /// Repeats `call` while the node is away or full. All calls carry deduplication keys.
    async fn patiently<T, F, Fut>(&self, call: F) -> Result<T, Status>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut pause = PAUSE_MIN;
        let mut waited = Duration::ZERO;
        loop {
            let status = match call().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let again = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted)
                || is_broken_line(&status);
            if !again || waited >= self.retry_for {
                return Err(status);
            }
            let told = status
                .get_details_retry_info()
                .and_then(|retry| retry.retry_delay);
            // RESOURCE_EXHAUSTED without a time to wait is a limit on the request itself.
            if status.code() == Code::ResourceExhausted && told.is_none() {
                return Err(status);
            }
            let next = told
                .unwrap_or(pause)
                .min(self.retry_for.saturating_sub(waited))
                .max(PAUSE_MIN);
            if waited.is_zero() {
                self.out.note(&format!(
                    "{}; trying again",
                    crate::output::clean(status.message())
                ));
            }
            tokio::time::sleep(next).await;
            waited += next;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// With `--wait`, follows the tasks to their ends and prints them.
    async fn finish(self) -> Result<(), Failure> {
        if !self.wait {
            return Ok(());
        }
        let mut open: BTreeSet<&String> = self.accepted.iter().collect();
        // The node follows at most 10,000 tasks a stream.
        for ids in self.accepted.chunks(10_000) {
            let ask = WatchRequest {
                task_ids: ids.to_vec(),
                after_cursor: None,
                until_ended: true,
            };
            let mut watch = Watch::open(self.node, ask).await?;
            while let Some(change) = watch.next(self.node, self.out).await? {
                if view::state(change.state) == "parked" && open.contains(&change.task_id) {
                    self.out.note(&format!(
                        "{} waits for a human: see `colony approve list`",
                        change.task_id
                    ));
                }
                if view::is_final(change.state) {
                    open.remove(&change.task_id);
                }
            }
        }
        let mut without = 0;
        for id in &self.accepted {
            let task = self.get(id).await?;
            without += usize::from(task.answer.is_none());
            self.out.result(&view::task(&task), || {
                let outcome = view::outcome(&task).unwrap_or_else(|| "-".to_owned());
                format!("{id}  {}  {outcome}", view::state(task.state))
            })?;
        }
        match without {
            0 => Ok(()),
            1 if self.accepted.len() == 1 => {
                Err(Failure::failed("the task ended without an answer"))
            }
            _ => Err(Failure::failed(format!(
                "{without} of {} tasks ended without an answer",
                self.accepted.len()
            ))),
        }
    }

    async fn get(&self, id: &str) -> Result<Task, Failure> {
        let ask = colony_proto::v1::GetTaskRequest {
            task_id: id.to_owned(),
            journal: false,
        };
        let answer = self
            .node
            .open(self.node.tasks().get(self.node.ask(ask)).await)?;
        Ok(answer.task.unwrap_or_default())
    }
}

/// Whether one task of a batch is to blame, rather than the line or the load.
fn is_fault(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
    )
}

fn read_text() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    if let Err(error) = stdin()
        .lock()
        .take(lines::LINE_BYTES_MAX)
        .read_to_end(&mut bytes)
    {
        return Err(Failure::usage(format!(
            "cannot read standard input: {error}"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!(
            "standard input is not UTF-8: wrong byte at offset {at}"
        ))
    })
}

/// A name for this run, drawn by chance: two runs never share keys unless the user says so.
fn run_key() -> String {
    format!("run-{:016x}", SystemChance.stream("submit", 0).next_u64())
}
