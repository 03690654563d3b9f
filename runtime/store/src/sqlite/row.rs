//! The core's types as columns.

use colony_core::{
    id::{AgentId, ApprovalId, TaskId, TypeName},
    task::State,
    unit::Timestamp,
};
use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef},
};
use uuid::Uuid;

use crate::ledger::LedgerError;

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum Stop {
    /// The book says no. Nothing was written for the request.
    Refused(LedgerError),
    /// SQLite or the disk failed: the transaction must be taken back.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Self::Refused(error)
    }
}

impl From<crate::blob::BlobError> for Stop {
    fn from(error: crate::blob::BlobError) -> Self {
        Self::Refused(error.into())
    }
}

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
    pub(super) fn task(self) -> TaskId {
        TaskId(self.0)
    }

    pub(super) fn approval(self) -> ApprovalId {
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
    pub(super) fn time(self) -> Timestamp {
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

/// The number of a state, in the book for ever.
pub(super) const fn code(state: State) -> u8 {
    match state {
        State::Ready => 0,
        State::Claimed => 1,
        State::Parked => 2,
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

/// An agent from two columns that are both there or both not.
pub(super) fn agent(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<AgentId>> {
    let Some(agent_type) = row.get::<_, Option<Box<str>>>(first)? else {
        return Ok(None);
    };
    let agent_type = name(first, TypeName::new(&agent_type))?;
    let ordinal = row.get::<_, Number>(first + 1)?.small();
    Ok(Some(AgentId {
        agent_type,
        ordinal,
    }))
}

/// A name that was checked when it was written.
pub(super) fn name<T>(
    column: usize,
    name: Result<T, colony_core::id::NameError>,
) -> rusqlite::Result<T> {
    name.map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}
