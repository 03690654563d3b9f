//! Every error as a status, in one place.
//!
//! | code | status | when | retry |
//! |---|---|---|---|
//! | CLY0001 to CLY0009 | `INVALID_ARGUMENT` | a task breaks a rule of admission (`colony_core::admission`) | no |
//! | CLY0010 | `INVALID_ARGUMENT` | a field of a request cannot be read: an id, a name, a number | no |
//! | CLY0011 | `INVALID_ARGUMENT` | the message is not valid protobuf, such as text that is not UTF-8 | no |
//! | CLY0012 | `ALREADY_EXISTS` | the deduplication key belongs to a task with another payload | no |
//! | CLY0013 | `NOT_FOUND` | no such task, approval, agent or model | no |
//! | CLY0014 | `FAILED_PRECONDITION` | the task has ended, or the approval is closed | no |
//! | CLY0015 | `FAILED_PRECONDITION` | nothing can be learned from this feedback | no |
//! | CLY0016 | `RESOURCE_EXHAUSTED` | as many live tasks as allowed | after 5 s |
//! | CLY0017 | `UNAVAILABLE` | too many requests wait: for the disk, a model, the door | after 100 ms and more |
//! | CLY0018 | `UNAVAILABLE` | the node is stopping | elsewhere, or after 2 s |
//! | CLY0019 | `INVALID_ARGUMENT` | the message is larger than the door | no |
//! | CLY0020 | `UNAVAILABLE` | the disk failed | after 1 s |
//! | CLY0021 | `DATA_LOSS` | a record in the book cannot be read | no |
//! | CLY0022 | `DEADLINE_EXCEEDED` | no answer in time; whether it was done is not known | with the same deduplication key |
//! | CLY0023 | `INTERNAL` | a model's engine failed | no |
//! | CLY0024 | `ABORTED` | the claim is lost: another agent has the task | no |
//!
//! Every status carries `google.rpc.ErrorInfo` (reason = the code, domain = `colony`), refused arguments
//! carry `BadRequest` with the field, and what may be tried again carries `RetryInfo`. Texts of the callers
//! are quoted only as far as the errors of core quote them. The pages are in docs/reference/errors.

use std::{collections::HashMap, fmt::Display, time::Duration};

use colony_core::{
    admission::{Part, Refusal},
    id::TaskId,
};
use colony_inference::InferenceError;
use colony_store::LedgerError;
use tonic::{Code, Status, body::Body, codegen::http::Response};
use tonic_types::{ErrorDetails, StatusExt};

use crate::rooms::{FeedbackError, SubmitError};

const DOMAIN: &str = "colony";

/// A few group commits.
const RETRY_BUSY: Duration = Duration::from_millis(100);
/// Enough for some hundred tasks to end.
const RETRY_FULL: Duration = Duration::from_secs(5);
/// A restart.
const RETRY_STOPPING: Duration = Duration::from_secs(2);
/// A disk that is full or slow seldom recovers sooner.
const RETRY_DISK: Duration = Duration::from_secs(1);

struct Words {
    code: &'static str,
    status: Code,
    what: String,
}

impl Words {
    fn new(code: &'static str, status: Code, what: &impl Display) -> Self {
        let what = what.to_string();
        Self { code, status, what }
    }

    fn details(&self) -> ErrorDetails {
        ErrorDetails::with_error_info(self.code, DOMAIN, HashMap::new())
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
    Words::new("CLY0010", Code::InvalidArgument, &what).field(field)
}

/// CLY0012.
pub(super) fn conflict(task: TaskId) -> Status {
    let what = format!("deduplication key belongs to task {task}, which has another payload");
    Words::new("CLY0012", Code::AlreadyExists, &what).field("task.dedupe_key")
}

/// CLY0013 for what is not in the ledger: agents and models.
pub(super) fn nothing(what: &str, name: &str) -> Status {
    Words::new("CLY0013", Code::NotFound, &format!("no {what} {name:?}")).plain()
}

/// CLY0017 at the door.
pub(super) fn crowded(limit: usize) -> Status {
    let what = format!("{limit} requests are being served, the limit");
    Words::new("CLY0017", Code::Unavailable, &what).retry(RETRY_BUSY)
}

/// CLY0018.
pub(super) fn stopping() -> Status {
    Words::new("CLY0018", Code::Unavailable, &"the node is stopping").retry(RETRY_STOPPING)
}

/// CLY0022.
pub(super) fn late(limit: Duration) -> Status {
    let what = format!("no answer within {limit:?}; whether it was done is not known");
    Words::new("CLY0022", Code::DeadlineExceeded, &what).plain()
}

/// Submissions. `is_batch` says how the fields are named.
pub(super) fn submit(error: SubmitError, is_batch: bool) -> Status {
    match error {
        SubmitError::Refused { index, refusal } => {
            let (path, what) = if is_batch {
                (
                    format!("tasks[{index}]"),
                    format!("task {index}: {refusal}"),
                )
            } else {
                ("task".to_owned(), refusal.to_string())
            };
            let words = Words::new(refusal.code(), Code::InvalidArgument, &what);
            match field_of(&refusal) {
                "" => words.field("tasks"),
                field => words.field(format!("{path}.{field}")),
            }
        }
        SubmitError::Busy { retry_after, .. } => {
            Words::new("CLY0017", Code::Unavailable, &error).retry(retry_after)
        }
        SubmitError::Draining => stopping(),
        SubmitError::Ledger(error) => ledger(&error),
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

/// The book.
pub(super) fn ledger(error: &LedgerError) -> Status {
    let words = |code, status| Words::new(code, status, error);
    match error {
        LedgerError::NoTask(_) | LedgerError::NoApproval(_) => {
            words("CLY0013", Code::NotFound).plain()
        }
        LedgerError::Closed { .. } | LedgerError::Ended { .. } => {
            words("CLY0014", Code::FailedPrecondition).plain()
        }
        LedgerError::Full { .. } => words("CLY0016", Code::ResourceExhausted).retry(RETRY_FULL),
        LedgerError::Busy { .. } => words("CLY0017", Code::Unavailable).retry(RETRY_BUSY),
        LedgerError::Shut => stopping(),
        LedgerError::Open { .. } | LedgerError::Storage { .. } => {
            words("CLY0020", Code::Unavailable).retry(RETRY_DISK)
        }
        LedgerError::Unreadable { .. } => words("CLY0021", Code::DataLoss).plain(),
        LedgerError::Lost { .. } | LedgerError::Sequence { .. } => {
            words("CLY0024", Code::Aborted).plain()
        }
    }
}

/// Feedback.
pub(super) fn feedback(error: &FeedbackError) -> Status {
    match error {
        FeedbackError::NotLearnable { .. } => {
            Words::new("CLY0015", Code::FailedPrecondition, error).plain()
        }
        FeedbackError::Ledger(error) => ledger(error),
    }
}

/// Models.
pub(super) fn inference(error: &InferenceError) -> Status {
    let words = |code, status| Words::new(code, status, error);
    match error {
        InferenceError::Full { retry_after, .. } => {
            words("CLY0017", Code::Unavailable).retry(*retry_after)
        }
        InferenceError::DeadlinePassed { .. } => words("CLY0022", Code::DeadlineExceeded).plain(),
        InferenceError::TooLong { .. } | InferenceError::Request { .. } => {
            words("CLY0010", Code::InvalidArgument).field("text")
        }
        InferenceError::Model { .. } => words("CLY0013", Code::NotFound).plain(),
        InferenceError::Shut { .. } => stopping(),
        InferenceError::Schema { .. } | InferenceError::Engine { .. } => {
            words("CLY0023", Code::Internal).plain()
        }
    }
}

/// The transport answers some defects of a request before any service sees it, with statuses that blame
/// the server; they are given their right names here (CLY0011, CLY0019).
pub(super) fn reworded(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    let words = match (status.code(), status.message()) {
        (Code::Internal, text) if text.starts_with("failed to decode Protobuf message") => {
            Words::new("CLY0011", Code::InvalidArgument, &text)
        }
        (Code::OutOfRange, text) if text.contains("decoded message length too large") => {
            let text = text.trim_start_matches("Error, ");
            Words::new("CLY0019", Code::InvalidArgument, &text)
        }
        _ => return response,
    };
    words.plain().into_http()
}

#[cfg(test)]
mod tests;
