//! Reads tickets from JSON lines: `{"text": …, "label"?: …, "split"?: "train" | "test", "risky"?: true | false}`.

use colony_core::task::INPUT_BYTES_MAX;
use serde_json::{Map, Value};

use super::{Split, Ticket};

/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 256;

/// Most characters of a wrong value that are repeated.
const VALUE_CHARS_MAX: usize = 40;

/// Why a line is no ticket, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Bytes that are no text.
    #[error("byte {at} is not valid UTF-8; save the file as UTF-8")]
    Encoding {
        /// Where in the line, from 1.
        at: usize,
    },
    /// No JSON.
    #[error("not JSON: {0}; write one object a line, without line breaks inside")]
    Json(String),
    /// JSON, but of another shape.
    #[error("{0} where an object is expected; write {{\"text\": \"…\"}}")]
    Shape(&'static str),
    /// The text is missing or blank.
    #[error("\"text\" is missing or blank; put what the person wrote there")]
    Blank,
    /// A field holds something else than text.
    #[error("{field:?} is {got} and not a string; quote it, or leave it out")]
    Kind {
        /// The field.
        field: &'static str,
        /// What it holds.
        got: &'static str,
    },
    /// The text is too long for a task.
    #[error("{field:?} has {bytes} bytes, more than the {limit} allowed; shorten it")]
    Long {
        /// The field.
        field: &'static str,
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// Whether the ticket is risky is said in other words than true and false.
    #[error("\"risky\" is {0}; write true or false without quotes, or leave it out")]
    Risky(String),
    /// A split that there is not.
    #[error(
        "split {0:?} is unknown; write \"train\" (label is feedback) or \"test\" (label is only scored)"
    )]
    Split(String),
}

/// A line that is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct LineError {
    /// Which, from 1.
    pub line: usize,
    /// Why.
    pub fault: LineFault,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The tickets, in the file's order.
    pub tickets: Vec<Ticket>,
    /// The lines that are none, in order.
    pub errors: Vec<LineError>,
}

/// Reads JSON lines. Blank lines and a byte order mark are passed over, and so are fields with other
/// names; a label that is null or blank counts as absent, and an absent split as `train`.
#[must_use]
pub fn parse(file: &[u8]) -> Parsed {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut parsed = Parsed::default();
    for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match ticket(line) {
            Ok(ticket) => parsed.tickets.push(ticket),
            Err(fault) => parsed.errors.push(LineError {
                line: index + 1,
                fault,
            }),
        }
    }
    parsed
}

fn ticket(line: &[u8]) -> Result<Ticket, LineFault> {
    let line = std::str::from_utf8(line).map_err(|error| LineFault::Encoding {
        at: error.valid_up_to() + 1,
    })?;
    let value: Value =
        serde_json::from_str(line).map_err(|error| LineFault::Json(error.to_string()))?;
    let Value::Object(fields) = value else {
        return Err(LineFault::Shape(kind(&value)));
    };
    let text = string(&fields, "text", INPUT_BYTES_MAX)?.ok_or(LineFault::Blank)?;
    let label = string(&fields, "label", LABEL_BYTES_MAX)?.map(|label| label.trim().to_owned());
    let split = match string(&fields, "split", LABEL_BYTES_MAX)?.as_deref() {
        None | Some("train") => Split::Train,
        Some("test") => Split::Test,
        Some(other) => return Err(LineFault::Split(other.to_owned())),
    };
    let risky = match fields.get("risky") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(risky)) => *risky,
        Some(other) => return Err(LineFault::Risky(excerpt(other))),
    };
    Ok(Ticket {
        text,
        label,
        split,
        risky,
    })
}

/// The string in `field`; none when it is absent, null or blank.
fn string(
    fields: &Map<String, Value>,
    field: &'static str,
    limit: usize,
) -> Result<Option<String>, LineFault> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() > limit => Err(LineFault::Long {
            field,
            bytes: text.len(),
            limit,
        }),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(LineFault::Kind {
            field,
            got: kind(other),
        }),
    }
}

/// A value as it is written, or the beginning of it.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
