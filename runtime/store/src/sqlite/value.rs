//! The core's types as values of columns.

use colony_core::{
    id::{ApprovalId, TaskId},
    ledger::{ClientVerb, LastRequest, QuestionState},
    task::State,
    unit::Timestamp,
};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use uuid::Uuid;

/// A UUID as its 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Id(pub(super) Uuid);

impl From<TaskId> for Id {
    fn from(id: TaskId) -> Self {
        Self(id.0)
    }
}

impl From<ApprovalId> for Id {
    fn from(id: ApprovalId) -> Self {
        Self(id.0)
    }
}

impl Id {
    pub(super) const fn task(self) -> TaskId {
        TaskId(self.0)
    }

    pub(super) const fn approval(self) -> ApprovalId {
        ApprovalId(self.0)
    }
}

impl ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
    }
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        Uuid::from_slice(bytes)
            .map(Self)
            .map_err(|e| FromSqlError::Other(Box::new(e)))
    }
}

/// A count or a time as SQLite's signed number; 2^63 and above, which none of ours reaches, saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub(super) u64);

impl From<Timestamp> for Number {
    fn from(at: Timestamp) -> Self {
        Self(at.as_micros())
    }
}

impl Number {
    pub(super) const fn time(self) -> Timestamp {
        Timestamp::from_micros(self.0)
    }

    pub(super) fn small(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl ToSql for Number {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(i64::try_from(self.0).unwrap_or(i64::MAX).into())
    }
}

impl FromSql for Number {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number)
            .map(Self)
            .map_err(|_| FromSqlError::OutOfRange(number))
    }
}

/// A state as its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(pub(super) State);

/// The number of a state, in the file for ever.
pub(super) const fn code(state: State) -> u8 {
    match state {
        State::Ready => 0,
        State::Claimed => 1,
        State::Waiting => 2,
        State::Done => 3,
        State::Failed => 4,
        State::Cancelled => 5,
        State::Expired => 6,
        State::Dead => 7,
    }
}

impl ToSql for Code {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(code(self.0).into())
    }
}

impl FromSql for Code {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        State::ALL
            .into_iter()
            .find(|s| i64::from(code(*s)) == number)
            .map(Self)
            .ok_or(FromSqlError::OutOfRange(number))
    }
}

/// The number of the kind of commit that settled a task last, in the file for ever.
pub(super) fn request_code(request: Option<LastRequest>) -> Option<u8> {
    request.map(|request| match request {
        LastRequest::Waited(_) => 1,
        LastRequest::Ended(_) => 2,
        LastRequest::Released(_) => 3,
    })
}

/// And the fence it showed.
pub(super) fn request_key(request: Option<LastRequest>) -> Option<Number> {
    request.map(|request| match request {
        LastRequest::Waited(fence) | LastRequest::Ended(fence) | LastRequest::Released(fence) => {
            Number(fence.0)
        }
    })
}

/// The number of what a client asked, in the file for ever.
pub(super) const fn verb_code(verb: ClientVerb) -> u8 {
    match verb {
        ClientVerb::Cancel => 0,
        ClientVerb::Revive => 1,
    }
}

/// The number of a question's state, in the file for ever.
pub(super) const fn question_code(state: &QuestionState) -> u8 {
    match state {
        QuestionState::Open => 0,
        QuestionState::Answered { .. } => 1,
        QuestionState::Taken { .. } => 2,
        QuestionState::Closed => 3,
    }
}
