//! Every error as a status, in one place.
//!
//! | code | status | when | retry |
//! |---|---|---|---|
//! | CLY0001 to CLY0009 | `INVALID_ARGUMENT` | a task breaks a rule of admission (`colony_core::admission`) | no |
//! | CLY0010 | `INVALID_ARGUMENT` | a field of a request cannot be read: an id, a name, a number | no |
//! | CLY0011 | `INVALID_ARGUMENT` | the message is not valid protobuf, such as text that is not UTF-8 | no |
//! | CLY0012 | `ALREADY_EXISTS` | the id or deduplication key belongs to a task with another payload | no |
//! | CLY0013 | `NOT_FOUND` | no such task, approval, agent or model | no |
//! | CLY0014 | `FAILED_PRECONDITION` | the task has ended, or the approval has closed with it | no |
//! | CLY0015 | `FAILED_PRECONDITION` | nothing can be learned from this feedback | no |
//! | CLY0016 | `RESOURCE_EXHAUSTED` | as many live tasks as allowed | after 5 s |
//! | CLY0017 | `UNAVAILABLE` | too many requests wait: for the disk, a model, the server | after 100 ms and more |
//! | CLY0018 | `UNAVAILABLE` | the node is stopping | elsewhere, or after 2 s |
//! | CLY0019 | `INVALID_ARGUMENT` | the message is larger than the limit | no |
//! | CLY0020 | `UNAVAILABLE` | the disk failed | after 1 s |
//! | CLY0021 | `DATA_LOSS` | a record in the ledger cannot be read | no |
//! | CLY0022 | `DEADLINE_EXCEEDED` | no answer in time; whether it was done is not known | with the same id |
//! | CLY0023 | `INTERNAL` | a model's engine failed | no |
//! | CLY0024 | `ABORTED` | the claim is lost: another agent has the task | no |
//! | CLY0025 | `FAILED_PRECONDITION` | somebody else has decided | no |
//! | CLY0026 | `FAILED_PRECONDITION` | a task in this state cannot be revived | no |
//! | CLY0027 | `OUT_OF_RANGE` | the changes after the cursor are not there | from the oldest cursor |
//! | CLY0028 | `ABORTED` | the entries do not fit the journal | no |
//! | CLY0029 | `UNAVAILABLE` | the ledger stopped; whether it was done is not known | with the same id, after 2 s |
//! | CLY0030 | `UNAVAILABLE` | the node has failed and is about to stop | elsewhere, or after 2 s |
//! | CLY0031 | `UNAVAILABLE` | a component of the node does not answer in time | after 1 s |
//! | CLY0032 | `UNAVAILABLE` | a model's engine is away and being opened again | after RetryInfo |
//! | CLY0033 | `ALREADY_EXISTS` | the request id belongs to another request | no |
//! | CLY0034 | `FAILED_PRECONDITION` | memory does not know the label, and only a known one was to be taken | no |
//!
//! Every status carries `google.rpc.ErrorInfo` (reason = the code, domain = `colony`), refused arguments
//! carry `BadRequest` with the field, and what may be tried again carries `RetryInfo`. CLY0012 carries
//! `task_id` and `state`, CLY0027 `oldest_cursor` as metadata of its `ErrorInfo`. Texts of the callers are
//! quoted only as far as the errors of core quote them. The pages are in docs/reference/errors.

use std::{collections::HashMap, fmt::Display, time::Duration};

use colony_core::{
    admission::{Part, Refusal},
    id::TaskId,
    task::State,
};
use colony_inference::InferenceError;
use colony_store::LedgerError;
use tonic::{Code, Status, body::Body, codegen::http::Response};
use tonic_types::{ErrorDetails, StatusExt};

use crate::Problem;

const DOMAIN: &str = "colony";

/// A few group commits.
const RETRY_BUSY: Duration = Duration::from_millis(100);
/// Enough for some hundred tasks to end.
const RETRY_FULL: Duration = Duration::from_secs(5);
/// A restart.
const RETRY_STOPPING: Duration = Duration::from_secs(2);
/// A component that is behind with its work catches up, or the node fails.
const RETRY_SILENT: Duration = Duration::from_secs(1);
/// A disk that is full or slow seldom recovers sooner.
const RETRY_DISK: Duration = Duration::from_secs(1);

/// A status in the making.
struct ErrorSpec {
    code: &'static str,
    status: Code,
    what: String,
    metadata: HashMap<String, String>,
}

impl ErrorSpec {
    fn new(code: &'static str, status: Code, what: &impl Display) -> Self {
        Self {
            code,
            status,
            what: what.to_string(),
            metadata: HashMap::new(),
        }
    }

    fn about(mut self, key: &str, value: &impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    fn details(&self) -> ErrorDetails {
        ErrorDetails::with_error_info(self.code, DOMAIN, self.metadata.clone())
    }

    fn plain(self) -> Status {
        let details = self.details();
        self.with(details)
    }

    fn retry(self, after: Duration) -> Status {
        let mut details = self.details();
        details.set_retry_info(Some(after));
        self.with(details)
    }

    fn field(self, field: impl Into<String>) -> Status {
        let mut details = self.details();
        details.add_bad_request_violation(field, self.what.clone());
        self.with(details)
    }

    fn with(self, details: ErrorDetails) -> Status {
        let text = format!("{}: {}", self.code, self.what);
        Status::with_error_details(self.status, text, details)
    }
}

/// CLY0010: `field` cannot be read, and why.
pub(super) fn argument(field: &str, why: &impl Display) -> Status {
    let what = format!("{field}: {why}");
    ErrorSpec::new("CLY0010", Code::InvalidArgument, &what).field(field)
}

/// CLY0012: `field` of the task, `id` or `dedupe_key`, is another's.
pub(super) fn conflict(task: TaskId, state: State, field: &str) -> Status {
    let what = format!("{field} belongs to task {task}, which has another payload and is {state}");
    ErrorSpec::new("CLY0012", Code::AlreadyExists, &what)
        .about("task_id", &task)
        .about("state", &state)
        .field(format!("task.{field}"))
}

/// CLY0013 for what is not in the ledger: agents and models.
pub(super) fn nothing(what: &str, name: &str) -> Status {
    ErrorSpec::new("CLY0013", Code::NotFound, &format!("no {what} {name:?}")).plain()
}

/// CLY0017: `limit` of something are there, and no more may be.
pub(super) fn crowded(of_what: &str, limit: usize) -> Status {
    let what = format!("{limit} {of_what}, the limit");
    ErrorSpec::new("CLY0017", Code::Unavailable, &what).retry(RETRY_BUSY)
}

/// CLY0018.
pub(super) fn stopping() -> Status {
    ErrorSpec::new("CLY0018", Code::Unavailable, &"the node is stopping").retry(RETRY_STOPPING)
}

/// CLY0022.
pub(super) fn late(limit: Duration) -> Status {
    let what = format!("no answer within {limit:?}; whether it was done is not known");
    ErrorSpec::new("CLY0022", Code::DeadlineExceeded, &what).plain()
}

/// CLY0027: what is wrong with a cursor, and the oldest one that is good.
pub(super) fn out_of_range(what: &impl Display, oldest: &str) -> Status {
    let what = format!("{what}; the oldest cursor that is good is {oldest}");
    ErrorSpec::new("CLY0027", Code::OutOfRange, &what)
        .about("oldest_cursor", &oldest)
        .plain()
}

/// What the tasks of a submission are called: the `task` of a request for one, or `tasks[i]` of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Submitting {
    One,
    Batch,
}

impl Submitting {
    /// What the node says of a submission, with the fields as the caller has named them.
    pub(super) fn refused(self, problem: Problem) -> Status {
        if let Problem::Ledger(LedgerError::Refused { index, refusal }) = &problem {
            self.rule(*index, refusal)
        } else {
            problem.into()
        }
    }

    /// The task at `index` breaks a rule.
    fn rule(self, index: usize, refusal: &Refusal) -> Status {
        let (path, what) = match self {
            Self::One => ("task".to_owned(), refusal.to_string()),
            Self::Batch => (
                format!("tasks[{index}]"),
                format!("task {index}: {refusal}"),
            ),
        };
        let spec = ErrorSpec::new(refusal.code(), Code::InvalidArgument, &what);
        match field_of(refusal) {
            "" => spec.field("tasks"),
            field => spec.field(format!("{path}.{field}")),
        }
    }
}

/// The field of a task that a rule is about; empty for the batch as a whole.
const fn field_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Blank { .. } | Refusal::InputTooLong { .. } => "input",
        Refusal::UnknownType { .. } => "agent_type",
        Refusal::DeadlinePassed { .. } => "deadline_us",
        Refusal::TooManyAttributes { .. } => "attributes",
        Refusal::TooLong { part, .. } | Refusal::Empty { part } | Refusal::Control { part, .. } => {
            match part {
                Part::AttributeKey | Part::AttributeValue(_) => "attributes",
                Part::DedupeKey => "dedupe_key",
                Part::Expected => "expected",
            }
        }
        Refusal::BatchTooLarge { .. } => "",
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let spec = |code, status| ErrorSpec::new(code, status, &problem);
        match &problem {
            Problem::Busy { retry_after, .. } => {
                spec("CLY0017", Code::Unavailable).retry(*retry_after)
            }
            Problem::Draining => stopping(),
            Problem::Failed { .. } => spec("CLY0030", Code::Unavailable).retry(RETRY_STOPPING),
            Problem::Silent { .. } => spec("CLY0031", Code::Unavailable).retry(RETRY_SILENT),
            Problem::NotLearnable { .. } => spec("CLY0015", Code::FailedPrecondition).plain(),
            Problem::UnknownLabel(_) => spec("CLY0034", Code::FailedPrecondition).plain(),
            Problem::Ledger(error) => ledger(error),
            Problem::Model(error) => inference(error),
        }
    }
}

fn ledger(error: &LedgerError) -> Status {
    let spec = |code, status| ErrorSpec::new(code, status, error);
    match error {
        LedgerError::NoTask(_) | LedgerError::NoApproval(_) => {
            spec("CLY0013", Code::NotFound).plain()
        }
        LedgerError::Closed { .. } | LedgerError::Ended { .. } => {
            spec("CLY0014", Code::FailedPrecondition).plain()
        }
        LedgerError::Refused { index, refusal } => Submitting::Batch.rule(*index, refusal),
        LedgerError::Full { .. } => spec("CLY0016", Code::ResourceExhausted).retry(RETRY_FULL),
        LedgerError::Busy { .. } => spec("CLY0017", Code::Unavailable).retry(RETRY_BUSY),
        LedgerError::Shut => stopping(),
        LedgerError::Open { .. } | LedgerError::Storage { .. } => {
            spec("CLY0020", Code::Unavailable).retry(RETRY_DISK)
        }
        LedgerError::Unreadable { .. } => spec("CLY0021", Code::DataLoss).plain(),
        LedgerError::Lost { .. } => spec("CLY0024", Code::Aborted).plain(),
        LedgerError::Decided { .. } => spec("CLY0025", Code::FailedPrecondition).plain(),
        LedgerError::RequestConflict { .. } => {
            spec("CLY0033", Code::AlreadyExists).field("request_id")
        }
        LedgerError::NotRevivable { .. } => spec("CLY0026", Code::FailedPrecondition).plain(),
        // Whoever knows the ledger's name says the oldest good one, with `out_of_range`.
        LedgerError::OutOfRange { .. } => spec("CLY0027", Code::OutOfRange).plain(),
        LedgerError::Sequence { .. } | LedgerError::Conflict { .. } => {
            spec("CLY0028", Code::Aborted).plain()
        }
        LedgerError::Unknown { .. } => {
            let what =
                format!("{error}; whether it was done is not known, repeat with the same id");
            ErrorSpec::new("CLY0029", Code::Unavailable, &what).retry(RETRY_STOPPING)
        }
    }
}

fn inference(error: &InferenceError) -> Status {
    let spec = |code, status| ErrorSpec::new(code, status, error);
    match error {
        InferenceError::Full { retry_after, .. } => {
            spec("CLY0017", Code::Unavailable).retry(*retry_after)
        }
        InferenceError::DeadlinePassed { .. } => spec("CLY0022", Code::DeadlineExceeded).plain(),
        InferenceError::TooLong { .. } | InferenceError::Request { .. } => {
            spec("CLY0010", Code::InvalidArgument).field("text")
        }
        InferenceError::Model { .. } => spec("CLY0013", Code::NotFound).plain(),
        InferenceError::Closed { .. } => stopping(),
        InferenceError::Schema { .. }
        | InferenceError::Engine { .. }
        | InferenceError::Poisoned { .. } => spec("CLY0023", Code::Internal).plain(),
        InferenceError::Unavailable { retry_after, .. } => {
            spec("CLY0032", Code::Unavailable).retry(*retry_after)
        }
    }
}

/// The transport answers some defects of a request before any service sees it, with statuses that blame
/// the server; they are given their right names here (CLY0011, CLY0019).
pub(super) fn reworded(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    let spec = match (status.code(), status.message()) {
        (Code::Internal, text) if text.starts_with("failed to decode Protobuf message") => {
            ErrorSpec::new("CLY0011", Code::InvalidArgument, &text)
        }
        (Code::OutOfRange, text) if text.contains("decoded message length too large") => {
            let text = text.trim_start_matches("Error, ");
            ErrorSpec::new("CLY0019", Code::InvalidArgument, &text)
        }
        _ => return response,
    };
    spec.plain().into_http()
}

#[cfg(test)]
mod tests;
