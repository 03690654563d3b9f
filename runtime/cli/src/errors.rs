//! What can go wrong on the command line, in one line with a hint, and the exit code it leads to.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | failed |
//! | 2 | wrong arguments, configuration or input; nothing was tried |
//! | 3 | no node answers, or not in time |
//! | 4 | the node refused |
//! | 5 | there is no such thing |

use std::{error::Error, fmt, process::ExitCode, time::Duration};

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::output::clean_within;

/// Most characters of a line about an error: it may quote what somebody sent, which may be a file of zeros.
const LINE_CHARS_MAX: usize = 1_000;

/// The node's reasons for refusing what whoever typed it got wrong: nothing to see in a text, a key that is blank or
/// holds a control character, a field that cannot be read, a message that cannot.
const UNREADABLE: [&str; 5] = ["CLY0001", "CLY0007", "CLY0008", "CLY0010", "CLY0011"];
/// The node's reason for refusing a task of a type that is not declared.
pub(crate) const UNKNOWN_TYPE: &str = "CLY0003";

/// What HTTP/2 makes of an answer in another protocol: its first letters are no length.
const NO_HTTP2: &str = "frame with invalid size";

/// How what kept an answer away begins, when all the time given to tries is over.
pub(crate) const NO_ANSWER: &str = "no answer within";

/// What is said of one who takes a connection and closes it.
const CLOSED: &str = "connection closed";

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The reader of our output has gone; no error.
    PipeClosed = 0,
    /// It was tried and failed.
    Failed = 1,
    /// It was not tried: the arguments, the configuration or an input file are wrong.
    Usage = 2,
    /// No node answers at the address.
    Unreachable = 3,
    /// The node answered and refused.
    Refused = 4,
    /// The node knows no such task, agent, approval or model.
    NotFound = 5,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    /// Stable reason, such as `CLY0004`: docs/reference/errors has a page for each.
    code: Option<String>,
    message: String,
    /// Lines below the message: each of many problems.
    details: Box<[String]>,
    hint: Option<String>,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            exit,
            code: None,
            message,
            details: Box::default(),
            hint: None,
            retry_after: None,
        }
    }

    /// It was tried and failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// It was not tried.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The node refused.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// The reader of our output has gone.
    pub(crate) fn pipe_closed() -> Self {
        Self::new(Exit::PipeClosed, "")
    }

    /// For a command that did something: even a reader that has gone is worth a word.
    pub(crate) fn out_loud(mut self) -> Self {
        if self.exit == Exit::PipeClosed {
            self.exit = Exit::Failed;
            "cannot write to standard output: its reader has gone".clone_into(&mut self.message);
        }
        self
    }

    /// Nobody listens at `address`.
    pub(crate) fn unreachable(address: &str, why: &str) -> Self {
        let what = format!("no node answers at {address}: {why}");
        let hint = if why.starts_with(NO_ANSWER) {
            "somebody listens and says nothing: give it more time with --retry-for, or name another with --address"
        } else if why == CLOSED {
            "somebody listens there and may be no colony node; name another with --address"
        } else {
            "start one with `colony node`, or name another with --address"
        };
        Self::new(Exit::Unreachable, what).with_hint(hint)
    }

    /// Lists each of many problems below the message.
    pub(crate) fn with_details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details = details.into_iter().collect();
        self
    }

    /// Says what to do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the circumstances before the message: `line 7: …`.
    pub(crate) fn within(mut self, circumstances: impl fmt::Display) -> Self {
        self.message = format!("{circumstances}: {}", self.message);
        self
    }

    /// The same exit code, for a failure that was said already.
    pub(crate) fn again(&self, message: impl Into<String>) -> Self {
        Self::new(self.exit, message)
    }

    /// What a node's refusal means.
    pub(crate) fn from_status(status: &Status, address: &str) -> Self {
        let info = status.get_details_error_info();
        let reason = info
            .filter(|info| info.domain == "colony")
            .map(|info| info.reason);
        if is_out_of_time(status) {
            return Self::new(
                Exit::Unreachable,
                format!("the node at {address} has not answered within --timeout"),
            )
            .with_hint("whether it was done is not known; give it more time with --timeout");
        }
        if is_no_node(status) {
            let what =
                format!("the program at {address} is no colony node: it does not speak HTTP/2");
            return Self::new(Exit::Unreachable, what)
                .with_hint("name the node's address with --address");
        }
        if is_broken_line(status) {
            return Self::unreachable(address, &root_cause(status));
        }
        let has = |codes: &[&str]| {
            let reason = reason.as_deref();
            reason.is_some_and(|reason| codes.contains(&reason))
        };
        let exit = match status.code() {
            // A slip of whoever typed it, wherever it is noticed.
            Code::InvalidArgument if has(&UNREADABLE) => Exit::Usage,
            Code::InvalidArgument if has(&[UNKNOWN_TYPE]) => Exit::NotFound,
            Code::NotFound => Exit::NotFound,
            Code::DeadlineExceeded | Code::Cancelled => Exit::Unreachable,
            Code::Internal | Code::Unknown | Code::DataLoss => Exit::Failed,
            Code::Ok
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unavailable
            | Code::Unauthenticated => Exit::Refused,
        };
        let message = match status.message() {
            "" => format!("the node answered {:?}", status.code()),
            text => text.to_owned(),
        };
        // The node's messages begin with the code, for clients that show nothing else; we show it apart.
        let bare = reason
            .as_deref()
            .and_then(|code| message.strip_prefix(code)?.strip_prefix(": "));
        let mut failure = Self::new(exit, bare.unwrap_or(&message));
        failure.code = reason;
        failure.retry_after = status
            .get_details_retry_info()
            .and_then(|retry| retry.retry_delay);
        failure.hint = if status.code() == Code::Unimplemented {
            Some(format!(
                "the program at {address} is no colony node, or an older one"
            ))
        } else if status.code() == Code::DeadlineExceeded {
            Some("it took longer than --timeout".to_owned())
        } else if let Some(wait) = failure.retry_after {
            Some(format!("try again in {} ms", wait.as_millis()))
        } else {
            let code = failure.code.as_deref();
            code.map(|code| format!("`colony explain {code}` says more"))
        };
        failure
    }

    /// What went wrong, without code and hint.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        self.exit == Exit::NotFound
    }

    /// The node's stable reason, such as `CLY0004`.
    pub(crate) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The exit code it leads to.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }

    /// Whether it is worth a word.
    pub(crate) fn is_silent(&self) -> bool {
        self.exit == Exit::PipeClosed
    }

    /// For `--json`: one object a line, on stderr.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "error": {
            "exit_code": self.exit as u8,
            "code": self.code,
            "message": line(&self.message),
            "details": self.details.iter().map(|detail| line(detail)).collect::<Vec<_>>(),
            "hint": self.hint.as_deref().map(line),
            "retry_after_ms": self.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error")?;
        if let Some(code) = &self.code {
            write!(f, "[{code}]")?;
        }
        write!(f, ": {}", line(&self.message))?;
        for detail in &self.details {
            write!(f, "\n  {}", line(detail))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {}", line(hint)),
            None => Ok(()),
        }
    }
}

fn line(text: &str) -> String {
    clean_within(LINE_CHARS_MAX, text)
}

/// Whether nobody answered: the node is away, or went away with the answer. Only our side of the line gives a
/// status a cause or leaves UNAVAILABLE without a reason.
pub(crate) fn is_broken_line(status: &Status) -> bool {
    let reasoned = status
        .get_details_error_info()
        .is_some_and(|info| info.domain == "colony");
    !reasoned
        && match status.code() {
            Code::Unavailable => true,
            Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => {
                status.source().is_some()
            }
            Code::Ok
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated => false,
        }
}

/// Whether somebody answered who speaks another protocol: to ask again gives the same.
pub(crate) fn is_no_node(status: &Status) -> bool {
    is_broken_line(status) && root_cause(status).contains(NO_HTTP2)
}

/// Whether our own clock ended the call: somebody may be there, and slow.
pub(crate) fn is_out_of_time(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The last error of the chain: the one that names the cause, such as "connection refused".
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match last.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => last.to_string(),
    }
}

/// The whole chain, outermost first. Of a source only the first line: some libraries put their backtrace
/// behind it.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        let line = words.lines().next().unwrap_or_default();
        if !text.ends_with(line) {
            text.push_str(": ");
            text.push_str(line);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_and_says_when_to_try_again() {
        let mut details = ErrorDetails::with_error_info(
            "CLY0007",
            "colony",
            HashMap::from([("limit".to_owned(), "10".to_owned())]),
        );
        details.set_retry_info(Some(Duration::from_millis(250)));
        let said = "CLY0007: 10 live tasks";
        let status = Status::with_error_details(Code::ResourceExhausted, said, details);
        let failure = Failure::from_status(&status, "here:1");
        assert_eq!(failure.exit, Exit::Refused);
        let text = failure.to_string();
        assert_eq!(
            text,
            "error[CLY0007]: 10 live tasks\n  hint: try again in 250 ms"
        );
        assert_eq!(failure.to_json()["error"]["retry_after_ms"], 250);
    }

    #[test]
    fn a_dead_line_is_not_a_refusal() {
        let failure = Failure::from_status(&Status::unavailable("gone"), "here:1");
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(
            failure
                .to_string()
                .starts_with("error: no node answers at here:1")
        );
    }

    #[test]
    fn a_slip_is_a_wrong_argument_a_limit_a_refusal_and_an_unknown_type_not_there() {
        for (code, exit) in [
            ("CLY0010", Exit::Usage),
            ("CLY0001", Exit::Usage),
            ("CLY0002", Exit::Refused),
            ("CLY0003", Exit::NotFound),
        ] {
            let details = ErrorDetails::with_error_info(code, "colony", HashMap::new());
            let status = Status::with_error_details(Code::InvalidArgument, "no", details);
            assert_eq!(Failure::from_status(&status, "here:1").exit, exit, "{code}");
        }
    }

    #[test]
    fn an_answer_lost_on_the_way_is_a_broken_line() {
        let lost = std::io::Error::other("connection reset");
        let status = Status::from_error(Box::new(lost));
        assert!(is_broken_line(&status), "{status:?}");
        assert!(!is_broken_line(&Status::unknown("said by a node")));
        assert!(!is_broken_line(&Status::internal("said by a node")));
    }

    #[test]
    fn a_message_is_one_short_line_whatever_it_quotes() {
        let failure = Failure::usage(format!("unknown key \u{1b}[2J\n{}", "\0".repeat(2_000_000)))
            .with_details(["one\ntwo".to_owned()])
            .with_hint("try \u{202e}that");
        let text = failure.to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.starts_with("error: unknown key \\u{1b}[2J⏎\\u{0}"),
            "{text}"
        );
        assert!(
            text.ends_with("  one⏎two\n  hint: try \\u{202e}that"),
            "{text}"
        );
        assert!(
            text.chars().count() < 1_100,
            "{} characters",
            text.chars().count()
        );
        assert!(failure.to_json().to_string().len() < 2_000);
    }

    #[test]
    fn what_is_not_there_has_an_exit_code_of_its_own() {
        let failure = Failure::from_status(&Status::not_found("no task 7"), "here:1");
        assert_eq!(failure.exit, Exit::NotFound);
    }
}
