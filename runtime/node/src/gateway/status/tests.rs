#![allow(clippy::unwrap_used, reason = "tests")]

use colony_core::{
    escalation::UnknownLabel,
    id::{ApprovalId, Fence, TypeName},
    task::State,
    unit::Timestamp,
};

use super::*;

fn task() -> TaskId {
    TaskId::new(Timestamp::from_micros(1), [1; 10])
}

fn refusal(refusal: Refusal) -> Status {
    Submitting::Batch.refused(LedgerError::Refused { index: 3, refusal }.into())
}

/// One status for every row of the table: (status, code, gRPC code, whether it may be tried again).
fn rows() -> Vec<(Status, &'static str, Code, bool)> {
    use Code::{
        Aborted, AlreadyExists, DataLoss, DeadlineExceeded, FailedPrecondition, Internal,
        InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unavailable,
    };
    let name = TypeName::new("poet").unwrap();
    let part = Part::DedupeKey;
    let model = || "minilm".to_owned();
    let what = || "no space left on device".to_owned();
    let why = || "it has no percept".to_owned();
    let (id, state) = (task(), State::Done);
    let approval = ApprovalId::new(Timestamp::from_micros(1), [2; 10]);
    let ahead = Duration::from_millis(250);
    let busy = Problem::Busy {
        in_flight: 7,
        retry_after: ahead,
    };
    let full = InferenceError::Full {
        model: model(),
        waiting: 9,
        limit: 9,
        retry_after: ahead,
    };
    let passed = InferenceError::DeadlinePassed {
        model: model(),
        late: ahead,
    };
    let long = InferenceError::TooLong {
        model: model(),
        tokens: 9,
        max: 8,
    };
    let fence = Fence(2);
    let path = || "colony.db".to_owned();
    vec![
        (
            refusal(Refusal::Blank { bytes: 0 }),
            "CLY0001",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::InputTooLong { bytes: 9, limit: 8 }),
            "CLY0002",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::UnknownType { name }),
            "CLY0003",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::DeadlinePassed { ago: ahead }),
            "CLY0004",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::TooManyAttributes { count: 9, limit: 8 }),
            "CLY0005",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::TooLong {
                part: part.clone(),
                bytes: 9,
                limit: 8,
            }),
            "CLY0006",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::Empty { part: part.clone() }),
            "CLY0007",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::Control {
                part,
                character: '\0',
            }),
            "CLY0008",
            InvalidArgument,
            false,
        ),
        (
            refusal(Refusal::BatchTooLarge { count: 9, limit: 8 }),
            "CLY0009",
            InvalidArgument,
            false,
        ),
        (
            argument("task_id", &"is none"),
            "CLY0010",
            InvalidArgument,
            false,
        ),
        (inference(&long), "CLY0010", InvalidArgument, false),
        (
            inference(&InferenceError::Request { what: what() }),
            "CLY0010",
            InvalidArgument,
            false,
        ),
        (
            reword(Code::Internal, "failed to decode Protobuf message: x"),
            "CLY0011",
            InvalidArgument,
            false,
        ),
        (
            conflict(id, state, "dedupe_key"),
            "CLY0012",
            AlreadyExists,
            false,
        ),
        (ledger(&LedgerError::NoTask(id)), "CLY0013", NotFound, false),
        (
            ledger(&LedgerError::NoApproval(approval)),
            "CLY0013",
            NotFound,
            false,
        ),
        (nothing("agent", "triage/7"), "CLY0013", NotFound, false),
        (
            inference(&InferenceError::Model {
                model: model(),
                what: what(),
            }),
            "CLY0013",
            NotFound,
            false,
        ),
        (
            ledger(&LedgerError::Ended { task: id, state }),
            "CLY0014",
            FailedPrecondition,
            false,
        ),
        (
            ledger(&LedgerError::Closed {
                id: approval,
                task: id,
                state,
            }),
            "CLY0014",
            FailedPrecondition,
            false,
        ),
        (
            Problem::NotLearnable { why: why() }.into(),
            "CLY0015",
            FailedPrecondition,
            false,
        ),
        (
            Problem::from(UnknownLabel {
                label: what(),
                meant: None,
                known: vec![],
                more: 0,
            })
            .into(),
            "CLY0034",
            FailedPrecondition,
            false,
        ),
        (
            ledger(&LedgerError::Full { live: 8, limit: 8 }),
            "CLY0016",
            ResourceExhausted,
            true,
        ),
        (busy.into(), "CLY0017", Unavailable, true),
        (
            ledger(&LedgerError::Busy { waiting: 8 }),
            "CLY0017",
            Unavailable,
            true,
        ),
        (inference(&full), "CLY0017", Unavailable, true),
        (
            crowded("requests are being served", 8),
            "CLY0017",
            Unavailable,
            true,
        ),
        (
            Submitting::One.refused(Problem::Draining),
            "CLY0018",
            Unavailable,
            true,
        ),
        (
            Problem::Ledger(LedgerError::Shut).into(),
            "CLY0018",
            Unavailable,
            true,
        ),
        (
            inference(&InferenceError::Closed { model: model() }),
            "CLY0018",
            Unavailable,
            true,
        ),
        (
            inference(&InferenceError::Unavailable {
                model: model(),
                what: what(),
                retry_after: RETRY_BUSY,
            }),
            "CLY0032",
            Unavailable,
            true,
        ),
        (
            reword(
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
            ),
            "CLY0019",
            InvalidArgument,
            false,
        ),
        (
            Submitting::One.refused(LedgerError::Storage { what: what() }.into()),
            "CLY0020",
            Unavailable,
            true,
        ),
        (
            ledger(&LedgerError::Open {
                path: path(),
                what: what(),
            }),
            "CLY0020",
            Unavailable,
            true,
        ),
        (
            ledger(&LedgerError::Unreadable { what: what() }),
            "CLY0021",
            DataLoss,
            false,
        ),
        (late(ahead), "CLY0022", DeadlineExceeded, false),
        (inference(&passed), "CLY0022", DeadlineExceeded, false),
        (
            inference(&InferenceError::Engine {
                model: model(),
                what: what(),
            }),
            "CLY0023",
            Internal,
            false,
        ),
        (
            inference(&InferenceError::Schema { what: what() }),
            "CLY0023",
            Internal,
            false,
        ),
        (
            ledger(&LedgerError::Lost {
                task: id,
                fence,
                state,
            }),
            "CLY0024",
            Aborted,
            false,
        ),
        (
            ledger(&LedgerError::Decided {
                id: approval,
                task: id,
                state,
                by: "ann".to_owned(),
            }),
            "CLY0025",
            FailedPrecondition,
            false,
        ),
        (
            ledger(&LedgerError::RequestConflict { task: id }),
            "CLY0033",
            AlreadyExists,
            false,
        ),
        (
            ledger(&LedgerError::NotRevivable { task: id, state }),
            "CLY0026",
            FailedPrecondition,
            false,
        ),
        (
            ledger(&LedgerError::OutOfRange {
                cursor: 1,
                oldest: 7,
                newest: 9,
            }),
            "CLY0027",
            OutOfRange,
            false,
        ),
        (
            out_of_range(&"it is old", "x:7"),
            "CLY0027",
            OutOfRange,
            false,
        ),
        (
            ledger(&LedgerError::Sequence {
                task: id,
                sequence: 3,
                expected: 2,
            }),
            "CLY0028",
            Aborted,
            false,
        ),
        (
            ledger(&LedgerError::Conflict {
                task: id,
                sequence: 3,
            }),
            "CLY0028",
            Aborted,
            false,
        ),
        (
            ledger(&LedgerError::Unknown { what: what() }),
            "CLY0029",
            Unavailable,
            true,
        ),
        (
            Problem::Failed { reason: why() }.into(),
            "CLY0030",
            Unavailable,
            true,
        ),
        (
            Problem::Silent {
                component: "the market",
            }
            .into(),
            "CLY0031",
            Unavailable,
            true,
        ),
    ]
}

fn reword(code: Code, text: &str) -> Status {
    let response = reworded(Status::new(code, text).into_http());
    Status::from_header_map(response.headers()).unwrap()
}

#[test]
fn every_error_has_its_code_its_status_and_says_whether_to_come_back() {
    for (status, code, grpc, retry) in rows() {
        let text = status.message().to_owned();
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            (code, "colony"),
            "{text}"
        );
        assert_eq!(status.code(), grpc, "{text}");
        assert_eq!(details.retry_info().is_some(), retry, "{text}");
        assert!(text.starts_with(&format!("{code}: ")), "{text}");
    }
}

#[test]
fn every_code_stands_in_the_table_and_has_a_page() {
    let table = include_str!("../status.rs");
    let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/errors");
    for (_, code, ..) in rows() {
        let in_table = table.contains(&format!("| {code} |"));
        assert!(in_table || code <= "CLY0009", "{code} is not in the table");
        let page = std::path::Path::new(pages).join(format!("{code}.md"));
        assert!(page.is_file(), "{} is missing", page.display());
    }
}

#[test]
fn a_refused_task_of_a_batch_is_named_with_its_field() {
    let status = refusal(Refusal::InputTooLong { bytes: 9, limit: 8 });
    assert_eq!(
        status.message(),
        "CLY0002: task 3: input of 9 bytes is longer than 8 bytes"
    );
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "tasks[3].input");
}

#[test]
fn what_can_be_done_about_it_is_said() {
    let text = |status: &Status| status.message().to_owned();
    let decided = ledger(&LedgerError::Decided {
        id: ApprovalId::new(Timestamp::from_micros(1), [2; 10]),
        task: task(),
        state: State::Done,
        by: "ann".to_owned(),
    });
    assert!(text(&decided).contains("decided by ann"), "{decided:?}");
    let unknown = ledger(&LedgerError::Unknown {
        what: "fsync failed".to_owned(),
    });
    let known = "whether it was done is not known, repeat with the same id";
    assert!(text(&unknown).contains(known), "{unknown:?}");
    let range = out_of_range(&"it is old", "x:7");
    let info = range.get_details_error_info().unwrap();
    assert_eq!(info.metadata["oldest_cursor"], "x:7");
    let conflict = conflict(task(), State::Waiting, "id");
    let info = conflict.get_details_error_info().unwrap();
    assert_eq!(info.metadata["task_id"], task().to_string());
    assert_eq!(info.metadata["state"], "waiting");
}

#[test]
fn answers_and_other_errors_pass_unchanged() {
    let fine = Response::new(Body::default());
    assert!(reworded(fine).headers().is_empty());
    let status = reword(Code::Internal, "something else");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "something else")
    );
}
