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
    os::unix::fs::FileTypeExt as _,
    path::Path,
    time::Duration,
};

use colony_core::port::RandomSource as _;
use colony_node::ports::SystemRandom;
use colony_proto::v1::{
    NewTask, SubmitBatchRequest, SubmitRequest, Submitted, Task, WatchRequest, submitted::Outcome,
};
use serde_json::json;
use tonic::{Code, Status};

use self::lines::{Defaults, TaskLines};
use super::{Node, retry::with_retry, types, view, watch::Watch};
use crate::{
    args::SubmitArgs,
    errors::{Failure, UNKNOWN_TYPE},
    output::Output,
};

/// Tasks in one request: large enough to fill a group commit, small enough that a repetition is cheap.
const BATCH_TASKS: usize = 256;

/// What is handed in.
enum Input {
    Text(String),
    Lines { name: String, lines: TaskLines },
}

impl Input {
    /// Opens it. A file that cannot be read is found here, before anything is asked of a node.
    fn open(args: &SubmitArgs, out: Output) -> Result<Self, Failure> {
        match (&args.text, &args.file) {
            (Some(text), _) if text == "-" => read_text().map(Self::Text),
            (Some(text), _) => Ok(Self::Text(text.clone())),
            (None, Some(path)) if path == Path::new("-") => Ok(Self::Lines {
                name: "standard input".to_owned(),
                lines: TaskLines::new(Box::new(BufReader::new(stdin()))),
            }),
            (None, Some(path)) => {
                let name = path.display().to_string();
                if is_fifo(path) {
                    out.note(&format!(
                        "{name} is a FIFO: waiting until somebody writes to it"
                    ));
                }
                match File::open(path) {
                    Ok(file) => Ok(Self::Lines {
                        name,
                        lines: TaskLines::new(Box::new(BufReader::new(file))),
                    }),
                    Err(error) => Err(Failure::usage(format!("cannot read {name}: {error}"))),
                }
            }
            (None, None) => Err(Failure::usage("give a text or --file")),
        }
    }
}

pub(crate) async fn run(node: &Node, args: SubmitArgs, out: Output) -> Result<(), Failure> {
    let defaults = Defaults::from_args(&args, run_key())?;
    let input = Input::open(&args, out)?;
    let mut sender = Sender {
        node,
        out,
        retry_for: args.retry_for,
        wait: args.wait,
        wait_for: args.wait_for,
        accepted: Vec::new(),
        last_line: 0,
    };
    match input {
        Input::Text(text) => {
            let task = defaults.single(text);
            let stopped = sender.batch(vec![(0, task)]).await;
            stopped.map_err(|stop| sender.with_accepted(*stop.failure))?;
        }
        Input::Lines { name, lines } => file_lines(&mut sender, &name, lines, &defaults).await?,
    }
    sender.finish().await
}

async fn file_lines(
    sender: &mut Sender<'_>,
    name: &str,
    mut lines: TaskLines,
    defaults: &Defaults,
) -> Result<(), Failure> {
    let mut batch = Vec::new();
    let trouble = loop {
        match lines.next_task(defaults) {
            Ok(Some(numbered)) => batch.push(numbered),
            Ok(None) => break None,
            Err(bad) => {
                break Some(LineError {
                    line: Some(bad.line),
                    failure: Box::new(Failure::usage(bad.what)),
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
    let Some(LineError { line, failure }) = trouble else {
        if sender.accepted.is_empty() {
            sender
                .out
                .note(&format!("{name} holds no tasks: nothing was handed in"));
        }
        return Ok(());
    };
    let failure = match line {
        Some(line) => failure.within(format!("{name}, line {line}")),
        None => *failure,
    };
    let hint = match sender.accepted.len() {
        0 => "nothing was handed in".to_owned(),
        count => format!(
            "{}, of the lines up to {}; put it right and run the same file again with --key {}: what is there \
             is not handed in twice",
            handed_in(count),
            sender.last_line,
            defaults.key
        ),
    };
    Err(failure.with_hint(hint))
}

fn handed_in(count: usize) -> String {
    match count {
        1 => "1 task was handed in".to_owned(),
        _ => format!("{count} tasks were handed in"),
    }
}

/// Why no more is handed in.
struct LineError {
    /// The line at fault, if one is.
    line: Option<usize>,
    failure: Box<Failure>,
}

struct Sender<'a> {
    node: &'a Node,
    out: Output,
    retry_for: Duration,
    wait: bool,
    /// Longest wait for the ends; none: no limit.
    wait_for: Option<Duration>,
    /// Ids in order.
    accepted: Vec<String>,
    /// The line of the last of them.
    last_line: usize,
}

impl Sender<'_> {
    /// Hands a batch in and prints its ids.
    async fn batch(&mut self, batch: Vec<(usize, NewTask)>) -> Result<(), LineError> {
        let Some(&(first, _)) = batch.first() else {
            return Ok(());
        };
        if batch.len() > 1 {
            let tasks: Vec<NewTask> = batch.iter().map(|(_, task)| task.clone()).collect();
            let answer = with_retry(self.retry_for, self.out, || {
                let mut client = self.node.tasks();
                let ask = self.node.ask(SubmitBatchRequest {
                    tasks: tasks.clone(),
                });
                async move { client.submit_batch(ask).await }
            })
            .await;
            match answer {
                Ok(answer) => return self.accept(&batch, answer.submitted),
                // One of them is at fault: hand them in one by one, up to that one.
                Err(status) if is_fault(&status) => {}
                Err(status) => return Err(self.refusal(first, &status).await),
            }
        }
        for (line, task) in batch {
            let answer = with_retry(self.retry_for, self.out, || {
                let mut client = self.node.tasks();
                let ask = self.node.ask(SubmitRequest {
                    task: Some(task.clone()),
                });
                async move { client.submit(ask).await }
            })
            .await;
            match answer {
                Ok(answer) => {
                    self.accept(&[(line, task)], [answer.submitted.unwrap_or_default()])?;
                }
                Err(status) => return Err(self.refusal(line, &status).await),
            }
        }
        Ok(())
    }

    async fn refusal(&self, line: usize, status: &Status) -> LineError {
        let mut failure = Failure::from_status(status, self.node.address());
        if failure.code() == Some(UNKNOWN_TYPE) {
            failure = types::listed_below(self.node, failure).await;
        }
        LineError {
            line: Some(line),
            failure: Box::new(failure),
        }
    }

    /// Counts what the node has accepted, then prints the ids: what cannot be printed is handed in all the same.
    fn accept(
        &mut self,
        batch: &[(usize, NewTask)],
        submitted: impl IntoIterator<Item = Submitted>,
    ) -> Result<(), LineError> {
        let first = self.accepted.len();
        let mut said = Vec::new();
        let mut stop = None;
        for ((line, task), submitted) in batch.iter().zip(submitted) {
            let id = submitted.task_id;
            let outcome = match Outcome::try_from(submitted.outcome) {
                Ok(Outcome::Accepted | Outcome::Unspecified) | Err(_) => "accepted",
                Ok(Outcome::Duplicate) => "duplicate",
                Ok(Outcome::Conflict) => {
                    let key = task.dedupe_key.as_deref().unwrap_or_default();
                    let what =
                        format!("key {key:?} belongs to task {id}, which asks for something else");
                    stop = Some(LineError {
                        line: Some(*line),
                        failure: Box::new(Failure::refused(what)),
                    });
                    break;
                }
            };
            let state = view::state(submitted.state);
            if outcome == "duplicate" {
                self.out
                    .note(&format!("task {id} was handed in before, and is {state}"));
            }
            said.push(json!({
                "task_id": id,
                "outcome": outcome,
                "state": state,
                "line": (*line > 0).then_some(*line),
            }));
            self.accepted.push(id);
            self.last_line = *line;
        }
        if !self.wait {
            for (id, said) in self.accepted[first..].iter().zip(&said) {
                let printed = self.out.result(said, || id.clone());
                printed.map_err(|failure| LineError {
                    line: None,
                    failure: Box::new(failure.out_loud()),
                })?;
            }
        }
        stop.map_or(Ok(()), Err)
    }

    /// A failure that came after tasks were handed in says so.
    fn with_accepted(&self, failure: Failure) -> Failure {
        match self.accepted.as_slice() {
            [] => failure,
            [id] => failure.with_hint(format!("the task was handed in: {id}")),
            ids => failure.with_hint(handed_in(ids.len())),
        }
    }

    /// With `--wait`, follows the tasks to their ends and prints them.
    async fn finish(&self) -> Result<(), Failure> {
        if !self.wait {
            return Ok(());
        }
        let ended = self.print_ends().await;
        match ended.map_err(|failure| self.with_accepted(failure))? {
            0 => Ok(()),
            1 if self.accepted.len() == 1 => {
                Err(Failure::failed("the task ended without an answer"))
            }
            without => Err(Failure::failed(format!(
                "{without} of {} tasks ended without an answer",
                self.accepted.len()
            ))),
        }
    }

    /// Waits for the ends of all tasks and prints them; gives the number of those without an answer.
    async fn print_ends(&self) -> Result<usize, Failure> {
        let mut open: BTreeSet<&String> = self.accepted.iter().collect();
        let ends = self.wait_for_ends(&mut open);
        match self.wait_for {
            None => ends.await?,
            Some(limit) => match tokio::time::timeout(limit, ends).await {
                Ok(ended) => ended?,
                Err(_) => {
                    let what = format!(
                        "{} of {} tasks have not ended within --wait-for; they go on",
                        open.len(),
                        self.accepted.len()
                    );
                    return Err(Failure::failed(what));
                }
            },
        }
        let mut without = 0;
        for id in &self.accepted {
            let task = self.get(id).await?;
            without += usize::from(task.answer.is_none());
            let printed = self.out.result(&view::task(&task), || {
                let outcome = view::outcome(&task).unwrap_or_else(|| "-".to_owned());
                format!("{id}  {}  {outcome}", view::state(task.state))
            });
            printed.map_err(Failure::out_loud)?;
        }
        Ok(without)
    }

    /// Follows all tasks until they have ended; takes out of `open` those that have.
    async fn wait_for_ends(&self, open: &mut BTreeSet<&String>) -> Result<(), Failure> {
        // The node follows at most 10,000 tasks a stream.
        for ids in self.accepted.chunks(10_000) {
            let ask = WatchRequest {
                task_ids: ids.to_vec(),
                after_cursor: None,
                until_ended: true,
            };
            let mut watch = Watch::open(self.node, ask).await?;
            while let Some(change) = watch.next(self.node, self.out).await? {
                if view::state(change.state) == "waiting" && open.contains(&change.task_id) {
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
        Ok(())
    }

    async fn get(&self, id: &str) -> Result<Task, Failure> {
        let ask = colony_proto::v1::GetTaskRequest {
            task_id: id.to_owned(),
            ..colony_proto::v1::GetTaskRequest::default()
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

/// Whether to open it would wait for a writer.
fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn read_text() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    if let Err(error) = stdin()
        .lock()
        .take(crate::lines::LINE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
    {
        return Err(Failure::usage(format!(
            "cannot read standard input: {error}"
        )));
    }
    if bytes.len() as u64 > crate::lines::LINE_BYTES_MAX {
        let limit = crate::lines::LINE_BYTES_MAX;
        return Err(Failure::usage(format!(
            "standard input is longer than {limit} bytes"
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
    format!("run-{:016x}", SystemRandom.stream("submit", 0).next_u64())
}
